//! A name that is enrolled twice is one cluster by mistake, or two.

use std::fs;

use certs::issue::{Key, Subject};

use super::common::{Scratch, haguard, stderr, stdout};

fn must(args: &[&str]) -> String {
    let output = haguard(args);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    stdout(&output)
}

fn refused(args: &[&str]) -> String {
    let output = haguard(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stdout(&output));
    let said = stderr(&output);
    assert_eq!(said.lines().count(), 1, "{said}");
    said
}

#[test]
fn a_cluster_is_signed_once_unless_forced() {
    let scratch = Scratch::new("twice-sign");
    let (dir, request) = (scratch.path("ca"), scratch.path("request.crq"));
    must(&["certs", "init", "--dir", &dir]);
    let made = Key::generate().unwrap().request(&Subject::Cluster("c".into())).unwrap();
    fs::write(&request, made).unwrap();
    let sign = ["certs", "sign", "--dir", &dir, "--request", &request, "--cluster", "c"];
    // What the stock script leaves when it fails is no certificate.
    fs::write(scratch.path("ca/cluster-c.crt"), "").unwrap();
    assert!(must(&sign).contains("Certificate stored in "));
    let said = refused(&sign);
    assert!(said.contains("cluster c has a certificate already") && said.contains("--force"));
    let first = fs::read(scratch.path("ca/cluster-c.crt")).unwrap();
    must(&[&sign[..], &["--force"]].concat());
    assert_ne!(fs::read(scratch.path("ca/cluster-c.crt")).unwrap(), first);
    let listed = must(&["certs", "list", "--dir", &dir]);
    assert_eq!(listed.matches("cluster c, any node").count(), 1, "{listed}");
    let other = ["certs", "sign", "--dir", &dir, "--request", &request, "--cluster", "d"];
    assert!(refused(&other).contains("is for \"c\", not for \"d\""));
}

#[test]
fn a_node_is_given_one_certificate_unless_forced() {
    let scratch = Scratch::new("twice-node");
    let dir = scratch.path("ca");
    must(&["certs", "init", "--dir", &dir]);
    let node = |cluster: &str, node: &str, out: &str, force: bool| -> Vec<String> {
        let out = scratch.path(out);
        let mut args = vec!["certs", "node", "--dir", &dir, "--cluster", cluster, "--node", node];
        args.extend(["--out", &out]);
        args.extend(force.then_some("--force"));
        args.into_iter().map(str::to_owned).collect()
    };
    let words = |args: Vec<String>| must(&args.iter().map(String::as_str).collect::<Vec<_>>());
    words(node("c", "1", "one", false));
    words(node("c", "2", "two", false));
    words(node("d", "1", "three", false));
    let again = node("c", "1", "four", false);
    let said = refused(&again.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(said.contains("node 1 of cluster c has a certificate already, serial "), "{said}");
    assert!(said.contains("rename one of them") && said.contains("--force"), "{said}");
    assert!(!scratch.root().join("four").exists());
    words(node("c", "1", "four", true));
}

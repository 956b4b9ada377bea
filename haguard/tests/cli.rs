//! The command line as scripts see it: exit codes, and one line where something is wrong.

mod common;

use common::{PROGRAM, Scratch, called_as, haguard, stderr, stdout};

/// Exit code 1 and exactly one line, which is returned.
fn refused(args: &[&str]) -> String {
    let output = haguard(args);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    text.trim_end().to_owned()
}

#[test]
fn unknown_words_and_flags_exit_with_2() {
    for args in [
        &["what"][..],
        &["status", "--what"],
        &["node", "--listen", "nonsense"],
        &["node", "--node-id", "0"],
        &["demo", "--nodes", "1"],
        &["demo", "--algorithm", "test"],
        &["certs"],
        &["certs", "node", "--dir", "x", "--out", "y", "--cluster", "z"],
        &[],
    ] {
        let output = haguard(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn help_and_version_exit_with_0() {
    for args in [&["--help"][..], &["--version"], &["status", "--help"], &["demo", "--help"]] {
        assert_eq!(haguard(args).status.code(), Some(0), "{args:?}");
    }
    let help = stdout(&haguard(&["status", "--help"]));
    assert!(help.contains("Exit codes: 0 the node is quorate"), "{help}");
    let verbs = stdout(&haguard(&["--help"]));
    assert!(!verbs.contains("demo-relay") && !verbs.contains("keeper"), "{verbs}");
}

#[test]
fn the_stock_daemons_flags_reach_arbiter_and_device() {
    for verb in ["qnetd", "qdevice"] {
        for flag in ["-h", "--help", "-dh"] {
            let output = haguard(&[verb, flag]);
            assert_eq!(output.status.code(), Some(0), "{verb} {flag}: {output:?}");
            let text = stdout(&output);
            assert!(text.starts_with(&format!("usage: haguard {verb} [-")), "{text}");
            assert!(text.contains("stays in the foreground"), "{text}");
            assert!(text.contains("2 wrong arguments"), "{text}");
            assert_eq!(stderr(&output), "");
        }
        for args in [&[verb, "-z"][..], &[verb, "-S", "nonsense=1"], &[verb, "--what"]] {
            let output = haguard(args);
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(text.contains(&format!("haguard {verb} -h shows all flags")), "{text}");
            assert_eq!(stdout(&output), "");
        }
    }
    for flag in ["-v", "--version"] {
        let output = haguard(&["qnetd", flag]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("Supported algorithms"), "{output:?}");
    }
}

#[test]
fn called_by_a_stock_name_it_is_that_program() {
    let scratch = Scratch::new("cli-names");
    for (name, start) in [
        ("corosync-qnetd", "usage: corosync-qnetd "),
        ("corosync-qnetd-tool", "usage: corosync-qnetd-tool "),
        ("corosync-qdevice", "usage: corosync-qdevice "),
        ("corosync-qdevice-tool", "usage: corosync-qdevice-tool "),
    ] {
        let link = scratch.root().join(name);
        std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
        let output = called_as(&link, &["-h"]);
        assert!(stdout(&output).starts_with(start), "{name}: {output:?}");
        assert!(!stdout(&output).contains("stays in the foreground"), "{name}: {output:?}");
    }
}

#[test]
fn a_node_without_its_certificate_says_so_in_one_line() {
    let scratch = Scratch::new("cli-missing");
    let conf = scratch.path("corosync.conf");
    let text = "totem {\n version: 2\n cluster_name: c\n}\nnodelist {\n node {\n nodeid: 1\n \
                ring0_addr: 127.0.0.1\n }\n}\nquorum {\n provider: corosync_votequorum\n}\n";
    std::fs::write(&conf, text).unwrap();
    let output = haguard(&[
        "node",
        "--cluster-conf",
        &conf,
        "--node-id",
        "1",
        "--state-dir",
        &scratch.path(""),
        "--run-dir",
        &scratch.path(""),
        "--tls-ca",
        &scratch.path("no-such.pem"),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("haguard node: ") && last.contains("no-such.pem"), "{text}");
    assert!(last.contains("issue a certificate"), "{text}");
}

#[test]
fn status_with_nothing_running_exits_with_1_and_says_what_to_do() {
    let scratch = Scratch::new("cli-nothing");
    let text = refused(&["status", "--run-dir", &scratch.path("")]);
    assert!(text.starts_with("haguard status: no daemon runs in "), "{text}");
    assert!(text.contains("start haguard node or haguard qnetd"), "{text}");
}

#[test]
fn status_names_the_daemon_that_is_down() {
    let scratch = Scratch::new("cli-down");
    drop(std::os::unix::net::UnixListener::bind(scratch.path("node.sock")).unwrap());
    let text = refused(&["status", "--run-dir", &scratch.path("")]);
    assert!(text.contains("haguard node: not running"), "{text}");
}

#[test]
fn status_does_not_wait_for_a_daemon_that_is_stuck() {
    let scratch = Scratch::new("cli-stuck");
    let _stuck = std::os::unix::net::UnixListener::bind(scratch.path("node.sock")).unwrap();
    let text = refused(&["status", "--run-dir", &scratch.path("")]);
    assert!(text.contains("no answer within 2 s"), "{text}");
}

#[test]
fn an_authority_issues_lists_and_never_replaces_unasked() {
    let scratch = Scratch::new("cli-certs");
    let (dir, out) = (scratch.path("ca"), scratch.path("node1"));
    let node = ["certs", "node", "--dir", &dir, "--cluster", "c", "--node", "1", "--out", &out];
    let text = refused(&node);
    assert!(text.contains("there is no authority: create one first"), "{text}");
    assert_eq!(haguard(&["certs", "init", "--dir", &dir]).status.code(), Some(0));
    let text = refused(&["certs", "init", "--dir", &dir]);
    assert!(text.contains("there is an authority already"), "{text}");
    let arbiter = ["certs", "arbiter", "--dir", &dir, "--out", &scratch.path("arbiter")];
    for args in [&node[..], &arbiter] {
        let output = haguard(args);
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    }
    let text = refused(&node);
    assert!(text.contains("is there already") && text.contains("--force"), "{text}");
    let forced = haguard(&[&node[..], &["--force"]].concat());
    assert_eq!(forced.status.code(), Some(0), "{}", stderr(&forced));

    use std::os::unix::fs::PermissionsExt;
    for key in ["node1/node-key.pem", "arbiter/arbiter-key.pem"] {
        let mode = std::fs::metadata(scratch.path(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
    let listed = stdout(&haguard(&["certs", "list", "--dir", &dir]));
    assert_eq!(listed.matches("cluster c, node 1").count(), 2, "{listed}");
    assert!(listed.contains("arbiter") && listed.contains("authority"), "{listed}");
    let shown = stdout(&haguard(&["certs", "show", &scratch.path("node1/node.pem")]));
    assert!(shown.contains("cluster c, node 1") && shown.contains("authority"), "{shown}");
    let text = refused(&["certs", "show", &scratch.path("node1/node-key.pem")]);
    assert!(text.starts_with("haguard certs: "), "{text}");
}

#[test]
fn another_authoritys_ca_is_not_replaced() {
    let scratch = Scratch::new("cli-two-cas");
    let (one, two, out) = (scratch.path("one"), scratch.path("two"), scratch.path("out"));
    for dir in [&one, &two] {
        assert_eq!(haguard(&["certs", "init", "--dir", dir]).status.code(), Some(0));
    }
    let issued = haguard(&["certs", "arbiter", "--dir", &one, "--out", &out]);
    assert_eq!(issued.status.code(), Some(0));
    let text =
        refused(&["certs", "node", "--dir", &two, "--cluster", "c", "--node", "1", "--out", &out]);
    assert!(text.contains("is of another authority"), "{text}");
}

#[test]
fn a_reserved_cluster_name_is_refused() {
    let scratch = Scratch::new("cli-reserved");
    let dir = scratch.path("ca");
    assert_eq!(haguard(&["certs", "init", "--dir", &dir]).status.code(), Some(0));
    let out = scratch.path("out");
    let args = ["certs", "node", "--dir", &dir, "--node", "1", "--out", &out, "--cluster"];
    let text = refused(&[&args[..], &["Qnetd Server"]].concat());
    assert!(text.contains("would let the cluster pass for the arbiter"), "{text}");
}

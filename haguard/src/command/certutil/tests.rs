//! Both programs in directories of the test, ours on both sides. With the stock programs on either
//! side: `tests/enrol.rs`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

/// Two directories of a test, removed with the value.
struct Site(PathBuf);

impl Site {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("certutil-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn qnetd(&self, args: &[&str]) -> Result<(), Failure> {
        let args: Vec<String> = args.iter().copied().map(str::to_owned).collect();
        qnetd_in("corosync-qnetd-certutil", &args, &self.0.join("q"))
    }

    fn node(&self, node: &str, args: &[&str]) -> Result<(), Failure> {
        let args: Vec<String> = args.iter().copied().map(str::to_owned).collect();
        node_in("corosync-qdevice-net-certutil", &args, &self.0.join(node))
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap().permissions().mode() & 0o777
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_enrolment_leaves_the_files_and_modes_of_the_stock_store() {
    let site = Site::new("whole");
    site.qnetd(&["-i", "-G"]).unwrap();
    let ca = site.path("q/qnetd-cacert.crt");
    for node in ["n1", "n2"] {
        site.node(node, &["-i", "-c", &ca]).unwrap();
    }
    site.node("n1", &["-r", "-n", "TestCl"]).unwrap();
    site.qnetd(&["-s", "-c", &site.path("n1/qdevice-net-node.crq"), "-n", "TestCl"]).unwrap();
    site.node("n1", &["-M", "-c", &site.path("q/cluster-TestCl.crt")]).unwrap();
    let bundle = site.path("n1/qdevice-net-node.p12");
    for node in ["n1", "n2"] {
        site.node(node, &["-m", "-c", &bundle]).unwrap();
    }
    // Once more is no error: pvecm does it on the node that made the request.
    site.node("n1", &["-M", "-c", &site.path("q/cluster-TestCl.crt")]).unwrap();
    for (file, mode) in [
        ("q", 0o750),
        ("q/qnetd-cacert.crt", 0o644),
        ("q/cluster-TestCl.crt", 0o644),
        ("q/ca-key.pem", 0o600),
        ("q/arbiter-key.pem", 0o640),
        ("q/arbiter.pem", 0o644),
        ("n1/node-key.pem", 0o600),
        ("n1/qdevice-net-node.p12", 0o600),
    ] {
        assert_eq!(site.mode(file), mode, "{file}");
    }
    assert_eq!(fs::read_to_string(site.path("q/serial.txt")).unwrap(), "103\n");
    assert!(fs::read_to_string(&ca).unwrap().starts_with("Certificate:\n"));
    assert_eq!(fs::read(site.path("q/cluster-TestCl.crt")).unwrap()[0], 0x30, "DER");
    for name in ["node.pem", "node-key.pem", "ca.pem", "pkcs11.txt"] {
        let [one, two] = ["n1", "n2"].map(|node| fs::read(site.path(&format!("{node}/{name}"))));
        assert_eq!(one.unwrap(), two.unwrap(), "{name}");
    }
    assert!(!site.0.join("n1/request-key.pem").exists());
}

#[test]
fn exit_codes_are_those_of_the_stock_scripts() {
    let site = Site::new("codes");
    let code = |result: Result<(), Failure>| result.unwrap_err().0;
    assert_eq!(code(site.qnetd(&["-x"])), 1);
    assert_eq!(code(site.qnetd(&["-s"])), 2);
    fs::write(site.path("file"), "no request").unwrap();
    let file = site.path("file");
    assert_eq!(code(site.qnetd(&["-s", "-c", &file])), 2);
    assert_eq!(code(site.qnetd(&["-s", "-c", &file, "-n", "x"])), 1, "no store");
    site.qnetd(&["-i"]).unwrap();
    let (code_again, text) = site.qnetd(&["-i"]).unwrap_err();
    assert_eq!(code_again, 1);
    assert!(text.contains("Certificate database (") && text.contains(") already exists"), "{text}");
    for usage in [&["-h"][..], &[], &["word"]] {
        site.qnetd(usage).unwrap();
        site.node("n", usage).unwrap();
    }
    assert_eq!(code(site.node("n", &["-r", "-n", "x"])), 1, "no store");
    assert_eq!(code(site.node("n", &["-i"])), 2);
    assert_eq!(code(site.node("n", &["-i", "-c", &file])), 1, "no certificate");
    site.node("n", &["-i", "-c", &site.path("q/qnetd-cacert.crt")]).unwrap();
    assert_eq!(code(site.node("n", &["-i", "-c", &site.path("q/qnetd-cacert.crt")])), 1);
    assert_eq!(code(site.node("n", &["-r"])), 2);
    assert_eq!(code(site.node("n", &["-Q", "-n", "x"])), 2);
}

#[test]
fn a_failed_signing_is_an_error_and_leaves_no_file() {
    let site = Site::new("failed");
    site.qnetd(&["-i"]).unwrap();
    site.node("n", &["-i", "-c", &site.path("q/qnetd-cacert.crt")]).unwrap();
    site.node("n", &["-r", "-n", "one"]).unwrap();
    let request = site.path("n/qdevice-net-node.crq");
    let (_, text) = site.qnetd(&["-s", "-c", &request, "-n", "two"]).unwrap_err();
    assert!(text.contains("is for \"one\", not for \"two\""), "{text}");
    let (_, text) = site.qnetd(&["-s", "-c", &request, "-n", "../one"]).unwrap_err();
    assert!(text.contains('/'), "{text}");
    let (_, text) = site.qnetd(&["-s", "-c", &site.path("q/ca.pem"), "-n", "two"]).unwrap_err();
    assert!(text.contains("request cannot be used"), "{text}");
    assert!(!site.0.join("q/cluster-two.crt").exists());
    assert!(!site.0.join("cluster-one.crt").exists());
}

#[test]
fn a_crash_between_two_files_is_made_good_by_the_next_init() {
    let site = Site::new("crash");
    site.qnetd(&["-i"]).unwrap();
    let ca = fs::read(site.path("q/ca.pem")).unwrap();
    for lost in ["arbiter.pem", "arbiter-key.pem", "qnetd-cacert.crt", "pkcs11.txt"] {
        fs::remove_file(site.path(&format!("q/{lost}"))).unwrap();
        site.qnetd(&["-i"]).unwrap();
        assert!(site.0.join("q").join(lost).exists(), "{lost}");
        let [chain, key] =
            ["arbiter.pem", "arbiter-key.pem"].map(|name| site.0.join("q").join(name));
        certs::files::load_credential(&chain, &key).unwrap();
    }
    assert_eq!(fs::read(site.path("q/ca.pem")).unwrap(), ca, "the authority is the same");
    for lost in ["ca-key.pem", "serial.txt"] {
        let path = site.path(&format!("q/{lost}"));
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (_, text) = site.qnetd(&["-i"]).unwrap_err();
        assert!(text.contains(lost) && text.contains("restore it"), "{text}");
        fs::write(&path, bytes).unwrap();
    }
}

#[test]
fn a_node_keeps_its_key_until_the_new_one_is_signed() {
    let site = Site::new("renew");
    site.qnetd(&["-i"]).unwrap();
    site.node("n", &["-i", "-c", &site.path("q/qnetd-cacert.crt")]).unwrap();
    let enrol = || {
        site.node("n", &["-r", "-n", "c"]).unwrap();
        site.qnetd(&["-s", "-c", &site.path("n/qdevice-net-node.crq"), "-n", "c"]).unwrap();
    };
    enrol();
    let first = fs::read(site.path("q/cluster-c.crt")).unwrap();
    fs::write(site.path("first.crt"), &first).unwrap();
    site.node("n", &["-M", "-c", &site.path("first.crt")]).unwrap();
    let key = fs::read(site.path("n/node-key.pem")).unwrap();
    enrol();
    assert_eq!(fs::read(site.path("n/node-key.pem")).unwrap(), key);
    site.node("n", &["-M", "-c", &site.path("q/cluster-c.crt")]).unwrap();
    assert_ne!(fs::read(site.path("n/node-key.pem")).unwrap(), key);
    let (_, text) = site.node("n", &["-M", "-c", &site.path("first.crt")]).unwrap_err();
    assert!(text.contains("is for a key that is not on this node"), "{text}");
}

#[test]
fn a_certificate_of_another_authority_is_refused_on_a_node() {
    let site = Site::new("other");
    site.qnetd(&["-i"]).unwrap();
    site.node("n1", &["-i", "-c", &site.path("q/qnetd-cacert.crt")]).unwrap();
    site.node("n1", &["-r", "-n", "c"]).unwrap();
    fs::rename(site.0.join("q"), site.0.join("old")).unwrap();
    site.qnetd(&["-i"]).unwrap();
    site.qnetd(&["-s", "-c", &site.path("n1/qdevice-net-node.crq"), "-n", "c"]).unwrap();
    let (_, text) = site.node("n1", &["-M", "-c", &site.path("q/cluster-c.crt")]).unwrap_err();
    assert!(text.contains("another authority"), "{text}");
    assert!(!site.0.join("n1/node.pem").exists());
}

#[test]
fn two_authorities_in_one_directory_are_refused() {
    let site = Site::new("two");
    site.qnetd(&["-i"]).unwrap();
    let kept = fs::read(site.path("q/qnetd-cacert.crt")).unwrap();
    fs::rename(site.0.join("q"), site.0.join("old")).unwrap();
    site.qnetd(&["-i"]).unwrap();
    fs::write(site.path("q/qnetd-cacert.crt"), kept).unwrap();
    let (_, text) = site.qnetd(&["-s", "-c", &site.path("q/ca.pem"), "-n", "c"]).unwrap_err();
    assert!(text.contains("two programs have made certificates here"), "{text}");
}

#[test]
fn a_store_of_nss_is_named_with_what_to_do() {
    let site = Site::new("nss");
    for directory in ["q", "n"] {
        fs::create_dir(site.0.join(directory)).unwrap();
        fs::write(site.path(&format!("{directory}/cert9.db")), "").unwrap();
    }
    let file = site.path("q/cert9.db");
    for (code, text) in [
        site.qnetd(&["-i"]).unwrap_err(),
        site.qnetd(&["-s", "-c", &file, "-n", "c"]).unwrap_err(),
        site.node("n", &["-i", "-c", &file]).unwrap_err(),
        site.node("n", &["-r", "-n", "c"]).unwrap_err(),
        site.node("n", &["-m", "-c", &file]).unwrap_err(),
    ] {
        assert_eq!(code, 1);
        assert!(text.contains("haguard certs import --nssdb /"), "{text}");
    }
}

//! The real corosync judges the same files: `corosync -t`, Debian package `corosync`.
//!
//! It checks syntax, kinds and the totem section; votequorum's own rules only apply when it runs.

use std::path::Path;
use std::process::{Command, Stdio};

use node::conf::{Options, load};

/// One file: its name, its text, and who accepts it.
struct Case {
    name: &'static str,
    text: String,
    ours: bool,
    corosync: bool,
}

const SAME: &str = "totem {\nversion: 2\ncluster_name: c\ntransport: knet\n}\n\
    nodelist {\nnode {\nnodeid: 1\nname: a\nring0_addr: 127.0.0.1\n}\n\
    node {\nnodeid: 2\nname: b\nring0_addr: 192.0.2.2\n}\n}\n\
    quorum {\nprovider: corosync_votequorum\n}\n";

fn both(name: &'static str, accepted: bool, text: String) -> Case {
    Case { name, text, ours: accepted, corosync: accepted }
}

/// Files that both must accept.
fn accepted_by_both() -> Vec<Case> {
    let with = |from: &str, to: &str| SAME.replace(from, to);
    let version = "version: 2\n";
    vec![
        both("plain", true, SAME.to_owned()),
        both(
            "comments and blanks",
            true,
            format!("# a {{\n\n\t # b\n{}", with("name: a", "name:\ta \t")),
        ),
        both("dos line ends", true, SAME.replace('\n', "\r\n")),
        both("colon before brace", true, with("totem {", "totem: {")),
        both("repeated sections", true, format!("{SAME}quorum {{\nwait_for_all: 1\n}}\n")),
        both("unknown key", true, with(version, "version: 2\nxyzzy: 1\n")),
        both("unknown section", true, format!("{SAME}xyzzy {{\nplugh: 1\n}}\n")),
        both(
            "haguard section",
            true,
            format!(
                "{SAME}haguard {{\nwatchdog: process\n\
                 service {{\nname: a\ncommand: /bin/x\n}}\n}}\n"
            ),
        ),
        both("only link 1", true, only_link_1()),
        both(
            "port of a link",
            true,
            with(version, "version: 2\ninterface {\nlinknumber: 0\nmcastport: 6000\n}\n"),
        ),
        both(
            "device",
            true,
            with("provider", "device {\nmodel: net\nvotes: 1\nnet {\nhost: a\n}\n}\nprovider"),
        ),
        both("no newline at the end", true, SAME.trim_end().to_owned()),
    ]
}

/// Files that both must refuse.
fn refused_by_both() -> Vec<Case> {
    let with = |from: &str, to: &str| SAME.replace(from, to);
    let version = "version: 2\n";
    vec![
        both("unclosed section", false, format!("{SAME}logging {{\n")),
        both("stray brace", false, format!("{SAME}}}\n")),
        both("text behind opening brace", false, with("totem {", "totem { # x")),
        both("text behind closing brace", false, format!("{SAME}logging {{\n}} # x\n")),
        both("brace in a value", false, with("name: a", "name: a{")),
        both("no section name", false, format!("{SAME} {{\n}}\n")),
        both("neither key nor section", false, format!("{SAME}hello\n")),
        both("bad key name", false, with(version, "version: 2\na b: 1\n")),
        both(
            "line too long",
            false,
            with(version, &format!("version: 2\nx: {}\n", "y".repeat(600))),
        ),
        both("no version", false, with(version, "")),
        both("version 1", false, with(version, "version: 1\n")),
        both("transport", false, with("knet", "tcp")),
        both("link mode", false, with(version, "version: 2\nlink_mode: both\n")),
        both("ip version", false, with(version, "version: 2\nip_version: 4\n")),
        both("cipher", false, with(version, "version: 2\ncrypto_cipher: rot13\n")),
        both("number", false, with(version, "version: 2\ntoken: 1s\n")),
        both("unused number", false, with(version, "version: 2\nwindow_size: many\n")),
        both("switch", false, with("provider", "two_node: yes\nprovider")),
        both("duplicate node id", false, with("nodeid: 2", "nodeid: 1")),
        both("no node", false, "totem {\nversion: 2\ncluster_name: c\n}\n".to_owned()),
        both("link number", false, with("ring0_addr: 192", "ring8_addr: 192")),
        both(
            "ipv6 address with ipv4",
            false,
            with(version, "version: 2\nip_version: ipv4\n").replace("192.0.2.2", "2001:db8::2"),
        ),
        both(
            "bad port",
            false,
            with(version, "version: 2\ninterface {\nlinknumber: 0\nmcastport: 65536\n}\n"),
        ),
        both("unused word", false, format!("{SAME}system {{\nsched_rr: maybe\n}}\n")),
    ]
}

/// As Proxmox writes it. corosync finds its own node by address only on link 0, else by host name.
fn only_link_1() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.unwrap_or_else(|| panic!("this host has no name; set one"));
    SAME.replace("ring0_addr", "ring1_addr").replace("name: a", &format!("name: {host}"))
}

/// Files that one of us refuses, each for a reason that the manual names.
fn differing() -> Vec<Case> {
    let ours = |name, text| Case { name, text, ours: true, corosync: false };
    let theirs = |name, text| Case { name, text, ours: false, corosync: true };
    vec![
        // Ours derives it from the address; knet demands it.
        ours("derived node id", SAME.replace("nodeid: 2\n", "")),
        theirs("control character", SAME.replace("name: a", "name: a\u{1b}[2J")),
        theirs("plain text", SAME.replace("knet", "knet\nsecauth: off")),
        theirs("word for secauth", SAME.replace("knet", "knet\nsecauth: enabled")),
        theirs("no cluster name", SAME.replace("cluster_name: c\n", "")),
        theirs("duplicate name", SAME.replace("name: b", "name: a")),
        theirs("duplicate address", SAME.replace("192.0.2.2", "127.0.0.1")),
        theirs(
            "two_node with a device",
            SAME.replace(
                "provider",
                "two_node: 1\ndevice {\nmodel: net\nvotes: 1\nnet {\nhost: a\n}\n}\nprovider",
            ),
        ),
        theirs("last_man_standing", SAME.replace("provider", "last_man_standing: 1\nprovider")),
    ]
}

/// What `corosync -t` says; nothing if the program is not installed.
fn corosync_accepts(path: &Path) -> Option<bool> {
    let run = Command::new("corosync")
        .arg("-t")
        .arg("-c")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.ok().map(|status| status.success())
}

#[test]
fn our_verdicts_are_those_of_the_table() {
    for Case { name, text, ours, .. } in cases() {
        let result = load("c", text.as_bytes(), &Options::default());
        assert_eq!(result.is_ok(), ours, "{name}: {result:?}");
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that cannot run has to say why")]
fn the_verdicts_of_corosync_are_those_of_the_table() {
    let file = format!("conf-oracle-{}.conf", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    std::fs::write(&path, SAME).unwrap();
    if corosync_accepts(&path).is_none() {
        std::fs::remove_file(&path).unwrap();
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!ci, "corosync is not installed; install the Debian package corosync");
        eprintln!("corosync is not installed; install the Debian package corosync to compare");
        return;
    }
    let mut wrong = Vec::new();
    for Case { name, text, corosync, .. } in cases() {
        std::fs::write(&path, &text).unwrap();
        if corosync_accepts(&path) != Some(corosync) {
            wrong.push(name);
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert!(wrong.is_empty(), "corosync judges otherwise: {wrong:?}");
}

fn cases() -> impl Iterator<Item = Case> {
    accepted_by_both().into_iter().chain(refused_by_both()).chain(differing())
}

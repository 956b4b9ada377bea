//! Style as a test: what a reviewer would otherwise have to look for in every change.
//!
//! A rule is a function from the files of the repository to its findings. It runs as a test of its
//! own, is shown by `each_rule_finds_its_example` to bite, and can be set aside for one file by a
//! line in [`EXCEPTIONS`]. Functions of more than 70 lines are clippy's (`too_many_lines`); here
//! it is only checked that clippy still does it.

mod read;
mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use read::File;
use rules::{Finding, LONGEST_FILE, RULES, Rule};

/// One file that may break one rule, and why it has to.
struct Exception {
    rule: &'static str,
    file: &'static str,
    reason: &'static str,
}

/// Every line must still be needed: `every_exception_is_needed` names those that are not.
const EXCEPTIONS: &[Exception] = &[
    Exception {
        rule: "unsafe",
        file: "node/src/keeper/ioctl.rs",
        reason: "the watchdog's ioctls, pidfds and real-time priority have no safe form in nix",
    },
    Exception {
        rule: "unsafe",
        file: "host/src/corosync.rs",
        reason: "corosync's C libraries are opened at run time, so that haguard runs without them",
    },
    Exception {
        rule: "pure-core",
        file: "fence/tests/core/restart.rs",
        reason: "a test of what a gateway's core finds at its start in the daemon's journal on disk",
    },
];

#[test]
fn no_rust_file_is_too_long() {
    check("file-length");
}

#[test]
fn clippy_limits_functions_to_70_lines() {
    check("function-length");
}

#[test]
fn cores_and_protocol_are_pure() {
    check("pure-core");
}

#[test]
fn crates_depend_only_along_the_arrows() {
    check("crate-arrows");
}

#[test]
fn only_the_edge_of_a_daemon_uses_certs() {
    check("certs-in-daemon");
}

#[test]
fn unsafe_is_only_in_listed_files() {
    check("unsafe");
}

#[test]
fn the_rustls_prerelease_is_in_one_file() {
    check("arbiter-tls");
}

#[test]
fn every_crate_takes_the_workspace_lints() {
    check("workspace-lints");
}

#[test]
fn dependency_versions_are_only_in_the_root() {
    check("workspace-versions");
}

#[test]
fn no_test_is_ignored() {
    check("ignored-tests");
}

#[test]
fn no_notes_to_oneself() {
    check("notes");
}

#[test]
fn no_path_leads_out_of_the_repository() {
    check("outside-paths");
}

#[test]
fn links_in_documents_resolve() {
    check("links");
}

#[test]
fn tests_that_documents_name_exist() {
    check("named-tests");
}

#[test]
fn every_exception_is_needed() {
    let files = repository();
    let mut idle = Vec::new();
    for exception in EXCEPTIONS {
        let findings = rule(exception.rule)(&files);
        if !findings.iter().any(|finding| finding.file == exception.file) {
            idle.push(format!("{} for {}", exception.rule, exception.file));
        }
        assert!(
            exception.reason.split_whitespace().count() >= 4,
            "the exception {} for {} gives no reason: say in a sentence why it has to be",
            exception.rule,
            exception.file
        );
    }
    assert!(idle.is_empty(), "exceptions without a finding, take them out: {idle:#?}");
}

/// Files that break a rule each: rule, path, text, and the line where it is found.
const EXAMPLES: &[(&str, &str, &str, usize)] = &[
    ("function-length", "clippy.toml", "too-many-lines-threshold = 100\n", 1),
    ("function-length", "node/src/a.rs", "#[expect(clippy::too_many_lines)]\nfn f() {}\n", 1),
    ("pure-core", "qnetd/src/core/mod.rs", "use std::{\n    fmt,\n    net::IpAddr,\n};\n", 1),
    ("pure-core", "node/src/core.rs", "/* std::fs */\nlet m = HashMap::<u8, u8>::new();", 2),
    ("pure-core", "protocol/src/time.rs", "let s = \"a // b\"; println!(\"{s}\");", 1),
    ("pure-core", "protocol/src/time.rs", "let c = '\"'; let now = Instant::now();", 1),
    ("crate-arrows", "qnetd/Cargo.toml", "[dependencies]\nnode.workspace = true\n", 2),
    ("crate-arrows", "certs/Cargo.toml", "[dev-dependencies]\nqnetd.workspace = true\n", 2),
    ("certs-in-daemon", "node/src/core/mod.rs", "\nuse certs::Identity;\n", 2),
    ("unsafe", "node/src/keeper/mod.rs", "fn f() {\n    unsafe { g() }\n}\n", 2),
    ("arbiter-tls", "qnetd/src/daemon.rs", "use rustls24_ring as ring;\n", 1),
    ("workspace-lints", "node/Cargo.toml", "[package]\nname = \"node\"\n", 1),
    ("workspace-versions", "node/Cargo.toml", "[dependencies]\nnix = \"0.31\"\n", 2),
    ("workspace-versions", "node/Cargo.toml", "[dependencies.nix]\nworkspace = true\n", 1),
    ("ignored-tests", "node/src/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn t() {}\n", 2),
    ("ignored-tests", "node/src/a.rs", "/// ```ignore\n/// f();\n/// ```\n", 1),
    ("notes", "node/src/a.rs", concat!("// TO", "DO: later\n"), 1),
    ("notes", "node/src/a.rs", "fn f() {\n    todo!()\n}\n", 2),
    ("outside-paths", "docs/a.md", concat!("see ../", "shared/spec\n"), 1),
    ("links", "docs/a.md", "# A\n[b](b.md)\n", 2),
    ("links", "docs/a.md", "# A\n[down](#b)\n", 2),
    ("named-tests", "docs/a.md", "# A\n`it_never_does_that` `b_c`\n", 2),
];

#[test]
fn each_rule_finds_its_example() {
    let mut long = "//! Long.\n".repeat(LONGEST_FILE + 1);
    let findings = rule("file-length")(&[File::new("node/src/a.rs", &long)]);
    assert_eq!(findings.len(), 1, "{findings:?}");
    long.truncate(LONGEST_FILE * "//! Long.\n".len());
    assert_eq!(rule("file-length")(&[File::new("node/src/a.rs", &long)]), []);

    for &(name, path, text, line) in EXAMPLES {
        let findings = rule(name)(&[File::new(path, text)]);
        assert!(
            findings.iter().any(|finding| finding.file == path && finding.line == line),
            "{name} finds nothing at line {line} of {text:?}, only {findings:?}"
        );
    }
    let shown: BTreeSet<_> = EXAMPLES.iter().map(|example| example.0).collect();
    for (name, _) in RULES {
        assert!(*name == "file-length" || shown.contains(name), "{name} has no example");
    }
}

/// Files that look like a breach and are none.
const CLEAN: &[(&str, &str, &str)] = &[
    ("pure-core", "qnetd/src/core/mod.rs", "// no tokio here\nlet operand = r#\"std::fs\"#;\n"),
    ("pure-core", "qnetd/src/daemon.rs", "use std::net::TcpListener;\n"),
    ("pure-core", "protocol/src/a.rs", "fn f<'a>(a: &'a str) -> &'a str { a } // rand\n"),
    ("arbiter-tls", "certs/src/arbiter_tls/stream.rs", "use rustls24::Side;\n"),
    ("certs-in-daemon", "qnetd/src/daemon/mod.rs", "use certs::Identity;\n"),
    ("certs-in-daemon", "qnetd/src/core/mod.rs", "use crate::certs::x;\n"),
    ("unsafe", "node/src/a.rs", "/* /* unsafe */ unsafe */\n// unsafe\n"),
    ("workspace-versions", "node/Cargo.toml", "[dependencies]\na = { workspace = true }\n"),
    ("ignored-tests", "node/src/a.rs", "fn ignore() {}\n#[test]\nfn t() {}\n"),
    ("links", "docs/a.md", "# A b: `c`\n[x](#a-b-c) [y](https://e.org/z.md)\n"),
    ("links", "docs/a.md", "# A\n```\n[b](b.md)\n```\nand `[c](c.md)` \n"),
];

#[test]
fn lookalikes_are_left_alone() {
    for &(name, path, text) in CLEAN {
        assert_eq!(rule(name)(&[File::new(path, text)]), [], "{name} in {text:?}");
    }
}

#[test]
fn the_whole_repository_is_read() {
    let files = repository();
    for path in ["Cargo.toml", "tests/tests/tidy/main.rs", "protocol/src/lib.rs", "test.sh"] {
        assert!(files.iter().any(|file| file.path == path), "{path} is not among the files");
    }
    assert!(!files.iter().any(|file| file.path.starts_with("target/")));
}

fn rule(name: &str) -> Rule {
    RULES.iter().find(|rule| rule.0 == name).unwrap_or_else(|| panic!("no rule {name}")).1
}

/// Runs one rule over the repository and fails with everything that it finds.
fn check(name: &str) {
    let excepted: BTreeSet<_> =
        EXCEPTIONS.iter().filter(|e| e.rule == name).map(|e| e.file).collect();
    let findings: Vec<_> = rule(name)(&repository())
        .into_iter()
        .filter(|finding| !excepted.contains(finding.file.as_str()))
        .map(|Finding { file, line, message }| format!("{file}:{line}: {message}"))
        .collect();
    assert!(
        findings.is_empty(),
        "\n{}\nrule {name}; if it cannot be otherwise, add a line with the reason to EXCEPTIONS in \
         tests/tests/tidy/main.rs",
        findings.join("\n")
    );
}

/// Every text file of the repository, wherever the tests were started.
fn repository() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the root");
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<PathBuf> =
            entries.map(|entry| entry.expect("a readable folder").path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().unwrap_or_default();
            if path.is_symlink() || name == "target" || name == ".git" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path
                    .strip_prefix(root)
                    .expect("found below the root")
                    .to_str()
                    .expect("plain names");
                files.push(File::new(path, &text));
            }
        }
    }
    files
}

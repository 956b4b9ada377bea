//! The rules: each a function from the files of the repository to its findings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::read::{
    File, anchors, dependencies, has_word, link_targets, members, names_crate, numbered, resolve,
    toml_entries,
};

/// Longest Rust file, in lines.
pub(crate) const LONGEST_FILE: usize = 800;

/// What pure code must not name, and what it does instead.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "return an Action, the daemon does it"),
    ("async", "return an Action, the daemon waits"),
    ("std::env", "take a configuration as an argument"),
    ("std::fs", "return an Action, the daemon does it"),
    ("std::io", "take and return bytes"),
    ("std::net", "return an Action; addresses come in as types of `protocol`"),
    ("std::process", "return an Action, the daemon does it"),
    ("std::thread", "one core is one plain struct"),
    ("Instant::now", "time is an argument (`protocol::time::Time`)"),
    ("std::time::Instant", "time is an argument (`protocol::time::Time`)"),
    ("SystemTime", "time is an argument (`protocol::time::Time`)"),
    ("rand", "randomness is a seed given by the daemon (`protocol::rng`)"),
    ("HashMap", "use a BTreeMap: its order is the same in every run"),
    ("HashSet", "use a BTreeSet: its order is the same in every run"),
    ("print!", "return it"),
    ("println!", "return it"),
    ("eprint!", "return it"),
    ("eprintln!", "return it"),
    ("tracing", "return an Action, the daemon logs it"),
];

/// The crates: folder, what it may depend on, and what its tests may use beside that.
const ARROWS: &[(&str, &[&str], &[&str])] = &[
    ("protocol", &[], &[]),
    ("host", &["protocol"], &[]),
    ("certs", &["protocol"], &[]),
    ("qnetd", &["protocol", "certs", "host"], &[]),
    ("qdevice", &["protocol", "certs", "host"], &[]),
    ("node", &["protocol", "certs", "host"], &[]),
    ("fence", &["protocol", "certs", "host"], &[]),
    ("tests", &["qnetd", "qdevice", "node", "fence", "protocol"], &["certs"]),
    (
        "haguard",
        &["qnetd", "qdevice", "node", "fence", "certs", "protocol", "simulator", "host"],
        &[],
    ),
];

/// The crates that run as daemons: their decisions must not see a certificate.
const DAEMONS: &[&str] = &["qnetd", "qdevice", "node", "fence"];

/// The files of a daemon (or folders of that name) that may use `certs`.
const TLS_FILES: &[(&str, &str)] = &[
    ("daemon", "turns the world into events and actions into the world"),
    ("network", "the built-in engine's links: QUIC is given its TLS configuration there"),
    ("tls", "a connection's stream is set up there, for a daemon with more than one kind of it"),
];

/// The only module that may use the pre-release of rustls: the file, and the folder of its parts.
const ARBITER_TLS: &str = "certs/src/arbiter_tls";

/// Notes to oneself: they belong into an issue. Split, so that this file does not find itself.
const NOTES: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME")];

/// Paths that exist on nobody else's machine.
const OUTSIDE: &[&str] = &[concat!("../", "shared"), concat!("/work", "/")];

/// One breach of one rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) file: String,
    /// From 1.
    pub(crate) line: usize,
    /// What is there, and what to do.
    pub(crate) message: String,
}

pub(crate) type Rule = fn(&[File]) -> Vec<Finding>;

pub(crate) const RULES: &[(&str, Rule)] = &[
    ("file-length", file_length),
    ("function-length", function_length),
    ("pure-core", pure_core),
    ("crate-arrows", crate_arrows),
    ("certs-in-daemon", certs_in_daemon),
    ("unsafe", unsafe_code),
    ("arbiter-tls", arbiter_tls),
    ("workspace-lints", workspace_lints),
    ("workspace-versions", workspace_versions),
    ("ignored-tests", ignored_tests),
    ("notes", notes),
    ("outside-paths", outside_paths),
    ("links", links),
    ("named-tests", named_tests),
];

fn file_length(files: &[File]) -> Vec<Finding> {
    let long = files.iter().filter(|file| file.is_rust());
    long.map(|file| (file, file.text.lines().count()))
        .filter(|&(_, lines)| lines > LONGEST_FILE)
        .map(|(file, n)| {
            file.finding(n, format!("{n} lines, {LONGEST_FILE} at most: split it by topic"))
        })
        .collect()
}

fn function_length(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let setting = match file.path.as_str() {
            "clippy.toml" => ("", "too-many-lines-threshold", &["70"][..]),
            "Cargo.toml" => {
                ("workspace.lints.clippy", "too_many_lines", &["\"warn\"", "\"deny\""][..])
            }
            _ => {
                let message = "a function of more than 70 lines: split it";
                findings.extend(
                    file.lines_naming("too_many_lines").iter().map(|&n| file.finding(n, message)),
                );
                continue;
            }
        };
        let (section, key, values) = setting;
        let entries = toml_entries(&file.text);
        let found = entries.iter().find(|e| e.section == section && e.key == key);
        if !found.is_some_and(|entry| values.contains(&entry.value.as_str())) {
            let line = found.map_or(1, |entry| entry.line);
            findings.push(file.finding(line, format!("`{key}` has to be {}", values.join(" or "))));
        }
    }
    findings
}

fn pure_core(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && is_pure(&file.path)) {
        for (word, instead) in IMPURE {
            let message = format!("`{word}` in pure code: {instead}");
            let lines = file.lines_naming(word);
            findings.extend(lines.iter().map(|&line| file.finding(line, message.as_str())));
        }
    }
    findings
}

/// A machine's core, or the words that everyone shares.
fn is_pure(path: &str) -> bool {
    let mut parts = path.split('/');
    path.starts_with("protocol/src/") || parts.any(|part| part == "core" || part == "core.rs")
}

fn crate_arrows(files: &[File]) -> Vec<Finding> {
    // Every crate of the workspace by the name of its package, which only `tests` does not share
    // with its folder.
    let ours: BTreeSet<&str> =
        ARROWS.iter().map(|arrow| if arrow.0 == "tests" { "simulator" } else { arrow.0 }).collect();
    let mut findings = Vec::new();
    for (folder, file) in members(files) {
        let Some((_, may, tests_may)) = ARROWS.iter().find(|arrow| arrow.0 == folder) else {
            let message = "a crate without arrows: say in ARROWS of tidy/rules.rs what it may use";
            findings.push(file.finding(1, message));
            continue;
        };
        for entry in dependencies(file) {
            let in_tests = entry.section.ends_with("dev-dependencies");
            let name = entry.name();
            let allowed = may.contains(&name) || in_tests && tests_may.contains(&name);
            if ours.contains(name) && !allowed {
                let message = format!(
                    "{folder} must not depend on {name}: share words through `protocol`, or do it \
                     in a crate that may (ARROWS in tidy/rules.rs)"
                );
                findings.push(file.finding(entry.line, message));
            }
        }
    }
    findings
}

fn certs_in_daemon(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let Some((daemon, rest)) = file.path.split_once("/src/") else { continue };
        let mut parts = rest.split('/').map(|part| part.trim_end_matches(".rs"));
        let at_the_edge = parts.any(|part| TLS_FILES.iter().any(|(name, _)| *name == part));
        if at_the_edge || !DAEMONS.contains(&daemon) {
            continue;
        }
        let allowed = TLS_FILES.iter().map(|(name, why)| format!("{name}.rs ({why})"));
        let message = format!(
            "`certs` away from the edge of {daemon}: take what was verified as an argument; it may \
             be used in {}",
            allowed.collect::<Vec<_>>().join(", ")
        );
        let plain =
            numbered(&file.code).filter(|(_, line)| names_crate(line, "certs")).map(|l| l.0);
        let used = file.uses.iter();
        let used = used.filter(|(_, path)| path.split("::").next() == Some("certs")).map(|u| u.0);
        let lines: BTreeSet<_> = plain.chain(used).collect();
        findings.extend(lines.iter().map(|&line| file.finding(line, message.as_str())));
    }
    findings
}

fn unsafe_code(files: &[File]) -> Vec<Finding> {
    word_in_code(files, "unsafe", "`unsafe`: `nix` has a safe call for most of it", |_| true)
}

fn arbiter_tls(files: &[File]) -> Vec<Finding> {
    let message =
        format!("the pre-release of rustls is only for the arbiter's port: {ARBITER_TLS}.rs");
    let mut findings = Vec::new();
    let elsewhere = |path: &str| {
        let rest = path.strip_prefix(ARBITER_TLS);
        !rest.is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    for word in ["rustls24", "rustls24_ring"] {
        findings.extend(word_in_code(files, word, &message, elsewhere));
    }
    for (folder, file) in members(files) {
        let strangers = dependencies(file);
        let strangers = strangers.iter().filter(|e| e.key.starts_with("rustls24"));
        findings.extend(
            strangers
                .filter(|_| folder != "certs")
                .map(|entry| file.finding(entry.line, message.as_str())),
        );
    }
    findings
}

fn workspace_lints(files: &[File]) -> Vec<Finding> {
    let bare = members(files).into_iter().filter(|(_, file)| {
        let entries = toml_entries(&file.text);
        !entries.iter().any(|e| e.section == "lints" && e.key == "workspace" && e.value == "true")
    });
    bare.map(|(_, file)| file.finding(1, "add `[lints]` with `workspace = true`")).collect()
}

fn workspace_versions(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, file) in members(files) {
        for entry in dependencies(file) {
            let dotted = entry.key.ends_with(".workspace") && entry.value == "true";
            let table = entry.value.contains("workspace = true");
            let own = ["version", "path", "git"].iter().any(|word| has_word(&entry.value, word));
            if entry.key.is_empty() || !(dotted || table) || own {
                let message = "write `NAME.workspace = true`; version and path are in the root \
                               Cargo.toml, once";
                findings.push(file.finding(entry.line, message));
            }
        }
    }
    findings
}

fn ignored_tests(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        for ((line, code), text) in numbered(&file.code).zip(file.text.lines()) {
            let attribute = code.trim_start().starts_with("#[") && has_word(code, "ignore");
            let text = text.trim_start();
            let example = (text.starts_with("///") || text.starts_with("//!"))
                && text.contains("```")
                && has_word(text, "ignore");
            if attribute || example {
                let message = "an ignored test: make it pass everywhere, or take it out (an \
                               example that only compiles is `no_run`)";
                findings.push(file.finding(line, message));
            }
        }
    }
    findings
}

fn notes(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let noted = |line: &str| NOTES.iter().any(|note| has_word(line, note));
        let lines = numbered(&file.text).filter(|(_, line)| noted(line));
        findings
            .extend(lines.map(|(n, _)| file.finding(n, "a note to oneself: do it, or file it")));
    }
    for word in ["todo!", "unimplemented!"] {
        findings
            .extend(word_in_code(files, word, "unfinished: write it, or leave it out", |_| true));
    }
    findings
}

fn outside_paths(files: &[File]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        let outside = |line: &str| OUTSIDE.iter().any(|path| line.contains(path));
        let message = "a path that exists on one machine only: bring what it names in here";
        let lines = numbered(&file.text).filter(|(_, line)| outside(line));
        findings.extend(lines.map(|(n, _)| file.finding(n, message)));
    }
    findings
}

fn links(files: &[File]) -> Vec<Finding> {
    let documents: BTreeMap<&str, BTreeSet<String>> = files
        .iter()
        .filter(|file| file.path.ends_with(".md"))
        .map(|file| (file.path.as_str(), anchors(&file.text)))
        .collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, target) in link_targets(&file.text) {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let path = if path.is_empty() {
                file.path.clone()
            } else {
                resolve(file.path.rsplit_once('/').map_or("", |parts| parts.0), path)
            };
            let known = files.iter().any(|other| other.path == path);
            if !known && !root.join(&path).exists() {
                findings.push(file.finding(line, format!("link to {target}: there is no {path}")));
            } else if !anchor.is_empty()
                && documents.get(path.as_str()).is_some_and(|known| !known.contains(anchor))
            {
                let message = format!("link to {target}: {path} has no heading #{anchor}");
                findings.push(file.finding(line, message));
            }
        }
    }
    findings
}

/// A name of four words or more in a document is a test's (or a setting's): some Rust file has it,
/// also after tests were renamed. Scenarios are files.
fn named_tests(files: &[File]) -> Vec<Finding> {
    let names: BTreeSet<&str> = files
        .iter()
        .filter(|file| file.is_rust())
        .flat_map(|file| file.text.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .filter(|word| word.matches('_').count() >= 3)
        .collect();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (line, text) in numbered(&file.text) {
            let quoted = text.split('`').skip(1).step_by(2);
            for name in quoted.filter(|name| name.matches('_').count() >= 3) {
                let plain = name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
                if plain && !names.contains(name) {
                    findings.push(file.finding(line, format!("there is no {name}")));
                }
            }
        }
    }
    findings
}

/// The findings of a word in the code of the Rust files that `applies` to.
fn word_in_code(
    files: &[File],
    word: &str,
    message: &str,
    applies: impl Fn(&str) -> bool,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust() && applies(&file.path)) {
        let lines = file.lines_naming(word);
        findings.extend(lines.iter().map(|&line| file.finding(line, message)));
    }
    findings
}

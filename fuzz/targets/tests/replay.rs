//! Gives every target the inputs that the fuzzer has found.

use std::fs;
use std::path::{Path, PathBuf};

use targets::{TARGETS, Target, corpus};

/// One test a target, so that they run side by side and a find has a name.
macro_rules! replay {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

replay! {
    framing message beat arbiter device node conf settings state journal lines bundle certificate
    handshake ipmi bmc
}

#[test]
fn every_target_is_replayed_and_every_input_has_a_target() {
    let names: Vec<&str> = TARGETS.iter().map(|target| target.0).collect();
    assert_eq!(names, REPLAYED);
    for file in files("corpus").iter().chain(&files("regressions")) {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let target = name.split('-').next().unwrap_or_default();
        assert!(names.contains(&target), "{}: no target of that name", file.display());
    }
}

#[test]
fn a_corpus_comes_back_from_its_file() {
    let inputs = [&b"two"[..], b"", b"two", b"one", b"\0\n"];
    let file = corpus::pack(inputs.iter().map(|input| input.to_vec()).collect());
    assert_eq!(corpus::unpack(&file), Ok(vec![&b""[..], b"\0\n", b"one", b"two"]));
    assert_eq!(corpus::unpack(&file[..file.len() - 1]), Err("is cut in an input".to_owned()));
    assert_eq!(corpus::unpack(b"corpus"), Err("is no corpus".to_owned()));
}

/// The packed corpus of a target, and the inputs `NAME-what` that once were finds.
fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.0 == name).expect("a target").1;
    let path = folder("corpus").join(name);
    let file = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let inputs = corpus::unpack(&file).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    assert!(!inputs.is_empty(), "{}: is empty", path.display());
    target(b"");
    for (number, input) in inputs.into_iter().enumerate() {
        run(target, input, &format!("input {number} of {}", path.display()));
    }
    let prefix = format!("{name}-");
    for path in files("regressions") {
        let found = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if found.starts_with(&prefix) {
            let input = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            run(target, &input, &path.display().to_string());
        }
    }
}

fn run(target: Target, input: &[u8], name: &str) {
    if std::panic::catch_unwind(|| target(input)).is_err() {
        panic!("{name} makes it panic: {}", input.escape_ascii());
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

fn files(name: &str) -> Vec<PathBuf> {
    let path = folder(name);
    let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files
}

//! `corpus pack DIRECTORY FILE`, `corpus unpack FILE DIRECTORY`: between the many files that the
//! fuzzer works with and the one that is kept.

use std::fs;
use std::path::Path;

use targets::corpus;

fn main() -> Result<(), String> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["pack", directory, file] => pack(Path::new(directory), Path::new(file)),
        ["unpack", file, directory] => unpack(Path::new(file), Path::new(directory)),
        _ => Err("say: pack DIRECTORY FILE, or: unpack FILE DIRECTORY".to_owned()),
    }
}

fn pack(directory: &Path, file: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", directory.display());
    let mut inputs = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        inputs.push(fs::read(entry.map_err(failed)?.path()).map_err(failed)?);
    }
    fs::write(file, corpus::pack(inputs)).map_err(|error| format!("{}: {error}", file.display()))
}

fn unpack(file: &Path, directory: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", directory.display());
    let bytes = fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let inputs = corpus::unpack(&bytes).map_err(|why| format!("{}: {why}", file.display()))?;
    for (number, input) in inputs.into_iter().enumerate() {
        fs::write(directory.join(format!("kept-{number:05}")), input).map_err(failed)?;
    }
    Ok(())
}

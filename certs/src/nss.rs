//! Databases of NSS, read and made with its own programs, certutil and pk12util. They work on a
//! copy that only this process's user reads: a database in use is never opened for writing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::files::{self, FileError};
use crate::pkcs12::{self, Bundle, BundleError};

/// The files of a database, certificates last.
pub(crate) const FILES: [&str; 2] = ["key4.db", "cert9.db"];

/// The database's password, which corosync's scripts leave empty.
pub(crate) const PASSWORD_FILE: &str = "pwdfile.txt";

/// Before NSS 3.35.
const OLD_FILE: &str = "cert8.db";

/// Where SQLite locks its files: 512 bytes from here (sqlite3 `PENDING_BYTE`).
const LOCKED_FROM: i64 = 0x4000_0000;
const LOCKED_BYTES: i64 = 512;

/// The largest database file that is copied; one of corosync has 50 KiB.
const DATABASE_BYTES_MAX: u64 = 64 << 20;

/// Why a database could not be used.
#[derive(Debug, Error)]
pub enum NssError {
    /// There is none.
    #[error("{}: there is no NSS certificate store: cert9.db and key4.db are looked for", .0.display())]
    Missing(PathBuf),
    /// One file without the other.
    #[error("{}: is missing although the other file is there: restore it", .0.display())]
    Half(PathBuf),
    /// The form of old versions.
    #[error(
        "{}: is of the form before NSS 3.35, which cannot be read: convert it with the certutil of \
         its own system, or enrol the clusters anew",
        .0.display()
    )]
    Old(PathBuf),
    /// Another process writes to it.
    #[error(
        "{}: is being written{by}: wait until that has ended, then try again",
        path.display(),
        by = writer.map(|pid| format!(" by process {pid}")).unwrap_or_default()
    )]
    Locked {
        /// The file.
        path: PathBuf,
        /// The process, if the system knows.
        writer: Option<i32>,
    },
    /// A write was begun and not ended.
    #[error(
        "{}: a write was not ended: if no certutil runs, let certutil -K -d the directory finish it",
        .0.display()
    )]
    Unfinished(PathBuf),
    /// A password that `pwdfile.txt` does not have.
    #[error(
        "{}: is protected with a password: write it into {PASSWORD_FILE} there, mode 0600, and try \
         again",
        .0.display()
    )]
    Password(PathBuf),
    /// No key and certificate of that name.
    #[error(
        "{}: has no certificate with a key by the name \"{nickname}\": it was never completed, or \
         is not what corosync made",
        path.display()
    )]
    NoPair {
        /// The directory.
        path: PathBuf,
        /// The nickname.
        nickname: &'static str,
    },
    /// A program is not installed.
    #[error("{0} is not installed: install libnss3-tools (Debian) or nss-tools (Fedora, SUSE)")]
    NoProgram(&'static str),
    /// A program failed.
    #[error("{}: {program} failed: {text}", path.display())]
    Failed {
        /// The directory.
        path: PathBuf,
        /// certutil or pk12util.
        program: &'static str,
        /// What it said.
        text: String,
    },
    /// What the program gave out cannot be used.
    #[error("{}: \"{nickname}\" {error}", path.display())]
    Bundle {
        /// The directory.
        path: PathBuf,
        /// The nickname.
        nickname: &'static str,
        /// What is wrong with it.
        error: BundleError,
    },
    /// A file cannot be read or written.
    #[error("{}: cannot be used ({error}): check its owner and mode", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file could not be used.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A copy of a database.
#[derive(Debug)]
pub(crate) struct Snapshot {
    source: PathBuf,
    copy: PathBuf,
}

impl Snapshot {
    /// Copies the database in `source` into the directory `copy`, which is made, and checks that it
    /// opens.
    pub(crate) fn take(source: &Path, copy: &Path) -> Result<Self, NssError> {
        let has = |name: &str| source.join(name).exists();
        if FILES.iter().all(|name| !has(name)) {
            if has(OLD_FILE) {
                return Err(NssError::Old(source.join(OLD_FILE)));
            }
            return Err(NssError::Missing(source.to_owned()));
        }
        fs::create_dir(copy).map_err(|error| io_error(copy, error))?;
        for name in FILES {
            let path = source.join(name);
            if !path.exists() {
                return Err(NssError::Half(path));
            }
            let bytes = read_locked(&path)?;
            files::write_private(&copy.join(name), &bytes)?;
        }
        let password = source.join(PASSWORD_FILE);
        let password = if password.exists() { files::read(&password)? } else { Vec::new() };
        files::write_private(&copy.join(PASSWORD_FILE), &password)?;
        let snapshot = Self { source: source.to_owned(), copy: copy.to_owned() };
        snapshot.open()?;
        Ok(snapshot)
    }

    /// Lists the keys, for which the password is needed.
    fn open(&self) -> Result<(), NssError> {
        let output = run("certutil", &self.copy, &["-K"])?;
        let said = words(&output);
        if output.status.success() || said.contains("no keys found") {
            return Ok(());
        }
        if said.contains("BAD_PASSWORD") || said.contains("Incorrect password") {
            return Err(NssError::Password(self.source.clone()));
        }
        Err(self.failed("certutil", &said))
    }

    /// The key and the certificates that go by a nickname.
    pub(crate) fn pair(&self, nickname: &'static str) -> Result<Bundle, NssError> {
        let path = self.copy.join("pair.p12");
        let out = path.display().to_string();
        let output = run("pk12util", &self.copy, &["-o", &out, "-n", nickname, "-W", ""])?;
        let said = words(&output);
        if said.contains("UNKNOWN_CERT") || said.contains("find user certs from nickname failed") {
            return Err(NssError::NoPair { path: self.source.clone(), nickname });
        }
        if !output.status.success() {
            return Err(self.failed("pk12util", &said));
        }
        let bytes = files::read(&path)?;
        fs::remove_file(&path).map_err(|error| io_error(&path, error))?;
        pkcs12::read(&bytes).map_err(|error| NssError::Bundle {
            path: self.source.clone(),
            nickname,
            error,
        })
    }

    fn failed(&self, program: &'static str, said: &str) -> NssError {
        NssError::Failed { path: self.source.clone(), program, text: first_line(said) }
    }
}

/// What goes into a new database.
pub(crate) struct Entry<'a> {
    pub(crate) nickname: &'static str,
    /// certutil(1) `-t`.
    pub(crate) trust: &'static str,
    pub(crate) key: &'a PrivateKeyDer<'a>,
    pub(crate) certificate: &'a CertificateDer<'a>,
}

/// Makes a database without a password in a directory that has none.
pub(crate) fn build(directory: &Path, entries: &[Entry<'_>]) -> Result<(), NssError> {
    files::write_private(&directory.join(PASSWORD_FILE), b"")?;
    must("certutil", directory, &["-N"])?;
    for entry in entries {
        let nickname = entry.nickname;
        let bundle = pkcs12::write(entry.key, entry.certificate, nickname, None);
        let bundle = bundle.map_err(|error| {
            let path = directory.to_owned();
            NssError::Bundle { path, nickname, error }
        })?;
        let path = directory.join("pair.p12");
        files::write_private(&path, &bundle)?;
        must("pk12util", directory, &["-i", &path.display().to_string(), "-W", ""])?;
        fs::remove_file(&path).map_err(|error| io_error(&path, error))?;
        must("certutil", directory, &["-M", "-n", nickname, "-t", entry.trust])?;
    }
    Ok(())
}

/// Reads a file of SQLite while nobody writes to it.
fn read_locked(path: &Path) -> Result<Vec<u8>, NssError> {
    let mut name = path.as_os_str().to_owned();
    name.push("-journal");
    let journal = PathBuf::from(name);
    let fail = |error| io_error(path, error);
    let file = File::open(path).map_err(fail)?;
    let mut lock = libc::flock {
        l_type: libc::F_RDLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKED_FROM,
        l_len: LOCKED_BYTES,
        l_pid: 0,
    };
    if fcntl(&file, FcntlArg::F_SETLK(&lock)).is_err() {
        let asked = fcntl(&file, FcntlArg::F_GETLK(&mut lock));
        let writer = Some(lock.l_pid).filter(|pid| asked.is_ok() && *pid > 0);
        return Err(NssError::Locked { path: path.to_owned(), writer });
    }
    if journal.exists() {
        return Err(NssError::Unfinished(journal));
    }
    let mut bytes = Vec::new();
    // The lock ends with the file.
    (&file).take(DATABASE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > DATABASE_BYTES_MAX {
        return Err(FileError::TooLarge { path: path.to_owned() }.into());
    }
    Ok(bytes)
}

fn must(program: &'static str, directory: &Path, args: &[&str]) -> Result<(), NssError> {
    let output = run(program, directory, args)?;
    if output.status.success() {
        return Ok(());
    }
    let text = first_line(&words(&output));
    Err(NssError::Failed { path: directory.to_owned(), program, text })
}

/// Runs one of the programs on a database whose password is in [`PASSWORD_FILE`].
fn run(program: &'static str, directory: &Path, args: &[&str]) -> Result<Output, NssError> {
    let password = directory.join(PASSWORD_FILE);
    // The two programs have different names for the same option.
    let password_flag = if program == "pk12util" { "-k" } else { "-f" };
    let mut command = Command::new(program);
    command.args(args).arg("-d").arg(format!("sql:{}", directory.display()));
    command.arg(password_flag).arg(password).stdin(Stdio::null()).env("LC_ALL", "C");
    command.output().map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            return NssError::NoProgram(program);
        }
        io_error(Path::new(program), error)
    })
}

fn words(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    format!("{said}\n{printed}")
}

fn first_line(text: &str) -> String {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next().unwrap_or("it said nothing").to_owned()
}

fn io_error(path: &Path, error: io::Error) -> NssError {
    NssError::Io { path: path.to_owned(), error }
}

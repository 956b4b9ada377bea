//! The way from the stock programs' NSS databases to our files, and back. Both sides keep the same
//! authority, keys and serials, so peers that are enrolled notice nothing.
//!
//! Everything is made in a directory beside the files and put in place at the end; a failure at any
//! moment leaves what was there.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process;
use std::time::SystemTime;

use nix::fcntl::Flock;
use rustls::pki_types::CertificateDer;
use thiserror::Error;

use crate::authority::{
    AuthorityDir, AuthorityError, KEY_FILE, STOCK_SERIAL_FILE, parse_stock_serial,
};
use crate::files::{self, FileError};
use crate::issue::{Authority, IssueError, Kind};
use crate::material::{self, Credential, Purpose};
use crate::names::SERVER_NAME;
use crate::nss::{self, Entry, NssError, Snapshot};
use crate::pkcs12::Bundle;
use crate::stock_store::{
    CA_FILE, CA_NICKNAME, CA_TEXT_FILE, CLUSTER_NICKNAME, Contents, GROUP, MARKER_FILE, NODE_FILE,
    NODE_KEY_FILE, SERVER_FILE, SERVER_KEY_FILE, SERVER_NICKNAME, StoreError, check_signed,
    has_database, lock, make_directory, read_certificate, set_mode, write_ca_text, write_for_group,
};
use crate::verify::Identity;

/// The serial before the first of the stock script (corosync-qnetd-certutil `get_serial_no`).
const SERIAL_BEFORE_FIRST: u64 = 100;

/// Random text that the stock script makes once and passes to certutil.
const NOISE_FILE: &str = "noise.txt";

/// The mode of a database's files in a stock arbiter's directory (`-G`).
const MODE_DATABASE: u32 = 0o640;

/// Why nothing was imported or exported; what was there is untouched.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The directory has our files already.
    #[error(
        "{}: has certificates of haguard already: give another directory with --out, or move them \
         away",
        .0.display()
    )]
    Ours(PathBuf),
    /// The directory has a database already.
    #[error(
        "{}: has an NSS store already: if it was imported from there, corosync-qnetd takes it as \
         it is; otherwise give another --nssdb",
        .0.display()
    )]
    Database(PathBuf),
    /// The parts of the store do not belong together.
    #[error("{}: \"{nickname}\" {text}: the store is of several authorities, or damaged: restore it", path.display())]
    Mixed {
        /// The store.
        path: PathBuf,
        /// The part.
        nickname: &'static str,
        /// What is wrong with it.
        text: String,
    },
    /// `serial.txt` is missing or damaged: counting anew would give a serial twice.
    #[error("{}: has no serial: write the highest one ever issued into it, 102 or more", .0.display())]
    NoSerial(PathBuf),
    /// A file could not be put in its place.
    #[error("{}: cannot be put in place ({error}): check the directory", path.display())]
    Place {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The database could not be used.
    #[error(transparent)]
    Nss(#[from] NssError),
    /// A file of ours could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authority could not be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The imported authority cannot sign.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The store's directory could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What was imported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Imported {
    /// An arbiter's store, and how many clusters' certificates were with it.
    Arbiter {
        /// Files `cluster-NAME.crt`.
        clusters: usize,
    },
    /// A node's store.
    Node,
}

/// Takes over the NSS store in `nssdb`, an arbiter's or a node's, into our files in `out`, which
/// may be the same directory. The database stays as it is.
///
/// # Errors
/// [`TransferError`]: no, half, locked or protected store; files of ours in `out`; certutil or
/// pk12util not installed.
pub fn import(nssdb: &Path, out: &Path, now: SystemTime) -> Result<Imported, TransferError> {
    if Contents::of(out) == Contents::Ours {
        return Err(TransferError::Ours(out.to_owned()));
    }
    // Looked for before a directory is made.
    if !has_database(nssdb) {
        return Err(NssError::Missing(nssdb.to_owned()).into());
    }
    let stage = Stage::new(out)?;
    let snapshot = Snapshot::take(nssdb, &stage.path.join("nss"))?;
    let store = Opened { nssdb, out, snapshot, stage, now };
    match store.snapshot.pair(SERVER_NICKNAME) {
        Ok(server) => store.take_arbiter(&server),
        Err(NssError::NoPair { path, nickname }) => {
            match store.snapshot.pair(CLUSTER_NICKNAME) {
                Ok(cluster) => store.take_node(&cluster),
                // It is neither; the arbiter's is the name to look for.
                Err(NssError::NoPair { .. }) => Err(NssError::NoPair { path, nickname }.into()),
                Err(other) => Err(other.into()),
            }
        }
        Err(other) => Err(other.into()),
    }
}

/// A store that is being imported.
struct Opened<'a> {
    nssdb: &'a Path,
    out: &'a Path,
    snapshot: Snapshot,
    stage: Stage,
    now: SystemTime,
}

impl Opened<'_> {
    fn take_arbiter(self, server: &Bundle) -> Result<Imported, TransferError> {
        let authority = self.snapshot.pair(CA_NICKNAME)?;
        let ca = &authority.certificates[0];
        self.check_leaf(SERVER_NICKNAME, server, ca, Some(SERVER_NAME))?;
        let serial = self.nssdb.join(STOCK_SERIAL_FILE);
        let last = if serial.exists() { files::read(&serial)? } else { Vec::new() };
        let last = parse_stock_serial(&String::from_utf8_lossy(&last));
        let last = last.ok_or(TransferError::NoSerial(serial))?;
        let ca_key = material::to_pem("PRIVATE KEY", authority.key.secret_der());
        let ca_pem = material::certificates_to_pem(std::slice::from_ref(ca));
        Authority::from_pem(ca_pem.as_bytes(), ca_key.as_bytes())?;
        let to = |name: &str| self.stage.path.join(name);
        files::write_private(&to(KEY_FILE), ca_key.as_bytes())?;
        let key = material::to_pem("PRIVATE KEY", server.key.secret_der());
        write_for_group(&to(SERVER_KEY_FILE), key.as_bytes())?;
        let chain = material::certificates_to_pem(&[server.certificates[0].clone(), ca.clone()]);
        files::write_public(&to(SERVER_FILE), chain.as_bytes())?;
        files::write_public(&to(CA_FILE), ca_pem.as_bytes())?;
        let mut names = vec![KEY_FILE.to_owned(), SERVER_KEY_FILE.into(), SERVER_FILE.into()];
        let text = self.nssdb.join(CA_TEXT_FILE);
        let fits = text.exists() && read_certificate(&text)? == *ca;
        if text.exists() && !fits {
            return Err(StoreError::TwoAuthorities(text).into());
        }
        let clusters = cluster_files(self.nssdb)?;
        if self.nssdb != self.out {
            files::write_private(&to(STOCK_SERIAL_FILE), format!("{}\n", last.0).as_bytes())?;
            names.push(STOCK_SERIAL_FILE.into());
            names.extend(copy_all(&clusters, &self.stage.path)?);
        }
        if self.nssdb != self.out || !fits {
            write_ca_text(&self.stage.path, ca)?;
            names.push(CA_TEXT_FILE.into());
        }
        // By it others see that there is an authority, so it comes last.
        names.push(CA_FILE.into());
        self.stage.put(&names)?;
        Ok(Imported::Arbiter { clusters: clusters.len() })
    }

    fn take_node(self, cluster: &Bundle) -> Result<Imported, TransferError> {
        let to = |name: &str| self.stage.path.join(name);
        let [_, ca, ..] = cluster.certificates.as_slice() else {
            return Err(self.mixed(CLUSTER_NICKNAME, "comes without its authority".to_owned()));
        };
        self.check_leaf(CLUSTER_NICKNAME, cluster, ca, None)?;
        let key = material::to_pem("PRIVATE KEY", cluster.key.secret_der());
        files::write_private(&to(NODE_KEY_FILE), key.as_bytes())?;
        let chain = material::certificates_to_pem(&cluster.certificates[..2]);
        files::write_public(&to(NODE_FILE), chain.as_bytes())?;
        let pem = material::certificates_to_pem(std::slice::from_ref(ca));
        files::write_public(&to(CA_FILE), pem.as_bytes())?;
        self.stage.put(&[NODE_KEY_FILE.into(), NODE_FILE.into(), CA_FILE.into()])?;
        Ok(Imported::Node)
    }

    /// Checks that the authority has signed a certificate, and, where one is given, its name.
    fn check_leaf(
        &self,
        nickname: &'static str,
        pair: &Bundle,
        ca: &CertificateDer<'static>,
        name: Option<&str>,
    ) -> Result<(), TransferError> {
        let leaf = &pair.certificates[0];
        let own = Credential::new(vec![leaf.clone()], pair.key.clone_key());
        let own = own.map_err(|error| self.mixed(nickname, error.to_string()))?;
        let purpose = if name.is_some() { Purpose::Server } else { Purpose::Client };
        check_signed(ca, &own, purpose, self.now).map_err(|text| self.mixed(nickname, text))?;
        let identity = Identity::from_der(leaf);
        let identity = identity.map_err(|error| self.mixed(nickname, error.to_string()))?;
        match name {
            Some(name) if identity.cluster != name.into() => {
                Err(self.mixed(nickname, format!("names \"{}\"", identity.cluster)))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn mixed(&self, nickname: &'static str, text: String) -> TransferError {
        TransferError::Mixed { path: self.nssdb.to_owned(), nickname, text }
    }
}

/// Makes an NSS store for corosync-qnetd in `nssdb` of the authority and the arbiter's certificate
/// in `directory`, which may be the same directory. The files of ours stay as they are.
///
/// # Errors
/// [`TransferError`]: no arbiter's certificate, a store in `nssdb`, certutil or pk12util not
/// installed.
pub fn export(directory: &Path, nssdb: &Path) -> Result<(), TransferError> {
    if has_database(nssdb) {
        return Err(TransferError::Database(nssdb.to_owned()));
    }
    let authority = AuthorityDir::open(directory)?;
    let ca = authority.authority().certificate();
    if nssdb != directory && Contents::of(nssdb) == Contents::Ours {
        return Err(TransferError::Ours(nssdb.to_owned()));
    }
    let server_key = directory.join(SERVER_KEY_FILE);
    let server: Credential = files::load_credential(&directory.join(SERVER_FILE), &server_key)?;
    let content = |path: &Path, error| FileError::Content { path: path.to_owned(), error };
    let ca_key = material::private_key(authority.authority().key_pem().as_bytes())
        .map_err(|error| content(&directory.join(KEY_FILE), error))?;
    let stage = Stage::new(nssdb)?;
    // The names in a database are found by these nicknames (qnetd protocol, section 7.2).
    let entries = [
        Entry { nickname: CA_NICKNAME, trust: "CT,,", key: &ca_key, certificate: ca },
        Entry {
            nickname: SERVER_NICKNAME,
            trust: "u,u,u",
            key: &server.key(),
            certificate: server.leaf(),
        },
    ];
    nss::build(&stage.path, &entries)?;
    let to = |name: &str| stage.path.join(name);
    files::write_private(&to(NOISE_FILE), &noise()?)?;
    let last = match authority.authority().kind() {
        // Too large for certutil, and far from where it counts.
        Kind::Own => SERIAL_BEFORE_FIRST,
        Kind::Stock => authority.last_serial()?.0,
    };
    files::write_private(&to(STOCK_SERIAL_FILE), format!("{last}\n").as_bytes())?;
    let mut names: Vec<String> =
        [nss::PASSWORD_FILE, NOISE_FILE, STOCK_SERIAL_FILE, MARKER_FILE].map(str::to_owned).into();
    names.extend(nss::FILES.map(str::to_owned));
    stage.correct_module_list()?;
    for name in &names {
        set_mode(&to(name), MODE_DATABASE)?;
        stage.adopt(&to(name))?;
    }
    let mut others = Vec::new();
    if nssdb != directory {
        others = copy_all(&cluster_files(directory)?, &stage.path)?;
    }
    write_ca_text(&stage.path, ca)?;
    others.push(CA_TEXT_FILE.into());
    // The certificates' database comes last: by it the stock scripts see that there is a store.
    others.extend(names);
    stage.put(&others)
}

fn noise() -> Result<Vec<u8>, TransferError> {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 20];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| AuthorityError::NoRandomness)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{digits}\n").into_bytes())
}

/// The clusters' certificates in an authority's directory.
///
/// # Errors
/// When the directory cannot be read.
pub fn cluster_files(directory: &Path) -> Result<Vec<PathBuf>, FileError> {
    let fail = |error| FileError::Unreadable { path: directory.to_owned(), error };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("cluster-") && name.ends_with(".crt") && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn copy_all(from: &[PathBuf], to: &Path) -> Result<Vec<String>, TransferError> {
    let mut names = Vec::new();
    for path in from {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files::write_public(&to.join(&name), &files::read(path)?)?;
        names.push(name);
    }
    Ok(names)
}

/// How the directories of [`Stage`] begin.
const STAGE_PREFIX: &str = ".haguard-";

/// A directory beside the files, where they are made; gone when dropped. Nobody else changes the
/// store meanwhile.
struct Stage {
    path: PathBuf,
    target: PathBuf,
    _lock: Flock<fs::File>,
}

impl Stage {
    fn new(target: &Path) -> Result<Self, TransferError> {
        make_directory(target, Some(GROUP))?;
        let lock = lock(target)?;
        let path = target.join(format!("{STAGE_PREFIX}{}", process::id()));
        let place = |error| TransferError::Place { path: path.clone(), error };
        // Of processes that were killed: as we have the lock, none of them lives.
        for entry in fs::read_dir(target).map_err(place)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(STAGE_PREFIX) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(place)?;
        let stage = Self { path: path.clone(), target: target.to_owned(), _lock: lock };
        // What is written in it takes its owner.
        stage.adopt(&path)?;
        Ok(stage)
    }

    /// Gives a file to the owner of the target directory.
    fn adopt(&self, path: &Path) -> Result<(), TransferError> {
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let owner = fs::metadata(&self.target);
        let given = owner.and_then(|owner| chown(path, Some(owner.uid()), Some(owner.gid())));
        given.map_err(|error| TransferError::Place { path: path.to_owned(), error })
    }

    /// Names the final directory in NSS's list of modules, as certutil does when it makes a
    /// database in its place.
    fn correct_module_list(&self) -> Result<(), TransferError> {
        let path = self.path.join(MARKER_FILE);
        let text = String::from_utf8_lossy(&files::read(&path)?).into_owned();
        let here = format!("sql:{}", self.path.display());
        let text = text.replace(&here, &self.target.display().to_string());
        Ok(files::write_private(&path, text.as_bytes())?)
    }

    /// Moves files to the directory, in this order. If one cannot be moved, those before it are
    /// taken back.
    fn put(&self, names: &[String]) -> Result<(), TransferError> {
        let kept = self.path.join("kept");
        let place = |path: &Path, error| TransferError::Place { path: path.to_owned(), error };
        fs::create_dir(&kept).map_err(|error| place(&kept, error))?;
        for (at, name) in names.iter().enumerate() {
            let to = self.target.join(name);
            let moved = keep(&to, &kept.join(name))
                .and_then(|()| fs::rename(self.path.join(name), &to))
                .map_err(|error| place(&to, error));
            if let Err(error) = moved {
                for name in names[..=at].iter().rev() {
                    let to = self.target.join(name);
                    // What cannot be taken back is named by the error that led here.
                    let _ = fs::remove_file(&to);
                    let _ = fs::rename(kept.join(name), &to);
                }
                return Err(error);
            }
        }
        let synced = fs::File::open(&self.target).and_then(|directory| directory.sync_all());
        synced.map_err(|error| place(&self.target, error))
    }
}

/// A second name for a file that is about to be replaced.
fn keep(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

//! `haguard certs`: a certificate authority for a cluster and its arbiter, in a directory.

mod stores;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use certs::authority::{AuthorityDir, CERTIFICATE_FILE};
use certs::files;
use certs::issue::{Kind, Subject, Validity};
use certs::material;
use certs::names::{CA_NAME, SERVER_NAME};
use certs::transfer;
use certs::{CertificateDer, Identity};
use clap::{Args, Subcommand};
use comfy_table::Table;
use comfy_table::presets::NOTHING;
use jiff::{Timestamp, tz::TimeZone};
use protocol::ids::NodeId;

use crate::screen;

/// The directory in the authority's where copies of all issued certificates are kept.
const ISSUED: &str = "issued";

/// The arguments of `haguard certs`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Make a certificate authority
    Init {
        /// The authority's directory; it must not have one yet
        #[arg(long)]
        dir: PathBuf,
    },
    /// Issue the arbiter's certificate: arbiter.pem, arbiter-key.pem and ca.pem
    Arbiter {
        #[command(flatten)]
        places: Places,
    },
    /// Issue one node's certificate: node.pem, node-key.pem and ca.pem
    Node {
        #[command(flatten)]
        places: Places,
        /// The cluster's name (totem.cluster_name)
        #[arg(long, value_name = "NAME")]
        cluster: String,
        /// The node's id (nodeid)
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        node: u32,
    },
    /// Issue the certificate of a cluster's fencing gateway: gateway.pem, gateway-key.pem and ca.pem
    Gateway {
        #[command(flatten)]
        places: Places,
        /// The cluster's name (totem.cluster_name)
        #[arg(long, value_name = "NAME")]
        cluster: String,
    },
    /// Sign the certificate request of a stock cluster's node: cluster-NAME.crt
    Sign {
        /// The authority's directory
        #[arg(long)]
        dir: PathBuf,
        /// The request, as corosync-qdevice-net-certutil -r has made it
        #[arg(long, value_name = "FILE")]
        request: PathBuf,
        /// The cluster's name (totem.cluster_name)
        #[arg(long, value_name = "NAME")]
        cluster: String,
        /// Sign although a cluster of this name has a certificate
        #[arg(long)]
        force: bool,
    },
    /// Take over the store of corosync-qnetd, or of a corosync-qdevice, so that nobody has to be
    /// enrolled again
    Import(stores::Import),
    /// Make a store for corosync-qnetd: the way back
    Export(stores::Export),
    /// List what an authority has issued
    List {
        /// The authority's directory
        #[arg(long)]
        dir: PathBuf,
    },
    /// Show whom the certificates in a file name, and until when
    Show {
        /// A PEM file
        file: PathBuf,
    },
}

#[derive(Args, Clone, Debug)]
struct Places {
    /// The authority's directory
    #[arg(long)]
    dir: PathBuf,
    /// Where the files go; made if it is missing
    #[arg(long)]
    out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// Runs the verb.
///
/// # Errors
/// One line: what happened, where, and what to do.
pub fn run(options: &Options) -> Result<()> {
    match &options.what {
        What::Init { dir } => init(dir),
        What::Arbiter { places } => issue_to(places, &Subject::Server, "arbiter"),
        What::Node { places, cluster, node } => {
            let subject = Subject::Node { cluster: cluster.clone(), node: NodeId(*node) };
            issue_to(places, &subject, "node")
        }
        What::Gateway { places, cluster } => {
            issue_to(places, &Subject::Gateway(cluster.clone()), "gateway")
        }
        What::Sign { dir, request, cluster, force } => stores::sign(dir, request, cluster, *force),
        What::Import(options) => stores::import(options),
        What::Export(options) => stores::export(options),
        What::List { dir } => list(dir),
        What::Show { file } => show(file),
    }
}

fn init(dir: &Path) -> Result<()> {
    AuthorityDir::create(dir, Kind::Own, Validity::starting(wall_clock()))?;
    screen::say(&format!(
        "authority made in {}: keep ca-key.pem secret; next: haguard certs arbiter --dir {0} --out DIR",
        dir.display()
    ));
    Ok(())
}

fn issue_to(places: &Places, subject: &Subject, name: &str) -> Result<()> {
    issue(&places.dir, subject, &places.out, name, places.force)?;
    let out = places.out.display();
    screen::say(&format!("{out}/{name}.pem, {out}/{name}-key.pem and {out}/ca.pem written"));
    Ok(())
}

/// Issues a certificate of the authority in `dir` into a directory: `ca.pem`, `NAME.pem` and, readable by its owner only,
/// `NAME-key.pem`. A copy of the certificate stays with the authority.
///
/// # Errors
/// When a file is there already and `force` is not set, or a file cannot be written.
pub fn issue(dir: &Path, subject: &Subject, out: &Path, name: &str, force: bool) -> Result<()> {
    let authority = AuthorityDir::open(dir)?;
    let certificate = out.join(format!("{name}.pem"));
    let key = out.join(format!("{name}-key.pem"));
    let ca = out.join(CERTIFICATE_FILE);
    let ca_text = authority.authority().certificate_pem();
    for path in [&certificate, &key] {
        if path.exists() && !force {
            bail!("{}: is there already: give another --out, or --force", path.display());
        }
    }
    // The authority's own directory has this very file; another authority's is not replaced.
    let same_ca = ca.exists() && files::read(&ca)? == ca_text.as_bytes();
    if ca.exists() && !same_ca && !force {
        bail!("{}: is of another authority: give another --out, or --force", ca.display());
    }
    if let Subject::Node { cluster, node } = subject
        && !force
        && let Some(known) = issued_to(dir, cluster, *node)?
    {
        bail!(
            "node {node} of cluster {cluster} has a certificate already, serial {}: if it is the \
             same node, --force gives it another; if it is another cluster, rename one of them",
            known.serial
        );
    }
    files::make_private_directory(out)?;
    let issued = authority.issue(subject, Validity::starting(wall_clock()))?;
    let copies = dir.join(ISSUED);
    files::make_private_directory(&copies)?;
    let serial = Shown::read(&issued.certificate)?.serial;
    let copy = material::certificates_to_pem(std::slice::from_ref(&issued.certificate));
    files::write_public(&copies.join(format!("{serial}.pem")), copy.as_bytes())?;
    if !same_ca {
        files::write_public(&ca, ca_text.as_bytes())?;
    }
    files::write_private(&key, issued.key_pem.as_bytes())?;
    files::write_public(&certificate, issued.chain_pem.as_bytes())?;
    Ok(())
}

fn list(dir: &Path) -> Result<()> {
    AuthorityDir::open(dir)?;
    let mut found = issued(dir)?;
    for path in transfer::cluster_files(dir)? {
        // The stock script leaves an empty file behind when it fails.
        found.extend(Shown::read(&CertificateDer::from(files::read(&path)?)));
    }
    found.sort_by(|a, b| (a.serial.len(), &a.serial).cmp(&(b.serial.len(), &b.serial)));
    let authority = read(&dir.join(CERTIFICATE_FILE))?;
    screen::say(&table(authority.into_iter().chain(found)));
    Ok(())
}

/// The certificate that a node of a cluster has been given.
fn issued_to(dir: &Path, cluster: &str, node: NodeId) -> Result<Option<Shown>> {
    let names = names(cluster, Some(node));
    Ok(issued(dir)?.into_iter().find(|known| known.names == names))
}

/// The copies of what an authority has issued.
fn issued(dir: &Path) -> Result<Vec<Shown>> {
    let copies = dir.join(ISSUED);
    let mut found = Vec::new();
    let entries = match fs::read_dir(&copies) {
        Ok(entries) => entries.collect::<Result<Vec<_>, _>>(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    let entries = entries.with_context(|| format!("{}: cannot be read", copies.display()))?;
    for entry in entries {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            found.extend(read(&path)?);
        }
    }
    Ok(found)
}

fn show(file: &Path) -> Result<()> {
    let found = read(file)?;
    screen::say(&table(found));
    Ok(())
}

/// The certificates in a file.
fn read(path: &Path) -> Result<Vec<Shown>> {
    let text = files::read(path)?;
    let found =
        material::certificates(&text).map_err(|e| anyhow::anyhow!("{}: {e}", path.display()))?;
    let shown = found.iter().map(Shown::read).collect::<Result<_>>();
    shown.with_context(|| path.display().to_string())
}

fn table(certificates: impl IntoIterator<Item = Shown>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.set_header(["serial", "names", "valid from", "valid to"]);
    for one in certificates {
        table.add_row([one.serial, one.names, date(one.from), date(one.to)]);
    }
    let mut text = String::new();
    for line in table.lines() {
        let _ = writeln!(text, "{}", line.trim());
    }
    text.truncate(text.trim_end().len());
    text
}

/// What is shown of a certificate.
struct Shown {
    /// In hex.
    serial: String,
    names: String,
    /// Seconds since 1970-01-01 UTC.
    from: i64,
    /// Seconds since 1970-01-01 UTC.
    to: i64,
}

impl Shown {
    fn read(certificate: &CertificateDer<'_>) -> Result<Self> {
        let identity = Identity::from_der(certificate)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .context("the certificate cannot be read: issue it again")?;
        let cluster = identity.cluster.to_string();
        let names = match identity.gateway {
            true => format!("cluster {cluster}, fencing gateway"),
            false => names(&cluster, identity.node),
        };
        let validity = parsed.validity();
        Ok(Self {
            serial: format!("{:x}", parsed.serial),
            names,
            from: validity.not_before.timestamp(),
            to: validity.not_after.timestamp(),
        })
    }
}

/// Whom a certificate names, in words.
fn names(name: &str, node: Option<NodeId>) -> String {
    match (name, node) {
        (CA_NAME, _) => "authority".to_owned(),
        (SERVER_NAME, _) => "arbiter".to_owned(),
        (cluster, Some(node)) => format!("cluster {cluster}, node {node}"),
        (cluster, None) => format!("cluster {cluster}, any node"),
    }
}

fn date(seconds: i64) -> String {
    match Timestamp::from_second(seconds) {
        Ok(time) => time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string(),
        Err(_) => format!("{seconds} s"),
    }
}

/// The wall clock, for the validity of certificates.
#[expect(clippy::disallowed_methods, reason = "certificates are valid by the calendar")]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

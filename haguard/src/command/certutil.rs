//! `corosync-qnetd-certutil` and `corosync-qdevice-net-certutil`: the flags, exit codes and files of
//! the stock scripts, and those of their lines that pvecm, pcs, crmsh and the stock scripts of the
//! other side read. Certificates are in PEM files instead of an NSS database.
//!
//! Exit codes: 0 done, or the usage was shown; 1 refused or failed; 2 a file or name is missing.

mod flags;
mod quick;

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use certs::stock_store::{
    ARBITER_DIRECTORY, ArbiterStore, CA_TEXT_FILE, NODE_DIRECTORY, NodeStore, StoreError,
};

use crate::command::certs::wall_clock;
use crate::screen::{complain, say};
use flags::Flags;

/// `corosync-qnetd-certutil -h`, after the program's name.
const QNETD_USAGE: &str = "\
: [-i|-s] [-c certificate] [-G] [-n cluster_name]

 -i                  make the authority and the arbiter's certificate
 -s                  sign a cluster's certificate request (-c and -n)
 -c certificate      file with the request
 -G                  no file may be written by its group; here none ever may
 -n cluster_name     name of the cluster, as in the request";

/// `corosync-qdevice-net-certutil -h`, after the program's name.
const NODE_USAGE: &str = "\
: [-i|-m|-M|-r|-Q] [-c certificate] [-n cluster_name]

 -i                  trust the arbiter's authority: -c qnetd-cacert.crt
 -r                  make the cluster's key and a request for its certificate (-n)
 -M                  take the signed certificate (-c), and pack it with its key for other nodes
 -m                  take key and certificate that another node has packed (-c)
 -Q                  do all of it by ssh and scp as root: -n cluster_name arbiter node1 node2 ...
 -c certificate      the file of the operation
 -n cluster_name     name of the cluster (totem.cluster_name)";

const EXIT_REFUSED: u8 = 1;
const EXIT_MISSING: u8 = 2;

/// Why a program ends without success: its exit code, and a line for stderr.
type Failure = (u8, String);

/// `corosync-qnetd-certutil`, called as `program` with the arguments after that name.
pub fn qnetd(program: &str, args: &[String]) -> ExitCode {
    finish(program, qnetd_in(program, args, Path::new(ARBITER_DIRECTORY)))
}

/// `corosync-qdevice-net-certutil`, called as `program` with the arguments after that name.
pub fn node(program: &str, args: &[String]) -> ExitCode {
    finish(program, node_in(program, args, Path::new(NODE_DIRECTORY)))
}

fn finish(program: &str, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            complain(&format!("{program}: {text}"));
            ExitCode::from(code)
        }
    }
}

fn qnetd_in(program: &str, args: &[String], directory: &Path) -> Result<(), Failure> {
    let flags = Flags::read(args, "isGh", "cn", "is").map_err(|text| (EXIT_REFUSED, text))?;
    let store = ArbiterStore::at(directory);
    match flags.operation {
        Some('i') => {
            let text = store.create(wall_clock()).map_err(refused)?;
            say(&format!("QNetd CA certificate is exported as {}", text.display()));
        }
        Some('s') => {
            let request = given_file(&flags)?;
            let cluster = given_name(&flags)?;
            let signed = store.sign(&request, cluster, wall_clock()).map_err(refused)?;
            if signed.again {
                log(
                    program,
                    &format!(
                        "cluster \"{cluster}\" had a certificate and has been given another one: \
                         if these are two clusters, rename one of them"
                    ),
                );
            }
            say(&format!("Certificate stored in {}", signed.path.display()));
        }
        Some(_) | None => say(&format!("{program}{QNETD_USAGE}")),
    }
    Ok(())
}

fn node_in(program: &str, args: &[String], directory: &Path) -> Result<(), Failure> {
    let flags = Flags::read(args, "irMmQh", "cn", "irMmQ").map_err(|text| (EXIT_REFUSED, text))?;
    let store = NodeStore::at(directory);
    match flags.operation {
        Some('i') => {
            store.create(&given_file(&flags)?).map_err(refused)?;
            say(&format!("the authority's certificate is in {}", directory.display()));
        }
        Some('r') => {
            let request = store.request(given_name(&flags)?).map_err(refused)?;
            say(&format!("Certificate request stored in {}", request.display()));
        }
        Some('M') => {
            let bundle = store.accept(&given_file(&flags)?, wall_clock()).map_err(refused)?;
            say(&format!("Certificate stored in {}", bundle.display()));
        }
        Some('m') => {
            store.import(&given_file(&flags)?, wall_clock()).map_err(refused)?;
            say(&format!("the cluster's key and certificate are in {}", directory.display()));
        }
        Some('Q') => {
            let name = given_name(&flags)?;
            let plan = quick::Plan::read(name, &flags.rest).map_err(|text| (EXIT_MISSING, text))?;
            plan.carry_out().map_err(|text| (EXIT_REFUSED, text))?;
        }
        Some(_) | None => say(&format!(
            "{program}{NODE_USAGE}\n\n-i needs {CA_TEXT_FILE}, which corosync-qnetd-certutil -i \
             has made on the arbiter in\n{ARBITER_DIRECTORY}. After -r the request is signed there \
             by\ncorosync-qnetd-certutil -s; after -M the other nodes take the packed file with -m."
        )),
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn refused(error: StoreError) -> Failure {
    (EXIT_REFUSED, error.to_string())
}

/// The file of `-c`, which must be there.
fn given_file(flags: &Flags) -> Result<PathBuf, Failure> {
    let name = flags.certificate.as_deref().unwrap_or_default();
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(path);
    }
    Err((
        EXIT_MISSING,
        format!("certificate file \"{name}\": there is no such file: name it with -c"),
    ))
}

/// The name of `-n`.
fn given_name(flags: &Flags) -> Result<&str, Failure> {
    let name = flags.cluster.as_deref().filter(|name| !name.is_empty());
    name.ok_or_else(|| (EXIT_MISSING, "there is no cluster name: give it with -n".to_owned()))
}

/// Says something to the person who calls, and to the system's log, where the arbiter's operator
/// finds it.
fn log(program: &str, text: &str) {
    complain(&format!("{program}: {text}"));
    // Facility daemon, severity notice (RFC 5424 6.2.1). A system without a log hears nothing.
    let line = format!("<29>{program}[{}]: {text}", std::process::id());
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to(line.as_bytes(), "/dev/log");
    }
}

#[cfg(test)]
mod tests;

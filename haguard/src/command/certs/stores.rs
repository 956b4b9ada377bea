//! `haguard certs sign`, `import` and `export`: what passes between us and the stock programs.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use certs::authority::AuthorityDir;
use certs::stock_store::{ARBITER_DIRECTORY, enrol, is_enrolled};
use certs::transfer::{self, Imported};
use clap::Args;
use qnetd::tool::{self, Errand, STOCK_SOCKET};

use super::wall_clock;
use crate::screen;

/// The tool's exit code where no daemon listens (wire 6.2).
const EXIT_NO_DAEMON: u8 = 3;

/// The arguments of `haguard certs import`.
#[derive(Args, Clone, Debug)]
pub(super) struct Import {
    /// The directory with cert9.db and key4.db
    #[arg(long, value_name = "DIR", default_value = ARBITER_DIRECTORY)]
    nssdb: PathBuf,
    /// Where our files go [default: the same directory, where corosync-qnetd looks for them when
    /// it is haguard]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The running corosync-qnetd's socket, which is asked for clients without TLS
    #[arg(long, value_name = "SOCKET", default_value = STOCK_SOCKET)]
    qnetd_socket: PathBuf,
    /// Import although clients without TLS are connected
    #[arg(long)]
    force: bool,
}

/// The arguments of `haguard certs export`.
#[derive(Args, Clone, Debug)]
pub(super) struct Export {
    /// The directory with ca.pem, ca-key.pem, arbiter.pem and arbiter-key.pem
    #[arg(long, default_value = ARBITER_DIRECTORY)]
    dir: PathBuf,
    /// Where the NSS store goes; it may be the same directory
    #[arg(long, value_name = "DIR")]
    nssdb: PathBuf,
}

/// Signs a cluster's request, once.
pub(super) fn sign(dir: &Path, request: &Path, cluster: &str, force: bool) -> Result<()> {
    let authority = AuthorityDir::open(dir)?;
    if !force && is_enrolled(dir, cluster)? {
        bail!(
            "cluster {cluster} has a certificate already: if it is the same cluster, --force gives \
             it another; if it is another one, rename one of them"
        );
    }
    let signed = enrol(&authority, request, cluster, wall_clock())?;
    screen::say(&format!("Certificate stored in {}", signed.path.display()));
    Ok(())
}

pub(super) fn import(options: &Import) -> Result<()> {
    let out = options.out.as_ref().unwrap_or(&options.nssdb);
    let asked = plain_clients(&options.qnetd_socket)?;
    let plain = asked.clone().unwrap_or_default();
    if !plain.is_empty() && !options.force {
        bail!(
            "connected without tls: {}: haguard refuses that unless told otherwise; set tls: on in \
             the corosync.conf there, or import with --force and start haguard with -s on",
            plain.join(", ")
        );
    }
    let place = out.display();
    match transfer::import(&options.nssdb, out, wall_clock())? {
        Imported::Arbiter { clusters } => {
            if asked.is_none() {
                screen::complain(&format!(
                    "haguard certs: no corosync-qnetd answers at {}: whether clients come without \
                     tls could not be seen",
                    options.qnetd_socket.display()
                ));
            }
            screen::say(&format!(
                "{place}: authority and certificate of the arbiter imported; clusters enrolled: \
                 {clusters}; next: stop corosync-qnetd and start haguard in its place"
            ));
        }
        Imported::Node => screen::say(&format!(
            "{place}: the cluster's certificate imported; next: stop corosync-qdevice and start \
             haguard in its place"
        )),
    }
    Ok(())
}

pub(super) fn export(options: &Export) -> Result<()> {
    transfer::export(&options.dir, &options.nssdb)?;
    screen::say(&format!(
        "{}: store for corosync-qnetd made; next: stop haguard and start corosync-qnetd",
        options.nssdb.display()
    ));
    Ok(())
}

/// The clients of a running arbiter that are connected without TLS; `None` if none runs.
fn plain_clients(socket: &Path) -> Result<Option<Vec<String>>> {
    let errand = Errand { line: b"list verbose \n".to_vec(), socket: Some(socket.to_owned()) };
    match tool::perform("corosync-qnetd", &errand) {
        Ok(text) => Ok(Some(read_plain(&String::from_utf8_lossy(&text)))),
        Err((EXIT_NO_DAEMON, _)) => Ok(None),
        Err((_, text)) => bail!("{}", text.trim().replace('\n', " ")),
    }
}

/// Finds them in the text of `corosync-qnetd-tool -lv` (wire 6.3).
fn read_plain(text: &str) -> Vec<String> {
    let (mut cluster, mut node, mut address) = ("", "", "");
    let mut found = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix("Cluster ") {
            cluster = name.trim_end_matches(':');
        } else if let Some(id) = line.strip_prefix("Node ID ") {
            node = id.trim_end_matches(':');
        } else if let Some(text) = line.strip_prefix("Client address:") {
            address = text.trim();
        } else if line.strip_prefix("TLS active:").is_some_and(|text| text.trim() == "No") {
            found.push(format!("node {node} of cluster {cluster} at {address}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_without_tls_are_found_in_the_stock_tools_text() {
        let text = "Cluster \"a b\":\n    Algorithm:\t\tLMS\n    Node ID 1:\n        \
                    Client address:\t\t::ffff:10.0.0.1:4711\n        \
                    TLS active:\t\tYes (client certificate verified)\n    Node ID 12:\n        \
                    Client address:\t\t::ffff:10.0.0.2:4712\n        TLS active:\t\tNo\n\
                    Cluster \"c\":\n    Node ID 1:\n        Client address:\t\t[::1]:1\n        \
                    TLS active:\t\tYes\n";
        let want = ["node 12 of cluster \"a b\" at ::ffff:10.0.0.2:4712"];
        assert_eq!(read_plain(text), want);
        assert_eq!(read_plain(""), [""; 0]);
    }
}

//! The arbiter's certificates.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::{fs, io};

use certs::files::Files;
use certs::material::Purpose;
use certs::verify::Identity;
use certs::{ArbiterTls, ClientCert};
use protocol::ids::ClusterName;
use protocol::qnet::{SERVER_NAME, TlsSupport};
use tracing::warn;

use crate::config::Options;

/// What the system says of the three files: it changes when they do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stamp([Option<(u64, i64, i64, u64)>; 3]);

impl Stamp {
    pub(super) fn of(options: &Options) -> Self {
        let look = |path: &PathBuf| match fs::metadata(path) {
            Ok(found) => Some((found.ino(), found.mtime(), found.mtime_nsec(), found.size())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // It may be there: whoever reads it says what is wrong.
            Err(_) => Some((0, 0, 0, 0)),
        };
        Self([&options.tls_ca, &options.tls_cert, &options.tls_key].map(look))
    }

    /// All three are there.
    pub(super) fn is_complete(&self) -> bool {
        self.0.iter().all(Option::is_some)
    }
}

/// What the daemon starts with; `None` without TLS, and while the files may still be made.
///
/// # Errors
/// As [`load`].
pub(super) fn at_start(options: &Options) -> anyhow::Result<Option<ArbiterTls>> {
    match options.core.tls {
        TlsSupport::Unsupported => Ok(None),
        TlsSupport::Supported | TlsSupport::Required => {
            if options.awaits_keys && !Stamp::of(options).is_complete() {
                return Ok(None);
            }
            load(options).map(Some)
        }
    }
}

/// Reads the three files, and checks that they belong together.
///
/// # Errors
/// Which file, what is wrong with it, what to do.
pub(super) fn load(options: &Options) -> anyhow::Result<ArbiterTls> {
    let files =
        Files { authority: &options.tls_ca, certificate: &options.tls_cert, key: &options.tls_key };
    let loaded = files.load(Purpose::Server)?;
    if let Some(warning) = &loaded.warning {
        warn!("{warning}");
    }
    match Identity::from_der(loaded.own.leaf()) {
        Ok(identity) if identity.cluster == ClusterName::from(SERVER_NAME) => {}
        // Not refused: corosync-qdevice can be told to expect another name (net_nss_qnetd_cn).
        Ok(identity) => warn!(
            "{}: names \"{}\", and clients refuse an arbiter that is not \"{SERVER_NAME}\": is this \
             the certificate of a node?",
            options.tls_cert.display(),
            identity.cluster
        ),
        Err(error) => warn!("{}: {error}", options.tls_cert.display()),
    }
    let clients = if options.core.client_cert_required {
        ClientCert::Required
    } else {
        ClientCert::NotRequested
    };
    Ok(ArbiterTls::new(&loaded.trust, &loaded.own, clients)?)
}

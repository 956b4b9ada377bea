//! Both sides of TLS: the arbiter's for the clients, and each cluster's for the stock arbiter.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use certs::issue::{Authority, Serial, Subject, Validity};
use certs::{ArbiterClient, ArbiterTls, ClientCert, Credential, Trust, files};
use protocol::ids::ClusterName;
use protocol::qnet::TlsSupport;

use crate::config::Options;

/// Months that a certificate for the stock arbiter is valid: it is made for one connection.
const MONTHS: u32 = 1;

/// Serial numbers from here on are no authority's on disk: NSS refuses a second certificate with
/// one that it knows.
const SERIALS_FROM: u64 = 1 << 62;

/// What TLS needs on both sides.
#[derive(Debug)]
pub(super) struct Credentials {
    /// Towards the clients.
    pub(super) accept: ArbiterTls,
    trust: Trust,
    authority: Option<Authority>,
}

impl Credentials {
    /// Reads the files; `None` where TLS is switched off.
    ///
    /// # Errors
    /// Which file, what is wrong with it, what to do.
    pub(super) fn load(options: &Options, ca_key: Option<&Path>) -> anyhow::Result<Option<Self>> {
        match options.core.tls {
            TlsSupport::Unsupported => return Ok(None),
            TlsSupport::Supported | TlsSupport::Required => {}
        }
        let trust = files::load_trust(&options.tls_ca)?;
        let own = files::load_credential(&options.tls_cert, &options.tls_key)?;
        let asks = options.core.client_cert_required;
        let clients = if asks { ClientCert::Required } else { ClientCert::NotRequested };
        let authority = match ca_key {
            Some(key) => {
                let certificate = files::read(&options.tls_ca)?;
                let authority = Authority::from_pem(&certificate, &files::read(key)?);
                let files = (options.tls_ca.display(), key.display());
                Some(authority.with_context(|| format!("{} with {}", files.0, files.1))?)
            }
            None if asks => bail!(
                "the stock arbiter asks clients for a certificate: give the authority's key with \
                 --tls-ca-key, or -c off if it does not, or -s off if it has no tls"
            ),
            None => None,
        };
        let accept = ArbiterTls::new(&trust, &own, clients)?;
        Ok(Some(Self { accept, trust, authority }))
    }

    /// A client towards the stock arbiter. `proven` is the cluster that the client's certificate
    /// names: only for a proven one a certificate is made, so that nobody can do more through here
    /// than without.
    ///
    /// # Errors
    /// When the name cannot be in a certificate, or the system gives no randomness.
    pub(super) fn client(&self, proven: Option<&ClusterName>) -> anyhow::Result<ArbiterClient> {
        let own = match (&self.authority, proven) {
            (Some(authority), Some(cluster)) => {
                let name = String::from_utf8(cluster.0.clone());
                let name = name.context("the cluster's name is not UTF-8 text")?;
                let issued = authority.issue(&Subject::Cluster(name), serial(), validity())?;
                let (chain, key) = (issued.chain_pem.as_bytes(), issued.key_pem.as_bytes());
                Some(Credential::from_pem(chain, key)?)
            }
            (None, _) | (_, None) => None,
        };
        Ok(ArbiterClient::with_default_name(&self.trust, own.as_ref())?)
    }
}

#[expect(clippy::disallowed_methods, reason = "certificates are dated by the wall clock")]
fn wall_clock() -> SystemTime {
    SystemTime::now()
}

fn validity() -> Validity {
    Validity { now: wall_clock(), months: MONTHS }
}

/// Never the same twice, not after a restart either.
fn serial() -> Serial {
    static ISSUED: AtomicU64 = AtomicU64::new(0);
    let since = wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
    let milliseconds = u64::try_from(since.as_millis()).unwrap_or_default();
    // 2^42 ms are 139 years, which leaves 20 bits to tell the certificates of one moment apart.
    let count = ISSUED.fetch_add(1, Ordering::Relaxed) % (1 << 20);
    Serial(SERIALS_FROM + ((milliseconds % (1 << 42)) << 20) + count)
}

//! The device's certificates. They are read anew for every connection, so that renewed ones are
//! used without a restart.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use certs::Identity;
use certs::files::{FileError, Files, Loaded};
use certs::material::Purpose;
use certs::tls::ArbiterClient;
use protocol::host::Welcome;
use protocol::ids::ClusterName;
use tracing::warn;

use crate::config::Options;

/// Reads the three files, and checks that they belong together.
///
/// # Errors
/// Which file, what is wrong with it, what to do.
fn load(options: &Options) -> Result<Loaded, FileError> {
    let files =
        Files { authority: &options.tls_ca, certificate: &options.tls_cert, key: &options.tls_key };
    let loaded = files.load(Purpose::Client)?;
    if let Some(warning) = &loaded.warning {
        warn!("{warning}");
    }
    Ok(loaded)
}

fn client_of(loaded: &Loaded, options: &Options) -> anyhow::Result<ArbiterClient> {
    Ok(ArbiterClient::new(&loaded.trust, Some(&loaded.own), &options.server_name)?)
}

/// Checks that the files can be used.
///
/// # Errors
/// As [`load`].
pub(super) fn check(options: &Options) -> anyhow::Result<()> {
    client_of(&load(options)?, options).map(drop)
}

/// Checks that the files can be used for this node: the arbiter would refuse another's.
///
/// # Errors
/// As [`load`]; and whom the certificate names instead.
pub(super) fn check_for(options: &Options, welcome: &Welcome) -> anyhow::Result<()> {
    let loaded = load(options)?;
    client_of(&loaded, options)?;
    let cluster = ClusterName::from(welcome.cluster.as_str());
    Identity::from_der(loaded.own.leaf())
        .and_then(|identity| identity.may_act_as(&cluster, Some(welcome.node)))
        .with_context(|| {
            let file = options.tls_cert.display();
            format!(
                "{file}: is not for node {} of cluster {cluster}: if the cluster was renamed, \
                 enrol it under its new name",
                welcome.node
            )
        })
}

/// The client side of TLS that connections are made with.
pub(super) struct Clients {
    options: Arc<Options>,
    /// From the files when they were last in order.
    last: Mutex<Option<ArbiterClient>>,
}

impl Clients {
    pub(super) fn new(options: Arc<Options>) -> Self {
        Self { options, last: Mutex::new(None) }
    }

    /// For one connection. Files that cannot be used any more do not cost a running node its
    /// arbiter: what was in them before is used, and the log says so.
    ///
    /// # Errors
    /// As [`load`], in one line, if they never could be used.
    pub(super) async fn client(self: Arc<Self>) -> Result<ArbiterClient, String> {
        let made = tokio::task::spawn_blocking(move || self.read());
        made.await
            .unwrap_or_else(|error| Err(format!("the certificates could not be read: {error}")))
    }

    fn read(&self) -> Result<ArbiterClient, String> {
        let read = load(&self.options).map_err(anyhow::Error::from);
        let read = read.and_then(|loaded| client_of(&loaded, &self.options));
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match (read, &*last) {
            (Ok(client), _) => {
                *last = Some(client.clone());
                Ok(client)
            }
            (Err(error), Some(client)) => {
                warn!("{error:#}; what was there before is used until the device is restarted");
                Ok(client.clone())
            }
            (Err(error), None) => Err(format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::time::SystemTime;

    use certs::issue::{Authority, Kind, Serial, Subject, Validity};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "certificates are valid by the system clock")]
    fn written(name: &str) -> (PathBuf, Options) {
        let directory =
            std::env::temp_dir().join(format!("hg-credentials-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let valid = Validity::starting(SystemTime::now());
        let authority = Authority::create(Kind::Own, Serial(101), valid).unwrap();
        let subject = Subject::Cluster("TestCl".to_owned());
        let issued = authority.issue(&subject, Serial(102), valid).unwrap();
        let options = Options {
            tls_ca: directory.join("ca.pem"),
            tls_cert: directory.join("node.pem"),
            tls_key: directory.join("node-key.pem"),
            ..Options::default()
        };
        fs::write(&options.tls_ca, authority.certificate_pem()).unwrap();
        fs::write(&options.tls_cert, issued.chain_pem).unwrap();
        fs::write(&options.tls_key, issued.key_pem).unwrap();
        (directory, options)
    }

    #[test]
    fn files_that_went_bad_leave_a_running_device_what_was_in_them() {
        let (directory, options) = written("bad");
        let clients = Clients::new(Arc::new(options.clone()));
        assert!(clients.read().is_ok());
        fs::write(&options.tls_cert, "half a certif").unwrap();
        assert!(clients.read().is_ok());
        let started_now = Clients::new(Arc::new(options.clone()));
        let refusal = started_now.read().err().unwrap();
        assert!(refusal.starts_with(&format!("{}: ", options.tls_cert.display())), "{refusal}");
        fs::remove_dir_all(directory).unwrap();
    }
}

//! The arbiter's certificates.

use certs::{ArbiterTls, ClientCert, files};

use crate::config::Options;

/// Reads the three files.
///
/// # Errors
/// Which file, what is wrong with it, what to do.
pub(super) fn load(options: &Options) -> anyhow::Result<ArbiterTls> {
    let trust = files::load_trust(&options.tls_ca)?;
    let own = files::load_credential(&options.tls_cert, &options.tls_key)?;
    let clients = if options.core.client_cert_required {
        ClientCert::Required
    } else {
        ClientCert::NotRequested
    };
    Ok(ArbiterTls::new(&trust, &own, clients)?)
}

//! The device's certificates. They are read anew for every connection, so that renewed ones are
//! used without a restart.

use std::sync::Arc;

use anyhow::Context;
use certs::tls::ArbiterClient;
use certs::{Credential, Identity, Trust, files};
use protocol::host::Welcome;
use protocol::ids::ClusterName;

use crate::config::Options;

/// Reads the three files.
///
/// # Errors
/// Which file, what is wrong with it, what to do.
fn load(options: &Options) -> anyhow::Result<(Trust, Credential)> {
    let trust = files::load_trust(&options.tls_ca)?;
    let own = files::load_credential(&options.tls_cert, &options.tls_key)?;
    Ok((trust, own))
}

/// Checks that the files can be used.
///
/// # Errors
/// As [`load`].
pub(super) fn check(options: &Options) -> anyhow::Result<()> {
    let (trust, own) = load(options)?;
    ArbiterClient::new(&trust, Some(&own), &options.server_name)?;
    Ok(())
}

/// Checks that the files can be used for this node: the arbiter would refuse another's.
///
/// # Errors
/// As [`load`]; and whom the certificate names instead.
pub(super) fn check_for(options: &Options, welcome: &Welcome) -> anyhow::Result<()> {
    check(options)?;
    let (_, own) = load(options)?;
    let cluster = ClusterName::from(welcome.cluster.as_str());
    Identity::from_der(own.leaf())
        .and_then(|identity| identity.may_act_as(&cluster, Some(welcome.node)))
        .with_context(|| {
            let file = options.tls_cert.display();
            format!("{file}: not a certificate for node {} of {cluster}", welcome.node)
        })
}

/// The client side of TLS, for one connection.
///
/// # Errors
/// As [`load`], in one line.
pub(super) async fn client(options: Arc<Options>) -> Result<ArbiterClient, String> {
    let made = tokio::task::spawn_blocking(move || {
        let (trust, own) = load(&options)?;
        anyhow::Ok(ArbiterClient::new(&trust, Some(&own), &options.server_name)?)
    });
    match made.await {
        Ok(client) => client.map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!("the certificates could not be read: {error}")),
    }
}

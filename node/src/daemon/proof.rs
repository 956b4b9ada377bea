//! A node whose certificate would convince no peer does not start: it proves itself to itself,
//! with the very configurations that its links use. That finds a foreign authority, dates,
//! usages, a wrong cluster and a wrong node before the first peer does.

use certs::tls::{mesh_client, mesh_server};
use certs::{Credential, Identity, Trust};
use protocol::ids::{ClusterName, NodeId};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConnection, Connection, ServerConnection};

/// A handshake needs three flights; this many rounds without an end are a fault of ours.
const ROUNDS_MAX: usize = 8;

/// Checks that `own` names node `me` of `cluster`, and that a peer that trusts `trust` would
/// believe it.
pub(super) fn check(
    trust: &Trust,
    own: &Credential,
    cluster: &ClusterName,
    me: NodeId,
) -> Result<(), String> {
    let identity = Identity::from_der(own.leaf()).map_err(|error| error.to_string())?;
    identity.may_act_as(cluster, Some(me)).map_err(|error| error.to_string())?;
    if identity.node.is_none() {
        return Err(format!("it is bound to no node: issue one for node {me} of {cluster}"));
    }
    handshake(trust, own, cluster, me)
}

fn handshake(
    trust: &Trust,
    own: &Credential,
    cluster: &ClusterName,
    me: NodeId,
) -> Result<(), String> {
    let client = mesh_client(trust, own, cluster, me).map_err(|error| error.to_string())?;
    let server = mesh_server(trust, own, cluster).map_err(|error| error.to_string())?;
    let name = ServerName::try_from("node.invalid").map_err(|error| error.to_string())?;
    let client = ClientConnection::new(client, name).map_err(|error| reason(&error))?;
    let server = ServerConnection::new(server).map_err(|error| reason(&error))?;
    let (mut client, mut server) = (Connection::from(client), Connection::from(server));
    for _ in 0..ROUNDS_MAX {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    Err("the handshake with itself does not end".to_owned())
}

/// Hands over what one side has to say.
fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), String> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).map_err(|error| error.to_string())?;
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).map_err(|error| error.to_string())?;
        to.process_new_packets().map_err(|error| reason(&error))?;
    }
    Ok(())
}

/// The usual mistakes in an operator's words.
fn reason(error: &rustls::Error) -> String {
    use CertificateError as Bad;
    let rustls::Error::InvalidCertificate(bad) = error else { return error.to_string() };
    if matches!(bad, Bad::UnknownIssuer | Bad::BadSignature) {
        "it was not signed by the authority in the CA file: use the files of one authority".into()
    } else if matches!(bad, Bad::Expired | Bad::ExpiredContext { .. }) {
        "it has expired: renew it, or set this host's clock".into()
    } else if matches!(bad, Bad::NotValidYet | Bad::NotValidYetContext { .. }) {
        "it is not valid yet: set this host's clock".into()
    } else {
        format!("no peer would accept it ({error}): issue it again")
    }
}

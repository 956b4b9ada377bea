//! Who the owner of a certificate is. That the certificate may be believed at all (chain,
//! signature, validity) is webpki's part, inside the handshakes of [`crate::arbiter_tls`] and
//! [`crate::tls`]; this module reads the name from one that webpki has accepted.
//!
//! Stricter than the stock peers, which compare without case and expand wildcards (qnetd
//! protocol, hazard 8.9): one common name, compared byte for byte.

use std::any::Any;

use protocol::ids::{ClusterName, NodeId};
use rustls::pki_types::CertificateDer;
use thiserror::Error;
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use crate::names::{GATEWAY_URI, NODE_URI_PREFIX};

/// The longest common name that we take from a peer, in bytes: what [`crate::names`] allows, in
/// UTF-8.
const COMMON_NAME_BYTES_MAX: usize = 256;

/// Who a certificate names. Fixed once for a connection, when its handshake ends (rule S9).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// The subject's common name: a cluster's name, or the arbiter's.
    pub cluster: ClusterName,
    /// The node that the certificate is bound to. `None` in the stock format, where all nodes of
    /// a cluster share one certificate.
    pub node: Option<NodeId>,
    /// It is of a fencing gateway of the cluster, and of no node.
    pub gateway: bool,
    /// The last second of validity, in seconds since 1970-01-01 UTC.
    pub not_after: i64,
}

/// Why a certificate names nobody that we could believe, or somebody else.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum IdentityError {
    /// The peer showed no certificate.
    #[error("no certificate was presented: the peer needs one from this cluster's authority")]
    NoCertificate,
    /// Not an X.509 certificate.
    #[error("the certificate cannot be read: issue it again")]
    Unreadable,
    /// The subject has no common name.
    #[error("the certificate has no common name: issue it again with the cluster's name")]
    NoName,
    /// The subject has more than one common name, so it is unclear whom it names.
    #[error("the certificate has {0} common names: issue it again with one")]
    SeveralNames(usize),
    /// The common name is neither PrintableString nor UTF8String, or has a control character.
    #[error("the certificate's common name is not plain text: issue it again")]
    NameNotText,
    /// The node identity is malformed, or there are several.
    #[error("the certificate's node identity is unusable: issue it again for one node")]
    BadNode,
    /// Another cluster, or the arbiter where a cluster was expected, or the reverse.
    #[error(
        "the certificate names \"{got}\", not \"{want}\": one of the two sides is misconfigured"
    )]
    OtherName {
        /// The name that was expected.
        want: ClusterName,
        /// The name in the certificate.
        got: ClusterName,
    },
    /// The certificate is bound to another node.
    #[error("the certificate is bound to node {got}, the peer says it is node {want}")]
    OtherNode {
        /// The node that the peer must be.
        want: NodeId,
        /// The node in the certificate.
        got: NodeId,
    },
    /// A fencing gateway where a node was expected.
    #[error("the certificate is that of a fencing gateway, which is no node: issue one for a node")]
    Gateway,
    /// A node where a fencing gateway was expected.
    #[error("the certificate is not that of a fencing gateway: issue one with certs gateway")]
    NoGateway,
}

impl Identity {
    /// Reads the identity from a leaf certificate. Says nothing about whether the certificate
    /// may be believed.
    ///
    /// # Errors
    /// When the subject has not exactly one common name of plain text, or the node identity is
    /// malformed.
    pub fn from_der(leaf: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) =
            X509Certificate::from_der(leaf).map_err(|_| IdentityError::Unreadable)?;
        if !rest.is_empty() {
            return Err(IdentityError::Unreadable);
        }
        let (node, gateway) = bound(&certificate)?;
        Ok(Self {
            cluster: ClusterName::from(common_name(certificate.subject())?),
            node,
            gateway,
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// Checks that the owner may act for `cluster`, and as `node` where one is given: a
    /// certificate that is bound to a node passes for that node only, one that is not passes for
    /// every node of its cluster, and a gateway's for none.
    ///
    /// # Errors
    /// When the certificate names another cluster, another node or a gateway.
    pub fn may_act_as(
        &self,
        cluster: &ClusterName,
        node: Option<NodeId>,
    ) -> Result<(), IdentityError> {
        self.is_of(cluster)?;
        if self.gateway {
            return Err(IdentityError::Gateway);
        }
        match (self.node, node) {
            (Some(got), Some(want)) if got != want => Err(IdentityError::OtherNode { want, got }),
            (Some(_) | None, Some(_) | None) => Ok(()),
        }
    }

    /// Checks that the owner is a fencing gateway of `cluster` (rule S7).
    ///
    /// # Errors
    /// When the certificate names another cluster, or is not a gateway's.
    pub fn may_fence_for(&self, cluster: &ClusterName) -> Result<(), IdentityError> {
        self.is_of(cluster)?;
        if self.gateway { Ok(()) } else { Err(IdentityError::NoGateway) }
    }

    fn is_of(&self, cluster: &ClusterName) -> Result<(), IdentityError> {
        if self.cluster == *cluster {
            return Ok(());
        }
        Err(IdentityError::OtherName { want: cluster.clone(), got: self.cluster.clone() })
    }
}

/// The identity of a QUIC peer, from what `quinn::Connection::peer_identity` returned.
///
/// # Errors
/// When the peer presented no certificate, or as [`Identity::from_der`].
pub fn quic_identity(peer: Option<Box<dyn Any>>) -> Result<Identity, IdentityError> {
    let chain = peer
        .and_then(|peer| peer.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(IdentityError::NoCertificate)?;
    Identity::from_der(chain.first().ok_or(IdentityError::NoCertificate)?)
}

/// The one common name of a subject.
pub(crate) fn common_name<'a>(subject: &X509Name<'a>) -> Result<&'a str, IdentityError> {
    let names: Vec<_> = subject.iter_common_name().collect();
    let [name] = names.as_slice() else {
        return Err(match names.len() {
            0 => IdentityError::NoName,
            several => IdentityError::SeveralNames(several),
        });
    };
    let value = name.attr_value();
    if value.tag() != Tag::PrintableString && value.tag() != Tag::Utf8String {
        return Err(IdentityError::NameNotText);
    }
    let text = name.as_str().map_err(|_| IdentityError::NameNotText)?;
    if text.len() > COMMON_NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(IdentityError::NameNotText);
    }
    if text.is_empty() {
        return Err(IdentityError::NoName);
    }
    Ok(text)
}

/// The node that the certificate's only node URI names, if there is one, and whether it is a
/// gateway's. It is never both.
fn bound(certificate: &X509Certificate<'_>) -> Result<(Option<NodeId>, bool), IdentityError> {
    let names = certificate.subject_alternative_name().map_err(|_| IdentityError::BadNode)?;
    let Some(names) = names else { return Ok((None, false)) };
    let (mut bound, mut gateway) = (None, false);
    for name in &names.value.general_names {
        // Other names have no meaning here; webpki has not looked at them either.
        let GeneralName::URI(uri) = name else { continue };
        gateway |= *uri == GATEWAY_URI;
        let Some(id) = uri.strip_prefix(NODE_URI_PREFIX) else { continue };
        let node = parse_node(id).ok_or(IdentityError::BadNode)?;
        if bound.replace(node).is_some() {
            return Err(IdentityError::BadNode);
        }
    }
    if gateway && bound.is_some() {
        return Err(IdentityError::BadNode);
    }
    Ok((bound, gateway))
}

/// A node id in its only decimal form: no sign, no leading zero, not 0.
fn parse_node(id: &str) -> Option<NodeId> {
    if id.starts_with('0') || !id.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    id.parse().ok().map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(cluster: &str, node: Option<u32>) -> Identity {
        Identity { cluster: cluster.into(), node: node.map(NodeId), gateway: false, not_after: 0 }
    }

    #[test]
    fn a_gateway_is_no_node_and_a_node_no_gateway() {
        let gateway = Identity { gateway: true, ..identity("c", None) };
        assert_eq!(gateway.may_fence_for(&"c".into()), Ok(()));
        assert!(gateway.may_fence_for(&"d".into()).is_err());
        assert_eq!(gateway.may_act_as(&"c".into(), None), Err(IdentityError::Gateway));
        assert_eq!(gateway.may_act_as(&"c".into(), Some(NodeId(1))), Err(IdentityError::Gateway));
        let node = identity("c", Some(1));
        assert_eq!(node.may_fence_for(&"c".into()), Err(IdentityError::NoGateway));
    }

    #[test]
    fn a_node_id_has_one_form() {
        assert_eq!(parse_node("7"), Some(NodeId(7)));
        assert_eq!(parse_node("4294967295"), Some(NodeId(u32::MAX)));
        for bad in ["", "0", "07", "+7", "-7", "7 ", "4294967296", "0x7", "٧"] {
            assert_eq!(parse_node(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn names_are_compared_byte_for_byte() {
        let owner = identity("TestCl", None);
        assert_eq!(owner.may_act_as(&"TestCl".into(), None), Ok(()));
        for other in ["testcl", "TestCl ", "TestC", "*", ""] {
            let refusal = owner.may_act_as(&other.into(), None);
            assert!(matches!(refusal, Err(IdentityError::OtherName { .. })), "{other:?}");
        }
        let star = identity("*", None);
        assert!(star.may_act_as(&"TestCl".into(), None).is_err());
    }

    #[test]
    fn a_bound_certificate_passes_for_its_node_only() {
        let bound = identity("c", Some(2));
        assert_eq!(bound.may_act_as(&"c".into(), Some(NodeId(2))), Ok(()));
        assert_eq!(bound.may_act_as(&"c".into(), None), Ok(()));
        assert_eq!(
            bound.may_act_as(&"c".into(), Some(NodeId(1))),
            Err(IdentityError::OtherNode { want: NodeId(1), got: NodeId(2) })
        );
        assert_eq!(identity("c", None).may_act_as(&"c".into(), Some(NodeId(1))), Ok(()));
    }

    #[test]
    fn junk_is_unreadable_and_never_a_panic() {
        for junk in [&b""[..], b"junk", &[0x30, 0x82, 0xff, 0xff], &[0x30; 64]] {
            assert_eq!(Identity::from_der(junk), Err(IdentityError::Unreadable));
        }
    }

    #[test]
    fn a_quic_peer_without_a_certificate_has_no_identity() {
        assert_eq!(quic_identity(None), Err(IdentityError::NoCertificate));
        assert_eq!(quic_identity(Some(Box::new(7))), Err(IdentityError::NoCertificate));
        let empty: Vec<CertificateDer<'static>> = Vec::new();
        assert_eq!(quic_identity(Some(Box::new(empty))), Err(IdentityError::NoCertificate));
    }
}

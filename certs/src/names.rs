//! Which names a certificate may carry. A certificate's common name is all that separates a
//! cluster's members from the arbiter, so the arbiter's names are never given to a cluster.

use thiserror::Error;

/// The common name of the CA, in the stock format as in ours (corosync-qnetd-certutil).
pub const CA_NAME: &str = "QNet CA";

/// The common name of the arbiter's certificate, which clients ask for (qdevice setting
/// `net_nss_qnetd_cn`).
pub const SERVER_NAME: &str = protocol::qnet::SERVER_NAME;

/// The longest common name, in characters (RFC 5280 `ub-common-name`; NSS keeps it too).
pub const NAME_LENGTH_MAX: usize = 64;

/// The prefix of the URI that binds a certificate to one node; the node id follows in decimal.
pub const NODE_URI_PREFIX: &str = "urn:haguard:node:";

/// The URI of a certificate that is a fencing gateway's (rule S7).
pub const GATEWAY_URI: &str = "urn:haguard:gateway";

/// Why a name cannot be a cluster's name in a certificate.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum NameError {
    /// Nothing at all.
    #[error("an empty cluster name cannot be in a certificate: set totem.cluster_name")]
    Empty,
    /// More than [`NAME_LENGTH_MAX`] characters.
    #[error(
        "the cluster name has {0} characters, a certificate takes at most {NAME_LENGTH_MAX}: \
         choose a shorter totem.cluster_name"
    )]
    TooLong(usize),
    /// A control character: it would let one name pass for another in logs and tables.
    #[error("the cluster name has a control character: choose a totem.cluster_name without")]
    Control,
    /// A name that belongs to the arbiter or its CA, in any case, as NSS compares without case.
    #[error("the cluster name \"{0}\" would let the cluster pass for the arbiter: choose another")]
    Reserved(String),
    /// A wildcard, which NSS expands when it compares.
    #[error("the cluster name \"{0}\" has a \"*\", which stock peers expand: choose another")]
    Wildcard(String),
}

/// Checks that `name` may be the common name of a cluster's certificate.
pub fn check_cluster_name(name: &str) -> Result<(), NameError> {
    check_text(name)?;
    // NSS compares names without case. Blanks at the ends are cut so that no person is misled.
    let plain = name.trim();
    if [CA_NAME, SERVER_NAME].iter().any(|reserved| plain.eq_ignore_ascii_case(reserved)) {
        return Err(NameError::Reserved(name.to_owned()));
    }
    // The one character that NSS expands in a common name by default (RFC 6125 wildcards).
    if name.contains('*') {
        return Err(NameError::Wildcard(name.to_owned()));
    }
    Ok(())
}

/// Checks what holds for every common name that we write: not empty, not too long, printable.
pub(crate) fn check_text(name: &str) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if name.chars().any(char::is_control) {
        return Err(NameError::Control);
    }
    let length = name.chars().count();
    if length > NAME_LENGTH_MAX {
        return Err(NameError::TooLong(length));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_cluster_names_are_accepted() {
        for name in ["TestCl", "my_cluster-1", "a", "Büro", "two words", &"x".repeat(64)] {
            assert_eq!(check_cluster_name(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn the_arbiters_names_are_refused_in_any_case() {
        for name in ["Qnetd Server", "qnetd server", "QNet CA", "QNET CA ", " Qnetd Server"] {
            assert_eq!(check_cluster_name(name), Err(NameError::Reserved(name.into())));
        }
    }

    #[test]
    fn empty_long_control_and_wildcard_names_are_refused() {
        assert_eq!(check_cluster_name(""), Err(NameError::Empty));
        assert_eq!(check_cluster_name("  "), Err(NameError::Empty));
        assert_eq!(check_cluster_name(&"é".repeat(65)), Err(NameError::TooLong(65)));
        assert_eq!(check_cluster_name("a\nb"), Err(NameError::Control));
        assert_eq!(check_cluster_name("a\0b"), Err(NameError::Control));
        assert_eq!(check_cluster_name("test*"), Err(NameError::Wildcard("test*".into())));
    }
}

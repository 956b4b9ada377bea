//! Certificates: the authority that issues them, the files that hold them, the identity that is
//! read from them, and the TLS configurations that use them. No daemon logic: who may say what is
//! decided by those who ask for an [`Identity`].
//!
//! Two facts shape this crate. Stock corosync peers name a cluster only by the common name of its
//! certificate and send a server name that is no host name; and the identity of a peer is fixed
//! once, during the handshake, never taken from what the peer says later (rule S9).
//!
//! # Layout
//! * [`names`]: which names a certificate may carry.
//! * [`issue`]: [`issue::Authority`], a CA in memory: issues certificates and signs requests.
//! * [`authority`]: [`authority::AuthorityDir`], a CA on disk, with serials that are never reused.
//! * [`stock_store`]: the directories of corosync-qnetd-certutil and corosync-qdevice-net-certutil.
//! * [`pkcs12`]: a key with its certificates, in the form that NSS passes on.
//! * [`transfer`]: from the NSS databases of the stock programs to our files and back, with [`nss`].
//! * [`material`]: [`Trust`] (whom we believe) and [`Credential`] (who we are), from PEM text.
//! * [`files`]: reads them from files; writes files atomically with the right modes.
//! * [`verify`]: [`Identity`], who the owner of a certificate is.
//! * [`arbiter_tls`]: the server side of the arbiter's port. The only module that names rustls
//!   0.24, because the released 0.23 refuses the server name that stock clients send.
//! * [`tls`]: everything else, on rustls 0.23: the client towards an arbiter, and both sides of
//!   the QUIC links between nodes.
//!
//! # How the parts are used
//! ```no_run
//! # async fn example(socket: tokio::net::TcpStream) -> Result<(), Box<dyn std::error::Error>> {
//! use std::{path::Path, time::Duration};
//! use certs::{ArbiterTls, ClientCert, files};
//!
//! let trust = files::load_trust(Path::new("/etc/haguard/ca.pem"))?;
//! let own = files::load_credential(
//!     Path::new("/etc/haguard/arbiter.pem"),
//!     Path::new("/etc/haguard/arbiter-key.pem"),
//! )?;
//! let tls = ArbiterTls::new(&trust, &own, ClientCert::Required)?;
//! let stream = tls.accept(socket, Vec::new(), Duration::from_secs(8)).await?;
//! let cluster = stream.peer().map(|identity| &identity.cluster);
//! # let _ = cluster;
//! # Ok(())
//! # }
//! ```

pub mod arbiter_tls;
pub mod authority;
mod dump;
pub mod files;
#[cfg(test)]
mod fixtures;
pub mod issue;
pub mod material;
pub mod names;
pub mod nss;
pub mod pkcs12;
pub mod stock_store;
pub mod tls;
pub mod transfer;
pub mod verify;

pub use arbiter_tls::{AcceptError, ArbiterTls, ClientCert, TlsStream};
pub use material::{Credential, Trust};
pub use rustls::pki_types::{CertificateDer, PrivateKeyDer};
pub use tls::{ArbiterClient, ConnectError, TlsError};
pub use verify::{Identity, IdentityError};

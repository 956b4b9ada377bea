//! The way to a gateway: its local socket on its own machine, or HTTPS with the node's certificate
//! from anywhere else.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use certs::Identity;
use certs::files::{load_credential, load_trust};
use certs::tls::gateway_client;
use fence::daemon::local::{Ask, Failure, SOCKET};
use host::https::Client;
use host::socket::Lines;
use http_body_util::Full;
use hyper::{Request as HttpRequest, StatusCode};
use protocol::fence::GATEWAY_PORT;
use protocol::ids::NodeId;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A gateway that does not take a connection by then does not run.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Every step of a job is told; the longest is a device's own limit, an hour at most.
const LINE_LIMIT: Duration = Duration::from_secs(3600);
/// The status of the largest cluster is shorter.
const LINE_BYTES_MAX: usize = 1024 * 1024;

/// Where the gateway is, and as whom it is spoken to.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Another machine's; `None`: this machine's, by its socket.
    pub(super) gateway: Option<String>,
    pub(super) run_dir: PathBuf,
    pub(super) ca: PathBuf,
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// A way that stands.
#[derive(Debug)]
pub(super) enum Door {
    Socket(PathBuf),
    Https(Https),
}

#[derive(Debug)]
pub(super) struct Https {
    host: String,
    port: u16,
    tls: Arc<ClientConfig>,
    /// The node that the certificate is bound to.
    node: Option<NodeId>,
}

impl Door {
    /// Finds the way; connects nowhere yet.
    ///
    /// # Errors
    /// If there is no gateway here and none is named, or the certificates cannot be used.
    pub(super) fn find(place: &Place) -> Result<Self> {
        let Some(gateway) = &place.gateway else {
            let socket = place.run_dir.join(SOCKET);
            if socket.exists() {
                return Ok(Self::Socket(socket));
            }
            bail!(
                "no gateway runs here ({} is missing): name one with --gateway HOST, or give the \
                 --run-dir it was started with",
                socket.display()
            );
        };
        let (host, port) = host_and_port(gateway)?;
        let trust = load_trust(&place.ca)?;
        let own = load_credential(&place.certificate, &place.key)?;
        let leaf = own.chain().first().context("the certificate file is empty")?;
        let identity = Identity::from_der(leaf)?;
        let tls = gateway_client(&trust, &own, &identity.cluster)?;
        Ok(Self::Https(Https { host, port, tls, node: identity.node }))
    }

    /// The node that speaks through this door, where that is certain.
    pub(super) fn node(&self) -> Option<NodeId> {
        match self {
            Self::Socket(_) => None,
            Self::Https(https) => https.node,
        }
    }

    /// Asks, and takes every line of the answer to `each`.
    ///
    /// # Errors
    /// If the gateway cannot be reached, refuses the question, or ends in the middle.
    pub(super) async fn ask(
        &self,
        ask: &Ask,
        each: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
    ) -> Result<()> {
        match self {
            Self::Socket(path) => over_socket(path, ask, each).await,
            Self::Https(https) => https.ask(ask, each).await,
        }
    }
}

async fn over_socket(
    path: &Path,
    ask: &Ask,
    each: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
) -> Result<()> {
    let no_gateway = || format!("{}: no gateway answers there; is it running?", path.display());
    let stream = timeout(CONNECT_LIMIT, UnixStream::connect(path)).await;
    let stream = stream.map_err(|_| anyhow!("no answer")).and_then(|done| Ok(done?));
    let (reader, mut writer) = stream.with_context(no_gateway)?.into_split();
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    writer.write_all(&line).await.with_context(no_gateway)?;
    let mut lines = Lines::new(reader, LINE_BYTES_MAX);
    loop {
        let next = timeout(LINE_LIMIT, lines.next()).await.map_err(|_| anyhow!("no answer"));
        match next.and_then(|line| Ok(line?)).with_context(no_gateway)? {
            Some(line) => take(&line, each)?,
            None => return Ok(()),
        }
    }
}

/// One line; that of a refused question is an error.
fn take(line: &[u8], each: &mut (dyn FnMut(&[u8]) -> Result<()> + Send)) -> Result<()> {
    if let Ok(failure) = serde_json::from_slice::<Failure>(line) {
        bail!("the gateway refuses: {}", failure.error);
    }
    each(line)
}

impl Https {
    async fn ask(
        &self,
        ask: &Ask,
        each: &mut (dyn FnMut(&[u8]) -> Result<()> + Send),
    ) -> Result<()> {
        let request = match ask {
            Ask::Fence(request) => self.post("/v1/fence", Some(request))?,
            Ask::Confirm(confirmation) => self.post("/v1/confirm", Some(confirmation))?,
            Ask::Test { node } => self.post::<()>(&format!("/v1/test/{node}"), None)?,
            Ask::Status => self.get("/v1/status")?,
            Ask::History { since } => self.get(&format!("/v1/history?since={since}"))?,
        };
        let at = || format!("gateway {}, port {}", self.host, self.port);
        let name = ServerName::try_from("gateway.invalid").context("a fixed name")?;
        let client =
            Client::connect(&self.host, self.port, Arc::clone(&self.tls), name, CONNECT_LIMIT);
        let client = client.await.with_context(at)?;
        let mut lines = client.lines(request, LINE_LIMIT).await.with_context(at)?;
        let accepted = lines.status == StatusCode::OK;
        let mut any = false;
        while let Some(line) = lines.next(LINE_LIMIT).await.with_context(at)? {
            any = true;
            take(&line, each).with_context(at)?;
        }
        if !accepted && !any {
            bail!("{}: answers {} and no reason", at(), lines.status);
        }
        Ok(())
    }

    fn post<T: Serialize>(&self, path: &str, body: Option<&T>) -> Result<HttpRequest<Full<Bytes>>> {
        let body = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let request = HttpRequest::post(path).header("host", &self.host);
        let request = request.header("content-type", "application/json");
        Ok(request.body(Full::new(Bytes::from(body)))?)
    }

    fn get(&self, path: &str) -> Result<HttpRequest<Full<Bytes>>> {
        Ok(HttpRequest::get(path).header("host", &self.host).body(Full::default())?)
    }
}

/// `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT`.
fn host_and_port(text: &str) -> Result<(String, u16)> {
    let wrong = || anyhow!("\"{text}\" is no HOST or HOST:PORT of a gateway");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
            (host, port.strip_prefix(':'))
        }
        None if text.matches(':').count() > 1 => (text, None),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = port.map(str::parse).transpose().map_err(|_| wrong())?;
    if host.is_empty() || port == Some(0) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port.unwrap_or(GATEWAY_PORT)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_named_with_or_without_its_port() {
        let read = |text| host_and_port(text).unwrap();
        assert_eq!(read("gw"), ("gw".to_owned(), 5413));
        assert_eq!(read("10.0.0.1:7"), ("10.0.0.1".to_owned(), 7));
        assert_eq!(read("fd00::1"), ("fd00::1".to_owned(), 5413));
        assert_eq!(read("[fd00::1]:7"), ("fd00::1".to_owned(), 7));
        for wrong in ["", ":7", "gw:", "gw:0", "gw:99999", "[fd00::1"] {
            assert!(host_and_port(wrong).is_err(), "{wrong}");
        }
    }
}

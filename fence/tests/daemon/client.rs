//! A requester: HTTPS with a certificate, and the local socket.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use certs::material::Purpose;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use protocol::fence::{Outcome, PowerAction, Progress};
use protocol::ids::{Epoch, NodeId};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::site::{CLUSTER, PATIENCE, Site};

/// A way to a gateway.
pub(crate) struct Client {
    tls: TlsConnector,
    address: SocketAddr,
}

/// An answer whose lines come one by one.
pub(crate) struct Lines {
    pub(crate) status: u16,
    body: Incoming,
    rest: Vec<u8>,
}

/// Off for node 2, for the side of node 1.
pub(crate) fn request(targets: &[u32]) -> protocol::fence::Request {
    protocol::fence::Request {
        requester: NodeId(1),
        epoch: Some(Epoch(7)),
        targets: targets.iter().map(|node| NodeId(*node)).collect(),
        action: PowerAction::Off,
        reason: "lost".to_owned(),
    }
}

impl Client {
    /// With the certificate of this name.
    pub(crate) fn new(site: &Site, name: &str, address: SocketAddr) -> Self {
        let (trust, own) = site.load(name, Purpose::Client);
        let config = certs::tls::gateway_client(&trust, &own, &CLUSTER.into()).unwrap();
        Self::with(config, address)
    }

    pub(crate) fn with(config: Arc<ClientConfig>, address: SocketAddr) -> Self {
        Self { tls: TlsConnector::from(config), address }
    }

    /// One request on a connection of its own; the error is the connection's.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes>,
    ) -> Result<Lines, String> {
        let called = async {
            let socket = TcpStream::connect(self.address).await.map_err(|e| e.to_string())?;
            let name = ServerName::try_from("gateway.invalid").unwrap();
            let stream = self.tls.connect(name, socket).await.map_err(|e| e.to_string())?;
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            let request = Request::builder().method(method).uri(path).header("host", "gateway");
            let request = request.body(Full::new(body.into())).unwrap();
            let response: Response<Incoming> =
                sender.send_request(request).await.map_err(|e| e.to_string())?;
            let status = response.status().as_u16();
            // The connection lasts as long as the sender.
            let body = response.into_body();
            Ok(Lines { status, body, rest: Vec::new() })
        };
        timeout(PATIENCE, called).await.unwrap()
    }

    /// The certificate that the gateway shows.
    pub(crate) async fn shown(&self) -> Vec<u8> {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("gateway.invalid").unwrap();
        let stream = timeout(PATIENCE, self.tls.connect(name, socket)).await.unwrap().unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    pub(crate) async fn post<T: serde::Serialize>(&self, path: &str, body: &T) -> Lines {
        self.call(Method::POST, path, serde_json::to_vec(body).unwrap()).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Lines {
        self.call(Method::GET, path, "").await.unwrap()
    }

    /// A fence, to its end.
    pub(crate) async fn fence(&self, request: &protocol::fence::Request) -> Vec<Progress> {
        self.post("/v1/fence", request).await.progress().await
    }
}

impl Lines {
    pub(crate) async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let rest = self.rest.split_off(end + 1);
                let line = std::mem::replace(&mut self.rest, rest);
                return Some(String::from_utf8(line).unwrap().trim_end().to_owned());
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.unwrap()?;
            self.rest.extend(frame.ok()?.into_data().ok()?);
        }
    }

    pub(crate) async fn all(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.next().await {
            lines.push(line);
        }
        lines
    }

    /// To the end, which is the answer's.
    pub(crate) async fn progress(self) -> Vec<Progress> {
        assert_eq!(self.status, 200);
        let lines = self.all().await;
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// How it ended.
pub(crate) fn outcome(progress: &[Progress]) -> &BTreeMap<NodeId, Outcome> {
    match progress.last() {
        Some(Progress::Done { results }) => results,
        other => panic!("no end: {other:?}"),
    }
}

/// One line to the local socket, and every line of the answer.
pub(crate) async fn local(socket: &Path, ask: &str) -> Vec<String> {
    let asked = async {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(format!("{ask}\n").as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text.lines().map(str::to_owned).collect()
    };
    timeout(PATIENCE, asked).await.unwrap()
}

//! The door for nodes and operators: HTTPS with certificates on both sides.
//!
//! Who has no certificate of the cluster does not get past the handshake; for which node one may
//! speak is asked of the certificate, never of the request (rule S9).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Extension, Path, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use certs::Identity;
use hyper::body::Frame;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::fence::Progress;
use protocol::ids::{ClusterName, NodeId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::desk::{Desk, Wish};
use super::history::History;

/// The longest body of a request, in bytes.
pub(super) const BODY_BYTES_MAX: usize = 16 * 1024;

/// Connections that are served at a time.
const CONNECTIONS_MAX: usize = 64;

/// Connections that are in their handshake at a time; strangers stay among themselves.
const HANDSHAKES_MAX: usize = 64;

/// How long a handshake may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long a request's header may take, from the end of the request before.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// How long a request's body may take.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// How long one connection may last: longer than any job.
const CONNECTION_LIMIT: Duration = Duration::from_secs(3600);

/// How long nothing is accepted after the system refused to.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The longest header of a request, in bytes (also hyper's least).
const HEADER_BYTES_MAX: usize = 16 * 1024;

/// What a door needs.
#[derive(Clone, Debug)]
pub(super) struct Rooms {
    pub(super) desk: Desk,
    pub(super) history: History,
    /// The cluster that is served.
    pub(super) cluster: ClusterName,
}

/// The HTTPS door.
pub(super) struct Web {
    pub(super) listener: TcpListener,
    /// The newest certificates.
    pub(super) tls: watch::Receiver<TlsAcceptor>,
    pub(super) rooms: Rooms,
    /// True when the gateway is about to end.
    pub(super) stopping: watch::Receiver<bool>,
}

impl Web {
    /// Serves until the gateway is about to end, and then what is under way.
    pub(super) async fn serve(mut self) {
        let router = router(self.rooms.clone());
        let stopping = self.stopping.clone();
        let mut strangers = Strangers::default();
        let mut peers = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                peer = strangers.next() => {
                    if peers.len() < CONNECTIONS_MAX {
                        peers.spawn(serve_peer(peer, router.clone(), stopping.clone()));
                    } else {
                        warn!("a requester is closed: {CONNECTIONS_MAX} are served already");
                    }
                    continue;
                }
                Some(_) = peers.join_next() => continue,
                _ = self.stopping.wait_for(|stopping| *stopping) => break,
            };
            match accepted {
                Ok((socket, address)) => {
                    let tls = self.tls.borrow().clone();
                    strangers.take_in(socket, address, tls);
                }
                Err(error) => {
                    warn!("cannot accept requesters: {error}; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // What runs ends with its job, or with the daemon's patience.
        while peers.join_next().await.is_some() {}
    }
}

/// Connections in their handshake. When there are too many, the oldest makes room for the next: who
/// only holds a connection open keeps nobody out.
#[derive(Default)]
struct Strangers {
    shaking: JoinSet<Option<Peer>>,
    /// Oldest first.
    handles: VecDeque<AbortHandle>,
}

impl Strangers {
    fn take_in(&mut self, socket: TcpStream, address: SocketAddr, tls: TlsAcceptor) {
        self.handles.retain(|handle| !handle.is_finished());
        if self.handles.len() >= HANDSHAKES_MAX
            && let Some(oldest) = self.handles.pop_front()
        {
            debug!("too many handshakes: the oldest is closed");
            oldest.abort();
        }
        let handle = self.shaking.spawn(async move {
            match shake(&tls, socket).await {
                Ok(peer) => Some(peer),
                Err(why) => {
                    info!("{address}: refused: {why}");
                    None
                }
            }
        });
        self.handles.push_back(handle);
    }

    /// The next who has proven who it is. Cancel safe.
    async fn next(&mut self) -> Peer {
        loop {
            match self.shaking.join_next().await {
                Some(Ok(Some(peer))) => return peer,
                Some(Ok(None) | Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// A requester whose certificate was verified.
struct Peer {
    stream: tokio_rustls::server::TlsStream<TcpStream>,
    identity: Identity,
}

async fn shake(tls: &TlsAcceptor, socket: TcpStream) -> Result<Peer, String> {
    // A line of progress is one small message that somebody waits for.
    let _ = socket.set_nodelay(true);
    let shaken = timeout(HANDSHAKE_LIMIT, tls.accept(socket)).await;
    let stream = shaken
        .map_err(|_| format!("its tls handshake was not over after {HANDSHAKE_LIMIT:?}"))?
        .map_err(|error| format!("its tls handshake failed: {error}"))?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let leaf = leaf.ok_or("it showed no certificate")?;
    let identity = Identity::from_der(leaf).map_err(|error| error.to_string())?;
    Ok(Peer { stream, identity })
}

async fn serve_peer(peer: Peer, router: Router, mut stopping: watch::Receiver<bool>) {
    let service = TowerToHyperService::new(router.layer(Extension(Arc::new(peer.identity))));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT).max_buf_size(HEADER_BYTES_MAX);
    let connection = http.serve_connection(TokioIo::new(peer.stream), service);
    let served = async {
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => Some(ended),
            _ = stopping.wait_for(|stopping| *stopping) => None,
        };
        match ended {
            Some(ended) => ended,
            None => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    match timeout(CONNECTION_LIMIT, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a requester's connection ended: {error}"),
        Err(_) => debug!("a requester's connection lasted too long"),
    }
}

fn router(rooms: Rooms) -> Router {
    Router::new()
        .route("/v1/fence", post(fence))
        .route("/v1/confirm", post(confirm))
        .route("/v1/attest", post(attest))
        .route("/v1/test/{node}", post(test))
        .route("/v1/status", get(status))
        .route("/v1/history", get(history))
        .fallback(|| async { Refusal(StatusCode::NOT_FOUND, "there is no such path".to_owned()) })
        .method_not_allowed_fallback(|| async {
            Refusal(StatusCode::METHOD_NOT_ALLOWED, "this path takes another method".to_owned())
        })
        .with_state(rooms)
}

/// An answer that is no stream: `{"error": ...}`, one line.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Error {
            error: String,
        }
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (self.0, kind, line(&Error { error: self.1 })).into_response()
    }
}

/// One line of JSON.
pub(super) fn line<T: Serialize>(value: &T) -> Vec<u8> {
    // Our own words always have a form; an empty line would be passed over.
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The verified requester may speak for this node.
fn admit(peer: &Identity, rooms: &Rooms, node: Option<NodeId>) -> Result<(), Refusal> {
    peer.may_act_as(&rooms.cluster, node)
        .map_err(|error| Refusal(StatusCode::FORBIDDEN, error.to_string()))
}

/// The body of a request, bounded in size and time.
async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Refusal> {
    let bad = |text: String| Refusal(StatusCode::BAD_REQUEST, text);
    let bytes = timeout(BODY_LIMIT, to_bytes(request.into_body(), BODY_BYTES_MAX)).await;
    let bytes = bytes
        .map_err(|_| {
            let text = format!("the body did not come within {BODY_LIMIT:?}");
            Refusal(StatusCode::REQUEST_TIMEOUT, text)
        })?
        .map_err(|_| bad(format!("the body is cut, or has more than {BODY_BYTES_MAX} bytes")))?;
    serde_json::from_slice(&bytes).map_err(|error| bad(format!("the body is refused: {error}")))
}

async fn fence(
    State(rooms): State<Rooms>,
    Extension(peer): Extension<Arc<Identity>>,
    request: Request,
) -> Result<Response, Refusal> {
    let asked: protocol::fence::Request = read(request).await?;
    admit(&peer, &rooms, Some(asked.requester))?;
    Ok(stream(rooms.desk.wish(Wish::Fence(asked)).await))
}

async fn confirm(
    State(rooms): State<Rooms>,
    Extension(peer): Extension<Arc<Identity>>,
    request: Request,
) -> Result<Response, Refusal> {
    let said: protocol::fence::Confirmation = read(request).await?;
    admit(&peer, &rooms, Some(said.requester))?;
    Ok(stream(rooms.desk.wish(Wish::Confirm(said)).await))
}

/// A member speaks for itself, and its certificate says which it is: one that all nodes share, or
/// an operator's, proves nothing here.
async fn attest(
    State(rooms): State<Rooms>,
    Extension(peer): Extension<Arc<Identity>>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let testimony: protocol::fence::Testimony = read(request).await?;
    admit(&peer, &rooms, Some(testimony.node))?;
    if peer.node.is_none() {
        let text = "a testimony takes a certificate that is bound to its node: issue one with \
                    \"haguard certs node\"";
        return Err(Refusal(StatusCode::FORBIDDEN, text.to_owned()));
    }
    match rooms.desk.testify(testimony).await.ok_or_else(stopping)? {
        true => Ok(StatusCode::ACCEPTED),
        false => {
            let text = "no such challenge is open here".to_owned();
            Err(Refusal(StatusCode::NOT_FOUND, text))
        }
    }
}

async fn test(
    State(rooms): State<Rooms>,
    Extension(peer): Extension<Arc<Identity>>,
    Path(node): Path<String>,
) -> Result<Response, Refusal> {
    admit(&peer, &rooms, None)?;
    let node = node.parse().map_err(|_| {
        let text = format!("'{node}' is no node id: POST /v1/test/2");
        Refusal(StatusCode::BAD_REQUEST, text)
    })?;
    Ok(stream(rooms.desk.wish(Wish::Test(NodeId(node))).await))
}

async fn status(
    State(rooms): State<Rooms>,
    Extension(peer): Extension<Arc<Identity>>,
) -> Result<Response, Refusal> {
    admit(&peer, &rooms, None)?;
    let status = rooms.desk.status().await.ok_or_else(stopping)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], line(&status)).into_response())
}

async fn history(
    State(rooms): State<Rooms>,
    Extension(peer): Extension<Arc<Identity>>,
    uri: Uri,
) -> Result<Response, Refusal> {
    admit(&peer, &rooms, None)?;
    let since = since(uri.query().unwrap_or_default())
        .map_err(|text| Refusal(StatusCode::BAD_REQUEST, text))?;
    let lines = rooms.history.since(since).await;
    let lines = lines.map_err(|text| Refusal(StatusCode::INTERNAL_SERVER_ERROR, text))?;
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// The value of `since` in a query.
fn since(query: &str) -> Result<u64, String> {
    let mut since = 0;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let value = match pair.split_once('=') {
            Some(("since", value)) => value,
            Some(_) | None => return Err(format!("unknown query '{pair}': since=NUMBER")),
        };
        since = value.parse().map_err(|_| format!("since is no number: '{value}'"))?;
    }
    Ok(since)
}

fn stopping() -> Refusal {
    Refusal(StatusCode::SERVICE_UNAVAILABLE, "the gateway is stopping".to_owned())
}

/// Progress as it comes, one JSON object a line.
fn stream(progress: mpsc::Receiver<Progress>) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::new(Lines(progress))).into_response()
}

struct Lines(mpsc::Receiver<Progress>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|next| next.map(|progress| Ok(Frame::data(line(&progress).into()))))
    }
}

/// The plain door of the numbers.
pub(super) async fn serve_metrics(listener: TcpListener, desk: Desk) {
    const METRICS_CONNECTIONS_MAX: usize = 8;
    let places = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    let router = Router::new().route("/metrics", get(metrics)).with_state(desk);
    let mut tasks = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        let Ok((socket, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let service = TowerToHyperService::new(router.clone());
        tasks.spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
            let served = http.serve_connection(TokioIo::new(socket), service);
            // A scraper that fails tries again.
            let _ = timeout(HEADER_LIMIT * 6, served).await;
            drop(place);
        });
    }
}

async fn metrics(State(desk): State<Desk>) -> Result<Response, Refusal> {
    let text = desk.metrics().await.ok_or_else(stopping)?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_a_number_or_is_refused() {
        assert_eq!(since(""), Ok(0));
        assert_eq!(since("since=17"), Ok(17));
        for wrong in ["since=", "since=-1", "since=x", "sinc=1", "since", "since=1&x=2"] {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}

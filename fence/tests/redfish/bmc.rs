//! A BMC of our own that does as it is told to: it obeys, lies, refuses, stalls and raves.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use fence::redfish::{Config, Transport};
use fence::secret::Secret;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub const USER: &str = "admin";
pub const PASSWORD: &str = "o\"pen:ö";
/// What USER and PASSWORD are in a header `Authorization`, by another implementation (Python).
const BASIC: &str = "Basic YWRtaW46byJwZW46w7Y=";
pub const UUID: &str = "38947555-7742-3448-3784-823347823834";
pub const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";
pub const SYSTEM: &str = "/redfish/v1/Systems/1";
pub const RESET: &str = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset";

/// More than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What is answered instead of the truth.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body.
    Json(u16, Value),
    /// A status, headers and a body.
    Raw(u16, Vec<(&'static str, String)>, String),
    /// A body without an end.
    Endless,
    /// Nothing, for ever.
    Never,
    /// The connection is closed.
    Cut,
}

/// What the BMC is and does.
pub struct State {
    pub power: Value,
    pub uuid: Value,
    pub root: Value,
    pub members: Vec<&'static str>,
    /// The action of the system.
    pub action: Value,
    /// A reset is done, not only answered.
    pub obeys: bool,
    /// One answer for a connection, as many BMCs have it.
    pub closes: bool,
    /// Answers to the next requests of this kind ("GET /path"), in order; then the truth again.
    pub next: BTreeMap<String, Vec<Reply>>,
    /// Every request: who asked (nobody, basic, session), what.
    pub log: Vec<String>,
    /// The reset types that were asked for.
    pub resets: Vec<String>,
    /// The sessions that are open.
    pub open: BTreeSet<String>,
    pub sessions_made: usize,
}

pub struct Bmc {
    pub port: u16,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Drop for Bmc {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Bmc {
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    pub async fn start_with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::new()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (tls, state) = (tls.clone(), Arc::clone(&shared));
                connections.spawn(async move {
                    match tls {
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                                serve(stream, state).await;
                            }
                        }
                        None => serve(stream, state).await,
                    }
                });
            }
        });
        Self { port, state, task }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The next request of this kind is answered so.
    pub fn next(&self, request: &str, reply: Reply) {
        self.state().next.entry(request.to_owned()).or_default().push(reply);
    }

    /// A client's configuration for it, without TLS.
    pub fn config(&self) -> Config {
        Config {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            transport: Transport::PlainHttp,
            user: USER.to_owned(),
            password: Secret::new(PASSWORD.into()),
            system: None,
            expect_uuid: None,
        }
    }

    /// Waits until every session that was made is ended.
    pub async fn all_sessions_end(&self) {
        soon("every session is ended", || self.state().open.is_empty()).await;
    }
}

/// Polls with a deadline.
pub async fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

impl State {
    fn new() -> Self {
        Self {
            power: json!("On"),
            uuid: json!(UUID),
            root: json!({
                "Systems": { "@odata.id": "/redfish/v1/Systems" },
                "SessionService": { "@odata.id": "/redfish/v1/SessionService" },
                "Links": { "Sessions": { "@odata.id": SESSIONS } },
            }),
            members: vec![SYSTEM],
            action: json!({
                "target": RESET,
                "ResetType@Redfish.AllowableValues":
                    ["GracefulShutdown", "PushPowerButton", "ForceOff", "On", "ForceRestart"],
            }),
            obeys: true,
            closes: false,
            next: BTreeMap::new(),
            log: Vec::new(),
            resets: Vec::new(),
            open: BTreeSet::new(),
            sessions_made: 0,
        }
    }

    /// Which requests of this kind came.
    pub fn count(&self, request: &str) -> usize {
        self.log.iter().filter(|line| line.ends_with(request)).count()
    }

    fn who(&self, headers: &HeaderMap) -> &'static str {
        let token = headers.get("x-auth-token").and_then(|token| token.to_str().ok());
        if token.is_some_and(|token| self.open.contains(token)) {
            return "session";
        }
        if headers.get(AUTHORIZATION).is_some_and(|value| value == BASIC) {
            "basic"
        } else {
            "nobody"
        }
    }

    fn answer(&mut self, method: &Method, path: &str, who: &str, body: &[u8]) -> Reply {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        if *method == Method::GET && path == "/redfish/v1/" {
            return Reply::Json(200, self.root.clone());
        }
        if *method == Method::POST && path == SESSIONS {
            if body != json!({ "UserName": USER, "Password": PASSWORD }) {
                return refusal(401, "Base.1.8.ResourceAtUriUnauthorized", "wrong password");
            }
            self.sessions_made += 1;
            let token = format!("token{}", self.sessions_made);
            let at = format!("{SESSIONS}/{token}");
            self.open.insert(token.clone());
            return Reply::Raw(201, vec![("x-auth-token", token), ("location", at)], "{}".into());
        }
        if who == "nobody" {
            return refusal(401, "Base.1.8.NoValidSession", "no valid session");
        }
        if let Some(token) = path.strip_prefix(SESSIONS).and_then(|rest| rest.strip_prefix('/'))
            && *method == Method::DELETE
        {
            let known = self.open.remove(token);
            return Reply::Raw(if known { 204 } else { 404 }, Vec::new(), String::new());
        }
        if *method == Method::GET && path == "/redfish/v1/Systems" {
            let members: Vec<_> = self.members.iter().map(|m| json!({ "@odata.id": m })).collect();
            return Reply::Json(200, json!({ "Members": members }));
        }
        if *method == Method::GET && self.members.contains(&path) {
            let system = json!({
                "@odata.id": path, "UUID": self.uuid, "PowerState": self.power,
                "Actions": { "#ComputerSystem.Reset": self.action },
            });
            return Reply::Json(200, system);
        }
        if *method == Method::POST && path == RESET {
            let kind = body["ResetType"].as_str().unwrap_or_default().to_owned();
            if self.obeys {
                self.power = if kind.ends_with("On") { json!("On") } else { json!("Off") };
            }
            return Reply::Raw(204, Vec::new(), String::new());
        }
        refusal(404, "Base.1.8.ResourceMissingAtURI", "no such resource")
    }
}

/// An error by the book (DSP0266, 8.6).
pub fn refusal(status: u16, id: &str, message: &str) -> Reply {
    let info = json!([{ "MessageId": id, "Message": message }]);
    let error = json!({ "code": "Base.1.8.GeneralError", "message": "see the extended info",
        "@Message.ExtendedInfo": info });
    Reply::Json(status, json!({ "error": error }))
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let closes = state.lock().unwrap().closes;
    let service = service_fn(|request| respond(request, Arc::clone(&state)));
    let mut server = hyper::server::conn::http1::Builder::new();
    // A client that goes away in the middle is no failure of the test.
    let _ = server.keep_alive(!closes).serve_connection(TokioIo::new(stream), service).await;
}

async fn respond(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, String> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let path = head.uri.path().to_owned();
    let reply = {
        let mut state = state.lock().unwrap();
        let who = state.who(&head.headers);
        state.log.push(format!("{who} {} {path}", head.method));
        if path == RESET {
            let body: Value = serde_json::from_slice(&body).unwrap();
            state.resets.push(body["ResetType"].as_str().unwrap().to_owned());
        }
        let planned = state.next.get_mut(&format!("{} {path}", head.method));
        let planned = planned.filter(|replies| !replies.is_empty()).map(|r| r.remove(0));
        planned.unwrap_or_else(|| state.answer(&head.method, &path, who, &body))
    };
    let (status, headers, body) = match reply {
        Reply::Json(status, value) => (status, Vec::new(), Full::from(value.to_string()).boxed()),
        Reply::Raw(status, headers, body) => (status, headers, Full::from(body).boxed()),
        Reply::Endless => (200, Vec::new(), Endless.boxed()),
        Reply::Never => std::future::pending().await,
        Reply::Cut => return Err("as planned".to_owned()),
    };
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(name, value);
    }
    Ok(response.body(body).unwrap())
}

struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b' '; 4096])))))
    }
}

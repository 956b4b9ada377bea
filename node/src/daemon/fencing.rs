//! The fencing gateways: one is asked when the core wants power to be cut, and each is looked at on
//! a schedule, so that one that would not work is known before it is needed.
//!
//! The gateways are tried in their order; what one has begun goes on when this node is gone, and a
//! second request for the same node joins the first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use certs::{Credential, Trust, tls};
use host::https::{Client, Lines};
use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use protocol::fence::{GatewayStatus, PowerAction, Progress, Request, Testimony};
use protocol::ids::{ClusterName, Epoch, NodeId};
use protocol::status::NodeStatus;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::conf::GatewayConf;
use crate::core;

/// A connection to a gateway stands within this, or the next one is tried.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The head of an answer, and the whole of a short one.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// From one line of progress to the next: longer than any one command may take.
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// A whole request.
const REQUEST_LIMIT: Duration = Duration::from_secs(600);
/// A gateway that answers is looked at this often.
const CHECK: Duration = Duration::from_secs(60);
/// One that does not.
const CHECK_AGAIN: Duration = Duration::from_secs(10);
/// The longest status in bytes: some 128 nodes with several devices each.
const STATUS_BYTES_MAX: usize = 1 << 20;
/// The longest answer to a testimony in bytes.
const REFUSAL_BYTES_MAX: usize = 4096;
/// The longest refusal that is shown, in characters.
const REFUSAL_MAX: usize = 200;
/// Testimonies that are on their way; older ones are of no use.
const TESTIMONIES_MAX: usize = 16;
/// Facts that wait for the daemon's loop.
const EVENTS_MAX: usize = 64;

/// What has happened.
#[derive(Debug)]
pub(super) struct Event(Fact);

#[derive(Debug)]
enum Fact {
    /// A line of the answer to a request.
    Said(u64, Progress),
    /// No gateway has answered a request to its end.
    Unanswered(u64, String),
    /// A gateway has been looked at.
    Checked(String, Result<Box<GatewayStatus>, String>),
}

/// Asks gateways.
pub(super) struct Fencing {
    caller: Caller,
    gateways: Vec<GatewayConf>,
    tell: mpsc::Sender<Fact>,
    facts: mpsc::Receiver<Fact>,
    /// Counts requests; the facts of an older one are dropped.
    number: u64,
    request: JoinSet<()>,
    testimonies: JoinSet<()>,
    checks: JoinSet<()>,
    seen: BTreeMap<String, Result<Box<GatewayStatus>, String>>,
}

/// How a gateway is called.
#[derive(Clone)]
struct Caller {
    me: NodeId,
    tls: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Fencing {
    /// Starts to look at the gateways, if there are any.
    pub(super) fn start(
        me: NodeId,
        cluster: &ClusterName,
        trust: &Trust,
        own: &Credential,
        gateways: &[GatewayConf],
    ) -> anyhow::Result<Self> {
        let tls = tls::gateway_client(trust, own, cluster)?;
        // Neither sent nor compared; the certificate is asked whether it is the gateway's.
        let name = ServerName::try_from("gateway.invalid")?;
        let (tell, facts) = mpsc::channel(EVENTS_MAX);
        let mut fencing = Self {
            caller: Caller { me, tls, name },
            gateways: Vec::new(),
            tell,
            facts,
            number: 0,
            request: JoinSet::new(),
            testimonies: JoinSet::new(),
            checks: JoinSet::new(),
            seen: BTreeMap::new(),
        };
        fencing.configure(gateways);
        Ok(fencing)
    }

    /// Other gateways from now on. What was asked of those before is not listened to any more.
    pub(super) fn configure(&mut self, gateways: &[GatewayConf]) {
        if self.gateways == gateways {
            return;
        }
        self.gateways = gateways.to_vec();
        self.number += 1;
        self.request.abort_all();
        self.checks.abort_all();
        self.seen.clear();
        for gateway in self.gateways.clone() {
            let (caller, tell) = (self.caller.clone(), self.tell.clone());
            self.checks.spawn(async move { caller.watch(&gateway, &tell).await });
        }
    }

    pub(super) fn is_configured(&self) -> bool {
        !self.gateways.is_empty()
    }

    /// Asks for power to be cut, instead of what was asked for before.
    pub(super) fn ask(&mut self, targets: BTreeSet<NodeId>, epoch: Epoch) {
        self.number += 1;
        self.request.abort_all();
        while self.request.try_join_next().is_some() {}
        let request = Request {
            requester: self.caller.me,
            epoch: Some(epoch),
            targets,
            // Whether power comes again is the gateway's setting for each node.
            action: PowerAction::Reboot,
            reason: "lost".to_owned(),
        };
        let (caller, gateways) = (self.caller.clone(), self.gateways.clone());
        let (number, tell) = (self.number, self.tell.clone());
        self.request.spawn(async move {
            let work = caller.request(&gateways, &request, number, &tell);
            let why = match timeout(REQUEST_LIMIT, work).await {
                Ok(Ok(())) => return,
                Ok(Err(why)) => why,
                Err(_) => format!("not over after {} s", REQUEST_LIMIT.as_secs()),
            };
            // Nobody listens any more when the daemon ends.
            let _ = tell.send(Fact::Unanswered(number, why)).await;
        });
    }

    /// Tells all gateways what this node testifies: which of them has asked, only it knows.
    pub(super) fn testify(&mut self, testimony: &Testimony) {
        while self.testimonies.try_join_next().is_some() {}
        if self.testimonies.len() >= TESTIMONIES_MAX {
            self.testimonies.abort_all();
        }
        for gateway in self.gateways.clone() {
            let (caller, testimony) = (self.caller.clone(), testimony.clone());
            self.testimonies.spawn(async move {
                // Who has not heard it asks again.
                if let Err(why) = caller.testify(&gateway, &testimony).await {
                    debug!("the fencing gateway {gateway} has not taken a testimony: {why}");
                }
            });
        }
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        match self.facts.recv().await {
            Some(fact) => Event(fact),
            None => std::future::pending().await,
        }
    }

    /// Takes an event in; a fact for the core comes out if it was one.
    pub(super) fn take(&mut self, event: Event) -> Option<core::Event> {
        let event = match event.0 {
            Fact::Said(number, _) | Fact::Unanswered(number, _) if number != self.number => {
                return None;
            }
            Fact::Checked(address, seen) => {
                self.checked(address, seen);
                return None;
            }
            Fact::Unanswered(_, why) => core::Event::FenceEnded { result: Err(why) },
            Fact::Said(_, progress) => match progress {
                Progress::Accepted { job } => core::Event::FenceProgress {
                    node: None,
                    text: format!("the gateway has taken it on as job {job}"),
                },
                Progress::Step { node, text } => core::Event::FenceProgress { node, text },
                Progress::Challenge { challenge } => core::Event::Challenged(challenge),
                Progress::Off { proof } => core::Event::FenceProof { proof },
                Progress::Done { results } => core::Event::FenceEnded { result: Ok(results) },
            },
        };
        Some(event)
    }

    /// One line for each change, not for each look.
    fn checked(&mut self, address: String, seen: Result<Box<GatewayStatus>, String>) {
        if !self.gateways.iter().any(|gateway| gateway.to_string() == address) {
            return;
        }
        let before = self.seen.get(&address).map(judge);
        let now = judge(&seen);
        if before.as_ref() != Some(&now) {
            match &now {
                Ok(()) => info!("the fencing gateway {address} is ready"),
                Err(why) => warn!("the fencing gateway {address} {why}"),
            }
        }
        self.seen.insert(address, seen);
    }

    /// What is known of the gateways, for status.
    pub(super) fn describe(&self, nodes: &[NodeId], status: &mut NodeStatus) {
        for gateway in &self.gateways {
            let address = gateway.to_string();
            let Some(seen) = self.seen.get(&address) else {
                status.gateways.insert(address, "not asked yet".to_owned());
                continue;
            };
            let said = judge(seen);
            if let Err(why) = &said {
                status.warnings.push(format!("the fencing gateway {address} {why}"));
            }
            if let Ok(seen) = seen {
                let unknown = nodes.iter().filter(|node| !seen.nodes.contains_key(&node.0));
                status.warnings.extend(unknown.map(|node| {
                    format!(
                        "the fencing gateway {address} has no way to cut the power of node {node}: \
                         add one to its configuration"
                    )
                }));
                let alarms = seen.alarms.iter().take(EVENTS_MAX);
                status.warnings.extend(
                    alarms.map(|alarm| format!("the fencing gateway {address}: {}", short(alarm))),
                );
            }
            let text = said.err().unwrap_or_else(|| "ready".to_owned());
            status.gateways.insert(address, text);
        }
    }
}

/// Whether a gateway could cut power now, as far as it can tell.
fn judge(seen: &Result<Box<GatewayStatus>, String>) -> Result<(), String> {
    match seen {
        Ok(seen) if seen.arbiter == "connected" => Ok(()),
        Ok(seen) => Err(format!(
            "has no connection to the arbiter ({}): until it has, it cuts power only for members \
             with more than half of all votes",
            short(&seen.arbiter)
        )),
        Err(why) => Err(format!(
            "does not answer: {why}; start haguard fence gateway there, or correct haguard.gateway"
        )),
    }
}

impl Caller {
    /// Looks at one gateway for ever.
    async fn watch(&self, gateway: &GatewayConf, tell: &mpsc::Sender<Fact>) {
        loop {
            let seen = self.look(gateway).await;
            let pause = if seen.is_ok() { CHECK } else { CHECK_AGAIN };
            if tell.send(Fact::Checked(gateway.to_string(), seen)).await.is_err() {
                return;
            }
            sleep(pause).await;
        }
    }

    async fn look(&self, gateway: &GatewayConf) -> Result<Box<GatewayStatus>, String> {
        let mut client = self.connect(gateway).await?;
        let request = hyper::Request::get("/v1/status").header("host", "gateway");
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let answer = client.call(request, ANSWER_LIMIT, STATUS_BYTES_MAX).await;
        let answer = answer.map_err(|error| error.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(refusal(answer.status(), answer.body()));
        }
        read(answer.body()).map(Box::new)
    }

    async fn connect(&self, gateway: &GatewayConf) -> Result<Client, String> {
        let tls = Arc::clone(&self.tls);
        let (host, name) = (gateway.host.as_str(), self.name.clone());
        let client = Client::connect(host, gateway.port, tls, name, CONNECT_LIMIT).await;
        client.map_err(|error| error.to_string())
    }

    async fn testify(&self, gateway: &GatewayConf, testimony: &Testimony) -> Result<(), String> {
        let body = serde_json::to_vec(testimony).map_err(|error| error.to_string())?;
        let mut client = self.connect(gateway).await?;
        let request = hyper::Request::post("/v1/attest")
            .header("host", "gateway")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let answer = client.call(request, ANSWER_LIMIT, REFUSAL_BYTES_MAX).await;
        let answer = answer.map_err(|error| error.to_string())?;
        match answer.status() {
            StatusCode::ACCEPTED => Ok(()),
            status => Err(refusal(status, answer.body())),
        }
    }

    /// Asks one gateway after the other until one has answered to the end.
    async fn request(
        &self,
        gateways: &[GatewayConf],
        request: &Request,
        number: u64,
        tell: &mpsc::Sender<Fact>,
    ) -> Result<(), String> {
        let mut problems = Vec::new();
        for gateway in gateways {
            match self.converse(gateway, request, number, tell).await {
                Ok(()) => return Ok(()),
                Err(why) => problems.push(format!("{gateway}: {why}")),
            }
        }
        Err(if problems.is_empty() { "none is configured".to_owned() } else { problems.join("; ") })
    }

    async fn converse(
        &self,
        gateway: &GatewayConf,
        request: &Request,
        number: u64,
        tell: &mpsc::Sender<Fact>,
    ) -> Result<(), String> {
        let body = serde_json::to_vec(request).map_err(|error| error.to_string())?;
        let client = self.connect(gateway).await?;
        let request = hyper::Request::post("/v1/fence")
            .header("host", "gateway")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let lines = client.lines(request, ANSWER_LIMIT).await;
        let mut lines = lines.map_err(|error| error.to_string())?;
        while let Some(line) = next(&mut lines).await? {
            if lines.status != StatusCode::OK {
                return Err(refusal(lines.status, &line));
            }
            if line.trim_ascii().is_empty() {
                continue;
            }
            let progress: Progress = read(&line)?;
            let done = matches!(progress, Progress::Done { .. });
            // Nobody listens any more when the daemon ends.
            let _ = tell.send(Fact::Said(number, progress)).await;
            if done {
                return Ok(());
            }
        }
        match lines.status {
            StatusCode::OK => Err("it has ended its answer before the end of the job".to_owned()),
            status => Err(refusal(status, b"")),
        }
    }
}

async fn next(lines: &mut Lines) -> Result<Option<Bytes>, String> {
    lines.next(LINE_LIMIT).await.map_err(|error| error.to_string())
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes)
        .map_err(|error| format!("an answer that is not understood ({error}): upgrade either side"))
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    format!("it refuses with {}: {}", status.as_u16(), short(&String::from_utf8_lossy(body)))
}

/// A gateway's text for people: bounded, and in one line.
fn short(text: &str) -> String {
    let text = text.trim().chars().take(REFUSAL_MAX);
    text.map(|c| if c.is_control() { ' ' } else { c }).collect()
}

//! The quorum device's socket: `protocol::host` as lines of JSON, one registered device at a time.
//!
//! Each connection is a task; the loop only ever puts lines into its bounded queue. A device that
//! does not read them is cut off: its vote then counts until it expires, as if it had died.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host::socket::{self, Lines, SocketError};
use protocol::host::{FromDevice, FromHost, MAX_LINE_BYTES, Welcome};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

/// Connections at a time, registered or not; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4;
/// A connection that has not registered, or that does not take a line, after this long is closed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lines that wait for the device to read them.
const LINES_MAX: usize = 256;
/// What the tasks have heard and the loop has not taken yet.
const EVENTS_MAX: usize = 64;
/// Only the daemon's user may be the device.
const MODE: u32 = 0o600;

/// What a connection's task tells; [`Devices::take`] makes use of it.
#[derive(Debug)]
pub(super) enum Event {
    /// It wants to be the device.
    Register {
        connection: u64,
        name: String,
        /// What it was greeted with.
        greeted: Arc<[u8]>,
        lines: mpsc::Sender<Arc<[u8]>>,
    },
    /// It has said something.
    Said { connection: u64, said: FromDevice },
    /// It is gone.
    Gone { connection: u64, why: String },
}

/// What has happened to the device.
#[derive(Debug, PartialEq)]
pub(super) enum Fact {
    /// One has registered.
    Up,
    /// It is gone; its vote counts until it expires.
    Down,
    /// It has unregistered: its vote is gone at once.
    Unregistered,
    /// It has said something else.
    Said(FromDevice),
}

/// The socket and the registered device.
#[derive(Debug)]
pub(super) struct Devices {
    events: mpsc::Receiver<Event>,
    registered: Option<Registered>,
    greeting: watch::Sender<Greeting>,
    /// It ends with the value, and all connections with it.
    _task: JoinSet<()>,
}

/// What every connection is told first.
#[derive(Clone, Debug)]
struct Greeting {
    welcome: Arc<[u8]>,
    /// There is a device to register; without one a connection may wait for ever.
    wanted: bool,
}

impl Greeting {
    fn new(welcome: &Welcome) -> anyhow::Result<Self> {
        let wanted = welcome.device.is_some();
        Ok(Self { welcome: line(&FromHost::Welcome(Box::new(welcome.clone())))?, wanted })
    }
}

#[derive(Debug)]
struct Registered {
    connection: u64,
    name: String,
    lines: mpsc::Sender<Arc<[u8]>>,
}

impl Devices {
    /// Listens at `path`; every connection is greeted with `welcome`, until there is another one.
    pub(super) fn open(path: &Path, welcome: &Welcome) -> anyhow::Result<Self> {
        let listener = socket::listen(path, MODE).map_err(|error: SocketError| error)?;
        let (greeting, greetings) = watch::channel(Greeting::new(welcome)?);
        let (tell, events) = mpsc::channel(EVENTS_MAX);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
            let mut conversations = JoinSet::new();
            for connection in 0.. {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                while conversations.try_join_next().is_some() {}
                let stream = match listener.accept().await {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, for example: a later caller may be luckier.
                        warn!("the device socket cannot accept: {error}");
                        tokio::time::sleep(PATIENCE).await;
                        continue;
                    }
                };
                let greeting = greetings.borrow().clone();
                let conversation = Conversation { connection, tell: tell.clone(), greeting };
                conversations.spawn(async move {
                    conversation.hold(stream).await;
                    drop(place);
                });
            }
        });
        Ok(Self { events, registered: None, greeting, _task: task })
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }

    /// Takes an event in; only the registered device's words count.
    pub(super) fn take(&mut self, event: Event) -> Option<Fact> {
        match event {
            Event::Register { connection, name, greeted, lines } => {
                self.register(Registered { connection, name, lines }, &greeted)
            }
            Event::Said { connection, said } if self.is_registered(connection) => match said {
                FromDevice::Unregister => {
                    info!("the device has unregistered");
                    self.registered = None;
                    Some(Fact::Unregistered)
                }
                FromDevice::Register { .. } => {
                    warn!("the device registers twice on one connection: closed");
                    self.registered = None;
                    Some(Fact::Down)
                }
                FromDevice::Poll(_) | FromDevice::Status(_) | FromDevice::Epoch { .. } => {
                    Some(Fact::Said(said))
                }
            },
            Event::Gone { connection, why } if self.is_registered(connection) => {
                warn!("the device is gone: {why}");
                self.registered = None;
                Some(Fact::Down)
            }
            Event::Said { .. } | Event::Gone { .. } => None,
        }
    }

    fn register(&mut self, new: Registered, greeted: &Arc<[u8]>) -> Option<Fact> {
        if let Some(registered) = &self.registered {
            // Dropping its queue closes the connection.
            warn!(
                "device {:?} is refused: {:?} is registered; stop one of them",
                new.name, registered.name
            );
            return None;
        }
        info!("device {:?} has registered", new.name);
        let welcome = Arc::clone(&self.greeting.borrow().welcome);
        if welcome != *greeted && new.lines.try_send(welcome).is_err() {
            warn!("the device is gone before it was told of the changed configuration");
            return None;
        }
        self.registered = Some(new);
        Some(Fact::Up)
    }

    /// Greets every connection with this from now on, and tells the registered device.
    pub(super) fn welcome(&mut self, welcome: &Welcome) -> Option<Fact> {
        match Greeting::new(welcome) {
            Ok(greeting) => {
                self.greeting.send_replace(greeting);
                self.tell(&FromHost::Welcome(Box::new(welcome.clone())))
            }
            Err(error) => {
                warn!("the device is not told of the changed configuration: {error}");
                None
            }
        }
    }

    fn is_registered(&self, connection: u64) -> bool {
        self.registered.as_ref().is_some_and(|registered| registered.connection == connection)
    }

    /// Tells the device, if there is one; a fact comes out if it could not be told.
    pub(super) fn tell(&mut self, message: &FromHost) -> Option<Fact> {
        let registered = self.registered.as_ref()?;
        let sent = line(message).is_ok_and(|line| registered.lines.try_send(line).is_ok());
        if sent {
            return None;
        }
        warn!("the device does not read what it is told: closed; is it stopped?");
        self.registered = None;
        Some(Fact::Down)
    }
}

fn line(message: &FromHost) -> anyhow::Result<Arc<[u8]>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line.into())
}

/// One connection.
struct Conversation {
    connection: u64,
    tell: mpsc::Sender<Event>,
    greeting: Greeting,
}

impl Conversation {
    async fn hold(self, stream: UnixStream) {
        let (from, mut to) = stream.into_split();
        let mut from = Lines::new(from, MAX_LINE_BYTES);
        let greet = self.greet(&mut from, &mut to);
        let greeted =
            if self.greeting.wanted { timeout(PATIENCE, greet).await } else { Ok(greet.await) };
        let Ok(Ok(name)) = greeted else {
            if self.greeting.wanted {
                warn!("a connection to the device socket is closed: it has not registered");
            }
            return;
        };
        let (lines, todo) = mpsc::channel(LINES_MAX);
        let connection = self.connection;
        let greeted = Arc::clone(&self.greeting.welcome);
        if self.tell.send(Event::Register { connection, name, greeted, lines }).await.is_err() {
            return;
        }
        let why = self.converse(from, to, todo).await;
        // Nobody listens any more when the daemon ends.
        let _ = self.tell.send(Event::Gone { connection, why }).await;
    }

    /// The node speaks first; the answer must be a registration.
    async fn greet(
        &self,
        from: &mut Lines<OwnedReadHalf>,
        to: &mut OwnedWriteHalf,
    ) -> anyhow::Result<String> {
        to.write_all(&self.greeting.welcome).await?;
        let first = from.next().await?.unwrap_or_default();
        match serde_json::from_slice(&first)? {
            FromDevice::Register { name } => Ok(name.chars().take(64).collect()),
            FromDevice::Poll(_)
            | FromDevice::Status(_)
            | FromDevice::Epoch { .. }
            | FromDevice::Unregister => Err(anyhow::anyhow!("it has not registered")),
        }
    }

    /// Until one side ends it; says why.
    async fn converse(
        &self,
        mut from: Lines<OwnedReadHalf>,
        mut to: OwnedWriteHalf,
        mut todo: mpsc::Receiver<Arc<[u8]>>,
    ) -> String {
        loop {
            tokio::select! {
                line = from.next() => {
                    let line = match line {
                        Ok(Some(line)) => line,
                        Ok(None) => return "it closed the connection".to_owned(),
                        Err(error) => return format!("its connection failed: {error}"),
                    };
                    let said = match serde_json::from_slice(&line) {
                        Ok(said) => said,
                        Err(error) => return format!("it sent what is no message ({error})"),
                    };
                    let connection = self.connection;
                    if self.tell.send(Event::Said { connection, said }).await.is_err() {
                        return "the node ends".to_owned();
                    }
                }
                line = todo.recv() => {
                    let Some(line) = line else { return "the node closed it".to_owned() };
                    match timeout(PATIENCE, to.write_all(&line)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return format!("its connection failed: {error}"),
                        Err(_) => return "it does not read what it is told".to_owned(),
                    }
                }
            }
        }
    }
}

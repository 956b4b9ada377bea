//! The network of a demo: a process of its own through which all traffic runs, and which stops
//! forwarding when it is told to. The daemons know nothing of it: they dial addresses.
//!
//! It is told on its standard input, a line at a time, and answers each with `ok` or `error: …`:
//!
//! | line | from then on |
//! |---|---|
//! | `cut 1-2 2>arbiter …` | nothing passes between 1 and 2, nor from 2 to the arbiter |
//! | `heal 1-2 …`, `heal all` | it passes again |
//! | `dark 1` | node 1 has lost power: nothing passes, and no end of a connection either |
//! | `lit 1` | node 1 may speak again; what was connected before stays dead |
//! | `end` | the relay ends |
//!
//! A datagram of a cut link is gone. A stream of a cut link stays open and moves nothing, as over
//! a path that has fallen silent; new connections wait, as for an answer that never comes.
//!
//! When its standard input ends without `end`, whoever started it has died, and the relay ends
//! every process of that demo.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::watch;

use super::layout::{Layout, NODES_MAX};
use super::processes;

/// More than any datagram of the nodes.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// What is read from a stream at a time.
const CHUNK_BYTES: usize = 16_384;
/// What a connection that waits for a healed link may have sent.
const WAITING_BYTES_MAX: usize = 65_536;
/// The pause after a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(20);

/// Flags of the hidden verb.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The demo's network, A.B of 127.A.B.0
    #[arg(long)]
    pub net: Layout,
    /// How many nodes it has
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(NODES_MAX)))]
    pub nodes: u32,
    /// The demo's directory: its processes end when standard input ends without a word
    #[arg(long)]
    pub guard: Option<PathBuf>,
}

/// One end of a link.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum End {
    /// The arbiter.
    Arbiter,
    /// A node.
    Node(u32),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arbiter => f.write_str("arbiter"),
            Self::Node(node) => write!(f, "{node}"),
        }
    }
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("arbiter", _) => Ok(Self::Arbiter),
            (_, Ok(node)) if (1..=NODES_MAX).contains(&node) => Ok(Self::Node(node)),
            (_, Ok(_) | Err(_)) => Err(format!("{text:?} is neither a node nor \"arbiter\"")),
        }
    }
}

/// A link as it is cut and healed.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Link {
    /// Traffic from here
    pub from: End,
    /// to there
    pub to: End,
    /// and back.
    pub both: bool,
}

impl Link {
    /// Both directions.
    pub const fn between(from: End, to: End) -> Self {
        Self { from, to, both: true }
    }

    /// One direction.
    pub const fn one_way(from: End, to: End) -> Self {
        Self { from, to, both: false }
    }

    fn directions(self) -> impl Iterator<Item = (End, End)> {
        [(self.from, self.to)].into_iter().chain(self.both.then_some((self.to, self.from)))
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.from, if self.both { '-' } else { '>' }, self.to)
    }
}

impl FromStr for Link {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to, both) = match (text.split_once('-'), text.split_once('>')) {
            (Some((from, to)), None) => (from, to, true),
            (None, Some((from, to))) => (from, to, false),
            (Some(_), Some(_)) | (None, None) => {
                return Err(format!("{text:?} is no link: give A-B, or A>B for one direction"));
            }
        };
        Ok(Self { from: from.parse()?, to: to.parse()?, both })
    }
}

/// What passes and what does not.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Cuts {
    cut: BTreeSet<(End, End)>,
    dark: BTreeSet<u32>,
    /// How often a node has lost power: a connection belongs to one life of its node.
    lives: BTreeMap<u32, u32>,
}

impl Cuts {
    /// Does one line of the table above.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn apply(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let verb = words.next().unwrap_or_default();
        let words: Vec<&str> = words.collect();
        let nodes = || -> Result<Vec<u32>, String> {
            let ends = words.iter().map(|word| word.parse::<End>());
            let ends = ends.collect::<Result<Vec<_>, _>>()?;
            ends.into_iter()
                .map(|end| match end {
                    End::Node(node) => Ok(node),
                    End::Arbiter => Err(format!("{verb} takes nodes, not the arbiter")),
                })
                .collect()
        };
        let links = || words.iter().map(|word| word.parse::<Link>()).collect::<Result<Vec<_>, _>>();
        match verb {
            "cut" => self.cut.extend(links()?.into_iter().flat_map(Link::directions)),
            "heal" if words == ["all"] => self.cut.clear(),
            "heal" => {
                for direction in links()?.into_iter().flat_map(Link::directions) {
                    self.cut.remove(&direction);
                }
            }
            "dark" => {
                for node in nodes()? {
                    self.dark.insert(node);
                    *self.lives.entry(node).or_default() += 1;
                }
            }
            "lit" => {
                for node in nodes()? {
                    self.dark.remove(&node);
                }
            }
            _ => return Err(format!("{line:?} is no line of the relay")),
        }
        Ok(())
    }

    /// True if traffic passes in this direction.
    pub fn passes(&self, from: End, to: End) -> bool {
        let lit = |end| match end {
            End::Arbiter => true,
            End::Node(node) => !self.dark.contains(&node),
        };
        lit(from) && lit(to) && !self.cut.contains(&(from, to))
    }

    fn life(&self, node: u32) -> u32 {
        self.lives.get(&node).copied().unwrap_or_default()
    }
}

/// The running relay, to be told what passes.
#[derive(Debug)]
pub struct Relay {
    cuts: watch::Sender<Cuts>,
}

impl Relay {
    /// Listens for everybody. Must be called within a `LocalSet`.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    pub async fn start(layout: Layout, nodes: u32) -> Result<Self> {
        let (sender, cuts) = watch::channel(Cuts::default());
        let mut sockets = BTreeMap::new();
        for node in 1..=nodes {
            let address = layout.public(node);
            let socket = UdpSocket::bind(address).await;
            sockets.insert(node, socket.with_context(|| format!("cannot listen on {address}"))?);
        }
        let sockets = Rc::new(sockets);
        for node in 1..=nodes {
            tokio::task::spawn_local(datagrams(layout, node, Rc::clone(&sockets), cuts.clone()));
            let address = layout.towards_arbiter(node);
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot listen on {address}"))?;
            tokio::task::spawn_local(streams(layout, node, listener, cuts.clone()));
        }
        Ok(Self { cuts: sender })
    }

    /// Does one line of the table above.
    ///
    /// # Errors
    /// What is wrong with the line.
    pub fn tell(&self, line: &str) -> Result<(), String> {
        let mut new = self.cuts.borrow().clone();
        new.apply(line)?;
        self.cuts.send_replace(new);
        Ok(())
    }
}

/// The hidden verb: a relay that is told on standard input.
///
/// # Errors
/// When an address cannot be listened on.
pub fn run(options: &Options) -> Result<()> {
    // Asked for now: the file may be replaced before the end.
    let program = std::env::current_exe().context("this program's own path is unknown")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended_by_word = tokio::task::LocalSet::new().block_on(&runtime, serve(options))?;
    if let (false, Some(directory)) = (ended_by_word, &options.guard) {
        processes::kill_all(&program, directory);
    }
    // Standard input is read on a thread that may still wait for a line.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(options: &Options) -> Result<bool> {
    let relay = Relay::start(options.net, options.nodes).await?;
    let mut output = tokio::io::stdout();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut answer = "ready".to_owned();
    loop {
        answer.push('\n');
        let told =
            output.write_all(answer.as_bytes()).await.is_ok() && output.flush().await.is_ok();
        let line = if told { lines.next_line().await.unwrap_or(None) } else { None };
        answer = match line.as_deref() {
            None => return Ok(false),
            Some("end") => return Ok(true),
            Some(line) => match relay.tell(line) {
                Ok(()) => "ok".to_owned(),
                Err(text) => format!("error: {text}"),
            },
        };
    }
}

/// Takes what is sent to a node and hands it on from the sender's own public address, so that the
/// node's answers find the same way back: a node dials and listens on one socket.
async fn datagrams(
    layout: Layout,
    to: u32,
    sockets: Rc<BTreeMap<u32, UdpSocket>>,
    cuts: watch::Receiver<Cuts>,
) {
    let senders: BTreeMap<SocketAddr, u32> =
        sockets.keys().map(|node| (layout.private(*node), *node)).collect();
    let Some(socket) = sockets.get(&to) else { return };
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        // An error here is an answer to an earlier datagram: nobody listens there now. A real
        // network would have been silent too.
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(from) = senders.get(&source) else { continue };
        let passes = cuts.borrow().passes(End::Node(*from), End::Node(to));
        if let (true, Some(sender)) = (passes, sockets.get(from)) {
            // Lost, if it cannot be sent.
            let _ = sender.send_to(&buffer[..length], layout.private(to)).await;
        }
    }
}

/// Accepts the connections of one node's device.
async fn streams(layout: Layout, node: u32, listener: TcpListener, cuts: watch::Receiver<Cuts>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No file descriptor is left, or the like: the next connection may have more luck.
            tokio::time::sleep(ACCEPT_AGAIN).await;
            continue;
        };
        tokio::task::spawn_local(stream_of(layout, node, stream, cuts.clone()));
    }
}

/// One connection between a device and the arbiter.
async fn stream_of(layout: Layout, node: u32, device: TcpStream, mut cuts: watch::Receiver<Cuts>) {
    let life = cuts.borrow().life(node);
    let (mut from_device, to_device) = device.into_split();
    let Some(first) = wait_for_link(node, life, &mut from_device, &mut cuts).await else { return };
    let Some(arbiter) = connect(layout, node).await else { return };
    let (from_arbiter, mut to_arbiter) = arbiter.into_split();
    if to_arbiter.write_all(&first).await.is_err() {
        return;
    }
    let end = End::Node(node);
    let up = pump(from_device, to_arbiter, (end, End::Arbiter), cuts.clone());
    let down = pump(from_arbiter, to_device, (End::Arbiter, end), cuts.clone());
    let power = cuts.wait_for(|cuts| cuts.life(node) != life);
    tokio::pin!(up, down);
    tokio::select! {
        _ = power => {}
        () = async { tokio::join!(&mut up, &mut down); } => return,
    }
    // The node is without power. Nothing of it reaches the arbiter any more, not even the end of
    // this connection, which stays as it is until the arbiter gives it up.
    std::future::pending::<()>().await;
}

/// Waits until a new connection could have been made, and returns what was sent meanwhile; `None`
/// if nobody waits any more.
async fn wait_for_link(
    node: u32,
    life: u32,
    device: &mut OwnedReadHalf,
    cuts: &mut watch::Receiver<Cuts>,
) -> Option<Vec<u8>> {
    let end = End::Node(node);
    let mut first = Vec::new();
    loop {
        {
            let now = cuts.borrow_and_update();
            if now.life(node) != life {
                return None;
            }
            if now.passes(end, End::Arbiter) && now.passes(End::Arbiter, end) {
                return Some(first);
            }
        }
        tokio::select! {
            changed = cuts.changed() => changed.ok()?,
            read = device.read_buf(&mut first) => {
                if read.ok()? == 0 || first.len() > WAITING_BYTES_MAX {
                    return None;
                }
            }
        }
    }
}

/// Connects from the node's public address, so that the arbiter sees who comes.
async fn connect(layout: Layout, node: u32) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    let mut from = layout.public(node);
    from.set_port(0);
    socket.bind(from).ok()?;
    let stream = socket.connect(layout.arbiter()).await.ok()?;
    stream.set_nodelay(true).ok()?;
    Some(stream)
}

/// Moves bytes in one direction while the link passes them; at the end hands the end on.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    (sender, receiver): (End, End),
    mut cuts: watch::Receiver<Cuts>,
) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut buffer).await;
        // What was read after the cut waits here: the network will deliver it when it can.
        if cuts.wait_for(|cuts| cuts.passes(sender, receiver)).await.is_err() {
            return;
        }
        let length = read.unwrap_or(0);
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}

#[cfg(test)]
mod tests;

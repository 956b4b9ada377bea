//! What a grant costs on disk: the price of one sync, and how long clusters that decide at the same
//! moment wait from the decision to the ACK, with one sync for all that wait and with one for each.
//!
//! `cargo bench -p qnetd --bench journal [-- DIRECTORY]`: the files are made in a directory of their
//! own below DIRECTORY (here: cargo's scratch directory), which decides what disk is measured.

#![expect(clippy::print_stdout, reason = "a bench says what it has measured")]

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use host::clock::Clock;
use host::file::FileError;
use protocol::ids::{BootId, ClusterName, NodeId, RingId};
use protocol::qnet::{
    Deframer, Message, MessageType, NodeInfo, NodeListType, TlsSupport, numbers, stock_options,
    supported_messages,
};
use protocol::time::{Hurry, Time};
use protocol::vote::{Algorithm, TieBreaker, Vote};
use qnetd::core::{Action, Arbiter, ClientId, Event, GrantRecord, Settings, Token};
use qnetd::journal::Journal;
use qnetd::journal::storage::{Directory, HostDirectory, Storage};
use qnetd::journal::writer::Writer;

/// How many clusters decide at once.
const CLUSTERS: [usize; 3] = [1, 16, 256];

/// How often each of them does.
const ROUNDS: usize = 9;

/// Syncs that are measured one by one.
const SYNCS: usize = 500;

/// A disk that takes longer than the one that is here, as one with platters does.
const SLOW: Duration = Duration::from_millis(10);

fn main() -> Result<()> {
    // Cargo adds flags of its own, such as --bench.
    let place = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let place = place.map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    let place = Scratch(place.join(format!("journal-bench-{}", std::process::id())));
    println!("in {}", place.0.display());
    one_by_one(&place.0)?;
    compaction(&place.0)?;
    println!("\nclusters  disk     syncs         syncs  decision to ACK: median   worst");
    for clusters in CLUSTERS {
        for slower in [Duration::ZERO, SLOW] {
            for mode in [Mode::Batched, Mode::OneByOne] {
                all_at_once(&place.0, clusters, slower, mode)?;
            }
        }
    }
    Ok(())
}

/// The price of one grant: a write and its sync.
fn one_by_one(place: &Path) -> Result<()> {
    let (mut clock, syncs) = (Clock::start(Hurry::Slow), Arc::default());
    let mut journal = open(place, "one", &syncs, Duration::ZERO)?;
    let mut took = Vec::new();
    for epoch in 0..SYNCS {
        let before = clock.now();
        journal.append(&[record(&format!("cluster {epoch}"))])?;
        took.push(clock.now().since(before));
    }
    took.sort();
    println!(
        "one grant, written and synced: median {}, 99 % within {}, worst {} ({SYNCS} grants)",
        Millis(took[SYNCS / 2]),
        Millis(took[SYNCS * 99 / 100]),
        Millis(took[SYNCS - 1]),
    );
    Ok(())
}

/// The price of a rewrite.
fn compaction(place: &Path) -> Result<()> {
    let (mut clock, syncs) = (Clock::start(Hurry::Slow), Arc::default());
    let mut journal = open(place, "rewrite", &syncs, Duration::ZERO)?;
    let all: Vec<GrantRecord> = (0..1000).map(|n| record(&format!("cluster {n}"))).collect();
    journal.append(&all)?;
    journal.append(&all)?;
    journal.append(&all[..1])?;
    let before = clock.now();
    journal.rewrite_if_long()?;
    println!("a rewrite with 1000 clusters: {}", Millis(clock.now().since(before)));
    Ok(())
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    /// As the daemon does it.
    Batched,
    /// One sync for each grant.
    OneByOne,
}

fn all_at_once(place: &Path, clusters: usize, slower: Duration, mode: Mode) -> Result<()> {
    let mut took = Vec::new();
    let syncs = Arc::new(AtomicUsize::new(0));
    let mut counted = 0;
    for round in 0..ROUNDS {
        let name = format!("{clusters}-{}-{mode:?}-{round}", slower.as_millis());
        let journal = open(place, &name, &syncs, slower)?;
        let before = syncs.load(Ordering::Relaxed);
        let mut site = Site::new(clusters);
        match mode {
            Mode::Batched => site.decide_batched(journal)?,
            Mode::OneByOne => site.decide_one_by_one(journal)?,
        }
        counted += syncs.load(Ordering::Relaxed) - before;
        took.extend(site.took()?);
    }
    took.sort();
    let disk = if slower == Duration::ZERO { "as it is" } else { "+ 10 ms" };
    let how = if mode == Mode::Batched { "for all" } else { "for each" };
    println!(
        "{clusters:8}  {disk:8} {how:9} {:9.1}  {:>23}  {:>8}",
        counted as f64 / ROUNDS as f64,
        Millis(took[took.len() / 2]).to_string(),
        Millis(took[took.len() - 1]).to_string(),
    );
    Ok(())
}

/// An arbiter and its clusters of two stock nodes each, of which one report is missing.
struct Site {
    arbiter: Arbiter,
    clock: Clock,
    decided: Vec<Option<Time>>,
    told: Vec<Option<Time>>,
}

impl Site {
    fn new(clusters: usize) -> Self {
        let mut clock = Clock::start(Hurry::Slow);
        let settings = Settings { tls: TlsSupport::Unsupported, ..Settings::default() };
        let memory = qnetd::core::Memory { boot: 1, ..qnetd::core::Memory::default() };
        let arbiter = Arbiter::new(clock.now(), settings, memory);
        let none = vec![None; clusters];
        let mut site = Self { arbiter, clock, decided: none.clone(), told: none };
        for cluster in 0..clusters {
            for node in [1, 2] {
                site.join(cluster, node);
            }
            site.report(cluster, 1);
        }
        while site.arbiter.next_action().is_some() {}
        site
    }

    fn say(&mut self, client: ClientId, message: &Message) {
        let (_, frame) = Deframer::new(1 << 20).feed(&message.encode());
        if let Some(Ok(frame)) = frame {
            let now = self.clock.now();
            self.arbiter.handle(now, Event::Received { client, frame });
        }
    }

    fn join(&mut self, cluster: usize, node: u32) {
        let (client, now) = (client(cluster, node), self.clock.now());
        self.arbiter.handle(now, Event::Connected { client, address: "192.0.2.1:1".to_owned() });
        let mut message = Message::new(MessageType::Preinit, Some(1));
        message.options.cluster_name = Some(ClusterName::from(&*format!("cluster {cluster}")));
        self.say(client, &message);
        let mut message = Message::new(MessageType::Init, Some(2));
        message.options.supported_messages = Some(supported_messages());
        message.options.supported_options = Some(stock_options());
        message.options.node_id = Some(node);
        message.options.algorithm = Some(numbers::algorithm_number(Algorithm::Ffsplit));
        message.options.heartbeat_ms = Some(8000);
        message.options.tie_breaker = Some(TieBreaker::Lowest);
        message.options.ring = Some(RingId::new(1, 4));
        self.say(client, &message);
        let mut message = Message::new(MessageType::NodeList, Some(3));
        message.options.list_type = Some(NodeListType::InitialConfig);
        message.options.nodes = both();
        self.say(client, &message);
    }

    /// A node says that both are members.
    fn report(&mut self, cluster: usize, node: u32) {
        let mut message = Message::new(MessageType::NodeList, Some(4));
        message.options.list_type = Some(NodeListType::Membership);
        message.options.ring = Some(RingId::new(1, 4));
        message.options.nodes = both();
        self.say(client(cluster, node), &message);
    }

    /// The last report, which decides; the record to store.
    fn decide(&mut self, cluster: usize) -> Option<(Token, GrantRecord)> {
        self.decided[cluster] = Some(self.clock.now());
        self.report(cluster, 2);
        self.act()
    }

    fn stored(&mut self, token: Token) {
        let now = self.clock.now();
        self.arbiter.handle(now, Event::Persisted(token));
        self.act();
    }

    /// Does what the arbiter wants; what it wants stored is for the caller.
    fn act(&mut self) -> Option<(Token, GrantRecord)> {
        let mut write = None;
        while let Some(action) = self.arbiter.next_action() {
            match action {
                Action::Send { client, bytes } if is_ack(&bytes) => {
                    let cluster = usize::try_from(client.0 / 2 - 1).unwrap_or(usize::MAX);
                    self.told[cluster] = Some(self.clock.now());
                }
                Action::Persist { token, record } => write = Some((token, record)),
                Action::Send { .. }
                | Action::StartTls { .. }
                | Action::Close { .. }
                | Action::PersistFencing { .. }
                | Action::Decided { .. } => {}
            }
        }
        write
    }

    /// As the daemon: what is stored is heard of between two reports.
    fn decide_batched(&mut self, journal: Journal<Counting>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut writer = Writer::start(journal)?;
        runtime.block_on(async {
            let mut next = 0..self.decided.len();
            loop {
                let stored = tokio::select! {
                    biased;
                    stored = writer.stored(), if writer.is_busy() => Some(stored),
                    () = std::future::ready(()), if !next.is_empty() => None,
                    else => return Ok(()),
                };
                match stored {
                    Some(stored) => {
                        ensure!(stored.error.is_none(), "{:?}", stored.error);
                        stored.tokens.into_iter().for_each(|token| self.stored(token));
                    }
                    None => {
                        let write = next.next().and_then(|cluster| self.decide(cluster));
                        let (token, record) = write.context("nothing to store")?;
                        writer.store(token, record);
                    }
                }
            }
        })
    }

    /// The same with a thread that syncs after each record.
    fn decide_one_by_one(&mut self, mut journal: Journal<Counting>) -> Result<()> {
        let (jobs, work) = mpsc::channel::<(Token, GrantRecord)>();
        let (answers, results) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for (token, record) in work {
                    if answers.send((token, journal.append(&[record]))).is_err() {
                        return;
                    }
                }
            });
            for cluster in 0..self.decided.len() {
                let write = self.decide(cluster).context("nothing to store")?;
                jobs.send(write)?;
                for (token, stored) in results.try_iter() {
                    stored?;
                    self.stored(token);
                }
            }
            drop(jobs);
            for (token, stored) in results {
                stored?;
                self.stored(token);
            }
            Ok(())
        })
    }

    /// From the decision of each cluster to its last ACK.
    fn took(&self) -> Result<Vec<Duration>> {
        let both = self.decided.iter().zip(&self.told);
        let took = both.map(|(decided, told)| Some((*told)?.since((*decided)?)));
        took.collect::<Option<_>>().context("a cluster was not told of its vote")
    }
}

fn client(cluster: usize, node: u32) -> ClientId {
    ClientId(cluster as u64 * 2 + u64::from(node) + 1)
}

fn both() -> Vec<NodeInfo> {
    [1, 2].map(|node| NodeInfo { node: NodeId(node), data_center: 0, state: None }).to_vec()
}

fn is_ack(bytes: &[u8]) -> bool {
    let (_, frame) = Deframer::new(1 << 20).feed(bytes);
    let message = frame.and_then(Result::ok).and_then(|frame| Message::decode(&frame).ok());
    message.is_some_and(|message| {
        message.kind == MessageType::VoteInfo && message.options.vote == Some(Vote::Ack)
    })
}

fn record(cluster: &str) -> GrantRecord {
    GrantRecord {
        cluster: ClusterName::from(cluster),
        grant: protocol::ids::GrantId::default(),
        view: protocol::ids::ViewId::default(),
        nodes: [NodeId(1), NodeId(2)].into(),
        lease_ms: 1000,
        bound_ms: Some(1100),
        host_boot: BootId(5),
    }
}

fn open(
    place: &Path,
    name: &str,
    syncs: &Arc<AtomicUsize>,
    slower: Duration,
) -> Result<Journal<Counting>> {
    let directory = |name: String| -> Result<Counting> {
        let inner = HostDirectory::make(&place.join(name))?;
        Ok(Counting { inner, syncs: syncs.clone(), slower })
    };
    let (state, run) = (directory(name.to_owned())?, directory(format!("{name}-run"))?);
    Ok(Journal::open_in(state, Some(&run), BootId(5))?.journal)
}

/// A directory that counts the syncs of its files, and takes longer for them.
struct Counting {
    inner: HostDirectory,
    syncs: Arc<AtomicUsize>,
    slower: Duration,
}

struct CountingFile {
    inner: std::fs::File,
    syncs: Arc<AtomicUsize>,
    slower: Duration,
}

impl Counting {
    fn count(&self, inner: io::Result<std::fs::File>) -> io::Result<CountingFile> {
        Ok(CountingFile { inner: inner?, syncs: self.syncs.clone(), slower: self.slower })
    }
}

impl Directory for Counting {
    type File = CountingFile;

    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, FileError> {
        self.inner.read(name, limit)
    }

    fn create(&self, name: &str) -> io::Result<CountingFile> {
        self.count(self.inner.create(name))
    }

    fn open(&self, name: &str) -> io::Result<CountingFile> {
        self.count(self.inner.open(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }

    fn is_still(&self, name: &str, file: &CountingFile, length: u64) -> io::Result<bool> {
        self.inner.is_still(name, &file.inner, length)
    }
}

impl Storage for CountingFile {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }

    #[expect(clippy::disallowed_methods, reason = "a slow disk is one that lets its caller wait")]
    fn sync(&mut self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(self.slower);
        Storage::sync(&mut self.inner)
    }

    fn cut(&mut self, length: u64) -> io::Result<()> {
        self.inner.cut(length)
    }
}

/// A directory that is gone afterwards.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is in a scratch directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ms", self.0.as_secs_f64() * 1000.0)
    }
}

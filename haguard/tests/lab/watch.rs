//! What the nodes say of their quorum, and when.
//!
//! corosync is not asked, because a question that waits while a membership forms makes it spin. It
//! is listened to: in one place it sets its quorum, logs that, and tells libquorum's listeners
//! (`quorum_api_set_quorum`), so a line of its log is one notification, without the way through
//! its socket. (`corosync-quorumtool -m`, which listens, misses some: it waits for votequorum in
//! between.) Our nodes are asked at their status socket about a hundred times a second, which they
//! are made for.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ChildStderr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use haguard::command::demo::samples::now;
use protocol::status::{NodeStatus, QuorumState};
use protocol::time::Time;

/// What two nodes say reaches this process through two pipes and two threads. What meets for less
/// than that may not have met at all.
const BLUR: Duration = Duration::from_millis(20);

/// How often one of our nodes is asked.
const INTERVAL: Duration = Duration::from_millis(10);

/// One node said the same from then to then.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) node: u32,
    pub(crate) state: QuorumState,
    /// The number of the ring, or the epoch of the view: which of two is newer.
    pub(crate) serial: u64,
    pub(crate) members: BTreeSet<u32>,
    pub(crate) from: Time,
    /// `None`: it still says so.
    pub(crate) to: Option<Time>,
    /// It was asked, so `from` and `to` are the first and the last answer.
    sampled: bool,
    /// Which thread has heard it.
    source: usize,
}

/// Two nodes that were on two sides at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TwoSides {
    /// It was quorate,
    pub(crate) node: u32,
    /// and this one, outside its view, was quorate or frozen,
    pub(crate) other: u32,
    /// for so long.
    pub(crate) length: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    runs: Mutex<Vec<Run>>,
    changed: Condvar,
    ended: AtomicBool,
    /// Answers of our nodes, and the microseconds from each to the next question's.
    answers: AtomicU64,
    answering: AtomicU64,
}

/// Everything that was heard.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    fn runs(&self) -> MutexGuard<'_, Vec<Run>> {
        self.shared.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens to a corosync until its end; what it says also goes into a file.
    pub(crate) fn listen(&mut self, node: u32, output: ChildStderr, mut log: File) {
        let (shared, source) = (Arc::clone(&self.shared), self.threads.len());
        let listen = move || listen(&shared, node, source, output, &mut log);
        self.threads.push(std::thread::spawn(listen));
    }

    /// Asks one of our nodes as long as its host, a folder in `/proc`, has power.
    pub(crate) fn ask(&mut self, node: u32, host: PathBuf) {
        let (shared, source) = (Arc::clone(&self.shared), self.threads.len());
        self.threads.push(std::thread::spawn(move || ask(&shared, node, source, &host)));
    }

    /// How often a second our nodes have answered while they ran; `None` without such nodes.
    pub(crate) fn rate(&self) -> Option<u64> {
        let answers = self.shared.answers.load(Ordering::Relaxed);
        (answers * 1_000_000).checked_div(self.shared.answering.load(Ordering::Relaxed))
    }

    /// The node has no power from now on.
    pub(crate) fn gone(&self, node: u32, at: Time) {
        close(&mut self.runs(), node, at);
        self.shared.changed.notify_all();
    }

    /// What every node says now.
    pub(crate) fn picture(&self) -> Vec<Run> {
        self.runs().iter().filter(|run| run.to.is_none()).cloned().collect()
    }

    /// Waits for a picture; returns how long that took.
    ///
    /// # Errors
    /// What the nodes say instead when the patience is over.
    pub(crate) fn until(
        &self,
        patience: Duration,
        is_it: impl Fn(&[Run]) -> bool,
    ) -> Result<Duration, String> {
        let start = now();
        loop {
            let picture = self.picture();
            let passed = now().since(start);
            if is_it(&picture) {
                return Ok(passed);
            }
            if passed >= patience {
                return Err(words(&picture));
            }
            let runs = self.runs();
            // Whether it was woken or the time is up, it looks again.
            let wait = (patience - passed).min(Duration::from_millis(200));
            drop(self.shared.changed.wait_timeout(runs, wait));
        }
    }

    /// Every time since `since` at which a node was QUORATE in a view while a node outside that
    /// view was QUORATE or FROZEN.
    ///
    /// A node outside which has gone over into a newer view with the first one in it is no other
    /// side: corosync's nodes are told one after the other, within a turn of the token. Of our
    /// nodes' answers only what is certain counts.
    pub(crate) fn two_sides(&self, since: Time) -> Vec<TwoSides> {
        let end = now();
        let runs = self.runs();
        let mut found = Vec::new();
        for quorate in runs.iter().filter(|run| run.state == QuorumState::Quorate) {
            for other in runs.iter().filter(|run| run.state != QuorumState::Inquorate) {
                let outside = other.node != quorate.node && !quorate.members.contains(&other.node);
                let joined = other.serial > quorate.serial && other.members.contains(&quorate.node);
                if !outside || joined && !other.sampled {
                    continue;
                }
                let from = quorate.from.max(other.from).max(since);
                let to = quorate.to.unwrap_or(end).min(other.to.unwrap_or(end));
                let length = to.since(from);
                let blur = if other.sampled { Duration::ZERO } else { BLUR };
                if length > blur {
                    found.push(TwoSides { node: quorate.node, other: other.node, length });
                }
            }
        }
        found
    }

    /// The whole story since then, in milliseconds from then.
    pub(crate) fn story(&self, since: Time) -> String {
        let runs = self.runs();
        let lately = runs.iter().filter(|run| run.to.is_none_or(|to| to > since));
        let lines = lately.map(|run| {
            let to = run.to.map_or("now".to_owned(), |to| to.since(since).as_millis().to_string());
            format!(
                "    {:>6} to {to:>6}  node {} {:?} in {} of {:?}\n",
                run.from.since(since).as_millis(),
                run.node,
                run.state,
                run.serial,
                run.members
            )
        });
        lines.collect()
    }

    /// Waits for the threads, whose peers are gone.
    pub(crate) fn end(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// The nodes that are quorate now, if they are one side.
pub(crate) fn side(picture: &[Run]) -> Option<BTreeSet<u32>> {
    let mut quorate = picture.iter().filter(|run| run.state == QuorumState::Quorate);
    let first = quorate.next()?;
    let one = quorate.all(|run| (run.serial, &run.members) == (first.serial, &first.members));
    let nodes = picture
        .iter()
        .filter(|run| run.state == QuorumState::Quorate)
        .map(|run| run.node)
        .collect();
    (one && nodes == first.members).then_some(nodes)
}

/// A picture in a line.
pub(crate) fn words(picture: &[Run]) -> String {
    let mut runs: Vec<_> = picture.iter().collect();
    runs.sort_by_key(|run| run.node);
    let words = runs.iter().map(|run| {
        let members: Vec<_> = run.members.iter().map(u32::to_string).collect();
        format!("{} {:?} in {{{}}}", run.node, run.state, members.join(","))
    });
    words.collect::<Vec<_>>().join(", ")
}

fn close(runs: &mut [Run], node: u32, at: Time) {
    for run in runs.iter_mut().filter(|run| run.node == node && run.to.is_none()) {
        run.to = Some(at);
    }
}

impl Shared {
    /// Takes in what a node says; `before` is until when it is known to have said otherwise.
    fn add(&self, run: Run, before: Time) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        let open = runs.iter().find(|old| old.node == run.node && old.to.is_none());
        let same = open.is_some_and(|old| {
            (old.state, old.serial) == (run.state, run.serial) && old.members == run.members
        });
        if !same {
            close(&mut runs, run.node, before);
            runs.push(run);
            self.changed.notify_all();
        }
    }

    /// What this source has heard is over.
    fn gone(&self, source: usize, at: Time) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        for run in runs.iter_mut().filter(|run| run.source == source && run.to.is_none()) {
            run.to = Some(at);
        }
        self.changed.notify_all();
    }
}

fn listen(shared: &Shared, node: u32, source: usize, output: ChildStderr, log: &mut File) {
    let mut said = Said::default();
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let at = now();
        // A full disk is no reason to stop listening.
        let _ = writeln!(log, "{line}");
        if let Some(members) = said.take_in(&line) {
            let state = if said.primary { QuorumState::Quorate } else { QuorumState::Inquorate };
            let serial = said.ring;
            let run =
                Run { node, state, serial, members, from: at, to: None, sampled: false, source };
            shared.add(run, at);
        }
    }
    shared.gone(source, now());
}

/// What corosync has said so far.
#[derive(Debug, Default)]
struct Said {
    ring: u64,
    primary: bool,
}

impl Said {
    /// Reads a line; the members end what is said at a change of quorum.
    fn take_in(&mut self, line: &str) -> Option<BTreeSet<u32>> {
        if let Some((_, rest)) = line.split_once("A new membership (") {
            let ring = rest.split(')').next().unwrap_or_default();
            let serial = ring.rsplit('.').next().unwrap_or_default();
            self.ring = u64::from_str_radix(serial, 16).unwrap();
        } else if line.contains("is within the primary component") {
            self.primary = true;
        } else if line.contains("is within the non-primary component") {
            self.primary = false;
        } else if let Some((_, rest)) = line.split_once("[QUORUM] Members[") {
            let (_, members) = rest.split_once(':')?;
            return Some(members.split_whitespace().map(|id| id.parse().unwrap()).collect());
        }
        None
    }
}

/// An answer was true at some instant between asking and hearing it, so a run is certain from the
/// first that was heard to the last that was asked for.
fn ask(shared: &Shared, node: u32, source: usize, host: &Path) {
    let (_sender, nothing) = channel::<()>();
    let socket = host.join("root/run/haguard/node.sock");
    let mut last: Option<Time> = None;
    while !shared.ended.load(Ordering::Relaxed) && host.exists() {
        let asked = now();
        if let Some(status) = question(&socket) {
            let members = status.members.iter().copied().collect();
            let (state, serial, from) = (status.state, status.epoch, now());
            let run = Run { node, state, serial, members, from, to: None, sampled: true, source };
            shared.add(run, last.unwrap_or(from));
            if let Some(last) = last {
                let passed = u64::try_from(asked.since(last).as_micros()).unwrap();
                shared.answers.fetch_add(1, Ordering::Relaxed);
                shared.answering.fetch_add(passed, Ordering::Relaxed);
            }
            last = Some(asked);
        } else if let Some(last) = last.take() {
            shared.gone(source, last);
        }
        let _ = nothing.recv_timeout(INTERVAL);
    }
    if let Some(last) = last {
        shared.gone(source, last);
    }
}

/// What a node says of itself at its status socket; `None` where nobody answers.
pub(crate) fn question(socket: &Path) -> Option<NodeStatus> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(250))).ok()?;
    stream.write_all(b"status\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    serde_json::from_slice(&answer).ok()
}

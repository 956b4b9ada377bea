//! What the nodes said of themselves, and when: every node's status socket is asked every
//! [`INTERVAL`], and equal answers in a row become one [`Run`].
//!
//! An answer was true at some instant between asking and hearing it; both times are kept, so that
//! the verdict can say what is certain and what is possible.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::status::{NodeStatus, QuorumState};
use protocol::time::Time;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often each node is asked.
pub const INTERVAL: Duration = Duration::from_millis(10);
/// A node that has not answered by then says nothing now. Short, because an answer is true at some
/// instant of the wait.
const PATIENCE: Duration = Duration::from_millis(250);
/// More than any status.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// The time of a demo: one clock that all processes of the machine share (CLOCK_BOOTTIME).
pub fn now() -> Time {
    Time(host::clock::read().boottime_ns / 1000)
}

/// One question and its answer.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Who was asked.
    pub node: u32,
    /// When.
    pub asked: Time,
    /// When the answer was here, or given up.
    pub answered: Time,
    /// The answer.
    pub said: Answer,
}

/// What came of a question.
#[derive(Clone, Debug)]
pub enum Answer {
    /// The node's status.
    Status(Box<NodeStatus>),
    /// Nobody listens: the node is down.
    Down,
    /// Somebody listens and says nothing.
    Silent,
}

/// Equal answers of one node in a row.
#[derive(Clone, Debug)]
pub struct Run {
    /// Whose.
    pub node: u32,
    /// Its quorum.
    pub state: QuorumState,
    /// Its view.
    pub view: Option<String>,
    /// The view's epoch.
    pub epoch: u64,
    /// The view's members.
    pub members: Vec<u32>,
    /// When the first of them was asked for and heard.
    pub first: (Time, Time),
    /// When the last of them was asked for and heard.
    pub last: (Time, Time),
}

impl Run {
    fn of(sample: &Sample, status: &NodeStatus) -> Self {
        let times = (sample.asked, sample.answered);
        Self {
            node: sample.node,
            state: status.state,
            view: status.view.clone(),
            epoch: status.epoch,
            members: status.members.clone(),
            first: times,
            last: times,
        }
    }

    fn says_the_same(&self, other: &Self) -> bool {
        (self.node, self.state, self.epoch) == (other.node, other.state, other.epoch)
            && self.view == other.view
            && self.members == other.members
    }
}

/// How well one node was watched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// Questions that were answered, by the node or by nobody being there.
    pub answers: u32,
    /// The time those took, from each question to the next.
    pub time: Duration,
    /// The longest time from one such question to the next.
    pub longest: Duration,
}

impl Watch {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        let seconds = self.time.as_secs_f64();
        if seconds > 0.0 { f64::from(self.answers) / seconds } else { 0.0 }
    }
}

/// Everything that was heard.
#[derive(Debug, Default)]
pub struct Record {
    runs: Vec<Run>,
    open: BTreeMap<u32, usize>,
    latest: BTreeMap<u32, Sample>,
    watches: BTreeMap<u32, Watch>,
}

impl Record {
    /// Takes a sample in; true if the node says something else than before.
    pub fn add(&mut self, sample: Sample) -> bool {
        self.count(&sample);
        let open = self.open.get(&sample.node).copied();
        let changed = match &sample.said {
            Answer::Down | Answer::Silent => self.open.remove(&sample.node).is_some(),
            Answer::Status(status) => {
                let run = Run::of(&sample, status);
                match open.and_then(|at| self.runs.get_mut(at)) {
                    Some(same) if same.says_the_same(&run) => {
                        same.last = run.last;
                        false
                    }
                    Some(_) | None => {
                        self.open.insert(sample.node, self.runs.len());
                        self.runs.push(run);
                        true
                    }
                }
            }
        };
        self.latest.insert(sample.node, sample);
        changed
    }

    fn count(&mut self, sample: &Sample) {
        let Some(before) = self.latest.get(&sample.node) else { return };
        // A node that says nothing is waited for; that wait says nothing about the watching.
        if matches!(before.said, Answer::Silent) {
            return;
        }
        let watch = self.watches.entry(sample.node).or_default();
        let passed = sample.asked.since(before.asked);
        watch.answers += 1;
        watch.time += passed;
        watch.longest = watch.longest.max(passed);
    }

    /// All runs, in the order in which they began.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// A node's last answer, if it was a status.
    pub fn status(&self, node: u32) -> Option<&NodeStatus> {
        match &self.latest.get(&node)?.said {
            Answer::Status(status) => Some(status),
            Answer::Down | Answer::Silent => None,
        }
    }

    /// A node's last answer.
    pub fn latest(&self, node: u32) -> Option<&Sample> {
        self.latest.get(&node)
    }

    /// How well each node was watched.
    pub fn watches(&self) -> &BTreeMap<u32, Watch> {
        &self.watches
    }
}

/// Asks all nodes until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    record: Arc<Mutex<Record>>,
    _tasks: JoinSet<()>,
}

impl Sampler {
    /// Starts asking. Wants a tokio runtime.
    pub fn start(sockets: BTreeMap<u32, PathBuf>) -> Self {
        let record = Arc::new(Mutex::new(Record::default()));
        let mut tasks = JoinSet::new();
        for (node, socket) in sockets {
            tasks.spawn(ask_for_ever(node, socket, Arc::clone(&record)));
        }
        Self { record, _tasks: tasks }
    }

    /// Looks at the record.
    pub fn read<R>(&self, look: impl FnOnce(&Record) -> R) -> R {
        look(&self.record.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn ask_for_ever(node: u32, socket: PathBuf, record: Arc<Mutex<Record>>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = now();
        let said = ask(&socket).await;
        let sample = Sample { node, asked, answered: now(), said };
        record.lock().unwrap_or_else(PoisonError::into_inner).add(sample);
    }
}

async fn ask(socket: &Path) -> Answer {
    let Ok(Ok(stream)) = timeout(PATIENCE, UnixStream::connect(socket)).await else {
        return Answer::Down;
    };
    match timeout(PATIENCE, question(stream)).await {
        Ok(Some(status)) => Answer::Status(Box::new(status)),
        // It went away while it was asked.
        Ok(None) => Answer::Down,
        Err(_) => Answer::Silent,
    }
}

async fn question(mut stream: UnixStream) -> Option<NodeStatus> {
    stream.write_all(b"status\n").await.ok()?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
    serde_json::from_slice(&answer).ok()
}

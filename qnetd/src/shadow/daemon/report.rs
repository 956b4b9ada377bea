//! Where differences go: the log, a file of JSON lines, and the answer to `status`.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use protocol::ids::{ClusterName, NodeId};
use serde::Serialize;
use tracing::{error, info, warn};

use super::Summary;
use crate::shadow::core::{Difference, Reason, Wait};

/// Differences that `status` shows.
const SHOWN_MAX: usize = 100;

/// Counts, and hands on.
#[derive(Debug)]
pub(super) struct Reporter {
    path: Option<PathBuf>,
    file: Option<File>,
    /// The last write failed, and that was said.
    is_failing: bool,
    summary: Summary,
    shown: VecDeque<String>,
}

/// One line of the file.
#[derive(Serialize)]
struct Record {
    /// Seconds since 1970-01-01 UTC.
    time: f64,
    event: &'static str,
    cluster: String,
    node: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    difference: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lasted_ms: Option<u64>,
}

#[derive(Serialize)]
struct Details {
    ring: String,
    stock: String,
    ours: String,
    decided: Option<String>,
    /// `correction`, `rule` or `bug`.
    kind: &'static str,
    /// The row of docs/decisions.md, or the number of the rule.
    name: Option<&'static str>,
    /// The number of the hazard that the row corrects.
    hazard: Option<&'static str>,
    text: String,
    waits: Option<Waits>,
}

#[derive(Serialize)]
struct Waits {
    rule: &'static str,
    text: String,
    remaining_ms: Option<u64>,
}

impl Reporter {
    /// Opens the file, if one is wanted.
    ///
    /// # Errors
    /// Why it cannot be opened.
    pub(super) fn open(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let file = path.as_deref().map(open).transpose()?;
        let (summary, shown) = (Summary::default(), VecDeque::new());
        Ok(Self { path, file, is_failing: false, summary, shown })
    }

    /// Opens the file anew, for who has moved it away.
    pub(super) fn reopen(&mut self) {
        match self.path.as_deref().map(open).transpose() {
            Ok(file) => self.file = file,
            Err(error) => error!("{error:#}; the old file stays in use"),
        }
    }

    pub(super) fn differs(&mut self, difference: &Difference) {
        // Escaped: it is whatever a client says.
        let name_of = format!("{:?}", difference.cluster.to_string());
        self.summary.differences += 1;
        let (name, hazard) = match &difference.reason {
            Reason::Correction(row) => {
                self.summary.corrections += 1;
                info!("difference: cluster {name_of}, {difference}");
                (Some(row.name()), row.hazard())
            }
            Reason::Rule(wait) => {
                self.summary.waits += 1;
                info!("difference: cluster {name_of}, {difference}");
                (Some(wait.what.rule()), None)
            }
            Reason::Bug(_) => {
                self.summary.bugs += 1;
                warn!("difference: cluster {name_of}, {difference}");
                (None, None)
            }
        };
        if self.shown.len() >= SHOWN_MAX {
            self.shown.pop_front();
        }
        self.shown.push_back(format!("cluster {name_of}, {difference}"));
        let own_wait = match &difference.reason {
            Reason::Rule(wait) => Some(*wait),
            Reason::Correction(_) | Reason::Bug(_) => None,
        };
        let details = Details {
            ring: difference.ring.to_string(),
            stock: difference.stock.to_string(),
            ours: difference.ours.to_string(),
            decided: difference.decided.map(|decided| decided.to_string()),
            kind: difference.reason.kind(),
            name,
            hazard,
            text: difference.to_string(),
            waits: difference.waits.or(own_wait).map(waits),
        };
        self.write("difference", &difference.cluster, difference.node, Some(details), None);
    }

    pub(super) fn agrees(&mut self, cluster: &ClusterName, node: NodeId, lasted: Duration) {
        let (name, ms) = (cluster.to_string(), lasted.as_millis());
        info!("cluster {name:?}, node {node}: both say the same again, after {ms} ms");
        self.write("agreement", cluster, node, None, Some(milliseconds(lasted)));
    }

    pub(super) fn summary(&self) -> Summary {
        self.summary
    }

    /// The last differences, one a line.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for line in &self.shown {
            // Writing to a string does not fail.
            let _ = writeln!(text, "    {line}");
        }
        text
    }

    fn write(
        &mut self,
        event: &'static str,
        cluster: &ClusterName,
        node: NodeId,
        difference: Option<Details>,
        lasted_ms: Option<u64>,
    ) {
        let Some(file) = &mut self.file else { return };
        let cluster = cluster.to_string();
        let record =
            Record { time: wall_clock(), event, cluster, node: node.0, difference, lasted_ms };
        let line = serde_json::to_string(&record).map_err(std::io::Error::other);
        let written = line.and_then(|line| file.write_all(format!("{line}\n").as_bytes()));
        match written {
            Ok(()) => self.is_failing = false,
            Err(error) if !self.is_failing => {
                error!("the report cannot be written: {error}; see its disk");
                self.is_failing = true;
            }
            Err(_) => {}
        }
    }
}

fn open(path: &Path) -> anyhow::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened
        .with_context(|| format!("cannot open the report {}; may you write there?", path.display()))
}

fn waits(wait: Wait) -> Waits {
    let remaining_ms = wait.remaining.map(milliseconds);
    Waits { rule: wait.what.rule(), text: wait.what.to_string(), remaining_ms }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::disallowed_methods, reason = "people compare it with their logs")]
fn wall_clock() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

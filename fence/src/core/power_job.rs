//! A job that gives nodes power.

use std::collections::BTreeMap;

use protocol::fence::Outcome;
use protocol::ids::NodeId;
use protocol::time::Time;

use super::Token;
use super::desk::{Cause, Desk};
use super::power_on::PowerOn;
use super::run::Plan;

/// A job that gives nodes power.
#[derive(Debug)]
pub(super) struct PowerJob {
    job: u64,
    pub(super) since: Time,
    /// The request goes to disk before anything is done.
    waits: Option<Token>,
    nodes: BTreeMap<NodeId, Stage>,
}

#[derive(Debug)]
enum Stage {
    Waiting(Plan),
    Working(PowerOn),
    /// A fence of the node waits until what is out has ended.
    Stopping(Option<PowerOn>),
}

impl PowerJob {
    pub(super) fn new(now: Time, job: u64, token: Token, plans: BTreeMap<NodeId, Plan>) -> Self {
        let nodes = plans.into_iter().map(|(node, plan)| (node, Stage::Waiting(plan))).collect();
        Self { job, since: now, waits: Some(token), nodes }
    }

    pub(super) fn number(&self) -> u64 {
        self.job
    }

    pub(super) fn works_on(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }

    pub(super) fn is_over(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node is to be fenced: nothing more is begun for it.
    pub(super) fn stop(&mut self, node: NodeId) {
        if let Some(stage) = self.nodes.get_mut(&node) {
            *stage = match std::mem::replace(stage, Stage::Stopping(None)) {
                Stage::Waiting(_) => Stage::Stopping(None),
                Stage::Working(power_on) => Stage::Stopping(Some(power_on)),
                Stage::Stopping(power_on) => Stage::Stopping(power_on),
            };
        }
    }

    /// Goes as far as it can; the nodes that are over, and how.
    pub(super) fn advance(&mut self, now: Time, desk: &mut Desk) -> Vec<(NodeId, Outcome)> {
        let mut recorded = true;
        if let Some(token) = self.waits {
            match desk.written(token) {
                None => return Vec::new(),
                Some(durable) => recorded = durable,
            }
            self.waits = None;
        }
        let mut over = Vec::new();
        for (node, stage) in &mut self.nodes {
            if let Stage::Waiting(plan) = stage {
                if !recorded {
                    let why = "the request could not be written to the journal: see its disk";
                    over.push((*node, Outcome::Refused { why: why.to_owned() }));
                    continue;
                }
                let cause = Cause { job: self.job, node: *node };
                *stage = Stage::Working(PowerOn::new(desk, plan.power_levels(), cause));
            }
            let outcome = match stage {
                Stage::Waiting(_) => None,
                Stage::Working(power_on) => power_on.advance(now, desk).map(|end| match end {
                    Ok(()) => Outcome::On,
                    Err(why) => Outcome::Failed { why },
                }),
                Stage::Stopping(power_on) => {
                    let ended = power_on.as_mut().is_none_or(|power_on| power_on.wind_down(desk));
                    let why = "a fence of the node has begun".to_owned();
                    ended.then_some(Outcome::Failed { why })
                }
            };
            over.extend(outcome.map(|outcome| (*node, outcome)));
        }
        for (node, _) in &over {
            self.nodes.remove(node);
        }
        over
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        let working = |stage: &Stage| match stage {
            Stage::Working(power_on) => power_on.deadline(),
            Stage::Waiting(_) | Stage::Stopping(_) => None,
        };
        self.nodes.values().filter_map(working).min()
    }
}

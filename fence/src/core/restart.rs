//! Jobs that an earlier life of the gateway left open: what the devices read now is found out and
//! written down, and nothing is taken for done. Whoever asked asks again.

use protocol::fence::Outcome;
use protocol::ids::NodeId;
use protocol::time::Time;

use super::desk::{Cause, Desk};
use super::round::{Outlet, Round};
use super::run::{Plan, failure};
use super::{Config, OpenJob};
use crate::device::{Command, Power};

/// One job of an earlier life, for one node.
#[derive(Debug)]
pub(super) struct Interrupted {
    pub(super) job: u64,
    pub(super) node: NodeId,
    commanded: bool,
    look: Round,
}

impl Interrupted {
    pub(super) fn new(
        now: Time,
        desk: &mut Desk,
        config: &Config,
        node: NodeId,
        open: &OpenJob,
    ) -> Self {
        let all: Vec<Outlet> =
            Plan::of(config, node).power_levels().into_iter().flatten().collect();
        let cause = Cause { job: open.job, node };
        let look = Round::patient(now, desk, Command::Status, &all, Some(cause));
        Self { job: open.job, node, commanded: open.commanded, look }
    }

    /// How it ended, once that is known: always badly, for an interrupted job proves nothing.
    pub(super) fn advance(&mut self, now: Time, desk: &mut Desk) -> Option<Outcome> {
        if !self.look.advance(now, desk) {
            return None;
        }
        let reads = if self.look.all_off() {
            "the node reads off now".to_owned()
        } else {
            let on = self.look.reading(Power::On);
            match (on.is_empty(), self.look.errors()) {
                (false, _) => format!("{} read on now", on.join(", ")),
                (true, errors) if errors.is_empty() => "no device can be read".to_owned(),
                (true, errors) => format!("nothing can be read: {errors}"),
            }
        };
        let sent = if self.commanded { "after" } else { "before" };
        let why =
            format!("the gateway was interrupted {sent} its first command; {reads}; ask again");
        Some(Outcome::Failed { why: failure(self.node, &why) })
    }

    pub(super) fn deadline(&self) -> Option<Time> {
        self.look.deadline()
    }
}

//! Who asks the gateway: nodes over the network, as their daemons do, and the operator at the
//! gateway's own machine.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use fence::core::{Event, RequestId};
use node::core::Event as NodeEvent;
use protocol::fence::{Outcome, PowerAction, Progress, Request};
use protocol::ids::{Epoch, NodeId};
use protocol::time::Time;

use super::super::machine::{Input, Running};
use super::{Delivery, ToGateway, World};
use crate::network::{Network, Site};
use crate::scenario::{End, Process};

/// A connection to a gateway stands within this.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// The head of an answer comes within this.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// From one line of progress to the next.
const LINE_LIMIT: Duration = Duration::from_secs(60);
/// TCP and TLS take so many round trips, and the request half of another.
const ROUND_TRIPS: u32 = 3;

/// A node's request, at the node.
#[derive(Debug)]
pub(super) struct Asker {
    number: u64,
    /// The life of the daemon that asks.
    life: u64,
    request: Request,
    at: Time,
    /// When a line came last.
    heard: Option<Time>,
    /// Its name at the gateway.
    id: Option<RequestId>,
}

/// An open request, at the gateway.
#[derive(Debug)]
pub(super) enum Door {
    /// A node's.
    Node {
        node: NodeId,
        /// The life of the daemon that asks.
        life: u64,
        number: u64,
        /// What waits to be sent.
        lines: VecDeque<NodeEvent>,
        /// A pause before sending again is under way; so many came before it.
        attempts: Option<u32>,
        /// No later line arrives before this.
        last: Time,
        /// The last line was said.
        over: bool,
    },
    /// The operator's.
    Operator {
        /// Of which node he speaks.
        node: NodeId,
        /// It has power, and its switch will say so.
        watched: bool,
    },
}

impl Door {
    pub(super) fn operator(node: NodeId, watched: bool) -> Self {
        Self::Operator { node, watched }
    }
}

impl World {
    /// A node's core wants power to be cut; what it asked for before is of no interest any more.
    pub(in super::super) fn ask_gateway(
        &mut self,
        node: NodeId,
        targets: BTreeSet<NodeId>,
        epoch: Epoch,
    ) {
        let Some(life) = self.hosts.get(&node).map(|host| host.node.life) else { return };
        if !self.scenario.topology.gateway {
            return;
        }
        if let Some(id) = self.gateway.askers.remove(&node).and_then(|asker| asker.id)
            && let Some(pause) = self.network.packet(Site::Node(node), Site::Gateway)
        {
            self.put_in(pause, Delivery::Gateway(self.gateway.slot.life(), ToGateway::Gone(id)));
        }
        self.gateway.requests += 1;
        let number = self.gateway.requests;
        let request = Request {
            requester: node,
            epoch: Some(epoch),
            targets,
            action: PowerAction::Reboot,
            reason: "lost".to_owned(),
        };
        let asker = Asker { number, life, request, at: self.now, heard: None, id: None };
        self.gateway.askers.insert(node, asker);
        self.knock(node, number, 0);
    }

    fn asker(&mut self, node: NodeId, number: u64) -> Option<&mut Asker> {
        self.gateway.askers.get_mut(&node).filter(|asker| asker.number == number)
    }

    /// A node tries to connect.
    pub(crate) fn knock(&mut self, node: NodeId, number: u64, tries: u32) {
        let running = self.hosts.get(&node).map(|host| (host.node.is_running(), host.node.life));
        let (now, me) = (self.now, Site::Node(node));
        let Some(asker) = self.asker(node, number) else { return };
        let since = asker.at;
        if running != Some((true, asker.life)) {
            self.gateway.askers.remove(&node);
            return;
        }
        let there = self.network.packet(me, Site::Gateway);
        let back = self.network.packet(Site::Gateway, me);
        let pause = there.zip(back).map(|(there, back)| there + back);
        match pause {
            Some(pause) if self.gateway.slot.is_running() => {
                let knock = ToGateway::Knock { node, number };
                let life = self.gateway.slot.life();
                self.put_in(pause * ROUND_TRIPS, Delivery::Gateway(life, knock));
            }
            Some(pause) => self.unanswered(node, number, now + pause, "connection refused"),
            None if now >= since + CONNECT_LIMIT => {
                self.unanswered(node, number, now, "no connection in time");
            }
            None => {
                let again = Delivery::Knock { node, number, tries: tries + 1 };
                self.put_in(Network::resend_pause(tries), again);
            }
        }
    }

    /// A node's request has come through.
    pub(super) fn let_in(&mut self, node: NodeId, number: u64) {
        let id = RequestId(number);
        let Some(asker) = self.asker(node, number) else { return };
        asker.id = Some(id);
        let (life, request) = (asker.life, asker.request.clone());
        let door = Door::Node {
            node,
            life,
            number,
            lines: VecDeque::new(),
            attempts: None,
            last: Time::ZERO,
            over: false,
        };
        self.gateway.doors.insert(id, door);
        self.handle_gateway(Event::Requested { id, request });
    }

    /// The core says something to whoever asked.
    pub(super) fn tell_requester(&mut self, id: RequestId, progress: Progress) {
        match &progress {
            Progress::Off { proof } => {
                self.check_off(proof.node, proof.boot);
                self.gateway_says(&format!("node {} is confirmed off", proof.node));
            }
            Progress::Done { results } => {
                for proof in results.values().filter_map(Outcome::proof) {
                    self.check_off(proof.node, proof.boot);
                }
            }
            Progress::Accepted { .. } | Progress::Step { .. } | Progress::Challenge { .. } => {}
        }
        match self.gateway.doors.get_mut(&id) {
            Some(Door::Operator { .. }) => {
                if let Progress::Done { .. } = progress {
                    self.gateway.doors.remove(&id);
                }
            }
            Some(Door::Node { lines, over, attempts, .. }) => {
                *over |= matches!(progress, Progress::Done { .. });
                let Some(line) = line_of(progress) else { return };
                lines.push_back(line);
                if attempts.is_none() {
                    self.send_lines(id);
                }
            }
            None => {}
        }
    }

    /// Sends what waits, as far as the link lets it through.
    pub(crate) fn send_lines(&mut self, id: RequestId) {
        loop {
            let Some(Door::Node { node, life, number, lines, attempts, over, .. }) =
                self.gateway.doors.get_mut(&id)
            else {
                return;
            };
            let (node, life, number) = (*node, *life, *number);
            if lines.is_empty() {
                *attempts = None;
                if *over {
                    self.gateway.doors.remove(&id);
                }
                return;
            }
            let pause = self.network.packet(Site::Gateway, Site::Node(node));
            let pause = pause.filter(|_| self.is_powered(End::Node(node)));
            let now = self.now;
            let Some(Door::Node { lines, attempts, last, .. }) = self.gateway.doors.get_mut(&id)
            else {
                return;
            };
            let Some(pause) = pause else {
                let tries = attempts.unwrap_or(0);
                *attempts = Some(tries + 1);
                self.put_in(Network::resend_pause(tries), Delivery::Lines(id));
                return;
            };
            *attempts = None;
            let Some(line) = lines.pop_front() else { return };
            let at = (now + pause).max(Time(last.0 + 1));
            *last = at;
            self.put(at, Delivery::Line { node, life, number, line: Box::new(line) });
        }
    }

    /// A line is there: the daemon that asked has it, if it still wants to know.
    pub(crate) fn line_comes(&mut self, node: NodeId, life: u64, number: u64, line: NodeEvent) {
        let now = self.now;
        let daemon = self.hosts.get(&node).filter(|host| host.node.is_running());
        let alive = daemon.is_some_and(|host| host.node.life == life);
        let Some(asker) = self.asker(node, number).filter(|_| alive) else { return };
        asker.heard = Some(now);
        if let NodeEvent::FenceEnded { .. } = line {
            self.gateway.askers.remove(&node);
        }
        self.input(Process::Node(node), Some(life), Input::Node(line));
    }

    /// A node's daemon gives its request up.
    fn unanswered(&mut self, node: NodeId, number: u64, at: Time, why: &str) {
        let Some(life) = self.asker(node, number).map(|asker| asker.life) else { return };
        let line = Box::new(NodeEvent::FenceEnded { result: Err(format!("gateway: {why}")) });
        self.put(at, Delivery::Line { node, life, number, line });
    }

    /// The gateway's process is gone, and its connections with it.
    pub(super) fn slam_doors(&mut self) {
        for door in std::mem::take(&mut self.gateway.doors).into_values() {
            if let Door::Node { node, number, last, .. } = door
                && let Some(pause) = self.network.packet(Site::Gateway, Site::Node(node))
            {
                let at = (self.now + pause).max(Time(last.0 + 1));
                self.unanswered(node, number, at, "connection closed");
            }
        }
    }

    /// Requests that nobody answers are given up.
    pub(super) fn requesters_look(&mut self) {
        let now = self.now;
        let late = self.gateway.askers.iter().filter(|(_, asker)| match asker.heard {
            Some(heard) => now >= heard + LINE_LIMIT,
            None => now >= asker.at + CONNECT_LIMIT + ANSWER_LIMIT,
        });
        let late: Vec<(NodeId, u64)> = late.map(|(node, asker)| (*node, asker.number)).collect();
        for (node, number) in late {
            self.unanswered(node, number, now, "no answer in time");
        }
    }

    /// An operator says of a node that it is off whose switch will say that it is not.
    pub(super) fn is_watched(&self, target: NodeId) -> bool {
        let mut doors = self.gateway.doors.values();
        doors.any(|door| match door {
            Door::Operator { node, watched } => *node == target && *watched,
            Door::Node { .. } => false,
        })
    }

    /// An operator says of a node that it is off.
    pub(super) fn is_confirmed_by_hand(&self, target: NodeId) -> bool {
        let mut doors = self.gateway.doors.values();
        doors.any(|door| match door {
            Door::Operator { node, .. } => *node == target,
            Door::Node { .. } => false,
        })
    }
}

/// A line of progress as the node's daemon tells it to its core.
fn line_of(progress: Progress) -> Option<NodeEvent> {
    match progress {
        Progress::Accepted { job } => Some(NodeEvent::FenceProgress {
            node: None,
            text: format!("the gateway has taken it on as job {job}"),
        }),
        Progress::Step { node, text } => Some(NodeEvent::FenceProgress { node, text }),
        // No member testifies here: only the arbiter attests.
        Progress::Challenge { .. } => None,
        Progress::Off { proof } => Some(NodeEvent::FenceProof { proof }),
        Progress::Done { results } => Some(NodeEvent::FenceEnded { result: Ok(results) }),
    }
}

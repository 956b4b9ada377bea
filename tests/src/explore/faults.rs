//! How processes, machines and connections of the small world end.

use node::core::{Event as NodeEvent, Stored};
use protocol::ids::NodeId;
use qnetd::core::{ClientId, Event as ArbiterEvent, GrantRecord};

use super::cell::Cell;
use super::choice::{Channel, Parcel};
use super::print::Shared;
use crate::scenario::{End, Process};

impl Cell {
    pub(super) fn commit_node(&mut self, node: NodeId, state: Stored) {
        let epoch = state.epoch;
        if let Some(host) = self.hosts.get_mut(&node) {
            let before = host.stored.get().epoch;
            host.stored = Shared::new(state);
            if epoch < before {
                self.report("S4", format!("node {node} stores epoch {epoch} after {before}"));
            }
        }
    }

    pub(super) fn commit_grant(&mut self, record: GrantRecord) {
        let epoch = record.grant.epoch;
        let before = self.server.journal.get().last().map(|old| old.grant.epoch);
        self.server.journal.change().push(record);
        if let Some(before) = before.filter(|before| *before >= epoch) {
            self.report("S4", format!("epoch {epoch} is granted after {before}"));
        }
    }

    /// What a process that dies was writing is on disk or is not.
    pub(super) fn settle_write(&mut self, process: Process, written: bool) {
        let queue = self.queues.remove(&Channel::Disk(process)).unwrap_or_default();
        for parcel in queue.iter().filter(|_| written) {
            match (parcel.get().clone(), process) {
                (Parcel::NodeWrite(_, state), Process::Node(node)) => self.commit_node(node, state),
                (Parcel::Grant(_, record), Process::Arbiter) => self.commit_grant(record),
                (_, _) => {}
            }
        }
    }

    /// A process is gone at once; the kernel closes what it had open.
    pub(super) fn kill(&mut self, process: Process) {
        match process {
            Process::Node(node) => {
                let Some(host) = self.hosts.get_mut(&node) else { return };
                host.node.machine = None;
                let plugged = host.device.machine.is_some();
                self.queues.remove(&Channel::ToNode(node));
                if plugged {
                    self.put(Channel::ToDevice(node), Parcel::HostGone);
                }
            }
            Process::Device(node) => {
                self.hang_up(node);
                let Some(host) = self.hosts.get_mut(&node) else { return };
                host.device.machine = None;
                let plugged = host.node.machine.is_some();
                self.queues.remove(&Channel::ToDevice(node));
                if plugged {
                    self.put(Channel::ToNode(node), Parcel::Node(NodeEvent::DeviceDown));
                }
            }
            Process::Arbiter => {
                self.server.arbiter.machine = None;
                for (stream, node) in std::mem::take(&mut self.server.streams) {
                    self.put(Channel::Down(node), Parcel::Fin(stream));
                }
            }
            Process::Keeper(_) => {}
        }
    }

    /// A machine loses power and is started again later: nobody is told, and what it had sent and
    /// nobody had received is lost.
    pub(super) fn power_off(&mut self, host: End, written: bool) {
        match host {
            End::Arbiter => {
                self.settle_write(Process::Arbiter, written);
                self.server.arbiter.machine = None;
                self.server.streams.clear();
                self.server.boot += 1;
                for node in self.setup.nodes.clone() {
                    self.queues.remove(&Channel::Down(node));
                }
                self.put_start(Process::Arbiter);
            }
            End::Node(node) => {
                self.settle_write(Process::Node(node), written);
                let Some(host) = self.hosts.get_mut(&node) else { return };
                (host.node.machine, host.device.machine, host.stream) = (None, None, None);
                host.boot += 1;
                self.queues.retain(|channel, _| match channel {
                    Channel::ToDevice(of)
                    | Channel::ToNode(of)
                    | Channel::OldUp(of)
                    | Channel::Up(of)
                    | Channel::Down(of)
                    | Channel::Beats(of, _) => *of != node,
                    Channel::Disk(_) | Channel::Start(_) => true,
                });
                self.put_start(Process::Node(node));
                self.put_start(Process::Device(node));
            }
        }
    }

    /// A process that is down is about to be started, once.
    pub(super) fn put_start(&mut self, process: Process) {
        if !self.queues.contains_key(&Channel::Start(process)) {
            self.put(Channel::Start(process), Parcel::Start);
        }
    }

    /// A connection breaks: both ends learn it, and what was under way is lost.
    pub(super) fn reset(&mut self, node: NodeId) {
        let Some(stream) = self.hosts.get(&node).and_then(|host| host.stream) else { return };
        self.queues.remove(&Channel::Up(node));
        self.queues.remove(&Channel::Down(node));
        self.put(Channel::Down(node), Parcel::Fin(stream));
        if self.server.streams.remove(&stream).is_some() {
            self.arbiter(ArbiterEvent::Closed { client: ClientId(stream) });
        }
    }
}

//! What each fault does when it begins and when it ends.

use std::time::Duration;

use node::core::Event as NodeEvent;
use protocol::ids::{ArbiterId, BootId, NodeId};
use qdevice::core::Event as DeviceEvent;

use super::World;
use super::machine::{DiskFaults, Input};
use crate::sabotage::Sabotage;
use crate::scenario::{ArbiterState, End, Fault, Process};

impl World {
    pub(super) fn fault(&mut self, index: usize, begins: bool) {
        let Some(timed) = self.scenario.faults.get(index).cloned() else { return };
        let word = if begins { "begins" } else { "ends" };
        self.trace.line(self.now, "fault", format_args!("{word}: {:?}", timed.fault));
        match timed.fault {
            Fault::Cut { from, to, one_way } => {
                self.network.cut(from, to, begins);
                if !one_way {
                    self.network.cut(to, from, begins);
                }
            }
            Fault::Loss { from, to, percent } => self.network.lose(from, to, percent, begins),
            Fault::Slow { from, to, ms } => self.network.slow(from, to, ms, begins),
            Fault::PowerOff { host, disk_lost } => self.power(host, !begins, disk_lost),
            Fault::Kill { process, after_actions } => self.down(process, begins, after_actions),
            Fault::Leave { process } => self.leave(process, begins),
            Fault::Freeze { process } => self.freeze(process, begins),
            Fault::Pause { host } => {
                if !begins && self.sabotage == Some(Sabotage::ClockStandsStill) {
                    self.clocks_stood_still(host, Duration::from_millis(timed.for_ms));
                }
                self.pause_host(host, begins);
            }
            Fault::ArbiterState { becomes } => self.arbiter_state(becomes, begins),
            Fault::DiskFull { host } => {
                if let Some(disk) = self.disk(host) {
                    disk.full = if begins { disk.full + 1 } else { disk.full.saturating_sub(1) };
                }
            }
            Fault::SlowDisk { host, ms } => {
                if let Some(disk) = self.disk(host) {
                    if begins {
                        disk.slow_ms.push(ms);
                    } else if let Some(at) = disk.slow_ms.iter().position(|slow| *slow == ms) {
                        disk.slow_ms.remove(at);
                    }
                }
            }
            Fault::Stubborn { host: End::Node(node) } => {
                if let Some(host) = self.hosts.get_mut(&node) {
                    let before = host.stubborn;
                    host.stubborn = if begins { before + 1 } else { before.saturating_sub(1) };
                    host.children.iter_mut().for_each(|child| child.stubborn |= begins);
                }
            }
            Fault::Crash { host: End::Node(node) } if begins => {
                let pids = self.hosts.get(&node).map(|host| host.children.clone());
                for child in pids.unwrap_or_default() {
                    self.child_ends(node, child.pid);
                }
            }
            Fault::OtherArbiter { host: End::Node(node), kind } => {
                self.mislead(node, kind, begins);
            }
            Fault::Gateway { does, host, by } => self.gateway_fault(does, host, by, begins),
            Fault::Configure { host: End::Node(node), generation } if begins => {
                self.configure(node, generation);
            }
            Fault::Crash { .. }
            | Fault::Stubborn { .. }
            | Fault::OtherArbiter { .. }
            | Fault::Configure { .. } => {}
        }
    }

    /// Sabotage: no process of a machine has seen time go by.
    fn clocks_stood_still(&mut self, end: End, by: Duration) {
        let End::Node(node) = end else { return };
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.node.clock = host.node.clock.delayed(by);
        host.device.clock = host.device.clock.delayed(by);
        host.keeper.clock = host.keeper.clock.delayed(by);
    }

    fn disk(&mut self, end: End) -> Option<&mut DiskFaults> {
        match end {
            End::Arbiter => Some(&mut self.server.disk),
            End::Node(node) => self.hosts.get_mut(&node).map(|host| &mut host.disk),
        }
    }

    /// The process dies and is held down, or may come back.
    fn down(&mut self, process: Process, begins: bool, after_actions: u32) {
        let Some(slot) = self.slot(process) else { return };
        let held = slot.hold(begins);
        if begins && after_actions > 0 && slot.is_running() {
            *slot.kill_after() = Some(after_actions);
        } else if begins {
            self.kill(process);
        } else if held == 0 {
            // One that has not done its actions yet dies now.
            let due = slot.kill_after().is_some();
            if due {
                self.kill(process);
            }
            self.start_later(process, 1000, 5000);
        }
    }

    fn leave(&mut self, process: Process, begins: bool) {
        let Some(slot) = self.slot(process) else { return };
        let held = slot.hold(begins);
        if !begins {
            if held == 0 {
                self.kill(process);
                self.start_later(process, 1000, 5000);
            }
            return;
        }
        match process {
            Process::Node(_) => {
                self.local(process, process, Input::Node(NodeEvent::Leave));
            }
            Process::Device(_) => {
                self.local(process, process, Input::Device(DeviceEvent::Leave));
            }
            Process::Keeper(_) | Process::Arbiter => self.kill(process),
        }
    }

    fn freeze(&mut self, process: Process, begins: bool) {
        if begins {
            if let Some(slot) = self.slot(process) {
                slot.freeze(true);
            }
        } else {
            self.unfreeze(process);
        }
    }

    fn pause_host(&mut self, end: End, begins: bool) {
        let End::Node(node) = end else { return };
        let now = self.now;
        let Some(host) = self.hosts.get_mut(&node) else { return };
        host.paused = if begins { host.paused + 1 } else { host.paused.saturating_sub(1) };
        host.entitled_at = now;
        for process in [Process::Keeper(node), Process::Node(node), Process::Device(node)] {
            self.freeze(process, begins);
        }
    }

    fn arbiter_state(&mut self, becomes: ArbiterState, begins: bool) {
        self.down(Process::Arbiter, begins, 0);
        if !begins {
            return;
        }
        let id = ArbiterId(u128::from(self.chance(1, u64::MAX - 1)));
        let boot = BootId(u128::from(self.chance(1, u64::MAX - 1)));
        self.server.boot = boot;
        match becomes {
            ArbiterState::Lost => {
                self.server.id = id;
                self.server.opened = 0;
                self.server.journal.clear();
                self.server.fencing = None;
                self.monitor.memory_lost(None);
                let nodes: Vec<NodeId> = self.hosts.keys().copied().collect();
                for node in nodes {
                    if let Some(host) = self.hosts.get_mut(&node) {
                        host.pin = None;
                    }
                    self.kill(Process::Device(node));
                    self.start_later(Process::Device(node), 1000, 100_000);
                }
            }
            ArbiterState::Restored => {
                self.server.opened = self.server.opened.saturating_sub(1);
                self.server.journal.pop();
                self.monitor.grants_restored();
                if self.server.journal.is_empty() {
                    // A backup from before the first grant.
                    self.monitor.memory_lost(None);
                }
            }
        }
    }
}

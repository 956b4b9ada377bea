//! The nodes' machines, by the id of their node.

use protocol::ids::NodeId;
use protocol::time::Time;

use super::machine::Host;
use crate::scenario::Process;

/// A map whose keys are 1 to the number of nodes: every step looks several of them up.
#[derive(Debug)]
pub(crate) struct Hosts(Vec<(NodeId, Host)>);

impl FromIterator<Host> for Hosts {
    /// The machines of nodes 1, 2 and so on.
    fn from_iter<I: IntoIterator<Item = Host>>(hosts: I) -> Self {
        Self((1..).map(NodeId).zip(hosts).collect())
    }
}

impl Hosts {
    fn index(node: NodeId) -> Option<usize> {
        usize::try_from(node.0).ok()?.checked_sub(1)
    }

    pub(crate) fn get(&self, node: &NodeId) -> Option<&Host> {
        self.0.get(Self::index(*node)?).map(|(_, host)| host)
    }

    pub(crate) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Host> {
        self.0.get_mut(Self::index(*node)?).map(|(_, host)| host)
    }

    /// When the newest word arrives from a process to another one on its machine, or to itself.
    pub(super) fn channel(&mut self, from: Process, to: Process) -> Option<&mut Time> {
        let place = |process: Process| match process {
            Process::Node(node) => Some((node, 0)),
            Process::Device(node) => Some((node, 1)),
            Process::Keeper(node) => Some((node, 2)),
            Process::Arbiter => None,
        };
        let ((node, from), (_, to)) = (place(from)?, place(to)?);
        self.get_mut(&node)?.channels.get_mut::<usize>(from)?.get_mut::<usize>(to)
    }

    /// In the order of their ids, as everything below.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Host)> + Clone {
        self.0.iter().map(|(node, host)| (node, host))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &NodeId> {
        self.0.iter().map(|(node, _)| node)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Host> {
        self.0.iter().map(|(_, host)| host)
    }
}

impl<'a> IntoIterator for &'a mut Hosts {
    type Item = (&'a NodeId, &'a mut Host);
    type IntoIter = std::iter::Map<
        std::slice::IterMut<'a, (NodeId, Host)>,
        fn(&'a mut (NodeId, Host)) -> (&'a NodeId, &'a mut Host),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut().map(|(node, host)| (&*node, host))
    }
}

//! The lists that tell the arbiter what the host sees (wire 2.4).

use protocol::ids::NodeId;
use protocol::qnet::{Message, MessageType, NodeInfo, NodeListType, NodeState, ViewNote};
use protocol::vote::Heuristics;

use super::Device;
use super::ballot::Purpose;

impl Device {
    /// The lists that a connection begins with: configuration, membership, quorum.
    pub(super) fn send_lists(&mut self) {
        if self.session.is_up() {
            self.session.lists_sent = true;
            self.send_config(NodeListType::InitialConfig);
            self.send_membership_list();
            self.send_quorum_list();
        }
    }

    pub(super) fn send_config_change(&mut self) {
        if self.session.lists_sent {
            self.send_config(NodeListType::ChangedConfig);
        }
    }

    pub(super) fn send_membership_list(&mut self) {
        let view = self.host.as_ref().and_then(|host| host.view.clone());
        let Some(view) = view.filter(|_| self.session.lists_sent) else { return };
        let highest_epoch = self.highest_epoch;
        let mut message = self.node_list(NodeListType::Membership);
        message.options.ring = Some(view.id.ring);
        message.options.nodes = view.members.iter().map(|node| member(*node)).collect();
        message.options.heuristics =
            Some(self.heuristics).filter(|result| *result != Heuristics::Undefined);
        message.options.view_note =
            Some(ViewNote { nonce: view.id.nonce, epoch: view.epoch, highest_epoch });
        self.send(&message);
    }

    /// Never before the membership list of its view, which waits for the heuristics: a stock
    /// arbiter looks again at a quorum list, and then has to know the members (wire 5).
    pub(super) fn send_quorum_list(&mut self) {
        if matches!(self.heuristics_running, Some(Purpose::View | Purpose::Connect)) {
            return;
        }
        let quorum = self.host.as_ref().and_then(|host| host.quorum.clone());
        let Some(quorum) = quorum.filter(|_| self.session.lists_sent) else { return };
        let mut message = self.node_list(NodeListType::Quorum);
        message.options.quorate = Some(quorum.quorate);
        let nodes = quorum.nodes.iter().map(|(node, present)| NodeInfo {
            state: Some(if *present { NodeState::Member } else { NodeState::Dead }),
            ..member(*node)
        });
        message.options.nodes = nodes.collect();
        self.send(&message);
    }

    pub(super) fn send_heuristics_change(&mut self) {
        if !self.session.lists_sent || self.heuristics == Heuristics::Undefined {
            return;
        }
        let seq = self.session.next_seq();
        let mut message = Message::new(MessageType::HeuristicsChange, Some(seq));
        message.options.heuristics = Some(self.heuristics);
        self.send(&message);
    }

    fn send_config(&mut self, list: NodeListType) {
        let Some(welcome) = self.host.as_ref().map(|host| host.welcome.clone()) else { return };
        let mut message = self.node_list(list);
        let nodes = welcome.nodes.iter();
        let nodes = nodes.map(|(node, center)| NodeInfo { data_center: *center, ..member(*node) });
        message.options.nodes = nodes.collect();
        message.options.config_version = welcome.config_version;
        self.send(&message);
    }

    fn node_list(&mut self, list: NodeListType) -> Message {
        let seq = self.session.next_seq();
        let mut message = Message::new(MessageType::NodeList, Some(seq));
        message.options.list_type = Some(list);
        message
    }
}

fn member(node: NodeId) -> NodeInfo {
    NodeInfo { node, data_center: 0, state: None }
}

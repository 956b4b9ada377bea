//! What the stock arbiter may have told each client by its own rule (wire 4), event by event: so
//! that a vote that it should not have sent is told from one that ours would not send.

use std::collections::BTreeSet;

use protocol::ids::{ClusterName, ViewId};
use protocol::qnet::NodeListType;
use protocol::time::Time;
use protocol::vote::{Algorithm, Vote};

use super::pair::Pair;
use super::stock_rule::{Answer, Voter, answers, lms_at_report};
use super::{PairId, Shadow};

/// What a client did that may have led to a vote.
#[derive(Clone, Debug)]
pub(super) enum Occasion {
    /// A configuration list.
    Config(NodeListType),
    /// A membership list, with the client as it was before.
    Membership(Box<Option<Voter>>),
    /// A quorum list, or a question for the vote.
    Asked,
    /// A new result of its heuristics.
    Heuristics,
    /// It came, with nothing reported yet.
    Came,
    /// It left, being this.
    Left(Box<Voter>),
}

impl Shadow {
    /// The clients of a cluster that the stock arbiter has let in, by node.
    pub(super) fn voters(&self, now: Time, cluster: &ClusterName) -> Vec<Voter> {
        let selected = self.clusters.get(cluster).map(|watch| &watch.selected);
        let inside = self.pairs.values().filter(|pair| pair.is_in && pair.is_of(cluster));
        let voter = |pair: &Pair| {
            let asked = pair.asked.as_ref()?;
            let mut voter = pair.voter(now, asked);
            if asked.algorithm == Algorithm::Ffsplit {
                voter.held_there = selected.is_some_and(|nodes| nodes.contains(&asked.node));
            }
            Some(voter)
        };
        let mut voters: Vec<Voter> = inside.filter_map(voter).collect();
        voters.sort_by_key(|voter| voter.node);
        voters
    }

    /// Takes an occasion in; `caller` is `None` when the client is gone.
    pub(super) fn predict(
        &mut self,
        now: Time,
        cluster: &ClusterName,
        caller: Option<PairId>,
        occasion: &Occasion,
    ) {
        let mut inside = self.pairs.values().filter(|pair| pair.is_in && pair.is_of(cluster));
        let algorithm = inside.find_map(|pair| pair.asked.as_ref()).map(|asked| asked.algorithm);
        match algorithm {
            Some(Algorithm::Test) => match occasion {
                Occasion::Membership(_) | Occasion::Asked => self.allow(caller, &[Answer::Ack]),
                Occasion::Config(_) | Occasion::Heuristics | Occasion::Came | Occasion::Left(_) => {
                }
            },
            Some(Algorithm::Ffsplit) => self.predict_ffsplit(now, cluster, caller, occasion),
            Some(Algorithm::Lms | Algorithm::TwoNodeLms) => {
                self.predict_lms(now, cluster, caller, occasion);
            }
            None => {}
        }
    }

    /// Wire 4.2: one decision for all, but for the cases that are answered without.
    fn predict_ffsplit(
        &mut self,
        now: Time,
        cluster: &ClusterName,
        caller: Option<PairId>,
        occasion: &Occasion,
    ) {
        let pair = caller.and_then(|id| self.pairs.get(&id));
        let has_config = pair.is_some_and(|pair| !pair.config.is_empty());
        let has_members = pair.is_some_and(|pair| !pair.members.is_empty());
        let decides = match occasion {
            Occasion::Config(list) => *list == NodeListType::ChangedConfig && has_members,
            Occasion::Membership(_) => has_config,
            Occasion::Heuristics => has_config && has_members,
            Occasion::Left(_) => true,
            Occasion::Asked | Occasion::Came => return,
        };
        if !decides {
            self.allow(caller, &[Answer::Wait]);
            return;
        }
        let mut voters = self.voters(now, cluster);
        let left = match occasion {
            Occasion::Left(voter) => Some((**voter).clone()),
            Occasion::Config(_)
            | Occasion::Membership(_)
            | Occasion::Asked
            | Occasion::Heuristics
            | Occasion::Came => None,
        };
        voters.extend(left.clone());
        let answers = answers(Algorithm::Ffsplit, &voters, &[]);
        let is_stable = answers.values().any(|answer| *answer != Answer::Wait);
        if let Some(watch) = self.clusters.get_mut(cluster) {
            watch.left = left;
            if is_stable {
                let winner = voters.iter().find(|v| answers.get(&v.node) == Some(&Answer::Ack));
                watch.selected = winner.map(|v| v.members.clone()).unwrap_or_default();
            }
        }
        if !is_stable {
            self.allow(caller, &[Answer::Wait]);
            return;
        }
        for pair in self.pairs.values_mut().filter(|pair| pair.is_in && pair.is_of(cluster)) {
            if let Some(answer) = pair.node().and_then(|node| answers.get(&node)) {
                pair.allowed = BTreeSet::from([*answer]);
            }
        }
    }

    /// Wire 4.3, 4.4: only the caller is answered; under lms those that wait are looked at again
    /// by a timer, and a request that is not answered yet may be judged before or after this one.
    fn predict_lms(
        &mut self,
        now: Time,
        cluster: &ClusterName,
        caller: Option<PairId>,
        occasion: &Occasion,
    ) {
        let pair = caller.and_then(|id| self.pairs.get(&id));
        let asked = pair.and_then(|pair| Some((pair.asked.clone()?, pair.view)));
        if let Some((asked, view)) = asked {
            let voters = self.voters(now, cluster);
            let is_lms = asked.algorithm == Algorithm::Lms;
            let current = answers(asked.algorithm, &voters, &[]).get(&asked.node).copied();
            let at_report = |voters: &[Voter]| lms_at_report(voters, asked.node, view);
            match occasion {
                Occasion::Membership(before) if is_lms => {
                    let first = at_report(&replaced(voters, before.as_ref().as_ref()));
                    let later = current.filter(|_| first == Some(Answer::Wait));
                    self.allow(caller, &first.into_iter().chain(later).collect::<Vec<_>>());
                    if let Some(pair) = caller.and_then(|id| self.pairs.get_mut(&id)) {
                        pair.is_of_old_data = later.is_none() && first != current;
                    }
                }
                Occasion::Asked if is_lms => {
                    self.allow(caller, &at_report(&voters).into_iter().collect::<Vec<_>>());
                }
                Occasion::Membership(_) => {
                    self.allow(caller, &current.into_iter().collect::<Vec<_>>());
                }
                Occasion::Asked => {
                    if let Some(pair) = caller.and_then(|id| self.pairs.get_mut(&id)) {
                        pair.allowed.insert(Answer::Wait);
                    }
                }
                Occasion::Config(_) | Occasion::Heuristics | Occasion::Came | Occasion::Left(_) => {
                }
            }
        }
        self.predict_others(now, cluster);
    }

    /// The clients of lms and 2nodelms whose answer is still to come, or comes again by the timer.
    pub(super) fn predict_others(&mut self, now: Time, cluster: &ClusterName) {
        let voters = self.voters(now, cluster);
        for pair in self.pairs.values_mut().filter(|pair| pair.is_in && pair.is_of(cluster)) {
            let Some(asked) = &pair.asked else { continue };
            let has_timer = match asked.algorithm {
                Algorithm::Lms => {
                    pair.allowed.contains(&Answer::Wait) && pair.stock.vote == Answer::Wait
                }
                Algorithm::TwoNodeLms => false,
                Algorithm::Test | Algorithm::Ffsplit => continue,
            };
            let is_open = !pair.members.is_empty() && (has_timer || pair.unanswered > 0);
            let answer = answers(asked.algorithm, &voters, &[]).get(&asked.node).copied();
            pair.allowed.extend(answer.filter(|_| is_open));
        }
    }

    fn allow(&mut self, caller: Option<PairId>, answers: &[Answer]) {
        if let Some(pair) = caller.and_then(|id| self.pairs.get_mut(&id)) {
            // Earlier requests that are not answered yet may be answered otherwise.
            if pair.unanswered <= 1 {
                pair.allowed.clear();
            }
            pair.allowed.extend(answers);
            pair.is_of_old_data = false;
        }
    }

    /// The stock arbiter has told a client of lms or 2nodelms something: what it will remember of
    /// that (wire 4.3; the answer of the newcomer rule is not recorded).
    pub(super) fn note_result(&mut self, now: Time, id: PairId, vote: Vote) {
        let Some(pair) = self.pairs.get(&id) else { return };
        let Some(asked) = pair.asked.clone() else { return };
        let (view, was_known) = (pair.view, pair.known_there);
        let voters = self.voters(now, &asked.cluster);
        let other_has_it = voters.iter().any(|voter: &Voter| is_rival(voter, view));
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        match vote {
            Vote::Ack => (pair.known_there, pair.held_there) = (true, true),
            Vote::Nack if !was_known && other_has_it => {}
            Vote::Nack | Vote::WaitForReply => (pair.known_there, pair.held_there) = (true, false),
            Vote::AskLater | Vote::NoChange => {}
        }
        self.predict_others(now, &asked.cluster);
    }
}

fn is_rival(voter: &Voter, view: ViewId) -> bool {
    voter.view != view && voter.held_there
}

/// The voters with one of them as it was before.
fn replaced(mut voters: Vec<Voter>, before: Option<&Voter>) -> Vec<Voter> {
    if let Some(before) = before {
        for voter in voters.iter_mut().filter(|voter| voter.node == before.node) {
            *voter = before.clone();
        }
    }
    voters
}

//! What corosync-qnetd 3.0.3 answers (wire 4), as a function of what its clients have reported,
//! with a switch for each [`Row`] that is a matter of one look at the cluster. Without rows it is
//! the stock rule; with all rows of an algorithm it says what [`crate::core::decide`] says, which
//! `qnetd/tests/shadow/rule.rs` asserts for every small cluster.
//!
//! The stock rule answers clients one by one, so this does too.

use std::collections::{BTreeMap, BTreeSet};

use protocol::ids::{NodeId, ViewId};
use protocol::vote::{Algorithm, Heuristics, TieBreaker};

use super::row::Row;

/// What a client is told in the end.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Answer {
    /// It has the vote.
    Ack,
    /// It has not.
    Nack,
    /// It waits, and casts no vote meanwhile.
    Wait,
}

/// One client as the rule sees it.
#[derive(Clone, Debug)]
pub struct Voter {
    /// Its node.
    pub node: NodeId,
    /// Its configuration list; empty: not sent.
    pub config: BTreeSet<NodeId>,
    /// Its membership list; empty: not sent.
    pub members: BTreeSet<NodeId>,
    /// The ring of that list, or of its Init.
    pub view: ViewId,
    /// The last result of its heuristics.
    pub heuristics: Heuristics,
    /// The two last results were fails.
    pub failed_twice: bool,
    /// `keep_active_partition_tie_breaker` is on.
    pub keep_active: bool,
    /// Its tie-breaker.
    pub tie_breaker: TieBreaker,
    /// Its lists are older than this arbiter's stability limit.
    pub stuck: bool,
    /// It has just left; the stock rule still counts it.
    pub leaving: bool,
    /// It is in this arbiter's grant.
    pub holds: bool,
    /// It is in the partition that the stock arbiter selected last (ffsplit), or its last result
    /// there is ACK (lms).
    pub held_there: bool,
    /// It has had a result there (lms).
    pub known_there: bool,
}

/// The answer for each client that is asked.
pub fn answers(algorithm: Algorithm, voters: &[Voter], rows: &[Row]) -> BTreeMap<NodeId, Answer> {
    let rule = Rule::new(algorithm, voters, rows);
    match algorithm {
        Algorithm::Test => rule.each(|_| Answer::Ack),
        Algorithm::Ffsplit => rule.ffsplit(),
        Algorithm::Lms => rule.lms_for_all(),
        Algorithm::TwoNodeLms => rule.asked(|voter| rule.two_node_lms(voter)),
    }
}

/// What lms answers one client that has just reported `ring` while the arbiter looks at the lists
/// from before (wire 4.3: the old data of the one that reports).
pub fn lms_at_report(voters: &[Voter], node: NodeId, ring: ViewId) -> Option<Answer> {
    let rule = Rule::new(Algorithm::Lms, voters, &[]);
    let voter = rule.voters.iter().find(|voter| voter.node == node)?;
    Some(rule.lms(voter, ring))
}

struct Rule<'a> {
    /// In the order of their nodes.
    voters: Vec<&'a Voter>,
    rows: &'a [Row],
}

impl<'a> Rule<'a> {
    fn new(algorithm: Algorithm, voters: &'a [Voter], rows: &'a [Row]) -> Self {
        let mut rule = Self { voters: voters.iter().collect(), rows };
        if algorithm != Algorithm::Ffsplit || rule.on(Row::DepartingNotCounted) {
            rule.voters.retain(|voter| !voter.leaving);
        }
        if rule.on(Row::StuckLeftOut) {
            rule.leave_out_stuck(algorithm == Algorithm::Ffsplit);
        }
        rule.voters.sort_by_key(|voter| voter.node);
        rule
    }

    fn on(&self, row: Row) -> bool {
        self.rows.contains(&row)
    }

    /// A stuck client without lists, and of two stuck ones that contradict each other the one
    /// behind.
    fn leave_out_stuck(&mut self, needs_config: bool) {
        self.voters.retain(|voter| {
            let has_config = !needs_config || !voter.config.is_empty();
            !voter.stuck || !voter.members.is_empty() && has_config
        });
        let all = self.voters.clone();
        self.voters.retain(|voter| {
            !all.iter().any(|other| voter.stuck && other.stuck && is_behind(voter, other))
        });
    }

    fn each(&self, answer: impl Fn(&Voter) -> Answer) -> BTreeMap<NodeId, Answer> {
        let staying = self.voters.iter().filter(|voter| !voter.leaving);
        staying.map(|voter| (voter.node, answer(voter))).collect()
    }

    /// Those that have reported a membership, since lms answers nobody else.
    fn asked(&self, answer: impl Fn(&Voter) -> Answer) -> BTreeMap<NodeId, Answer> {
        let mut answers = self.each(answer);
        if !self.on(Row::ListsAwaited) {
            for voter in self.voters.iter().filter(|voter| voter.members.is_empty()) {
                answers.remove(&voter.node);
            }
        }
        answers
    }

    /// Wire 4.2: `stable?`, then `select()`.
    fn ffsplit(&self) -> BTreeMap<NodeId, Answer> {
        if !self.is_stable() {
            return self.each(|_| Answer::Wait);
        }
        let winner = self.selected();
        self.each(|voter| {
            let wins = winner.is_some_and(|winner| winner.members.contains(&voter.node));
            if wins { Answer::Ack } else { Answer::Nack }
        })
    }

    fn is_stable(&self) -> bool {
        let staying: Vec<&Voter> =
            self.voters.iter().copied().filter(|voter| !voter.leaving).collect();
        let has_lists = |voter: &&Voter| !voter.config.is_empty() && !voter.members.is_empty();
        let is_occasion = staying.len() < self.voters.len() || staying.iter().any(has_lists);
        if !is_occasion || self.on(Row::ListsAwaited) && !staying.iter().all(has_lists) {
            return false;
        }
        staying.iter().all(|x| {
            staying.iter().filter(|y| y.node != x.node).all(|y| {
                let is_one_view = x.view == y.view && x.members.is_subset(&y.members);
                x.config.is_subset(&y.config) && (is_one_view || !x.members.contains(&y.node))
            })
        })
    }

    fn selected(&self) -> Option<&'a Voter> {
        let mut best = None;
        for voter in self.voters.iter().filter(|voter| !voter.leaving) {
            if self.is_better(voter, best) {
                best = Some(*voter);
            }
        }
        best
    }

    /// Wire 4.2, steps 1 and 2 of `better(x, best)`.
    fn is_better(&self, x: &Voter, best: Option<&Voter>) -> bool {
        let configured = x.config.len();
        let twice = |voter: &Voter| {
            let counted = voter.members.intersection(&voter.config).count();
            2 * if self.on(Row::ForeignNotCounted) { counted } else { voter.members.len() }
        };
        let best_is_majority = best.is_some_and(|best| twice(best) > configured);
        if twice(x) > configured {
            let stays = best.is_some_and(|best| self.side_holds(best) && !self.side_holds(x));
            return !(self.on(Row::HolderAmongMajorities) && best_is_majority && stays);
        }
        if twice(x) < configured || best_is_majority {
            return false;
        }
        match best {
            Some(best) => self.is_better_half(x, best),
            None => self.active(x) > 0,
        }
    }

    /// Step 2a to 2d: of two halves.
    fn is_better_half(&self, x: &Voter, best: &Voter) -> bool {
        if self.score(x) != self.score(best) {
            let leads = self.score(x) > self.score(best);
            let (leader, keeper) = if leads { (x, best) } else { (best, x) };
            let is_protected = self.side_holds(keeper) && !self.side_holds(leader);
            let may_move = self.active(leader) > self.active(keeper)
                || self.side(keeper).any(|voter| voter.failed_twice);
            let stays = self.on(Row::HolderOverHeuristics) && is_protected && !may_move;
            return leads != stays;
        }
        if self.active(x) != self.active(best) {
            return self.active(x) > self.active(best);
        }
        let (x_holds, best_holds) = if self.on(Row::HolderOverTieBreaker) {
            (self.side_holds(x), self.side_holds(best))
        } else {
            let kept = self.voters.iter().all(|voter| voter.keep_active);
            (kept && x.held_there, kept && best.held_there)
        };
        if x_holds != best_holds {
            return x_holds;
        }
        let preferred = match x.tie_breaker {
            TieBreaker::Lowest => x.config.first().copied(),
            TieBreaker::Highest => x.config.last().copied(),
            TieBreaker::Node(node) => Some(node),
        };
        preferred.is_some_and(|node| x.members.contains(&node))
    }

    /// The clients among the members, a leaving one included (8.8).
    fn side(&self, of: &Voter) -> impl Iterator<Item = &'a Voter> {
        self.voters.iter().copied().filter(|voter| of.members.contains(&voter.node))
    }

    fn side_holds(&self, of: &Voter) -> bool {
        self.side(of).any(|voter| voter.holds && !voter.leaving)
    }

    fn active(&self, of: &Voter) -> usize {
        self.side(of).count()
    }

    fn score(&self, of: &Voter) -> i64 {
        self.side(of).map(points).sum()
    }
}

/// The rings of one side of lms: its clients.
#[derive(Clone)]
struct Part<'a> {
    view: ViewId,
    members: &'a BTreeSet<NodeId>,
    clients: Vec<&'a Voter>,
}

impl Part<'_> {
    fn has(&self, node: NodeId) -> bool {
        self.clients.iter().any(|voter| voter.node == node)
    }

    fn score(&self) -> i64 {
        self.clients.iter().map(|voter| points(voter)).sum()
    }

    fn holds(&self) -> bool {
        self.clients.iter().any(|voter| voter.holds)
    }

    fn failed_twice(&self) -> bool {
        self.clients.iter().any(|voter| voter.failed_twice)
    }
}

impl<'a> Rule<'a> {
    fn lms_for_all(&self) -> BTreeMap<NodeId, Answer> {
        let any_pair = |wrong: &dyn Fn(&Voter, &Voter) -> bool| {
            self.voters.iter().any(|x| self.voters.iter().any(|y| wrong(x, y)))
        };
        let is_unsettled = self.on(Row::EveryoneWaits)
            && any_pair(&|x, y| rings_differ(x, x.view, y))
            || self.on(Row::MembersCompared) && any_pair(&claims_more)
            || self.on(Row::ListsAwaited) && self.voters.iter().any(|v| v.members.is_empty());
        self.asked(|voter| if is_unsettled { Answer::Wait } else { self.lms(voter, voter.view) })
    }

    /// Wire 4.3 `run(ring)` for one client.
    fn lms(&self, client: &Voter, ring: ViewId) -> Answer {
        if self.voters.iter().any(|other| rings_differ(client, ring, other)) {
            return Answer::Wait;
        }
        let mut parts = self.parts();
        if parts.len() <= 1 {
            return if parts.is_empty() { Answer::Wait } else { Answer::Ack };
        }
        let is_own = |part: &Part| {
            part.view == ring && (part.has(client.node) || !self.on(Row::MembersCompared))
        };
        let ack_if = |part: Option<&Part>| {
            if part.is_some_and(is_own) { Answer::Ack } else { Answer::Nack }
        };
        let other_has_it = self.voters.iter().any(|o| o.view != ring && o.held_there);
        if !self.on(Row::HolderStays) && !client.known_there && other_has_it {
            return Answer::Nack;
        }
        if self.on(Row::HolderStays) && parts.iter().any(|p| p.holds() && !p.failed_twice()) {
            parts.retain(Part::holds);
        }
        let mut leaders = parts.clone();
        keep_highest(&mut leaders, |part| part.score());
        if self.on(Row::HolderStays) && leaders.iter().any(Part::holds) {
            leaders.retain(Part::holds);
        }
        if leaders.len() == 1 {
            return ack_if(leaders.first());
        }
        let mut pool = if self.on(Row::LeadersOnly) { leaders } else { parts };
        let mut largest = pool.clone();
        keep_highest(&mut largest, |part| part.clients.len());
        if largest.len() == 1 {
            return ack_if(largest.first());
        }
        if self.on(Row::LeadersOnly) {
            pool = largest;
        }
        // The node itself wins whatever ring it is held to be in.
        let preferred = self.lms_tie(client, &pool);
        if preferred.is_some_and(|side| side.has(client.node)) {
            return Answer::Ack;
        }
        ack_if(preferred)
    }

    /// Step 2: the clients by ring, but those on ring 0.
    fn parts(&self) -> Vec<Part<'a>> {
        let mut parts: Vec<Part<'a>> = Vec::new();
        let counted = self
            .voters
            .iter()
            .filter(|voter| voter.view.ring.seq != 0 || self.on(Row::RingZeroCounts));
        for voter in counted {
            let is_same = |part: &&mut Part<'a>| {
                let same_members = *part.members == voter.members;
                part.view == voter.view && (same_members || !self.on(Row::MembersCompared))
            };
            match parts.iter_mut().find(is_same) {
                Some(part) => part.clients.push(voter),
                None => {
                    let (view, members) = (voter.view, &voter.members);
                    parts.push(Part { view, members, clients: vec![voter] });
                }
            }
        }
        parts
    }

    /// Step 7: the tie-breaker, among connected clients.
    fn lms_tie<'p>(&self, client: &Voter, pool: &'p [Part<'a>]) -> Option<&'p Part<'a>> {
        let ids = || pool.iter().flat_map(|part| part.clients.iter().map(|voter| voter.node));
        let side_of =
            |node: Option<NodeId>| pool.iter().find(|part| node.is_some_and(|n| part.has(n)));
        let lowest = ids().min();
        match client.tie_breaker {
            TieBreaker::Lowest => {
                let limit = NodeId(i32::MAX.unsigned_abs());
                let any = self.on(Row::EveryIdCanBeLowest);
                side_of(lowest.filter(|id| any || *id < limit))
            }
            TieBreaker::Highest => side_of(ids().max()),
            TieBreaker::Node(node) => match side_of(Some(node)) {
                Some(side) => {
                    let asked = client.node == node || self.on(Row::ExplicitForItsSide);
                    asked.then_some(side)
                }
                None if self.on(Row::ExplicitAbsent) => {
                    let member = pool.iter().find(|part| part.members.contains(&node));
                    member.or_else(|| side_of(lowest))
                }
                None => None,
            },
        }
    }

    /// Wire 4.4.
    fn two_node_lms(&self, client: &Voter) -> Answer {
        let other = self.voters.iter().copied().find(|other| other.node != client.node);
        let contradict = |x: &Voter, y: &Voter| {
            x.members.contains(&y.node) && (x.view != y.view || !x.members.is_subset(&y.members))
        };
        let disagree = other.is_some_and(|o| contradict(client, o) || contradict(o, client));
        if self.on(Row::ListsAwaited) && self.voters.iter().any(|v| v.members.is_empty())
            || self.on(Row::BothMustAgree) && disagree
        {
            return Answer::Wait;
        }
        let other_has_it = other.is_some_and(|o| o.held_there && o.view != client.view);
        if !self.on(Row::HolderStays) && !client.known_there && other_has_it {
            return Answer::Nack;
        }
        let Some(other) = other.filter(|_| client.members.len() != 2) else { return Answer::Ack };
        let wins = if self.on(Row::HolderStays) && client.holds != other.holds {
            let (keeper, rival) = if client.holds { (client, other) } else { (other, client) };
            let moves = keeper.failed_twice && points(rival) > points(keeper);
            moves != client.holds
        } else if points(client) != points(other) {
            points(client) > points(other)
        } else {
            let lower = client.node < other.node;
            match client.tie_breaker {
                TieBreaker::Lowest => lower,
                TieBreaker::Highest => !lower,
                TieBreaker::Node(node) if node == client.node || node == other.node => {
                    node == client.node
                }
                TieBreaker::Node(_) => self.on(Row::ExplicitAbsent) && lower,
            }
        };
        if wins { Answer::Ack } else { Answer::Nack }
    }
}

/// Wire 4.3, step 1: one of them has the other in its list, and their rings differ.
fn rings_differ(client: &Voter, ring: ViewId, other: &Voter) -> bool {
    let linked = client.members.contains(&other.node) || other.members.contains(&client.node);
    client.node != other.node && linked && other.view != ring
}

/// In one ring, the first claims members that the second, whom it has in its list, does not.
fn claims_more(x: &Voter, y: &Voter) -> bool {
    x.members.contains(&y.node) && x.view == y.view && !x.members.is_subset(&y.members)
}

/// The lower ring of two that were together; in one ring, the longer list.
fn is_behind(voter: &Voter, other: &Voter) -> bool {
    if voter.members.is_empty() || other.members.is_empty() {
        return false;
    }
    let linked = voter.members.contains(&other.node) || other.members.contains(&voter.node);
    linked && other.view > voter.view || claims_more(voter, other)
}

fn keep_highest<K: Copy + Ord>(parts: &mut Vec<Part>, key: impl Fn(&Part) -> K) {
    let highest = parts.iter().map(&key).max();
    parts.retain(|part| Some(key(part)) == highest);
}

fn points(voter: &Voter) -> i64 {
    match voter.heuristics {
        Heuristics::Pass => 2,
        Heuristics::Undefined => 1,
        Heuristics::Fail => 0,
    }
}

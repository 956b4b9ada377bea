//! Compares what the two arbiters have told each client, and finds the reason of a difference.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use protocol::ids::{ClusterName, NodeId};
use protocol::time::Time;
use protocol::vote::Algorithm;

use super::difference::{Difference, Reason, Wait};
use super::pair::{Asked, Pair};
use super::row::Row;
use super::stock_rule::{Answer, Voter, answers};
use super::{Action, PairId, SETTLING, SETTLING_LIMIT, Shadow};
use crate::core::decide::{ClientView, ClusterView, Decision, WaitReason, decide};

/// Clients and nodes of a list that one line of a report names.
const NAMED_MAX: usize = 8;

/// What a cluster looks like when its clients are compared.
pub(super) struct Scene {
    /// As the stock rule sees it, the client that has just left included.
    voters: Vec<Voter>,
    decision: Decision,
    wait: Option<Wait>,
}

impl Shadow {
    /// Compares all clients of a cluster; reports those whose difference has settled.
    pub(super) fn compare(&mut self, now: Time, cluster: &ClusterName) {
        let ids: Vec<PairId> = self.pairs_of(cluster);
        if ids.is_empty() {
            return;
        }
        let scene = self.scene(now, cluster);
        if let Some(watch) = self.clusters.get_mut(cluster) {
            watch.compared = Some(watch.changes);
            watch.last_wait = scene.wait.or(watch.last_wait);
        }
        for id in ids {
            self.compare_one(now, cluster, id, &scene);
        }
    }

    fn compare_one(&mut self, now: Time, cluster: &ClusterName, id: PairId, scene: &Scene) {
        let Some(watch) = self.clusters.get(cluster) else { return };
        let changes = watch.changes;
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        let Some(asked) = &pair.asked else { return };
        let wanted = wanted(&scene.decision, asked.node, pair);
        let (stock, ours) = (pair.stock.vote, pair.ours.vote);
        if stock == ours && wanted.is_none_or(|wanted| wanted == stock) {
            let lasted = pair.differs_from.take().map(|since| now.since(since));
            (pair.differs_since, pair.judged) = (None, None);
            if let (Some(_), Some(lasted)) = (pair.reported.take(), lasted) {
                let node = asked.node;
                self.actions.push_back(Action::Agreed { cluster: cluster.clone(), node, lasted });
            }
            return;
        }
        pair.differs_from.get_or_insert(now);
        if pair.differs_since.is_none() || pair.votes != (stock, ours, wanted) {
            pair.differs_since = Some(now);
            pair.votes = (stock, ours, wanted);
        }
        let due = self.pairs.get(&id).and_then(|pair| self.judged_at(pair));
        if due.is_some_and(|due| due <= now) {
            self.judge(id, scene);
            if let Some(pair) = self.pairs.get_mut(&id) {
                pair.judged = Some(changes);
            }
        }
    }

    /// When the next difference has settled.
    pub(super) fn judge_at(&self) -> Option<Time> {
        self.pairs.values().filter_map(|pair| self.judged_at(pair)).min()
    }

    /// When this one's has, unless it has been looked at since the last change.
    pub(super) fn judged_at(&self, pair: &Pair) -> Option<Time> {
        let (since, asked) = (pair.differs_since?, pair.asked.as_ref()?);
        let watch = self.clusters.get(&asked.cluster)?;
        let settled = since.max(watch.quiet_since) + patience(asked);
        let due = settled.min(since + SETTLING_LIMIT);
        (pair.judged != Some(watch.changes)).then_some(due)
    }

    /// The stock arbiter's ACK for this client is about to end, or the client's ring. An ACK that
    /// ours never gave is reported however short it was.
    pub(super) fn judge_lost_ack(&mut self, now: Time, id: PairId) {
        let Some(pair) = self.pairs.get(&id) else { return };
        let Some(asked) = &pair.asked else { return };
        let was_given = pair.stock.vote == Answer::Ack && !pair.was_acked;
        if was_given && pair.differs_since.is_some() {
            let scene = self.scene(now, &asked.cluster.clone());
            self.judge(id, &scene);
        }
    }

    fn judge(&mut self, id: PairId, scene: &Scene) {
        let Some(found) = self.difference(id, scene) else { return };
        let Some(pair) = self.pairs.get_mut(&id) else { return };
        if pair.reported.as_ref().is_some_and(|before| before.is_same(&found)) {
            return;
        }
        pair.reported = Some(found.clone());
        self.actions.push_back(Action::Report(Box::new(found)));
    }

    /// The difference with its reason; `None`: there is none, both wait for the same.
    fn difference(&self, id: PairId, scene: &Scene) -> Option<Difference> {
        // A silent one that the stock arbiter has not closed yet is compared when it is heard again.
        let pair = self.pairs.get(&id).filter(|pair| !pair.is_silent)?;
        let asked = pair.asked.as_ref()?;
        let decided = wanted(&scene.decision, asked.node, pair);
        let (stock, ours) = (pair.stock.vote, pair.ours.vote);
        let rule = answers(asked.algorithm, &scene.voters, &[]).get(&asked.node).copied();
        let is_waiting = decided.is_some_and(|decided| decided != ours);
        let is_busy = self
            .pairs
            .values()
            .any(|other| other.is_of(&asked.cluster) && other.stock.unconfirmed.is_some());
        let off_the_rule = pair.is_in && !pair.allowed.contains(&stock) && !is_busy;
        let is_replaced = pair.client.is_none() && self.is_twice(id, asked);
        let reason = if !pair.is_in || is_replaced {
            // Of two connections of a node the stock arbiter refuses the newer one (error 17), and
            // ours closes the older one.
            Reason::Correction(Row::NewestConnection)
        } else if off_the_rule {
            self.odd_or_bug(pair, asked, scene, "the stock arbiter")
        } else if let Some(decided) = decided.filter(|decided| *decided != stock) {
            if rule == Some(decided) && stock == ours && asked.algorithm == Algorithm::Ffsplit {
                return None;
            }
            match self.correction(pair, asked, scene, (rule, decided)) {
                Some(row) => Reason::Correction(row),
                None => self.odd_or_bug(pair, asked, scene, "our rule"),
            }
        } else if decided.is_some() {
            match scene.wait {
                Some(wait) => Reason::Rule(wait),
                None => self.odd_or_bug(pair, asked, scene, "our arbiter"),
            }
        } else {
            self.undecided(pair, asked, scene, rule)
        };
        let waits = scene.wait.filter(|_| is_waiting);
        let waits = waits.filter(|_| matches!(reason, Reason::Correction(_)));
        Some(Difference {
            cluster: asked.cluster.clone(),
            node: asked.node,
            ring: pair.ring(),
            stock,
            ours,
            decided,
            reason,
            waits,
        })
    }

    /// Ours decides nothing now, and the votes differ.
    fn undecided(&self, pair: &Pair, asked: &Asked, scene: &Scene, rule: Option<Answer>) -> Reason {
        let (stock, ours) = (pair.stock.vote, pair.ours.vote);
        if stock == Answer::Wait && ours != Answer::Wait && rule == Some(Answer::Wait) {
            return Reason::Correction(Row::NoWithdrawal);
        }
        if rule != Some(Answer::Wait)
            && let Some(row) = self.correction(pair, asked, scene, (rule, Answer::Wait))
        {
            return Reason::Correction(row);
        }
        if stock != Answer::Wait {
            match scene.decision {
                Decision::Wait(WaitReason::ListsMissing(_)) => {
                    return Reason::Correction(Row::ListsAwaited);
                }
                Decision::Wait(_) if pair.is_of_old_data => {
                    return Reason::Correction(Row::OldData);
                }
                Decision::Wait(_) | Decision::Give { .. } | Decision::Nobody(_) | Decision::All => {
                }
            }
        }
        // It differed already when the votes could last be decided.
        let before = self.clusters.get(&asked.cluster).and_then(|watch| watch.last_wait);
        match scene.wait.or(before) {
            Some(wait) => Reason::Rule(wait),
            None => self.odd_or_bug(pair, asked, scene, "our arbiter"),
        }
    }

    /// The row by which our rule's answer differs from what the stock arbiter has told.
    fn correction(
        &self,
        pair: &Pair,
        asked: &Asked,
        scene: &Scene,
        (rule, ours): (Option<Answer>, Answer),
    ) -> Option<Row> {
        // It has reported nothing that could be judged.
        if pair.members.is_empty() && pair.answered.is_some() {
            return pair.answered;
        }
        if rule == Some(ours) {
            // If it were asked now, it would say the same.
            let row = if pair.is_of_old_data { Row::OldData } else { Row::ReEvaluation };
            return (asked.algorithm != Algorithm::Ffsplit).then_some(row);
        }
        correcting_row(asked.algorithm, &scene.voters, asked.node, ours).or(pair.answered)
    }

    /// Another connection of the same node is here.
    fn is_twice(&self, id: PairId, asked: &Asked) -> bool {
        self.pairs.iter().any(|(other, pair)| {
            *other != id && pair.is_of(&asked.cluster) && pair.node() == Some(asked.node)
        })
    }

    fn odd_or_bug(&self, pair: &Pair, asked: &Asked, scene: &Scene, who: &str) -> Reason {
        let inside = self.pairs.values().filter(|other| other.is_of(&asked.cluster));
        let odd = pair.oddity.or_else(|| inside.filter_map(|other| other.oddity).next());
        match odd {
            Some(row) => Reason::Correction(row),
            None => Reason::Bug(views(pair, scene, who)),
        }
    }

    /// What is true of a cluster now.
    fn scene(&self, now: Time, cluster: &ClusterName) -> Scene {
        let status = self.arbiter.status(now).clusters.remove(&cluster.to_string());
        let holder = status.as_ref().map(|status| &status.holder).filter(|nodes| !nodes.is_empty());
        let holder: Option<BTreeSet<NodeId>> =
            holder.map(|nodes| nodes.iter().map(|id| NodeId(*id)).collect());
        let mut voters = self.voters(now, cluster);
        let left = self.clusters.get(cluster).and_then(|watch| watch.left.clone());
        voters.extend(left.map(|voter| Voter { leaving: true, ..voter }));
        for voter in &mut voters {
            voter.holds = holder.as_ref().is_some_and(|nodes| nodes.contains(&voter.node));
        }
        let inside = self.pairs.values().filter(|pair| pair.is_of(cluster));
        let asked = inside.clone().find_map(|pair| pair.asked.as_ref());
        let algorithm = asked.map_or(Algorithm::Ffsplit, |asked| asked.algorithm);
        let joined =
            inside.filter(|pair| pair.client.is_some_and(|client| self.arbiter.has_joined(client)));
        let clients = joined.filter_map(|pair| {
            let asked = pair.asked.as_ref()?;
            Some((asked.node, client_view(&pair.voter(now, asked))))
        });
        let decision = decide(&ClusterView { algorithm, clients: clients.collect(), holder });
        let wait = self.arbiter.waiting(now, cluster).map(|(what, until)| Wait {
            what,
            remaining: (until != Time::NEVER).then(|| until.since(now)),
        });
        Scene { voters, decision, wait }
    }
}

fn client_view(voter: &Voter) -> ClientView {
    ClientView {
        config: voter.config.clone(),
        members: voter.members.clone(),
        view: voter.view,
        heuristics: voter.heuristics,
        heuristics_failed_before: voter.failed_twice,
        tie_breaker: voter.tie_breaker,
        keep_active_partition: voter.keep_active,
        stuck: voter.stuck,
    }
}

/// The row that makes the stock rule say what ours says: one that is enough and cannot be left
/// out, else one that is enough, else one that cannot be left out, else the last of those that are
/// needed together.
pub fn correcting_row(
    algorithm: Algorithm,
    voters: &[Voter],
    node: NodeId,
    ours: Answer,
) -> Option<Row> {
    let all = Row::of(algorithm);
    // A stuck client that is left out is not asked: whatever it is told, it is for that.
    let says = |rows: &[Row]| {
        answers(algorithm, voters, rows).get(&node).is_none_or(|answer| *answer == ours)
    };
    let is_enough = |row: &Row| says(&[*row]);
    let is_needed = |row: &Row| {
        let others: Vec<Row> = all.iter().copied().filter(|other| other != row).collect();
        !says(&others)
    };
    let together =
        || (1..=all.len()).find(|count| says(&all[..*count])).map(|count| all[count - 1]);
    let find = |test: &dyn Fn(&Row) -> bool| all.iter().copied().find(|row| test(row));
    find(&|row| is_enough(row) && is_needed(row))
        .or_else(|| find(&is_enough))
        .or_else(|| find(&is_needed).filter(|_| says(all)))
        .or_else(together)
}

/// What our decision gives a client; `None`: nothing is decided.
fn wanted(decision: &Decision, node: NodeId, pair: &Pair) -> Option<Answer> {
    match decision {
        Decision::Wait(_) => None,
        Decision::Nobody(_) => Some(Answer::Nack),
        Decision::All => Some(Answer::Ack),
        Decision::Give { view, members, .. } => {
            let wins = members.contains(&node) && pair.view == *view;
            Some(if wins { Answer::Ack } else { Answer::Nack })
        }
    }
    // A client that has not reported is told nothing by either.
    .filter(|_| !pair.members.is_empty())
}

/// How long a difference must last: the stock lms looks again after a quarter of a heartbeat.
fn patience(asked: &Asked) -> Duration {
    match asked.algorithm {
        Algorithm::Lms => SETTLING + asked.heartbeat / 4,
        Algorithm::Test | Algorithm::Ffsplit | Algorithm::TwoNodeLms => SETTLING,
    }
}

/// Both views, in one line.
fn views(pair: &Pair, scene: &Scene, who: &str) -> String {
    let mut text =
        format!("{who} is off its rule; stock: told {}, its rule says ", pair.stock.vote);
    let allowed: Vec<String> = pair.allowed.iter().map(ToString::to_string).collect();
    text += &allowed.join(" or ");
    // Writing to a string does not fail.
    let _ = write!(text, "; ours: told {}, {}", pair.ours.vote, scene.decision);
    if let Some(wait) = scene.wait {
        let _ = write!(text, ", waits: {wait}");
    }
    text += "; reported:";
    for voter in scene.voters.iter().take(NAMED_MAX) {
        let members: Vec<String> =
            voter.members.iter().take(NAMED_MAX).map(ToString::to_string).collect();
        let (node, ring, members) = (voter.node, voter.view.ring, members.join(","));
        let left = if voter.leaving { ", has left" } else { "" };
        let _ =
            write!(text, " node {node} ring {ring} members {members}, {}{left};", voter.heuristics);
    }
    text.trim_end_matches(';').to_owned()
}

//! What corosync-qnetd 3.0.3 answers each client, rewritten from section 4 of the wire in the
//! manner of the original: per client, over a table, with loops. It shares nothing with the crate but
//! the names of the corrections.
//!
//! Each correction is a [`Row`]; a row that is switched on changes the stock rule in one place.
//! With no row it is the stock daemon, with all of them it must be ours.
//!
//! Not in here: the order of messages, and the old data of a client that the stock lms looks at
//! before it looks at the new (each client is taken to be asked once more after the last report).

use std::collections::BTreeSet;

use protocol::ids::{NodeId, ViewId};
use protocol::vote::{Algorithm, Heuristics, TieBreaker};
use qnetd::core::decide::ClientView;
use qnetd::shadow::core::row::Row::{self, *};

use crate::worlds::World;

/// The rows of an algorithm.
pub(crate) fn rows_of(algorithm: Algorithm) -> &'static [Row] {
    match algorithm {
        Algorithm::Test => &[],
        Algorithm::Ffsplit => &[
            DepartingNotCounted,
            ListsAwaited,
            StuckLeftOut,
            ForeignNotCounted,
            HolderOverTieBreaker,
            HolderOverHeuristics,
            HolderAmongMajorities,
        ],
        Algorithm::Lms => &[
            ListsAwaited,
            StuckLeftOut,
            HolderStays,
            EveryoneWaits,
            MembersCompared,
            RingZeroCounts,
            LeadersOnly,
            ExplicitForItsSide,
            ExplicitAbsent,
            EveryIdCanBeLowest,
        ],
        Algorithm::TwoNodeLms => {
            &[ListsAwaited, StuckLeftOut, HolderStays, BothMustAgree, ExplicitAbsent]
        }
    }
}

/// What a client is told in the end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Answer {
    Ack,
    Nack,
    Wait,
}

use Answer::*;

/// A client, sets as bits.
#[derive(Clone, Copy)]
struct Client {
    at: usize,
    id: u32,
    bit: u64,
    config: u64,
    m: u64,
    ring: ViewId,
    h: i32,
    failed_twice: bool,
    kap: bool,
    tie: TieBreaker,
    old: bool,
    leaving: bool,
    holds: bool,
    knows_result: bool,
}

/// The cluster as the stock server stores it.
struct Table {
    clients: Vec<Client>,
    ids: Vec<u32>,
    rows: u32,
}

/// The answer for each client of the view, in the order of ids; none for one that is not asked.
pub(crate) fn answers(world: &World, rows: &[Row], but: Option<Row>) -> Vec<Option<Answer>> {
    let on = rows.iter().filter(|row| Some(**row) != but);
    let rows = on.fold(0, |bits, row| bits | 1 << *row as u32);
    let table = Table::load(world, rows);
    let mut all = vec![None; world.view.clients.len()];
    let asked: Vec<(usize, Answer)> = match world.view.algorithm {
        Algorithm::Test => table.clients.iter().map(|c| (c.at, Ack)).collect(),
        Algorithm::Ffsplit => table.ffsplit(),
        Algorithm::Lms => table.lms_each(),
        Algorithm::TwoNodeLms => table.each(|c| table.two_node_lms(c)),
    };
    for (at, answer) in asked {
        if let Some(slot) = all.get_mut(at) {
            *slot = Some(answer);
        }
    }
    all
}

impl Table {
    fn load(world: &World, rows: u32) -> Table {
        let mut t = Table { clients: Vec::new(), ids: Vec::new(), rows };
        for (at, (node, c)) in world.view.clients.iter().enumerate() {
            t.add(world, at, node.0, c, false);
        }
        if let Some((node, c)) = &world.leaving
            && !t.on(DepartingNotCounted)
        {
            t.add(world, usize::MAX, node.0, c, true);
            t.clients.sort_by_key(|c| c.id);
        }
        if t.on(StuckLeftOut) {
            t.leave_stuck_ones_out(world.view.algorithm == Algorithm::Ffsplit);
        }
        t
    }

    fn add(&mut self, world: &World, at: usize, id: u32, c: &ClientView, leaving: bool) {
        let holds = world.view.holder.as_ref().is_some_and(|q| q.contains(&NodeId(id)));
        let h = match c.heuristics {
            Heuristics::Pass => 1,
            Heuristics::Undefined => 0,
            Heuristics::Fail => -1,
        };
        let client = Client {
            at,
            id,
            bit: self.bit(id),
            config: self.bits(&c.config),
            m: self.bits(&c.members),
            ring: c.view,
            h,
            failed_twice: h < 0 && c.heuristics_failed_before,
            kap: c.keep_active_partition,
            tie: c.tie_breaker,
            old: c.stuck,
            leaving,
            holds,
            knows_result: holds || !world.newcomers,
        };
        self.clients.push(client);
    }

    fn on(&self, row: Row) -> bool {
        self.rows & 1 << row as u32 != 0
    }

    fn bit(&mut self, id: u32) -> u64 {
        let at = self.ids.iter().position(|known| *known == id);
        1 << at.unwrap_or_else(|| {
            self.ids.push(id);
            self.ids.len() - 1
        })
    }

    fn bits(&mut self, nodes: &BTreeSet<NodeId>) -> u64 {
        nodes.iter().fold(0, |bits, node| bits | self.bit(node.0))
    }

    fn leave_stuck_ones_out(&mut self, config_too: bool) {
        self.clients.retain(|c| !c.old || c.m != 0 && (c.config != 0 || !config_too));
        let all = self.clients.clone();
        self.clients.retain(|c| {
            !all.iter().any(|o| {
                let linked = o.bit & c.m != 0 || c.bit & o.m != 0;
                let ahead = linked && o.ring > c.ring && o.m != 0 && c.m != 0;
                let smaller = o.bit & c.m != 0 && o.ring == c.ring && c.m & !o.m != 0 && o.m != 0;
                c.old && o.old && (ahead || smaller)
            })
        });
    }

    fn each(&self, answer: impl Fn(&Client) -> Answer) -> Vec<(usize, Answer)> {
        let reported = |c: &&Client| c.m != 0 || self.on(ListsAwaited);
        self.clients.iter().filter(reported).map(|c| (c.at, answer(c))).collect()
    }

    fn ffsplit(&self) -> Vec<(usize, Answer)> {
        let staying: Vec<&Client> = self.clients.iter().filter(|c| !c.leaving).collect();
        let tell = |answer: &dyn Fn(&Client) -> Answer| {
            staying.iter().map(|c| (c.at, answer(c))).collect::<Vec<_>>()
        };
        let occasion =
            staying.len() < self.clients.len() || staying.iter().any(|c| c.config != 0 && c.m != 0);
        let lists_missing = staying.iter().any(|c| c.config == 0 || c.m == 0);
        let mut stable = occasion && !(self.on(ListsAwaited) && lists_missing);
        for x in &staying {
            for y in staying.iter().filter(|y| y.id != x.id) {
                stable &= x.config & !y.config == 0;
                if x.m & y.bit != 0 {
                    stable &= x.ring == y.ring && x.m & !y.m == 0;
                }
            }
        }
        if !stable {
            return tell(&|_| Wait);
        }
        let mut best: Option<&Client> = None;
        for x in &staying {
            if self.ffsplit_better(x, best) {
                best = Some(x);
            }
        }
        tell(&|c| if best.is_some_and(|b| b.m & c.bit != 0) { Ack } else { Nack })
    }

    fn ffsplit_better(&self, x: &Client, best: Option<&Client>) -> bool {
        let count = x.config.count_ones();
        let size = |c: &Client| {
            let counted = if self.on(ForeignNotCounted) { c.m & c.config } else { c.m };
            counted.count_ones()
        };
        let side_holds =
            |c: &Client| self.clients.iter().any(|o| !o.leaving && o.holds && c.m & o.bit != 0);
        if size(x) > count / 2 {
            return !(self.on(HolderAmongMajorities)
                && best.is_some_and(|b| size(b) > count / 2 && side_holds(b) && !side_holds(x)));
        }
        if count % 2 == 1 || size(x) < count / 2 || best.is_some_and(|b| size(b) > count / 2) {
            return false;
        }
        let active = |c: &Client| self.clients.iter().filter(|o| c.m & o.bit != 0).count();
        let score = |c: &Client| {
            let heuristics = self.clients.iter().filter(|o| c.m & o.bit != 0).map(|o| o.h);
            active(c) as i32 + heuristics.sum::<i32>()
        };
        let Some(b) = best else { return active(x) > 0 };
        if score(x) != score(b) {
            let x_leads = score(x) > score(b);
            let (leads, trails) = if x_leads { (x, b) } else { (b, x) };
            let failed = self.clients.iter().any(|o| trails.m & o.bit != 0 && o.failed_twice);
            let protected = side_holds(trails) && !side_holds(leads);
            let may_move = failed || active(leads) > active(trails);
            return if self.on(HolderOverHeuristics) && protected && !may_move {
                !x_leads
            } else {
                x_leads
            };
        }
        if active(x) != active(b) {
            return active(x) > active(b);
        }
        let kap = self.on(HolderOverTieBreaker) || self.clients.iter().all(|c| c.kap);
        if kap && x.holds != b.holds {
            return x.holds;
        }
        let configured = self.ids.iter().filter(|id| self.is_in(x.config, **id));
        let preferred = match x.tie {
            TieBreaker::Lowest => configured.min().copied(),
            TieBreaker::Highest => configured.max().copied(),
            TieBreaker::Node(node) => Some(node.0),
        };
        preferred.is_some_and(|id| self.is_in(x.m, id))
    }

    fn is_in(&self, bits: u64, id: u32) -> bool {
        self.ids.iter().position(|known| *known == id).is_some_and(|at| bits & 1 << at != 0)
    }
}

/// A partition of lms: ring, members (where they count), clients, score.
#[derive(Clone, Copy)]
struct Part {
    ring: ViewId,
    m: u64,
    clients: u64,
    score: i32,
    holds: bool,
    failed_twice: bool,
}

fn lms_differ(x: &Client, y: &Client) -> bool {
    x.id != y.id && (x.m & y.bit != 0 || y.m & x.bit != 0) && x.ring != y.ring
}

impl Table {
    fn lms_each(&self) -> Vec<(usize, Answer)> {
        let parts = self.lms_parts();
        let any_pair = |wrong: &dyn Fn(&Client, &Client) -> bool| {
            self.clients.iter().any(|x| self.clients.iter().any(|y| wrong(x, y)))
        };
        let unsettled = self.on(EveryoneWaits) && any_pair(&lms_differ)
            || self.on(MembersCompared)
                && any_pair(&|x, y| x.m & y.bit != 0 && x.ring == y.ring && x.m & !y.m != 0)
            || self.on(ListsAwaited) && self.clients.iter().any(|o| o.m == 0);
        self.each(|c| if unsettled { Wait } else { self.lms(c, &parts) })
    }

    fn lms(&self, c: &Client, parts: &[Part]) -> Answer {
        if self.clients.iter().any(|o| lms_differ(c, o)) {
            return Wait;
        }
        let own = parts.iter().find(|p| p.clients & c.bit != 0).copied();
        let ack_if =
            |p: &Part| if own.is_some_and(|o| o.clients == p.clients) { Ack } else { Nack };
        match parts {
            [] => return Wait,
            [_] => return Ack,
            _ => {}
        }
        let other_holds = self.clients.iter().any(|o| o.ring != c.ring && o.holds);
        if !self.on(HolderStays) && !c.knows_result && other_holds {
            return Nack;
        }
        let held: Vec<Part> = parts.iter().filter(|p| p.holds).copied().collect();
        let stays = self.on(HolderStays) && held.iter().any(|p| !p.failed_twice);
        let parts = if stays { held } else { parts.to_vec() };
        let top = parts.iter().map(|p| p.score).max();
        let mut lead: Vec<Part> = parts.iter().filter(|p| Some(p.score) == top).copied().collect();
        if self.on(HolderStays) && lead.iter().any(|p| p.holds) {
            lead.retain(|p| p.holds);
        }
        if let [one] = lead.as_slice() {
            return ack_if(one);
        }
        let mut pool = if self.on(LeadersOnly) { lead } else { parts };
        let most = pool.iter().map(|p| p.clients.count_ones()).max();
        let big: Vec<Part> =
            pool.iter().filter(|p| Some(p.clients.count_ones()) == most).copied().collect();
        if let [one] = big.as_slice() {
            return ack_if(one);
        }
        if self.on(LeadersOnly) {
            pool = big;
        }
        self.lms_tie(c, &pool).map_or(Nack, |p| ack_if(&p))
    }

    fn lms_parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for c in &self.clients {
            if c.ring.ring.seq == 0 && !self.on(RingZeroCounts) {
                continue;
            }
            let same =
                |p: &&mut Part| p.ring == c.ring && (p.m == c.m || !self.on(MembersCompared));
            let mut new = Part {
                ring: c.ring,
                m: c.m,
                clients: 0,
                score: 0,
                holds: false,
                failed_twice: false,
            };
            let found = parts.iter_mut().find(same);
            let is_new = found.is_none();
            let p = found.unwrap_or(&mut new);
            p.clients |= c.bit;
            p.score += 1 + c.h;
            p.holds |= c.holds;
            p.failed_twice |= c.failed_twice;
            if is_new {
                parts.push(new);
            }
        }
        parts
    }

    fn lms_tie(&self, c: &Client, pool: &[Part]) -> Option<Part> {
        let clients =
            || self.clients.iter().filter(|o| pool.iter().any(|p| p.clients & o.bit != 0));
        let lowest = clients().map(|o| o.id).min();
        let side_of = |id: u32| pool.iter().find(|p| self.is_in(p.clients, id)).copied();
        match c.tie {
            TieBreaker::Lowest if self.on(EveryIdCanBeLowest) => side_of(lowest?),
            TieBreaker::Lowest => side_of(lowest.filter(|id| *id < i32::MAX as u32)?),
            TieBreaker::Highest => side_of(clients().map(|o| o.id).max()?),
            TieBreaker::Node(node) => {
                let connected = side_of(node.0);
                if connected.is_some() {
                    return connected.filter(|_| c.id == node.0 || self.on(ExplicitForItsSide));
                }
                let member = pool.iter().find(|p| self.is_in(p.m, node.0)).copied();
                let fallback = member.or_else(|| side_of(lowest?));
                fallback.filter(|_| self.on(ExplicitAbsent))
            }
        }
    }

    fn two_node_lms(&self, c: &Client) -> Answer {
        let other = self.clients.iter().find(|o| o.id != c.id);
        let contradict =
            |x: &Client, y: &Client| x.m & y.bit != 0 && (x.ring != y.ring || x.m & !y.m != 0);
        if self.on(ListsAwaited) && self.clients.iter().any(|o| o.m == 0)
            || self.on(BothMustAgree) && other.is_some_and(|o| contradict(c, o) || contradict(o, c))
        {
            return Wait;
        }
        let other_holds = other.is_some_and(|o| o.holds && o.ring != c.ring);
        if !self.on(HolderStays) && !c.knows_result && other_holds {
            return Nack;
        }
        let Some(o) = other.filter(|_| c.m.count_ones() != 2) else { return Ack };
        if self.on(HolderStays) && c.holds != o.holds {
            let (keeper, rival) = if c.holds { (c, o) } else { (o, c) };
            let moves = keeper.failed_twice && rival.h > keeper.h;
            return if moves == c.holds { Nack } else { Ack };
        }
        let wins = match c.tie {
            _ if c.h != o.h => c.h > o.h,
            TieBreaker::Lowest => c.id < o.id,
            TieBreaker::Highest => c.id > o.id,
            TieBreaker::Node(node) if node.0 == c.id || node.0 == o.id => node.0 == c.id,
            TieBreaker::Node(_) => self.on(ExplicitAbsent) && c.id < o.id,
        };
        if wins { Ack } else { Nack }
    }
}

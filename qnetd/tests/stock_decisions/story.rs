//! Plays the steps of a story to one side after the other, and compares the answers.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::RingId;
use protocol::qnet::{Message, MessageType};
use protocol::vote::{Algorithm, TieBreaker};
use qnetd::core::Settings;

use super::node::{Node, Plan, Shown};
use super::ours::Ours;
use super::say::{Say, all_join, all_report};
use super::stock::Stock;

/// The table that has a row for each correction, and names the tests that show it.
const TABLE: &str = include_str!("../../../docs/decisions.md");

/// How long the stock daemon may take for an answer that is its to come.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(Box<Message>),
    /// The arbiter has closed it.
    End,
}

/// An arbiter, whichever.
pub(crate) trait Side {
    fn name(&self) -> &'static str;
    /// Its time, since some start.
    fn time(&self) -> Duration;
    fn connect(&mut self, connection: u32);
    fn send(&mut self, connection: u32, message: &Message);
    fn close(&mut self, connection: u32);
    /// All that has come, or must come because of what was said; nothing: it is quiet.
    fn receive(&mut self) -> Vec<(u32, Heard)>;
    /// Lets time pass until something comes, and for this long at most.
    fn wait(&mut self, at_most: Duration);
}

/// What happens, and what each side answers to it.
#[derive(Debug)]
struct Step {
    says: Vec<Say>,
    stock: String,
    ours: String,
    shown: Shown,
}

/// Some steps, and the corrections that they show.
#[derive(Debug)]
pub(crate) struct Story {
    rows: &'static [&'static str],
    plan: Plan,
    shown: Shown,
    defaults: bool,
    steps: Vec<Step>,
}

impl Story {
    /// A story of a cluster with these nodes. The rows are those of `docs/decisions.md`; without
    /// any the two sides are to agree.
    pub(crate) fn new(rows: &'static [&'static str], algorithm: Algorithm, config: &[u32]) -> Self {
        let plan = Plan {
            algorithm,
            config: config.to_vec(),
            tie_breaker: TieBreaker::Lowest,
            keep_active_partition: false,
        };
        Self { rows, plan, shown: Shown::Changes, defaults: false, steps: Vec::new() }
    }

    pub(crate) fn tie_breaker(mut self, tie_breaker: TieBreaker) -> Self {
        self.plan.tie_breaker = tie_breaker;
        self
    }

    pub(crate) fn keep_active_partition(mut self, keep: bool) -> Self {
        self.plan.keep_active_partition = keep;
        self
    }

    /// Answers are all votes of all messages, not what became of the vote.
    pub(crate) fn verbatim(mut self) -> Self {
        self.shown = Shown::Messages;
        self
    }

    /// Both arbiters run with their default settings, also where those make a story end early.
    pub(crate) fn by_default(mut self) -> Self {
        self.defaults = true;
        self
    }

    /// A step that leads to these votes on both sides, in whatever way.
    pub(crate) fn given(mut self, says: impl Into<Vec<Say>>, both: &str) -> Self {
        let (stock, ours) = (both.to_owned(), both.to_owned());
        self.steps.push(Step { says: says.into(), stock, ours, shown: Shown::Last });
        self
    }

    /// All nodes are together and have the vote: where every story of a cluster begins whose
    /// nodes an arbiter knows.
    pub(crate) fn together(self) -> Self {
        let nodes = self.plan.config.clone();
        let acks: Vec<String> = nodes.iter().map(|node| format!("{node} ack")).collect();
        let together = self.given(all_join(&nodes, 4), "");
        together.given(all_report(&nodes, 4), &acks.join("; "))
    }

    /// A step that the two sides answer alike.
    pub(crate) fn same(self, says: impl Into<Vec<Say>>, both: &str) -> Self {
        self.step(says, both, both)
    }

    /// A step that they may answer differently.
    pub(crate) fn step(mut self, says: impl Into<Vec<Say>>, stock: &str, ours: &str) -> Self {
        let (stock, ours) = (stock.to_owned(), ours.to_owned());
        let shown = self.shown;
        self.steps.push(Step { says: says.into(), stock, ours, shown });
        self
    }

    /// Tells it to our core and to a stock daemon.
    pub(crate) fn tell(&self) {
        let (mut ours, flags): (Ours, &[&str]) = if self.defaults {
            (Ours::with(Settings::default()), &[])
        } else {
            (Ours::new(), &["-s", "off"])
        };
        let mut wrong = self.tell_to(&mut ours);
        if let Some(mut stock) = Stock::start(flags) {
            wrong.extend(self.tell_to(&mut stock));
        }
        assert!(wrong.is_empty(), "{:?}\n{}", self.plan, wrong.join("\n"));
        self.check_table();
    }

    /// A story differs where it names rows, and the table names it in each of them.
    fn check_table(&self) {
        let differs = self.steps.iter().any(|step| step.stock != step.ours);
        assert_eq!(differs, !self.rows.is_empty(), "the answers do not fit {:?}", self.rows);
        self.rows.iter().for_each(|row| is_in_table(row));
    }

    fn tell_to(&self, side: &mut dyn Side) -> Vec<String> {
        let mut cast = Cast { plan: &self.plan, side, nodes: BTreeMap::new(), opened: 0 };
        let mut wrong = Vec::new();
        let mut before = String::new();
        for (number, step) in self.steps.iter().enumerate() {
            let is_stock = cast.side.name() == "stock";
            let expected = if is_stock { &step.stock } else { &step.ours };
            let answer = cast.play(step, expected);
            if &answer != expected {
                let name = cast.side.name();
                let number = number + 1;
                wrong.push(format!(
                    "{name}, step {number}: {answer:?}, not {expected:?}\n  after {before}\n  {:?}",
                    step.says
                ));
            }
            before = answer;
        }
        wrong
    }
}

/// The row of the table is there, and names the test that calls this.
pub(crate) fn is_in_table(row: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap().rsplit("::").next().unwrap();
    let start = format!("| {row} |");
    let line = TABLE.lines().find(|line| line.starts_with(&start));
    let line = line.unwrap_or_else(|| panic!("docs/decisions.md has no row {row}"));
    assert!(line.contains(&format!("`{test}`")), "row {row} does not name {test}");
}

/// The nodes of a story on one side.
struct Cast<'a> {
    plan: &'a Plan,
    side: &'a mut dyn Side,
    nodes: BTreeMap<u32, Member>,
    opened: u32,
}

struct Member {
    node: Node,
    /// The newest one, while it is open.
    connection: Option<u32>,
    /// Those before it that it has not closed itself.
    ghosts: Vec<u32>,
    /// What it keeps to itself, while it does.
    unsaid: Option<Vec<Message>>,
}

impl Cast<'_> {
    /// Plays a step until all is quiet, and longer where the expected answer has not come.
    fn play(&mut self, step: &Step, expected: &str) -> String {
        self.nodes.values_mut().for_each(|member| member.node.begin_step());
        for say in &step.says {
            self.happens(say);
            self.settle();
        }
        let limit = self.side.time() + ANSWER_LIMIT;
        let is_stock = self.side.name() == "stock";
        while is_stock && self.answer(step.shown) != expected && self.side.time() < limit {
            self.side.wait(Duration::from_millis(50));
            self.settle();
        }
        self.answer(step.shown)
    }

    fn answer(&self, shown: Shown) -> String {
        let answers = self.nodes.values().map(|member| member.node.answer(shown));
        answers.filter(|answer| !answer.is_empty()).collect::<Vec<_>>().join("; ")
    }

    /// Lets everyone hear and answer until nobody says anything any more.
    fn settle(&mut self) {
        loop {
            let heard = self.side.receive();
            if heard.is_empty() {
                return;
            }
            for (connection, heard) in heard {
                self.hears(connection, &heard);
            }
        }
    }

    fn hears(&mut self, connection: u32, heard: &Heard) {
        let mut members = self.nodes.values_mut();
        let owns =
            |m: &&mut Member| m.connection == Some(connection) || m.ghosts.contains(&connection);
        let Some(member) = members.find(owns) else { return };
        let is_ghost = member.connection != Some(connection);
        match heard {
            // Nobody listens there any more.
            Heard::Message(_) if is_ghost => {}
            Heard::Message(message) => {
                let replies = member.node.hear(message);
                match &mut member.unsaid {
                    Some(unsaid) => unsaid.extend(replies),
                    None => self.send(connection, &replies),
                }
            }
            Heard::End if is_ghost => member.node.note("old connection closed"),
            Heard::End => {
                member.connection = None;
                member.node.disconnected();
                member.node.note("closed");
            }
        }
    }

    fn send(&mut self, connection: u32, messages: &[Message]) {
        messages.iter().for_each(|message| self.side.send(connection, message));
    }

    fn happens(&mut self, say: &Say) {
        match say {
            Say::Connects(id) => self.connect(*id),
            Say::Joins(id, members, seq) => {
                let ring = RingId::new(lowest(members), *seq);
                self.member(*id).node.forms(members, ring);
                self.connect(*id);
            }
            Say::ConnectsAgain(id) => self.connect_again(*id),
            Say::OtherConnects(id) => {
                self.member(*id).node.restarts();
                self.connect_again(*id);
            }
            Say::InitsAgain(id, tie_breaker) => {
                let mut init = self.member(*id).node.init();
                init.options.tie_breaker = Some(*tie_breaker);
                self.say(*id, &[init]);
            }
            Say::Configures(id, nodes) => {
                let list = self.member(*id).node.configure(nodes);
                self.say(*id, &[list]);
            }
            Say::Reports(id, members, seq, heuristics) => {
                self.report(*id, members, RingId::new(lowest(members), *seq), *heuristics);
            }
            Say::ReportsRing(id, members, ring_node, seq) => {
                let ring = RingId::new(*ring_node, *seq);
                self.report(*id, members, ring, protocol::vote::Heuristics::Undefined);
            }
            Say::Finds(id, result) => {
                let mut change = self.member(*id).node.message(MessageType::HeuristicsChange);
                change.options.heuristics = Some(*result);
                self.say(*id, &[change]);
            }
            Say::Mute(id, true) => self.member(*id).unsaid = Some(Vec::new()),
            Say::Mute(id, false) => {
                let unsaid = self.member(*id).unsaid.take().unwrap_or_default();
                self.say(*id, &unsaid);
            }
            Say::Asks(id) => {
                let ask = self.member(*id).node.message(MessageType::AskForVote);
                self.say(*id, &[ask]);
            }
            Say::Repeats(id) => {
                let list = self.member(*id).node.quorum_list();
                self.say(*id, &[list]);
            }
            Say::Says(id, message) => self.say(*id, std::slice::from_ref(&**message)),
            Say::Leaves(id) => {
                let member = self.member(*id);
                member.node.disconnected();
                let gone = member.connection.take().expect("the story names a connected node");
                self.side.close(gone);
            }
            Say::Passes(time) => self.pass(*time),
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.side.time() + time;
        while self.side.time() < end {
            let left = end - self.side.time();
            self.side.wait(left.clamp(Duration::from_millis(1), Duration::from_secs(1)));
            self.settle();
        }
    }

    fn member(&mut self, id: u32) -> &mut Member {
        let plan = self.plan;
        let new = || Member {
            node: Node::new(id, plan),
            connection: None,
            ghosts: Vec::new(),
            unsaid: None,
        };
        self.nodes.entry(id).or_insert_with(new)
    }

    fn say(&mut self, id: u32, messages: &[Message]) {
        let connection = self.member(id).connection.expect("the story names a connected node");
        self.send(connection, messages);
    }

    fn connect(&mut self, id: u32) {
        self.opened += 1;
        let opened = self.opened;
        self.side.connect(opened);
        let member = self.member(id);
        member.connection = Some(opened);
        let greeting = member.node.greeting();
        self.send(opened, &greeting);
    }

    fn connect_again(&mut self, id: u32) {
        let member = self.member(id);
        member.ghosts.extend(member.connection.take());
        self.connect(id);
    }

    fn report(
        &mut self,
        id: u32,
        members: &[u32],
        ring: RingId,
        heuristics: protocol::vote::Heuristics,
    ) {
        self.member(id).node.forms(members, ring);
        if self.member(id).connection.is_none() {
            self.connect(id);
        }
        let lists = self.member(id).node.report(heuristics);
        self.say(id, &lists);
    }
}

/// The node that forms the ring.
fn lowest(members: &[u32]) -> u32 {
    members.iter().min().copied().unwrap_or_default()
}

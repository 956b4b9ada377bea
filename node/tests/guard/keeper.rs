//! The keeper's rules where others have started what needs the watchdog.

use std::time::Duration;

use node::keeper::core::{Action, Core, Event};
use node::keeper::message::{Launch, Report};
use protocol::time::Time;

const W: Duration = Duration::from_secs(5);

fn at(ms: u64) -> Time {
    Time::from_millis(ms)
}

struct Bench {
    core: Core,
    now: u64,
    pets: Vec<u64>,
}

impl Bench {
    fn new() -> Self {
        Self { core: Core::guarding(at(0), W), now: 0, pets: Vec::new() }
    }

    /// Armed at 100, entitled to 1000.
    fn armed() -> Self {
        let mut bench = Self::new();
        bench.tell(100, Event::Entitle { until: at(1000) });
        bench.tell(110, Event::MarkStored { mark: 1 });
        bench.tell(110, Event::Opened);
        bench
    }

    fn tell(&mut self, now: u64, event: Event) -> Vec<Action> {
        self.now = now;
        self.core.handle(at(now), event);
        let mut actions = Vec::new();
        while let Some(action) = self.core.next_action() {
            if action == Action::Pet {
                self.pets.push(now);
                self.core.handle(at(now), Event::Petted);
            } else {
                actions.push(action);
            }
        }
        actions
    }

    /// Goes on from deadline to deadline.
    fn run(&mut self, end: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        loop {
            let next = self.core.deadline().map_or(end, |at| at.0.div_ceil(1000));
            if next >= end {
                return actions;
            }
            actions.extend(self.tell(next.max(self.now + 1), Event::Timeout));
            // As the shell does in each turn.
            actions.extend(self.tell(self.now, Event::NoChildren));
        }
    }
}

fn refused(actions: &[Action], word: &str) -> bool {
    actions.iter().any(|action| {
        matches!(action, Action::Report(Report::Refused { reason, .. }) if reason.contains(word))
    })
}

#[test]
fn the_device_is_opened_with_the_first_entitlement_and_its_mark_on_disk() {
    let mut bench = Bench::new();
    assert_eq!(bench.run(60_000), [], "a node that boots is not reset");
    let actions = bench.tell(60_000, Event::Entitle { until: at(61_000) });
    assert!(matches!(actions[..], [Action::StoreMark { mark: 1, .. }]), "{actions:?}");
    assert_eq!(bench.tell(60_100, Event::MarkStored { mark: 1 }), [Action::OpenDevice]);
    assert!(!bench.core.stopped_proven());
}

#[test]
fn it_pets_until_the_end_and_never_after_it() {
    let mut bench = Bench::armed();
    bench.tell(900, Event::Entitle { until: at(2000) });
    let actions = bench.run(5999);
    assert_eq!(actions, [], "there is nothing to send a signal to");
    assert!(bench.pets.iter().all(|at| *at < 2000) && bench.pets.len() >= 3, "{:?}", bench.pets);
    let actions = bench.run(6100);
    assert!(actions.iter().any(|it| matches!(it, Action::Reboot { .. })), "{actions:?}");
}

#[test]
fn no_entitlement_comes_after_the_end() {
    let mut bench = Bench::armed();
    bench.run(1500);
    let pets = bench.pets.len();
    let actions = bench.tell(1500, Event::Entitle { until: at(9000) });
    assert!(refused(&actions, "before what ran earlier is proven stopped"), "{actions:?}");
    bench.run(4900);
    assert_eq!(bench.pets.len(), pets);
}

#[test]
fn nothing_but_a_release_disarms() {
    let mut bench = Bench::armed();
    for event in [Event::Stop, Event::Farewell, Event::Terminated] {
        let actions = bench.tell(200, event);
        assert!(refused(&actions, "stays armed on purpose"), "{actions:?}");
        assert!(!actions.contains(&Action::Disarm));
    }
    bench.tell(300, Event::NoChildren);
    assert!(!bench.core.stopped_proven(), "what others started is no child");
    let actions = bench.tell(400, Event::Release);
    assert!(actions.contains(&Action::Disarm), "{actions:?}");
    assert_eq!(bench.tell(400, Event::Disarmed), [Action::ClearMark, Action::Exit]);
}

#[test]
fn a_release_counts_after_the_end_until_it_is_forced() {
    let mut bench = Bench::armed();
    bench.run(1500);
    assert!(bench.tell(1500, Event::Release).contains(&Action::Disarm));
    let mut late = Bench::armed();
    late.run(5100);
    assert!(
        !late.tell(5100, Event::Release).contains(&Action::Disarm),
        "the machine is going down"
    );
}

#[test]
fn a_new_guard_moves_no_deadline_and_has_to_stop_nothing() {
    let mut bench = Bench::armed();
    bench.tell(500, Event::Connected);
    bench.tell(600, Event::Entitle { until: at(2000) });
    bench.run(1900);
    assert!(bench.pets.iter().any(|at| *at > 1000), "{:?}", bench.pets);
}

#[test]
fn a_device_that_somebody_else_has_is_tried_again() {
    let mut bench = Bench::new();
    bench.tell(0, Event::Entitle { until: at(1000) });
    bench.tell(0, Event::MarkStored { mark: 1 });
    let error = "/dev/watchdog: the watchdog is in use".to_owned();
    let actions = bench.tell(0, Event::OpenFailed { error });
    assert!(actions.contains(&Action::ClearMark) && refused(&actions, "nothing is guarded"));
    assert!(bench.core.stopped_proven());
    assert_eq!(bench.tell(200, Event::Entitle { until: at(1200) }), [], "not at once");
    let actions = bench.tell(5000, Event::Entitle { until: at(6000) });
    assert!(matches!(actions[..], [Action::StoreMark { .. }]), "{actions:?}");
}

#[test]
fn an_entitlement_that_ends_before_the_mark_is_stored_arms_nothing() {
    let mut bench = Bench::new();
    bench.tell(0, Event::Entitle { until: at(1000) });
    assert_eq!(bench.tell(1000, Event::Timeout), [Action::ClearMark]);
    assert_eq!(bench.tell(1001, Event::MarkStored { mark: 1 }), []);
    assert!(bench.core.stopped_proven());
}

#[test]
fn it_starts_nothing() {
    let mut bench = Bench::armed();
    let launch = Launch { argv: vec!["true".to_owned()], ..Launch::default() };
    let start = Event::Start { serial: 1, launch, undo: None, until: at(900) };
    let actions = bench.tell(200, start);
    assert!(refused(&actions, "starts nothing") && actions.len() == 1, "{actions:?}");
}

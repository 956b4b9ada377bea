//! A host with a watchdog around the keeper's machine, under random schedules: whatever happens,
//! no service outlives its entitlement by more than the announced bound.

use proptest::prelude::*;

use super::*;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes; the keeper is there on every deadline.
    Pass(u64),
    /// Time passes; the keeper does not run.
    Stall(u64),
    /// The next pet ends this long after it began.
    SlowPet(u64),
    Entitle(u64),
    Revoke,
    Start(u64),
    /// What runs obeys SIGTERM from now on (0), or only SIGKILL (1), or nothing (2).
    Obey(u8),
    Exit,
    Connect,
    Stop,
}

struct World {
    core: Core,
    now: Time,
    /// t_e as it ought to be: what has ended while something lived is not renewed.
    entitled: Option<Time>,
    alive: Option<i32>,
    next_pid: i32,
    obey: u8,
    slow_pet: u64,
    fires_at: Time,
    reset: bool,
}

impl World {
    fn new() -> Self {
        let settings = Settings { hardware: true, watchdog: times::WATCHDOG, left: None };
        let mut world = Self {
            core: Core::new(Time::ZERO, settings),
            now: Time::ZERO,
            entitled: None,
            alive: None,
            next_pid: 100,
            obey: 0,
            slow_pet: 0,
            fires_at: Time::NEVER,
            reset: false,
        };
        world.act();
        world
    }

    fn tell(&mut self, event: Event) {
        self.core.handle(self.now, event);
        self.act();
        // As the shell does in each turn.
        if self.alive.is_none() {
            self.core.handle(self.now, Event::NoChildren);
            self.act();
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.core.next_action() {
            match action {
                Action::StoreMark { mark, .. } => {
                    self.core.handle(self.now, Event::MarkStored { mark });
                }
                Action::Spawn { job, .. } => {
                    // The world has room for one; more are the same to the keeper.
                    let pid = self.next_pid;
                    self.next_pid += 1;
                    self.core.handle(self.now, Event::Spawned { job, pid });
                    if let Some(pid) = self.alive.replace(pid) {
                        let status = ExitStatus::Code(0);
                        self.core.handle(self.now, Event::Reaped { pid, status });
                    }
                }
                Action::Terminate | Action::TerminateOne { .. } if self.obey == 0 => self.end(),
                Action::Kill | Action::KillOne { .. } if self.obey <= 1 => self.end(),
                Action::OpenDevice => {
                    self.fires_at = self.now + times::WATCHDOG;
                    self.core.handle(self.now, Event::Opened);
                }
                Action::Pet => {
                    let slow = std::mem::take(&mut self.slow_pet);
                    self.pass(slow);
                    self.fires_at = self.now + times::WATCHDOG;
                    self.core.handle(self.now, Event::Petted);
                }
                Action::Reboot { .. } => self.reset = true,
                Action::Terminate
                | Action::TerminateOne { .. }
                | Action::Kill
                | Action::KillOne { .. }
                | Action::ClearMark
                | Action::EndOrphans
                | Action::Disarm
                | Action::KillDaemons
                | Action::ReportState
                | Action::Report(_)
                | Action::Exit => {}
            }
        }
    }

    fn end(&mut self) {
        if let Some(pid) = self.alive.take() {
            self.core.handle(self.now, Event::Reaped { pid, status: ExitStatus::Signal(9) });
        }
    }

    /// Time passes in the hardware, whoever runs.
    fn pass(&mut self, ms: u64) {
        self.now = self.now + Duration::from_millis(ms);
        if !self.reset {
            self.check(self.now.min(self.fires_at));
        }
        self.reset |= self.fires_at <= self.now;
    }

    fn pass_until(&mut self, until: Time) {
        self.pass(until.as_millis().saturating_sub(self.now.as_millis()));
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Pass(ms) => {
                let end = self.now + Duration::from_millis(ms);
                while let Some(next) = self.core.deadline().filter(|next| *next <= end) {
                    self.pass_until(next);
                    self.tell(Event::Timeout);
                    if self.reset {
                        return;
                    }
                }
                self.pass_until(end);
            }
            Step::Stall(ms) => {
                self.pass(ms);
                // Dead hardware does not wait for the keeper to look.
                if !self.reset {
                    self.tell(Event::Timeout);
                }
            }
            Step::SlowPet(ms) => self.slow_pet = ms,
            Step::Entitle(ms) => {
                let until = self.now + Duration::from_millis(ms);
                if self.alive.is_none() || self.entitled.is_some_and(|end| self.now < end) {
                    self.entitled = Some(until);
                }
                self.tell(Event::Entitle { until });
            }
            Step::Revoke => {
                self.entitled = self.entitled.map(|until| until.min(self.now));
                self.tell(Event::Revoke);
            }
            Step::Start(serial) => {
                let until = Time::NEVER;
                self.tell(Event::Start { serial, launch: command("service"), undo: None, until });
            }
            Step::Obey(how) => self.obey = how,
            Step::Exit => {
                self.end();
                self.tell(Event::Timeout);
            }
            Step::Connect => self.tell(Event::Connected),
            Step::Stop => self.tell(Event::Stop),
        }
    }

    /// What lives until `at` is within its bound.
    fn check(&self, at: Time) {
        let bound = self.entitled.map_or(Time::ZERO, |until| until + times::STOP_PROOF);
        assert!(self.alive.is_none() || at <= bound, "a service lives at {at} after {bound}");
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1_u64..3000).prop_map(Step::Pass),
        1 => (1_u64..8000).prop_map(Step::Stall),
        1 => (1_u64..3000).prop_map(Step::SlowPet),
        6 => (1_u64..5000).prop_map(Step::Entitle),
        1 => Just(Step::Revoke),
        4 => (0_u64..4).prop_map(Step::Start),
        2 => (0_u8..3).prop_map(Step::Obey),
        1 => Just(Step::Exit),
        1 => Just(Step::Connect),
        2 => Just(Step::Stop),
    ]
}

proptest! {
    #[test]
    fn no_service_outlives_its_bound_unless_the_machine_is_reset(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            if world.reset {
                break;
            }
        }
    }

    #[test]
    fn a_machine_whose_services_obey_and_whose_keeper_runs_is_never_reset(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut world = World::new();
        let harmless = |step: &&Step| {
            !matches!(step, Step::Stall(_) | Step::SlowPet(_) | Step::Obey(2..))
        };
        for step in steps.iter().filter(harmless) {
            world.take(step);
            prop_assert!(!world.reset, "reset at {}", world.now);
        }
    }
}

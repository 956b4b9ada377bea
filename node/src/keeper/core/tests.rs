//! Facts in, duties out, on a hand-moved clock.

mod world;

use super::*;

const HARDWARE: bool = true;
const PROCESS: bool = false;

struct Rig {
    core: Core,
    ms: u64,
}

/// A keeper that has just started and, where there is nothing to recover, opened its device.
fn rig(hardware: bool) -> Rig {
    let mut rig = fresh(hardware, None);
    assert_eq!(rig.actions(), [Action::OpenDevice]);
    rig.tell(Event::Opened);
    rig
}

fn fresh(hardware: bool, left: Option<Left>) -> Rig {
    let settings = Settings { hardware, watchdog: times::WATCHDOG, left };
    Rig { core: Core::new(Time::ZERO, settings), ms: 0 }
}

/// One that runs start 1 as pid 100 and is entitled until `until_ms`.
fn running(hardware: bool, until_ms: u64) -> Rig {
    let mut rig = rig(hardware);
    rig.tell(Event::Entitle { until: Time::from_millis(until_ms) });
    rig.start(1, until_ms);
    let mark = rig.core.mark.number;
    rig.actions();
    rig.tell(Event::MarkStored { mark });
    rig.tell(Event::Spawned { job: Job::Start(1), pid: 100 });
    rig.actions();
    rig
}

fn command(program: &str) -> Launch {
    Launch { argv: vec![program.to_owned()], env: BTreeMap::new() }
}

fn refused(serial: impl Into<Option<u64>>, reason: &str) -> Action {
    Action::Report(Report::Refused { serial: serial.into(), reason: reason.to_owned() })
}

fn exited(serial: u64, status: ExitStatus) -> Action {
    Action::Report(Report::Exited { serial, status })
}

const STOPPED: Action = Action::Report(Report::StoppedProven);

impl Rig {
    fn tell(&mut self, event: Event) {
        self.core.handle(Time::from_millis(self.ms), event);
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.core.next_action()).collect()
    }

    fn after(&mut self, event: Event) -> Vec<Action> {
        self.tell(event);
        self.actions()
    }

    fn at(&mut self, ms: u64, event: Event) -> Vec<Action> {
        self.ms = ms;
        self.after(event)
    }

    fn start(&mut self, serial: u64, until_ms: u64) {
        let until = Time::from_millis(until_ms);
        self.tell(Event::Start { serial, launch: command("service"), undo: None, until });
    }

    fn start_with_undo(&mut self, serial: u64, undo: &str, until_ms: u64) {
        let until = Time::from_millis(until_ms);
        let undo = Some(command(undo));
        self.tell(Event::Start { serial, launch: command("service"), undo, until });
    }

    /// Lives through the time up to `ms` with a keeper that is always on time; the device is
    /// petted without delay. Returns what was done and when, in milliseconds, without the pets
    /// and with each repetition once.
    fn live_until(&mut self, ms: u64) -> Vec<(u64, Action)> {
        let mut done: Vec<(u64, Action)> = Vec::new();
        while let Some(next) = self.core.deadline().filter(|next| *next <= Time::from_millis(ms)) {
            self.ms = next.as_millis();
            for action in self.after(Event::Timeout) {
                if action == Action::Pet {
                    self.tell(Event::Petted);
                } else if done.last().is_none_or(|(_, last)| *last != action) {
                    done.push((self.ms, action));
                }
            }
        }
        self.ms = ms;
        done
    }

    fn pets_until(&mut self, ms: u64) -> Vec<u64> {
        let mut pets = Vec::new();
        while let Some(next) = self.core.deadline().filter(|next| *next <= Time::from_millis(ms)) {
            self.ms = next.as_millis();
            if self.after(Event::Timeout).contains(&Action::Pet) {
                pets.push(self.ms);
                self.tell(Event::Petted);
            }
        }
        self.ms = ms;
        pets
    }
}

#[test]
fn an_idle_keeper_pets_for_ever_without_an_entitlement() {
    let mut rig = rig(HARDWARE);
    assert_eq!(rig.pets_until(2000), [500, 1000, 1500, 2000]);
    assert!(rig.core.stopped_proven());
}

#[test]
fn a_keeper_without_a_device_never_pets() {
    let mut rig = running(PROCESS, 2000);
    assert!(rig.pets_until(1999).is_empty());
}

#[test]
fn nothing_starts_before_the_mark_is_on_disk() {
    let mut rig = rig(HARDWARE);
    let until = Time::from_millis(1000);
    rig.tell(Event::Entitle { until });
    rig.start(1, 1000);
    assert_eq!(rig.actions(), [Action::StoreMark { mark: 1, until, undos: vec![] }]);
    let spawn =
        Action::Spawn { job: Job::Start(1), launch: command("service"), until: Some(until) };
    assert_eq!(rig.after(Event::MarkStored { mark: 1 }), [spawn]);
    assert!(!rig.core.stopped_proven());
    let started = Action::Report(Report::Started { serial: 1, pid: 100 });
    assert_eq!(rig.after(Event::Spawned { job: Job::Start(1), pid: 100 }), [started]);
    assert_eq!(rig.core.running(), [1]);
}

#[test]
fn a_start_whose_mark_is_late_does_not_happen() {
    let mut rig = rig(HARDWARE);
    rig.tell(Event::Entitle { until: Time::from_millis(1000) });
    rig.start(1, 1000);
    rig.actions();
    let refusal = refused(1, "the entitlement ended before the start");
    assert_eq!(rig.at(1000, Event::MarkStored { mark: 1 })[..1], [refusal]);
    assert!(rig.core.stopped_proven());
}

#[test]
fn a_mark_that_cannot_be_stored_refuses_what_waits_for_it() {
    let mut rig = rig(HARDWARE);
    rig.tell(Event::Entitle { until: Time::from_millis(1000) });
    rig.start(1, 1000);
    rig.actions();
    let failed = rig.after(Event::MarkFailed { mark: 1, error: "disk full".to_owned() });
    assert_eq!(failed, [refused(1, "the may-run mark is not stored: disk full")]);
    rig.start(1, 1000);
    assert!(matches!(rig.actions()[..], [Action::StoreMark { mark: 2, .. }]));
}

#[test]
fn a_start_without_entitlement_is_refused() {
    let mut rig = rig(HARDWARE);
    rig.start(1, 1000);
    assert_eq!(rig.actions(), [refused(1, "not entitled")]);
    rig.tell(Event::Entitle { until: Time::from_millis(1000) });
    // The decision relied on an older entitlement than the present one.
    rig.ms = 400;
    rig.start(2, 400);
    assert_eq!(rig.actions(), [refused(2, "not entitled")]);
}

#[test]
fn a_start_that_was_forked_too_late_is_killed() {
    let mut rig = rig(HARDWARE);
    rig.tell(Event::Entitle { until: Time::from_millis(1000) });
    rig.start(1, 1000);
    rig.tell(Event::MarkStored { mark: 1 });
    rig.actions();
    let actions = rig.at(1000, Event::Spawned { job: Job::Start(1), pid: 100 });
    assert!(actions.contains(&Action::KillOne { pid: 100 }));
    assert!(actions.contains(&refused(1, "the entitlement ended during the start")));
    assert!(!rig.core.stopped_proven());
    // It counts as running until the kernel says that it is gone.
    assert_eq!(rig.after(Event::NoChildren), [STOPPED, Action::ClearMark, Action::Pet]);
}

#[test]
fn the_last_word_on_an_entitlement_counts_and_it_is_not_for_ever() {
    let mut rig = rig(PROCESS);
    let entitled = |rig: &Rig| rig.core.entitled(Time::from_millis(rig.ms)).as_millis();
    rig.tell(Event::Entitle { until: Time::from_millis(1000) });
    rig.tell(Event::Entitle { until: Time::from_millis(400) });
    assert_eq!(entitled(&rig), 400);
    rig.tell(Event::Entitle { until: Time::NEVER });
    assert_eq!(entitled(&rig), ENTITLEMENT_LIMIT.as_millis());
    rig.tell(Event::Revoke);
    assert_eq!(entitled(&rig), 0);
    rig.tell(Event::Entitle { until: Time::ZERO });
    assert_eq!(entitled(&rig), 0);
    assert_eq!(rig.actions(), []);
}

#[test]
fn an_entitlement_that_comes_too_late_ends_the_one_before() {
    let mut rig = running(PROCESS, 10_000);
    let until = Time::from_millis(1000);
    assert_eq!(rig.at(1001, Event::Entitle { until }), [Action::Terminate]);
    assert_eq!(rig.live_until(3500), [(3500, Action::Kill)]);
}

#[test]
fn a_new_daemon_can_shorten_what_it_found_but_not_prolong_it() {
    let mut rig = running(PROCESS, 10_000);
    rig.tell(Event::Connected);
    for (until_ms, entitled) in [(20_000, 10_000), (2000, 2000), (5000, 2000)] {
        rig.tell(Event::Entitle { until: Time::from_millis(until_ms) });
        assert_eq!(rig.core.entitled(Time::ZERO), Duration::from_millis(entitled));
    }
}

#[test]
fn at_the_end_of_the_entitlement_services_get_their_grace_and_then_the_machine_is_reset() {
    let mut rig = running(HARDWARE, 1000);
    let reason = "the full stop was not proven in time after the entitlement ended".to_owned();
    let expected = [
        (1000, Action::Terminate),
        (3500, Action::Kill),
        (5000, Action::Kill),
        (5000, Action::KillDaemons),
        (5000, Action::Reboot { reason: reason.clone() }),
        (5000, Action::Report(Report::Forced { reason })),
    ];
    let done = rig.live_until(5000);
    let mut ends: Vec<(u64, Action)> = expected.to_vec();
    // The last kill before the forced end is the same action as its own.
    ends.remove(2);
    assert_eq!(done, ends);
    assert!(rig.pets_until(60_000).is_empty());
    // Too late: nobody can know what the reset has caught.
    rig.tell(Event::Reaped { pid: 100, status: ExitStatus::Signal(9) });
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren), [STOPPED, Action::ClearMark]);
    assert!(rig.pets_until(120_000).is_empty());
    let refusal = refused(None, "no entitlement: the keeper is ending");
    assert_eq!(rig.after(Event::Entitle { until: Time::NEVER }), [refusal]);
}

#[test]
fn petting_rests_between_the_end_of_the_entitlement_and_the_proof() {
    let mut rig = running(HARDWARE, 1200);
    assert_eq!(rig.pets_until(3000), [500, 1000]);
    let reaped = rig.after(Event::Reaped { pid: 100, status: ExitStatus::Signal(15) });
    assert_eq!(reaped, [exited(1, ExitStatus::Signal(15))]);
    assert_eq!(rig.after(Event::NoChildren), [STOPPED, Action::ClearMark, Action::Pet]);
    assert_eq!(rig.pets_until(4000), [3500, 4000]);
}

#[test]
fn no_pet_is_begun_in_the_last_moment() {
    let mut rig = running(HARDWARE, 1049);
    assert_eq!(rig.pets_until(1048), [500]);
}

#[test]
fn a_pet_that_ends_after_the_entitlement_forces_the_end() {
    let mut rig = running(HARDWARE, 1000);
    assert!(rig.at(900, Event::Timeout).contains(&Action::Pet));
    let actions = rig.at(1000, Event::Petted);
    let reason = "the watchdog was petted after the entitlement had ended".to_owned();
    assert!(actions.contains(&Action::Reboot { reason }));
    assert!(rig.pets_until(10_000).is_empty());
}

#[test]
fn a_late_pet_is_none_once_everything_is_stopped() {
    let mut rig = rig(HARDWARE);
    rig.tell(Event::Entitle { until: Time::from_millis(600) });
    assert_eq!(rig.at(500, Event::Timeout), [Action::Pet]);
    assert_eq!(rig.at(5000, Event::Petted), [Action::Pet]);
}

#[test]
fn a_stop_that_was_asked_for_is_forced_only_after_the_entitlement() {
    let mut rig = running(HARDWARE, 60_000);
    rig.ms = 1000;
    assert_eq!(rig.after(Event::Stop)[..1], [Action::Terminate]);
    rig.start(2, 60_000);
    assert_eq!(rig.actions(), [refused(2, "not entitled")]);
    assert_eq!(rig.live_until(3499), []);
    assert_eq!(rig.live_until(59_999), [(3500, Action::Kill)]);
    let forced = rig.live_until(64_000);
    assert!(
        forced
            .iter()
            .any(|(ms, action)| { *ms == 64_000 && matches!(action, Action::Reboot { .. }) })
    );
}

#[test]
fn after_a_stop_the_entitlement_goes_on_and_things_start_again() {
    let mut rig = running(HARDWARE, 10_000);
    rig.tell(Event::Stop);
    rig.tell(Event::Reaped { pid: 100, status: ExitStatus::Code(0) });
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren)[..2], [STOPPED, Action::ClearMark]);
    rig.start(2, 10_000);
    // The mark was cleared with the proof, so it has to be stored again.
    assert!(matches!(rig.actions()[..], [Action::StoreMark { mark: 2, .. }]));
}

#[test]
fn daemons_that_come_and_go_move_no_bound() {
    let mut rig = running(HARDWARE, 1000);
    for ms in (1100..5000).step_by(100) {
        rig.ms = ms;
        rig.tell(Event::Connected);
        rig.tell(Event::Hello);
        rig.tell(Event::Stop);
        rig.tell(Event::Entitle { until: Time::from_millis(ms + 1000) });
        assert!(!rig.actions().contains(&Action::Pet), "at {ms}");
    }
    assert!(rig.at(5000, Event::Timeout).iter().any(|it| matches!(it, Action::Reboot { .. })));
}

#[test]
fn a_new_daemon_has_to_stop_what_it_found() {
    let mut rig = running(PROCESS, 10_000);
    rig.tell(Event::Connected);
    let reason = "no entitlement before what ran earlier is proven stopped";
    let entitle = || Event::Entitle { until: Time::from_millis(20_000) };
    assert_eq!(rig.after(entitle()), [refused(None, reason)]);
    rig.start(2, 10_000);
    assert_eq!(rig.actions(), [refused(2, "not entitled")]);
    assert_eq!(rig.after(Event::Stop), [Action::Terminate]);
    rig.tell(Event::Reaped { pid: 100, status: ExitStatus::Code(0) });
    rig.tell(Event::NoChildren);
    rig.actions();
    assert_eq!(rig.after(entitle()), []);
    assert_eq!(rig.core.entitled(Time::ZERO), Duration::from_secs(20));
}

#[test]
fn without_hardware_the_forced_end_takes_the_daemons_and_waits_for_the_proof() {
    let mut rig = running(PROCESS, 1000);
    let done = rig.live_until(60_000);
    assert!(done.contains(&(5000, Action::KillDaemons)));
    assert!(!done.iter().any(|(_, action)| matches!(action, Action::Reboot { .. })));
    rig.tell(Event::Reaped { pid: 100, status: ExitStatus::Signal(9) });
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren), [STOPPED, Action::ClearMark]);
    rig.tell(Event::Entitle { until: Time::from_millis(61_000) });
    assert_eq!(rig.core.entitled(Time::from_millis(60_000)), Duration::from_secs(1));
}

#[test]
fn a_node_that_was_paused_keeps_its_daemons_if_what_it_kills_then_ends() {
    let mut rig = running(PROCESS, 1000);
    assert_eq!(rig.at(30_000, Event::Timeout), [Action::Terminate, Action::Kill]);
    assert!(rig.live_until(31_400).iter().all(|(_, action)| *action == Action::Kill));
    rig.tell(Event::Reaped { pid: 100, status: ExitStatus::Signal(9) });
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren), [STOPPED, Action::ClearMark]);
}

#[test]
fn hardware_that_was_paused_is_reset_at_the_first_look() {
    let mut rig = running(HARDWARE, 1000);
    let actions = rig.at(30_000, Event::Timeout);
    assert!(actions.iter().any(|action| matches!(action, Action::Reboot { .. })));
    assert!(!actions.contains(&Action::Pet));
}

#[test]
fn a_service_that_ends_by_itself_leaves_a_proof_behind_and_the_next_one_needs_no_new_mark() {
    let mut rig = running(HARDWARE, 10_000);
    let reaped = rig.after(Event::Reaped { pid: 100, status: ExitStatus::Code(3) });
    assert_eq!(reaped, [exited(1, ExitStatus::Code(3))]);
    assert!(!rig.core.stopped_proven(), "its children may live");
    assert_eq!(rig.after(Event::NoChildren), []);
    assert!(rig.core.stopped_proven());
    rig.start(2, 10_000);
    assert!(matches!(rig.actions()[..], [Action::Spawn { job: Job::Start(2), .. }]));
    assert!(!rig.core.stopped_proven());
}

#[test]
fn a_start_can_be_cancelled_with_grace() {
    let mut rig = running(PROCESS, 60_000);
    assert_eq!(rig.after(Event::Cancel { serial: 1 }), [Action::TerminateOne { pid: 100 }]);
    assert_eq!(rig.after(Event::Cancel { serial: 7 }), [refused(7, "no such start runs")]);
    assert_eq!(rig.live_until(2499), []);
    assert_eq!(rig.live_until(2500), [(2500, Action::KillOne { pid: 100 })]);
}

#[test]
fn a_serial_names_one_start() {
    let mut rig = running(PROCESS, 60_000);
    rig.start(1, 60_000);
    assert_eq!(rig.actions(), [refused(1, "the serial is in use")]);
}

#[test]
fn starts_are_bounded() {
    let mut rig = running(PROCESS, 60_000);
    for serial in 2..=STARTS_LIMIT as u64 {
        rig.start(serial, 60_000);
    }
    rig.actions();
    rig.start(9999, 60_000);
    assert_eq!(rig.actions(), [refused(9999, "too many starts at once")]);
}

#[test]
fn undos_are_on_disk_before_the_start_and_run_backwards_before_the_proof() {
    let mut rig = running(PROCESS, 10_000);
    rig.start_with_undo(2, "undo-2", 10_000);
    let undo = |serial: u64| Undo { serial, launch: command(&format!("undo-{serial}")) };
    let until = Time::from_millis(10_000);
    assert_eq!(rig.actions(), [Action::StoreMark { mark: 2, until, undos: vec![undo(2)] }]);
    rig.tell(Event::MarkStored { mark: 2 });
    rig.tell(Event::Spawned { job: Job::Start(2), pid: 200 });
    rig.start_with_undo(3, "undo-3", 10_000);
    rig.tell(Event::MarkStored { mark: 3 });
    rig.tell(Event::Spawned { job: Job::Start(3), pid: 300 });
    for pid in [100, 200, 300] {
        rig.tell(Event::Reaped { pid, status: ExitStatus::Code(0) });
    }
    rig.actions();
    // Nothing lives, but not everything is taken back.
    assert_eq!(rig.after(Event::NoChildren), []);
    assert!(!rig.core.stopped_proven());

    assert_eq!(rig.after(Event::Stop), [Action::Terminate]);
    let spawn = |serial: u64| Action::Spawn {
        job: Job::Undo(serial),
        launch: undo(serial).launch,
        until: None,
    };
    assert_eq!(rig.after(Event::NoChildren), [spawn(3)]);
    rig.tell(Event::Spawned { job: Job::Undo(3), pid: 301 });
    rig.tell(Event::Reaped { pid: 301, status: ExitStatus::Code(1) });
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren), [], "not again at once");
    rig.ms = 200;
    rig.tell(Event::Timeout);
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren), [spawn(3)]);
    rig.tell(Event::Spawned { job: Job::Undo(3), pid: 302 });
    rig.tell(Event::Reaped { pid: 302, status: ExitStatus::Code(0) });
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren), [spawn(2)]);
    rig.tell(Event::Spawned { job: Job::Undo(2), pid: 201 });
    rig.tell(Event::Reaped { pid: 201, status: ExitStatus::Code(0) });
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren), [STOPPED, Action::ClearMark]);
}

#[test]
fn an_undo_that_hangs_is_killed_and_one_that_never_succeeds_forces_the_end() {
    let mut rig = rig(HARDWARE);
    rig.tell(Event::Entitle { until: Time::from_millis(1000) });
    rig.start_with_undo(1, "undo", 1000);
    rig.tell(Event::MarkStored { mark: 1 });
    rig.tell(Event::Spawned { job: Job::Start(1), pid: 100 });
    rig.tell(Event::Reaped { pid: 100, status: ExitStatus::Code(0) });
    rig.actions();
    rig.live_until(1000);
    assert!(matches!(rig.after(Event::NoChildren)[..], [Action::Spawn { .. }]));
    rig.tell(Event::Spawned { job: Job::Undo(1), pid: 101 });
    assert_eq!(rig.live_until(2000), [(2000, Action::KillOne { pid: 101 })]);
    let done = rig.live_until(5000);
    assert!(done.iter().any(|(ms, it)| *ms == 5000 && matches!(it, Action::Reboot { .. })));
}

#[test]
fn an_undo_that_was_done_by_other_means_is_forgotten() {
    let mut rig = rig(PROCESS);
    rig.tell(Event::Entitle { until: Time::from_millis(1000) });
    rig.start_with_undo(1, "undo", 1000);
    rig.tell(Event::MarkStored { mark: 1 });
    rig.tell(Event::Spawned { job: Job::Start(1), pid: 100 });
    rig.tell(Event::Reaped { pid: 100, status: ExitStatus::Code(0) });
    rig.tell(Event::Forget { serial: 1 });
    rig.tell(Event::NoChildren);
    assert!(rig.core.stopped_proven());
}

#[test]
fn a_farewell_disarms_only_after_the_proof() {
    let mut rig = running(HARDWARE, 10_000);
    assert_eq!(rig.after(Event::Farewell), [Action::Terminate]);
    let refusal = refused(None, "no entitlement: the keeper is ending");
    assert_eq!(rig.after(Event::Entitle { until: Time::from_millis(20_000) }), [refusal]);
    rig.tell(Event::Reaped { pid: 100, status: ExitStatus::Code(0) });
    rig.actions();
    assert_eq!(rig.after(Event::NoChildren)[..2], [STOPPED, Action::Disarm]);
    assert_eq!(rig.after(Event::Disarmed), [Action::ClearMark, Action::Exit]);
}

#[test]
fn a_device_that_cannot_be_disarmed_keeps_its_keeper() {
    let mut rig = rig(HARDWARE);
    rig.tell(Event::Farewell);
    rig.actions();
    rig.tell(Event::DisarmFailed { error: "nowayout".to_owned() });
    let refusal = refused(None, "the watchdog cannot be disarmed: nowayout");
    assert!(rig.actions().contains(&refusal));
    assert_eq!(rig.pets_until(1000).last(), Some(&1000));
}

#[test]
fn what_an_earlier_keeper_left_is_ended_before_the_device_is_touched() {
    let undo = Undo { serial: 7, launch: command("undo") };
    let left = Left { until: Time::from_millis(500), undos: vec![undo] };
    let mut rig = fresh(HARDWARE, Some(left));
    assert_eq!(rig.actions(), [Action::EndOrphans]);
    // It has no child of its own: that says nothing about what it did not start.
    rig.tell(Event::NoChildren);
    rig.tell(Event::OrphansLeft { count: 2 });
    assert_eq!(rig.actions(), []);
    assert!(!rig.core.stopped_proven());
    assert_eq!(rig.live_until(20), [(20, Action::EndOrphans)]);
    rig.tell(Event::OrphansLeft { count: 0 });
    assert!(matches!(rig.after(Event::NoChildren)[..], [Action::Spawn { job: Job::Undo(7), .. }]));
    rig.tell(Event::Spawned { job: Job::Undo(7), pid: 70 });
    rig.tell(Event::Reaped { pid: 70, status: ExitStatus::Code(0) });
    rig.actions();
    let proven = rig.after(Event::NoChildren);
    assert_eq!(proven, [STOPPED, Action::ClearMark, Action::OpenDevice]);
}

#[test]
fn what_cannot_be_ended_in_time_is_reset_without_touching_the_device() {
    let left = Left { until: Time::from_millis(500), undos: Vec::new() };
    let mut rig = fresh(HARDWARE, Some(left));
    let mut at = None;
    while let Some(next) = rig.core.deadline().filter(|_| at.is_none()) {
        for action in rig.at(next.as_millis(), Event::Timeout) {
            assert!(!matches!(action, Action::Pet | Action::OpenDevice));
            if action == Action::EndOrphans {
                rig.tell(Event::OrphansLeft { count: 1 });
            } else if matches!(action, Action::Reboot { .. }) {
                at = Some(rig.ms);
            }
        }
    }
    assert_eq!(at, Some(4500));
}

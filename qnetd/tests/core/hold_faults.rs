//! Each fault of a stock holder at each moment of its heartbeat: when its node stops to count the
//! vote by the client's own timers (wire 3.1, 5), and when the other node is told that it has it.

use protocol::vote::Vote;
use qnetd::core::VoteHold;

use crate::driver::{Driver, votes};
use crate::stock_client::{HEARTBEAT, settings, split};

/// The age at which votequorum drops a poll, in milliseconds.
const DEVICE_TIMEOUT: u64 = HEARTBEAT * 5 / 4;

/// A vote takes effect a token rotation later; measured on corosync 3.1.
const TOKEN: u64 = 560;

/// What happens to node 1, with when: milliseconds after its last echo, which was answered.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Nothing gets through any more in either direction, before the next echo.
    Cut,
    /// qdevice is killed, its host lives.
    Crash(u64),
    /// qdevice stands still, its host lives.
    Hang(u64),
    /// Cut before the next echo, then killed.
    CutAndCrash(u64),
}

impl Fault {
    /// When node 1 counts the vote for the last time, counted from the last echo. The last poll may
    /// have been in the last moment of the process.
    fn counted_until(self) -> u64 {
        match self {
            // The next echo is not answered, and instead of the one after NACK is cast.
            Self::Cut => 2 * HEARTBEAT,
            Self::Crash(at) | Self::Hang(at) | Self::CutAndCrash(at) => at + DEVICE_TIMEOUT,
        }
    }

    /// When node 2 is told that it has the vote.
    fn moves_at(self, vote_hold: VoteHold) -> u64 {
        let mut driver = Driver::new(settings(vote_hold));
        let (mut one, mut two) = split(&mut driver);
        one.echo(&mut driver);
        let begin = driver.now;
        let mut done = Vec::new();
        if let Self::Crash(at) = self {
            done.extend(driver.pass(at));
            done.extend(two.echo(&mut driver));
            assert_eq!(votes(&done), []);
            done.extend(driver.close(1));
        }
        for _ in 0..1000 {
            if votes(&done).contains(&(2, Vote::Ack)) {
                return u64::try_from(driver.now.since(begin).as_millis()).unwrap();
            }
            done = two.echo(&mut driver);
            let wait = driver
                .arbiter
                .deadline()
                .map_or(HEARTBEAT, |at| u64::try_from(at.since(driver.now).as_millis()).unwrap());
            done.extend(driver.pass(wait.clamp(1, HEARTBEAT / 2)));
        }
        panic!("{self:?}: the vote never moves");
    }
}

/// Every tenth of a heartbeat, and its first and last moment.
fn moments() -> impl Iterator<Item = u64> {
    (0..HEARTBEAT).step_by(800).chain([HEARTBEAT - 1])
}

#[test]
fn no_single_fault_leaves_two_sides_with_the_vote() {
    for vote_hold in [VoteHold::SingleFault, VoteHold::DoubleFault] {
        for at in moments() {
            for fault in [Fault::Cut, Fault::Crash(at), Fault::Hang(at)] {
                let (until, moves) = (fault.counted_until() + TOKEN, fault.moves_at(vote_hold));
                assert!(moves >= until, "{vote_hold}, {fault:?}: {moves} before {until}");
            }
        }
    }
}

#[test]
fn a_cut_and_then_a_crash_is_what_double_fault_is_for() {
    let mut open = 0;
    for crash in moments().flat_map(|at| [at, at + HEARTBEAT]) {
        let fault = Fault::CutAndCrash(crash);
        let until = fault.counted_until() + TOKEN;
        let moves = fault.moves_at(VoteHold::DoubleFault);
        assert!(moves >= until, "{fault:?}: {moves} before {until}");
        open += u32::from(fault.moves_at(VoteHold::SingleFault) < until);
    }
    assert!(open > 0, "docs/hazards.md says that single-fault leaves this open");
}

#[test]
fn off_leaves_each_single_fault_open() {
    for fault in [Fault::Cut, Fault::Crash(4000), Fault::Hang(4000)] {
        let (until, moves) = (fault.counted_until(), fault.moves_at(VoteHold::Off));
        assert!(moves < until, "{fault:?}: {moves}, {until}: docs/hazards.md says otherwise");
    }
}

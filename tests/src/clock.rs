//! The clock of one process, and the numbers that stand for chance.

use std::time::Duration;

use protocol::rng::Rng;
use protocol::time::Time;

const MILLION: u64 = 1_000_000;

/// What a process reads as time: microseconds since its start, by a clock that is a little fast
/// or slow. World time, in which the simulator itself counts, has no skew.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// World time at the start of the process.
    zero: Time,
    /// Local microseconds per second of world time.
    rate: u64,
}

impl Clock {
    /// A clock that starts at `zero` and is `skew_ppm` parts per million fast.
    pub(crate) fn new(zero: Time, skew_ppm: i64) -> Self {
        let rate = 1_000_000_i64.saturating_add(skew_ppm).max(1);
        Self { zero, rate: u64::try_from(rate).unwrap_or(1_000_000) }
    }

    /// The local time at a world time.
    pub(crate) fn at(&self, world: Time) -> Time {
        let elapsed = world.0.saturating_sub(self.zero.0);
        Time(elapsed.checked_mul(self.rate).map_or(u64::MAX, |local| local / MILLION))
    }

    /// The same clock, had it stood still for that long.
    pub(crate) fn delayed(self, by: Duration) -> Self {
        Self { zero: self.zero + by, ..self }
    }

    /// The first world time at which the clock shows `local`.
    pub(crate) fn when(&self, local: Time) -> Time {
        if local == Time::NEVER {
            return Time::NEVER;
        }
        let elapsed = local.0.checked_mul(MILLION).map_or(u64::MAX, |us| us.div_ceil(self.rate));
        Time(self.zero.0.saturating_add(elapsed))
    }

    /// What `other` shows when this clock shows `local`. Between two processes of one machine,
    /// whose clocks differ in their origin only.
    pub(crate) fn to(&self, other: &Self, local: Time) -> Time {
        if local == Time::NEVER { Time::NEVER } else { other.at(self.when(local)) }
    }
}

/// A number that depends on its arguments only. Packets are numbered by their link, so a fault that
/// is taken out of a scenario changes the delays and losses of other links only by what is sent
/// there; the chances that a run counts through (`World::chance`) shift with it.
pub(crate) fn hash(seed: u64, topic: u64, number: u64) -> u64 {
    let first = Rng::new(seed ^ topic.rotate_left(32)).next_u64();
    Rng::new(first ^ number).next_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_a_time_when_it_says_so() {
        for skew in [-40_000, 0, 40_000] {
            let clock = Clock::new(Time(1234), skew);
            for local in [0, 1, 999_999, 60_000_001] {
                let world = clock.when(Time(local));
                assert!(clock.at(world) >= Time(local));
                assert!(world == Time(1234) || clock.at(Time(world.0 - 1)) < Time(local));
            }
        }
    }
}

//! Time as the machines know it: a number that the caller passes in.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Microseconds since an origin that the owner of the clock chose.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Time(pub u64);

impl Time {
    /// The origin.
    pub const ZERO: Self = Self(0);
    /// Later than anything that happens.
    pub const NEVER: Self = Self(u64::MAX);

    /// `ms` milliseconds after the origin.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1000))
    }

    /// Whole milliseconds since the origin.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1000
    }

    /// How long from `earlier` to here; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl Sub<Duration> for Time {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(micros))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1_000_000, self.0 / 1000 % 1000)
    }
}

/// One reading of the two clocks that count elapsed time on a host (clock_gettime(2)).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct HostInstant {
    /// CLOCK_BOOTTIME in nanoseconds: goes on in suspend, may be slewed.
    pub boottime_ns: u64,
    /// CLOCK_MONOTONIC_RAW in nanoseconds: never slewed, stands still in suspend.
    pub raw_ns: u64,
}

impl HostInstant {
    /// This reading moved forward by `duration` on both clocks.
    pub fn plus(self, duration: Duration) -> Self {
        let ns = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            boottime_ns: self.boottime_ns.saturating_add(ns),
            raw_ns: self.raw_ns.saturating_add(ns),
        }
    }

    /// How long from `now` until this instant by the clock that gets there first, which is the
    /// safe reading for a node that counts a lease; zero if either has passed.
    pub fn remaining(self, now: Self) -> Duration {
        let boottime = self.boottime_ns.saturating_sub(now.boottime_ns);
        let raw = self.raw_ns.saturating_sub(now.raw_ns);
        Duration::from_nanos(boottime.min(raw))
    }
}

/// Which of the two host clocks a daemon believes when they disagree (rule S2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hurry {
    /// Nodes count what they were given, so they take the larger step: leases end early.
    Fast,
    /// The arbiter counts what it gave, so it takes the smaller step: bounds end late.
    Slow,
}

/// Sums up steps of the two clocks into one [`Time`]; every interval between two readings is at
/// least (or at most) what either clock says, because the steps are.
#[derive(Clone, Debug)]
pub struct ElapsedClock {
    hurry: Hurry,
    last: HostInstant,
    nanos: u64,
}

impl ElapsedClock {
    /// A clock whose origin is the reading `start`.
    pub fn new(hurry: Hurry, start: HostInstant) -> Self {
        Self { hurry, last: start, nanos: 0 }
    }

    /// Takes a new reading in and returns the time it means.
    pub fn advance(&mut self, reading: HostInstant) -> Time {
        let boottime = reading.boottime_ns.saturating_sub(self.last.boottime_ns);
        let raw = reading.raw_ns.saturating_sub(self.last.raw_ns);
        let step = match self.hurry {
            Hurry::Fast => boottime.max(raw),
            Hurry::Slow => boottime.min(raw),
        };
        self.nanos = self.nanos.saturating_add(step);
        self.last = reading;
        Time(self.nanos / 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(boottime_ms: u64, raw_ms: u64) -> HostInstant {
        HostInstant { boottime_ns: boottime_ms * 1_000_000, raw_ns: raw_ms * 1_000_000 }
    }

    #[test]
    fn a_node_counts_suspend_and_an_arbiter_does_not() {
        let mut node = ElapsedClock::new(Hurry::Fast, reading(0, 0));
        let mut arbiter = ElapsedClock::new(Hurry::Slow, reading(0, 0));
        assert_eq!(node.advance(reading(60_000, 10)), Time::from_millis(60_000));
        assert_eq!(arbiter.advance(reading(60_000, 10)), Time::from_millis(10));
    }

    #[test]
    fn an_expiry_passes_with_the_first_of_the_two_clocks() {
        let expiry = reading(1000, 1000);
        assert_eq!(expiry.remaining(reading(900, 100)), Duration::from_millis(100));
        assert_eq!(expiry.remaining(reading(1001, 100)), Duration::ZERO);
    }
}

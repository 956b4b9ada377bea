//! The only place that reads the clocks for a machine's time.

use nix::time::{ClockId, clock_gettime};
use protocol::time::{ElapsedClock, HostInstant, Hurry, Time};

/// CLOCK_BOOTTIME and CLOCK_MONOTONIC_RAW now (clock_gettime(2)); Linux has had both since
/// 2.6.39, and a clock that cannot be read is read as standing still.
pub fn read() -> HostInstant {
    HostInstant {
        boottime_ns: nanos(ClockId::CLOCK_BOOTTIME),
        raw_ns: nanos(ClockId::CLOCK_MONOTONIC_RAW),
    }
}

/// What the wall clock shows, in whole seconds since 1970; 0 before that. It may jump, and nothing
/// is measured by it.
pub fn wall_s() -> u64 {
    nanos(ClockId::CLOCK_REALTIME) / 1_000_000_000
}

fn nanos(clock: ClockId) -> u64 {
    let Ok(spec) = clock_gettime(clock) else { return 0 };
    let seconds = u64::try_from(spec.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(spec.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// A daemon's clock: elapsed time since its start.
#[derive(Clone, Debug)]
pub struct Clock(ElapsedClock);

impl Clock {
    /// Starts at zero now.
    pub fn start(hurry: Hurry) -> Self {
        Self(ElapsedClock::new(hurry, read()))
    }

    /// The time now.
    pub fn now(&mut self) -> Time {
        self.0.advance(read())
    }
}

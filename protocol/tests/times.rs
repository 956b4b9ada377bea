//! The relations between the named times that make them safe, one assertion each. A time that is
//! changed without the others it depends on fails here, by the name of the rule.

use std::time::Duration;

use protocol::times::{
    ARBITER_RESTART, CLIENT_SILENCE, DEVICE_SYNC_TIMEOUT, DEVICE_TIMEOUT, DRIFT_PERCENT,
    FENCE_DEADLINE, HEARTBEAT, HOST_SILENCE, LEASE, LEASE_HOLD, LONE_LEASE, LONE_LEASE_HOLD,
    PEER_LEASE, PEER_PROMISE, PEER_STALL, PET, READMISSION, RENEWAL, REPLICA_LEASE,
    REPLICA_RECONNECT, ROUND_TRIP, SLEW_PPM, SOLO_LEASE, SOLO_LEASE_HOLD, STABILITY_LIMIT,
    STOP_BOUND, STOP_GRACE, STOP_PROOF, VIEW_AGREEMENT, VOTE_HOLD_GUARD_MIN, WATCHDOG, lease_hold,
    stock_device_timeout, vote_hold_guard,
};

/// Each lease, and how long the arbiter holds it.
const LEASES: [(Duration, Duration); 3] =
    [(LEASE, LEASE_HOLD), (SOLO_LEASE, SOLO_LEASE_HOLD), (LONE_LEASE, LONE_LEASE_HOLD)];

/// The goal for a survivor after a power loss: the median.
const QUORATE_AGAIN: Duration = Duration::from_millis(1500);

/// A unit file's setting of this name, in milliseconds.
fn unit_millis(unit: &str, key: &str) -> Option<u64> {
    let value = unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value?.strip_suffix("ms")?.parse().ok()
}

mod peers {
    use super::*;

    #[test]
    fn a_peer_lease_outlasts_five_beats_and_a_stall() {
        assert!(PEER_LEASE >= HEARTBEAT * 5 + PEER_STALL);
    }

    #[test]
    fn a_promise_outlasts_the_lease_of_the_peer_by_the_drift() {
        assert!(PEER_PROMISE * 100 >= PEER_LEASE * (100 + DRIFT_PERCENT));
    }

    #[test]
    fn a_promise_and_an_agreement_end_before_the_arbiters_hold() {
        assert!(PEER_PROMISE + VIEW_AGREEMENT <= LEASE_HOLD);
    }

    #[test]
    fn a_round_of_agreement_takes_a_round_trip_and_a_beat() {
        assert!(VIEW_AGREEMENT >= ROUND_TRIP + HEARTBEAT);
    }

    #[test]
    fn a_removed_member_stays_out_for_longer_than_finding_its_loss_takes() {
        assert!(READMISSION > PEER_LEASE + VIEW_AGREEMENT * 2);
    }
}

mod leases {
    use super::*;

    #[test]
    fn three_renewals_of_every_lease_may_be_lost() {
        for (lease, _) in LEASES {
            assert!(RENEWAL * 4 <= lease, "{lease:?}");
        }
    }

    #[test]
    fn every_lease_is_held_for_a_tenth_longer_than_it_counts() {
        for (lease, hold) in LEASES {
            assert!(hold * 100 >= lease * (100 + DRIFT_PERCENT), "{lease:?}");
        }
    }

    #[test]
    fn the_hold_of_any_lease_is_that_of_the_table() {
        for (lease, hold) in LEASES {
            assert_eq!(lease_hold(lease), hold, "{lease:?}");
        }
        // Nothing is rounded down.
        let odd = Duration::from_millis(1003);
        assert!(lease_hold(odd) * 100 >= odd * (100 + DRIFT_PERCENT));
    }

    #[test]
    fn the_drift_covers_a_clock_that_is_slewed_as_fast_as_chrony_does() {
        // The slower clock passes 1 - slew while the other passes 1.
        assert!(u64::from(100 + DRIFT_PERCENT) * (1_000_000 - SLEW_PPM) >= 100 * 1_000_000);
    }

    #[test]
    fn the_lease_of_a_full_view_is_short_enough_for_the_goal() {
        assert!(LEASE <= QUORATE_AGAIN);
    }

    #[test]
    fn a_survivor_is_quorate_within_the_goal() {
        // The loss is found and agreed on, the peer's right to this node's vote and to the
        // arbiter's have ended; the last renewal was up to one interval before the loss.
        let waits = |hold| (PEER_LEASE + VIEW_AGREEMENT).max(PEER_PROMISE).max(hold) + ROUND_TRIP;
        let (median, worst) = (waits(LEASE_HOLD - RENEWAL / 2), waits(LEASE_HOLD));
        assert!(median <= Duration::from_millis(1025), "{median:?}");
        assert!(worst <= Duration::from_millis(1150), "{worst:?}");
        assert!(worst <= QUORATE_AGAIN);
    }

    #[test]
    fn a_solo_lease_outlasts_a_restart_of_the_arbiters_process() {
        assert!(SOLO_LEASE > ARBITER_RESTART + RENEWAL);
    }

    #[test]
    fn the_unit_of_the_arbiter_starts_it_again_within_the_time_for_a_restart() {
        for unit in [
            include_str!("../../packaging/systemd/haguard-qnetd.service"),
            include_str!("../../packaging/systemd/corosync-qnetd.service.d/haguard.conf"),
        ] {
            let pause = unit_millis(unit, "RestartSec").expect("the unit says how long it waits");
            assert!(Duration::from_millis(pause) * 10 <= ARBITER_RESTART);
        }
    }

    #[test]
    fn a_solo_lease_outlasts_a_replicated_arbiters_takeover() {
        assert!(REPLICA_LEASE + LEASE_HOLD + REPLICA_RECONNECT < SOLO_LEASE);
    }

    #[test]
    fn leases_grow_with_the_need() {
        assert!(LEASES.is_sorted_by(|one, next| one.0 < next.0 && one.1 < next.1));
    }

    #[test]
    fn an_unknown_client_is_waited_for_as_long_as_the_longest_lease_is_held() {
        // `Settings::default` of the arbiter takes it from here.
        assert!(LEASES.iter().all(|(_, hold)| *hold <= LONE_LEASE_HOLD));
    }

    #[test]
    fn a_client_is_silent_only_when_its_short_lease_has_ended() {
        assert!(CLIENT_SILENCE >= LEASE_HOLD);
        assert!(CLIENT_SILENCE < STABILITY_LIMIT);
    }

    #[test]
    fn a_member_that_comes_and_goes_leaves_its_views_standing_for_longer_than_they_are_awaited() {
        // So no loop of honest views holds a decision up for ever: each begins the limit anew.
        assert!(READMISSION > STABILITY_LIMIT);
    }

    #[test]
    fn a_device_stops_asking_before_its_lease_ends_if_its_host_is_silent() {
        assert!(HOST_SILENCE < LEASE);
    }
}

mod watchdog {
    use super::*;

    #[test]
    fn the_timeout_is_in_whole_seconds() {
        assert_eq!(WATCHDOG.subsec_nanos(), 0);
    }

    #[test]
    fn two_pets_may_be_lost() {
        assert!(PET <= WATCHDOG / 3);
    }

    #[test]
    fn the_end_is_forced_a_second_before_the_hardware_does_it() {
        assert_eq!(STOP_BOUND + Duration::from_secs(1), WATCHDOG);
    }

    #[test]
    fn a_service_has_time_to_end_by_itself() {
        assert!(STOP_GRACE < STOP_BOUND);
    }

    #[test]
    fn the_announced_bound_is_the_timeout_and_the_time_to_reset() {
        assert_eq!(STOP_PROOF, WATCHDOG + Duration::from_millis(300));
    }
}

mod recovery {
    use super::*;

    #[test]
    fn a_grant_is_not_before_the_end_of_the_old_entitlement() {
        // The recovery wait runs from the grant, the bound from the end of entitlement: by the
        // node's own fast clock that is at most the lease, by the arbiter's slow one the hold.
        for (lease, hold) in LEASES {
            assert!(hold >= lease, "{lease:?}");
        }
        assert!(PEER_PROMISE >= PEER_LEASE);
    }

    #[test]
    fn fencing_is_asked_for_before_the_vote_can_move() {
        assert!(PEER_LEASE + VIEW_AGREEMENT < LEASE_HOLD);
    }

    #[test]
    fn the_wait_for_the_watchdog_ends_within_the_time_for_fencing() {
        assert!(LEASE_HOLD + STOP_PROOF < FENCE_DEADLINE);
    }
}

mod hosts {
    use super::*;

    /// A token rotation, which a vote needs to take effect: measured on corosync 3.1.
    const ROTATION: Duration = Duration::from_millis(560);

    /// The default heartbeat interval of a stock client.
    const STOCK_HEARTBEAT: Duration = Duration::from_secs(8);

    #[test]
    fn the_default_heartbeat_tells_the_default_device_timeout() {
        assert_eq!(stock_device_timeout(STOCK_HEARTBEAT), DEVICE_TIMEOUT);
    }

    #[test]
    fn the_guard_outlasts_a_token_rotation_and_is_half_a_second_at_least() {
        assert!(vote_hold_guard(STOCK_HEARTBEAT) > ROTATION);
        assert_eq!(vote_hold_guard(STOCK_HEARTBEAT), Duration::from_millis(800));
        assert_eq!(vote_hold_guard(Duration::from_secs(1)), VOTE_HOLD_GUARD_MIN);
    }

    #[test]
    fn a_stock_clients_timeout_is_five_quarters_of_its_heartbeat_so_a_hang_outlasts_a_cut() {
        // Which is why a silent client is held for 2.25 heartbeats and the guard, not for two.
        for heartbeat in [1, 8, 60].map(Duration::from_secs) {
            let timeout = stock_device_timeout(heartbeat);
            assert_eq!(timeout * 4, heartbeat * 5, "{heartbeat:?}");
            assert!(heartbeat + timeout > heartbeat * 2, "{heartbeat:?}");
        }
    }

    #[test]
    fn the_bounds_of_a_default_stock_client_are_those_of_the_table() {
        let closed = stock_device_timeout(STOCK_HEARTBEAT) + vote_hold_guard(STOCK_HEARTBEAT);
        let silent = STOCK_HEARTBEAT + closed;
        assert_eq!(silent, Duration::from_millis(18_800));
        assert_eq!(closed, Duration::from_millis(10_800));
        assert_eq!(closed + DEVICE_SYNC_TIMEOUT, Duration::from_millis(40_800));
        // The host of a survivor still waits for its device when the bound is over.
        assert!(silent < DEVICE_SYNC_TIMEOUT);
    }

    #[test]
    fn the_times_of_a_stock_host_are_those_of_corosync() {
        assert_eq!(DEVICE_TIMEOUT, Duration::from_secs(10));
        assert_eq!(DEVICE_SYNC_TIMEOUT, Duration::from_secs(30));
    }

    #[test]
    fn a_stock_host_counts_a_poll_for_longer_than_a_short_lease_is_held() {
        // So a device of ours on corosync states its own worst case, and a full view's hold
        // without it would be too short.
        assert!(DEVICE_TIMEOUT > LEASE_HOLD);
    }
}

//! Replays every scenario in `tests/scenarios`, one test each.

use std::collections::BTreeSet;
use std::path::PathBuf;

use simulator::sabotage::Sabotage;
use simulator::{Scenario, run, run_sabotaged};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

fn scenario(name: &str) -> Scenario {
    let path = folder().join(name).with_extension("toml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    Scenario::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn replay(name: &str) {
    let scenario = scenario(name);
    let outcome = run(&scenario);
    assert!(outcome.violation.is_none(), "{name}: {}", outcome.report(&scenario));
}

macro_rules! scenarios {
    ($($test:ident $file:literal,)*) => {
        $(
            #[test]
            fn $test() {
                replay($file);
            }
        )*

        const REPLAYED: &[&str] = &[$($file),*];
    };
}

scenarios! {
    arbiter_restart_while_split "arbiter-restart-while-split",
    cut_between_two_nodes "cut-between-two-nodes",
    device_killed "device-killed",
    device_of_the_lone_node_killed "device-of-the-lone-node-killed",
    found_grant_to_a_stale_view "found-grant-to-a-stale-view",
    found_stale_view_after_restore "found-stale-view-after-restore",
    holder_cut_from_everything "holder-cut-from-everything",
    holder_cut_from_the_arbiter "holder-cut-from-the-arbiter",
    node_daemon_frozen "node-daemon-frozen",
    power_loss_of_the_holder_hardware_watchdog "power-loss-of-the-holder-hardware-watchdog",
    power_loss_of_the_holder "power-loss-of-the-holder",
    s01_a_vote_moves_between_views "s01-a-vote-moves-between-views",
    s01_node_votes_have_no_lease "s01-node-votes-have-no-lease",
    s02_a_lease_is_of_one_view "s02-a-lease-is-of-one-view",
    s02_a_lost_disk_mints_no_old_view "s02-a-lost-disk-mints-no-old-view",
    s03_frozen_goes_on "s03-frozen-goes-on",
    s09_a_late_yes_is_worth_nothing "s09-a-late-yes-is-worth-nothing",
    s10_restored_state_and_a_silent_holder "s10-restored-state-and-a-silent-holder",
    s10_restored_state "s10-restored-state",
    s17_a_lease_without_quorum "s17-a-lease-without-quorum",
    s17_a_longer_entitlement_is_taken_back "s17-a-longer-entitlement-is-taken-back",
    s18_crash_loop "s18-crash-loop",
    s18_killed_daemon "s18-killed-daemon",
    s20_unknown_start "s20-unknown-start",
    s21_memoryless_winner "s21-memoryless-winner",
    s27_a_lost_disk_gives_no_epoch_twice "s27-a-lost-disk-gives-no-epoch-twice",
    s27_the_arbiters_epoch_is_handed_over "s27-the-arbiters-epoch-is-handed-over",
    s29_a_loser_that_does_not_confirm "s29-a-loser-that-does-not-confirm",
    s30_lease_against_an_arbiter_restart "s30-lease-against-an-arbiter-restart",
    s36_chain "s36-chain",
    s36_flapping_link_slow "s36-flapping-link-slow",
    s36_flapping_link "s36-flapping-link",
    s37_no_grant_on_a_full_disk "s37-no-grant-on-a-full-disk",
    s37_stalled_disk "s37-stalled-disk",
    whole_node_paused "whole-node-paused",
}

#[test]
fn every_file_is_replayed() {
    let files = std::fs::read_dir(folder()).unwrap();
    let names = files.map(|file| file.unwrap().path().file_stem().unwrap().to_owned());
    let names: BTreeSet<String> = names.map(|name| name.into_string().unwrap()).collect();
    let replayed: BTreeSet<String> = REPLAYED.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(names, replayed);
}

#[test]
fn an_empty_disk_that_is_taken_for_a_memory_gives_an_epoch_twice() {
    let mut lost = scenario("s27-a-lost-disk-gives-no-epoch-twice");
    lost.expect.clear();
    let outcome = run_sabotaged(&lost, Some(Sabotage::EmptyDiskRemembers));
    assert_eq!(outcome.violation.map(|violation| violation.rule), Some("S4"));
}

#[test]
fn an_epoch_that_is_not_handed_over_leaves_a_new_disk_without_a_vote() {
    let name = "s27-the-arbiters-epoch-is-handed-over";
    let outcome = run_sabotaged(&scenario(name), Some(Sabotage::EpochNotHandedOver));
    let violation = outcome.violation.expect("an expectation that is not met");
    assert_eq!(violation.rule, "expectation");
    assert!(violation.text.starts_with("quorate"), "{violation}");
}

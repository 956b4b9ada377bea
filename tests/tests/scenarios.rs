//! Replays every scenario in `tests/scenarios`. Each has a story beside it, `NAME.trace`: the few
//! lines that a person would tell of the run, which must not change unnoticed. `BLESS=1 cargo
//! nextest run -p simulator --test scenarios` writes the stories anew and shows what is different.
#![expect(clippy::unwrap_used, reason = "a test that cannot read its scenario shall fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use simulator::sabotage::Sabotage;
use simulator::scenario::Scenario;
use simulator::{run, run_sabotaged};

/// The sequences of the safety analysis are numbered from 1 to this.
const SEQUENCES: u32 = 38;
/// Lines of a difference that are shown.
const SHOWN: usize = 60;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// Names of files with this ending, without it.
fn names(ending: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let with_ending = files.filter(|path| path.extension().is_some_and(|is| is == ending));
    with_ending.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn scenario(name: &str) -> Scenario {
    let path = folder().join(format!("{name}.toml"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
    Scenario::parse(&text).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The rule that a scenario breaks with a sabotage, and what was seen.
fn broken(scenario: &Scenario, sabotage: Sabotage) -> Option<(&'static str, String)> {
    let violation = run_sabotaged(scenario, Some(sabotage)).violation?;
    Some((violation.rule, violation.text))
}

/// What is only in the one or the other, in order.
fn difference(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    // How many lines from here on are the same, at best.
    let mut common = vec![vec![0_usize; new.len() + 1]; old.len() + 1];
    for (i, line) in old.iter().enumerate().rev() {
        for (j, other) in new.iter().enumerate().rev() {
            common[i][j] = if line == other {
                common[i + 1][j + 1] + 1
            } else {
                common[i + 1][j].max(common[i][j + 1])
            };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
        } else if j == new.len() || (i < old.len() && common[i + 1][j] >= common[i][j + 1]) {
            writeln!(text, "-{}", old[i]).unwrap();
            i += 1;
        } else {
            writeln!(text, "+{}", new[j]).unwrap();
            j += 1;
        }
    }
    text.lines().take(SHOWN).fold(String::new(), |all, line| all + line + "\n")
}

/// Compares a story with the one that is kept, or keeps it.
fn check_story(path: &Path, story: &str) -> Option<String> {
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    if kept == story {
        return None;
    }
    let name = path.file_name().unwrap().to_str().unwrap();
    let text = format!("{name}:\n{}", difference(&kept, story));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, story).unwrap();
        #[expect(clippy::print_stdout, reason = "a person who blesses reads what is different")]
        {
            println!("{text}");
        }
        return None;
    }
    Some(text)
}

/// Every scenario in one of [`SHARES`] shares; each is a test, so that they run side by side.
fn replay(share: usize) {
    let mut failures = String::new();
    for name in names("toml").into_iter().skip(share).step_by(SHARES) {
        let scenario = scenario(&name);
        let outcome = run(&scenario);
        if outcome.violation.is_some() {
            writeln!(failures, "{name}: {}", outcome.report(&scenario)).unwrap();
        } else if !name.starts_with("found") {
            let path = folder().join(format!("{name}.trace"));
            let told = check_story(&path, &outcome.chronicle);
            failures.push_str(&told.unwrap_or_default());
        }
    }
    let help = "a story that is right is kept by BLESS=1 cargo nextest run -p simulator \
                --test scenarios";
    assert!(failures.is_empty(), "{failures}\n{help}");
}

const SHARES: usize = 4;

#[test]
fn every_scenario_goes_as_it_is_told_1() {
    replay(0);
}

#[test]
fn every_scenario_goes_as_it_is_told_2() {
    replay(1);
}

#[test]
fn every_scenario_goes_as_it_is_told_3() {
    replay(2);
}

#[test]
fn every_scenario_goes_as_it_is_told_4() {
    replay(3);
}

#[test]
fn every_story_has_its_scenario_and_every_scenario_its_story() {
    let told: BTreeSet<String> =
        names("toml").into_iter().filter(|name| !name.starts_with("found")).collect();
    assert_eq!(names("trace"), told);
}

#[test]
fn every_sequence_of_the_safety_analysis_has_a_scenario() {
    let mut numbered: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for name in names("toml") {
        let number = name.strip_prefix('s').and_then(|rest| rest.split_once('-'));
        if let Some(number) = number.and_then(|(digits, _)| digits.parse().ok()) {
            let scenario = scenario(&name);
            assert!(scenario.name.starts_with(&format!("{number}: ")), "{name}: {}", scenario.name);
            assert!(!scenario.expect.is_empty(), "{name} expects nothing");
            numbered.entry(number).or_default().push(name);
        }
    }
    let numbers: Vec<u32> = numbered.into_keys().collect();
    assert_eq!(numbers, (1..=SEQUENCES).collect::<Vec<u32>>());
}

#[test]
fn an_empty_disk_that_is_taken_for_a_memory_gives_an_epoch_twice() {
    let mut lost = scenario("s27-a-lost-disk-gives-no-epoch-twice");
    lost.expect.clear();
    let (rule, _) = broken(&lost, Sabotage::EmptyDiskRemembers).unwrap();
    assert_eq!(rule, "S4");
}

#[test]
fn an_epoch_that_is_not_handed_over_leaves_a_new_disk_without_a_vote() {
    let name = "s27-the-arbiters-epoch-is-handed-over";
    let (rule, text) = broken(&scenario(name), Sabotage::EpochNotHandedOver).unwrap();
    assert_eq!(rule, "expectation");
    assert!(text.starts_with("quorate"), "{text}");
}

#[test]
fn without_its_rule_a_sequence_ends_badly() {
    let cases = [
        ("s01-a-vote-moves-between-views", Sabotage::LeaseFromReceipt, "S2"),
        ("s02-a-lease-is-of-one-view", Sabotage::LossNotApplied, "S1"),
        ("s10-restored-state", Sabotage::LossNotApplied, "S1"),
        ("s11-two-arbiters", Sabotage::PinForgotten, "S2"),
        ("s12-clocks-that-jump", Sabotage::ClockStandsStill, "S1"),
        ("s13-a-paused-machine", Sabotage::ClockStandsStill, "S1"),
        ("s17-a-lease-without-quorum", Sabotage::NoRecoveryWait, "S6"),
        ("s17-a-longer-entitlement-is-taken-back", Sabotage::KeeperIgnoresDeadline, "S5"),
        ("s19-a-late-pet", Sabotage::KeeperIgnoresDeadline, "S5"),
        ("s20-unknown-start", Sabotage::NoRecoveryWait, "S6"),
        ("s22-a-longer-bound", Sabotage::NoRecoveryWait, "expectation"),
        ("s24-a-late-proof", Sabotage::ProofWithoutBoot, "S7"),
        ("s25-mutual-fencing", Sabotage::EntitledOnce, "S7"),
        ("s28-fence-confirm", Sabotage::ConfirmUnchecked, "S7"),
        ("s29-a-loser-that-does-not-confirm", Sabotage::MirrorIsGrant, "S2"),
        ("s30-lease-against-an-arbiter-restart", Sabotage::GrantForgotten, "expectation"),
        ("s33-a-pair-of-outdated-nodes", Sabotage::LineageForgotten, "S1"),
        ("s34-the-device-is-removed-in-a-split", Sabotage::ChangeAppliedAlone, "S1"),
        ("s35-an-empty-state-directory", Sabotage::NoQuarantine, "expectation"),
        ("s37-no-grant-on-a-full-disk", Sabotage::GrantBeforeDurable, "S3"),
    ];
    for (name, sabotage, rule) in cases {
        let seen = broken(&scenario(name), sabotage);
        assert_eq!(
            seen.as_ref().map(|(rule, _)| *rule),
            Some(rule),
            "{name}, {sabotage:?}: {seen:?}"
        );
    }
}

/// The same cluster with another answer of the arbiter's settings.
fn with_corosync(name: &str, change: impl Fn(&mut simulator::scenario::Corosync)) -> Scenario {
    let mut scenario = scenario(name);
    scenario.expect.clear();
    change(scenario.topology.corosync.as_mut().unwrap());
    scenario
}

#[test]
fn what_a_setting_does_not_cover_is_seen_as_two_sides() {
    let hold = |name: &'static str, hold: &'static str| {
        with_corosync(name, |corosync| corosync.vote_hold = Some(hold.to_owned()))
    };
    let cases = [
        hold("s04-killed-in-a-membership-change", "single-fault"),
        hold("s05-a-hang-of-the-holder", "off"),
        hold("s05-a-crash-of-the-holder", "off"),
        hold("s05-a-cut-of-the-holder", "off"),
        hold("found-cut-off-after-the-arbiter", "off"),
        with_corosync("s15-a-vote-without-an-end", |c| c.lms_without_wait_for_all = true),
        // A device of ours on a corosync host says T, and S only if it connects in a change.
        with_corosync("s04-killed-in-a-membership-change", |c| c.own = vec![1]),
    ];
    for scenario in cases {
        let outcome = run(&scenario);
        let rule = outcome.violation.as_ref().map(|violation| violation.rule);
        assert_eq!(rule, Some("S1"), "{}: {:?}", scenario.name, outcome.violation);
    }
}

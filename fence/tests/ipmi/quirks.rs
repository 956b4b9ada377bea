//! Every quirk of the table: with it power is switched, and a named one is needed for that.

use std::time::Duration;

use fence::device::{Command, DeviceError, Power, Seen};
use fence::ipmi::quirks::{Switch, TABLE};
use fence::ipmi::{Privilege, Quirks};

use super::bmc::{Bmc, Nature, client, own_login};
use super::common::{LIMIT, has};

/// Long enough for any answer, and for no second attempt that would matter.
const SHORT: Duration = Duration::from_millis(2500);

/// With these of them ipmitool 1.8.19 cannot switch power by `-C 17` and no other option.
const IPMITOOL_FAILS: [&str; 12] = [
    "another-suite",
    "disabled-suite",
    "equal-privilege",
    "lookup-not-hashed",
    "no-ipmi-15",
    "no-lookup",
    "no-lookup-in-rakp3",
    "no-privilege-raise",
    "open-session-privilege",
    "padded-user-name",
    "short-integrity-pad",
    "zero-session-id",
];

/// And with these FreeIPMI 1.6.10 cannot, by `-I 17` and no other option.
const FREEIPMI_FAILS: [&str; 17] = [
    "another-suite",
    "bad-checksums",
    "disabled-suite",
    "equal-privilege",
    "garbage-after-code",
    "long-rakp2",
    "long-rakp4",
    "lookup-not-hashed",
    "no-ipmi-15",
    "no-lookup",
    "no-lookup-in-rakp3",
    "no-privilege-raise",
    "open-session-privilege",
    "padded-user-name",
    "short-integrity-pad",
    "skipped-sequence",
    "zero-session-id",
];

/// A BMC with the quirk; `None` for those that have tests of another shape.
fn nature(quirk: &str) -> Option<Nature> {
    let own = Nature::default();
    Some(match quirk {
        "long-rakp2" => Nature { declares_more_rakp2: true, long_codes: true, ..own },
        "long-rakp4" => Nature { long_codes: true, ..own },
        "open-session-privilege" => Nature { hashes_open_privilege: true, ..own },
        "disabled-suite" => Nature { suites: vec![3], suite_status: 0x12, ..own },
        "another-suite" => Nature { suites: vec![3], answers_suite: Some(3), ..own },
        "no-ipmi-15" => Nature { ignores_v15: true, ..own },
        "close-unanswered" => Nature { mute_close: true, ..own },
        "skipped-sequence" => Nature { sequence_from: 77, sequence_step: 9, ..own },
        "short-device-id" | "short-watchdog" => Nature { short_answers: true, ..own },
        "garbage-after-code" => Nature { tail: true, ..own },
        "off-when-off" => Nature { strict_state: true, ..own },
        "equal-privilege" => Nature { privilege: 3, exact_privilege: true, ..own },
        "zero-session-id" => Nature { zero_id: true, ..own },
        "bad-checksums" => Nature { bad_sums: true, ..own },
        "padded-user-name" => Nature { padded_user: true, ..own },
        "no-lookup-in-rakp3" => Nature { no_lookup_in_rakp3: true, ..own },
        "no-lookup" => Nature { no_lookup: true, ..own },
        "lookup-not-hashed" => Nature { lookup_not_hashed: true, ..own },
        "no-privilege-raise" => Nature { no_raise: true, ..own },
        "short-integrity-pad" => Nature { short_pad: true, ..own },
        "guid-not-kept" | "empty-codes" | "weak-suites" | "only-highest-privilege" => return None,
        _ => panic!("the quirk {quirk} has no test"),
    })
}

async fn switches(bmc: &Bmc, quirks: Quirks, privilege: Privilege, limit: Duration) -> bool {
    let mut login = own_login();
    (login.quirks, login.privilege) = (quirks, privilege);
    let ours = client(bmc, login);
    bmc.set_power(true);
    let off = ours.run(Command::Off, limit).await == Ok(Seen::Accepted) && !bmc.record().power;
    off && ours.run(Command::Status, limit).await == Ok(Seen::Power(Power::Off))
}

#[tokio::test]
async fn with_every_quirk_of_the_table_power_is_switched() {
    for row in TABLE {
        let Some(nature) = nature(row.name) else { continue };
        let bmc = Bmc::start("127.0.0.1:0", nature);
        let (quirks, privilege) = match row.switch {
            Switch::Named => (Quirks::named([row.name]).unwrap(), Privilege::Administrator),
            Switch::Setting(_) => (Quirks::default(), Privilege::Operator),
            Switch::Always | Switch::Never => (Quirks::default(), Privilege::Administrator),
        };
        assert!(switches(&bmc, quirks, privilege, LIMIT).await, "{}", row.name);
    }
}

#[tokio::test]
async fn without_its_name_a_named_quirk_is_not_taken() {
    for row in TABLE.iter().filter(|row| row.switch == Switch::Named) {
        let Some(nature) = nature(row.name) else { continue };
        let bmc = Bmc::start("127.0.0.1:0", nature);
        let switched = switches(&bmc, Quirks::default(), Privilege::Administrator, SHORT).await;
        assert!(!switched, "{}", row.name);
    }
}

#[tokio::test]
async fn equal_privilege_is_refused_without_the_setting() {
    let bmc = Bmc::start("127.0.0.1:0", nature("equal-privilege").unwrap());
    let privilege = Privilege::Administrator;
    assert!(!switches(&bmc, Quirks::default(), privilege, SHORT).await);
}

#[tokio::test]
async fn short_answers_are_read_as_far_as_they_go() {
    let bmc = Bmc::start("127.0.0.1:0", nature("short-watchdog").unwrap());
    let ours = client(&bmc, own_login());
    let id = ours.device_id(LIMIT).await.unwrap();
    assert_eq!((id.maker, id.auxiliary), (0x1291, None));
    let watchdog = ours.watchdog(LIMIT).await.unwrap();
    assert_eq!((watchdog.running, watchdog.left), (false, None));
}

#[tokio::test]
async fn off_when_off_is_success_only_where_it_reads_off() {
    let bmc = Bmc::start("127.0.0.1:0", nature("off-when-off").unwrap());
    let ours = client(&bmc, own_login());
    assert_eq!(ours.run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
    // It says so whatever the state.
    let nature = Nature { busy: 1, busy_code: 0xd5, ..Nature::default() };
    let bmc = Bmc::start("127.0.0.1:0", nature);
    bmc.set_power(true);
    let refused = client(&bmc, own_login()).run(Command::Off, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Refused(_))), "{refused:?}");
}

#[tokio::test]
async fn nothing_but_rmcp_plus_is_ever_sent() {
    let bmc = Bmc::start("127.0.0.1:0", nature("no-ipmi-15").unwrap());
    assert!(switches(&bmc, Quirks::default(), Privilege::Administrator, LIMIT).await);
    assert_eq!(bmc.record().foreign, 0);
}

#[tokio::test]
async fn a_guid_that_is_not_kept_is_not_compared() {
    let mut login = own_login();
    login.quirks = Quirks::named(["guid-not-kept"]).unwrap();
    login.expect = Some("00112233445566778899aabbccddeeff".parse().unwrap());
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    let seen = client(&bmc, login).run(Command::Status, LIMIT).await;
    assert_eq!(seen, Ok(Seen::Power(Power::Off)));
}

/// The quirks with which a program does not switch power off and say so.
fn failures(address: &str, program: &str, args: &[&str]) -> Vec<&'static str> {
    let mut failures = Vec::new();
    for row in TABLE {
        let Some(nature) = nature(row.name) else { continue };
        let bmc = Bmc::start(address, nature);
        bmc.set_power(true);
        let ended = std::process::Command::new(program).args(args).output().unwrap();
        if bmc.record().power || !ended.status.success() {
            failures.push(row.name);
        }
    }
    failures.sort_unstable();
    failures
}

#[test]
fn peer_ipmitool_fails_where_this_client_does_not() {
    if has(&["ipmitool"]) {
        let args = "-I lanplus -N 1 -R 1 -C 17 -H 127.77.3.1 -U admin chassis power off -P";
        let args: Vec<&str> = args.split(' ').chain(["twenty bytes at most"]).collect();
        assert_eq!(failures("127.77.3.1:623", "ipmitool", &args), IPMITOOL_FAILS);
    }
}

#[test]
fn peer_freeipmi_fails_where_this_client_does_not() {
    if has(&["ipmipower"]) {
        let args = "-D LAN_2_0 -I 17 --session-timeout=3000 --retransmission-timeout=800 -u admin \
                    -h 127.77.3.2 --off -p";
        let args: Vec<&str> = args.split_whitespace().chain(["twenty bytes at most"]).collect();
        assert_eq!(failures("127.77.3.2:623", "ipmipower", &args), FREEIPMI_FAILS);
    }
}

//! Sessions: lost datagrams, busy BMCs, suites, and the end of each session.

use std::time::Duration;

use fence::device::{Command, DeviceError, Power, Seen};
use fence::ipmi::Suite;

use super::bmc::{Bmc, Nature, client, own_login};
use super::common::{LIMIT, eventually};

const ON: Result<Seen, DeviceError> = Ok(Seen::Power(Power::On));
const OFF: Result<Seen, DeviceError> = Ok(Seen::Power(Power::Off));

fn start(nature: Nature) -> (Bmc, fence::ipmi::Bmc) {
    let bmc = Bmc::start("127.0.0.1:0", nature);
    let ours = client(&bmc, own_login());
    (bmc, ours)
}

fn all_closed(bmc: &Bmc) {
    let limit = Duration::from_secs(10);
    eventually("each session is closed", limit, || {
        let record = bmc.record();
        (record.sessions > 0 && record.sessions == record.closed).then_some(())
    });
}

async fn off_and_read(nature: Nature) -> Bmc {
    let (bmc, ours) = start(nature);
    bmc.set_power(true);
    assert_eq!(ours.run(Command::Status, LIMIT).await, ON);
    assert_eq!(ours.run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    assert_eq!(bmc.record().repeated_sequences, 0);
    bmc
}

#[tokio::test]
async fn lost_requests_are_made_up_for_with_fresh_sequences() {
    off_and_read(Nature { loses_in: Some(4), ..Nature::default() }).await;
}

#[tokio::test]
async fn lost_answers_are_made_up_for_with_fresh_sequences() {
    off_and_read(Nature { loses_out: Some(4), ..Nature::default() }).await;
}

#[tokio::test]
async fn a_session_is_closed_after_each_command() {
    let bmc = off_and_read(Nature::default()).await;
    tokio::task::spawn_blocking(move || all_closed(&bmc)).await.unwrap();
}

#[tokio::test]
async fn a_lost_close_is_sent_again() {
    // Open, RAKP 1, RAKP 3, privilege, status: the sixth datagram is the close.
    let (bmc, ours) = start(Nature { loses_in: Some(6), ..Nature::default() });
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    tokio::task::spawn_blocking(move || all_closed(&bmc)).await.unwrap();
}

#[tokio::test]
async fn a_session_is_closed_when_the_command_is_refused_or_given_up() {
    let nature = Nature { busy: u32::MAX, busy_code: 0xff, ..Nature::default() };
    let (bmc, ours) = start(nature);
    let refused = ours.run(Command::Off, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Refused(_))), "{refused:?}");
    tokio::task::spawn_blocking(move || all_closed(&bmc)).await.unwrap();

    // Nothing but busy: it is at it until it is told to give up.
    let (bmc, ours) = start(Nature { busy: u32::MAX, ..Nature::default() });
    let given_up = tokio::time::timeout(Duration::from_millis(400), ours.run(Command::Off, LIMIT));
    assert!(given_up.await.is_err());
    tokio::task::spawn_blocking(move || all_closed(&bmc)).await.unwrap();
}

#[tokio::test]
async fn a_busy_bmc_is_asked_again() {
    for busy_code in [0xc0, 0xc3] {
        let (bmc, ours) = start(Nature { busy: 3, busy_code, ..Nature::default() });
        bmc.set_power(true);
        assert_eq!(ours.run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
        assert_eq!(bmc.record().controls(0), 4);
        assert!(!bmc.record().power);
    }
}

#[tokio::test]
async fn a_duplicate_that_is_at_work_is_waited_for() {
    let (bmc, ours) = start(Nature { answers_copy: 3, ..Nature::default() });
    assert_eq!(ours.run(Command::On, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(bmc.record().controls(1), 3);
}

#[tokio::test]
async fn a_full_bmc_is_asked_until_there_is_room() {
    let (bmc, ours) = start(Nature { full: 3, ..Nature::default() });
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    assert_eq!(bmc.record().suites.len(), 4);
}

#[tokio::test]
async fn a_forgotten_session_is_opened_anew() {
    let (bmc, ours) = start(Nature { forgets: 1, ..Nature::default() });
    bmc.set_power(true);
    assert_eq!(ours.run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(bmc.record().sessions, 2);
}

#[tokio::test]
async fn suite_3_is_taken_where_17_is_not_and_remembered() {
    let (bmc, ours) = start(Nature { suites: vec![3], ..Nature::default() });
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    assert_eq!(ours.suite(), Some(Suite::Three));
    assert_eq!(bmc.record().suites, [17, 3, 3]);
}

#[tokio::test]
async fn suite_3_is_taken_where_17_is_met_with_silence() {
    let (bmc, ours) = start(Nature { suites: vec![3], suite_status: 0, ..Nature::default() });
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    assert_eq!(bmc.record().suites, [17, 17, 3]);
}

#[tokio::test]
async fn no_suite_is_spoken_that_the_configuration_does_not_name() {
    for answers_suite in [None, Some(3)] {
        let suites = vec![3];
        let bmc = Bmc::start("127.0.0.1:0", Nature { suites, answers_suite, ..Nature::default() });
        let mut login = own_login();
        login.suites = vec![Suite::Seventeen];
        let refused = client(&bmc, login).run(Command::Status, LIMIT).await;
        assert!(matches!(refused, Err(DeviceError::Login(why)) if why.contains("17")));
        assert_eq!((bmc.record().suites, bmc.record().sessions), (vec![17], 0));
    }
}

#[tokio::test]
async fn a_bmc_that_took_suite_17_is_not_talked_down_to_3() {
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    let ours = client(&bmc, own_login());
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    let address = format!("{}:{}", bmc.host(), bmc.port());
    drop(bmc);
    let bmc = Bmc::start(&address, Nature { suites: vec![3], ..Nature::default() });
    let refused = ours.run(Command::Status, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Login(why)) if why.contains("17")));
    assert_eq!(bmc.record().suites, [17]);
}

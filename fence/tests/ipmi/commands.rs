//! Every command, against our own BMC.

use std::time::Duration;

use fence::device::{Command, DeviceError, Power, Seen};
use fence::ipmi::command::{Timer, TimerAction};
use fence::ipmi::{Outcome, Privilege, Suite};
use fence::secret::Secret;

use super::bmc::{Bmc, Nature, client, own_login};
use super::common::LIMIT;

#[tokio::test]
async fn suite_17_is_asked_for_first_and_switches_power() {
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    let ours = client(&bmc, own_login());
    assert_eq!(ours.run(Command::On, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(ours.run(Command::Status, LIMIT).await, Ok(Seen::Power(Power::On)));
    assert_eq!(ours.run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(ours.run(Command::Status, LIMIT).await, Ok(Seen::Power(Power::Off)));
    assert_eq!(ours.suite(), Some(Suite::Seventeen));
    assert_eq!(bmc.record().suites, [17, 17, 17, 17]);
}

#[tokio::test]
async fn ipv6_is_spoken() {
    let bmc = Bmc::start("[::1]:0", Nature::default());
    let ours = client(&bmc, own_login());
    assert_eq!(ours.run(Command::Status, LIMIT).await, Ok(Seen::Power(Power::Off)));
}

#[tokio::test]
async fn a_kg_key_is_used_where_one_is_set_and_missed_where_it_is_not() {
    let nature = Nature { kg: "key of the BMC".to_owned(), ..Nature::default() };
    let bmc = Bmc::start("127.0.0.1:0", nature);
    let mut login = own_login();
    let without = client(&bmc, login.clone()).run(Command::Status, LIMIT).await;
    assert!(matches!(without, Err(DeviceError::Login(why)) if why.contains("Kg")));
    login.kg = Some(Secret::new(b"key of the BMC".to_vec()));
    let with = client(&bmc, login).run(Command::Status, LIMIT).await;
    assert_eq!(with, Ok(Seen::Power(Power::Off)));
}

#[tokio::test]
async fn cycle_and_reset_are_sent_once() {
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    bmc.set_power(true);
    let ours = client(&bmc, own_login());
    assert_eq!(ours.cycle(LIMIT).await, Ok(Outcome::Accepted));
    assert_eq!(ours.reset(LIMIT).await, Ok(Outcome::Accepted));
    assert_eq!((bmc.record().controls(2), bmc.record().controls(3)), (1, 1));
}

#[tokio::test]
async fn an_unanswered_reset_is_not_sent_again_and_the_power_is_read() {
    let bmc = Bmc::start("127.0.0.1:0", Nature { dies_of_reset: true, ..Nature::default() });
    bmc.set_power(true);
    let outcome = client(&bmc, own_login()).reset(LIMIT).await;
    assert_eq!(outcome, Ok(Outcome::Unanswered(Power::On)));
    assert_eq!(bmc.record().controls(3), 1);
}

#[tokio::test]
async fn the_watchdog_is_set_started_and_read() {
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    let ours = client(&bmc, own_login());
    let early = ours.reset_watchdog(LIMIT).await;
    assert!(matches!(early, Err(DeviceError::Refused(why)) if why.contains("not set up")));
    let timer = Timer::system(TimerAction::Off, Duration::from_millis(12_345)).unwrap();
    ours.set_watchdog(timer, LIMIT).await.unwrap();
    assert_eq!(bmc.record().timer, [4, 2, 0, 0x10, 123, 0]);
    assert!(!ours.watchdog(LIMIT).await.unwrap().running);
    ours.reset_watchdog(LIMIT).await.unwrap();
    let read = ours.watchdog(LIMIT).await.unwrap();
    assert!(read.running);
    let action = Some(TimerAction::Off);
    assert_eq!((read.purpose, read.action, read.initial, read.left), (4, action, 123, Some(123)));
    assert!(Timer::system(TimerAction::Off, Duration::from_secs(6554)).is_err());
}

#[tokio::test]
async fn the_device_says_what_it_is() {
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    let id = client(&bmc, own_login()).device_id(LIMIT).await.unwrap();
    assert_eq!((id.firmware, id.maker, id.product), ((2, 34), 0x1291, 0x0f02));
    assert_eq!(id.auxiliary, Some([1, 2, 3, 4]));
}

#[tokio::test]
async fn power_is_switched_with_no_more_privilege_than_was_asked_for() {
    let bmc = Bmc::start("127.0.0.1:0", Nature { privilege: 3, ..Nature::default() });
    let mut login = own_login();
    let refused = client(&bmc, login.clone()).run(Command::Off, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Login(why)) if why.contains("administrator")));
    login.privilege = Privilege::Operator;
    assert_eq!(client(&bmc, login).run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(bmc.record().controls(0), 1);
}

#[tokio::test]
async fn a_user_who_may_only_look_fails_the_first_rehearsal() {
    let bmc = Bmc::start("127.0.0.1:0", Nature { privilege: 2, ..Nature::default() });
    let seen = client(&bmc, own_login()).run(Command::Status, LIMIT).await;
    assert!(matches!(seen, Err(DeviceError::Login(_))), "{seen:?}");
}

#[tokio::test]
async fn a_state_read_right_after_off_takes_one_command() {
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    let ours = client(&bmc, own_login());
    ours.run(Command::Off, LIMIT).await.unwrap();
    let before = bmc.record().commands.len();
    ours.run(Command::Status, LIMIT).await.unwrap();
    let commands = bmc.record().commands;
    let closing = |command: &&(u8, u8, Option<u8>)| (command.0, command.1) != (6, 0x3c);
    let since: Vec<_> = commands[before..].iter().filter(closing).collect();
    assert_eq!(since, [&(0, 1, None)]);
}

//! Against OpenIPMI's ipmi_sim, whose power switch ends a real process.

use std::time::Duration;

use fence::device::{Command, DeviceError, Power, Seen};
use fence::ipmi::command::{Timer, TimerAction};
use fence::ipmi::{Outcome, Privilege, Suite};

use super::common::{LIMIT, bmc, has, login};
use super::sim::{self, Sim};

fn guid(last: u8) -> String {
    format!("a123456789abcdefa123456789abcd{last:02x}")
}

fn start(last: u8) -> Option<(Sim, fence::ipmi::Bmc)> {
    if !has(&["ipmi_sim"]) {
        return None;
    }
    let sim = Sim::start(&format!("127.77.1.{last}"), &guid(last));
    let ours = bmc(sim.address(), 623, login(sim::USER, sim::PASSWORD));
    Some((sim, ours))
}

#[tokio::test]
async fn off_ends_the_machine_and_a_fresh_session_reads_it() {
    let Some((sim, bmc)) = start(1) else { return };
    assert_eq!(bmc.run(Command::Status, LIMIT).await, Ok(Seen::Power(Power::Off)));
    assert_eq!(bmc.run(Command::On, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(bmc.run(Command::Status, LIMIT).await, Ok(Seen::Power(Power::On)));
    assert!(sim.machine().is_some());
    assert_eq!(bmc.run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(sim.machine(), None);
    assert_eq!(bmc.run(Command::Status, LIMIT).await, Ok(Seen::Power(Power::Off)));
    // It has no suite 17, and says so.
    assert_eq!(bmc.suite(), Some(Suite::Three));
    assert_eq!(bmc.guid().map(|guid| guid.to_string()), Some(guid(1)));
}

#[tokio::test]
async fn reset_puts_another_machine_in_the_place_of_the_first() {
    let Some((sim, bmc)) = start(2) else { return };
    bmc.run(Command::On, LIMIT).await.unwrap();
    let before = sim.machine().unwrap();
    assert_eq!(bmc.reset(LIMIT).await, Ok(Outcome::Accepted));
    assert!(sim.machine().is_some_and(|after| after != before));
}

#[tokio::test]
async fn an_operator_switches_power() {
    let Some((sim, as_admin)) = start(3) else { return };
    as_admin.run(Command::On, LIMIT).await.unwrap();
    let mut login = login(sim::OPERATOR, sim::OPERATOR_PASSWORD);
    login.privilege = Privilege::Operator;
    let off = bmc(sim.address(), 623, login).run(Command::Off, LIMIT).await;
    assert_eq!(off, Ok(Seen::Accepted));
    assert_eq!(sim.machine(), None);
}

#[tokio::test]
async fn a_wrong_password_is_refused_by_the_console_itself() {
    let Some((sim, _)) = start(4) else { return };
    let wrong = bmc(sim.address(), 623, login(sim::USER, "wrong")).run(Command::Off, LIMIT).await;
    assert!(matches!(wrong, Err(DeviceError::Login(why)) if why.contains("password")));
}

#[tokio::test]
async fn the_watchdog_is_set_and_read_with_garbage_and_missing_bytes() {
    let Some((_sim, bmc)) = start(5) else { return };
    let early = bmc.reset_watchdog(LIMIT).await;
    assert!(matches!(early, Err(DeviceError::Refused(_))), "{early:?}");
    let timer = Timer::system(TimerAction::None, Duration::from_secs(60)).unwrap();
    bmc.set_watchdog(timer, LIMIT).await.unwrap();
    bmc.reset_watchdog(LIMIT).await.unwrap();
    let read = bmc.watchdog(LIMIT).await.unwrap();
    assert_eq!((read.action, read.initial), (Some(TimerAction::None), 600));
    assert_eq!(bmc.device_id(LIMIT).await.unwrap().maker, 0x1291);
}

#[tokio::test]
async fn a_bmc_that_ends_and_comes_back_is_found_again() {
    let Some((mut sim, bmc)) = start(6) else { return };
    bmc.run(Command::On, LIMIT).await.unwrap();
    let first = sim.pid();
    sim.kill();
    let gone = bmc.run(Command::Status, Duration::from_secs(5)).await;
    assert!(matches!(gone, Err(DeviceError::Refused(_) | DeviceError::Silent(_))), "{gone:?}");
    sim.restart();
    assert_ne!(sim.pid(), first);
    // The machine ran on, and that is what is read: nothing is assumed.
    assert_eq!(bmc.run(Command::Status, LIMIT).await, Ok(Seen::Power(Power::On)));
}

#[tokio::test]
async fn more_sessions_than_the_bmc_has_slots_are_opened_and_closed() {
    let Some((_sim, bmc)) = start(7) else { return };
    for _ in 0..80 {
        assert_eq!(bmc.run(Command::Status, LIMIT).await, Ok(Seen::Power(Power::Off)));
    }
}

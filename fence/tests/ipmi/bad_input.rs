//! Bad input: what a BMC, or somebody in its place, may do.

use std::time::Duration;

use fence::device::{Command, DeviceError, Power, Seen};

use super::bmc::{Bmc, Nature, client, own_login};
use super::common::{LIMIT, bmc, login};

const ON: Result<Seen, DeviceError> = Ok(Seen::Power(Power::On));
const OFF: Result<Seen, DeviceError> = Ok(Seen::Power(Power::Off));
const SHORT: Duration = Duration::from_millis(1500);

fn start(nature: Nature) -> (Bmc, fence::ipmi::Bmc) {
    let bmc = Bmc::start("127.0.0.1:0", nature);
    let ours = client(&bmc, own_login());
    (bmc, ours)
}

#[tokio::test]
async fn a_wrong_password_is_a_refused_login_and_no_session() {
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    let refused = client(&bmc, login("admin", "wrong")).run(Command::Off, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Login(why)) if why.contains("password")));
    let refused = client(&bmc, login("nobody", "wrong")).run(Command::Off, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Login(why)) if why.contains("nobody")));
    assert_eq!((bmc.record().sessions, bmc.record().controls(0)), (0, 0));
}

#[tokio::test]
async fn a_bmc_without_the_password_gets_no_proof_of_it() {
    let (bmc, ours) = start(Nature { wrong_rakp2: true, ..Nature::default() });
    let refused = ours.run(Command::Off, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Login(why)) if why.contains("does not know")));
    assert_eq!(bmc.record().sessions, 0);
    assert_eq!(ours.guid(), None);
}

#[tokio::test]
async fn a_bmc_without_the_key_gets_no_command() {
    let (bmc, ours) = start(Nature { wrong_rakp4: true, ..Nature::default() });
    let refused = ours.run(Command::Off, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Login(_))), "{refused:?}");
    assert!(bmc.record().commands.is_empty());
}

#[tokio::test]
async fn a_silent_network_is_an_error_at_the_limit() {
    // Bound and never read.
    let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = nobody.local_addr().unwrap().port();
    let silent = bmc("127.0.0.1", port, own_login()).run(Command::Status, SHORT).await;
    assert_eq!(silent, Err(DeviceError::Silent(SHORT)));
}

#[tokio::test]
async fn a_closed_port_is_an_error_before_the_limit() {
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let refused = bmc("127.0.0.1", port, own_login()).run(Command::Status, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Refused(why)) if why.contains("nothing listens")));
}

#[tokio::test]
async fn success_without_effect_is_read_back_as_on() {
    let (bmc, ours) = start(Nature { lies: true, ..Nature::default() });
    bmc.set_power(true);
    assert_eq!(ours.run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(ours.run(Command::Status, LIMIT).await, ON);
}

#[tokio::test]
async fn power_that_returns_by_itself_is_read_as_on() {
    let (bmc, ours) = start(Nature { returns_at: Some(2), ..Nature::default() });
    bmc.set_power(true);
    assert_eq!(ours.run(Command::Off, LIMIT).await, Ok(Seen::Accepted));
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    assert_eq!(ours.run(Command::Status, LIMIT).await, ON);
}

async fn reads_the_truth(nature: Nature) {
    let (bmc, ours) = start(nature);
    for on in [true, false, true] {
        let (command, read) = if on { (Command::On, ON) } else { (Command::Off, OFF) };
        assert_eq!(ours.run(command, LIMIT).await, Ok(Seen::Accepted));
        assert_eq!(bmc.record().power, on);
        assert_eq!(ours.run(Command::Status, LIMIT).await, read);
    }
}

#[tokio::test]
async fn duplicated_datagrams_change_nothing() {
    reads_the_truth(Nature { twice: true, ..Nature::default() }).await;
}

#[tokio::test]
async fn replayed_datagrams_are_never_taken_for_an_answer() {
    reads_the_truth(Nature { replays: true, ..Nature::default() }).await;
}

#[tokio::test]
async fn garbage_and_forged_datagrams_are_never_taken_for_an_answer() {
    reads_the_truth(Nature { garbage: true, ..Nature::default() }).await;
}

#[tokio::test]
async fn garbage_after_the_completion_code_is_ignored() {
    reads_the_truth(Nature { tail: true, ..Nature::default() }).await;
}

#[tokio::test]
async fn answers_without_a_code_are_no_answers() {
    let (bmc, ours) = start(Nature { plain: true, ..Nature::default() });
    bmc.set_power(true);
    let seen = ours.run(Command::Status, SHORT).await;
    assert!(matches!(seen, Err(DeviceError::Garbage(why)) if why.contains("not encrypted")));
}

#[tokio::test]
async fn another_hosts_bmc_at_the_address_is_a_stranger_and_gets_no_command() {
    let (bmc, ours) = start(Nature::default());
    assert_eq!(ours.run(Command::Status, LIMIT).await, OFF);
    let first = ours.guid().unwrap();
    let address = format!("{}:{}", bmc.host(), bmc.port());
    drop(bmc);
    // Even with the same password, and with another one.
    for wrong_rakp2 in [false, true] {
        let guid = *b"fedcba9876543210";
        let other = Bmc::start(&address, Nature { guid, wrong_rakp2, ..Nature::default() });
        let refused = ours.run(Command::Off, LIMIT).await;
        let named = first.to_string();
        assert!(matches!(refused, Err(DeviceError::Stranger(why)) if why.contains(&named)));
        assert!(other.record().commands.is_empty());
    }
}

#[tokio::test]
async fn a_guid_that_was_kept_over_a_restart_is_expected() {
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    let mut login = own_login();
    login.expect = Some("ffffffffffffffffffffffffffffff00".parse().unwrap());
    let refused = client(&bmc, login).run(Command::Off, LIMIT).await;
    assert!(matches!(refused, Err(DeviceError::Stranger(_))), "{refused:?}");
    assert_eq!(bmc.record().controls(0), 0);
}

#[test]
fn a_password_that_ipmi_cannot_carry_is_refused_before_anything_is_sent() {
    let address = fence::ipmi::Address { host: "127.0.0.1".to_owned(), port: 623 };
    for wrong in [login("admin", "twenty-one bytes long"), login("seventeen letters", "short")] {
        assert!(fence::ipmi::Bmc::new(address.clone(), wrong).is_err());
    }
}

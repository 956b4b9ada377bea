//! Agents of the fence-agents project, as Debian ships them.

use std::collections::BTreeMap;

use fence::agent::{Agent, Config};
use fence::device::{Command, DeviceError, Power, Seen};
use fence::secret::Secret;

use super::lab::{PATIENCE, Scratch, installed};
use super::sim::{PASSWORD, Sim, USER};

fn options_of(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn peer_fence_dummy_is_switched_off_and_on_and_read_back() {
    let Some(program) = installed("fence_dummy") else { return };
    let scratch = Scratch::new("dummy");
    let file = scratch.file("power");
    std::fs::write(&file, "on").unwrap();
    let options = options_of(&[("type", "file"), ("status_file", file.to_str().unwrap())]);
    let agent = Agent::new(Config { program, options, ..Config::default() }).unwrap();
    let run = |command| agent.run(command, PATIENCE);
    assert_eq!(run(Command::Status).await, Ok(Seen::Power(Power::On)));
    assert_eq!(run(Command::Off).await, Ok(Seen::Accepted));
    assert_eq!(scratch.read("power"), "off");
    assert_eq!(run(Command::Status).await, Ok(Seen::Power(Power::Off)));
    assert_eq!(run(Command::Off).await, Ok(Seen::Accepted), "it is off already");
    assert_eq!(run(Command::On).await, Ok(Seen::Accepted));
    assert_eq!(run(Command::Status).await, Ok(Seen::Power(Power::On)));
    // A state that is none is no proof.
    std::fs::write(&file, "unknown").unwrap();
    let result = run(Command::Status).await;
    assert!(matches!(result, Err(DeviceError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn peer_metadata_of_real_agents_names_their_actions() {
    for program in ["fence_dummy", "fence_ipmilan", "fence_apc_snmp", "fence_redfish"] {
        let Some(program) = installed(program) else { return };
        let agent = Agent::new(Config { program, ..Config::default() }).unwrap();
        let actions = agent.actions(PATIENCE).await.unwrap();
        assert_eq!(actions.missing(&["on", "off", "status", "monitor"]), [""; 0]);
        assert!(!actions.has("disable"));
    }
    // It can only wait for a machine that dumps its memory.
    let Some(program) = installed("fence_kdump") else { return };
    let agent = Agent::new(Config { program, ..Config::default() }).unwrap();
    let actions = agent.actions(PATIENCE).await.unwrap();
    assert_eq!(actions.missing(&["on", "off", "status"]), ["on", "status"]);
}

#[tokio::test]
async fn peer_fence_ipmilan_without_a_bmc_fails_and_shows_no_password() {
    let Some(program) = installed("fence_ipmilan") else { return };
    if installed("ipmitool").is_none() {
        return;
    }
    let config = Config {
        program,
        // Nobody listens on this port of this address.
        options: options_of(&[
            ("ip", "127.99.98.97"),
            ("ipport", "6239"),
            ("username", "admin"),
            ("lanplus", "1"),
            ("cipher", "3"),
            ("login_timeout", "1"),
            ("power_timeout", "1"),
            ("verbose", "1"),
        ]),
        secrets: BTreeMap::from([("password".to_owned(), Secret::new(b"hunter2".to_vec()))]),
    };
    let agent = Agent::new(config).unwrap();
    for command in [Command::Status, Command::Off] {
        let error = agent.run(command, PATIENCE).await.unwrap_err();
        assert!(matches!(error, DeviceError::Refused(_)), "{error:?}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn peer_fence_ipmilan_switches_a_simulated_bmc() {
    let Some(program) = installed("fence_ipmilan") else { return };
    if installed("ipmi_sim").is_none() || installed("ipmitool").is_none() {
        return;
    }
    let bmc = Sim::start("127.61.0.1", "a123456789abcdefa123456789abcdef");
    let options = [
        ("ip", bmc.address()),
        ("username", USER),
        ("lanplus", "1"),
        ("cipher", "3"),
        ("power_wait", "0"),
    ];
    let config = |password: &str| Config {
        program: program.clone(),
        options: options_of(&options),
        secrets: BTreeMap::from([("password".to_owned(), Secret::new(password.into()))]),
    };
    let agent = Agent::new(config(PASSWORD)).unwrap();
    let run = |command| agent.run(command, PATIENCE);
    assert_eq!(run(Command::On).await, Ok(Seen::Accepted));
    let machine = bmc.machine().expect("it has power");
    assert_eq!(run(Command::Status).await, Ok(Seen::Power(Power::On)));
    assert_eq!(run(Command::Off).await, Ok(Seen::Accepted));
    assert_eq!(bmc.machine(), None, "process {machine} lives");
    assert_eq!(run(Command::Status).await, Ok(Seen::Power(Power::Off)));

    let error = Agent::new(config("hunter2")).unwrap().run(Command::Status, PATIENCE).await;
    let Err(DeviceError::Refused(text)) = error else { panic!("{error:?}") };
    assert!(!text.contains("hunter2"), "{text}");
}

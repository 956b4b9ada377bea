//! Status, off and on: what is sent, and what is made of the answers.

use fence::device::{Command, DeviceError, Power, Seen};
use fence::redfish::{Config, Redfish};
use serde_json::{Value, json};

use super::bmc::{Bmc, PATIENCE, RESET, Reply, SYSTEM, refusal};

async fn run(bmc: &Bmc, command: Command) -> Result<Seen, DeviceError> {
    Redfish::new(bmc.config()).unwrap().run(command, PATIENCE).await
}

fn refused(result: Result<Seen, DeviceError>) -> String {
    match result {
        Err(DeviceError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn off_is_force_off_and_on_is_on_and_both_are_read_back() {
    let bmc = Bmc::start().await;
    let redfish = Redfish::new(bmc.config()).unwrap();
    assert_eq!(redfish.run(Command::Status, PATIENCE).await, Ok(Seen::Power(Power::On)));
    assert_eq!(redfish.run(Command::Off, PATIENCE).await, Ok(Seen::Accepted));
    assert_eq!(redfish.run(Command::Status, PATIENCE).await, Ok(Seen::Power(Power::Off)));
    assert_eq!(redfish.run(Command::On, PATIENCE).await, Ok(Seen::Accepted));
    assert_eq!(redfish.run(Command::Status, PATIENCE).await, Ok(Seen::Power(Power::On)));
    assert_eq!(bmc.state().resets, ["ForceOff", "On"]);
}

#[tokio::test]
async fn every_status_is_read_anew_in_a_session_of_its_own() {
    let bmc = Bmc::start().await;
    bmc.state().obeys = false;
    let redfish = Redfish::new(bmc.config()).unwrap();
    for (said, power) in [("Off", Power::Off), ("On", Power::On), ("Off", Power::Off)] {
        // Power that returns by itself, and goes again.
        bmc.state().power = json!(said);
        assert_eq!(redfish.run(Command::Status, PATIENCE).await, Ok(Seen::Power(power)));
    }
    let state = bmc.state();
    assert_eq!((state.sessions_made, state.count(&format!("GET {SYSTEM}"))), (3, 3));
}

#[tokio::test]
async fn success_without_effect_reads_on() {
    let bmc = Bmc::start().await;
    bmc.state().obeys = false;
    assert_eq!(run(&bmc, Command::Off).await, Ok(Seen::Accepted));
    assert_eq!(run(&bmc, Command::Status).await, Ok(Seen::Power(Power::On)));
}

#[tokio::test]
async fn only_off_reads_off() {
    let bmc = Bmc::start().await;
    for said in ["On", "PoweringOff", "PoweringOn", "Paused", "poweringoff"] {
        bmc.state().power = json!(said);
        assert_eq!(run(&bmc, Command::Status).await, Ok(Seen::Power(Power::On)), "{said}");
    }
    let odd = [json!(null), json!("off "), json!(""), json!(0), json!(false), json!(["Off"])];
    for said in odd.into_iter().chain([json!("Unknown"), json!({ "Off": "Off" })]) {
        bmc.state().power = said.clone();
        let read = run(&bmc, Command::Status).await;
        assert!(matches!(read, Err(DeviceError::Garbage(_))), "{said}: {read:?}");
    }
}

#[tokio::test]
async fn off_already_is_a_success_however_the_bmc_refuses_it() {
    let bmc = Bmc::start().await;
    bmc.state().power = json!("Off");
    let post = format!("POST {RESET}");
    let refusals = [
        refusal(400, "iLO.2.15.InvalidOperationForSystemState", "not in this state"),
        refusal(400, "Base.1.5.ActionNotSupported", "not supported"),
        refusal(409, "IDRAC.2.4.PSU501", "the server is already powered off"),
        refusal(409, "Base.1.8.NoOperation", "nothing to do"),
        Reply::Raw(500, Vec::new(), "<html>oops</html>".to_owned()),
        Reply::Raw(412, Vec::new(), String::new()),
    ];
    let count = refusals.len();
    for reply in refusals {
        bmc.next(&post, reply.clone());
        assert_eq!(run(&bmc, Command::Off).await, Ok(Seen::Accepted), "{reply:?}");
    }
    assert_eq!(bmc.state().resets.len(), count, "the command is sent all the same");
    assert_eq!(run(&bmc, Command::Off).await, Ok(Seen::Accepted));
}

#[tokio::test]
async fn a_refusal_with_the_power_on_is_an_error_in_the_bmcs_words() {
    let bmc = Bmc::start().await;
    for (status, power) in [(400, "On"), (409, "PoweringOff"), (500, "On")] {
        bmc.state().power = json!(power);
        let reply = refusal(status, "Base.1.8.ResourceInUse", "an update\n\x1b[1mis running");
        bmc.next(&format!("POST {RESET}"), reply);
        let text = refused(run(&bmc, Command::Off).await);
        let words = format!("ForceOff: http {status}: an update; ?[1mis running");
        assert_eq!(text, words);
    }
    bmc.state().power = json!("PoweringOff");
    bmc.next(&format!("POST {RESET}"), refusal(409, "x", "y"));
    refused(run(&bmc, Command::On).await);
}

#[tokio::test]
async fn neither_a_button_nor_a_graceful_shutdown_is_a_fence() {
    let bmc = Bmc::start().await;
    let offers = ["PushPowerButton", "GracefulShutdown", "On", "ForceRestart", "PowerCycle", "Nmi"];
    bmc.state().action["ResetType@Redfish.AllowableValues"] = json!(offers);
    let text = refused(run(&bmc, Command::Off).await);
    assert!(text.contains("no ForceOff") && text.contains("PushPowerButton"), "{text}");
    assert_eq!(bmc.state().resets, [""; 0]);
}

#[tokio::test]
async fn the_reset_types_are_those_that_the_bmc_lists() {
    let bmc = Bmc::start().await;
    let info = "/redfish/v1/Systems/1/ResetActionInfo";
    let action = |more: Value| {
        let mut action = json!({ "target": RESET });
        action.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        action
    };
    bmc.state().action = action(json!({ "ResetType@Redfish.AllowableValues": ["ForceOn"] }));
    assert_eq!(run(&bmc, Command::On).await, Ok(Seen::Accepted));
    // In a resource of its own, as DSP0266, 9.6.13.2 has it.
    bmc.state().action = action(json!({ "@Redfish.ActionInfo": info }));
    let parameters = json!([{ "Name": "Other" },
        { "Name": "ResetType", "AllowableValues": ["ForceOff", "ForceOn"] }]);
    for _ in 0..2 {
        bmc.next(&format!("GET {info}"), Reply::Json(200, json!({ "Parameters": parameters })));
    }
    assert_eq!(run(&bmc, Command::Off).await, Ok(Seen::Accepted));
    assert_eq!(run(&bmc, Command::On).await, Ok(Seen::Accepted));
    // Nothing is said: the names of the standard.
    bmc.state().action = action(json!({}));
    assert_eq!(run(&bmc, Command::On).await, Ok(Seen::Accepted));
    assert_eq!(bmc.state().resets, ["ForceOn", "ForceOff", "ForceOn", "On"]);
    for none in [json!(null), json!({}), json!({ "target": 5 })] {
        bmc.state().action = none;
        let text = refused(run(&bmc, Command::Off).await);
        assert!(text.contains("ComputerSystem.Reset"), "{text}");
    }
}

#[tokio::test]
async fn of_several_systems_one_has_to_be_named() {
    let bmc = Bmc::start().await;
    bmc.state().members = vec!["/redfish/v1/Systems/0", SYSTEM, "/redfish/v1/Systems/11"];
    let Err(DeviceError::Local(text)) = run(&bmc, Command::Status).await else { panic!() };
    assert!(text.contains("3 systems") && text.ends_with("0, 1, 11"), "{text}");
    for name in ["1", SYSTEM] {
        let mut config = bmc.config();
        config.system = Some(name.to_owned());
        let redfish = Redfish::new(config).unwrap();
        assert_eq!(redfish.run(Command::Off, PATIENCE).await, Ok(Seen::Accepted), "{name}");
    }
    let mut config = bmc.config();
    config.system = Some("2".to_owned());
    let missing = Redfish::new(config).unwrap().run(Command::Off, PATIENCE).await;
    let Err(DeviceError::Local(text)) = missing else { panic!() };
    assert!(text.contains("no system \"2\""), "{text}");
    bmc.state().members.clear();
    let Err(DeviceError::Local(text)) = run(&bmc, Command::Status).await else { panic!() };
    assert!(text.contains("shows no system"), "{text}");
}

#[tokio::test]
async fn a_system_is_found_on_a_later_page() {
    let bmc = Bmc::start().await;
    bmc.state().members = vec![SYSTEM];
    let first = json!({ "Members": [{ "@odata.id": "/redfish/v1/Systems/9" }],
        "Members@odata.nextLink": "/redfish/v1/Systems?page=2" });
    bmc.next("GET /redfish/v1/Systems", Reply::Json(200, first.clone()));
    let mut config = bmc.config();
    config.system = Some("1".to_owned());
    let redfish = Redfish::new(config).unwrap();
    assert_eq!(redfish.run(Command::Status, PATIENCE).await, Ok(Seen::Power(Power::On)));
    // One on the first page and one on the second are two.
    bmc.next("GET /redfish/v1/Systems", Reply::Json(200, first));
    let Err(DeviceError::Local(text)) = run(&bmc, Command::Status).await else { panic!() };
    assert!(text.contains("2 systems"), "{text}");
}

#[tokio::test]
async fn another_uuid_is_a_stranger_and_gets_no_command() {
    let bmc = Bmc::start().await;
    let mut config = bmc.config();
    config.expect_uuid = Some("{38947555774234483784823347823834}".to_owned());
    let redfish = Redfish::new(config).unwrap();
    assert_eq!(redfish.run(Command::Off, PATIENCE).await, Ok(Seen::Accepted));
    bmc.state().resets.clear();
    for other in [json!("00000000-7742-3448-3784-823347823834"), json!(null), json!("")] {
        bmc.state().uuid = other.clone();
        for command in [Command::Off, Command::Status, Command::On] {
            let result = redfish.run(command, PATIENCE).await;
            assert!(matches!(result, Err(DeviceError::Stranger(_))), "{other} {result:?}");
        }
    }
    assert_eq!(bmc.state().resets, [""; 0]);
    bmc.all_sessions_end().await;
}

#[tokio::test]
async fn the_first_uuid_is_remembered() {
    let bmc = Bmc::start().await;
    let redfish = Redfish::new(bmc.config()).unwrap();
    assert_eq!(redfish.uuid(), None);
    redfish.run(Command::Status, PATIENCE).await.unwrap();
    assert_eq!(redfish.uuid().as_deref(), Some(super::bmc::UUID));
    bmc.state().uuid = json!("00000000-0000-0000-0000-000000000001");
    for _ in 0..2 {
        let result = redfish.run(Command::Off, PATIENCE).await;
        assert!(matches!(result, Err(DeviceError::Stranger(_))), "{result:?}");
    }
    assert_eq!(bmc.state().resets, [""; 0]);
}

#[tokio::test]
async fn without_a_uuid_the_way_to_the_system_is_asked_for_each_time() {
    let bmc = Bmc::start().await;
    bmc.state().uuid = json!(null);
    let redfish = Redfish::new(bmc.config()).unwrap();
    redfish.run(Command::Status, PATIENCE).await.unwrap();
    bmc.state().members.push("/redfish/v1/Systems/2");
    let result = redfish.run(Command::Off, PATIENCE).await;
    assert!(matches!(result, Err(DeviceError::Local(_))), "{result:?}");
}

#[tokio::test]
async fn an_expected_uuid_may_be_odd_but_not_empty() {
    let bmc = Bmc::start().await;
    let with = |uuid: &str| Config { expect_uuid: Some(uuid.to_owned()), ..bmc.config() };
    for empty in ["", " "] {
        assert!(matches!(Redfish::new(with(empty)), Err(DeviceError::Local(_))));
    }
    // What was remembered of such a BMC is expected of it after a restart.
    bmc.state().uuid = json!("Serial 7");
    let redfish = Redfish::new(with("serial 7")).unwrap();
    assert_eq!(redfish.run(Command::Status, PATIENCE).await, Ok(Seen::Power(Power::On)));
    let redfish = Redfish::new(with("serial 8")).unwrap();
    let result = redfish.run(Command::Status, PATIENCE).await;
    assert!(matches!(result, Err(DeviceError::Stranger(_))), "{result:?}");
}

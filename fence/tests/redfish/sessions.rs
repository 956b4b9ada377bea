//! Logging in and out.

use std::time::Duration;

use fence::device::{Command, DeviceError, Power, Seen};
use fence::redfish::Redfish;
use fence::secret::Secret;
use serde_json::json;

use super::bmc::{Bmc, PATIENCE, RESET, Reply, SESSIONS, SYSTEM, refusal, soon};

const ON: Result<Seen, DeviceError> = Ok(Seen::Power(Power::On));

async fn status(bmc: &Bmc) -> Result<Seen, DeviceError> {
    Redfish::new(bmc.config()).unwrap().run(Command::Status, PATIENCE).await
}

#[tokio::test]
async fn a_visit_is_a_session_that_is_ended() {
    let bmc = Bmc::start().await;
    assert_eq!(status(&bmc).await, ON);
    bmc.all_sessions_end().await;
    let expected = [
        "nobody GET /redfish/v1/".to_owned(),
        format!("nobody POST {SESSIONS}"),
        "session GET /redfish/v1/Systems".to_owned(),
        format!("session GET {SYSTEM}"),
        format!("session DELETE {SESSIONS}/token1"),
    ];
    assert_eq!(bmc.state().log, expected);
}

#[tokio::test]
async fn a_later_visit_needs_fewer_requests() {
    let bmc = Bmc::start().await;
    let redfish = Redfish::new(bmc.config()).unwrap();
    assert_eq!(redfish.run(Command::Status, PATIENCE).await, ON);
    bmc.all_sessions_end().await;
    bmc.state().log.clear();
    assert_eq!(redfish.run(Command::Status, PATIENCE).await, ON);
    bmc.all_sessions_end().await;
    let expected = [
        format!("nobody POST {SESSIONS}"),
        format!("session GET {SYSTEM}"),
        format!("session DELETE {SESSIONS}/token2"),
    ];
    assert_eq!(bmc.state().log, expected);
}

#[tokio::test]
async fn a_session_is_ended_after_an_error() {
    let bmc = Bmc::start().await;
    for reply in [refusal(500, "x", "y"), Reply::Endless, Reply::Cut] {
        // A connection that breaks is tried once more.
        let times = if matches!(reply, Reply::Cut) { 2 } else { 1 };
        for _ in 0..times {
            bmc.next(&format!("GET {SYSTEM}"), reply.clone());
        }
        assert!(status(&bmc).await.is_err());
        bmc.all_sessions_end().await;
    }
    assert_eq!(bmc.state().sessions_made, 3);
}

#[tokio::test]
async fn a_session_is_ended_when_time_is_up_or_nobody_waits() {
    let bmc = Bmc::start().await;
    let redfish = Redfish::new(bmc.config()).unwrap();
    bmc.next(&format!("GET {SYSTEM}"), Reply::Never);
    let limit = Duration::from_secs(3);
    let result = redfish.run(Command::Status, limit).await;
    assert_eq!(result, Err(DeviceError::Silent(limit)));
    assert_eq!(bmc.state().sessions_made, 1);
    bmc.all_sessions_end().await;

    bmc.next(&format!("GET {SYSTEM}"), Reply::Never);
    let visit = tokio::spawn(async move { redfish.run(Command::Off, PATIENCE).await });
    soon("the system is asked for", || bmc.state().count(SYSTEM) == 2).await;
    assert_eq!(bmc.state().open.len(), 1);
    visit.abort();
    assert!(visit.await.unwrap_err().is_cancelled());
    bmc.all_sessions_end().await;
    assert_eq!(bmc.state().resets, [""; 0]);
}

#[tokio::test]
async fn a_session_is_ended_wherever_the_bmc_says_it_is() {
    let bmc = Bmc::start().await;
    let token = || ("x-auth-token", "token7".to_owned());
    let at = format!("{SESSIONS}/token7");
    let absolute = format!("http://127.0.0.1:{}{at}", bmc.port);
    let elsewhere = "http://192.0.2.9/redfish/v1/x".to_owned();
    let answers = [
        (vec![token(), ("location", absolute)], json!({})),
        (vec![token()], json!({ "@odata.id": at })),
        (vec![token()], json!({ "Id": "token7" })),
        (vec![token(), ("location", elsewhere)], json!({ "Id": "token7" })),
    ];
    for (headers, body) in answers {
        bmc.state().open.insert("token7".to_owned());
        bmc.next(&format!("POST {SESSIONS}"), Reply::Raw(201, headers, body.to_string()));
        assert_eq!(status(&bmc).await, ON);
        bmc.all_sessions_end().await;
    }
}

#[tokio::test]
async fn without_sessions_each_request_carries_the_password() {
    let bmc = Bmc::start().await;
    let missing = [
        Reply::Raw(404, Vec::new(), String::new()),
        Reply::Raw(405, Vec::new(), String::new()),
        Reply::Raw(501, Vec::new(), "<html>".to_owned()),
        // All in use: no reason not to fence.
        refusal(503, "Base.1.8.SessionLimitExceeded", "too many sessions"),
        refusal(400, "Base.1.8.SessionLimitExceeded", "too many sessions"),
    ];
    for reply in missing {
        bmc.next(&format!("POST {SESSIONS}"), reply);
        assert_eq!(status(&bmc).await, ON);
    }
    bmc.state().root = json!({ "Systems": { "@odata.id": "/redfish/v1/Systems" } });
    assert_eq!(status(&bmc).await, ON);
    bmc.next("GET /redfish/v1/", Reply::Raw(401, Vec::new(), String::new()));
    assert_eq!(status(&bmc).await, ON);
    assert_eq!(bmc.state().sessions_made, 0);
    assert_eq!(bmc.state().count(&format!("basic GET {SYSTEM}")), 7);
    assert_eq!(bmc.state().count(&format!("POST {SESSIONS}")), 5);
}

#[tokio::test]
async fn a_session_service_without_a_link_to_its_sessions_is_used() {
    let bmc = Bmc::start().await;
    bmc.state().root = json!({ "SessionService": { "@odata.id": "/redfish/v1/SessionService/" } });
    assert_eq!(status(&bmc).await, ON);
    assert_eq!(bmc.state().sessions_made, 1);
}

#[tokio::test]
async fn a_wrong_password_is_tried_once_and_never_shown() {
    let bmc = Bmc::start().await;
    let mut config = bmc.config();
    config.password = Secret::new(b"hunter2".to_vec());
    let redfish = Redfish::new(config).unwrap();
    let error = redfish.run(Command::Off, PATIENCE).await.unwrap_err();
    assert!(matches!(&error, DeviceError::Login(text) if text == "http 401: wrong password"));
    assert!(!error.is_passing(), "a user is locked out after a few of them");
    assert_eq!(bmc.state().log.len(), 2);
    assert!(!format!("{redfish:?} {error}").contains("hunter2"));

    bmc.next(&format!("POST {SESSIONS}"), refusal(400, "iLO.0.10.UnauthorizedLoginAttempt", "no"));
    let error = redfish.run(Command::Off, PATIENCE).await.unwrap_err();
    assert!(matches!(error, DeviceError::Login(_)), "{error:?}");
    bmc.state().root = json!({});
    let error = redfish.run(Command::Off, PATIENCE).await.unwrap_err();
    assert!(matches!(error, DeviceError::Login(_)), "{error:?}");
}

#[tokio::test]
async fn a_user_without_the_right_is_told_so() {
    let bmc = Bmc::start().await;
    let reply = refusal(403, "Base.1.8.InsufficientPrivilege", "insufficient privilege");
    bmc.next(&format!("POST {RESET}"), reply);
    let redfish = Redfish::new(bmc.config()).unwrap();
    let error = redfish.run(Command::Off, PATIENCE).await.unwrap_err();
    let DeviceError::Login(text) = error else { panic!("{error:?}") };
    assert!(text.contains("insufficient privilege") && text.contains("operator"), "{text}");
    bmc.all_sessions_end().await;
}

#[tokio::test]
async fn a_session_that_the_bmc_ends_in_the_middle_is_no_wrong_password() {
    let bmc = Bmc::start().await;
    bmc.next(&format!("GET {SYSTEM}"), refusal(401, "Base.1.8.NoValidSession", "gone"));
    let error = status(&bmc).await.unwrap_err();
    assert!(matches!(error, DeviceError::Refused(_)) && error.is_passing(), "{error:?}");
}

#[tokio::test]
async fn a_session_without_a_token_is_none() {
    let bmc = Bmc::start().await;
    bmc.next(&format!("POST {SESSIONS}"), Reply::Json(201, json!({ "Id": "7" })));
    let error = status(&bmc).await.unwrap_err();
    assert!(matches!(error, DeviceError::Garbage(_)), "{error:?}");
}

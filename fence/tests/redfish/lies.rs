//! A BMC that is busy, sends us elsewhere, raves or says nothing.

use std::time::Duration;

use fence::device::{Command, DeviceError, Power, Seen};
use fence::redfish::{Config, Redfish, Transport};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bmc::{Bmc, PATIENCE, RESET, Reply, SESSIONS, SYSTEM, soon};

const ON: Result<Seen, DeviceError> = Ok(Seen::Power(Power::On));

async fn run(bmc: &Bmc, command: Command, limit: Duration) -> Result<Seen, DeviceError> {
    Redfish::new(bmc.config()).unwrap().run(command, limit).await
}

async fn status(bmc: &Bmc) -> Result<Seen, DeviceError> {
    run(bmc, Command::Status, PATIENCE).await
}

fn to(status: u16, location: &str) -> Reply {
    Reply::Raw(status, vec![("location", location.to_owned())], String::new())
}

fn busy(after: &str) -> Reply {
    Reply::Raw(503, vec![("retry-after", after.to_owned())], String::new())
}

#[tokio::test]
async fn a_busy_bmc_is_asked_again_when_it_says() {
    let bmc = Bmc::start().await;
    let post = format!("POST {RESET}");
    for reply in [busy("0"), busy("1"), busy("Wed, 21 Oct 2015 07:28:00 GMT")] {
        bmc.next(&post, reply);
    }
    bmc.next(&format!("POST {SESSIONS}"), busy("0"));
    bmc.next(&format!("GET {SYSTEM}"), Reply::Raw(429, Vec::new(), String::new()));
    assert_eq!(run(&bmc, Command::Off, PATIENCE).await, Ok(Seen::Accepted));
    assert_eq!(bmc.state().resets, ["ForceOff"; 4]);
    assert_eq!(bmc.state().power, "Off");
}

#[tokio::test]
async fn a_bmc_that_stays_busy_is_not_waited_for() {
    let bmc = Bmc::start().await;
    bmc.next(&format!("POST {RESET}"), busy("3600"));
    let error = run(&bmc, Command::Off, PATIENCE).await.unwrap_err();
    let DeviceError::Refused(text) = error else { panic!("{error:?}") };
    assert!(text.contains("http 503") && text.contains("3600s"), "{text}");
}

#[tokio::test]
async fn redirects_on_the_bmc_itself_are_followed() {
    let bmc = Bmc::start().await;
    let absolute = format!("http://127.0.0.1:{}{SYSTEM}", bmc.port);
    for (status, location) in [(301, SYSTEM), (302, SYSTEM), (307, SYSTEM), (308, &absolute)] {
        bmc.next("GET /redfish/v1/Systems/old", to(status, location));
    }
    let mut config = bmc.config();
    config.system = Some("/redfish/v1/Systems/old".to_owned());
    let redfish = Redfish::new(config).unwrap();
    for _ in 0..4 {
        assert_eq!(redfish.run(Command::Status, PATIENCE).await, ON);
    }
    bmc.state().action["target"] = json!("/redfish/v1/reset");
    bmc.next("POST /redfish/v1/reset", to(308, RESET));
    assert_eq!(run(&bmc, Command::Off, PATIENCE).await, Ok(Seen::Accepted));
    assert_eq!(bmc.state().resets, ["ForceOff"]);
}

#[tokio::test]
async fn nobody_else_is_asked() {
    let bmc = Bmc::start().await;
    let other = Bmc::start().await;
    let links = [
        format!("http://127.0.0.1:{}{SYSTEM}", other.port),
        format!("http://localhost:{}{SYSTEM}", bmc.port),
        format!("https://127.0.0.1:{}{SYSTEM}", bmc.port),
    ];
    for link in &links {
        bmc.next(&format!("GET {SYSTEM}"), to(307, link));
        let error = status(&bmc).await.unwrap_err();
        assert!(matches!(error, DeviceError::Refused(_)), "{link}: {error:?}");
        // Nor by a link in what the BMC says.
        bmc.state().action["target"] = json!(link);
        let error = run(&bmc, Command::Off, PATIENCE).await.unwrap_err();
        assert!(matches!(error, DeviceError::Refused(_)), "{link}: {error:?}");
    }
    for link in ["", "Systems/1", "\u{7f}", "http://", "*", &"/x".repeat(600)] {
        bmc.state().action["target"] = json!(link);
        let error = run(&bmc, Command::Off, PATIENCE).await.unwrap_err();
        assert!(matches!(error, DeviceError::Garbage(_)), "{link}: {error:?}");
    }
    assert_eq!(other.state().log, [""; 0]);
    assert_eq!(bmc.state().resets, [""; 0]);
}

#[tokio::test]
async fn circles_end() {
    let bmc = Bmc::start().await;
    for _ in 0..9 {
        bmc.next(&format!("GET {SYSTEM}"), to(307, SYSTEM));
    }
    let error = status(&bmc).await.unwrap_err();
    assert!(matches!(error, DeviceError::Garbage(_)), "{error:?}");
    let page = json!({ "Members": [], "Members@odata.nextLink": "/redfish/v1/Systems" });
    for _ in 0..99 {
        bmc.next("GET /redfish/v1/Systems", Reply::Json(200, page.clone()));
    }
    let error = status(&bmc).await.unwrap_err();
    assert!(matches!(error, DeviceError::Local(_)), "{error:?}");
    assert!(bmc.state().count("GET /redfish/v1/Systems") < 20);
}

#[tokio::test]
async fn junk_is_garbage_wherever_it_comes() {
    let bmc = Bmc::start().await;
    let deep = "[".repeat(100_000);
    let places = [
        "GET /redfish/v1/".to_owned(),
        "GET /redfish/v1/Systems".to_owned(),
        format!("GET {SYSTEM}"),
    ];
    for place in &places {
        for junk in ["", "<html>", "\u{feff}{}", "{\"a\":", &deep] {
            bmc.next(place, Reply::Raw(200, Vec::new(), junk.to_owned()));
            let error = status(&bmc).await.unwrap_err();
            assert!(matches!(error, DeviceError::Garbage(_)), "{place} {junk:.9}: {error:?}");
        }
        bmc.next(place, Reply::Endless);
        let error = status(&bmc).await.unwrap_err();
        assert!(
            matches!(&error, DeviceError::Garbage(text) if text.contains("longer")),
            "{error:?}"
        );
    }
    for odd in [json!([]), json!({ "Members": 5 }), json!(null)] {
        bmc.next("GET /redfish/v1/Systems", Reply::Json(200, odd.clone()));
        let error = status(&bmc).await.unwrap_err();
        assert!(matches!(error, DeviceError::Garbage(_)), "{odd}: {error:?}");
    }
    assert_eq!(status(&bmc).await, ON);
    bmc.all_sessions_end().await;
}

#[tokio::test]
async fn a_bmc_may_close_its_connections() {
    let bmc = Bmc::start().await;
    bmc.state().closes = true;
    assert_eq!(run(&bmc, Command::Off, PATIENCE).await, Ok(Seen::Accepted));
    bmc.all_sessions_end().await;
    bmc.state().closes = false;
    // On a connection that was used before, and once more on a new one.
    bmc.next(&format!("POST {RESET}"), Reply::Cut);
    assert_eq!(run(&bmc, Command::On, PATIENCE).await, Ok(Seen::Accepted));
    assert_eq!(bmc.state().resets, ["ForceOff", "On", "On"]);
    for _ in 0..2 {
        bmc.next(&format!("POST {RESET}"), Reply::Cut);
    }
    let error = run(&bmc, Command::Off, PATIENCE).await.unwrap_err();
    assert!(matches!(error, DeviceError::Garbage(_)), "{error:?}");
}

#[tokio::test]
async fn a_closed_port_is_refused_and_a_silent_one_given_up() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = || Config { port, ..plain() };
    let limit = Duration::from_millis(300);
    // The kernel accepts, and nobody answers.
    let result = Redfish::new(config()).unwrap().run(Command::Status, limit).await;
    assert_eq!(result, Err(DeviceError::Silent(limit)));
    drop(listener);
    let result = Redfish::new(config()).unwrap().run(Command::Status, PATIENCE).await;
    assert!(matches!(result, Err(DeviceError::Refused(_))), "{result:?}");
}

#[tokio::test]
async fn what_is_no_http_and_a_head_without_an_end_are_garbage() {
    for endless in [false, true] {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                rave(stream, endless).await;
            }
        });
        let config = Config { port, ..plain() };
        let result = Redfish::new(config).unwrap().run(Command::Status, PATIENCE).await;
        assert!(matches!(result, Err(DeviceError::Garbage(_))), "{endless}: {result:?}");
        server.abort();
    }
}

#[tokio::test]
async fn a_slow_bmc_is_answered_for_within_the_limit() {
    let bmc = Bmc::start().await;
    let limit = Duration::from_millis(300);
    for place in ["GET /redfish/v1/", "GET /redfish/v1/Systems"] {
        bmc.next(place, Reply::Never);
        assert_eq!(run(&bmc, Command::Off, limit).await, Err(DeviceError::Silent(limit)));
    }
    let forever = Duration::MAX;
    assert_eq!(run(&bmc, Command::Off, forever).await, Ok(Seen::Accepted));
    soon("sessions end", || bmc.state().open.is_empty()).await;
}

fn plain() -> Config {
    Config {
        host: "127.0.0.1".to_owned(),
        port: 0,
        transport: Transport::PlainHttp,
        user: "admin".to_owned(),
        password: fence::secret::Secret::new(b"x".to_vec()),
        system: None,
        expect_uuid: None,
    }
}

/// Reads something, and answers with a banner or with headers that do not end.
async fn rave(mut stream: TcpStream, endless: bool) {
    let _ = stream.read(&mut [0; 1024]).await;
    if !endless {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await;
        return;
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
    let line = format!("x: {}\r\n", "y".repeat(1000));
    while stream.write_all(line.as_bytes()).await.is_ok() {}
}

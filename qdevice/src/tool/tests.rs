use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use protocol::host::{DeviceSettings, HeuristicsSettings, HostQuorum, HostView};
use protocol::ids::{Epoch, GrantId, NodeId, RingId, ViewId};
use protocol::status::DeviceStatus;
use protocol::vote::Heuristics;

use super::*;
use crate::core::HeuristicsResults;

fn snapshot() -> Snapshot {
    let id = ViewId { ring: RingId::new(1, 10), nonce: 5 };
    Snapshot {
        cluster: "TestCl".to_owned(),
        node: NodeId(1),
        config_version: Some(7),
        nodes: BTreeMap::from([(NodeId(1), 0), (NodeId(2), 3)]),
        settings: DeviceSettings {
            host: "arbiter".to_owned(),
            port: 5403,
            tls: TlsMode::On,
            algorithm: Algorithm::Ffsplit,
            tie_breaker: TieBreaker::Lowest,
            keep_active_partition: true,
            timeout_ms: 10_000,
            sync_timeout_ms: 30_000,
            heartbeat_ms: 8000,
            connect_timeout_ms: 8000,
            force_ip_version: 0,
            heuristics: HeuristicsSettings {
                mode: HeuristicsMode::On,
                ..HeuristicsSettings::default()
            },
        },
        view: Some(HostView { id, epoch: Epoch(1), members: vec![NodeId(1), NodeId(2)] }),
        quorum: Some(HostQuorum {
            view: id,
            quorate: true,
            expected_votes: 3,
            nodes: BTreeMap::from([(NodeId(1), true), (NodeId(2), false)]),
        }),
        state: State::Connected,
        arbiter: "arbiter:5403".to_owned(),
        connected_at: Some(Time::from_millis(1000)),
        echoed_at: Some(Time::from_millis(61_000)),
        keeps_active_partition: true,
        heuristics: HeuristicsResults {
            latest: Heuristics::Pass,
            regular: Heuristics::Undefined,
            membership: Heuristics::Pass,
            connect: Heuristics::Fail,
        },
        lease: Some((Time::from_millis(99_000), GrantId::default())),
        decided: true,
        status: DeviceStatus { state: "connected".to_owned(), ..DeviceStatus::default() },
    }
}

fn around() -> Around {
    // 2001-09-09T01:46:40 UTC, 62 seconds after the machine's start.
    let wall = Wall::new(Time::from_millis(62_000), 1_000_000_000, TimeZone::UTC);
    Around { wall, last_poll: Some((Time::from_millis(60_000), true)), tls: true }
}

#[test]
fn the_short_text_is_the_stock_one() {
    let expected = "\
Qdevice information
-------------------
Model:\t\t\tNet
Node ID:\t\t1
Configuration version:\t7
Configured node list:
    0\tNode ID = 1
    1\tNode ID = 2, Data center ID = 3
Membership node list:\t1, 2

Qdevice-net information
----------------------
Cluster name:\t\tTestCl
QNetd host:\t\tarbiter:5403
Algorithm:\t\tFifty-Fifty split
Tie-breaker:\t\tNode with lowest node ID
State:\t\t\tConnected
Heuristics result:\tPass
";
    assert_eq!(status_text(&snapshot(), &around(), false), expected);
}

#[test]
fn the_verbose_text_is_the_stock_one() {
    let expected = "\
Qdevice information
-------------------
Model:\t\t\tNet
Node ID:\t\t1
HB interval:\t\t10000ms
Sync HB interval:\t30000ms
Configuration version:\t7
Configured node list:
    0\tNode ID = 1
    1\tNode ID = 2, Data center ID = 3
Heuristics:\t\tEnabled
Ring ID:\t\t1.a
Membership node list:\t1, 2
Quorate:\t\tYes
Quorum node list:
    0\tNode ID = 1, State = member
    1\tNode ID = 2, State = dead
Expected votes:\t\t3
Last poll call:\t\t2001-09-09T01:46:38 (cast vote)

Qdevice-net information
----------------------
Cluster name:\t\tTestCl
QNetd host:\t\tarbiter:5403
Connect timeout:\t8000ms
HB interval:\t\t8000ms
VQ vote timer interval:\t5000ms
TLS:\t\t\tSupported
Algorithm:\t\tFifty-Fifty split
Tie-breaker:\t\tNode with lowest node ID
KAP Tie-breaker:\tEnabled
Poll timer running:\tYes (cast vote)
State:\t\t\tConnected
Heuristics result:\tPass (regular: Undefined, membership: Pass, connect: Fail)
TLS active:\t\tYes (client certificate sent)
Connected since:\t2001-09-09T01:45:39
Echo reply received:\t2001-09-09T01:46:39
";
    assert_eq!(status_text(&snapshot(), &around(), true), expected);
}

#[test]
fn what_is_not_there_is_left_out_or_said() {
    let mut snapshot = snapshot();
    let mut around = around();
    snapshot.config_version = None;
    snapshot.view = None;
    snapshot.quorum = None;
    snapshot.lease = None;
    snapshot.decided = false;
    snapshot.state = State::Down;
    snapshot.settings.algorithm = Algorithm::Lms;
    snapshot.settings.tie_breaker = TieBreaker::Node(NodeId(2));
    snapshot.settings.force_ip_version = 4;
    snapshot.settings.tls = TlsMode::Required;
    snapshot.settings.heuristics.mode = HeuristicsMode::Off;
    around.last_poll = None;
    let text = status_text(&snapshot, &around, true);
    for absent in ["Configuration version", "Heuristics result", "TLS active", "Connected since"] {
        assert!(!text.contains(absent), "{absent}");
    }
    for line in [
        "Heuristics:\t\tDisabled",
        "Membership node list:\t",
        "Quorate:\t\tNo",
        "Last poll call:\t\tNever",
        "Force IP version:\t4",
        "TLS:\t\t\tRequired",
        "Algorithm:\t\tLMS",
        "Tie-breaker:\t\tNode with node ID 2",
        "KAP Tie-breaker:\tAlgorithm hard-coded",
        "Poll timer running:\tNo",
        "State:\t\t\tDisconnected",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    snapshot.status.state = "disconnected: refused".to_owned();
    assert!(status_text(&snapshot, &around, false).contains("State:\t\t\tConnect failed\n"));
    snapshot.settings.algorithm = Algorithm::Ffsplit;
    snapshot.keeps_active_partition = false;
    snapshot.state = State::Connected;
    around.tls = false;
    let text = status_text(&snapshot, &around, true);
    assert!(text.contains("KAP Tie-breaker:\tUnsupported by QNetd\n"));
    assert!(text.contains("TLS active:\t\tNo\n"));
}

fn tool(args: &[&str]) -> Outcome {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    run("corosync-qdevice-tool", &args)
}

#[test]
fn usage_is_the_stock_one() {
    let usage = "usage: corosync-qdevice-tool [-Hhsv] [-p qdevice_ipc_socket_path]\n";
    for (args, stderr) in [
        (&["-h"][..], ""),
        (&[][..], ""),
        (&["-v"][..], ""),
        (&["-sx"][..], "corosync-qdevice-tool: invalid option -- 'x'\n"),
        (&["-s", "-p"][..], "corosync-qdevice-tool: option requires an argument -- 'p'\n"),
    ] {
        let expected = Outcome { stdout: usage.to_owned(), stderr: stderr.to_owned(), code: 1 };
        assert_eq!(tool(args), expected, "{args:?}");
    }
}

#[test]
fn without_a_daemon_the_exit_code_is_3() {
    let outcome = tool(&["-s", "-p", "/no/such/socket"]);
    assert_eq!(outcome.code, 3);
    assert_eq!(
        outcome.stderr,
        "corosync-qdevice-tool: Can't connect to QDevice socket (is QDevice running?): No such \
         file or directory\n"
    );
}

#[test]
fn commands_and_answers_are_the_stock_ones() {
    let path = std::env::temp_dir().join(format!("qdevice-tool-{}", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let told = |args: &[&str], answer: &'static str| {
        std::thread::scope(|scope| {
            let served = scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
                line
            });
            let socket = path.to_str().unwrap();
            let args: Vec<&str> = args.iter().copied().chain(["-p", socket]).collect();
            let outcome = tool(&args);
            (served.join().unwrap(), outcome.stdout, outcome.stderr, outcome.code)
        })
    };
    let reply = |line: &str, stdout: &str, stderr: &str, code| {
        (line.to_owned(), stdout.to_owned(), stderr.to_owned(), code)
    };
    assert_eq!(told(&["-s"], "OK\na\nb\n"), reply("status \n", "a\nb\n", "", 0));
    assert_eq!(told(&["-sv"], "ok\r\na\n"), reply("status verbose \n", "a\n", "", 0));
    // The last of several operations counts.
    assert_eq!(told(&["-s", "-H"], "OK\n"), reply("shutdown \n", "", "", 0));
    assert_eq!(told(&["-s"], "Error\nbad\n"), reply("status \n", "", "Error: bad\n", 4));
    let unknown = "corosync-qdevice-tool: Unknown status line returned by IPC server\n";
    assert_eq!(told(&["-s"], "what\n"), reply("status \n", "", unknown, 3));
    std::fs::remove_file(path).unwrap();
}

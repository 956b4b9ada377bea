//! The keeper as a process: real children, real signals, real time.
#![expect(clippy::unwrap_used, reason = "a test helper that cannot go on fails its test")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::time::Duration;

use host::clock;
use nix::sys::signal::Signal;
use node::keeper::client::{ClientError, KeeperClient};
use node::keeper::mark;
use node::keeper::message::{Command, ExitStatus, Launch, Report, State};
use node::keeper::process::{Handle, ProcessId};
use node::keeper::{EXIT_LOCKED, Options, SOCKET};
use protocol::time::HostInstant;
use protocol::times;
use protocol::vote::WatchdogClass;

const KEEPER: &str = env!("CARGO_BIN_EXE_haguard-keeper");
/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A run directory and the keepers that were seen in it.
struct Place {
    dir: PathBuf,
    keepers: Vec<Handle>,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("hk-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self { dir, keepers: Vec::new() }
    }

    fn options(&self) -> Options {
        let mut options = Options::new(self.dir.clone());
        options.log = Some(self.file("log"));
        options
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    async fn keeper(&mut self) -> (KeeperClient, State) {
        let spawned = KeeperClient::spawn_or_adopt(Path::new(KEEPER), &self.options()).await;
        let (client, state) = spawned.unwrap();
        self.keepers.extend(ProcessId::of(state.pid).and_then(ProcessId::open));
        (client, state)
    }

    fn marked(&self) -> bool {
        self.file(mark::FILE).exists()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// The processes that scripts have noted in `pids`, once there are `count`.
    async fn noted(&self, count: usize) -> Vec<ProcessId> {
        let read = || fs::read_to_string(self.file("pids")).unwrap_or_default();
        until("the pids are noted", || read().lines().count() >= count).await;
        read().lines().map(|pid| ProcessId::of(pid.parse().unwrap()).unwrap()).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // A keeper that was asked to end takes with it what a failed test has left.
        for keeper in &self.keepers {
            let _ = keeper.signal(Signal::SIGTERM);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn in_ms(ms: u64) -> HostInstant {
    clock::read().plus(Duration::from_millis(ms))
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = clock::read().plus(PATIENCE);
    while !condition() {
        assert!(end.remaining(clock::read()) > Duration::ZERO, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn gone(process: ProcessId) -> bool {
    !process.lives()
}

fn sh(script: &str) -> Launch {
    let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
    Launch { argv, env: BTreeMap::new() }
}

fn start(serial: u64, launch: Launch, entitled_until: HostInstant) -> Command {
    Command::Start { serial, launch, undo: None, entitled_until }
}

async fn next(client: &mut KeeperClient) -> Report {
    let report = tokio::time::timeout(PATIENCE, client.recv()).await;
    report.expect("a report in time").unwrap().expect("a keeper that lives")
}

async fn wait_for(client: &mut KeeperClient, wanted: impl Fn(&Report) -> bool) -> Report {
    loop {
        let report = next(client).await;
        if wanted(&report) {
            return report;
        }
    }
}

/// Entitles for `ms` and starts a script; back when it is started.
async fn run(client: &mut KeeperClient, serial: u64, script: &str, ms: u64) -> HostInstant {
    let until = in_ms(ms);
    client.send(&Command::Entitle { until }).await.unwrap();
    client.send(&start(serial, sh(script), until)).await.unwrap();
    let report = wait_for(client, |report| !matches!(report, Report::State(_))).await;
    assert!(
        matches!(report, Report::Started { serial: started, .. } if started == serial),
        "{report:?}"
    );
    until
}

/// Notes three processes: itself, one that ignores SIGTERM, and one that has left its parent,
/// its session and SIGTERM behind.
fn stubborn(place: &Place) -> String {
    let pids = place.file("pids").display().to_string();
    format!(
        "trap '' TERM
         echo $$ >> {pids}
         sh -c 'echo $$ >> {pids}; exec sleep 1000' &
         (setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &)
         sleep 1000"
    )
}

#[tokio::test]
async fn whatever_runs_is_dead_within_the_bound_after_the_daemon_fell_silent() {
    let mut place = Place::new("silent");
    let (mut client, state) = place.keeper().await;
    assert!(state.stopped_proven && state.armed && state.device.is_none());
    assert_eq!((state.class, state.bound_ms), (WatchdogClass::C, 5300));
    let end = run(&mut client, 1, &stubborn(&place), 1500).await;
    let noted = place.noted(3).await;
    assert!(end.remaining(clock::read()) > Duration::ZERO, "too slow to see them live");
    assert!(noted.iter().all(|process| !gone(*process)));
    // The connection stays open, as that of a frozen daemon does; nothing is sent or read.
    until("services have ended", || noted.iter().all(|process| gone(*process))).await;
    let bound = end.plus(times::STOP_PROOF);
    assert!(bound.remaining(clock::read()) > Duration::ZERO, "later than the bound");
    wait_for(&mut client, |report| *report == Report::StoppedProven).await;
    until("the mark is gone", || !place.marked()).await;
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn the_death_of_the_daemon_is_no_event_but_the_deadline_is() {
    let mut place = Place::new("dead");
    let (mut client, _) = place.keeper().await;
    let script = format!("echo $$ >> {}; exec sleep 1000", place.file("pids").display());
    let end = run(&mut client, 1, &script, 2000).await;
    let service = place.noted(1).await[0];
    drop(client);
    until("the keeper has seen it", || place.log().contains("closed the connection")).await;
    assert!(!gone(service), "ended before its time");
    until("the service has ended", || gone(service)).await;
    assert_eq!(end.remaining(clock::read()), Duration::ZERO);
    assert!(end.plus(times::STOP_PROOF).remaining(clock::read()) > Duration::ZERO);
}

#[tokio::test]
async fn a_new_daemon_adopts_the_keeper_after_a_proven_stop() {
    let mut place = Place::new("adopt");
    let (mut client, first) = place.keeper().await;
    run(&mut client, 1, &stubborn(&place), 50_000).await;
    let noted = place.noted(3).await;
    drop(client);
    let (mut client, second) = place.keeper().await;
    assert_eq!(second.pid, first.pid);
    assert!(second.stopped_proven && second.running.is_empty());
    assert!(noted.iter().all(|process| gone(*process)));
    // And goes on with it.
    run(&mut client, 1, "exit 3", 5000).await;
    let exited = Report::Exited { serial: 1, status: ExitStatus::Code(3) };
    wait_for(&mut client, |report| *report == exited).await;
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn the_mark_is_there_from_before_the_start_until_after_the_proof() {
    let mut place = Place::new("mark");
    let (mut client, _) = place.keeper().await;
    assert!(!place.marked());
    let seen = place.file("seen");
    // It takes until SIGKILL to stop, and the mark is looked at before that.
    let script = format!(
        "trap '' TERM; test -e {} && touch {}; exec sleep 1000",
        place.file(mark::FILE).display(),
        seen.display()
    );
    run(&mut client, 1, &script, 20_000).await;
    until("the service has seen the mark", || seen.exists()).await;
    client.send(&Command::Stop).await.unwrap();
    assert!(place.marked());
    wait_for(&mut client, |report| *report == Report::StoppedProven).await;
    until("the mark is gone", || !place.marked()).await;
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn what_a_killed_keeper_leaves_is_ended_by_the_next_one() {
    let mut place = Place::new("killed");
    let (mut client, first) = place.keeper().await;
    run(&mut client, 1, &stubborn(&place), 50_000).await;
    let noted = place.noted(3).await;
    place.keepers[0].signal(Signal::SIGKILL).unwrap();
    until("its own child has died with it", || gone(noted[0])).await;
    drop(client);
    assert!(place.marked());
    assert!(!noted.iter().all(|process| gone(*process)), "nothing left to end");
    let (client, second) = place.keeper().await;
    assert_ne!(second.pid, first.pid);
    assert!(second.stopped_proven && second.armed);
    assert!(noted.iter().all(|process| gone(*process)));
    until("the mark is gone", || !place.marked()).await;
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn a_second_keeper_is_refused_by_name() {
    let mut place = Place::new("second");
    let (client, first) = place.keeper().await;
    let second = Program::new(KEEPER).arg("--run-dir").arg(&place.dir).output().unwrap();
    assert_eq!(second.status.code(), Some(i32::from(EXIT_LOCKED)));
    let said = String::from_utf8(second.stdout).unwrap();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("keeper.lock") && said.contains(&first.pid.to_string()), "{said}");
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn a_second_daemon_is_refused_while_the_first_is_connected() {
    let mut place = Place::new("busy");
    let (client, _) = place.keeper().await;
    let second = KeeperClient::spawn_or_adopt(Path::new(KEEPER), &place.options()).await;
    let refused = second.unwrap_err();
    assert!(matches!(refused, ClientError::Refused(_)), "{refused}");
    assert!(refused.to_string().contains("another node daemon"), "{refused}");
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn a_farewell_or_a_sigterm_ends_everything_cleanly() {
    for by_signal in [false, true] {
        let mut place = Place::new(if by_signal { "sigterm" } else { "farewell" });
        let (mut client, state) = place.keeper().await;
        run(&mut client, 1, &stubborn(&place), 50_000).await;
        let noted = place.noted(3).await;
        let keeper = ProcessId::of(state.pid).unwrap();
        if by_signal {
            keeper.open().unwrap().signal(Signal::SIGTERM).unwrap();
            while client.recv().await.unwrap().is_some() {}
        } else {
            client.send(&Command::Farewell).await.unwrap();
            wait_for(&mut client, |report| *report == Report::StoppedProven).await;
        }
        client.farewell().await.unwrap_or_else(|error| assert!(by_signal, "{error}"));
        until("the keeper has ended", || gone(keeper)).await;
        assert!(noted.iter().all(|process| gone(*process)));
        assert!(!place.marked());
        assert!(!place.file(SOCKET).exists());
    }
}

#[tokio::test]
async fn a_stop_that_cannot_be_proven_takes_the_daemons_in_the_end() {
    let mut place = Place::new("forced");
    let (mut client, _) = place.keeper().await;
    let mut daemon = Program::new("sleep").arg("1000").spawn().unwrap();
    let id = ProcessId::of(i32::try_from(daemon.id()).unwrap()).unwrap();
    // A pid that has been reused since is nobody's daemon.
    let stranger = ProcessId { start_ticks: 1, ..ProcessId::own().unwrap() };
    client.send(&Command::Daemons { daemons: vec![id, stranger] }).await.unwrap();
    let end = in_ms(700);
    client.send(&Command::Entitle { until: end }).await.unwrap();
    let undo = Some(sh("exit 1"));
    let start = Command::Start { serial: 1, launch: sh("exit 0"), undo, entitled_until: end };
    client.send(&start).await.unwrap();
    wait_for(&mut client, |report| matches!(report, Report::Forced { .. })).await;
    assert_eq!(end.plus(times::STOP_BOUND).remaining(clock::read()), Duration::ZERO);
    assert!(end.plus(times::STOP_PROOF).remaining(clock::read()) > Duration::ZERO);
    until("the daemon is dead", || daemon.try_wait().unwrap().is_some()).await;
    // The operator has taken the address away by hand.
    client.send(&Command::Forget { serial: 1 }).await.unwrap();
    wait_for(&mut client, |report| *report == Report::StoppedProven).await;
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn undos_run_once_everything_else_has_ended() {
    let mut place = Place::new("undo");
    let (mut client, _) = place.keeper().await;
    let (pids, order) = (place.file("pids"), place.file("order"));
    let until_end = in_ms(50_000);
    client.send(&Command::Entitle { until: until_end }).await.unwrap();
    for serial in [1, 2] {
        let service = format!("echo $$ >> {}; exec sleep 1000", pids.display());
        let undo = format!(
            "for pid in $(cat {}); do kill -0 $pid && echo alive; done; echo {serial} >> {}",
            pids.display(),
            order.display()
        );
        let launch = sh(&service);
        let undo = Some(sh(&undo));
        let start = Command::Start { serial, launch, undo, entitled_until: until_end };
        client.send(&start).await.unwrap();
    }
    place.noted(2).await;
    client.send(&Command::Stop).await.unwrap();
    wait_for(&mut client, |report| *report == Report::StoppedProven).await;
    assert_eq!(fs::read_to_string(&order).unwrap(), "2\n1\n");
    assert!(!place.log().contains("alive"));
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn one_start_is_cancelled_with_all_that_comes_from_it() {
    let mut place = Place::new("cancel");
    let (mut client, _) = place.keeper().await;
    run(&mut client, 1, &stubborn(&place), 50_000).await;
    let noted = place.noted(3).await;
    let other = format!("echo $$ >> {}; exec sleep 1000", place.file("pids").display());
    run(&mut client, 2, &other, 50_000).await;
    let other = place.noted(4).await[3];
    client.send(&Command::Cancel { serial: 1 }).await.unwrap();
    // What has left its parent and its session is ended with everything else only.
    until("it has ended", || gone(noted[0]) && gone(noted[1])).await;
    assert!(!gone(other));
    client.farewell().await.unwrap();
    assert!(noted.iter().all(|process| gone(*process)) && gone(other));
}

#[tokio::test]
async fn a_service_sees_its_environment_a_path_and_nothing_of_the_daemon() {
    let mut place = Place::new("env");
    let (mut client, _) = place.keeper().await;
    let seen = place.file("seen");
    let until = in_ms(20_000);
    client.send(&Command::Entitle { until }).await.unwrap();
    let mut launch = sh(&format!(
        "env > {0}.new; cat /proc/self/status >> {0}.new; mv {0}.new {0}",
        seen.display()
    ));
    launch.env.insert("EPOCH".to_owned(), "7".to_owned());
    client.send(&start(1, launch, until)).await.unwrap();
    let exited = wait_for(&mut client, |report| matches!(report, Report::Exited { .. })).await;
    assert_eq!(exited, Report::Exited { serial: 1, status: ExitStatus::Code(0) });
    let seen = fs::read_to_string(&seen).unwrap();
    let mut names: Vec<&str> = seen
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, _)| name)
        // Shells set these themselves.
        .filter(|name| !["PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["EPOCH", "HAGUARD_KEEPER", "PATH"]);
    assert!(seen.contains("SigBlk:\t0000000000000000"), "signals are blocked:\n{seen}");
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn starts_that_are_late_or_impossible_are_reported() {
    let mut place = Place::new("late");
    let (mut client, _) = place.keeper().await;
    let until = in_ms(20_000);
    client.send(&start(1, sh("exit 0"), until)).await.unwrap();
    assert!(matches!(next(&mut client).await, Report::Refused { serial: Some(1), .. }));
    client.send(&Command::Entitle { until }).await.unwrap();
    client.send(&start(2, sh("exit 0"), clock::read())).await.unwrap();
    assert!(matches!(next(&mut client).await, Report::Refused { serial: Some(2), .. }));
    let missing = Launch { argv: vec!["/nonexistent/service".to_owned()], env: BTreeMap::new() };
    client.send(&start(3, missing, until)).await.unwrap();
    let exited = wait_for(&mut client, |report| matches!(report, Report::Exited { .. })).await;
    assert_eq!(exited, Report::Exited { serial: 3, status: ExitStatus::Code(127) });
    client.farewell().await.unwrap();
}

#[test]
fn a_child_that_comes_after_the_entitlement_executes_nothing() {
    let place = Place::new("child");
    let own = std::process::id().to_string();
    let now = clock::read();
    let until = |until: HostInstant| format!("{}:{}", until.boottime_ns, until.raw_ns);
    for (until, parent, code, ran) in [
        (until(now), &own, 125, false),
        (until(now.plus(Duration::from_secs(60))), &"1".to_owned(), 125, false),
        (until(now.plus(Duration::from_secs(60))), &own, 0, true),
    ] {
        let file = place.file("ran");
        let child = Program::new(KEEPER)
            .args(["--launch", parent, &until, "-", "-", "touch"])
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!((child.status.code(), file.exists()), (Some(code), ran));
    }
}

#[tokio::test]
async fn hostile_bytes_close_the_connection_and_nothing_else() {
    let mut place = Place::new("hostile");
    let (client, state) = place.keeper().await;
    drop(client);
    let socket = place.file(SOCKET);
    let long = vec![b'x'; 200_000];
    let deep = [b"[".repeat(30_000), b"\n".to_vec()].concat();
    let lines: [&[u8]; 6] =
        [b"\n", b"{}\n", b"{\"type\":\"cancel\",\"serial\":-1}\n", b"\xff\xfe\n", &deep, &long];
    for line in lines {
        // The one before may not have been seen to be closed yet.
        let answer = loop {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            // The keeper may close before it has read all of it.
            let _ = stream.write_all(line);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let answer = String::from_utf8(answer).unwrap();
            if !answer.contains("another node daemon") {
                break answer;
            }
        };
        let reset = answer.is_empty() && line.len() > 64 * 1024;
        assert!(reset || answer.contains("refused"), "{answer:?}");
    }
    let (client, after) = place.keeper().await;
    assert_eq!(after.pid, state.pid);
    client.farewell().await.unwrap();
}

#[tokio::test]
async fn a_keeper_that_cannot_start_says_why_in_one_line() {
    let place = Place::new("reason");
    fs::write(place.file(mark::FILE), "{").unwrap();
    let error =
        KeeperClient::spawn_or_adopt(Path::new(KEEPER), &place.options()).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("may-run") && said.contains("remove the file"), "{said}");
    assert_eq!(said.lines().count(), 1);

    fs::remove_file(place.file(mark::FILE)).unwrap();
    let mut options = place.options();
    options.device = Some(PathBuf::from("/nonexistent/watchdog0"));
    let error = KeeperClient::spawn_or_adopt(Path::new(KEEPER), &options).await.unwrap_err();
    assert!(error.to_string().contains("no such watchdog"), "{error}");
}

//! What the arbiter survives as a real process: kill -9 at any moment, a full disk, ten thousand
//! strangers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::Command;
use std::time::Duration;

use common::arbiter::Home;
use common::client::Client;
use common::cluster::Cluster;
use common::{LIMIT, left_out, status};
use haguard::command::demo::samples::{Record, now};
use haguard::command::demo::story::are_one;
use haguard::command::demo::world::World;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use protocol::rng::Rng;
use protocol::status::QuorumState;
use protocol::time::Time;
use tokio::net::TcpStream;
use tokio::time::sleep;

const KILLS_OF_A_HOLDERS_ARBITER: u32 = 10;
const KILLS_AROUND_DECISIONS: u32 = 6;

fn state(record: &Record, node: u32) -> Option<QuorumState> {
    record.status(node).map(|status| status.state)
}

/// Exactly one of the two is quorate, alone.
fn one_side(record: &Record) -> bool {
    let alone = |node: u32, other: u32| {
        let status = record.status(node);
        status.is_some_and(|s| s.state == QuorumState::Quorate && s.members == [node])
            && state(record, other) == Some(QuorumState::Inquorate)
    };
    alone(1, 2) || alone(2, 1)
}

/// What each node has said of its epoch, in order: never less than before.
fn assert_epochs_grow(cluster: &Cluster) {
    for node in [1, 2] {
        let runs = cluster.sampler.read(|record| record.runs().to_vec());
        let mut epochs = runs.iter().filter(|run| run.node == node && run.view.is_some());
        let mut last = 0;
        assert!(
            epochs.all(|run| std::mem::replace(&mut last, run.epoch) <= run.epoch),
            "an epoch of node {node} went back: {runs:#?} {}",
            cluster.story()
        );
    }
}

async fn kill_and_start(cluster: &mut Cluster, down: Duration) {
    cluster.world.kill_arbiter().await.unwrap();
    sleep(down).await;
    cluster.world.start_arbiter().unwrap();
}

#[tokio::test]
async fn the_holder_keeps_the_vote_through_kills_of_the_arbiter_at_random_moments() {
    let mut cluster = Cluster::start("kill9", 31, true).await;
    let mut rng = Rng::new(31);
    cluster.world.split(&[1], &[2]).await.unwrap();
    cluster.wait("one side", one_side).await;
    let grant = cluster.grant_that("a holder", |grant| grant.holder.len() == 1).await;
    let (holder, mut epoch, since) = (grant.holder, grant.epoch, now());
    for kill in 0..KILLS_OF_A_HOLDERS_ARBITER {
        let (up, down) = (rng.below(1500), rng.below(500));
        cluster.done.push(format!("kill {kill} after {up} ms, {down} ms down;"));
        sleep(Duration::from_millis(up)).await;
        kill_and_start(&mut cluster, Duration::from_millis(down)).await;
        let grant = cluster.grant_that("a holder again", |grant| !grant.holder.is_empty()).await;
        assert_eq!(grant.holder, holder, "another holder; {}", cluster.story());
        assert!(grant.epoch >= epoch, "{} after {epoch}; {}", grant.epoch, cluster.story());
        epoch = grant.epoch;
        cluster.check();
    }
    // The device has come back after the last of them, too.
    cluster
        .wait("leases from the last one", |record| {
            let device = record.status(holder[0]).and_then(|status| status.qdevice.as_ref());
            device
                .is_some_and(|device| device.state.starts_with("connected") && device.vote == "ack")
        })
        .await;
    let wrong = cluster.sampler.read(|record| {
        let later = record.runs().iter().filter(|run| run.last.1 > since);
        let wrong = later.filter(|run| {
            (run.state == QuorumState::Quorate) != (holder == [run.node])
                || run.state == QuorumState::Frozen
        });
        wrong.cloned().collect::<Vec<_>>()
    });
    assert!(wrong.is_empty(), "the holder lost it, or another got it: {wrong:#?}");
    assert_epochs_grow(&cluster);
    cluster.end().await;
}

#[tokio::test]
async fn no_grant_is_forgotten_by_kills_of_the_arbiter_around_its_decisions() {
    let mut cluster = Cluster::start("kill9", 32, true).await;
    let mut rng = Rng::new(32);
    let mut epoch = cluster.grant_that("a grant", |grant| grant.holder == [1, 2]).await.epoch;
    for kill in 0..KILLS_AROUND_DECISIONS {
        let splits = kill % 2 == 0;
        // A decision falls about 0.7 s after a cut, and 5 s after it is healed.
        let moment = if splits { rng.below(1500) } else { 4500 + rng.below(1500) };
        let what = if splits { "split" } else { "heal" };
        cluster.done.push(format!("kill {kill} {moment} ms after a {what};"));
        if splits {
            cluster.world.split(&[1], &[2]).await.unwrap();
        } else {
            cluster.world.heal().await.unwrap();
        }
        sleep(Duration::from_millis(moment)).await;
        kill_and_start(&mut cluster, Duration::ZERO).await;
        let decided = |r: &Record| if splits { one_side(r) } else { are_one(r, &[1, 2]) };
        cluster.wait(what, decided).await;
        let members = if splits { 1 } else { 2 };
        let grant = cluster.grant_that("a grant", |grant| grant.holder.len() == members).await;
        assert!(grant.epoch >= epoch, "{} after {epoch}; {}", grant.epoch, cluster.story());
        epoch = grant.epoch;
        cluster.check();
    }
    assert_epochs_grow(&cluster);
    cluster.end().await;
}

/// Sets how long the files of a process may become, in bytes; `None` is as long as it likes.
fn limit_files(world: &World, bytes: Option<u64>) {
    let soft = bytes.map_or("unlimited".to_owned(), |bytes| bytes.to_string());
    let pid = world.arbiter_pid().unwrap().to_string();
    let mut command = Command::new("prlimit");
    let status = command.args(["--pid", &pid, &format!("--fsize={soft}:")]).status().unwrap();
    assert!(status.success());
}

fn has_leases(record: &Record) -> bool {
    [1, 2].iter().all(|node| {
        let device = record.status(*node).and_then(|status| status.qdevice.as_ref());
        device.is_some_and(|device| device.vote == "ack" && device.lease_remaining_ms > Some(0))
    })
}

/// A disk without room is made by a limit on the length of files, which needs no root: a write then
/// fails as on a full disk. Its log goes through a pipe, which has no such limit.
#[tokio::test]
async fn a_full_disk_stops_new_grants_and_nothing_else_until_there_is_room() {
    let mut cluster = Cluster::build("full", 33, true).await;
    let script = "trap '' XFSZ; exec \"$@\" 2> >(exec cat)";
    cluster.world.start_arbiter_behind(&["bash", "-c", script, "arbiter"]).unwrap();
    cluster.start_nodes().await;
    cluster.wait("leases", has_leases).await;
    let before = cluster.grant_that("a grant", |grant| grant.holder == [1, 2]).await;
    let journal = cluster.directory.join("arbiter/state/grants.journal");
    let bytes = std::fs::read(&journal).unwrap();
    limit_files(&cluster.world, Some(bytes.len() as u64));

    // What was granted is renewed, for several times as long as the lease lasts.
    let until = now() + Duration::from_secs(4);
    cluster
        .wait("time to pass", |record| {
            assert!(has_leases(record), "{:#?}", record.status(1));
            now() > until
        })
        .await;

    // A split needs a new grant: nobody gets one. The old one goes on for the side that the vote is
    // meant for, so that what runs there goes on running; nothing new is done with it.
    cluster.world.split(&[1], &[2]).await.unwrap();
    let nobody = |record: &Record| {
        state(record, 1).is_some_and(|state| state != QuorumState::Quorate)
            && state(record, 2) == Some(QuorumState::Inquorate)
    };
    cluster.wait("no side quorate, and the loser inquorate", nobody).await;
    let until = now() + Duration::from_secs(5);
    cluster
        .wait("time to pass", |record| {
            assert!(nobody(record), "granted without a disk: {:#?}", record.runs().last());
            now() > until
        })
        .await;
    assert_eq!(std::fs::read(&journal).unwrap(), bytes, "the journal is as it was");
    let log = || std::fs::read_to_string(cluster.directory.join("logs/arbiter")).unwrap();
    let said = |text: &str| text.matches("no grant can be given").count();
    assert_eq!(said(&log()), 1, "{}", log());
    assert!(log().contains("see to the disk"), "{}", log());
    let run = cluster.directory.join("arbiter/run").display().to_string();
    let warnings = status(&run).unwrap()["arbiter"]["warnings"].to_string();
    assert!(warnings.contains("no grant can be given"), "{warnings}");

    limit_files(&cluster.world, None);
    cluster.wait("one side, with room on the disk", one_side).await;
    let after = cluster.grant_that("a holder", |grant| grant.holder.len() == 1).await;
    assert!(after.epoch > before.epoch, "{} after {}", after.epoch, before.epoch);
    let warnings = status(&run).unwrap()["arbiter"]["warnings"].to_string();
    assert!(!warnings.contains("no grant can be given"), "{warnings}");
    cluster.check();
    assert_epochs_grow(&cluster);
    cluster.remove();
}

const STRANGERS: usize = 10_000;
/// File descriptors of the test itself.
const RESERVED: u64 = 200;
/// Much more than a thousand connections need.
const GROWTH_KIB_MAX: u64 = 64 * 1024;
/// How late an answer may be on a busy machine.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// How many connections this process may open; the arbiter may have as many.
fn room_for_strangers() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let room = usize::try_from(hard.saturating_sub(RESERVED)).unwrap_or(usize::MAX);
    if room < STRANGERS {
        left_out(&format!("{STRANGERS} connections: the hard limit of open files is {hard}"));
    }
    room.min(STRANGERS)
}

/// The memory that a process has in use (proc_pid_status(5), VmRSS).
fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn echo_in_time(client: &mut Client, seq: u32) {
    let asked: Time = now();
    client.echo(seq).await;
    let took = now().since(asked);
    assert!(took < ANSWER_MAX, "an echo took {took:?}");
}

#[tokio::test]
async fn ten_thousand_connections_that_never_speak_hold_nobody_up() {
    let home = Home::new("strangers");
    let node = home.issue("c", 1);
    let count = room_for_strangers();
    let mut arbiter = home.start(&[]);
    let mut client = Client::join(arbiter.address, &node, "c", 1).await;
    echo_in_time(&mut client, 10).await;
    let before = resident_kib(arbiter.daemon.pid());
    let mut strangers = Vec::with_capacity(count);
    for number in 0..count {
        strangers.push(TcpStream::connect(arbiter.address).await.unwrap());
        if number % 500 == 0 {
            echo_in_time(&mut client, 11).await;
        }
    }
    let open = strangers.iter().filter(|stream| is_open(stream)).count();
    let after = resident_kib(arbiter.daemon.pid());
    assert!(after < before + GROWTH_KIB_MAX, "{before} KiB became {after} KiB");
    assert!(open < count, "all {count} are still open");
    // Who is in is served, who comes is let in, and who never spoke is gone in the end.
    echo_in_time(&mut client, 12).await;
    let second = home.issue("d", 2);
    let mut second = Client::join(arbiter.address, &second, "d", 2).await;
    echo_in_time(&mut second, 10).await;
    let limit = now() + LIMIT;
    while strangers.iter().any(is_open) {
        assert!(now() < limit, "strangers are still connected");
        echo_in_time(&mut client, 13).await;
        echo_in_time(&mut second, 13).await;
        sleep(Duration::from_millis(500)).await;
    }
    echo_in_time(&mut client, 14).await;
    echo_in_time(&mut second, 14).await;
    let lines = arbiter.daemon.log().lines().count();
    assert!(lines < 100, "strangers fill the log: {lines} lines");
    arbiter.daemon.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(arbiter.daemon.exit_code(), Some(0), "{}", arbiter.daemon.log());
}

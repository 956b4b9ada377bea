//! `haguard qnetd` as a real process: how it starts and ends, what it says when it cannot, and that
//! a new certificate disturbs nobody.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::arbiter::{Home, certs};
use common::client::Client;
use common::{Daemon, PROGRAM, called_as, haguard, is_root, soon, stderr, stdout, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Exit code 1, and one line that says what and what to do; nothing was left in the way of the next
/// start, which goes well with the same places.
fn refused(home: &Home, more: &[&str], words: &[&str]) {
    let (code, text) = home.run(more);
    assert_eq!(code, Some(1), "{more:?}: {text}");
    let last = complaint(&text);
    assert!(words.iter().all(|word| last.contains(word)), "{words:?} are not in: {last}");
    assert!(!Path::new(&home.path("run/qnetd.sock")).exists(), "a socket is left over");
}

/// The one line about the failure, behind those of the log.
fn complaint(text: &str) -> &str {
    let mut lines = text.lines().filter(|line| line.starts_with("haguard qnetd: "));
    let line = lines.next().unwrap_or_else(|| panic!("no complaint: {text}"));
    assert_eq!(lines.next(), None, "{text}");
    assert_eq!(text.lines().last(), Some(line), "{text}");
    line
}

#[test]
fn it_ends_with_0_when_it_is_told_to_and_takes_its_socket_along() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let home = Home::new("arbiter-ends");
        let mut arbiter = home.start(&[]);
        let socket = home.path("run/qnetd.sock");
        assert!(Path::new(&socket).exists());
        let lock = fs::read_to_string(home.path("run/qnetd.pid")).unwrap();
        assert_eq!(lock.trim(), arbiter.daemon.pid().to_string(), "it is the process itself");
        arbiter.daemon.signal(signal);
        assert_eq!(arbiter.daemon.exit_code(), Some(0), "{}", arbiter.daemon.log());
        assert!(arbiter.daemon.log().trim_end().ends_with("stopped"), "{}", arbiter.daemon.log());
        assert!(!Path::new(&socket).exists());
    }
}

#[test]
fn a_busy_port_is_told_and_the_state_directory_stays_as_it_was() {
    let home = Home::new("arbiter-port");
    let busy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = busy.local_addr().unwrap().to_string();
    refused(&home, &["--listen", &address], &["cannot listen on", &address, "another arbiter"]);
    assert!(!Path::new(&home.path("state")).exists(), "the state directory was made");
    drop(busy);
    home.start(&[]);
}

#[test]
fn a_busy_lock_is_told_with_its_owner_and_the_other_arbiter_goes_on() {
    let home = Home::new("arbiter-lock");
    let mut first = home.start(&[]);
    let (code, text) = home.run(&["--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(1), "{text}");
    let last = complaint(&text);
    let owner = first.daemon.pid().to_string();
    assert!(last.contains("another instance is running") && last.contains(&owner), "{last}");
    assert!(first.daemon.ended().is_none());
    assert!(common::status(&home.path("run")).is_some(), "the first one does not answer");
}

#[test]
fn a_certificate_that_cannot_be_used_is_told_before_anything_is_made() {
    let home = Home::new("arbiter-certs");
    let (other, key) = (home.path("other-ca"), format!("{}/node-key.pem", home.issue("c", 1)));
    certs(&["init", "--dir", &other]);
    certs(&["arbiter", "--dir", &other, "--out", &home.path("foreign")]);
    let foreign = |name: &str| home.path(&format!("foreign/{name}"));
    let garbage = home.path("garbage.pem");
    fs::write(&garbage, "no certificate\n").unwrap();
    let missing = home.path("no-such.pem");
    for (flags, words) in [
        (&["--tls-cert", &missing][..], &["no-such.pem", "issue"][..]),
        (&["--tls-ca", &missing], &["no-such.pem", "issue"]),
        (&["--tls-key", &missing], &["no-such.pem", "issue"]),
        (&["--tls-cert", &garbage], &["garbage.pem"]),
        (&["--tls-ca", &garbage], &["garbage.pem"]),
        (&["--tls-key", &garbage], &["garbage.pem"]),
        // The key of another certificate.
        (&["--tls-key", &key], &["key"]),
        // A certificate of another authority: every client of this one would refuse it.
        (
            &["--tls-cert", &foreign("arbiter.pem"), "--tls-key", &foreign("arbiter-key.pem")],
            &["foreign/arbiter.pem"],
        ),
    ] {
        refused(&home, flags, words);
        assert!(!Path::new(&home.path("state")).exists(), "{flags:?}: the state was made");
        assert!(!Path::new(&home.path("run")).exists(), "{flags:?}: the run directory was made");
    }
    home.start(&[]);
}

#[test]
fn a_key_that_may_not_be_read_is_told() {
    if !is_root("dropping the right to read every file") {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new("arbiter-key");
    let key = home.path("tls/arbiter-key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o000)).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-dac_override,-dac_read_search", PROGRAM, "qnetd"]);
    let mut daemon = Daemon::spawn(command.args(home.flags(&[])), &home.path("log"));
    assert_eq!(daemon.exit_code(), Some(1), "{}", daemon.log());
    let text = daemon.log();
    let last = complaint(&text);
    assert!(last.contains(&key) && last.contains("ermission denied"), "{last}");
}

#[test]
fn a_run_directory_is_made_and_one_that_cannot_be_made_is_told() {
    let home = Home::new("arbiter-run");
    fs::write(home.path("file"), "").unwrap();
    let below_file = home.path("file/run");
    refused(&home, &["--run-dir", &below_file], &[&below_file, "does its directory exist"]);
    assert!(!Path::new(&home.path("state")).exists(), "the state directory was made");
    // A socket where none can be, with a lock that can.
    let (socket, lock) = (home.path("file/qnetd.sock"), home.path("lock"));
    let places = format!("local_socket_file={socket},lock_file={lock}");
    refused(&home, &["--listen", "127.0.0.1:0", "-S", &places], &[&socket]);
    home.start(&["--run-dir", &home.path("several/levels/down")]);
    assert!(Path::new(&home.path("several/levels/down/qnetd.pid")).exists());
}

#[test]
fn wrong_arguments_exit_with_2_and_one_line() {
    for (args, words) in [
        (&["-p", "0"][..], &["host port must be in range 1-65535"][..]),
        (&["-s", "required"], &["on, off, req"]),
        (&["-S", "heartbeat_interval_mim=1"], &["did you mean 'heartbeat_interval_min'"]),
        (&["--stat-dir", "x"], &["did you mean 'state-dir'"]),
        (&["-z"], &["invalid option -- 'z'"]),
        (&["-p"], &["requires an argument"]),
    ] {
        let output = haguard(&[&["qnetd"], args].concat());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
        assert!(text.contains("haguard qnetd -h shows all flags"), "{text}");
        assert_eq!(stdout(&output), "");
    }
}

#[test]
fn under_the_stock_name_it_goes_into_the_background_and_its_tool_stops_it() {
    let home = Home::new("arbiter-stock");
    let named = |name: &str| {
        let link = home.scratch.root().join(name);
        std::os::unix::fs::symlink(PROGRAM, &link).unwrap();
        link
    };
    let (daemon, tool) = (named("corosync-qnetd"), named("corosync-qnetd-tool"));
    for args in [&["-z"][..], &["-h"], &["-v"], &["-p", "0"]] {
        assert_eq!(called_as(&daemon, args).status.code(), Some(1), "{args:?}");
    }
    let (socket, lock) = (home.path("q.sock"), home.path("q.pid"));
    let places = format!("local_socket_file={socket},lock_file={lock}");
    let mut flags = home.flags(&["--listen", "127.0.0.1:0", "-S", &places]);
    flags.extend(["--tls-cert".to_owned(), home.path("missing.pem")]);
    let words = |flags: &[String]| flags.to_vec();
    let run = |flags: Vec<String>| {
        called_as(&daemon, &flags.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let output = run(words(&flags));
    assert_eq!(output.status.code(), Some(1), "what can be told is told before the fork");
    assert!(stderr(&output).contains("missing.pem"), "{output:?}");
    flags.truncate(flags.len() - 2);
    let output = run(flags);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    wait("the socket", || Path::new(&socket).exists().then_some(()));
    let pid: i32 = fs::read_to_string(&lock).unwrap().trim().parse().unwrap();
    let alive = || kill(Pid::from_raw(pid), None).is_ok();
    assert!(alive());
    let ended = called_as(&tool, &["-H", "-p", &socket]);
    if ended.status.code() != Some(0) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    wait("its end", || (!Path::new(&socket).exists()).then_some(()));
}

#[tokio::test]
async fn a_hangup_takes_new_certificates_and_drops_nobody() {
    let home = Home::new("arbiter-hup");
    let node = home.issue("c", 1);
    let other = home.issue("d", 2);
    let arbiter = home.start(&[]);
    let mut client = Client::join(arbiter.address, &node, "c", 1).await;
    client.echo(10).await;
    let before = fs::read(home.path("tls/arbiter.pem")).unwrap();
    let (ca, tls) = (home.path("ca"), home.path("tls"));
    certs(&["arbiter", "--dir", &ca, "--out", &tls, "--force"]);
    assert_ne!(fs::read(home.path("tls/arbiter.pem")).unwrap(), before);
    arbiter.daemon.signal(Signal::SIGHUP);
    let says = |text: &'static str| {
        let daemon = &arbiter.daemon;
        move || daemon.log().contains(text).then_some(())
    };
    soon("certificates", says("certificates read again: new connections use them")).await;
    client.echo(11).await;
    let second = Client::join(arbiter.address, &other, "d", 2).await;
    assert_ne!(second.arbiters_certificate(), client.arbiters_certificate());
    // What cannot be used changes nothing.
    fs::write(home.path("tls/arbiter.pem"), "half a fi").unwrap();
    arbiter.daemon.signal(Signal::SIGHUP);
    soon("a refusal", says("certificates not read again, the old ones stay")).await;
    client.echo(12).await;
    drop(second);
    let third = Client::join(arbiter.address, &other, "d", 2).await;
    assert_ne!(third.arbiters_certificate(), client.arbiters_certificate());
}

//! The device's second host: the real corosync, in namespaces of its own (Debian package
//! corosync). Needs root.
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

mod lab;

use std::collections::BTreeMap;
use std::time::Duration;

use lab::{DEVICE, Machine, corosync_is_here};
use protocol::host::{
    Cast, FromDevice, FromHost, HeuristicsMode, HostQuorum, HostView, Poll, Welcome,
};
use protocol::ids::{GrantId, NodeId, RingId, ViewId};
use protocol::qnet::HostKind;
use protocol::time::HostInstant;
use protocol::times::HOST_SILENCE;
use qdevice::config::Places;
use qdevice::corosync::{Report, Voice, attend};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// corosync starts, and a ring forms, within this on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the daemon is to its host.
struct Device {
    reports: mpsc::Receiver<Report>,
    voice: Option<Voice>,
    polls: u64,
}

impl Device {
    /// On the machine; it ends when nobody reads its reports any more.
    fn start(machine: &Machine) -> Self {
        let (tell, reports) = mpsc::channel(64);
        machine.on_it(|| runtime().block_on(attend::<Report>(tell)));
        Self { reports, voice: None, polls: 0 }
    }

    /// The next report but signs of life.
    async fn next(&mut self) -> Report {
        loop {
            let report = timeout(PATIENCE, self.reports.recv()).await;
            match report.expect("a report within the patience").expect("attended for ever") {
                Report::Said(FromHost::Alive { .. }) => {}
                report @ (Report::Up(_) | Report::Said(_) | Report::Gone(_)) => return report,
            }
        }
    }

    /// Waits for something that corosync says, and passes over the rest.
    async fn said<T>(&mut self, wanted: impl Fn(FromHost) -> Option<T>) -> T {
        loop {
            match self.next().await {
                Report::Up(voice) => self.voice = Some(voice),
                Report::Said(said) => {
                    if let Some(found) = wanted(said) {
                        return found;
                    }
                }
                Report::Gone(reason) => assert!(self.voice.is_none(), "gone: {reason}"),
            }
        }
    }

    async fn welcome(&mut self) -> Welcome {
        let welcome = |said| if let FromHost::Welcome(it) = said { Some(*it) } else { None };
        self.said(welcome).await
    }

    async fn view(&mut self) -> HostView {
        self.said(|said| if let FromHost::View(view) = said { Some(view) } else { None }).await
    }

    async fn quorum(&mut self) -> HostQuorum {
        self.said(|said| if let FromHost::Quorum(it) = said { Some(it) } else { None }).await
    }

    async fn quorate(&mut self, quorate: bool) -> HostQuorum {
        loop {
            let quorum = self.quorum().await;
            if quorum.quorate == quorate {
                return quorum;
            }
        }
    }

    async fn polled(&mut self) -> (u64, bool) {
        let polled = |said| match said {
            FromHost::Polled { id, applied } => Some((id, applied)),
            FromHost::Welcome(_)
            | FromHost::View(_)
            | FromHost::Quorum(_)
            | FromHost::Alive { .. } => None,
        };
        self.said(polled).await
    }

    fn say(&self, what: &FromDevice) {
        assert!(self.voice.as_ref().unwrap().say(what), "corosync takes {what:?}");
    }

    /// Registers and returns the first view.
    async fn register(&mut self) -> (Welcome, HostView) {
        let welcome = self.welcome().await;
        self.say(&FromDevice::Register { name: "Qdevice".to_owned() });
        (welcome, self.view().await)
    }

    /// Casts the vote for as long, or takes it back.
    fn vote(&mut self, view: ViewId, lease: Option<Duration>) -> u64 {
        self.polls += 1;
        let expires = |lease| host::clock::read().plus(lease);
        let cast = lease.map(|lease| Cast { expires: expires(lease), grant: GrantId::default() });
        self.say(&FromDevice::Poll(Poll { id: self.polls, view, cast }));
        self.polls
    }
}

/// How long ago.
fn since(start: HostInstant) -> Duration {
    Duration::from_nanos(host::clock::read().raw_ns - start.raw_ns)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn the_stock_name_means_corosync_and_a_flag_says_otherwise() {
    let host = |args: &[&str], places| {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        qdevice::prepare("haguard qdevice", &args, places).map(|options| options.host)
    };
    assert_eq!(host(&[], Places::Stock), Ok(HostKind::Corosync));
    assert_eq!(host(&[], Places::Haguard), Ok(HostKind::Builtin));
    assert_eq!(host(&["--host", "corosync"], Places::Haguard), Ok(HostKind::Corosync));
    assert_eq!(host(&["--host=node"], Places::Stock), Ok(HostKind::Builtin));
    assert!(host(&["--host", "pacemaker"], Places::Haguard).is_err());
}

#[test]
fn netns_a_vote_is_counted_and_ends_with_its_lease() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    machine.start();
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        let (welcome, view) = device.register().await;
        assert_eq!((welcome.cluster.as_str(), welcome.node), ("lab", NodeId(1)));
        assert_eq!(welcome.nodes, BTreeMap::from([(NodeId(1), 0), (NodeId(2), 0)]));
        let settings = welcome.device.unwrap();
        assert_eq!((settings.timeout_ms, settings.sync_timeout_ms), (4000, 8000));
        assert_eq!(view.members, [NodeId(1)]);
        assert!(!device.quorum().await.quorate);

        let cast = host::clock::read();
        let lease = Duration::from_secs(2);
        let id = device.vote(view.id, Some(lease));
        assert_eq!(device.polled().await, (id, true));
        let quorum = device.quorate(true).await;
        // votequorum expects the most votes that it has seen: of two nodes, or of one and us.
        assert_eq!((quorum.view, quorum.expected_votes), (view.id, 2));
        assert!(quorum.nodes.get(&NodeId(1)).is_some_and(|present| *present));
        let shown = machine.quorumtool();
        assert!(shown.contains("Quorate:          Yes"), "{shown}");
        assert!(
            shown.contains("A,V,NMW") && shown.contains("Flags:            Quorate Qdevice"),
            "{shown}"
        );

        // Not a word from the device: T is far, the lease is not.
        device.quorate(false).await;
        let counted = since(cast);
        assert!(counted >= lease, "{counted:?}");
        assert!(counted < Duration::from_millis(3500), "{counted:?} is T, not the lease");
        let shown = machine.quorumtool();
        assert!(shown.contains("A,NV,NMW"), "{shown}");
    });
}

#[test]
fn netns_a_poll_for_another_ring_is_refused_and_a_loss_is_confirmed_when_it_shows() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    machine.start();
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        let (_, view) = device.register().await;
        let other = ViewId { ring: RingId::new(1, view.id.ring.seq + 4), nonce: 0 };
        let id = device.vote(other, Some(Duration::from_secs(9)));
        assert_eq!(device.polled().await, (id, false));
        assert!(machine.quorumtool().contains("Quorate:          No"));

        let id = device.vote(view.id, Some(Duration::from_secs(60)));
        assert_eq!(device.polled().await, (id, true));
        device.quorate(true).await;
        let id = device.vote(view.id, None);
        assert_eq!(device.polled().await, (id, true));
        let shown = machine.quorumtool();
        assert!(shown.contains("Quorate:          No") && shown.contains("A,NV,NMW"), "{shown}");
    });
}

#[test]
fn netns_a_long_lease_outlives_the_timeout_of_corosync() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    machine.start();
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        let (_, view) = device.register().await;
        let cast = host::clock::read();
        let lease = Duration::from_secs(6);
        device.vote(view.id, Some(lease));
        device.quorate(true).await;
        device.quorate(false).await;
        assert!(since(cast) >= lease, "T is 4 s: {:?}", since(cast));
    });
}

#[test]
fn netns_a_membership_change_waits_for_the_device_or_the_end_of_its_lease() {
    if !corosync_is_here() {
        return;
    }
    let (mut machine, mut other) = (Machine::new(1), Machine::new(2));
    machine.cable(&other);
    machine.start();
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        let (_, first) = device.register().await;
        device.vote(first.id, Some(Duration::from_secs(60)));
        device.quorate(true).await;

        other.start();
        let second = device.view().await;
        assert_eq!(second.members, [NodeId(1), NodeId(2)], "{}", other.log());
        assert!(second.id > first.id);
        // The arbiter renews for the old view until it has decided.
        for _ in 0..4 {
            let id = device.vote(first.id, Some(Duration::from_secs(1)));
            let answer = device.said(|said| match said {
                FromHost::Polled { id, applied } => Some((id, applied)),
                FromHost::Quorum(quorum) => panic!("the change was not held: {quorum:?}"),
                FromHost::Welcome(_) | FromHost::View(_) | FromHost::Alive { .. } => None,
            });
            assert_eq!(answer.await, (id, false));
            alive(&mut device, 3).await;
        }
        device.vote(second.id, Some(Duration::from_secs(2)));
        let quorum = device.quorum().await;
        assert_eq!((quorum.view, quorum.quorate), (second.id, true));

        // The next change finds the device silent: the lease's end releases it, long before S.
        let killed = host::clock::read();
        device.vote(second.id, Some(Duration::from_secs(4)));
        other.kill();
        let third = device.view().await;
        assert_eq!(third.members, [NodeId(1)]);
        let quorum = device.quorum().await;
        assert_eq!((quorum.view, quorum.quorate), (third.id, false));
        let held = since(killed);
        assert!(held >= Duration::from_secs(4), "{held:?}");
        assert!(held < Duration::from_secs(7), "{held:?} is S, not the lease");
    });
}

#[test]
fn netns_heuristics_and_node_list_are_reloaded_live() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    machine.start();
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        let (before, _) = device.register().await;
        assert_eq!(before.device.as_ref().unwrap().heuristics.mode, HeuristicsMode::Off);
        machine.configure(DEVICE, "      mode: on\n      exec_ping: /bin/true");
        machine.run(&["corosync-cfgtool", "-R"]);
        let after = device.welcome().await;
        assert_eq!(after.instance, before.instance);
        let heuristics = after.device.unwrap().heuristics;
        assert_eq!(heuristics.mode, HeuristicsMode::On);
        let commands = BTreeMap::from([("ping".to_owned(), "/bin/true".to_owned())]);
        assert_eq!(heuristics.commands, commands);

        // What is wrong is not used, and ends nothing.
        machine.configure(DEVICE, "      mode: maybe\n      exec_ping: /bin/true");
        machine.run(&["corosync-cfgtool", "-R"]);
        machine.configure(DEVICE, "      mode: sync\n      exec_other: /bin/false");
        machine.run(&["corosync-cfgtool", "-R"]);
        let last = device.welcome().await;
        assert_eq!(last.instance, before.instance);
        let heuristics = last.device.unwrap().heuristics;
        assert_eq!(heuristics.mode, HeuristicsMode::Sync);
        assert_eq!(heuristics.commands.keys().collect::<Vec<_>>(), ["other"]);

        machine.add_node(3);
        machine.run(&["corosync-cfgtool", "-R"]);
        let larger = device.welcome().await;
        assert_eq!(larger.instance, before.instance);
        let nodes: Vec<NodeId> = larger.nodes.into_keys().collect();
        assert_eq!(nodes, [NodeId(1), NodeId(2), NodeId(3)]);
    });
}

#[test]
fn netns_a_killed_corosync_is_gone_and_comes_back_as_another() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        let Report::Gone(reason) = device.next().await else { panic!("there is no corosync yet") };
        assert!(reason.contains("is corosync running?"), "{reason}");
        machine.start();
        let (before, first) = device.register().await;
        device.vote(first.id, Some(Duration::from_secs(60)));
        device.quorate(true).await;

        machine.kill();
        let reason = loop {
            if let Report::Gone(reason) = device.next().await {
                break reason;
            }
        };
        assert!(reason.contains("is corosync running?"), "{reason}");
        device.voice = None;
        machine.start();
        let (after, second) = device.register().await;
        assert_ne!(after.instance, before.instance);
        assert!(second.id > first.id, "{} after {}", second.id, first.id);
        assert!(!device.quorum().await.quorate, "no vote is left of the first");
    });
}

#[test]
fn netns_a_hung_corosync_gives_no_sign_of_life_and_the_lease_ends_all_the_same() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    machine.start();
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        let (_, view) = device.register().await;
        let cast = host::clock::read();
        device.vote(view.id, Some(Duration::from_millis(1500)));
        device.quorate(true).await;
        machine.signal("STOP");
        // Silent for longer than the device asks for renewals of a host's lease.
        while timeout(HOST_SILENCE * 2, device.reports.recv()).await.is_ok() {}
        let silent = since(cast);
        machine.signal("CONT");
        device.quorate(false).await;
        assert!(since(cast) < Duration::from_millis(3500), "T is 4 s; silent after {silent:?}");
    });
}

#[test]
fn netns_a_device_is_added_live_and_told_why_if_corosync_forbids_it() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    machine.configure_two_node();
    machine.start();
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        assert_eq!(device.welcome().await.device, None);
        // Of a two_node that is on already corosync only logs that it does not go with a device.
        machine.add_device();
        machine.run(&["corosync-cfgtool", "-R"]);
        assert!(device.welcome().await.device.is_some());
        device.say(&FromDevice::Register { name: "Qdevice".to_owned() });
        let reason = loop {
            if let Report::Gone(reason) = device.next().await {
                break reason;
            }
        };
        assert!(reason.contains("two_node"), "{reason}");
    });
}

#[test]
fn netns_a_device_that_leaves_takes_its_vote_with_it() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    machine.start();
    runtime().block_on(async {
        let mut device = Device::start(&machine);
        let (_, view) = device.register().await;
        device.vote(view.id, Some(Duration::from_secs(60)));
        device.quorate(true).await;
        // The daemon gives up on a host: nothing answers for the vote any more.
        let cast = host::clock::read();
        device.voice = None;
        let (_, view) = device.register().await;
        assert!(!device.quorum().await.quorate);
        assert!(since(cast) < Duration::from_secs(3), "that was T");

        device.vote(view.id, Some(Duration::from_secs(60)));
        device.quorate(true).await;
        device.say(&FromDevice::Unregister);
        device.voice = None;
        let reason = loop {
            if let Report::Gone(reason) = device.next().await {
                break reason;
            }
        };
        assert_eq!(reason, "closed from here");
        let shown = machine.quorumtool();
        assert!(shown.contains("Quorate:          No") && !shown.contains("Qdevice"), "{shown}");
    });
}

#[test]
fn netns_the_daemon_carries_a_stock_arbiters_vote_to_corosync() {
    if !corosync_is_here() {
        return;
    }
    let mut machine = Machine::new(1);
    machine.start();
    // The arbiter of corosync.conf is on the same machine.
    machine.run(&["ip", "address", "add", "10.77.0.3/24", "dev", "lo"]);
    let mut arbiter = machine.spawn(
        "mkdir /run/qnetd; exec corosync-qnetd -f -s off \
        -S lock_file=/run/qnetd/pid,local_socket_file=/run/qnetd/sock",
    );
    let place = machine.folder().to_str().unwrap().to_owned();
    let options = || {
        let flags = ["--host", "corosync", "--run-dir", &place, "--state-dir", &place];
        let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        qdevice::prepare("haguard qdevice", &flags, Places::Haguard).unwrap()
    };
    let first = options();
    machine.on_it(|| qdevice::run_blocking(first).unwrap());
    runtime().block_on(async {
        until("the arbiter's vote", || machine.quorumtool().contains("A,V,NMW")).await;
        assert!(machine.quorumtool().contains("Quorate:          Yes"));
        machine.kill();
        machine.start();
        until("the vote again", || machine.quorumtool().contains("A,V,NMW")).await;
        // The arbiter is gone: so is its vote.
        machine.run(&["sh", "-c", "kill -9 $(cat /run/qnetd/pid)"]);
        arbiter.wait().unwrap();
        until("the end of the vote", || machine.quorumtool().contains("A,NV,NMW")).await;
        assert!(machine.quorumtool().contains("Quorate:          No"));
    });
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let start = host::clock::read();
    while !done() {
        assert!(since(start) < PATIENCE * 2, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits for some signs of life.
async fn alive(device: &mut Device, signs: usize) {
    for _ in 0..signs {
        let report = timeout(PATIENCE, device.reports.recv()).await.unwrap().unwrap();
        assert!(matches!(report, Report::Said(FromHost::Alive { .. })), "{report:?}");
    }
}

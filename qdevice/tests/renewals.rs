//! When a device asks for its lease to go on (rule S2, F5).
#![allow(clippy::unwrap_used, reason = "helpers of tests, where a panic is the report")]

#[allow(dead_code, reason = "the other tests use the rest")]
mod common;

use std::time::Duration;

use common::{
    decode, frame, grant, init_reply, ours, preinit_reply, quorum, settings, view, vote_info,
    welcome,
};
use protocol::host::{DeviceSettings, FromHost};
use protocol::ids::{Epoch, InstanceId};
use protocol::qnet::{ArbiterHello, HostKind, Message, MessageType, Options, TlsSupport};
use protocol::time::Time;
use protocol::times;
use protocol::vote::Vote;
use qdevice::core::{Action, Config, Device, Event};

/// A device on a host that lives, and every echo request that it has sent, with its time.
struct Rig {
    device: Device,
    now: Time,
    sent: Vec<(Time, Message)>,
}

impl Rig {
    fn connected(hello: Option<ArbiterHello>, heartbeat_ms: u32) -> Self {
        let config = Config {
            instance: InstanceId(5),
            seed: 1,
            host: HostKind::Builtin,
            pinned: None,
            arbiter: String::new(),
        };
        let now = Time::from_millis(1000);
        let mut rig = Self { device: Device::new(config), now, sent: Vec::new() };
        let settings = DeviceSettings { heartbeat_ms, ..settings(5403) };
        rig.tell(Event::Host(FromHost::Welcome(Box::new(welcome(settings)))));
        rig.tell(Event::Host(FromHost::View(view(4, &[1]))));
        rig.tell(Event::Host(FromHost::Quorum(quorum(4, false))));
        rig.tell(Event::Connected);
        let seq = rig.last(MessageType::Preinit).seq;
        rig.hear(&preinit_reply(seq, TlsSupport::Supported));
        let seq = rig.last(MessageType::Init).seq;
        rig.hear(&init_reply(seq, 0, hello));
        rig
    }

    fn tell(&mut self, event: Event) {
        self.device.handle(self.now, event);
        while let Some(action) = self.device.next_action() {
            if let Action::Send(bytes) = action {
                self.sent.push((self.now, decode(&bytes)));
            }
        }
    }

    fn hear(&mut self, message: &Message) {
        self.tell(Event::Received(frame(message)));
    }

    fn last(&self, kind: MessageType) -> &Options {
        let mut sent = self.sent.iter().rev();
        &sent.find(|(_, message)| message.kind == kind).unwrap().1.options
    }

    /// Lets time pass with an arbiter that answers every echo, an own one with the lease.
    fn pass(&mut self, time: Duration, lease_ms: Option<u32>) {
        let end = self.now + time;
        while self.now < end {
            let alive = self.now + Duration::from_millis(100);
            self.now = self.device.deadline().map_or(alive, |at| at.min(alive)).min(end);
            let before = self.sent.len();
            self.tell(Event::Host(FromHost::Alive { highest_epoch: Epoch(0) }));
            for (_, message) in self.sent.split_off(before) {
                self.sent.push((self.now, message.clone()));
                if message.kind == MessageType::EchoRequest {
                    let (seq, renews) = (message.options.seq, message.options.renewal.is_some());
                    let mut reply = Message::new(MessageType::EchoReply, seq);
                    let lease = lease_ms.filter(|_| renews).zip(seq);
                    reply.options.grant = lease.map(|(ms, seq)| of(ms, seq));
                    self.hear(&reply);
                }
            }
        }
    }

    /// When echo requests with a renewal, and those without one, were sent after this.
    fn echoes_after(&self, after: Time) -> [Vec<Time>; 2] {
        let echoes = self
            .sent
            .iter()
            .filter(|(at, message)| message.kind == MessageType::EchoRequest && *at > after);
        let (renewals, heartbeats): (Vec<_>, Vec<_>) =
            echoes.partition(|(_, message)| message.options.renewal.is_some());
        [renewals, heartbeats].map(|sent| sent.into_iter().map(|(at, _)| *at).collect())
    }
}

fn of(lease_ms: u32, anchor: u32) -> protocol::qnet::Grant {
    protocol::qnet::Grant { lease_ms, ..grant(7, 4, anchor) }
}

fn are_apart(times: &[Time], by: Duration) -> bool {
    times.windows(2).all(|pair| pair[1].since(pair[0]) == by)
}

#[test]
fn every_lease_is_renewed_every_250_ms_whatever_the_heartbeat() {
    for (lease, heartbeat_ms) in
        [(times::LEASE, 120_000), (times::SOLO_LEASE, 8000), (times::LONE_LEASE, 1000)]
    {
        let lease_ms = u32::try_from(lease.as_millis()).unwrap();
        let mut rig = Rig::connected(ours(), heartbeat_ms);
        let first = rig.last(MessageType::EchoRequest).seq.unwrap();
        rig.hear(&vote_info(1, Vote::Ack, 4, Some(of(lease_ms, first))));
        let start = rig.now;
        rig.pass(Duration::from_secs(33), Some(lease_ms));
        let [renewals, heartbeats] = rig.echoes_after(start);
        assert_eq!(renewals.len(), 33 * 4, "{lease:?}");
        assert!(are_apart(&renewals, times::RENEWAL), "{lease:?}: {renewals:?}");
        // Renewals are signs of life enough.
        assert_eq!(heartbeats, [], "{lease:?}");
        // The lease never ran out meanwhile, and it runs from the last renewal.
        let (_, until) = rig.device.lease(rig.now).unwrap();
        assert_eq!(until, *renewals.last().unwrap() + lease);
    }
}

#[test]
fn a_stock_arbiter_is_asked_for_no_renewal() {
    let mut rig = Rig::connected(None, 8000);
    let start = rig.now;
    rig.pass(Duration::from_secs(33), None);
    let [renewals, heartbeats] = rig.echoes_after(start);
    assert_eq!(renewals, []);
    assert_eq!(heartbeats.len(), 4);
}

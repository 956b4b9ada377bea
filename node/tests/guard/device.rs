//! A quorum device that never lets go of its vote at corosync, and says of its lease what it is
//! told: what the guard has to survive.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use host::corosync::{Libraries, Notice, Votequorum, c_name};

use super::lab::{Machine, PATIENCE, now, poll};

/// The end of its lease, by [`now`].
pub(crate) struct Device(Arc<AtomicU64>);

impl Device {
    /// On the machine, whose corosync runs or will.
    pub(crate) fn start(machine: &Machine) -> Self {
        let end = Arc::new(AtomicU64::new(0));
        let said = Arc::clone(&end);
        let socket = UnixListener::bind(machine.folder().join("run/qdevice.sock")).unwrap();
        std::thread::spawn(move || {
            for stream in socket.incoming() {
                let mut stream = stream.unwrap();
                let mut question = String::new();
                BufReader::new(&stream).read_line(&mut question).unwrap();
                assert_eq!(question, "haguard-status\n");
                let left = said.load(Ordering::Relaxed).saturating_sub(now());
                let vote = if left > 0 { "ack" } else { "none" };
                let answer = format!(
                    "OK\n{{\"state\":\"connected\",\"vote\":\"{vote}\",\"lease_remaining_ms\":{left},\
                     \"epoch\":1,\"arbiter\":\"192.0.2.7:5403\",\"arbiter_id\":null}}\n"
                );
                // A guard that has been killed does not read it.
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        machine.on_it(cast);
        Self(end)
    }

    /// Its lease ends then.
    pub(crate) fn lease(&self, end: u64) {
        self.0.store(end, Ordering::Relaxed);
    }
}

/// Casts its vote again and again, until corosync is gone.
fn cast() {
    let libraries = Libraries::open().unwrap();
    let connect = || Votequorum::connect(&libraries).ok();
    let votequorum = poll(PATIENCE, "corosync", connect);
    let name = c_name("Qdevice");
    poll(PATIENCE, "registered", || votequorum.register(&name).ok());
    votequorum.track().unwrap();
    let mut ring = None;
    while let Ok(notices) = votequorum.notices() {
        for notice in notices {
            if let Notice::Ring(new, _) = notice {
                ring = Some(new);
            }
        }
        if let Some(ring) = ring {
            // One for another ring is refused, and cast again.
            let _ = votequorum.poll(&name, ring, true);
        }
        std::thread::park_timeout(Duration::from_millis(200));
    }
}

//! A changed configuration while the node runs (SIGHUP).
//!
//! The file is read by a thread of its own, so that a disk that stalls delays nothing. Only what
//! members need not have in common is taken over; for the rest all nodes have to be restarted, and
//! of a file that has both nothing is taken.

use std::path::{Path, PathBuf};

use tokio::sync::mpsc;
use tracing::error;

use crate::conf::change::Changes;
use crate::conf::{self, ClusterConf, ConfErrors, Loaded};

type Read = Result<Loaded, ConfErrors>;

/// Reads the configuration again when it is asked to.
#[derive(Debug)]
pub(super) struct Reload {
    path: PathBuf,
    tell: mpsc::Sender<Read>,
    done: mpsc::Receiver<Read>,
    reading: bool,
    /// Asked again while it was reading: the file may have changed since.
    again: bool,
}

/// What follows from a file that was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// It says the same.
    Same,
    /// It is taken over; what has changed, for people.
    Live(Box<ClusterConf>, String),
    /// Everything stays as it is; why, and what to do.
    Refused(String),
}

impl Reload {
    pub(super) fn new(path: PathBuf) -> Self {
        let (tell, done) = mpsc::channel(1);
        Self { path, tell, done, reading: false, again: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Starts to read, unless it reads already; then it reads once more afterwards.
    pub(super) fn ask(&mut self) {
        if std::mem::replace(&mut self.reading, true) {
            self.again = true;
            return;
        }
        let (path, tell) = (self.path.clone(), self.tell.clone());
        let read = move || {
            // Nobody waits any more when the daemon ends.
            let _ = tell.blocking_send(conf::read(&path, &conf::Options::default()));
        };
        let thread = std::thread::Builder::new().name("reload".to_owned()).spawn(read);
        if let Err(error) = thread {
            self.reading = false;
            error!("the configuration was not read, everything stays: {error}; try again");
        }
    }

    /// What was read. Cancel safe.
    pub(super) async fn next(&mut self) -> Read {
        match self.done.recv().await {
            Some(read) => read,
            None => std::future::pending().await,
        }
    }

    /// What was read is known; one more may be wanted.
    pub(super) fn taken(&mut self) {
        self.reading = false;
        if std::mem::take(&mut self.again) {
            self.ask();
        }
    }
}

/// Compares what a node runs with and what it has read.
pub(super) fn judge(file: &Path, running: &ClusterConf, read: Read) -> Verdict {
    let file = file.display();
    let new = match read {
        Ok(loaded) => loaded.conf,
        Err(errors) => {
            let mut lines = errors.to_string();
            if let Some((first, rest)) = lines.split_once('\n') {
                lines = format!("{first} (and {} more)", rest.lines().count());
            }
            return Verdict::Refused(format!("not reloaded, everything stays: {lines}"));
        }
    };
    let changes = running.changes(&new);
    if changes.is_empty() {
        return Verdict::Same;
    }
    let Changes { live, restart } = changes;
    if restart.is_empty() {
        return Verdict::Live(Box::new(new), list(&live));
    }
    Verdict::Refused(format!(
        "{file}: not reloaded, everything stays: {} cannot change in a running node; restart \
         haguard node on all nodes, with the same file on each",
        list(&restart)
    ))
}

fn list(paths: &std::collections::BTreeSet<String>) -> String {
    paths.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = "totem {\nversion: 2\ncluster_name: c\nconfig_version: 1\n}\nnodelist {\n\
        node {\nnodeid: 1\nring0_addr: 192.0.2.1\n}\nnode {\nnodeid: 2\nring0_addr: 192.0.2.2\n}\n\
        }\nquorum {\nprovider: corosync_votequorum\ndevice {\nmodel: net\nvotes: 1\nnet {\n\
        host: arbiter\nalgorithm: ffsplit\n}\n}\n}\nhaguard {\nwatchdog: process\n}\n";

    fn read(text: &str) -> Read {
        conf::load("c.conf", text.as_bytes(), &conf::Options::default())
    }

    fn verdict(from: &str, to: &str) -> Verdict {
        let running = read(CONF).unwrap().conf;
        assert!(CONF.contains(from), "{from}");
        judge(Path::new("c.conf"), &running, read(&CONF.replacen(from, to, 1)))
    }

    #[test]
    fn what_means_the_same_is_no_change() {
        assert_eq!(verdict("model: net\n", "# why\nmodel: net\ntimeout: 10000\n"), Verdict::Same);
    }

    fn refusal(verdict: Verdict) -> String {
        let Verdict::Refused(text) = &verdict else { panic!("{verdict:?}") };
        assert_eq!(text.lines().count(), 1, "{text}");
        text.clone()
    }

    #[test]
    fn what_concerns_one_device_is_taken_over_and_named() {
        let heuristics = "}\nheuristics {\nmode: on\nexec_ping: /bin/true\n}\n}\n}\nhaguard";
        let cases = [
            ("config_version: 1", "config_version: 2", "totem.config_version"),
            ("host: arbiter", "host: arbiter\ntls: required", "quorum.device.net.tls"),
            ("host: arbiter", "host: arbiter\nconnect_timeout: 2000", "connect_timeout"),
            ("host: arbiter", "host: arbiter\nforce_ip_version: 6", "force_ip_version"),
            ("}\n}\n}\nhaguard", heuristics, "heuristics.exec_ping, quorum.device.heuristics.mode"),
        ];
        for (from, to, wanted) in cases {
            let running = read(CONF).unwrap().conf;
            let verdict = verdict(from, to);
            let Verdict::Live(new, text) = &verdict else { panic!("{to}: {verdict:?}") };
            assert!(text.ends_with(wanted), "{text}");
            assert_eq!(new.digest(), running.digest(), "{wanted}");
        }
    }

    #[test]
    fn what_members_must_have_in_common_is_refused_and_named() {
        let third = "}\nnode {\nnodeid: 3\nring0_addr: 192.0.2.3\n}\n}\nquorum";
        let cases = [
            ("cluster_name: c", "cluster_name: d", "totem.cluster_name cannot"),
            ("}\n}\nquorum", third, "nodelist.node.3 cannot"),
            ("192.0.2.2", "192.0.2.9", "nodelist.node.2.ring0_addr cannot"),
            ("host: arbiter", "host: other", "quorum.device.net.host cannot"),
            ("ffsplit", "lms", "quorum.device.net.algorithm cannot"),
            ("model: net\n", "model: net\ntimeout: 9000\n", ": quorum.device.timeout cannot"),
            ("watchdog: process", "watchdog: off", "haguard.watchdog cannot"),
        ];
        for (from, to, wanted) in cases {
            let text = refusal(verdict(from, to));
            assert!(text.starts_with("c.conf: not reloaded, everything stays: "), "{text}");
            assert!(text.contains(wanted) && text.contains("on all nodes"), "{text}");
        }
    }

    #[test]
    fn a_device_that_comes_or_goes_is_refused_as_one_thing() {
        let start = CONF.find("device {").unwrap();
        let end = CONF.find("}\nhaguard").unwrap();
        let device = &CONF[start..end];
        let goes = verdict(device, "");
        let running = read(&CONF.replacen(device, "", 1)).unwrap().conf;
        let comes = judge(Path::new("c.conf"), &running, read(CONF));
        for verdict in [goes, comes] {
            let text = refusal(verdict);
            assert!(text.contains(": quorum.device cannot change"), "{text}");
        }
    }

    #[test]
    fn of_a_file_with_both_nothing_is_taken_and_a_wrong_one_is_one_line() {
        let both = refusal(verdict("config_version: 1\n", "config_version: 2\ntoken: 5000\n"));
        assert!(both.contains("totem.token cannot"), "{both}");
        for wrong in ["}", "model: net\nvotes: 2\ntimeout: x\nmodel: y"] {
            let text = refusal(verdict("model: net\nvotes: 1", wrong));
            assert!(text.starts_with("not reloaded, everything stays: c.conf"), "{text}");
        }
    }
}

//! Places, scripts, and waiting with a limit.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use fence::agent::{Agent, Config};
use fence::secret::Secret;
use host::clock::Clock;
use protocol::time::Hurry;

/// More than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory of one test, gone with it, unless the test fails.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("haguard-agent-{name}-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    /// An agent that is a shell script in this directory, which it finds as `$here`.
    pub fn agent(&self, script: &str) -> Agent {
        self.agent_with(script, &[], &[])
    }

    pub fn agent_with(
        &self,
        script: &str,
        options: &[(&str, &str)],
        secrets: &[(&str, &str)],
    ) -> Agent {
        let program = self.file("fence_test");
        write_script(&program, &format!("#!/bin/sh\nhere='{}'\n{script}\n", self.0.display()));
        let options = options.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let secret = |(name, value): &(&str, &str)| {
            ((*name).to_owned(), Secret::new(value.as_bytes().to_vec()))
        };
        let secrets: BTreeMap<_, _> = secrets.iter().map(secret).collect();
        Agent::new(Config { program, options, secrets }).unwrap()
    }

    /// The process whose number is in the file is gone.
    pub fn is_gone(&self, pid_file: &str) -> bool {
        let pid = self.read(pid_file);
        // One that was killed and is not reaped yet has a stat file, with state Z.
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
        stat.map_or(true, |stat| stat.contains(") Z "))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// Written by another process: a program that is open for writing here, even in a child that was
/// forked at the wrong moment, cannot be run.
fn write_script(path: &Path, text: &str) {
    let mut writer = Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// Polls with a deadline, for what is no future.
pub fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let mut clock = Clock::start(Hurry::Fast);
    let end = clock.now() + limit;
    // A channel that nobody sends to is a pause between two looks.
    let (_sender, pause) = mpsc::channel::<()>();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.now() < end, "not in time: {what}");
        let _ = pause.recv_timeout(Duration::from_millis(5));
    }
}

/// Polls with a deadline.
pub async fn soon(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// The path of a program that the test cannot do without; under CI it has to be there.
pub fn installed(program: &str) -> Option<PathBuf> {
    let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let found = places.iter().map(|place| Path::new(place).join(program)).find(|p| p.exists());
    if found.is_none() {
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(!ci, "{program} is missing under CI");
        #[expect(clippy::print_stderr, reason = "says why a test was left out")]
        {
            eprintln!("left out: {program} is not installed");
        }
    }
    found
}

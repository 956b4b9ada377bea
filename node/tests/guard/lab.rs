//! A machine with the real corosync, a guard, and a watchdog that a preloaded library is:
//! namespaces of its own, without systemd.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde_json::Value;

const COROSYNC: &str = "/usr/sbin/corosync";
/// corosync starts and a ring forms within this on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Names the guard's folder to the child that becomes it.
pub(crate) const FOLDER: &str = "HAGUARD_TEST_GUARD";

const SETUP: &str = "\
set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm
mkdir -p /run/corosync
for folder in etc/corosync var/lib/corosync var/log/corosync; do
    mkdir -p \"$1/$folder\"
    mount --bind \"$1/$folder\" \"/$folder\"
done
ip link set lo up
ip address add 10.77.0.1/24 dev lo
echo ready
exec sleep infinity
";

/// Whether corosync, a compiler and the rights to run both in namespaces are there; where tests
/// must be whole they have to be.
#[expect(clippy::print_stderr, reason = "who runs the tests shall know what was not tested")]
pub(crate) fn corosync_is_here() -> bool {
    let compiler = Command::new("cc").arg("--version").output();
    let text = if !Path::new(COROSYNC).exists() {
        "corosync is missing: install corosync"
    } else if !compiler.is_ok_and(|it| it.status.success()) {
        "a C compiler is missing: install gcc"
    } else if !nix::unistd::geteuid().is_root() {
        "corosync in namespaces needs root: run the tests as root"
    } else {
        return true;
    };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{text}");
    eprintln!("not tested: {text}");
    false
}

/// Asks again and again until there is an answer.
pub(crate) fn poll<T>(limit: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = now() + millis(limit);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(now() < until, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// The clock of the watchdog's log, in milliseconds.
pub(crate) fn now() -> u64 {
    millis(Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}

/// One machine, alone in its cluster.
pub(crate) struct Machine {
    /// `unshare`, which takes everything inside with it when it ends.
    holder: Child,
    folder: PathBuf,
    corosync: Option<Child>,
    guard: Option<Child>,
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        for child in [&mut self.corosync, &mut self.guard].into_iter().flatten() {
            // One that was stopped inside has stopped its nsenter with it.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Machine {
    /// `quorum` is the inside of corosync.conf's section.
    pub(crate) fn new(quorum: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = PathBuf::from(format!("/tmp/hgg-{}-{count}", std::process::id()));
        for name in ["run", "state"] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        let mut holder = Command::new("unshare")
            .args(["-m", "-u", "-i", "-n", "-p", "--fork", "--kill-child", "--", "sh", "-c"])
            .args([SETUP, "sh", folder.to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        let machine = Self { holder, folder, corosync: None, guard: None };
        machine.compile();
        fs::write(machine.watchdog(), "").unwrap();
        machine.configure(1000, quorum);
        machine
    }

    /// Writes corosync.conf: the token in milliseconds, and the inside of its quorum section.
    /// Node 2 never comes.
    pub(crate) fn configure(&self, token: u32, quorum: &str) {
        let second = "  node {\n    nodeid: 2\n    name: n2\n    ring0_addr: 10.77.0.2\n  }\n";
        let second = if quorum.contains("device") { second } else { "" };
        let conf = format!(
            "totem {{\n  version: 2\n  cluster_name: lab\n  transport: knet\n  \
             crypto_cipher: none\n  crypto_hash: none\n  token: {token}\n}}\n\
             nodelist {{\n  node {{\n    nodeid: 1\n    name: n1\n    ring0_addr: 10.77.0.1\n  }}\n\
             {second}}}\n\
             quorum {{\n  provider: corosync_votequorum\n{quorum}}}\n\
             logging {{\n  to_syslog: no\n  to_stderr: yes\n}}\n"
        );
        fs::write(self.folder.join("etc/corosync/corosync.conf"), conf).unwrap();
    }

    fn compile(&self) {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guard/watchdog.c");
        let library = self.folder.join("watchdog.so");
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-w", "-o"])
            .args([library.as_os_str(), source.as_ref()])
            .status();
        assert!(built.unwrap().success());
    }

    fn inside(&self, command: &[&str]) -> Command {
        let outer = self.holder.id();
        let children = format!("/proc/{outer}/task/{outer}/children");
        let pid = fs::read_to_string(children).unwrap();
        let mut inside = Command::new("nsenter");
        inside
            .args(["-t", pid.trim(), "-m", "-u", "-i", "-n", "-p", "--"])
            .args(command)
            .stdin(Stdio::null());
        inside
    }

    fn log(&self, command: &mut Command) -> Child {
        let log = self.folder.join("log");
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    /// The watchdog of the machine.
    pub(crate) fn watchdog(&self) -> PathBuf {
        self.folder.join("watchdog")
    }

    /// Somebody else has the watchdog, or has it no more.
    pub(crate) fn occupy(&self, busy: bool) {
        let file = self.folder.join("watchdog.busy");
        if busy { fs::write(file, "").unwrap() } else { fs::remove_file(file).unwrap() }
    }

    pub(crate) fn start_corosync(&mut self) {
        let script = "echo $$ >/run/corosync.test; exec corosync -f";
        self.corosync = Some(self.log(&mut self.inside(&["sh", "-c", script])));
    }

    /// Runs something on a thread that lives on the machine: its network, its files, its shared
    /// memory.
    pub(crate) fn on_it(&self, run: impl FnOnce() + Send + 'static) {
        let outer = self.holder.id();
        let children = format!("/proc/{outer}/task/{outer}/children");
        let pid = fs::read_to_string(children).unwrap().trim().to_owned();
        let open = |name| fs::File::open(format!("/proc/{pid}/ns/{name}")).unwrap();
        let namespaces = ["ipc", "net", "mnt"].map(open);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS).unwrap();
            for namespace in namespaces {
                setns(namespace, CloneFlags::empty()).unwrap();
            }
            run();
        });
    }

    /// Runs a command inside.
    pub(crate) fn run(&self, command: &[&str]) {
        let output = self.inside(command).output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    /// Kills the keeper.
    pub(crate) fn kill_keeper(&self) {
        let run_dir = self.folder.join("run");
        let keeper = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            let mut words = line.split('\0');
            let keeper = words.next()?.ends_with("haguard-keeper");
            let ours = words.any(|word| Some(word) == run_dir.to_str());
            (keeper && ours).then(|| entry.file_name().to_str()?.parse().ok()).flatten()
        });
        kill(Pid::from_raw(keeper.unwrap()), Signal::SIGKILL).unwrap();
    }

    /// Sends corosync a signal.
    pub(crate) fn signal_corosync(&mut self, name: &str) {
        self.run(&["sh", "-c", &format!("kill -{name} $(cat /run/corosync.test)")]);
        if matches!(name, "KILL" | "TERM") {
            self.corosync.take().unwrap().wait().unwrap();
        }
    }

    fn guard(&self) -> Command {
        // This very program, in a test that is the guard.
        let program = std::env::current_exe().unwrap();
        let test = "process::a_child_of_the_tests_is_the_guard";
        let mut guard = self.inside(&[program.to_str().unwrap(), "--exact", test, "--nocapture"]);
        guard
            .env(FOLDER, &self.folder)
            .env("HAGUARD_TEST_WATCHDOG", self.watchdog())
            .env("LD_PRELOAD", self.folder.join("watchdog.so"));
        guard
    }

    pub(crate) fn start_guard(&mut self) {
        self.guard = Some(self.log(&mut self.guard()));
    }

    /// A guard that ends by itself.
    pub(crate) fn run_guard(&self) -> Output {
        self.guard().output().unwrap()
    }

    /// Asks the guard to end, and waits until it has.
    pub(crate) fn end_guard(&mut self) {
        assert_eq!(self.ask("leave\n").as_deref(), Some("ok\n"));
        assert!(self.guard.take().unwrap().wait().unwrap().success(), "{}", self.text());
    }

    fn ask(&self, question: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.folder.join("run/node.sock")).ok()?;
        stream.write_all(question.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    pub(crate) fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.ask("status\n")?).ok()
    }

    /// Waits for a status with this in it.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        let until = now() + millis(PATIENCE);
        loop {
            if let Some(status) = self.status() {
                if wanted(&status) {
                    return status;
                }
                last = Some(status);
            }
            assert!(now() < until, "not {what}: {last:?}\n{}", self.text());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// What was done to the watchdog, and when.
    pub(crate) fn deeds(&self) -> Vec<(u64, String)> {
        let text = fs::read_to_string(self.folder.join("watchdog.log")).unwrap_or_default();
        let deeds = text.lines().filter_map(|line| {
            let (at, what) = line.split_once(' ')?;
            Some((at.parse().ok()?, what.to_owned()))
        });
        deeds.collect()
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.deeds().iter().filter(|(_, deed)| deed == what).count()
    }

    /// What was logged, for a test that fails.
    pub(crate) fn text(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }
}

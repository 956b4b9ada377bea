//! One machine: its emulator, and what the host sees and does of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::qmp::{Qmp, connect};
use super::story::{Story, What, wall};

/// A command in a machine may take this long while the other one boots.
const PATIENCE: Duration = Duration::from_secs(60);
/// Mebibytes. The kernel needs 128 to boot, and its first file system takes 30.
const MEMORY: &str = "224";
/// The kernel stays where it is after a panic: only the watchdog ends it. Its clock is the
/// emulated timer: on a busy host the processor's counter is measured wrong, and runs at four times
/// the speed.
const KERNEL_WORDS: &str =
    "console=ttyS0 quiet panic=0 nokaslr mitigations=off no_timer_check clocksource=hpet";

/// What resets a machine.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Watchdog {
    /// A PCI card.
    Card,
    /// The emulator's own management controller.
    Controller,
    /// A PCI card; the management controller is an `ipmi_sim` at this TCP port.
    External(u16),
}

/// What a machine is made of.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) id: u32,
    pub(crate) kernel: PathBuf,
    pub(crate) first: PathBuf,
    /// Has its disk, sockets and console.
    pub(crate) directory: PathBuf,
    /// UDP ports of the cluster's wire: of this machine, and of the other one.
    pub(crate) wire: [u16; 2],
    /// The port of the arbiter on the host's loopback network.
    pub(crate) arbiter: u16,
    pub(crate) watchdog: Watchdog,
}

impl Made {
    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    /// The emulator and its arguments; it dies with whoever has started it. Never another
    /// accelerator: a nested one may hang.
    pub(crate) fn command(&self) -> Vec<String> {
        let (id, [own, other]) = (self.id, self.wire);
        let mut words: Vec<String> = "setpriv --pdeathsig KILL qemu-system-x86_64 -machine pc,accel=tcg \
             -cpu max -smp 1 -nodefaults -no-user-config -display none -monitor none -action watchdog=reset"
            .split_whitespace()
            .map(str::to_owned)
            .collect();
        let mut add = |flag: &str, value: String| words.extend([format!("-{flag}"), value]);
        let socket = |name: &str| format!("path={},server=on,wait=off", self.path(name));
        add("name", format!("machine{id}"));
        add("m", MEMORY.to_owned());
        add("pidfile", self.path("pid"));
        add("kernel", self.kernel.display().to_string());
        add("initrd", self.first.display().to_string());
        let arbiter = format!("hg_arbiter=10.0.2.2:{}", self.arbiter);
        add("append", format!("{KERNEL_WORDS} hg_node={id} {arbiter}"));
        add("qmp", format!("unix:{},server=on,wait=off", self.path("qmp")));
        add("chardev", format!("file,id=console,append=on,path={}", self.path("console")));
        add("serial", "chardev:console".to_owned());
        // The host outlives the machine, so nothing has to reach the host's own disk.
        let disk = self.path("disk");
        add("drive", format!("file={disk},format=raw,if=virtio,cache=unsafe"));
        add("device", "virtio-serial-pci".to_owned());
        for (nr, name) in [(1, "witness"), (2, "control")] {
            add("chardev", format!("socket,id={name},{}", socket(name)));
            add("device", format!("virtserialport,chardev={name},nr={nr}"));
        }
        let wire = format!("udp=127.0.0.1:{other},localaddr=127.0.0.1:{own}");
        add("netdev", format!("socket,id=wire,{wire}"));
        add("netdev", "user,id=arbiter".to_owned());
        for (number, name) in [(0, "wire"), (1, "arbiter")] {
            let mac = format!("52:54:00:09:{number:02x}:{id:02x}");
            add("device", format!("virtio-net-pci,netdev={name},mac={mac},romfile="));
        }
        match self.watchdog {
            Watchdog::Card => add("device", "i6300esb".to_owned()),
            Watchdog::Controller => add("device", "ipmi-bmc-sim,id=bmc".to_owned()),
            Watchdog::External(port) => {
                let to = format!("host=127.0.0.1,port={port},reconnect=5");
                add("chardev", format!("socket,id=bmcwire,{to}"));
                add("device", "ipmi-bmc-extern,id=bmc,chardev=bmcwire".to_owned());
                add("device", "i6300esb".to_owned());
            }
        }
        if self.watchdog != Watchdog::Card {
            add("device", "isa-ipmi-kcs,bmc=bmc".to_owned());
        }
        words
    }

    /// Where the console's output is kept.
    pub(crate) fn console(&self) -> PathBuf {
        self.directory.join("console")
    }
}

/// A machine that runs.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) made: Made,
    story: Story,
    qmp: Qmp,
    control: UnixStream,
    commands: u32,
    /// Where it is a child of the test.
    emulator: Option<Emulator>,
}

/// A machine's emulator, which ends with the value.
#[derive(Debug)]
struct Emulator(Child);

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Machine {
    /// Switches it on.
    pub(crate) fn start(made: &Made, story: &Story) -> Self {
        let words = made.command();
        let said = File::create(made.directory.join("emulator.log")).unwrap();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        let command = command.stdout(said.try_clone().unwrap()).stderr(said);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", words[0]));
        let emulator = Emulator(child);
        let mut machine = Self::attach(made, story);
        machine.emulator = Some(emulator);
        machine
    }

    /// Connects to one that somebody else has switched on.
    pub(crate) fn attach(made: &Made, story: &Story) -> Self {
        let id = made.id;
        let qmp = Qmp::connect(&made.directory.join("qmp"), id, story);
        let witness = connect(&made.directory.join("witness"), story);
        let control = connect(&made.directory.join("control"), story);
        let tell = story.clone();
        thread::spawn(move || listen(witness, id, &tell));
        let (made, story) = (made.clone(), story.clone());
        Self { made, story, qmp, control, commands: 0, emulator: None }
    }

    /// Orders a command, and does not wait for it.
    pub(crate) fn order(&mut self, command: &str) {
        self.commands += 1;
        writeln!(self.control, "{} {command}", self.commands).unwrap();
    }

    /// Runs a command in the machine, and returns what it says if it ends with 0.
    pub(crate) fn ask(&mut self, command: &str, limit: Duration) -> Option<String> {
        self.order(command);
        let mark = format!("= {} ", self.commands);
        let end = wall() + limit;
        let mut said = String::new();
        let mut bytes = [0; 4096];
        loop {
            let left = end.checked_sub(wall()).filter(|left| !left.is_zero())?;
            self.control.set_read_timeout(Some(left)).unwrap();
            match self.control.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => said.push_str(&String::from_utf8_lossy(&bytes[..read])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
            let Some(at) = said.find(&mark).filter(|_| said.ends_with('\n')) else { continue };
            // Before it may be what an earlier command has said too late.
            let own = said[..at].rsplit("\n= ").next().unwrap_or_default();
            return said[at..].starts_with(&format!("{mark}0\n")).then(|| own.to_owned());
        }
    }

    /// The same for a command that has to work.
    pub(crate) fn run(&mut self, command: &str) -> String {
        let said = self.ask(command, PATIENCE);
        said.unwrap_or_else(|| panic!("machine {}: {command} has failed", self.made.id))
    }

    /// `haguard status --json` in the machine, if it answers.
    pub(crate) fn status(&mut self) -> Option<Value> {
        // Its exit code says whether the node is quorate.
        let said = self.ask("haguard status --json; true", Duration::from_secs(20))?;
        serde_json::from_str(&said[said.find('{')?..]).ok()
    }

    /// Plugs both of its network cables in, or out; says when.
    pub(crate) fn link(&mut self, up: bool, names: &[&str]) -> Duration {
        let at = wall();
        for name in names {
            self.qmp.execute("set_link", &json!({ "name": name, "up": up }));
        }
        at
    }

    /// Stops the machine's processor and clocks, or lets them go on; says when.
    pub(crate) fn pause(&mut self, paused: bool) -> Duration {
        let at = wall();
        self.qmp.execute(if paused { "stop" } else { "cont" }, &json!({}));
        at
    }

    /// The reset button; says when.
    pub(crate) fn reset(&mut self) -> Duration {
        let at = wall();
        self.qmp.execute("system_reset", &json!({}));
        at
    }

    /// How often it has come up.
    pub(crate) fn boots(&self) -> usize {
        self.console().matches("guest: node").count()
    }

    /// Everything on its console, without colours.
    pub(crate) fn console(&self) -> String {
        let text = fs::read(self.made.console()).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits until it has come up so often.
    pub(crate) fn wait_for_boot(&self, number: usize, limit: Duration) {
        let what = format!("boot {number} of machine {}", self.made.id);
        self.story.wait(&what, limit, |_| (self.boots() >= number).then_some(()));
    }
}

/// Kills an emulator that is nobody's child here. The file goes with an emulator that ends by
/// itself, so the number in it is not somebody else's.
pub(crate) fn end_by_pidfile(file: &Path) {
    let pid = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
    if let Some(pid) = pid {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        let _ = fs::remove_file(file);
    }
}

/// UDP ports that are free now.
pub(crate) fn free_ports() -> [u16; 2] {
    let sockets = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").unwrap());
    sockets.map(|socket| socket.local_addr().unwrap().port())
}

/// The lines of the guarded service: node, epoch, seconds since the machine's start,
/// process.
fn listen(stream: UnixStream, machine: u32, story: &Story) {
    for line in BufReader::new(stream).split(b'\n') {
        let Ok(line) = line else { return };
        let at = wall();
        let line = String::from_utf8_lossy(&line).into_owned();
        // A reset may cut a line off.
        let mut words = line.split_whitespace();
        let node = words.next().and_then(|word| word.parse::<u32>().ok());
        let epoch = words.next().and_then(|word| word.parse().ok());
        let up = words.next().and_then(|word| word.parse().ok()).map(Duration::from_secs_f64);
        let process = words.next().and_then(|word| word.parse().ok());
        if let (Some(_), Some(epoch), Some(up), Some(process)) = (node, epoch, up, process) {
            story.add(at, machine, What::Serves { epoch, up, process });
        }
    }
}

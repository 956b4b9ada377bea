//! OpenIPMI's ipmi_sim as the BMC of a machine, which is one or more real processes: off is SIGKILL
//! for all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::common::{Scratch, left_out, soon};

pub(crate) const USER: &str = "admin";
pub(crate) const PASSWORD: &str = "sixteen-bytes-ok";

/// The tests' of the IPMI client.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fence/tests/ipmi");

/// One BMC; it ends with the value, and so does its machine.
pub(crate) struct Sim {
    pub(crate) address: String,
    scratch: Scratch,
    process: Child,
}

/// Whether ipmi_sim is here; where tests must be whole it has to be.
pub(crate) fn is_installed() -> bool {
    let here =
        ["/usr/bin/ipmi_sim", "/usr/local/bin/ipmi_sim"].iter().any(|p| Path::new(p).exists());
    assert!(here || std::env::var_os("CI").is_none(), "ipmi_sim is missing: install openipmi");
    if !here {
        left_out("ipmi_sim is missing: install openipmi");
    }
    here
}

impl Sim {
    /// Starts the BMC with this GUID at an address of the loopback network, and its machine.
    pub(crate) async fn start(name: &str, address: &str, guid: &str) -> Self {
        let scratch = Scratch::new(&format!("sim-{name}"));
        let dir = scratch.root().display();
        let auths: String = ["callback", "user", "operator", "admin"]
            .map(|level| format!("    allowed_auths_{level} none md2 md5 straight\n"))
            .concat();
        let conf = format!(
            "name \"sim\"\nset_working_mc 0x20\n  startlan 1\n    addr {address} 623\n    \
             priv_limit admin\n{auths}    guid {guid}\n  endlan\n  \
             chassis_control \"{FOLDER}/chassis.sh {dir}\"\n  \
             user 1 true \"\" \"\" user 10 none md2 md5 straight\n  \
             user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n"
        );
        fs::write(scratch.root().join("lan.conf"), conf).unwrap();
        fs::create_dir_all(scratch.root().join("state")).unwrap();
        let output = fs::File::create(scratch.root().join("out")).unwrap();
        let process = Command::new("ipmi_sim")
            .args(["-n", "-c"])
            .arg(scratch.root().join("lan.conf"))
            .args(["-f", &format!("{FOLDER}/bmc.emu"), "-s"])
            .arg(scratch.root().join("state"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let sim = Self { address: address.to_owned(), scratch, process };
        soon("ipmi_sim listens", || sim.listens().then_some(())).await;
        sim.chassis(&["set", "power", "1"]);
        sim
    }

    fn listens(&self) -> bool {
        let address: std::net::Ipv4Addr = self.address.parse().unwrap();
        let bytes: String = address.octets().iter().rev().map(|b| format!("{b:02X}")).collect();
        fs::read_to_string("/proc/net/udp").unwrap().contains(&format!(" {bytes}:026F "))
    }

    /// Uses the power switch by hand.
    pub(crate) fn chassis(&self, words: &[&str]) -> String {
        let mut command = Command::new(format!("{FOLDER}/chassis.sh"));
        let output = command.arg(self.scratch.root()).args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A file of the switch's: what it does is changed by some that are there.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.scratch.root().join(name)
    }

    /// From now on the switch does this too, or does it no longer.
    pub(crate) fn set(&self, fault: &str, on: bool) {
        if on {
            fs::write(self.file(fault), "").unwrap();
        } else {
            fs::remove_file(self.file(fault)).unwrap();
        }
    }

    /// These processes are the machine from now on, in the place of the ones before.
    pub(crate) fn is_of(&self, pids: &[i32]) {
        let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
        fs::write(self.file("pid"), lines).unwrap();
    }

    /// The processes of the machine that live.
    pub(crate) fn machine(&self) -> Vec<i32> {
        living(&self.file("pid"))
    }

    /// Whether the machine runs, for whoever lives on it.
    pub(crate) fn power(&self) -> impl Fn() -> bool + Send + 'static {
        let file = self.file("pid");
        move || !living(&file).is_empty()
    }

    /// How often power was ordered off.
    pub(crate) fn orders_off(&self) -> usize {
        let log = fs::read_to_string(self.file("log")).unwrap_or_default();
        log.lines().filter(|line| *line == "set power 0").count()
    }

    /// Ends the machine, and not by the switch.
    pub(crate) fn end_machine(&self) {
        for pid in self.machine() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }

    /// Ends the BMC; its machine runs on.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.kill();
        self.end_machine();
    }
}

fn living(file: &Path) -> Vec<i32> {
    let pids = fs::read_to_string(file).unwrap_or_default();
    let lives = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    pids.lines().filter_map(|pid| pid.trim().parse().ok()).filter(lives).collect()
}

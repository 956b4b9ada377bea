//! OpenIPMI's ipmi_sim as a BMC, with a real process for a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::common::{Scratch, eventually};

pub(crate) const USER: &str = "admin";
pub(crate) const PASSWORD: &str = "sixteen-bytes-ok";
pub(crate) const OPERATOR: &str = "oper";
pub(crate) const OPERATOR_PASSWORD: &str = "oper-pass";

/// One BMC; it ends with the value.
pub(crate) struct Sim {
    address: String,
    scratch: Scratch,
    process: Child,
}

impl Sim {
    /// Starts one and waits until it listens.
    pub(crate) fn start(address: &str, guid: &str) -> Self {
        let sim = Self::launch(address, guid);
        sim.wait();
        sim
    }

    /// Starts one, which takes it a second or so.
    pub(crate) fn launch(address: &str, guid: &str) -> Self {
        let scratch = Scratch::new(&format!("sim-{}", address.replace([':', '.'], "-")));
        let dir = scratch.path().display();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ipmi/chassis.sh");
        let auths: String = ["callback", "user", "operator", "admin"]
            .map(|level| format!("    allowed_auths_{level} none md2 md5 straight\n"))
            .concat();
        let conf = format!(
            "name \"sim\"\nset_working_mc 0x20\n  startlan 1\n    addr {address} 623\n    \
             priv_limit admin\n{auths}    guid {guid}\n  endlan\n  chassis_control \"{} {dir}\"\n  \
             user 1 true \"\" \"\" user 10 none md2 md5 straight\n  \
             user 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n  \
             user 3 true \"{OPERATOR}\" \"{OPERATOR_PASSWORD}\" operator 10 none md2 md5 straight\n",
            script.display()
        );
        fs::write(scratch.path().join("lan.conf"), conf).unwrap();
        fs::create_dir(scratch.path().join("state")).unwrap();
        let process = Self::spawn(scratch.path());
        Self { address: address.to_owned(), scratch, process }
    }

    fn spawn(dir: &Path) -> Child {
        let emulation = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ipmi/bmc.emu");
        let output = fs::File::create(dir.join("out")).unwrap();
        Command::new("ipmi_sim")
            .arg("-n")
            .arg("-c")
            .arg(dir.join("lan.conf"))
            .arg("-f")
            .arg(emulation)
            .arg("-s")
            .arg(dir.join("state"))
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .expect("ipmi_sim starts")
    }

    pub(crate) fn wait(&self) {
        let wanted = format!("{}:026F", hex(&self.address));
        eventually("ipmi_sim listens", Duration::from_secs(60), || {
            let table = fs::read_to_string("/proc/net/udp").unwrap();
            table.contains(&wanted).then_some(())
        });
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The machine's process, if it runs.
    pub(crate) fn machine(&self) -> Option<u32> {
        let pid = fs::read_to_string(self.pid_file()).ok()?.trim().parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        (!stat.contains(") Z ")).then_some(pid)
    }

    /// The BMC's process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    fn pid_file(&self) -> PathBuf {
        self.scratch.path().join("pid")
    }

    /// Ends the BMC; its machine runs on.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self) {
        self.process = Self::spawn(self.scratch.path());
        self.wait();
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        self.kill();
        if let Some(pid) = self.machine() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    }
}

/// An IPv4 address as /proc/net/udp has it.
fn hex(address: &str) -> String {
    let bytes = address.parse::<std::net::Ipv4Addr>().unwrap().octets();
    bytes.iter().rev().map(|byte| format!("{byte:02X}")).collect()
}

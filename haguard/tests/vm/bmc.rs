//! A management controller beside the emulator: OpenIPMI's `ipmi_sim`. It starts the emulator as
//! the machine that it switches on, and ends it when it switches it off.

use std::fs::{self, File};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::machine::{Made, end_by_pidfile};
use super::must;
use super::story::Story;

/// Of its user `admin`.
pub(crate) const PASSWORD: &str = "of-a-lab";
const PATIENCE: Duration = Duration::from_secs(30);

/// A running one.
#[derive(Debug)]
pub(crate) struct Bmc {
    child: Child,
    pub(crate) port: u16,
    pid: PathBuf,
}

impl Bmc {
    /// A TCP port for the wire to the emulator.
    pub(crate) fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    /// Starts the controller of a machine, which is off then.
    pub(crate) fn start(made: &Made, wire: u16) -> Self {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| made.directory.join(name);
        let quoted = made.command().into_iter().map(|word| format!("'{word}'"));
        let quoted = quoted.collect::<Vec<_>>().join(" ");
        let log = path("emulator.log");
        let script = format!("#!/bin/sh\nexec {quoted} </dev/null >>{} 2>&1\n", log.display());
        fs::write(path("on.sh"), script).unwrap();
        fs::set_permissions(path("on.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(path("lan.conf"), lan(port, wire, &path("on.sh").display().to_string())).unwrap();
        fs::write(path("bmc.emu"), EMULATION).unwrap();
        fs::create_dir_all(path("bmc")).unwrap();
        let said = File::create(path("bmc.log")).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "ipmi_sim"]);
        command.arg("-n").arg("-c").arg(path("lan.conf")).arg("-f").arg(path("bmc.emu"));
        command.arg("-s").arg(path("bmc")).stdin(Stdio::null());
        let command = command.stdout(said.try_clone().unwrap()).stderr(said);
        let child = command.spawn().unwrap_or_else(|error| panic!("ipmi_sim: {error}"));
        let bmc = Self { child, port, pid: path("pid") };
        let story = Story::default();
        story.wait("ipmi_sim's first answer", PATIENCE, |_| bmc.status());
        bmc
    }

    fn ipmitool(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ipmitool");
        command.args([
            "-I",
            "lanplus",
            "-C",
            "3",
            "-H",
            "127.0.0.1",
            "-U",
            "admin",
            "-P",
            PASSWORD,
        ]);
        command.arg("-p").arg(self.port.to_string()).args(words).stdin(Stdio::null());
        command
    }

    /// Whether it says that the power is on, if it answers.
    pub(crate) fn status(&self) -> Option<bool> {
        let output = self.ipmitool(&["chassis", "power", "status"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if text.contains("is on") { Some(true) } else { text.contains("is off").then_some(false) }
    }

    /// Switches the machine `on` or `off`.
    pub(crate) fn power(&self, what: &str) {
        must(&mut self.ipmitool(&["chassis", "power", what]));
    }
}

impl Drop for Bmc {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        end_by_pidfile(&self.pid);
    }
}

/// ipmi_lan(5). Power control and the watchdog work only with a wire to the machine (codec VM).
fn lan(port: u16, wire: u16, on: &str) -> String {
    let allowed: String = ["callback", "user", "operator", "admin"]
        .iter()
        .map(|who| format!("    allowed_auths_{who} none md2 md5 straight\n"))
        .collect();
    format!(
        "name \"machine\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    \
         priv_limit admin\n{allowed}    guid 0123456789abcdef0123456789abcdef\n  endlan\n  \
         serial 15 127.0.0.1 {wire} codec VM\n  startcmd \"{on}\"\n  startnow false\n  \
         poweroff_wait 1\n  kill_wait 2\n  user 1 true \"\" \"\" user 10 none md2 md5 straight\n  \
         user 2 true \"admin\" \"{PASSWORD}\" admin 10 none md2 md5 straight\n"
    )
}

/// ipmi_sim_cmd(5). Without a sensor 0 of the kind Watchdog 2 (35) its watchdog does nothing.
const EMULATION: &str = "mc_setbmc 0x20
mc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02
sel_enable 0x20 1000 0x0a
sensor_add 0x20 0 0 35 0x6f event-only
sensor_set_event_support 0x20 0 0 enable scanning per-state \
000000000001111 000000000000000 000000000001111 000000000000000
mc_enable 0x20
";

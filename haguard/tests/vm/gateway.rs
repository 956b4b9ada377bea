//! The fencing gateway on the host: it switches machine 1 off by the machine's management
//! controller, when machine 2 asks for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::common::arbiter::{Arbiter, Home, certs};
use crate::common::{Daemon, PROGRAM};

use super::bmc::{Bmc, PASSWORD};
use super::must;
use super::story::Story;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running one.
pub(crate) struct Gateway {
    _daemon: Daemon,
    run: PathBuf,
}

impl Gateway {
    /// Starts it, and waits until a rehearsal of the whole path for node 1 has worked.
    pub(crate) fn start(
        home: &Home,
        cluster: &str,
        arbiter: &Arbiter,
        port: u16,
        bmc: &Bmc,
    ) -> Self {
        let out = home.path("gateway");
        certs(&["gateway", "--dir", &home.path("ca"), "--cluster", cluster, "--out", &out]);
        let path = |name: &str| PathBuf::from(&out).join(name);
        fs::write(path("password"), format!("{PASSWORD}\n")).unwrap();
        fs::set_permissions(path("password"), fs::Permissions::from_mode(0o600)).unwrap();
        let (arbiter, bmc) = (arbiter.address, bmc.port);
        let conf = format!(
            "cluster = \"{cluster}\"\narbiter = \"{arbiter}\"\nlisten = \"127.0.0.1:{port}\"\n\
             [devices.bmc-1]\nkind = \"ipmi\"\naddress = \"127.0.0.1:{bmc}\"\nuser = \"admin\"\n\
             password-file = \"password\"\ncipher-suites = [3]\n[nodes.1]\nlevels = [[\"bmc-1\"]]\n"
        );
        fs::write(path("gateway.toml"), conf).unwrap();
        let mut command = Command::new(PROGRAM);
        command.args(["fence", "gateway", "--config"]).arg(path("gateway.toml"));
        command.arg("--state-dir").arg(path("state")).arg("--run-dir").arg(path("run"));
        command.arg("--tls-ca").arg(path("ca.pem")).arg("--tls-cert").arg(path("gateway.pem"));
        command.arg("--tls-key").arg(path("gateway-key.pem"));
        let daemon = Daemon::spawn(&mut command, &home.path("gateway.log"));
        let gateway = Self { _daemon: daemon, run: path("run") };
        Story::default().wait("a rehearsal that works", PATIENCE, |_| {
            gateway.fence(&["test", "1"]).output().unwrap().status.success().then_some(())
        });
        gateway
    }

    /// `haguard fence`, by its local socket.
    fn fence(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("fence").args(words).arg("--run-dir").arg(&self.run);
        command
    }

    /// Its journal, as JSON.
    pub(crate) fn history(&self) -> String {
        must(&mut self.fence(&["history", "--json"]))
    }
}

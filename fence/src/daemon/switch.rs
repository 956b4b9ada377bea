//! One power switch, whatever its kind, made from its settings.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::config::device::{Agent, Device, Ipmi, Kind, Proof, Redfish};
use crate::device::{Command, DeviceError, Seen};
use crate::secret::Secret;
use crate::{agent, ipmi, redfish};

/// A client that does not keep its own limit is given up this much later.
const GRACE: Duration = Duration::from_millis(500);

/// A device that can be told something. What it has learned (whose BMC it was, which suite it
/// speaks) lives as long as this.
#[derive(Clone, Debug)]
pub(super) struct Switch {
    settings: Device,
    secrets: [Option<Secret>; 2],
    client: Arc<Client>,
}

#[derive(Debug)]
enum Client {
    Ipmi(ipmi::Bmc),
    Redfish(redfish::Redfish),
    Agent(agent::Agent),
}

impl Switch {
    /// Makes the client of a device; `None` for one that is told nothing. A relative path of a
    /// password is one in `directory`; `known` is [`Switch::identity`] of an earlier life, which the
    /// settings stand over.
    ///
    /// # Errors
    /// A password that cannot be read, or a setting that only the client can judge.
    pub(super) fn make(
        settings: &Device,
        directory: Option<&Path>,
        known: Option<&str>,
    ) -> anyhow::Result<Option<Self>> {
        let read = |file: &PathBuf| Secret::read(file, directory);
        let (client, secrets) = match &settings.kind {
            Kind::Ipmi(ipmi) => {
                let password = read(&ipmi.password_file)?;
                let kg = ipmi.kg_file.as_ref().map(read).transpose()?;
                let client = Client::Ipmi(bmc(ipmi, (&password, kg.as_ref()), known)?);
                (client, [Some(password), kg])
            }
            Kind::Redfish(redfish) => {
                let password = read(&redfish.password_file)?;
                let client = Client::Redfish(system(redfish, password.clone(), known)?);
                (client, [Some(password), None])
            }
            Kind::Agent(agent) => {
                let password = agent.password_file.as_ref().map(read).transpose()?;
                (Client::Agent(program(agent, password.as_ref())?), [password, None])
            }
            Kind::Watchdog { .. } => return Ok(None),
        };
        Ok(Some(Self { settings: settings.clone(), secrets, client: Arc::new(client) }))
    }

    /// Who answered there first and has been compared with since, where the device says who it is.
    pub(super) fn identity(&self) -> Option<String> {
        match &*self.client {
            Client::Ipmi(bmc) => bmc.guid().map(|guid| guid.to_string()),
            Client::Redfish(system) => system.uuid(),
            Client::Agent(_) => None,
        }
    }

    /// Where it is: what was learned of it holds for as long as that does.
    pub(super) fn place(&self) -> String {
        self.settings.kind.reaches().unwrap_or_default()
    }

    /// The program, where it is one.
    pub(super) fn program(&self) -> Option<&Path> {
        match &self.settings.kind {
            Kind::Agent(agent) => Some(&agent.program),
            Kind::Ipmi(_) | Kind::Redfish(_) | Kind::Watchdog { .. } => None,
        }
    }

    /// What the program says it can do; `None` if there is none, or it says nothing of the kind.
    pub(super) async fn actions(&self, limit: Duration) -> Option<agent::Actions> {
        match &*self.client {
            Client::Agent(agent) => agent.actions(limit).await.ok(),
            Client::Ipmi(_) | Client::Redfish(_) => None,
        }
    }

    /// Keeps what the old one has learned, if it is the same device.
    pub(super) fn or_same(self, old: Option<&Self>) -> Self {
        match old {
            Some(old) if old.settings == self.settings && old.secrets == self.secrets => {
                old.clone()
            }
            Some(_) | None => self,
        }
    }

    /// Does one thing, in `limit` at most.
    pub(super) async fn run(self, command: Command, limit: Duration) -> Result<Seen, DeviceError> {
        let client = &*self.client;
        let done = async {
            match client {
                Client::Ipmi(bmc) => bmc.run(command, limit).await,
                Client::Redfish(system) => system.run(command, limit).await,
                Client::Agent(agent) => agent.run(command, limit).await,
            }
        };
        timeout(limit + GRACE, done).await.unwrap_or(Err(DeviceError::Silent(limit)))
    }
}

fn bmc(
    settings: &Ipmi,
    (password, kg): (&Secret, Option<&Secret>),
    known: Option<&str>,
) -> anyhow::Result<ipmi::Bmc> {
    let address =
        ipmi::Address { host: settings.address.host.clone(), port: settings.address.port };
    let login = ipmi::Login {
        user: settings.user.clone(),
        password: password.clone(),
        kg: kg.cloned(),
        privilege: settings.privilege,
        suites: settings.suites.clone(),
        quirks: settings.quirks,
        expect: settings.guid.or_else(|| known.and_then(|guid| guid.parse().ok())),
    };
    ipmi::Bmc::new(address, login).map_err(anyhow::Error::msg)
}

fn system(
    settings: &Redfish,
    password: Secret,
    known: Option<&str>,
) -> anyhow::Result<redfish::Redfish> {
    let transport = match &settings.proof {
        Proof::Pinned(pins) => redfish::Transport::Https(redfish::Proof::Pinned(pins.clone())),
        Proof::Authority { file, name } => redfish::Transport::Https(redfish::Proof::Authority {
            file: file.clone(),
            name: name.clone(),
        }),
        Proof::Nobodys => redfish::Transport::PlainHttp,
    };
    Ok(redfish::Redfish::new(redfish::Config {
        host: settings.address.host.clone(),
        port: settings.address.port,
        transport,
        user: settings.user.clone(),
        password,
        system: settings.system.clone(),
        expect_uuid: settings.uuid.clone().or(known.map(str::to_owned)),
    })?)
}

fn program(settings: &Agent, password: Option<&Secret>) -> anyhow::Result<agent::Agent> {
    let secret = password.map(|secret| (settings.password_key.clone(), secret.clone()));
    Ok(agent::Agent::new(agent::Config {
        program: settings.program.clone(),
        options: settings.options.clone(),
        secrets: secret.into_iter().collect(),
    })?)
}

//! One power switch in the file: `[devices.NAME]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::section::{Refused, Section};
use super::value::Endpoint;
use crate::ipmi::{self, Guid, Privilege, Quirks, Suite};
use crate::{core, redfish};

/// The cipher suites that are spoken unless the file says otherwise, best first.
const CIPHER_SUITES: [u8; 2] = [17, 3];

/// The kinds of devices.
const KINDS: [&str; 4] = ["agent", "ipmi", "redfish", "watchdog"];

/// One power switch.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// What it is, and how it is reached.
    pub kind: Kind,
    /// One command has failed after this long.
    pub limit: Duration,
    /// From the acceptance of `off` until it must read off.
    pub settle: Duration,
}

/// The kinds, each with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A BMC by IPMI.
    Ipmi(Ipmi),
    /// A BMC by Redfish.
    Redfish(Redfish),
    /// A program with the interface of the fence agents.
    Agent(Agent),
    /// The watchdog of the node itself.
    Watchdog {
        /// Class B is taken for a proof too (safety 23).
        trust_virtual: bool,
        /// And class C.
        trust_process: bool,
    },
}

/// `kind = "ipmi"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Ipmi {
    /// Where the BMC is.
    pub address: Endpoint,
    /// Its user.
    pub user: String,
    /// The file with the user's password.
    pub password_file: PathBuf,
    /// The file with the BMC's own key (Kg), where one is set.
    pub kg_file: Option<PathBuf>,
    /// Which cipher suites may be used, in this order.
    pub suites: Vec<Suite>,
    /// The privilege that is asked for.
    pub privilege: Privilege,
    /// Known faults that are worked around.
    pub quirks: Quirks,
    /// The BMC's GUID; another one is a stranger.
    pub guid: Option<Guid>,
}

/// `kind = "redfish"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Redfish {
    /// Where the BMC is.
    pub address: Endpoint,
    /// Whose certificate is believed.
    pub proof: Proof,
    /// The user.
    pub user: String,
    /// The file with the user's password.
    pub password_file: PathBuf,
    /// Which system, where the BMC has more than one.
    pub system: Option<String>,
    /// The system's UUID; another one is a stranger.
    pub uuid: Option<String>,
}

/// Whose certificate is believed.
#[derive(Clone, Debug, PartialEq)]
pub enum Proof {
    /// One with one of these SHA-256 fingerprints.
    Pinned(Vec<[u8; 32]>),
    /// One that an authority in this file has signed.
    Authority {
        /// The file, PEM.
        file: PathBuf,
        /// The name in the certificate, where it is not the URL's.
        name: Option<String>,
    },
    /// None is asked for: the URL begins with `http://`.
    Nobodys,
}

/// `kind = "agent"`.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    /// The program.
    pub program: PathBuf,
    /// What it is told beside the action, as it is written.
    pub options: BTreeMap<String, String>,
    /// The file with the password, if it needs one.
    pub password_file: Option<PathBuf>,
    /// Under which name the program is told the password.
    pub password_key: String,
}

impl Kind {
    /// The word of the file.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ipmi(_) => "ipmi",
            Self::Redfish(_) => "redfish",
            Self::Agent(_) => "agent",
            Self::Watchdog { .. } => "watchdog",
        }
    }

    /// What it reaches, to see that two nodes do not share it; `None` where the file does not say.
    pub fn reaches(&self) -> Option<String> {
        match self {
            Self::Ipmi(ipmi) => Some(format!("ipmi at {}", ipmi.address)),
            Self::Redfish(redfish) => {
                let system = redfish.system.as_deref().unwrap_or("the only system");
                Some(format!("{system} at {}", redfish.address))
            }
            Self::Agent(agent) => Some(format!(
                "{} with the same options {:?}",
                agent.program.display(),
                agent.options
            )),
            Self::Watchdog { .. } => None,
        }
    }

    /// What is not wrong and yet worth a look.
    pub(super) fn warning(&self) -> Option<String> {
        match self {
            Self::Redfish(redfish) if redfish.proof == Proof::Nobodys => Some(
                "http:// shows the password to everyone on the way, and anyone there can answer \
                 that the node is off; use https://"
                    .to_owned(),
            ),
            Self::Watchdog { trust_process: true, .. } => Some(
                "trust-process-watchdog: a wedged or paused machine is not stopped by a process \
                 (safety 23); use it for demonstrations only"
                    .to_owned(),
            ),
            Self::Ipmi(_) | Self::Redfish(_) | Self::Agent(_) | Self::Watchdog { .. } => None,
        }
    }
}

impl Device {
    /// Reads one.
    pub(super) fn read(mut section: Section) -> Result<Self, Refused> {
        let word = section.text("kind")?;
        let word = section.need(word, "kind", "\"ipmi\"")?;
        let (kind, limit, settle) = match word.as_str() {
            "ipmi" => (Kind::Ipmi(Ipmi::read(&mut section)?), 6, 10),
            "redfish" => (Kind::Redfish(Redfish::read(&mut section)?), 10, 20),
            "agent" => (Kind::Agent(Agent::read(&mut section)?), 20, 10),
            "watchdog" => {
                let trust_virtual = section.flag("trust-virtual")?;
                let trust_process = section.flag("trust-process")?;
                section.finish()?;
                let kind = Kind::Watchdog { trust_virtual, trust_process };
                return Ok(Self { kind, limit: Duration::ZERO, settle: Duration::ZERO });
            }
            other => {
                let near = host::settings::value::nearest(other, KINDS.into_iter());
                let hint = near.map_or_else(
                    || format!("; known: {}", KINDS.join(", ")),
                    |near| format!("; did you mean '{near}'?"),
                );
                return Err(section.refuse(&format!("there is no kind '{other}'{hint}")));
            }
        };
        let limits = (Duration::from_millis(100), Duration::from_secs(120));
        let limit = section.duration("limit", limits)?.unwrap_or(Duration::from_secs(limit));
        let settles = (Duration::ZERO, Duration::from_secs(300));
        let settle = section.duration("settle", settles)?.unwrap_or(Duration::from_secs(settle));
        section.finish()?;
        Ok(Self { kind, limit, settle })
    }

    /// What the machine needs to know of it.
    pub(super) fn core(&self) -> core::Device {
        let kind = match &self.kind {
            Kind::Ipmi(_) => core::Kind::Power { name: "ipmi" },
            Kind::Redfish(_) => core::Kind::Power { name: "redfish" },
            Kind::Agent(_) => core::Kind::Agent,
            Kind::Watchdog { trust_virtual, trust_process } => core::Kind::Watchdog {
                trust_virtual: *trust_virtual,
                trust_process: *trust_process,
            },
        };
        core::Device { kind, limit: self.limit, settle: self.settle }
    }
}

impl Ipmi {
    fn read(section: &mut Section) -> Result<Self, Refused> {
        let what = "the BMC's HOST or HOST:PORT";
        let address = section.parsed("address", what, |v| Endpoint::parse(v, ipmi::wire::PORT))?;
        let address = section.need(address, "address", "\"192.0.2.1\"")?;
        let user = section.text("user")?;
        let user = section.need(user, "user", "\"haguard\"")?;
        let password_file = section.path("password-file")?;
        let password_file = section.need(password_file, "password-file", "\"ipmi-n1\"")?;
        let kg_file = section.path("kg-file")?;
        let suites = section.bytes("cipher-suites")?.unwrap_or(CIPHER_SUITES.to_vec());
        let suites: Result<Vec<Suite>, String> = suites.into_iter().map(Suite::try_from).collect();
        let suites = suites.map_err(|text| section.refuse(&format!("cipher-suites: {text}")))?;
        if suites.is_empty() {
            return Err(section.refuse("'cipher-suites' must name 17, 3 or both"));
        }
        let what = "\"operator\" or \"administrator\": a mere user may not switch power";
        let privilege = section.parsed("privilege", what, |v| match v {
            "operator" => Some(Privilege::Operator),
            "administrator" => Some(Privilege::Administrator),
            _ => None,
        })?;
        let quirks = section.texts("quirks")?;
        let quirks = Quirks::named(quirks.iter().map(String::as_str))
            .map_err(|text| section.refuse(&format!("quirks: {text}")))?;
        let guid = section.text("guid")?.map(|text| text.parse()).transpose();
        let guid = guid.map_err(|text: String| section.refuse(&format!("guid: {text}")))?;
        let privilege = privilege.unwrap_or_default();
        Ok(Self { address, user, password_file, kg_file, suites, privilege, quirks, guid })
    }
}

impl Redfish {
    fn read(section: &mut Section) -> Result<Self, Refused> {
        let url = section.parsed("url", "a URL: https://HOST or https://HOST:PORT", |v| {
            let (plain, rest) = match v.strip_prefix("https://") {
                Some(rest) => (false, rest),
                None => (true, v.strip_prefix("http://")?),
            };
            let port = if plain { 80 } else { redfish::PORT };
            Some((Endpoint::parse(rest.trim_end_matches('/'), port)?, plain))
        })?;
        let (address, plain) = section.need(url, "url", "\"https://192.0.2.1\"")?;
        let user = section.text("user")?;
        let user = section.need(user, "user", "\"haguard\"")?;
        let password_file = section.path("password-file")?;
        let password_file = section.need(password_file, "password-file", "\"redfish-n1\"")?;
        let proof = Self::proof(section, plain)?;
        let system = section.text("system")?;
        let uuid = section.text("uuid")?;
        Ok(Self { address, proof, user, password_file, system, uuid })
    }

    fn proof(section: &mut Section, plain: bool) -> Result<Proof, Refused> {
        let pins = section.texts("pin-sha256")?;
        let file = section.path("ca-file")?;
        let name = section.text("ca-name")?;
        let mut read = Vec::new();
        for pin in &pins {
            read.push(redfish::parse_pin(pin).ok_or_else(|| {
                section.refuse("'pin-sha256' must be 64 hexadecimal digits, colons allowed")
            })?);
        }
        match (read.is_empty(), file) {
            (false, None) if !plain && name.is_none() => Ok(Proof::Pinned(read)),
            (true, Some(file)) if !plain => Ok(Proof::Authority { file, name }),
            (true, None) if plain && name.is_none() => Ok(Proof::Nobodys),
            _ if plain => Err(section.refuse("http:// has no certificates: write https://")),
            _ => Err(section.refuse(
                "exactly one of 'pin-sha256' and 'ca-file' says whose certificate is believed: \
                 openssl s_client -connect HOST:443 | openssl x509 -noout -fingerprint -sha256 \
                 shows the BMC's",
            )),
        }
    }
}

impl Agent {
    fn read(section: &mut Section) -> Result<Self, Refused> {
        let program = section.path("program")?;
        let program = section.need(program, "program", "\"/usr/sbin/fence_apc\"")?;
        let options = section.options("options")?;
        let password_file = section.path("password-file")?;
        let password_key = section.text("password-key")?.unwrap_or("password".to_owned());
        Ok(Self { program, options, password_file, password_key })
    }
}

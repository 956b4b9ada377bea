//! Power over Redfish (DMTF DSP0266), for one system of one BMC.
//!
//! # Layout
//! * [`Redfish::run`]: one visit: log in, look at the system, do one thing, log out.
//! * [`trust`]: whose certificate is believed.
//! * [`wire`]: requests and answers on connections that may break, be busy or redirect.
//! * [`session`]: logging in, and logging out whatever happens.
//! * [`resource`]: what a BMC says of itself, read without believing its shape.
//!
//! Only `ForceOff` takes power: a button that is pressed may switch on what was off, and a graceful
//! shutdown is a request to the machine that is to be fenced. What a BMC says about having done it
//! is worth nothing here; whether it is off is read in another visit.

mod resource;
mod session;
mod trust;
mod wire;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::json;
use tokio::time::timeout_at;

use crate::device::{Command, DeviceError, Seen};
use crate::secret::Secret;
use resource::{Offer, Root, State, System};
use session::Visit;
use wire::{Call, Endpoint, Wire};

pub use resource::same_uuid;
pub use trust::parse_pin;

/// Where Redfish is unless said otherwise (DSP0266, 7.2: HTTPS).
pub const PORT: u16 = 443;

/// A collection of systems has no more pages than this: a chassis of blades has one.
const PAGES_MAX: usize = 16;

/// No visit takes longer, whatever the configuration says.
const LIMIT_MAX: Duration = Duration::from_secs(600);

/// How a system is reached.
#[derive(Clone, Debug)]
pub struct Config {
    /// The BMC's name or address, without brackets and without a port.
    pub host: String,
    /// Its port, usually [`PORT`].
    pub port: u16,
    /// Whether there is TLS, and whose certificate is believed.
    pub transport: Transport,
    /// The BMC's user; it needs the right to change the power, usually the role `Operator`.
    pub user: String,
    /// The user's password, in UTF-8.
    pub password: Secret,
    /// Which of the BMC's systems: its `@odata.id`, which begins with `/`, or its `Id`. None takes
    /// the only one, and is refused where there are more.
    pub system: Option<String>,
    /// The system's `UUID`, as the BMC has it; dashes and capitals do not matter. Another one is
    /// a stranger. Without it the first one that was seen is remembered as long as this lives.
    pub expect_uuid: Option<String>,
}

/// Whether there is TLS.
#[derive(Clone, Debug)]
pub enum Transport {
    /// The rule.
    Https(Proof),
    /// The password and the answers can be read and changed by anyone on the way: for a BMC that
    /// has nothing better on a network of its own, and for tests.
    PlainHttp,
}

/// Whose certificate is believed.
#[derive(Clone, Debug)]
pub enum Proof {
    /// Exactly one of these, by the SHA-256 of the whole certificate (what `openssl x509
    /// -fingerprint -sha256` prints, see [`parse_pin`]). Names, dates and signatures of the
    /// certificate do not matter; that the BMC has its key is checked. Two while it is exchanged.
    Pinned(Vec<[u8; 32]>),
    /// One that an authority in this PEM file has signed, that is valid now and names the BMC.
    Authority {
        /// The file.
        file: PathBuf,
        /// The name or address in the certificate, where it is not [`Config::host`].
        name: Option<String>,
    },
}

/// One system of one BMC. Visits do not disturb each other.
#[derive(Debug)]
pub struct Redfish {
    config: Config,
    endpoint: Arc<Endpoint>,
    known: Mutex<Known>,
}

/// What earlier visits have learned. It saves requests and proves nothing: the system itself is
/// read in every visit, and its UUID compared.
#[derive(Clone, Debug, Default)]
struct Known {
    root: Option<Root>,
    system: Option<String>,
    uuid: Option<String>,
}

/// What a power command is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Goal {
    Off,
    On,
}

impl Redfish {
    /// Reads the certificates of the authority and checks what can be checked without the BMC.
    ///
    /// # Errors
    /// [`DeviceError::Local`] if the configuration cannot work, with what to change.
    pub fn new(config: Config) -> Result<Self, DeviceError> {
        session::check(&config.user, &config.password)?;
        if config.expect_uuid.as_ref().is_some_and(|uuid| uuid.trim().is_empty()) {
            return Err(DeviceError::Local("the expected uuid is empty: name it".to_owned()));
        }
        let tls = trust::client(&config.transport, &config.host)?;
        let endpoint = Arc::new(Endpoint { host: config.host.clone(), port: config.port, tls });
        Ok(Self { config, endpoint, known: Mutex::default() })
    }

    /// Does one thing in a session of its own, in at most `limit`. The session is closed behind
    /// it, in the background and also if this future is dropped.
    ///
    /// [`Command::Off`] and [`Command::On`] are accepted also where there was nothing to do.
    ///
    /// # Errors
    /// As [`DeviceError`] says; [`DeviceError::Silent`] once `limit` is over.
    pub async fn run(&self, command: Command, limit: Duration) -> Result<Seen, DeviceError> {
        let limit = limit.min(LIMIT_MAX);
        let until = wire::after(limit);
        let visit = self.visit(command, Wire::new(Arc::clone(&self.endpoint), until));
        let result = match timeout_at(until, visit).await {
            Ok(Err(DeviceError::Silent(_))) | Err(_) => Err(DeviceError::Silent(limit)),
            Ok(result) => result,
        };
        if result.is_err() {
            // Whatever was wrong: the next visit asks for the way again.
            let mut known = self.known();
            *known = Known { uuid: known.uuid.take(), ..Known::default() };
        }
        result
    }

    /// The UUID of the system that answered last, which the next one is compared with.
    pub fn uuid(&self) -> Option<String> {
        self.known().uuid.clone()
    }

    async fn visit(&self, command: Command, mut wire: Wire) -> Result<Seen, DeviceError> {
        let known = self.known().root.clone();
        let root = match known {
            Some(root) => root,
            None => Root::read(&wire.call(&Call::get(resource::ROOT)).await?)?,
        };
        let login = (self.config.user.as_str(), &self.config.password);
        let mut visit = Visit::login(wire, login, root.sessions.as_deref()).await?;
        let path = self.path(&mut visit, &root).await?;
        let system = self.look(&mut visit, &path).await?;
        {
            let mut known = self.known();
            known.root = Some(root);
            // Without a UUID nobody would notice that the path leads elsewhere by now.
            known.system = system.uuid.is_some().then(|| path.clone());
        }
        match command {
            Command::Status => Ok(Seen::Power(system.state()?.power())),
            Command::Off => self.reset(&mut visit, &path, &system, Goal::Off).await,
            Command::On => self.reset(&mut visit, &path, &system, Goal::On).await,
        }
    }

    /// Where the system is.
    async fn path(&self, visit: &mut Visit, root: &Root) -> Result<String, DeviceError> {
        let known = self.known().system.clone();
        if let Some(known) = known {
            return Ok(known);
        }
        let wanted = self.config.system.as_deref();
        if let Some(path) = wanted.filter(|name| name.starts_with('/')) {
            return self.endpoint.local(path);
        }
        let mut members = Vec::new();
        let mut next = Some(root.systems.clone());
        for _ in 0..PAGES_MAX {
            let Some(page) = next else { break };
            let answer = visit.call(&Call::get(&self.endpoint.local(&page)?)).await?;
            next = resource::members(&answer.json()?, &mut members)?;
        }
        let chosen = match wanted {
            Some(id) => members.iter().find(|path| resource::last_segment(path) == id),
            None => members.first().filter(|_| members.len() == 1),
        };
        match chosen {
            Some(path) => self.endpoint.local(path),
            None => Err(DeviceError::Local(resource::choice(wanted, &members))),
        }
    }

    /// Reads the system and compares its UUID.
    async fn look(&self, visit: &mut Visit, path: &str) -> Result<System, DeviceError> {
        let answer = visit.call(&Call::get(path)).await?;
        let system = System::read(&answer.json()?);
        let mut known = self.known();
        let expected = self.config.expect_uuid.as_ref().or(known.uuid.as_ref());
        match (expected, &system.uuid) {
            (Some(expected), Some(uuid)) if !same_uuid(expected, uuid) => {
                let text = format!("the system's uuid is {uuid}, and {expected} is expected");
                return Err(DeviceError::Stranger(text));
            }
            (Some(expected), None) => {
                let text = format!("the system names no uuid, and {expected} is expected");
                return Err(DeviceError::Stranger(text));
            }
            (Some(_) | None, Some(uuid)) => known.uuid = Some(uuid.clone()),
            (None, None) => {}
        }
        Ok(system)
    }

    /// Has the power changed. The command is sent whatever the state reads: it may be an old one.
    async fn reset(
        &self,
        visit: &mut Visit,
        path: &str,
        system: &System,
        goal: Goal,
    ) -> Result<Seen, DeviceError> {
        let action = system.reset.as_ref().ok_or_else(|| {
            DeviceError::Refused("the system offers no ComputerSystem.Reset".to_owned())
        })?;
        let offered = match &action.offer {
            Offer::Listed(types) => Some(types.clone()),
            Offer::At(info) => {
                let answer = visit.call(&Call::get(&self.endpoint.local(info)?)).await?;
                resource::allowed_by_info(&answer.json()?)
            }
            Offer::Unsaid => None,
        };
        let kind = goal.kind(offered.as_deref())?;
        let call = Call {
            method: Method::POST,
            path: self.endpoint.local(&action.target)?,
            body: Some(json!({ "ResetType": kind }).to_string().into()),
        };
        let answer = visit.try_call(&call).await?;
        if answer.status.is_success() {
            return Ok(Seen::Accepted);
        }
        if matches!(answer.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(visit.refused(&answer));
        }
        // BMCs refuse what is done already in many ways (400, 409, 500): the state tells.
        let again = self.look(visit, path).await?;
        if goal.is_reached(again.state()?) {
            return Ok(Seen::Accepted);
        }
        Err(DeviceError::Refused(format!("{kind}: {}", answer.complaint())))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Goal {
    /// The reset types that do it, best first (DSP0268, Resource.ResetType).
    fn kinds(self) -> &'static [&'static str] {
        match self {
            Self::Off => &["ForceOff"],
            Self::On => &["On", "ForceOn"],
        }
    }

    /// The one to send. A BMC that lists none is sent the first.
    fn kind(self, offered: Option<&[String]>) -> Result<&'static str, DeviceError> {
        let Some(offered) = offered else { return Ok(self.kinds()[0]) };
        let found = self.kinds().iter().find(|kind| offered.iter().any(|o| o == *kind));
        found.copied().ok_or_else(|| {
            let wanted = self.kinds().join(" or ");
            let offered = crate::text::printable(offered.join(", ").as_bytes(), 200);
            DeviceError::Refused(format!("the system offers no {wanted}, only: {offered}"))
        })
    }

    fn is_reached(self, state: State) -> bool {
        match self {
            Self::Off => state == State::Off,
            Self::On => matches!(state, State::On | State::PoweringOn),
        }
    }
}

//! What a guard is told beside the options of every node, from the settings file.

use std::path::PathBuf;
use std::time::Duration;

use protocol::times;

/// What a guard guards with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuardOptions {
    /// The watchdog; none to observe only.
    pub watchdog: Option<PathBuf>,
    /// W: whole seconds, 5 to 60.
    pub watchdog_timeout: Duration,
    /// R: what the other nodes wait before they take over (Pacemaker: stonith-watchdog-timeout).
    pub peers_wait: Option<Duration>,
    /// The socket of haguard's quorum device; `qdevice.sock` in the run directory, if none.
    pub qdevice_socket: Option<PathBuf>,
}

/// The keys of the settings file, as they are written there.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Given {
    /// `watchdog`.
    pub watchdog: Option<String>,
    /// `watchdog-timeout`.
    pub watchdog_timeout: Option<String>,
    /// `peers-wait`.
    pub peers_wait: Option<String>,
    /// `qdevice-socket`.
    pub qdevice_socket: Option<PathBuf>,
}

impl Given {
    /// Reads them.
    ///
    /// # Errors
    /// One line: which key, what is wrong, and what it takes.
    pub fn read(self) -> Result<GuardOptions, String> {
        let watchdog = match self.watchdog.as_deref() {
            Some("observe") => None,
            Some(path) if path.starts_with('/') => Some(PathBuf::from(path)),
            Some("process") => {
                return Err("watchdog \"process\" guards nothing beside corosync, whose services \
                            are no children of ours: name a device, or \"observe\" to guard \
                            nothing on purpose"
                    .to_owned());
            }
            Some(other) => {
                return Err(format!(
                    "watchdog {other:?} is refused: give the absolute path of a device, or \
                     \"observe\" to guard nothing on purpose"
                ));
            }
            None => {
                return Err("engine \"corosync\" needs a watchdog: give the absolute path of a \
                            device, or \"observe\" to guard nothing on purpose"
                    .to_owned());
            }
        };
        let timeout = duration("watchdog-timeout", self.watchdog_timeout.as_deref())?;
        let watchdog_timeout = timeout.unwrap_or(times::WATCHDOG);
        let whole = watchdog_timeout.subsec_nanos() == 0;
        if !whole || !(times::WATCHDOG..=Duration::from_secs(60)).contains(&watchdog_timeout) {
            return Err("watchdog-timeout takes whole seconds from \"5s\" to \"60s\"".to_owned());
        }
        Ok(GuardOptions {
            watchdog,
            watchdog_timeout,
            peers_wait: duration("peers-wait", self.peers_wait.as_deref())?,
            qdevice_socket: self.qdevice_socket,
        })
    }

    /// The first key that only a guard has, if one is given.
    pub fn first(&self) -> Option<&'static str> {
        [
            ("watchdog", self.watchdog.is_some()),
            ("watchdog-timeout", self.watchdog_timeout.is_some()),
            ("peers-wait", self.peers_wait.is_some()),
            ("qdevice-socket", self.qdevice_socket.is_some()),
        ]
        .into_iter()
        .find_map(|(key, given)| given.then_some(key))
    }
}

fn duration(key: &str, text: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    let (number, scale) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => ("", 0),
    };
    let millis = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    millis.map(Duration::from_millis).map(Some).ok_or_else(|| {
        format!(
            "{key} {text:?} is refused: give a whole number with a unit, as \"5s\" or \"500ms\""
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(watchdog: &str, timeout: Option<&str>) -> Result<GuardOptions, String> {
        let given = Given {
            watchdog: Some(watchdog.to_owned()),
            watchdog_timeout: timeout.map(str::to_owned),
            ..Given::default()
        };
        given.read()
    }

    #[test]
    fn a_watchdog_is_a_device_or_openly_none() {
        assert_eq!(read("/dev/watchdog1", None).unwrap().watchdog, Some("/dev/watchdog1".into()));
        assert_eq!(read("observe", None).unwrap().watchdog, None);
        assert!(read("process", None).unwrap_err().contains("guards nothing"));
        assert!(read("off", None).unwrap_err().contains("\"off\" is refused"));
        assert!(Given::default().read().unwrap_err().contains("needs a watchdog"));
    }

    #[test]
    fn durations_have_units() {
        let timeout = |text| read("observe", Some(text)).map(|it| it.watchdog_timeout);
        assert_eq!(timeout("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(timeout("10000ms"), Ok(Duration::from_secs(10)));
        for bad in ["5", "4s", "61s", "5500ms", "-5s", "s", "", "18446744073709551615s"] {
            assert!(timeout(bad).unwrap_err().starts_with("watchdog-timeout"), "{bad}");
        }
    }

    #[test]
    fn a_key_that_only_a_guard_has_is_named() {
        assert_eq!(Given::default().first(), None);
        let given = Given { peers_wait: Some("9s".to_owned()), ..Given::default() };
        assert_eq!(given.first(), Some("peers-wait"));
    }
}

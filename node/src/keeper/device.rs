//! Watchdogs: a device of the kernel, or none, in which case the keeper process is all there is.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use protocol::vote::WatchdogClass;

use super::ioctl;

/// What can go wrong with a watchdog.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// There is none.
    #[error("{}: no such watchdog; load its driver (modprobe softdog is the last resort) or name another one", .0.display())]
    Missing(PathBuf),
    /// A device has one user.
    #[error(
        "{}: the watchdog is in use; Proxmox VE's watchdog-mux, sbd or systemd's RuntimeWatchdogSec may own it: stop that one or name another device", .0.display()
    )]
    Busy(PathBuf),
    /// Not openable.
    #[error("{}: cannot open the watchdog: {error}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It does not answer like one.
    #[error("{}: not a watchdog: {error}", path.display())]
    NotAWatchdog {
        /// The file.
        path: PathBuf,
        /// The answer.
        error: io::Error,
    },
    /// The machine would be reset at another time than the other nodes are told.
    #[error("{}: the watchdog took {} s for a timeout of {wanted} s; set the timeout to one that it takes", path.display(), .got.map_or("nothing".to_owned(), |got| got.to_string()))]
    Timeout {
        /// The device.
        path: PathBuf,
        /// What was asked for, in seconds.
        wanted: u64,
        /// What was read back, in seconds.
        got: Option<u64>,
    },
    /// The kernel was told not to.
    #[error("{}: the watchdog does not stop any more (nowayout); the keeper goes on petting it", .0.display())]
    NoWayOut(PathBuf),
    /// It goes on counting.
    #[error("{}: the watchdog does not stop: {error}", path.display())]
    Disarm {
        /// The device.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// A watchdog that counts.
pub trait Device {
    /// Its path; none for the keeper process alone.
    fn path(&self) -> Option<&Path>;
    /// What it calls itself (WDIOC_GETSUPPORT).
    fn identity(&self) -> &str;
    /// What it proves (safety 23), if nothing else is configured.
    fn class(&self) -> WatchdogClass;
    /// W, as read back.
    fn timeout(&self) -> Duration;
    /// How long before the reset it warns; none where it does not.
    fn pretimeout(&self) -> Option<Duration>;
    /// How long until the reset, where the device knows.
    fn time_left(&self) -> Option<Duration>;
    /// The last boot was a reset by this watchdog.
    fn reset_last_boot(&self) -> bool;
    /// Restarts its count.
    ///
    /// # Errors
    /// Those of write(2); the machine is reset W after the last pet.
    fn pet(&mut self) -> io::Result<()>;
    /// Stops it. To be dropped afterwards, and only then: dropping it while it counts leaves it
    /// counting.
    ///
    /// # Errors
    /// [`DeviceError::NoWayOut`] and [`DeviceError::Disarm`]: it still counts and has to be kept
    /// and petted.
    fn disarm(&mut self) -> Result<(), DeviceError>;
}

/// Opens and starts the watchdog at `path`, or the one that is none.
///
/// # Errors
/// Every [`DeviceError`]; the device has been stopped again, where it lets itself be stopped.
pub fn open(path: Option<&Path>, timeout: Duration) -> Result<Box<dyn Device>, DeviceError> {
    Ok(match path {
        Some(path) => Box::new(KernelDevice::open(path, timeout)?),
        None => Box::new(NoDevice { timeout }),
    })
}

/// The watchdog of a node without a device: nothing counts but the keeper's own deadline.
#[derive(Clone, Copy, Debug)]
pub struct NoDevice {
    timeout: Duration,
}

impl Device for NoDevice {
    fn path(&self) -> Option<&Path> {
        None
    }

    fn identity(&self) -> &'static str {
        "keeper process"
    }

    fn class(&self) -> WatchdogClass {
        WatchdogClass::C
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn pretimeout(&self) -> Option<Duration> {
        None
    }

    fn time_left(&self) -> Option<Duration> {
        None
    }

    fn reset_last_boot(&self) -> bool {
        false
    }

    fn pet(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn disarm(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// A `/dev/watchdogN`. It counts from opening on, and goes on counting if it is dropped without
/// [`Device::disarm`]: a keeper that crashes is a machine that resets.
#[derive(Debug)]
pub struct KernelDevice {
    path: PathBuf,
    file: File,
    identity: String,
    timeout: Duration,
    pretimeout: Option<Duration>,
    nowayout: bool,
    virtual_machine: bool,
}

impl KernelDevice {
    /// Opens the device, sets its timeout in whole seconds, and reads it back.
    ///
    /// # Errors
    /// See [`open`].
    pub fn open(path: &Path, timeout: Duration) -> Result<Self, DeviceError> {
        let file = File::options().write(true).open(path).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
                    DeviceError::Missing(path.to_owned())
                }
                Some(Errno::EBUSY) => DeviceError::Busy(path.to_owned()),
                Some(_) | None => DeviceError::Open { path: path.to_owned(), error },
            }
        })?;
        let (options, identity) = ioctl::support(file.as_fd())
            .map_err(|error| DeviceError::NotAWatchdog { path: path.to_owned(), error })?;
        let mut device = Self {
            nowayout: nowayout(path, options),
            virtual_machine: virtual_machine(),
            path: path.to_owned(),
            file,
            identity,
            timeout,
            pretimeout: None,
        };
        if let Err(error) = device.set_times(options) {
            // It has been counting since it was opened: whoever asked for the wrong timeout
            // shall not lose the machine for it.
            return match device.disarm() {
                Ok(()) => Err(error),
                Err(_) if device.nowayout => Err(error),
                Err(worse) => Err(worse),
            };
        }
        Ok(device)
    }

    fn set_times(&mut self, options: u32) -> Result<(), DeviceError> {
        let wanted = self.timeout.as_secs();
        let mismatch = |got| DeviceError::Timeout { path: self.path.clone(), wanted, got };
        let seconds = i32::try_from(wanted).map_err(|_| mismatch(None))?;
        // The bits are a hint: ipmi_watchdog says it has no options, and takes everything. What
        // is read back decides.
        let set = ioctl::set_timeout(self.file.as_fd(), seconds);
        let got = ioctl::timeout(self.file.as_fd()).ok().and_then(|got| u64::try_from(got).ok());
        if got != Some(wanted) || (set.is_err() && options & ioctl::SETTIMEOUT != 0) {
            return Err(mismatch(got));
        }
        // A warning that panics the kernel would end the machine earlier than announced, which
        // is harmless, or hang it in a crash dump, which is not: there shall be none.
        if ioctl::pretimeout(self.file.as_fd()).is_ok_and(|before| before != 0) {
            let cleared = ioctl::set_pretimeout(self.file.as_fd(), 0);
            if cleared.is_err() && options & ioctl::PRETIMEOUT != 0 {
                return Err(mismatch(got));
            }
        }
        let before = ioctl::pretimeout(self.file.as_fd()).ok().filter(|before| *before > 0);
        self.pretimeout =
            before.and_then(|before| u64::try_from(before).ok()).map(Duration::from_secs);
        Ok(())
    }
}

impl Device for KernelDevice {
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn identity(&self) -> &str {
        &self.identity
    }

    fn class(&self) -> WatchdogClass {
        class_of(&self.identity, self.virtual_machine)
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn pretimeout(&self) -> Option<Duration> {
        self.pretimeout
    }

    fn time_left(&self) -> Option<Duration> {
        let seconds = ioctl::time_left(self.file.as_fd()).ok()?;
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }

    fn reset_last_boot(&self) -> bool {
        ioctl::boot_status(self.file.as_fd()).is_ok_and(|status| status & ioctl::CARDRESET != 0)
    }

    fn pet(&mut self) -> io::Result<()> {
        // Any byte pets; one that is not `V` also takes back a magic close.
        self.file.write_all(b"\0")
    }

    fn disarm(&mut self) -> Result<(), DeviceError> {
        if self.nowayout {
            return Err(DeviceError::NoWayOut(self.path.clone()));
        }
        // Some drivers stop at once, some only at the close after a `V`; the latter is what
        // counts, so the answer of the former is not looked at.
        let _ = ioctl::disable(self.file.as_fd());
        self.file
            .write_all(b"V")
            .map_err(|error| DeviceError::Disarm { path: self.path.clone(), error })
    }
}

/// What a device of this identity proves. Devices that nobody has looked at are no class A.
pub fn class_of(identity: &str, virtual_machine: bool) -> WatchdogClass {
    const HARDWARE: [&str; 14] = [
        "itco_wdt",
        "ipmi",
        "hpe ilo",
        "hp ilo",
        "hpwdt",
        "sp5100",
        "w83627",
        "f71808",
        "it87",
        "nct6",
        "dell",
        "wdat_wdt",
        "mei_wdt",
        "intel_oc_wdt",
    ];
    let identity = identity.to_ascii_lowercase();
    let hardware = HARDWARE.iter().any(|known| identity.starts_with(known));
    // The devices of a virtual machine stop when it is paused, whatever they imitate (safety 13).
    if hardware && !virtual_machine { WatchdogClass::A } else { WatchdogClass::B }
}

/// A kernel with CONFIG_WATCHDOG_NOWAYOUT, or a driver with that parameter, ignores the `V`.
fn nowayout(path: &Path, options: u32) -> bool {
    let name = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(name) = name.file_name().and_then(|name| name.to_str()) else { return false };
    // /dev/watchdog is another name of the first device.
    let name = if name == "watchdog" { "watchdog0" } else { name };
    match fs::read_to_string(format!("/sys/class/watchdog/{name}/nowayout")) {
        Ok(text) => text.trim() == "1",
        // Drivers outside the class (ipmi_watchdog) have options 0, and stop all the same.
        Err(_) => options != 0 && options & ioctl::MAGICCLOSE == 0,
    }
}

/// The processor says that it is not a real one, or the firmware names a known hypervisor.
fn virtual_machine() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let hypervisor = flags
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"));
    let vendor = fs::read_to_string("/sys/class/dmi/id/sys_vendor").unwrap_or_default();
    let product = fs::read_to_string("/sys/class/dmi/id/product_name").unwrap_or_default();
    let known = ["QEMU", "VMware", "Xen", "innotek", "KVM", "Virtual Machine", "Bochs"];
    hypervisor || known.iter().any(|name| vendor.contains(name) || product.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_hardware_outside_a_virtual_machine_is_class_a() {
        assert_eq!(class_of("iTCO_wdt", false), WatchdogClass::A);
        assert_eq!(class_of("IPMI", false), WatchdogClass::A);
        assert_eq!(class_of("HPE iLO2+ HW Watchdog Timer", false), WatchdogClass::A);
        assert_eq!(class_of("iTCO_wdt", true), WatchdogClass::B);
        assert_eq!(class_of("i6300ESB timer", false), WatchdogClass::B);
        assert_eq!(class_of("Software Watchdog", false), WatchdogClass::B);
        assert_eq!(class_of("Virtual Watchdog", false), WatchdogClass::B);
        assert_eq!(class_of("something new", false), WatchdogClass::B);
        assert_eq!(class_of("", false), WatchdogClass::B);
    }

    #[test]
    fn what_is_missing_or_no_watchdog_is_named() {
        let timeout = Duration::from_secs(5);
        let missing = KernelDevice::open(Path::new("/nonexistent/watchdog7"), timeout).unwrap_err();
        assert!(matches!(missing, DeviceError::Missing(_)));
        assert!(missing.to_string().starts_with("/nonexistent/watchdog7: no such watchdog"));
        let other = KernelDevice::open(Path::new("/dev/null"), timeout).unwrap_err();
        assert!(matches!(other, DeviceError::NotAWatchdog { .. }));
    }

    #[test]
    fn a_busy_device_names_its_usual_owners() {
        let busy = DeviceError::Busy(PathBuf::from("/dev/watchdog0")).to_string();
        assert!(busy.contains("watchdog-mux") && busy.contains("sbd"));
    }
}

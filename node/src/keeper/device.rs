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

/// What the driver behind an open `/dev/watchdogN` can be asked (linux/watchdog.h). The kernel's
/// is the file; tests have one that counts.
pub trait Driver {
    /// WDIOC_GETSUPPORT: option bits and identity.
    ///
    /// # Errors
    /// Those of ioctl(2), as for all of these.
    fn support(&self) -> io::Result<(u32, String)>;
    /// WDIOC_SETTIMEOUT, in seconds.
    ///
    /// # Errors
    /// As above.
    fn set_timeout(&self, seconds: i32) -> io::Result<()>;
    /// WDIOC_GETTIMEOUT, in seconds.
    ///
    /// # Errors
    /// As above.
    fn timeout(&self) -> io::Result<i32>;
    /// WDIOC_SETPRETIMEOUT, in seconds before the reset.
    ///
    /// # Errors
    /// As above.
    fn set_pretimeout(&self, seconds: i32) -> io::Result<()>;
    /// WDIOC_GETPRETIMEOUT, in seconds before the reset.
    ///
    /// # Errors
    /// As above.
    fn pretimeout(&self) -> io::Result<i32>;
    /// WDIOC_GETTIMELEFT, in seconds.
    ///
    /// # Errors
    /// As above.
    fn time_left(&self) -> io::Result<i32>;
    /// WDIOC_GETBOOTSTATUS.
    ///
    /// # Errors
    /// As above.
    fn boot_status(&self) -> io::Result<u32>;
    /// WDIOC_SETOPTIONS with WDIOS_DISABLECARD.
    ///
    /// # Errors
    /// As above.
    fn disable(&self) -> io::Result<()>;
    /// write(2): any byte pets, `V` announces a close that stops it.
    ///
    /// # Errors
    /// Those of write(2).
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Driver for File {
    fn support(&self) -> io::Result<(u32, String)> {
        ioctl::support(self.as_fd())
    }

    fn set_timeout(&self, seconds: i32) -> io::Result<()> {
        ioctl::set_timeout(self.as_fd(), seconds)
    }

    fn timeout(&self) -> io::Result<i32> {
        ioctl::timeout(self.as_fd())
    }

    fn set_pretimeout(&self, seconds: i32) -> io::Result<()> {
        ioctl::set_pretimeout(self.as_fd(), seconds)
    }

    fn pretimeout(&self) -> io::Result<i32> {
        ioctl::pretimeout(self.as_fd())
    }

    fn time_left(&self) -> io::Result<i32> {
        ioctl::time_left(self.as_fd())
    }

    fn boot_status(&self) -> io::Result<u32> {
        ioctl::boot_status(self.as_fd())
    }

    fn disable(&self) -> io::Result<()> {
        ioctl::disable(self.as_fd())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }
}

/// What the kernel's driver of IPMI's watchdog calls itself.
const IPMI: &str = "IPMI";
/// What that driver sets the watchdog to when the kernel panics, in seconds: 255 by itself.
const IPMI_PANIC: &str = "/sys/module/ipmi_watchdog/parameters/panic_wdt_timeout";

/// A `/dev/watchdogN`. It counts from opening on, and goes on counting if it is dropped without
/// [`Device::disarm`]: a keeper that crashes is a machine that resets.
#[derive(Debug)]
pub struct KernelDevice<D = File> {
    path: PathBuf,
    driver: D,
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
        let device = Self::start(path, file, timeout, virtual_machine())?;
        if device.identity == IPMI {
            // Where it cannot be set, a kernel that has panicked is reset later; but it runs no
            // service meanwhile, so nothing that was announced becomes wrong.
            let _ = fs::write(IPMI_PANIC, timeout.as_secs().to_string());
        }
        Ok(device)
    }
}

impl<D: Driver> KernelDevice<D> {
    /// Starts a device that has just been opened.
    fn start(
        path: &Path,
        driver: D,
        timeout: Duration,
        virtual_machine: bool,
    ) -> Result<Self, DeviceError> {
        let (options, identity) = driver
            .support()
            .map_err(|error| DeviceError::NotAWatchdog { path: path.to_owned(), error })?;
        let mut device = Self {
            nowayout: nowayout(path, options),
            virtual_machine,
            path: path.to_owned(),
            driver,
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
        let set = self.driver.set_timeout(seconds);
        let got = self.driver.timeout().ok().and_then(|got| u64::try_from(got).ok());
        if got != Some(wanted) || (set.is_err() && options & ioctl::SETTIMEOUT != 0) {
            return Err(mismatch(got));
        }
        // A warning that panics the kernel would end the machine earlier than announced, which
        // is harmless, or hang it in a crash dump, which is not: there shall be none.
        if self.driver.pretimeout().is_ok_and(|before| before != 0) {
            let cleared = self.driver.set_pretimeout(0);
            if cleared.is_err() && options & ioctl::PRETIMEOUT != 0 {
                return Err(mismatch(got));
            }
        }
        let before = self.driver.pretimeout().ok().filter(|before| *before > 0);
        self.pretimeout =
            before.and_then(|before| u64::try_from(before).ok()).map(Duration::from_secs);
        Ok(())
    }
}

impl<D: Driver> Device for KernelDevice<D> {
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
        let seconds = self.driver.time_left().ok()?;
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }

    fn reset_last_boot(&self) -> bool {
        self.driver.boot_status().is_ok_and(|status| status & ioctl::CARDRESET != 0)
    }

    fn pet(&mut self) -> io::Result<()> {
        // Any byte pets; one that is not `V` also takes back a magic close.
        self.driver.write(b"\0")
    }

    fn disarm(&mut self) -> Result<(), DeviceError> {
        if self.nowayout {
            return Err(DeviceError::NoWayOut(self.path.clone()));
        }
        // Some drivers stop at once, some only at the close after a `V`; the latter is what
        // counts, so the answer of the former is not looked at.
        let _ = self.driver.disable();
        self.driver
            .write(b"V")
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
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    /// What a watchdog is, to whoever looks at it from outside: whether it counts, and how it was
    /// treated.
    #[derive(Debug, Default)]
    struct Machine {
        counts: bool,
        timeout: i32,
        range: (i32, i32),
        pretimeout: i32,
        pets: u32,
        magic: bool,
        nowayout: bool,
        broken: bool,
    }

    /// The driver of such a machine; it is closed by being dropped, as a file is.
    #[derive(Debug)]
    struct FakeDriver(Rc<RefCell<Machine>>);

    impl Driver for FakeDriver {
        fn support(&self) -> io::Result<(u32, String)> {
            let magic = if self.0.borrow().nowayout { 0 } else { ioctl::MAGICCLOSE };
            Ok((ioctl::SETTIMEOUT | ioctl::PRETIMEOUT | magic, "fake".to_owned()))
        }

        fn set_timeout(&self, seconds: i32) -> io::Result<()> {
            let mut machine = self.0.borrow_mut();
            machine.timeout = seconds.clamp(machine.range.0, machine.range.1);
            Ok(())
        }

        fn timeout(&self) -> io::Result<i32> {
            Ok(self.0.borrow().timeout)
        }

        fn set_pretimeout(&self, seconds: i32) -> io::Result<()> {
            self.0.borrow_mut().pretimeout = seconds;
            Ok(())
        }

        fn pretimeout(&self) -> io::Result<i32> {
            Ok(self.0.borrow().pretimeout)
        }

        fn time_left(&self) -> io::Result<i32> {
            Ok(self.0.borrow().timeout)
        }

        fn boot_status(&self) -> io::Result<u32> {
            Ok(ioctl::CARDRESET)
        }

        fn disable(&self) -> io::Result<()> {
            Err(Errno::EOPNOTSUPP.into())
        }

        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            let mut machine = self.0.borrow_mut();
            if machine.broken {
                return Err(Errno::EIO.into());
            }
            machine.pets += 1;
            machine.magic = bytes.contains(&b'V');
            Ok(())
        }
    }

    impl Drop for FakeDriver {
        fn drop(&mut self) {
            let mut machine = self.0.borrow_mut();
            if machine.magic && !machine.nowayout {
                machine.counts = false;
            }
        }
    }

    fn machine() -> Rc<RefCell<Machine>> {
        let machine = Machine { counts: true, range: (1, 60), pretimeout: 2, ..Machine::default() };
        Rc::new(RefCell::new(machine))
    }

    fn start(machine: &Rc<RefCell<Machine>>) -> Result<KernelDevice<FakeDriver>, DeviceError> {
        let driver = FakeDriver(machine.clone());
        KernelDevice::start(Path::new("/dev/fake"), driver, Duration::from_secs(5), false)
    }

    #[test]
    fn the_timeout_is_set_and_read_back_and_a_warning_is_switched_off() {
        let machine = machine();
        let device = start(&machine).unwrap();
        assert_eq!(machine.borrow().timeout, 5);
        assert_eq!((device.timeout(), device.pretimeout()), (Duration::from_secs(5), None));
        assert_eq!(machine.borrow().pretimeout, 0);
        assert!(device.reset_last_boot());
        assert_eq!(device.time_left(), Some(Duration::from_secs(5)));
    }

    #[test]
    fn a_timeout_that_the_device_does_not_take_is_refused_and_the_device_stopped_again() {
        let machine = machine();
        machine.borrow_mut().range = (10, 60);
        let error = start(&machine).unwrap_err().to_string();
        assert!(error.contains("took 10 s for a timeout of 5 s"), "{error}");
        assert!(!machine.borrow().counts);
    }

    #[test]
    fn a_device_that_is_dropped_by_accident_goes_on_counting() {
        let machine = machine();
        let mut device = start(&machine).unwrap();
        device.pet().unwrap();
        drop(device);
        assert!(machine.borrow().counts);
    }

    #[test]
    fn a_disarmed_device_stops_when_it_is_closed_and_a_pet_takes_that_back() {
        let machine = machine();
        let mut device = start(&machine).unwrap();
        device.disarm().unwrap();
        assert!(machine.borrow().counts, "it is still open");
        device.pet().unwrap();
        drop(device);
        assert!(machine.borrow().counts, "it was petted after the V");

        let mut device = start(&machine).unwrap();
        device.disarm().unwrap();
        drop(device);
        assert!(!machine.borrow().counts);
    }

    #[test]
    fn a_device_without_a_way_out_is_kept_and_says_so() {
        let machine = machine();
        machine.borrow_mut().nowayout = true;
        let mut device = start(&machine).unwrap();
        assert!(matches!(device.disarm(), Err(DeviceError::NoWayOut(_))));
        assert!(machine.borrow().counts);
    }

    #[test]
    fn a_pet_that_fails_is_an_error_and_not_a_pet() {
        let machine = machine();
        let mut device = start(&machine).unwrap();
        machine.borrow_mut().broken = true;
        assert!(device.pet().is_err());
        assert!(matches!(device.disarm(), Err(DeviceError::Disarm { .. })));
        assert_eq!(machine.borrow().pets, 0);
    }

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

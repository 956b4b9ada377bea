//! The system calls that have no safe wrapper: the watchdog's ioctls (linux/watchdog.h), pidfds
//! and real-time scheduling. The only unsafe code of the keeper.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each block says why it holds"
)]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;

/// WDIOF_SETTIMEOUT: the timeout can be set.
pub(super) const SETTIMEOUT: u32 = 0x0080;
/// WDIOF_MAGICCLOSE: closing stops the device only after a `V`.
pub(super) const MAGICCLOSE: u32 = 0x0100;
/// WDIOF_PRETIMEOUT: it warns before it resets.
pub(super) const PRETIMEOUT: u32 = 0x0200;
/// WDIOF_CARDRESET, in the boot status: the last boot was a reset by the watchdog.
pub(super) const CARDRESET: u32 = 0x0020;
/// WDIOS_DISABLECARD: stop counting.
const DISABLECARD: c_int = 0x0001;

/// `struct watchdog_info` of linux/watchdog.h, 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct WatchdogInfo {
    options: u32,
    firmware_version: u32,
    identity: [u8; 32],
}

mod raw {
    use std::ffi::c_int;

    use super::WatchdogInfo;

    nix::ioctl_read!(get_support, b'W', 0, WatchdogInfo);
    nix::ioctl_read!(get_boot_status, b'W', 2, c_int);
    nix::ioctl_read!(set_options, b'W', 4, c_int);
    nix::ioctl_readwrite!(set_timeout, b'W', 6, c_int);
    nix::ioctl_read!(get_timeout, b'W', 7, c_int);
    nix::ioctl_readwrite!(set_pretimeout, b'W', 8, c_int);
    nix::ioctl_read!(get_pretimeout, b'W', 9, c_int);
    nix::ioctl_read!(get_time_left, b'W', 10, c_int);
}

/// WDIOC_GETSUPPORT: the option bits and the identity of the device.
pub(super) fn support(device: BorrowedFd<'_>) -> io::Result<(u32, String)> {
    let mut info = WatchdogInfo::default();
    // SAFETY: the descriptor is open for the call, and the kernel writes at most the 40 bytes
    // that the request number names, which is the size of the structure.
    unsafe { raw::get_support(device.as_raw_fd(), &raw mut info) }?;
    let length = info.identity.iter().position(|byte| *byte == 0).unwrap_or(info.identity.len());
    let printable = |byte: &u8| if byte.is_ascii_graphic() { char::from(*byte) } else { ' ' };
    Ok((info.options, info.identity[..length].iter().map(printable).collect()))
}

/// WDIOC_GETBOOTSTATUS: why the machine booted last.
pub(super) fn boot_status(device: BorrowedFd<'_>) -> io::Result<u32> {
    let mut value = 0;
    // SAFETY: the descriptor is open for the call; the kernel writes one int.
    unsafe { raw::get_boot_status(device.as_raw_fd(), &raw mut value) }?;
    Ok(value.cast_unsigned())
}

/// WDIOC_SETTIMEOUT in seconds; the kernel pets the device as it takes it.
pub(super) fn set_timeout(device: BorrowedFd<'_>, seconds: c_int) -> io::Result<()> {
    let mut value = seconds;
    // SAFETY: the descriptor is open for the call; the kernel reads and writes one int.
    unsafe { raw::set_timeout(device.as_raw_fd(), &raw mut value) }?;
    Ok(())
}

/// WDIOC_GETTIMEOUT in seconds.
pub(super) fn timeout(device: BorrowedFd<'_>) -> io::Result<c_int> {
    let mut value = 0;
    // SAFETY: the descriptor is open for the call; the kernel writes one int.
    unsafe { raw::get_timeout(device.as_raw_fd(), &raw mut value) }?;
    Ok(value)
}

/// WDIOC_SETPRETIMEOUT in seconds before the reset; 0 is none.
pub(super) fn set_pretimeout(device: BorrowedFd<'_>, seconds: c_int) -> io::Result<()> {
    let mut value = seconds;
    // SAFETY: the descriptor is open for the call; the kernel reads and writes one int.
    unsafe { raw::set_pretimeout(device.as_raw_fd(), &raw mut value) }?;
    Ok(())
}

/// WDIOC_GETPRETIMEOUT in seconds before the reset.
pub(super) fn pretimeout(device: BorrowedFd<'_>) -> io::Result<c_int> {
    let mut value = 0;
    // SAFETY: the descriptor is open for the call; the kernel writes one int.
    unsafe { raw::get_pretimeout(device.as_raw_fd(), &raw mut value) }?;
    Ok(value)
}

/// WDIOC_GETTIMELEFT in seconds; few devices know.
pub(super) fn time_left(device: BorrowedFd<'_>) -> io::Result<c_int> {
    let mut value = 0;
    // SAFETY: the descriptor is open for the call; the kernel writes one int.
    unsafe { raw::get_time_left(device.as_raw_fd(), &raw mut value) }?;
    Ok(value)
}

/// WDIOC_SETOPTIONS with WDIOS_DISABLECARD.
pub(super) fn disable(device: BorrowedFd<'_>) -> io::Result<()> {
    let mut value = DISABLECARD;
    // SAFETY: the descriptor is open for the call; the kernel reads one int, whatever the
    // direction in the request number says.
    unsafe { raw::set_options(device.as_raw_fd(), &raw mut value) }?;
    Ok(())
}

/// pidfd_open(2): a handle that never means another process than the one of now.
pub(super) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0_i64) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor, close-on-exec, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pidfd_send_signal(2).
pub(super) fn pidfd_send_signal(pidfd: BorrowedFd<'_>, signal: c_int) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    let fd = libc::c_long::from(pidfd.as_raw_fd());
    // SAFETY: the descriptor is open for the call; a null pointer asks the kernel to fill in the
    // information about the sender itself.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, libc::c_long::from(signal), no_info, 0_i64)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// sched_setscheduler(2): the calling thread runs before all ordinary ones; what it forks does
/// not (SCHED_RESET_ON_FORK).
pub(crate) fn real_time(priority: c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the kernel reads one sched_param, which lives until the call returns.
    let set = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if set < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

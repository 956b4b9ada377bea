//! corosync's libraries, opened while we run: libvotequorum (votequorum_overview(3)) and libcmap
//! (cmap_overview(3)). Without corosync on the machine nothing of this is needed. Its calls block,
//! so who uses them has a thread for each connection.
//!
//! libquorum is not used: votequorum sends its quorum notification in the same step in which it
//! tells libquorum's clients, and unlike libquorum it answers while a membership change is held.
#![expect(unsafe_code, reason = "calls into C libraries; each block says why it holds")]

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::null_mut;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libloading::Library;
use protocol::ids::{NodeId, RingId};
use protocol::time::HostInstant;
use thiserror::Error;

/// A library and its packages.
type Source = (&'static str, &'static str);

const VOTEQUORUM: Source = ("libvotequorum.so.8", "libvotequorum8");
const CMAP: Source = ("libcmap.so.4", "libcmap4");

/// CS_OK of corotypes.h.
const OK: c_int = 1;
/// CS_ERR_TRY_AGAIN: corosync is busy.
pub const TRY_AGAIN: c_int = 6;
/// CS_ERR_ACCESS: the configuration forbids a quorum device.
pub const ACCESS: c_int = 11;
/// CS_ERR_EXIST: a device of another name is registered.
pub const EXIST: c_int = 14;
/// CS_ERR_MESSAGE_ERROR: a poll for another ring than the present one.
pub const MESSAGE_ERROR: c_int = 22;
/// CS_ERR_NO_SECTIONS: the end of an iteration over cmap's keys.
const NO_SECTIONS: c_int = 27;

/// CS_TRACK_CHANGES: the present state, and each change.
const TRACK_CHANGES: c_uint = 2;
/// CS_DISPATCH_ALL: everything that waits, without waiting.
const DISPATCH_ALL: c_uint = 2;
/// CMAP_TRACK_ADD, _DELETE, _MODIFY and _PREFIX.
const TRACK_PREFIX: c_int = 4 | 1 | 2 | 8;

/// More nodes than any corosync is built for (PROCESSOR_COUNT_MAX is 384).
const NODES_MAX: u32 = 4096;
/// CMAP_KEYNAME_MAXLEN with its end.
const KEY_BYTES: usize = 256;
/// A longer value is left out; no key that we know is a hundredth as long.
const VALUE_BYTES_MAX: usize = 65536;

/// A reload is under way; what it changes is looked at when it is done (cmap_keys(7)).
pub const RELOADS: &CStr = c"config.";
const RELOADING: [&str; 2] = ["config.reload_in_progress", "config.totemconfig_reload_in_progress"];

/// Why corosync's libraries cannot be used.
#[derive(Debug, Error)]
pub enum Missing {
    /// The library, or something that it needs.
    #[error(
        "{library} cannot be opened ({error}): install corosync's libraries (Debian: {package}, \
         others: corosynclib)"
    )]
    Library {
        /// Its soname.
        library: &'static str,
        /// Debian's package.
        package: &'static str,
        /// What dlopen(3) says.
        error: libloading::Error,
    },
    /// One of its functions.
    #[error(
        "{library} has no {symbol}: it is of another version than corosync 3; install the one of \
         the package {package} (others: corosynclib)"
    )]
    Symbol {
        /// The soname of the library that was found.
        library: &'static str,
        /// Debian's package of the right one.
        package: &'static str,
        /// The function.
        symbol: &'static str,
    },
}

/// A call that corosync has refused: which, and its error of corotypes.h.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub struct Failure {
    call: &'static str,
    /// The error of corotypes.h.
    pub code: c_int,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.code {
            2 => "corosync does not answer",
            TRY_AGAIN => "corosync is busy",
            7 => "invalid parameter",
            ACCESS => "not allowed",
            12 => "no such thing",
            EXIST => "there is one already",
            MESSAGE_ERROR => "not for the present ring",
            100 => "no permission",
            _ => "see corotypes.h",
        };
        write!(f, "{} failed: {why} (error {})", self.call, self.code)
    }
}

fn checked(call: &'static str, code: c_int) -> Result<(), Failure> {
    if code == OK { Ok(()) } else { Err(Failure { call, code }) }
}

/// `votequorum_ring_id_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RawRing {
    node: u32,
    seq: u64,
}

/// `votequorum_node_t`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct RawNode {
    id: u32,
    state: u32,
}

/// `struct votequorum_info`.
#[repr(C)]
struct RawInfo {
    node: c_uint,
    state: c_uint,
    votes: c_uint,
    node_expected: c_uint,
    highest_expected: c_uint,
    total: c_uint,
    quorum: c_uint,
    flags: c_uint,
    device_votes: c_uint,
    device_name: [c_char; 255],
}

/// `votequorum_callbacks_t`.
#[repr(C)]
struct Callbacks {
    quorum: extern "C" fn(u64, u64, u32, u32, *const RawNode),
    /// NULL: not called.
    expected_votes: *const c_void,
    nodelist: extern "C" fn(u64, u64, RawRing, u32, *const u32),
}

/// `struct cmap_notify_value`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawValue {
    kind: c_int,
    length: usize,
    data: *const c_void,
}

/// `cmap_notify_fn_t`.
type OnChange = extern "C" fn(u64, u64, i32, *const c_char, RawValue, RawValue, *mut c_void);

/// The functions of one library, with the library that must stay open for them.
macro_rules! calls {
    ($name:ident { $($call:ident($($argument:ty),*);)* }) => {
        #[derive(Debug)]
        struct $name {
            $($call: unsafe extern "C" fn($($argument),*) -> c_int,)*
            _library: Library,
        }

        impl $name {
            fn open((library, package): Source) -> Result<Self, Missing> {
                // SAFETY: opening runs the initialisers of corosync's own library, which prepare
                // its logging and nothing that we share.
                let opened = unsafe { Library::new(library) };
                let opened =
                    opened.map_err(|error| Missing::Library { library, package, error })?;
                $(
                    let symbol = stringify!($call);
                    // SAFETY: the type is the function's declaration in corosync's headers; the
                    // library's soname stands for it. The library is kept as long as the pointer.
                    let $call = *unsafe {
                        opened.get::<unsafe extern "C" fn($($argument),*) -> c_int>(symbol)
                    }
                    .map_err(|_| Missing::Symbol { library, package, symbol })?;
                )*
                Ok(Self { $($call,)* _library: opened })
            }
        }
    };
}

calls!(VotequorumCalls {
    votequorum_initialize(*mut u64, *const Callbacks);
    votequorum_finalize(u64);
    votequorum_fd_get(u64, *mut c_int);
    votequorum_dispatch(u64, c_uint);
    votequorum_trackstart(u64, u64, c_uint);
    votequorum_getinfo(u64, c_uint, *mut RawInfo);
    votequorum_qdevice_register(u64, *const c_char);
    votequorum_qdevice_unregister(u64, *const c_char);
    votequorum_qdevice_poll(u64, *const c_char, c_uint, RawRing);
    votequorum_qdevice_master_wins(u64, *const c_char, c_uint);
});

calls!(CmapCalls {
    cmap_initialize(*mut u64);
    cmap_finalize(u64);
    cmap_fd_get(u64, *mut c_int);
    cmap_dispatch(u64, c_uint);
    cmap_get(u64, *const c_char, *mut c_void, *mut usize, *mut c_int);
    cmap_iter_init(u64, *const c_char, *mut u64);
    cmap_iter_next(u64, u64, *mut c_char, *mut usize, *mut c_int);
    cmap_iter_finalize(u64, u64);
    cmap_track_add(u64, *const c_char, i32, OnChange, *mut c_void, *mut u64);
});

/// libvotequorum and libcmap.
#[derive(Debug)]
pub struct Libraries {
    votequorum: VotequorumCalls,
    cmap: CmapCalls,
}

impl Libraries {
    /// Opens both, by the sonames of corosync 3, and never closes them: what they start at exit
    /// would then be gone.
    ///
    /// # Errors
    /// The library that is missing, or is of another version, and its package.
    pub fn open() -> Result<Arc<Self>, Missing> {
        static OPENED: OnceLock<Arc<Libraries>> = OnceLock::new();
        if let Some(opened) = OPENED.get() {
            return Ok(Arc::clone(opened));
        }
        let opened =
            Self { votequorum: VotequorumCalls::open(VOTEQUORUM)?, cmap: CmapCalls::open(CMAP)? };
        Ok(Arc::clone(OPENED.get_or_init(|| Arc::new(opened))))
    }
}

/// What votequorum tells those who track it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Notice {
    /// A membership change begins; it waits for a poll with this ring (votequorum_trackstart(3)).
    Ring(RingId, Vec<NodeId>),
    /// The quorum was computed: quorate, and every known node with whether it is a member.
    Quorum(bool, Vec<(NodeId, bool)>),
}

/// What votequorum says of this node (votequorum_getinfo(3)).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Info {
    /// Expected votes, the device's included.
    pub expected_votes: u32,
    /// The votes of all members, and the device's where its vote is cast.
    pub total_votes: u32,
    /// Votes for a quorum.
    pub quorum: u32,
    /// The quorum as votequorum last computed it.
    pub quorate: bool,
    /// A device is registered.
    pub registered: bool,
    /// Its vote is cast.
    pub cast: bool,
    /// The votes it has when it casts.
    pub device_votes: u32,
}

thread_local! {
    /// What the callbacks have heard; they run on the thread that dispatches, within the call.
    static HEARD: RefCell<Vec<Notice>> = const { RefCell::new(Vec::new()) };
    static CHANGED: RefCell<bool> = const { RefCell::new(false) };
}

/// The list that a callback was given.
///
/// # Safety
/// `list` points to `entries` values, or is null.
unsafe fn listed<T: Copy>(list: *const T, entries: u32) -> Vec<T> {
    if list.is_null() || entries > NODES_MAX {
        return Vec::new();
    }
    (0..entries as usize)
        // SAFETY: as the caller promises; corosync's message need not be aligned.
        .map(|index| unsafe { list.add(index).read_unaligned() })
        .collect()
}

extern "C" fn on_quorum(_: u64, _: u64, quorate: u32, entries: u32, list: *const RawNode) {
    // SAFETY: the library calls with a list of that many entries, for the time of the call.
    let nodes = unsafe { listed(list, entries) };
    // State 1 is VOTEQUORUM_NODESTATE_MEMBER; node 0 is the device itself.
    let nodes = nodes.iter().filter(|node| node.id != 0);
    let nodes = nodes.map(|node| (NodeId(node.id), node.state == 1)).collect();
    HEARD.with_borrow_mut(|heard| heard.push(Notice::Quorum(quorate != 0, nodes)));
}

extern "C" fn on_nodelist(_: u64, _: u64, ring: RawRing, entries: u32, list: *const u32) {
    // SAFETY: as in `on_quorum`.
    let nodes = unsafe { listed(list, entries) };
    let nodes = nodes.into_iter().map(NodeId).collect();
    let ring = RingId::new(ring.node, ring.seq);
    HEARD.with_borrow_mut(|heard| heard.push(Notice::Ring(ring, nodes)));
}

extern "C" fn on_change(
    _: u64,
    _: u64,
    _: i32,
    _: *const c_char,
    _: RawValue,
    _: RawValue,
    _: *mut c_void,
) {
    CHANGED.with_borrow_mut(|changed| *changed = true);
}

/// A connection to votequorum. It stays on one thread.
#[derive(Debug)]
pub struct Votequorum {
    libraries: Arc<Libraries>,
    handle: u64,
    fd: c_int,
}

impl Votequorum {
    /// Connects.
    ///
    /// # Errors
    /// corosync's refusal; as those of all calls here.
    pub fn connect(libraries: &Arc<Libraries>) -> Result<Self, Failure> {
        let calls = &libraries.votequorum;
        let callbacks = Callbacks {
            quorum: on_quorum,
            expected_votes: std::ptr::null(),
            nodelist: on_nodelist,
        };
        let mut handle = 0;
        // SAFETY: both structures live for the call; the library copies the callbacks.
        let code = unsafe { (calls.votequorum_initialize)(&raw mut handle, &raw const callbacks) };
        checked("votequorum_initialize", code)?;
        let mut this = Self { libraries: Arc::clone(libraries), handle, fd: -1 };
        // SAFETY: the handle is open; the library writes one int.
        let code = unsafe { (calls.votequorum_fd_get)(handle, &raw mut this.fd) };
        checked("votequorum_fd_get", code)?;
        HEARD.with_borrow_mut(Vec::clear);
        Ok(this)
    }

    /// Tracks the ring and the quorum, beginning with the present ones.
    ///
    /// # Errors
    /// corosync's refusal.
    pub fn track(&self) -> Result<(), Failure> {
        let calls = &self.libraries.votequorum;
        // SAFETY: the handle is open, and the call takes numbers only.
        let code = unsafe { (calls.votequorum_trackstart)(self.handle, 0, TRACK_CHANGES) };
        checked("votequorum_trackstart", code)
    }

    /// What was heard since the last call, in order. Does not wait.
    ///
    /// # Errors
    /// corosync's refusal, or its end.
    pub fn notices(&self) -> Result<Vec<Notice>, Failure> {
        let calls = &self.libraries.votequorum;
        // SAFETY: the handle is open. The callbacks touch only what belongs to this thread.
        let code = unsafe { (calls.votequorum_dispatch)(self.handle, DISPATCH_ALL) };
        checked("votequorum_dispatch", code)?;
        Ok(HEARD.with_borrow_mut(std::mem::take))
    }

    /// This node. Waits for the answer: for ever, where corosync is stopped without being ended.
    ///
    /// # Errors
    /// corosync's refusal, or its end.
    pub fn info(&self) -> Result<Info, Failure> {
        let calls = &self.libraries.votequorum;
        let mut raw = RawInfo {
            node: 0,
            state: 0,
            votes: 0,
            node_expected: 0,
            highest_expected: 0,
            total: 0,
            quorum: 0,
            flags: 0,
            device_votes: 0,
            device_name: [0; 255],
        };
        // SAFETY: the handle is open; the library fills in one structure of this layout. Node 0
        // stands for this node.
        let code = unsafe { (calls.votequorum_getinfo)(self.handle, 0, &raw mut raw) };
        checked("votequorum_getinfo", code)?;
        // The bits are VOTEQUORUM_INFO_QUORATE, _QDEVICE_REGISTERED and _QDEVICE_CAST_VOTE.
        Ok(Info {
            expected_votes: raw.highest_expected,
            total_votes: raw.total,
            quorum: raw.quorum,
            quorate: raw.flags & 2 != 0,
            registered: raw.flags & 64 != 0,
            cast: raw.flags & 256 != 0,
            device_votes: raw.device_votes,
        })
    }

    /// Registers; a device of this name that is registered already is taken over. A device that
    /// was told nothing else never makes its partition quorate alone (votequorum(5) master_wins).
    ///
    /// # Errors
    /// corosync's refusal.
    pub fn register(&self, name: &CStr) -> Result<(), Failure> {
        let calls = &self.libraries.votequorum;
        // SAFETY: the handle is open, and the name lives for the call.
        let code = unsafe { (calls.votequorum_qdevice_register)(self.handle, name.as_ptr()) };
        checked("votequorum_qdevice_register", code)?;
        // SAFETY: as above.
        let code = unsafe { (calls.votequorum_qdevice_master_wins)(self.handle, name.as_ptr(), 0) };
        checked("votequorum_qdevice_master_wins", code)
    }

    /// Takes the device of this name out again.
    ///
    /// # Errors
    /// corosync's refusal.
    pub fn unregister(&self, name: &CStr) -> Result<(), Failure> {
        let calls = &self.libraries.votequorum;
        // SAFETY: the handle is open, and the name lives for the call.
        let code = unsafe { (calls.votequorum_qdevice_unregister)(self.handle, name.as_ptr()) };
        checked("votequorum_qdevice_unregister", code)
    }

    /// Casts the vote in this ring, or takes it back.
    ///
    /// # Errors
    /// corosync's refusal: [`MESSAGE_ERROR`] for another ring than the present one.
    pub fn poll(&self, name: &CStr, ring: RingId, cast: bool) -> Result<(), Failure> {
        let calls = &self.libraries.votequorum;
        let ring = RawRing { node: ring.node, seq: ring.seq };
        // SAFETY: the handle is open, and the name lives for the call; the ring is passed by value.
        let code = unsafe {
            (calls.votequorum_qdevice_poll)(self.handle, name.as_ptr(), c_uint::from(cast), ring)
        };
        checked("votequorum_qdevice_poll", code)
    }
}

impl AsFd for Votequorum {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the library keeps the descriptor open until the handle is finalised, which
        // happens when the value is dropped.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Votequorum {
    fn drop(&mut self) {
        let calls = &self.libraries.votequorum;
        // SAFETY: the handle is open, and nobody uses it after this.
        unsafe { (calls.votequorum_finalize)(self.handle) };
    }
}

/// A connection to cmap. It stays on one thread, and blocks it while a membership change is held.
#[derive(Debug)]
pub struct Cmap {
    libraries: Arc<Libraries>,
    handle: u64,
    fd: c_int,
}

impl Cmap {
    /// Connects.
    ///
    /// # Errors
    /// corosync's refusal; as those of all calls here.
    pub fn connect(libraries: &Arc<Libraries>) -> Result<Self, Failure> {
        let calls = &libraries.cmap;
        let mut handle = 0;
        // SAFETY: the library writes one number.
        checked("cmap_initialize", unsafe { (calls.cmap_initialize)(&raw mut handle) })?;
        let mut this = Self { libraries: Arc::clone(libraries), handle, fd: -1 };
        // SAFETY: the handle is open; the library writes one int.
        let code = unsafe { (calls.cmap_fd_get)(handle, &raw mut this.fd) };
        checked("cmap_fd_get", code)?;
        Ok(this)
    }

    /// Tracks all keys that begin with `prefix`.
    ///
    /// # Errors
    /// corosync's refusal.
    pub fn track(&self, prefix: &CStr) -> Result<(), Failure> {
        let calls = &self.libraries.cmap;
        let mut track = 0;
        // SAFETY: the handle is open, the prefix lives for the call, the callback uses none of
        // its pointers.
        let code = unsafe {
            (calls.cmap_track_add)(
                self.handle,
                prefix.as_ptr(),
                TRACK_PREFIX,
                on_change,
                null_mut(),
                &raw mut track,
            )
        };
        checked("cmap_track_add", code)
    }

    /// Whether something that is tracked has changed since the last call. Does not wait for it.
    ///
    /// # Errors
    /// corosync's refusal, or its end.
    pub fn changed(&self) -> Result<bool, Failure> {
        let calls = &self.libraries.cmap;
        // SAFETY: the handle is open. The callback touches only what belongs to this thread.
        checked("cmap_dispatch", unsafe { (calls.cmap_dispatch)(self.handle, DISPATCH_ALL) })?;
        Ok(CHANGED.with_borrow_mut(std::mem::take))
    }

    /// All keys that begin with `prefix`, with their values as text. Values that are no text and
    /// no whole number are left out.
    ///
    /// # Errors
    /// corosync's refusal, or its end.
    pub fn read(&self, prefix: &CStr) -> Result<Vec<(String, String)>, Failure> {
        let calls = &self.libraries.cmap;
        let mut iteration = 0;
        // SAFETY: the handle is open, the prefix lives for the call; one number is written.
        let code =
            unsafe { (calls.cmap_iter_init)(self.handle, prefix.as_ptr(), &raw mut iteration) };
        checked("cmap_iter_init", code)?;
        let read = self.read_on(iteration);
        // SAFETY: the iteration is open, and is not used after this.
        unsafe { (calls.cmap_iter_finalize)(self.handle, iteration) };
        read
    }

    /// Whether a reload is under way: what is read meanwhile is of two configurations.
    ///
    /// # Errors
    /// corosync's refusal, or its end.
    pub fn reloading(&self) -> Result<bool, Failure> {
        let found = self.read(RELOADS)?;
        Ok(found.iter().any(|(key, value)| RELOADING.contains(&key.as_str()) && value == "1"))
    }

    fn read_on(&self, iteration: u64) -> Result<Vec<(String, String)>, Failure> {
        let calls = &self.libraries.cmap;
        let mut found = Vec::new();
        loop {
            let mut name = [0_u8; KEY_BYTES];
            let (mut length, mut kind) = (0_usize, 0);
            // SAFETY: the iteration is open; a name has at most KEY_BYTES bytes with its end
            // (cmap_iter_next(3)), and the other two are numbers.
            let code = unsafe {
                (calls.cmap_iter_next)(
                    self.handle,
                    iteration,
                    name.as_mut_ptr().cast(),
                    &raw mut length,
                    &raw mut kind,
                )
            };
            if code == NO_SECTIONS {
                return Ok(found);
            }
            checked("cmap_iter_next", code)?;
            let Ok(name) = CStr::from_bytes_until_nul(&name) else { continue };
            if let Some(value) = self.value(name, length)? {
                found.push((name.to_string_lossy().into_owned(), value));
            }
        }
    }

    /// The value of a key that was `length` bytes long; `None` if it is gone, or no text.
    fn value(&self, name: &CStr, length: usize) -> Result<Option<String>, Failure> {
        let calls = &self.libraries.cmap;
        if length > VALUE_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = vec![0_u8; length];
        let (mut room, mut kind) = (bytes.len(), 0);
        // SAFETY: the handle is open, the name lives for the call, and the library writes at most
        // `room` bytes; a value that has grown since is refused.
        let code = unsafe {
            (calls.cmap_get)(
                self.handle,
                name.as_ptr(),
                bytes.as_mut_ptr().cast(),
                &raw mut room,
                &raw mut kind,
            )
        };
        match code {
            OK => Ok(text(kind, bytes.get(..room).unwrap_or_default())),
            // CS_ERR_NOT_EXIST and CS_ERR_INVALID_PARAM: it has changed; that will be told.
            12 | 7 => Ok(None),
            code => Err(Failure { call: "cmap_get", code }),
        }
    }
}

impl AsFd for Cmap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: as for `Votequorum`.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

impl Drop for Cmap {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and nobody uses it after this.
        unsafe { (self.libraries.cmap.cmap_finalize)(self.handle) };
    }
}

/// When keys that have changed may be read. corosync 3.1.7 keeps a key for ever that a reload
/// deletes while somebody's iteration stands on it, so nobody should be reading when one reload
/// follows another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calm {
    /// The last change, or attempt to read.
    stirred: Option<HostInstant>,
    /// How many there were since the last whole reading.
    stirs: u32,
}

impl Calm {
    /// What is read when no other change has followed for so long.
    pub const QUIET: Duration = Duration::from_millis(100);
    /// Changes that never end are read all the same, after so many.
    const STIRS_MAX: u32 = 50;

    /// Something has changed, or what was read was of two configurations.
    pub fn stir(&mut self, now: HostInstant) {
        self.stirred = Some(now);
        self.stirs = self.stirs.saturating_add(1);
    }

    /// How much longer to wait before reading; zero: not any more.
    pub fn wait(&self, now: HostInstant) -> Duration {
        let stirred = self.stirred.filter(|_| self.stirs < Self::STIRS_MAX);
        stirred.map_or(Duration::ZERO, |at| at.plus(Self::QUIET).remaining(now))
    }

    /// It was read.
    pub fn settle(&mut self) {
        *self = Self::default();
    }
}

/// A value of cmap (`cmap_value_types_t`) as text.
fn text(kind: c_int, bytes: &[u8]) -> Option<String> {
    let number = |bytes: &[u8]| {
        let mut wide = [0_u8; 8];
        wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
        // The machine's own order; the shorter ones are at the low end of a little-endian one.
        Some(if cfg!(target_endian = "little") {
            u64::from_le_bytes(wide)
        } else {
            u64::from_be_bytes(wide) >> (64 - 8 * bytes.len())
        })
    };
    match (kind, bytes) {
        // Unsigned, of 1, 2, 4 and 8 bytes.
        (2 | 4 | 6 | 8, [_, ..]) => number(bytes).map(|value| value.to_string()),
        // Signed.
        (1, [value]) => Some(value.cast_signed().to_string()),
        (3, &[a, b]) => Some(i16::from_ne_bytes([a, b]).to_string()),
        (5, &[a, b, c, d]) => Some(i32::from_ne_bytes([a, b, c, d]).to_string()),
        (7, bytes) => Some(i64::from_ne_bytes(bytes.try_into().ok()?).to_string()),
        // Text, with its end.
        (11, bytes) => {
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
        }
        _ => None,
    }
}

/// A name for the library; the ends that would cut it short are taken out.
pub fn c_name(name: &str) -> CString {
    let bytes = name.bytes().filter(|byte| *byte != 0).collect::<Vec<_>>();
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_read_when_it_is_calm_or_never_ends() {
        let start = HostInstant::default();
        let at = |ms| start.plus(Duration::from_millis(ms));
        let mut calm = Calm::default();
        assert_eq!(calm.wait(at(0)), Duration::ZERO, "nothing has changed yet");
        calm.stir(at(10));
        calm.stir(at(90));
        assert_eq!(calm.wait(at(100)), Duration::from_millis(90));
        assert_eq!(calm.wait(at(190)), Duration::ZERO);
        calm.settle();
        for ms in 0..50 {
            calm.stir(at(200 + ms));
        }
        assert_eq!(calm.wait(at(250)), Duration::ZERO, "it never ends");
    }

    #[test]
    fn values_of_cmap_become_text() {
        assert_eq!(text(2, &[7]).as_deref(), Some("7"));
        assert_eq!(text(6, &10_000_u32.to_ne_bytes()).as_deref(), Some("10000"));
        assert_eq!(text(8, &u64::MAX.to_ne_bytes()).as_deref(), Some("18446744073709551615"));
        assert_eq!(text(5, &(-1_i32).to_ne_bytes()).as_deref(), Some("-1"));
        assert_eq!(text(11, b"net\0").as_deref(), Some("net"));
        assert_eq!(text(11, b"net").as_deref(), Some("net"));
        assert_eq!(text(10, &1.5_f64.to_ne_bytes()), None);
        assert_eq!(text(6, &[0; 9]), None);
    }

    #[test]
    fn a_library_that_is_not_there_is_named_with_its_package() {
        let text = CmapCalls::open(("libnot-there.so.4", "libcmap4")).unwrap_err().to_string();
        assert!(text.starts_with("libnot-there.so.4 cannot be opened ("), "{text}");
        assert!(text.contains("install") && text.contains("libcmap4"), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }

    #[test]
    fn a_library_of_another_version_is_named_with_what_it_lacks() {
        let error = VotequorumCalls::open(("libc.so.6", "libvotequorum8")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("libc.so.6 has no votequorum_initialize:"), "{text}");
        assert!(text.contains("libvotequorum8"), "{text}");
    }
}

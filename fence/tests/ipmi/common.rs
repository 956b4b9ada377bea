//! What the tests of this binary share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fence::ipmi::{Address, Bmc, Login, Privilege, Quirks, Suite};
use fence::secret::Secret;
use host::clock::Clock;
use protocol::time::Hurry;

/// What one command may take here: the machine is busy with other tests.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A folder of a test's own; it ends with the value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fence-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Asks until there is something, at most `limit`.
pub(crate) fn eventually<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let mut clock = Clock::start(Hurry::Fast);
    let end = clock.now() + limit;
    let (_keep, nothing) = std::sync::mpsc::channel::<()>();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(clock.now() < end, "{what}: not within {limit:?}");
        let _ = nothing.recv_timeout(Duration::from_millis(5));
    }
}

/// Whether these programs are here; where tests must be whole they have to be.
#[expect(clippy::print_stderr, reason = "who runs the tests shall know what was not tested")]
pub(crate) fn has(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders: Vec<&str> = path.split(':').chain(["/usr/sbin", "/sbin"]).collect();
    let here =
        |program: &&&str| folders.iter().any(|folder| Path::new(folder).join(program).exists());
    let Some(missing) = programs.iter().find(|program| !here(program)) else { return true };
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{missing} is missing");
    eprintln!("not tested: {missing} is missing");
    false
}

pub(crate) fn login(user: &str, password: &str) -> Login {
    Login {
        user: user.to_owned(),
        password: Secret::new(password.as_bytes().to_vec()),
        kg: None,
        privilege: Privilege::Administrator,
        suites: vec![Suite::Seventeen, Suite::Three],
        quirks: Quirks::default(),
        expect: None,
    }
}

pub(crate) fn bmc(host: &str, port: u16, login: Login) -> Bmc {
    Bmc::new(Address { host: host.to_owned(), port }, login).unwrap()
}

/// A program's output; it must end well.
pub(crate) fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {}\n{out}{err}", output.status);
    out.into_owned()
}

//! corosync-qdevice-tool to the letter (wire 6.2), and the text that it shows (wire 6.3).

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use protocol::host::{HeuristicsMode, TlsMode};
use protocol::time::Time;
use protocol::vote::{Algorithm, TieBreaker};

use crate::core::{Snapshot, State};

/// Where corosync-qdevice's socket is.
pub const STOCK_SOCKET: &str = "/var/run/corosync-qdevice/corosync-qdevice.sock";

/// An answer longer than this is cut, in bytes; the daemon's own limit is far less.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// What the tool prints, and its exit code: 0 done, 1 usage, 2 internal error, 3 no connection
/// or no daemon of ours behind it, 4 the daemon's error.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// For the standard output.
    pub stdout: String,
    /// For the standard error stream.
    pub stderr: String,
    /// The exit code.
    pub code: u8,
}

/// What the arguments ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Request {
    command: &'static str,
    verbose: bool,
    socket: PathBuf,
}

/// Runs the tool with the arguments after its name.
pub fn run(program: &str, args: &[String]) -> Outcome {
    match parse(program, args) {
        Ok(request) => ask(program, &request),
        Err(outcome) => outcome,
    }
}

fn parse(program: &str, args: &[String]) -> Result<Request, Outcome> {
    let usage = |complaint: String| Outcome {
        stdout: format!("usage: {program} [-Hhsv] [-p qdevice_ipc_socket_path]\n"),
        stderr: complaint,
        code: 1,
    };
    let mut command = None;
    let mut verbose = false;
    let mut socket = PathBuf::from(STOCK_SOCKET);
    let mut args = args.iter().take_while(|arg| *arg != "--");
    while let Some(arg) = args.next() {
        let Some(bundle) = arg.strip_prefix('-') else { continue };
        for (at, flag) in bundle.char_indices() {
            match flag {
                'H' => command = Some("shutdown "),
                's' => command = Some("status "),
                'v' => verbose = true,
                'h' => return Err(usage(String::new())),
                'p' => {
                    let attached = &bundle[at + 1..];
                    let next = if attached.is_empty() { args.next() } else { None };
                    let path = next.map_or(attached, String::as_str);
                    if next.is_none() && attached.is_empty() {
                        let text = format!("{program}: option requires an argument -- 'p'\n");
                        return Err(usage(text));
                    }
                    socket = path.into();
                    break;
                }
                other => return Err(usage(format!("{program}: invalid option -- '{other}'\n"))),
            }
        }
    }
    let command = command.ok_or_else(|| usage(String::new()))?;
    Ok(Request { command, verbose, socket })
}

fn ask(program: &str, request: &Request) -> Outcome {
    let failed = |code: u8, text: String| Outcome {
        stdout: String::new(),
        stderr: format!("{program}: {text}\n"),
        code,
    };
    let mut stream = match UnixStream::connect(&request.socket) {
        Ok(stream) => stream,
        Err(error) => {
            let why = system_text(&error);
            return failed(
                3,
                format!("Can't connect to QDevice socket (is QDevice running?): {why}"),
            );
        }
    };
    let verbose = if request.verbose { "verbose " } else { "" };
    if stream.write_all(format!("{}{verbose}\n", request.command).as_bytes()).is_err() {
        return failed(2, "Can't send command".to_owned());
    }
    let mut answer = Vec::new();
    // The stock tool shows what came before a failure, too.
    let _ = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
    read_answer(&String::from_utf8_lossy(&answer))
        .unwrap_or_else(|| failed(3, "Unknown status line returned by IPC server".to_owned()))
}

/// `None` if the status line is none of ours. An answer that ends before its status line is
/// empty, as for the stock tool.
fn read_answer(answer: &str) -> Option<Outcome> {
    let (status, text) = answer.split_once('\n').unwrap_or(("OK", ""));
    let status = status.replace('\r', "");
    if status.eq_ignore_ascii_case("OK") {
        Some(Outcome { stdout: text.to_owned(), stderr: String::new(), code: 0 })
    } else if status.eq_ignore_ascii_case("Error") {
        Some(Outcome { stdout: String::new(), stderr: format!("Error: {text}"), code: 4 })
    } else {
        None
    }
}

/// The system's words without the number that Rust adds.
fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(text, _)| text).to_owned()
}

/// The wall clock beside the machine's.
#[derive(Clone, Debug)]
pub struct Wall {
    now: Time,
    second: i64,
    zone: TimeZone,
}

impl Wall {
    /// The machine's time `now` is the given second since 1970-01-01 UTC.
    pub fn new(now: Time, second: i64, zone: TimeZone) -> Self {
        Self { now, second, zone }
    }

    /// The same for this moment, in local time.
    pub fn local(now: Time) -> Self {
        Self::new(now, Timestamp::now().as_second(), TimeZone::system())
    }

    fn text(&self, at: Time) -> String {
        let ago = i64::try_from(self.now.since(at).as_secs()).unwrap_or(0);
        match Timestamp::from_second(self.second.saturating_sub(ago)) {
            Ok(moment) => {
                moment.to_zoned(self.zone.clone()).strftime("%Y-%m-%dT%H:%M:%S").to_string()
            }
            Err(_) => "unknown".to_owned(),
        }
    }
}

/// What the daemon knows beside the machine.
#[derive(Clone, Debug)]
pub struct Around {
    /// The wall clock.
    pub wall: Wall,
    /// The last poll of the host, and whether it cast the vote.
    pub last_poll: Option<(Time, bool)>,
    /// The connection is secured; a client certificate is then always sent.
    pub tls: bool,
}

/// The text of `status` and `status verbose`, as corosync-qdevice prints it.
pub fn status_text(snapshot: &Snapshot, around: &Around, verbose: bool) -> String {
    let mut text = Text { text: String::new(), verbose };
    host_text(&mut text, snapshot, around);
    text.text.push('\n');
    net_text(&mut text, snapshot);
    connection_text(&mut text, snapshot, around);
    text.text
}

/// Lines, some of them only when verbose.
struct Text {
    text: String,
    verbose: bool,
}

impl Text {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing into a text does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn more(&mut self, line: std::fmt::Arguments<'_>) {
        if self.verbose {
            self.line(line);
        }
    }
}

fn host_text(text: &mut Text, snapshot: &Snapshot, around: &Around) {
    let settings = &snapshot.settings;
    text.line(format_args!("Qdevice information"));
    text.line(format_args!("-------------------"));
    text.line(format_args!("Model:\t\t\tNet"));
    text.line(format_args!("Node ID:\t\t{}", snapshot.node));
    text.more(format_args!("HB interval:\t\t{}ms", settings.timeout_ms));
    text.more(format_args!("Sync HB interval:\t{}ms", settings.sync_timeout_ms));
    if let Some(version) = snapshot.config_version {
        text.line(format_args!("Configuration version:\t{version}"));
    }
    text.line(format_args!("Configured node list:"));
    for (index, (node, center)) in snapshot.nodes.iter().enumerate() {
        match center {
            0 => text.line(format_args!("    {index}\tNode ID = {node}")),
            _ => {
                text.line(format_args!("    {index}\tNode ID = {node}, Data center ID = {center}"))
            }
        }
    }
    let mode = match settings.heuristics.mode {
        HeuristicsMode::Off => "Disabled",
        HeuristicsMode::On => "Enabled",
        HeuristicsMode::Sync => "Enabled only on sync",
    };
    text.more(format_args!("Heuristics:\t\t{mode}"));
    let ring = snapshot.view.as_ref().map(|view| view.id.ring).unwrap_or_default();
    text.more(format_args!("Ring ID:\t\t{ring}"));
    let members = snapshot.view.iter().flat_map(|view| &view.members);
    let members: Vec<String> = members.map(ToString::to_string).collect();
    text.line(format_args!("Membership node list:\t{}", members.join(", ")));
    let quorate = snapshot.quorum.as_ref().is_some_and(|quorum| quorum.quorate);
    text.more(format_args!("Quorate:\t\t{}", yes_no(quorate)));
    text.more(format_args!("Quorum node list:"));
    let nodes = snapshot.quorum.iter().flat_map(|quorum| &quorum.nodes);
    for (index, (node, present)) in nodes.enumerate() {
        let state = if *present { "member" } else { "dead" };
        text.more(format_args!("    {index}\tNode ID = {node}, State = {state}"));
    }
    let expected = snapshot.quorum.as_ref().map_or(0, |quorum| quorum.expected_votes);
    text.more(format_args!("Expected votes:\t\t{expected}"));
    match around.last_poll {
        Some((at, cast)) => {
            let cast = if cast { " (cast vote)" } else { "" };
            text.more(format_args!("Last poll call:\t\t{}{cast}", around.wall.text(at)));
        }
        None => text.more(format_args!("Last poll call:\t\tNever")),
    }
}

fn net_text(text: &mut Text, snapshot: &Snapshot) {
    let settings = &snapshot.settings;
    text.line(format_args!("Qdevice-net information"));
    text.line(format_args!("----------------------"));
    text.line(format_args!("Cluster name:\t\t{}", snapshot.cluster));
    text.line(format_args!("QNetd host:\t\t{}", snapshot.arbiter));
    if settings.force_ip_version != 0 {
        text.more(format_args!("Force IP version:\t{}", settings.force_ip_version));
    }
    text.more(format_args!("Connect timeout:\t{}ms", settings.connect_timeout_ms));
    text.more(format_args!("HB interval:\t\t{}ms", settings.heartbeat_ms));
    text.more(format_args!("VQ vote timer interval:\t{}ms", settings.timeout_ms / 2));
    let tls = match settings.tls {
        TlsMode::Off => "Unsupported",
        TlsMode::On => "Supported",
        TlsMode::Required => "Required",
    };
    text.more(format_args!("TLS:\t\t\t{tls}"));
    text.line(format_args!("Algorithm:\t\t{}", settings.algorithm));
    match settings.tie_breaker {
        TieBreaker::Lowest => text.line(format_args!("Tie-breaker:\t\tNode with lowest node ID")),
        TieBreaker::Highest => text.line(format_args!("Tie-breaker:\t\tNode with highest node ID")),
        TieBreaker::Node(node) => {
            text.line(format_args!("Tie-breaker:\t\tNode with node ID {node}"));
        }
    }
    text.more(format_args!("KAP Tie-breaker:\t{}", keep_active(snapshot)));
}

fn keep_active(snapshot: &Snapshot) -> &'static str {
    match snapshot.settings.algorithm {
        Algorithm::Test => "Unsupported by algorithm",
        Algorithm::TwoNodeLms | Algorithm::Lms => "Algorithm hard-coded",
        Algorithm::Ffsplit if !snapshot.settings.keep_active_partition => "Disabled",
        Algorithm::Ffsplit => match snapshot.state {
            State::Connected if !snapshot.keeps_active_partition => "Unsupported by QNetd",
            State::Connected | State::Connecting | State::Down => "Enabled",
        },
    }
}

fn connection_text(text: &mut Text, snapshot: &Snapshot, around: &Around) {
    let cast = if snapshot.lease.is_some() { " (cast vote)" } else { "" };
    text.more(format_args!("Poll timer running:\t{}{cast}", yes_no(snapshot.decided)));
    let failed = snapshot.status.state.contains(':');
    let state = match snapshot.state {
        State::Connected => "Connected",
        State::Connecting => "Connecting",
        State::Down if failed => "Connect failed",
        State::Down => "Disconnected",
    };
    text.line(format_args!("State:\t\t\t{state}"));
    let found = &snapshot.heuristics;
    match snapshot.settings.heuristics.mode {
        HeuristicsMode::Off => {}
        HeuristicsMode::On | HeuristicsMode::Sync if text.verbose => text.line(format_args!(
            "Heuristics result:\t{} (regular: {}, membership: {}, connect: {})",
            found.latest, found.regular, found.membership, found.connect
        )),
        HeuristicsMode::On | HeuristicsMode::Sync => {
            text.line(format_args!("Heuristics result:\t{}", found.latest));
        }
    }
    if snapshot.state != State::Connected {
        return;
    }
    let sent = if around.tls { " (client certificate sent)" } else { "" };
    text.more(format_args!("TLS active:\t\t{}{sent}", yes_no(around.tls)));
    if let Some(at) = snapshot.connected_at {
        text.more(format_args!("Connected since:\t{}", around.wall.text(at)));
    }
    if let Some(at) = snapshot.echoed_at {
        text.more(format_args!("Echo reply received:\t{}", around.wall.text(at)));
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes { "Yes" } else { "No" }
}

#[cfg(test)]
mod tests;

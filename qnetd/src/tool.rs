//! `corosync-qnetd-tool`, and the text that it shows, which the daemon makes (wire 6.2, 6.3).

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use protocol::ids::NodeId;
use protocol::qnet::TlsSupport;
use protocol::vote::{Heuristics, TieBreaker};

use crate::config::Options;
use crate::core::{StockClient, StockCluster};

/// Where the stock daemon's socket is.
pub const STOCK_SOCKET: &str = "/var/run/corosync-qnetd/corosync-qnetd.sock";

/// Where ours is, under its own name.
const OWN_SOCKET: &str = "/run/haguard/qnetd.sock";

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

const EXIT_USAGE: u8 = 1;
const EXIT_INTERNAL: u8 = 2;
const EXIT_NO_DAEMON: u8 = 3;
const EXIT_REFUSED: u8 = 4;

/// Why the tool ends without success: its exit code, and what it says on stderr.
type Failure = (u8, String);

/// What the tool's arguments ask for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Errand {
    /// The line for the daemon.
    pub line: Vec<u8>,
    /// The socket; by default the stock daemon's, or ours.
    pub socket: Option<PathBuf>,
}

/// The tool, called as `program` with the arguments after that name. Exit codes: 0 success,
/// 1 usage, 2 internal error, 3 no connection to the daemon, 4 the daemon has refused.
pub fn main_qnetd_tool(program: &str, args: &[String]) -> ExitCode {
    let result = read_errand(program, args).and_then(|errand| perform(program, &errand));
    match result {
        Ok(text) => {
            // Who has closed the pipe does not want to read it.
            let _ = io::stdout().write_all(&text);
            ExitCode::SUCCESS
        }
        Err((code, text)) => {
            // The usage that was asked for is no error, but its exit code is (wire 6.2).
            let mut stdout = io::stdout();
            let mut stderr = io::stderr();
            let (complaint, usage) = match text.find("usage: ") {
                Some(at) => text.split_at(at),
                None => (text.as_str(), ""),
            };
            let _ = stderr.write_all(complaint.as_bytes());
            let _ = stdout.write_all(usage.as_bytes());
            ExitCode::from(code)
        }
    }
}

/// Reads the arguments (getopt(3): switches can be bundled; the last operation counts).
///
/// # Errors
/// The usage, with a complaint before it where there is one.
pub fn read_errand(program: &str, args: &[String]) -> Result<Errand, Failure> {
    let usage = format!("usage: {program} [-Hhlsv] [-c cluster_name] [-p qnetd_ipc_socket_path]\n");
    let fail = |complaint: String| (EXIT_USAGE, complaint + &usage);
    let (mut operation, mut verbose) = (None, false);
    let (mut cluster, mut socket): (Option<String>, Option<PathBuf>) = (None, None);
    let mut args = args.iter();
    while let Some(arg) = args.next().filter(|arg| *arg != "--") {
        let Some(bundle) = arg.strip_prefix('-') else { continue };
        for (at, flag) in bundle.char_indices() {
            match flag {
                'H' | 'l' | 's' => operation = Some(flag),
                'v' => verbose = true,
                'h' => return Err(fail(String::new())),
                'c' | 'p' => {
                    let attached = &bundle[at + 1..];
                    let next = if attached.is_empty() { args.next().cloned() } else { None };
                    let value = next.unwrap_or_else(|| attached.to_owned());
                    if value.is_empty() && attached.is_empty() && flag == 'p' {
                        let text = "option requires an argument --";
                        return Err(fail(format!("{program}: {text} '{flag}'\n")));
                    }
                    if flag == 'c' {
                        cluster = Some(value);
                    } else {
                        socket = Some(PathBuf::from(value));
                    }
                    break;
                }
                _ => return Err(fail(format!("{program}: invalid option -- '{flag}'\n"))),
            }
        }
    }
    let verbose = if verbose { "verbose " } else { "" };
    let line = match operation {
        Some('H') => "shutdown \n".to_owned(),
        Some('l') => {
            let filter = cluster.map(|name| format!("cluster \"{}\" ", escape(&name)));
            format!("list {verbose}{}\n", filter.unwrap_or_default())
        }
        Some(_) => format!("status {verbose}\n"),
        None => return Err(fail(String::new())),
    };
    Ok(Errand { line: line.into_bytes(), socket })
}

fn escape(name: &str) -> String {
    name.replace('\\', "\\\\").replace('"', "\\\"")
}

/// Asks the daemon; returns what it says.
///
/// # Errors
/// An exit code and what to say.
pub fn perform(program: &str, errand: &Errand) -> Result<Vec<u8>, Failure> {
    let mut stream = connect(errand.socket.as_deref()).map_err(|error| {
        let text = "Can't connect to qnetd socket (is QNetd running?)";
        (EXIT_NO_DAEMON, format!("{program}: {text}: {}\n", words_of(&error)))
    })?;
    let mut answer = Vec::new();
    let asked = stream.write_all(&errand.line);
    asked.and_then(|()| stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)).map_err(
        |error| {
            (EXIT_INTERNAL, format!("{program}: Can't talk with QNetd: {}\n", words_of(&error)))
        },
    )?;
    if let Some(text) = answer.strip_prefix(b"OK\n") {
        return Ok(text.to_vec());
    }
    if let Some(text) = answer.strip_prefix(b"Error\n") {
        return Err((EXIT_REFUSED, format!("Error: {}", String::from_utf8_lossy(text))));
    }
    Err((EXIT_NO_DAEMON, format!("{program}: the answer is none of QNetd's\n")))
}

fn connect(socket: Option<&Path>) -> io::Result<UnixStream> {
    match socket {
        Some(path) => UnixStream::connect(path),
        None => UnixStream::connect(STOCK_SOCKET)
            .or_else(|first| UnixStream::connect(OWN_SOCKET).map_err(|_| first)),
    }
}

/// The system's words without the number that Rust adds.
fn words_of(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// The answer to `status`; `counts` are clients and clusters.
pub fn status_text(options: &Options, counts: (usize, usize), verbose: bool) -> String {
    let core = &options.core;
    let certificate = core.tls != TlsSupport::Unsupported && core.client_cert_required;
    let suffix = if certificate { " (client certificate required)" } else { "" };
    let mut text = format!(
        "QNetd address:\t\t\t{}\nTLS:\t\t\t\t{}{suffix}\nConnected clients:\t\t{}\n\
         Connected clusters:\t\t{}\n",
        address(options),
        tls_word(core.tls),
        counts.0,
        counts.1
    );
    if verbose {
        if core.max_clients != 0 {
            push(&mut text, format_args!("Maximum allowed clients:\t{}\n", core.max_clients));
        }
        let (send, receive) = (core.max_reply_bytes, core.max_message_bytes);
        push(&mut text, format_args!("Maximum send/receive size:\t{send}/{receive} bytes\n"));
    }
    text
}

/// Where the daemon listens, as it was told.
pub fn address(options: &Options) -> String {
    match options.listen {
        Some(address) => format!("{}:{}", address.ip(), address.port()),
        None => {
            let host = options.listen_address.as_deref().unwrap_or("*");
            format!("{host}:{}", options.port)
        }
    }
}

/// The stock daemon's word.
pub fn tls_word(tls: TlsSupport) -> &'static str {
    match tls {
        TlsSupport::Unsupported => "Unsupported",
        TlsSupport::Supported => "Supported",
        TlsSupport::Required => "Required",
    }
}

/// The answer to `list`.
pub fn list_text(clusters: &[StockCluster], only: Option<&[u8]>, verbose: bool) -> String {
    let mut text = String::new();
    for cluster in clusters.iter().filter(|c| only.is_none_or(|name| c.name.0 == name)) {
        let suffix = if cluster.keep_active_partition { " (KAP Tie-breaker)" } else { "" };
        push(&mut text, format_args!("Cluster \"{}\":\n", cluster.name));
        push(&mut text, format_args!("    Algorithm:\t\t{}{suffix}\n", cluster.algorithm));
        let tie_breaker = match cluster.tie_breaker {
            TieBreaker::Lowest => "lowest node ID".to_owned(),
            TieBreaker::Highest => "highest node ID".to_owned(),
            TieBreaker::Node(node) => format!("node ID {node}"),
        };
        push(&mut text, format_args!("    Tie-breaker:\tNode with {tie_breaker}\n"));
        for client in &cluster.clients {
            client_text(&mut text, client, verbose);
        }
    }
    text
}

fn client_text(text: &mut String, client: &StockClient, verbose: bool) {
    push(text, format_args!("    Node ID {}:\n", client.node));
    let mut line = |name: &str, value: &str| push(text, format_args!("        {name}{value}\n"));
    line("Client address:\t\t", &client.address);
    if verbose {
        line("HB interval:\t\t", &format!("{}ms", client.heartbeat_ms));
    }
    if let Some(version) = client.config_version {
        line("Configuration version:\t", &version.to_string());
    }
    if !client.config.is_empty() {
        let nodes = client.config.iter().map(|info| match info.data_center {
            0 => info.node.to_string(),
            data_center => format!("{} ({data_center})", info.node),
        });
        line("Configured node list:\t", &nodes.collect::<Vec<_>>().join(", "));
    }
    if verbose {
        line("Ring ID:\t\t", &client.ring.to_string());
    }
    if !client.members.is_empty() {
        let nodes = client.members.iter().map(NodeId::to_string);
        line("Membership node list:\t", &nodes.collect::<Vec<_>>().join(", "));
    }
    if verbose || client.heuristics != Heuristics::Undefined {
        let (membership, regular) = (client.membership_heuristics, client.regular_heuristics);
        let details = if verbose {
            format!(" (membership: {membership}, regular: {regular})")
        } else {
            String::new()
        };
        line("Heuristics:\t\t", &format!("{}{details}", client.heuristics));
    }
    if verbose {
        line(
            "TLS active:\t\t",
            match (client.is_secure, client.is_verified) {
                (true, true) => "Yes (client certificate verified)",
                (true, false) => "Yes",
                (false, _) => "No",
            },
        );
    }
    if let Some(vote) = client.last_sent {
        let decided = client.last_ack_nack.map(|vote| format!(" ({vote})")).unwrap_or_default();
        line("Vote:\t\t\t", &format!("{vote}{decided}"));
    }
}

fn push(text: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = text.write_fmt(part);
}

#[cfg(test)]
mod tests;

//! Called as `fence_haguard`: a fence agent, so that Pacemaker, PVE and everything else that speaks
//! their interface (FenceAgentAPI) asks a gateway like any power switch. Options come as
//! `key=value` lines on standard input, or as flags.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, BufRead};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow, bail};
use fence::daemon::local::Ask;
use protocol::fence::{GATEWAY_PORT, PowerAction, Progress, Request};
use protocol::ids::NodeId;

use super::door::{Door, Place};
use super::{is_good, read_power, requester, snapshot, table, to_end};
use crate::screen::{complain, say};

/// The name that makes haguard a fence agent.
pub const NAME: &str = "fence_haguard";

/// An action succeeded, or the node is on.
const EXIT_ON: u8 = 0;
/// An action failed, or nothing can be said.
const EXIT_FAILED: u8 = 1;
/// `status`: the node is off.
const EXIT_OFF: u8 = 2;

/// Longer input is no fence agent's.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// One option: its name, the flag, its type, its default, and what it is.
struct Parameter {
    name: &'static str,
    flag: &'static str,
    kind: &'static str,
    default: Option<&'static str>,
    text: &'static str,
    required: bool,
}

const PARAMETERS: &[Parameter] = &[
    Parameter {
        name: "action",
        flag: "-o, --action=[action]",
        kind: "string",
        default: Some("reboot"),
        text: "What to do: off, on, reboot, status, monitor, list, metadata",
        required: true,
    },
    Parameter {
        name: "plug",
        flag: "-n, --plug=[id]",
        kind: "string",
        default: None,
        text: "The node id of the target, as in nodeid of corosync.conf; with node names, set \
               pcmk_host_map to NAME:ID;NAME:ID",
        required: false,
    },
    Parameter {
        name: "ip",
        flag: "-a, --ip=[host]",
        kind: "string",
        default: None,
        text: "The gateway; without it, the one on this machine by its local socket",
        required: false,
    },
    Parameter {
        name: "ipport",
        flag: "-u, --ipport=[port]",
        kind: "integer",
        default: Some("5413"),
        text: "Its port",
        required: false,
    },
    Parameter {
        name: "requester",
        flag: "--requester=[id]",
        kind: "integer",
        default: None,
        text: "The node id of this node; needed where its certificate is not bound to it",
        required: false,
    },
    Parameter {
        name: "tls_ca",
        flag: "--tls-ca=[file]",
        kind: "string",
        default: Some("/etc/haguard/ca.pem"),
        text: "The authority's certificate, PEM",
        required: false,
    },
    Parameter {
        name: "tls_cert",
        flag: "--tls-cert=[file]",
        kind: "string",
        default: Some("/etc/haguard/node.pem"),
        text: "This node's certificate, PEM",
        required: false,
    },
    Parameter {
        name: "tls_key",
        flag: "--tls-key=[file]",
        kind: "string",
        default: Some("/etc/haguard/node-key.pem"),
        text: "Its private key, PEM",
        required: false,
    },
    Parameter {
        name: "run_dir",
        flag: "--run-dir=[directory]",
        kind: "string",
        default: Some("/run/haguard"),
        text: "Where the gateway on this machine has its local socket",
        required: false,
    },
];

/// Its actions, as the metadata names them.
const ACTIONS: &[&str] =
    &["on", "off", "reboot", "status", "monitor", "list", "metadata", "validate-all"];

/// Runs the agent.
pub fn run(arguments: &[String]) -> ExitCode {
    let done = options(arguments, &mut io::stdin().lock()).and_then(|options| act(&options));
    ExitCode::from(done.unwrap_or_else(|error| {
        complain(&format!("{NAME}: {error:#}"));
        EXIT_FAILED
    }))
}

/// What was said, by the parameters' names. Options of fenced and Pacemaker that only other agents
/// know are theirs to send and ours to skip.
fn options(arguments: &[String], input: &mut dyn BufRead) -> Result<BTreeMap<String, String>> {
    let mut options = BTreeMap::new();
    if arguments.is_empty() {
        let mut text = String::new();
        let mut bounded = io::Read::take(input, INPUT_BYTES_MAX);
        io::Read::read_to_string(&mut bounded, &mut text).context("standard input")?;
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (key, value) =
                line.split_once('=').ok_or_else(|| anyhow!("\"{line}\" is no key=value"))?;
            options.insert(key.trim().to_owned(), value.trim().to_owned());
        }
        return Ok(options);
    }
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let (flag, inline) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let parameter = PARAMETERS.iter().find(|parameter| {
            parameter.flag.split(", ").any(|known| known.split('=').next() == Some(flag))
        });
        let Some(parameter) = parameter else {
            bail!("unknown flag {flag}: options come as key=value lines on standard input");
        };
        let value = inline.or_else(|| words.next().cloned());
        let value = value.with_context(|| format!("{flag} needs a value"))?;
        options.insert(parameter.name.to_owned(), value);
    }
    Ok(options)
}

fn act(options: &BTreeMap<String, String>) -> Result<u8> {
    let action = options.get("action").or_else(|| options.get("option")).map(String::as_str);
    match action.unwrap_or("reboot") {
        "metadata" => {
            say(metadata().trim_end());
            Ok(EXIT_ON)
        }
        "validate-all" => {
            door(options)?;
            Ok(EXIT_ON)
        }
        "monitor" => monitor(&door(options)?),
        "list" => {
            for node in snapshot(&door(options)?)?.nodes.keys() {
                say(&format!("{node},"));
            }
            Ok(EXIT_ON)
        }
        "status" => {
            let node = target(options)?;
            let status = read_power(&door(options)?, node)?;
            match table::power_of(&status, node)? {
                "on" => {
                    say("Status: ON");
                    Ok(EXIT_ON)
                }
                "off" => {
                    say("Status: OFF");
                    Ok(EXIT_OFF)
                }
                _ => bail!("the power of node {node} cannot be read: see haguard fence list"),
            }
        }
        "off" => power(options, PowerAction::Off),
        "reboot" => power(options, PowerAction::Reboot),
        "on" => power(options, PowerAction::On),
        other => bail!("unknown action {other}: one of {}", ACTIONS.join(", ")),
    }
}

fn text<'a>(options: &'a BTreeMap<String, String>, name: &str) -> Option<&'a str> {
    let given = options.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let parameter = PARAMETERS.iter().find(|parameter| parameter.name == name);
    given.or(parameter.and_then(|parameter| parameter.default))
}

fn door(options: &BTreeMap<String, String>) -> Result<Door> {
    let path = |name| PathBuf::from(text(options, name).unwrap_or_default());
    let gateway = text(options, "ip").map(|host| {
        let port = text(options, "ipport").map_or(GATEWAY_PORT.to_string(), str::to_owned);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    });
    Door::find(&Place {
        gateway,
        run_dir: path("run_dir"),
        ca: path("tls_ca"),
        certificate: path("tls_cert"),
        key: path("tls_key"),
    })
}

/// The node to fence. Pacemaker names it `plug` or `port`, and older callers only `nodename`.
fn target(options: &BTreeMap<String, String>) -> Result<NodeId> {
    let named = ["plug", "port", "nodename"].iter().find_map(|name| text(options, name));
    let named = named.context("no target: set plug to a node id")?;
    node_id(named).with_context(|| {
        format!(
            "target \"{named}\": set pcmk_host_map to NAME:ID;NAME:ID, so that plug is a node id"
        )
    })
}

fn node_id(text: &str) -> Result<NodeId> {
    let id = text.parse().ok().filter(|id| *id != 0).map(NodeId);
    id.with_context(|| format!("\"{text}\" is no node id"))
}

fn power(options: &BTreeMap<String, String>, action: PowerAction) -> Result<u8> {
    let (target, door) = (target(options)?, door(options)?);
    let named = text(options, "requester").map(node_id).transpose()?;
    let side = super::Side { requester: named.map(|node| node.0) };
    let request = Request {
        requester: requester(&door, &side).context("set requester to the id of this node")?,
        epoch: None,
        targets: [target].into(),
        action,
        reason: "a cluster manager asks".to_owned(),
    };
    let results = to_end(&door, &Ask::Fence(request), &mut |_, progress| {
        if let Progress::Step { text, .. } = progress {
            say(text);
        }
    })?;
    // What is on standard error is in Pacemaker's log.
    match results.get(&target) {
        Some(outcome) if is_good(outcome) => {
            say(&format!("Success: node {target}: {}", table::outcome(outcome)));
            Ok(EXIT_ON)
        }
        Some(outcome) => bail!("node {target}: {}", table::outcome(outcome)),
        None => bail!("the gateway says nothing of node {target}"),
    }
}

/// A gateway that would not work now is a failed monitor, so that Pacemaker says so beforehand.
fn monitor(door: &Door) -> Result<u8> {
    let status = snapshot(door)?;
    for alarm in &status.alarms {
        complain(&format!("{NAME}: {alarm}"));
    }
    Ok(if status.alarms.is_empty() { EXIT_ON } else { EXIT_FAILED })
}

/// The agent's description (fence-agents `metadata.rng`).
fn metadata() -> String {
    let mut xml = String::from(
        "<?xml version=\"1.0\" ?>\n\
         <resource-agent name=\"fence_haguard\" shortdesc=\"Fence agent for haguard's fencing \
         gateway\">\n\
         <longdesc>fence_haguard asks a haguard fencing gateway to cut a node's power. The gateway \
         acts only for the side of the cluster that its arbiter has given the vote, proves that \
         the node is off, and keeps a journal.</longdesc>\n\
         <vendor-url></vendor-url>\n<parameters>\n",
    );
    for parameter in PARAMETERS {
        let Parameter { name, flag, kind, default, text, required } = parameter;
        let default = default.map(|value| format!(" default=\"{value}\"")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = write!(
            xml,
            "\t<parameter name=\"{name}\" unique=\"0\" required=\"{}\">\n\
             \t\t<getopt mixed=\"{flag}\" />\n\
             \t\t<content type=\"{kind}\"{default} />\n\
             \t\t<shortdesc lang=\"en\">{text}</shortdesc>\n\
             \t</parameter>\n",
            u8::from(*required)
        );
    }
    xml.push_str("</parameters>\n<actions>\n");
    for action in ACTIONS {
        let automatic = if *action == "on" { " automatic=\"0\"" } else { "" };
        let _ = writeln!(xml, "\t<action name=\"{action}\"{automatic} />");
    }
    xml.push_str("</actions>\n</resource-agent>\n");
    xml
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &str) -> Result<BTreeMap<String, String>> {
        options(&[], &mut input.as_bytes())
    }

    #[test]
    fn options_come_on_standard_input_or_as_flags() {
        let lines = read("# a comment\naction=off\n plug = 2 \nnodename=n2\n\n").unwrap();
        assert_eq!(lines["action"], "off");
        assert_eq!(target(&lines).unwrap(), NodeId(2));
        let flags = ["-o", "status", "--plug=3", "--ip", "gw"].map(str::to_owned);
        let flags = options(&flags, &mut "".as_bytes()).unwrap();
        assert_eq!((flags["action"].as_str(), flags["ip"].as_str()), ("status", "gw"));
        assert_eq!(target(&flags).unwrap(), NodeId(3));
        assert!(read("off").is_err());
        assert!(options(&["--bogus".to_owned()], &mut "".as_bytes()).is_err());
    }

    #[test]
    fn a_target_that_is_no_node_id_says_how_to_map_names() {
        let error = format!("{:#}", target(&read("plug=n2").unwrap()).unwrap_err());
        assert!(error.contains("pcmk_host_map"), "{error}");
        assert!(target(&read("action=off").unwrap()).is_err());
        assert!(target(&read("plug=0").unwrap()).is_err());
    }

    #[test]
    fn the_metadata_names_every_parameter_and_action() {
        let xml = metadata();
        for parameter in PARAMETERS {
            assert!(xml.contains(&format!("<parameter name=\"{}\"", parameter.name)));
        }
        for action in ACTIONS {
            assert!(xml.contains(&format!("<action name=\"{action}\"")));
        }
    }
}

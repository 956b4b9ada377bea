//! The command line of `haguard`: which verbs there are, and what it answers to by other names.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use ::qdevice::config::Places;
use clap::{Args, Parser, Subcommand};
use haguard::command::{certs, certutil, demo, fence, node, qdevice, qnetd, simulate, status};
use haguard::screen;

/// Keeps a two-node or even-sized cluster consistent when its network splits
#[derive(Debug, Parser)]
#[command(name = "haguard", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the arbiter; takes corosync-qnetd's flags (-h shows them)
    #[command(disable_help_flag = true)]
    Qnetd(Raw),
    /// Run the quorum device; takes corosync-qdevice's flags (-h shows them)
    #[command(disable_help_flag = true)]
    Qdevice(Raw),
    /// Run the node stack: membership, votes, watchdog, service
    Node(node::Flags),
    /// Outlives the node daemon and ends what it started
    #[command(disable_help_flag = true, hide = true)]
    Keeper(Raw),
    /// Show the node and the arbiter of this machine
    Status(status::Options),
    /// The fencing gateway: cut the power of lost nodes, and prove that they are off
    Fence(fence::Options),
    /// Make certificates for a cluster and its arbiter
    Certs(certs::Options),
    /// Show the main job on this machine: no root, no other software, under a minute
    Demo(demo::Options),
    /// Try to break the safety rules: the machines of all daemons on a virtual clock, with faults
    Simulate(simulate::Options),
    /// The network of a demo
    #[command(hide = true)]
    DemoRelay(demo::relay::Options),
    /// The guarded command of a demo
    #[command(hide = true)]
    DemoWriter(demo::writer::Options),
}

/// Arguments that someone else reads.
#[derive(Args, Debug)]
struct Raw {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    args: Vec<OsString>,
}

impl Raw {
    fn text(self) -> Vec<String> {
        self.args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let called = args.next().unwrap_or_default();
    let called = Path::new(&called);
    let rest = || std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned());
    let name = called.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match name {
        "corosync-qnetd" => qnetd::run(name, &rest().collect::<Vec<_>>()),
        "corosync-qnetd-tool" => ::qnetd::main_qnetd_tool(name, &rest().collect::<Vec<_>>()),
        "corosync-qdevice" => qdevice::run(name, &rest().collect::<Vec<_>>(), Places::Stock),
        "corosync-qnetd-certutil" => certutil::qnetd(name, &rest().collect::<Vec<_>>()),
        "corosync-qdevice-net-certutil" => certutil::node(name, &rest().collect::<Vec<_>>()),
        fence::agent::NAME => fence::agent::run(&rest().collect::<Vec<_>>()),
        "corosync-qdevice-tool" => qdevice::tool(name, &rest().collect::<Vec<_>>()),
        _ => run(Cli::parse().verb),
    }
}

fn run(verb: Verb) -> ExitCode {
    let (name, result) = match verb {
        Verb::Qnetd(raw) => return qnetd::run("haguard qnetd", &raw.text()),
        Verb::Qdevice(raw) => return qdevice::run("haguard qdevice", &raw.text(), Places::Haguard),
        // Before anything has made a thread: it forks.
        Verb::Keeper(raw) => return ::node::keeper::main(&["keeper"], raw.args),
        Verb::Node(flags) => ("node", node::run(flags).map(|()| ExitCode::SUCCESS)),
        Verb::Status(options) => ("status", status::run(&options)),
        Verb::Fence(options) => ("fence", fence::run(&options)),
        Verb::Certs(options) => ("certs", certs::run(&options).map(|()| ExitCode::SUCCESS)),
        Verb::Demo(options) => ("demo", demo::run(&options)),
        Verb::Simulate(options) => ("simulate", simulate::run(&options)),
        Verb::DemoRelay(options) => {
            ("demo-relay", demo::relay::run(&options).map(|()| ExitCode::SUCCESS))
        }
        Verb::DemoWriter(options) => {
            ("demo-writer", demo::writer::run(&options).map(|()| ExitCode::SUCCESS))
        }
    };
    result.unwrap_or_else(|error| {
        screen::complain(&format!("haguard {name}: {error:#}"));
        ExitCode::FAILURE
    })
}

//! A real machine dies: two virtual machines with Debian's own kernel, real watchdogs and the real
//! haguard. What each case claims is checked against the emulator's own event times; what is
//! printed is the transcript that `docs/vm-transcript.txt` keeps.
//!
//! `cargo bench -p haguard --bench vm -- [--case NAME] [--runs N]`; about twenty minutes. The first
//! run fetches the kernel with apt and unpacks it below `target/`. Exit code 1 if a claim did not
//! hold.

#![expect(clippy::unwrap_used, reason = "a measurement ends where it goes wrong")]

#[path = "../tests/common/mod.rs"]
mod common;
#[path = "../tests/vm/mod.rs"]
#[allow(dead_code, reason = "the test uses the rest")]
mod vm;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use clap::Parser;
use haguard::screen::say;

use vm::cases::{CASES, Case};
use vm::kernel::Kernel;
use vm::lab::Base;
use vm::must;

#[derive(Debug, Parser)]
struct Options {
    /// Only this case.
    #[arg(long)]
    case: Option<String>,
    /// How often each case is gone through.
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Runs a case and prints what it has shown; whether its claim held.
fn show(case: &Case, base: &Arc<Base>) -> bool {
    say(&format!("\ncase {}\nabout {}", case.name, case.about));
    // Why is printed by the panic itself.
    match catch_unwind(AssertUnwindSafe(|| case.run(base))) {
        Ok(shown) => {
            let fault = shown.fault.as_secs_f64();
            say(&format!("fault at {fault:.3}\n{}result ok: {}", shown.story, shown.result));
            true
        }
        Err(_) => {
            say("result FAILED");
            false
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    if !options.bench {
        // `cargo test --all-targets` comes by; this takes twenty minutes.
        say("vm: run with cargo bench -p haguard --bench vm");
        return ExitCode::SUCCESS;
    }
    let wanted = |case: &&Case| options.case.as_ref().is_none_or(|name| name == case.name);
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    if cases.is_empty() {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        say(&format!("vm: there is no such case; there are {}", names.join(", ")));
        return ExitCode::FAILURE;
    }
    let kernel = Kernel::fetch();
    let release = kernel.release.clone();
    let base = Arc::new(Base::new(kernel));
    let emulator = must(Command::new("qemu-system-x86_64").arg("--version"));
    // Under which profile it was built is not among the arguments.
    let profile = if cfg!(debug_assertions) { " --profile dev" } else { "" };
    let more: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let more = if more.is_empty() { String::new() } else { format!(" -- {}", more.join(" ")) };
    say(&format!("command cargo bench{profile} -p haguard --bench vm{more}"));
    let date = must(Command::new("date").args(["-u", "+%F %T"]));
    say(&format!("date {} UTC", date.trim()));
    say(&format!("kernel {release}"));
    say(&format!("emulator {}", emulator.lines().next().unwrap_or_default()));
    let mut failed = 0;
    for _ in 0..options.runs {
        failed += cases.iter().filter(|case| !show(case, &base)).count();
    }
    say(&format!("\n{} cases, {failed} failed", cases.len() * options.runs));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

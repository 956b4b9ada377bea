//! What it takes from "off" to its proof over IPMI, beside fence_ipmilan, and a hundred at once.
//!
//! `cargo bench -p fence --bench ipmi`: needs Debian's openipmi, ipmitool and fence-agents. Each BMC
//! is an ipmi_sim at an address of 127.77.0.0/16 whose machine is a real process.

#![expect(clippy::print_stdout, reason = "a bench says what it has measured")]
#![expect(clippy::unwrap_used, reason = "what is shared with the tests ends where it goes wrong")]

#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/ipmi/common.rs"]
mod common;
#[expect(dead_code, reason = "shared with the tests, which use more of it")]
#[path = "../tests/ipmi/sim.rs"]
mod sim;

use std::process::{Command as Program, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use fence::device::{Command, Power, Seen};
use fence::ipmi::Bmc;
use host::clock::Clock;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use protocol::time::Hurry;
use sim::Sim;
use tokio::task::JoinSet;

const ROUNDS: usize = 10;
const TARGETS: u8 = 100;
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    if !common::has(&["ipmi_sim", "ipmitool", "fence_ipmilan"]) {
        return Ok(());
    }
    side_by_side().await?;
    many_at_once().await
}

fn client(sim: &Sim) -> Bmc {
    common::bmc(sim.address(), 623, common::login(sim::USER, sim::PASSWORD))
}

/// Off, and read back in a fresh session until it reads off.
async fn off_and_proof(bmc: &Bmc) -> Result<()> {
    ensure!(bmc.run(Command::Off, LIMIT).await? == Seen::Accepted, "off was not accepted");
    while bmc.run(Command::Status, LIMIT).await? != Seen::Power(Power::Off) {}
    Ok(())
}

async fn fence_ipmilan(sim: &Sim, more: &[&str]) -> Result<()> {
    let mut args = vec!["-a", sim.address(), "-l", sim::USER, "-p", sim::PASSWORD, "-P", "-C", "3"];
    args.extend_from_slice(more);
    args.extend_from_slice(&["-o", "off"]);
    let mut program = Program::new("fence_ipmilan");
    program.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let ended = tokio::process::Command::from(program).status().await;
    let ended = ended.context("fence_ipmilan does not start")?;
    ensure!(ended.success(), "fence_ipmilan: {ended}");
    Ok(())
}

/// Ours, fence_ipmilan as fast as it goes, and as it is: in turns, so that all meet the same load.
async fn side_by_side() -> Result<()> {
    let sim = Sim::start("127.77.9.1", "a123456789abcdefa123456789abcd09");
    let (bmc, mut clock) = (client(&sim), Clock::start(Hurry::Slow));
    let mut took = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for (who, took) in took.iter_mut().enumerate() {
            bmc.run(Command::On, LIMIT).await?;
            ensure!(sim.machine().is_some(), "the machine does not run");
            let before = clock.now();
            match who {
                0 => off_and_proof(&bmc).await?,
                1 => fence_ipmilan(&sim, &["--power-wait=0"]).await?,
                _ => fence_ipmilan(&sim, &[]).await?,
            }
            took.push(clock.now().since(before));
            ensure!(sim.machine().is_none(), "the machine runs on");
        }
    }
    println!("off to proof on ipmi_sim, {ROUNDS} of each in turns   min  median     max");
    let names = ["haguard", "fence_ipmilan -C 3 --power-wait=0", "fence_ipmilan -C 3"];
    for (name, mut took) in names.into_iter().zip(took) {
        took.sort();
        let [min, median, max] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| millis(took[at]));
        println!("{name:<42} {min} {median} {max}");
    }
    Ok(())
}

fn millis(duration: Duration) -> String {
    format!("{:>6.1}ms", duration.as_secs_f64() * 1000.0)
}

/// A hundred BMCs, each with a process of its own, all off at the same moment.
async fn many_at_once() -> Result<()> {
    let launch = |n| Sim::launch(&format!("127.77.8.{n}"), &format!("{:032x}", u32::from(n) + 8));
    let sims: Vec<Sim> = (1..=TARGETS).map(launch).collect();
    sims.iter().for_each(Sim::wait);
    let bmcs: Vec<Arc<Bmc>> = sims.iter().map(|sim| Arc::new(client(sim))).collect();
    for bmc in &bmcs {
        bmc.run(Command::On, LIMIT).await?;
    }
    ensure!(sims.iter().all(|sim| sim.machine().is_some()), "not all machines run");
    let mut clock = Clock::start(Hurry::Slow);
    let (own, theirs, start) = (own_cpu()?, cpu_of(&sims)?, clock.now());
    let mut offs = JoinSet::new();
    for bmc in bmcs {
        let mut clock = clock.clone();
        offs.spawn(async move { off_and_proof(&bmc).await.map(|()| clock.now().since(start)) });
    }
    let mut took = Vec::new();
    while let Some(off) = offs.join_next().await {
        took.push(off??);
    }
    let (own, theirs) = (own_cpu()? - own, cpu_of(&sims)? - theirs);
    ensure!(sims.iter().all(|sim| sim.machine().is_none()), "a machine runs on");
    took.sort();
    let median = millis(took[took.len() / 2]);
    let last = millis(took.last().copied().unwrap_or_default());
    println!("{TARGETS} at once: all confirmed off after{last}, the median after{median}");
    println!("  our processor time {own} ms; that of ipmi_sim and its scripts {theirs} ms");
    Ok(())
}

/// User and system time of this process, in milliseconds.
fn own_cpu() -> Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let both: TimeVal = usage.user_time() + usage.system_time();
    Ok(both.num_milliseconds())
}

/// The same of all ipmi_sim processes and the scripts they have waited for (proc(5), ticks of a
/// hundredth of a second).
fn cpu_of(sims: &[Sim]) -> Result<i64> {
    let mut ticks = 0;
    for sim in sims {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", sim.pid()))?;
        let (_, behind) = stat.rsplit_once(')').ok_or_else(|| anyhow!("no stat"))?;
        let fields = behind.split_whitespace().skip(11).take(4);
        ticks += fields.filter_map(|field| field.parse::<i64>().ok()).sum::<i64>();
    }
    Ok(ticks * 10)
}

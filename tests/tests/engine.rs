//! The simulator's engine: that it may leave work out, and that its machines are told what the
//! daemons tell theirs.

use node::conf;
use node::core::Identity;
use node::daemon::translate;
use node::keeper;
use protocol::ids::{BootId, InstanceId, NodeId};
use protocol::times;
use protocol::vote::{Bound, WatchdogClass};
use qnetd::config::{Invocation, Places};
use simulator::sabotage::Sabotage;
use simulator::world::World;
use simulator::{Outcome, Scenario, run_in_full, run_sabotaged};

/// All that somebody can see of a run.
fn seen(outcome: &Outcome) -> String {
    let Outcome { violation, end, steps, core_steps, hash, chronicle, .. } = outcome;
    let Outcome { became_quorate, starts, takeovers, settled_in, .. } = outcome;
    format!(
        "{violation:?} {end} {steps} {core_steps} {hash:x} {became_quorate} {starts} {takeovers} \
         {settled_in:?}\n{chronicle}"
    )
}

/// After most steps only what can have changed is looked at. That finds the same at the same step.
fn compare(seeds: std::ops::Range<u64>, nodes: u32, sabotage: Option<Sabotage>) -> usize {
    let mut broken = 0;
    for seed in seeds {
        let mut scenario = Scenario::random_of(seed, nodes..=nodes);
        "told".clone_into(&mut scenario.name);
        let quick = run_sabotaged(&scenario, sabotage);
        let full = run_in_full(&scenario, sabotage);
        assert_eq!(seen(&quick), seen(&full), "seed {seed}");
        broken += usize::from(quick.violation.is_some());
    }
    broken
}

#[test]
fn a_look_at_what_has_changed_sees_what_a_look_at_everything_sees() {
    assert_eq!(compare(0..100, 2, None), 0);
    assert_eq!(compare(0..20, 4, None), 0);
}

#[test]
fn it_sees_a_broken_rule_at_the_same_step() {
    let mut broken = 0;
    for sabotage in [
        Sabotage::LossNotApplied,
        Sabotage::GrantForgotten,
        Sabotage::EmptyDiskRemembers,
        Sabotage::KeeperIgnoresDeadline,
    ] {
        broken += compare(0..40, 2, Some(sabotage));
    }
    assert!(broken > 5, "{broken} broken");
}

/// The cluster of a scenario that says nothing of it, in the daemons' words. There is no time in it.
const CONF: &str = "totem {
  version: 2
  cluster_name: simulated
}
nodelist {
  node {
    nodeid: 1
    ring0_addr: 192.0.2.1
  }
  node {
    nodeid: 2
    ring0_addr: 192.0.2.2
  }
}
quorum {
  provider: corosync_votequorum
  device {
    model: net
    votes: 1
    net {
      host: arbiter
      algorithm: ffsplit
      tls: required
      keep_active_partition_tie_breaker: off
    }
  }
}
haguard {
  watchdog: process
  trust_process_watchdog: yes
  service {
    name: service
    command: /bin/service
  }
}
";

#[test]
fn a_node_and_its_device_are_told_what_the_daemon_tells_them() {
    let loaded = conf::load("corosync.conf", CONF.as_bytes(), &conf::Options::default()).unwrap();
    let scenario = Scenario::parse("seed = 0").unwrap();
    let world = World::new(&scenario, None);
    for node in scenario.nodes() {
        let identity = Identity { instance: InstanceId(0), boot: BootId(0), seed: 0 };
        let options = keeper::Options::new("/run".into());
        assert_eq!(options.watchdog, scenario.topology.watchdog(node));
        let bound_ms = u32::try_from(times::STOP_PROOF.as_millis()).unwrap();
        let bound = Bound { class: WatchdogClass::C, bound_ms };
        let daemon = translate::core_config(&loaded.conf, node, bound);
        let welcome = translate::welcome(&loaded.conf, node, identity, bound);
        let (mut config, told) = world.configured(node).unwrap();
        // A number for the text of the configuration, of which there is none here.
        config.digest = daemon.digest;
        assert_eq!(format!("{config:?}"), format!("{daemon:?}"));
        assert_eq!(told.device, welcome.device);
        assert_eq!((told.bound, told.nodes), (welcome.bound, welcome.nodes));
    }
    assert!(world.configured(NodeId(3)).is_none());
}

#[test]
fn the_arbiter_is_set_as_its_daemon_sets_it() {
    let Ok(Invocation::Run(options)) = qnetd::config::parse(&[], Places::Haguard) else {
        panic!("no arguments are an invocation")
    };
    let told = World::arbiter_settings();
    assert_eq!(format!("{told:?}"), format!("{:?}", options.core));
}

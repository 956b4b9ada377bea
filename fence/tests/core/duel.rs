//! Both halves of a split ask at the same moment.

use fence::core::{Event, Memory, RequestId};
use fence::device::Command;
use protocol::fence::{Outcome, PowerAction};
use protocol::ids::NodeId;
use protocol::time::Time;

use crate::bench::{Bench, config, ms, request};

#[test]
fn of_two_who_ask_at_the_same_moment_exactly_one_is_granted() {
    let mut wins = [0, 0];
    for seed in 0..200_u64 {
        let mut bench = Bench::with_memory(config(), Memory::default(), seed);
        let winner = u32::try_from(bench.rng.below(2)).expect("small") + 1;
        let loser = 3 - winner;
        bench.arbiter.holders = [NodeId(winner)].into();
        bench.arbiter.takes = ms(bench.rng.below(40));
        bench.arbiter.decides_at = Time::from_millis(bench.rng.below(3) * 400);
        for name in ["ipmi-1", "ipmi-2"] {
            bench.switch(name).takes = ms(1 + bench.rng.below(200));
        }
        let first = u32::try_from(bench.rng.below(2)).expect("small") + 1;
        for node in [first, 3 - first] {
            let apart = ms(bench.rng.below(2) * bench.rng.below(20));
            let request = request(node, &[3 - node], PowerAction::Off);
            bench.later(apart, Event::Requested { id: RequestId(node.into()), request });
        }
        let won = bench.outcome(winner.into(), loser);
        let lost = bench.outcome(loser.into(), winner);
        bench.run_for(ms(30_000));
        assert!(matches!(won, Outcome::Off { .. }), "seed {seed}: {won:?}");
        assert!(matches!(lost, Outcome::Refused { .. }), "seed {seed}: {lost:?}");
        assert!(bench.orders(&format!("ipmi-{winner}"), Command::Off).is_empty(), "seed {seed}");
        assert!(bench.switch(&format!("ipmi-{winner}")).on, "seed {seed}: both are dark");
        assert!(!bench.switch(&format!("ipmi-{loser}")).on, "seed {seed}");
        wins[usize::try_from(winner - 1).expect("small")] += 1;
    }
    assert!(wins[0] > 50 && wins[1] > 50, "{wins:?}");
}

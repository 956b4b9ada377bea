//! A machine's clock that jumps, as after a pause of the whole host.

use fence::device::Command;
use protocol::fence::{Ask, Outcome, PowerAction};

use crate::bench::{Bench, Fact, config, ms};

#[test]
fn a_clock_that_jumps_ahead_at_any_moment_cuts_nothing_on_an_older_word_of_the_arbiter() {
    for jump_after in 0.. {
        let mut bench = Bench::new(config());
        bench.arbiter.takes = ms(5);
        bench.ask(1, 1, &[2], PowerAction::Off);
        if (0..jump_after).any(|_| !bench.step()) || bench.done(1).is_some() {
            assert!(jump_after > 10, "{jump_after} steps are not a whole fence");
            return;
        }
        let jumped = bench.log.len();
        bench.now = bench.now + ms(3_600_000);
        let outcome = bench.outcome(1, 2);
        let later = &bench.log[jumped..];
        let place = |is: &dyn Fn(&Fact) -> bool| later.iter().position(|(_, fact)| is(fact));
        let cut = place(&|fact| matches!(fact, Fact::Ordered(_, Command::Off)));
        let asked =
            place(&|fact| matches!(fact, Fact::Asked(_, Ask::Register(_) | Ask::Attest(_))));
        assert!(
            cut.is_none_or(|cut| asked.is_some_and(|asked| asked < cut)),
            "cut on a word that is an hour old: {jump_after}"
        );
        match outcome {
            Outcome::Off { .. } => assert!(!bench.switch("ipmi-2").on, "{jump_after}"),
            Outcome::Refused { .. } | Outcome::Failed { .. } => {
                let proven = !bench.arbiter.proofs.is_empty();
                assert!(!proven || !bench.switch("ipmi-2").on, "{jump_after}");
            }
            Outcome::Rebooted { .. } | Outcome::On => panic!("{jump_after}: {outcome:?}"),
        }
    }
}

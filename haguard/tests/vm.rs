//! A real kernel dies, and a real watchdog resets its machine before the other one takes over. One
//! of the cases of `cargo bench -p haguard --bench vm`, whose transcript is in `docs/`.

#![expect(clippy::unwrap_used, reason = "a test ends where it goes wrong")]

mod common;
#[path = "vm/mod.rs"]
#[allow(dead_code, reason = "the bench uses the rest")]
mod vm;

use std::io::Write;
use std::sync::Arc;

use vm::cases::SHORT;
use vm::kernel::Kernel;
use vm::lab::Base;

#[test]
fn a_machine_whose_kernel_panics_is_reset_before_the_other_takes_over() {
    let missing = ["qemu-system-x86_64", "busybox", "mke2fs", "strip"];
    let missing = missing.into_iter().find(|program| !vm::is_installed(program));
    let kernel = match missing {
        Some(program) => Err(format!("{program} is not installed")),
        None => Kernel::find(),
    };
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(why) => {
            assert!(std::env::var_os("CI").is_none(), "{why}");
            return common::left_out(&why);
        }
    };
    let shown = SHORT.run(&Arc::new(Base::new(kernel)));
    let text = format!("{}{}\n", shown.story, shown.result);
    std::io::stdout().write_all(text.as_bytes()).unwrap();
}

//! The keeper as a program of its own: the same as `haguard keeper`.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::keeper::main(&[], std::env::args_os().skip(1))
}

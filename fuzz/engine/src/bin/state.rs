#![no_main]
//! See `targets::files::state`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::files::state(data));

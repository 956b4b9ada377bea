#![no_main]
//! See `targets::arbiter::arbiter`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::arbiter::arbiter(data));

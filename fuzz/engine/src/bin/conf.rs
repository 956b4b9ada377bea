#![no_main]
//! See `targets::files::conf`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::files::conf(data));

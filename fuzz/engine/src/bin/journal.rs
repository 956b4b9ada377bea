#![no_main]
//! See `targets::journal::journal`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::journal::journal(data));

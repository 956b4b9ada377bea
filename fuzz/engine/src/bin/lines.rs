#![no_main]
//! See `targets::lines::lines`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::lines::lines(data));

#![no_main]
//! See `targets::ipmi::ipmi`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::ipmi::ipmi(data));

#![no_main]
//! See `targets::codec::beat`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::codec::beat(data));

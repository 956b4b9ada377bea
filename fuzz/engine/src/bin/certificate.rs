#![no_main]
//! See `targets::certificates::certificate`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::certificates::certificate(data));

#![no_main]
//! See `targets::certificates::bundle`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::certificates::bundle(data));

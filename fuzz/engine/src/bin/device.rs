#![no_main]
//! See `targets::device::device`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::device::device(data));

#![no_main]
//! See `targets::codec::framing`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::codec::framing(data));

#![no_main]
//! See `targets::codec::message`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::codec::message(data));

#![no_main]
//! See `targets::certificates::handshake`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::certificates::handshake(data));

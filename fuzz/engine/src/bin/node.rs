#![no_main]
//! See `targets::node::node`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::node::node(data));

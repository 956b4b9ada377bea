#![no_main]
//! See `targets::ipmi::bmc`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::ipmi::bmc(data));

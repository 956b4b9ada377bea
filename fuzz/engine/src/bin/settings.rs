#![no_main]
//! See `targets::files::settings`.

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::files::settings(data));

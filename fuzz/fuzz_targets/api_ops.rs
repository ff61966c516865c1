#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| matryo_fuzz::fuzz_bodies::run("api_ops", data));

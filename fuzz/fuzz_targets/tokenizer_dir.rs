#![no_main]

use std::sync::Once;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // Panics of the tokenizer are caught and are errors: the fuzzer must not end at
    // them. One that is not caught ends it all the same.
    static QUIET: Once = Once::new();
    QUIET.call_once(|| std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))));
    matryo_fuzz::fuzz_bodies::run("tokenizer_dir", data);
});

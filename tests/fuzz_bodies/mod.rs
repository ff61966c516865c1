//! What the fuzz targets of `fuzz/` run: a function of bytes each, which panics
//! where a promise is broken. `tests/replay.rs` runs them without a fuzzer.

#[path = "../../src/bin/matryo/npy/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "only reading is fuzzed")]
mod npy;

mod api;
mod filters;
mod folders;
mod input;
#[cfg(feature = "embed")]
mod models;
mod vectors;

/// A target: its name, and its body.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// All targets.
pub(crate) const TARGETS: &[Target] = &[
    ("open_dir", folders::open_dir),
    ("wal_replay", folders::wal_replay),
    ("manifest", folders::manifest),
    ("segment_read", folders::segment_read),
    ("bitmap", folders::bitmap),
    ("filter_parse", filters::filter_parse),
    ("vector_import", vectors::vector_import),
    #[cfg(feature = "embed")]
    ("tokenizer_dir", models::tokenizer_dir),
    ("api_ops", api::api_ops),
];

/// Inputs to begin with.
pub(crate) fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "wal_replay" => folders::wal_seeds(),
        "manifest" => folders::manifest_seeds(),
        "segment_read" => folders::segment_seeds(),
        "bitmap" => folders::bitmap_seeds(),
        "filter_parse" => filters::seeds(),
        "vector_import" => vectors::seeds(),
        _ => input::seeds(),
    }
}

/// Runs a target.
#[allow(dead_code, unreachable_pub, reason = "only the fuzzer names its target")]
pub fn run(target: &str, data: &[u8]) {
    let (_, body) = TARGETS.iter().find(|t| t.0 == target).expect("a target");
    body(data);
}

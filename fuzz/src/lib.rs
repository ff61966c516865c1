//! The bodies of the targets, shared with `tests/replay.rs`.

#[path = "../../tests/fuzz_bodies/mod.rs"]
#[allow(dead_code, reason = "`tests/replay.rs` writes the seeds")]
pub mod fuzz_bodies;
#[path = "../../tests/fuzz_bodies/report.rs"]
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;

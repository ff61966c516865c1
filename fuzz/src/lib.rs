//! The bodies of the targets, shared with `tests/replay.rs`.

#[path = "../../tests/fuzz_bodies/mod.rs"]
pub mod fuzz_bodies;
#[path = "../../tests/fuzz_bodies/report.rs"]
mod report;
#[path = "../../tests/support/mod.rs"]
mod support;

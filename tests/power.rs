//! Power loss at every operation, with any part of what was not synced lost.
//!
//! Whatever is left opens as the state after the last commit that was
//! acknowledged, or after the one that was under way: never as anything else,
//! and again so after power loss during the recovery. `tests/sown.rs` shows that
//! this would be noticed.

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use matryo::Durability;
use support::cuts::{Wrong, sweep};
use support::long;

/// Workloads, shared out among the CPU's cores.
fn run(durability: Durability, workloads: u64) {
    let (next, states, start) = (AtomicU64::new(0), AtomicUsize::new(0), Instant::now());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= workloads {
                return;
            }
            let (unique, wrong) = sweep(Wrong::Nothing, durability, seed..seed + 1);
            assert_eq!(wrong, None);
            states.fetch_add(unique, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let (states, seconds) = (states.into_inner(), start.elapsed().as_secs_f64());
    println!(
        "{durability:?}: {workloads} workloads, {states} unique states, {seconds:.0} s, {:.0} a second",
        states as f64 / seconds
    );
}

#[test]
fn power_loss_takes_nothing_that_was_acknowledged() {
    run(Durability::Full, if long() { 10_000 } else { 64 });
}

#[test]
fn power_loss_takes_only_the_last_commits_where_they_are_buffered() {
    run(Durability::Buffered, if long() { 10_000 } else { 30 });
}

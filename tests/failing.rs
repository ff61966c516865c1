//! Every operation on the folder fails in turn, in every way, once or from then
//! on: what was acknowledged stays, what failed is not there by half. Where there
//! was no room, the same handle writes again once there is.

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use support::fails::{FAILURES, sweep};
use support::long;

#[test]
fn an_operation_that_fails_loses_nothing_that_was_acknowledged() {
    let workloads = if long() { 400 } else { 30 };
    let (next, cases) = (AtomicU64::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= workloads {
                return;
            }
            cases.fetch_add(sweep(seed, None, &FAILURES), Ordering::Relaxed);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    println!("{workloads} workloads, {} cases", cases.into_inner());
}

//! Every operation on the folder fails in turn, in every way, once or from then
//! on: what was acknowledged stays, what failed is not there by half. Where there
//! was no room, the same handle writes again once there is.

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use matryo::{Options, json};
use support::fails::{FAILURES, sweep};
use support::full::{
    deletes_go_on, nothing_goes_on_without_a_reserve, reserve_comes_and_goes, with_disk,
};
use support::{DIMS, long, vector};

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

#[test]
fn on_a_full_disk_deletes_merges_and_closes_go_on() {
    with_disk(|_, disk| deletes_go_on(disk));
    with_disk(|_, disk| nothing_goes_on_without_a_reserve(disk));
}

/// A process that died on a full disk left a log that must be copied to go on.
#[test]
fn on_a_full_disk_recovery_goes_on() {
    with_disk(|folder, disk| {
        let options = || Options::new().reserve(1 << 20);
        let db = (disk.create)(options());
        for id in 0..100 {
            db.upsert(id, &vector(id, DIMS), json!({"n": id})).expect("there is room");
        }
        for (reserve, works) in [(true, true), (false, false)] {
            let dead = folder.fork();
            if !reserve {
                dead.release_reserve();
            }
            dead.limit(Some(dead.used()));
            let opened = dead.open(options());
            assert_eq!(opened.is_ok(), works, "{:?}", opened.err());
            let Ok(db) = opened else { continue };
            assert_eq!(db.len(), 100);
            db.delete(7).expect("there is some left");
            assert!(db.upsert(7, &vector(7, DIMS), ()).is_err(), "but not for rows");
            assert_eq!(db.len(), 99);
        }
    });
}

#[test]
fn the_reserve_is_taken_before_the_first_commit_and_again_when_there_is_room() {
    with_disk(reserve_comes_and_goes);
}

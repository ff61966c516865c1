//! Power loss at every operation, with any part of what was not synced lost.
//!
//! Whatever is left opens as the state after the last commit that was
//! acknowledged, or after the one that was under way: never as anything else,
//! and again so after power loss during the recovery. `tests/sown.rs` shows that
//! this would be noticed.

mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use matryo::testing::Recorder;
use matryo::{Collection, Durability, Options, json};
use support::cuts::{Wrong, sweep};
use support::{DIMS, schema, sized, vector};

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
    run(Durability::Full, sized(120, 10_000));
}

#[test]
fn power_loss_takes_only_the_last_commits_where_they_are_buffered() {
    run(Durability::Buffered, sized(60, 10_000));
}

/// What a thread was told, and when: (operations, thread, its commit).
type Acknowledged = (usize, u64, u64);

/// Threads commit at once, each its own two rows, over and over.
fn commits_of_threads(recorder: &Recorder) -> Vec<Acknowledged> {
    let db = recorder.create(schema(), Options::new().memtable_bytes(3000)).expect("create");
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (db, told) = (&db, &told);
            scope.spawn(move || {
                for n in 1..=8 {
                    let mut batch = db.batch();
                    for id in [thread, 100 + thread] {
                        batch.upsert(id, &vector(n, DIMS), json!({"n": n})).expect("upsert");
                    }
                    batch.commit().expect("commit");
                    let operations = recorder.operations();
                    told.lock().expect("no panic").push((operations, thread, n));
                }
            });
        }
    });
    told.into_inner().expect("no panic")
}

fn commit_of(db: &Collection, id: u64) -> u64 {
    let row = db.get(id).expect("get");
    row.map_or(0, |row| row.payload["n"].as_u64().expect("a number"))
}

#[test]
fn power_loss_takes_nothing_of_commits_that_share_a_sync() {
    let mut states = 0;
    for _ in 0..sized(20, 500) {
        let recorder = Recorder::new(None);
        let told = commits_of_threads(&recorder);
        let mut replay = recorder.replay();
        for cut in 0..=recorder.operations() {
            for all in [false, true] {
                let Ok(db) = replay.folder(|_| all, None).open(Options::new()) else {
                    assert!(told.iter().all(|told| told.0 > cut), "does not open at {cut}");
                    continue;
                };
                for thread in 0..4 {
                    let known = told.iter().filter(|told| told.1 == thread && told.0 <= cut);
                    let at_least = known.map(|told| told.2).max().unwrap_or(0);
                    let n = commit_of(&db, thread);
                    assert_eq!(n, commit_of(&db, 100 + thread), "half a commit at {cut}");
                    assert!(n >= at_least, "thread {thread} lost {at_least}, has {n} at {cut}");
                }
                states += 1;
            }
            replay.step();
        }
    }
    println!("{states} states of commits that share a sync");
}

//! Every operation on the folder fails in turn, in every way, once or from then
//! on: what was acknowledged stays, what failed is not there by half. Where there
//! was no room, the same handle writes again once there is.

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use matryo::testing::Folder;
use matryo::{Options, json};
use support::fails::{FAILURES, sweep};
use support::full::{Disk, deletes_go_on, nothing_goes_on_without_a_reserve};
use support::{DIMS, long, schema, vector};

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

/// A folder in RAM, and the disk it makes.
fn with_disk(test: impl Fn(&Folder, &Disk)) {
    let folder = Folder::default();
    let disk = Disk {
        create: &|options| folder.create(schema(), options).expect("create"),
        open: &|options| folder.open(options),
        fill: &|| folder.limit(Some(folder.used())),
        free: &|| folder.limit(None),
        exact: true,
    };
    test(&folder, &disk);
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
    with_disk(|folder, disk| {
        let db = (disk.create)(Options::new());
        assert!(folder.used() < 1000, "a handle that does not write takes nothing");
        db.upsert(1, &vector(1, DIMS), ()).expect("commit");
        let reserve = Options::RESERVE;
        assert!((reserve..reserve + 2000).contains(&folder.used()));
        folder.limit(Some(folder.used()));
        db.delete(1).expect("on a full disk");
        assert!(folder.used() < 2000, "it is spent");
        folder.limit(None);
        db.upsert(2, &vector(2, DIMS), ()).expect("there is room");
        assert!(folder.used() > reserve, "it is there again");
        drop(db);
        // Another handle was told to keep none.
        let db = (disk.open)(Options::new().reserve(0)).expect("open");
        db.delete(2).expect("commit");
        assert!(folder.used() < 3000);
    });
}

//! Every operation on the folder fails in turn, in every way, once or from then
//! on: what was acknowledged stays, what failed is not there by half. Where there
//! was no room, the same handle writes again once there is.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use matryo::testing::{Failure, Folder, Recorder};
use matryo::{Collection, Durability, Error, Options, Result, json};
use support::fails::{
    FAILURES, first_writes, lost_at_once, reopened, survives, sweep, with_a_log,
    with_a_name_in_doubt, without_reserve,
};
use support::full::{
    deletes_go_on, loaded_rows_can_go, nothing_goes_on_without_a_reserve, reserve_comes_and_goes,
    with_disk,
};
use support::{DIMS, schema, sized, vector};

#[test]
fn an_operation_that_fails_loses_nothing_that_was_acknowledged() {
    let workloads = sized(30, 400);
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
fn what_is_reopened_after_a_failed_sync_trusts_no_name() {
    let cases = reopened(None).unwrap_or_else(|e| panic!("{e}"));
    assert!(cases > 100, "{cases}");
}

#[test]
fn what_is_acknowledged_is_there_if_the_power_fails_at_once() {
    let cases = lost_at_once(None).unwrap_or_else(|e| panic!("{e}"));
    assert!(cases > 10, "{cases}");
}

/// What is written first stands on a manifest whose name the medium may not have.
#[test]
fn whatever_is_written_first_trusts_no_name() {
    first_writes();
}

/// What a crash left takes the room that a log needs to be renewed.
#[test]
fn strays_on_a_full_disk_do_not_keep_a_collection_from_opening() {
    let folder = Folder::default();
    let db = folder.create(schema(), without_reserve()).expect("create");
    (0..40).for_each(|id| put(&db, id).expect("there is room"));
    let crashed = folder.fork();
    let len = |name: &str| crashed.read(name).expect("named").len() as u64;
    let room = 2 * len("MANIFEST");
    assert!(len("wal-0000000001") > 2 * room, "or the log needs no room of the stray's");
    crashed.write("seg-0000000077", vec![7; len("wal-0000000001") as usize]);
    crashed.limit(Some(crashed.used() + room));
    let found = crashed.open(without_reserve()).expect("the stray makes room");
    assert_eq!(found.len(), 120);
    assert!(!crashed.names().contains(&"seg-0000000077".to_owned()));
    found.verify().expect("intact");
}

/// An earlier copy of the manifest, and one file that is newer: whatever cannot be read, that is
/// refused, and the file stays.
#[test]
fn an_older_manifest_is_refused_whatever_fails() {
    let folder = Folder::default();
    let db = folder.create(schema(), without_reserve()).expect("create");
    put(&db, 1).expect("commit");
    db.flush().expect("flush");
    let old = folder.read("MANIFEST").expect("there");
    put(&db, 2).expect("commit");
    let folder = folder.fork();
    folder.write("MANIFEST", old);
    let before = folder.names();
    for at in 0.. {
        for code in [5, 24] {
            let recorder = Recorder::over(&folder);
            recorder.fail(at..at + 1, Failure { code, percent_written: 0 });
            let opened = recorder.open(without_reserve());
            let failed = recorder.tried() > at;
            assert!(opened.is_err(), "operation {at} fails with {code}");
            let mut replay = recorder.replay();
            while replay.step() {}
            assert_eq!(replay.folder(|_| true, None).names(), before, "operation {at}");
            if !failed {
                assert!(at > 4, "{at}");
                return;
            }
        }
    }
}

/// After a crash each operation of the open fails once for want of room.
#[test]
fn an_open_that_finds_no_room_leaves_what_opens() {
    for at in 0.. {
        let mut more = false;
        for code in [24, 28] {
            // A log whose name may be lost, and one that was not closed.
            let named = with_a_name_in_doubt(|db| put(db, 5));
            for recorder in [named, with_a_log()] {
                let (from, begin) = (recorder.operations(), recorder.tried());
                let how = Failure { code, percent_written: 50 };
                recorder.fail(begin + at..begin + at + 1, how);
                let opened = recorder.open(without_reserve());
                more |= recorder.tried() > begin + at;
                recorder.fail(0..0, how);
                if let Ok(db) = &opened {
                    db.verify().unwrap_or_else(|e| panic!("operation {at}: {e}"));
                }
                drop(opened);
                survives(&recorder, from, &format!("operation {at} fails with {code}"));
            }
        }
        if !more {
            assert!(at > 10, "{at}");
            return;
        }
    }
}

#[test]
fn on_a_full_disk_deletes_merges_and_closes_go_on() {
    with_disk(|_, disk| deletes_go_on(disk));
    with_disk(|_, disk| loaded_rows_can_go(disk));
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

/// What is lost of a load is told when it happens, and its cause again at the end.
#[test]
fn a_bulk_load_that_found_no_room_says_so_at_its_end() {
    for background in [false, true] {
        let folder = Folder::default();
        let options = || without_reserve().background(background).memtable_bytes(4000);
        let db = folder.create(schema(), options()).expect("create");
        folder.limit(Some(folder.used() + 2000));
        let mut bulk = db.bulk().expect("bulk");
        let mut add = |id| bulk.upsert(id, &vector(id, DIMS), ());
        let first = (0..1000).find_map(|id| add(id).err()).expect("no room");
        assert!(first.is_exhaustion(), "{first:?}");
        folder.limit(None);
        // There is room again, but not for what is gone.
        (0..1000).for_each(|id| add(id).expect("room"));
        let last = bulk.finish().expect_err("rows were lost").to_string();
        assert!(last.contains("rows were lost") && last.contains(&first.to_string()), "{last}");
        assert!(db.is_empty());
        db.verify().expect("whole");
    }
}

/// A commit that finds no room changes nothing, what the handle knows of the manifest included.
#[test]
fn a_first_commit_that_finds_no_room_leaves_the_handle_what_it_was() {
    let folder = Folder::default();
    put(&folder.create(schema(), Options::new()).expect("create"), 1).expect("put");
    folder.release_reserve();
    for room in (0..).step_by(7) {
        let folder = folder.fork();
        let db = folder.open(without_reserve()).expect("open");
        folder.limit(Some(folder.used() + room));
        if put(&db, 2).is_ok() {
            assert!(room > 500, "{room}");
            return;
        }
        db.verify().unwrap_or_else(|e| panic!("room for {room} bytes: {e}"));
        folder.limit(None);
        put(&db, 2).unwrap_or_else(|e| panic!("room for {room} bytes, and then more: {e}"));
        db.verify().unwrap_or_else(|e| panic!("room for {room} bytes, and then more: {e}"));
    }
}

#[test]
fn the_reserve_is_taken_before_the_first_commit_and_again_when_there_is_room() {
    with_disk(reserve_comes_and_goes);
}

fn buffered() -> Options {
    Options::new().durability(Durability::Buffered)
}

/// What a power cut now leaves of what was not made durable: nothing.
fn after_power_cut(recorder: &Recorder) -> BTreeSet<String> {
    let mut replay = recorder.replay();
    while replay.step() {}
    ids(&replay.folder(|_| false, None).open(Options::new()).expect("opens"))
}

#[test]
fn a_sync_makes_buffered_commits_durable() {
    let recorder = Recorder::new(None);
    let db = recorder.create(schema(), buffered()).expect("create");
    put(&db, 1).expect("commit");
    assert!(after_power_cut(&recorder).is_empty(), "or the test shows nothing");
    db.sync().expect("sync");
    let synced = recorder.syncs();
    assert_eq!(after_power_cut(&recorder), ids(&db));
    db.sync().expect("sync");
    assert_eq!(recorder.syncs(), synced, "there is nothing to do");
    put(&db, 2).expect("commit");
    let other = db.clone();
    other.close().expect("another clone is alive");
    assert_eq!(after_power_cut(&recorder), ids(&db));
    put(&db, 3).expect("and writes on");
    let rows = ids(&db);
    db.close().expect("close");
    assert_eq!(after_power_cut(&recorder), rows);
}

#[test]
fn what_keeps_a_sync_or_a_close_from_its_work_is_told() {
    let how = Failure { code: 5, percent_written: 0 };
    let recorder = Recorder::new(None);
    let db = recorder.create(schema(), buffered()).expect("create");
    put(&db, 1).expect("commit");
    recorder.fail(recorder.tried()..usize::MAX, how);
    assert!(matches!(db.sync(), Err(Error::Io { action: "sync", .. })));
    assert!(matches!(db.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(db.batch().commit(), Err(Error::Poisoned { .. })), "an empty one too");
    assert!(matches!(db.clone().close(), Err(Error::Poisoned { .. })));
    assert!(matches!(db.close(), Err(Error::Poisoned { .. })));

    let mut failures = 0;
    for options in [buffered(), Options::new()] {
        for at in 0.. {
            let recorder = Recorder::new(None);
            let db = recorder.create(schema(), options.clone()).expect("create");
            put(&db, 1).expect("commit");
            let (rows, begin) = (ids(&db), recorder.tried());
            recorder.fail(begin + at..begin + at + 1, how);
            let closed = db.close();
            if recorder.tried() <= begin + at {
                closed.expect("nothing failed");
                break;
            }
            // The folder is given back whatever happened.
            let reopened = recorder.open(Options::new()).expect("opens");
            assert_eq!(ids(&reopened), rows, "operation {at}");
            failures += usize::from(closed.is_err());
        }
    }
    assert!(failures >= 6, "{failures}: log and manifest are synced, and it is put in place");
}

/// Steps that sync each kind of file: log, manifest, segment, tombstones, graph, folder.
const SYNCING: [fn(&Collection) -> Result<()>; 6] = [
    |db| put(db, 1),
    Collection::flush,
    |db| db.delete(1).map(drop),
    |db| put(db, 2),
    Collection::flush,
    |db| db.build_graphs().map(drop),
];

fn put(db: &Collection, id: u64) -> Result<()> {
    let mut batch = db.batch();
    for id in [id, id + 100, id + 200] {
        batch.upsert(id, &vector(id, DIMS), json!({"n": id}))?;
    }
    batch.commit().map(drop)
}

fn ids(db: &Collection) -> BTreeSet<String> {
    db.snapshot().iter().map(|row| row.expect("readable").id.to_string()).collect()
}

/// File systems that promise blocks which they do not have say so when a file is synced, and
/// what of it is on disk then, nobody knows. Where that is the log, or the name of the manifest,
/// writing ends; a file that nothing names yet is given up, and writing goes on.
#[test]
fn a_sync_that_finds_no_room_ends_writing_only_where_something_is_in_doubt() {
    let mut seen: BTreeMap<(String, bool), usize> = BTreeMap::new();
    for code in [28, 122] {
        for at in 0.. {
            match sync_fails(Failure { code, percent_written: 0 }, at) {
                Outcome::OtherOperation => {}
                Outcome::Sync(file, ended) => *seen.entry((file, ended)).or_default() += 1,
                Outcome::NoMore => break,
            }
        }
    }
    let of = |file: &str, ended| seen.get(&(file.to_owned(), ended)).copied().unwrap_or(0);
    println!("{seen:?}");
    for file in ["seg-", "del-", "gra-", "tmp-"] {
        assert!(of(file, false) > 0 && of(file, true) == 0, "{file}: {seen:?}");
    }
    assert!(of("wal-", false) > 0, "a log that is new: {seen:?}");
    assert!(of("wal-", true) > 0, "one with commits: {seen:?}");
    assert!(of("mem", false) > 0 && of("mem", true) > 0, "before and after a rename: {seen:?}");
}

enum Outcome {
    OtherOperation,
    /// The beginning of the file's name, and whether writing ended.
    Sync(String, bool),
    NoMore,
}

/// One operation fails.
fn sync_fails(how: Failure, at: usize) -> Outcome {
    let recorder = Recorder::new(None);
    // With a reserve the steps would be tried again.
    let db = recorder.create(schema(), Options::new().reserve(0)).expect("create");
    let begin = recorder.tried();
    recorder.fail(begin + at..begin + at + 1, how);
    let mut states = vec![ids(&db)];
    let failed = SYNCING.iter().find_map(|step| {
        let error = step(&db).err();
        states.push(ids(&db));
        error
    });
    if recorder.tried() <= begin + at {
        return Outcome::NoMore;
    }
    let Some(Error::Io { action: "sync", path, .. }) = failed else {
        return Outcome::OtherOperation;
    };
    let name = path.file_name().expect("a name").to_string_lossy();
    let [.., before, seen] = states.as_slice() else { unreachable!("there was a step") };
    assert_eq!(before, seen, "{name}: what failed is not seen");
    let ended = match put(&db, 5) {
        Ok(()) => false,
        Err(Error::Poisoned { .. }) => true,
        Err(e) => panic!("{name}: {e}"),
    };
    // What the step that failed would have left, where it may be on disk.
    let reached = ids(&db);
    let whole = redo(states.len() - 1);
    let mut replay = recorder.replay();
    while replay.step() {}
    for lost in 0..=replay.pending() {
        for keep in [&|n| n != lost, &(|n| n < lost) as &dyn Fn(usize) -> bool] {
            let left = replay.folder(keep, None).open(Options::new()).expect("opens");
            let rows = ids(&left);
            assert!(rows == reached || (ended && rows == whole), "{name}: {rows:?}");
            left.verify().expect("intact");
        }
    }
    if !ended {
        db.flush().expect("there is room again");
        db.compact().expect("there is room again");
        db.verify().expect("intact");
    }
    assert_eq!(ids(&db), reached);
    Outcome::Sync(name.chars().take(4).collect(), ended)
}

/// The rows after so many steps, where none fails.
fn redo(steps: usize) -> BTreeSet<String> {
    let db = Folder::default().create(schema(), Options::new()).expect("create");
    SYNCING.iter().take(steps).for_each(|step| step(&db).expect("nothing fails"));
    ids(&db)
}

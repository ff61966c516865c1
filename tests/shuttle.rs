//! The whole engine under a scheduler that decides, at every lock, atomic and
//! operation of the folder, which thread runs next (the crate `shuttle`): at
//! random, and by PCT (Burckhardt et al., ASPLOS 2010), which finds any bug that
//! needs few switches with a known probability.
//!
//! Every writer counts its commits up in rows of its own, so one look at the rows
//! tells which of its commits they hold, and whether one is there in half.
//!
//! `cargo test --no-default-features --features shuttle --test shuttle`

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use matryo::testing::{Bug, Folder, Recorder, sow};
use matryo::{Collection, Options, RowId, Schema, Snapshot, json};
use shuttle::rand::RngCore;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler};
use shuttle::{Config, FailurePersistence, Runner, thread};
use support::sized;

const WRITERS: usize = 3;
/// The last writer loads in bulk.
const LOADER: usize = 2;
/// Rows of each writer.
const ROWS: u64 = 3;

fn schema() -> Schema {
    Schema::builder(2).build().expect("valid")
}

/// What the threads know of each other. None of it is a scheduling point.
#[derive(Default)]
struct Ledger {
    /// Commits begun and acknowledged, by writer.
    begun: [AtomicU64; WRITERS],
    acknowledged: [AtomicU64; WRITERS],
}

impl Ledger {
    fn acknowledged(&self) -> [u64; WRITERS] {
        [0, 1, 2].map(|w: usize| self.acknowledged[w].load(SeqCst))
    }

    fn begun(&self) -> [u64; WRITERS] {
        [0, 1, 2].map(|w: usize| self.begun[w].load(SeqCst))
    }
}

/// Which commit of each writer the rows hold.
fn commits(snapshot: &Snapshot) -> [u64; WRITERS] {
    let mut seen: [Vec<(u64, u64)>; WRITERS] = Default::default();
    for row in snapshot {
        let row = row.expect("readable");
        let RowId::U64(id) = row.id else { panic!("ids are numbers") };
        let n = row.payload["n"].as_u64().expect("a number");
        assert!(row.vector == [1.0, n as f32], "vector and payload are of one commit");
        seen[(id / ROWS) as usize].push((id, n));
    }
    let mut commits = [0; WRITERS];
    for (writer, rows) in seen.iter_mut().enumerate() {
        rows.sort_unstable();
        let n = rows.first().map_or(0, |row| row.1);
        let ids: Vec<u64> = rows.iter().map(|row| row.0).collect();
        let expected: Vec<u64> = if n == 0 { Vec::new() } else { ids_of(writer, n) };
        assert_eq!(ids, expected, "writer {writer}: half a commit, or a row twice: {rows:?}");
        assert!(rows.iter().all(|row| row.1 == n), "writer {writer}: half a commit: {rows:?}");
        commits[writer] = n;
    }
    assert_eq!(snapshot.len(), seen.iter().map(Vec::len).sum::<usize>() as u64);
    commits
}

/// Commit `n` of a writer leaves these rows: all, or all but one.
fn ids_of(writer: usize, n: u64) -> Vec<u64> {
    let first = writer as u64 * ROWS;
    let gone =
        if writer != LOADER && n.is_multiple_of(2) { Some(first + n / 2 % ROWS) } else { None };
    (first..first + ROWS).filter(|id| Some(*id) != gone).collect()
}

fn between(low: [u64; WRITERS], is: [u64; WRITERS], high: [u64; WRITERS], what: &str) {
    let within = (0..WRITERS).all(|w| low[w] <= is[w] && is[w] <= high[w]);
    assert!(within, "{what}: {is:?} is not within {low:?} and {high:?}");
}

fn write(db: &Collection, ledger: &Ledger, writer: usize, commits: u64) {
    for n in 1..=commits {
        ledger.begun[writer].store(n, SeqCst);
        let ids = ids_of(writer, n);
        if writer == LOADER {
            let mut bulk = db.bulk().expect("bulk");
            for id in ids {
                bulk.upsert(id, &[1.0, n as f32], json!({"n": n})).expect("fits");
            }
            bulk.finish().expect("finish");
        } else {
            let mut batch = db.batch();
            for id in writer as u64 * ROWS..(writer as u64 + 1) * ROWS {
                if ids.contains(&id) {
                    batch.upsert(id, &[1.0, n as f32], json!({"n": n})).expect("fits");
                } else {
                    batch.delete(id).expect("fits");
                }
            }
            batch.commit().expect("commit");
        }
        ledger.acknowledged[writer].store(n, SeqCst);
    }
}

/// A snapshot has all that was acknowledged before it, and never changes.
fn read(db: &Collection, ledger: &Ledger, times: usize) {
    let (mut kept, mut last) = (None, 0);
    for _ in 0..times {
        let low = ledger.acknowledged();
        let snapshot = db.snapshot();
        let now = commits(&snapshot);
        between(low, now, ledger.begun(), "a snapshot");
        assert!(snapshot.lsn() >= last, "time went backwards");
        last = snapshot.lsn();
        let (snapshot, then) = kept.get_or_insert((snapshot, now));
        assert_eq!(commits(snapshot), *then, "a snapshot changed");
    }
}

/// What a thread does with its handle.
type Work = Box<dyn FnOnce(Collection, &Ledger) + Send>;

/// Does all that at once; no handle is left then.
fn run(db: Collection, ledger: &Arc<Ledger>, works: Vec<Work>) {
    let start = |work: Work| {
        let (db, ledger) = (db.clone(), ledger.clone());
        thread::spawn(move || work(db, &ledger))
    };
    let threads: Vec<_> = works.into_iter().map(start).collect();
    drop(db);
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
}

/// Commits, bulk loads, merges by hand and in the background, a backup, readers, a
/// process that dies, and a close while all that goes on.
fn everything() {
    let folder = Folder::default();
    // Full after each commit, or after two: then one goes on beside a flush.
    let memtable = if shuttle::rand::thread_rng().next_u32() & 1 == 0 { 1 } else { 350 };
    let options = || Options::new().memtable_bytes(memtable);
    let db = folder.create_threaded(schema(), options()).expect("create");
    let ledger = Arc::new(Ledger::default());
    let mut works: Vec<Work> = Vec::new();
    for (writer, commits) in [(0, 3), (1, 2), (LOADER, 1)] {
        works.push(Box::new(move |db, ledger| write(&db, ledger, writer, commits)));
    }
    works.push(Box::new(|db, ledger| read(&db, ledger, 3)));
    works.push(Box::new(|db, ledger| {
        db.flush().expect("flush");
        db.compact().expect("compact");
        db.verify().expect("undamaged");
        let (low, copy) = (ledger.acknowledged(), Folder::default());
        copy.back_up(&db, &|_| true).expect("back up");
        let copy = copy.open(Options::new()).expect("a backup opens");
        between(low, commits(&copy.snapshot()), ledger.begun(), "a backup");
    }));
    let disk = folder.clone();
    works.push(Box::new(move |_, ledger| {
        thread::yield_now();
        let low = ledger.acknowledged();
        let (left, high) = (disk.fork(), ledger.begun());
        let again = left.open(Options::new()).expect("recovers");
        between(low, commits(&again.snapshot()), high, "after a death");
    }));
    run(db, &ledger, works);
    let again = folder.open(options()).expect("all handles are gone");
    assert_eq!(commits(&again.snapshot()), [3, 2, 1], "after a clean close");
    drop(again);
    let closed = folder.open(Options::new().read_only(true)).expect("closed");
    closed.verify().expect("whole");
}

/// Handles that only read come and go beside a writer: commits are seen in order.
fn readers_beside() {
    let folder = Folder::default();
    let options = Options::new().memtable_bytes(1);
    let db = folder.create_threaded(schema(), options).expect("create");
    let ledger = Arc::new(Ledger::default());
    let mut works: Vec<Work> = vec![
        Box::new(|db, ledger| write(&db, ledger, 0, 3)),
        Box::new(|db, ledger| {
            write(&db, ledger, LOADER, 1);
            db.compact().expect("compact");
        }),
    ];
    let disk = folder.clone();
    works.push(Box::new(move |_, ledger| {
        let low = ledger.acknowledged();
        let reader = disk.open(Options::new().read_only(true)).expect("opens");
        let mut last = commits(&reader.snapshot());
        between(low, last, ledger.begun(), "a reader");
        for _ in 0..3 {
            let low = ledger.acknowledged();
            reader.refresh().expect("refresh");
            let now = commits(&reader.snapshot());
            between(low, now, ledger.begun(), "a refresh");
            between(last, now, now, "a refresh, after the last");
            last = now;
        }
        reader.verify().expect("whole");
    }));
    run(db, &ledger, works);
    let reader = folder.open(Options::new().read_only(true)).expect("opens");
    assert_eq!(commits(&reader.snapshot()), [3, 0, 1], "after a clean close");
}

/// Two commits share a write, and there is room for one only: a reader beside may
/// see that before it is taken back, and must not keep it.
fn taken_back() {
    let folder = Folder::default();
    let db = folder.create(schema(), Options::new().reserve(0)).expect("create");
    let upsert =
        |db: &Collection, id: u64, n: u64| db.upsert(id, &[1.0, n as f32], json!({"n": n}));
    upsert(&db, 0, 1).expect("there is room");
    let before = folder.used();
    upsert(&db, 0, 2).expect("there is room");
    let frame = folder.used() - before;
    let reader = folder.open(Options::new().read_only(true)).expect("opens");
    folder.limit(Some(folder.used() + frame));
    let write = |id| {
        let db = db.clone();
        thread::spawn(move || upsert(&db, id, 1).is_ok())
    };
    let threads = [write(1), write(2)];
    for _ in 0..2 {
        reader.refresh().expect("refresh");
        thread::yield_now();
    }
    let done = threads.map(|thread| thread.join().expect("no panic"));
    assert!(!done[0] || !done[1], "there was room for one");
    folder.limit(None);
    for (id, done) in [1, 2].into_iter().zip(done) {
        if !done {
            upsert(&db, id, 2).expect("there is room");
        }
    }
    reader.refresh().expect("refresh");
    let rows = |db: &Collection| -> Vec<_> {
        [0, 1, 2].map(|id| db.get(id).expect("readable").expect("there")).into()
    };
    assert_eq!(rows(&reader), rows(&db), "the reader keeps what was taken back");
}

/// What a reader saw, or a writer was told, is there after the power was cut.
fn power_loss() {
    let recorder = Recorder::new(None);
    let options = Options::new().memtable_bytes(400);
    let db = recorder.create_threaded(schema(), options).expect("create");
    let ledger = Arc::new(Ledger::default());
    // How many operations there were when so much was known to be durable.
    let known: Arc<[[AtomicUsize; 4]; WRITERS]> = Arc::default();
    let mut threads = Vec::new();
    let note = |known: &[[AtomicUsize; 4]; WRITERS], recorder: &Recorder, seen: [u64; WRITERS]| {
        for (writer, n) in seen.into_iter().enumerate() {
            let at = recorder.operations().max(1);
            let _ = known[writer][n as usize].compare_exchange(0, at, SeqCst, SeqCst);
        }
    };
    for writer in [0, 1] {
        let (db, ledger, known, recorder) =
            (db.clone(), ledger.clone(), known.clone(), recorder.clone());
        threads.push(thread::spawn(move || {
            write(&db, &ledger, writer, 2);
            note(&known, &recorder, ledger.acknowledged());
        }));
    }
    let (reader, seen, disk) = (db.clone(), known.clone(), recorder.clone());
    threads.push(thread::spawn(move || {
        for _ in 0..3 {
            note(&seen, &disk, commits(&reader.snapshot()));
            thread::yield_now();
        }
    }));
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    drop(db);
    let mut replay = recorder.replay();
    let mut operations = 0;
    loop {
        let durable = |writer: usize| {
            let known = &known[writer];
            (1..4).rfind(|n| (1..=operations).contains(&known[*n].load(SeqCst))).unwrap_or(0) as u64
        };
        let low = [durable(0), durable(1), 0];
        if low != [0; WRITERS] {
            let left = replay.folder(|_| false, None);
            let again = left.open(Options::new()).expect("recovers");
            between(low, commits(&again.snapshot()), ledger.begun(), "after power loss");
        }
        if !replay.step() {
            break;
        }
        operations += 1;
    }
}

/// The last two handles go at once, with a commit in the log: a world so small that every
/// schedule of it can be tried.
fn closing() {
    let (folder, ledger) = (Folder::default(), Arc::new(Ledger::default()));
    let db = folder.create(schema(), Options::new()).expect("create");
    write(&db, &ledger, 0, 1);
    run(db, &ledger, vec![Box::new(|db, _| drop(db)), Box::new(|db, _| drop(db))]);
    let closed = folder.open(Options::new()).expect("the lock is free");
    assert_eq!(commits(&closed.snapshot()), [1, 0, 0]);
    closed.verify().expect("whole");
}

fn config(print: bool) -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence =
        if print { FailurePersistence::Print } else { FailurePersistence::None };
    config
}

/// Runs a world under so many schedules of either kind; seeds are fixed.
fn explore(world: fn(), schedules: usize, print: bool) {
    let half = schedules / 2;
    Runner::new(RandomScheduler::new_from_seed(9, half), config(print)).run(world);
    Runner::new(PctScheduler::new_from_seed(9, 3, half), config(print)).run(world);
}

fn explored(name: &str, world: fn(), schedules: usize) {
    let schedules = sized(schedules, schedules as u64 * 100);
    let start = Instant::now();
    explore(world, schedules, true);
    println!("{name}: {schedules} schedules, {:?}", start.elapsed());
}

#[test]
fn every_schedule_keeps_the_promises() {
    explored("everything at once", everything, 12_000);
}

#[test]
fn every_schedule_shows_readers_commits_in_order() {
    explored("readers beside a writer", readers_beside, 4000);
    explored("commits that are taken back", taken_back, 4000);
}

#[test]
fn every_schedule_survives_power_loss() {
    explored("power loss", power_loss, 8000);
}

#[test]
fn all_schedules_of_a_close_leave_it_closed() {
    let tried = Arc::new(AtomicUsize::new(0));
    let count = tried.clone();
    Runner::new(DfsScheduler::new(None, false), config(true)).run(move || {
        count.fetch_add(1, SeqCst);
        closing();
    });
    let tried = tried.load(SeqCst);
    println!("two handles: all {tried} schedules");
    assert!(tried > 10, "they do not meet");
}

/// A scheduler that finds nothing would prove nothing.
#[test]
fn bugs_of_concurrency_are_noticed() {
    let bugs: [(Bug, fn()); 12] = [
        (Bug::GroupTakenBeforeLock, everything),
        (Bug::FlushPublishedLate, everything),
        (Bug::MergeOnOldView, everything),
        (Bug::CloseDoesNotWait, everything),
        (Bug::FlushThreadForgotten, everything),
        (Bug::CommitDoesNotWait, everything),
        (Bug::FlushWakesNobody, everything),
        (Bug::FlushForgetsFrozenDead, everything),
        (Bug::ReaderLooksOnce, readers_beside),
        (Bug::LogGoesOn, taken_back),
        (Bug::PublishedBeforeSync, power_loss),
        (Bug::FlushDropsOpenLog, power_loss),
    ];
    let mut missed = Vec::new();
    for (bug, world) in bugs {
        let start = Instant::now();
        // A thread each: the panic in one leaves shuttle's state in it confused.
        let explored = std::thread::spawn(move || {
            sow(Some(bug));
            explore(world, 4000, false);
        });
        match explored.join() {
            Ok(()) => missed.push(bug),
            Err(_) => println!("{bug:?}: noticed after {:?}", start.elapsed()),
        }
    }
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

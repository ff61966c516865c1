//! Readers, a writer, bulk loads and compaction at once; every snapshot is
//! checked: nobody sees half a commit, a row twice, or time go backwards.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use matryo::testing::Folder;
use matryo::{Collection, Options, Schema, Snapshot, json};
use support::{Rng, sized};

const DIMS: usize = 8;
const GROUPS: u64 = 6;
const ROWS: u64 = 10;

fn vector(n: u64) -> [f32; DIMS] {
    let mut v = [1.0; DIMS];
    v[n as usize % DIMS] += (n % 97) as f32;
    v
}

/// Every commit writes all rows of one group, or deletes some and writes the others.
fn group(rng: &mut Rng) -> std::ops::Range<u64> {
    let group = rng.below(GROUPS as usize) as u64;
    group * ROWS..(group + 1) * ROWS
}

fn check(snapshot: &Snapshot, last: &mut u64) {
    assert!(snapshot.lsn() >= *last, "time went backwards");
    *last = snapshot.lsn();
    let mut seen = [const { Vec::new() }; GROUPS as usize];
    for row in snapshot {
        let row = row.expect("readable");
        let n = row.payload["n"].as_u64().expect("a number");
        assert_eq!(row.vector, vector(n), "vector and payload are of one commit");
        let matryo::RowId::U64(id) = row.id else { panic!("ids are numbers") };
        seen[(id / ROWS) as usize].push((id, n, row.payload["rows"].as_u64().expect("a number")));
    }
    let mut rows = 0;
    for group in &mut seen {
        group.sort_unstable();
        assert!(group.windows(2).all(|w| w[0].0 < w[1].0), "a row twice: {group:?}");
        assert!(group.iter().all(|row| row.1 == group[0].1), "half a commit: {group:?}");
        assert!(group.iter().all(|row| row.2 == group.len() as u64), "rows missing: {group:?}");
        rows += group.len();
    }
    assert_eq!(snapshot.len(), rows as u64);
    let hits = snapshot.search(&[1.0; DIMS]).limit(1000).payloads(true).run().expect("search").hits;
    assert_eq!(hits.len(), rows);
}

fn write(db: &Collection, rng: &mut Rng, n: u64) {
    let ids = group(rng);
    let living = 1 + rng.below(ROWS as usize);
    let mut batch = db.batch();
    for (at, id) in ids.enumerate() {
        if at < living {
            batch.upsert(id, &vector(n), json!({"n": n, "rows": living})).expect("upsert");
        } else {
            batch.delete(id).expect("delete");
        }
    }
    batch.commit().expect("commit");
}

/// A bulk load deletes nothing, so it writes whole groups.
fn load(db: &Collection, rng: &mut Rng, n: u64) {
    let ids = group(rng);
    let mut bulk = db.bulk().expect("bulk");
    for id in ids {
        bulk.upsert(id, &vector(n), json!({"n": n, "rows": ROWS})).expect("upsert");
    }
    bulk.finish().expect("finish");
}

fn stress(db: &Collection, seconds: u64) -> [u64; 2] {
    let (stop, reads, writes) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let going = || !stop.load(Ordering::Relaxed);
    let writer = |seed: u64, write: fn(&Collection, &mut Rng, u64)| {
        let mut rng = Rng(seed);
        while going() {
            write(db, &mut rng, writes.fetch_add(1, Ordering::Relaxed));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (mut last, mut kept) = (0, db.snapshot());
                while going() {
                    let now = db.snapshot();
                    check(&now, &mut last);
                    // An old one is still what it was, whatever was merged since.
                    check(&kept, &mut 0);
                    if reads.fetch_add(1, Ordering::Relaxed).is_multiple_of(7) {
                        kept = now;
                    }
                }
            });
        }
        scope.spawn(|| writer(1, write));
        scope.spawn(|| writer(2, write));
        scope.spawn(|| writer(3, load));
        scope.spawn(|| {
            while going() {
                db.compact().expect("compact");
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        std::thread::sleep(Duration::from_secs(seconds));
        stop.store(true, Ordering::Relaxed);
    });
    check(&db.snapshot(), &mut 0);
    [reads.into_inner(), writes.into_inner()]
}

#[test]
fn no_reader_ever_sees_half_a_commit() {
    let seconds = sized(4, 600);
    let schema = || Schema::builder(DIMS).build().expect("valid");
    let options = || Options::new().memtable_bytes(3000);
    let folder = Folder::default();
    let db = folder.create(schema(), options()).expect("create");
    let [reads, writes] = stress(&db, seconds);
    println!("in RAM: {reads} snapshots checked beside {writes} writes");
    drop(db);
    check(&folder.open(options()).expect("open").snapshot(), &mut 0);

    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a");
    let db = Collection::create_with(&path, schema(), options()).expect("create");
    let [reads, writes] = stress(&db, seconds);
    println!("on disk: {reads} snapshots checked beside {writes} writes");
    assert_eq!(db.info().expect("info").background_error, None);
    drop(db);
    check(&Collection::open(&path).expect("open").snapshot(), &mut 0);
}

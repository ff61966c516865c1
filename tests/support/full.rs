//! A disk that is full to the last byte: what must still work on it, and what must
//! not.

use std::io::Write;
use std::path::Path;

use matryo::testing::Folder;
use matryo::{Collection, Error, Options, RowId, json};

use super::{DIMS, schema, vector};

/// Bytes of the reserve in these tests.
const RESERVE: u64 = 1 << 20;

/// A disk with one collection.
pub(crate) struct Disk<'a> {
    pub(crate) create: &'a dyn Fn(Options) -> Collection,
    pub(crate) open: &'a dyn Fn(Options) -> Result<Collection, Error>,
    /// Takes all the room there is.
    pub(crate) fill: &'a dyn Fn(),
    /// Makes room.
    pub(crate) free: &'a dyn Fn(),
    /// Whether it is full to the last byte then. Others find some room on second
    /// thoughts: what they had set aside for files that grow.
    pub(crate) exact: bool,
}

/// A folder in RAM, and the disk it makes.
pub(crate) fn with_disk(test: impl Fn(&Folder, &Disk)) {
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

/// Writes zeros until there is no room for another byte.
pub(crate) fn fill(file: &Path) {
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(file).expect("open");
    for size in [1 << 16, 4096, 64, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

fn options() -> Options {
    // Flushes are made by hand, but for the last.
    Options::new().background(false).memtable_bytes(200_000).reserve(RESERVE)
}

fn put(db: &Collection, id: u64) -> Result<(), Error> {
    db.upsert(id, &vector(id, DIMS), json!({"n": id, "text": "x".repeat(300)}))
}

fn is_full(done: Result<(), Error>) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    match done {
        Err(Error::Io { source, .. }) => matches!(source.kind(), StorageFull | QuotaExceeded),
        Err(other) => panic!("{other}"),
        Ok(()) => false,
    }
}

/// The ids of all rows, each as it was written.
fn ids(db: &Collection) -> Vec<u64> {
    let mut ids = Vec::new();
    for row in db.snapshot() {
        let row = row.expect("readable");
        let RowId::U64(id) = row.id else { panic!("ids are numbers") };
        assert_eq!((row.vector, row.payload["n"].as_u64()), (vector(id, DIMS), Some(id)));
        ids.push(id);
    }
    ids.sort_unstable();
    ids
}

/// Four segments and a log.
fn begin(disk: &Disk, options: Options) -> Collection {
    let db = (disk.create)(options);
    for id in 0..160 {
        put(&db, id).expect("there is room");
        if id % 40 == 39 && id < 159 {
            db.flush().expect("there is room");
        }
    }
    db
}

/// Deletes, flushes, merges and closes where there is no room for a row.
pub(crate) fn deletes_go_on(disk: &Disk) {
    let db = begin(disk, options());
    (disk.fill)();
    let mut rows: Vec<u64> = (0..160).collect();
    // What was free behind the last block of the log may take some.
    let mut next = 1000;
    while !is_full(put(&db, next)) {
        rows.push(next);
        next += 1;
        assert!(next < 3000, "the disk is not full");
    }
    let mut delete = |db: &Collection, id: u64| {
        db.delete(id).unwrap_or_else(|e| panic!("delete {id} on a full disk: {e}"));
        rows.retain(|row| *row != id);
        assert_eq!(ids(db), rows);
    };
    (0..30).for_each(|id| delete(&db, id));
    if disk.exact {
        assert!(is_full(put(&db, 2999)), "the reserve is not for new rows");
        let mut mixed = db.batch();
        mixed.delete(100).expect("fits");
        mixed.upsert(100, &vector(100, DIMS), json!({"n": 100})).expect("fits");
        assert!(is_full(mixed.commit().map(drop)));
    }
    db.flush().expect("a flush on a full disk");
    delete(&db, 31);
    assert!(db.compact().expect("a merge on a full disk").reclaimed >= 30);
    delete(&db, 32);
    db.verify().expect("whole");
    drop(db);
    (disk.fill)();
    // Closed cleanly: opening for reading finds all, and for writing, more can go.
    let read_only = (disk.open)(Options::new().read_only(true)).expect("opens");
    assert_eq!(ids(&read_only), rows);
    drop(read_only);
    let db = (disk.open)(options()).expect("opens");
    for id in 33..60 {
        db.delete(id).unwrap_or_else(|e| panic!("delete {id} on a full disk: {e}"));
        rows.retain(|row| *row != id);
    }
    // There is room again: the same handle writes new rows.
    (disk.free)();
    put(&db, 2999).expect("there is room");
    rows.push(2999);
    rows.sort_unstable();
    assert_eq!(ids(&db), rows);
    db.verify().expect("whole");
}

/// Without a reserve the same fails, so the test above can.
pub(crate) fn nothing_goes_on_without_a_reserve(disk: &Disk) {
    let db = begin(disk, options().reserve(0));
    (disk.fill)();
    while !is_full(put(&db, 1000)) {}
    // What is left behind the last frame takes some deletes.
    assert!((0..160).any(|id| is_full(db.delete(id).map(drop))), "deletes need room");
    (disk.free)();
    put(&db, 1001).expect("there is room");
}

/// Rows that were loaded in bulk, and never committed, can be deleted.
pub(crate) fn loaded_rows_can_go(disk: &Disk) {
    let db = (disk.create)(options());
    let mut bulk = db.bulk().expect("bulk");
    for id in 0..100 {
        let payload = json!({"n": id, "text": "x".repeat(300)});
        bulk.upsert(id, &vector(id, DIMS), payload).expect("there is room");
    }
    bulk.finish().expect("there is room");
    (disk.fill)();
    db.delete(7).expect("on a full disk");
    assert_eq!(ids(&db), (0..100).filter(|id| *id != 7).collect::<Vec<_>>());
    db.compact().expect("a merge on a full disk");
}

/// The reserve is there before the first commit, and again when there is room.
pub(crate) fn reserve_comes_and_goes(folder: &Folder, disk: &Disk) {
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
}

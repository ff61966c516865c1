//! Handles that only read, beside a writer: in one process step by step, and in
//! processes of their own while it commits, flushes, loads, merges, closes and
//! is killed.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use matryo::testing::{Failure, Folder, Recorder};
use matryo::{Collection, Error, Options, Snapshot, json};
use support::{DIMS, Rng, files, questions, read_only, schema, sized, vector};

fn writer(folder: &Folder) -> Collection {
    folder.create(schema(), Options::new().memtable_bytes(1 << 20)).expect("create")
}

fn put(db: &Collection, ids: impl IntoIterator<Item = u64>, seed: u64) {
    let mut batch = db.batch();
    for id in ids {
        batch.upsert(id, &vector(seed + id, DIMS), json!({"seed": seed + id})).expect("fits");
    }
    batch.commit().expect("commit");
}

/// Both answer everything alike, and a reader that is opened now does too.
fn same(folder: &Folder, reader: &Collection, writer: &Collection) {
    let all = |db: &Collection| {
        questions(db).into_iter().map(|a| a.expect("undamaged")).collect::<Vec<_>>()
    };
    assert_eq!(all(reader), all(writer));
    assert_eq!(reader.snapshot().lsn(), writer.snapshot().lsn());
    assert_eq!(all(&folder.open(read_only()).expect("open")), all(writer));
}

/// Its name, and what the writer does.
type Step<'a> = (&'a str, &'a dyn Fn(&Collection));

#[test]
fn a_reader_sees_each_change_after_a_refresh_and_not_before() {
    let folder = Folder::default();
    let db = writer(&folder);
    let reader = folder.open(read_only()).expect("open");
    assert!(!reader.refresh().expect("refresh") && !db.refresh().expect("of a writer: nothing"));
    let steps: [Step; 9] = [
        ("the first commit", &|db| put(db, 0..20, 0)),
        ("another", &|db| put(db, [3, 30], 100)),
        ("a delete", &|db| db.delete(4).map(drop).expect("delete")),
        ("a flush", &|db| db.flush().expect("flush")),
        ("a commit over a segment", &|db| put(db, [5, 31], 200)),
        ("a second segment", &|db| db.flush().expect("flush")),
        ("a commit before a merge", &|db| put(db, [6, 32], 300)),
        ("a merge", &|db| assert!(db.compact().expect("compact").segments > 1)),
        ("a bulk load", &|db| {
            let mut bulk = db.bulk().expect("bulk");
            bulk.upsert(7, &vector(407, DIMS), json!({"seed": 407})).expect("fits");
            bulk.finish().expect("finish");
        }),
    ];
    for (what, step) in steps {
        let (before, kept) = (reader.snapshot(), reader.search(&vector(9, DIMS)));
        let (lsn, rows) =
            (before.lsn(), before.iter().map(|r| r.expect("row")).collect::<Vec<_>>());
        step(&db);
        assert_eq!(reader.snapshot().lsn(), lsn, "{what}: not asked yet");
        assert!(reader.refresh().expect("refresh"), "{what}");
        same(&folder, &reader, &db);
        assert!(!reader.refresh().expect("refresh"), "{what}: once");
        // What began before has kept its rows.
        let still: Vec<_> = before.iter().map(|r| r.expect("row")).collect();
        assert_eq!((before.lsn(), still), (lsn, rows), "{what}");
        assert_eq!(kept.limit(100).exact().run().expect("search").hits.len() as u64, before.len());
    }
}

#[test]
fn a_reader_follows_over_closes_and_recoveries() {
    let folder = Folder::default();
    let mut db = Some(writer(&folder));
    let reader = folder.open(read_only()).expect("open");
    for round in 0..12u64 {
        put(db.as_ref().expect("open"), [round, round + 40], round);
        if round % 3 == 0 {
            reader.refresh().expect("refresh");
        }
        // Closed cleanly, or left as by a crash.
        let (died, before) = (round % 4 == 1, files(&folder));
        drop(db.take());
        if died {
            before.into_iter().for_each(|(name, bytes)| folder.write(&name, bytes));
        }
        assert!(reader.refresh().expect("refresh") || round % 3 == 0, "round {round}");
        let next = folder.open(Options::new().memtable_bytes(1 << 20)).expect("open");
        same(&folder, &reader, &next);
        db = Some(next);
    }
}

/// Of commits that share a write, and fail for want of room, a reader may have seen
/// the first; the next refresh takes it back.
#[test]
fn a_commit_that_was_taken_back_is_not_kept() {
    let folder = Folder::default();
    let db = writer(&folder);
    put(&db, 0..3, 0);
    let log = folder.names().into_iter().find(|n| n.starts_with("wal-")).expect("a log");
    let reader = folder.open(read_only()).expect("open");
    let before = folder.read(&log).expect("there");
    put(&db, 3..6, 0);
    assert!(reader.refresh().expect("refresh"));
    folder.write(&log, before);
    assert!(reader.refresh().expect("refresh"));
    assert_eq!((reader.len(), reader.snapshot().lsn()), (3, 1));
}

/// After a commit that was taken back the next goes to another log: a reader could
/// not tell it from one of the same length that it has read in its place.
#[test]
fn nothing_is_written_in_the_place_of_a_commit_that_failed() {
    let mut seen = 0;
    for cut in 0..12 {
        let recorder = Recorder::new(None);
        let db = recorder.create(schema(), Options::new()).expect("create");
        put(&db, 0..3, 0);
        let reader = recorder.open(read_only()).expect("open");
        let tried = recorder.tried();
        let full = Failure { code: 28, percent_written: 60 };
        recorder.fail(tried + cut..tried + cut + 1, full);
        let failed = db.upsert(50, &vector(50, DIMS), json!({"seed": 50})).is_err();
        recorder.fail(0..0, full);
        reader.refresh().expect("refresh");
        let expected = if failed { 51 } else { 50 };
        if failed && db.upsert(51, &vector(51, DIMS), json!({"seed": 51})).is_err() {
            // A sync that fails ends writing.
            continue;
        }
        if failed {
            let mut replay = recorder.replay();
            while replay.step() {}
            let names = replay.folder(|_| true, None).names();
            let logs = names.iter().filter(|name| name.starts_with("wal-")).count();
            assert_eq!(logs, 2, "cut {cut}: {names:?}");
        }
        seen += usize::from(failed);
        reader.refresh().expect("refresh");
        assert_eq!(reader.len(), 4, "cut {cut}");
        assert!(reader.get(expected).expect("get").is_some(), "cut {cut}");
    }
    assert!(seen > 0, "nothing failed");
}

#[test]
fn a_reader_changes_nothing_and_needs_no_lock_file() {
    let folder = Folder::default();
    let db = writer(&folder);
    put(&db, 0..10, 0);
    let before = files(&folder);
    let reader = folder.open(read_only()).expect("open");
    reader.refresh().expect("refresh");
    reader.verify().expect("whole");
    drop(reader);
    assert_eq!(files(&folder), before);
}

#[test]
fn damage_and_other_collections_are_told_and_the_old_rows_stay() {
    let folder = Folder::default();
    let db = writer(&folder);
    put(&db, 0..10, 0);
    let reader = folder.open(read_only()).expect("open");
    let log = folder.names().into_iter().find(|n| n.starts_with("wal-")).expect("a log");
    let end = folder.read(&log).expect("there").len();
    put(&db, 20..22, 0);
    put(&db, 22..24, 0);
    let good = folder.read(&log).expect("there");
    // The first of the new frames is durable by word of the second.
    let mut bad = good.clone();
    bad[end + 60] ^= 1;
    folder.write(&log, bad);
    assert!(matches!(reader.refresh(), Err(Error::Corrupt(_))));
    assert_eq!(reader.len(), 10);
    folder.write(&log, good);
    assert!(reader.refresh().expect("whole again"));
    let old = folder.read("MANIFEST").expect("there");
    db.flush().expect("flush");
    reader.refresh().expect("refresh");
    let new = folder.read("MANIFEST").expect("there");
    let other = Folder::default();
    drop(writer(&other));
    for wrong in [old, other.read("MANIFEST").expect("there")] {
        folder.write("MANIFEST", wrong);
        // The in-memory folder counts instead of drawing names: they differ by generation.
        assert!(matches!(reader.refresh(), Err(Error::Corrupt(_))));
        assert_eq!(reader.len(), 14);
    }
    folder.write("MANIFEST", new);
    assert!(!reader.refresh().expect("as it was"));
}

#[test]
fn a_shortened_collection_must_be_opened_again() {
    let folder = Folder::default();
    let db = writer(&folder);
    put(&db, 0..10, 0);
    drop(db);
    let reader = folder.open(read_only()).expect("open");
    folder.drop_tier(&matryo::CopyOptions::new().dims(16), &|_| true).expect("shorten");
    let refused = reader.refresh().expect_err("another schema");
    assert!(matches!(refused, Error::SchemaChanged { .. }), "{refused:?}");
    assert!(refused.to_string().contains("open it again"), "{refused}");
    let copy = Folder::default();
    reader.back_up_to(&copy);
    assert_eq!(copy.open(read_only()).expect("open").schema().dims(), DIMS);
    assert_eq!(reader.len(), 10);
}

/// Backs up into another folder in RAM.
trait BackUp {
    fn back_up_to(&self, to: &Folder);
}

impl BackUp for Collection {
    fn back_up_to(&self, to: &Folder) {
        to.back_up(self, &|_| true).expect("backup");
    }
}

// Processes.

/// Rows that every commit writes together.
const TOGETHER: u64 = 8;

fn spawn(what: &str, path: &Path, rounds: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("has a path"));
    command.args(["--exact", "child", "--nocapture"]);
    command.env("MATRYO_TEST_CHILD", what).env("MATRYO_TEST_PATH", path);
    command.env("MATRYO_TEST_ROUNDS", rounds.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().expect("runs")
}

/// What a child process does; nothing where this is no child.
#[test]
fn child() {
    let Some(path) = std::env::var_os("MATRYO_TEST_PATH").map(PathBuf::from) else { return };
    let rounds = std::env::var("MATRYO_TEST_ROUNDS").expect("set with the path");
    let rounds = rounds.parse().expect("a number");
    match std::env::var("MATRYO_TEST_CHILD").expect("set with the path").as_str() {
        "write" => write_rounds(&path, rounds),
        "read" => read_rounds(&path),
        other => panic!("do what? {other}"),
    }
}

/// Commit `n` gives the rows `0..TOGETHER` the number `n`; in between rows come
/// and go, segments are made and merged, the collection is closed.
fn write_rounds(path: &Path, rounds: u64) {
    let options = || Options::new().memtable_bytes(20_000).lock_timeout(Duration::from_secs(10));
    let mut db = Collection::open_with(path, options()).expect("open");
    let mut rng = Rng(std::process::id().into());
    let first = number(&db.snapshot()).map_or(1, |n| n + 1);
    for n in first..first + rounds {
        let mut batch = db.batch();
        for id in 0..TOGETHER {
            batch.upsert(id, &vector(n * TOGETHER + id, DIMS), json!({"n": n})).expect("fits");
        }
        batch.delete(100 + n - 1).expect("an id");
        batch.upsert(100 + n, &vector(n, DIMS), json!({"n": n})).expect("fits");
        batch.commit().expect("commit");
        println!("committed {n}");
        std::io::stdout().flush().expect("flushed");
        match rng.below(40) {
            0 => db.flush().expect("flush"),
            1 => drop(db.compact().expect("compact")),
            2 => {
                drop(db);
                db = Collection::open_with(path, options()).expect("open");
            }
            _ => {}
        }
    }
}

/// The number of the last commit, whose rows must all be there, and no others.
fn number(snapshot: &Snapshot) -> Option<u64> {
    let mut rows: Vec<_> = snapshot.iter().map(|row| row.expect("undamaged")).collect();
    rows.sort_by(|a, b| a.id.cmp(&b.id));
    if rows.is_empty() {
        return None;
    }
    let n = rows[0].payload["n"].as_u64().expect("a number");
    let ids: Vec<_> = (0..TOGETHER).chain([100 + n]).map(support::id).collect();
    assert_eq!(rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>(), ids, "commit {n}");
    for (id, row) in (0..TOGETHER).zip(&rows) {
        assert_eq!(row.payload["n"], json!(n), "half a commit");
        assert_eq!(row.vector, vector(n * TOGETHER + id, DIMS), "a vector of another commit");
    }
    Some(n)
}

/// Refreshes, opens, verifies and backs up until the folder says that it is over.
fn read_rounds(path: &Path) {
    let reader = Collection::open_with(path, read_only()).expect("open");
    let (mut last, mut seen, mut looks) = (0, 0, 0u64);
    let mut old: Option<(Snapshot, Option<u64>)> = None;
    let over = path.with_extension("over");
    let mut ends = false;
    // The last look begins behind the last commit.
    while !ends || looks < 3 {
        ends = over.exists();
        let changed = reader.refresh().expect("never an error");
        let n = number(&reader.snapshot()).unwrap_or(0);
        assert!(n >= last && (changed || n == last), "{n} after {last}");
        seen += u64::from(n > last);
        last = n;
        looks += 1;
        let found = reader.search(&vector(1, DIMS)).exact().limit(100).run().expect("search");
        assert_eq!(found.hits.len() as u64, reader.len());
        if looks % 16 == 0 {
            let fresh = Collection::open_with(path, read_only()).expect("never an error");
            assert!(number(&fresh.snapshot()).unwrap_or(0) >= last, "a fresh reader sees no less");
            reader.verify().expect("undamaged");
            reader.info().expect("never an error");
            if let Some((snapshot, n)) = old.replace((reader.snapshot(), Some(last))) {
                assert_eq!(number(&snapshot), n.filter(|n| *n > 0), "an old snapshot");
            }
        }
    }
    println!("saw {seen} changes in {looks} looks, the last {last}.");
}

fn numbers_said(child: Child, before: &str) -> Vec<u64> {
    let done = child.wait_with_output().expect("ends");
    let said = String::from_utf8(done.stdout).expect("UTF-8");
    assert!(done.status.success(), "{}: {said}", done.status);
    let words = said.split(before).nth(1).unwrap_or_else(|| panic!("{said}"));
    words.split(|c: char| !c.is_ascii_digit()).filter_map(|w| w.parse().ok()).collect()
}

#[test]
fn readers_in_other_processes_see_whole_commits_and_no_error() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    drop(Collection::create(&path, schema()).expect("create"));
    let readers: Vec<Child> = (0..2).map(|_| spawn("read", &path, 0)).collect();
    let (rounds, kills) = (sized(600, 20_000), sized(4, 200));
    let start = Instant::now();
    let finished = spawn("write", &path, rounds);
    let last = *numbers_said(finished, "committed ").last().expect("committed");
    let mut last = last.max(rounds);
    // Writers that are killed: what a reader has seen of them must stay.
    for kill in 0..kills {
        let mut child = spawn("write", &path, 1_000_000);
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while !line.contains("committed ") {
            line.clear();
            assert!(out.read_line(&mut line).expect("reads") > 0, "the child has died");
        }
        std::thread::sleep(Duration::from_millis(50 + 37 * kill % 100));
        child.kill().expect("is killed");
        child.wait().expect("has ended");
        let said = out.lines().map_while(Result::ok).filter(|l| l.starts_with("committed "));
        let first = line.trim().rsplit(' ').next().and_then(|n| n.parse().ok()).expect("a number");
        last = said.filter_map(|l| l[10..].parse().ok()).last().unwrap_or(first);
    }
    std::fs::write(path.with_extension("over"), "").expect("written");
    for reader in readers {
        let [seen, looks, end] = numbers_said(reader, "saw ")[..3] else { panic!("three") };
        println!("{seen} changes in {looks} looks, {:.1?}", start.elapsed());
        assert!(seen > 20, "the reader saw only {seen} changes");
        assert!((last..=last + 1).contains(&end), "the last is {last}, seen {end}");
    }
}

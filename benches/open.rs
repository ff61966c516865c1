//! Opening a collection against reading, plainly, as many bytes as an open reads
//! into RAM (stage codes, factors, norms).
//!
//! Rows are made up: 128 dimensions as f16, loaded in bulk. `MATRYO_ROWS` sets
//! their number (default 1 000 000). Both sides run in turns with warm caches.
//!
//! Then recovery: opening for writing what a process that died has left, a log of
//! 64 MiB and no segment, against reading that log, and against reading it, writing
//! it to a new file and syncing that, which recovery has to do. The promise is
//! below 2 s for 64 MiB, whatever the size of commits.

mod support;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use matryo::{Collection, Durability, Options, Precision, Schema, json};
use support::Noise;

const DIMS: usize = 128;
const RUNS: usize = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = std::env::var("MATRYO_ROWS").map_or(Ok(1_000_000), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bench");
    load(&path, rows)?;
    let options = || Options::new().read_only(true);

    let collection = Collection::open_with(&path, options())?;
    let info = collection.info()?;
    check(&collection, rows)?;
    drop(collection);
    let (pinned, segments) = (info.ram_bytes, info.segments);
    println!("{rows} rows x {DIMS} f16: {segments} segments, {pinned} bytes pinned");

    let mut open = || {
        let opened = Collection::open_with(&path, options()).expect("opens");
        assert_eq!(opened.len(), rows);
    };
    let share = pinned as f64 / info.disk_bytes as f64;
    let mut read = || {
        let bytes = read_fronts(&path, share).expect("readable");
        assert!(bytes.abs_diff(pinned) < pinned / 100, "{bytes}");
    };
    let [open, read] = support::time_in_turns(RUNS, [&mut open, &mut read]);
    for (name, timing) in [("open and close", open), ("read of the pinned bytes", read)] {
        let (ms, noise) = (timing.seconds * 1e3, timing.noise * 100.0);
        println!("{name:<26} {ms:>7.1} ms  (A/A {noise:.1} %)");
    }
    println!("difference {:.1} ms, to be below 50", (open.seconds - read.seconds) * 1e3);
    recovery()
}

/// Bytes of log that are recovered.
const LOG: u64 = 64 << 20;
const RECOVERIES: usize = 4;

/// What a process wrote before it died: dimensions, rows of a commit.
const WRITTEN: [(usize, u64); 3] = [(1024, 1000), (128, 1), (4, 100)];

fn recovery() -> Result<(), Box<dyn std::error::Error>> {
    println!("recovery of a log:");
    for (dims, batch) in WRITTEN {
        let dir = tempfile::tempdir()?;
        let (rows, commits) = leave(dir.path(), dims, batch)?;
        let (mut folders, mut kept, mut busy) = (0..=RECOVERIES, Vec::new(), Vec::new());
        let mut recover = || {
            let folder = dir.path().join(folders.next().expect("one for each run").to_string());
            let before = processor_seconds();
            let recovered = Collection::open_with(&folder, quiet()).expect("recovers");
            busy.push(processor_seconds() - before);
            assert_eq!((recovered.len(), recovered.snapshot().lsn()), (rows, commits));
            // Closing writes again, and is not what is asked about.
            kept.push(recovered);
        };
        let log = log_of(&dir.path().join((RECOVERIES + 1).to_string()))?;
        let mut bytes = Vec::new();
        let mut read = || bytes = std::fs::read(&log).expect("readable");
        let target = dir.path().join("copy");
        let mut copy = || copy_and_sync(&log, &target).expect("writable");
        let timings = support::time_in_turns(RECOVERIES, [&mut recover, &mut read, &mut copy]);
        drop(kept);
        recovered_rows_answer(&dir.path().join("0"), dims, rows)?;
        let mib = bytes.len() as f64 / f64::from(1 << 20);
        println!("  {dims} dimensions, {rows} rows in {commits} commits: {mib:.1} MiB");
        for (name, timing) in ["recovery", "read", "read, write, sync"].iter().zip(timings) {
            let (seconds, noise) = (timing.seconds, timing.noise * 100.0);
            println!("    {name:<20} {seconds:>7.3} s  (A/A {noise:.1} %)");
        }
        busy.sort_by(f64::total_cmp);
        let for_64_mib = |seconds: f64| seconds * LOG as f64 / bytes.len() as f64;
        let (clock, busy) = (for_64_mib(timings[0].seconds), for_64_mib(busy[busy.len() / 2]));
        println!("    {clock:.2} s for 64 MiB, to be below 2; {busy:.2} s of them on a processor");
    }
    Ok(())
}

/// Nothing of it runs beside what is timed, and the memtable has room for the whole log.
fn quiet() -> Options {
    let options = Options::new().background(false).memtable_bytes(8 * LOG as usize);
    options.durability(Durability::Buffered)
}

/// Writes commits until the log is long enough, and copies the folder, as a process that dies
/// leaves it, once for each recovery and once more; how many rows and commits these are.
fn leave(dir: &Path, dims: usize, batch: u64) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let schema = Schema::builder(dims).build()?;
    let path = dir.join("written");
    let collection = Collection::create_with(&path, schema, quiet())?;
    let (mut rows, mut commits) = (0, 0);
    while rows == 0 || std::fs::metadata(log_of(&path)?)?.len() < LOG {
        // The length is looked at now and then.
        for _ in 0..(1000 / batch) {
            let mut changes = collection.batch();
            for id in rows..rows + batch {
                changes.upsert(id, &row(dims, id), json!({"n": id}))?;
            }
            changes.commit()?;
            (rows, commits) = (rows + batch, commits + 1);
        }
    }
    for n in 0..=RECOVERIES + 1 {
        let copy = dir.join(n.to_string());
        std::fs::create_dir(&copy)?;
        for file in [path.join("MANIFEST"), log_of(&path)?] {
            std::fs::copy(&file, copy.join(file.file_name().expect("a file")))?;
        }
    }
    drop(collection);
    std::fs::remove_dir_all(path)?;
    Ok((rows, commits))
}

/// How long this thread has run, where the system tells: what else it does meanwhile does not
/// count. Recovery has one thread.
fn processor_seconds() -> f64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = told.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    nanoseconds.unwrap_or(f64::NAN) / 1e9
}

/// A vector that says which row it is of.
fn row(dims: usize, id: u64) -> Vec<f32> {
    Noise(id).vector(dims)
}

fn log_of(folder: &Path) -> std::io::Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("wal-")) {
            return Ok(path);
        }
    }
    Err(std::io::ErrorKind::NotFound.into())
}

#[expect(clippy::disallowed_types, reason = "measures the system, not the store")]
fn copy_and_sync(from: &Path, to: &Path) -> std::io::Result<()> {
    let bytes = std::fs::read(from)?;
    let mut file = std::fs::File::create(to)?;
    file.write_all(&bytes)?;
    file.sync_data()
}

/// What was recovered has every row as it was written.
fn recovered_rows_answer(folder: &Path, dims: usize, rows: u64) -> matryo::Result<()> {
    let collection = Collection::open_with(folder, Options::new().read_only(true))?;
    for id in (0..rows).step_by(usize::try_from(rows / 97).unwrap_or(1).max(1)) {
        let found = collection.get(id)?.expect("the row is there");
        assert_eq!((found.vector, found.payload["n"].as_u64()), (row(dims, id), Some(id)));
    }
    Ok(())
}

fn load(path: &Path, rows: u64) -> matryo::Result<()> {
    let schema = Schema::builder(DIMS).granularities([64]).stored(Precision::F16).build()?;
    let collection = Collection::create_with(path, schema, Options::new().background(false))?;
    let mut noise = Noise(5);
    let mut vector = noise.vector(DIMS);
    let mut bulk = collection.bulk()?;
    for id in 0..rows {
        for at in 0..4 {
            vector[(id as usize * 4 + at) % DIMS] = noise.component();
        }
        bulk.upsert(id, &vector, ())?;
    }
    bulk.finish()
}

/// What was opened has the rows, and finds them.
fn check(collection: &Collection, rows: u64) -> matryo::Result<()> {
    assert_eq!(collection.len(), rows);
    for id in [0, rows / 2, rows - 1] {
        let row = collection.get(id)?.expect("the row is there");
        let hits = collection.search(&row.vector).limit(1).exact().run()?.hits;
        assert!(hits[0].score > 0.999, "a row finds itself, or its like");
    }
    Ok(())
}

/// Reads a share of every segment file, from its beginning, into RAM of its own;
/// how many bytes.
fn read_fronts(path: &Path, share: f64) -> std::io::Result<u64> {
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("seg-") {
            continue;
        }
        #[expect(clippy::disallowed_types, reason = "measures the system, not the store")]
        let file = std::fs::File::open(entry.path())?;
        let each = (entry.metadata()?.len() as f64 * share) as u64;
        let mut bytes = Vec::with_capacity(each as usize);
        file.take(each).read_to_end(&mut bytes)?;
        kept.push(bytes);
    }
    Ok(kept.iter().map(|bytes| bytes.len() as u64).sum())
}

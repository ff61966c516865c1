//! Opening a collection against reading, plainly, as many bytes as an open reads
//! into RAM (stage codes, factors, norms).
//!
//! Rows are made up: 128 dimensions as f16, loaded in bulk. `MATRYO_ROWS` sets
//! their number (default 1 000 000). Both sides run in turns with warm caches.

mod support;

use std::io::Read;
use std::path::Path;

use matryo::{Collection, Options, Precision, Schema};
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

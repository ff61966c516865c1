//! Durable writes against what the disk can do: each way to write rows in turns with a
//! plain sequential write and sync of the bytes of the same vectors.
//!
//! Vectors are 1024 x f32, as they come from a model. `MATRYO_ROWS` sets their
//! number (default 50 000), `MATRYO_DIR` the folder to write in (default: the
//! system's temporary folder; name one on the disk that matters).

mod support;

use matryo::{Collection, Options, Schema};
use std::io::Write;
use std::path::Path;
use std::time::Instant;
use support::Noise;

const DIMS: usize = 1024;
const RUNS: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = std::env::var("MATRYO_ROWS").map_or(50_000, |n| n.parse().expect("a number"));
    let place = std::env::var_os("MATRYO_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(&place)?;
    let vectors = Noise(3).vector(rows * DIMS);
    println!("{rows} rows x {DIMS} f32 in {}, medians of {RUNS} runs", place.display());
    check(dir.path(), &vectors[..2000 * DIMS])?;

    let data = dir.path().join("data");
    let turns = |names, vectors: &[f32], raw_rows, ours: Load| {
        measure(names, vectors, &data, |dir, v| raw(dir, v, raw_rows), ours)
    };
    turns(["raw write, one sync", "bulk"], &vectors, usize::MAX, &bulk)?;
    let names = ["raw write, sync each 1000 rows", "batches of 1000, durable"];
    turns(names, &vectors, 1000, &|dir, v| batches(dir, v, 1000))?;
    let few = &vectors[..400.min(rows) * DIMS];
    one_row(dir.path(), few)?;
    let names = ["raw write, sync each row", "commits of one row, durable"];
    turns(names, few, 1, &|dir, v| batches(dir, v, 1))?;
    Ok(())
}

/// Writes vectors to a path where nothing is.
type Load<'a> = &'a dyn Fn(&Path, &[f32]) -> matryo::Result<()>;

/// The time that one durable commit of one row takes, in turns with an append of
/// 4 KiB and its sync.
#[expect(clippy::disallowed_types, reason = "what a program without a store would do")]
fn one_row(dir: &Path, vectors: &[f32]) -> matryo::Result<()> {
    let path = dir.join("one-row");
    let collection = create(&path)?;
    collection.upsert(u64::MAX, &vectors[..DIMS], ())?;
    let mut file = std::fs::File::create(dir.join("appended")).expect("create");
    let [mut commits, mut appends] = [Vec::new(), Vec::new()];
    for (id, vector) in vectors.chunks(DIMS).enumerate() {
        let start = Instant::now();
        collection.upsert(id as u64, vector, ())?;
        commits.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        file.write_all(&[7; 4096]).and_then(|()| file.sync_data()).expect("append");
        appends.push(start.elapsed().as_secs_f64() * 1e3);
    }
    for (name, times) in
        [("append 4 KiB + fdatasync", &mut appends), ("one-row commit", &mut commits)]
    {
        times.sort_by(f64::total_cmp);
        let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("{name:<32} p50 {p50:>7.2} ms   p99 {p99:>7.2} ms");
    }
    drop(collection);
    std::fs::remove_dir_all(path).expect("remove");
    Ok(())
}

/// What was written is there, after a reopen.
fn check(dir: &Path, vectors: &[f32]) -> matryo::Result<()> {
    for write in [bulk, |dir: &Path, v: &[f32]| batches(dir, v, 1000)] {
        let path = dir.join("check");
        write(&path, vectors)?;
        let collection = Collection::open(&path)?;
        assert_eq!(collection.len(), (vectors.len() / DIMS) as u64);
        for (id, vector) in vectors.chunks(DIMS).enumerate() {
            let row = collection.get(id as u64)?.expect("the row is there");
            assert_eq!(row.vector, vector);
        }
        drop(collection);
        std::fs::remove_dir_all(path).expect("remove");
    }
    Ok(())
}

/// Runs both in turns, so that what else the machine does meets both alike. Prints
/// rows per second, the ratio, and the ratio of raw to itself: that of the medians of
/// its two halves.
fn measure(
    names: [&str; 2],
    vectors: &[f32],
    path: &Path,
    raw: impl Fn(&Path, &[f32]),
    ours: Load,
) -> matryo::Result<()> {
    let mut seconds = [Vec::new(), Vec::new()];
    for _ in 0..RUNS {
        let start = Instant::now();
        raw(path, vectors);
        seconds[0].push(start.elapsed().as_secs_f64());
        std::fs::remove_file(path).expect("remove");
        let start = Instant::now();
        ours(path, vectors)?;
        seconds[1].push(start.elapsed().as_secs_f64());
        std::fs::remove_dir_all(path).expect("remove");
    }
    let half = |n| seconds[0].iter().skip(n).step_by(2).copied().collect();
    let noise = median(half(0)) / median(half(1));
    let [raw, ours] = seconds.map(median);
    let rate = |name, seconds: f64| {
        let rows = (vectors.len() / DIMS) as f64 / seconds;
        print!("{name:<32} {rows:>9.0} rows/s  {:>7.1} MB/s", rows * (DIMS * 4) as f64 / 1e6);
    };
    rate(names[0], raw);
    println!("  (A/A {noise:.2})");
    rate(names[1], ours);
    println!("  {:.2} of raw", raw / ours);
    Ok(())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    let middle = seconds.len() / 2;
    match seconds.len() % 2 {
        0 => f64::midpoint(seconds[middle - 1], seconds[middle]),
        _ => seconds[middle],
    }
}

#[expect(clippy::disallowed_types, reason = "what a program without a store would do")]
fn raw(path: &Path, vectors: &[f32], sync_rows: usize) {
    let mut file = std::fs::File::create(path).expect("create");
    for chunk in vectors.chunks(sync_rows.saturating_mul(DIMS)) {
        for part in chunk.chunks(DIMS * 256) {
            file.write_all(bytemuck::cast_slice(part)).expect("write");
        }
        file.sync_data().expect("sync");
    }
}

fn create(path: &Path) -> matryo::Result<Collection> {
    let schema = Schema::builder(DIMS).granularities([64, 256]).build()?;
    Collection::create_with(path, schema, Options::new().memtable_bytes(128 << 20))
}

fn bulk(path: &Path, vectors: &[f32]) -> matryo::Result<()> {
    let collection = create(path)?;
    let mut bulk = collection.bulk()?;
    for (id, vector) in vectors.chunks(DIMS).enumerate() {
        bulk.upsert(id as u64, vector, ())?;
    }
    bulk.finish()
}

fn batches(path: &Path, vectors: &[f32], rows: usize) -> matryo::Result<()> {
    let collection = create(path)?;
    let mut id = 0;
    for chunk in vectors.chunks(rows * DIMS) {
        let mut batch = collection.batch();
        for vector in chunk.chunks(DIMS) {
            batch.upsert(id, vector, ())?;
            id += 1;
        }
        batch.commit()?;
    }
    Ok(())
}

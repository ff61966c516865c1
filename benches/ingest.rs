//! Durable writes against what the disk can do: each way to write rows beside a
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
const RUNS: usize = 4;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = std::env::var("MATRYO_ROWS").map_or(50_000, |n| n.parse().expect("a number"));
    let place = std::env::var_os("MATRYO_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(&place)?;
    let vectors = Noise(3).vector(rows * DIMS);
    println!("{rows} rows x {DIMS} f32 in {}, medians of {RUNS} runs", place.display());
    check(dir.path(), &vectors[..2000 * DIMS])?;

    let raw = |sync: usize| {
        move |dir: &Path, v: &[f32]| {
            raw(dir, v, sync);
            Ok(())
        }
    };
    let bulk_raw = measure("raw write, one sync", &vectors, dir.path(), None, raw(usize::MAX))?;
    measure("bulk", &vectors, dir.path(), Some(bulk_raw), bulk)?;
    let batch_raw =
        measure("raw write, sync each 1000 rows", &vectors, dir.path(), None, raw(1000))?;
    measure("batches of 1000, durable", &vectors, dir.path(), Some(batch_raw), |dir, v| {
        batches(dir, v, 1000)
    })?;
    one_row(dir.path(), &vectors[..400.min(rows) * DIMS])?;
    let few = &vectors[..400.min(rows) * DIMS];
    let single_raw = measure("raw write, sync each row", few, dir.path(), None, raw(1))?;
    measure("commits of one row, durable", few, dir.path(), Some(single_raw), |dir, v| {
        batches(dir, v, 1)
    })?;
    Ok(())
}

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

/// Prints rows per second and their ratio to `raw`; returns seconds.
fn measure(
    name: &str,
    vectors: &[f32],
    dir: &Path,
    raw: Option<f64>,
    write: impl Fn(&Path, &[f32]) -> matryo::Result<()>,
) -> matryo::Result<f64> {
    let path = dir.join("data");
    let mut seconds = Vec::new();
    for _ in 0..RUNS {
        let start = Instant::now();
        write(&path, vectors)?;
        seconds.push(start.elapsed().as_secs_f64());
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.expect("remove");
    }
    seconds.sort_by(f64::total_cmp);
    let median = f64::midpoint(seconds[RUNS / 2 - 1], seconds[RUNS / 2]);
    let rows = vectors.len() / DIMS;
    let ratio = raw.map_or(String::new(), |raw| format!("  {:.2} of raw", raw / median));
    println!(
        "{name:<32} {:>9.0} rows/s  {:>7.1} MB/s  (spread {:.0} %){ratio}",
        rows as f64 / median,
        size_of_val(vectors) as f64 / median / 1e6,
        (seconds[RUNS - 1] - seconds[0]) / median * 100.0
    );
    Ok(median)
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

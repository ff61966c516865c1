//! The whole funnel against brute force, one query at a time in one thread.
//!
//! `MATRYO_DATA` names a folder with `base_f16.npy` (rows x dimensions) and
//! `queries.npy`; without it the rows are made up, which says something about
//! speed but nothing about recall on real vectors. The rows are stored as f16;
//! brute force runs over the same values held as f32 in RAM.

mod support;

use matryo::{Collection, Funnel, Options, Precision, Schema};
use simsimd::SpatialSimilarity;
use std::collections::HashSet;
use std::time::Instant;
use support::{Array, ids};

const LIMIT: usize = 10;
const GRANULARITIES: [usize; 5] = [32, 64, 128, 256, 512];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (name, base, queries) = support::text();
    let (rows, dims) = (base.rows().len(), base.width);
    println!("{name}: {rows} rows x {dims}, {} queries, top {LIMIT}", queries.rows().len());
    let dir = tempfile::tempdir()?;
    let collection = import(dir.path(), &base)?;

    let brute = |query: &[f32]| brute_force(&base, query);
    let truth: Vec<HashSet<u64>> = queries.rows().map(|q| brute(q).into_iter().collect()).collect();
    let exact = measure(&queries, &truth, |q| ids(&collection, q, LIMIT, Funnel::exact()));
    assert!(exact.recall > 0.998, "exact and brute force agree but for f32 ties: {}", exact.recall);

    let few = Array { values: queries.values[..dims * 60].to_vec(), width: dims };
    let flat = measure(&few, &truth, brute);
    flat.print("brute force over f32, simsimd", flat.per_query);
    exact.print("exact()", flat.per_query);
    for share in [0.8, 0.9, 0.95, 0.99] {
        let found =
            measure(&queries, &truth, |q| ids(&collection, q, LIMIT, Funnel::recall(share)));
        found.print(&format!("recall({share})"), flat.per_query);
    }
    let query = queries.rows().next().expect("a query");
    println!("\n{}", collection.search(query).exact().run()?.explain);
    let report = collection.search(queries.rows().next().expect("a query")).run()?;
    println!("\n{}", report.explain);
    Ok(())
}

fn import(dir: &std::path::Path, base: &Array) -> matryo::Result<Collection> {
    let start = Instant::now();
    let granularities = GRANULARITIES.into_iter().filter(|g| *g < base.width);
    let schema = Schema::builder(base.width).granularities(granularities).stored(Precision::F16);
    // Nothing runs beside the searches, and how they are planned is no race.
    let options = Options::new().memtable_bytes(1 << 30).background(false);
    let collection = Collection::create_with(dir.join("bench"), schema.build()?, options)?;
    let mut id = 0;
    for rows in base.values.chunks(base.width * 1000) {
        let mut batch = collection.batch();
        for row in rows.chunks_exact(base.width) {
            batch.upsert(id, row, ())?;
            id += 1;
        }
        batch.commit()?;
    }
    collection.flush()?;
    let seconds = start.elapsed().as_secs_f64();
    println!("durable import and flush: {seconds:.1} s, {:.0} rows/s", id as f64 / seconds);
    collection.calibrate()?;
    Ok(collection)
}

/// The best rows by cosine: one pass over all of them, keeping the best so far.
fn brute_force(base: &Array, query: &[f32]) -> Vec<u64> {
    let mut best: Vec<(f64, u64)> = Vec::with_capacity(LIMIT + 1);
    for (id, row) in base.rows().enumerate() {
        let distance = <f32 as SpatialSimilarity>::cos(query, row).expect("equal lengths");
        if best.len() < LIMIT || distance < best[LIMIT - 1].0 {
            let at = best.partition_point(|b| b.0 <= distance);
            best.insert(at, (distance, id as u64));
            best.truncate(LIMIT);
        }
    }
    best.into_iter().map(|b| b.1).collect()
}

struct Measured {
    recall: f64,
    /// Median of the passes' seconds per query, and how far apart they lie.
    per_query: f64,
    noise: f64,
    p99: f64,
    /// Seconds a query was on the processor, where the system counts them: what to compare when
    /// other work runs beside.
    busy: Option<f64>,
}

/// Seconds this thread has been on a processor (Linux).
fn busy() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<f64>().ok()? / 1e9)
}

/// Checks the answers first, then times passes over all queries.
fn measure(
    queries: &Array,
    truth: &[HashSet<u64>],
    answer: impl Fn(&[f32]) -> Vec<u64>,
) -> Measured {
    let hits =
        |(q, t): (&[f32], &HashSet<u64>)| answer(q).iter().filter(|id| t.contains(id)).count();
    let found: usize = queries.rows().zip(truth).map(hits).sum();
    let recall = found as f64 / (queries.rows().len() * LIMIT) as f64;
    let mut single = Vec::new();
    let before = busy();
    let mut passes: Vec<f64> = (0..5)
        .map(|_| {
            let start = Instant::now();
            for query in queries.rows() {
                let one = Instant::now();
                std::hint::black_box(answer(query));
                single.push(one.elapsed().as_secs_f64());
            }
            start.elapsed().as_secs_f64() / queries.rows().len() as f64
        })
        .collect();
    let answered = (passes.len() * queries.rows().len()) as f64;
    let busy = before.zip(busy()).map(|(before, after)| (after - before) / answered);
    passes.sort_by(f64::total_cmp);
    single.sort_by(f64::total_cmp);
    let p99 = single[single.len() * 99 / 100];
    let noise = (passes[3] - passes[1]) / passes[2];
    Measured { recall, per_query: passes[2], noise, p99, busy }
}

impl Measured {
    fn print(&self, name: &str, flat: f64) {
        println!(
            "{name:<32} recall@{LIMIT} {:.4}  {:>9.1} q/s  p99 {:>7.0} us  {:>7.1} x brute force  (A/A {:.1} %)  on the CPU {:.0} us",
            self.recall,
            1.0 / self.per_query,
            self.p99 * 1e6,
            flat / self.per_query,
            self.noise * 100.0,
            self.busy.unwrap_or(f64::NAN) * 1e6
        );
    }
}

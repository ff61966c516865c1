//! Many queries at once against one after the other: the same hits, then queries per second.
//!
//! `MATRYO_DATA` names a folder with `base_f16.npy` (rows x dimensions) and `queries.npy`; without
//! it rows are made up about centres. The rows are stored as f16. All ways take turns, so that what
//! else the machine does meets them alike; "one by one" runs twice, and what lies between the two
//! is noise (A/A). Rows are merged and calibrated before, and nothing runs in the background; the
//! plan of the first query is printed.

mod support;

use matryo::{Collection, Funnel, Hit, Options, Precision, Schema};
use std::hint::black_box;
use support::{Array, Timing, plan, time_in_turns};

const RUNS: usize = 8;
const GRANULARITIES: [usize; 5] = [32, 64, 128, 256, 512];
/// In a batch.
const QUERIES: usize = 1000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (name, base, queries) = support::text();
    // Where there are fewer, they come again: what a query costs does not depend on others.
    let queries: Vec<&[f32]> = queries.rows().cycle().take(QUERIES).collect();
    println!("{name}: {} rows x {}, {} queries", base.rows().len(), base.width, queries.len());
    let dir = tempfile::tempdir()?;
    let collection = import(dir.path(), &base)?;
    println!(
        "{:<14}{:>9}  {:>16}  {:>16}  {:>16}",
        "top 10", "alone q/s", "1 thread", "2 threads", "4 threads"
    );
    let codes = Funnel::stages([(512.min(base.width), 110)]);
    for (name, funnel) in [
        ("1 bit scan", codes),
        ("recall(0.95)", Funnel::recall(0.95)),
        ("recall(0.99)", Funnel::recall(0.99)),
        ("exact()", Funnel::exact()),
    ] {
        compare(&collection, &queries, name, &funnel);
    }
    Ok(())
}

fn compare(collection: &Collection, queries: &[&[f32]], name: &str, funnel: &Funnel) {
    let alone = || -> Vec<Vec<Hit>> {
        let one = |q: &&[f32]| collection.search(q).funnel(funnel.clone()).run().expect("search");
        queries.iter().map(|q| one(q).hits).collect()
    };
    let batch = |threads| -> Vec<Vec<Hit>> {
        let batch = collection.search_batch(queries).funnel(funnel.clone()).threads(threads);
        batch.run().expect("search").into_iter().map(|result| result.hits).collect()
    };
    let expected = alone();
    for threads in [1, 2, 4] {
        assert_eq!(batch(threads), expected, "{name}: the hits of {threads} threads");
    }
    let [a, one, two, four, b] = time_in_turns(
        RUNS,
        [
            &mut || drop(black_box(alone())),
            &mut || drop(black_box(batch(1))),
            &mut || drop(black_box(batch(2))),
            &mut || drop(black_box(batch(4))),
            &mut || drop(black_box(alone())),
        ],
    );
    let speed = |t: Timing| queries.len() as f64 / t.seconds;
    let ratio = |t: Timing| format!("{:8.1} ({:.2} x)", speed(t), a.seconds / t.seconds);
    println!(
        "{name:<14}{:9.1}  {:>16}  {:>16}  {:>16}  2 threads / 1: {:.2}  A/A {:.3}",
        speed(a),
        ratio(one),
        ratio(two),
        ratio(four),
        one.seconds / two.seconds,
        a.seconds / b.seconds
    );
    let first = collection.search(queries[0]).funnel(funnel.clone()).run().expect("search");
    println!("    {}", plan(&first.explain));
}

fn import(dir: &std::path::Path, base: &Array) -> matryo::Result<Collection> {
    let granularities = GRANULARITIES.into_iter().filter(|g| *g < base.width);
    let schema = Schema::builder(base.width).granularities(granularities).stored(Precision::F16);
    let options = Options::new().background(false);
    let collection = Collection::create_with(dir.join("bench"), schema.build()?, options)?;
    let mut bulk = collection.bulk()?;
    for (id, row) in base.rows().enumerate() {
        bulk.upsert(id as u64, row, ())?;
    }
    bulk.finish()?;
    // One segment, with a graph where there are rows enough for one.
    collection.compact()?;
    collection.calibrate()?;
    Ok(collection)
}

//! Walks over graphs against scans and against HNSW, by the number of rows: from how many
//! rows on a graph pays, what it takes to build, and what a walk scores.
//!
//! `MATRYO_DATA` names a folder with `base_f16.npy` (unit vectors) and `queries.npy`;
//! without it nothing is measured. `MATRYO_ROWS` lists numbers of rows (default 20000,
//! 100000, then all). HNSW takes up to `MATRYO_HNSW` rows (default 20000): it is built in
//! one thread over full `f32` vectors, as its authors have it.
//!
//! Scans and walks are calibrated with rows of the collection, and asked other queries. What is
//! found is compared with `exact()` first; speeds are medians of passes over all
//! queries in turns, in one thread, with the difference of an unchanged pass to itself. Nothing runs
//! in the background; where `recall` plans, the plan of the first query is printed.

#[path = "support/hnsw.rs"]
mod hnsw;
mod support;

use std::collections::HashSet;
use std::time::Instant;

use hnsw::Hnsw;
use matryo::{Collection, Funnel, Options, Precision, Schema};
use support::{Array, ids, plan, time};

const LIMIT: usize = 10;
const QUERIES: usize = 300;
const SHARES: [f64; 5] = [0.8, 0.9, 0.95, 0.99, 0.999];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Ok(folder) = std::env::var("MATRYO_DATA") else {
        println!("MATRYO_DATA is not set: graphs are measured on real vectors or not at all");
        return Ok(());
    };
    let base = Array::read(&folder, "base_f16.npy");
    let queries = Array::read(&folder, "queries.npy");
    let queries: Vec<&[f32]> = queries.rows().take(QUERIES).collect();
    let all = base.rows().len();
    println!("{folder}: {all} rows x {}, {} queries, top {LIMIT}", base.width, queries.len());
    for rows in sizes(all) {
        measure(&base, rows, &queries)?;
    }
    Ok(())
}

fn sizes(all: usize) -> Vec<usize> {
    let listed = std::env::var("MATRYO_ROWS").ok();
    let listed = listed.map(|list| list.split(',').filter_map(|n| n.parse().ok()).collect());
    let mut sizes: Vec<usize> = listed.unwrap_or_else(|| vec![20_000, 100_000, all]);
    sizes.retain(|rows| *rows <= all);
    sizes.dedup();
    sizes
}

type Truth = Vec<HashSet<u64>>;

fn measure(
    base: &Array,
    rows: usize,
    queries: &[&[f32]],
) -> Result<(), Box<dyn std::error::Error>> {
    println!("\n{rows} rows");
    let dir = tempfile::tempdir()?;
    let collection = load(dir.path(), base, rows)?;
    let ask = |query: &[f32], funnel: Funnel| ids(&collection, query, LIMIT, funnel);
    let truth: Truth =
        queries.iter().map(|q| ask(q, Funnel::exact()).into_iter().collect()).collect();
    collection.calibrate()?;
    for share in SHARES {
        let name = format!("scan, recall({share})");
        row(&name, queries, &truth, |q| ask(q, Funnel::recall(share)));
    }
    let start = Instant::now();
    let built = collection.build_graphs()?;
    assert_eq!(built.rows, rows as u64);
    let bytes = collection.info()?.regions["graphs"];
    let seconds = start.elapsed().as_secs_f64();
    let per_row = bytes / rows as u64;
    println!("  graph built, installed and synced in {seconds:.1} s, {per_row} bytes a row");
    println!("{}", collection.calibrate()?);
    for share in SHARES {
        let name = format!("walk, recall({share})");
        row(&name, queries, &truth, |q| ask(q, Funnel::graph_recall(share)));
        stages(&collection, queries, &Funnel::graph_recall(share));
        let name = format!("planned, recall({share})");
        row(&name, queries, &truth, |q| ask(q, Funnel::recall(share)));
        let first = collection.search(queries[0]).funnel(Funnel::recall(share)).run()?;
        println!("      {}", plan(&first.explain));
    }
    for width in [40, 80, 160, 320] {
        let name = format!("graph, {width} rows kept");
        row(&name, queries, &truth, |q| ask(q, Funnel::graph(width, [])));
        stages(&collection, queries, &Funnel::graph(width, []));
    }
    let most = std::env::var("MATRYO_HNSW").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000);
    if rows <= most {
        paper(base, rows, queries, &truth);
    }
    Ok(())
}

fn paper(base: &Array, rows: usize, queries: &[&[f32]], truth: &Truth) {
    let start = Instant::now();
    let mut index = Hnsw::build(base, rows);
    let (seconds, per_row) = (start.elapsed().as_secs_f64(), index.bytes() / rows);
    println!("  HNSW built in {seconds:.1} s in one thread, {per_row} bytes a row");
    for ef in [20, 40, 80, 160, 320] {
        row(&format!("HNSW, ef {ef}"), queries, truth, |q| index.search(q, LIMIT, ef));
    }
}

/// What the first stage does, on average.
fn stages(collection: &Collection, queries: &[&[f32]], funnel: &Funnel) {
    let (mut scored, mut kept, mut hops) = (0, 0, 0);
    for query in queries {
        let explain =
            collection.search(query).funnel(funnel.clone()).run().expect("search").explain;
        let first = &explain.stages[0];
        (scored, kept) = (scored + first.rows_in, kept + first.rows_out);
        let words = first.name.split([',', ' ']).collect::<Vec<_>>();
        hops += words.iter().rev().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    }
    let mean = |sum: u64| sum / queries.len() as u64;
    println!("      {} rows scored, {} kept, {} hops", mean(scored), mean(kept), mean(hops));
}

fn load(dir: &std::path::Path, base: &Array, rows: usize) -> matryo::Result<Collection> {
    let granularities = [32, 64, 128, 256, 512].into_iter().filter(|g| *g < base.width);
    let schema = Schema::builder(base.width).granularities(granularities).stored(Precision::F16);
    // One segment, so that one graph has all rows; no graph before it is asked for.
    let options = Options::new().background(false).memtable_bytes(8 << 30).graph_min_rows(u64::MAX);
    let collection = Collection::create_with(dir.join("bench"), schema.build()?, options)?;
    let mut bulk = collection.bulk()?;
    for (id, row) in (0u64..).zip(base.rows().take(rows)) {
        bulk.upsert(id, row, ())?;
    }
    bulk.finish()?;
    assert_eq!(collection.info()?.segments, 1);
    Ok(collection)
}

/// Checks what is found, then times passes over all queries.
fn row(name: &str, queries: &[&[f32]], truth: &Truth, mut answer: impl FnMut(&[f32]) -> Vec<u64>) {
    let hits: usize = queries
        .iter()
        .zip(truth)
        .map(|(q, truth)| answer(q).iter().filter(|id| truth.contains(id)).count())
        .sum();
    let recall = hits as f64 / (queries.len() * LIMIT) as f64;
    let timing = time(4, || queries.iter().map(|q| answer(q).len()).sum::<usize>());
    println!(
        "  {name:<24} recall@{LIMIT} {recall:.4}  {:>9.0} q/s  (A/A {:.1} %)",
        queries.len() as f64 / timing.seconds,
        timing.noise * 100.0
    );
}

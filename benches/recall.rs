//! Recall asked for and recall found, on queries that were not used to calibrate.
//!
//! `MATRYO_DATA` names a folder with `base_f16.npy` and `queries.npy`; without it the rows
//! are made up. `MATRYO_ROTATE=1` turns all vectors by the same random rotation: their cosines
//! stay as they are, but no dimension says more than another, as in a model that was not
//! trained for Matryoshka. `MATRYO_DIMS` searches by fewer dimensions. `MATRYO_GRAPH=1` builds
//! a graph first, so that searches may walk.
//!
//! For each recall asked, of the top 1, 10 and 100:
//!
//! * `table`: before calibration;
//! * `rows`: calibrated with rows of the collection;
//! * `queries`: calibrated with half of the queries, asked the other half;
//! * `rank`, with `MATRYO_RANK=1`: the fixed number of rows that gives the recall which `rows`
//!   found, were it known.
//!
//! Each with the mean number of full vectors compared, and queries a second.

mod support;

use matryo::{Collection, Funnel, Options, Precision, RowId, Schema};
use std::collections::HashSet;
use std::time::Instant;
use support::{Array, Noise};

const ASKED: [f64; 5] = [0.8, 0.9, 0.95, 0.99, 0.999];
const LIMITS: [usize; 3] = [1, 10, 100];

type Truths = Vec<Vec<RowId>>;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (name, mut base, mut queries) = data();
    let width = base.width;
    if std::env::var_os("MATRYO_ROTATE").is_some() {
        [&mut base, &mut queries].into_iter().for_each(rotate);
    }
    let dims = std::env::var("MATRYO_DIMS").map_or(width, |dims| dims.parse().expect("a number"));
    let dir = tempfile::tempdir()?;
    let collection = import(dir.path(), &base)?;
    drop(base);
    if std::env::var_os("MATRYO_GRAPH").is_some() {
        let start = Instant::now();
        let built = collection.build_graphs()?;
        println!("graph of {} rows in {:.1} s", built.rows, start.elapsed().as_secs_f64());
    }
    let all: Vec<&[f32]> = queries.rows().collect();
    let (given, asked) = all.split_at(all.len() / 2);
    println!(
        "{name}: {} rows x {width}, searched by {dims}; {} queries",
        collection.len(),
        asked.len()
    );
    let truths = asked.iter().map(|q| ids(&collection, q, dims, 100, Funnel::exact()).0);
    let truths: Truths = truths.collect();
    let measure = |limit| ASKED.map(|share| found(&collection, asked, &truths, dims, limit, share));
    let table = LIMITS.map(measure);
    let start = Instant::now();
    let calibration = collection.calibrate()?;
    println!("calibrated in {:.1} s: {calibration}", start.elapsed().as_secs_f64());
    let rows = LIMITS.map(measure);
    let rank = std::env::var_os("MATRYO_RANK").map(|_| {
        LIMITS.map(|limit| {
            let at = LIMITS.iter().position(|l| *l == limit).expect("one of them");
            let of = |recall| rank(&collection, asked, &truths, dims, limit, recall);
            rows[at].map(|found: Found| of(found.recall))
        })
    });
    collection.calibrate_with(given)?;
    let own = LIMITS.map(measure);
    println!("top  asked  {:^27}  {:^27}  {:^27}  rank", "table", "rows", "queries");
    for (at, limit) in LIMITS.into_iter().enumerate() {
        for (n, share) in ASKED.into_iter().enumerate() {
            let cell =
                |f: Found| format!("{:.4} {:>9.0} {:>7.0} q/s", f.recall, f.compared, f.speed);
            let cells = [table[at][n], rows[at][n], own[at][n]].map(cell).join("  ");
            let rank = rank.map_or(String::new(), |rank| rank[at][n].to_string());
            println!("{limit:>3}  {share:<5}  {cells}  {rank:>8}");
        }
    }
    let query = asked.first().expect("a query");
    println!("\n{}", collection.search(query).recall(0.95).run()?.explain);
    Ok(())
}

/// Means over the queries.
#[derive(Clone, Copy)]
struct Found {
    recall: f64,
    /// Full vectors compared.
    compared: f64,
    /// Queries a second, one after the other.
    speed: f64,
}

fn found(
    collection: &Collection,
    queries: &[&[f32]],
    truths: &Truths,
    dims: usize,
    limit: usize,
    share: f64,
) -> Found {
    score(collection, queries, truths, dims, limit, &Funnel::recall(share))
}

fn score(
    collection: &Collection,
    queries: &[&[f32]],
    truths: &Truths,
    dims: usize,
    limit: usize,
    funnel: &Funnel,
) -> Found {
    let (mut hits, mut compared, mut seconds) = (0, 0, 0.0);
    for (query, truth) in queries.iter().zip(truths) {
        let start = Instant::now();
        let (found, rows) = ids(collection, query, dims, limit, funnel.clone());
        seconds += start.elapsed().as_secs_f64();
        let truth: HashSet<&RowId> = truth[..limit].iter().collect();
        hits += found.iter().filter(|id| truth.contains(id)).count();
        compared += rows;
    }
    let count = queries.len() as f64;
    Found {
        recall: hits as f64 / (count * limit as f64),
        compared: compared as f64 / count,
        speed: count / seconds,
    }
}

/// The least fixed shortlist that finds as much.
fn rank(
    collection: &Collection,
    queries: &[&[f32]],
    truths: &Truths,
    dims: usize,
    limit: usize,
    recall: f64,
) -> usize {
    let code = collection.schema().stages().iter().map(|code| code.dims).find(|d| *d >= dims);
    let pinned = code.unwrap_or(dims).min(dims);
    let first = if pinned == dims && dims > 512 { 512 } else { pinned };
    let (mut low, mut high) = (limit, collection.len() as usize / 2);
    while low < high {
        let keep = usize::midpoint(low, high);
        let funnel = Funnel::stages([(first, keep)]);
        if score(collection, queries, truths, dims, limit, &funnel).recall >= recall {
            high = keep;
        } else {
            low = keep + 1;
        }
    }
    low
}

fn ids(
    collection: &Collection,
    query: &[f32],
    dims: usize,
    limit: usize,
    funnel: Funnel,
) -> (Vec<RowId>, u64) {
    let found = collection.search(query).dims(dims).limit(limit).funnel(funnel).run();
    let found = found.expect("a search");
    let compared = found.explain.stages.last().map_or(0, |stage| stage.rows_in);
    (found.hits.into_iter().map(|hit| hit.id).collect(), compared)
}

fn data() -> (String, Array, Array) {
    if let Ok(folder) = std::env::var("MATRYO_DATA") {
        let base = Array::read(&folder, "base_f16.npy");
        return (folder.clone(), base, Array::read(&folder, "queries.npy"));
    }
    let (mut noise, width) = (Noise(7), 512);
    let centres: Vec<Vec<f32>> = (0..500).map(|_| noise.vector(width)).collect();
    let mut rows = |count: usize, spread: f32| {
        let mut values = Vec::with_capacity(count * width);
        for _ in 0..count {
            let centre = &centres[noise.word() as usize % centres.len()];
            for (d, c) in centre.iter().enumerate() {
                values.push((c + spread * noise.component()) / (1.0 + d as f32 / 64.0));
            }
        }
        Array { values, width }
    };
    ("made-up clusters".into(), rows(30_000, 1.0), rows(400, 1.5))
}

/// Turns the vectors by a random rotation: signs changed at random and a Walsh-Hadamard
/// transform, three times, as in Andoni et al., "Practical and Optimal LSH for Angular
/// Distance" (`NeurIPS` 2015), section 3.
fn rotate(array: &mut Array) {
    assert!(array.width.is_power_of_two(), "a Walsh-Hadamard transform needs a power of two");
    let mut noise = Noise(99);
    let width = array.width;
    for _ in 0..3 {
        let signs: Vec<f32> = noise.vector(width).iter().map(|v| v.signum()).collect();
        for row in array.values.chunks_exact_mut(width) {
            row.iter_mut().zip(&signs).for_each(|(v, sign)| *v *= sign / (width as f32).sqrt());
            let mut half = 1;
            while half < width {
                for block in row.chunks_exact_mut(2 * half) {
                    let (low, high) = block.split_at_mut(half);
                    for (a, b) in low.iter_mut().zip(high) {
                        (*a, *b) = (*a + *b, *a - *b);
                    }
                }
                half *= 2;
            }
        }
    }
}

fn import(dir: &std::path::Path, base: &Array) -> matryo::Result<Collection> {
    let granularities = [64, 256, 512].into_iter().filter(|g| *g < base.width);
    let schema = Schema::builder(base.width).granularities(granularities).stored(Precision::F16);
    let options = Options::new().background(false).graph_min_rows(u64::MAX);
    let collection = Collection::create_with(dir.join("bench"), schema.build()?, options)?;
    let mut bulk = collection.bulk()?;
    for (id, row) in base.rows().enumerate() {
        bulk.upsert(id as u64, row, matryo::json!({}))?;
    }
    bulk.finish()?;
    collection.compact()?;
    Ok(collection)
}

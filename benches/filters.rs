//! Filtered searches against the unfiltered one, one query at a time in one thread.
//!
//! `MATRYO_DATA` names a folder with `base_f16.npy` and `queries.npy`: of those rows 1 % and 10 %
//! pass a filter, and what is found of the nearest of these is measured, in lines that
//! `benches/peers/filters.py` reads. Without it the rows are made up: that is about speed and about
//! the filter being kept, not about recall. Each filter is asked through an index of few values (bitmaps) and
//! of many (row numbers). Before anything is timed, the answers are compared with
//! an exact search over all rows of which the others are struck out.

mod support;

use matryo::{
    Collection, FieldKind, Filter, Funnel, Options, Precision, RowId, Schema, field, json,
};
use std::collections::HashSet;
use std::hint::black_box;
use support::{Array, Noise, time, time_in_turns};

const ROWS: u64 = 100_000;
const DIMS: usize = 512;
const LIMIT: usize = 10;
const QUERIES: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    if let Ok(folder) = std::env::var("MATRYO_DATA") {
        return Ok(of_text(dir.path(), &folder)?);
    }
    let mut noise = Noise(11);
    let collection = import(dir.path(), &mut noise)?;
    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|_| noise.vector(DIMS)).collect();
    println!("{ROWS} made-up rows x {DIMS}, top {LIMIT}, {QUERIES} queries, recall 0.95\n");
    println!("{:<34} {:>8} {:>10} {:>9}  A/A", "filter", "rows", "q/s", "of plain");
    for (percent, class, below) in
        [(0.1, "a", 100), (1.0, "b", 1000), (10.0, "c", 10_000), (50.0, "d", 50_000)]
    {
        for (form, filter) in
            [("few values", field("class").eq(class)), ("many values", field("n").lt(below))]
        {
            let rows = check(&collection, &queries, &filter)?;
            compare(&collection, &queries, &format!("{percent} %, {form}"), rows, &filter);
        }
    }
    println!("\n{}", collection.search(&queries[0]).run()?.explain);
    for half in [field("class").eq("d"), field("n").lt(50_000)] {
        println!("{}", collection.search(&queries[0]).filter(half).run()?.explain);
    }
    Ok(())
}

/// Recall of the nearest rows that pass, and queries a second, where one row in so many passes.
fn of_text(dir: &std::path::Path, folder: &str) -> matryo::Result<()> {
    let base = Array::read(folder, "base_f16.npy");
    let queries = Array::read(folder, "queries.npy");
    let rows = base.rows().len() as u64;
    let schema = Schema::builder(base.width).stored(Precision::F16).field("n", FieldKind::Integer);
    let options = Options::new().background(false);
    let collection = Collection::create_with(dir.join("bench"), schema.build()?, options)?;
    let mut bulk = collection.bulk()?;
    for (id, row) in (0..).zip(base.rows()) {
        bulk.upsert(id, row, json!({"n": id * 7919 % rows}))?;
    }
    bulk.finish()?;
    drop(base);
    collection.compact()?;
    collection.calibrate()?;
    for one_in in [100, 10] {
        let filter = field("n").lt(rows / one_in);
        let truth = |q| ids(&collection, q, Some(&filter), Funnel::exact()).into_iter().collect();
        let truths: Vec<HashSet<RowId>> = queries.rows().map(truth).collect();
        for recall in [0.9, 0.95, 0.99, 0.999, 1.0] {
            let ask = |q: &[f32]| ids(&collection, q, Some(&filter), Funnel::recall(recall));
            let hits = queries.rows().zip(&truths);
            let hits = hits.map(|(q, truth)| ask(q).iter().filter(|id| truth.contains(id)).count());
            let found = hits.sum::<usize>() as f64 / (truths.len() * LIMIT) as f64;
            let all = || queries.rows().for_each(|q| drop(black_box(ask(q))));
            let timing = time(4, all);
            let speed = truths.len() as f64 / timing.seconds;
            let noise = timing.noise * 100.0;
            println!(
                "one in {one_in} asked {recall} found {found:.4} speed {speed:.0} A/A {noise:.1} %"
            );
        }
    }
    Ok(())
}

/// `n` is a number of its own for each row, `class` one of five of unlike sizes.
fn import(dir: &std::path::Path, noise: &mut Noise) -> matryo::Result<Collection> {
    let schema = Schema::builder(DIMS)
        .stored(Precision::F16)
        .field("class", FieldKind::Keyword)
        .field("n", FieldKind::Integer);
    // Nothing runs beside the searches, and how they are planned is no race.
    let options = Options::new().memtable_bytes(1 << 30).background(false);
    let collection = Collection::create_with(dir.join("bench"), schema.build()?, options)?;
    for first in (0..ROWS).step_by(1000) {
        let mut batch = collection.batch();
        for id in first..first + 1000 {
            let class = match noise.word() % 1000 {
                0 => "a",
                1..11 => "b",
                11..111 => "c",
                111..611 => "d",
                _ => "e",
            };
            let payload = json!({"class": class, "n": id * 7919 % ROWS, "title": "some text"});
            batch.upsert(id, &noise.vector(DIMS), payload)?;
        }
        batch.commit()?;
    }
    collection.flush()?;
    collection.calibrate()?;
    Ok(collection)
}

fn ids(
    collection: &Collection,
    query: &[f32],
    filter: Option<&Filter>,
    funnel: Funnel,
) -> Vec<RowId> {
    let search = collection.search(query).limit(LIMIT).funnel(funnel);
    let search = filter.into_iter().fold(search, |search, filter| search.filter(filter.clone()));
    search.run().expect("search").hits.into_iter().map(|hit| hit.id).collect()
}

/// Number of rows that pass. Hits must be rows that do, as many as there can be,
/// and exact ones the best of them.
fn check(collection: &Collection, queries: &[Vec<f32>], filter: &Filter) -> matryo::Result<u64> {
    let rows = collection.count(filter)?;
    for query in &queries[..3] {
        let all = collection.search(query).limit(ROWS as usize).exact().payloads(true).run()?;
        let passes = |payload: &matryo::Payload| match filter.to_string().split_once(" < ") {
            Some((_, below)) => payload["n"].as_u64() < below.parse().ok(),
            None => filter
                .to_string()
                .contains(&format!("'{}'", payload["class"].as_str().expect("text"))),
        };
        let best =
            all.hits.into_iter().filter(|hit| passes(hit.payload.as_ref().expect("asked for")));
        let best: Vec<RowId> = best.map(|hit| hit.id).collect();
        assert_eq!(best.len() as u64, rows, "{filter}");
        let wanted = LIMIT.min(best.len());
        assert_eq!(
            ids(collection, query, Some(filter), Funnel::exact()),
            best[..wanted],
            "{filter}"
        );
        let found = ids(collection, query, Some(filter), Funnel::default());
        assert_eq!(found.len(), wanted, "{filter}");
        assert!(found.iter().all(|id| best.contains(id)), "{filter}: a row outside");
    }
    Ok(rows)
}

fn compare(collection: &Collection, queries: &[Vec<f32>], name: &str, rows: u64, filter: &Filter) {
    let all = |filter: Option<&Filter>| {
        for query in queries {
            black_box(ids(collection, query, filter, Funnel::default()));
        }
    };
    let [plain, filtered] = time_in_turns(10, [&mut || all(None), &mut || all(Some(filter))]);
    println!(
        "{name:<34} {rows:>8} {:>10.0} {:>8.2}x  {:.1} %",
        QUERIES as f64 / filtered.seconds,
        plain.seconds / filtered.seconds,
        100.0 * plain.noise.max(filtered.noise),
    );
}

//! What a query allocates after others: nothing where the search was prepared, else its copy of
//! the query and its result, whatever the rows, the shortlist or the dimensions.

mod support;

use matryo::testing::Folder;
use matryo::{
    Collection, FieldKind, Funnel, Options, Precision, RowId, Schema, Search, field, json,
};
use support::Rng;
use support::counting::{Counting, allocations};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn filled(rows: u64, dims: usize, stored: Precision) -> Collection {
    let schema = Schema::builder(dims).granularities([32, 64]).stored(stored);
    let schema = schema.field("kind", FieldKind::Integer).build().expect("valid");
    let collection = Folder::default().create(schema, Options::new()).expect("create");
    let mut rng = Rng(rows);
    let mut batch = collection.batch();
    for id in 0..rows {
        batch.upsert(id, &rng.vector(dims), json!({"kind": id % 3})).expect("fits");
    }
    batch.commit().expect("commit");
    collection.flush().expect("flush");
    collection
}

/// What a search allocates beside its result, by the way it is asked.
type Way = (&'static str, fn(Search) -> Search);

const WAYS: [Way; 8] = [
    ("recall(0.8)", |search| search.recall(0.8)),
    ("recall(0.95)", |search| search.recall(0.95)),
    ("exact()", Search::exact),
    ("a funnel by hand", |search| search.funnel(Funnel::stages([(64, 400), (512, 100)]))),
    ("exact() over a prefix", |search| search.dims(100).exact()),
    ("a range", |search| search.within(0.01).limit(500).exact()),
    ("a filter", |search| search.filter(field("kind").eq(1))),
    ("exact() with a filter", |search| search.filter(field("kind").ne(1)).exact()),
];

#[test]
fn a_prepared_search_allocates_nothing_once_it_has_answered() {
    for stored in Precision::ALL {
        let collection = filled(3000, 512, stored);
        let mut rng = Rng(7);
        let queries: Vec<_> = (0..4).map(|_| rng.vector(512)).collect();
        for calibrated in [false, true] {
            if calibrated {
                collection.calibrate().expect("calibrate");
            }
            for (name, way) in WAYS {
                let mut prepared = collection.prepare(way).expect("prepare");
                // What grows with the rows that a query has in reach is in place after the worst.
                for query in &queries {
                    prepared.run(query).expect("search");
                }
                for query in &queries {
                    let found = allocations(|| prepared.run(query).map(|found| found.hits.len()));
                    assert_eq!(found, (0, 0), "{stored} {name}, calibrated: {calibrated}");
                    let same = way(collection.search(query)).run().expect("search");
                    let answer = prepared.run(query).expect("search");
                    assert!(!same.hits.is_empty());
                    assert_eq!(answer.hits, same.hits, "{name}");
                    assert_eq!(answer.explain.recall, same.explain.recall, "{name}");
                }
            }
        }
    }
}

#[test]
fn a_walk_over_a_graph_allocates_nothing_either() {
    for dims in [100, 600] {
        let collection = filled(5000, dims, Precision::F16);
        assert_eq!(collection.build_graphs().expect("build").rows, 5000);
        let mut rng = Rng(8);
        let queries: Vec<_> = (0..4).map(|_| rng.vector(dims)).collect();
        for calibrated in [false, true] {
            if calibrated {
                collection.calibrate().expect("calibrate");
            }
            for (name, funnel) in [
                ("a walk by recall", Funnel::graph_recall(0.9)),
                ("a walk by hand", Funnel::graph(200, [(dims / 2, 50)])),
            ] {
                let prepared = collection.prepare(|search| search.funnel(funnel));
                let mut prepared = prepared.expect("prepare");
                for query in &queries {
                    prepared.run(query).expect("search");
                }
                for query in &queries {
                    let found = allocations(|| prepared.run(query).map(|found| found.hits.len()));
                    assert_eq!(found, (0, 0), "{name}, {dims}, calibrated: {calibrated}");
                    let stages = &prepared.run(query).expect("search").explain.stages;
                    assert!(stages.iter().any(|stage| stage.name.starts_with("graph")), "walked");
                }
            }
        }
    }
}

/// Of few rows that pass a filter the frontier of a narrow walk has not enough: all are scanned.
#[test]
fn a_walk_that_overflows_allocates_nothing_either() {
    let collection = filled(5000, 100, Precision::F16);
    assert_eq!(collection.build_graphs().expect("build").rows, 5000);
    let mut rng = Rng(9);
    let queries: Vec<_> = (0..4).map(|_| rng.vector(100)).collect();
    let few = |id: &RowId| matches!(id, RowId::U64(id) if id.is_multiple_of(40));
    let way = |search: Search| search.funnel(Funnel::graph(20, [])).filter_fn(move |id, _| few(id));
    let mut prepared = collection.prepare(way).expect("prepare");
    for query in &queries {
        prepared.run(query).expect("search");
    }
    for query in &queries {
        let found = allocations(|| prepared.run(query).map(|found| found.hits.len()));
        assert_eq!(found, (0, 0));
        let stages = &prepared.run(query).expect("search").explain.stages;
        assert!(stages[1].name.starts_with("scan"), "not walked to its end: {stages:?}");
    }
}

#[test]
fn a_search_allocates_its_query_its_parts_and_its_result() {
    let collection = filled(9000, 1024, Precision::F16);
    let query = Rng(7).vector(1024);
    for (name, way) in &WAYS[..5] {
        let search = || way(collection.search(&query)).run().expect("search");
        search();
        search();
        let (number, bytes) = allocations(search);
        println!("{name}: {number} allocations, {bytes} bytes");
        assert!(number <= MOST && bytes < 16 * 1024, "{name}: {number} allocations, {bytes} bytes");
    }
}

/// Most allocations of one search: see docs/SEARCH.md, "Memory of a search".
const MOST: u64 = 8;

//! Many queries at once answer what each answers alone; ranges, groups and searches by row answer
//! what a plain search and a loop over all rows answer.

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use matryo::testing::Folder;
use matryo::{
    Bits, Collection, Error, FieldKind, Filter, Funnel, Hit, Metric, Options, Precision, RowId,
    Schema, Search, SearchBatch, SearchResult, StageCode, field, json,
};
use support::Rng;

const DIMS: usize = 96;

/// A collection of two segments with dead rows, and rows in RAM. Rows lie about centres, some are
/// there twice, and most of them have one of a few values of `colour`, and of `year`.
fn filled(rng: &mut Rng, metric: Metric, rows: usize) -> Collection {
    let stored = Precision::ALL[rng.below(3)];
    let stages = [(32, Bits::Eight), (DIMS, Bits::One), (DIMS, Bits::Four)];
    let schema = Schema::builder(DIMS)
        .metric(metric)
        .stored(stored)
        .stages(stages.map(|(dims, bits)| StageCode::new(dims, bits)))
        .field("colour", FieldKind::Keyword)
        .field("year", FieldKind::Integer)
        .list_field("tags", FieldKind::Keyword);
    let schema = schema.build().expect("valid");
    let collection = Folder::default().create(schema, Options::new()).expect("create");
    let centres: Vec<_> = (0..12).map(|_| rng.vector(DIMS)).collect();
    let mut last = rng.vector(DIMS);
    for part in 0..3 {
        let mut batch = collection.batch();
        for _ in 0..rows / 3 {
            let at = rng.below(centres.len());
            if rng.below(8) > 0 {
                let noise = rng.vector(DIMS);
                last = centres[at].iter().zip(noise).map(|(c, n)| c + n).collect();
            }
            // Values go with the neighbourhood, so that one value can fill a shortlist.
            let payload = match rng.below(10) {
                0 => json!({}),
                1 => json!({"colour": format!("rare {}", rng.below(30)), "year": rng.below(900)}),
                _ => json!({"colour": format!("c{}", at / 4), "year": 2000 + at}),
            };
            batch.upsert(rng.next() % (2 * rows as u64), &last, payload).expect("fits");
        }
        batch.commit().expect("commit");
        for _ in 0..rows / 20 {
            collection.delete(rng.next() % (2 * rows as u64)).expect("delete");
        }
        if part < 2 {
            collection.flush().expect("flush");
        }
    }
    collection
}

fn queries(rng: &mut Rng, collection: &Collection, count: usize) -> Vec<Vec<f32>> {
    let rows: Vec<_> = collection.snapshot().iter().map(|row| row.expect("row").vector).collect();
    let near = |rng: &mut Rng| {
        let row = &rows[rng.below(rows.len())];
        row.iter().zip(rng.vector(DIMS)).map(|(r, n)| r + 0.5 * n).collect()
    };
    (0..count).map(|_| near(rng)).collect()
}

fn pairs(hits: &[Hit]) -> Vec<(RowId, u32)> {
    hits.iter().map(|hit| (hit.id.clone(), hit.score.to_bits())).collect()
}

fn went_by(result: &SearchResult, stage: &str) -> bool {
    result.explain.stages.iter().any(|s| s.name.starts_with(stage))
}

/// What both kinds of search are asked alike.
#[derive(Debug, Clone)]
struct Asked {
    funnel: Funnel,
    limit: usize,
    dims: usize,
    filter: Option<Filter>,
    thirds: bool,
    within: Option<f32>,
    group: Option<(&'static str, usize)>,
}

/// The same options for a search and for a batch, which have no trait in common.
macro_rules! ask {
    ($search:expr, $asked:expr) => {{
        let asked: &Asked = $asked;
        let mut search = $search
            .funnel(asked.funnel.clone())
            .limit(asked.limit)
            .dims(asked.dims)
            .payloads(true);
        if let Some(filter) = &asked.filter {
            search = search.filter(filter.clone());
        }
        if asked.thirds {
            search = search.filter_fn(|id, _| matches!(id, RowId::U64(n) if n % 3 != 0));
        }
        if let Some(score) = asked.within {
            search = search.within(score);
        }
        if let Some((field, most)) = asked.group {
            search = search.group_by(field, most);
        }
        search
    }};
}

fn single(search: Search, asked: &Asked) -> SearchResult {
    ask!(search, asked).run().expect("search")
}

fn batch(search: SearchBatch, asked: &Asked) -> Vec<SearchResult> {
    ask!(search, asked).run().expect("search")
}

fn any(rng: &mut Rng) -> Asked {
    let funnels = [
        Funnel::exact(),
        Funnel::recall(0.5),
        Funnel::recall(0.95),
        Funnel::stages([(16, 200), (32, 100)]),
        Funnel::stages([(96, 40)]),
        Funnel::graph(120, []),
    ];
    let filter = match rng.below(4) {
        0 => Some(field("year").ge(2004)),
        1 => Some(field("colour").eq("c1")),
        _ => None,
    };
    Asked {
        funnel: funnels[rng.below(funnels.len())].clone(),
        limit: [1, 5, 10, 30][rng.below(4)],
        dims: [DIMS, DIMS, 40, 33][rng.below(4)],
        filter,
        thirds: rng.below(5) == 0,
        within: (rng.below(4) == 0).then(|| (rng.below(100) as f32) / 100.0),
        group: (rng.below(4) == 0).then(|| ("colour", 1 + rng.below(3))),
    }
}

#[test]
fn a_batch_answers_what_each_query_answers_alone() {
    let rounds = if support::long() { 60 } else { 2 };
    let (mut stages, mut compared) = (HashMap::new(), 0);
    for seed in 0..rounds {
        for metric in Metric::ALL {
            let mut rng = Rng(seed * 3 + metric as u64);
            let collection = filled(&mut rng, metric, 2400);
            if seed % 2 == 1 && metric == Metric::Cosine {
                collection.build_graphs().expect("build");
            }
            let count = [1, 7, 8, 21][rng.below(4)].max(usize::from(seed == 0) * 21);
            let queries = queries(&mut rng, &collection, count);
            for _ in 0..24 {
                let mut asked = any(&mut rng);
                asked.limit = asked.limit.min(40);
                if asked.dims < DIMS {
                    asked.funnel = [Funnel::exact(), Funnel::recall(0.6)][rng.below(2)].clone();
                }
                let threads = 1 + rng.below(3);
                let all = batch(collection.search_batch(&queries).threads(threads), &asked);
                assert_eq!(all.len(), queries.len());
                for (at, (query, found)) in queries.iter().zip(&all).enumerate() {
                    let alone = single(collection.search(query), &asked);
                    let what = format!("seed {seed} {metric} query {at} {threads} {asked:?}");
                    assert_eq!(found.hits, alone.hits, "{what}");
                    let rows = |r: &SearchResult| -> Vec<_> {
                        let stages = r.explain.stages.iter();
                        stages.map(|s| (s.name.clone(), s.rows_in, s.rows_out)).collect()
                    };
                    // How many rows a bound keeps depends on how many blocks share a floor.
                    if !went_by(found, "bounds") {
                        assert_eq!(rows(found), rows(&alone), "{what}");
                    }
                    compared += found.hits.len();
                    for stage in &found.explain.stages {
                        let kind = stage.name.split(' ').next().expect("a name").to_owned();
                        *stages.entry(kind).or_insert(0) += 1;
                    }
                }
            }
        }
    }
    println!("{compared} hits compared, {stages:?}");
    for kind in ["scan", "graph", "bounds", "all", "selected", "re-rank", "filter"] {
        assert!(stages.contains_key(kind), "no search went by {kind}: {stages:?}");
    }
}

#[test]
fn within_finds_all_rows_in_range_and_no_other() {
    let rounds = if support::long() { 60 } else { 3 };
    let (mut by_bounds, mut searches) = (0, 0);
    for seed in 0..rounds {
        for metric in Metric::ALL {
            let mut rng = Rng(1000 + seed * 3 + metric as u64);
            let collection = filled(&mut rng, metric, 1200);
            for query in queries(&mut rng, &collection, 6) {
                let dims = [DIMS, DIMS, 50][rng.below(3)];
                let search = || collection.search(&query).dims(dims).exact();
                let all = search().limit(usize::MAX).run().expect("search").hits;
                assert_eq!(all.len() as u64, collection.len());
                for rank in [0, 3, 40, 500, all.len() - 1] {
                    let score = all[rank].score;
                    for score in [score, score.next_up(), score.next_down()] {
                        let expected = pairs(&all).into_iter();
                        let expected: Vec<_> =
                            expected.filter(|hit| f32::from_bits(hit.1) >= score).collect();
                        let found = search().limit(usize::MAX).within(score).run().expect("search");
                        assert_eq!(pairs(&found.hits), expected, "seed {seed} {metric} {score}");
                        assert!(found.explain.exact);
                        by_bounds += usize::from(went_by(&found, "bounds"));
                        searches += 1;
                        let few = search().limit(5).within(score).run().expect("search");
                        assert_eq!(pairs(&few.hits), expected[..expected.len().min(5)]);
                        // A shortlist is cut by the true score as well.
                        let short = || collection.search(&query).dims(dims).recall(0.6).limit(9);
                        let cut = short().within(score).run().expect("search").hits;
                        let mut plain = short().run().expect("search").hits;
                        plain.retain(|hit| hit.score >= score);
                        assert_eq!(cut, plain);
                    }
                }
            }
        }
    }
    assert!(by_bounds * 2 > searches, "{by_bounds} of {searches} searches went by bounds");
}

/// Few rows in range: bounds must leave most vectors unread, however many hits are allowed.
#[test]
fn a_narrow_range_reads_few_vectors() {
    let mut rng = Rng(5);
    let collection = filled(&mut rng, Metric::Cosine, 3000);
    let query = &queries(&mut rng, &collection, 1)[0];
    let best = collection.search(query).exact().run().expect("search").hits[3].score;
    let found = collection.search(query).exact().within(best).limit(usize::MAX);
    let found = found.run().expect("search");
    let last = found.explain.stages.last().expect("a stage");
    // The thousand rows in RAM have no bounds.
    let in_segments = last.rows_in.saturating_sub(1000);
    assert!(in_segments < 400, "{}", found.explain);
}

/// Goes through all rows from the best on, and passes over those of full groups.
fn grouped(all: &[Hit], name: &str, most: usize, limit: usize) -> Vec<(RowId, u32)> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    let fits = |hit: &&Hit| {
        let value = &hit.payload.as_ref().expect("asked for").get(name);
        value.is_some_and(|value| {
            let count = counts.entry(value.to_string()).or_default();
            *count += 1;
            *count <= most
        })
    };
    pairs(&all.iter().filter(fits).take(limit).cloned().collect::<Vec<_>>())
}

#[test]
fn group_by_finds_what_passing_over_full_groups_finds() {
    let rounds = if support::long() { 60 } else { 2 };
    let (mut widened, mut by_bounds) = (0, 0);
    for seed in 0..rounds {
        for metric in Metric::ALL {
            let mut rng = Rng(2000 + seed * 3 + metric as u64);
            let collection = filled(&mut rng, metric, 1500);
            for query in queries(&mut rng, &collection, 5) {
                let search = || collection.search(&query).payloads(true);
                let all = search().exact().limit(usize::MAX).run().expect("search").hits;
                let years: Vec<_> = all.iter().filter(|hit| year(hit) >= 2000).cloned().collect();
                for (name, most, limit) in [
                    ("colour", 1, 3),
                    ("colour", 1, 10),
                    ("colour", 2, 20),
                    ("year", 1, 12),
                    ("year", 3, 10),
                    ("colour", 40, 10),
                    ("year", 5, usize::MAX),
                    ("year", 1, 0),
                ] {
                    let what = format!("seed {seed} {metric} {name} {most} {limit}");
                    let ask = |search: Search| search.group_by(name, most).limit(limit);
                    let expected = grouped(&all, name, most, limit);
                    let found = ask(search().exact()).run().expect("search");
                    assert_eq!(pairs(&found.hits), expected, "{what}");
                    by_bounds += usize::from(went_by(&found, "bounds"));
                    let filter = Filter::parse("year >= 2000").expect("valid");
                    let some = ask(search().exact().filter(filter)).run().expect("search");
                    assert_eq!(pairs(&some.hits), grouped(&years, name, most, limit), "{what}");
                    let cut = expected.get(expected.len() / 2).map_or(0.0, |e| f32::from_bits(e.1));
                    let near = ask(search().exact().within(cut)).run().expect("search");
                    let reach = expected.iter().filter(|e| f32::from_bits(e.1) >= cut).count();
                    assert_eq!(pairs(&near.hits), expected[..reach], "{what} within {cut}");
                    // As many hits as the groups have, from however short a shortlist.
                    let mut funnels = vec![Funnel::recall(0.5)];
                    if limit <= 20 {
                        funnels.push(Funnel::stages([(32, 20), (64, 20)]));
                    }
                    for funnel in funnels {
                        let found = ask(search().funnel(funnel)).run().expect("search");
                        assert_eq!(found.hits.len(), expected.len(), "{what} {}", found.explain);
                        assert_eq!(pairs(&found.hits), grouped(&found.hits, name, most, limit));
                        let scans =
                            found.explain.stages.iter().filter(|s| s.name.starts_with("scan"));
                        widened += usize::from(scans.count() > 1);
                    }
                }
            }
        }
    }
    assert!(widened > 0 && by_bounds > 0, "{widened} widened, {by_bounds} by bounds");
}

fn year(hit: &Hit) -> i64 {
    let year = hit.payload.as_ref().expect("asked for").get("year");
    year.and_then(matryo::Value::as_i64).unwrap_or(0)
}

#[test]
fn a_search_like_a_row_leaves_it_out() {
    let mut rng = Rng(9);
    let collection = filled(&mut rng, Metric::Cosine, 1200);
    let rows: Vec<_> = collection.snapshot().iter().map(|row| row.expect("row")).collect();
    for row in rows.iter().step_by(97) {
        for funnel in [Funnel::exact(), Funnel::recall(0.9), Funnel::stages([(96, 50)])] {
            let like = || collection.search_like(&row.id).expect("there").funnel(funnel.clone());
            let plain = collection.search(&row.vector).funnel(funnel.clone()).limit(11);
            let plain = plain.run().expect("search").hits;
            let with = like().with_itself(true).limit(11).run().expect("search").hits;
            assert_eq!(with, plain);
            let mut others = collection.search(&row.vector).exact().limit(11).run().unwrap().hits;
            others.retain(|hit| hit.id != row.id);
            let found = like().limit(10).run().expect("search").hits;
            assert_eq!(found.len(), 10);
            assert!(found.iter().all(|hit| hit.id != row.id));
            if funnel == Funnel::exact() {
                assert_eq!(found, others[..10]);
            }
        }
    }
    let unknown = collection.search_like(1u64 << 60).expect_err("refused").to_string();
    assert!(unknown.contains("no row has") && unknown.contains(&(1u64 << 60).to_string()));
    let kind = collection.search_like("seven").expect_err("refused").to_string();
    assert!(kind.contains("u64 ids"), "{kind}");
    let snapshot = collection.snapshot();
    let gone = rows[0].id.clone();
    collection.delete(gone.clone()).expect("delete");
    assert!(collection.search_like(&gone).is_err());
    assert_eq!(snapshot.search_like(&gone).expect("there").run().expect("search").hits.len(), 10);
}

#[test]
fn bad_input_fails_the_whole_batch_before_work() {
    let mut rng = Rng(3);
    let collection = filled(&mut rng, Metric::Cosine, 600);
    let good = queries(&mut rng, &collection, 5);
    let asked = Arc::new(AtomicUsize::new(0));
    for bad in [vec![0.0; DIMS], vec![1.0; DIMS - 1], vec![f32::NAN; DIMS], Vec::new()] {
        let mut queries = good.clone();
        queries.insert(3, bad);
        let count = asked.clone();
        let search = collection.search_batch(&queries).filter_fn(move |_, _| {
            count.fetch_add(1, Ordering::Relaxed);
            true
        });
        let error = search.run().expect_err("refused");
        assert!(matches!(error, Error::Query { at: 3, .. }), "{error:?}");
        assert!(error.to_string().starts_with("query 3: vector"), "{error}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 0, "rows were looked at before");
    let none: [Vec<f32>; 0] = [];
    assert!(collection.search_batch(&none).run().expect("nothing to do").is_empty());
    let empty = collection.search_batch(&good).limit(0).run().expect("search");
    assert!(empty.len() == 5 && empty.iter().all(|result| result.hits.is_empty()));
    let says = |search: SearchBatch| search.run().expect_err("refused").to_string();
    let of = || collection.search_batch(&good);
    assert!(says(of().threads(0)).contains("threads"));
    assert!(says(of().dims(DIMS + 1)).contains("dims"));
    assert!(says(of().recall(1.5)).contains("recall"));
    assert!(says(of().within(f32::NAN)).contains("NaN"));
    assert!(says(of().group_by("tags", 1)).contains("tags (list of keyword)"));
    assert!(says(of().group_by("nothing", 1)).contains("\"nothing\""));
    assert!(says(of().group_by("year", 0)).contains("at least one"));
    assert!(says(of().filter(field("nothing").eq(1))).contains("nothing"));
    assert_eq!(of().threads(1000).run().expect("search").len(), 5);
}

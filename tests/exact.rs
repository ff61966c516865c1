//! `exact()` by bounds, of a code or of sums in `f32`, answers what comparing every row by the definition answers: the same
//! rows, the same scores bit for bit, ties by id, on data made to be hard for bounds.

mod support;

use matryo::testing::encoding::{Bits, StageBuilder, StageCode, encode};
use matryo::testing::kernel::{Isa, row};
use matryo::testing::{Bug, Folder, sow};
use matryo::{Collection, Metric, Options, Precision, RowId, Schema, SearchResult};
use std::collections::BTreeMap;
use support::Rng;

/// Rows by id, as they are stored.
type Model = BTreeMap<u64, Vec<u8>>;

/// One way to make a row that gives bounds trouble.
fn hard_vector(rng: &mut Rng, dims: usize, seen: &[Vec<f32>], zeros: bool) -> Vec<f32> {
    let mut v = rng.vector(dims);
    let any = |rng: &mut Rng| seen[rng.below(seen.len())].clone();
    match rng.below(10) {
        // A duplicate: scores tie, and the smaller id wins.
        0 | 1 if !seen.is_empty() => v = any(rng),
        // One unit in the last place off: scores differ, if at all, in the last bits.
        2 | 3 if !seen.is_empty() => {
            v = any(rng);
            let at = rng.below(dims);
            v[at] = v[at].next_up();
        }
        4 => v.iter_mut().for_each(|x| *x *= 1e30),
        5 => v.iter_mut().for_each(|x| *x *= 1e-30),
        6 => v = (0..dims).map(|i| if i == 0 { 1.0 } else { 0.0 }).collect(),
        7 => v[dims / 2] = 1e4,
        8 if zeros => match rng.below(3) {
            0 => v.fill(0.0),
            1 => v.iter_mut().for_each(|x| *x *= 1e-42),
            _ => v[..dims / 2].fill(0.0),
        },
        _ => {}
    }
    v
}

/// What a 4-bit code leaves out of a row: along it a bound is as wrong as it can be.
fn residual(code: StageCode, vector: &[f32]) -> Vec<f32> {
    let mut builder = StageBuilder::new(code);
    builder.push(vector);
    let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let (scale, _) = builder.view().scale(0).expect("a 4-bit code");
    let off = |(j, &x): (usize, &f32)| {
        f64::from(x) / norm - f64::from(scale) * f64::from(builder.view().signed(0, j))
    };
    vector.iter().enumerate().map(off).map(|x| x as f32).collect()
}

fn hard_query(rng: &mut Rng, dims: usize, seen: &[Vec<f32>], zeros: bool) -> Vec<f32> {
    let row = seen[rng.below(seen.len())].clone();
    match rng.below(7) {
        0 => row,
        1 => row.iter().map(|x| -x).collect(),
        2 | 3 if row.iter().any(|x| *x != 0.0) => residual(StageCode::new(dims, Bits::Four), &row),
        4 => rng.vector(dims).iter().map(|x| x * 1e25).collect(),
        5 if zeros => vec![0.0; dims],
        _ => rng.vector(dims),
    }
}

struct Case {
    schema: Schema,
    collection: Collection,
    model: Model,
    seen: Vec<Vec<f32>>,
}

/// A collection of two or three segments with dead rows, and rows in RAM; `coded` with a code that
/// gives bounds.
fn case(rng: &mut Rng, metric: Metric, stored: Precision, coded: bool) -> Case {
    let most = [24, 200][rng.below(2)];
    let dims = 1 + rng.below(most);
    let short = 1 + rng.below(dims);
    let mut stages = vec![StageCode::new(short, Bits::Four), StageCode::new(dims, Bits::Four)];
    stages.dedup();
    if rng.below(3) > 0 {
        stages.insert(0, StageCode::new(1 + rng.below(short), Bits::One));
    }
    if !coded {
        stages = vec![StageCode::new(short, Bits::One)];
    }
    let schema = Schema::builder(dims).metric(metric).stored(stored).stages(stages);
    let schema = schema.build().expect("valid");
    let collection = Folder::default().create(schema.clone(), Options::new()).expect("create");
    let (mut model, mut seen) = (Model::new(), Vec::new());
    for part in 0..4 {
        for _ in 0..20 + rng.below(3) * 130 {
            let vector = hard_vector(rng, dims, &seen, metric != Metric::Cosine);
            let mut bytes = Vec::new();
            if encode(stored, &vector, &mut bytes).is_err() {
                continue;
            }
            let id = rng.next() % 3000;
            if collection.upsert(id, &vector, ()).is_ok() {
                model.insert(id, bytes);
                seen.push(vector);
            }
        }
        for _ in 0..rng.below(300) {
            let id = rng.next() % 3000;
            collection.delete(id).expect("delete");
            model.remove(&id);
        }
        if part < 3 {
            collection.flush().expect("flush");
        }
    }
    Case { schema, collection, model, seen }
}

/// Every row by the definition of a score (docs/SEARCH.md, "Estimates and scores").
fn brute(case: &Case, query: &[f32], dims: usize, ids: &dyn Fn(u64) -> bool) -> Vec<(u64, u32)> {
    let (stored, query) = (case.schema.stored(), &query[..dims]);
    let length = query.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let score = |bytes: &[u8]| {
        let bytes = &bytes[..dims * stored.bytes()];
        let score = match case.schema.metric() {
            Metric::Dot => row::dot(Isa::Scalar, stored, query, bytes),
            Metric::L2 => -row::l2_squared(Isa::Scalar, stored, query, bytes),
            _ => {
                let norm = row::norm_squared(Isa::Scalar, stored, bytes).sqrt();
                let single = norm as f32;
                let norm = if single.is_normal() { f64::from(single) } else { norm };
                let dot = row::dot(Isa::Scalar, stored, query, bytes);
                if norm == 0.0 { 0.0 } else { dot / (length * norm) }
            }
        };
        score.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32 + 0.0
    };
    let rows = case.model.iter().filter(|(id, _)| ids(**id));
    let mut all: Vec<(u64, f32)> = rows.map(|(id, bytes)| (*id, score(bytes))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.into_iter().map(|(id, score)| (id, score.to_bits())).collect()
}

fn pairs(result: &SearchResult) -> Vec<(u64, u32)> {
    let id = |id: &RowId| id.as_u64().expect("ids are numbers");
    result.hits.iter().map(|hit| (id(&hit.id), hit.score.to_bits())).collect()
}

fn proven(result: &SearchResult) -> bool {
    result.explain.stages.iter().any(|stage| stage.name.starts_with("bounds "))
}

/// Searches of all kinds on one hard collection: how many, and how many went by bounds.
fn compare(seed: u64, metric: Metric) -> (u64, u64) {
    let mut rng = Rng(seed * 3 + metric as u64);
    let stored = Precision::ALL[rng.below(3)];
    let case = case(&mut rng, metric, stored, true);
    let dims = case.schema.dims();
    let (mut searches, mut by_bounds) = (0, 0);
    for n in 0..24 {
        let query = hard_query(&mut rng, dims, &case.seen, metric != Metric::Cosine);
        let limit = [1, 2, 5, 10, 15, 1000][rng.below(6)];
        let used = if n % 4 == 3 { case.schema.stages()[0].dims } else { dims };
        let mut search = case.collection.search(&query).exact().limit(limit).dims(used);
        let third = n % 3 == 0;
        if third {
            search = search.filter_fn(|id, _| matches!(id, RowId::U64(n) if n % 3 != 0));
        }
        // A query without length has no cosine.
        let Ok(result) = search.run() else { continue };
        let mut expected = brute(&case, &query, used, &|id| !third || id % 3 != 0);
        expected.truncate(limit);
        assert!(result.explain.exact);
        let what = format!("seed {seed} {metric} {stored} {used} of {dims}, top {limit}");
        assert_eq!(pairs(&result), expected, "{what}");
        searches += 1;
        by_bounds += u64::from(proven(&result));
    }
    (searches, by_bounds)
}

#[test]
fn bounds_find_what_comparing_all_rows_finds() {
    let rounds = if support::long() { 1000 } else { 15 };
    let (mut searches, mut by_bounds) = (0, 0);
    for seed in 0..rounds {
        for metric in Metric::ALL {
            let (all, proven) = compare(seed, metric);
            searches += all;
            by_bounds += proven;
        }
    }
    println!("{searches} searches, {by_bounds} by bounds");
    assert!(by_bounds * 3 > searches, "{by_bounds} of {searches} searches went by bounds");
}

/// Of rows so close together that bounds leave them all in reach, those behind the first thousands
/// are compared without, from the middle of a segment on.
#[test]
fn rows_that_bounds_leave_in_reach_are_compared() {
    const DIMS: usize = 130;
    for metric in Metric::ALL {
        let mut rng = Rng(7);
        let mut near = || rng.vector(DIMS).iter().map(|x| 1.0 + x / 1000.0).collect::<Vec<f32>>();
        let schema = Schema::builder(DIMS).metric(metric).build().expect("valid");
        let collection = Folder::default().create(schema.clone(), Options::new()).expect("create");
        let mut model = Model::new();
        for first in [0, 5000] {
            let mut batch = collection.batch();
            for id in first..first + 5000 {
                let (vector, mut bytes) = (near(), Vec::new());
                encode(schema.stored(), &vector, &mut bytes).expect("fits");
                batch.upsert(id, &vector, ()).expect("fits");
                model.insert(id, bytes);
            }
            batch.commit().expect("commit");
            collection.flush().expect("flush");
        }
        for id in (0..10_000).step_by(7) {
            collection.delete(id).expect("delete");
            model.remove(&id);
        }
        let case = Case { schema, collection, model, seen: Vec::new() };
        for (limit, one_in) in [(1, 1), (10, 1), (100, 2), (10, 3)] {
            let passes = move |id: u64| id.is_multiple_of(one_in);
            let queries = [near(), near(), near()];
            let batch = case.collection.search_batch(&queries).exact().limit(limit).threads(1);
            let batch = batch.filter_fn(move |id, _| matches!(id, RowId::U64(n) if passes(*n)));
            for (query, result) in queries.iter().zip(batch.run().expect("batch")) {
                let mut expected = brute(&case, query, DIMS, &passes);
                let all = expected.len() as u64;
                expected.truncate(limit);
                assert_eq!(pairs(&result), expected, "{metric}, top {limit}, one in {one_in}");
                let stage = |name| result.explain.stages.iter().find(|s| s.name.starts_with(name));
                let (bounds, reach) = (stage("bounds").expect("tried"), stage("vectors"));
                let gave_up = one_in > 1 || bounds.rows_in < all;
                assert!(bounds.rows_in >= 2800 && gave_up, "{}", result.explain);
                assert_eq!(reach.expect("compared").rows_in, all, "{}", result.explain);
            }
        }
    }
}

/// Bounds that are a little too tight lose rows, and the comparison above sees it.
#[test]
fn bounds_that_are_too_tight_are_noticed() {
    for bug in [Bug::ResidualTooSmall, Bug::FloorTooHigh, Bug::QueryTakenAsExact] {
        let unnoticed = |seed: &u64| {
            let try_all = || Metric::ALL.map(|metric| compare(*seed, metric));
            sow(Some(bug));
            let outcome = std::panic::catch_unwind(try_all);
            sow(None);
            outcome.is_ok()
        };
        assert!((0..200).any(|seed| !unnoticed(&seed)), "{bug:?} was not noticed");
    }
}

/// Searches without a code that gives bounds: all rows go through the sieve, or the few that a
/// filter leaves, or those that reach a score.
#[test]
fn sums_in_single_precision_find_what_the_definition_finds() {
    let rounds = if support::long() { 600 } else { 9 };
    for (seed, metric) in (0..rounds).flat_map(|seed| Metric::ALL.map(|metric| (seed, metric))) {
        let mut rng = Rng(seed * 5 + metric as u64);
        let stored = Precision::ALL[seed as usize % 3];
        let case = case(&mut rng, metric, stored, false);
        let dims = case.schema.dims();
        for n in 0..30 {
            let query = hard_query(&mut rng, dims, &case.seen, metric != Metric::Cosine);
            let (limit, one_in) = ([1, 2, 10, 100][rng.below(4)], [1, 2, 20, 70][rng.below(4)]);
            let passes = move |id: u64| id.is_multiple_of(one_in);
            let mut expected = brute(&case, &query, dims, &passes);
            let mut search = case.collection.search(&query).exact().limit(limit);
            if one_in > 1 {
                search = search.filter_fn(move |id, _| matches!(id, RowId::U64(n) if passes(*n)));
            }
            if n % 4 == 0 && !expected.is_empty() {
                let least = f32::from_bits(expected[rng.below(expected.len())].1);
                expected.retain(|(_, score)| f32::from_bits(*score) >= least);
                search = search.within(least);
            }
            let Ok(result) = search.run() else { continue };
            expected.truncate(limit);
            let what =
                format!("seed {seed} {metric} {stored} {dims}, top {limit}, one in {one_in}");
            assert_eq!(pairs(&result), expected, "{what}");
        }
    }
}

/// The best row loses nearly all that sums in `f32` can lose, others nothing: it is found by the
/// bound of that loss, and not by one that is a twentieth too small.
#[test]
fn rounding_that_is_taken_for_less_is_noticed() {
    const DIMS: usize = 65_535;
    // Sixteen lanes of four registers hold a one; what follows is half of its last place.
    let query: Vec<f32> = (0..DIMS).map(|i| if i < 64 { 1.0 } else { 2f32.powi(-12) }).collect();
    let rival: Vec<f32> =
        (0..DIMS).map(|i| if i < 64 { 1.0 + 505.0 * f32::EPSILON } else { 0.0 }).collect();
    let schema = Schema::builder(DIMS).metric(Metric::Dot).stored(Precision::F32);
    let schema = schema.stages([StageCode::new(64, Bits::One)]).build().expect("valid");
    let collection = Folder::default().create(schema, Options::new()).expect("create");
    let mut batch = collection.batch();
    for id in 0..20u64 {
        batch.upsert(id, &rival, ()).expect("fits");
    }
    batch.upsert(20u64, &query, ()).expect("fits");
    batch.commit().expect("commit");
    let best =
        || collection.search(&query).exact().limit(1).run().expect("search").hits[0].id.clone();
    assert_eq!(best(), 20);
    if Isa::detect() != Isa::Scalar {
        sow(Some(Bug::SumsTooExact));
        let missed = best();
        sow(None);
        assert_ne!(missed, 20, "the bug was not noticed");
    }
}

/// Rows about centres, as text has: bounds leave few rows, and the report says how few.
#[test]
fn explain_reports_the_rows_pruned() {
    let mut rng = Rng(5);
    let schema = Schema::builder(256).granularities([32]).build().expect("valid");
    let collection = Folder::default().create(schema, Options::new()).expect("create");
    let centres: Vec<_> = (0..40).map(|_| rng.vector(256)).collect();
    let mut batch = collection.batch();
    for id in 0..4000u64 {
        let near = rng.vector(256);
        let centre = &centres[id as usize % 40];
        let row: Vec<f32> = centre.iter().zip(near).map(|(c, n)| c + n).collect();
        batch.upsert(id, &row, ()).expect("fits");
    }
    batch.commit().expect("commit");
    collection.flush().expect("flush");
    let result = collection.search(&centres[3]).exact().run().expect("search");
    let stages = &result.explain.stages;
    let bounds = stages.iter().find(|s| s.name == "bounds 4 bit x 256").expect("by bounds");
    assert_eq!(bounds.rows_in, 4000);
    assert!((10..400).contains(&bounds.rows_out), "{}", result.explain);
    let last = stages.last().expect("a stage");
    assert!(last.rows_in <= bounds.rows_out && last.rows_out == 10, "{}", result.explain);
}

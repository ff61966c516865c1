//! Calibrated recall: what is asked for is found, by queries that were not used to
//! calibrate; and a calibration is kept, noticed when damaged, and renewed.

mod support;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use matryo::{
    Collection, Error, FieldKind, Filter, Funnel, Metric, Options, RowId, Schema, Search, json,
};

const DIMS: usize = 128;
const ASKED: [f64; 5] = [0.8, 0.9, 0.95, 0.99, 0.999];

/// Repeatable noise.
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Nearly normal: the sum of four uniform numbers.
    fn component(&mut self) -> f32 {
        (0..4).map(|_| (self.word() as i32) as f32 * 2f32.powi(-31)).sum()
    }

    fn vector(&mut self) -> Vec<f32> {
        (0..DIMS).map(|_| self.component()).collect()
    }
}

/// Rows about centres, near ones and far ones; `decay` makes later dimensions smaller.
fn rows(
    random: &mut Random,
    centres: &[Vec<f32>],
    count: usize,
    spread: f32,
    decay: f32,
) -> Vec<Vec<f32>> {
    let row = |_| {
        let centre = &centres[random.word() as usize % centres.len()];
        let own = random.vector();
        let value = |(d, (c, o)): (usize, (&f32, f32))| (c + spread * o) / (1.0 + d as f32 * decay);
        centre.iter().zip(own).enumerate().map(value).collect()
    };
    (0..count).map(row).collect()
}

fn set_length(row: &mut [f32], length: f32) {
    let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    row.iter_mut().for_each(|x| *x *= length / norm);
}

fn schema(metric: Metric) -> Schema {
    Schema::builder(DIMS).granularities([32]).metric(metric).build().expect("valid")
}

fn put(collection: &Collection, first: u64, rows: &[Vec<f32>]) {
    let mut batch = collection.batch();
    for (id, row) in (first..).zip(rows) {
        batch.upsert(id, row, json!({})).expect("valid");
    }
    batch.commit().expect("commit");
}

fn ids(collection: &Collection, query: &[f32], dims: usize, share: f64) -> (HashSet<RowId>, u64) {
    let found = collection.search(query).dims(dims).recall(share).run().expect("search");
    let compared = found.explain.stages.last().map_or(0, |stage| stage.rows_in);
    (found.hits.into_iter().map(|hit| hit.id).collect(), compared)
}

/// Mean recall of the top 10 and mean number of vectors compared, for each recall asked.
fn achieved(collection: &Collection, queries: &[Vec<f32>], dims: usize) -> [(f64, f64); 5] {
    let mut sums = [(0, 0); 5];
    for query in queries {
        let (truth, _) = ids(collection, query, dims, 1.0);
        for ((hits, compared), asked) in sums.iter_mut().zip(ASKED) {
            let (found, rows) = ids(collection, query, dims, asked);
            *hits += found.intersection(&truth).count();
            *compared += rows;
        }
    }
    let count = queries.len() as f64;
    sums.map(|(hits, compared)| (hits as f64 / (10.0 * count), compared as f64 / count))
}

#[test]
fn queries_that_were_not_used_find_what_is_asked() {
    for (metric, decay) in
        [(Metric::Cosine, 0.03), (Metric::Cosine, 0.0), (Metric::Dot, 0.03), (Metric::L2, 0.0)]
    {
        let mut random = Random(11);
        let centres: Vec<_> = (0..40).map(|_| random.vector()).collect();
        let base = rows(&mut random, &centres, 6000, 1.0, decay);
        // Harder than any row: farther from the centres.
        let queries = rows(&mut random, &centres, 250, 1.5, decay);
        let dir = tempfile::tempdir().expect("dir");
        let options = Options::new().background(false);
        let collection =
            Collection::create_with(dir.path().join("c"), schema(metric), options).expect("new");
        put(&collection, 0, &base);
        collection.flush().expect("flush");
        collection.calibrate().expect("calibrate");
        // Between granularities, plans are made for cosines only; others are searched exactly.
        let dims = if metric == Metric::Cosine { &[DIMS, 32, 48][..] } else { &[DIMS, 32] };
        for &dims in dims {
            let found = achieved(&collection, &queries, dims);
            for (asked, (recall, _)) in ASKED.into_iter().zip(found) {
                assert!(recall >= asked - 0.01, "{metric}, {dims} dims: {recall} for {asked}");
            }
            assert!(found[0].1 < 2000.0, "{metric}, {dims} dims: not by comparing all: {found:?}");
            assert!(found[0].1 <= found[3].1, "{metric}, {dims} dims: {found:?}");
        }
    }
}

/// Codes of 8 bits say the score to within a percent; these rows are closer.
#[test]
fn places_of_a_city_are_found_though_nobody_has_calibrated() {
    let mut random = Random(43);
    let mut place = || vec![48.85 + 0.1 * random.component(), 2.35 + 0.1 * random.component()];
    let base: Vec<_> = (0..2000).map(|_| place()).collect();
    let dir = tempfile::tempdir().expect("dir");
    let schema = Schema::builder(2).metric(Metric::L2).build().expect("valid");
    let options = Options::new().background(false);
    let collection = Collection::create_with(dir.path().join("c"), schema, options).expect("new");
    put(&collection, 0, &base);
    for _ in 0..20 {
        let query = place();
        let (truth, _) = ids(&collection, &query, 2, 1.0);
        assert_eq!(ids(&collection, &query, 2, 0.95).0, truth);
    }
}

/// Rows whose first dimensions have a long mean, and say more than the others.
fn leaning(random: &mut Random, count: usize, dims: usize) -> Vec<Vec<f32>> {
    let scale = |d| if d < dims / 4 { 1.0 } else { 0.25 };
    let mut value = |d| if d < 8 { 6.0 } else { 0.0 } + scale(d) * random.component();
    (0..count).map(|_| (0..dims).map(&mut value).collect()).collect()
}

/// Under dot and l2 nothing is known of a prefix that is no granularity, whatever is known of the
/// next one, and nothing of one by a query that has no more.
#[test]
fn prefixes_that_were_not_measured_find_what_is_asked() {
    for metric in [Metric::Dot, Metric::L2] {
        let mut random = Random(37);
        let base = leaning(&mut random, 20_000, 32);
        let queries = leaning(&mut random, 8, 32);
        let dir = tempfile::tempdir().expect("dir");
        let schema = Schema::builder(32).granularities([16]).metric(metric).build().expect("valid");
        let options = Options::new().background(false);
        let collection =
            Collection::create_with(dir.path().join("c"), schema, options).expect("new");
        put(&collection, 0, &base);
        collection.flush().expect("flush");
        collection.calibrate().expect("calibrate");
        for dims in [2, 5, 15, 16, 17, 31, 32] {
            for given in [dims, 32] {
                let (mut found, mut wanted) = (0, 0);
                for query in &queries {
                    let (truth, _) = ids(&collection, query, dims, 1.0);
                    let (some, _) = ids(&collection, &query[..given], dims, 0.95);
                    found += some.intersection(&truth).count();
                    wanted += truth.len();
                }
                let found = found as f64 / wanted as f64;
                assert!(found >= 0.94, "{metric}, {dims} dims, {given} of the query: {found}");
            }
            let mixed = [dims, 32, dims].map(|n| queries[0][..n].to_vec());
            let batch = collection.search_batch(&mixed).dims(dims).run().expect("batch");
            for (query, found) in mixed.iter().zip(batch) {
                let alone = collection.search(query).dims(dims).run().expect("search");
                assert_eq!(found.hits, alone.hits, "{metric}, {dims} dims");
            }
        }
    }
}

#[test]
fn searches_that_walk_graphs_find_what_is_asked() {
    use Metric::{Cosine, Dot, L2};
    for (metric, decay) in [(Cosine, 0.03), (Cosine, 0.0), (Dot, 0.03), (L2, 0.03)] {
        let mut random = Random(17);
        let centres: Vec<_> = (0..40).map(|_| random.vector()).collect();
        let mut base = rows(&mut random, &centres, 8000, 1.0, decay);
        if metric != Cosine {
            // Only then have they graphs.
            base.iter_mut().for_each(|row| set_length(row, 3.0));
        }
        let queries = rows(&mut random, &centres, 250, 1.5, decay);
        let dir = tempfile::tempdir().expect("dir");
        let options = Options::new().background(false);
        let collection =
            Collection::create_with(dir.path().join("c"), schema(metric), options).expect("new");
        put(&collection, 0, &base[..7000]);
        collection.flush().expect("flush");
        collection.build_graphs().expect("graphs");
        // Some are scanned beside.
        put(&collection, 7000, &base[7000..]);
        let table = collection.calibrate().expect("calibrate").to_string();
        assert!(table.contains("walks over graphs"), "{table}");
        for limit in [1, 10, 30] {
            let find = |query: &[f32], funnel| {
                let found = collection.search(query).limit(limit).funnel(funnel).run();
                let found = found.expect("search");
                let ids: HashSet<RowId> = found.hits.into_iter().map(|hit| hit.id).collect();
                (ids, found.explain)
            };
            for asked in ASKED {
                let mut hits = 0;
                for query in &queries {
                    let (truth, _) = find(query, Funnel::exact());
                    let (found, explain) = find(query, Funnel::graph_recall(asked));
                    hits += found.intersection(&truth).count();
                    let names: Vec<&str> = explain.stages.iter().map(|s| s.name.as_str()).collect();
                    assert!(names[0].starts_with("scan") && names[1].starts_with("graph"));
                    assert!(explain.to_string().contains("by calibration"), "{explain}");
                }
                let recall = hits as f64 / (limit * queries.len()) as f64;
                assert!(recall >= asked - 0.01, "{metric}, {limit} hits: {recall} for {asked}");
            }
        }
    }
}

/// Filters that have nothing to do with the vectors, and one that takes the rows about some
/// centres. What is asked is asked of the rows that pass.
#[test]
fn filtered_queries_find_what_is_asked() {
    let mut random = Random(29);
    let centres: Vec<_> = (0..40).map(|_| random.vector()).collect();
    let base = rows(&mut random, &centres, 6000, 1.0, 0.03);
    let queries = rows(&mut random, &centres, 150, 1.5, 0.03);
    let schema = Schema::builder(DIMS).granularities([32]);
    let schema = schema.field("n", FieldKind::Integer).field("near", FieldKind::Bool);
    let dir = tempfile::tempdir().expect("dir");
    let (path, options) = (dir.path().join("c"), Options::new().background(false));
    let collection =
        Collection::create_with(path, schema.build().expect("valid"), options).expect("new");
    let mut batch = collection.batch();
    for (n, row) in (0u64..).zip(&base) {
        let dot = |centre: &Vec<f32>| row.iter().zip(centre).map(|(a, b)| a * b).sum::<f32>();
        let nearest = (0..40).max_by(|a, b| dot(&centres[*a]).total_cmp(&dot(&centres[*b])));
        let near = nearest.expect("there are some") < 12;
        batch.upsert(n, row, json!({"n": n, "near": near})).expect("valid");
    }
    batch.commit().expect("commit");
    collection.flush().expect("flush");
    collection.build_graphs().expect("graphs");
    collection.calibrate().expect("calibrate");
    for filter in ["n < 3000", "n < 500", "n < 100", "near = true", "near = false"] {
        let find = |query: &[f32], funnel| {
            let filter: Filter = filter.parse().expect("a filter");
            let found = collection.search(query).filter(filter).funnel(funnel).run();
            let hits = found.expect("search").hits.into_iter();
            hits.map(|hit| hit.id).collect::<HashSet<RowId>>()
        };
        for (way, plan) in
            [("scan", Funnel::recall as fn(f64) -> Funnel), ("graph", Funnel::graph_recall)]
        {
            for asked in ASKED {
                let hits = |query: &Vec<f32>| {
                    let truth = find(query, Funnel::exact());
                    assert_eq!(truth.len(), 10);
                    find(query, plan(asked)).intersection(&truth).count()
                };
                let hits: usize = queries.iter().map(hits).sum();
                let recall = hits as f64 / (10 * queries.len()) as f64;
                println!("{filter}, {way}: {recall:.4} for {asked}");
                assert!(recall >= asked - 0.01, "{filter}, {way}: {recall} for {asked}");
            }
        }
    }
}

/// Beside a walk the rows that are scanned are looked through as far down as the cut asks, whatever
/// the walk has found far below it.
#[test]
fn scans_beside_walks_are_made_again_where_they_were_too_short() {
    let mut random = Random(41);
    let centres: Vec<_> = (0..40).map(|_| random.vector()).collect();
    let base = rows(&mut random, &centres, 6000, 1.0, 0.03);
    let queries = rows(&mut random, &centres, 250, 1.5, 0.03);
    let dir = tempfile::tempdir().expect("dir");
    let options = Options::new().background(false);
    let collection = Collection::create_with(dir.path().join("c"), schema(Metric::Cosine), options)
        .expect("new");
    put(&collection, 0, &base[..1000]);
    collection.flush().expect("flush");
    collection.build_graphs().expect("graph");
    put(&collection, 1000, &base[1000..]);
    collection.calibrate().expect("calibrate");
    let noise: Vec<_> = (0..250).map(|_| random.vector()).collect();
    for queries in [&queries, &noise] {
        let mut again = 0;
        for query in queries {
            let search = collection.search(query).limit(1).funnel(Funnel::graph_recall(0.5));
            let stages = search.run().expect("search").explain.stages;
            assert!(stages[1].name.starts_with("graph"), "{}", stages[1].name);
            again += usize::from(stages[0].rows_in > 5000);
        }
        // The best of so many estimates is too high.
        assert!(again > 20, "{again} of 250");
    }
}

/// A collection of 3000 rows about 30 centres.
fn small(path: &Path, options: Options) -> (Collection, Vec<Vec<f32>>) {
    let mut random = Random(5);
    let centres: Vec<_> = (0..30).map(|_| random.vector()).collect();
    let base = rows(&mut random, &centres, 6000, 1.0, 0.03);
    let collection = Collection::create_with(path, schema(Metric::Cosine), options).expect("new");
    put(&collection, 0, &base[..3000]);
    collection.flush().expect("flush");
    (collection, base)
}

#[test]
fn easy_queries_compare_fewer_rows_and_the_report_says_where_the_plan_comes_from() {
    let dir = tempfile::tempdir().expect("dir");
    let (collection, base) = small(&dir.path().join("c"), Options::new().background(false));
    let report = |query: &[f32], share: f64| {
        collection.search(query).recall(share).run().expect("search").explain
    };
    assert!(report(&base[4000], 0.9).exact, "a small one of which nothing is known");
    let measured = collection.calibrate().expect("calibrate");
    assert!(measured.to_string().contains("300 rows as queries"), "{measured}");
    assert_eq!((measured.rows(), measured.queries()), (3000, 300));
    let after = report(&base[4000], 0.9);
    let measured = after.recall.expect("an estimate").measured.expect("measured");
    let (expected, interval) = (measured.recall, measured.interval);
    assert!((0.88..=1.0).contains(&expected) && (0.0..0.1).contains(&interval), "{after}");
    assert!(after.to_string().contains("by calibration"), "{after}");
    assert!(report(&base[4000], 1.0).recall.is_none(), "certain");
    // Of noise all rows are equally far.
    let hard = Random(3).vector();
    let compared = |query: &[f32]| report(query, 0.9).stages.last().expect("stages").rows_in;
    let easy: u64 = base[3000..3050].iter().map(|q| compared(q)).sum::<u64>() / 50;
    assert!(compared(&hard) > easy, "{} > {easy}", compared(&hard));
}

/// A kind of search: its name, and what is asked beside a share.
type Way = (&'static str, fn(Search) -> Search);

/// Components that are never below zero, as a network's are behind a rectifier: all signs are the
/// same, so 1-bit codes say nothing of such rows.
#[test]
fn rows_whose_signs_say_nothing_are_found() {
    let dir = tempfile::tempdir().expect("dir");
    let mut random = Random(31);
    let centres: Vec<_> = (0..30).map(|_| random.vector()).collect();
    let positive = |mut rows: Vec<Vec<f32>>| {
        rows.iter_mut().flatten().for_each(|x| *x = x.abs() + 0.5);
        rows
    };
    let base = positive(rows(&mut random, &centres, 3000, 1.0, 0.0));
    let queries = positive(rows(&mut random, &centres, 50, 1.0, 0.0));
    let schema = Schema::builder(DIMS).field("own", FieldKind::Integer).build().expect("valid");
    let options = Options::new().background(false);
    let collection = Collection::create_with(dir.path().join("c"), schema, options).expect("new");
    let mut batch = collection.batch();
    for (id, row) in (0u64..).zip(&base) {
        batch.upsert(id, row, json!({"own": id})).expect("valid");
    }
    batch.commit().expect("commit");
    collection.flush().expect("flush");
    let ways: [Way; 3] = [
        ("plain", |search| search),
        ("grouped", |search| search.group_by("own", 1)),
        ("within", |search| search.within(0.0)),
    ];
    for calibrated in [false, true] {
        if calibrated {
            collection.calibrate().expect("calibrate");
        }
        for (name, way) in ways {
            let found = queries.iter().map(|query| {
                let ids = |search: Search| -> HashSet<RowId> {
                    let found = way(search).run().expect("search");
                    found.hits.into_iter().map(|hit| hit.id).collect()
                };
                let truth = ids(collection.search(query).exact());
                ids(collection.search(query).recall(0.95)).intersection(&truth).count()
            });
            let found = found.sum::<usize>() as f64 / (10 * queries.len()) as f64;
            assert!(found >= 0.94, "{name}, calibrated: {calibrated}: {found}");
        }
    }
}

#[test]
fn a_calibration_is_kept_and_damage_to_it_is_noticed() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("c");
    let (collection, base) = small(&path, Options::new().background(false));
    let plain = fs::read(path.join("MANIFEST")).expect("manifest").len();
    assert_eq!(collection.calibration(), None);
    let queries: Vec<_> = base[3000..3100].to_vec();
    let given = collection.calibrate_with(&queries).expect("calibrate");
    assert!(given.to_string().contains("100 queries given"), "{given}");
    let reader = Options::new().read_only(true);
    let beside = Collection::open_with(&path, reader).expect("reader");
    let measured = collection.calibrate().expect("calibrate");
    assert_eq!(collection.calibrate().expect("calibrate"), measured, "the same rows again");
    assert_eq!(beside.calibration(), Some(given));
    beside.refresh().expect("refresh");
    assert_eq!(beside.calibration(), Some(measured.clone()));
    assert!(matches!(beside.calibrate(), Err(Error::ReadOnly { .. })), "read-only");
    collection.compact().expect("compact");
    put(&collection, 5000, &base[3000..3010]);
    let answer = ids(&collection, &base[4000], DIMS, 0.9);
    drop(collection);
    let opened = Collection::open_with(&path, Options::new().background(false)).expect("open");
    assert_eq!(opened.calibration(), Some(measured.clone()));
    assert_eq!(ids(&opened, &base[4000], DIMS, 0.9), answer);
    opened.backup_to(dir.path().join("b")).expect("backup");
    drop(opened);
    let backup = Collection::open(dir.path().join("b")).expect("backup opens");
    assert_eq!(backup.calibration(), Some(measured));
    let manifest = fs::read(path.join("MANIFEST")).expect("manifest");
    assert!(manifest.len() > plain + 300);
    for at in (manifest.len() - 300..manifest.len()).step_by(7) {
        let mut bad = manifest.clone();
        bad[at] ^= 4;
        fs::write(path.join("MANIFEST"), bad).expect("write");
        assert!(matches!(Collection::open(&path), Err(Error::Corrupt { .. })), "byte {at}");
    }
    fs::write(path.join("MANIFEST"), &manifest[..manifest.len() - 156]).expect("write");
    assert!(Collection::open(&path).is_err(), "cut");
}

#[test]
fn a_shortened_copy_is_calibrated_anew() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("c");
    let (collection, _) = small(&path, Options::new().background(false));
    collection.calibrate().expect("calibrate");
    drop(collection);
    Collection::drop_tier(&path, 64).expect("drop-tier");
    assert_eq!(Collection::open(&path).expect("open").calibration(), None);
}

/// Searches, and waits for the background thread.
fn wait_for(collection: &Collection, rows: u64) -> bool {
    search(collection);
    let start = Instant::now();
    while start.elapsed() < Duration::from_mins(1) {
        if collection.calibration().is_some_and(|c| c.rows() == rows) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn search(collection: &Collection) {
    let query = vec![1.0; collection.schema().dims()];
    collection.search(&query).limit(1).run().expect("search");
}

#[test]
fn rows_that_have_changed_much_are_calibrated_again() {
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("c");
    let (collection, base) = small(&path, Options::new().background(false));
    collection.calibrate().expect("calibrate");
    put(&collection, 3000, &base[3000..4000]);
    collection.flush().expect("flush");
    drop(collection);
    let known = |options: Options| {
        let opened = Collection::open_with(&path, options).expect("open");
        search(&opened);
        std::thread::sleep(Duration::from_millis(50));
        opened.calibration().expect("calibrated").rows()
    };
    assert_eq!(known(Options::new()), 3000, "a third more is not enough");
    let collection = Collection::open_with(&path, Options::new().background(false)).expect("open");
    put(&collection, 0, &base[4000..5000]);
    collection.flush().expect("flush");
    drop(collection);
    assert_eq!(known(Options::new().recalibrate(false)), 3000, "switched off");
    assert_eq!(known(Options::new().background(false)), 3000, "no thread");
    let opened = Collection::open_with(&path, Options::new()).expect("open");
    assert!(wait_for(&opened, 4000), "a third was replaced");
}

/// Codes about the centre of their own rows, and of all together without one, err in other ways.
#[test]
fn rows_that_a_merge_codes_in_another_way_are_calibrated_again() {
    let dir = tempfile::tempdir().expect("dir");
    let mut random = Random(47);
    let mut positive = || -> Vec<f32> { random.vector().into_iter().map(f32::abs).collect() };
    let there: Vec<_> = (0..1000).map(|_| positive()).collect();
    let opposite: Vec<Vec<f32>> =
        (0..1000).map(|_| positive().into_iter().map(|x| -x).collect()).collect();
    let collection = Collection::create(dir.path().join("c"), schema(Metric::Cosine));
    let collection = collection.expect("new");
    for (first, rows) in [(0, &there[..500]), (500, &there[500..]), (1000, &opposite)] {
        put(&collection, first, rows);
        collection.flush().expect("flush");
    }
    let measured = collection.calibrate().expect("calibrate");
    search(&collection);
    collection.compact().expect("compact");
    let start = Instant::now();
    while collection.calibration().is_none_or(|now| now.to_string() == measured.to_string()) {
        assert!(start.elapsed() < Duration::from_mins(1), "it was not calibrated again");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn walks_are_calibrated_by_queries_whose_neighbours_have_a_graph() {
    let dir = tempfile::tempdir().expect("dir");
    let mut random = Random(29);
    let centres: Vec<_> = (0..40).map(|_| random.vector()).collect();
    let here = rows(&mut random, &centres[..20], 2000, 1.0, 0.03);
    let there = rows(&mut random, &centres[20..], 4000, 1.0, 0.03);
    let options = Options::new().background(false);
    let collection = Collection::create_with(dir.path().join("c"), schema(Metric::Cosine), options)
        .expect("new");
    put(&collection, 0, &here);
    collection.flush().expect("flush");
    collection.build_graphs().expect("graph");
    // Rows of other kinds, of which no graph knows: two thirds of the sample.
    put(&collection, 2000, &there);
    collection.flush().expect("flush");
    collection.calibrate().expect("calibrate");
    let query = rows(&mut random, &centres[..20], 1, 1.0, 0.03).remove(0);
    let found = collection.search(&query).funnel(Funnel::graph_recall(0.95)).run().expect("search");
    let expected = found.explain.recall.and_then(|recall| recall.measured).expect("measured");
    assert!(expected.recall > 0.9, "{}", found.explain);
}

#[test]
fn large_collections_are_calibrated_by_themselves() {
    let dir = tempfile::tempdir().expect("dir");
    let mut random = Random(23);
    let base: Vec<Vec<f32>> = (0..20_000).map(|_| random.vector()[..16].to_vec()).collect();
    let make = |name: &str, rows: usize, options: Options| {
        let schema = Schema::builder(16).build().expect("valid");
        let collection = Collection::create_with(dir.path().join(name), schema, options);
        let collection = collection.expect("new");
        put(&collection, 0, &base[..rows]);
        collection.flush().expect("flush");
        collection
    };
    let large = make("large", 20_000, Options::new());
    let small = make("small", 19_999, Options::new());
    let never = make("never", 20_000, Options::new().recalibrate(false));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(large.calibration(), None, "nobody has searched");
    search(&small);
    search(&never);
    assert!(wait_for(&large, 20_000), "somebody has searched, and it was calibrated");
    drop((small, never));
    for name in ["small", "never"] {
        let opened = Collection::open_with(dir.path().join(name), Options::new().background(false));
        assert_eq!(opened.expect("open").calibration(), None, "{name}");
    }
    // Graphs that come later are calibrated too.
    assert!(!large.calibration().expect("there is one").to_string().contains("walks"));
    large.build_graphs().expect("graphs");
    drop(large);
    let large = Collection::open(dir.path().join("large")).expect("open");
    search(&large);
    let start = Instant::now();
    let knows = |known: Option<matryo::Calibration>| {
        known.is_some_and(|known| known.to_string().contains("walks"))
    };
    while !knows(large.calibration()) {
        assert!(start.elapsed() < Duration::from_mins(1), "walks were not calibrated");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_cannot_be_calibrated_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    let options = Options::new().background(false);
    let collection = Collection::create_with(dir.path().join("c"), schema(Metric::Cosine), options)
        .expect("new");
    let refused = |result: matryo::Result<matryo::Calibration>| result.is_err();
    assert!(refused(collection.calibrate()), "no rows");
    let mut random = Random(1);
    put(&collection, 0, &(0..300).map(|_| random.vector()).collect::<Vec<_>>());
    collection.calibrate().expect("enough");
    assert!(refused(collection.calibrate_with::<Vec<f32>>(&[])), "no queries");
    assert!(refused(collection.calibrate_with(&[vec![1.0; DIMS], vec![f32::NAN; DIMS]])));
    assert!(refused(collection.calibrate_with(&[vec![1.0; 32], vec![2.0; 32]])), "short queries");
    assert!(collection.calibration().is_some(), "the one before stands");
}

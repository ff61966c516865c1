//! The interface used as nobody would: numbers at the ends of their range, too few threads to
//! be had, callbacks that call back, handles kept past their time. Everything is answered or
//! refused with a typed error; nothing panics, hangs or answers wrongly.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use matryo::testing::Folder;
use matryo::{
    Collection, CopyOptions, Durability, Error, FieldKind, Filter, Funnel, Metric, Options, Result,
    Schema, field, json,
};
use support::steps::{output, spawn};
use support::{DIMS, read_only, vector};

/// What a child process does; nothing where this is no child.
#[test]
fn child() {
    let Some(path) = std::env::var_os("MATRYO_TEST_PATH").map(PathBuf::from) else { return };
    assert_eq!(std::env::var("MATRYO_TEST_CHILD").as_deref(), Ok("few threads"));
    few_threads(&path);
}

fn fill(db: &Collection, rows: u64) {
    let mut batch = db.batch();
    for id in 0..rows {
        batch.upsert(id, &vector(id, DIMS), json!({"n": id % 7})).expect("a row");
    }
    batch.commit().expect("commit");
}

fn schema(metric: Metric) -> Schema {
    let schema = Schema::builder(DIMS).granularities([8, 16]).metric(metric);
    schema.field("n", FieldKind::Integer).build().expect("valid")
}

/// Rows in a segment with a graph, and some in RAM.
fn filled(metric: Metric) -> Collection {
    let db = Folder::default().create(schema(metric), Options::new()).expect("create");
    fill(&db, 600);
    db.build_graphs().expect("build");
    fill(&db, 20);
    db
}

/// What was said, and not panicked.
fn calm<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| panic!("{what}: panicked"));
    let typed = |e: &Error| !matches!(e, Error::Corrupt(_) | Error::Poisoned { .. });
    assert!(done.as_ref().err().is_none_or(typed), "{what}: {:?}", done.err());
    done
}

const ENDS: [usize; 9] = [0, 1, 2, 63, 65, 1 << 20, u32::MAX as usize, usize::MAX / 2, usize::MAX];

#[test]
fn numbers_at_the_ends_of_their_range_are_answered_or_refused() {
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        let db = filled(metric);
        let query = vector(7, DIMS);
        let all = db.search(&query).limit(600).exact().run().expect("exact").hits;
        for n in ENDS {
            for m in ENDS {
                let what = format!("{metric} {n} {m}");
                let search = || db.search(&query).limit(n);
                let funnels = [
                    Funnel::graph(m, []),
                    Funnel::graph(m, [(16, n)]),
                    Funnel::stages([(8, m)]),
                    Funnel::stages([(8, m), (DIMS, n)]),
                    Funnel::stages([(m, n)]),
                    Funnel::exact(),
                    Funnel::default(),
                ];
                for funnel in funnels {
                    let found = calm(&what, || search().funnel(funnel.clone()).run());
                    let hits = found.map_or(Vec::new(), |found| found.hits);
                    assert!(hits.len() <= n.min(600), "{what}");
                    // What is kept wide enough is all there is.
                    if m >= 600 && hits.len() == 600 {
                        assert_eq!(hits, all, "{what} {funnel:?}");
                    }
                }
                let _ = calm(&what, || search().group_by("n", m).run());
                let _ = calm(&what, || search().dims(m).run());
                let _ = calm(&what, || search().group_by("n", m).dims(16).exact().run());
                let threads = m.min(1 << 20);
                let queries = [&query, &query, &query];
                let batch = db.search_batch(queries).limit(n).threads(threads);
                let _ = calm(&what, || batch.run());
            }
        }
        for score in [f32::MIN, -0.0, 1.0, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
            for limit in [0, 3, usize::MAX] {
                let what = format!("{metric} within {score}, {limit}");
                let search = || db.search(&query).limit(limit).within(score);
                let found = calm(&what, || search().exact().run());
                let expected = all.iter().filter(|hit| hit.score >= score).take(limit).count();
                if !score.is_nan() {
                    assert_eq!(found.expect("a score").hits.len(), expected, "{what}");
                }
                let _ = calm(&what, || search().funnel(Funnel::graph(600, [])).run());
                let _ = calm(&what, || search().recall(0.9).run());
            }
        }
        for share in [f64::NAN, f64::INFINITY, -1.0, 0.0, f64::MIN_POSITIVE, 1.0, 1.0 + 1e-9, 2.0] {
            let _ = calm("recall", || db.search(&query).recall(share).run());
        }
    }
}

#[test]
fn options_at_the_ends_of_their_range_give_the_same_answers() {
    let answers = |db: &Collection| {
        let query = vector(7, DIMS);
        let found = db.search(&query).limit(50).payloads(true).run().expect("searches");
        (db.len(), found.hits.into_iter().map(|hit| (hit.id, hit.score)).collect::<Vec<_>>())
    };
    let expected = answers(&filled(Metric::Cosine));
    let extremes: Vec<(&str, Options)> = vec![
        ("no memtable", Options::new().memtable_bytes(0)),
        ("one byte", Options::new().memtable_bytes(1)),
        ("all memory", Options::new().memtable_bytes(usize::MAX)),
        ("no budget", Options::new().ram_budget(0)),
        ("a byte of it", Options::new().ram_budget(1)),
        ("all of it", Options::new().ram_budget(u64::MAX)),
        ("graphs of two", Options::new().graph_min_rows(0)),
        ("no reserve", Options::new().reserve(0)),
        ("all disk", Options::new().reserve(u64::MAX)),
        ("half of it", Options::new().reserve(1 << 62)),
        ("for ever", Options::new().lock_timeout(Duration::MAX)),
        ("not mapped", Options::new().mapped(false)),
        ("buffered", Options::new().durability(Durability::Buffered)),
        ("bits that are none", Options::new().file_mode(u32::MAX)),
    ];
    for (what, options) in extremes {
        for background in [false, true] {
            let dir = tempfile::tempdir().expect("temporary folder");
            let path = dir.path().join("a.matryo");
            let options = options.clone().background(background);
            let made = calm(what, || {
                Collection::create_with(&path, schema(Metric::Cosine), options.clone())
            });
            let Ok(db) = made else { continue };
            fill(&db, 600);
            db.flush().expect(what);
            db.build_graphs().expect(what);
            fill(&db, 20);
            assert_eq!(answers(&db), expected, "{what}");
            db.compact().expect(what);
            drop(db);
            let db = Collection::open_with(&path, options).expect(what);
            assert_eq!(answers(&db), expected, "{what}");
            db.verify().expect(what);
        }
    }
}

/// Copies at the ends of what can be asked for.
#[test]
fn copies_of_odd_sizes_are_whole_or_refused() {
    let db = filled(Metric::L2);
    for dims in ENDS {
        for memory in [0, 1, 5000, usize::MAX] {
            let dir = tempfile::tempdir().expect("temporary folder");
            let to = dir.path().join("copy");
            let options = CopyOptions::new().dims(dims).memory(memory);
            let copied = calm("copy", || db.copy_to(&to, &options));
            assert_eq!(copied.is_ok(), (1..=DIMS).contains(&dims), "{dims} {memory}: {copied:?}");
            if copied.is_ok() {
                let copy = Collection::open(&to).expect("opens");
                assert_eq!(copy.len(), 600);
                copy.verify().expect("intact");
            }
        }
    }
}

/// A closure of ours is called in the middle of things, and calls back.
#[test]
fn callbacks_may_use_the_collection_they_are_called_by() {
    let db = filled(Metric::Cosine);
    let looks = |db: &Collection| {
        assert_eq!(db.len(), 600);
        db.search(&vector(1, DIMS)).run().expect("searches");
        db.info().expect("info");
        db.get(3).expect("get").expect("there");
        true
    };
    let writes = |db: &Collection| {
        looks(db);
        db.upsert(1, &vector(1, DIMS), json!({"n": 1})).expect("commits go on");
        true
    };
    let inner = db.clone();
    let passes = move |_: &matryo::RowId, _: &matryo::Payload| looks(&inner);
    assert_eq!(
        db.search(&vector(2, DIMS)).limit(3).filter_fn(passes).run().expect("run").hits.len(),
        3
    );
    db.drop_graphs().expect("drop");
    db.build_graphs_with(|_| writes(&db)).expect("build");
    fill(&db, 600);
    db.flush().expect("flush");
    db.compact_with(|_| writes(&db)).expect("compact");
    let dir = tempfile::tempdir().expect("temporary folder");
    db.backup_with(dir.path().join("a"), |_| writes(&db)).expect("backup");
    let options = CopyOptions::new().dims(8);
    db.copy_with(dir.path().join("b"), &options, |_| writes(&db)).expect("copy");
    assert_eq!(db.len(), 600);
    db.verify().expect("intact");
}

/// Things that outlive what they came from.
#[test]
fn what_outlives_its_handle_goes_on_or_says_why_not() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    let db = Collection::create(&path, schema(Metric::Cosine)).expect("create");
    fill(&db, 300);
    db.flush().expect("flush");
    let info = db.info().expect("info");
    assert_eq!(info.reserve_bytes, Options::RESERVE, "kept for a full disk");
    assert_eq!(info.disk_bytes, db.verify().expect("intact").bytes, "and counted apart");
    let (search, snapshot) = (db.search(&vector(1, DIMS)), db.snapshot());
    let mut old = db.batch();
    old.upsert(1000, &vector(1000, DIMS), json!({})).expect("a row");
    // A commit, a merge and a drop later they know nothing of these.
    db.delete(5).expect("delete");
    db.compact().expect("compact");
    old.commit().expect("a batch knows nothing of what there was");
    drop(db);
    std::fs::remove_dir_all(&path).expect("remove");
    assert_eq!(snapshot.len(), 300);
    assert!(snapshot.get(5).expect("mapped still").is_some());
    assert_eq!(search.limit(400).run().expect("mapped still").hits.len(), 300);
    assert!(matches!(Collection::open(&path), Err(Error::NotFound { .. })));
    // The folder goes while a handle is open: reads go on, writes say why not.
    let db = Collection::create(&path, schema(Metric::Cosine)).expect("create");
    fill(&db, 30);
    let reader = Collection::open_with(&path, read_only()).expect("open");
    std::fs::remove_dir_all(&path).expect("remove");
    assert_eq!(db.search(&vector(1, DIMS)).limit(40).run().expect("reads").hits.len(), 30);
    let refused = db.flush().expect_err("there is no folder");
    assert!(matches!(refused, Error::Io { .. }), "{refused}");
    assert!(reader.refresh().is_err() && reader.verify().is_err());
    assert_eq!(reader.len(), 30);
}

/// Filters as long as they get: neither parsing, printing, running nor dropping one needs a
/// stack that grows with it.
#[test]
fn filters_of_any_length_are_answered_or_refused() {
    let db = filled(Metric::Cosine);
    let long =
        |n: usize| (0..n).fold(field("n").eq(3), |all, i| all.or(field("n").eq(i as i64 % 7)));
    for n in [1, 100, 10_000] {
        let filter = long(n);
        let printed = filter.to_string();
        let counted = calm("count", || db.count(&filter));
        let again = calm("parse", || Filter::parse(&printed).and_then(|filter| db.count(&filter)));
        assert_eq!(counted.is_ok(), again.is_ok(), "{n}");
        let _ = calm("not", || db.count(&(0..n).fold(long(1), |filter, _| filter.not())));
        let many = calm("in", || db.count(&field("n").is_in((0..n as i64).map(|i| i % 9))));
        assert!(many.is_ok_and(|rows| rows > 0), "{n}");
        assert_eq!(db.count(&Filter::ids(0..n as u64)).expect("ids"), 600.min(n as u64));
    }
}

/// Where the system has no thread to give.
fn few_threads(path: &Path) {
    let options = Options::new().background(false);
    let db = Collection::open_with(path, options).expect("open");
    let queries: Vec<_> = (0..3000).map(|n| vector(n, DIMS)).collect();
    let found = db.search_batch(&queries).limit(3).exact().threads(3000).run().expect("answers");
    for at in [0, 1500, 2999] {
        let alone = db.search(&queries[at]).limit(3).exact().run().expect("answers");
        assert_eq!(found[at].hits, alone.hits, "{at}");
    }
    db.build_graphs().expect("builds");
    db.verify().expect("intact");
    drop(db);
    let options = Options::new().memtable_bytes(20_000);
    let db = Collection::open_with(path, options).expect("open");
    let mut bulk = db.bulk().expect("bulk");
    for id in 5000..6000u64 {
        bulk.upsert(id, &vector(id, DIMS), ()).expect("loads");
    }
    bulk.finish().expect("loads");
    assert_eq!(db.len(), 3000);
    db.verify().expect("intact");
    assert!(std::thread::Builder::new().spawn(|| ()).is_err(), "there are threads after all");
    println!("answered");
}

#[test]
fn too_few_threads_are_no_reason_to_fail() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    let db = Collection::create(&path, schema(Metric::Cosine)).expect("create");
    fill(&db, 2000);
    drop(db);
    // No thread has room for such a stack.
    let limits = "export RUST_MIN_STACK=1125899906842624;";
    let said = output(spawn("few threads", &path, limits));
    assert!(said.contains("answered"), "{said}");
}

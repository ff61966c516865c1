//! Input that is wrong, extreme or odd, through the public API: a typed error
//! with a message that says what was expected, or a defined result; never a
//! panic, and nothing changed.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use matryo::testing::Folder;
use matryo::testing::encoding::{Bits, StageCode};
use matryo::{
    Batch, Collection, Error, Funnel, Hit, IdKind, Metric, Options, Precision, Schema,
    SchemaBuilder, Search, SearchResult, Value, json,
};

use support::writes::WRITES;

const DIMS: usize = 8;
const ONE: [f32; DIMS] = [1.0; DIMS];

/// What was given, and the beginning of what comes of it or a part of it.
type Row<T> = (&'static str, T, &'static str);

fn made(schema: SchemaBuilder) -> Collection {
    let schema = schema.build().expect("valid");
    Folder::default().create(schema, Options::new()).expect("create")
}

fn said<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(e) => {
            let typed = matches!(
                e,
                Error::Invalid { .. }
                    | Error::Vector(_)
                    | Error::BatchFull { .. }
                    | Error::ReadOnly { .. }
                    | Error::NoSuchRow { .. }
            );
            assert!(typed, "{e:?}");
            format!("refused: {e}")
        }
    }
}

fn check<T>(table: Vec<Row<T>>, run: impl Fn(T) -> String) {
    let mut wrong = Vec::new();
    for (what, given, expected) in table {
        let got = catch_unwind(AssertUnwindSafe(|| run(given))).unwrap_or("a panic".into());
        if !got.contains(expected) {
            wrong.push(format!("{what}: expected {expected:?}, got {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn with(at: usize, value: f32) -> Vec<f32> {
    let mut v = ONE.to_vec();
    v[at] = value;
    v
}

#[test]
fn vectors() {
    let table: Vec<Row<Vec<f32>>> = vec![
        ("NaN", with(3, f32::NAN), "refused: vector component 3 is NaN"),
        ("infinity", with(7, f32::INFINITY), "refused: vector component 7 is inf"),
        ("-infinity", with(0, f32::NEG_INFINITY), "refused: vector component 0 is -inf"),
        ("a subnormal", with(2, 1e-40), "1 row"),
        ("negative zero", with(2, -0.0), "1 row"),
        ("zeros", vec![0.0; DIMS], "refused: vector is all zeros"),
        ("negative zeros", vec![-0.0; DIMS], "refused: vector is all zeros"),
        ("subnormals only", vec![1e-44; DIMS], "refused: vector has norm"),
        ("a norm that overflows", vec![3e38; DIMS], "refused: vector has norm"),
        ("components of 1e30", vec![1e30; DIMS], "1 row"),
        ("not normalised", vec![250.0; DIMS], "1 row"),
        ("one dimension less", vec![1.0; DIMS - 1], "refused: vector has 7 dimensions, expected 8"),
        ("one dimension more", vec![1.0; DIMS + 1], "refused: vector has 9 dimensions, expected 8"),
        ("no dimensions", vec![], "refused: vector has 0 dimensions, expected 8"),
        ("very many", vec![1.0; 1 << 20], "refused: vector has 1048576 dimensions, expected 8"),
    ];
    check(table.clone(), |v| {
        let db = made(Schema::builder(DIMS));
        let written = said(db.upsert(1, &v, ()));
        let (mut bulk, mut batch) = (db.bulk().expect("bulk"), db.batch());
        assert_eq!(said(bulk.upsert(2, &v, ())), written, "a bulk load says the same");
        assert_eq!(said(batch.upsert(2, &v, ()).map(drop)), written, "and so does a batch");
        if written.starts_with("refused") {
            assert!(db.is_empty());
            return written;
        }
        let hits = db.search(&v).run().expect("found").hits;
        assert!((hits[0].score - 1.0).abs() < 1e-5, "{hits:?}");
        format!("{} row", db.len())
    });
    // The same as queries: what can be stored can be looked for, the rest not.
    check(table, |v| {
        let db = made(Schema::builder(DIMS));
        db.upsert(1, &ONE, ()).expect("upsert");
        match db.search(&v).run() {
            Ok(result) => {
                assert!(result.hits.iter().all(|hit| hit.score.is_finite()));
                format!("{} row", result.hits.len())
            }
            Err(e) => said::<()>(Err(e)),
        }
    });
}

#[test]
fn vectors_under_other_metrics_and_precisions() {
    let table: Vec<Row<(Metric, Precision, f32)>> = vec![
        ("zeros under dot", (Metric::Dot, Precision::F32, 0.0), "1 hit"),
        ("zeros under l2", (Metric::L2, Precision::F32, 0.0), "1 hit"),
        ("subnormals under dot", (Metric::Dot, Precision::F32, 1e-40), "1 hit"),
        ("1e30 under l2", (Metric::L2, Precision::F32, 1e30), "1 hit"),
        ("1e38 under dot", (Metric::Dot, Precision::F32, 1e38), "1 hit"),
        ("1e6 as f16", (Metric::Cosine, Precision::F16, 1e6), "too large to store as f16"),
        ("1e-9 as f16", (Metric::Cosine, Precision::F16, 1e-9), "vector is all zeros"),
        ("1e38 as bf16", (Metric::Dot, Precision::BF16, 1e38), "1 hit"),
        ("3.4e38 as bf16", (Metric::Dot, Precision::BF16, 3.4e38), "refused"),
    ];
    check(table, |(metric, stored, value)| {
        let db = made(Schema::builder(DIMS).metric(metric).stored(stored));
        match db.upsert(1, &[value; DIMS], ()) {
            Ok(()) => {
                let hits = db.search(&ONE).run().expect("search").hits;
                assert!(hits.iter().all(|hit| !hit.score.is_nan()), "{hits:?}");
                format!("{} hit", hits.len())
            }
            refused => said(refused),
        }
    });
}

#[test]
fn a_batch_that_is_full_can_be_committed_and_another_begun() {
    // 255 such rows fill a batch.
    let wide = vec![1.0; matryo::MAX_DIMS];
    let db = made(Schema::builder(wide.len()).stages([StageCode::new(8, Bits::One)]));
    let mut batch = db.batch();
    let full = |e: &Error| match e {
        Error::BatchFull { bytes, most } => *bytes > *most && *most == Batch::MAX_BYTES,
        _ => false,
    };
    let mut committed = 0;
    for id in 0..300u64 {
        let (len, bytes) = (batch.len(), batch.bytes());
        if let Err(e) = batch.upsert(id, &wide, ()) {
            assert!(full(&e), "{e:?}");
            assert!(
                e.to_string().starts_with("at most 67108864 bytes in one batch, got 67"),
                "{e}"
            );
            assert_eq!((batch.len(), batch.bytes()), (len, bytes), "as it was");
            assert_eq!(len, 255);
            std::mem::replace(&mut batch, db.batch()).commit().expect("commit");
            batch.upsert(id, &wide, ()).expect("room");
            committed += 1;
        }
        assert!(batch.bytes() >= wide.len() * 4 && batch.bytes() <= Batch::MAX_BYTES);
    }
    batch.commit().expect("commit");
    assert_eq!((committed, db.len()), (1, 300));
}

#[test]
fn schemas() {
    let code = StageCode::new;
    let new = Schema::builder;
    let table: Vec<Row<SchemaBuilder>> = vec![
        ("0 dimensions", new(0), "refused: invalid schema: expected 1 to 65535 dimensions, got 0"),
        ("1 dimension", new(1), "ok"),
        ("65535 dimensions", new(65_535), "ok"),
        ("65536 dimensions", new(65_536), "expected 1 to 65535 dimensions, got 65536"),
        ("usize::MAX dimensions", new(usize::MAX), "expected 1 to 65535"),
        ("no granularities", new(8).granularities([]), "ok"),
        ("unsorted", new(8).granularities([4, 2]), "ascending numbers, got [4, 2, 8]"),
        ("twice the same", new(8).granularities([4, 4]), "ascending numbers, got [4, 4, 8]"),
        ("0", new(8).granularities([0]), "ascending numbers, got [0, 8]"),
        ("more than all", new(8).granularities([9]), "the last granularity must be all 8"),
        ("no multiple of anything", new(37).granularities([3, 7, 29]), "ok"),
        ("17 granularities", new(64).granularities(1..=17), "granularities are 1 to 16"),
        ("no stages", new(8).stages([]), "expected 1 to 16 stage codes, got 0"),
        ("a stage of 0", new(8).stages([code(0, Bits::One)]), "must cover 1 to 8 dimensions"),
        ("a stage of 9", new(8).stages([code(9, Bits::One)]), "must cover 1 to 8 dimensions"),
        (
            "stages unsorted",
            new(8).stages([code(8, Bits::One), code(4, Bits::Eight)]),
            "stage codes must be ordered",
        ),
    ];
    check(table, |schema| match schema.build() {
        Ok(schema) => {
            let dims = schema.dims();
            let db = Folder::default().create(schema, Options::new()).expect("create");
            db.upsert(1, &vec![1.0; dims], ()).expect("upsert");
            db.flush().expect("flush");
            assert_eq!(db.search(&vec![1.0; dims]).run().expect("search").hits.len(), 1);
            "ok".into()
        }
        refused => said(refused),
    });
}

#[test]
fn searches() {
    type Make = fn(&Collection) -> Search;
    fn new(db: &Collection) -> Search {
        db.search(&ONE)
    }
    fn funnel(db: &Collection, stages: &[(usize, usize)]) -> Search {
        new(db).funnel(Funnel::stages(stages.iter().copied()))
    }
    let table: Vec<Row<Make>> = vec![
        ("limit 0", |db| new(db).limit(0), "0 hits"),
        ("limit 1", |db| new(db).limit(1), "1 hits"),
        ("limit above the rows", |db| new(db).limit(31), "30 hits"),
        ("limit usize::MAX", |db| new(db).limit(usize::MAX), "30 hits"),
        ("limit usize::MAX, exact", |db| new(db).limit(usize::MAX).exact(), "30 hits"),
        ("recall 0", |db| new(db).recall(0.0), "10 hits"),
        ("recall 1", |db| new(db).recall(1.0), "10 hits"),
        ("recall above 1", |db| new(db).recall(1.01), "refused: invalid recall: expected 0 to 1"),
        ("recall below 0", |db| new(db).recall(-0.1), "refused: invalid recall"),
        ("recall NaN", |db| new(db).recall(f64::NAN), "refused: invalid recall"),
        ("0 dimensions", |db| new(db).dims(0), "refused: invalid dims"),
        ("9 dimensions", |db| new(db).dims(9), "refused: invalid dims"),
        ("usize::MAX dimensions", |db| new(db).dims(usize::MAX), "refused: invalid dims"),
        ("a prefix of a longer query", |db| new(db).dims(3), "10 hits"),
        ("a short query unsaid", |db| db.search(&ONE[..3]), "has 3 dimensions, expected 8"),
        ("no stages", |db| funnel(db, &[]), "refused: invalid funnel: expected at least one"),
        ("a shortlist of 0", |db| funnel(db, &[(4, 0)]), "refused: invalid funnel"),
        ("a huge shortlist", |db| funnel(db, &[(4, usize::MAX)]), "10 hits"),
        ("widths that fall", |db| funnel(db, &[(8, 20), (4, 10)]), "refused: invalid funnel"),
        ("shortlists that grow", |db| funnel(db, &[(4, 10), (8, 20)]), "keep ever fewer rows"),
        ("a stage of 0 dimensions", |db| funnel(db, &[(0, 10)]), "refused: invalid funnel"),
        ("a stage of 9 dimensions", |db| funnel(db, &[(9, 10)]), "refused: invalid funnel"),
    ];
    let metrics = [Metric::Cosine, Metric::Dot, Metric::L2];
    let ways = metrics.into_iter().flat_map(|m| [(m, false, true), (m, true, true)]);
    // Equal rows, which no order tells apart, and distinct ones.
    let equal = [(Metric::Cosine, false, false), (Metric::Cosine, true, false)];
    for (metric, flushed, distinct) in ways.chain(equal) {
        check(table.clone(), |search| {
            let db = made(Schema::builder(DIMS).granularities([4]).metric(metric));
            for id in 0..30 {
                let row = if distinct { support::vector(id, DIMS) } else { ONE.to_vec() };
                db.upsert(id, &row, ()).expect("upsert");
            }
            if flushed {
                db.flush().expect("flush");
            }
            match search(&db).run() {
                Ok(result) => {
                    agrees_with_exact(&db, &result);
                    format!("{} hits", result.hits.len())
                }
                Err(e) => said::<()>(Err(e)),
            }
        });
    }
}

/// The hits have the scores that an exact search gives these rows, in its order; and are those it
/// finds, where the answer is said to be exact.
fn agrees_with_exact(db: &Collection, result: &SearchResult) {
    let Some(last) = result.explain.stages.last() else { return assert!(result.hits.is_empty()) };
    let truth = db.search(&ONE).dims(last.dims).limit(30).exact().run().expect("exact").hits;
    let place = |hit: &Hit| truth.iter().position(|row| row.id == hit.id).expect("a row");
    let places: Vec<usize> = result.hits.iter().map(place).collect();
    assert!(places.is_sorted() && places.windows(2).all(|two| two[0] != two[1]), "{places:?}");
    let bits = |hit: &Hit| hit.score.to_bits();
    assert!(result.hits.iter().zip(&places).all(|(hit, at)| bits(hit) == bits(&truth[*at])));
    assert!(!result.explain.exact || places.iter().copied().eq(0..places.len()), "{places:?}");
}

#[test]
fn collections_with_few_rows_or_equal_ones() {
    let table: Vec<Row<(u64, u64)>> = vec![
        ("no rows", (0, 0), "[]"),
        ("one row", (1, 0), "[U64(0)]"),
        ("all deleted", (5, 5), "[]"),
        ("one left", (5, 4), "[U64(4)]"),
        ("all equal", (300, 0), "[U64(0), U64(1), U64(2)]"),
    ];
    for flush in [false, true] {
        check(table.clone(), |(rows, deleted)| {
            let db = made(Schema::builder(DIMS));
            (0..rows).for_each(|id| db.upsert(id, &ONE, ()).expect("upsert"));
            if flush {
                db.flush().expect("flush");
            }
            (0..deleted).for_each(|id| db.delete(id).map(drop).expect("delete"));
            if flush {
                db.compact().expect("compact");
            }
            let ids = |search: Search| {
                let hits = search.limit(3).run().expect("search").hits;
                format!("{:?}", hits.into_iter().map(|hit| hit.id).collect::<Vec<_>>())
            };
            assert_eq!(ids(db.search(&ONE)), ids(db.search(&ONE).exact()));
            ids(db.search(&ONE))
        });
    }
}

#[test]
fn ids() {
    let numbers = made(Schema::builder(DIMS));
    let words = made(Schema::builder(DIMS).ids(IdKind::Str));
    let long = |n: usize| "x".repeat(n);
    let table: Vec<Row<(&Collection, matryo::RowId)>> = vec![
        ("0", (&numbers, 0.into()), "found"),
        ("u64::MAX", (&numbers, u64::MAX.into()), "found"),
        ("a word for a number", (&numbers, "7".into()), "refused: invalid"),
        ("a number for a word", (&words, 7.into()), "refused: invalid"),
        ("no text", (&words, "".into()), "refused: invalid"),
        ("512 bytes", (&words, long(512).into()), "found"),
        ("513 bytes", (&words, long(513).into()), "refused: invalid"),
        ("10 MB", (&words, long(10 << 20).into()), "refused: invalid"),
        ("NUL", (&words, "a\0b".into()), "found"),
        ("a line", (&words, "\n".into()), "found"),
        ("beyond the BMP", (&words, "\u{1f980}\u{10ffff}".into()), "found"),
        ("a path", (&words, "../../etc".into()), "found"),
    ];
    check(table, |(db, id)| {
        let written = said(db.upsert(&id, &ONE, ()));
        if written.starts_with("refused") {
            assert_eq!(said(db.delete(&id)), written);
            assert_eq!(said(db.get(&id).map(drop)), written);
            return written;
        }
        db.flush().expect("flush");
        assert_eq!(db.get(&id).expect("get").expect("there").id, id);
        db.delete(&id).expect("delete");
        db.delete(&id).expect("what is not there can be deleted");
        assert_eq!(db.get(&id).expect("get"), None);
        "found".into()
    });
}

#[test]
fn payloads() {
    let deep = (0..10_000).fold(json!(1), |inner, _| Value::Array(vec![inner]));
    let table: Vec<Row<Value>> = vec![
        ("nothing", json!(null), "{}"),
        ("an empty object", json!({}), "{}"),
        ("a list", json!([1]), "refused: invalid payload: expected a JSON object or null"),
        ("a text", json!("x"), "refused: invalid payload: expected a JSON object or null"),
        ("a number", json!(1.5), "refused: invalid payload: expected a JSON object or null"),
        ("true", json!(true), "refused: invalid payload: expected a JSON object or null"),
        ("NUL", json!({"a\0": "\0"}), r#"{"a\u0000":"\u0000"}"#),
        ("an empty key", json!({"": {}}), r#"{"":{}}"#),
        ("large numbers", json!({"a": u64::MAX, "b": i64::MIN}), "18446744073709551615"),
        (
            "deep",
            Value::Object([("a".into(), deep)].into_iter().collect()),
            "refused: invalid payload: at most 127 objects",
        ),
        (
            "16 MiB",
            json!({"a": "x".repeat(16 << 20)}),
            "refused: invalid payload: at most 16777216",
        ),
    ];
    check(table, |payload| {
        let db = made(Schema::builder(DIMS));
        let written = said(db.upsert(1, &ONE, payload));
        if written.starts_with("refused") {
            assert!(db.is_empty());
            return written;
        }
        db.flush().expect("flush");
        Value::Object(db.get(1).expect("get").expect("there").payload).to_string()
    });
}

fn gone(db: &Collection, id: u64) -> Result<(), Error> {
    db.delete(id).map(drop)
}

#[test]
fn batches() {
    type Run = fn(&Collection) -> Result<(), Error>;
    let table: Vec<Row<Run>> = vec![
        ("an empty batch", |db| db.batch().commit().map(drop), "0 rows, lsn 0"),
        ("an empty bulk load", |db| db.bulk()?.finish(), "0 rows, lsn 0"),
        (
            "the same id often",
            |db| {
                let mut batch = db.batch();
                for n in 0..1000 {
                    batch.upsert(n % 3, &ONE, json!({"n": n}))?;
                }
                batch.commit().map(drop)
            },
            "3 rows, lsn 1",
        ),
        (
            "the same id over batches",
            |db| (0..50).try_for_each(|n| db.upsert(1, &ONE, json!({"n": n}))),
            "1 rows, lsn 50",
        ),
        ("deletes of what is not there", |db| (0..5).try_for_each(|id| gone(db, id)), "0 rows"),
        (
            "upsert and delete at once",
            |db| {
                let mut batch = db.batch();
                batch.upsert(1, &ONE, ())?.delete(1)?.upsert(2, &ONE, ())?;
                batch.commit().map(drop)
            },
            "1 rows, lsn 1",
        ),
        (
            "more than fits",
            |db| {
                let mut batch = db.batch();
                let text = "x".repeat(1 << 20);
                for id in 0..100 {
                    if let Err(e) = batch.upsert(id, &ONE, json!({"text": text})) {
                        assert!(id > 50, "the batch that was there can be committed");
                        batch.commit()?;
                        return Err(e);
                    }
                }
                Ok(())
            },
            "refused: at most 67108864 bytes",
        ),
        (
            "writes while it is merged",
            |db| db.compact_with(|_| db.upsert(1, &ONE, ()).is_ok()).map(drop),
            "0 rows",
        ),
    ];
    check(table, |run| {
        let db = made(Schema::builder(DIMS));
        match run(&db) {
            Ok(()) => format!("{} rows, lsn {}", db.len(), db.snapshot().lsn()),
            Err(e) => said::<()>(Err(e)),
        }
    });
}

/// Some 25 MB in one commit, where the memtable should have one.
#[test]
fn a_batch_may_have_a_million_rows() {
    let folder = Folder::default();
    let schema = Schema::builder(2).build().expect("valid");
    let options = || Options::new().memtable_bytes(1 << 20);
    let db = folder.create(schema, options()).expect("create");
    let (rows, row) = (1_000_000, |id: u64| [1.0, id as f32]);
    let mut batch = db.batch();
    for id in 0..rows {
        batch.upsert(id, &row(id), ()).expect("upsert");
    }
    batch.commit().expect("commit");
    let check = |db: &Collection| {
        assert_eq!(db.len(), rows);
        for id in [0, 1, 4711, rows - 1] {
            assert_eq!(db.get(id).expect("get").expect("there").vector, row(id));
        }
        assert!(!db.contains(rows).expect("readable"));
    };
    check(&db);
    db.upsert(7, &row(7), ()).expect("the memtable is flushed first");
    check(&db);
    drop(db);
    let db = folder.open(options()).expect("open");
    check(&db);
    db.verify().expect("whole");
}

#[test]
fn a_read_only_handle_refuses_every_write() {
    let folder = Folder::default();
    let options = Options::new().read_only(true);
    let schema = || Schema::builder(DIMS).build().expect("valid");
    assert!(said(folder.create(schema(), options.clone()).map(drop)).contains("read-only"));
    let db = folder.create(schema(), Options::new()).expect("create");
    db.upsert(1, &ONE, ()).expect("upsert");
    drop(db);
    let before = support::files(&folder);
    let db = folder.open(options).expect("open");
    for (what, write) in WRITES {
        let refused = said(write(&db));
        assert!(refused.contains("open for reading only"), "{what}: {refused}");
    }
    drop(db);
    assert_eq!(support::files(&folder), before);
}

#[test]
fn a_query_is_told_of_prefixes_and_a_row_is_not() {
    let db = made(Schema::builder(DIMS).granularities([2, 4]));
    let late = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
    db.upsert(1, &late, ()).expect("upsert");
    let says = |query: &[f32], dims: Option<usize>| {
        let search = db.search(query);
        said(dims.map_or(search.run(), |dims| db.search(query).dims(dims).run()).map(drop))
    };
    let hint = "(granularities [2, 4, 8]; a shorter query says so with `dims`)";
    let short = format!("refused: vector has 4 dimensions, expected 8 {hint}");
    assert_eq!(says(&[1.0; 4], None), short);
    assert_eq!(says(&[1.0; 9], None), "refused: vector has 9 dimensions, expected 8");
    assert_eq!(says(&[1.0; 5], Some(4)), "refused: vector has 5 dimensions, expected 4");
    assert_eq!(says(&[1.0; 4], Some(4)), "()");
    // What is zero is the prefix, not the vector: also of a row that is the query.
    let zeros = "refused: the query has no direction under cosine: its first 4 dimensions are all \
                 zeros";
    assert_eq!(says(&late, Some(4)), zeros);
    let like = db.search_like(1).expect("a row");
    assert_eq!(said(like.dims(4).run().map(drop)), zeros);
    assert_eq!(says(&late, Some(5)), "()");
    assert!(says(&[0.0; 4], Some(4)).contains("vector is all zeros"));
    assert!(says(&[0.0; 8], Some(4)).contains("vector is all zeros"));
}

#[test]
fn a_failure_of_the_callers_own_comes_back_as_it_was() {
    use matryo::{EmbedderId, ReembedOptions, SourceRow};
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a");
    let db = Collection::create(&path, Schema::builder(2).build().expect("valid")).expect("create");
    db.upsert(1, &[1.0, 2.0], ()).expect("upsert");
    drop(db);
    let options = ReembedOptions::new(2, EmbedderId::new("model", [7; 32]));
    let fails = |_: &[SourceRow]| -> Result<Vec<Vec<f32>>, Error> {
        Err(Error::other(std::io::Error::other("the model is on holiday")))
    };
    let failed = Collection::reembed(&path, &options, fails).expect_err("it fails");
    assert_eq!(failed.to_string(), "the model is on holiday");
    let Error::Other(own) = failed else { panic!("another error: {failed:?}") };
    assert!(own.is::<std::io::Error>(), "{own:?}");
}

//! The public API as a user meets it.

use matryo::testing::Folder;
use matryo::{
    Bits, Collection, EmbedderId, Error, FieldKind, Funnel, IdKind, Metric, Options, Precision,
    RowId, Schema, StageCode, json,
};

type Done = Result<(), Box<dyn std::error::Error>>;

/// A deterministic pseudo-random vector.
fn vector(seed: u64, dims: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..dims).map(|_| next()).collect()
}

fn filled(dir: &std::path::Path, schema: Schema, rows: u64) -> matryo::Result<Collection> {
    let dims = schema.dims();
    let collection = Collection::create(dir, schema)?;
    let mut batch = collection.batch();
    for id in 0..rows {
        batch.upsert(id, &vector(id, dims), json!({"n": id}))?;
    }
    batch.commit()?;
    Ok(collection)
}

#[test]
fn handles_and_searches_can_cross_threads() {
    fn shareable<T: Send + Sync + 'static>() {}
    fn sendable<T: Send + 'static>() {}
    shareable::<Collection>();
    shareable::<Error>();
    sendable::<matryo::Search>();
}

#[test]
fn rows_survive_commit_flush_and_reopen() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.matryo");
    for stored in Precision::ALL {
        let schema = Schema::builder(40).stored(stored).build()?;
        let collection = filled(&path, schema, 100)?;
        let before = collection.get(42)?.expect("is there");
        assert_eq!(before.payload["n"], json!(42));
        drop(collection);
        let collection = Collection::open(&path)?;
        assert_eq!(collection.get(42)?.as_ref(), Some(&before), "from the log");
        collection.flush()?;
        assert_eq!(collection.get(42)?.as_ref(), Some(&before), "from a segment");
        drop(collection);
        let collection = Collection::open(&path)?;
        assert_eq!(collection.get(42)?, Some(before), "from a reopened segment");
        assert_eq!(collection.len(), 100);
        collection.verify()?;
        drop(collection);
        std::fs::remove_dir_all(&path)?;
    }
    Ok(())
}

#[test]
fn updates_and_deletes_hold_in_log_segment_and_after_reopen() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.matryo");
    let collection = filled(&path, Schema::builder(16).build()?, 50)?;
    collection.flush()?;
    collection.upsert(3, &vector(1003, 16), json!({"n": "new"}))?;
    let mut batch = collection.batch();
    batch.delete(4)?.delete(4000)?.upsert(5, &vector(1, 16), ())?.delete(5)?;
    batch.delete(6)?.upsert(6, &vector(1006, 16), json!({}))?;
    batch.commit()?;
    let check = |collection: &Collection| -> Done {
        assert_eq!(collection.len(), 48);
        assert_eq!(collection.get(3)?.expect("row 3").payload["n"], json!("new"));
        assert_eq!(collection.get(4)?, None);
        assert_eq!(collection.get(5)?, None);
        assert_eq!(collection.get(6)?.expect("row 6").vector, vector(1006, 16));
        let all = collection.search(&vector(3, 16)).limit(100).exact().run()?;
        assert_eq!(all.hits.len(), 48);
        Ok(())
    };
    check(&collection)?;
    collection.flush()?;
    check(&collection)?;
    drop(collection);
    check(&Collection::open(&path)?)
}

#[test]
fn string_ids_work_like_numbers() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a.matryo");
    let collection = Collection::create(&path, Schema::builder(4).ids(IdKind::Str).build()?)?;
    for word in ["pear", "fig", "apple", "größe"] {
        collection.upsert(word, &vector(word.len() as u64, 4), json!({"word": word}))?;
    }
    collection.flush()?;
    drop(collection);
    let collection = Collection::open(&path)?;
    assert_eq!(collection.get("größe")?.expect("is there").payload["word"], json!("größe"));
    assert!(matches!(collection.get(7), Err(Error::Invalid { .. })), "wrong kind of id");
    assert!(collection.upsert("", &[1.0; 4], ()).is_err(), "empty id");
    assert!(collection.upsert("x".repeat(513), &[1.0; 4], ()).is_err(), "long id");
    collection.upsert("x".repeat(512), &[1.0; 4], ())?;
    Ok(())
}

#[test]
fn snapshots_and_answers_can_be_gone_through() -> Done {
    let dir = tempfile::tempdir()?;
    let collection = filled(&dir.path().join("a"), Schema::builder(8).build()?, 10)?;
    collection.flush()?;
    collection.delete(3)?;
    let snapshot = collection.snapshot();
    collection.delete(4)?;
    let mut ids = Vec::new();
    for row in &snapshot {
        let row = row?;
        assert_eq!(snapshot.get(row.id.clone())?, Some(row.clone()));
        ids.push(row.id);
    }
    let all: Vec<_> = snapshot.iter().collect::<Result<_, _>>()?;
    assert_eq!((ids.len(), all.len()), (9, 9));
    assert!(ids.iter().eq(all.iter().map(|row| &row.id)));
    let found = snapshot.search(&vector(1, 8)).limit(4).run()?;
    assert_eq!((&found).into_iter().collect::<Vec<_>>(), found.hits.iter().collect::<Vec<_>>());
    let hits = found.hits.clone();
    assert_eq!(found.into_iter().collect::<Vec<_>>(), hits);
    Ok(())
}

#[test]
fn kinds_of_fields_are_read_as_they_are_written() {
    for kind in FieldKind::ALL {
        assert_eq!(kind.to_string().parse::<FieldKind>().expect("a kind"), kind);
    }
    let wrong = "Integer".parse::<FieldKind>().expect_err("no kind").to_string();
    let names = "keyword, integer, float, bool, timestamp";
    assert_eq!(wrong, format!("invalid kind of field: expected one of {names}, got \"Integer\""));
}

#[test]
fn a_snapshot_in_a_search_does_not_see_later_commits() -> Done {
    let dir = tempfile::tempdir()?;
    let collection = filled(&dir.path().join("a"), Schema::builder(8).build()?, 10)?;
    let search = collection.search(&vector(3, 8)).limit(100);
    collection.delete(3)?;
    collection.flush()?;
    assert_eq!(search.run()?.hits.len(), 10);
    assert_eq!(collection.search(&vector(3, 8)).limit(100).run()?.hits.len(), 9);
    Ok(())
}

#[test]
fn scores_are_the_metric_over_the_dimensions_asked_for() -> Done {
    let dir = tempfile::tempdir()?;
    for metric in Metric::ALL {
        let schema = Schema::builder(96).metric(metric).granularities([32]).build()?;
        let collection = filled(&dir.path().join(metric.name()), schema, 300)?;
        let query = vector(77_777, 96);
        for dims in [1, 7, 32, 33, 95, 96] {
            let result = collection.search(&query).dims(dims).limit(300).exact().run()?;
            assert_eq!(result.metric, metric);
            for hit in &result.hits {
                let RowId::U64(id) = hit.id else { panic!("u64 ids") };
                let want = score(metric, &query[..dims], &vector(id, 96)[..dims]);
                assert!(
                    (f64::from(hit.score) - want).abs() < 1e-5,
                    "{metric} {dims} {hit:?} {want}"
                );
            }
            assert!(result.hits.windows(2).all(|w| w[0].score >= w[1].score));
            let short = collection.search(&query[..dims]).dims(dims).limit(300).exact().run()?;
            assert_eq!(short.hits, result.hits, "a short query is the prefix of a long one");
        }
    }
    Ok(())
}

fn score(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(x, y)| f(f64::from(*x), f64::from(*y))).sum()
    };
    let dot = sum(&|x, y| x * y);
    match metric {
        Metric::Cosine => dot / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt(),
        Metric::Dot => dot,
        _ => -sum(&|x, y| (x - y) * (x - y)),
    }
}

#[test]
fn the_funnel_finds_what_brute_force_finds() -> Done {
    let dir = tempfile::tempdir()?;
    for metric in Metric::ALL {
        let schema = Schema::builder(256).metric(metric).granularities([32, 64]).build()?;
        let collection = filled(&dir.path().join(metric.name()), schema, 20_000)?;
        collection.flush()?;
        let (mut found, mut wanted) = (0, 0);
        for q in 0..20 {
            // A noisy copy of a stored row: it has true neighbours.
            let query: Vec<f32> =
                vector(q, 256).iter().zip(vector(q + 9000, 256)).map(|(a, b)| a + b).collect();
            let truth = collection.search(&query).exact().run()?;
            let funnel = collection.search(&query).recall(0.99).run()?;
            assert!(!funnel.explain.exact && truth.explain.exact);
            assert_eq!(funnel.explain.stages.len(), 2, "{}", funnel.explain);
            wanted += truth.hits.len();
            found += truth.hits.iter().filter(|hit| funnel.hits.contains(hit)).count();
        }
        assert!(found * 100 >= wanted * 95, "{metric}: found {found} of {wanted}");
    }
    Ok(())
}

#[test]
fn hand_written_funnels_run_every_stage() -> Done {
    let dir = tempfile::tempdir()?;
    let schema = Schema::builder(128).granularities([8, 16, 32, 64]).build()?;
    let collection = filled(&dir.path().join("a"), schema, 2000)?;
    let funnel = Funnel::stages([(8, 200), (16, 100), (32, 50), (64, 25)]);
    let result = collection.search(&vector(5, 128)).funnel(funnel).run()?;
    assert_eq!(result.hits[0].id, RowId::U64(5), "a stored row finds itself");
    let rows: Vec<_> =
        result.explain.stages.iter().map(|s| (s.dims, s.rows_in, s.rows_out)).collect();
    assert_eq!(rows, [(8, 2000, 200), (16, 200, 100), (32, 100, 50), (64, 50, 25), (128, 25, 10)]);
    Ok(())
}

#[test]
fn equal_scores_are_ranked_by_id() -> Done {
    let dir = tempfile::tempdir()?;
    let collection = Collection::create(dir.path().join("a"), Schema::builder(8).build()?)?;
    for id in [9, 2, 7, 1, 8, 4] {
        collection.upsert(id, &[1.0; 8], ())?;
    }
    let ids: Vec<_> =
        collection.search(&[1.0; 8]).limit(4).run()?.hits.into_iter().map(|h| h.id).collect();
    assert_eq!(ids, [1u64, 2, 4, 7].map(RowId::U64));
    Ok(())
}

#[test]
fn limits_of_k_and_rows_are_defined() -> Done {
    let dir = tempfile::tempdir()?;
    let empty = Collection::create(dir.path().join("empty"), Schema::builder(8).build()?)?;
    for search in [empty.search(&[1.0; 8]), empty.search(&[1.0; 8]).exact()] {
        assert_eq!(search.run()?.hits, []);
    }
    let full = filled(&dir.path().join("full"), Schema::builder(8).build()?, 30)?;
    for (k, expected) in [(0, 0), (1, 1), (30, 30), (31, 30), (usize::MAX, 30)] {
        assert_eq!(full.search(&[1.0; 8]).limit(k).run()?.hits.len(), expected, "k = {k}");
        assert_eq!(full.search(&[1.0; 8]).limit(k).exact().run()?.hits.len(), expected);
    }
    for id in 0..30 {
        full.delete(id)?;
    }
    assert_eq!(full.search(&[1.0; 8]).run()?.hits, [], "all rows deleted");
    full.flush()?;
    assert!(full.is_empty());
    assert_eq!(full.info()?.segments, 0, "a segment without living rows is gone");
    Ok(())
}

#[test]
fn vectors_that_cannot_be_are_refused_and_nothing_changes() -> Done {
    let dir = tempfile::tempdir()?;
    let schema = Schema::builder(8).granularities([2, 4]).stored(Precision::F16).build()?;
    let collection = Collection::create(dir.path().join("a"), schema)?;
    let refused = |v: &[f32]| collection.upsert(1, v, ()).expect_err("must be refused").to_string();
    assert_eq!(refused(&[1.0; 7]), "vector has 7 dimensions, expected 8");
    assert!(refused(&[1.0; 9]).contains("9 dimensions"));
    assert!(refused(&[]).contains("0 dimensions"));
    assert!(refused(&[f32::NAN; 8]).contains("component 0 is NaN"));
    let mut inf = [1.0; 8];
    inf[5] = f32::INFINITY;
    assert!(refused(&inf).contains("component 5 is inf"));
    inf[5] = 1e6;
    assert!(refused(&inf).contains("too large to store as f16"));
    assert!(refused(&[0.0; 8]).contains("zeros"));
    assert!(refused(&[-0.0; 8]).contains("zeros"));
    assert_eq!(collection.len(), 0);
    assert!(refused(&[f32::MIN_POSITIVE; 8]).contains("zeros"), "rounds to zeros in f16");
    let wide = Collection::create(dir.path().join("b"), Schema::builder(8).build()?)?;
    for extreme in [f32::MAX, f32::MIN_POSITIVE / 64.0] {
        let refused = wide.upsert(1, &[extreme; 8], ()).expect_err("must be refused");
        assert!(refused.to_string().contains("norm"), "{refused}");
    }
    for fine in [1e37, 1e-37] {
        wide.upsert(1, &[fine; 8], ())?;
        let hits = wide.search(&[fine; 8]).run()?.hits;
        assert!((hits[0].score - 1.0).abs() < 1e-6, "{hits:?}");
    }
    Ok(())
}

#[test]
fn queries_that_cannot_be_are_refused() -> Done {
    let dir = tempfile::tempdir()?;
    let schema = Schema::builder(8).granularities([2, 4]).build()?;
    let collection = filled(&dir.path().join("a"), schema, 5)?;
    let refused = |s: matryo::Search| s.run().expect_err("must be refused").to_string();
    assert!(refused(collection.search(&[1.0; 4])).contains("4 dimensions, expected 8"));
    assert!(refused(collection.search(&[1.0; 4]).dims(3)).contains("expected 3"));
    assert!(refused(collection.search(&[1.0; 8]).dims(0)).contains("dims"));
    assert!(refused(collection.search(&[1.0; 8]).dims(9)).contains("dims"));
    assert!(refused(collection.search(&[f32::NAN; 8])).contains("NaN"));
    assert!(refused(collection.search(&[0.0; 8])).contains("zeros"));
    let late = [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
    assert!(refused(collection.search(&late).dims(4)).contains("zeros"));
    assert_eq!(collection.search(&late).run()?.hits.len(), 5);
    assert!(refused(collection.search(&[1.0; 8]).recall(1.5)).contains("recall"));
    Ok(())
}

#[test]
fn payloads_are_objects_or_nothing() -> Done {
    let dir = tempfile::tempdir()?;
    let collection = Collection::create(dir.path().join("a"), Schema::builder(2).build()?)?;
    for bad in [json!([1]), json!("text"), json!(3)] {
        let refused = collection.upsert(1, &[1.0, 2.0], bad).expect_err("must be refused");
        assert!(refused.to_string().contains("JSON object"), "{refused}");
    }
    collection.upsert(1, &[1.0, 2.0], json!({"a": {"b": [1, 2.5, null, "\u{1f980}"]}}))?;
    collection.upsert(2, &[1.0, 1.0], ())?;
    let hits = collection.search(&[1.0, 2.0]).payloads(true).run()?.hits;
    assert_eq!(hits[0].payload.as_ref().expect("asked for")["a"]["b"][3], json!("\u{1f980}"));
    assert_eq!(hits[1].payload.as_ref().expect("asked for").len(), 0);
    Ok(())
}

#[test]
fn opening_the_wrong_thing_says_what_is_there() -> Done {
    let dir = tempfile::tempdir()?;
    let says = |path: &std::path::Path| match Collection::open(path) {
        Err(e @ Error::NotACollection { .. }) => e.to_string(),
        Err(e) => panic!("another error: {e}"),
        Ok(_) => panic!("opened"),
    };
    let nothing = dir.path().join("nothing");
    let missing = Collection::open(&nothing).expect_err("nothing there");
    assert!(matches!(&missing, Error::NotFound { path } if *path == nothing), "{missing:?}");
    assert_eq!(missing.to_string(), format!("{} does not exist", nothing.display()));
    let schema = || Schema::builder(2).build();
    for inside in [nothing.join("a"), nothing.join("a/b")] {
        for refused in
            [Collection::create(&inside, schema()?), Collection::open_or_create(&inside, schema()?)]
        {
            let refused = refused.expect_err("the folder around it is missing");
            let around = inside.parent().expect("there is one");
            assert!(matches!(&refused, Error::NotFound { path } if path == around), "{refused:?}");
        }
    }
    assert!(says(dir.path()).contains("empty"));
    std::fs::write(dir.path().join("notes.txt"), "hello")?;
    assert!(says(dir.path()).contains("no MANIFEST"));
    assert!(says(&dir.path().join("notes.txt")).contains("is a file"));
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 1, "left nothing behind");
    let made = Collection::create(dir.path(), Schema::builder(2).build()?);
    assert!(matches!(made, Err(Error::AlreadyExists { .. })), "occupied folder");
    Ok(())
}

#[test]
fn one_writer_and_many_readers() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let writer = filled(&path, Schema::builder(8).build()?, 5)?;
    let read_only = matryo::Options::new().read_only(true);
    assert!(matches!(Collection::open(&path), Err(Error::Locked { .. })));
    let beside = Collection::open_with(&path, read_only.clone())?;
    let clone = writer.clone();
    drop(writer);
    assert!(matches!(Collection::open(&path), Err(Error::Locked { .. })), "a clone holds it");
    drop(clone);
    let a = Collection::open_with(&path, read_only.clone())?;
    let b = Collection::open_with(&path, read_only)?;
    assert_eq!((a.len(), b.len()), (5, 5), "rows that are only in the log are read");
    assert!(a.upsert(1, &[1.0; 8], ()).is_err(), "readers do not write");
    Collection::open(&path)?.upsert(6, &[1.0; 8], ())?;
    assert_eq!((a.len(), beside.len()), (5, 5), "until they look again");
    assert!(a.refresh()? && beside.refresh()? && !a.refresh()?);
    assert_eq!((a.len(), beside.len(), b.len()), (6, 6, 5));
    Ok(())
}

#[test]
fn a_full_memtable_becomes_segments_by_itself() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let options = matryo::Options::new().memtable_bytes(64 << 10).background(false);
    let collection = Collection::create_with(&path, Schema::builder(64).build()?, options)?;
    for start in (0..2000).step_by(50) {
        let mut batch = collection.batch();
        for id in start..start + 50 {
            batch.upsert(id, &vector(id, 64), json!({"n": id}))?;
        }
        batch.commit()?;
    }
    assert!(collection.info()?.segments > 3);
    drop(collection);
    let collection = Collection::open(&path)?;
    assert_eq!(collection.len(), 2000);
    for id in [0, 999, 1999] {
        assert_eq!(collection.get(id)?.expect("is there").vector, vector(id, 64));
    }
    Ok(())
}

#[test]
fn a_collection_is_opened_or_created() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let builder = || Schema::builder(8).granularities([4]).field("year", FieldKind::Integer);
    let read_only = Options::new().read_only(true);
    let missing = Collection::open_or_create_with(&path, builder().build()?, read_only.clone());
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    for n in 0..3u64 {
        let collection = Collection::open_or_create(&path, builder().build()?)?;
        assert_eq!(collection.len(), n);
        collection.upsert(n, &[1.0; 8], ())?;
        let beside = Collection::open_or_create_with(&path, builder().build()?, read_only.clone());
        assert_eq!(beside?.len(), n + 1);
        let locked = Collection::open_or_create(&path, builder().build()?);
        assert!(matches!(locked, Err(Error::Locked { .. })));
        // The last handle is gone with this, and so is the lock.
        collection.close()?;
    }
    let one_bit = StageCode { dims: 8, bits: Bits::One };
    let other = |hash| EmbedderId::new("model", [hash; 32]);
    let wrong = [
        (Schema::builder(9).build()?, "dimensions: it has 8, got 9"),
        (builder().metric(Metric::Dot).build()?, "metric: it has cosine, got dot"),
        (Schema::builder(8).build()?, "granularities: it has [4, 8], got [8]"),
        (builder().stored(Precision::F16).build()?, "precision: it has f32, got f16"),
        (builder().ids(IdKind::Str).build()?, "ids: it has u64, got string"),
        (builder().stages([one_bit]).build()?, "stage codes: "),
        (builder().field("more", FieldKind::Bool).build()?, "fields: "),
        (builder().embedder(other(1)).build()?, "embedder: it has none, got"),
    ];
    for (schema, expected) in wrong {
        let refused = Collection::open_or_create(&path, schema).expect_err("another schema");
        assert!(refused.to_string().contains(expected), "{refused}");
        assert!(matches!(refused, Error::OtherSchema { .. }), "{refused:?}");
    }
    let path = dir.path().join("b");
    Collection::create(&path, builder().embedder(other(1)).build()?)?;
    let refused = Collection::open_or_create(&path, builder().embedder(other(2)).build()?);
    assert!(matches!(refused, Err(Error::OtherEmbedder { .. })));
    // Codes that another version chose are kept, unless others are asked for.
    let path = dir.path().join("codes");
    Collection::create(&path, builder().stages([one_bit]).build()?)?;
    assert_eq!(Collection::open_or_create(&path, builder().build()?)?.schema().stages(), [one_bit]);
    let named = builder().stages(builder().build()?.stages().to_vec()).build()?;
    let refused = Collection::open_or_create(&path, named).expect_err("other codes");
    assert!(refused.to_string().contains("stage codes: "), "{refused}");
    let foreign = dir.path().join("c");
    std::fs::create_dir(&foreign)?;
    std::fs::write(foreign.join("letter.txt"), "mine")?;
    let refused = Collection::open_or_create(&foreign, builder().build()?);
    assert!(matches!(refused, Err(Error::NotACollection { .. })));
    assert_eq!(std::fs::read_dir(&foreign)?.count(), 1);
    Ok(())
}

#[test]
fn fields_are_compared_whatever_their_order() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("fields");
    let (year, more) = (("year", FieldKind::Integer), ("more", FieldKind::Bool));
    let schema = |fields: &[(&str, FieldKind)]| {
        fields.iter().fold(Schema::builder(2), |schema, (n, k)| schema.field(*n, *k)).build()
    };
    Collection::create(&path, schema(&[year, more])?)?;
    let opened = Collection::open_or_create(&path, schema(&[more, year])?)?;
    opened.upsert(1, &[1.0, 0.0], json!({"year": 1999, "more": true}))?;
    assert_eq!(opened.schema().fields()[0].name(), "year", "as it is stored");
    assert_eq!(opened.count(&"year = 1999 AND more = true".parse()?)?, 1);
    drop(opened);
    let word = ("more", FieldKind::Keyword);
    for (fields, expected) in
        [(&[year][..], "[year (integer)]"), (&[word, year], "[more (keyword), year (integer)]")]
    {
        let refused = Collection::open_or_create(&path, schema(fields)?).expect_err("other fields");
        let Error::OtherSchema { part, stored, given } = &refused else { panic!("{refused:?}") };
        let stored = (*part, stored.as_str());
        assert_eq!(stored, ("fields", "[more (bool), year (integer)]"));
        assert_eq!(given, expected);
        assert!(refused.to_string().contains("`matryo copy --field`"), "{refused}");
    }
    Ok(())
}

#[test]
fn a_payload_is_replaced_and_the_vector_stays() -> Done {
    let folder = Folder::default();
    let schema = Schema::builder(4).stored(Precision::F16).field("year", FieldKind::Integer);
    let db = folder.create(schema.ids(IdKind::Str).build()?, Options::new())?;
    let vector = [0.1, 0.7, -0.3, 0.9];
    db.upsert("a", &vector, json!({"year": 1990}))?;
    let name = String::from("b");
    db.upsert(&name, &[1.0; 4], ())?;
    let stored = db.get("a")?.expect("there").vector;
    for year in 2000..2004 {
        assert!(db.set_payload("a", json!({"year": year}))?);
        let row = db.get("a")?.expect("there");
        assert_eq!((row.vector, &row.payload["year"]), (stored.clone(), &json!(year)));
        assert_eq!(db.count(&"year >= 2000".parse()?)?, 1);
        assert_eq!(db.len(), 2);
        if year % 2 == 0 {
            db.flush()?;
        }
    }
    let before = db.snapshot().lsn();
    assert!(!db.set_payload("c", json!({"year": 1}))?, "there is none");
    assert!(db.set_payload("a", json!({"year": "late"})).is_err());
    assert!(db.set_payload(1, ()).is_err());
    assert_eq!(db.snapshot().lsn(), before);
    assert!(
        db.contains("a")? && db.contains(&name)? && !db.contains("c")? && db.contains(1).is_err()
    );
    db.delete("a")?;
    assert!(!db.contains("a")? && db.snapshot().contains("b")?);
    drop(db);
    let db = folder.open(Options::new().read_only(true))?;
    let refused = db.set_payload("b", ()).expect_err("only reads");
    assert!(matches!(refused, Error::ReadOnly { .. }), "{refused}");
    assert!(db.sync().is_err() && db.batch().commit().is_err());
    db.close()?;
    Ok(())
}

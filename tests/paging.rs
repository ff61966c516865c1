//! Pages of hits, prepared searches, hits with their vectors.

use matryo::{
    Collection, Error, FieldKind, Funnel, Hit, Schema, Search, SearchResult, field, json,
};

mod support;

use support::vector;

const DIMS: usize = 64;
const ROWS: u64 = 2000;

type Done = Result<(), Box<dyn std::error::Error>>;

fn filled(dir: &tempfile::TempDir) -> matryo::Result<Collection> {
    let schema = Schema::builder(DIMS).field("kind", FieldKind::Integer).build()?;
    let options = matryo::Options::new().background(false);
    let db = Collection::create_with(dir.path().join("a"), schema, options)?;
    let mut batch = db.batch();
    for id in 0..ROWS {
        batch.upsert(id, &vector(id, DIMS), json!({"kind": id % 7}))?;
    }
    batch.commit()?;
    db.flush()?;
    Ok(db)
}

type Way = (&'static str, fn(Search) -> Search);

const WAYS: [Way; 7] = [
    ("recall", |search| search.recall(0.9)),
    ("exact", Search::exact),
    ("by hand", |search| search.funnel(Funnel::stages([(32, 5500)]))),
    ("grouped", |search| search.group_by("kind", 20)),
    ("grouped, exact", |search| search.group_by("kind", 20).exact()),
    ("in range", |search| search.within(0.1).exact()),
    ("filtered", |search| search.filter(field("kind").lt(3)).exact()),
];

fn hits(found: matryo::Result<SearchResult>) -> Vec<Hit> {
    found.expect("searches").hits
}

#[test]
fn an_offset_drops_the_first_of_what_a_larger_limit_finds() -> Done {
    let dir = tempfile::tempdir()?;
    let db = filled(&dir)?;
    let query = vector(7777, DIMS);
    for (name, way) in WAYS {
        for (offset, limit) in [(0, 10), (1, 10), (40, 7), (130, 20), (139, 50), (5000, 3)] {
            let search = || way(db.search(&query));
            let deep = hits(search().limit(offset + limit).run());
            let expected = deep.get(offset..).unwrap_or_default();
            let what = format!("{name}, {offset} and {limit}");
            assert_eq!(hits(search().offset(offset).limit(limit).run()), expected, "{what}");
            let mut prepared = db.prepare(|search| way(search).limit(limit).offset(offset))?;
            assert_eq!(prepared.run(&query)?.hits, expected, "{what}, prepared");
        }
        assert!(hits(way(db.search(&query)).offset(3).limit(0).run()).is_empty());
    }
    assert!(hits(db.search(&query).exact().offset(usize::MAX).run()).is_empty());
    assert!(hits(db.search(&query).offset(usize::MAX).limit(usize::MAX).run()).is_empty());
    let all = hits(db.search(&query).offset(1990).limit(usize::MAX).exact().run());
    assert_eq!(all.len(), 10);
    let batch = db.search_batch([&query, &query]).offset(5).limit(3).exact().run()?;
    let one = hits(db.search(&query).offset(5).limit(3).exact().run());
    assert!(batch.iter().all(|found| found.hits == one) && one.len() == 3);
    // A funnel by hand must keep as many as are asked for, those that are left out included.
    let short = db.search(&query).funnel(Funnel::stages([(32, 500)])).offset(495).limit(10).run();
    assert!(matches!(short, Err(Error::Invalid { .. })), "{short:?}");
    Ok(())
}

#[test]
fn pages_of_an_exact_search_show_every_row_once() -> Done {
    let dir = tempfile::tempdir()?;
    let db = filled(&dir)?;
    let (snapshot, query) = (db.snapshot(), vector(7777, DIMS));
    let mut seen = Vec::new();
    loop {
        let page = hits(snapshot.search(&query).exact().limit(150).offset(seen.len()).run());
        // What is written meanwhile is in no page.
        db.upsert(ROWS + seen.len() as u64, &query, ())?;
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    assert_eq!(seen, hits(snapshot.search(&query).exact().limit(usize::MAX).run()));
    assert_eq!(seen.len() as u64, ROWS);
    Ok(())
}

#[test]
fn a_prepared_search_has_no_query_of_its_own() -> Done {
    let dir = tempfile::tempdir()?;
    let db = filled(&dir)?;
    let like = db.search_like(5)?;
    let refused = db.prepare(|_| like).expect_err("a row that would be left out");
    assert!(refused.to_string().contains("without a query"), "{refused}");
    let other = db.search(&vector(1, DIMS));
    assert!(matches!(db.prepare(|_| other), Err(Error::Invalid { .. })));
    assert!(db.prepare(|search| search.dims(DIMS + 1)).is_err());
    let snapshot = db.snapshot();
    let mut nearest = snapshot.prepare(|search| search.limit(1))?;
    db.delete(5)?;
    assert_eq!(nearest.run(&vector(5, DIMS))?.hits[0].id, 5, "of the snapshot");
    assert!(nearest.run(&[]).is_err());
    Ok(())
}

#[test]
fn hits_carry_their_vectors_of_the_same_snapshot() -> Done {
    let dir = tempfile::tempdir()?;
    let db = filled(&dir)?;
    let query = vector(7777, DIMS);
    let search = db.search(&query).dims(32).vectors(true).limit(20);
    let mut prepared = db.prepare(|search| search.dims(32).vectors(true).limit(20))?;
    let before: Vec<_> = (0..ROWS)
        .map(|id| db.get(id).map(|row| row.expect("there").vector))
        .collect::<Result<_, _>>()?;
    db.delete_where(&field("kind").ge(0))?;
    for found in [hits(search.run()), prepared.run(&query)?.hits.clone()] {
        assert_eq!(found.len(), 20);
        for hit in found {
            let matryo::RowId::U64(id) = hit.id else { panic!("numbers") };
            assert_eq!(hit.vector.as_ref(), Some(&before[id as usize]));
            assert_eq!(hit.payload, None);
        }
    }
    db.upsert(1, &query, ())?;
    assert_eq!(hits(db.search(&query).run())[0].vector, None);
    let batch = db.search_batch([&query]).vectors(true).payloads(true).run()?;
    assert!(batch[0].hits[0].vector.is_some() && batch[0].hits[0].payload.is_some());
    Ok(())
}

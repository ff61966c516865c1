//! Collections that are embedded again, by models that tell at once whether a vector is of
//! the right row.

use std::collections::BTreeMap;

use matryo::testing::Folder;
use matryo::{
    Collection, EmbedderId, Error, FieldKind, Options, ReembedOptions, Reembedded, Result, RowId,
    Schema, SourceRow, json,
};

use super::{DIMS, vector};

/// Dimensions of the new vectors.
pub(crate) const NEW: usize = 48;

pub(crate) fn old_model() -> EmbedderId {
    EmbedderId::new("old", [1; 32]).part("graph", [1; 32])
}

pub(crate) fn new_model() -> EmbedderId {
    EmbedderId::new("new", [2; 32]).part("graph", [2; 32])
}

pub(crate) fn schema() -> Schema {
    let schema = Schema::builder(DIMS).granularities([8, 16]).embedder(old_model());
    schema.field("n", FieldKind::Integer).build().expect("valid")
}

pub(crate) fn options() -> ReembedOptions {
    ReembedOptions::new(NEW, new_model()).granularities([12, 24]).batch(10)
}

/// The vector that a model makes of a text.
pub(crate) fn embedded(n: u64, dims: usize) -> Vec<f32> {
    vector(n * 1000 + dims as u64, dims)
}

pub(crate) fn source(row: &SourceRow) -> Result<u64> {
    let lacks = || Error::Invalid { what: "row", why: format!("row {} has no source", row.id) };
    row.payload.get("n").and_then(serde_json::Value::as_u64).ok_or_else(lacks)
}

/// The new model.
pub(crate) fn model(rows: &[SourceRow]) -> Result<Vec<Vec<f32>>> {
    rows.iter().map(|row| source(row).map(|n| embedded(n, NEW))).collect()
}

pub(crate) fn put(db: &Collection, id: u64, n: u64) {
    db.upsert(id, &embedded(n, DIMS), json!({"n": n})).expect("upsert");
}

/// Id -> what it was embedded from.
pub(crate) type Rows = BTreeMap<u64, u64>;

/// Two segments, one with dead rows, and rows that are only in the log.
pub(crate) fn fill(db: &Collection) -> Rows {
    for ids in [0..30, 20..50, 45..60] {
        ids.clone().for_each(|id| put(db, id, id + ids.start * 7));
        if ids.end < 60 {
            db.flush().expect("flush");
        }
    }
    db.delete(3).expect("delete");
    rows_of(db, DIMS)
}

pub(crate) fn filled() -> (Folder, Rows) {
    let folder = Folder::default();
    let rows = fill(&folder.create(schema(), Options::new()).expect("create"));
    assert_eq!(rows.len(), 59);
    (folder, rows)
}

/// The rows, each of which must have its vector of `dims` dimensions.
pub(crate) fn rows_of(db: &Collection, dims: usize) -> Rows {
    assert_eq!(db.schema().dims(), dims);
    let mut rows = Rows::new();
    for row in db.snapshot() {
        let row = row.expect("readable");
        let n = row.payload["n"].as_u64().expect("a number");
        assert_eq!(row.vector, embedded(n, dims), "row {}", row.id);
        let RowId::U64(id) = row.id else { panic!("numbers") };
        assert!(rows.insert(id, n).is_none(), "row {id} is there twice");
    }
    db.verify().expect("undamaged");
    rows
}

/// The collection is the old one or the new one, whole; which?
pub(crate) fn whole(folder: &Folder, rows: &Rows, what: &str) -> bool {
    let db = folder.open(Options::new()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let is_new = db.schema().dims() == NEW;
    let expected = if is_new { new_model() } else { old_model() };
    db.check_embedder(expected).unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = rows_of(&db, if is_new { NEW } else { DIMS });
    assert_eq!(&found, rows, "{what}");
    is_new
}

pub(crate) fn reembed(folder: &Folder, beside: &Folder) -> Result<Reembedded> {
    folder.reembed(beside, &options(), &mut model, &|_| true)
}

/// Changes all three kinds of rows there are while others are embedded.
pub(crate) fn change(db: &Collection, rows: &mut Rows) {
    for (id, n) in [(0, 500), (58, 501), (1000, 502)] {
        put(db, id, n);
        rows.insert(id, n);
    }
    db.delete(1).expect("delete");
    rows.remove(&1);
}

/// Rows change, go and become unfit while others are embedded: what is embedded in the end is what
/// is there then.
pub(crate) fn changes_meanwhile() {
    let (folder, mut rows) = filled();
    let mut db = Some(folder.open(Options::new()).expect("open"));
    let mut calls = 0;
    let mut writing = |batch: &[SourceRow]| {
        calls += 1;
        if let Some(db) = db.take_if(|_| calls == 4) {
            change(&db, &mut rows);
            put(&db, 2, UNFIT);
            rows.remove(&2);
        }
        let one = |row: &SourceRow| {
            let n = source(row)?;
            Ok((n != UNFIT).then(|| embedded(n, NEW)))
        };
        batch.iter().map(one).collect::<Result<Vec<_>>>()
    };
    let (beside, options) = (Folder::default(), options().skip_unfit(true));
    let done = folder.reembed(&beside, &options, &mut writing, &|_| true).expect("reembed");
    assert_eq!((done.rows, done.skipped), (rows.len() as u64, 1));
    assert!(whole(&folder, &rows, "with changes meanwhile"));
}

/// What the model makes no vector of.
const UNFIT: u64 = 503;

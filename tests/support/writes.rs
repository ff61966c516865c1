//! Every call that writes, for handles that must refuse them all.

use matryo::{Collection, Filter, Result, json};

type Write = fn(&Collection) -> Result<()>;

fn row(db: &Collection) -> Vec<f32> {
    vec![1.0; db.schema().dims()]
}

/// The collection has number ids, and a row 1.
pub(crate) const WRITES: [(&str, Write); 21] = [
    ("upsert", |db| db.upsert(4, &row(db), ())),
    ("delete", |db| db.delete(1).map(drop)),
    ("delete of a row that is not there", |db| db.delete(77).map(drop)),
    ("set_payload", |db| db.set_payload(1, json!({"n": 1})).map(drop)),
    ("a batch", |db| {
        let mut batch = db.batch();
        batch.upsert(4, &row(db), ())?;
        batch.delete(1)?;
        batch.commit().map(drop)
    }),
    ("a batch of payloads", |db| {
        let mut batch = db.batch();
        batch.set_payload(1, json!({"n": 1}))?;
        batch.commit().map(drop)
    }),
    ("a payload for a row that is not there", |db| db.set_payload(77, ()).map(drop)),
    ("delete_where", |db| db.delete_where(&Filter::ids([1u64])).map(drop)),
    ("delete_where nothing passes", |db| db.delete_where(&Filter::ids([77u64])).map(drop)),
    ("an empty batch", |db| db.batch().commit().map(drop)),
    ("bulk", |db| db.bulk().map(drop)),
    ("flush", Collection::flush),
    ("sync", Collection::sync),
    ("compact", |db| db.compact().map(drop)),
    ("compact_with", |db| db.compact_with(|_| true).map(drop)),
    ("build_graphs", |db| db.build_graphs().map(drop)),
    ("build_graphs_with", |db| db.build_graphs_with(|_| true).map(drop)),
    ("drop_graphs", |db| db.drop_graphs().map(drop)),
    ("calibrate", |db| db.calibrate().map(drop)),
    ("calibrate_with", |db| db.calibrate_with(&[row(db), row(db)]).map(drop)),
    ("calibrate_with_progress", |db| db.calibrate_with_progress(None, |_| true).map(drop)),
];

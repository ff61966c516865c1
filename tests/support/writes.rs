//! Every call that writes, for handles that must refuse them all.

use matryo::{Collection, Result, json};

type Write = fn(&Collection) -> Result<()>;

fn row(db: &Collection) -> Vec<f32> {
    vec![1.0; db.schema().dims()]
}

/// The collection has number ids, and a row 1.
pub(crate) const WRITES: [(&str, Write); 16] = [
    ("upsert", |db| db.upsert(4, &row(db), ())),
    ("delete", |db| db.delete(1)),
    ("delete of a row that is not there", |db| db.delete(77)),
    ("set_payload", |db| db.set_payload(1, json!({"n": 1})).map(drop)),
    ("a batch", |db| {
        let mut batch = db.batch();
        batch.upsert(4, &row(db), ())?;
        batch.delete(1)?;
        batch.commit()
    }),
    ("an empty batch", |db| db.batch().commit()),
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
];

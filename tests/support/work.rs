//! Random work on a small recorded collection, and what should come of it:
//! batches, new payloads, flushes, bulk loads finished or not, compactions with commits in
//! between, graphs, clean closes. The schema follows from the seed. (No calibration: that asks for
//! 256 rows.)

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use matryo::testing::{Recorder, begin_flush, finish_flush, merge_all};
use matryo::{Bulk, Collection, Durability, Error, IdKind, Options, Precision, RowId, Value, json};

use super::{DIMS, Rng, schema_of, vector};

/// What each row is made of, by its number: the seed of its vector in the low bits, and how its
/// payload was changed since.
pub(crate) type Rows = BTreeMap<u64, u64>;

const IDS: usize = 12;
const SEED: u64 = (1 << 20) - 1;

fn made_of(what: u64) -> (Vec<f32>, Value) {
    (vector(what & SEED, DIMS), json!({"seed": what, "n": what % 1000}))
}

/// The id of row `n`.
pub(crate) fn id_in(db: &Collection, n: u64) -> RowId {
    match db.schema().ids() {
        IdKind::U64 => RowId::U64(n),
        IdKind::Str => RowId::from(format!("row {n}")),
    }
}

fn number(id: &RowId) -> Option<u64> {
    match id {
        RowId::U64(n) => Some(*n),
        RowId::Str(text) => text.strip_prefix("row ")?.parse().ok(),
    }
}

/// One row, in a commit of its own.
pub(crate) fn put(db: &Collection, n: u64, what: u64) -> Result<(), Error> {
    let (vector, payload) = made_of(what);
    db.upsert(id_in(db, n), &vector, payload)
}

fn load(bulk: &mut Bulk, id: RowId, what: u64) -> Result<(), Error> {
    let (vector, payload) = made_of(what);
    bulk.upsert(id, &vector, payload)
}

pub(crate) struct Work {
    pub(crate) rng: Rng,
    pub(crate) recorder: Recorder,
    pub(crate) options: Options,
    full: bool,
    /// Whether operations can fail, so that a clean close may not be one.
    pub(crate) failing: bool,
    db: Option<Collection>,
    /// What was acknowledged.
    pub(crate) rows: Rows,
    /// What a commit that failed would have made of them.
    pub(crate) doubtful: Option<Rows>,
    /// (operations, rows, whether all of them are durable), ascending.
    pub(crate) marks: Vec<(usize, Rows, bool)>,
}

impl Work {
    pub(crate) fn new(seed: u64, recorder: Recorder, durability: Durability) -> Self {
        let mut rng = Rng(seed);
        let memtable = [700, 2500, 1 << 20][rng.below(3)];
        let options = Options::new().durability(durability).memtable_bytes(memtable);
        let db = Some(recorder.create(schema_of(seed), options.clone()).expect("create"));
        let full = durability == Durability::Full;
        let (rows, marks) = (Rows::new(), Vec::new());
        let (failing, doubtful) = (false, None);
        let mut work = Self { rng, recorder, options, full, failing, db, rows, doubtful, marks };
        work.mark(true);
        work
    }

    pub(crate) fn db(&self) -> Collection {
        self.db.clone().expect("open")
    }

    pub(crate) fn closed(&self) -> bool {
        self.db.is_none()
    }

    fn mark(&mut self, durable: bool) {
        self.marks.push((self.recorder.operations(), self.rows.clone(), durable));
    }

    /// One random step; no error is expected of some, any of others.
    pub(crate) fn step(&mut self) -> Result<(), Error> {
        let db = self.db();
        match self.rng.below(20) {
            0 | 1 => self.lasting(db.flush()),
            2 => {
                drop(db);
                self.close();
                let db = self.recorder.open(self.options.clone())?;
                // Recovery may have found a commit whose sync failed.
                if let Some(doubtful) = self.doubtful.take()
                    && rows_in(&db).as_ref() == Ok(&doubtful)
                {
                    self.rows = doubtful;
                }
                self.db = Some(db);
                self.mark(true);
                Ok(())
            }
            3 | 4 => self.bulk(&db, true),
            5 => self.bulk(&db, false),
            6 => self.compact(&db),
            7 => self.merge(&db),
            16 => self.begin_flush(&db),
            17 => self.finish_flush(&db),
            18 => self.change_payload(&db),
            // It makes nothing durable but the graphs.
            19 => db.build_graphs().map(drop),
            _ => self.batch(&db),
        }
    }

    /// Closes cleanly, which makes everything durable.
    pub(crate) fn close(&mut self) {
        drop(self.db.take());
        if !self.failing {
            self.mark(true);
        }
    }

    pub(crate) fn batch(&mut self, db: &Collection) -> Result<(), Error> {
        let mut next = self.rows.clone();
        let mut batch = db.batch();
        for _ in 0..=self.rng.below(3) {
            let n = self.rng.below(IDS) as u64;
            if self.rng.below(3) == 0 {
                batch.delete(id_in(db, n))?;
                next.remove(&n);
            } else {
                let seed = self.seed();
                let (vector, payload) = made_of(seed);
                batch.upsert(id_in(db, n), &vector, payload)?;
                next.insert(n, seed);
            }
        }
        let committed = batch.commit().map(drop);
        self.settle(next, committed, self.full)
    }

    fn bulk(&mut self, db: &Collection, finish: bool) -> Result<(), Error> {
        let mut loaded = Rows::new();
        let mut bulk = db.bulk()?;
        for n in 0..=self.rng.below(8) {
            let (row, seed) = (self.rng.below(IDS) as u64, self.seed());
            load(&mut bulk, id_in(db, row), seed)?;
            loaded.insert(row, seed);
            // Commits go on beside it; what is loaded counts as later.
            if n == 3 {
                self.batch(db)?;
            }
        }
        if !finish {
            return Ok(());
        }
        let mut next = self.rows.clone();
        next.extend(loaded);
        self.settle(next, bulk.finish(), true)
    }

    fn compact(&mut self, db: &Collection) -> Result<(), Error> {
        let (once, within) = (Cell::new(true), RefCell::new(&mut *self));
        let compacted = db.compact_with(|_| {
            if once.replace(false) {
                let _ = within.borrow_mut().batch(db);
            }
            true
        });
        self.lasting(compacted.map(drop))
    }

    /// A merge as in the background, which makes nothing durable where there is nothing to merge.
    fn merge(&mut self, db: &Collection) -> Result<(), Error> {
        let (once, within) = (Cell::new(true), RefCell::new(&mut *self));
        let merged = merge_all(db, &|| {
            if once.replace(false) {
                let _ = within.borrow_mut().batch(db);
            }
        });
        if once.get() { merged.map(drop) } else { self.lasting(merged.map(drop)) }
    }

    fn begin_flush(&mut self, db: &Collection) -> Result<(), Error> {
        let begun = begin_flush(db);
        // Where one had begun before nothing was made durable.
        if matches!(begun, Ok(false)) { Ok(()) } else { self.lasting(begun.map(drop)) }
    }

    fn finish_flush(&mut self, db: &Collection) -> Result<(), Error> {
        let (once, within) = (Cell::new(true), RefCell::new(&mut *self));
        let flushed = finish_flush(db, &|| {
            if once.replace(false) {
                let _ = within.borrow_mut().batch(db);
            }
        });
        // Where nothing was frozen nothing was made durable.
        if once.get() { flushed } else { self.lasting(flushed) }
    }

    fn change_payload(&mut self, db: &Collection) -> Result<(), Error> {
        let (n, change) = (self.rng.below(IDS) as u64, 1 + self.rng.below(99) as u64);
        let mut next = self.rows.clone();
        let Some(what) = next.get_mut(&n) else { return Ok(()) };
        *what = (*what & SEED) | change << 20;
        let changed = db.set_payload(id_in(db, n), made_of(*what).1);
        self.settle(next, changed.map(|found| assert!(found, "row {n}")), self.full)
    }

    fn seed(&mut self) -> u64 {
        self.rng.below(1 << 20) as u64
    }

    fn lasting(&mut self, done: Result<(), Error>) -> Result<(), Error> {
        if done.is_ok() {
            self.mark(true);
        }
        done
    }

    fn settle(&mut self, next: Rows, done: Result<(), Error>, durable: bool) -> Result<(), Error> {
        match done {
            Ok(()) => {
                self.rows = next;
                self.mark(durable);
            }
            // A handle that still writes is sure that nothing of it is there.
            Err(Error::Poisoned { .. }) => {}
            Err(_) if self.db().bulk().is_ok() => {}
            Err(_) => self.doubtful = Some(next),
        }
        done
    }
}

/// The rows of a collection, found in every way there is, or why they cannot be.
pub(crate) fn rows_in(db: &Collection) -> Result<Rows, String> {
    let mut rows = Rows::new();
    let search = db.search(&vector(3, DIMS)).limit(1000).payloads(true).exact();
    for hit in search.run().map_err(|e| e.to_string())?.hits {
        let payload = hit.payload.as_ref().expect("asked for");
        let what = payload["seed"].as_u64().ok_or("a row without its seed")?;
        let n = number(&hit.id).ok_or_else(|| format!("{} is no id of ours", hit.id))?;
        let row = db.get(hit.id).map_err(|e| e.to_string())?.ok_or("found, but not by its id")?;
        let (vector, whole) = made_of(what);
        let same = row.payload == *whole.as_object().expect("an object");
        if !same || !is_stored_as(&vector, &row.vector, db) || rows.insert(n, what).is_some() {
            return Err(format!("row {n} is not what was written, or there twice"));
        }
    }
    if db.len() != rows.len() as u64 {
        return Err(format!("{} rows, {} of them found", db.len(), rows.len()));
    }
    if !db.schema().fields().is_empty() {
        let (expected, filter) = (rows.values().filter(|what| *what % 1000 < 500), "n < 500");
        let counted = db.count(&filter.parse().expect("a filter")).map_err(|e| e.to_string())?;
        if counted != expected.count() as u64 {
            return Err(format!("{counted} rows with {filter} of {rows:?}"));
        }
    }
    Ok(rows)
}

/// Whether `stored` is `vector`, whose components are below 1, as the collection rounds it.
fn is_stored_as(vector: &[f32], stored: &[f32], db: &Collection) -> bool {
    let error = match db.schema().stored() {
        Precision::F16 => 2f32.powi(-12),
        Precision::BF16 => 2f32.powi(-9),
        _ => 0.0,
    };
    let near = |(a, b): (&f32, &f32)| (a - b).abs() <= error;
    vector.len() == stored.len() && vector.iter().zip(stored).all(near)
}

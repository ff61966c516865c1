//! Random work on a small recorded collection, and what should come of it:
//! batches, flushes, bulk loads finished or not, compactions with commits in
//! between, clean closes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use matryo::testing::{Recorder, begin_flush, finish_flush, merge_all};
use matryo::{Collection, Durability, Error, Options, RowId, json};

use super::{DIMS, Rng, schema, vector};

/// The seed of each row's vector by its id.
pub(crate) type Rows = BTreeMap<u64, u64>;

const IDS: usize = 12;

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
        let db = Some(recorder.create(schema(), options.clone()).expect("create"));
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
        match self.rng.below(18) {
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
            let id = self.rng.below(IDS) as u64;
            if self.rng.below(3) == 0 {
                batch.delete(id)?;
                next.remove(&id);
            } else {
                let seed = self.seed();
                batch.upsert(id, &vector(seed, DIMS), json!({"seed": seed}))?;
                next.insert(id, seed);
            }
        }
        let committed = batch.commit().map(drop);
        self.settle(next, committed, self.full)
    }

    fn bulk(&mut self, db: &Collection, finish: bool) -> Result<(), Error> {
        let mut loaded = Rows::new();
        let mut bulk = db.bulk()?;
        for n in 0..=self.rng.below(8) {
            let (id, seed) = (self.rng.below(IDS) as u64, self.seed());
            bulk.upsert(id, &vector(seed, DIMS), json!({"seed": seed}))?;
            loaded.insert(id, seed);
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
        let (RowId::U64(id), Some(payload)) = (&hit.id, &hit.payload) else { panic!("asked for") };
        let seed = payload["seed"].as_u64().ok_or("a row without its seed")?;
        let row = db.get(*id).map_err(|e| e.to_string())?.ok_or("found, but not by its id")?;
        if row.vector != vector(seed, DIMS) || rows.insert(*id, seed).is_some() {
            return Err(format!("row {id} is not what was written, or there twice"));
        }
    }
    if db.len() != rows.len() as u64 {
        return Err(format!("{} rows, {} of them found", db.len(), rows.len()));
    }
    Ok(rows)
}

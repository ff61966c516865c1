//! Power loss at every operation, with any part of what was not synced lost.
//!
//! Whatever is left opens as the state after the last commit that was
//! acknowledged, or after the one that was under way: never as anything else,
//! and again so after power loss during the recovery. Folders that forget to
//! sync show that the test would notice.

mod support;

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use matryo::testing::{Bug, Folder, Loss, Recorder};
use matryo::{Collection, Durability, Error, Options, RowId, json};
use support::{DIMS, Rng, files, long, schema, vector};

type Rows = BTreeMap<u64, u64>;

/// A workload that was recorded: after which operation which rows were there.
struct Run {
    recorder: Recorder,
    /// (operations, rows, whether all of them are durable), ascending.
    marks: Vec<(usize, Rows, bool)>,
}

fn batch(collection: &Collection, rows: &mut Rows, rng: &mut Rng) -> Result<(), Error> {
    let mut batch = collection.batch();
    for _ in 0..=rng.below(3) {
        let (id, seed) = (rng.below(12) as u64, rng.below(1 << 20) as u64);
        if rng.below(3) == 0 {
            batch.delete(id)?;
            rows.remove(&id);
        } else {
            batch.upsert(id, &vector(seed, DIMS), json!({"seed": seed}))?;
            rows.insert(id, seed);
        }
    }
    batch.commit()
}

fn record(seed: u64, steps: usize, bug: Option<Bug>, durability: Durability) -> Run {
    let mut rng = Rng(seed);
    let recorder = Recorder::new(bug);
    let options = Options::new().durability(durability);
    let full = durability == Durability::Full;
    let mut rows = Rows::new();
    let mut db = Some(recorder.create(schema(), options.clone()).expect("create"));
    let mut marks = vec![(recorder.operations(), rows.clone(), true)];
    for _ in 0..steps {
        let durable = match rng.below(8) {
            0 | 1 => {
                db.as_ref().expect("open").flush().expect("flush");
                true
            }
            2 => {
                drop(db.take());
                marks.push((recorder.operations(), rows.clone(), true));
                db = Some(recorder.open(options.clone()).expect("reopen"));
                true
            }
            _ => {
                batch(db.as_ref().expect("open"), &mut rows, &mut rng).expect("commit");
                full
            }
        };
        marks.push((recorder.operations(), rows.clone(), durable));
    }
    drop(db);
    marks.push((recorder.operations(), rows, true));
    Run { recorder, marks }
}

/// The rows of a folder, or why they cannot be had.
fn rows_of(folder: &Folder) -> Result<Rows, String> {
    let open = || -> Result<Rows, String> {
        let db = folder.open(Options::new()).map_err(|e| e.to_string())?;
        rows_in(&db)
    };
    catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|_| Err("panicked".into()))
}

fn rows_in(db: &Collection) -> Result<Rows, String> {
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
    db.verify().map_err(|e| e.to_string())?;
    Ok(rows)
}

impl Run {
    /// The states that power loss before operation `cut` may leave.
    fn allowed(&self, cut: usize) -> Vec<&Rows> {
        let acknowledged = self.marks.iter().rposition(|mark| mark.0 <= cut);
        let Some(acknowledged) = acknowledged else { return Vec::new() };
        let durable = self.marks[..=acknowledged].iter().rposition(|mark| mark.2).unwrap_or(0);
        let until = (acknowledged + 2).min(self.marks.len());
        self.marks[durable..until].iter().map(|mark| &mark.1).collect()
    }

    /// Tries every cut; `Err` names the first that is wrong.
    fn check(&self, rng: &mut Rng, seen: &mut HashSet<u64>) -> Result<(), String> {
        let losses = [Loss::Everything, Loss::Nothing, Loss::Bytes, Loss::Names];
        for cut in 0..=self.recorder.operations() {
            for loss in losses.into_iter().chain([Loss::Drawn; 8]) {
                let left = self.recorder.after(cut, loss, &mut || rng.next());
                let mut hasher = DefaultHasher::new();
                (cut, files(&left)).hash(&mut hasher);
                if !seen.insert(hasher.finish()) {
                    continue;
                }
                self.check_state(cut, &left, rng).map_err(|why| {
                    let op = self.recorder.describe(cut);
                    format!("power lost before operation {cut}, {op}, {loss:?}: {why}")
                })?;
            }
        }
        Ok(())
    }

    fn check_state(&self, cut: usize, left: &Folder, rng: &mut Rng) -> Result<(), String> {
        let allowed = self.allowed(cut);
        if allowed.is_empty() {
            return create_again(left);
        }
        let right = |rows: Rows| {
            let wrong = format!("{rows:?}, expected one of {allowed:?}");
            if allowed.contains(&&rows) { Ok(()) } else { Err(wrong) }
        };
        // The recovery is recorded in turn, and its power cut.
        let recovery = Recorder::over(left, None);
        let db = recovery.open(Options::new()).map_err(|e| e.to_string())?;
        right(rows_in(&db)?)?;
        drop(db);
        let cut = rng.below(recovery.operations() + 1);
        let again = recovery.after(cut, Loss::Drawn, &mut || rng.next());
        right(rows_of(&again)?).map_err(|why| format!("and again in recovery: {why}"))?;
        right(rows_of(&again)?).map_err(|why| format!("opened once more: {why}"))
    }
}

/// Before `create` was done, there is a collection without rows, or none and
/// another can be made.
fn create_again(left: &Folder) -> Result<(), String> {
    match left.open(Options::new()) {
        Ok(db) if db.is_empty() => Ok(()),
        Ok(_) => Err("rows before the first commit".into()),
        Err(Error::NotACollection { .. }) => {
            left.create(schema(), Options::new()).map(drop).map_err(|e| e.to_string())
        }
        Err(e) => Err(e.to_string()),
    }
}

fn sweep(bug: Option<Bug>, durability: Durability, workloads: u64) -> (usize, Option<String>) {
    let mut states = 0;
    for seed in 0..workloads {
        let mut seen = HashSet::new();
        let run = record(seed, 14, bug, durability);
        let checked = run.check(&mut Rng(seed), &mut seen);
        states += seen.len();
        if let Err(why) = checked {
            return (states, Some(format!("workload {seed}: {why}")));
        }
    }
    (states, None)
}

#[test]
fn power_loss_takes_nothing_that_was_acknowledged() {
    let (states, wrong) = sweep(None, Durability::Full, if long() { 2000 } else { 25 });
    println!("{states} states");
    assert_eq!(wrong, None);
}

#[test]
fn power_loss_takes_only_the_last_commits_where_they_are_buffered() {
    let (states, wrong) = sweep(None, Durability::Buffered, if long() { 2000 } else { 12 });
    println!("{states} states");
    assert_eq!(wrong, None);
}

#[test]
fn a_folder_that_forgets_is_noticed() {
    let bugs = [
        Bug::NoDirSync,
        Bug::NoDirSyncAfterRename,
        Bug::NoDirSyncAfterCreate,
        Bug::NoSyncOf("wal-"),
        Bug::NoSyncOf("seg-"),
        Bug::NoSyncOf("del-"),
        Bug::NoSyncOf("tmp-"),
        Bug::SyncBeforeWrite,
        Bug::RemoveBeforeRename,
        Bug::RewriteInsteadOfRename,
    ];
    for bug in bugs {
        let (states, wrong) = sweep(Some(bug), Durability::Full, 25);
        println!("{bug:?}: noticed after {states} states");
        assert!(wrong.is_some(), "{bug:?} was not noticed in {states} states");
    }
}

//! Power loss at every operation of recorded work, with any part of what was not
//! synced lost.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use matryo::testing::{Bug, Flaw, Folder, Recorder, Replay, Torn, sow};
use matryo::{Collection, Durability, Error, Options};

use super::work::{Rows, Work, rows_in};
use super::{Rng, files, schema};

/// A bug of the folder or of the engine.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wrong {
    Nothing,
    Folder(Flaw),
    Engine(Bug),
}

/// Work that was recorded, and the states that were tried.
struct Run {
    work: Work,
    rng: Rng,
    seen: HashSet<u64>,
    /// States that were left in recoveries.
    recoveries: usize,
}

/// Of one in so many states all of the recovery is looked at.
const WHOLE: usize = 2048;

/// Unique states of so many workloads, and the first that is wrong.
pub(crate) fn sweep(
    wrong: Wrong,
    durability: Durability,
    seeds: std::ops::Range<u64>,
) -> (usize, Option<String>) {
    let mut states = 0;
    for seed in seeds {
        let case = AssertUnwindSafe(|| one(wrong, durability, seed, &mut states));
        let checked = catch_unwind(case).unwrap_or_else(|_| Err("panicked".into()));
        sow(None);
        if let Err(why) = checked {
            return (states, Some(format!("workload {seed}: {why}")));
        }
    }
    (states, None)
}

fn one(wrong: Wrong, durability: Durability, seed: u64, states: &mut usize) -> Result<(), String> {
    let flaw = if let Wrong::Folder(flaw) = wrong { Some(flaw) } else { None };
    if let Wrong::Engine(bug) = wrong {
        sow(Some(bug));
    }
    let mut work = Work::new(seed, Recorder::new(flaw), durability);
    for _ in 0..14 {
        work.step().map_err(|e| e.to_string())?;
    }
    work.close();
    let mut run = Run { work, rng: Rng(seed), seen: HashSet::new(), recoveries: 0 };
    let checked = run.check();
    *states += run.seen.len() + run.recoveries;
    checked
}

impl Run {
    fn check(&mut self) -> Result<(), String> {
        let mut replay = self.work.recorder.replay();
        for cut in 0.. {
            for (keep, torn) in losses(&replay, &mut self.rng) {
                let left = replay.folder(|n| keep[n], torn);
                self.check_once(cut, &left).map_err(|why| {
                    let at = replay.describe();
                    format!("power lost before operation {cut}, {at}, {keep:?}, {torn:?}: {why}")
                })?;
            }
            if !replay.step() {
                break;
            }
        }
        Ok(())
    }

    /// Checks a folder unless the same was left before with the same to be found.
    fn check_once(&mut self, cut: usize, left: &Folder) -> Result<(), String> {
        let allowed = self.allowed(cut);
        let mut hasher = DefaultHasher::new();
        (allowed.clone(), files(left)).hash(&mut hasher);
        if !self.seen.insert(hasher.finish()) {
            return Ok(());
        }
        let allowed: Vec<Rows> = allowed.map(|mark| self.work.marks[mark].1.clone()).collect();
        if allowed.is_empty() {
            return create_again(left);
        }
        if self.seen.len() % WHOLE == WHOLE / 2 {
            self.check_all_of_recovery(left, &allowed)?;
        }
        let deep = self.rng.below(4) == 0;
        if deep { self.check_recovery(left, &allowed) } else { check_rows(left, &allowed) }
    }

    /// The power of the recovery, and of the close behind it, is cut before every operation, with
    /// every loss.
    fn check_all_of_recovery(&mut self, left: &Folder, allowed: &[Rows]) -> Result<(), String> {
        let recovery = Recorder::over(left);
        drop(recovery.open(Options::new()).map_err(|e| e.to_string())?);
        let (mut replay, mut seen) = (recovery.replay(), HashSet::new());
        loop {
            for (keep, torn) in losses(&replay, &mut self.rng) {
                let again = replay.folder(|n| keep[n], torn);
                let mut hasher = DefaultHasher::new();
                files(&again).hash(&mut hasher);
                if seen.insert(hasher.finish()) {
                    let at = replay.describe();
                    check_rows(&again, allowed)
                        .map_err(|why| format!("and before {at} of recovery: {why}"))?;
                }
            }
            if !replay.step() {
                self.recoveries += seen.len();
                return Ok(());
            }
        }
    }

    /// The states that power loss before operation `cut` may leave, as marks.
    fn allowed(&self, cut: usize) -> std::ops::Range<usize> {
        let marks = &self.work.marks;
        let Some(acknowledged) = marks.iter().rposition(|mark| mark.0 <= cut) else { return 0..0 };
        let durable = marks[..=acknowledged].iter().rposition(|mark| mark.2).unwrap_or(0);
        durable..(acknowledged + 2).min(marks.len())
    }

    /// The recovery is recorded in turn, and its power cut: in the middle, and
    /// when it is done and has shown rows, which must stay then.
    fn check_recovery(&mut self, left: &Folder, allowed: &[Rows]) -> Result<(), String> {
        let recovery = Recorder::over(left);
        let db = recovery.open(Options::new()).map_err(|e| e.to_string())?;
        let rows = right(rows_in(&db)?, allowed)?;
        let mut replay = recovery.replay();
        drop(db);
        let cut = self.rng.below(recovery.operations() + 1);
        let mut early = recovery.replay();
        let _ = (0..cut).filter(|_| early.step()).count();
        let drawn: Vec<bool> = (0..early.pending()).map(|_| self.rng.next() & 1 == 1).collect();
        let again = early.folder(|n| drawn[n], None);
        check_rows(&again, allowed).map_err(|why| format!("and again in recovery: {why}"))?;
        check_rows(&again, allowed).map_err(|why| format!("opened once more: {why}"))?;
        while replay.step() {}
        check_rows(&replay.folder(|_| false, None), &[rows])
            .map_err(|why| format!("and again after recovery: {why}"))
    }
}

/// What may be lost now: which of the pending operations are kept, and what
/// of the last write.
pub(crate) fn losses(replay: &Replay, rng: &mut Rng) -> Vec<(Vec<bool>, Option<Torn>)> {
    let n = replay.pending();
    let mut kept: Vec<Vec<bool>> = vec![vec![true; n], vec![false; n]];
    for one in 0..n {
        kept.push((0..n).map(|i| i != one).collect());
        kept.push((0..n).map(|i| i == one).collect());
    }
    if n <= 6 {
        kept.extend((0..1 << n).map(|set| (0..n).map(|i| set >> i & 1 == 1).collect()));
    } else {
        kept.extend((0..32).map(|_| (0..n).map(|_| rng.next() & 1 == 1).collect::<Vec<_>>()));
    }
    let mut losses: Vec<_> = kept.into_iter().map(|kept| (kept, None)).collect();
    let len = replay.last_write().unwrap_or(0);
    let cuts = [1, 4, 40, 64, len.saturating_sub(1)].into_iter();
    for kept in cuts.chain((512..len).step_by(512)).filter(|kept| *kept < len) {
        for filler in [None, Some(0), Some(0xa5)] {
            losses.push((vec![true; n], Some(Torn { kept, filler })));
        }
    }
    losses
}

fn right(rows: Rows, allowed: &[Rows]) -> Result<Rows, String> {
    let wrong = || format!("{rows:?}, expected one of {allowed:?}");
    if allowed.contains(&rows) { Ok(rows) } else { Err(wrong()) }
}

fn check_rows(left: &Folder, allowed: &[Rows]) -> Result<(), String> {
    let db = left.open(Options::new()).map_err(|e| e.to_string())?;
    right(rows_in(&db)?, allowed)?;
    let verified = db.verify().map_err(|e| e.to_string())?;
    let names = left.names();
    if names.len() == verified.files {
        return Ok(());
    }
    Err(format!("{} files are needed, these are there: {names:?}", verified.files))
}

/// Before `create` was done, there is a collection without rows, or none and
/// another can be made.
fn create_again(left: &Folder) -> Result<(), String> {
    let empty = |db: Collection| if db.is_empty() { Ok(()) } else { Err("rows".to_owned()) };
    match left.open(Options::new()) {
        Ok(db) => empty(db),
        Err(Error::NotACollection { .. }) => {
            left.create(schema(), Options::new()).map_err(|e| e.to_string()).and_then(empty)
        }
        Err(e) => Err(e.to_string()),
    }
}

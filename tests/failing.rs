//! Every change of the folder fails in turn, once or from then on, as on a full
//! disk: what was acknowledged stays, what failed is not there by half, and a
//! folder with room again can be written to, at the latest by a new handle.

mod support;

use std::collections::BTreeMap;

use matryo::testing::{Loss, Recorder};
use matryo::{Collection, Error, Options, json};
use support::{DIMS, Rng, long, schema, vector};

type Rows = BTreeMap<u64, u64>;

fn check(db: &Collection, allowed: &[&Rows], what: &str) -> Rows {
    let rows: Rows = (0..12)
        .filter_map(|id| {
            let row = db.get(id).unwrap_or_else(|e| panic!("{what}: {e}"))?;
            let seed = row.payload["seed"].as_u64().expect("a seed");
            assert_eq!(row.vector, vector(seed, DIMS), "{what}");
            Some((id, seed))
        })
        .collect();
    assert_eq!(db.len(), rows.len() as u64, "{what}");
    assert!(allowed.contains(&&rows), "{what}: {rows:?}, expected one of {allowed:?}");
    rows
}

struct Case {
    rng: Rng,
    recorder: Recorder,
    db: Collection,
    /// What was acknowledged.
    rows: Rows,
    /// What a commit that failed would have left: it can be in the log.
    doubtful: Option<Rows>,
}

impl Case {
    fn new(seed: u64) -> Self {
        let recorder = Recorder::new(None);
        let options = Options::new().memtable_bytes(1500);
        let db = recorder.create(schema(), options).expect("create");
        Self { rng: Rng(seed), recorder, db, rows: Rows::new(), doubtful: None }
    }

    fn step(&mut self, what: &str) {
        if self.rng.below(5) == 0 {
            // Nothing is lost by a flush that fails.
            let _ = self.db.flush();
        } else {
            let mut next = self.rows.clone();
            let mut batch = self.db.batch();
            for _ in 0..=self.rng.below(3) {
                let (id, seed) = (self.rng.below(12) as u64, self.rng.below(1 << 20) as u64);
                if self.rng.below(3) == 0 {
                    batch.delete(id).expect("fits");
                    next.remove(&id);
                } else {
                    batch.upsert(id, &vector(seed, DIMS), json!({"seed": seed})).expect("fits");
                    next.insert(id, seed);
                }
            }
            match batch.commit() {
                Ok(()) => self.rows = next,
                Err(Error::Poisoned { .. }) => {}
                Err(Error::Io { .. }) => self.doubtful = Some(next),
                Err(e) => panic!("{what}: {e}"),
            }
        }
        check(&self.db, &[&self.rows], what);
    }

    /// The disk has room again.
    fn finish(mut self, what: &str) {
        self.recorder.fail(0..0);
        let healthy = match self.db.upsert(11, &vector(1, DIMS), json!({"seed": 1})) {
            Ok(()) => {
                self.rows.insert(11, 1);
                // Only a commit that failed and poisoned the handle is doubtful.
                self.doubtful = None;
                self.db.flush().unwrap_or_else(|e| panic!("{what}: room, but {e}"));
                true
            }
            Err(Error::Poisoned { .. }) => false,
            Err(e) => panic!("{what}: {e}"),
        };
        check(&self.db, &[&self.rows], what);
        drop(self.db);
        let allowed: Vec<&Rows> = [&self.rows].into_iter().chain(&self.doubtful).collect();
        let end = self.recorder.operations();
        for loss in [Loss::Nothing, Loss::Everything, Loss::Drawn] {
            let left = self.recorder.after(end, loss, &mut || self.rng.next());
            let db = left.open(Options::new()).unwrap_or_else(|e| panic!("{what}, {loss:?}: {e}"));
            let rows = check(&db, &allowed, &format!("{what}, reopened after {loss:?}"));
            assert!(!healthy || rows == self.rows, "{what}");
            db.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
            db.upsert(3, &vector(9, DIMS), json!({"seed": 9})).expect("writes again");
        }
    }
}

#[test]
fn a_change_that_fails_loses_nothing_that_was_acknowledged() {
    let mut cases = 0;
    for seed in 0..if long() { 400 } else { 4 } {
        let run = |fail: std::ops::Range<usize>, what: &str| {
            let mut case = Case::new(seed);
            let from = case.recorder.tried();
            case.recorder.fail(from + fail.start..fail.end.saturating_add(from));
            for _ in 0..20 {
                case.step(what);
            }
            let tried = case.recorder.tried() - from;
            case.finish(what);
            tried
        };
        let all = run(0..0, "nothing fails");
        for at in 0..all {
            for (until, how) in [(at + 1, "once"), (at + 4, "four times"), (usize::MAX, "for good")]
            {
                run(at..until, &format!("workload {seed}, change {at} fails {how}"));
                cases += 1;
            }
        }
    }
    println!("{cases} cases");
}

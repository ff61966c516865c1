//! Steps that a process makes over and over, so that whoever ends it can tell from
//! the number of the last one what must be there.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use matryo::{Collection, Error, Options, RowId, Schema, json};

use super::{Rng, vector};

pub(crate) const DIMS: usize = 16;
/// The row that counts the steps.
pub(crate) const COUNTER: u64 = 1000;

pub(crate) type Rows = BTreeMap<u64, u64>;

pub(crate) fn schema() -> Schema {
    Schema::builder(DIMS).build().expect("valid")
}

/// A child process that another test starts has copies of all locks between its fork and its
/// exec: what a test has just closed is to be waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn options() -> Options {
    Options::new().memtable_bytes(8000).lock_timeout(PATIENCE)
}

/// The rows that step `n` writes, with the seeds of their vectors, and those it
/// deletes.
fn changes(n: u64) -> (Vec<(u64, u64)>, Option<u64>) {
    let mut rng = Rng(n);
    let rows = (0..=rng.below(4)).map(|_| (rng.below(40) as u64, rng.next() >> 20)).collect();
    (rows, (rng.below(3) == 0).then(|| rng.below(40) as u64))
}

pub(crate) fn after(steps: u64) -> Rows {
    let mut rows = Rows::new();
    for n in 1..=steps {
        let (put, delete) = changes(n);
        if !n.is_multiple_of(13) {
            delete.map(|id| rows.remove(&id));
        }
        rows.extend(put);
        rows.insert(COUNTER, n);
    }
    rows
}

/// One step; every 13th is a bulk load, which deletes nothing.
pub(crate) fn step(db: &Collection, n: u64) -> Result<(), Error> {
    let (put, delete) = changes(n);
    let rows = put.into_iter().chain([(COUNTER, n)]);
    if n.is_multiple_of(13) {
        let mut bulk = db.bulk()?;
        for (id, seed) in rows {
            bulk.upsert(id, &vector(seed, DIMS), json!({"seed": seed}))?;
        }
        return bulk.finish();
    }
    let mut batch = db.batch();
    if let Some(id) = delete {
        batch.delete(id)?;
    }
    for (id, seed) in rows {
        batch.upsert(id, &vector(seed, DIMS), json!({"seed": seed}))?;
    }
    batch.commit().map(drop)
}

pub(crate) fn steps_of(db: &Collection) -> u64 {
    let row = db.get(COUNTER).expect("get");
    row.map_or(0, |row| row.payload["seed"].as_u64().expect("a number"))
}

pub(crate) fn check(db: &Collection, expected: &Rows) {
    let mut rows = Rows::new();
    for row in db.snapshot() {
        let row = row.expect("readable");
        let (RowId::U64(id), seed) = (row.id, row.payload["seed"].as_u64().expect("seed")) else {
            panic!("ids are numbers")
        };
        assert_eq!(row.vector, vector(seed, DIMS), "row {id}");
        assert_eq!(rows.insert(id, seed), None, "row {id} is there twice");
    }
    assert_eq!(&rows, expected);
    db.verify().expect("undamaged");
}

/// This binary again, through a shell that sets limits first.
pub(crate) fn spawn(what: &str, path: &Path, limits: &str) -> Child {
    let mut command = Command::new("sh");
    let exe = std::env::current_exe().expect("has a path");
    command.args(["-c", &format!("{limits} exec \"$0\" --exact child --nocapture")]);
    command.arg(exe).env("MATRYO_TEST_CHILD", what).env("MATRYO_TEST_PATH", path);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().expect("sh runs")
}

/// Lets a child run to its end; what it said.
pub(crate) fn output(child: Child) -> String {
    let done = child.wait_with_output().expect("ends");
    let said = String::from_utf8(done.stdout).expect("UTF-8");
    assert!(done.status.success(), "{}: {said}", done.status);
    said
}

/// Steps until the process is ended; says which are done.
pub(crate) fn commit_for_ever(path: &Path, options: Options) {
    let db = Collection::open_with(path, options).expect("open");
    for n in steps_of(&db) + 1.. {
        step(&db, n).expect("step");
        println!("done {n} {}", now());
        if n % 31 == 0 {
            db.compact().expect("compact");
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> u128 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("later than 1970").as_nanos()
}

/// The steps that a process said it had done, and when it knew.
pub(crate) fn done(said: &str) -> impl Iterator<Item = (u64, u128)> {
    said.lines().filter_map(|line| {
        let (step, when) = line.split("done ").nth(1)?.split_once(' ')?;
        Some((step.parse().ok()?, when.parse().ok()?))
    })
}

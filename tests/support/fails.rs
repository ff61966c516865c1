//! Every operation of a workload fails in turn, in every way.

use matryo::testing::{Bug, Failure, Folder, Recorder, sow};
use matryo::{Collection, CopyOptions, Durability, Error, Options, json};

use super::work::{Rows, Work, put, rows_in};
use super::{DIMS, Rng, reembed, schema, vector};

/// Codes of Linux, and whether they mean that there was no room.
pub(crate) const FAILURES: [(&str, i32, bool); 6] = [
    ("EIO", 5, false),
    ("ENOSPC", 28, true),
    ("EDQUOT", 122, true),
    ("EMFILE", 24, true),
    ("EINTR", 4, false),
    ("EFBIG", 27, true),
];

const STEPS: usize = 16;

fn allowed(db: &Collection, states: &[&Rows], what: &str) -> Rows {
    let rows = rows_in(db).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(states.contains(&&rows), "{what}: {rows:?}, expected one of {states:?}");
    rows
}

/// Runs a workload whose operations `failing` fail; returns how many there were.
pub(crate) fn run(
    seed: u64,
    bug: Option<Bug>,
    failing: std::ops::Range<usize>,
    how: Failure,
    room: bool,
    what: &str,
) -> usize {
    sow(bug);
    let durability = if seed % 3 == 2 { Durability::Buffered } else { Durability::Full };
    let mut work = Work::new(seed, Recorder::new(None), durability);
    work.failing = true;
    let from = work.recorder.tried();
    let forever = failing.end == usize::MAX;
    work.recorder.fail(from + failing.start..failing.end.saturating_add(from), how);
    for _ in 0..STEPS {
        let failed = work.step().is_err();
        if work.closed() {
            // It could not be reopened.
            assert!(failed, "{what}");
            break;
        }
        allowed(&work.db(), &[&work.rows], what);
    }
    let tried = work.recorder.tried() - from;
    work.recorder.fail(0..0, how);
    finish(work, room, forever, what);
    sow(None);
    tried
}

/// There is room again, or the disk is replaced by one that works.
fn finish(mut work: Work, room: bool, forever: bool, what: &str) {
    let mut healthy = false;
    if !work.closed() {
        let db = work.db();
        healthy = match put(&db, 11, 1) {
            Ok(()) => true,
            Err(Error::Poisoned { cause }) => {
                // Syncs and renames that fail leave in doubt what is on disk.
                let sure = ["sync", "rename", "truncate"].iter().all(|word| !cause.contains(word));
                assert!(!(room && sure && !forever), "{what}: there is room again, but {cause}");
                false
            }
            Err(e) => panic!("{what}: {e}"),
        };
        if healthy {
            work.rows.insert(11, 1);
            work.doubtful = None;
            db.flush().unwrap_or_else(|e| panic!("{what}: room, but {e}"));
        }
        allowed(&db, &[&work.rows], what);
        drop(db);
        work.close();
    }
    let states: Vec<&Rows> = [&work.rows].into_iter().chain(&work.doubtful).collect();
    // Where commits are buffered, power loss may take those since the last that
    // had to last.
    let durable = work.marks.iter().rposition(|mark| mark.2).unwrap_or(0);
    let earlier = work.marks[durable..].iter().map(|mark| &mark.1);
    let lost: Vec<&Rows> = earlier.chain(states.iter().copied()).collect();
    let mut replay = work.recorder.replay();
    while replay.step() {}
    let mut rng = Rng(replay.pending() as u64);
    let drawn: Vec<bool> = (0..replay.pending()).map(|_| rng.next() & 1 == 1).collect();
    let exactly = healthy.then_some(&work.rows);
    check(&replay.folder(|_| true, None), &states, exactly, what);
    for left in [replay.folder(|_| false, None), replay.folder(|n| drawn[n], None)] {
        check(&left, &lost, exactly, what);
    }
}

fn check(left: &Folder, states: &[&Rows], exactly: Option<&Rows>, what: &str) {
    let db = left.open(Options::new()).unwrap_or_else(|e| panic!("{what}, reopened: {e}"));
    let rows = allowed(&db, states, &format!("{what}, reopened"));
    assert!(exactly.is_none_or(|expected| rows == *expected), "{what}: {rows:?}");
    db.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
    put(&db, 3, 9).expect("writes again");
}

/// Every operation of a workload, once, four times and for good. `skip` thins
/// the cases out.
pub(crate) fn sweep(seed: u64, bug: Option<Bug>, codes: &[(&str, i32, bool)]) -> usize {
    let mut cases = 0;
    let harmless = Failure { code: 5, percent_written: 0 };
    let all = run(seed, bug, 0..0, harmless, false, "nothing fails");
    for (name, code, room) in codes {
        for at in 0..all {
            let percent_written = [0, 50, 99][at % 3];
            let how = Failure { code: *code, percent_written };
            for (until, often) in [(at + 1, "once"), (usize::MAX, "for good")] {
                let what = format!(
                    "workload {seed}, operation {at} fails {often}, {name}, {percent_written} % written"
                );
                run(seed, bug, at..until, how, *room, &what);
                cases += 1;
            }
        }
    }
    cases
}

/// Every operation fails once with EIO. A handle that says so is closed, and another goes on.
/// Where it was a sync of the folder that failed, none succeeds through that handle, and the
/// power fails before every operation behind it: rows that were acknowledged are there, whatever
/// it takes of the names.
pub(crate) fn reopened(bug: Option<Bug>) -> Result<usize, String> {
    for at in 0.. {
        sow(bug);
        let recorder = Recorder::new(None);
        let options = Options::new().reserve(0);
        let mut db = Some(recorder.create(schema(), options.clone()).expect("create"));
        let begin = recorder.tried();
        recorder.fail(begin + at..begin + at + 1, Failure { code: 5, percent_written: 0 });
        // How many rows were acknowledged behind so many operations, and behind how many
        // operations the folder failed.
        let (mut marks, mut failed) = (Vec::new(), None);
        for id in 0..6 {
            let Some(handle) = db.take().or_else(|| recorder.open(options.clone()).ok()) else {
                continue;
            };
            match go_on(&handle, id, &recorder, &mut marks) {
                Ok(()) => db = Some(handle),
                Err(Error::Io { action: "sync", path, .. }) if path.ends_with("mem") => {
                    failed = Some(recorder.operations());
                    let ended = handle.upsert(99, &vector(99, DIMS), ());
                    if !matches!(ended, Err(Error::Poisoned { .. })) {
                        return Err(format!(
                            "operation {at}: a folder that failed is synced again"
                        ));
                    }
                }
                Err(_) => {}
            }
        }
        drop(db);
        if recorder.tried() <= begin + at {
            sow(None);
            return Ok(at);
        }
        if let Some(failed) = failed {
            loses_no_row(&recorder, failed, &marks).map_err(|e| format!("operation {at}: {e}"))?;
        }
    }
    unreachable!("a workload ends")
}

/// Every operation fails once with EIO. Behind each commit the power fails and takes all that it
/// can: what was acknowledged is there.
pub(crate) fn lost_at_once(bug: Option<Bug>) -> Result<usize, String> {
    for at in 0.. {
        sow(bug);
        let recorder = Recorder::new(None);
        let db = recorder.create(schema(), without_reserve()).expect("create");
        let begin = recorder.tried();
        recorder.fail(begin + at..begin + at + 1, EIO);
        let mut acknowledged = Vec::new();
        for id in 0..4 {
            if db.upsert(id, &vector(id, DIMS), ()).is_ok() {
                acknowledged.push(id);
            }
            let mut replay = recorder.replay();
            while replay.step() {}
            let left = replay.folder(|_| false, None).open(Options::new());
            let left = left.map_err(|e| format!("operation {at}: {e}"))?;
            for id in &acknowledged {
                let row = left.get(*id).map_err(|e| format!("operation {at}: {e}"))?;
                row.ok_or_else(|| format!("operation {at}: row {id} is lost"))?;
            }
        }
        sow(None);
        if recorder.tried() <= begin + at {
            return Ok(at);
        }
    }
    unreachable!("a workload ends")
}

/// A commit, a flush, and after some of them a merge.
fn go_on(
    db: &Collection,
    id: u64,
    recorder: &Recorder,
    marks: &mut Vec<(usize, u64)>,
) -> matryo::Result<()> {
    db.upsert(id, &vector(id, DIMS), ())?;
    marks.push((recorder.operations(), id));
    db.flush()?;
    if id % 3 == 2 { db.compact().map(drop) } else { Ok(()) }
}

/// Cuts the power before every operation behind `failed` of them.
fn loses_no_row(recorder: &Recorder, failed: usize, marks: &[(usize, u64)]) -> Result<(), String> {
    let mut replay = recorder.replay();
    for done in 1.. {
        if !replay.step() {
            return Ok(());
        }
        for all in [false, true].into_iter().filter(|_| done >= failed) {
            let left = replay.folder(|_| all, None).open(Options::new());
            let left = left.map_err(|e| format!("behind {done}: {e}"))?;
            for (_, id) in marks.iter().filter(|(operations, _)| *operations <= done) {
                let row = left.get(*id).map_err(|e| format!("behind {done}: {e}"))?;
                row.ok_or_else(|| format!("behind {done}: row {id} is lost"))?;
            }
        }
    }
    unreachable!("a recording ends")
}

const EIO: Failure = Failure { code: 5, percent_written: 0 };

pub(crate) fn without_reserve() -> Options {
    Options::new().reserve(0)
}

/// A segment with as many rows as a calibration asks for.
fn with_rows(recorder: &Recorder) -> Collection {
    let db = recorder.create(reembed::schema(), without_reserve()).expect("create");
    let mut batch = db.batch();
    for id in 0..256 {
        batch.upsert(id, &reembed::embedded(id, DIMS), json!({"n": id})).expect("upsert");
    }
    batch.commit().expect("commit");
    db.flush().expect("flush");
    db
}

/// Those rows, and then a step in which the folder is synced and fails at it. The handle is closed.
pub(crate) fn with_a_name_in_doubt(step: impl Fn(&Collection) -> matryo::Result<()>) -> Recorder {
    for at in 0.. {
        let recorder = Recorder::new(None);
        let db = with_rows(&recorder);
        let begin = recorder.tried();
        recorder.fail(begin + at..begin + at + 1, EIO);
        match step(&db) {
            Err(Error::Io { action: "sync", path, .. }) if path.ends_with("mem") => {
                return recorder;
            }
            done => assert!(recorder.tried() > begin + at, "it never syncs: {done:?}"),
        }
    }
    unreachable!("a step ends")
}

/// The same where it is the close that fails so, which seals a log with a deletion alone.
fn with_a_close_in_doubt() -> Recorder {
    let close = |failing: std::ops::Range<usize>| {
        let recorder = Recorder::new(None);
        let db = with_rows(&recorder);
        db.delete(1).expect("delete");
        recorder.fail(failing, EIO);
        drop(db);
        recorder
    };
    // The sync of the folder is the last that a close does.
    let last = close(0..0).tried() - 1;
    close(last..last + 1)
}

/// The same rows, and a log that was not closed.
pub(crate) fn with_a_log() -> Recorder {
    let recorder = Recorder::new(None);
    let db = with_rows(&recorder);
    reembed::put(&db, 5, 5);
    recorder.fail(0..usize::MAX, EIO);
    drop(db);
    recorder
}

/// Cuts the power before every operation behind so many: what is left opens with the second row.
pub(crate) fn survives(recorder: &Recorder, from: usize, what: &str) {
    let mut replay = recorder.replay();
    for done in 1.. {
        if !replay.step() {
            return;
        }
        for all in [false, true].into_iter().filter(|_| done >= from) {
            let when = format!("{what}, all {all}, before {}", replay.describe());
            let left = replay.folder(|_| all, None);
            let left = left.open(Options::new()).unwrap_or_else(|e| panic!("{when}: {e}"));
            assert!(left.get(2).expect("readable").is_some(), "{when}: lost");
            left.verify().unwrap_or_else(|e| panic!("{when}: {e}"));
        }
    }
}

type Step<'s> = &'s dyn Fn(&Recorder) -> matryo::Result<()>;

/// Steps that write files, each the first through its handle, which found a manifest whose name
/// the medium may not have.
pub(crate) fn first_writes() {
    let open = |recorder: &Recorder| recorder.open(without_reserve());
    let shorten = |recorder: &Recorder| recorder.drop_tier(&CopyOptions::new().dims(8)).map(drop);
    let model = |recorder: &Recorder| {
        let (beside, options) = (Folder::default(), reembed::options());
        recorder.reembed(&beside, &options, &mut reembed::model, &|_| true).map(drop)
    };
    let bulk = |recorder: &Recorder| {
        let db = open(recorder)?;
        let mut bulk = db.bulk()?;
        bulk.upsert(1, &vector(1, DIMS), ())?;
        bulk.finish()
    };
    let steps: [(&str, Step); 6] = [
        ("flush", &|recorder| open(recorder)?.flush()),
        ("compact", &|recorder| open(recorder)?.compact().map(drop)),
        ("graphs", &|recorder| open(recorder)?.build_graphs().map(drop)),
        ("drop_tier", &shorten),
        ("reembed", &model),
        ("bulk", &bulk),
    ];
    let queries = [1, 2, 3, 4].map(|seed| vector(seed, DIMS));
    for (name, step) in steps {
        // With a log in which there are no rows, and without one.
        let calibrated = with_a_name_in_doubt(|db| db.calibrate_with(&queries).map(drop));
        for recorder in [with_a_close_in_doubt(), calibrated] {
            let from = recorder.operations();
            step(&recorder).unwrap_or_else(|e| panic!("{name}: {e}"));
            survives(&recorder, from, name);
        }
    }
}

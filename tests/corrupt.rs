//! Damage of every kind: a typed error or the very same answers, never wrong
//! ones, never a panic.
//!
//! Two folders are damaged: one closed cleanly, where no exception is made, and
//! one whose process died. There the end of the log can be torn, and damage to
//! it reads as an earlier commit (FORMAT.md, section "Torn end").

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use matryo::testing::Folder;
use matryo::{Collection, Error, Options, json};
use support::{
    DIMS, Rng, files, folder_of, long, questions, read_only, schema_with_fields as schema,
    sure_answers, vector,
};

/// Four segments, two of them with tombstones and one that keeps its log, and a log of
/// five commits.
struct Sample {
    clean: Folder,
    unclean: Folder,
    /// The answers after each commit of the log that is not flushed, oldest
    /// first; the last are those of both folders.
    states: Vec<Vec<u64>>,
    /// The folder as it was after every step.
    history: Vec<Folder>,
}

fn put(collection: &Collection, ids: std::ops::Range<u64>, salt: u64) {
    let mut batch = collection.batch();
    for id in ids {
        let tags = if id % 2 == 0 { json!(["even", "all"]) } else { json!(null) };
        let payload = match id % 5 {
            0 => json!(null),
            1 => json!({"salt": salt}),
            _ => json!({"n": id, "salt": salt, "tags": tags}),
        };
        batch.upsert(id, &vector(id * 1000 + salt, DIMS), payload).expect("upsert");
    }
    batch.commit().expect("commit");
}

/// Rows without payloads: their vectors are most of the log.
fn put_bare(collection: &Collection, ids: std::ops::Range<u64>) {
    let mut batch = collection.batch();
    for id in ids {
        batch.upsert(id, &vector(id, DIMS), ()).expect("upsert");
    }
    batch.commit().expect("commit");
}

fn build(folder: &Folder, salt: u64) -> Sample {
    let mut history = Vec::new();
    let collection = folder.create(schema(), Options::new()).expect("create");
    let mut step = |done: &dyn Fn(&Collection)| {
        history.push(folder.fork());
        done(&collection);
    };
    for first in [0, 20, 40] {
        step(&|c| put(c, first..first + 20, salt));
        step(&|c| put(c, first + 1..first + 3, salt + 1));
        step(&|c| c.delete(first + 4).map(drop).expect("delete"));
        step(&|c| c.flush().expect("flush"));
    }
    step(&|c| put_bare(c, 100..110));
    step(&|c| c.flush().expect("flush"));
    step(&|c| put(c, 10..12, salt + 2));
    step(&|c| c.delete(25).map(drop).expect("delete"));
    step(&|c| c.flush().expect("flush"));
    let mut states = vec![sure_answers(&collection)];
    for n in 0..5 {
        history.push(folder.fork());
        put(&collection, 58 + n..61 + n, salt + 3);
        states.push(sure_answers(&collection));
    }
    history.push(folder.fork());
    let unclean = folder.fork();
    let logs = unclean.names().into_iter().filter(|name| name.starts_with("wal-"));
    assert_eq!(logs.count(), 2, "one that a segment keeps, one for recovery");
    drop(collection);
    history.push(folder.fork());
    Sample { clean: folder.fork(), unclean, states, history }
}

fn sample() -> Sample {
    build(&Folder::default(), 0)
}

fn is_typed(e: &Error) -> bool {
    matches!(e, Error::Corrupt(_) | Error::UnsupportedFormat { .. })
}

/// What became of a damaged folder.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// It did not open.
    Refused,
    /// It opened; whether `verify` found the damage.
    Opened { noticed: bool },
}

/// Opens the folder and asks everything. Answers must be errors, or all be
/// those of one of the `allowed` states.
fn outcome(folder: &Folder, options: Options, allowed: &[Vec<u64>], what: &str) -> Outcome {
    let run = || {
        let collection = match folder.open(options) {
            Ok(collection) => collection,
            Err(e) => {
                assert!(is_typed(&e), "{what}: {e:?}");
                return Outcome::Refused;
            }
        };
        let answers = questions(&collection);
        let wrong = answers.iter().filter_map(|a| a.as_ref().err()).find(|e| !is_typed(e));
        assert!(wrong.is_none(), "{what}: {wrong:?}");
        let agrees = |state: &Vec<u64>| {
            let right = |(got, want): (&Result<u64, Error>, &u64)| match got {
                Ok(got) => got == want,
                Err(_) => true,
            };
            answers.iter().zip(state).all(right)
        };
        assert!(allowed.iter().any(agrees), "{what}: wrong answers");
        let verified = collection.verify();
        assert!(verified.as_ref().err().is_none_or(is_typed), "{what}: {verified:?}");
        Outcome::Opened { noticed: verified.is_err() }
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("{what}: panicked"))
}

/// One damaged file at a time, in one scratch folder.
struct Bench<'a> {
    scratch: Folder,
    files: Vec<(String, Vec<u8>)>,
    allowed: &'a [Vec<u64>],
    cases: usize,
}

impl<'a> Bench<'a> {
    fn new(folder: &Folder, allowed: &'a [Vec<u64>]) -> Self {
        let files = files(folder);
        Self { scratch: folder_of(&files), files, allowed, cases: 0 }
    }

    /// Replaces a file, looks, and puts the old bytes back.
    fn replaced(&mut self, at: usize, bytes: Vec<u8>, what: &str) -> Outcome {
        let (name, good) = &self.files[at];
        let what = format!("{name}: {what}");
        self.scratch.write(name, bytes);
        let outcome = outcome(&self.scratch, read_only(), self.allowed, &what);
        // Writers go another way: they recover, and clean up. What they go by are the small files:
        // manifest, logs, tombstones.
        let some = self.cases.is_multiple_of(64);
        if some || !name.starts_with("seg-") {
            let fork = self.scratch.fork();
            self::outcome(&fork, Options::new(), self.allowed, &what);
            if some {
                self::outcome(&fork, read_only(), self.allowed, &format!("{what}, opened again"));
            }
        }
        self.scratch.write(name, good.clone());
        self.cases += 1;
        outcome
    }
}

/// Positions in long runs of zeros, which are padding in all likelihood: there
/// only some bytes are tried, unless all are asked for.
fn worth_it(bytes: &[u8], at: usize) -> bool {
    let around = &bytes[at.saturating_sub(24)..(at + 24).min(bytes.len())];
    long() || around.iter().any(|b| *b != 0) || at % 16 == 5
}

fn flips(folder: &Folder, allowed: &[Vec<u64>], only: fn(&str) -> bool, all_noticed: bool) {
    let mut bench = Bench::new(folder, allowed);
    let mut rng = Rng(42);
    for at in 0..bench.files.len() {
        let (name, good) = bench.files[at].clone();
        if !only(&name) {
            continue;
        }
        for byte in (0..good.len()).filter(|byte| worth_it(&good, *byte)) {
            let flip = good[byte] ^ (1 << rng.below(8));
            // Segments are long, and a checksum tells all values apart alike.
            let all = long() || !name.starts_with("seg-") || byte.is_multiple_of(4);
            for value in [flip, 0x00, 0xff].into_iter().take(if all { 3 } else { 1 }) {
                if value == good[byte] {
                    continue;
                }
                let mut bad = good.clone();
                bad[byte] = value;
                let what = format!("byte {byte} = {value:#04x}");
                let outcome = bench.replaced(at, bad, &what);
                let missed = outcome == Outcome::Opened { noticed: false };
                assert!(!(missed && all_noticed), "{name}: {what}: not noticed");
            }
        }
    }
    println!("{} damaged folders", bench.cases);
}

#[test]
fn every_byte_of_a_closed_folder_is_noticed() {
    let sample = sample();
    flips(&sample.clean, &sample.states[5..], |name| name.starts_with("seg-"), true);
}

#[test]
fn every_byte_of_the_small_files_of_a_closed_folder_is_noticed() {
    let sample = sample();
    flips(&sample.clean, &sample.states[5..], |name| !name.starts_with("seg-"), true);
}

#[test]
fn after_an_unclean_stop_damage_is_noticed_or_reads_as_an_earlier_commit() {
    let sample = sample();
    let log = |name: &str| name.starts_with("wal-");
    let other = |name: &str| !name.starts_with("wal-") && (long() || !name.starts_with("seg-"));
    flips(&sample.unclean, &sample.states, log, false);
    flips(&sample.unclean, &sample.states[5..], other, true);
}

/// The exception is as narrow as it is said to be: of a log whose commits were
/// each synced, only damage to the last frame goes unnoticed.
#[test]
fn after_an_unclean_stop_only_the_last_commit_can_be_lost_to_damage() {
    let sample = sample();
    flips(&sample.unclean, &sample.states[4..], |name| name.starts_with("wal-"), false);
}

#[test]
fn commits_that_recovery_copied_are_safe_from_the_next_stop() {
    let sample = sample();
    let folder = sample.unclean.fork();
    let collection = folder.open(Options::new()).expect("recovers");
    let stopped_again = folder.fork();
    drop(collection);
    flips(&stopped_again, &sample.states[5..], |name| name.starts_with("wal-"), true);
}

fn lengths(folder: &Folder, allowed: &[Vec<u64>], log_may_be_cut: &[Vec<u64>]) {
    let mut bench = Bench::new(folder, allowed);
    let mut rng = Rng(7);
    for at in 0..bench.files.len() {
        let (name, good) = bench.files[at].clone();
        bench.allowed = if name.starts_with("wal-") { log_may_be_cut } else { allowed };
        let strict = bench.allowed.len() == 1;
        let near = |len: usize| len % 4096 < 2 || len.is_multiple_of(13) || good.len() - len < 600;
        let small = good.len() < 4096;
        for len in (0..good.len()).filter(|len| long() || small || near(*len)) {
            let outcome = bench.replaced(at, good[..len].to_vec(), &format!("cut at {len}"));
            assert!(outcome == Outcome::Refused || !strict, "{name} cut at {len}: {outcome:?}");
        }
        for more in (1..17).chain([24, 32, 39, 40, 41, 63, 64, 100, 511, 512, 4095, 4096]) {
            for garbage in [false, true] {
                let mut longer = good.clone();
                longer.extend((0..more).map(|_| if garbage { rng.next() as u8 | 1 } else { 0 }));
                let outcome = bench.replaced(at, longer, &format!("{more} bytes more"));
                assert!(outcome == Outcome::Refused || !strict, "{name} + {more}: {outcome:?}");
            }
        }
    }
    println!("{} lengths", bench.cases);
}

#[test]
fn no_file_of_a_closed_folder_can_have_another_length() {
    let sample = sample();
    lengths(&sample.clean, &sample.states[5..], &sample.states[5..]);
}

#[test]
fn after_an_unclean_stop_only_the_log_can_be_cut() {
    let sample = sample();
    lengths(&sample.unclean, &sample.states[5..], &sample.states);
}

#[test]
fn missing_and_swapped_files_are_noticed() {
    let sample = sample();
    for folder in [&sample.clean, &sample.unclean] {
        let names = folder.names();
        for (at, name) in names.iter().enumerate() {
            let fork = folder.fork();
            fork.remove(name);
            let got = outcome(&fork, Options::new(), &[], &format!("{name} is missing"));
            assert_eq!(got, Outcome::Refused);
            for other in &names[at + 1..] {
                let fork = folder.fork();
                fork.write(name, folder.read(other).expect("there"));
                fork.write(other, folder.read(name).expect("there"));
                let what = format!("{name} and {other} swapped");
                assert_eq!(outcome(&fork, Options::new(), &[], &what), Outcome::Refused);
            }
        }
    }
}

/// A folder whose collection has another random name.
fn another_folder() -> Folder {
    let folder = Folder::default();
    drop(folder.create(schema(), Options::new()).expect("create"));
    folder.names().iter().for_each(|name| folder.remove(name));
    folder
}

#[test]
fn files_of_another_collection_are_noticed() {
    let sample = sample();
    let other = build(&another_folder(), 0);
    assert_eq!(sample.clean.names(), other.clean.names());
    for (mine, theirs) in [(&sample.clean, &other.clean), (&sample.unclean, &other.unclean)] {
        for name in mine.names() {
            let fork = mine.fork();
            fork.write(&name, theirs.read(&name).expect("same names"));
            let what = format!("{name} of another collection");
            assert_eq!(outcome(&fork, Options::new(), &[], &what), Outcome::Refused);
        }
    }
}

/// Two copies of one folder went different ways, with files of the same names.
#[test]
fn files_of_another_history_are_noticed() {
    let sample = sample();
    for at in [0, 3, 8, 12, 14] {
        let folder = sample.history[at].fork();
        let collection = folder.open(Options::new()).expect("open");
        for n in 0..8 {
            put(&collection, n * 7..n * 7 + 3, 77);
            if n % 3 == 2 {
                collection.delete(n).expect("delete");
                collection.flush().expect("flush");
            }
        }
        drop(collection);
        for (name, bytes) in files(&folder) {
            let fork = sample.clean.fork();
            let same = fork.read(&name) == Some(bytes.clone());
            let foreign = fork.read(&name).is_none();
            fork.write(&name, bytes);
            let what = format!("{name} of a history that left at step {at}");
            let got = outcome(&fork, Options::new(), &sample.states[5..], &what);
            assert!(same || foreign || got == Outcome::Refused, "{what}: {got:?}");
        }
    }
}

#[test]
fn older_copies_of_a_file_are_noticed_or_change_nothing() {
    let sample = sample();
    let (mut refused, mut same) = (0, 0);
    for (folder, allowed) in
        [(&sample.clean, &sample.states[5..]), (&sample.unclean, &sample.states[..])]
    {
        for (at, old) in sample.history.iter().enumerate() {
            for (name, bytes) in files(old) {
                // A log that was being written is as if cut where it then ended.
                let cut = name.starts_with("wal-") && allowed.len() > 1;
                let allowed = if cut { allowed } else { &sample.states[5..] };
                let fork = folder.fork();
                fork.write(&name, bytes);
                let what = format!("{name} as it was at step {at}");
                match outcome(&fork, read_only(), allowed, &what) {
                    Outcome::Refused => refused += 1,
                    Outcome::Opened { .. } => same += 1,
                }
                outcome(&fork, Options::new(), allowed, &what);
                outcome(&fork, Options::new(), allowed, &format!("{what}, opened again"));
            }
        }
    }
    println!("{refused} noticed, {same} without effect");
    assert!(refused > 0 && same > 0);
}

#[test]
fn verify_sees_damage_under_an_open_handle_to_the_last_byte() {
    let sample = sample();
    let folder = sample.unclean.fork();
    let collection = folder.open(Options::new()).expect("recovers");
    collection.upsert(1, &vector(5, DIMS), ()).expect("commit");
    collection.verify().expect("whole");
    for (name, good) in files(&folder) {
        for at in (0..good.len()).filter(|at| good.len() < 4096 || at % 37 == 0) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            folder.write(&name, bad);
            let verified = collection.verify();
            assert!(verified.as_ref().is_err_and(is_typed), "{name} byte {at}: {verified:?}");
        }
        folder.write(&name, good);
    }
    collection.verify().expect("whole again");
}

/// As above, but the files differ in nothing that their headers or lengths say:
/// only the checksums in the manifest tell them apart.
#[test]
fn files_of_two_histories_that_look_alike_are_noticed() {
    let sample = sample();
    let go_on = |id: u64| {
        let folder = sample.clean.fork();
        let collection = folder.open(Options::new()).expect("open");
        collection.delete(id).expect("delete");
        collection.flush().expect("flush");
        put(&collection, id..id + 1, 5);
        drop(collection);
        folder
    };
    let (mine, theirs) = (go_on(6), go_on(16));
    assert_eq!(mine.names(), theirs.names());
    let mut different = Vec::new();
    for (name, bytes) in files(&theirs) {
        let old = mine.read(&name).expect("same names");
        assert_eq!(old.len(), bytes.len(), "{name}");
        if old != bytes && name != "MANIFEST" {
            let fork = mine.fork();
            fork.write(&name, bytes);
            assert_eq!(outcome(&fork, Options::new(), &[], &name), Outcome::Refused);
            different.push(name[..3].to_owned());
        }
    }
    assert_eq!(different, ["del", "wal"]);
}

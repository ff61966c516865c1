//! The fuzz targets without a fuzzer: every input that is kept in `tests/corpus` (seeds, what
//! fuzzing found to reach further, and every input that once broke something)
//! runs through its target, and so do some thousand inputs made of them with a
//! fixed seed.
//!
//! `MATRYO_LONG=1` makes many more; `TARGET=name` runs one target alone. The
//! ignored test `write_seeds` writes the seeds anew: when the format changes, the
//! old ones are refused at once and reach nothing any more.

mod fuzz_bodies;
#[path = "fuzz_bodies/report.rs"]
mod report;
mod support;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use fuzz_bodies::{TARGETS, Target, seeds};
use matryo::testing::{Bug, sow};
use support::{Rng, sized};

/// Longest input that is made.
const MAX_LEN: usize = 4096;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target)
}

fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder(target)).expect("every target has some inputs").flatten();
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("readable"))).collect()
}

/// Some of what libFuzzer does to an input.
fn mutate(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[rng.below(corpus.len())].clone();
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        let end = (at + 1 + rng.below(8)).min(bytes.len());
        let interesting = [0u64, 1, 0x7f, 0x80, 0xff, 0xffff, 1 << 31, u64::MAX];
        match rng.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            1 if at < bytes.len() => bytes[at] = rng.next() as u8,
            2 => drop(bytes.splice(at..end, interesting[rng.below(8)].to_le_bytes())),
            3 => drop(bytes.splice(at..at, (0..=rng.below(8)).map(|_| rng.next() as u8))),
            4 => drop(bytes.drain(at..end)),
            5 => bytes.truncate(at),
            _ => {
                let other = &corpus[rng.below(corpus.len())];
                let from = rng.below(other.len() + 1);
                bytes.splice(at.., other[from..].iter().copied());
            }
        }
    }
    bytes.truncate(MAX_LEN.max(corpus.iter().map(Vec::len).max().unwrap_or(0)));
    bytes
}

fn check((name, body): Target, input: &[u8], what: &dyn Fn() -> String) {
    if catch_unwind(AssertUnwindSafe(|| body(input))).is_err() {
        let path = std::env::temp_dir().join(format!("matryo-{name}"));
        fs::write(&path, input).expect("written");
        panic!("{name}: {}; the input is in {}", what(), path.display());
    }
}

fn replay(target: Target, made: usize) {
    let start = Instant::now();
    let inputs = kept(target.0);
    for (path, input) in &inputs {
        check(target, input, &|| path.display().to_string());
    }
    let mut corpus: Vec<_> = inputs.into_iter().map(|(_, input)| input).collect();
    corpus.extend(seeds(target.0));
    // It writes a folder of files for each.
    let made = if target.0 == "tokenizer_dir" { made / 10 } else { made };
    let mut rng = Rng(17);
    for n in 0..made {
        check(target, &mutate(&mut rng, &corpus), &|| format!("input {n}"));
    }
    println!("{}: {} kept, {made} made, {:?}", target.0, corpus.len(), start.elapsed());
}

#[test]
fn no_input_breaks_a_promise() {
    let only = std::env::var("TARGET").ok();
    let chosen = TARGETS.iter().filter(|t| only.as_deref().is_none_or(|only| only == t.0));
    let made = sized(10_000, 1_000_000);
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            chosen.map(|target| scope.spawn(move || replay(*target, made))).collect();
        assert!(!threads.is_empty(), "there is no target {only:?}");
        let failed = threads.into_iter().filter_map(|thread| thread.join().err()).count();
        assert_eq!(failed, 0, "targets failed");
    });
}

/// A body that notices nothing would prove nothing.
#[test]
fn bugs_are_noticed() {
    let bugs = [
        ("api_ops", Bug::FlushForgetsDead),
        ("api_ops", Bug::MergeForgetsDead),
        ("api_ops", Bug::MergeMistakesDead),
        ("api_ops", Bug::BulkForgetsDead),
        ("open_dir", Bug::FlushForgetsDead),
        ("wal_replay", Bug::FlushForgetsDead),
    ];
    for (name, bug) in bugs {
        let target = TARGETS.iter().find(|t| t.0 == name).expect("a target");
        let corpus: Vec<_> = kept(name).into_iter().map(|(_, input)| input).collect();
        let mut rng = Rng(17);
        // What all inputs share is made now, without the bug.
        target.1(&[]);
        sow(Some(bug));
        let mut broken = |_: &usize| {
            let input = mutate(&mut rng, &corpus);
            catch_unwind(AssertUnwindSafe(|| target.1(&input))).is_err()
        };
        let first = (0..20_000).find(&mut broken);
        sow(None);
        let first = first.unwrap_or_else(|| panic!("{name} does not notice {bug:?}"));
        println!("{name} notices {bug:?} at input {first}");
    }
}

#[test]
#[ignore = "writes tests/corpus"]
fn write_seeds() {
    for (name, _) in TARGETS {
        fs::create_dir_all(folder(name)).expect("made");
        for (n, seed) in seeds(name).into_iter().enumerate() {
            fs::write(folder(name).join(format!("seed-{n}")), seed).expect("written");
        }
    }
}

//! What the system is asked for, and file systems that are not like others: one of a process
//! (FUSE), one that is read-only.

#![cfg(target_os = "linux")]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;

use matryo::testing::Recorder;
use matryo::{Collection, Error, Options, RepairOptions};
use support::mounts::{Fuse, Tmpfs};
use support::read_only;
use support::steps::{
    PATIENCE, after, check, commit_for_ever, done, options, schema, spawn, step, steps_of,
};

/// What a child process does; nothing where this is no child.
#[test]
fn child() {
    let Some(path) = std::env::var_os("MATRYO_TEST_PATH").map(PathBuf::from) else { return };
    match std::env::var("MATRYO_TEST_CHILD").expect("set with the path").as_str() {
        "commit for ever" => commit_for_ever(&path, options()),
        "work" => work(|| Collection::create_with(&path, schema(), quiet()).expect("create")),
        other => panic!("do what? {other}"),
    }
}

fn quiet() -> Options {
    Options::new().background(false)
}

/// Commits, a bulk load, two flushes, a merge and a close.
fn work(create: impl Fn() -> Collection) {
    let db = create();
    for n in 1..=20 {
        step(&db, n).expect("step");
        if n % 10 == 0 {
            db.flush().expect("flush");
        }
    }
    db.compact().expect("compact");
    step(&db, 21).expect("step");
}

/// The system is asked for as many syncs as `syncs.rs` counts in RAM, each of the right file at
/// the right moment, and for that of the folder around it.
#[test]
fn every_sync_that_is_counted_is_asked_of_the_system() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let (path, trace) = (dir.path().join("a.matryo"), dir.path().join("trace"));
    let calls = "trace=fsync,fdatasync,rename,renameat,renameat2";
    let mut traced = Command::new("strace");
    traced.args(["-f", "-y", "-qq", "-e", calls, "-o"]).arg(&trace);
    traced.arg(std::env::current_exe().expect("has a path")).args(["--exact", "child"]);
    traced.env("MATRYO_TEST_CHILD", "work").env("MATRYO_TEST_PATH", &path);
    let ran = match traced.output() {
        Ok(ran) => ran,
        Err(why) => return println!("skipped: no strace: {why}"),
    };
    let trace = std::fs::read_to_string(trace).unwrap_or_default();
    if !ran.status.success() && trace.is_empty() {
        let why = String::from_utf8_lossy(&ran.stderr).into_owned();
        return println!("skipped: strace may not trace here: {why}");
    }
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    let calls: Vec<(&str, &str)> = trace.lines().filter_map(call).collect();
    let (parent, folder) = (dir.path().to_str().expect("UTF-8"), path.to_str().expect("UTF-8"));
    assert_eq!(calls[0], ("fsync", parent), "the name of the folder itself");
    let of = |start: &str| {
        let start = format!("{folder}/{start}");
        calls.iter().filter(|(call, file)| *call == "fdatasync" && file.starts_with(&start)).count()
    };
    println!("{} calls, {} of logs, {} of segments", calls.len(), of("wal-"), of("seg-"));
    assert!(of("wal-") >= 20 && of("seg-") >= 3, "{trace}");
    let mut installed = 0;
    for (at, (call, _)) in calls.iter().enumerate() {
        if call.starts_with("rename") {
            let (call, temporary) = calls[at - 1];
            assert!(call == "fdatasync" && temporary.contains("/tmp-"), "{trace}");
            assert_eq!(calls[at + 1], ("fsync", folder), "{trace}");
            installed += 1;
        }
    }
    assert!(installed >= 4, "{trace}");
    // The same work in RAM.
    let recorder = Recorder::new(None);
    work(|| recorder.create(schema(), quiet()).expect("create"));
    let count = |which| calls.iter().filter(|(call, _)| *call == which).count();
    assert_eq!((count("fdatasync"), count("fsync") - 1), recorder.syncs(), "{trace}");
}

/// A line of strace: the call, and the file it is about, if that is one descriptor.
fn call(line: &str) -> Option<(&str, &str)> {
    let (call, arguments) = line.split_once('(')?;
    let call = call.split_whitespace().last()?;
    let file = arguments.split_once('<')?.1.split_once('>')?.0;
    Some((call, file))
}

/// Descriptors of this process, or of a program that it starts, that lead into a folder.
fn descriptors_into(folder: &Path, of: &str) -> Vec<String> {
    let list = format!("for f in /proc/{of}/fd/*; do readlink $f; done");
    let said = Command::new("sh").args(["-c", &list]).output().expect("sh runs");
    let said = String::from_utf8(said.stdout).expect("UTF-8");
    let folder = folder.to_str().expect("UTF-8");
    said.lines().filter(|file| file.starts_with(folder)).map(str::to_owned).collect()
}

#[test]
fn programs_that_are_started_inherit_no_file() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().canonicalize().expect("there").join("a.matryo");
    let db = Collection::create_with(&path, schema(), quiet().mapped(false)).expect("create");
    step(&db, 1).expect("step");
    db.flush().expect("flush");
    step(&db, 2).expect("step");
    let mut bulk = db.bulk().expect("bulk");
    bulk.upsert(3, &support::vector(3, support::steps::DIMS), ()).expect("upsert");
    let _reader = Collection::open_with(&path, read_only()).expect("open");
    let ours = descriptors_into(&path, &std::process::id().to_string());
    for part in ["a.matryo", "/LOCK", "/wal-"] {
        assert!(ours.iter().any(|file| file.contains(part)), "or this shows nothing: {ours:?}");
    }
    assert_eq!(descriptors_into(&path, "self"), [""; 0]);
    assert_eq!(descriptors_into(&path, "$$"), [""; 0]);
}

#[test]
fn file_systems_of_processes_are_refused_for_writing_unless_asked() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    let db = Collection::create_with(&path, schema(), options()).expect("create");
    (1..=30).for_each(|n| step(&db, n).expect("step"));
    drop(db);
    let seen = match Fuse::mount(&path, &dir.path().join("seen")) {
        Ok(seen) => seen,
        Err(why) => return println!("{why}: no FUSE"),
    };
    let unsafe_here = |refused: Option<Error>| {
        let Some(Error::UnsafeFileSystem { name, .. }) = &refused else { panic!("{refused:?}") };
        assert_eq!(*name, "FUSE");
    };
    let new = seen.1.join("new");
    unsafe_here(Collection::create(&new, schema()).err());
    unsafe_here(Collection::open(&seen.1).err());
    unsafe_here(Collection::repair(&seen.1).err());
    // Where it is asked for, what fails is the file system, which lets nobody write.
    let allowed = || Options::new().allow_unsafe_fs(true);
    let refused = Collection::create_with(&new, schema(), allowed()).err();
    assert!(matches!(refused, Some(Error::Io { .. })), "{refused:?}");
    let db = Collection::open_with(&seen.1, allowed()).expect("nothing is written by it");
    let refused = step(&db, 31).err();
    assert!(matches!(refused, Some(Error::Io { .. })), "{refused:?}");
    check(&db, &after(30));
    drop(db);
    let intact = Collection::repair_with(&seen.1, &RepairOptions::new().open(allowed()));
    assert!(intact.expect("nothing is written by it").was_intact());
    // Reading takes no lock and needs no sync.
    for mapped in [true, false] {
        let db = Collection::open_with(&seen.1, read_only().mapped(mapped)).expect("open");
        check(&db, &after(30));
    }
}

/// Names and contents of a folder's files.
fn contents(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let list = std::fs::read_dir(path).expect("list").map(|entry| entry.expect("there").path());
    let mut all: Vec<_> = list.map(|at| (at.clone(), std::fs::read(at).expect("reads"))).collect();
    all.sort();
    all
}

/// The process that wrote died, so there is a log to be replayed, and no place to write to.
#[test]
fn a_read_only_medium_opens_with_all_rows_and_is_left_as_it_was() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let medium = match Tmpfs::mount(&dir.path().join("medium"), "32m") {
        Ok(medium) => medium,
        Err(why) => return println!("skipped: no file system can be mounted here: {why}"),
    };
    let path = medium.0.join("a.matryo");
    drop(Collection::create(&path, schema()).expect("create"));
    let mut child = spawn("commit for ever", &path, "");
    let mut lines = BufReader::new(child.stdout.take().expect("piped"));
    let mut said = String::new();
    while done(&said).last().is_none_or(|(step, _)| step < 20) {
        assert!(lines.read_line(&mut said).expect("reads") > 0, "the child has died");
    }
    child.kill().expect("is killed");
    lines.read_to_string(&mut said).expect("UTF-8");
    child.wait().expect("has ended");
    let acknowledged = done(&said).map(|(step, _)| step).max().expect("some");
    medium.make_read_only();
    let before = contents(&path);
    let db = Collection::open_with(&path, read_only()).expect("opens");
    let steps = steps_of(&db);
    assert!((acknowledged..=acknowledged + 1).contains(&steps), "{steps} of {acknowledged}");
    check(&db, &after(steps));
    drop(db);
    let refused = Collection::open_with(&path, Options::new().lock_timeout(PATIENCE)).err();
    assert!(matches!(refused, Some(Error::Io { .. })), "{refused:?}");
    assert!(
        Collection::repair(&path).is_err()
            && Collection::create(medium.0.join("b"), schema()).is_err()
    );
    assert_eq!(contents(&path), before);
    assert_eq!(std::fs::read_dir(&medium.0).expect("list").count(), 1);
}

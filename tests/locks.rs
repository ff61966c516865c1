//! Who may write: one handle for a folder, whatever path leads to it, whoever removes the lock
//! file, and not a process that inherited the handle by a fork.
#![expect(unsafe_code, reason = "there is no safe way to fork")]

mod support;

use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use matryo::{Collection, Error, Options, RepairOptions, json};
use support::steps::{DIMS, output, schema, spawn};
use support::writes::WRITES;
use support::{read_only, vector};

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(process: i32, status: *mut i32, options: i32) -> i32;
    fn alarm(seconds: u32) -> u32;
    fn _exit(code: i32) -> !;
}

/// What a child process does; nothing where this is no child.
#[test]
fn child() {
    let Some(path) = std::env::var_os("MATRYO_TEST_PATH").map(PathBuf::from) else { return };
    match std::env::var("MATRYO_TEST_CHILD").expect("set with the path").as_str() {
        "fork" => forks(&path),
        "open" => drop(open(&path)),
        "try" => match Collection::open(&path) {
            Ok(_) => println!("opened"),
            Err(Error::Locked { .. }) => println!("locked"),
            Err(e) => println!("refused: {e}"),
        },
        other => panic!("do what? {other}"),
    }
}

/// A folder with a collection, a place for links to it, and a mount of it where we may mount.
struct Place {
    dir: tempfile::TempDir,
    path: PathBuf,
    bound: Option<PathBuf>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("a.matryo");
        let db = Collection::create(&path, schema()).expect("create");
        db.upsert(1, &vector(1, DIMS), json!({"seed": 1})).expect("upsert");
        let bound = dir.path().join("bound");
        std::fs::create_dir(&bound).expect("create");
        let mount = Command::new("mount").arg("--bind").arg(&path).arg(&bound).output();
        let bound = match mount {
            Ok(done) if done.status.success() => Some(bound),
            why => {
                println!("no bind mount, so that way is not tried: {why:?}");
                None
            }
        };
        Self { dir, path, bound }
    }

    /// Every other way to the folder.
    fn ways(&self) -> Vec<PathBuf> {
        let at = |name| self.dir.path().join(name);
        symlink(&self.path, at("link")).expect("link");
        symlink(at("link"), at("link to the link")).expect("link");
        symlink(self.dir.path(), at("link to the parent")).expect("link");
        let mut ways = vec![
            self.path.clone(),
            self.path.join("."),
            self.path.join("../a.matryo/"),
            at("link"),
            at("link to the link"),
            at("link to the parent").join("a.matryo"),
        ];
        ways.extend(self.bound.clone());
        ways
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(bound) = &self.bound {
            let _ = Command::new("umount").arg(bound).status();
        }
    }
}

/// Opens a folder that is free.
fn open(path: &Path) -> Collection {
    let options = Options::new().background(false);
    Collection::open_with(path, options).expect("the folder is free")
}

fn is_locked<T>(result: Result<T, Error>, what: &str) {
    let error = result.err();
    assert!(matches!(error, Some(Error::Locked { .. })), "{what}: {error:?}");
}

#[test]
fn one_process_cannot_write_twice_by_whatever_path() {
    let place = Place::new();
    let ways = place.ways();
    for first in &ways {
        let db = open(first);
        for second in &ways {
            let what = format!("{}, then {}", first.display(), second.display());
            is_locked(Collection::open(second), &what);
            let exists = Collection::create(second, schema()).err();
            assert!(matches!(exists, Some(Error::AlreadyExists { .. })), "{what}: {exists:?}");
            is_locked(Collection::repair_with(second, &RepairOptions::new()), &what);
            is_locked(Collection::drop_tier(second, 8), &what);
            assert!(db.backup_to(second).is_err(), "{what}: onto itself");
            let reader = Collection::open_with(second, read_only()).expect("readers may");
            assert_eq!(reader.len(), 1);
        }
        // What was refused took nothing away.
        is_locked(Collection::open(&place.path), "after all");
        db.upsert(1, &vector(1, DIMS), json!({"seed": 1})).expect("still the writer");
    }
    // Another thread is no other process.
    let db = open(&place.path);
    std::thread::scope(|scope| {
        scope.spawn(|| is_locked(Collection::open(&place.path), "a thread")).join().expect("ends");
    });
    drop(db);
    open(&place.path);
}

#[test]
fn a_folder_that_is_renamed_is_locked_under_its_new_name() {
    let place = Place::new();
    let db = open(&place.path);
    let moved = place.dir.path().join("b.matryo");
    std::fs::rename(&place.path, &moved).expect("rename");
    is_locked(Collection::open(&moved), "moved");
    db.upsert(2, &vector(2, DIMS), ()).expect("the same folder");
    drop(db);
    assert_eq!(open(&moved).len(), 2);
}

/// People remove lock files that they take for stale.
#[test]
fn removing_or_replacing_the_lock_file_lets_nobody_in() {
    let place = Place::new();
    let lock = place.path.join("LOCK");
    let db = open(&place.path);
    let changes: [(&str, &dyn Fn()); 3] = [
        ("removed", &|| std::fs::remove_file(&lock).expect("remove")),
        ("another", &|| std::fs::write(&lock, b"").expect("write")),
        ("renamed", &|| {
            std::fs::rename(&lock, place.path.join("damaged-LOCK")).expect("rename");
        }),
    ];
    for (what, change) in changes {
        change();
        is_locked(Collection::open(&place.path), what);
        assert!(output(spawn("try", &place.path, "")).contains("locked"), "{what}");
        db.upsert(2, &vector(2, DIMS), ()).expect("still the writer");
    }
    drop(db);
    output(spawn("open", &place.path, ""));
    assert_eq!(open(&place.path).len(), 2);
}

/// Runs `work` in a process that is forked off: its number.
fn fork_off(work: impl FnOnce()) -> i32 {
    // SAFETY: no other thread of this process runs code that holds a lock: the collection has
    // no background thread, and the test harness waits for this one. The child runs `work` and
    // leaves without unwinding into what it shares with its parent.
    let process = unsafe { fork() };
    assert!(process >= 0, "the system does not fork");
    if process == 0 {
        // SAFETY: ends this process if it waits for a lock that only its parent could give back.
        unsafe { alarm(120) };
        let done = catch_unwind(AssertUnwindSafe(work));
        // SAFETY: ends the process, and runs nothing of it any more.
        unsafe { _exit(i32::from(done.is_err())) };
    }
    process
}

/// Waits for the end of a process: whether its work succeeded.
fn wait_for(process: i32) -> bool {
    let mut status = -1;
    // SAFETY: `status` outlives the call.
    let ended = unsafe { waitpid(process, &raw mut status, 0) };
    assert_eq!(ended, process);
    status == 0
}

fn wait_until_exists(path: &Path) {
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn in_a_fork(work: impl FnOnce()) -> bool {
    wait_for(fork_off(work))
}

/// All files of the folder with their bytes.
fn files(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = std::fs::read_dir(path).expect("lists").map(|entry| entry.expect("entry").path());
    let mut files: Vec<_> =
        paths.map(|path| (path.clone(), std::fs::read(path).expect("reads"))).collect();
    files.sort();
    files
}

/// A process with an open collection forks: in the child all is refused that writes, and
/// nothing that the child does, its end included, takes the lock from its parent.
fn forks(path: &Path) {
    let db = open(path);
    db.upsert(2, &vector(2, DIMS), json!({"seed": 2})).expect("upsert");
    let mut batch = db.batch();
    batch.upsert(3, &vector(3, DIMS), json!({"seed": 3})).expect("a row");
    let before = files(path);
    let forked = |result: Result<(), Error>| matches!(result, Err(Error::Forked { .. }));
    assert!(in_a_fork(|| assert!(
        forked(batch.commit().map(drop)),
        "a batch that was begun before"
    )));
    let refuses = || {
        for (what, write) in WRITES {
            assert!(forked(write(&db)), "{what}");
        }
        assert_eq!(db.search(&vector(2, DIMS)).run().expect("reads go on").hits.len(), 2);
        is_locked(Collection::open(path), "the parent has it");
    };
    assert!(in_a_fork(refuses), "the forked process has said why");
    // The child's last handle goes; the parent keeps its own, in memory of its own.
    let mut handle = Some(db);
    assert!(in_a_fork(|| drop(handle.take())));
    let db = handle.expect("the parent's");
    assert_eq!(files(path), before, "nothing was written by a child");
    is_locked(Collection::open(path), "ours still, after the children have ended");
    assert!(output(spawn("try", path, "")).contains("locked"));
    let go = path.with_extension("verify");
    let child = fork_off(|| {
        wait_until_exists(&go);
        db.verify().expect("intact, though the parent has gone on");
    });
    db.upsert(5, &vector(5, DIMS), json!({"seed": 5})).expect("the parent goes on");
    db.flush().expect("and installs a manifest");
    std::fs::write(&go, "").expect("write");
    assert!(wait_for(child), "the forked process has said why");
    // A child of somebody who merges waits for nobody.
    db.upsert(5, &vector(6, DIMS), json!({"seed": 6})).expect("upsert");
    let within = |_| in_a_fork(|| assert!(forked(db.drop_graphs().map(drop))));
    let merged = db.compact_with(within).expect("the forked process has ended");
    assert_eq!(merged.segments, 2);
    assert_eq!(db.len(), 3);
    db.verify().expect("intact");
    drop(db);
    forks_within_a_load(path);
    is_free_while_a_child_lives(path);
    println!("parent is done");
}

/// A load that was begun before the fork: its files are the parent's.
fn forks_within_a_load(path: &Path) {
    let options = Options::new().background(false).memtable_bytes(4000);
    let db = Collection::open_with(path, options).expect("open");
    let is_segment = |path: &Path| path.to_string_lossy().contains("seg-");
    let segments = || files(path).iter().filter(|(path, _)| is_segment(path)).count();
    let mut bulk = db.bulk().expect("bulk");
    for id in 100..400 {
        bulk.upsert(id, &vector(id, DIMS), ()).expect("a row");
    }
    let before = files(path);
    assert!(segments() > 1, "some are written");
    let mut load = Some(bulk);
    assert!(in_a_fork(|| drop(load.take())));
    assert_eq!(files(path), before, "the child has removed nothing");
    load.expect("the parent's").finish().expect("finish");
    assert!(segments() > 1 && db.len() == 303);
    drop(db);
    let db = open(path);
    db.verify().expect("intact");
    (100..400).for_each(|id| db.delete(id).map(drop).expect("delete"));
}

/// A child that is being started has copies of all descriptors until it runs its program.
fn is_free_while_a_child_lives(path: &Path) {
    let go = path.with_extension("go");
    let db = open(path);
    let child = fork_off(|| wait_until_exists(&go));
    drop(db);
    let again = Collection::open(path);
    std::fs::write(&go, "").expect("write");
    assert!(wait_for(child));
    let again = again.expect("free, though a child has a copy of the lock");
    is_locked(Collection::open(path), "the end of the child unlocks nothing");
    drop(again);
}

#[test]
fn a_process_that_was_forked_off_reads_and_neither_writes_nor_unlocks() {
    let place = Place::new();
    assert!(output(spawn("fork", &place.path, "")).contains("parent is done"));
    let db = open(&place.path);
    assert_eq!(db.len(), 3);
    db.verify().expect("intact");
}

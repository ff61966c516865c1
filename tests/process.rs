//! Real processes on a real file system: killed at any moment, short of files
//! and of room, two of them at one collection.
//!
//! The child processes are this test binary again, told by the environment what
//! to do.

mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use matryo::{Collection, Error, Options, json};
use support::steps::{
    COUNTER, DIMS, Rows, after, check, commit_for_ever, last_done, options, output, schema, spawn,
    step, steps_of,
};
use support::{Rng, long, vector};

/// What a child process does; nothing where this is no child.
#[test]
fn child() {
    let Some(path) = std::env::var_os("MATRYO_TEST_PATH").map(PathBuf::from) else { return };
    match std::env::var("MATRYO_TEST_CHILD").expect("set with the path").as_str() {
        "commit for ever" => commit_for_ever(&path),
        "few files" => few_files(&path),
        "small files" => small_files(&path),
        "hold" => {
            let _db = Collection::open(&path).expect("open");
            println!("held");
            let _ = std::io::stdin().read(&mut [0]);
        }
        "try" => match Collection::open(&path) {
            Ok(_) => println!("opened"),
            Err(e) => println!("refused: {e}"),
        },
        other => panic!("do what? {other}"),
    }
}

#[test]
fn kill_takes_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    drop(Collection::create(&path, schema()).expect("create"));
    let (mut rng, kills) = (Rng(1), if long() { 2000 } else { 30 });
    let mut steps = 0;
    for _ in 0..kills {
        let mut child = spawn("commit for ever", &path, "");
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut first = String::new();
        // Some are killed while they start.
        if rng.below(5) > 0 {
            while !first.contains("done ") {
                first.clear();
                assert!(out.read_line(&mut first).expect("reads") > 0, "the child has died");
            }
        }
        std::thread::sleep(Duration::from_micros(rng.next() % 150_000));
        child.kill().expect("is killed");
        let mut said = first;
        out.read_to_string(&mut said).expect("UTF-8");
        child.wait().expect("has ended");
        let acknowledged = last_done(&said).unwrap_or(steps);
        let db = Collection::open_with(&path, options()).expect("opens again");
        steps = steps_of(&db);
        let expected = acknowledged..=acknowledged + 1;
        assert!(expected.contains(&steps), "{steps} steps of {acknowledged}");
        check(&db, &after(steps));
    }
    println!("{kills} kills, {steps} steps");
    assert!(steps > kills, "the children did nothing");
}

fn put(db: &Collection, id: u64) -> Result<(), Error> {
    db.upsert(id, &vector(id, DIMS), json!({"seed": id}))
}

/// The rows that [`put`] has put there.
fn put_up_to(n: u64) -> Rows {
    (1..=n).map(|id| (id, id)).collect()
}

/// With 24 files a process may use: any number of segments, and an error where
/// there is none left.
fn few_files(path: &Path) {
    let db = Collection::open_with(path, options().background(false)).expect("open");
    for id in 1..=40 {
        put(&db, id).expect("upsert");
        db.flush().expect("flush");
    }
    assert!(db.info().expect("info").segments > 24, "more segments than files");
    put(&db, 41).expect("upsert");
    let mut taken = Vec::new();
    while let Ok(pair) = UnixStream::pair() {
        taken.push(pair);
    }
    // A pair needs two.
    let _last = std::net::UdpSocket::bind("127.0.0.1:0");
    let refused = db.flush().expect_err("a flush needs a file");
    assert!(refused.to_string().contains("Too many open files"), "{refused}");
    put(&db, 42).expect("the log is open");
    let found = db.search(&vector(1, DIMS)).limit(1000).run().expect("searches go on");
    assert_eq!(found.hits.len(), 42);
    drop(taken);
    db.flush().expect("there are files again");
    put(&db, 43).expect("upsert");
}

/// With files of at most 64 KiB: a log that is full, and room again once its
/// rows are in a segment.
fn small_files(path: &Path) {
    let db = Collection::open_with(path, Options::new().background(false)).expect("open");
    let text = "x".repeat(3000);
    let (mut n, mut refused) = (0, 0);
    while refused < 5 {
        let row = json!({"seed": n + 1, "text": text});
        match db.upsert(COUNTER, &vector(n + 1, DIMS), row) {
            Ok(()) => n += 1,
            Err(e) => {
                assert!(e.to_string().contains("File too large"), "{e}");
                assert_eq!(steps_of(&db), n, "nothing of it is there");
                db.flush().expect("there is room in another file");
                refused += 1;
            }
        }
    }
    println!("wrote {n}.");
}

#[test]
fn a_process_that_is_short_of_files_gets_an_error_and_goes_on() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    drop(Collection::create(&path, schema()).expect("create"));
    output(spawn("few files", &path, "ulimit -n 24;"));
    check(&Collection::open(&path).expect("open"), &put_up_to(43));
}

#[test]
fn a_process_whose_files_may_not_grow_gets_an_error_and_goes_on() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    drop(Collection::create(&path, schema()).expect("create"));
    // The signal would end the process; ignored, writes fail instead.
    let said = output(spawn("small files", &path, "trap '' XFSZ; ulimit -f 128;"));
    let n = said.split("wrote ").nth(1).and_then(|rest| rest.split('.').next());
    let n: u64 = n.and_then(|n| n.parse().ok()).expect("said so");
    assert!(n > 50, "{n} rows");
    check(&Collection::open(&path).expect("open"), &[(COUNTER, n)].into());
}

#[test]
fn the_lock_holds_between_processes_and_dies_with_its_owner() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    drop(Collection::create(&path, schema()).expect("create"));
    let mut holder = spawn("hold", &path, "");
    let mut out = BufReader::new(holder.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("held") {
        line.clear();
        assert!(out.read_line(&mut line).expect("reads") > 0, "the child has died");
    }
    for options in [Options::new(), Options::new().read_only(true)] {
        let refused = Collection::open_with(&path, options).err();
        assert!(matches!(refused, Some(Error::Locked { .. })), "{refused:?}");
    }
    holder.kill().expect("is killed");
    holder.wait().expect("has ended");
    let db = Collection::open(&path).expect("nobody has to remove anything");
    // POSIX record locks would be lost here.
    drop(std::fs::read(path.join("LOCK")).expect("reads"));
    assert!(output(spawn("try", &path, "")).contains("refused: "));
    drop(db);
    assert!(output(spawn("try", &path, "")).contains("opened"));
}

#[test]
fn folders_may_have_any_name_and_links_lead_nowhere() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for name in [b"new\nline".as_slice(), b"not \xff\xfe UTF-8", b" ", b"-rf"] {
        let path = dir.path().join(OsStr::from_bytes(name));
        let db = Collection::create(&path, schema()).expect("create");
        step(&db, 1).expect("step");
        db.flush().expect("flush");
        drop(db);
        check(&Collection::open(&path).expect("open"), &after(1));
    }
    let long = dir.path().join("x/".repeat(2000));
    for refused in [Collection::create(&long, schema()).err(), Collection::open(&long).err()] {
        assert!(matches!(refused, Some(Error::Io { .. } | Error::NotACollection { .. })));
    }
    let path = dir.path().join(" ");
    let names: Vec<PathBuf> =
        std::fs::read_dir(&path).expect("list").flatten().map(|e| e.path()).collect();
    // Nobody reads it, so a link in its place is no danger; nor is it written to.
    for name in names.into_iter().filter(|name| !name.ends_with("RESERVE")) {
        let away = dir.path().join("away");
        std::fs::rename(&name, &away).expect("rename");
        std::os::unix::fs::symlink(&away, &name).expect("link");
        assert!(Collection::open(&path).is_err(), "{} is a link", name.display());
        std::fs::remove_file(&name).expect("remove");
        std::fs::rename(&away, &name).expect("rename");
    }
    check(&Collection::open(&path).expect("open"), &after(1));
}

#[test]
fn a_folder_without_write_permission_opens_for_reading() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    let db = Collection::create(&path, schema()).expect("create");
    step(&db, 1).expect("step");
    drop(db);
    let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    mode(0o500).expect("chmod");
    if std::fs::write(path.join("x"), "").is_ok() {
        println!("skipped: this user (root?) may write to folders without write permission");
        return;
    }
    let read_only = Collection::open_with(&path, Options::new().read_only(true)).expect("open");
    check(&read_only, &after(1));
    drop(read_only);
    mode(0o700).expect("chmod");
}

//! Real processes on a real file system: killed at any moment, short of files
//! and of room, two of them at one collection.
//!
//! The child processes are this test binary again, told by the environment what
//! to do.

mod support;

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matryo::{Collection, Durability, Error, Options, Schema, json};
use support::full::{Disk, deletes_go_on, fill, nothing_goes_on_without_a_reserve};
use support::mounts::Tmpfs;
use support::steps::{
    COUNTER, DIMS, PATIENCE, Rows, after, check, commit_for_ever, done, options, output, schema,
    spawn, step, steps_of,
};
use support::{Rng, sized, vector};

/// What a child process does; nothing where this is no child.
#[test]
fn child() {
    let Some(path) = std::env::var_os("MATRYO_TEST_PATH").map(PathBuf::from) else { return };
    match std::env::var("MATRYO_TEST_CHILD").expect("set with the path").as_str() {
        "commit for ever" => commit_for_ever(&path, options()),
        "commit for ever, buffered" => commit_for_ever(&path, buffered()),
        "few files" => few_files(&path),
        "small files" => small_files(&path),
        "little memory" => little_memory(&path, false),
        "little memory, and verify" => little_memory(&path, true),
        "hold" => {
            let _db = Collection::open(&path).expect("open");
            println!("held");
            let _ = std::io::stdin().read(&mut [0]);
        }
        "try" => match Collection::open(&path) {
            Ok(_) => println!("opened"),
            Err(e) => println!("refused: {e}"),
        },
        "wait" => {
            let patient = Options::new().lock_timeout(Duration::from_mins(1));
            drop(Collection::open_with(&path, patient).expect("the lock comes free"));
            println!("opened");
        }
        other => panic!("do what? {other}"),
    }
}

fn buffered() -> Options {
    options().durability(Durability::Buffered)
}

/// What a process has handed to the system outlives it, whether it waited for the disk or not.
#[test]
fn kill_takes_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    drop(Collection::create(&path, schema()).expect("create"));
    let (mut rng, kills) = (Rng(1), sized(100, 2000));
    let mut steps = 0;
    for kill in 0..kills {
        let what = ["commit for ever", "commit for ever, buffered"][kill as usize % 2];
        let mut child = spawn(what, &path, "");
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
        let acknowledged = done(&said).map(|done| done.0).max().unwrap_or(steps);
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
    check(&Collection::open_with(&path, options()).expect("open"), &put_up_to(43));
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
    check(&Collection::open_with(&path, options()).expect("open"), &[(COUNTER, n)].into());
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
    for patience in [0, 50] {
        let patient = Options::new().lock_timeout(Duration::from_millis(patience));
        let start = Instant::now();
        let refused = Collection::open_with(&path, patient).err();
        assert!(matches!(refused, Some(Error::Locked { .. })), "{refused:?}");
        assert!(start.elapsed() >= Duration::from_millis(patience), "it waited");
    }
    drop(Collection::open_with(&path, support::read_only()).expect("readers take no lock"));
    holder.kill().expect("is killed");
    holder.wait().expect("has ended");
    let db = Collection::open_with(&path, options()).expect("nobody has to remove anything");
    // POSIX record locks would be lost here.
    drop(std::fs::read(path.join("LOCK")).expect("reads"));
    assert!(output(spawn("try", &path, "")).contains("refused: "));
    // Somebody who waits gets the lock when it is free.
    let waiting = spawn("wait", &path, "");
    std::thread::sleep(Duration::from_millis(200));
    drop(db);
    assert!(output(waiting).contains("opened"));
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
        check(&Collection::open_with(&path, options()).expect("open"), &after(1));
    }
    let long = dir.path().join("x/".repeat(2000));
    for refused in [Collection::create(&long, schema()).err(), Collection::open(&long).err()] {
        assert!(matches!(refused, Some(Error::Io { .. } | Error::NotFound { .. })));
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
    check(&Collection::open_with(&path, options()).expect("open"), &after(1));
}

#[test]
fn a_folder_without_write_permission_opens_for_reading() {
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

/// Names of a folder's files, and their permission bits.
fn modes(path: &Path) -> Vec<(String, u32)> {
    let mode = |entry: std::fs::DirEntry| {
        let meta = entry.metadata().expect("there");
        (entry.file_name().into_string().expect("UTF-8"), meta.permissions().mode() & 0o7777)
    };
    let mut all: Vec<_> = std::fs::read_dir(path).expect("list").flatten().map(mode).collect();
    all.sort();
    all
}

/// Segments, tombstones, a log, a reserve.
fn use_it(db: &Collection) {
    for n in 1..=8 {
        step(db, n).expect("step");
        db.flush().expect("flush");
    }
    db.compact().expect("compact");
    step(db, 9).expect("step");
    db.verify().expect("whole");
}

#[test]
fn files_are_private_unless_asked() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (name, asked, file, folder) in
        [("a", None, 0o600, 0o700), ("b", Some(0o640), 0o640, 0o750), ("c", Some(0), 0o600, 0o700)]
    {
        let path = dir.path().join(name);
        let options = asked.into_iter().fold(options(), Options::file_mode);
        let db = Collection::create_with(&path, schema(), options.clone()).expect("create");
        use_it(&db);
        drop(db);
        use_it(&Collection::open_with(&path, options).expect("open"));
        let found = modes(&path);
        assert!(found.len() >= 5, "{found:?}");
        assert!(found.iter().all(|(_, mode)| *mode == file), "{name}: {found:?}");
        let meta = std::fs::metadata(&path).expect("there");
        assert_eq!(meta.permissions().mode() & 0o7777, folder, "{name}");
    }
}

/// Whoever may write in the folder around it can rename a collection and put a
/// link in its place. The handle goes on with the folder it has opened.
#[test]
fn a_folder_that_is_moved_and_replaced_by_a_link_is_still_the_one_that_is_written() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let at = |name: &str| dir.path().join(name);
    let db = Collection::create_with(at("a"), schema(), options()).expect("create");
    step(&db, 1).expect("step");
    std::fs::rename(at("a"), at("moved")).expect("rename");
    std::fs::create_dir(at("elsewhere")).expect("create");
    std::os::unix::fs::symlink(at("elsewhere"), at("a")).expect("link");
    for n in 2..=40 {
        step(&db, n).expect("step");
    }
    db.flush().expect("flush");
    db.compact().expect("compact");
    step(&db, 41).expect("step");
    check(&db, &after(41));
    db.backup_to(at("backup")).expect("backup");
    drop(db);
    assert_eq!(modes(&at("elsewhere")), [], "nothing was written through the link");
    for name in ["moved", "backup"] {
        check(&Collection::open_with(at(name), options()).expect("open"), &after(41));
    }
    // A link to a folder is a folder for whoever opens it by that path.
    std::fs::remove_file(at("a")).expect("remove");
    std::os::unix::fs::symlink(at("moved"), at("a")).expect("link");
    check(&Collection::open_with(at("a"), options()).expect("open"), &after(41));
}

#[test]
fn what_cannot_be_created_leaves_nothing() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    let refused = Collection::create_with(&path, schema(), Options::new().read_only(true));
    assert!(refused.is_err() && !path.exists());
    std::os::unix::fs::symlink(dir.path().join("nowhere"), &path).expect("link");
    let refused = Collection::create(&path, schema()).map(drop);
    assert!(matches!(refused, Err(Error::AlreadyExists { .. })), "{refused:?}");
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn on_a_small_file_system_that_is_full_deletes_go_on() {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (size, test) in [
        ("8m", deletes_go_on as fn(&Disk)),
        ("3m", deletes_go_on),
        ("8m", nothing_goes_on_without_a_reserve),
    ] {
        let mounted = match Tmpfs::mount(&dir.path().join("small"), size) {
            Ok(mounted) => mounted,
            Err(why) => return println!("skipped: no file system can be mounted here: {why}"),
        };
        let (path, rubbish) = (mounted.0.join("a.matryo"), mounted.0.join("rubbish"));
        test(&Disk {
            create: &|options| {
                Collection::create_with(&path, support::schema(), options).expect("create")
            },
            open: &|options| Collection::open_with(&path, options.lock_timeout(PATIENCE)),
            fill: &|| fill(&rubbish),
            free: &|| std::fs::remove_file(&rubbish).expect("remove"),
            exact: true,
        });
    }
}

/// A file system without room for anything: nothing is left half made.
#[test]
fn a_collection_that_there_is_no_room_for_can_be_created_later() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let mounted = match Tmpfs::mount(&dir.path().join("small"), "1m") {
        Ok(mounted) => mounted,
        Err(why) => return println!("skipped: no file system can be mounted here: {why}"),
    };
    let (path, rubbish) = (mounted.0.join("a.matryo"), mounted.0.join("rubbish"));
    fill(&rubbish);
    let refused = Collection::create(&path, schema()).map(drop);
    assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
    std::fs::remove_file(&rubbish).expect("remove");
    // Four MiB are not there for a reserve: it goes without.
    let db = Collection::create(&path, schema()).expect("create");
    use_it(&db);
    check(&db, &after(9));
}

/// Another program cuts a segment short under an open handle. Mapped, the process
/// would get a signal (README says so); read into RAM, nothing worse than an error.
#[test]
fn files_that_are_not_mapped_may_be_cut_short() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    drop(Collection::create(&path, schema()).expect("create"));
    let options = || options().mapped(false);
    use_it(&Collection::open_with(&path, options()).expect("open"));
    let db = Collection::open_with(&path, options()).expect("open");
    check(&db, &after(9));
    for (name, _) in modes(&path).into_iter().filter(|(name, _)| name.starts_with("seg-")) {
        let file = std::fs::OpenOptions::new().write(true).open(path.join(name)).expect("open");
        file.set_len(100).expect("cut");
    }
    let rows: Vec<u64> = after(9).into_keys().collect();
    for id in rows {
        assert!(db.get(id).expect("it is in RAM").is_some());
    }
    let found = db.search(&vector(1, DIMS)).exact().limit(100).run().expect("it is in RAM");
    assert_eq!(found.hits.len(), after(9).len());
    assert!(matches!(db.verify(), Err(Error::Corrupt(_))), "the file is damaged");
    drop(db);
    let opened = Collection::open_with(&path, options()).map(drop);
    assert!(matches!(opened, Err(Error::Corrupt(_))), "{opened:?}");
}

/// Rows of a collection of about 96 MiB.
const MANY: u64 = 24_000;
const WIDE: usize = 1024;

fn large_collection(path: &Path) {
    let schema = Schema::builder(WIDE).build().expect("valid");
    let options = Options::new().memtable_bytes(8 << 20).background(false);
    let db = Collection::create_with(path, schema, options).expect("create");
    let mut bulk = db.bulk().expect("bulk");
    let mut row = vector(1, WIDE);
    for id in 0..MANY {
        row[(id % 1024) as usize] = id as f32 / 1000.0;
        bulk.upsert(id, &row, json!({"seed": id})).expect("upsert");
    }
    bulk.finish().expect("finish");
}

/// Opens and searches; says whether it could. Makes the collection if there is none.
fn little_memory(path: &Path, verify: bool) {
    if !path.exists() {
        large_collection(path);
    }
    let run = || {
        let db = Collection::open_with(path, Options::new().background(false))?;
        let found = db.search(&vector(1, WIDE)).limit(10).payloads(true).run()?;
        assert_eq!(found.hits.len(), 10);
        let exact = db.search(&vector(1, WIDE)).limit(10).exact().run()?;
        assert_eq!(exact.hits[0].id, found.hits[0].id);
        db.upsert(MANY, &vector(2, WIDE), json!({"seed": 2}))?;
        db.delete(MANY)?;
        if verify { db.verify().map(drop) } else { Ok(()) }
    };
    match run() {
        Ok(()) => println!("found all."),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::OutOfMemory => {
            println!("refused for want of memory.");
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn with_little_address_space_a_collection_opens_or_says_why_not() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    large_collection(&path);
    let mut outcomes = Vec::new();
    for mib in [40, 60, 80, 120, 200, 600] {
        // A few MiB of heap are taken ahead: where the last map leaves no room at all, the next
        // small allocation ends the process (TESTING.md, P16), and that is not tested here.
        let malloc = "MALLOC_ARENA_MAX=1 MALLOC_TOP_PAD_=4194304";
        let limit = format!("export {malloc} RUST_TEST_THREADS=1; ulimit -v {};", mib << 10);
        let said = output(spawn("little memory", &path, &limit));
        outcomes.push((mib, said.contains("found all"), said.contains("refused for want")));
    }
    println!("{outcomes:?}");
    assert!(outcomes.iter().all(|(_, found, refused)| found ^ refused), "{outcomes:?}");
    assert!(outcomes[0].2 && outcomes[5].1, "{outcomes:?}");
}

/// With less memory than the collection is long: pages of mapped files are given
/// back when others are needed.
#[test]
fn in_a_small_memory_cgroup_a_larger_collection_is_searched() {
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("a.matryo");
    let group = PathBuf::from(format!("/sys/fs/cgroup/memory/matryo-{}", std::process::id()));
    let limit = group.join("memory.limit_in_bytes");
    let made = std::fs::create_dir(&group).and_then(|()| std::fs::write(&limit, "48M"));
    if let Err(why) = made {
        let _ = std::fs::remove_dir(&group);
        return println!("skipped: no memory cgroup (v1) can be made here: {why}");
    }
    // Pages of files count for whoever has read or written them first.
    let join = format!("echo $$ > {}/cgroup.procs;", group.display());
    let said = output(spawn("little memory, and verify", &path, &join));
    let peak = std::fs::read_to_string(group.join("memory.max_usage_in_bytes")).expect("read");
    println!("peak of 48 MiB: {}", peak.trim());
    std::fs::remove_dir(&group).expect("nobody is in it");
    assert!(said.contains("found all"), "{said}");
    assert!(peak.trim().parse::<u64>().expect("bytes") > 40 << 20, "the limit was felt");
}

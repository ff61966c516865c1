//! Backups and smaller copies: what is in them, and what interrupts them.

mod support;

use std::cell::{Cell, RefCell};
use std::path::Path;

use matryo::testing::{Failure, Flaw, Folder, Recorder};
use matryo::{Collection, CopyOptions, Error, FieldKind, Metric, Options, Precision, Schema, json};
use support::cuts::losses;
use support::{DIMS, Rng, files, folder_of, read_only, schema, sure_answers, vector};

type Done = Result<(), Box<dyn std::error::Error>>;

fn put(collection: &Collection, ids: std::ops::Range<u64>) -> matryo::Result<()> {
    let mut batch = collection.batch();
    for id in ids {
        batch.upsert(id, &vector(id, DIMS), json!({"n": id, "text": "x".repeat(200)}))?;
    }
    batch.commit().map(drop)
}

/// Two segments, one with tombstones, and rows in the log that replace some.
fn fill(collection: &Collection) -> matryo::Result<()> {
    put(collection, 0..40)?;
    collection.flush()?;
    put(collection, 30..60)?;
    collection.delete(3)?;
    collection.flush()?;
    put(collection, 55..70)?;
    collection.delete(7).map(drop)
}

fn background(yes: bool) -> Options {
    Options::new().background(yes)
}

fn create(path: &Path) -> matryo::Result<Collection> {
    let collection = Collection::create_with(path, schema(), background(false))?;
    fill(&collection)?;
    Ok(collection)
}

#[test]
fn a_backup_answers_as_the_collection_did() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let collection = create(&at("a"))?;
    let then = sure_answers(&collection);
    let copied = collection.backup_to(at("b"))?;
    assert_eq!((copied.rows, copied.skipped), (collection.len(), 0));
    put(&collection, 0..80)?;
    assert_ne!(sure_answers(&collection), then);
    let backup = Collection::open_with(at("b"), Options::new().background(false))?;
    assert_eq!(sure_answers(&backup), then);
    assert_eq!(backup.verify()?.bytes, copied.bytes);
    assert_eq!(backup.verify()?.files, copied.files);
    // It is a collection like any other.
    put(&backup, 100..110)?;
    backup.compact()?;
    drop(backup);
    assert!(Collection::open(at("b"))?.get(105)?.is_some());
    // From a reader, and of a backup.
    drop(collection);
    let reader = Collection::open_with(at("a"), read_only())?;
    reader.backup_to(at("c"))?;
    assert_eq!(sure_answers(&Collection::open(at("c"))?), sure_answers(&reader));
    Ok(())
}

#[test]
fn a_backup_goes_nowhere_where_something_is() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let collection = create(&at("a"))?;
    collection.backup_to(at("b"))?;
    let again = collection.backup_to(at("b")).map(|_| ());
    assert!(matches!(again, Err(Error::AlreadyExists { .. })), "{again:?}");
    let itself = collection.backup_to(at("a")).map(|_| ());
    assert!(matches!(itself, Err(Error::AlreadyExists { .. })), "{itself:?}");
    std::fs::create_dir(at("other"))?;
    std::fs::write(at("other").join("notes.txt"), "mine")?;
    assert!(collection.backup_to(at("other")).is_err());
    std::fs::create_dir(at("empty"))?;
    assert_eq!(collection.backup_to(at("empty"))?.rows, collection.len());
    Ok(())
}

#[test]
fn a_copy_that_fails_leaves_no_folder_that_was_not_there() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let collection = create(&at("a"))?;
    collection.upsert(500, &[&[0.0; 8], vector(1, DIMS - 8).as_slice()].concat(), ())?;
    let small = CopyOptions::new().dims(8);
    std::fs::create_dir(at("there"))?;
    for name in ["there", "new"] {
        let steps = Cell::new(0);
        let ended = collection.backup_with(at(name), |_| steps.replace(steps.get() + 1) < 3);
        assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
        assert_eq!(at(name).exists(), name == "there");
        let unfit = collection.copy_to(at(name), &small);
        assert!(matches!(unfit, Err(Error::Invalid { .. })), "{unfit:?}");
        assert_eq!(at(name).exists(), name == "there");
    }
    let left: Vec<_> = std::fs::read_dir(at("there"))?.map(|e| e.expect("list")).collect();
    assert!(left.len() == 1 && left[0].file_name() == "LOCK", "{left:?}");
    assert_eq!(collection.backup_to(at("there"))?.rows, collection.len());
    Ok(())
}

#[test]
fn files_that_are_merged_away_meanwhile_are_still_copied() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let collection = create(&at("a"))?;
    let then = sure_answers(&collection);
    let once = Cell::new(true);
    collection.backup_with(at("b"), |_| {
        if once.replace(false) {
            put(&collection, 0..90).expect("commit");
            collection.compact().expect("compact");
        }
        true
    })?;
    assert!(!once.get(), "the backup was interrupted");
    assert_eq!(sure_answers(&Collection::open(at("b"))?), then);
    Ok(())
}

#[test]
fn an_interrupted_backup_leaves_nothing_that_opens() -> Done {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new())?;
    fill(&collection)?;
    let steps = Cell::new(0);
    let died = RefCell::new(Vec::new());
    let to = Folder::default();
    to.back_up(&collection, &|_| {
        steps.set(steps.get() + 1);
        died.borrow_mut().push(to.fork());
        true
    })?;
    assert!(steps.get() > 10);
    for dead in died.borrow().iter() {
        assert!(dead.open(Options::new()).is_err(), "half a backup opens");
    }
    assert_eq!(sure_answers(&to.open(read_only())?), sure_answers(&collection));
    // One that is called off leaves no file but the lock.
    for stop in 1..=steps.get() {
        let (to, n) = (Folder::default(), Cell::new(0));
        let ended = to.back_up(&collection, &|_| {
            n.set(n.get() + 1);
            n.get() < stop
        });
        assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
        assert_eq!(to.names(), Vec::<String>::new());
    }
    Ok(())
}

#[test]
fn damage_is_never_copied() -> Done {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new())?;
    fill(&collection)?;
    collection.flush()?;
    let good = files(&folder.fork());
    let name = good.iter().map(|f| f.0.clone()).find(|n| n.starts_with("seg-")).expect("a segment");
    let len = folder.read(&name).expect("there").len();
    for at in (0..len).step_by(61) {
        let mut bytes = folder.read(&name).expect("there");
        bytes[at] ^= 0x10;
        // Damaged behind the back of a handle that has it open.
        let damaged = folder_of(&good);
        let collection = damaged.open(Options::new())?;
        damaged.write(&name, bytes);
        let to = Folder::default();
        let copied = to.back_up(&collection, &|_| true);
        assert!(matches!(copied, Err(Error::Corrupt(_))), "byte {at}: {copied:?}");
        assert_eq!(to.names(), Vec::<String>::new(), "byte {at}");
        assert!(matches!(collection.verify(), Err(Error::Corrupt(_))), "byte {at}");
    }
    Ok(())
}

#[test]
fn a_shorter_copy_has_the_first_dimensions_of_every_row() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let collection = create(&at("a"))?;
    for (name, dims) in [("b", 8), ("c", 13), ("d", 1), ("e", DIMS)] {
        let options = CopyOptions::new().dims(dims).memory(3000);
        let copied = collection.copy_to(at(name), &options)?;
        assert_eq!((copied.rows, copied.skipped), (collection.len(), 0));
        let copy = Collection::open(at(name))?;
        let schema = copy.schema();
        assert_eq!(schema.dims(), dims);
        assert!(schema.granularities().iter().all(|g| [8, 16, dims].contains(g)));
        assert!(schema.stages().iter().all(|code| code.dims <= dims));
        copy.verify()?;
        for id in 0..80u64 {
            let (long, short) = (collection.get(id)?, copy.get(id)?);
            assert_eq!(long.is_some(), short.is_some(), "row {id}");
            let (Some(long), Some(short)) = (long, short) else { continue };
            assert_eq!(long.vector[..dims], short.vector, "row {id}");
            assert_eq!(long.payload, short.payload);
        }
        let query = vector(77, DIMS);
        let long = collection.search(&query).dims(dims).exact().limit(100).run()?.hits;
        let short = copy.search(&query[..dims]).exact().limit(100).run()?.hits;
        assert_eq!(long, short, "{dims} dimensions");
    }
    assert!(collection.copy_to(at("f"), &CopyOptions::new().dims(0)).is_err());
    assert!(collection.copy_to(at("f"), &CopyOptions::new().dims(DIMS + 1)).is_err());
    assert!(!at("f").exists(), "nothing was begun");
    Ok(())
}

#[test]
fn a_copy_may_have_another_precision() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let collection = create(&at("a"))?;
    collection.copy_to(at("b"), &CopyOptions::new().stored(Precision::F16))?;
    let copy = Collection::open(at("b"))?;
    assert_eq!(copy.schema().stored(), Precision::F16);
    let (a, b) = (collection.get(5)?.expect("row").vector, copy.get(5)?.expect("row").vector);
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= a.abs() / 2048.0 + 1e-7));
    Ok(())
}

#[test]
fn rows_that_do_not_fit_are_an_error_or_counted() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let collection = Collection::create(at("a"), Schema::builder(4).build()?)?;
    collection.upsert(1, &[0.0, 0.0, 1.0, 2.0], ())?;
    collection.upsert(2, &[1.0, 0.0, 1.0, 1e30], ())?;
    collection.upsert(3, &[1.0, 0.0, 1.0, 2.0], ())?;
    let short = CopyOptions::new().dims(2);
    let refused = collection.copy_to(at("b"), &short).expect_err("a prefix of zeros");
    assert!(refused.to_string().contains("row 1"), "{refused}");
    let copied = collection.copy_to(at("b"), &short.clone().skip_unfit(true))?;
    assert_eq!((copied.rows, copied.skipped), (2, 1));
    let half = CopyOptions::new().stored(Precision::F16);
    assert!(collection.copy_to(at("c"), &half).is_err(), "1e30 is no f16");
    // Only cosine needs a direction.
    let schema = Schema::builder(4).metric(Metric::L2).build()?;
    let collection = Collection::create(at("l2"), schema)?;
    collection.upsert(1, &[0.0, 0.0, 1.0, 2.0], ())?;
    assert_eq!(collection.copy_to(at("d"), &short)?.rows, 1);
    Ok(())
}

#[test]
fn fields_are_declared_later_by_copying() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let schema = Schema::builder(4).field("year", FieldKind::Integer);
    let collection = Collection::create(at("a"), schema.build()?)?;
    for n in 0..50u64 {
        let payload = json!({"year": 1990 + n, "name": format!("n{n}"), "by": {"ids": [n, n + 1]}});
        collection.upsert(n, &[1.0, 2.0, 3.0, n as f32], payload)?;
    }
    collection.upsert(50, &[1.0; 4], ())?;
    let declared = || {
        CopyOptions::new()
            .field("name", FieldKind::Keyword)
            .list_field("by.ids", FieldKind::Integer)
    };
    assert_eq!(collection.copy_to(at("b"), &declared().dims(2).memory(400))?.rows, 51);
    let check = |copy: &Collection| -> Done {
        let fields: Vec<String> = copy.schema().fields().iter().map(ToString::to_string).collect();
        assert_eq!(fields, ["year (integer)", "name (keyword)", "by.ids (list of integer)"]);
        assert_eq!(copy.count(&"name = 'n7' AND year = 1997".parse()?)?, 1);
        assert_eq!(copy.count(&"by.ids = 7".parse()?)?, 2);
        assert_eq!(copy.count(&"NOT name EXISTS".parse()?)?, 1);
        copy.verify()?;
        Ok(())
    };
    check(&Collection::open(at("b"))?)?;

    // Declared twice, or with a value of another kind: nothing is left.
    let twice = collection.copy_to(at("c"), &CopyOptions::new().field("year", FieldKind::Float));
    assert!(twice.expect_err("twice").to_string().contains("\"year\" is declared twice"));
    collection.upsert(51, &[1.0; 4], json!({"name": 3}))?;
    let refused = collection.copy_to(at("c"), &declared().memory(400)).expect_err("a number");
    let says = "row 51 does not fit: invalid payload: field name (keyword): expected text";
    assert!(refused.to_string().contains(says), "{refused}");
    assert!(!at("c").exists(), "nothing is left");
    let copied = collection.copy_to(at("c"), &declared().skip_unfit(true))?;
    assert_eq!((copied.rows, copied.skipped), (51, 1));
    check(&Collection::open(at("c"))?)?;

    // In place, whole or not at all.
    collection.close()?;
    Collection::rewrite_with(at("a"), &declared(), |_| true).expect_err("row 51");
    let collection = Collection::open(at("a"))?;
    assert_eq!((collection.len(), collection.schema().fields().len()), (52, 1));
    collection.delete(51)?;
    collection.close()?;
    Collection::rewrite(at("a"), &declared())?;
    let collection = Collection::open(at("a"))?;
    collection.upsert(52, &[1.0; 4], json!({"name": 3})).expect_err("checked from now on");
    check(&collection)
}

#[test]
fn dropping_a_tier_shortens_in_place() -> Done {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name);
    let collection = create(&at("a"))?;
    let locked = Collection::drop_tier(at("a"), 16).map(|_| ());
    assert!(matches!(locked, Err(Error::Locked { .. })), "{locked:?}");
    collection.build_graphs()?;
    let copied = collection.copy_to(at("b"), &CopyOptions::new().dims(16))?;
    let before = collection.info()?.disk_bytes;
    let lsn = collection.snapshot().lsn();
    drop(collection);
    let done = Collection::drop_tier(at("a"), 16)?;
    let (a, b) = (Collection::open(at("a"))?, Collection::open(at("b"))?);
    assert_eq!(done.rows, a.len());
    assert!(done.bytes < before);
    for (there, said) in [(&a, done), (&b, copied)] {
        let there = there.verify()?;
        assert_eq!((there.files, there.bytes), (said.files, said.bytes));
    }
    assert_eq!((a.schema(), a.snapshot().lsn()), (b.schema(), lsn));
    for id in 0..80u64 {
        assert_eq!(a.get(id)?, b.get(id)?, "row {id}");
    }
    a.verify()?;
    a.upsert(500, &[1.0; 16], ())?;
    drop(a);
    let names = std::fs::read_dir(at("a"))?.count();
    assert_eq!(names, 5, "lock, reserve, manifest, one segment, one log");
    assert_eq!(Collection::open(at("a"))?.get(500)?.expect("row").vector, [1.0; 16]);
    Ok(())
}

#[test]
fn a_crash_while_a_tier_is_dropped_leaves_the_one_or_the_other() -> Done {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new())?;
    for start in (0..4000).step_by(1000) {
        let mut batch = collection.batch();
        for id in start..start + 1000 {
            batch.upsert(id, &vector(id, DIMS), ())?;
        }
        batch.commit()?;
    }
    let row = |folder: &Folder| -> matryo::Result<_> {
        let collection = folder.open(Options::new())?;
        collection.verify()?;
        Ok((collection.schema().dims(), collection.len(), collection.get(7)?))
    };
    drop(collection);
    let old = row(&folder)?;
    let options = CopyOptions::new().dims(8).memory(20_000);
    let died = RefCell::new(Vec::new());
    folder.drop_tier(&options, &|_| {
        died.borrow_mut().push(folder.fork());
        true
    })?;
    assert!(died.borrow().len() >= 3);
    for dead in died.borrow().iter() {
        assert_eq!(row(dead)?, old);
        assert!(dead.names().len() < 8, "what it left was removed: {:?}", dead.names());
    }
    let new = row(&folder)?;
    assert_eq!((new.0, new.1), (8, 4000));
    // Called off, it changes nothing either.
    let folder = died.borrow()[0].fork();
    let ended = folder.drop_tier(&options, &|_| false);
    assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
    assert_eq!(row(&folder)?, old);
    Ok(())
}

#[test]
fn declared_fields_are_kept_and_filtered_by_in_every_copy() -> Done {
    use matryo::{FieldKind, field};
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name);
    let schema = Schema::builder(8).granularities([4]).field("n", FieldKind::Integer).build()?;
    let collection = Collection::create(path("a"), schema)?;
    for id in 0..60u64 {
        let vector: Vec<f32> = (0..8).map(|d| (id * 8 + d + 1) as f32).collect();
        collection.upsert(id, &vector, json!({"n": id % 7}))?;
        if id == 40 {
            collection.flush()?;
        }
    }
    let below = field("n").lt(3);
    let expected = collection.count(&below)?;
    collection.backup_to(path("backup"))?;
    collection.copy_to(path("copy"), &CopyOptions::new().dims(4))?;
    drop(collection);
    Collection::drop_tier(path("a"), 4)?;
    for name in ["backup", "copy", "a"] {
        let other = Collection::open(path(name))?;
        assert_eq!(other.count(&below)?, expected, "{name}");
        let dims = other.schema().dims();
        let hits = other.search(&vec![1.0; dims]).filter(below.clone()).limit(100).run()?.hits;
        assert_eq!(hits.len() as u64, expected, "{name}");
    }
    Ok(())
}

/// A collection of every kind of file: segments, tombstones, a graph, rows in the log.
fn whole() -> matryo::Result<Collection> {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new())?;
    fill(&collection)?;
    collection.build_graphs()?;
    put(&collection, 68..72)?;
    Ok(collection)
}

/// Every row of a collection that is intact.
fn rows(collection: &Collection) -> matryo::Result<Vec<matryo::Row>> {
    collection.verify()?;
    let mut rows = collection.snapshot().iter().collect::<matryo::Result<Vec<_>>>()?;
    rows.sort_by_key(|row| row.id.to_string());
    Ok(rows)
}

/// A way to copy a collection.
type Way<'a> = &'a dyn Fn(&Recorder) -> matryo::Result<()>;

/// Writes a copy, cuts the power before every operation of it, and opens what is left: how
/// many states there were, and how many of them opened as something that is not the whole, or
/// did not open although the copy was said to be done.
fn power_cuts(
    copy: &dyn Fn(&Recorder) -> matryo::Result<()>,
    flaw: Option<Flaw>,
) -> (usize, usize) {
    let recorder = Recorder::new(flaw);
    copy(&recorder).expect("copies");
    let done = recorder.operations();
    let mut replay = recorder.replay();
    while replay.step() {}
    let whole = replay.folder(|_| true, None).open(read_only()).expect("opens");
    let whole = rows(&whole).expect("intact");
    assert_eq!(whole.len(), 70);
    let (mut replay, mut rng) = (recorder.replay(), Rng(7));
    let (mut at, mut states, mut bad) = (0, 0, 0);
    loop {
        for (keep, torn) in losses(&replay, &mut rng) {
            let left = replay.folder(|n| keep[n], torn);
            states += 1;
            bad += usize::from(match left.open(Options::new()) {
                Ok(collection) => !rows(&collection).is_ok_and(|rows| rows == whole),
                Err(_) => at == done,
            });
        }
        if !replay.step() {
            return (states, bad);
        }
        at += 1;
    }
}

#[test]
fn power_cuts_leave_a_whole_copy_or_none() -> Done {
    let collection = whole()?;
    let backup = |to: &Recorder| to.back_up(&collection).map(drop);
    let copy = |to: &Recorder| to.copy(&collection, &CopyOptions::new().dims(16)).map(drop);
    let ways: [Way; 2] = [&backup, &copy];
    for way in ways {
        let (states, bad) = power_cuts(way, None);
        println!("{states} states");
        assert!(states > 300, "only {states}");
        assert_eq!(bad, 0, "of {states}");
        let files = ["seg-", "tmp-"].map(Flaw::NoSyncOf);
        for flaw in [Flaw::NoDirSync, Flaw::NoDirSyncAfterRename].into_iter().chain(files) {
            assert!(power_cuts(way, Some(flaw)).1 > 0, "{flaw:?} was not noticed");
        }
    }
    for name in ["del-", "gra-"] {
        assert!(power_cuts(&backup, Some(Flaw::NoSyncOf(name))).1 > 0, "{name} was not noticed");
    }
    Ok(())
}

/// A backup for each operation on the source that fails with this code; the results of
/// those that were made all the same.
fn backups_where_reading_fails(code: i32) -> matryo::Result<Vec<matryo::Copied>> {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new())?;
    fill(&collection)?;
    collection.build_graphs()?;
    drop(collection);
    let from = Recorder::over(&folder);
    let collection = from.open(read_only())?;
    let back_up = |to: &Folder| {
        let before = from.tried();
        (to.back_up(&collection, &|_| true), before..from.tried())
    };
    let (whole, operations) = back_up(&Folder::default());
    assert_eq!(whole?.graphs_left_out, 0);
    let mut made = Vec::new();
    for at in 0..operations.len() {
        from.fail(from.tried() + at..from.tried() + at + 1, Failure { code, percent_written: 0 });
        let to = Folder::default();
        if let (Ok(copied), _) = back_up(&to) {
            assert_eq!(sure_answers(&to.open(read_only())?), sure_answers(&collection));
            made.push(copied);
        }
    }
    Ok(made)
}

#[test]
fn a_graph_that_cannot_be_read_is_left_out() -> Done {
    let (eio, emfile) = (5, 24);
    let made = backups_where_reading_fails(eio)?;
    let graphs: Vec<_> = made.iter().map(|copied| copied.graphs_left_out).collect();
    assert!(!graphs.is_empty() && graphs.iter().all(|left_out| *left_out == 1), "{graphs:?}");
    // Here the graph is not to blame.
    assert_eq!(backups_where_reading_fails(emfile)?, []);
    Ok(())
}

//! The shadow of a collection that is embedded again: whose folder it is, and what is taken
//! for embedded.

mod support;

use matryo::testing::Folder;
use matryo::{Collection, Options, Progress, ReembedOptions, SourceRow, json};
use support::forge::reseal_all;
use support::reembed::{
    NEW, embedded, fill, filled, model, options, put, reembed, rows_of, schema, whole,
};
use support::{DIMS, files, folder_of, read_only};

type Done = Result<(), Box<dyn std::error::Error>>;

/// The folder beside a collection that a run left, which was called off after one batch.
fn shadow_left(path: &std::path::Path) -> std::path::PathBuf {
    let stop = |p: Progress| p.done < 10;
    Collection::reembed_with(path, &options(), model, stop).expect_err("called off");
    let folder = path.parent().expect("a folder");
    let name = path.file_name().expect("a name").to_str().expect("text");
    let beside = std::fs::read_dir(folder).expect("list").map(|e| e.expect("list").path());
    let prefix = format!("{name}.reembed-");
    let is_shadow = |p: &std::path::PathBuf| {
        p.file_name().is_some_and(|n| n.to_str().is_some_and(|n| n.starts_with(&prefix)))
    };
    let found: Vec<_> = beside.filter(is_shadow).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

#[test]
fn no_link_leads_to_the_shadow() -> Done {
    let dir = tempfile::tempdir()?;
    let (path, moved) = (dir.path().join("a"), dir.path().join("moved"));
    let rows = fill(&Collection::create(&path, schema())?);
    let shadow = shadow_left(&path);
    std::fs::rename(&shadow, &moved)?;
    std::os::unix::fs::symlink(&moved, &shadow)?;
    let names = || std::fs::read_dir(&moved).expect("list").count();
    let before = names();
    let refused = Collection::reembed(&path, &options(), model).expect_err("a link").to_string();
    assert!(refused.contains("is a link") && refused.contains(".reembed-"), "{refused}");
    let again = options().restart(true);
    Collection::reembed(&path, &again, model).expect_err("a link");
    assert!(shadow.is_symlink());
    assert_eq!((names(), Collection::open(&moved)?.len()), (before, 10));
    assert_eq!(rows_of(&Collection::open(&path)?, DIMS), rows);
    std::fs::remove_file(&shadow)?;
    std::fs::write(&shadow, "mine")?;
    let refused = Collection::reembed(&path, &options(), model).expect_err("a file").to_string();
    assert!(refused.contains("expected a folder"), "{refused}");
    std::fs::remove_file(&shadow)?;
    std::fs::rename(&moved, &shadow)?;
    assert_eq!(Collection::reembed(&path, &options(), model)?.embedded, 49);
    assert!(!shadow.exists());
    Ok(())
}

#[test]
fn a_run_that_embeds_nothing_leaves_no_folder() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let rows = fill(&Collection::create(&path, schema())?);
    let refused = Collection::reembed(&path, &options().granularities([NEW + 1]), model);
    assert!(refused.is_err(), "{refused:?}");
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
    // What a run has begun stays, to be gone on with.
    shadow_left(&path);
    assert!(Collection::reembed(&path, &options().granularities([NEW + 1]), model).is_err());
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 2);
    assert_eq!(Collection::reembed(&path, &options(), model)?.embedded, 49);
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
    assert_eq!(rows_of(&Collection::open(&path)?, NEW), rows);
    Ok(())
}

#[test]
fn folders_of_other_collections_are_left_alone() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    drop(fill(&Collection::create(&path, schema())?));
    // The shadow of a collection that was removed since.
    let other = shadow_left(&path);
    std::fs::remove_dir_all(&path)?;
    // And a collection of the user, of the very schema that a shadow has.
    let mine = dir.path().join("a.reembed");
    let like = Collection::open(&other)?.schema().clone();
    Collection::create(&mine, like)?.upsert(7000, &embedded(7000, NEW), json!({"n": 1}))?;
    let rows = fill(&Collection::create(&path, schema())?);
    assert_eq!(Collection::reembed(&path, &options(), model)?.embedded, 59);
    assert_eq!(rows_of(&Collection::open(&path)?, NEW), rows);
    assert_eq!((Collection::open(&other)?.len(), Collection::open(&mine)?.len()), (10, 1));
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 3);
    Ok(())
}

/// A commit that was seen, taken back on a full disk and followed by another has the
/// same LSN as that one.
#[test]
fn rows_that_changed_at_the_same_lsn_are_embedded_again() {
    let (folder, mut rows) = filled();
    let other = folder.fork();
    for (folder, n) in [(&folder, 500), (&other, 600)] {
        put(&folder.open(Options::new()).expect("open"), 33, n);
    }
    let lsn = |folder: &Folder| folder.open(read_only()).expect("open").snapshot().lsn();
    assert_eq!(lsn(&folder), lsn(&other));
    rows.insert(33, 600);
    let mut calls = 0;
    let mut replaced = |batch: &[SourceRow]| {
        calls += 1;
        if calls == 6 {
            folder.names().iter().for_each(|name| folder.remove(name));
            files(&other).into_iter().for_each(|(name, bytes)| folder.write(&name, bytes));
        }
        model(batch)
    };
    let done = folder.reembed(&Folder::default(), &options(), &mut replaced, &|_| true);
    assert_eq!(done.expect("reembed").embedded, 60);
    assert!(whole(&folder, &rows, "another commit of the same LSN"));
}

#[test]
fn batches_of_large_rows_are_cut_by_their_bytes() {
    let folder = Folder::default();
    let db = folder.create(schema(), Options::new()).expect("create");
    for id in 0..6 {
        let payload = json!({"n": id, "text": "x".repeat(12 << 20)});
        db.upsert(id, &embedded(id, DIMS), payload).expect("upsert");
    }
    let rows = rows_of(&db, DIMS);
    drop(db);
    let options = options().batch(ReembedOptions::BATCH);
    let mut largest = 0;
    let mut counted = |rows: &[SourceRow]| {
        largest = largest.max(rows.len());
        model(rows)
    };
    let done = folder.reembed(&Folder::default(), &options, &mut counted, &|_| true);
    assert_eq!((done.expect("reembed").embedded, largest), (6, 1));
    assert!(whole(&folder, &rows, "large rows"));
}

/// The format leaves the order of keys to whoever writes.
#[test]
fn payloads_that_another_writer_wrote_are_known_again() {
    let folder = Folder::default();
    let db = folder.create(schema(), Options::new()).expect("create");
    for id in 0..20 {
        let payload = json!({"aa": 1, "n": id});
        db.upsert(id, &embedded(id, DIMS), payload).expect("upsert");
    }
    db.flush().expect("flush");
    drop(db);
    let mut all = files(&folder);
    let mut turned = 0;
    for (_, bytes) in all.iter_mut().filter(|f| f.0.starts_with("seg-")) {
        for at in 0..bytes.len() {
            if bytes[at..].starts_with(br#"{"aa":1,"n":7}"#) {
                bytes[at..at + 14].copy_from_slice(br#"{"n":7,"aa":1}"#);
                turned += 1;
            }
        }
    }
    assert_eq!(turned, 1, "the payload as it lies in the segment");
    reseal_all(&mut all);
    let (folder, beside) = (folder_of(&all), Folder::default());
    let rows = rows_of(&folder.open(read_only()).expect("open"), DIMS);
    let once = folder.reembed(&beside, &options(), &mut model, &|p| p.done < 20);
    once.expect_err("called off when all is embedded");
    assert_eq!(reembed(&folder, &beside).expect("all is there").embedded, 0);
    assert!(whole(&folder, &rows, "another order of keys"));
}

#[test]
fn rows_that_were_deleted_meanwhile_are_forgotten_in_parts() {
    let folder = Folder::default();
    let beside = Folder::default();
    let db = folder.create(schema(), Options::new()).expect("create");
    let mut bulk = db.bulk().expect("bulk");
    let count = 25_000;
    for id in 0..count {
        bulk.upsert(id, &embedded(id, DIMS), json!({"n": id})).expect("row");
    }
    bulk.finish().expect("bulk");
    drop(db);
    let wide = options().batch(5000);
    let stop = |p: Progress| p.done < count;
    folder.reembed(&beside, &wide, &mut model, &stop).expect_err("called off");
    let db = folder.open(Options::new()).expect("open");
    let mut batch = db.batch();
    for id in 10..count {
        batch.delete(id).expect("delete");
    }
    batch.commit().expect("commit");
    drop(db);
    let before = beside.open(read_only()).expect("open").snapshot().lsn();
    // Called off behind the deletions, before the shadow is gone.
    folder.reembed(&beside, &wide, &mut model, &|_| false).expect_err("called off");
    let after = beside.open(read_only()).expect("open").snapshot().lsn();
    assert_eq!(after - before, 3, "commits");
    let done = folder.reembed(&beside, &wide, &mut model, &|_| true).expect("reembed");
    assert_eq!((done.rows, done.embedded), (10, 0));
}

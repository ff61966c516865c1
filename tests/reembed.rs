//! A collection is embedded again: what comes of it, and what is left wherever it
//! is interrupted.

mod support;

use std::cell::RefCell;

use matryo::testing::{Failure, Folder, Recorder};
use matryo::{
    Collection, EmbedderId, Error, IdKind, Metric, Options, Precision, Progress, ReembedOptions,
    Result, RowId, SourceRow, field, json,
};
use support::reembed::{
    NEW, Rows, change, changes_meanwhile, embedded, fill, filled, model, new_model, old_model,
    options, put, reembed, rows_of, schema, source, whole,
};
use support::{DIMS, Rng, read_only};

type Done = Result<(), Box<dyn std::error::Error>>;

/// Makes a vector of each row.
type Model = dyn FnMut(&[SourceRow]) -> Result<Vec<Vec<f32>>>;

#[test]
fn rows_get_new_vectors_and_keep_the_rest() -> Done {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("a");
    let db = Collection::create(&path, schema())?;
    let rows = fill(&db);
    let below = db.count(&field("n").lt(30))?;
    drop(db);
    let told = RefCell::new(Vec::new());
    let progress = |p: Progress| {
        told.borrow_mut().push((p.done, p.total));
        true
    };
    let stored = options().stored(Precision::F16).metric(Metric::Dot);
    let (mut calls, mut largest) = (0, 0);
    let done = Collection::reembed_with(
        path.join("."),
        &stored,
        |rows| {
            (calls, largest) = (calls + 1, largest.max(rows.len()));
            Ok(rows.iter().map(|row| vec![source(row).expect("n") as f32 + 1.0; NEW]).collect())
        },
        progress,
    )?;
    assert_eq!((done.rows, done.embedded, calls, largest), (59, 59, 6, 10));
    assert_eq!((told.borrow().first(), told.borrow().last()), (Some(&(0, 59)), Some(&(59, 59))));
    assert!(told.borrow().is_sorted());
    let db = Collection::open(&path)?;
    let s = db.schema();
    assert_eq!((s.dims(), s.granularities()), (NEW, &[12, 24, NEW][..]));
    assert_eq!((s.stored(), s.metric(), s.ids()), (Precision::F16, Metric::Dot, IdKind::U64));
    assert_eq!(s.fields(), schema().fields());
    db.check_embedder(new_model())?;
    let refused = db.check_embedder(old_model()).unwrap_err().to_string();
    assert!(refused.contains("differ in graph"), "{refused}");
    assert_eq!((db.len(), db.count(&field("n").lt(30))?), (59, below));
    let best = rows.iter().max_by_key(|(_, n)| **n).expect("rows");
    let hits = db.search(&[1.0; NEW]).limit(1).payloads(true).run()?.hits;
    assert_eq!(hits[0].id, RowId::U64(*best.0));
    assert_eq!(hits[0].payload.as_ref().expect("asked for")["n"], json!(best.1));
    db.verify()?;
    drop(db);
    // Lock, reserve, manifest, one segment; and no shadow.
    assert_eq!(std::fs::read_dir(&path)?.count(), 4);
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
    // Once more: there is nothing to do.
    let again = Collection::reembed(&path, &stored, |_| -> Result<Vec<Vec<f32>>> {
        panic!("all is embedded")
    })?;
    assert_eq!((again.rows, again.embedded), (59, 0));
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
    Ok(())
}

#[test]
fn a_run_that_dies_between_batches_goes_on_where_it_was() {
    let (folder, rows) = filled();
    let beside = Folder::default();
    let died = RefCell::new(Vec::new());
    let progress = |p: Progress| {
        died.borrow_mut().push((p.done, folder.fork(), beside.fork()));
        true
    };
    folder.reembed(&beside, &options(), &mut model, &progress).expect("reembed");
    assert!(whole(&folder, &rows, "at the end"));
    assert_eq!(beside.names(), [""; 0]);
    assert_eq!(died.borrow().len(), 7);
    for (done, folder, beside) in died.borrow().iter() {
        let what = format!("died after {done} rows");
        assert!(!whole(&folder.fork(), &rows, &what));
        let resumed = reembed(folder, beside).expect(&what);
        assert_eq!(resumed.embedded, 59 - done, "{what}");
        assert!(whole(folder, &rows, &what));
    }
    let (_, folder, _) = &died.borrow()[4];
    assert_eq!(reembed(folder, &Folder::default()).expect("done before").embedded, 0);
}

#[test]
fn power_loss_at_any_step_leaves_the_old_or_the_new_collection() {
    let (before, rows) = filled();
    let recorder = Recorder::over(&before);
    recorder.reembed(&Folder::default(), &options(), &mut model, &|_| true).expect("reembed");
    let mut replay = recorder.replay();
    let (mut old, mut new, mut rng) = (0, 0, Rng(5));
    loop {
        let n = replay.pending();
        let mut kept = vec![vec![true; n], vec![false; n]];
        for one in 0..n {
            kept.push((0..n).map(|i| i != one).collect());
            kept.push((0..n).map(|i| i == one).collect());
        }
        kept.extend((0..8).map(|_| (0..n).map(|_| rng.next() & 1 == 1).collect::<Vec<bool>>()));
        for keep in kept {
            let left = replay.folder(|i| keep[i], None);
            let what = format!("power lost before {}, {keep:?}", replay.describe());
            let is_new = whole(&left, &rows, &what);
            assert!(!is_new || old > 0, "{what}: nothing was embedded yet");
            *(if is_new { &mut new } else { &mut old }) += 1;
            // It is done after all, and nothing is left behind.
            reembed(&left, &Folder::default()).expect(&what);
            assert!(whole(&left, &rows, &what));
            assert!(left.names().len() <= 3, "{what}: {:?}", left.names());
        }
        if !replay.step() {
            break;
        }
    }
    println!("{old} states with the old vectors, {new} with the new ones");
    assert!(old > 50 && new > 10, "{old} {new}");
}

#[test]
fn power_loss_in_the_shadow_costs_no_row() {
    let (before, rows) = filled();
    let beside = Recorder::new(None);
    // The shadow, made by hand as a run makes it, under a recorder.
    let schema = {
        let done = before.fork();
        reembed(&done, &Folder::default()).expect("reembed");
        done.open(read_only()).expect("open").schema().clone()
    };
    let shadow = beside.create(schema, Options::new()).expect("create");
    for (id, n) in rows.iter().take(20) {
        shadow.upsert(*id, &embedded(*n, NEW), json!({"n": n})).expect("upsert");
    }
    drop(shadow);
    let mut replay = beside.replay();
    let mut saved = 0;
    loop {
        for all in [true, false] {
            let (folder, left) = (before.fork(), replay.folder(|_| all, None));
            let what = format!("power lost in the shadow before {}", replay.describe());
            let done = reembed(&folder, &left).expect(&what);
            saved = saved.max(59 - done.embedded);
            assert!(whole(&folder, &rows, &what));
            assert_eq!(left.names(), [""; 0], "{what}");
        }
        if !replay.step() {
            break;
        }
    }
    assert_eq!(saved, 20);
}

#[test]
fn an_operation_that_fails_leaves_the_old_or_the_new_collection() {
    let (before, rows) = filled();
    let tried = {
        let recorder = Recorder::over(&before);
        recorder.reembed(&Folder::default(), &options(), &mut model, &|_| true).expect("reembed");
        recorder.tried()
    };
    let (mut failed, mut new) = (0, 0);
    for code in [5, 28] {
        for at in 0..tried {
            let recorder = Recorder::over(&before);
            recorder.fail(at..at + 1, Failure { code, percent_written: 50 });
            let beside = Folder::default();
            let done = recorder.reembed(&beside, &options(), &mut model, &|_| true);
            failed += usize::from(done.is_err());
            let what = format!("operation {at} of {tried} fails with {code}");
            let mut replay = recorder.replay();
            while replay.step() {}
            let left = replay.folder(|_| true, None);
            let is_new = whole(&left, &rows, &what);
            assert!(is_new || done.is_err(), "{what}: it said it was done");
            new += usize::from(is_new);
            let resumed = reembed(&left, &beside).expect(&what);
            assert!(resumed.embedded == 0 || at < 40, "{what}: {} again", resumed.embedded);
            assert!(whole(&left, &rows, &what));
        }
    }
    println!("{tried} operations, {failed} failures told, {new} done all the same");
    assert!(failed > tried && new > 0);
}

#[test]
fn a_row_without_its_source_ends_it_and_loses_nothing() {
    let (folder, mut rows) = filled();
    let beside = Folder::default();
    let db = folder.open(Options::new()).expect("open");
    db.upsert(33, &embedded(1, DIMS), json!({"other": 1})).expect("upsert");
    drop(db);
    let refused = reembed(&folder, &beside).expect_err("no source").to_string();
    assert!(refused.contains("row 33 has no source"), "{refused}");
    let db = folder.open(Options::new()).expect("open");
    assert_eq!((db.len(), db.schema().dims()), (59, DIMS));
    put(&db, 33, 5);
    rows.insert(33, 5);
    drop(db);
    let done = reembed(&folder, &beside).expect("it has one now");
    assert!((1..59).contains(&done.embedded), "{}", done.embedded);
    assert!(whole(&folder, &rows, "mended"));
}

#[test]
fn it_can_be_called_off() {
    let (folder, rows) = filled();
    let beside = Folder::default();
    let stop = |p: Progress| p.done < 20;
    let ended = folder.reembed(&beside, &options(), &mut model, &stop).expect_err("ended");
    assert!(matches!(ended, Error::Cancelled { .. }), "{ended}");
    assert!(!whole(&folder, &rows, "called off"));
    assert_eq!(reembed(&folder, &beside).expect("resumed").embedded, 39);
    assert!(whole(&folder, &rows, "resumed"));
}

#[test]
fn what_is_written_meanwhile_is_embedded_too() {
    let (folder, mut rows) = filled();
    let beside = Folder::default();
    let mut db = Some(folder.open(Options::new()).expect("open"));
    let mut calls = 0;
    let mut writing = |batch: &[SourceRow]| {
        calls += 1;
        if calls == 4 {
            // The writer is closed before the end.
            change(&db.take().expect("once"), &mut rows);
        }
        model(batch)
    };
    let done = folder.reembed(&beside, &options(), &mut writing, &|_| true).expect("reembed");
    assert_eq!((done.rows, done.embedded), (59, 62));
    assert!(whole(&folder, &rows, "with a writer beside it"));
}

#[test]
fn what_is_deleted_or_becomes_unfit_meanwhile_is_left_out() {
    changes_meanwhile();
}

#[test]
fn a_writer_that_stays_is_waited_for_by_the_next_run() {
    let (folder, mut rows) = filled();
    let beside = Folder::default();
    let db = folder.open(Options::new()).expect("open");
    let locked = reembed(&folder, &beside);
    assert!(matches!(locked, Err(Error::Locked { .. })), "{locked:?}");
    change(&db, &mut rows);
    assert_eq!(rows_of(&db, DIMS), rows);
    drop(db);
    assert_eq!(reembed(&folder, &beside).expect("closed").embedded, 3);
    assert!(whole(&folder, &rows, "the second run"));
}

#[test]
fn readers_keep_the_old_rows_and_are_told_to_open_again() {
    let (folder, rows) = filled();
    let reader = folder.open(read_only()).expect("open");
    reembed(&folder, &Folder::default()).expect("reembed");
    let refused = reader.refresh().expect_err("another schema").to_string();
    assert!(refused.contains("open it again"), "{refused}");
    assert_eq!(rows_of_snapshot(&reader), rows);
    assert_eq!(rows_of(&folder.open(read_only()).expect("open"), NEW), rows);
}

fn rows_of_snapshot(db: &Collection) -> Rows {
    let snapshot = db.snapshot();
    let rows = snapshot.iter().map(|row| {
        let row = row.expect("readable");
        let RowId::U64(id) = row.id else { panic!("numbers") };
        (id, row.payload["n"].as_u64().expect("a number"))
    });
    rows.collect()
}

#[test]
fn vectors_of_another_model_are_not_taken_for_those_asked_for() {
    let (folder, rows) = filled();
    let beside = Folder::default();
    let stop = |p: Progress| p.done < 20;
    folder.reembed(&beside, &options(), &mut model, &stop).expect_err("ended");
    let third = |restart| {
        let id = EmbedderId::new("third", [3; 32]);
        ReembedOptions::new(NEW, id).granularities([12, 24]).restart(restart)
    };
    let refused = folder.reembed(&beside, &third(false), &mut model, &|_| true);
    let refused = refused.expect_err("others").to_string();
    assert!(refused.contains("20 rows") && refused.contains("\"new\""), "{refused}");
    assert!(!whole(&folder, &rows, "refused"));
    let mut all = 0;
    let mut counted = |rows: &[SourceRow]| {
        all += rows.len();
        model(rows)
    };
    folder.reembed(&beside, &third(true), &mut counted, &|_| true).expect("restarted");
    assert_eq!(all, 59);
}

#[test]
fn a_shadow_that_outlived_its_run_is_removed_by_the_next() {
    for next in [new_model(), EmbedderId::new("third", [3; 32])] {
        let (folder, _) = filled();
        let (beside, left) = (Folder::default(), RefCell::new(Folder::default()));
        let progress = |p: Progress| {
            if p.done == p.total {
                *left.borrow_mut() = beside.fork();
            }
            true
        };
        folder.reembed(&beside, &options(), &mut model, &progress).expect("reembed");
        let left = left.into_inner();
        assert!(left.names().contains(&"MANIFEST".into()));
        let same = next == new_model();
        let again = ReembedOptions::new(NEW, next.clone()).granularities([12, 24]);
        let done = folder.reembed(&left, &again, &mut model, &|_| true).expect("again");
        assert_eq!(done.embedded, if same { 0 } else { 59 });
        assert_eq!(left.names(), [""; 0]);
        folder.open(read_only()).expect("open").check_embedder(next).expect("of this one");
    }
}

#[test]
fn what_cannot_be_stored_is_refused_by_the_row() {
    let (folder, rows) = filled();
    let refused = |embed: &mut Model| {
        let done = folder.reembed(&Folder::default(), &options(), embed, &|_| true);
        assert!(!whole(&folder, &rows, "refused"));
        done.expect_err("must be refused").to_string()
    };
    let zero = |rows: &[SourceRow]| {
        let mut vectors = model(rows)?;
        if let Some(at) = rows.iter().position(|row| row.id == 22) {
            vectors[at].fill(0.0);
        }
        Ok(vectors)
    };
    assert!(refused(&mut { zero }).contains("row 22: "));
    let short = refused(&mut |rows: &[SourceRow]| Ok(vec![vec![1.0; DIMS]; rows.len()]));
    assert!(short.contains("row 0: ") && short.contains("48"), "{short}");
    let few = refused(&mut |rows: &[SourceRow]| model(&rows[1..]));
    assert!(few.contains("expected 10 vectors") && few.contains("got 9"), "{few}");
    let wide = ReembedOptions::new(70_000, new_model());
    let done = folder.reembed(&Folder::default(), &wide, &mut model, &|_| true);
    assert!(done.expect_err("too wide").to_string().contains("65535"));
}

#[test]
fn a_full_disk_leaves_the_old_collection() {
    let (folder, rows) = filled();
    let beside = Folder::default();
    folder.open(Options::new()).expect("open").flush().expect("flush");
    let names = folder.names();
    let full = folder.fork();
    full.release_reserve();
    full.limit(Some(full.used() + 6000));
    let failed = reembed(&full, &beside).expect_err("there is no room");
    assert!(matches!(failed, Error::Io { .. }), "{failed}");
    assert_eq!(full.names(), names, "what was written of the new segment is gone");
    assert!(!whole(&full, &rows, "full"));
    full.limit(None);
    assert_eq!(reembed(&full, &beside).expect("there is").embedded, 0);
    assert!(whole(&full, &rows, "with room"));
}

#[test]
fn graphs_and_empty_collections_change_over_too() {
    let (folder, rows) = filled();
    let db = folder.open(Options::new()).expect("open");
    db.build_graphs().expect("graphs");
    drop(db);
    assert!(folder.names().iter().any(|name| name.starts_with("gra-")));
    // Called off or failed, a graph that is still named is still there.
    let short = matryo::CopyOptions::new().dims(16).memory(2000);
    folder.fork().drop_tier(&short, &|_| true).expect("drop-tier");
    let full = folder.fork();
    full.limit(Some(full.used() + 6000));
    full.drop_tier(&matryo::CopyOptions::new().dims(31), &|_| true).expect_err("no room");
    assert!(!whole(&full, &rows, "graphs are kept where shortening fails"));
    reembed(&full, &Folder::default()).expect_err("no room");
    assert!(!whole(&full, &rows, "graphs are kept where embedding fails"));
    reembed(&folder, &Folder::default()).expect("reembed");
    assert!(whole(&folder, &rows, "with graphs"));
    assert!(!folder.names().iter().any(|name| name.starts_with("gra-")));

    let empty = Folder::default();
    drop(empty.create(schema(), Options::new()).expect("create"));
    let done = reembed(&empty, &Folder::default()).expect("nothing to embed");
    assert_eq!((done.rows, done.embedded), (0, 0));
    assert!(whole(&empty, &Rows::new(), "empty"));
}

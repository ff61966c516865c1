//! A collection is embedded again, and some rows have no vector in the new form.

mod support;

use matryo::testing::{Folder, Recorder};
use matryo::{Collection, Options, Precision, Progress, Result, SourceRow, json};
use support::reembed::{
    NEW, Rows, embedded, filled, model, options, put, reembed, rows_of, source, whole,
};
use support::{DIMS, read_only};

/// What the model knows no word of.
fn is_unknown(n: u64) -> bool {
    n.is_multiple_of(5)
}

/// No vector of a row without a source, one of zeros of what is not known.
#[expect(clippy::unnecessary_wraps, reason = "what embeds may fail")]
fn forgetful(rows: &[SourceRow]) -> Result<Vec<Option<Vec<f32>>>> {
    let one = |row: &SourceRow| {
        let n = source(row).ok()?;
        Some(if is_unknown(n) { vec![0.0; NEW] } else { embedded(n, NEW) })
    };
    Ok(rows.iter().map(one).collect())
}

/// The rows that are left, and how many are not.
fn fit(rows: &Rows) -> (Rows, u64) {
    let left: Rows =
        rows.iter().filter(|(_, n)| !is_unknown(**n)).map(|(id, n)| (*id, *n)).collect();
    let skipped = rows.len() - left.len();
    assert!(skipped > 5 && left.len() > 30, "{skipped}");
    (left, skipped as u64)
}

#[test]
fn unfit_rows_are_refused_by_name_or_left_out_and_counted() {
    let (folder, rows) = filled();
    let (left, skipped) = fit(&rows);
    let beside = Folder::default();
    // One more, which has no source.
    let db = folder.open(Options::new()).expect("open");
    db.upsert(5000, &embedded(1, DIMS), json!({"other": 1})).expect("upsert");
    drop(db);
    let refused = folder.reembed(&beside, &options(), &mut forgetful, &|_| true);
    let refused = refused.expect_err("zeros").to_string();
    assert!(refused.contains("row ") && refused.contains("can be left out"), "{refused}");
    let skip = options().skip_unfit(true);
    let told = std::cell::RefCell::new(Vec::new());
    let (mut calls, mut asked) = (0, 0);
    let mut counted = |rows: &[SourceRow]| {
        (calls, asked) = (calls + 1, asked + rows.len());
        forgetful(rows)
    };
    let progress = |p: Progress| {
        told.borrow_mut().push((p.done, p.total));
        true
    };
    let done = folder.reembed(&beside, &skip, &mut counted, &progress).expect("reembed");
    let all = left.len() as u64;
    assert_eq!((done.rows, done.embedded, done.skipped), (all, all, skipped + 1));
    // The second pass asks for none again.
    assert_eq!((asked, calls), (60, 6));
    assert_eq!(told.borrow().last(), Some(&(60, 60)));
    assert!(told.borrow().is_sorted());
    assert!(whole(&folder, &left, "without the unfit"));
    assert_eq!(beside.names(), [""; 0]);
}

#[test]
fn no_rows_at_a_time_are_refused() {
    let (folder, rows) = filled();
    let none = options().batch(0);
    let refused = folder.reembed(&Folder::default(), &none, &mut { model }, &|_| true);
    let refused = refused.expect_err("nothing would ever be done").to_string();
    assert_eq!(refused, "invalid reembed: expected at least one row at a time, got 0");
    assert_eq!(rows_of(&folder.open(read_only()).expect("open"), DIMS), rows);
}

#[test]
fn a_vector_of_another_length_is_an_error_all_the_same() {
    let (folder, _) = filled();
    let short = |rows: &[SourceRow]| Ok(vec![vec![1.0; NEW - 1]; rows.len()]);
    let skip = options().skip_unfit(true);
    let refused = folder.reembed(&Folder::default(), &skip, &mut { short }, &|_| true);
    let refused = refused.expect_err("a mistake").to_string();
    assert!(refused.contains("row 0: ") && refused.contains("48"), "{refused}");
}

#[test]
fn a_component_too_large_for_the_precision_is_unfit() {
    let (folder, rows) = filled();
    let mut large = |some: &[SourceRow]| {
        let mut vectors = model(some)?;
        if let Some(at) = some.iter().position(|row| row.id == 22) {
            vectors[at][0] = 1e6;
        }
        Ok(vectors)
    };
    let skip = options().skip_unfit(true).stored(Precision::F16);
    let done = folder.reembed(&Folder::default(), &skip, &mut large, &|_| true).expect("reembed");
    assert_eq!((done.rows, done.skipped), (rows.len() as u64 - 1, 1));
    let db = folder.open(read_only()).expect("open");
    assert!(db.get(22).expect("read").is_none() && db.get(23).expect("read").is_some());
}

#[test]
fn a_run_that_was_called_off_tries_them_once_more() {
    let (folder, rows) = filled();
    let (left, skipped) = fit(&rows);
    let skip = options().skip_unfit(true);
    for stop in [10, 30, 59] {
        let (folder, beside) = (folder.fork(), Folder::default());
        let until = |p: Progress| p.done < stop;
        folder.reembed(&beside, &skip, &mut forgetful, &until).expect_err("called off");
        let saved = beside.open(read_only()).expect("a shadow").len();
        assert!(!whole(&folder, &rows, "called off"));
        let mut asked = 0;
        let mut counted = |rows: &[SourceRow]| {
            asked += rows.len() as u64;
            forgetful(rows)
        };
        let done = folder.reembed(&beside, &skip, &mut counted, &|_| true).expect("resumed");
        let all = left.len() as u64;
        assert_eq!((done.rows, done.embedded, done.skipped), (all, all - saved, skipped));
        assert_eq!(asked, rows.len() as u64 - saved, "stopped at {stop}");
        assert!(whole(&folder, &left, "resumed"));
        // And once it is done, it is done.
        let again = reembed_skipping(&folder, &Folder::default());
        assert_eq!((again.rows, again.embedded, again.skipped), (all, 0, 0));
    }
}

fn reembed_skipping(folder: &Folder, beside: &Folder) -> matryo::Reembedded {
    let skip = options().skip_unfit(true);
    folder.reembed(beside, &skip, &mut forgetful, &|_| true).expect("reembed")
}

/// A row that becomes unfit must not keep the vector of what it was, and one that was
/// unfit must get one.
#[test]
fn rows_that_change_meanwhile_are_fit_or_unfit_as_they_are_at_last() {
    let (folder, mut rows) = filled();
    let beside = Folder::default();
    let unfit = *rows.iter().find(|(_, n)| is_unknown(**n)).expect("one").0;
    let gone = *rows.iter().rev().find(|(_, n)| is_unknown(**n)).expect("another").0;
    let fits = *rows.iter().find(|(_, n)| !is_unknown(**n)).expect("one").0;
    let mut db = Some(folder.open(Options::new()).expect("open"));
    let mut asked = 0;
    let mut writing = |batch: &[SourceRow]| {
        asked += batch.len();
        // The last batch of the first pass: all three were embedded or left out.
        if asked == 59 {
            let db = db.take().expect("once");
            change(&db, &mut rows, (unfit, gone, fits));
        }
        forgetful(batch)
    };
    let skip = options().skip_unfit(true);
    let done = folder.reembed(&beside, &skip, &mut writing, &|_| true).expect("reembed");
    assert_eq!(asked, 61, "those two that changed");
    let (left, skipped) = fit(&rows);
    assert_eq!((done.rows, done.skipped), (left.len() as u64, skipped));
    assert!(left.contains_key(&unfit) && !left.contains_key(&fits));
    assert!(whole(&folder, &left, "with a writer beside it"));
}

fn change(db: &Collection, rows: &mut Rows, (unfit, gone, fits): (u64, u64, u64)) {
    put(db, unfit, 1001);
    put(db, fits, 1000);
    rows.insert(unfit, 1001);
    rows.insert(fits, 1000);
    db.delete(gone).expect("delete");
    rows.remove(&gone);
}

/// A shadow of an earlier run has a vector of what the row was then.
#[test]
fn a_row_that_became_unfit_between_two_runs_leaves_the_shadow() {
    let (folder, mut rows) = filled();
    let beside = Folder::default();
    let skip = options().skip_unfit(true);
    folder.reembed(&beside, &skip, &mut forgetful, &|p| p.done < 59).expect_err("called off");
    let fits = *rows.iter().find(|(_, n)| !is_unknown(**n)).expect("one").0;
    put(&folder.open(Options::new()).expect("open"), fits, 1000);
    rows.insert(fits, 1000);
    let done = reembed_skipping(&folder, &beside);
    let (left, skipped) = fit(&rows);
    assert_eq!((done.rows, done.embedded, done.skipped), (left.len() as u64, 0, skipped));
    assert!(whole(&folder, &left, "one fewer"));
}

/// As where the field is misspelt: no run empties a collection.
#[test]
fn where_no_row_would_be_left_nothing_is_changed() {
    let (folder, rows) = filled();
    let beside = Folder::default();
    let skip = options().skip_unfit(true);
    let none = |rows: &[SourceRow]| Ok(vec![None::<Vec<f32>>; rows.len()]);
    let refused = folder.reembed(&beside, &skip, &mut { none }, &|_| true);
    let refused = refused.expect_err("all of them").to_string();
    assert!(refused.contains("each of the 59 rows"), "{refused}");
    assert_eq!(rows_of(&folder.open(read_only()).expect("open"), DIMS), rows);
    assert_eq!(reembed(&folder, &beside).expect("by another").embedded, 59);
    assert!(whole(&folder, &rows, "at last"));
}

#[test]
fn power_loss_leaves_all_rows_or_those_that_fit() {
    let (before, rows) = filled();
    let (left, _) = fit(&rows);
    let recorder = Recorder::over(&before);
    let skip = options().skip_unfit(true);
    recorder.reembed(&Folder::default(), &skip, &mut forgetful, &|_| true).expect("reembed");
    let (mut replay, mut seen) = (recorder.replay(), [0, 0]);
    loop {
        for all in [true, false] {
            let folder = replay.folder(|_| all, None);
            let what = format!("power lost before {}", replay.describe());
            let db = folder.open(read_only()).expect(&what);
            let is_new = db.schema().dims() == NEW;
            drop(db);
            whole(&folder, if is_new { &left } else { &rows }, &what);
            seen[usize::from(is_new)] += 1;
            reembed_skipping(&folder, &Folder::default());
            assert!(whole(&folder, &left, &what));
        }
        if !replay.step() {
            break;
        }
    }
    assert!(seen[0] > 10 && seen[1] > 2, "{seen:?}");
}

//! Repair of segments that keep logs: these say what rows there were, and not always which of
//! them lived.

mod support;

use std::ops::Range;

use matryo::testing::{Folder, begin_flush, finish_flush, merge_all};
use matryo::{Collection, Options, RepairOptions, json};
use support::damage::{
    Files, FoundRow, healthy, logs, make, make_kept, region, repair, rows, segment, with_cut,
};
use support::{DIMS, files, folder_of, read_only, schema, vector};

/// The log that a segment keeps has its rows, and without that log the segment has none.
#[test]
fn a_lost_segment_or_kept_log_costs_what_only_it_had() {
    let good = make_kept();
    let all = rows(&folder_of(&good).open(read_only()).expect("open"));
    let (name, bytes) = segment(&good);
    for cut in [None, Some(bytes.len() - 1), Some(5000), Some(0)] {
        let folder = with_cut(&good, name, cut);
        let report = repair(&folder);
        assert_eq!((report.rebuilt, report.lost, report.rows), (1, 0, 318), "{cut:?}");
        assert_eq!(healthy(&folder), all);
    }
    let (log, bytes) = logs(&good).next().expect("there");
    for (cut, lost) in [(None, 189), (Some(bytes.len() - 1), 0), (Some(bytes.len() / 2), 90)] {
        let folder = with_cut(&good, log, cut);
        let report = repair(&folder);
        assert_eq!(report.lost, lost, "{cut:?}");
        assert_eq!(healthy(&folder).len() as u64, 318 - report.lost, "{cut:?}");
    }
}

/// Without the manifest, and without what says that a log is kept, the log is replayed.
#[test]
fn without_a_manifest_and_a_segment_its_log_is_enough() {
    let good = make_kept();
    let all = rows(&folder_of(&good).open(read_only()).expect("open"));
    for which in 0..2 {
        let folder = folder_of(&good);
        folder.remove("MANIFEST");
        let segments = good.iter().filter(|(name, _)| name.starts_with("seg-"));
        folder.remove(segments.map(|f| &f.0).nth(which).expect("there"));
        let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
        let there = healthy(&folder);
        assert!(all.iter().all(|row| there.contains(row)), "{which}: {report:?}");
        assert!(there.len() <= all.len() + 1, "{which}: at most the one that was deleted");
    }
}

/// Rows that died while a flush went on in the background are in the segment, dead; the log
/// has as many.
#[test]
fn the_log_of_a_flush_in_the_background_has_the_rows_of_its_segment() {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new()).expect("create");
    let put = |ids: std::ops::Range<u64>, seed: u64| {
        let mut batch = collection.batch();
        for id in ids {
            batch.upsert(id, &vector(seed + id, DIMS), ()).expect("fits");
        }
        batch.commit().expect("commit");
    };
    put(0..40, 0);
    assert!(begin_flush(&collection).expect("freeze"));
    put(10..20, 900);
    collection.delete(30).expect("delete");
    finish_flush(&collection, &|| ()).expect("flush");
    let all = rows(&collection);
    drop(collection);
    let good = files(&folder);
    assert_eq!((logs(&good).count(), all.len()), (2, 39), "one that is kept, one that is open");
    for cut in [None, Some(5000)] {
        let folder = with_cut(&good, &segment(&good).0, cut);
        let report = repair(&folder);
        assert_eq!((report.rebuilt, report.lost), (1, 0), "{cut:?}: {report:?}");
        assert_eq!(healthy(&folder), all);
    }
}

/// What is found of a lost segment in its log is older than what later segments have.
#[test]
fn without_a_manifest_older_rows_of_a_log_do_not_replace_newer_ones() {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new()).expect("create");
    for seed in [0, 900] {
        let mut batch = collection.batch();
        for id in 0..30 {
            batch.upsert(id + seed / 90, &vector(seed + id, DIMS), ()).expect("fits");
        }
        batch.commit().expect("commit");
        collection.flush().expect("flush");
    }
    let all = rows(&collection);
    drop(collection);
    let good = files(&folder);
    assert_eq!(logs(&good).count(), 2, "both are kept");
    let folder = with_cut(&good, &segment(&good).0, None);
    folder.remove("MANIFEST");
    let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
    assert_eq!((report.lost, healthy(&folder)), (0, all), "{report:?}");
}

/// The folder without its manifest, and the footer of a segment changed.
fn without_a_footer(good: &Files, name: &str) -> Folder {
    let folder = folder_of(good);
    folder.remove("MANIFEST");
    let mut bad = folder.read(name).expect("there");
    let footer = bad.len() - 64;
    bad[footer] ^= 1;
    folder.write(name, bad);
    folder
}

#[test]
fn without_a_manifest_a_segment_without_a_footer_is_reported() {
    for good in [make(), make_kept()] {
        for (name, _) in good.iter().filter(|(name, _)| name.starts_with("seg-")) {
            let folder = without_a_footer(&good, name);
            let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
            let damaged = report.damage.iter().filter(|damage| damage.file.ends_with(name));
            assert_eq!(damaged.count(), 1, "{report:?}");
            assert!(report.kept.iter().any(|kept| kept.ends_with(format!("damaged-1-{name}"))));
            healthy(&folder);
        }
    }
}

/// What a log has that may have been flushed is older than what was loaded behind it.
#[test]
fn without_a_manifest_and_a_footer_older_rows_of_a_log_do_not_replace_newer_ones() {
    let folder = Folder::default();
    let db = folder.create(schema(), Options::new()).expect("create");
    put(&db, 0..30, 0);
    db.flush().expect("flush");
    let mut bulk = db.bulk().expect("bulk");
    for id in 10..20 {
        bulk.upsert(id, &vector(900 + id, DIMS), json!({"n": 900})).expect("fits");
    }
    bulk.finish().expect("finish");
    let (good, all) = closed(&folder, db);
    assert_eq!(logs(&good).count(), 1, "one is kept");
    let (first, _) = segment(&good);
    let folder = without_a_footer(&good, first);
    let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
    assert_eq!(healthy(&folder), all, "{report:?}");
    // Where no segment comes behind it, the log may as well be the last.
    let bulk = good.iter().map(|(name, _)| name).rfind(|name| name.starts_with("seg-"));
    let alone: Files = good.iter().filter(|(name, _)| Some(name) != bulk).cloned().collect();
    let folder = without_a_footer(&alone, first);
    let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
    assert_eq!((report.lost, healthy(&folder).len()), (0, 30), "{report:?}");
}

/// Two segments of a hundred rows, each of which keeps its log.
fn two_segments() -> (Folder, Collection) {
    let folder = Folder::default();
    let db = folder.create(schema(), Options::new()).expect("create");
    for ids in [0..100, 100..200] {
        put(&db, ids, 0);
        db.flush().expect("flush");
    }
    (folder, db)
}

/// A merge that a loss of power cut short names the logs of its sources, as they do.
#[test]
fn without_a_manifest_a_merge_that_is_torn_gives_way_to_its_sources() {
    let (folder, db) = two_segments();
    let sources = files(&folder);
    merge_all(&db, &|| ()).expect("merge");
    let (good, all) = closed(&folder, db);
    let (name, bytes) = segment(&good);
    let mut torn = bytes.clone();
    // Ids, and where the logs have the rows.
    for kind in [1, 14] {
        let (at, len) = region(bytes, kind);
        torn[at..at + len].fill(0);
    }
    let folder = folder_of(&sources);
    folder.remove("MANIFEST");
    folder.write(name, torn);
    let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
    assert_eq!((report.lost, healthy(&folder)), (0, all.clone()), "{report:?}");
    // A whole one has the rows of its sources.
    let folder = folder_of(&sources);
    folder.remove("MANIFEST");
    folder.write(name, bytes.clone());
    let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
    assert_eq!((report.lost, healthy(&folder)), (0, all), "{report:?}");
}

fn put(db: &Collection, ids: Range<u64>, seed: u64) {
    let mut batch = db.batch();
    for id in ids {
        batch.upsert(id, &vector(seed + id, DIMS), json!({"n": seed})).expect("fits");
    }
    batch.commit().expect("commit");
}

/// Files of a folder, and the rows in it.
fn closed(folder: &Folder, db: Collection) -> (Files, Vec<FoundRow>) {
    let all = rows(&db);
    drop(db);
    (files(folder), all)
}

/// A row that was deleted between commit and flush is in the log, and not in the segment: by
/// what order the segment's tombstones count is lost with it.
#[test]
fn dead_rows_of_a_lost_segment_are_not_looked_for_in_a_log_with_other_rows() {
    let folder = Folder::default();
    put(&folder.create(schema(), Options::new()).expect("create"), 0..100, 0);
    let db = folder.open(Options::new()).expect("open");
    for id in [5, 50] {
        db.delete(id).expect("delete");
        db.flush().expect("flush");
    }
    let (good, all) = closed(&folder, db);
    assert_eq!((logs(&good).count(), all.len()), (1, 98));
    for cut in [None, Some(5000), Some(0)] {
        let folder = with_cut(&good, &segment(&good).0, cut);
        let report = repair(&folder);
        assert_eq!((report.rebuilt, report.lost), (1, 0), "{cut:?}: {report:?}");
        assert_eq!((report.undeleted, report.rows), (2, 100), "5 and 50: {report:?}");
        let there = healthy(&folder);
        assert!(all.iter().all(|row| there.contains(row)), "{cut:?}: no living row is killed");
    }
}

/// Two segments with a log each, merged into one that keeps both, and is lost. Before, a row of
/// the first was deleted, or replaced in a third.
fn merged_and_lost(replaced: bool) -> (Folder, Vec<FoundRow>, Files) {
    let (folder, db) = two_segments();
    if replaced {
        // In a segment of its own, which is not merged: it has its rows already when the others are.
        put(&db, 5..6, 900);
    } else {
        db.delete(5).expect("delete");
        db.flush().expect("flush");
    }
    merge_all(&db, &|| ()).expect("merge");
    db.flush().expect("flush");
    let (good, all) = closed(&folder, db);
    let merged = good.iter().filter(|(name, _)| name.starts_with("seg-"));
    let (merged, _) = merged.max_by_key(|(_, bytes)| bytes.len()).expect("there");
    assert!(!good.iter().any(|(name, _)| name.starts_with("del-")));
    (with_cut(&good, merged, None), all, good)
}

#[test]
fn rows_of_several_logs_are_never_sure() {
    let (folder, all, good) = merged_and_lost(false);
    assert_eq!((logs(&good).count(), all.len()), (2, 199));
    let report = repair(&folder);
    assert_eq!((report.rebuilt, report.lost, report.undeleted), (1, 0, 1), "{report:?}");
    let there = healthy(&folder);
    assert!(there.len() == 200 && all.iter().all(|row| there.contains(row)));
    // Of one of the logs nobody knows then how many of its rows the segment had.
    for (log, rows) in [(0, 0..100), (1, 100..200)] {
        let (folder, ..) = merged_and_lost(false);
        folder.remove(&logs(&good).nth(log).expect("there").0);
        let report = repair(&folder);
        assert_eq!((report.rebuilt, report.lost, report.rows), (1, 99, 100), "{report:?}");
        assert!(report.undeleted >= 1, "{report:?}");
        assert!(healthy(&folder).iter().all(|row| !rows.contains(&row.0)));
    }
}

#[test]
fn rows_of_several_logs_give_way_to_newer_ones() {
    let (folder, all, good) = merged_and_lost(true);
    assert_eq!((logs(&good).count(), all.len()), (2, 200));
    let report = repair(&folder);
    assert_eq!((report.lost, report.undeleted, report.rows), (0, 0, 200), "{report:?}");
    assert_eq!(healthy(&folder), all);
    let db = folder.open(Options::new()).expect("open");
    db.delete(5).expect("delete");
    assert!(db.get(5).expect("get").is_none(), "one of it was alive");
    let hits = db.search(&vector(5, DIMS)).exact().limit(1000).run().expect("search").hits;
    assert_eq!(hits.len(), 199);
}

/// A merged segment is lost, and the list of dead rows of a newer one that replaced some of its
/// rows: of two versions of a row, neither of which is sure, the newer one stands.
#[test]
fn of_rows_that_are_not_sure_the_newer_ones_stand() {
    let (folder, db) = two_segments();
    merge_all(&db, &|| ()).expect("merge");
    put(&db, 5..30, 900);
    db.flush().expect("flush");
    db.delete(6).expect("delete");
    db.flush().expect("flush");
    let (good, all) = closed(&folder, db);
    let of = |kind: &'static str| good.iter().filter(move |(name, _)| name.starts_with(kind));
    assert_eq!((of("seg-").count(), of("del-").count(), all.len()), (2, 2, 199));
    let folder = with_cut(&good, &segment(&good).0, None);
    folder.remove(&of("del-").next_back().expect("there").0);
    let report = repair(&folder);
    assert_eq!((report.lost, report.undeleted, report.rows), (0, 1, 200), "{report:?}");
    let there = healthy(&folder);
    assert!(all.iter().all(|row| there.contains(row)), "all but the one that was deleted");
}

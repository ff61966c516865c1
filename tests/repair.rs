//! Repair: whatever is damaged, what is left opens, and what is lost is said.

mod support;

use matryo::testing::{Failure, Folder, Recorder};
use matryo::{Collection, Error, IdKind, Options, RepairOptions, RowId, Schema, json};
use support::damage::{
    Files, damaged_in, healthy, logs, make, make_kept, make_merged, number, power_loss, region,
    repair, repair_fails, rows, segment, with_cut,
};
use support::{DIMS, files, folder_of, read_only, schema, vector};

#[test]
fn an_intact_collection_is_left_alone() {
    let good = make();
    let folder = folder_of(&good);
    let report = repair(&folder);
    assert!(report.was_intact(), "{report:?}");
    assert_eq!(report.rows, 318);
    assert_eq!(files(&folder), good);
    let locked = folder.open(Options::new()).expect("open");
    assert!(matches!(folder.repair(&RepairOptions::new()), Err(Error::Locked { .. })));
    drop(locked);
}

/// One byte of each file in turn. Every row that is there afterwards is one that
/// was there before, to the bit; every row that is not was reported.
#[test]
fn any_damaged_byte_leaves_the_other_rows() {
    any_damaged_byte(&make(), &[]);
}

/// Whatever is damaged of a segment that keeps its log, the log has all rows; of a damaged
/// log, the segment finds all vectors but the one that was hit.
#[test]
fn any_damaged_byte_of_a_segment_or_of_the_log_it_keeps_leaves_the_other_rows() {
    for good in [make_kept(), make_merged()] {
        let kept: Vec<_> = logs(&good).take(2).map(|(name, _)| name.as_str()).collect();
        any_damaged_byte(&good, &kept);
    }
}

/// `kept` are names of the logs that segments keep, if they do.
fn any_damaged_byte(good: &Files, kept: &[&str]) {
    let all = rows(&folder_of(good).open(read_only()).expect("open"));
    let step = if support::long() { 1 } else { 89 };
    for (name, bytes) in good.iter().filter(|(name, _)| name != "MANIFEST" && name != "LOCK") {
        for at in (0..bytes.len()).step_by(step) {
            let folder = folder_of(good);
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            folder.write(name, bad.clone());
            let report = repair(&folder);
            let is_kept = kept.contains(&name.as_str());
            let live = name.starts_with("wal-") && !is_kept;
            if report.was_intact() {
                assert!(live, "{name} {at}: only an end may be torn");
                continue;
            }
            let there = healthy(&folder);
            let at_large = |row| all.contains(row) || report.undeleted > 0 || live;
            assert!(there.iter().all(at_large), "{name} {at}");
            let lost = all.len().saturating_sub(there.len());
            if is_kept {
                assert_eq!((report.rebuilt, report.lost, report.undeleted), (1, lost as u64, 0));
                assert!(lost <= 1, "{name} {at}: {lost} rows lost");
            }
            if name.starts_with("seg-") && !kept.is_empty() {
                assert_eq!((report.rebuilt, lost, report.lost), (1, 0, 0), "{name} {at}");
            }
            if name.starts_with("seg-") {
                assert_eq!(report.lost, lost as u64, "{name} {at}");
                // Without the table of regions nothing of a segment can be trusted.
                let (table, footer) = (number(bytes, bytes.len() - 64), bytes.len() - 64);
                let regions = number(bytes, footer + 16) as u32 as usize;
                let readable = !(table..table + 32 * regions).contains(&at);
                assert!(report.rebuilt == 1 || !readable, "{name} {at}");
                // And of rows in several logs nobody knows then which were dead.
                assert!(report.undeleted == 0 || !readable, "{name} {at}");
            }
            assert_eq!(report.rows, there.len() as u64);
            let aside = format!("damaged-1-{name}");
            assert_eq!(folder.read(&aside).as_ref(), Some(&bad), "{name} {at}: evidence");
        }
    }
}

/// What a region is follows from the schema: a changed bit that says otherwise costs nothing.
#[test]
fn regions_are_known_whatever_the_table_calls_them() {
    for good in [make(), make_kept(), make_merged()] {
        let all = rows(&folder_of(&good).open(read_only()).expect("open"));
        let (name, bytes) = segment(&good);
        for bit in region_names(bytes) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let folder = folder_of(&good);
            folder.write(name, bad);
            let report = repair(&folder);
            assert_eq!((report.rebuilt, report.lost, report.undeleted), (1, 0, 0), "{bit}");
            assert_eq!(healthy(&folder), all, "{bit}");
        }
    }
}

/// Where the checksums of a table are damaged, too, nobody knows that a region is not the one it
/// says; no row loses its payload for that without being reported.
#[test]
fn payloads_that_are_not_found_are_lost_and_not_empty() {
    for good in [make(), make_merged()] {
        let all = rows(&folder_of(&good).open(read_only()).expect("open"));
        let (name, bytes) = segment(&good);
        let checksum = bytes.len() - 64 - 5;
        for bit in region_names(bytes) {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // The checksum of the last block of payloads.
            bad[checksum] ^= 1;
            let folder = folder_of(&good);
            folder.write(name, bad);
            let report = repair(&folder);
            let there = healthy(&folder);
            assert!(there.iter().all(|row| all.contains(row) || report.undeleted > 0), "{bit}");
            assert_eq!(
                there.len() as u64 + report.lost,
                all.len() as u64 + report.undeleted,
                "{bit}"
            );
        }
    }
}

/// The bits of a segment that say what its regions are.
fn region_names(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let (table, footer) = (number(bytes, bytes.len() - 64), bytes.len() - 64);
    let regions = number(bytes, footer + 16) as u32 as usize;
    (0..regions).flat_map(move |region| (table + 32 * region) * 8..(table + 32 * region + 4) * 8)
}

#[test]
fn what_follows_from_vectors_is_made_anew_without_loss() {
    let good = make();
    let all = rows(&folder_of(&good).open(read_only()).expect("open"));
    let (name, bytes) = segment(&good);
    for kind in [2, 3, 4, 5] {
        let (at, len) = region(bytes, kind);
        let mut bad = bytes.clone();
        bad[at..at + len].fill(0xee);
        let folder = folder_of(&good);
        folder.write(name, bad);
        let report = repair(&folder);
        assert_eq!((report.rebuilt, report.lost, report.undeleted), (1, 0, 0), "region {kind}");
        assert_eq!(healthy(&folder), all, "region {kind}");
    }
    // The footer is found again by what the manifest says of the table.
    let folder = folder_of(&good);
    let mut bad = bytes.clone();
    let footer = bad.len() - 64;
    bad[footer..].fill(0);
    folder.write(name, bad);
    assert_eq!((repair(&folder).lost, healthy(&folder)), (0, all));
}

/// Indexes of fields follow from payloads; without a manifest, from fields that the
/// caller declares.
#[test]
fn indexes_of_fields_are_made_anew() {
    let folder = Folder::default();
    let fields = support::schema_with_fields();
    let collection = folder.create(fields.clone(), Options::new()).expect("create");
    for n in 0..60u64 {
        let payload = if n % 3 == 0 { json!(null) } else { json!({"n": n, "tags": ["even"]}) };
        collection.upsert(n, &vector(n, DIMS), payload).expect("upsert");
    }
    collection.flush().expect("flush");
    let want = support::sure_answers(&collection);
    drop(collection);
    let good = files(&folder);
    let (name, bytes) = segment(&good);
    let (at, len) = region(bytes, 9);
    let mut bad = bytes.clone();
    bad[at..at + len].fill(0xee);
    for lost in [false, true] {
        let folder = folder_of(&good);
        folder.write(name, bad.clone());
        let mut options = RepairOptions::new();
        if lost {
            folder.remove("MANIFEST");
            options = options.schema(fields.clone());
        }
        let report = folder.repair(&options).expect("repairs");
        assert_eq!((report.rebuilt, report.lost, report.rows), (1, 0, 60));
        let collection = folder.open(Options::new()).expect("opens");
        assert_eq!(collection.schema(), &fields);
        assert_eq!(support::sure_answers(&collection), want);
        collection.verify().expect("whole");
    }
}

#[test]
fn rows_in_a_damaged_block_are_dropped_and_named() {
    let good = make();
    let folder = damaged_in(&good, 6, 4096 * 2);
    let report = repair(&folder);
    // Rows of 128 bytes: 32 to a block, and none of them is dead.
    let lost: Vec<RowId> = (64..96).map(RowId::U64).collect();
    assert_eq!((report.lost, &report.lost_ids), (32, &lost));
    assert_eq!(report.damage.len(), 1);
    assert!(healthy(&folder).iter().all(|row| !(64..96).contains(&row.0)));
    // Damaged ids: the rows are lost, and nobody knows their names.
    let report = repair(&damaged_in(&good, 1, 0));
    assert_eq!((report.lost, report.lost_ids.len()), (189, 0), "all fit in one block");
}

#[test]
fn rows_may_be_kept_without_their_payload() {
    let good = make();
    let (name, bytes) = segment(&good);
    for kind in [7, 8] {
        let (at, _) = region(bytes, kind);
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        let (dropped, kept) = (folder_of(&good), folder_of(&good));
        dropped.write(name, bad.clone());
        kept.write(name, bad);
        let report = repair(&dropped);
        assert!(report.lost > 0 && report.payloads_lost == 0);
        let report = kept.repair(&RepairOptions::new().keep_without_payload(true)).expect("repair");
        assert!(report.lost == 0 && report.payloads_lost > 0);
        assert_eq!(healthy(&kept).len(), 318);
    }
}

#[test]
fn lost_tombstones_bring_back_deleted_rows_but_no_second_version() {
    let good = make();
    let folder = folder_of(&good);
    let name = good.iter().map(|f| &f.0).find(|name| name.starts_with("del-")).expect("there");
    folder.remove(name);
    let report = repair(&folder);
    // Of eleven dead rows ten were replaced: the newer versions stand.
    assert_eq!((report.undeleted, report.rows), (1, 319));
    let there = healthy(&folder);
    assert_eq!(there.iter().filter(|row| row.0 == 3).count(), 1);
    let hits = folder.open(read_only()).expect("open");
    let hits = hits.search(&vector(1, DIMS)).exact().limit(1000).run().expect("search").hits;
    assert_eq!(hits.len(), 319, "each id once");
}

#[test]
fn a_damaged_log_keeps_the_commits_before_the_damage() {
    let good = make();
    let logs: Vec<_> = logs(&good).collect();
    let folder = folder_of(&good);
    let mut bad = logs[0].1.clone();
    bad[100] ^= 1;
    folder.write(&logs[0].0, bad);
    let report = repair(&folder);
    // Its one commit, and the two of the log behind, which stand on it.
    assert_eq!((report.commits_lost, report.rows), (3, 299));
    assert_eq!(report.kept.len(), 2, "both logs: {:?}", report.kept);
    assert_eq!(healthy(&folder).len(), 299);
}

#[test]
fn without_a_manifest_the_schema_must_be_given() {
    for (good, segments, count) in [(make(), 2, 2), (make_kept(), 2, 4), (make_merged(), 1, 4)] {
        without_a_manifest(&good, segments, count);
    }
}

fn without_a_manifest(good: &Files, segments: usize, logs: usize) {
    let all = rows(&folder_of(good).open(read_only()).expect("open"));
    for missing in [true, false] {
        let folder = folder_of(good);
        if missing {
            folder.remove("MANIFEST");
        } else {
            let mut bad = folder.read("MANIFEST").expect("there");
            bad[80] ^= 1;
            folder.write("MANIFEST", bad);
        }
        let before = files(&folder);
        let refused = folder.repair(&RepairOptions::new()).expect_err("no schema");
        let there = format!("{segments} segments and {logs} logs");
        assert!(refused.to_string().contains(&there), "{refused}");
        assert_eq!(files(&folder), before);
        let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
        assert_eq!((report.lost, report.commits_lost), (0, 0), "{report:?}");
        let there = healthy(&folder);
        assert!(all.iter().all(|row| there.contains(row)), "every row is back");
        assert_eq!(there.len(), all.len() + 1, "and the one that was deleted");
        assert!(report.undeleted >= 1);
        // With the wrong schema nothing is made up.
        let other = Schema::builder(DIMS).ids(IdKind::Str).build().expect("valid");
        let wrong = folder_of(&before);
        let report = wrong.repair(&RepairOptions::new().schema(other)).expect("repairs");
        assert_eq!(report.rows, 0);
        assert_eq!(
            wrong.names().iter().filter(|n| n.starts_with("damaged-")).count(),
            report.kept.len()
        );
    }
}

#[test]
fn a_missing_or_cut_segment_is_lost_and_the_rest_is_not() {
    let good = make();
    let (name, bytes) = segment(&good);
    for cut in [None, Some(bytes.len() - 1), Some(5000), Some(0)] {
        let folder = with_cut(&good, name, cut);
        let report = repair(&folder);
        assert_eq!((report.lost, report.rows), (189, 129), "{cut:?}");
        assert_eq!(healthy(&folder).len(), 129);
    }
    // Bytes behind the end do no harm.
    let folder = folder_of(&good);
    folder.write(name, [bytes.as_slice(), &[7; 100]].concat());
    assert_eq!((repair(&folder).lost, healthy(&folder).len()), (0, 318));
}

#[test]
fn a_folder_that_is_no_collection_is_left_alone() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("notes.txt"), "mine")?;
    let refused = Collection::repair(dir.path()).map(|_| ());
    assert!(matches!(refused, Err(Error::NotACollection { .. })), "{refused:?}");
    assert_eq!(std::fs::read_dir(dir.path())?.count(), 1);
    Ok(())
}

/// Power loss at every operation of a repair: what is left opens with all rows,
/// or can still be repaired, and the evidence is never the thing that is lost.
#[test]
fn power_loss_during_a_repair_loses_nothing_more() {
    // A block of vectors; and places, which the log makes good.
    power_loss(&make(), 6, 4096 * 2, 32);
    power_loss(&make_kept(), 14, 0, 0);
}

/// The name of the manifest that repair finds may not be on the medium.
#[test]
fn a_repair_trusts_no_name() {
    let good = make();
    let folder = damaged_in(&good, 6, 4096 * 2);
    let closed = |failing: std::ops::Range<usize>| {
        let recorder = Recorder::over(&folder);
        let db = recorder.open(Options::new().reserve(0)).expect("what is damaged is not read");
        db.delete(200).expect("delete");
        recorder.fail(failing, Failure { code: 5, percent_written: 0 });
        drop(db);
        recorder
    };
    // The sync of the folder is the last that a close does.
    let last = closed(0..0).tried() - 1;
    let recorder = closed(last..last + 1);
    let from = recorder.operations();
    let report = recorder.repair(&RepairOptions::new()).expect("repairs");
    assert_eq!((report.rebuilt, report.lost, report.rows), (1, 32, 285));
    let mut replay = recorder.replay();
    for done in 1.. {
        if !replay.step() {
            break;
        }
        for all in [false, true].into_iter().filter(|_| done >= from) {
            let (left, when) = (replay.folder(|_| all, None), replay.describe());
            let again = left.repair(&RepairOptions::new());
            let again = again.unwrap_or_else(|e| panic!("all {all}, before {when}: {e}"));
            assert!(again.was_intact() || again.lost == 32, "{when}: {again:?}");
            assert_eq!(healthy(&left).len(), 285, "{when}");
        }
    }
}

/// Nobody can have counted to their numbers, which would leave none for the next file.
#[test]
fn files_with_the_highest_numbers_are_in_nobodys_way() {
    let good = make();
    for kind in ["wal", "seg", "del", "gra"] {
        for number in [(1 << 62) - 1, (1 << 62) - 2, 1u64 << 61] {
            let name = format!("{kind}-{number}");
            let with_stray = || {
                let folder = folder_of(&good);
                folder.write(&name, Vec::new());
                folder
            };
            let folder = with_stray();
            for id in 500..503 {
                let db = folder.open(Options::new()).unwrap_or_else(|e| panic!("{name}: {e}"));
                db.upsert(id, &vector(id, DIMS), ()).expect("upsert");
                db.flush().expect("flush");
                assert!(!folder.names().contains(&name), "it is left over from nothing");
            }
            let folder = with_stray();
            folder.remove(&segment(&good).0);
            assert_eq!(repair(&folder).rows, 129, "{name}");
            assert_eq!(healthy(&folder).len(), 129, "{name}");
            let folder = with_stray();
            folder.remove("MANIFEST");
            let report = folder.repair(&RepairOptions::new().schema(schema())).expect("repairs");
            assert_eq!(report.lost, 0, "{name}");
            assert_eq!(healthy(&folder).len(), 319, "{name}: with the one that was deleted");
        }
    }
}

#[test]
fn copies_take_the_first_number_that_is_free() {
    let good = make();
    let folder = folder_of(&good);
    for taken in ["1-notes", "3-x", "18446744073709551615-x", "99999999999999999999-y"] {
        folder.write(&format!("damaged-{taken}"), Vec::new());
    }
    for n in [2, 4] {
        let names = folder.names();
        let name = names.iter().find(|name| name.starts_with("seg-")).expect("there");
        folder.write(name, vec![7; 5000]);
        repair(&folder);
        assert_eq!(folder.read(&format!("damaged-{n}-{name}")), Some(vec![7; 5000]), "{names:?}");
    }
}

/// A repair that finds no room leaves the damage as it was, and no copies that are more each time.
#[test]
fn a_repair_without_room_leaves_no_files() {
    for good in [make(), make_kept()] {
        let folder = with_cut(&good, &segment(&good).0, Some(5000));
        let before = folder.names();
        let mut failures = 0;
        for room in (0..).step_by(1500) {
            folder.limit(Some(folder.used() + room));
            match folder.repair(&RepairOptions::new()) {
                Ok(report) => {
                    assert_eq!(report.kept.len(), 1);
                    break;
                }
                Err(Error::Io { .. }) => assert_eq!(folder.names(), before, "{room}"),
                Err(e) => panic!("room for {room} bytes: {e}"),
            }
            failures += 1;
        }
        assert!(failures > 5, "{failures}");
        folder.limit(None);
        assert!(healthy(&folder).len() >= 129);
    }
}

/// Something else that has a file's name is as good as no file.
#[test]
fn a_folder_in_the_place_of_a_file_is_damage() {
    let good = make();
    for (name, _) in good.iter().filter(|file| ["wal", "seg", "del"].contains(&&file.0[..3])) {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("a");
        std::fs::create_dir(&path).expect("create");
        good.iter()
            .for_each(|(name, bytes)| std::fs::write(path.join(name), bytes).expect("write"));
        std::fs::remove_file(path.join(name)).expect("remove");
        std::fs::create_dir(path.join(name)).expect("create");
        assert!(matches!(Collection::open(&path), Err(Error::Corrupt(_))), "{name}");
        let report = Collection::repair(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!report.was_intact(), "{name}");
        let opened = Collection::open(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        opened.verify().unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(opened.len(), report.rows, "{name}");
    }
}

#[test]
fn a_repair_that_cannot_read_or_write_loses_nothing_more() {
    let failed = repair_fails();
    assert!(failed > 300, "{failed} operations failed");
}

//! Collections of which something is damaged, and what repair makes of them.

use std::collections::BTreeSet;

use matryo::testing::{Failure, Folder, Recorder, merge_all};
use matryo::{Collection, Error, Options, RepairOptions, Repaired, json};

use super::{DIMS, files, folder_of, schema, vector};

pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// Id, bits of the vector, payload.
pub(crate) type FoundRow = (u64, Vec<u32>, String);

/// Two segments, tombstones, a sealed log and one that was not closed. The payloads are so
/// long that segments have their vectors themselves.
pub(crate) fn make() -> Files {
    let files = made_with(&"text ".repeat(20), false);
    assert_eq!(logs(&files).count(), 2);
    files
}

/// The same where each segment keeps the log that has its vectors.
pub(crate) fn make_kept() -> Files {
    let files = made_with("", false);
    assert_eq!(logs(&files).count(), 4);
    files
}

/// The same where they were merged into one, which keeps both logs, and then lost a row.
pub(crate) fn make_merged() -> Files {
    let files = made_with("", true);
    assert_eq!(logs(&files).count(), 4);
    assert_eq!(files.iter().filter(|(name, _)| name.starts_with("seg-")).count(), 1);
    files
}

pub(crate) fn logs(files: &Files) -> impl Iterator<Item = &(String, Vec<u8>)> {
    files.iter().filter(|(name, _)| name.starts_with("wal-"))
}

pub(crate) fn made_with(text: &str, merged: bool) -> Files {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new()).expect("create");
    let put = |collection: &Collection, ids: std::ops::Range<u64>| {
        let mut batch = collection.batch();
        for id in ids {
            let payload = if text.is_empty() { json!({"n": id}) } else { json!({"n": text}) };
            batch.upsert(id, &vector(id, DIMS), payload).expect("fits");
        }
        batch.commit().expect("commit");
    };
    put(&collection, 0..200);
    collection.flush().expect("flush");
    put(&collection, 190..300);
    collection.delete(3).expect("delete");
    collection.flush().expect("flush");
    if merged {
        merge_all(&collection, &|| ()).expect("merge");
        collection.delete(4).expect("delete");
        collection.flush().expect("flush");
    }
    put(&collection, 300..310);
    drop(collection);
    let collection = folder.open(Options::new()).expect("open");
    put(&collection, 310..320);
    collection.delete(310).expect("delete");
    files(&folder.fork())
}

/// All rows: id, vector, payload.
pub(crate) fn rows(collection: &Collection) -> Vec<FoundRow> {
    let row = |id: u64| {
        let row = collection.get(id).expect("readable")?;
        let bits = row.vector.iter().map(|v| v.to_bits()).collect();
        Some((id, bits, json!(row.payload).to_string()))
    };
    (0..400).filter_map(row).collect()
}

pub(crate) fn repair(folder: &Folder) -> Repaired {
    folder.repair(&RepairOptions::new()).expect("repairs")
}

/// It opens, is whole, and a second repair finds nothing.
pub(crate) fn healthy(folder: &Folder) -> Vec<FoundRow> {
    let again = repair(folder);
    assert!(again.was_intact() && again.kept.is_empty(), "{again:?}");
    let collection = folder.open(Options::new()).expect("opens");
    collection.verify().expect("whole");
    assert_eq!(collection.len(), again.rows);
    rows(&collection)
}

pub(crate) fn segment(good: &Files) -> &(String, Vec<u8>) {
    good.iter().find(|(name, _)| name.starts_with("seg-")).expect("a segment")
}

pub(crate) fn number(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("inside")) as usize
}

/// Where the region of a kind begins, and its length.
pub(crate) fn region(bytes: &[u8], kind: u16) -> (usize, usize) {
    let table = number(bytes, bytes.len() - 64);
    let entry = (0..).map(|n| table + 32 * n);
    let entry = entry.into_iter().find(|at| bytes[*at..*at + 2] == kind.to_le_bytes());
    let entry = entry.expect("there");
    (number(bytes, entry + 8), number(bytes, entry + 16))
}

/// The folder with a file cut to a length, or without it.
pub(crate) fn with_cut(good: &Files, name: &str, len: Option<usize>) -> Folder {
    let folder = folder_of(good);
    match len {
        None => folder.remove(name),
        Some(len) => {
            let bytes = folder.read(name).expect("there");
            folder.write(name, bytes[..len].to_vec());
        }
    }
    folder
}

/// The folder with a bit changed in a region of its segment.
pub(crate) fn damaged_in(good: &Files, kind: u16, byte: usize) -> Folder {
    let (name, bytes) = segment(good);
    let mut bad = bytes.clone();
    bad[region(bytes, kind).0 + byte] ^= 1;
    let folder = folder_of(good);
    folder.write(name, bad);
    folder
}

/// A byte of a region of the first segment is damaged, and so many rows are lost by it.
pub(crate) fn power_loss(good: &Files, kind: u16, byte: usize, lost: u64) {
    let (name, bytes) = segment(good);
    let (at, _) = region(bytes, kind);
    let mut bad = bytes.clone();
    bad[at + byte] ^= 1;
    let folder = folder_of(good);
    folder.write(name, bad.clone());
    let recorder = Recorder::over(&folder);
    let report = recorder.repair(&RepairOptions::new()).expect("repairs");
    assert_eq!((report.rebuilt, report.lost), (1, lost));
    let mut replay = recorder.replay();
    loop {
        // Of what was not synced: nothing, all, each alone, each missing.
        let mut states = vec![replay.folder(|_| false, None), replay.folder(|_| true, None)];
        for one in 0..replay.pending() {
            states.push(replay.folder(|n| n == one, None));
            states.push(replay.folder(|n| n != one, None));
        }
        for left in states {
            let when = replay.describe();
            let again = repair(&left);
            assert!(again.was_intact() || again.lost == lost, "{when}: {again:?}");
            assert_eq!(healthy(&left).len() as u64, 318 - lost, "{when}");
            let kept = left.names().into_iter().filter(|n| n.starts_with("damaged-"));
            let whole = kept.filter(|n| left.read(n).as_ref() == Some(&bad)).count();
            assert!(whole >= 1, "{when}: {:?}", left.names());
        }
        if !replay.step() {
            break;
        }
    }
}

/// Every operation of a repair fails once, reads included; how many there were. Either the repair says so, and one that
/// is tried again finds what the first would have; or it did all, and the copies of all that was
/// damaged are there.
pub(crate) fn repair_fails() -> usize {
    let mut failed = 0;
    for (good, kind) in [(make(), 6), (make_kept(), 14), (make_merged(), 14)] {
        failed += fails_once(&damaged_in(&good, kind, 40), &RepairOptions::new());
        let blind = damaged_in(&good, kind, 40);
        let manifest = blind.read("MANIFEST").expect("there");
        blind.write("MANIFEST", manifest[..40].to_vec());
        failed += fails_once(&blind, &RepairOptions::new().schema(schema()));
    }
    // A merge that was not finished, beside its sources: the manifest is lost, too.
    let both: Vec<_> = make_merged().into_iter().chain(make_kept()).collect();
    let both = folder_of(&both);
    both.remove("MANIFEST");
    failed += fails_once(&both, &RepairOptions::new().schema(schema()));
    failed
}

/// How many operations the repair of that folder has, each of which failed in two ways.
fn fails_once(folder: &Folder, options: &RepairOptions) -> usize {
    let before = files(folder);
    let wanted = folder.fork();
    let report = wanted.repair(options).expect("repairs");
    let (there, kept) = (healthy(&wanted), copies(&wanted));
    assert!(!kept.is_empty() && report.kept.len() == kept.len(), "{report:?}");
    assert!(kept.iter().all(|copy| before.iter().any(|(_, bytes)| bytes == copy)));
    let blind = report.damage.iter().any(|damage| damage.file.ends_with("MANIFEST"));
    for at in 0.. {
        for code in [5, 24] {
            let recorder = Recorder::over(folder);
            recorder.fail(at..at + 1, Failure { code, percent_written: 50 });
            let tried = recorder.repair(options);
            if recorder.tried() <= at {
                return at;
            }
            let mut replay = recorder.replay();
            while replay.step() {}
            let left = replay.folder(|_| true, None);
            let when = format!("operation {at} fails with {code}: {tried:?}");
            match tried {
                Ok(same) => assert_eq!(same, report, "{when}"),
                Err(Error::Io { .. }) => {
                    let again = left.repair(options).unwrap_or_else(|e| panic!("{when}, {e}"));
                    // The manifest may have been put in its place all the same. Without one, what
                    // the first run wrote is there for the second, too.
                    let done = again.was_intact() && again.kept.is_empty();
                    let (rows, lost) = (again.rows == report.rows, again.lost <= report.lost);
                    let same = if blind { rows && lost } else { bare(&again) == bare(&report) };
                    assert!(done || same, "{when}: {again:?}, expected {report:?}");
                }
                Err(e) => panic!("{when}: {e}"),
            }
            assert_eq!(healthy(&left), there, "{when}");
            let found = copies(&left);
            assert!(found == kept || (blind && found.is_superset(&kept)), "{when}");
        }
    }
    unreachable!("a repair ends")
}

/// But for the names of the copies: where one run has failed others may be there.
fn bare(report: &Repaired) -> Repaired {
    let mut report = report.clone();
    report.kept.clear();
    report
}

/// What the copies of damaged files hold.
fn copies(folder: &Folder) -> BTreeSet<Vec<u8>> {
    let files = files(folder).into_iter();
    files.filter(|(name, _)| name.starts_with("damaged-")).map(|(_, bytes)| bytes).collect()
}

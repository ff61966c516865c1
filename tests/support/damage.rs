//! Collections of which something is damaged, and what repair makes of them.

use matryo::testing::{Folder, merge_all};
use matryo::{Collection, Options, RepairOptions, Repaired, json};

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

//! Files of a collection, changed, with every checksum right: to open them, to
//! read them and to write on must end in a typed error or in rows that stay
//! what they are.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use matryo::testing::Folder;
use matryo::testing::format::LAYOUTS;
use matryo::{
    Collection, Error, FieldKind, IdKind, Metric, Options, Precision, RowId, Schema, json,
};

use super::input::{Input, edit};
use crate::support::forge::{field, number, reseal_all, shift, size_of, use_all};
use crate::support::{files, folder_of, read_only, vector};

type Files = Vec<(String, Vec<u8>)>;

/// Counts and lengths that are likely to break something.
const NUMBERS: [u64; 12] =
    [0, 1, 7, 64, 4095, 4096, 65_536, 1 << 31, u32::MAX as u64, 1 << 32, 1 << 62, u64::MAX];

const FRESH: &str = "seg-0000000099";

/// Two segments, tombstones, a log, and every kind of field. What is written
/// depends on the flavour alone.
fn sample(flavour: usize) -> Files {
    const DIMS: usize = 8;
    let (metric, stored, ids) = [
        (Metric::Cosine, Precision::F32, IdKind::U64),
        (Metric::L2, Precision::F16, IdKind::Str),
        (Metric::Dot, Precision::BF16, IdKind::U64),
    ][flavour];
    let schema = Schema::builder(DIMS).granularities([4]).metric(metric).stored(stored).ids(ids);
    let schema = schema.list_field("lang", FieldKind::Keyword).field("n", FieldKind::Integer);
    let folder = Folder::default();
    let collection = folder.create(schema.build().expect("valid"), Options::new()).expect("create");
    let id = |n: u64| match ids {
        IdKind::U64 => RowId::U64(n),
        IdKind::Str => RowId::from(format!("row {n}")),
    };
    for first in [0, 6, 12] {
        let mut batch = collection.batch();
        for n in first..first + 6 {
            let lang = ["en", "de", "el"][n as usize % 3];
            let payload = json!({"n": n, "lang": [lang, "x"], "text": "t".repeat(n as usize)});
            batch.upsert(id(n), &vector(n, DIMS), payload).expect("upsert");
        }
        batch.delete(id(first / 2)).expect("delete");
        batch.commit().expect("commit");
        if first < 12 {
            collection.flush().expect("flush");
        }
    }
    collection.upsert(id(9), &vector(99, DIMS), ()).expect("commit");
    files(&folder.fork())
}

fn samples() -> &'static [Files; 3] {
    static SAMPLES: OnceLock<[Files; 3]> = OnceLock::new();
    SAMPLES.get_or_init(|| [0, 1, 2].map(sample))
}

fn find<'a>(files: &'a mut Files, start: &str) -> Option<&'a mut Vec<u8>> {
    files.iter_mut().find(|f| f.0.starts_with(start)).map(|f| &mut f.1)
}

/// All rows, in no order.
fn rows(collection: &Collection) -> Result<BTreeMap<String, usize>, Error> {
    let mut rows = BTreeMap::new();
    for row in collection.snapshot() {
        let row = row?;
        let bits: Vec<u32> = row.vector.iter().map(|v| v.to_bits()).collect();
        *rows.entry(format!("{:?} {bits:?} {:?}", row.id, row.payload)).or_default() += 1;
    }
    Ok(rows)
}

fn typed(e: &Error) {
    let known = matches!(
        e,
        Error::Corrupt(_) | Error::UnsupportedFormat { .. } | Error::NotACollection { .. }
    );
    assert!(known, "{e}");
}

/// Opens such a folder for reading and for writing, and closes it.
fn exercise(mut files: Files) {
    reseal_all(&mut files);
    let folder = folder_of(&files);
    let seen = folder.open(read_only()).map(|collection| {
        let whole = use_all(&collection).is_ok();
        rows(&collection).ok().filter(|_| whole)
    });
    assert!(folder.names() == folder_of(&files).names(), "reading changes nothing");
    let _ = seen.as_ref().inspect_err(|e| typed(e));
    let collection = match folder.open(Options::new()) {
        Ok(collection) => collection,
        Err(e) => return typed(&e),
    };
    let seen = seen.expect("what opens for writing opens for reading");
    if let Some(seen) = &seen {
        assert_eq!(rows(&collection).expect("as before"), *seen, "recovery changes no row");
    }
    let dims = collection.schema().dims();
    let id = match collection.schema().ids() {
        IdKind::U64 => RowId::U64(3),
        IdKind::Str => RowId::from("row 3"),
    };
    let mut expected = None;
    let commit = collection.upsert(id, &vec![1.0; dims], ());
    if commit.is_ok() && seen.is_some() {
        expected = rows(&collection).ok();
    }
    if let (Err(e), Some(_)) = (collection.flush(), &expected) {
        typed(&e);
        expected = None;
    }
    drop(collection);
    if let Some(expected) = expected {
        let again = folder.open(Options::new()).expect("was closed cleanly");
        assert_eq!(rows(&again).expect("were read before"), expected, "a flush changes no row");
    }
}

/// Which files there are, and any bytes of them.
pub(super) fn open_dir(data: &[u8]) {
    let mut input = Input(data);
    let mut files = selected(&mut input);
    while !input.is_empty() && !files.is_empty() {
        let at = input.below(files.len());
        match input.below(8) {
            0 => drop(files.remove(at)),
            1 => {
                let other = files[input.below(files.len())].1.clone();
                files[at].1 = other;
            }
            2 => {
                let name = input.pick(&[FRESH, "wal-0000000098", "tmp-1", "LOCK", "note"]);
                if !files.iter().any(|f| f.0 == name) {
                    let bytes = files[at].1.clone();
                    files.push((name.into(), bytes));
                }
            }
            3..6 => set_field(&mut input, &mut files[at]),
            _ => edit(&mut input, &mut files[at].1, &NUMBERS),
        }
    }
    exercise(files);
}

/// Sets a field of one of the structures that a file of this kind has.
fn set_field(input: &mut Input, (name, bytes): &mut (String, Vec<u8>)) {
    let nth = input.below(12);
    let (structure, start) = match name.split('-').next() {
        _ if input.below(6) == 0 => ("file_header", 0),
        Some("seg") => {
            let footer = bytes.len().saturating_sub(size_of("segment_footer"));
            let table = number(bytes, shift(field("segment_footer", "TABLE_AT"), footer));
            match nth {
                0 => ("segment_footer", footer),
                _ => (
                    "region_entry",
                    (table as usize).wrapping_add((nth - 1) * size_of("region_entry")),
                ),
            }
        }
        Some("wal") => ("wal_frame", 64),
        _ => {
            let (segment, log) = (size_of("segment_entry"), size_of("log_entry"));
            match nth % 4 {
                0 => ("manifest_body", 64),
                1 => ("log_entry", bytes.len().saturating_sub(log)),
                n => ("segment_entry", bytes.len().saturating_sub(log + (n - 1) * segment)),
            }
        }
    };
    let layout = LAYOUTS.iter().find(|l| l.0 == structure).expect("a structure");
    let (_, at, size) = layout.2[input.below(layout.2.len())];
    let width = size.min(8);
    let place = shift(at..at + width, start);
    let value = match input.below(3) {
        0 => input.pick(&NUMBERS),
        1 => input.number(8),
        _ => number(bytes, place.clone()).wrapping_add(u64::from(input.byte())),
    };
    if let Some(place) = bytes.get_mut(place) {
        place.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

fn selected(input: &mut Input) -> Files {
    samples()[input.below(3)].clone()
}

/// The frames of a log; the rest of the folder is as it was.
pub(super) fn wal_replay(data: &[u8]) {
    let mut input = Input(data);
    let mut files = selected(&mut input);
    let log = find(&mut files, "wal-").expect("there is a log");
    log.truncate(64);
    log.extend_from_slice(input.0);
    exercise(files);
}

pub(super) fn wal_seeds() -> Vec<Vec<u8>> {
    let log = |flavour: usize| {
        find(&mut samples()[flavour].clone(), "wal-").expect("a log").split_off(64)
    };
    (0..3).map(|flavour| [vec![flavour as u8], log(flavour)].concat()).collect()
}

/// The body of a manifest; the files it may name are there.
pub(super) fn manifest(data: &[u8]) {
    let mut input = Input(data);
    let mut files = selected(&mut input);
    let manifest = find(&mut files, "MANIFEST").expect("there is one");
    manifest.truncate(64);
    manifest.extend_from_slice(input.0);
    exercise(files);
}

pub(super) fn manifest_seeds() -> Vec<Vec<u8>> {
    let body = |flavour: usize| {
        find(&mut samples()[flavour].clone(), "MANIFEST").expect("there").split_off(64)
    };
    (0..3).map(|flavour| [vec![flavour as u8], body(flavour)].concat()).collect()
}

/// A segment. Zeros are written as `0, how many`, for most of it is padding.
pub(super) fn segment_read(data: &[u8]) {
    let mut input = Input(data);
    let mut files = selected(&mut input);
    let segment = find(&mut files, "seg-").expect("there is one");
    segment.clear();
    while !input.is_empty() && segment.len() < 1 << 17 {
        match input.byte() {
            0 => segment.resize(segment.len() + input.number(2) as usize, 0),
            byte => segment.push(byte),
        }
    }
    let (len, footer) =
        (segment.len() as u64, segment.len().saturating_sub(size_of("segment_footer")));
    let rows = number(segment, shift(field("segment_footer", "ROWS"), footer));
    let file = number(segment, field("file_header", "FILE_NUMBER"));
    set_entry(&mut files, "FILE", file, &[("FILE_LEN", len), ("ROWS", rows)]);
    exercise(files);
}

/// Sets fields of the entries that name such a file, by `key`, in the manifest.
fn set_entry(files: &mut Files, key: &str, file: u64, values: &[(&str, u64)]) {
    let manifest = find(files, "MANIFEST").expect("there is one");
    let at = |name| shift(field("manifest_body", name), 64);
    let mut start = 64 + size_of("manifest_body") + number(manifest, at("SCHEMA_LEN")) as usize;
    for _ in 0..number(manifest, at("SEGMENTS")) {
        if number(manifest, shift(field("segment_entry", key), start)) == file {
            for (name, value) in values {
                let place = shift(field("segment_entry", name), start);
                let width = place.len();
                manifest[place].copy_from_slice(&value.to_le_bytes()[..width]);
            }
        }
        start += size_of("segment_entry");
    }
}

pub(super) fn segment_seeds() -> Vec<Vec<u8>> {
    let packed = |flavour: usize| {
        let segment = find(&mut samples()[flavour].clone(), "seg-").expect("there").clone();
        let mut out = vec![flavour as u8];
        for run in segment.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
            match run[0] {
                0 => run.chunks(65_535).for_each(|zeros| {
                    out.push(0);
                    out.extend((zeros.len() as u16).to_le_bytes());
                }),
                _ => out.extend_from_slice(run),
            }
        }
        out
    };
    (0..3).map(packed).collect()
}

/// A list of dead rows, or the index of a field.
pub(super) fn bitmap(data: &[u8]) {
    let mut input = Input(data);
    let mut files = selected(&mut input);
    match input.below(3) {
        0 => {
            let dead = roaring::RoaringBitmap::deserialize_from(input.0).map_or(1, |b| b.len());
            let tombstones = find(&mut files, "del-").expect("there are some");
            tombstones.truncate(64);
            tombstones.extend_from_slice(input.0);
            let file = number(tombstones, field("file_header", "FILE_NUMBER"));
            set_entry(&mut files, "TOMBSTONES", file, &[("DEAD", dead)]);
        }
        nth => {
            let segment = find(&mut files, "seg-").expect("there is one");
            let (entry, region) = field_index(segment, nth - 1);
            let bytes = &input.0[..input.0.len().min(4096)];
            let page = &mut segment[region.start..region.start + 4096];
            page.fill(0);
            page[..bytes.len()].copy_from_slice(bytes);
            let len = shift(field("region_entry", "REGION_LEN"), entry);
            segment[len].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        }
    }
    exercise(files);
}

/// Where a field's index and its entry are in a segment.
fn field_index(segment: &[u8], nth: usize) -> (usize, std::ops::Range<usize>) {
    let footer = segment.len() - size_of("segment_footer");
    let get = |name| number(segment, shift(field("segment_footer", name), footer)) as usize;
    let entry = get("TABLE_AT") + (get("REGIONS") - 2 + nth) * size_of("region_entry");
    let get = |name| number(segment, shift(field("region_entry", name), entry)) as usize;
    (entry, get("OFFSET")..get("OFFSET") + get("REGION_LEN"))
}

pub(super) fn bitmap_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for flavour in 0..3u8 {
        let mut files = samples()[usize::from(flavour)].clone();
        let dead = find(&mut files, "del-").expect("there are some").split_off(64);
        seeds.push([vec![flavour, 0], dead].concat());
        let segment = find(&mut files, "seg-").expect("there is one");
        for nth in 0..2 {
            let (_, region) = field_index(segment, nth);
            seeds.push([&[flavour, nth as u8 + 1], &segment[region]].concat());
        }
    }
    seeds
}

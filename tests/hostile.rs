//! Files that were written to harm us: any bytes, and every checksum right.
//!
//! There is no right answer to compare with. Nothing may panic, hang or leave
//! the bounds of the file, and errors are typed.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use matryo::testing::Folder;
use matryo::testing::format::LAYOUTS;
use matryo::{
    Collection, Error, FieldKind, Filter, Funnel, IdKind, Metric, Options, Precision, RowId,
    Schema, json,
};
use support::{Rng, crc32, files, folder_of, long, read_only, vector};

const DIMS: usize = 8;

/// The place of a field, from the tables that FORMAT.md is compared with.
fn field(structure: &str, name: &str) -> std::ops::Range<usize> {
    let layout = LAYOUTS.iter().find(|l| l.0 == structure).expect("a structure");
    let (_, at, size) = layout.2.iter().find(|f| f.0 == name).expect("a field");
    *at..at + size
}

fn size_of(structure: &str) -> usize {
    LAYOUTS.iter().find(|l| l.0 == structure).expect("a structure").1
}

fn number(bytes: &[u8], at: std::ops::Range<usize>) -> u64 {
    bytes.get(at).map_or(0, |b| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

fn put_crc(bytes: &mut [u8], at: std::ops::Range<usize>, crc: u32) {
    if let Some(field) = bytes.get_mut(at) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

fn shift(range: std::ops::Range<usize>, by: usize) -> std::ops::Range<usize> {
    range.start.wrapping_add(by)..range.end.wrapping_add(by)
}

/// Makes all checksums of one file right again, and returns what the manifest
/// should say of it.
fn reseal(name: &str, bytes: &mut [u8]) -> u32 {
    let mut vouched = 0;
    if name.starts_with("seg-") {
        vouched = reseal_segment(bytes);
    } else if name.starts_with("wal-") {
        reseal_log(bytes);
    } else if let Some(body) = bytes.get(64..) {
        vouched = crc32(body);
        put_crc(bytes, field("file_header", "BODY_CRC"), vouched);
    }
    if bytes.len() >= 64 {
        let crc = crc32(&bytes[..60]);
        put_crc(bytes, field("file_header", "HEADER_CRC"), crc);
    }
    vouched
}

fn reseal_segment(bytes: &mut [u8]) -> u32 {
    let Some(footer) = bytes.len().checked_sub(size_of("segment_footer")) else { return 0 };
    let get = |bytes: &[u8], name| number(bytes, shift(field("segment_footer", name), footer));
    let table = get(bytes, "TABLE_AT") as usize;
    let regions = (get(bytes, "REGIONS") as usize).min(64);
    let checksums = table.wrapping_add(regions * size_of("region_entry"));
    for region in 0..regions {
        let at = table.wrapping_add(region * size_of("region_entry"));
        let get = |name| number(bytes, shift(field("region_entry", name), at)) as usize;
        let (block, start, len) = (get("BLOCK_LEN"), get("OFFSET"), get("REGION_LEN"));
        let first = get("FIRST_CHECKSUM");
        let blocks = len.checked_div(block).unwrap_or(0).min(1000);
        for n in 0..=blocks {
            let from = start.wrapping_add(n * block);
            let to = from.wrapping_add(block).min(start.wrapping_add(len));
            let Some(crc) = bytes.get(from..to).map(crc32) else { break };
            if from < to {
                let at = checksums.wrapping_add((first + n) * 4);
                put_crc(bytes, at..at.wrapping_add(4), crc);
            }
        }
    }
    let crc = bytes.get(table..footer).map_or(0, crc32);
    put_crc(bytes, shift(field("segment_footer", "TABLE_CRC"), footer), crc);
    let footer_crc = crc32(&bytes[footer..footer + 56]);
    put_crc(bytes, shift(field("segment_footer", "FOOTER_CRC"), footer), footer_crc);
    crc
}

fn reseal_log(bytes: &mut [u8]) {
    let mut at = 64;
    while at + size_of("wal_frame") <= bytes.len() {
        let len = number(bytes, shift(field("wal_frame", "BODY_LEN"), at)) as usize;
        let body = at + size_of("wal_frame");
        if let Some(crc) = bytes.get(body..body + len).map(crc32) {
            put_crc(bytes, shift(field("wal_frame", "BODY_CRC"), at), crc);
        }
        let place = [
            &bytes[field("file_header", "COLLECTION")],
            &bytes[field("file_header", "FILE_NUMBER")],
        ];
        let head = &bytes[at..at + field("wal_frame", "HEAD_CRC").start];
        let crc = crc32(&[place[0], place[1], &(at as u64).to_le_bytes(), head].concat());
        put_crc(bytes, shift(field("wal_frame", "HEAD_CRC"), at), crc);
        at = (body + len).next_multiple_of(8);
    }
}

/// Makes all checksums right: of the files, then of the manifest that names them.
fn reseal_all(files: &mut [(String, Vec<u8>)]) {
    let mut vouched = Vec::new();
    for (name, bytes) in files.iter_mut().filter(|f| f.0 != "MANIFEST") {
        vouched.push((name.clone(), reseal(name, bytes), bytes.clone()));
    }
    let vouched = |name: &str| vouched.iter().find(|v| v.0 == name);
    let manifest =
        files.iter_mut().find(|f| f.0 == "MANIFEST").map(|f| &mut f.1).expect("is there");
    let get = |bytes: &[u8], s, name, at| number(bytes, shift(field(s, name), at)) as usize;
    let mut at = 64 + size_of("manifest_body") + get(manifest, "manifest_body", "SCHEMA_LEN", 64);
    for _ in 0..get(manifest, "manifest_body", "SEGMENTS", 64).min(100) {
        let segment = format!("seg-{:010}", get(manifest, "segment_entry", "FILE", at));
        let tombstones = format!("del-{:010}", get(manifest, "segment_entry", "TOMBSTONES", at));
        if let Some(v) = vouched(&segment) {
            put_crc(manifest, shift(field("segment_entry", "TABLE_CRC"), at), v.1);
        }
        if let Some(v) = vouched(&tombstones) {
            put_crc(manifest, shift(field("segment_entry", "TOMBSTONES_CRC"), at), v.1);
        }
        at += size_of("segment_entry");
    }
    for _ in 0..get(manifest, "manifest_body", "LOGS", 64).min(100) {
        let log = format!("wal-{:010}", get(manifest, "log_entry", "FILE", at));
        let len = get(manifest, "log_entry", "LOG_LEN", at);
        if let Some(crc) = vouched(&log).and_then(|v| v.2.get(..len)).map(crc32) {
            put_crc(manifest, shift(field("log_entry", "LOG_CRC"), at), crc);
        }
        at += size_of("log_entry");
    }
    reseal("MANIFEST", manifest);
}

fn sample(metric: Metric, stored: Precision, ids: IdKind) -> Folder {
    let folder = Folder::default();
    let schema = Schema::builder(DIMS).granularities([4]).metric(metric).stored(stored).ids(ids);
    let schema = schema.field("n", FieldKind::Integer).list_field("tags", FieldKind::Keyword);
    let collection = folder.create(schema.build().expect("valid"), Options::new()).expect("create");
    let id = |n: u64| match ids {
        IdKind::U64 => RowId::U64(n),
        IdKind::Str => RowId::from(format!("row {n}")),
    };
    for first in [0, 6, 12] {
        let mut batch = collection.batch();
        for n in first..first + 6 {
            let payload = if n % 4 == 3 { json!({}) } else { json!({"n": n, "tags": ["a", "b"]}) };
            batch.upsert(id(n), &vector(n, DIMS), payload).expect("upsert");
        }
        batch.delete(id(first / 2)).expect("delete");
        batch.commit().expect("commit");
        if first < 12 {
            collection.flush().expect("flush");
        }
    }
    collection.upsert(id(9), &vector(99, DIMS), ()).expect("commit");
    folder.fork()
}

/// Does all there is to do with a collection, and lets no error through that
/// is not typed.
fn use_all(collection: &Collection) -> Result<(), Error> {
    let query = vector(3, DIMS);
    let mut first = Ok(());
    let mut note = |result: Result<(), Error>| {
        if let Err(e) = result {
            // Some questions do not fit the schema, forged or not.
            let asked = matches!(e, Error::Invalid { .. } | Error::Vector(_));
            if !asked && first.is_ok() {
                assert!(matches!(e, Error::Corrupt(_)), "{e}");
                first = Err(e);
            }
        }
    };
    for n in 0..20u64 {
        note(collection.get(n).map(|_| ()));
        note(collection.get(format!("row {n}")).map(|_| ()));
    }
    let dims = collection.schema().dims();
    let query: Vec<f32> = query.iter().copied().cycle().take(dims.min(4096)).collect();
    let search = || collection.search(&query).limit(9).payloads(true);
    note(search().exact().run().map(|_| ()));
    for filter in ["n >= 3 AND n < 9", "NOT tags = 'a'", "tags PREFIX 'b' OR NOT n EXISTS"] {
        let filter: Filter = filter.parse().expect("a filter");
        note(collection.count(&filter).map(|_| ()));
        note(search().filter(filter).run().map(|_| ()));
    }
    note(search().dims(3).run().map(|_| ()));
    note(search().funnel(Funnel::stages([(2, 12), (3, 9)])).run().map(|_| ()));
    note(collection.verify().map(|_| ()));
    note(collection.info().map(|_| ()));
    first
}

fn survives(files: &[(String, Vec<u8>)], what: &str) -> bool {
    let start = Instant::now();
    let run = || {
        let folder = folder_of(files);
        let read = folder.open(read_only()).and_then(|c| use_all(&c));
        let write = folder.open(Options::new()).and_then(|collection| {
            let _ = use_all(&collection);
            let dims = collection.schema().dims();
            let _ = collection.upsert(3, &vec![1.0; dims], ());
            let _ = collection.upsert("row 3", &vec![1.0; dims], ());
            collection.flush()
        });
        for e in [read.as_ref().err(), write.as_ref().err()].into_iter().flatten() {
            let odd = matches!(e, Error::NotACollection { .. } | Error::Locked { .. });
            assert!(!odd, "{e}");
        }
        read.is_ok()
    };
    let ok = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| panic!("{what}: panicked"));
    assert!(start.elapsed() < Duration::from_secs(10), "{what}: took {:?}", start.elapsed());
    ok
}

/// Every byte that is not padding, to a few values each.
fn attack(folder: &Folder) {
    let good = files(folder);
    let mut resealed = good.clone();
    reseal_all(&mut resealed);
    assert!(resealed == good, "the checksums of an intact folder stay as they are");
    let mut rng = Rng(11);
    let (mut tried, mut opened) = (0, 0);
    for (at, (name, bytes)) in good.iter().enumerate() {
        for byte in 0..bytes.len() {
            let near = &bytes[byte.saturating_sub(8)..(byte + 8).min(bytes.len())];
            if !long() && near.iter().all(|b| *b == 0) {
                continue;
            }
            let values = [bytes[byte] ^ (1 << rng.below(8)), 0, 1, 0x7f, 0x80, 0xff];
            let few = if long() { 6 } else { 2 };
            for value in (0..few).map(|n| values[if n == 0 { 0 } else { 1 + rng.below(5) }]) {
                let mut bad = good.clone();
                bad[at].1[byte] = value;
                reseal_all(&mut bad);
                tried += 1;
                opened +=
                    usize::from(survives(&bad, &format!("{name} byte {byte} = {value:#04x}")));
            }
        }
    }
    println!("{tried} forged folders, {opened} of them without an error");
    assert!(opened > 0, "forged checksums must pass");
}

#[test]
fn forged_bytes_of_a_collection_of_numbers() {
    attack(&sample(Metric::Cosine, Precision::F32, IdKind::U64));
}

#[test]
fn forged_bytes_of_a_collection_of_strings() {
    attack(&sample(Metric::L2, Precision::F16, IdKind::Str));
}

/// Fields of counts, lengths and offsets, to the values that overflow.
#[test]
fn forged_sizes() {
    let good = files(&sample(Metric::Dot, Precision::BF16, IdKind::Str));
    let huge = [0, 1, 7, 63, 4095, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
    let mut tried = 0;
    for at in 0..good.len() {
        let (name, bytes) = &good[at];
        let (structures, starts): (&[&str], Vec<usize>) = match name.split('-').next() {
            Some("seg") => {
                let footer = bytes.len() - size_of("segment_footer");
                let get = |name| number(bytes, shift(field("segment_footer", name), footer));
                let (table, regions) = (get("TABLE_AT") as usize, get("REGIONS") as usize);
                let entries = (0..regions).map(|n| table + n * size_of("region_entry"));
                let of = |entry, name| number(bytes, shift(field("region_entry", name), entry));
                let indexes = entries.clone().filter(|entry| of(*entry, "KIND") == 9);
                let indexes = indexes.map(|entry| of(entry, "OFFSET") as usize);
                let starts = [footer].into_iter().chain(entries.clone()).chain(indexes).collect();
                (&["segment_footer", "region_entry", "field_index"], starts)
            }
            Some("wal") => (&["wal_frame"], vec![64]),
            Some("MANIFEST") => (
                &["manifest_body", "segment_entry", "log_entry"],
                vec![64, bytes.len() - 2 * 40 - 24, bytes.len() - 40 - 24, bytes.len() - 24],
            ),
            _ => (&["file_header"], vec![0]),
        };
        for structure in structures {
            let layout = LAYOUTS.iter().find(|l| l.0 == *structure).expect("a structure");
            for (start, (field, offset, size)) in
                starts.iter().flat_map(|s| layout.2.iter().map(move |f| (s, f)))
            {
                for value in huge {
                    let mut bad = good.clone();
                    let width = (*size).min(8);
                    let Some(to) = bad[at].1.get_mut(start + offset..start + offset + width) else {
                        continue;
                    };
                    to.copy_from_slice(&value.to_le_bytes()[..width]);
                    reseal_all(&mut bad);
                    survives(&bad, &format!("{name}: {structure}.{field} = {value}"));
                    tried += 1;
                }
            }
        }
    }
    println!("{tried} forged sizes");
}

/// A log is replayed through the same code that writes rows: it must not trust
/// it to have refused what a batch refuses.
#[test]
fn forged_vectors_in_a_log_are_refused() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut files = files(&sample(Metric::Cosine, Precision::F32, IdKind::U64));
        let (_, log) = files.iter_mut().find(|f| f.0.starts_with("wal-")).expect("is there");
        let vector = 64 + size_of("wal_frame") + 1 + 8;
        log[vector..vector + 4].copy_from_slice(&value.to_le_bytes());
        reseal_all(&mut files);
        let got = folder_of(&files).open(Options::new()).map(|_| ());
        assert!(matches!(got, Err(Error::Corrupt(_))), "{got:?}");
    }
}

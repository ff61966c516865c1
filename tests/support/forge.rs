//! Forging files: every checksum is made right again after bytes were changed,
//! by the offset tables that FORMAT.md is compared with.

use std::ops::Range;

use matryo::testing::format::LAYOUTS;
use matryo::{Collection, Error, FieldKind, Filter, Funnel, json};

use super::{crc32, vector};

/// The place of a field, from the tables that FORMAT.md is compared with.
pub(crate) fn field(structure: &str, name: &str) -> Range<usize> {
    let layout = LAYOUTS.iter().find(|l| l.0 == structure).expect("a structure");
    let (_, at, size) = layout.2.iter().find(|f| f.0 == name).expect("a field");
    *at..at + size
}

pub(crate) fn size_of(structure: &str) -> usize {
    LAYOUTS.iter().find(|l| l.0 == structure).expect("a structure").1
}

pub(crate) fn number(bytes: &[u8], at: Range<usize>) -> u64 {
    bytes.get(at).map_or(0, |b| b.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
}

fn put_crc(bytes: &mut [u8], at: Range<usize>, crc: u32) {
    if let Some(field) = bytes.get_mut(at) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

pub(crate) fn shift(range: Range<usize>, by: usize) -> Range<usize> {
    range.start.wrapping_add(by)..range.end.wrapping_add(by)
}

/// Makes all checksums of one file right again, and returns what the manifest
/// should say of it. `logs` are right already; vectors have so many bytes.
fn reseal(name: &str, bytes: &mut [u8], logs: &Files, vector_bytes: usize) -> u32 {
    let mut vouched = 0;
    if name.starts_with("seg-") {
        reseal_places(bytes, logs, vector_bytes);
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

type Files = Vec<(String, Vec<u8>)>;

/// The log with this number.
fn log(logs: &Files, number: u64) -> Option<&[u8]> {
    let name = format!("wal-{number:010}");
    logs.iter().find(|(found, _)| *found == name).map(|(_, bytes)| bytes.as_slice())
}

/// The regions of a segment: kind, place and length.
fn regions(bytes: &[u8]) -> Vec<(u64, usize, usize)> {
    let Some(footer) = bytes.len().checked_sub(size_of("segment_footer")) else {
        return Vec::new();
    };
    let of_footer = |name| number(bytes, shift(field("segment_footer", name), footer));
    let region = |n| {
        let at = (of_footer("TABLE_AT") as usize).wrapping_add(n * size_of("region_entry"));
        let get = |name| number(bytes, shift(field("region_entry", name), at)) as usize;
        (get("KIND") as u64, get("OFFSET"), get("REGION_LEN"))
    };
    (0..of_footer("REGIONS").min(64) as usize).map(region).collect()
}

/// What a segment says of the logs that it keeps, and of the vectors in them.
fn reseal_places(bytes: &mut [u8], logs: &Files, vector_bytes: usize) {
    const PLACES: u64 = 14;
    const LOGS: u64 = 15;
    let regions = regions(bytes);
    let of_kind = |kind| regions.iter().filter(move |region| region.0 == kind);
    let mut kept = Vec::new();
    for (_, start, len) in of_kind(LOGS) {
        for n in 0..(len / size_of("log_entry")).min(300) {
            let at = start.wrapping_add(n * size_of("log_entry"));
            kept.push(reseal_entry(bytes, at, logs));
        }
    }
    for (_, start, len) in of_kind(PLACES) {
        for row in 0..(len / size_of("place_entry")).min(10_000) {
            let place = start.wrapping_add(row * size_of("place_entry"));
            let get = |name| number(bytes, shift(field("place_entry", name), place)) as usize;
            let (log, from) = (kept.get(get("LOG")).copied().flatten(), get("OFFSET"));
            let vector = log.and_then(|log| log.get(from..from.saturating_add(vector_bytes)));
            if let Some(vector) = vector {
                put_crc(bytes, shift(field("place_entry", "VECTOR_CRC"), place), crc32(vector));
            }
        }
    }
}

/// Makes the checksum of a log entry right; the log.
fn reseal_entry<'l>(bytes: &mut [u8], at: usize, logs: &'l Files) -> Option<&'l [u8]> {
    let get = |name| number(bytes, shift(field("log_entry", name), at));
    let (log, len) = (log(logs, get("FILE"))?, get("LOG_LEN") as usize);
    if let Some(crc) = log.get(..len).map(crc32) {
        put_crc(bytes, shift(field("log_entry", "LOG_CRC"), at), crc);
    }
    Some(log)
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
pub(crate) fn reseal_all(files: &mut [(String, Vec<u8>)]) {
    let manifest = files.iter().find(|f| f.0 == "MANIFEST").map_or(&[][..], |f| &f.1);
    // The schema begins with dimensions, metric and stored precision.
    let schema = 64 + size_of("manifest_body");
    let component = if number(manifest, schema + 5..schema + 6) == 0 { 4 } else { 2 };
    let vector_bytes = number(manifest, schema..schema + 4) as usize * component;
    let (mut vouched, mut logs) = (Vec::new(), Files::new());
    let is_log = |name: &str| name.starts_with("wal-");
    for (name, bytes) in files.iter_mut().filter(|f| is_log(&f.0)) {
        vouched.push((name.clone(), reseal(name, bytes, &logs, 0), bytes.clone()));
        logs.push((name.clone(), bytes.clone()));
    }
    for (name, bytes) in files.iter_mut().filter(|f| f.0 != "MANIFEST" && !is_log(&f.0)) {
        vouched.push((name.clone(), reseal(name, bytes, &logs, vector_bytes), bytes.clone()));
    }
    let vouched = |name: &str| vouched.iter().find(|v| v.0 == name);
    let Some((_, manifest)) = files.iter_mut().find(|f| f.0 == "MANIFEST") else { return };
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
        let kept = get(manifest, "segment_entry", "KEPT", at).min(300);
        at += size_of("segment_entry");
        for _ in 0..kept {
            reseal_entry(manifest, at, &logs);
            at += size_of("log_entry");
        }
    }
    for _ in 0..get(manifest, "manifest_body", "LOGS", 64).min(100) {
        reseal_entry(manifest, at, &logs);
        at += size_of("log_entry");
    }
    reseal("MANIFEST", manifest, &logs, vector_bytes);
}

/// Does all there is to do with a collection, and lets no error through that
/// is not typed.
pub(crate) fn use_all(collection: &Collection) -> Result<(), Error> {
    let query = vector(3, 8);
    let mut first = Ok(());
    let mut note = |result: Result<(), Error>| {
        if let Err(e) = result {
            // Some questions do not fit the schema, forged or not.
            let asked =
                matches!(e, Error::Invalid { .. } | Error::Vector(_) | Error::NoSuchRow { .. });
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
    for one in collection.schema().fields() {
        let field = || matryo::field(one.name());
        let value = match one.kind() {
            FieldKind::Keyword => json!("en"),
            FieldKind::Bool => json!(true),
            _ => json!(3),
        };
        note(collection.count(&field().exists()).map(|_| ()));
        note(collection.count(&field().le(value.clone())).map(|_| ()));
        note(collection.count(&field().is_in([value])).map(|_| ()));
        note(search().filter(field().prefix("e")).run().map(|_| ()));
    }
    note(collection.snapshot().iter().try_for_each(|row| row.map(|_| ())));
    note(collection.verify().map(|_| ()));
    note(collection.info().map(|_| ()));
    first
}

//! Files that were written to harm us: any bytes, and every checksum right.
//!
//! There is no right answer to compare with. Nothing may panic, hang or leave
//! the bounds of the file, and errors are typed.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use matryo::testing::Folder;
use matryo::testing::format::LAYOUTS;
use matryo::{Error, FieldKind, IdKind, Metric, Options, Precision, RowId, Schema, json};
use support::counting::{Counting, of_this_thread};
use support::forge::{field, number, reseal_all, shift, size_of, use_all};
use support::{Rng, files, folder_of, long, read_only, vector};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DIMS: usize = 12;
/// What the use of a forged folder of some 20 KiB may allocate.
const MOST_BYTES: usize = 16 << 20;

fn sample(metric: Metric, stored: Precision, ids: IdKind) -> Folder {
    let folder = Folder::default();
    let schema = Schema::builder(DIMS).granularities([4]).metric(metric).stored(stored).ids(ids);
    let schema = schema.field("n", FieldKind::Integer).list_field("tags", FieldKind::Keyword);
    let collection = folder.create(schema.build().expect("valid"), Options::new()).expect("create");
    let id = |n: u64| match ids {
        IdKind::U64 => RowId::U64(n),
        IdKind::Str => RowId::from(format!("row {n}")),
    };
    // Rows whose vectors stay in the log, where they are long enough.
    let mut batch = collection.batch();
    for n in 20..30 {
        batch.upsert(id(n), &vector(n, DIMS), ()).expect("upsert");
    }
    batch.commit().expect("commit");
    collection.flush().expect("flush");
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
            let typed = matches!(e, Error::Corrupt(_) | Error::UnsupportedFormat { .. });
            assert!(typed, "{e:?}");
        }
        read.is_ok()
    };
    let run = || catch_unwind(AssertUnwindSafe(run));
    let (ok, most) = of_this_thread(run);
    let ok = ok.unwrap_or_else(|_| panic!("{what}: panicked"));
    assert!(most < MOST_BYTES, "{what}: {most} bytes were allocated");
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

/// What a batch would refuse is told with the file that has it.
#[test]
fn forged_payloads_of_segments_are_told_by_their_file() {
    let mut forged = files(&sample(Metric::Cosine, Precision::F32, IdKind::U64));
    let mut changed = 0;
    for (_, bytes) in forged.iter_mut().filter(|(name, _)| name.starts_with("seg-")) {
        let found = bytes.windows(5).position(|window| window == b"{\"n\":");
        found.inspect(|at| bytes[*at] = b'[');
        changed += usize::from(found.is_some());
    }
    reseal_all(&mut forged);
    let collection = folder_of(&forged).open(read_only()).expect("open");
    let errors: Vec<Error> = collection.snapshot().iter().filter_map(Result::err).collect();
    // Some of the rows are dead.
    assert!((1..=changed).contains(&errors.len()), "{changed}: {errors:?}");
    for error in errors {
        let Error::Corrupt(found) = error else { panic!("{error:?}") };
        assert!(found.file.starts_with("mem") && found.what.contains("is not JSON"), "{found}");
    }
}

/// Fields of counts, lengths and offsets, to the values that overflow.
#[test]
fn forged_sizes() {
    forge_sizes(&files(&sample(Metric::Dot, Precision::BF16, IdKind::Str)));
}

#[test]
fn forged_sizes_where_a_log_has_the_vectors() {
    let good = files(&sample(Metric::Cosine, Precision::F32, IdKind::U64));
    assert_eq!(good.iter().filter(|(name, _)| name.starts_with("wal-")).count(), 2, "a kept log");
    forge_sizes(&good);
}

fn forge_sizes(good: &[(String, Vec<u8>)]) {
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
                let indexes =
                    entries.clone().filter(|entry| [9, 14, 15].contains(&of(*entry, "KIND")));
                let indexes = indexes.map(|entry| of(entry, "OFFSET") as usize);
                let starts = [footer].into_iter().chain(entries.clone()).chain(indexes).collect();
                (
                    &["segment_footer", "region_entry", "field_index", "place_entry", "log_entry"],
                    starts,
                )
            }
            Some("wal") => (&["wal_frame"], vec![64]),
            Some("MANIFEST") => (
                &["manifest_body", "segment_entry", "log_entry"],
                // The log to be replayed, segments without logs, and one with one.
                [0, 1, 2, 3].map(|n| bytes.len() - 24 - n * 48).into_iter().chain([64]).collect(),
            ),
            _ => (&["file_header"], vec![0]),
        };
        for structure in structures {
            let layout = LAYOUTS.iter().find(|l| l.0 == *structure).expect("a structure");
            for (start, (field, offset, size)) in
                starts.iter().flat_map(|s| layout.2.iter().map(move |f| (s, f)))
            {
                for value in huge {
                    let mut bad = good.to_vec();
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
        let logs = files.iter_mut().filter(|f| f.0.starts_with("wal-"));
        let (_, log) = logs.last().expect("the one that is replayed");
        let vector = 64 + size_of("wal_frame") + 1 + 8;
        log[vector..vector + 4].copy_from_slice(&value.to_le_bytes());
        reseal_all(&mut files);
        let got = folder_of(&files).open(Options::new()).map(|_| ());
        assert!(matches!(got, Err(Error::Corrupt(_))), "{got:?}");
    }
}

//! Folders that version 1 wrote, committed under `golden/v1`: they open and
//! answer as they always did, and the same operations still give their bytes.
//!
//! `cargo test --test golden -- --ignored bless` writes them anew, which is right
//! only while the format has not been released.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use matryo::testing::Folder;
use matryo::testing::encoding::{Bits, StageCode, decode, encode};
use matryo::{
    Collection, EmbedderId, Error, FieldKind, Filter, Funnel, Hit, IdKind, Metric, Options,
    Precision, RepairOptions, Row, RowId, Schema, Value, json,
};
use support::{files, vector};

struct Golden {
    name: &'static str,
    make: fn() -> Folder,
    /// Every id that is or was there.
    ids: Vec<RowId>,
    dims: usize,
}

fn all() -> [Golden; 6] {
    let words: Vec<_> = (0..40).map(|n| RowId::from(word(n))).collect();
    let later = || with_later_regions(0x8001);
    [
        Golden { name: "numbers", make: numbers, ids: (0..90).map(RowId::U64).collect(), dims: 24 },
        Golden { name: "words", make: self::words, ids: words.clone(), dims: 20 },
        Golden { name: "linked", make: linked, ids: (0..95).map(RowId::U64).collect(), dims: 30 },
        Golden { name: "empty", make: empty, ids: vec![RowId::U64(0)], dims: 5 },
        Golden { name: "later", make: later, ids: words, dims: 20 },
        Golden { name: "fields", make: fields, ids: (0..340).map(RowId::U64).collect(), dims: 6 },
    ]
}

/// `u64` ids, cosine, `f16`: two segments, the first of two blocks and with
/// tombstones, and a log that was not closed.
fn numbers() -> Folder {
    let folder = Folder::default();
    let schema = Schema::builder(24).stored(Precision::F16).granularities([8]);
    let schema = schema.stages([StageCode::new(24, Bits::Eight)]).build().expect("valid");
    let collection = folder.create(schema, Options::new()).expect("create");
    for ids in [0..70, 60..80] {
        let mut batch = collection.batch();
        for id in ids {
            batch.upsert(id, &vector(id, 24), ()).expect("fits");
        }
        batch.commit().expect("commit");
        collection.flush().expect("flush");
    }
    let mut batch = collection.batch();
    batch.delete(3).expect("fits").delete(75).expect("fits").delete(1000).expect("fits");
    batch.upsert(80, &vector(80, 24), json!({"late": true})).expect("fits");
    batch.commit().expect("commit");
    collection.upsert(5, &vector(500, 24), ()).expect("commit");
    folder.fork()
}

fn word(n: u64) -> String {
    format!("{}{n}", ["fig", "\u{e4}pfel", "\u{1f980}", "a much longer id "][n as usize % 4])
}

/// String ids, l2, `bf16`, payloads short and long, 1 bit and 8 bits; closed.
fn words() -> Folder {
    let folder = Folder::default();
    let code = StageCode::new;
    let stages = [code(7, Bits::Eight), code(20, Bits::One), code(20, Bits::Four)];
    let schema = Schema::builder(20).stored(Precision::BF16).metric(Metric::L2).ids(IdKind::Str);
    let schema = schema.granularities([7, 13]).stages(stages).build().expect("valid");
    let collection = folder.create(schema, Options::new()).expect("create");
    let mut batch = collection.batch();
    for n in 0..30 {
        let payload = match n % 3 {
            0 => json!(null),
            1 => json!({"n": n}),
            _ => json!({"text": word(n).repeat(30), "x": n as f64 / 7.0, "a": [n, null]}),
        };
        batch.upsert(word(n), &vector(n, 20), payload).expect("fits");
    }
    batch.commit().expect("commit");
    collection.flush().expect("flush");
    let mut batch = collection.batch();
    for n in 28..40 {
        batch.upsert(word(n), &vector(n + 100, 20), json!({"late": n})).expect("fits");
    }
    batch.delete(word(2)).expect("fits");
    batch.commit().expect("commit");
    drop(collection);
    folder
}

/// Two segments with graphs, one of which has lost rows, and rows in the log.
fn linked() -> Folder {
    let folder = Folder::default();
    let schema = Schema::builder(30).granularities([10]).build().expect("valid");
    let collection = folder.create(schema, Options::new()).expect("create");
    for ids in [0..70, 70..90] {
        let mut batch = collection.batch();
        for id in ids {
            batch.upsert(id, &vector(id, 30), ()).expect("fits");
        }
        batch.commit().expect("commit");
        collection.flush().expect("flush");
    }
    assert_eq!(collection.build_graphs().expect("build").segments, 2);
    collection.delete(33).expect("commit");
    collection.flush().expect("flush");
    collection.upsert(90, &vector(90, 30), json!({"late": true})).expect("commit");
    drop(collection);
    folder
}

/// Never written to; it knows what would make its vectors.
fn empty() -> Folder {
    let folder = Folder::default();
    let embedder = EmbedderId::new("f\u{fc}nf", [5; 32]).part("graph", [1; 32]).part("b", [2; 32]);
    let schema = Schema::builder(5).metric(Metric::Dot).embedder(embedder).build().expect("valid");
    drop(folder.create(schema, Options::new()).expect("create"));
    folder
}

/// Declared fields of every kind, each missing or null in some rows; more than 256
/// distinct integers, so that one index has numbers and the others bitmaps. Two
/// segments, tombstones, rows in the log; the second segment has no value at all.
fn fields() -> Folder {
    let folder = Folder::default();
    let schema = Schema::builder(6)
        .field("lang", FieldKind::Keyword)
        .field("year", FieldKind::Integer)
        .field("meta.score", FieldKind::Float)
        .field("open", FieldKind::Bool)
        .field("at", FieldKind::Timestamp)
        .list_field("tags", FieldKind::Keyword);
    let schema = schema.build().expect("valid");
    let collection = folder.create(schema, Options::new()).expect("create");
    let payload = |n: u64| {
        let mut payload = json!({"n": n});
        let fields = [
            ("lang", json!(["de", "en", "f\u{fc}r", ""][n as usize % 4])),
            ("year", json!(n as i64 * 3 - 200)),
            ("meta", json!({"score": n as f64 / 8.0 - 5.0})),
            ("open", json!(n.is_multiple_of(3))),
            ("at", json!(format!("2026-11-{:02}T10:00:00Z", n % 28 + 1))),
            ("tags", json!([format!("t{}", n % 5), "all"])),
        ];
        for (at, (name, value)) in fields.into_iter().enumerate() {
            match (n as usize + at) % 7 {
                0 => {}
                1 => payload[name] = json!(null),
                _ => payload[name] = value,
            }
        }
        if n % 11 == 10 { json!(null) } else { payload }
    };
    let put = |ids: std::ops::Range<u64>, payload: &dyn Fn(u64) -> Value| {
        let mut batch = collection.batch();
        for id in ids {
            batch.upsert(id, &vector(id, 6), payload(id)).expect("fits");
        }
        batch.commit().expect("commit");
    };
    put(0..320, &payload);
    collection.flush().expect("flush");
    put(310..330, &|_| json!(null));
    collection.delete(8).expect("delete");
    collection.flush().expect("flush");
    put(330..335, &payload);
    drop(collection);
    folder
}

/// Filters on every kind of field, with the rows that miss it on both sides.
const FILTERS: [&str; 12] = [
    "lang = 'de'",
    "NOT lang = 'de'",
    "lang IN ('en', '')",
    "lang EXISTS",
    "NOT year EXISTS",
    "year >= 100 AND year < 400",
    "meta.score < -1.5",
    "open = true",
    "NOT (open = false)",
    "at >= '2026-11-20T00:00:00Z'",
    "tags = 't3' OR year = -200",
    "NOT tags EXISTS",
];

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// All that a collection answers, to the bit.
fn answers(golden: &Golden, collection: &Collection) -> Value {
    let row = |id: &RowId| {
        let row: Option<Row> = collection.get(id).expect("get");
        json!({"id": id.to_string(), "row": row.map(|r| json!({
            "vector": bits(&r.vector), "payload": r.payload }))})
    };
    let hit = |h: Hit| json!([h.id.to_string(), bits(&[h.score])[0]]);
    let query = vector(4711, golden.dims);
    let search = || collection.search(&query).limit(12);
    let searches = [search().exact(), search().exact().dims(golden.dims / 2)];
    let funnel = Funnel::stages([(golden.dims / 3, 30)]);
    let searches = searches.into_iter().chain([search().funnel(funnel), search().recall(0.8)]);
    let hits = searches.map(|s| s.run().expect("search").hits.into_iter().map(hit).collect());
    let filtered = |text: &&str| {
        let filter: Filter = text.parse().expect("a filter");
        let hits = search().exact().limit(1000).filter(filter.clone()).run().expect("search").hits;
        let count = collection.count(&filter).expect("count");
        let ids: Vec<_> = hits.iter().map(|hit| hit.id.to_string()).collect();
        json!({"filter": text, "count": count, "ids": ids})
    };
    let mut answers = json!({
        "rows": golden.ids.iter().map(row).collect::<Vec<_>>(),
        "len": collection.len(),
        "searches": hits.collect::<Vec<Value>>(),
    });
    if golden.name == "fields" {
        answers["filters"] = FILTERS.iter().map(filtered).collect();
    }
    answers
}

fn bits(values: &[f32]) -> Vec<String> {
    values.iter().map(|v| format!("{:08x}", v.to_bits())).collect()
}

fn expected(golden: &Golden) -> Value {
    let text = fs::read_to_string(home().join(golden.name).with_extension("json"));
    text.expect("is committed").parse().expect("is JSON")
}

fn committed(golden: &Golden) -> Vec<(String, Vec<u8>)> {
    let dir = fs::read_dir(home().join(golden.name).with_extension("matryo")).expect("committed");
    let read = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().expect("a name of ours");
        (name, fs::read(entry.path()).expect("readable"))
    };
    let mut files: Vec<_> = dir.map(|entry| read(entry.expect("listed"))).collect();
    files.sort();
    files
}

#[test]
#[ignore = "writes the golden folders anew: only before a release of the format"]
fn bless() {
    for golden in all() {
        let folder = (golden.make)();
        let dir = home().join(golden.name).with_extension("matryo");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("create");
        for (name, bytes) in files(&folder) {
            fs::write(dir.join(name), bytes).expect("write");
        }
        let collection = folder.open(support::read_only()).expect("open");
        let answers = format!("{:#}\n", answers(&golden, &collection));
        fs::write(dir.with_extension("json"), answers).expect("write");
    }
}

#[test]
fn golden_folders_open_and_answer_as_ever() {
    for golden in all() {
        let dir = tempfile::tempdir().expect("temporary folder");
        for (name, bytes) in committed(&golden) {
            fs::write(dir.path().join(name), bytes).expect("copy");
        }
        let want = expected(&golden);
        // As a reader, as a writer that recovers, after a close, after a flush.
        let read = Collection::open_with(dir.path(), support::read_only()).expect("open");
        assert_eq!(answers(&golden, &read), want, "{}", golden.name);
        drop(read);
        for _ in 0..2 {
            let collection = Collection::open(dir.path()).expect("open");
            collection.verify().expect("whole");
            assert_eq!(answers(&golden, &collection), want, "{}", golden.name);
        }
        let collection = Collection::open(dir.path()).expect("open");
        collection.flush().expect("flush");
        assert_eq!(answers(&golden, &collection), want, "{} flushed", golden.name);
    }
}

#[test]
fn golden_graphs_can_be_walked() {
    let folder = Folder::default();
    let linked = all().into_iter().find(|golden| golden.name == "linked").expect("is there");
    committed(&linked).into_iter().for_each(|(name, bytes)| folder.write(&name, bytes));
    let collection = folder.open(Options::new()).expect("open");
    for query in [vector(1, 30), vector(2, 30), vector(3, 30)] {
        let walk = collection.search(&query).funnel(Funnel::graph(40, [])).run().expect("walk");
        assert!(walk.explain.stages.iter().any(|stage| stage.name.starts_with("graph")));
        assert_eq!(walk.hits, collection.search(&query).exact().run().expect("exact").hits);
    }
}

/// Beside the answers that were recorded: what the operations say.
#[test]
fn golden_rows_are_those_that_were_written() {
    let [numbers, words, ..] = all();
    let rows = |golden: &Golden| expected(golden)["rows"].as_array().expect("rows").clone();
    let round = |precision: Precision, vector: Vec<f32>| {
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; vector.len()]);
        encode(precision, &vector, &mut bytes).expect("in range");
        decode(precision, &bytes, &mut back);
        json!(bits(&back))
    };
    for (id, row) in (0u64..).zip(rows(&numbers)) {
        let seed = if id == 5 { 500 } else { id };
        let gone = [3, 75].contains(&id) || id > 80;
        let vector = round(Precision::F16, vector(seed, 24));
        let payload = if id == 80 { json!({"late": true}) } else { json!({}) };
        let want = if gone { json!(null) } else { json!({"vector": vector, "payload": payload}) };
        assert_eq!(row["row"], want, "row {id}");
    }
    for (n, row) in (0u64..).zip(rows(&words)) {
        let seed = if n < 28 { n } else { n + 100 };
        let vector = round(Precision::BF16, vector(seed, 20));
        assert_eq!(row["row"].is_null(), n == 2, "row {n}");
        assert!(n == 2 || row["row"]["vector"] == vector, "row {n}");
        assert!(n < 28 || row["row"]["payload"] == json!({"late": n}), "row {n}");
    }
}

#[test]
fn the_same_operations_still_give_the_golden_bytes() {
    for golden in all() {
        let written = files(&(golden.make)());
        let committed = committed(&golden);
        let names = |files: &[(String, Vec<u8>)]| {
            files.iter().map(|f| (f.0.clone(), f.1.len())).collect::<Vec<_>>()
        };
        assert_eq!(names(&written), names(&committed), "{}", golden.name);
        for ((name, now), (_, then)) in written.iter().zip(&committed) {
            let at = now.iter().zip(then).position(|(a, b)| a != b);
            assert_eq!(at, None, "{} {name}: first difference", golden.name);
        }
    }
}

/// Flags of a newer version do what FORMAT.md section 5 says of them.
#[test]
fn unknown_flags_are_ignored_or_allow_only_reading_or_refuse() {
    let opens = |flags: usize, options: Options| {
        let folder = words();
        let mut manifest = folder.read("MANIFEST").expect("there");
        manifest[flags] = 1;
        let crc = support::crc32(&manifest[..60]);
        manifest[60..64].copy_from_slice(&crc.to_le_bytes());
        folder.write("MANIFEST", manifest);
        match folder.open(options) {
            Ok(collection) => !collection.is_empty(),
            Err(Error::UnsupportedFormat { .. }) => false,
            Err(other) => panic!("{other}"),
        }
    };
    let (compatible, read_only, incompatible) = (12, 16, 20);
    assert!(opens(compatible, Options::new()));
    assert!(!opens(read_only, Options::new()) && opens(read_only, support::read_only()));
    assert!(!opens(incompatible, Options::new()) && !opens(incompatible, support::read_only()));
}

/// A newer major version is refused, and its files are left alone.
#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let newer = |mut bytes: Vec<u8>| {
        bytes[8] = 2;
        let crc = support::crc32(&bytes[..60]);
        bytes[60..64].copy_from_slice(&crc.to_le_bytes());
        bytes
    };
    let segment = words().read("seg-0000000002").expect("there");
    let manifest = words().read("MANIFEST").expect("there");
    // The manifest itself; a file that no manifest names.
    for (name, bytes) in [("MANIFEST", manifest), ("seg-0000000099", segment)] {
        let folder = words();
        folder.write(name, newer(bytes));
        let before = files(&folder);
        let opened = folder.open(Options::new()).map(|_| ());
        assert!(matches!(opened, Err(Error::UnsupportedFormat { .. })), "{name}: {opened:?}");
        assert_eq!(files(&folder), before);
    }
}

/// The end of a segment taken apart: where the table begins, its entries, checksums.
fn table(segment: &[u8]) -> (usize, Vec<[u8; 32]>, Vec<u32>) {
    let footer = &segment[segment.len() - 64..];
    let number = |at: usize| u32::from_le_bytes(footer[at..at + 4].try_into().expect("four"));
    let (at, regions) = (number(0) as usize, number(16) as usize);
    let (entries, sums) = segment[at..segment.len() - 64].split_at(regions * 32);
    let sums = sums.chunks(4).map(|b| u32::from_le_bytes(b.try_into().expect("four")));
    (at, entries.chunks(32).map(|e| e.try_into().expect("32 bytes")).collect(), sums.collect())
}

/// The folder of `words` with two more regions in its segment: an empty one in front,
/// and one of 5000 bytes behind; as version 1.1 might write it.
fn with_later_regions(kind: u16) -> Folder {
    let folder = words();
    let old = folder.read("seg-0000000002").expect("there");
    let (table_at, mut entries, mut sums) = table(&old);
    let region = [7; 5000];
    let entry = |offset: usize, len: usize, first: usize| {
        let mut entry = [0; 32];
        entry[..2].copy_from_slice(&kind.to_le_bytes());
        entry[2] = 9;
        entry[4..8].copy_from_slice(&4096u32.to_le_bytes());
        entry[8..16].copy_from_slice(&(offset as u64).to_le_bytes());
        entry[16..24].copy_from_slice(&(len as u64).to_le_bytes());
        entry[24..28].copy_from_slice(&(first as u32).to_le_bytes());
        entry
    };
    entries.insert(0, entry(4096, 0, 0));
    entries.push(entry(table_at, region.len(), sums.len()));
    sums.extend(region.chunks(4096).map(support::crc32));
    let mut new = old[..table_at].to_vec();
    new.extend(region);
    new.resize(new.len().next_multiple_of(4096), 0);
    let at = new.len();
    new.extend(entries.concat());
    new.extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
    let table_crc = support::crc32(&new[at..]);
    let mut footer = old[old.len() - 64..].to_vec();
    let mut put = |at: usize, bytes: &[u8]| footer[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(at as u64).to_le_bytes());
    put(8, &((new.len() + 64) as u64).to_le_bytes());
    put(16, &(entries.len() as u32).to_le_bytes());
    put(20, &(sums.len() as u32).to_le_bytes());
    put(28, &table_crc.to_le_bytes());
    let crc = support::crc32(&footer[..56]);
    footer[56..60].copy_from_slice(&crc.to_le_bytes());
    new.extend(footer);
    // The manifest vouches for length and table.
    let mut manifest = folder.read("MANIFEST").expect("there");
    let schema = u32::from_le_bytes(manifest[80..84].try_into().expect("four")) as usize;
    let entry = 96 + schema;
    manifest[entry + 8..entry + 16].copy_from_slice(&(new.len() as u64).to_le_bytes());
    manifest[entry + 20..entry + 24].copy_from_slice(&table_crc.to_le_bytes());
    let crc = support::crc32(&manifest[64..]);
    manifest[56..60].copy_from_slice(&crc.to_le_bytes());
    let crc = support::crc32(&manifest[..60]);
    manifest[60..64].copy_from_slice(&crc.to_le_bytes());
    folder.write("MANIFEST", manifest);
    folder.write("seg-0000000002", new);
    folder
}

#[test]
fn regions_of_a_later_version_that_can_be_done_without_change_no_answer() {
    let [_, words, ..] = all();
    let folder = with_later_regions(0x8001);
    let collection = folder.open(Options::new()).expect("opens");
    assert_eq!(answers(&words, &collection), expected(&words));
    let bytes = collection.verify().expect("whole").bytes;
    let known = self::words().open(support::read_only()).expect("opens");
    assert!(bytes > known.verify().expect("whole").bytes + 5000, "they are read");
    // A backup keeps them; what is written anew has none.
    let backup = Folder::default();
    backup.back_up(&collection, &|_| true).expect("backs up");
    assert_eq!(backup.read("seg-0000000002"), folder.read("seg-0000000002"));
    collection.compact().expect("compact");
    collection.verify().expect("whole");
    assert_eq!(answers(&words, &collection), expected(&words));
    // Each of their bytes counts for verify, and none of them for an answer.
    let folder = with_later_regions(0x8001);
    let good = folder.read("seg-0000000002").expect("there");
    let (table_at, ..) = table(&good);
    for byte in [0, 4095, 4096, 4999, 5000, 8191].map(|at| table_at - 8192 + at) {
        let mut bad = good.clone();
        bad[byte] ^= 1;
        folder.write("seg-0000000002", bad);
        let collection = folder.open(support::read_only()).expect("opens");
        assert!(matches!(collection.verify(), Err(Error::Corrupt(_))), "byte {byte}");
        assert_eq!(answers(&words, &collection), expected(&words));
    }
}

#[test]
fn regions_of_a_later_version_that_are_needed_are_refused_and_left_alone() {
    for kind in [0, 16, 0x7fff] {
        let folder = with_later_regions(kind);
        let before = files(&folder);
        for options in [Options::new(), support::read_only()] {
            let refused = folder.open(options).map(|_| ());
            assert!(matches!(refused, Err(Error::UnsupportedFormat { .. })), "{refused:?}");
        }
        let refused = folder.repair(&RepairOptions::new());
        assert!(matches!(refused, Err(Error::UnsupportedFormat { .. })), "{refused:?}");
        assert_eq!(files(&folder), before);
    }
}

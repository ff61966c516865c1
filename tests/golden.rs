//! Folders that version 1 wrote, committed under `golden/v1`: they open and
//! answer as they always did, and the same operations still give their bytes.
//!
//! `cargo test --test golden -- --ignored bless` writes them anew, which is right
//! only while the format has not been released.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use matryo::testing::Folder;
use matryo::testing::encoding::{Bits, StageCode};
use matryo::{
    Collection, Error, Funnel, Hit, IdKind, Metric, Options, Precision, Row, RowId, Schema, Value,
    json,
};
use support::{files, vector};

struct Golden {
    name: &'static str,
    make: fn() -> Folder,
    /// Every id that is or was there.
    ids: Vec<RowId>,
    dims: usize,
}

fn all() -> [Golden; 4] {
    let words = (0..40).map(|n| RowId::from(word(n))).collect();
    [
        Golden { name: "numbers", make: numbers, ids: (0..90).map(RowId::U64).collect(), dims: 24 },
        Golden { name: "words", make: self::words, ids: words, dims: 20 },
        Golden { name: "linked", make: linked, ids: (0..95).map(RowId::U64).collect(), dims: 30 },
        Golden { name: "empty", make: empty, ids: vec![RowId::U64(0)], dims: 5 },
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
    let stages = [StageCode::new(7, Bits::Eight), StageCode::new(20, Bits::One)];
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

/// Never written to.
fn empty() -> Folder {
    let folder = Folder::default();
    let schema = Schema::builder(5).metric(Metric::Dot).build().expect("valid");
    drop(folder.create(schema, Options::new()).expect("create"));
    folder
}

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
    json!({
        "rows": golden.ids.iter().map(row).collect::<Vec<_>>(),
        "len": collection.len(),
        "searches": hits.collect::<Vec<Value>>(),
    })
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
        fs::write(dir.path().join("LOCK"), "").expect("readers need one");
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
    let [.., linked, _] = all();
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
        precision.encode(&vector, &mut bytes).expect("in range");
        precision.decode(&bytes, &mut back);
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

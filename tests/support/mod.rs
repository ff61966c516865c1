//! What the tests of storage share: numbers from a seed, rows made of them,
//! and everything a collection answers, small enough to compare often.
#![allow(dead_code, reason = "every test uses a part of it")]

pub(crate) mod counting;
pub(crate) mod cuts;
pub(crate) mod damage;
pub(crate) mod fails;
pub(crate) mod forge;
pub(crate) mod full;
pub(crate) mod mounts;
pub(crate) mod reembed;
pub(crate) mod steps;
pub(crate) mod work;
pub(crate) mod writes;

use std::hash::{DefaultHasher, Hash, Hasher};

use matryo::testing::Folder;
use matryo::testing::encoding::{Bits, StageCode};
use matryo::{
    Collection, Error, FieldKind, Filter, Funnel, IdKind, Metric, Options, Precision, RowId,
    Schema, SchemaBuilder, SearchResult,
};

/// Whether the long variants of the tests were asked for: `MATRYO_LONG=1`, or a share of them.
pub(crate) fn long() -> bool {
    std::env::var_os("MATRYO_LONG").is_some_and(|v| v != "0")
}

/// How large a test is: as always, or as long as was asked for. `MATRYO_LONG=5%` asks for
/// that share of the long size, and for no less than always.
pub(crate) fn sized<T: Copy + Ord + TryFrom<u64>>(always: T, most: u64) -> T {
    let percent = match std::env::var("MATRYO_LONG") {
        Err(_) => return always,
        Ok(asked) if asked == "0" => return always,
        Ok(asked) => asked.strip_suffix('%').map_or(100, |n| n.parse().expect("a percentage")),
    };
    T::try_from(most * percent / 100).unwrap_or(always).max(always)
}

/// Numbers that follow from a seed (`SplitMix64`).
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(crate) fn vector(&mut self, dims: usize) -> Vec<f32> {
        (0..dims).map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
    }
}

pub(crate) fn vector(seed: u64, dims: usize) -> Vec<f32> {
    Rng(seed).vector(dims)
}

pub(crate) const DIMS: usize = 32;

/// 8 bits of 16 dimensions, 1 bit of all 32.
pub(crate) fn schema() -> Schema {
    builder().build().expect("valid")
}

/// The same, with declared fields.
pub(crate) fn schema_with_fields() -> Schema {
    let schema = builder().field("n", FieldKind::Integer);
    schema.list_field("tags", FieldKind::Keyword).build().expect("valid")
}

/// One of four, so that workloads differ: numbers or strings as ids, each metric and precision,
/// with declared fields and without.
pub(crate) fn schema_of(seed: u64) -> Schema {
    match seed % 4 {
        0 => schema(),
        1 => builder().ids(IdKind::Str).build().expect("valid"),
        2 => builder().metric(Metric::Dot).stored(Precision::F16).build().expect("valid"),
        _ => {
            let schema = builder().metric(Metric::L2).stored(Precision::BF16);
            schema.field("n", FieldKind::Integer).build().expect("valid")
        }
    }
}

fn builder() -> SchemaBuilder {
    let stages = [StageCode::new(16, Bits::Eight), StageCode::new(DIMS, Bits::One)];
    Schema::builder(DIMS).granularities([8, 16]).stages(stages)
}

pub(crate) fn read_only() -> Options {
    Options::new().read_only(true)
}

/// What [`questions`] asks where fields are declared.
const FILTERS: [&str; 4] =
    ["n < 30", "NOT n EXISTS", "tags = 'even' AND n > 5", "NOT tags = 'even'"];

/// Everything [`questions`] asks, answered: a hash each, or the error.
pub(crate) type Answers = Vec<Result<u64, Error>>;

/// Every row by its id, and the searches of each kind, with payloads.
pub(crate) fn questions(collection: &Collection) -> Answers {
    let rows = (0..80u64).map(|id| collection.get(id).map(|row| hash_row(row.as_ref())));
    let mut answers: Answers = rows.collect();
    answers.push(Ok(collection.len()));
    for seed in [1001, 1002] {
        let query = vector(seed, DIMS);
        let search = |limit| collection.search(&query).limit(limit).payloads(true);
        let funnel = Funnel::stages([(8, 40), (16, 30)]);
        if !collection.schema().fields().is_empty() {
            for filter in FILTERS {
                let filter: Filter = filter.parse().expect("a filter");
                answers.push(collection.count(&filter));
                answers.push(search(9).filter(filter).run().map(|result| hash_hits(&result)));
            }
        }
        for result in [
            search(100).exact().run(),
            search(7).exact().dims(11).run(),
            search(10).funnel(funnel).run(),
            search(3).recall(0.8).run(),
        ] {
            answers.push(result.map(|result| hash_hits(&result)));
        }
    }
    answers
}

/// The same, where all must be answered.
pub(crate) fn sure_answers(collection: &Collection) -> Vec<u64> {
    questions(collection).into_iter().map(|a| a.expect("undamaged")).collect()
}

fn hash_row(row: Option<&matryo::Row>) -> u64 {
    let mut hasher = DefaultHasher::new();
    if let Some(row) = row {
        row.id.hash(&mut hasher);
        row.vector.iter().for_each(|v| v.to_bits().hash(&mut hasher));
        format!("{:?}", row.payload).hash(&mut hasher);
    }
    hasher.finish()
}

fn hash_hits(result: &SearchResult) -> u64 {
    let mut hasher = DefaultHasher::new();
    for hit in &result.hits {
        hit.id.hash(&mut hasher);
        hit.score.to_bits().hash(&mut hasher);
        format!("{:?}", hit.payload).hash(&mut hasher);
    }
    hasher.finish()
}

/// All files of a folder.
pub(crate) fn files(folder: &Folder) -> Vec<(String, Vec<u8>)> {
    let read = |name: String| {
        let bytes = folder.read(&name).expect("was listed");
        (name, bytes)
    };
    folder.names().into_iter().map(read).collect()
}

/// A folder with these files.
pub(crate) fn folder_of(files: &[(String, Vec<u8>)]) -> Folder {
    let folder = Folder::default();
    for (name, bytes) in files {
        folder.write(name, bytes.clone());
    }
    folder
}

/// CRC-32 as zlib computes it: the tests' own, a table of bytes.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            let (mut crc, mut bit) = (n as u32, 0);
            while bit < 8 {
                crc = (crc >> 1) ^ (0xedb8_8320 * (crc & 1));
                bit += 1;
            }
            table[n] = crc;
            n += 1;
        }
        table
    };
    let next = |crc: u32, byte: &u8| (crc >> 8) ^ TABLE[usize::from(crc as u8 ^ byte)];
    !bytes.iter().fold(!0, next)
}

pub(crate) fn id(n: u64) -> RowId {
    RowId::U64(n)
}

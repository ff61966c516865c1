//! The example of FORMAT.md: a tiny collection, and its bytes field by field.

use std::fmt::Write as _;

use matryo::testing::Folder;
use matryo::testing::encoding::{Bits, StageCode};
use matryo::testing::format::LAYOUTS;
use matryo::{Options, Schema, json};

/// Three rows of eight dimensions in a segment, one of them deleted later and
/// one replaced; closed cleanly.
pub(crate) fn example() -> Folder {
    let folder = Folder::default();
    let stages = [StageCode::new(4, Bits::Eight), StageCode::new(8, Bits::One)];
    let schema = Schema::builder(8).granularities([4]).stages(stages).build().expect("valid");
    let collection = folder.create(schema, Options::new()).expect("create");
    let mut batch = collection.batch();
    let rows = [
        (7u64, [0.5, -1.0, 0.25, 0.0, 2.0, -0.5, 1.0, 0.125], json!({"a": 1})),
        (1, [1.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0, -1.0], json!({"title": "harbour"})),
        (300, [3.0, 0.0, 4.0, 0.0, 0.0, 0.0, 0.0, 12.0], json!(null)),
    ];
    for (id, vector, payload) in rows {
        batch.upsert(id, &vector, payload).expect("fits");
    }
    batch.commit().expect("commit");
    collection.flush().expect("flush");
    collection.delete(1).expect("delete");
    collection.flush().expect("flush");
    let mut batch = collection.batch();
    batch.upsert(300, &[1.0; 8], json!({"a": 2})).expect("fits");
    batch.delete(1000).expect("fits");
    batch.commit().expect("commit");
    drop(collection);
    folder
}

/// Prints a file as lines of `offset  bytes  what they are`.
struct Dump<'a> {
    bytes: &'a [u8],
    at: usize,
    out: String,
}

impl Dump<'_> {
    fn u64(&self, at: usize, size: usize) -> usize {
        self.bytes[at..at + size].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b))
    }

    /// Up to sixteen bytes a line; equal lines but the first are one `*`.
    fn field(&mut self, size: usize, what: &str) {
        let mut last: Option<&[u8]> = None;
        let mut starred = false;
        for (n, line) in self.bytes[self.at..self.at + size].chunks(16).enumerate() {
            if n > 0 && last == Some(line) {
                if !starred {
                    self.out.push_str("*\n");
                }
                starred = true;
                continue;
            }
            (last, starred) = (Some(line), false);
            let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
            let label = if n == 0 { what } else { "" };
            let line = format!("{:06x}  {:<47}  {label}", self.at + n * 16, hex.join(" "));
            writeln!(self.out, "{}", line.trim_end()).expect("a String takes all");
        }
        self.at += size;
    }

    fn fields(&mut self, parts: &[(usize, &str)]) {
        for (size, what) in parts {
            self.field(*size, what);
        }
    }

    /// A structure by its offset table; returns where it began.
    fn structure(&mut self, name: &str) -> usize {
        let start = self.at;
        let layout = LAYOUTS.iter().find(|l| l.0 == name).expect("a structure");
        for (field, offset, size) in layout.2 {
            assert_eq!(start + offset, self.at, "{name}.{field}: fields have no gaps");
            self.field(*size, &format!("{name}.{field}"));
        }
        start
    }

    fn padding(&mut self, align: usize) {
        let end = self.at.next_multiple_of(align);
        self.field(end - self.at, "padding");
    }

    fn manifest(&mut self) {
        let body = self.structure("manifest_body");
        self.fields(&[
            (4, "schema: dimensions"),
            (1, "metric: 0, cosine"),
            (1, "stored precision: 0, f32"),
            (1, "kind of ids: 0, u64"),
            (1, "reserved"),
            (4, "number of granularities"),
            (4, "granularity"),
            (4, "granularity"),
            (4, "number of stage codes"),
            (4, "stage 0: dimensions"),
            (4, "stage 0: bits"),
            (4, "stage 1: dimensions"),
            (4, "stage 1: bits"),
        ]);
        for (count, entry) in [(body + 20, "segment_entry"), (body + 24, "log_entry")] {
            for _ in 0..self.u64(count, 4) {
                self.structure(entry);
            }
        }
    }

    fn log(&mut self) {
        while self.at < self.bytes.len() {
            let frame = self.structure("wal_frame");
            for _ in 0..self.u64(frame + 24, 4) {
                self.operation();
            }
            self.padding(8);
        }
    }

    fn operation(&mut self) {
        if self.bytes[self.at] == 2 {
            return self.fields(&[(1, "operation: 2, delete"), (8, "id")]);
        }
        self.fields(&[(1, "operation: 1, upsert"), (8, "id"), (32, "vector")]);
        let len = self.u64(self.at, 4);
        self.fields(&[(4, "bytes of payload"), (len, "payload")]);
    }

    fn segment(&mut self) {
        const KINDS: [&str; 9] = [
            "",
            "ids",
            "id order",
            "norms",
            "codes",
            "factors",
            "vectors",
            "payload",
            "payload index",
        ];
        let footer = self.bytes.len() - 64;
        let (table, count) = (self.u64(footer, 8), self.u64(footer + 16, 4));
        for n in 0..count {
            self.padding(4096);
            let entry = table + n * 32;
            let (kind, stage) = (self.u64(entry, 2), self.u64(entry + 2, 2));
            self.field(self.u64(entry + 16, 8), &format!("region {}, stage {stage}", KINDS[kind]));
        }
        self.padding(4096);
        for _ in 0..count {
            self.structure("region_entry");
        }
        self.field(footer - self.at, "checksums of blocks");
        self.structure("segment_footer");
    }
}

/// All files of the folder, as a section of FORMAT.md.
pub(crate) fn dump(folder: &Folder) -> String {
    let mut out = String::new();
    for name in folder.names() {
        let bytes = folder.read(&name).expect("was listed");
        let mut dump = Dump { bytes: &bytes, at: 0, out: String::new() };
        dump.structure("file_header");
        match &name[..3] {
            "MAN" => dump.manifest(),
            "wal" => dump.log(),
            "seg" => dump.segment(),
            _ => dump.field(bytes.len() - 64, "bitmap"),
        }
        assert_eq!(dump.at, bytes.len(), "{name} is described to its end");
        write!(out, "\n### `{name}`, {} bytes\n\n```text\n{}```\n", bytes.len(), dump.out)
            .expect("a String takes all");
    }
    out
}

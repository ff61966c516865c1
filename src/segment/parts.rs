//! A file of regions, a segment or a graph, of which header, footer and region table are read:
//! they agree with each other and with what the manifest says.

use std::sync::Arc;

use super::format::{Footer, PAGE, PlaceEntry, RegionEntry, RegionKind, decode_table};
use super::region::{Checksums, Region};
use crate::codec::crc32;
use crate::codec::header::{CollectionId, FORMAT_MAJOR, FORMAT_MINOR, FileHeader, FileKind};
use crate::error::{Error, Result};
use crate::manifest::{GraphEntry, SegmentEntry, encode_kept};
use crate::schema::Schema;
use crate::types::{FileNumber, IdKind};
use crate::vfs::ReadFile;
use crate::vfs::map::Bytes;

/// What the manifest says of a file of regions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Described {
    pub(super) kind: FileKind,
    pub(super) number: FileNumber,
    pub(super) len: u64,
    rows: u32,
    pub(super) table_crc: u32,
    /// How many logs it keeps.
    kept: usize,
}

impl Described {
    pub(super) fn segment(entry: &SegmentEntry) -> Self {
        let SegmentEntry { number, len, rows, table_crc, .. } = *entry;
        Self { kind: FileKind::Segment, number, len, rows, table_crc, kept: entry.kept.len() }
    }

    /// The graph of a segment of this many rows.
    pub(super) fn graph(entry: &GraphEntry, rows: u32) -> Self {
        let GraphEntry { number, len, table_crc, .. } = *entry;
        Self { kind: FileKind::Graph, number, len, rows, table_crc, kept: 0 }
    }
}

/// A region that a segment must have.
pub(super) struct Expected {
    pub(super) kind: RegionKind,
    pub(super) stage: u16,
    /// Its bytes, where schema and number of rows say how many.
    pub(super) len: Option<usize>,
}

/// The regions of a segment, in their order; those of payloads are not there if no row has one.
pub(super) fn expected_regions(schema: &Schema, entry: &SegmentEntry) -> Vec<Expected> {
    use RegionKind as K;
    let rows = entry.rows as usize;
    let mut all = Vec::new();
    let mut add = |kind, stage, len| all.push(Expected { kind, stage, len });
    if entry.kept.is_empty() {
        add(K::Vectors, 0, Some(rows * schema.vector_bytes()));
    } else {
        add(K::Logs, 0, None);
        add(K::Places, 0, Some(rows * PlaceEntry::LEN));
    }
    add(K::Ids, 0, (schema.ids() == IdKind::U64).then_some(rows * 8));
    add(K::IdOrder, 0, Some(rows * 4));
    add(K::Norms, 0, Some(rows * 4));
    for (code, stage) in schema.stages().iter().zip(0..) {
        add(K::Codes, stage, Some(code.code_bytes(rows)));
        add(K::Factors, stage, Some(code.scalar_bytes(rows)));
    }
    add(K::Payload, 0, None);
    add(K::PayloadIndex, 0, None);
    (0..schema.fields().len() as u16).for_each(|field| add(K::FieldIndex, field, None));
    all
}

/// Kinds and stages of these regions: with those of payloads, and without.
pub(super) fn names(regions: &[Expected]) -> [Vec<(RegionKind, u16)>; 2] {
    let is_there = |payloads: bool, kind| {
        payloads || !matches!(kind, RegionKind::Payload | RegionKind::PayloadIndex)
    };
    [true, false].map(|payloads| {
        let there = regions.iter().filter(|region| is_there(payloads, region.kind));
        there.map(|region| (region.kind, region.stage)).collect()
    })
}

/// Length and header of a file.
pub(super) fn check_header(
    file: &dyn ReadFile,
    kind: FileKind,
    collection: &CollectionId,
    number: FileNumber,
    len: u64,
) -> Result<()> {
    if file.len() != len {
        let what = format!("has {} bytes, the manifest says {len}", file.len());
        return Err(Error::corrupt(file.path(), file.len().min(len), what));
    }
    let mut header = [0; FileHeader::LEN];
    if file.len() >= header.len() as u64 {
        file.read_at(&mut header, 0)?;
    }
    let header = FileHeader::decode(&header, kind, file.path())?;
    header.expect(number, collection, file.path())?;
    header.no_body(file.path())
}

fn read_footer(file: &dyn ReadFile, described: &Described) -> Result<Footer> {
    let at = file.len().saturating_sub(Footer::LEN as u64);
    let mut bytes = [0; Footer::LEN];
    file.read_at(&mut bytes, at)?;
    let footer = Footer::decode(&bytes).map_err(|e| e.in_file(file.path(), at))?;
    let table_end = footer.table_len().and_then(|len| footer.table_at.checked_add(len));
    let agrees = footer.file_len == file.len()
        && table_end == Some(at)
        && footer.table_at >= PAGE as u64
        && (footer.rows, footer.table_crc) == (described.rows, described.table_crc)
        && footer.kept as usize == described.kept;
    if !agrees {
        return Err(Error::corrupt(file.path(), at, "footer and manifest contradict each other"));
    }
    Ok(footer)
}

/// `len` bytes from `offset`, which lie inside the file. A sparse file can be
/// longer than all RAM: that is an error, not the end of the process.
fn read(file: &dyn ReadFile, offset: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = crate::vfs::buffer(file.path(), len)?;
    file.read_at(&mut bytes, offset)?;
    Ok(bytes)
}

/// What the regions of a file are made of.
pub(super) struct Parts {
    pub(super) file: Arc<dyn ReadFile>,
    pub(super) bytes: Bytes,
    pub(super) entries: Vec<RegionEntry>,
    pub(super) checksums: Vec<u32>,
    /// Where in the file the region table is,
    pub(super) table_at: u64,
    /// and the checksums.
    checksums_at: usize,
}

impl Parts {
    pub(super) fn open(
        file: Arc<dyn ReadFile>,
        collection: &CollectionId,
        described: &Described,
    ) -> Result<Self> {
        check_header(&*file, described.kind, collection, described.number, described.len)?;
        let footer = read_footer(&*file, described)?;
        let len =
            footer.table_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
        let table_at = footer.table_at;
        let table = read(&*file, table_at, len)?;
        if crc32(&table) != footer.table_crc {
            let what = "checksum of the region table does not match";
            return Err(Error::corrupt(file.path(), table_at, what));
        }
        let (entries, checksums) =
            decode_table(&table, &footer).map_err(|e| e.in_file(file.path(), table_at))?;
        let bytes = file.map()?;
        if bytes.len() as u64 != file.len() {
            let what = "file became shorter or longer while it was open";
            return Err(Error::corrupt(file.path(), 0, what));
        }
        bytes.random_access();
        let table_end = usize::try_from(table_at).expect("fits the file") + len;
        let checksums_at = table_end - checksums.len() * 4;
        Ok(Self { file, bytes, entries, checksums, table_at, checksums_at })
    }

    /// The regions are those of the schema, each once, in their order and as long as it says, but
    /// for those of later versions that can be done without; and the logs that the segment
    /// keeps are those of its entry.
    pub(super) fn check_regions(&self, schema: &Schema, entry: &SegmentEntry) -> Result<()> {
        if let Some(unknown) = self.entries.iter().find(|e| !e.kind.is_readable()) {
            return Err(Error::UnsupportedFormat {
                file: self.file.path().to_owned(),
                found: format!("with regions of kind {}, which are needed", unknown.kind.number()),
                supported: format!("{FORMAT_MAJOR}.{FORMAT_MINOR}"),
            });
        }
        let known = self.entries.iter().filter(|e| !matches!(e.kind, RegionKind::Later { .. }));
        let found: Vec<_> = known.map(|e| (e.kind, e.stage)).collect();
        let expected = expected_regions(schema, entry);
        let names = names(&expected);
        if !names.contains(&found) {
            let [with_payloads, _] = names;
            let what = format!("regions are {found:?}, expected {with_payloads:?}, or no payloads");
            return Err(Error::corrupt(self.file.path(), 0, what));
        }
        for Expected { kind, stage, len } in expected.iter().filter(|region| region.len.is_some()) {
            self.required(*kind, *stage, *len)?;
        }
        self.check_logs(entry)
    }

    fn check_logs(&self, entry: &SegmentEntry) -> Result<()> {
        if entry.kept.is_empty() {
            return Ok(());
        }
        let region = self.mapped(RegionKind::Logs, 0)?;
        if region.get(0, region.len())?.iter().copied().eq(encode_kept(&entry.kept)) {
            return Ok(());
        }
        Err(region.corrupt("names other logs than the manifest".to_owned()))
    }

    /// The entry of a region, if there is one.
    pub(super) fn entry(&self, kind: RegionKind, stage: u16) -> Option<&RegionEntry> {
        self.entries.iter().find(|e| e.kind == kind && e.stage == stage)
    }

    /// The entry of a region that must be there, of `len` bytes where known.
    pub(super) fn required(
        &self,
        kind: RegionKind,
        stage: u16,
        len: Option<usize>,
    ) -> Result<&RegionEntry> {
        let wrong = |what: String| Error::corrupt(self.file.path(), 0, what);
        let entry = self.entry(kind, stage);
        let entry = entry.ok_or_else(|| wrong(format!("region {kind:?} {stage} is missing")))?;
        match len {
            Some(len) if entry.len != len as u64 => Err(wrong(format!(
                "region {kind:?} {stage} has {} bytes, expected {len}",
                entry.len
            ))),
            _ => Ok(entry),
        }
    }

    /// A region that must be there.
    pub(super) fn mapped(&self, kind: RegionKind, stage: u16) -> Result<Region> {
        let entry = self.required(kind, stage, None)?;
        let checksums = Checksums::InFile(self.checksums_at);
        Ok(Region::new(self.file.path(), self.bytes.clone(), checksums, entry))
    }
}

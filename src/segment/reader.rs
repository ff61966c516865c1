//! Opens a segment and reads its rows.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Footer, PAGE, PlaceEntry, RegionEntry, RegionKind, decode_table};
use super::ids;
use super::region::{Checksums, Region, Seen};
use super::resident::{Codes, Norms, ResidentColumn};
use super::vectors::{KeptLog, Vectors};
use crate::codec::header::{CollectionId, FORMAT_MAJOR, FORMAT_MINOR, FileHeader, FileKind};
use crate::codec::{FormatError, Reader, crc32};
use crate::encoding::{StageCode, StageView};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::manifest::{SegmentEntry, encode_kept};
use crate::payload::block::{self, BlockEntry};
use crate::rows::{Budget, Column, LogPlace, Mapped, Rows};
use crate::schema::{Field, Schema};
use crate::types::{FileNumber, IdKind, Ordinal, RowId};
use crate::vfs::map::Bytes;
use crate::vfs::{ReadFile, Vfs, open_named};

/// An open segment. All of it is mapped and paged from disk as it is touched;
/// norms and stage codes are taken into RAM where [`Rows::hold`] finds room.
pub(crate) struct Segment {
    file: PathBuf,
    bytes: Bytes,
    rows: u32,
    id_kind: IdKind,
    entries: Vec<RegionEntry>,
    ids: Region,
    id_order: Region,
    vectors: Vectors,
    payload: Option<PayloadRegion>,
    /// Of each declared field.
    indexes: Vec<Region>,
    fields: Arc<[Field]>,
    norms: Norms,
    codes: Vec<Codes>,
}

pub(super) struct PayloadRegion {
    blocks: Region,
    index: Vec<BlockEntry>,
    rows: u32,
    /// Blocks that were found to be valid archives.
    valid: Seen,
}

impl Segment {
    /// Opens the segment the manifest names: footer and region table are read and
    /// checked, the regions are mapped.
    pub(crate) fn open(
        vfs: &dyn Vfs,
        collection: &CollectionId,
        schema: &Schema,
        entry: &SegmentEntry,
    ) -> Result<Self> {
        let file = open_named(vfs, &FileKind::Segment.name(entry.number))?;
        check_header(&*file, FileKind::Segment, collection, entry.number, entry.len)?;
        let footer = read_footer(&*file, entry)?;
        let parts = Parts::open(file, &footer)?;
        parts.check_regions(schema, entry)?;
        let logs = entry.kept.iter().map(|log| KeptLog::open(vfs, collection, log));
        let logs = logs.collect::<Result<_>>()?;
        parts.build(schema, entry.rows, logs)
    }

    fn columns(&self) -> impl Iterator<Item = &dyn ResidentColumn> {
        let codes = self.codes.iter().map(|codes| codes as &dyn ResidentColumn);
        codes.chain([&self.norms as &dyn ResidentColumn])
    }

    fn resident(&self, column: Column) -> &dyn ResidentColumn {
        match column {
            Column::Norms => &self.norms,
            Column::Stage(stage) => &self.codes[stage],
        }
    }
}

/// The first regions of a segment whose vectors are in logs.
const LOGGED: [RegionKind; 2] = [RegionKind::Logs, RegionKind::Places];

/// Kinds and stages of the regions of a segment in their order: with payloads, and without.
pub(super) fn region_names(schema: &Schema, entry: &SegmentEntry) -> [Vec<(RegionKind, u16)>; 2] {
    use RegionKind as K;
    let of_stage = |stage: u16| [(K::Codes, stage), (K::Factors, stage)];
    let stages = (0..schema.stages().len() as u16).flat_map(of_stage);
    let vectors: &[_] = if entry.kept.is_empty() { &[K::Vectors] } else { &LOGGED };
    let before = vectors.iter().chain(&[K::Ids, K::IdOrder, K::Norms]);
    let must: Vec<_> = before.map(|kind| (*kind, 0)).chain(stages).collect();
    let fields = (0..schema.fields().len() as u16).map(|field| (K::FieldIndex, field));
    let fields: Vec<_> = fields.collect();
    let payloads: &[_] = &[(K::Payload, 0), (K::PayloadIndex, 0)];
    [payloads, &[]].map(|payloads| [&must, payloads, &fields].concat())
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

pub(super) fn read_footer(file: &dyn ReadFile, entry: &SegmentEntry) -> Result<Footer> {
    let at = file.len().saturating_sub(Footer::LEN as u64);
    let mut bytes = [0; Footer::LEN];
    file.read_at(&mut bytes, at)?;
    let footer = Footer::decode(&bytes).map_err(|e| e.in_file(file.path(), at))?;
    let table_end = footer.table_len().and_then(|len| footer.table_at.checked_add(len));
    let agrees = footer.file_len == file.len()
        && table_end == Some(at)
        && footer.table_at >= PAGE as u64
        && (footer.rows, footer.table_crc) == (entry.rows, entry.table_crc)
        && footer.kept as usize == entry.kept.len();
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

/// A segment whose table is read: what the regions are built from.
pub(super) struct Parts {
    pub(super) file: Arc<dyn ReadFile>,
    bytes: Bytes,
    pub(super) entries: Vec<RegionEntry>,
    pub(super) checksums: Vec<u32>,
    /// Where in the file they are.
    checksums_at: usize,
}

impl Parts {
    pub(super) fn open(file: Arc<dyn ReadFile>, footer: &Footer) -> Result<Self> {
        let len =
            footer.table_len().and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
        let table = read(&*file, footer.table_at, len)?;
        if crc32(&table) != footer.table_crc {
            let what = "checksum of the region table does not match";
            return Err(Error::corrupt(file.path(), footer.table_at, what));
        }
        let (entries, checksums) =
            decode_table(&table, footer).map_err(|e| e.in_file(file.path(), footer.table_at))?;
        let bytes = file.map()?;
        if bytes.len() as u64 != file.len() {
            let what = "file became shorter or longer while it was open";
            return Err(Error::corrupt(file.path(), 0, what));
        }
        bytes.random_access();
        let table_end = usize::try_from(footer.table_at).expect("fits the file") + len;
        let checksums_at = table_end - checksums.len() * 4;
        Ok(Self { file, bytes, entries, checksums, checksums_at })
    }

    /// The segment of regions that were checked.
    fn build(self, schema: &Schema, rows: u32, logs: Vec<KeptLog>) -> Result<Segment> {
        let count = rows as usize;
        let expect = |kind, len: usize| self.mapped(kind, Some(len));
        let ids = match schema.ids() {
            IdKind::U64 => expect(RegionKind::Ids, count * 8)?,
            IdKind::Str => self.mapped(RegionKind::Ids, None)?,
        };
        let norms = Norms::new(expect(RegionKind::Norms, count * 4)?)?;
        let codes = self.codes(schema, count)?;
        Ok(Segment {
            ids,
            id_order: expect(RegionKind::IdOrder, count * 4)?,
            vectors: self.vectors(schema, rows, logs)?,
            payload: self.payload(rows)?,
            indexes: self.indexes(schema)?,
            fields: schema.shared_fields(),
            norms,
            codes,
            rows,
            id_kind: schema.ids(),
            file: self.file.path().to_owned(),
            bytes: self.bytes,
            entries: self.entries,
        })
    }

    /// The regions are those of the schema, each once, in their order, but for
    /// those of later versions that can be done without; and the logs that the segment
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
        let expected = region_names(schema, entry);
        if expected.contains(&found) {
            return self.check_logs(entry);
        }
        let [with_payloads, _] = expected;
        let what = format!("regions are {found:?}, expected {with_payloads:?}, or no payloads");
        Err(Error::corrupt(self.file.path(), 0, what))
    }

    fn check_logs(&self, entry: &SegmentEntry) -> Result<()> {
        if entry.kept.is_empty() {
            return Ok(());
        }
        let region = self.mapped(RegionKind::Logs, None)?;
        if region.get(0, region.len())?.iter().copied().eq(encode_kept(&entry.kept)) {
            return Ok(());
        }
        Err(region.corrupt("names other logs than the manifest".to_owned()))
    }

    fn indexes(&self, schema: &Schema) -> Result<Vec<Region>> {
        let index = |field| self.required(RegionKind::FieldIndex, field, None);
        (0..schema.fields().len() as u16).map(|field| Ok(self.region(index(field)?))).collect()
    }

    fn vectors(&self, schema: &Schema, rows: u32, logs: Vec<KeptLog>) -> Result<Vectors> {
        let (count, width) = (rows as usize, schema.vector_bytes());
        if logs.is_empty() {
            let region = self.mapped(RegionKind::Vectors, Some(count * width))?;
            return Ok(Vectors::in_region(region, width));
        }
        let places = self.mapped(RegionKind::Places, Some(count * PlaceEntry::LEN))?;
        Ok(Vectors::in_logs(places, logs, rows, width))
    }

    fn entry(&self, kind: RegionKind, stage: u16) -> Option<&RegionEntry> {
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

    fn region(&self, entry: &RegionEntry) -> Region {
        let checksums = Checksums::InFile(self.checksums_at);
        Region::new(self.file.path(), self.bytes.clone(), checksums, entry)
    }

    pub(super) fn mapped(&self, kind: RegionKind, len: Option<usize>) -> Result<Region> {
        Ok(self.region(self.required(kind, 0, len)?))
    }

    fn codes(&self, schema: &Schema, rows: usize) -> Result<Vec<Codes>> {
        let stages = schema.stages().iter().zip(0..);
        let column = |(code, stage): (&StageCode, u16)| {
            let region = |kind, len| self.required(kind, stage, Some(len)).map(|e| self.region(e));
            let blocks = region(RegionKind::Codes, code.code_bytes(rows))?;
            Codes::new(*code, blocks, region(RegionKind::Factors, code.scalar_bytes(rows))?)
        };
        stages.map(column).collect()
    }

    pub(super) fn payload(&self, rows: u32) -> Result<Option<PayloadRegion>> {
        if self.entry(RegionKind::Payload, 0).is_none() {
            return Ok(None);
        }
        let index = self.mapped(RegionKind::PayloadIndex, None)?;
        let blocks = self.mapped(RegionKind::Payload, None)?;
        let index = block::decode_index(index.get(0, index.len())?, rows, blocks.len() as u64)
            .map_err(|e: FormatError| e.in_file(self.file.path(), index.offset()))?;
        let valid = Seen::none_of(index.len());
        Ok(Some(PayloadRegion { blocks, index, rows, valid }))
    }
}

impl PayloadRegion {
    fn text(&self, row: Ordinal, file: &Path) -> Result<String> {
        let missing = || Error::corrupt(file, 0, format!("payload of row {} is missing", row.0));
        let next = self.index.partition_point(|e| e.first_row <= row.0);
        let number = next.checked_sub(1).ok_or_else(missing)?;
        let entry = self.index[number];
        let end = self.index.get(next).map_or(self.rows, |e| e.first_row);
        let offset = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let bytes = self.blocks.get(offset, entry.len as usize)?;
        let (rows, row) = (end - entry.first_row, row.0 - entry.first_row);
        let text = if self.valid.has(number) {
            block::text_of_valid(bytes, row as usize)
        } else {
            block::text(bytes, rows as usize, row as usize).inspect(|_| self.valid.note(number))
        };
        text.map(str::to_owned).map_err(|e| e.in_file(file, self.blocks.offset() + entry.offset))
    }
}

impl Rows for Segment {
    fn len(&self) -> u32 {
        self.rows
    }

    fn id(&self, row: Ordinal) -> Result<RowId> {
        ids::read(&self.ids, self.id_kind, self.rows, row.index(), &self.file)
    }

    fn at_rank(&self, rank: u32) -> Result<Ordinal> {
        let bytes = self.id_order.get(rank as usize * 4, 4)?;
        let row = Reader::new(bytes).u32().map_err(|e| e.in_file(&self.file, 0))?;
        if row >= self.rows {
            return Err(Error::corrupt(&self.file, 0, format!("id order names row {row}")));
        }
        Ok(Ordinal(row))
    }

    fn vector(&self, row: Ordinal) -> Result<&[u8]> {
        self.vectors.get(row)
    }

    fn will_need(&self, rows: Range<u32>) {
        self.vectors.will_need(rows);
    }

    fn ask_again(&self) {
        self.vectors.ask_again();
    }

    fn distrust(&self) -> Result<()> {
        let payload = self.payload.iter().map(|payload| &payload.blocks);
        let regions = [&self.ids, &self.id_order].into_iter().chain(&self.indexes).chain(payload);
        regions.for_each(Region::distrust);
        self.vectors.distrust();
        self.columns().try_for_each(ResidentColumn::compare_again)
    }

    fn payload(&self, row: Ordinal) -> Result<String> {
        self.payload.as_ref().map_or(Ok(String::new()), |p| p.text(row, &self.file))
    }

    fn index(&self, field: usize) -> Result<Index<'_>> {
        Index::new(&self.indexes[field], &self.fields[field], self.rows)
    }

    fn norms(&self) -> &[f32] {
        self.norms.get()
    }

    fn code(&self, stage: usize) -> StageView<'_> {
        self.codes[stage].get()
    }

    fn ready(&self, column: Column) -> Result<()> {
        self.resident(column).ready()
    }

    fn hold(&self, column: Column, budget: &Arc<Budget>) -> Result<()> {
        self.resident(column).hold(budget)
    }

    fn column(&self, column: Column) -> Option<(u64, bool)> {
        let column = self.resident(column);
        Some((column.bytes(), column.is_held()))
    }

    fn disk_bytes(&self) -> Vec<(&'static str, u64)> {
        let logs = self.vectors.logs().map(|log| (RegionKind::Vectors.name(), log.len() as u64));
        self.entries.iter().map(|entry| (entry.kind.name(), entry.len)).chain(logs).collect()
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.file)
    }

    fn mapped(&self) -> Option<Mapped<'_>> {
        Some(Mapped { file: &self.bytes, logs: self.vectors.logs().collect() })
    }

    fn logged(&self, row: Ordinal) -> Option<LogPlace> {
        self.vectors.place(row)
    }

    fn vector_crc(&self, row: Ordinal) -> Option<u32> {
        self.vectors.crc(row)
    }

    fn ram_bytes(&self) -> usize {
        let held = self.columns().filter(|column| column.is_held());
        held.map(|column| column.bytes() as usize).sum()
    }
}

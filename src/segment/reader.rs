//! Opens a segment and reads its rows.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{RegionEntry, RegionKind};
use super::ids;
use super::parts::{Described, Parts};
use super::region::{Region, Seen};
use super::resident::{Codes, Norms, ResidentColumn};
use super::vectors::{KeptLog, Vectors};
use crate::codec::header::{CollectionId, FileKind};
use crate::codec::{FormatError, Reader};
use crate::encoding::{StageCode, StageView};
use crate::error::{Error, Result};
use crate::index::Index;
use crate::manifest::SegmentEntry;
use crate::payload::block::{self, BlockEntry};
use crate::rows::{Budget, Column, LogPlace, Mapped, Rows};
use crate::schema::{Field, Schema};
use crate::types::{IdKind, Ordinal, RowId};
use crate::vfs::map::Bytes;
use crate::vfs::{Vfs, open_named};

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
        let parts = Parts::open(file, collection, &Described::segment(entry))?;
        parts.check_regions(schema, entry)?;
        let region = |kind| parts.mapped(kind, 0);
        let fields = 0..schema.fields().len() as u16;
        let indexes = fields.map(|field| parts.mapped(RegionKind::FieldIndex, field));
        Ok(Self {
            ids: region(RegionKind::Ids)?,
            id_order: region(RegionKind::IdOrder)?,
            vectors: vectors(&parts, vfs, collection, schema, entry)?,
            payload: PayloadRegion::open(&parts, entry.rows)?,
            indexes: indexes.collect::<Result<_>>()?,
            fields: schema.shared_fields(),
            norms: Norms::new(region(RegionKind::Norms)?)?,
            codes: codes(&parts, schema)?,
            rows: entry.rows,
            id_kind: schema.ids(),
            file: parts.file.path().to_owned(),
            bytes: parts.bytes,
            entries: parts.entries,
        })
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

/// The vectors of a segment, or where logs have them.
fn vectors(
    parts: &Parts,
    vfs: &dyn Vfs,
    collection: &CollectionId,
    schema: &Schema,
    entry: &SegmentEntry,
) -> Result<Vectors> {
    let width = schema.vector_bytes();
    if entry.kept.is_empty() {
        return Ok(Vectors::in_region(parts.mapped(RegionKind::Vectors, 0)?, width));
    }
    let logs = entry.kept.iter().map(|log| KeptLog::open(vfs, collection, log));
    let logs = logs.collect::<Result<_>>()?;
    Ok(Vectors::in_logs(parts.mapped(RegionKind::Places, 0)?, logs, entry.rows, width))
}

fn codes(parts: &Parts, schema: &Schema) -> Result<Vec<Codes>> {
    let column = |(code, stage): (&StageCode, u16)| {
        let blocks = parts.mapped(RegionKind::Codes, stage)?;
        Codes::new(*code, blocks, parts.mapped(RegionKind::Factors, stage)?)
    };
    schema.stages().iter().zip(0..).map(column).collect()
}

impl PayloadRegion {
    /// The payloads of `rows` rows, if there are any.
    pub(super) fn open(parts: &Parts, rows: u32) -> Result<Option<Self>> {
        if parts.entry(RegionKind::Payload, 0).is_none() {
            return Ok(None);
        }
        let index = parts.mapped(RegionKind::PayloadIndex, 0)?;
        let blocks = parts.mapped(RegionKind::Payload, 0)?;
        let index = block::decode_index(index.get(0, index.len())?, rows, blocks.len() as u64)
            .map_err(|e: FormatError| e.in_file(parts.file.path(), index.offset()))?;
        let valid = Seen::none_of(index.len());
        Ok(Some(Self { blocks, index, rows, valid }))
    }

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

    fn distrust(&self) {
        let payload = self.payload.iter().map(|payload| &payload.blocks);
        let regions = [&self.ids, &self.id_order].into_iter().chain(&self.indexes).chain(payload);
        regions.for_each(Region::distrust);
        self.vectors.distrust();
    }

    fn compare_columns(&self) -> Result<()> {
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

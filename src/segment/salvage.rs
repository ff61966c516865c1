//! What can still be read of a damaged segment: each row by itself.
//!
//! Ids, vectors and payloads are the rows; all else follows from them. A row is
//! read if the blocks it lies in match their checksums, whatever else is damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{Footer, PAGE, RegionEntry, RegionKind, decode_table, name_regions};
use super::ids;
use super::parts::{expected_regions, names};
use super::region::{Checksums, Region};
use super::vectors::{KeptLog, Vectors};
use crate::codec::{Reader, crc32};
use crate::error::{Error, Result};
use crate::manifest::{SegmentEntry, decode_kept};
use crate::payload::block::{self, BlockEntry};
use crate::rows::LogPlace;
use crate::schema::Schema;
use crate::types::{FileNumber, IdKind, Ordinal, RowId};
use crate::vfs::map::Bytes;
use crate::vfs::{ReadFile, Vfs};

/// Most regions that a footer is looked for with.
const MOST_REGIONS: usize = 256;

/// The rows of a damaged segment.
pub(crate) struct Salvage {
    file: PathBuf,
    id_kind: IdKind,
    pub(crate) rows: u32,
    ids: Region,
    vectors: Vectors,
    payload: Option<Payloads>,
    /// As of [`Table`]: otherwise there may be payloads that were not found.
    named: bool,
}

struct Payloads {
    blocks: Region,
    /// The entries of the index that are intact, with their places in it.
    entries: Vec<(usize, BlockEntry)>,
    /// Entries there were.
    count: usize,
}

impl Payloads {
    fn new(blocks: Region, index: &Region) -> Self {
        let count = index.len() / BlockEntry::LEN;
        Self { blocks, entries: intact_entries(index, count), count }
    }
}

impl Salvage {
    /// Finds the regions of rows.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where the region table is lost: without it nothing
    /// tells a damaged block from an intact one.
    pub(crate) fn open(
        vfs: &dyn Vfs,
        file: &dyn ReadFile,
        schema: &Schema,
        entry: &SegmentEntry,
    ) -> Result<Self> {
        let wrong = |what: &str| Error::corrupt(file.path(), 0, what);
        if file.len() < entry.len {
            return Err(wrong("is cut short, and its checksums were at its end"));
        }
        let bytes = file.map()?;
        let whole = bytes.get(..entry.len as usize).ok_or_else(|| wrong("is cut short"))?;
        let expected = expected_regions(schema, entry);
        let names = names(&expected);
        let Table { regions, checksums, named } =
            Table::find(whole, entry, &names).ok_or_else(|| wrong("its region table is lost"))?;
        let checksums = Checksums::Kept(checksums.into());
        let region = |kind| {
            let len = expected.iter().find(|region| region.kind == kind)?.len;
            let found = regions.iter().find(|r| r.kind == kind && r.stage == 0)?;
            let fits = len.is_none_or(|len| found.len == len as u64);
            fits.then(|| Region::new(file.path(), bytes.clone(), checksums.clone(), found))
        };
        let (ids, width) = (region(RegionKind::Ids), schema.vector_bytes());
        let vectors = if entry.kept.is_empty() {
            region(RegionKind::Vectors).map(|region| Vectors::in_region(region, width))
        } else {
            let logs = entry.kept.iter().map(|log| KeptLog::open_damaged(vfs, log.number));
            let logs = logs.collect::<Result<_>>()?;
            let places = region(RegionKind::Places);
            places.map(|places| Vectors::in_logs(places, logs, entry.rows, width))
        };
        let (Some(ids), Some(vectors)) = (ids, vectors) else {
            return Err(wrong("its regions are not those of the schema"));
        };
        let blocks = region(RegionKind::Payload);
        let payload = blocks.zip(region(RegionKind::PayloadIndex));
        let payload = payload.map(|(blocks, index)| Payloads::new(blocks, &index));
        let (file, id_kind, rows) = (file.path().to_owned(), schema.ids(), entry.rows);
        Ok(Self { file, id_kind, rows, ids, vectors, payload, named })
    }

    /// The id of a row.
    pub(crate) fn id(&self, row: Ordinal) -> Result<RowId> {
        ids::read(&self.ids, self.id_kind, self.rows, row.index(), &self.file)
    }

    /// The stored bytes of a row's vector.
    pub(crate) fn vector(&self, row: Ordinal) -> Result<&[u8]> {
        self.vectors.get(row)
    }

    /// Where a log has it, if one has and that can be read.
    pub(crate) fn place(&self, row: Ordinal) -> Option<LogPlace> {
        self.vectors.place(row)
    }

    /// The text of a row's payload.
    pub(crate) fn payload(&self, row: Ordinal) -> Result<String> {
        if !self.named {
            return Err(Error::corrupt(&self.file, 0, "region table is damaged"));
        }
        let Some(Payloads { blocks, entries, count }) = &self.payload else {
            return Ok(String::new());
        };
        let lost = || Error::corrupt(&self.file, 0, "index of payloads is damaged");
        let next = entries.partition_point(|(_, e)| e.first_row <= row.0);
        let (at, entry) = *next.checked_sub(1).and_then(|n| entries.get(n)).ok_or_else(lost)?;
        // Where the next entry is lost nobody knows how many rows the block has.
        let end = match entries.get(next) {
            Some((place, following)) if *place == at + 1 => following.first_row,
            None if at + 1 == *count => self.rows,
            _ => return Err(lost()),
        };
        let offset = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let bytes = blocks.get(offset, entry.len as usize)?;
        let rows = end.checked_sub(entry.first_row).ok_or_else(lost)?;
        let text = block::text(bytes, rows as usize, (row.0 - entry.first_row) as usize);
        text.map(str::to_owned).map_err(|e| e.in_file(&self.file, blocks.offset()))
    }
}

/// The manifest's entry of a segment without dead rows, by the segment's own word; `None` where
/// that cannot be read.
pub(crate) fn own_entry(number: FileNumber, path: &Path, file: &Bytes) -> Option<SegmentEntry> {
    let footer = Footer::decode(file.last_chunk::<{ Footer::LEN }>()?).ok()?;
    let mut kept = Arc::default();
    if footer.kept > 0 {
        let start = usize::try_from(footer.table_at).ok()?;
        let table = file.get(start..file.len() - Footer::LEN)?;
        let (regions, checksums) = decode_table(table, &footer).ok()?;
        let logs = regions.iter().find(|region| region.kind == RegionKind::Logs)?;
        let logs = Region::new(path, file.clone(), Checksums::Kept(checksums.into()), logs);
        let mut r = Reader::new(logs.get(0, logs.len()).ok()?);
        kept = decode_kept(&mut r, footer.kept).ok()?;
        r.finish().ok()?;
    }
    let (len, rows, table_crc) = (file.len() as u64, footer.rows, footer.table_crc);
    Some(SegmentEntry { number, len, rows, table_crc, tombstones: None, kept })
}

/// The entries whose blocks are intact, in ascending order of rows.
fn intact_entries(index: &Region, count: usize) -> Vec<(usize, BlockEntry)> {
    let entry = |at: usize| {
        let bytes = index.get(at * BlockEntry::LEN, BlockEntry::LEN).ok()?;
        Some((at, BlockEntry::decode(&mut Reader::new(bytes)).ok()?))
    };
    let mut entries: Vec<(usize, BlockEntry)> = (0..count).filter_map(entry).collect();
    let mut last = None;
    entries.retain(|(_, e)| last.replace(e.first_row).is_none_or(|before| before < e.first_row));
    entries
}

/// Where the last bytes begin that have this checksum: at a page behind the first.
fn suffix_of(file: &[u8], crc: u32) -> Option<usize> {
    let mut suffix = crc32fast::Hasher::new();
    let pages = file.chunks(PAGE).enumerate().skip(1).rev();
    let mut starts = pages.map(|(page, bytes)| {
        let mut longer = crc32fast::Hasher::new();
        longer.update(bytes);
        longer.combine(&suffix);
        suffix = longer;
        (page * PAGE, suffix.clone().finalize())
    });
    starts.find(|(_, found)| *found == crc).map(|(start, _)| start)
}

/// Regions and checksums.
struct Table {
    regions: Vec<RegionEntry>,
    checksums: Vec<u32>,
    /// Whether the regions are what their entries say: these have their checksum, or are those
    /// of the schema.
    named: bool,
}

impl Table {
    /// Where the footer is damaged the table is found by the checksum of it that the manifest
    /// has; where the table is, it is mended if all that is wrong are the names of regions, which
    /// follow from the schema, or else used as it is: a wrong checksum makes an intact block look
    /// damaged, no more.
    fn find(file: &[u8], entry: &SegmentEntry, names: &[Vec<(RegionKind, u16)>]) -> Option<Self> {
        let end = file.len().checked_sub(Footer::LEN)?;
        let footer = file.get(end..)?.try_into().ok().map(Footer::decode);
        if let Some(Ok(footer)) = footer {
            let start = usize::try_from(footer.table_at).ok()?;
            let table = file.get(start..end).filter(|t| Some(t.len() as u64) == footer.table_len());
            let fits = (footer.rows, footer.table_crc) == (entry.rows, entry.table_crc);
            if let Some(table) = table.filter(|_| fits) {
                let mended = mended(table, &footer, names);
                return Self::decode(mended.as_deref().unwrap_or(table), &footer, names);
            }
        }
        let start = suffix_of(&file[..end], entry.table_crc)?;
        let table = &file[start..end];
        (1..=MOST_REGIONS).find_map(|regions| {
            let footer = Footer {
                table_at: start as u64,
                file_len: file.len() as u64,
                regions: regions as u32,
                checksums: (table.len().checked_sub(regions * 32)? / 4) as u32,
                rows: entry.rows,
                table_crc: entry.table_crc,
                kept: entry.kept.len() as u32,
            };
            Self::decode(table, &footer, names)
        })
    }

    fn decode(table: &[u8], footer: &Footer, names: &[Vec<(RegionKind, u16)>]) -> Option<Self> {
        let (regions, checksums) = decode_table(table, footer).ok()?;
        let found = regions.iter().map(|region| (region.kind, region.stage)).collect();
        let named = crc32(table) == footer.table_crc || names.contains(&found);
        Some(Self { regions, checksums, named })
    }
}

/// The table with other names of its regions, if it has its checksum then.
fn mended(table: &[u8], footer: &Footer, names: &[Vec<(RegionKind, u16)>]) -> Option<Vec<u8>> {
    let fits = names.iter().filter(|names| names.len() == footer.regions as usize);
    let mended = fits.map(|names| {
        let mut mended = table.to_vec();
        name_regions(&mut mended, names);
        mended
    });
    mended.into_iter().find(|mended| crc32(mended) == footer.table_crc)
}

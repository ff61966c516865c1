//! Writes a set of rows as a segment file, front to back.

use super::format::{Footer, PAGE, RegionEntry, RegionKind, encode_table};
use crate::codec::header::{FileHeader, FileKind, Owner};
use crate::codec::{crc32, f32_bytes};
use crate::error::{Error, Result};
use crate::index::IndexBuilder;
use crate::manifest::SegmentEntry;
use crate::memtable::{Columns, IdColumn};
use crate::payload::block::{BlockEntry, BlockWriter};
use crate::rows::Rows;
use crate::sown::{Bug, sown};
use crate::types::{FileNumber, Ordinal};
use crate::vfs::{Vfs, WriteFile};

/// Writes rows to file `number` and makes the bytes durable; the name becomes
/// durable with the next sync of the folder.
///
/// `columns` belong to the rows that `rows` gives, in that order, each time it
/// is called. Only they are held in RAM, as a segment's reader holds them too,
/// and the values of declared fields; vectors and payloads go from their source
/// to the file a row at a time.
pub(crate) fn write<'a, I>(
    vfs: &dyn Vfs,
    owner: Owner,
    number: FileNumber,
    columns: &Columns,
    rows: impl Fn() -> I,
) -> Result<SegmentEntry>
where
    I: Iterator<Item = (&'a dyn Rows, Ordinal)>,
{
    let header = FileHeader::new(FileKind::Segment, number, owner);
    let mut out = SegmentWriter::begin(vfs, &header)?;
    write_columns(&mut out, columns)?;
    out.begin_region(RegionKind::Vectors, 0);
    for (source, row) in rows() {
        out.put(source.vector(row)?)?;
    }
    out.end_region()?;
    let mut indexes = IndexBuilder::new(columns.fields.clone());
    write_payloads(&mut out, &mut indexes, &rows)?;
    for (index, field) in indexes.finish().zip(0..) {
        out.region(RegionKind::FieldIndex, field, &index)?;
    }
    let rows = columns.order.len() as u32;
    let (len, table_crc) = out.finish(rows)?;
    Ok(SegmentEntry { number, len, rows, table_crc, tombstones: None })
}

fn write_columns(out: &mut SegmentWriter, columns: &Columns) -> Result<()> {
    out.region(RegionKind::Ids, 0, &id_bytes(&columns.ids))?;
    out.region(RegionKind::IdOrder, 0, &u32_bytes(&columns.order))?;
    out.region(RegionKind::Norms, 0, &f32_bytes(&columns.codes.norms))?;
    for (column, stage) in columns.codes.stages.iter().zip(0..) {
        let (blocks, scalars) = (column.blocks(), column.scalars());
        out.region(RegionKind::Codes, stage, blocks)?;
        out.region(RegionKind::Factors, stage, &f32_bytes(scalars))?;
    }
    Ok(())
}

/// Writes payload blocks and their index, nothing where no row has a payload,
/// and gathers what is to be indexed of them.
fn write_payloads<'a, I>(
    out: &mut SegmentWriter,
    indexes: &mut IndexBuilder,
    rows: impl Fn() -> I,
) -> Result<()>
where
    I: Iterator<Item = (&'a dyn Rows, Ordinal)>,
{
    let mut any = false;
    for (source, row) in rows() {
        any = !source.payload(row)?.is_empty();
        if any {
            break;
        }
    }
    if !any {
        return Ok(());
    }
    let mut blocks = BlockWriter::default();
    out.begin_region(RegionKind::Payload, 0);
    for (source, row) in rows() {
        let text = source.payload(row)?;
        indexes.push(&text).map_err(|why| {
            // Batches refuse such payloads: the source was made by hand.
            Error::corrupt("source of a segment", 0, format!("payload of row {}: {why}", row.0))
        })?;
        blocks.push(&text);
        out.put(&blocks.take())?;
    }
    blocks.close();
    out.put(&blocks.take())?;
    out.end_region()?;
    let index: Vec<u8> = blocks.entries.iter().flat_map(BlockEntry::encode).collect();
    out.region(RegionKind::PayloadIndex, 0, &index)
}

fn u32_bytes(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// `u64` ids as they are; string ids as end offsets, then the text.
fn id_bytes(ids: &IdColumn) -> Vec<u8> {
    match ids {
        IdColumn::U64(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
        IdColumn::Str { ends, text } => {
            let mut bytes: Vec<u8> = ends.iter().flat_map(|end| end.to_le_bytes()).collect();
            bytes.extend_from_slice(text.as_bytes());
            bytes
        }
    }
}

/// Bytes gathered before they go to the file: the file system is called for
/// megabytes, not for rows.
const BUFFER: usize = 1 << 20;

/// Writes a file of regions: a segment, or a graph, which has the same form.
pub(super) struct SegmentWriter {
    file: Box<dyn WriteFile>,
    buffer: Vec<u8>,
    /// Bytes of the file so far, those in the buffer included.
    len: u64,
    regions: Vec<RegionEntry>,
    checksums: Vec<u32>,
    /// The checksum block that is not full yet.
    block: crc32fast::Hasher,
    block_len: usize,
}

impl SegmentWriter {
    pub(super) fn begin(vfs: &dyn Vfs, header: &FileHeader) -> Result<Self> {
        let file = vfs.create(&header.kind.name(header.number))?;
        let mut writer = Self {
            file,
            buffer: Vec::with_capacity(BUFFER),
            len: 0,
            regions: Vec::new(),
            checksums: Vec::new(),
            block: crc32fast::Hasher::new(),
            block_len: 0,
        };
        writer.append(&header.encode())?;
        writer.pad()?;
        Ok(writer)
    }

    /// Adds bytes that no region's checksum covers.
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        if self.buffer.len() + bytes.len() > BUFFER {
            self.file.write(&self.buffer)?;
            self.buffer.clear();
        }
        if bytes.len() > BUFFER {
            return self.file.write(bytes);
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        let padding = self.len.next_multiple_of(PAGE as u64) - self.len;
        self.append(&[0; PAGE][..padding as usize])
    }

    fn begin_region(&mut self, kind: RegionKind, stage: u16) {
        let first_checksum = self.checksums.len() as u32;
        self.regions.push(RegionEntry { kind, stage, offset: self.len, len: 0, first_checksum });
    }

    /// Adds bytes to the region that was begun.
    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.append(bytes)?;
        let region = self.regions.last_mut().expect("a region was begun");
        region.len += bytes.len() as u64;
        let whole = region.kind.block_len() as usize;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(whole - self.block_len));
            self.block.update(now);
            self.block_len += now.len();
            if self.block_len == whole {
                self.end_block();
            }
            bytes = later;
        }
        Ok(())
    }

    fn end_block(&mut self) {
        let block = std::mem::replace(&mut self.block, crc32fast::Hasher::new());
        self.checksums.push(block.finalize());
        self.block_len = 0;
    }

    fn end_region(&mut self) -> Result<()> {
        if self.block_len > 0 {
            self.end_block();
        }
        self.pad()
    }

    pub(super) fn region(&mut self, kind: RegionKind, stage: u16, bytes: &[u8]) -> Result<()> {
        self.begin_region(kind, stage);
        self.put(bytes)?;
        self.end_region()
    }

    /// Writes table and footer; returns the file's length and the table's checksum.
    pub(super) fn finish(mut self, rows: u32) -> Result<(u64, u32)> {
        let table = encode_table(&self.regions, &self.checksums);
        let table_crc = crc32(&table);
        let file_len = self.len + (table.len() + Footer::LEN) as u64;
        let footer = Footer {
            table_at: self.len,
            file_len,
            regions: self.regions.len() as u32,
            checksums: self.checksums.len() as u32,
            rows,
            table_crc,
        };
        self.append(&table)?;
        self.append(&footer.encode())?;
        self.file.write(&self.buffer)?;
        if !sown(Bug::SegmentNotSynced) {
            self.file.sync()?;
        }
        Ok((file_len, table_crc))
    }
}

//! Writes a run of the memtable as a segment file.

use super::format::{Footer, PAGE, RegionEntry, RegionKind, encode_table};
use crate::codec::header::{FileHeader, FileKind, Owner};
use crate::codec::{crc32, f32_bytes};
use crate::error::Result;
use crate::manifest::SegmentEntry;
use crate::memtable::{IdColumn, Run};
use crate::payload::block::{BlockEntry, BlockWriter};
use crate::rows::Rows;
use crate::types::FileNumber;
use crate::vfs::{Vfs, WriteFile};

/// Writes `run` to file `number` and makes the bytes durable; the name becomes
/// durable with the next sync of the folder.
pub(crate) fn write(
    vfs: &dyn Vfs,
    owner: Owner,
    number: FileNumber,
    run: &Run,
) -> Result<SegmentEntry> {
    let header = FileHeader::new(FileKind::Segment, number, owner);
    let mut out = SegmentWriter::begin(vfs, &header)?;
    out.region(RegionKind::Ids, 0, &id_bytes(&run.ids))?;
    out.region(RegionKind::IdOrder, 0, &u32_bytes(&run.order))?;
    out.region(RegionKind::Norms, 0, &f32_bytes(run.norms()))?;
    for (stage, column) in run.codes().iter().enumerate() {
        out.region(RegionKind::Codes, stage as u16, column.blocks())?;
        out.region(RegionKind::Factors, stage as u16, &f32_bytes(column.factors()))?;
    }
    out.region(RegionKind::Vectors, 0, &run.vectors)?;
    if run.payloads.iter().any(|p| !p.is_empty()) {
        let mut payload = BlockWriter::default();
        run.payloads.iter().for_each(|text| payload.push(text));
        payload.close();
        let index: Vec<u8> = payload.entries.iter().flat_map(BlockEntry::encode).collect();
        out.region(RegionKind::Payload, 0, &payload.bytes)?;
        out.region(RegionKind::PayloadIndex, 0, &index)?;
    }
    let (len, table_crc) = out.finish(run.len())?;
    Ok(SegmentEntry { number, len, rows: run.len(), table_crc, tombstones: None })
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

struct SegmentWriter {
    file: Box<dyn WriteFile>,
    len: u64,
    regions: Vec<RegionEntry>,
    checksums: Vec<u32>,
}

impl SegmentWriter {
    fn begin(vfs: &dyn Vfs, header: &FileHeader) -> Result<Self> {
        let file = vfs.create(&FileKind::Segment.name(header.number))?;
        let mut writer = Self { file, len: 0, regions: Vec::new(), checksums: Vec::new() };
        writer.put(&header.encode())?;
        writer.pad()?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        let padding = self.len.next_multiple_of(PAGE as u64) - self.len;
        self.put(&[0; PAGE][..padding as usize])
    }

    fn region(&mut self, kind: RegionKind, stage: u16, bytes: &[u8]) -> Result<()> {
        let (offset, len) = (self.len, bytes.len() as u64);
        let first_checksum = self.checksums.len() as u32;
        self.regions.push(RegionEntry { kind, stage, offset, len, first_checksum });
        self.checksums.extend(bytes.chunks(kind.block_len() as usize).map(crc32));
        self.put(bytes)?;
        self.pad()
    }

    /// Writes table and footer; returns the file's length and the table's checksum.
    fn finish(mut self, rows: u32) -> Result<(u64, u32)> {
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
        self.put(&table)?;
        self.put(&footer.encode())?;
        self.file.sync()?;
        Ok((file_len, table_crc))
    }
}

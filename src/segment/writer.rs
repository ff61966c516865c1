//! Writes a set of rows as a segment file, front to back.

use std::path::Path;
use std::sync::Arc;

use super::coding::{self, Coded, Source};
use super::format::{Footer, PAGE, PlaceEntry, RegionEntry, RegionKind, encode_table};
use crate::codec::header::{FileHeader, FileKind, Owner};
use crate::codec::{crc32, f32_bytes};
use crate::error::{Error, Result};
use crate::index::IndexBuilder;
use crate::manifest::{LogEntry, MAX_KEPT, SegmentEntry, encode_kept};
use crate::memtable::IdColumn;
use crate::payload::block::{BlockEntry, BlockWriter};
use crate::rows::{CodeColumn, ReadAhead};
use crate::schema::Schema;
use crate::types::FileNumber;
use crate::vfs::{PIECE, Vfs, WriteFile, sync_file};

/// Writes rows to file `number` and makes the bytes durable; the name becomes
/// durable with the next sync of the folder.
///
/// Vectors come first: they are most of the file, and the medium is busy with them
/// while the rows are coded. They are not written where `logs`, to which nothing is
/// written any more, have them: see [`kept`]. Codes of rows that no segment has are held in
/// RAM until then, as are ids and the values of declared fields; vectors and payloads go from
/// their source to the file a row at a time, codes of segments a group at a time. `watch` is told
/// of the first row and every thousandth; its error ends the writing.
pub(crate) fn write(
    vfs: &dyn Vfs,
    owner: Owner,
    schema: &Schema,
    number: FileNumber,
    rows: &[Source],
    logs: &[LogEntry],
    watch: &dyn Fn(u64) -> Result<()>,
) -> Result<SegmentEntry> {
    let header = FileHeader::new(FileKind::Segment, number, owner);
    let mut out = SegmentWriter::begin(vfs, &header)?;
    let kept = kept(schema, rows, logs);
    let vectors = || write_vectors(&mut out, schema, rows, kept.as_ref(), watch);
    let centres = coding::centres(schema, rows)?;
    let (ids, codes) = coding::beside(schema, &centres, rows, vectors)?;
    out.region(RegionKind::Ids, 0, &id_bytes(&ids))?;
    out.region(RegionKind::IdOrder, 0, &u32_bytes(&ids.order()))?;
    write_codes(&mut out, schema, &centres, &codes)?;
    let mut indexes = IndexBuilder::new(schema.shared_fields());
    write_payloads(&mut out, &mut indexes, rows)?;
    for (index, field) in indexes.finish().zip(0..) {
        out.region(RegionKind::FieldIndex, field, &index)?;
    }
    let rows = rows.len() as u32;
    let kept: Arc<[LogEntry]> = kept.map_or_else(Arc::default, |kept| kept.logs.into());
    let (len, table_crc) = out.finish(rows, kept.len() as u32)?;
    Ok(SegmentEntry { number, len, rows, table_crc, tombstones: None, kept })
}

/// The logs that have the vectors of all rows, and where in which of them each is.
struct Kept {
    logs: Vec<LogEntry>,
    places: Vec<(u32, u64)>,
}

/// None where a row is in none of `logs`, or where less than two thirds of those in use are these
/// vectors: the rest, rows that are dead and payloads, would lie on the medium for as long as
/// the segment does.
fn kept(schema: &Schema, rows: &[Source], logs: &[LogEntry]) -> Option<Kept> {
    if logs.is_empty() {
        return None;
    }
    let mut kept = Kept { logs: Vec::new(), places: Vec::with_capacity(rows.len()) };
    for (source, row) in rows {
        let place = source.logged(*row)?;
        let used = kept.logs.iter().rposition(|log| log.number == place.log);
        if used.is_none() {
            kept.logs.push(*logs.iter().find(|log| log.number == place.log)?);
        }
        let log = used.unwrap_or(kept.logs.len() - 1);
        kept.places.push((log as u32, place.at));
    }
    let vectors = (rows.len() * schema.vector_bytes()) as u64;
    let bytes: u64 = kept.logs.iter().map(|log| log.len).sum();
    (vectors * 3 >= bytes * 2 && kept.logs.len() <= MAX_KEPT as usize).then_some(kept)
}

/// Writes vectors, or where logs have them, and gathers ids. Every id comes at most once.
fn write_vectors(
    out: &mut SegmentWriter,
    schema: &Schema,
    rows: &[Source],
    kept: Option<&Kept>,
    watch: &dyn Fn(u64) -> Result<()>,
) -> Result<IdColumn> {
    let mut ids = IdColumn::with_room(schema.ids(), rows.len());
    if let Some(kept) = kept {
        out.region(RegionKind::Logs, 0, &encode_kept(&kept.logs).collect::<Vec<_>>())?;
    }
    out.begin_region(kept.map_or(RegionKind::Vectors, |_| RegionKind::Places), 0);
    let mut ahead = ReadAhead::default();
    for (n, (source, row)) in rows.iter().enumerate() {
        if n.is_multiple_of(1024) {
            watch(n as u64)?;
        }
        ids.push(&source.id(*row)?);
        match kept.map(|kept| kept.places[n]) {
            None => {
                ahead.before(*source, *row);
                out.put(source.vector(*row)?)?;
            }
            Some((log, offset)) => {
                let sum = || source.vector(*row).map(crc32);
                let crc = source.vector_crc(*row).map_or_else(sum, Ok)?;
                out.put(&PlaceEntry { offset, log, crc }.encode())?;
            }
        }
    }
    out.end_region()?;
    Ok(ids)
}

/// Writes norms, and codes and factors of each stage. Groups of rows have whole
/// blocks, so that their codes stand one after another; of their scalars, all first
/// ones come first, and the centre of all rows last.
fn write_codes(
    out: &mut SegmentWriter,
    schema: &Schema,
    centres: &[Vec<f32>],
    groups: &[Coded],
) -> Result<()> {
    out.begin_region(RegionKind::Norms, 0);
    for group in groups {
        group.norms(|norms| out.put(&f32_bytes(norms)))??;
    }
    out.end_region()?;
    for ((stage, centre), number) in centres.iter().enumerate().zip(0..) {
        let mut scalars = Vec::new();
        out.begin_region(RegionKind::Codes, number);
        for group in groups {
            group.stage(schema, (stage, centre), |codes| {
                add_scalars(codes, &mut scalars);
                out.put(codes.blocks())
            })??;
        }
        out.end_region()?;
        out.begin_region(RegionKind::Factors, number);
        scalars.iter().try_for_each(|kind| out.put(kind))?;
        out.put(&f32_bytes(centre))?;
        out.end_region()?;
    }
    Ok(())
}

/// Adds the scalars of a group to those of their kind: factors, or scales and residuals.
fn add_scalars(codes: &CodeColumn, kinds: &mut Vec<Vec<u8>>) {
    for (n, some) in codes.view().scalars().enumerate() {
        if kinds.len() == n {
            kinds.push(Vec::new());
        }
        kinds[n].extend_from_slice(&f32_bytes(some));
    }
}

/// Writes payload blocks and their index, nothing where no row has a payload,
/// and gathers what is to be indexed of them.
fn write_payloads(
    out: &mut SegmentWriter,
    indexes: &mut IndexBuilder,
    rows: &[Source],
) -> Result<()> {
    let mut any = false;
    for (source, row) in rows {
        any = !source.payload(*row)?.is_empty();
        if any {
            break;
        }
    }
    if !any {
        return Ok(());
    }
    let mut blocks = BlockWriter::default();
    out.begin_region(RegionKind::Payload, 0);
    for (source, row) in rows {
        let text = source.payload(*row)?;
        indexes.push(&text).map_err(|why| {
            // Batches refuse such payloads: the source was made by hand.
            let file = source.path().unwrap_or(Path::new("log"));
            Error::corrupt(file, 0, format!("payload of row {}: {why}", row.0))
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

/// Writes a file of regions: a segment, or a graph, which has the same form.
pub(super) struct SegmentWriter {
    file: Box<dyn WriteFile>,
    /// What is gathered of the piece at hand.
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
            buffer: Vec::with_capacity(PIECE),
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
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == PIECE {
                self.file.write(&self.buffer)?;
                self.buffer.clear();
            }
            bytes = later;
        }
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
    pub(super) fn finish(mut self, rows: u32, kept: u32) -> Result<(u64, u32)> {
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
            kept,
        };
        self.append(&table)?;
        self.append(&footer.encode())?;
        self.file.write(&self.buffer)?;
        sync_file(&mut *self.file)?;
        Ok((file_len, table_crc))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::{Bits, StageBuilder};
    use crate::memtable::RunBuilder;
    use crate::rows::{Column, Rows};
    use crate::schema::Schema;
    use crate::segment::reader::Segment;
    use crate::types::{Ordinal, RowId};
    use crate::vfs::mem::Mem;

    /// Rows of several groups, coded on several threads, have the codes, norms and
    /// vectors that coding them one after another gives.
    #[test]
    fn a_segment_of_many_rows_is_as_if_coded_row_by_row() {
        const ROWS: u32 = 2500;
        let schema = Arc::new(Schema::builder(130).granularities([8, 64]).build().expect("valid"));
        let mut run = RunBuilder::new(&schema);
        for row in 0..ROWS {
            let value = |d: u32| ((row * 131 + d * 17) % 509) as f32 - 254.0;
            let bytes: Vec<u8> = (0..130).flat_map(|d| value(d).to_le_bytes()).collect();
            run.push(&RowId::U64(u64::from(row)), &bytes, "");
        }
        let run = run.finish();
        let rows: Vec<Source> = (0..ROWS).map(|row| (&run as &dyn Rows, Ordinal(row))).collect();
        let (vfs, owner) = (Mem::default(), Owner { collection: [3; 16], generation: 1 });
        let told = std::cell::RefCell::new(Vec::new());
        let watch = |row| {
            told.borrow_mut().push(row);
            Ok(())
        };
        let entry =
            write(&vfs, owner, &schema, FileNumber(1), &rows, &[], &watch).expect("written");
        assert_eq!(told.into_inner(), [0, 1024, 2048]);
        let segment = Segment::open(&vfs, &[3; 16], &schema, &entry).expect("opens");
        segment.ready(Column::Norms).expect("undamaged");
        assert!(segment.norms() == run.norms());
        for (stage, code) in schema.stages().iter().enumerate() {
            let mut builder = StageBuilder::new(*code);
            for row in 0..ROWS {
                let mut wide = vec![0.0; 130];
                let stored = segment.vector(Ordinal(row)).expect("undamaged");
                assert!(stored == run.vector(Ordinal(row)).expect("in RAM"));
                schema.stored().decode(stored, &mut wide);
                builder.push(&wide);
            }
            segment.ready(Column::Stage(stage)).expect("undamaged");
            let (got, expected) = (segment.code(stage), builder.view());
            assert!(got.blocks() == expected.blocks(), "stage {stage}");
            for row in 0..ROWS as usize {
                assert_eq!(got.factor(row).to_bits(), expected.factor(row).to_bits());
                assert_eq!(got.scale(row), expected.scale(row));
            }
        }
    }

    /// Rows without negative components, `skew` of which differ between sets.
    fn positive(schema: &Arc<Schema>, first: u32, rows: u32, skew: u32) -> crate::memtable::Run {
        let mut run = RunBuilder::new(schema);
        for row in first..first + rows {
            let value = |d: u32| ((row * 131 + d * 17) % 509 + d % 7 * skew + 100) as f32;
            let bytes: Vec<u8> = (0..130).flat_map(|d| value(d).to_le_bytes()).collect();
            run.push(&RowId::U64(u64::from(row)), &bytes, "");
        }
        run.finish()
    }

    fn all(rows: &dyn Rows) -> Vec<Source<'_>> {
        (0..rows.len()).map(|row| (rows, Ordinal(row))).collect()
    }

    /// A merge takes the centre of the segment that has most of its rows, and their codes; the
    /// others are coded anew.
    #[test]
    fn a_merge_codes_all_rows_about_one_centre() {
        let schema = Arc::new(Schema::builder(130).granularities([64]).build().expect("valid"));
        let (vfs, owner) = (Mem::default(), Owner { collection: [3; 16], generation: 1 });
        let write = |number: u64, rows: &[Source]| {
            let number = FileNumber(number);
            let entry =
                write(&vfs, owner, &schema, number, rows, &[], &|_| Ok(())).expect("written");
            Segment::open(&vfs, &[3; 16], &schema, &entry).expect("opens")
        };
        let runs = [positive(&schema, 0, 700, 9), positive(&schema, 700, 1800, 90)];
        let [few, most] = [0, 1].map(|n| write(n as u64 + 1, &all(&runs[n])));
        let merged = write(3, &[all(&few), all(&most)].concat());
        let stage = schema.stages().iter().position(|code| code.bits == Bits::One).expect("one");
        for segment in [&few, &most, &merged] {
            segment.ready(Column::Stage(stage)).expect("undamaged");
        }
        let centre = most.code(stage).centre();
        assert!(merged.code(stage).is_about(centre) && !few.code(stage).is_about(centre));
        assert!(centre.iter().all(|m| *m != 0.0), "rows without negative components have one");
        let mut builder = StageBuilder::new(schema.stages()[stage]).about(centre);
        let mut wide = vec![0.0; 130];
        for row in 0..merged.len() {
            schema.stored().decode(merged.vector(Ordinal(row)).expect("undamaged"), &mut wide);
            builder.push(&wide);
        }
        assert!(merged.code(stage).blocks() == builder.view().blocks());
        for row in 0..merged.len() as usize {
            assert_eq!(
                merged.code(stage).factor(row).to_bits(),
                builder.view().factor(row).to_bits()
            );
        }
    }
}

//! What a manifest says of each file: FORMAT.md, sections "Segment entry", "Log entry" and
//! "Graph entry".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use crate::codec::header::FileHeader;
use crate::codec::{Fields, FormatError, Reader, layout, put};
use crate::types::FileNumber;

use super::MAX_LOG;

layout!(
    /// FORMAT.md, section "Segment entry".
    segment_entry, 64, {
    FILE: 0, 8;
    FILE_LEN: 8, 8;
    ROWS: 16, 4;
    TABLE_CRC: 20, 4;
    TOMBSTONES: 24, 8;
    DEAD: 32, 4;
    TOMBSTONES_CRC: 36, 4;
    LOG: 40, 8;
    LOG_LEN: 48, 8;
    LOG_CRC: 56, 4;
    RESERVED: 60, 4;
});

layout!(
    /// FORMAT.md, section "Log entry".
    log_entry, 24, {
    FILE: 0, 8;
    LOG_LEN: 8, 8;
    LOG_CRC: 16, 4;
    SEALED: 20, 4;
});

layout!(
    /// FORMAT.md, section "Graph entry".
    graph_entry, 32, {
    FILE: 0, 8;
    FILE_LEN: 8, 8;
    SEGMENT: 16, 8;
    TABLE_CRC: 24, 4;
    RESERVED: 28, 4;
});

/// A segment, and which of its rows are dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) number: FileNumber,
    pub(crate) len: u64,
    pub(crate) rows: u32,
    /// Checksum of the segment's region table and checksums: ties the manifest
    /// to these very bytes.
    pub(crate) table_crc: u32,
    pub(crate) tombstones: Option<TombstonesEntry>,
    /// The log that has its vectors, if its own file does not.
    pub(crate) log: Option<LogEntry>,
}

/// The file that says which rows of a segment are dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TombstonesEntry {
    pub(crate) number: FileNumber,
    /// How many are; at least one, and never all.
    pub(crate) dead: u32,
    /// Checksum of the file's body.
    pub(crate) crc: u32,
}

/// A log, and how much of it was durable when the manifest was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogEntry {
    pub(crate) number: FileNumber,
    /// The log has at least this many bytes,
    pub(crate) len: u64,
    /// with this checksum.
    pub(crate) crc: u32,
    /// It was closed cleanly: it has no more than those bytes.
    pub(crate) sealed: bool,
}

/// The graph of a segment. It goes when the segment goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GraphEntry {
    pub(crate) number: FileNumber,
    pub(crate) len: u64,
    /// Whose rows it links.
    pub(crate) segment: FileNumber,
    /// Checksum of its region table and checksums.
    pub(crate) table_crc: u32,
}

impl SegmentEntry {
    /// The entry of a file that is about to be written: it names the file, so
    /// that it can be removed if writing fails.
    pub(crate) fn planned(number: FileNumber) -> Self {
        Self { number, len: 0, rows: 0, table_crc: 0, tombstones: None, log: None }
    }

    pub(super) fn encode(&self) -> [u8; segment_entry::LEN] {
        use segment_entry as f;
        let mut out = [0; f::LEN];
        let none = TombstonesEntry { number: FileNumber(0), dead: 0, crc: 0 };
        let tombstones = self.tombstones.unwrap_or(none);
        put(&mut out, f::FILE, &self.number.0.to_le_bytes());
        put(&mut out, f::FILE_LEN, &self.len.to_le_bytes());
        put(&mut out, f::ROWS, &self.rows.to_le_bytes());
        put(&mut out, f::TABLE_CRC, &self.table_crc.to_le_bytes());
        put(&mut out, f::TOMBSTONES, &tombstones.number.0.to_le_bytes());
        put(&mut out, f::DEAD, &tombstones.dead.to_le_bytes());
        put(&mut out, f::TOMBSTONES_CRC, &tombstones.crc.to_le_bytes());
        let none = LogEntry { number: FileNumber(0), len: 0, crc: 0, sealed: true };
        let log = self.log.unwrap_or(none);
        put(&mut out, f::LOG, &log.number.0.to_le_bytes());
        put(&mut out, f::LOG_LEN, &log.len.to_le_bytes());
        put(&mut out, f::LOG_CRC, &log.crc.to_le_bytes());
        out
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, FormatError> {
        use segment_entry as f;
        let at = r.at();
        let b = r.take(f::LEN)?;
        let number = FileNumber(b.u64(f::TOMBSTONES));
        let tombstones =
            TombstonesEntry { number, dead: b.u32(f::DEAD), crc: b.u32(f::TOMBSTONES_CRC) };
        // A segment has rows, and one whose rows are all dead is dropped instead.
        let some = number.0 > 0;
        let consistent = some == (tombstones.dead > 0)
            && tombstones.dead < b.u32(f::ROWS)
            && (some || tombstones.crc == 0)
            && b.u32(f::RESERVED) == 0;
        if !consistent {
            return Err(FormatError::new(at, "segment entry contradicts itself"));
        }
        let log = LogEntry::kept(b.u64(f::LOG), b.u64(f::LOG_LEN), b.u32(f::LOG_CRC));
        let log = log.map_err(|what| FormatError::new(at + f::LOG.start, what))?;
        Ok(Self {
            number: FileNumber(b.u64(f::FILE)),
            len: b.u64(f::FILE_LEN),
            rows: b.u32(f::ROWS),
            table_crc: b.u32(f::TABLE_CRC),
            tombstones: some.then_some(tombstones),
            log,
        })
    }
}

impl LogEntry {
    /// The log that a segment keeps; number 0 stands for none.
    ///
    /// # Errors
    /// What is wrong where the numbers contradict each other.
    pub(crate) fn kept(number: u64, len: u64, crc: u32) -> Result<Option<Self>, &'static str> {
        match number {
            0 if len == 0 && crc == 0 => Ok(None),
            1.. if (FileHeader::LEN as u64..=MAX_LOG).contains(&len) => {
                Ok(Some(Self { number: FileNumber(number), len, crc, sealed: true }))
            }
            _ => Err("number, length and checksum of a kept log contradict each other"),
        }
    }

    pub(super) fn encode(&self) -> [u8; log_entry::LEN] {
        use log_entry as f;
        let mut out = [0; f::LEN];
        put(&mut out, f::FILE, &self.number.0.to_le_bytes());
        put(&mut out, f::LOG_LEN, &self.len.to_le_bytes());
        put(&mut out, f::LOG_CRC, &self.crc.to_le_bytes());
        put(&mut out, f::SEALED, &u32::from(self.sealed).to_le_bytes());
        out
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, FormatError> {
        use log_entry as f;
        let at = r.at();
        let b = r.take(f::LEN)?;
        let (len, sealed) = (b.u64(f::LOG_LEN), b.u32(f::SEALED));
        if sealed > 1 || len < FileHeader::LEN as u64 {
            return Err(FormatError::new(at, "log entry contradicts itself"));
        }
        let number = FileNumber(b.u64(f::FILE));
        Ok(Self { number, len, crc: b.u32(f::LOG_CRC), sealed: sealed == 1 })
    }
}

impl GraphEntry {
    /// The file as one of a segment's form, which it has.
    pub(crate) fn as_segment(&self, rows: u32) -> SegmentEntry {
        let Self { number, len, table_crc, .. } = *self;
        SegmentEntry { number, len, rows, table_crc, tombstones: None, log: None }
    }

    pub(super) fn encode(&self) -> [u8; graph_entry::LEN] {
        use graph_entry as f;
        let mut out = [0; f::LEN];
        put(&mut out, f::FILE, &self.number.0.to_le_bytes());
        put(&mut out, f::FILE_LEN, &self.len.to_le_bytes());
        put(&mut out, f::SEGMENT, &self.segment.0.to_le_bytes());
        put(&mut out, f::TABLE_CRC, &self.table_crc.to_le_bytes());
        out
    }

    pub(super) fn decode(r: &mut Reader) -> Result<Self, FormatError> {
        use graph_entry as f;
        let at = r.at();
        let b = r.take(f::LEN)?;
        if b.u32(f::RESERVED) != 0 {
            return Err(FormatError::new(at, "reserved field of a graph entry is not zero"));
        }
        Ok(Self {
            number: FileNumber(b.u64(f::FILE)),
            len: b.u64(f::FILE_LEN),
            segment: FileNumber(b.u64(f::SEGMENT)),
            table_crc: b.u32(f::TABLE_CRC),
        })
    }
}

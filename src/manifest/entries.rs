//! What a manifest says of each file: FORMAT.md, sections "Segment entry", "Log entry" and
//! "Graph entry".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use std::sync::Arc;

use crate::codec::header::FileHeader;
use crate::codec::{Fields, FormatError, Reader, layout, put};
use crate::types::FileNumber;

use super::{MAX_KEPT, MAX_LOG};

layout!(
    /// FORMAT.md, section "Segment entry".
    segment_entry, 48, {
    FILE: 0, 8;
    FILE_LEN: 8, 8;
    ROWS: 16, 4;
    TABLE_CRC: 20, 4;
    TOMBSTONES: 24, 8;
    DEAD: 32, 4;
    TOMBSTONES_CRC: 36, 4;
    KEPT: 40, 4;
    RESERVED: 44, 4;
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SegmentEntry {
    pub(crate) number: FileNumber,
    pub(crate) len: u64,
    pub(crate) rows: u32,
    /// Checksum of the segment's region table and checksums: ties the manifest
    /// to these very bytes.
    pub(crate) table_crc: u32,
    pub(crate) tombstones: Option<TombstonesEntry>,
    /// The logs that have its vectors; none if its own file does.
    pub(crate) kept: Arc<[LogEntry]>,
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
    /// With the logs that it keeps behind it.
    pub(super) fn encode(&self) -> Vec<u8> {
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
        put(&mut out, f::KEPT, &(self.kept.len() as u32).to_le_bytes());
        out.into_iter().chain(encode_kept(&self.kept)).collect()
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
        let kept = decode_kept(r, b.u32(f::KEPT))?;
        Ok(Self {
            number: FileNumber(b.u64(f::FILE)),
            len: b.u64(f::FILE_LEN),
            rows: b.u32(f::ROWS),
            table_crc: b.u32(f::TABLE_CRC),
            tombstones: some.then_some(tombstones),
            kept,
        })
    }
}

/// The logs that a segment keeps, one after another.
pub(crate) fn encode_kept(logs: &[LogEntry]) -> impl Iterator<Item = u8> {
    logs.iter().flat_map(LogEntry::encode)
}

/// Reads `count` of them.
pub(crate) fn decode_kept(r: &mut Reader, count: u32) -> Result<Arc<[LogEntry]>, FormatError> {
    if count > MAX_KEPT {
        let (most, count) = (u64::from(MAX_KEPT), u64::from(count));
        return Err(FormatError::mismatch(r.at(), "logs that a segment keeps", most, count));
    }
    let one = |_| {
        let at = r.at();
        let log = LogEntry::decode(r)?;
        let whole = log.sealed && log.number.0 > 0 && log.len <= MAX_LOG;
        whole.then_some(log).ok_or_else(|| FormatError::new(at, "is no entry of a kept log"))
    };
    (0..count).map(one).collect()
}

impl LogEntry {
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

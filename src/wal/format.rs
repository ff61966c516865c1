//! Bytes of a frame: FORMAT.md, section "Write-ahead log".
#![deny(clippy::indexing_slicing, clippy::unwrap_used)]

use crate::codec::header::CollectionId;
use crate::codec::{Fields, crc32_of, layout, put};
use crate::types::{FileNumber, Lsn};

layout!(
    /// FORMAT.md, section "Frame".
    wal_frame, 32, {
    MAGIC: 0, 4;
    BODY_LEN: 4, 4;
    LSN: 8, 8;
    SYNCED: 16, 8;
    OPERATIONS: 24, 4;
    CRC: 28, 4;
});

const MAGIC: &[u8; 4] = b"FRAM";

/// Frames begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Most bytes in the body of one frame, and so in one batch.
pub(crate) const MAX_BODY: usize = 64 << 20;

/// Which log a frame is in: part of its checksum, so that bytes of another log
/// or of another place in this one never validate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogName {
    pub(crate) collection: CollectionId,
    pub(crate) number: FileNumber,
}

/// A frame without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) lsn: Lsn,
    /// Everything in the log below this offset was synced before this frame was
    /// written.
    pub(crate) synced: u64,
    pub(crate) operations: u32,
}

impl LogName {
    fn crc(&self, offset: u64, head: &[u8], body: &[u8]) -> u32 {
        let place = [self.number.0.to_le_bytes(), offset.to_le_bytes()].concat();
        crc32_of(&[&self.collection, &place, head.field(0..wal_frame::CRC.start), body])
    }

    /// Appends the frame that stands at `offset` of the log to `out`.
    pub(crate) fn encode(&self, offset: u64, frame: FrameHead, body: &[u8], out: &mut Vec<u8>) {
        use wal_frame as f;
        let mut head = [0; f::LEN];
        put(&mut head, f::MAGIC, MAGIC);
        put(&mut head, f::BODY_LEN, &(body.len() as u32).to_le_bytes());
        put(&mut head, f::LSN, &frame.lsn.0.to_le_bytes());
        put(&mut head, f::SYNCED, &frame.synced.to_le_bytes());
        put(&mut head, f::OPERATIONS, &frame.operations.to_le_bytes());
        let crc = self.crc(offset, &head, body);
        put(&mut head, f::CRC, &crc.to_le_bytes());
        out.extend_from_slice(&head);
        out.extend_from_slice(body);
        out.resize(out.len().next_multiple_of(ALIGN), 0);
    }

    /// The frame at `offset` of the log whose bytes are `log`, with its body and
    /// the offset behind it; `None` unless every condition of FORMAT.md holds.
    pub(crate) fn decode<'a>(
        &self,
        log: &'a [u8],
        offset: usize,
    ) -> Option<(FrameHead, &'a [u8], usize)> {
        use wal_frame as f;
        let head = log.get(offset..offset.checked_add(f::LEN)?)?;
        let len = head.u32(f::BODY_LEN) as usize;
        if head.field(f::MAGIC) != MAGIC || len > MAX_BODY {
            return None;
        }
        let body_at = offset + f::LEN;
        let body = log.get(body_at..body_at + len)?;
        let end = (body_at + len).next_multiple_of(ALIGN);
        let padding = log.get(body_at + len..end)?;
        let frame = FrameHead {
            lsn: Lsn(head.u64(f::LSN)),
            synced: head.u64(f::SYNCED),
            operations: head.u32(f::OPERATIONS),
        };
        let valid = self.crc(offset as u64, head, body) == head.u32(f::CRC)
            && padding.iter().all(|b| *b == 0)
            && frame.synced <= offset as u64;
        valid.then_some((frame, body, end))
    }
}

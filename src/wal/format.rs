//! Bytes of a frame: FORMAT.md, section "Write-ahead log".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use std::convert::Infallible;

use super::ops;
use crate::codec::header::CollectionId;
use crate::codec::{Fields, crc32, crc32_of, layout, put};
use crate::rows::{Held, LogPlace};
use crate::sown::{Bug, sown};
use crate::types::{FileNumber, Lsn, RowId};

layout!(
    /// FORMAT.md, section "Frame".
    wal_frame, 40, {
    MAGIC: 0, 4;
    BODY_LEN: 4, 4;
    LSN: 8, 8;
    SYNCED: 16, 8;
    OPERATIONS: 24, 4;
    BODY_CRC: 28, 4;
    RESERVED: 32, 4;
    HEAD_CRC: 36, 4;
});

const MAGIC: &[u8; 4] = b"FRAM";

/// Frames begin at multiples of this.
pub(crate) const ALIGN: usize = 8;
/// Most bytes in the body of one frame, and so in one batch.
pub(crate) const MAX_BODY: usize = 64 << 20;

/// Which log a frame is in: part of its head's checksum, so that bytes of
/// another log or of another place in this one never validate.
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
    pub(crate) body_len: u32,
    pub(crate) body_crc: u32,
}

/// A commit being built: room for the head, then the body as operations are added, so that
/// it goes to the file from where it was gathered. The body is summed while what was added
/// is still at hand.
pub(crate) struct Frame {
    bytes: Vec<u8>,
    body_len: usize,
    body_crc: crc32fast::Hasher,
    operations: u32,
    /// Whether one of them adds a row.
    adds: bool,
    /// Where it was put.
    logged: Option<LogPlace>,
}

impl Frame {
    /// Where the body begins.
    pub(crate) const BODY: usize = wal_frame::LEN;

    /// A frame without a body yet, with room for one of `len` bytes.
    pub(crate) fn for_body(len: usize) -> Self {
        let mut bytes = Vec::new();
        // Where there is no room for so many there may be for those that come.
        let _ = bytes.try_reserve_exact(Self::BODY + len + ALIGN);
        bytes.resize(Self::BODY, 0);
        let body_crc = crc32fast::Hasher::new();
        Self { bytes, body_len: 0, body_crc, operations: 0, adds: false, logged: None }
    }

    /// A frame with the body of a commit that was logged before, with its number of operations.
    pub(crate) fn again(body: &[u8], operations: u32) -> Self {
        let mut frame = Self::for_body(body.len());
        let Ok(()) = frame.grow(|out| {
            out.extend_from_slice(body);
            Ok::<_, Infallible>(())
        });
        frame.operations = operations;
        frame
    }

    /// Adds an upsert, whose vector, as stored, is what `vector` appends. Where that fails the
    /// frame is as it was.
    pub(crate) fn upsert<E>(
        &mut self,
        id: &RowId,
        vector: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
        payload: &str,
    ) -> Result<(), E> {
        self.grow(|body| ops::put_upsert(body, id, vector, payload))?;
        self.operations += 1;
        self.adds = true;
        Ok(())
    }

    /// Adds a delete.
    pub(crate) fn delete(&mut self, id: &RowId) {
        let Ok(()) = self.grow(|body| {
            ops::put_delete(body, id);
            Ok::<_, Infallible>(())
        });
        self.operations += 1;
    }

    /// How many operations it has.
    pub(crate) fn operations(&self) -> u32 {
        self.operations
    }

    /// Whether an upsert was added.
    pub(crate) fn adds(&self) -> bool {
        self.adds
    }

    /// Lets `add` append to the body. Where it fails the body is as it was.
    fn grow<E>(&mut self, add: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.bytes.len();
        add(&mut self.bytes).inspect_err(|_| self.bytes.truncate(start))?;
        self.body_crc.update(self.bytes.field(start..self.bytes.len()));
        self.body_len = self.bytes.len() - Self::BODY;
        Ok(())
    }

    pub(crate) fn body_len(&self) -> usize {
        self.body_len
    }

    /// The body so far.
    pub(crate) fn body(&self) -> &[u8] {
        self.bytes.field(Self::BODY..Self::BODY + self.body_len)
    }

    /// The sum of the body.
    pub(crate) fn body_crc(&self) -> &crc32fast::Hasher {
        &self.body_crc
    }

    /// Fills in the head and the padding behind the body, for this offset of the log.
    pub(crate) fn seal(&mut self, name: &LogName, offset: u64, head: FrameHead) {
        self.logged = Some(LogPlace { log: name.number, at: offset });
        self.bytes.resize((Self::BODY + self.body_len).next_multiple_of(ALIGN), 0);
        put(&mut self.bytes, 0..Self::BODY, &name.encode(offset, head));
    }

    /// All of it: head, body and padding once it is sealed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, to be kept, and where the log has it; nothing is added any more.
    pub(crate) fn into_held(mut self) -> Held {
        self.bytes.shrink_to_fit();
        Held { bytes: self.bytes, logged: self.logged }
    }
}

impl LogName {
    fn crc(&self, offset: u64, head: &[u8]) -> u32 {
        let (number, offset) = (self.number.0.to_le_bytes(), offset.to_le_bytes());
        let head = head.field(0..wal_frame::HEAD_CRC.start);
        crc32_of(&[&self.collection, &number, &offset, head])
    }

    /// The head of the frame that stands at `offset` of the log.
    pub(crate) fn encode(&self, offset: u64, frame: FrameHead) -> [u8; wal_frame::LEN] {
        use wal_frame as f;
        let mut head = [0; f::LEN];
        put(&mut head, f::MAGIC, MAGIC);
        put(&mut head, f::BODY_LEN, &frame.body_len.to_le_bytes());
        put(&mut head, f::LSN, &frame.lsn.0.to_le_bytes());
        put(&mut head, f::SYNCED, &frame.synced.to_le_bytes());
        put(&mut head, f::OPERATIONS, &frame.operations.to_le_bytes());
        put(&mut head, f::BODY_CRC, &frame.body_crc.to_le_bytes());
        let crc = self.crc(offset, &head);
        put(&mut head, f::HEAD_CRC, &crc.to_le_bytes());
        head
    }

    /// The head at `offset` of the log whose bytes are `log`; `None` unless every
    /// condition of FORMAT.md holds. Its body may still be damaged or cut.
    pub(crate) fn head(&self, log: &[u8], offset: usize) -> Option<FrameHead> {
        self.head_behind(0, log, offset)
    }

    /// As [`Self::head`], where `log` leaves out the first `start` bytes of the file.
    pub(crate) fn head_behind(&self, start: usize, log: &[u8], offset: usize) -> Option<FrameHead> {
        use wal_frame as f;
        let at = offset.checked_sub(start)?;
        let head = log.get(at..at.checked_add(f::LEN)?)?;
        if head.field(f::MAGIC) != MAGIC {
            return None;
        }
        let frame = FrameHead {
            lsn: Lsn(head.u64(f::LSN)),
            synced: head.u64(f::SYNCED),
            operations: head.u32(f::OPERATIONS),
            body_len: head.u32(f::BODY_LEN),
            body_crc: head.u32(f::BODY_CRC),
        };
        let valid = self.crc(offset as u64, head) == head.u32(f::HEAD_CRC)
            && head.u32(f::RESERVED) == 0
            && frame.body_len as usize <= MAX_BODY
            && frame.synced <= offset as u64;
        valid.then_some(frame)
    }

    /// The whole frame at `offset`, with its body and the offset behind it.
    pub(crate) fn frame<'a>(
        &self,
        log: &'a [u8],
        offset: usize,
    ) -> Option<(FrameHead, &'a [u8], usize)> {
        self.frame_behind(0, log, offset)
    }

    /// As [`Self::frame`], where `log` leaves out the first `start` bytes of the file.
    pub(crate) fn frame_behind<'a>(
        &self,
        start: usize,
        log: &'a [u8],
        offset: usize,
    ) -> Option<(FrameHead, &'a [u8], usize)> {
        let frame = self.head_behind(start, log, offset)?;
        let body_at = offset + wal_frame::LEN;
        let body_end = body_at + frame.body_len as usize;
        let body = log.get(body_at - start..body_end - start)?;
        let end = body_end.next_multiple_of(ALIGN);
        let padding = log.get(body_end - start..end - start)?;
        let intact = crc32(body) == frame.body_crc || sown(Bug::FrameNotChecked);
        let valid = intact && padding.iter().all(|b| *b == 0);
        valid.then_some((frame, body, end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_could_not_grow_is_as_it_was() {
        let mut frame = Frame::again(b"one", 1);
        let two = |body: &mut Vec<u8>| {
            body.extend_from_slice(b" two");
            Ok::<_, ()>(())
        };
        let half = |body: &mut Vec<u8>| {
            body.extend_from_slice(b" th");
            Err(())
        };
        frame.grow(two).expect("grows");
        frame.grow(half).expect_err("does not grow");
        frame.grow(two).expect("grows");
        assert_eq!(frame.body_len(), 11);
        assert_eq!(&frame.bytes()[Frame::BODY..], b"one two two");
        assert_eq!(frame.body_crc().clone().finalize(), crc32(b"one two two"));
    }

    const NAME: LogName = LogName { collection: [7; 16], number: FileNumber(3) };
    const HEAD: FrameHead =
        FrameHead { lsn: Lsn(5), synced: 64, operations: 2, body_len: 0, body_crc: 0 };

    #[test]
    fn a_head_that_contradicts_itself_is_none_whatever_its_checksum_says() {
        use wal_frame as f;
        let good = NAME.encode(64, HEAD);
        let read = |head: &[u8]| NAME.head(&[&[0; 64][..], head].concat(), 64);
        assert_eq!(read(&good), Some(HEAD));
        let sealed = |change: &dyn Fn(&mut [u8])| {
            let mut head = good;
            change(&mut head);
            let crc = NAME.crc(64, &head);
            put(&mut head, f::HEAD_CRC, &crc.to_le_bytes());
            read(&head).is_some()
        };
        let len = |len: u32| move |head: &mut [u8]| put(head, f::BODY_LEN, &len.to_le_bytes());
        assert!(sealed(&|_| {}) && sealed(&len(MAX_BODY as u32)));
        assert!(!sealed(&len(MAX_BODY as u32 + 1)), "a body longer than any");
        assert!(!sealed(&|head| head[f::SYNCED.start] = 65), "synced beyond itself");
        assert!(!sealed(&|head| head[f::RESERVED.start] = 1), "reserved");
        assert!(!sealed(&|head| head[0] = 0), "magic");
        for (log, at) in [(LogName { number: FileNumber(4), ..NAME }, 64), (NAME, 72)] {
            let bytes = [vec![0; at], good.to_vec()].concat();
            assert_eq!(log.head(&bytes, at), None, "of another log or place");
        }
        let other = LogName { collection: [8; 16], ..NAME };
        assert_eq!(other.head(&[&[0; 64][..], &good].concat(), 64), None);
    }

    /// Read from any place on, as somebody does who reads beside the writer.
    #[test]
    fn a_frame_counts_with_all_of_its_padding() {
        let mut frame = Frame::again(b"elf bytes..", 2);
        let head = FrameHead { body_len: 11, body_crc: crc32(b"elf bytes.."), ..HEAD };
        frame.seal(&NAME, 64, head);
        for start in [0, 8, 64] {
            let log = [&vec![0; 64 - start][..], frame.bytes()].concat();
            assert_eq!(NAME.frame_behind(start, &log, 64), Some((head, &b"elf bytes.."[..], 120)));
            for len in 0..log.len() {
                assert_eq!(NAME.frame_behind(start, &log[..len], 64), None, "cut at {len}");
            }
            for bit in (log.len() - 5) * 8..log.len() * 8 {
                let mut bad = log.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(NAME.frame_behind(start, &bad, 64), None, "padding, bit {bit}");
            }
        }
        assert_eq!(NAME.frame_behind(72, frame.bytes(), 64), None, "before what is at hand");
    }
}

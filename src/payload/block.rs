//! Payload texts of consecutive rows in one archived block.
//!
//! Blocks are read in place with rkyv, after the segment's checksum has passed
//! and after rkyv's own validation: both, because a checksum proves that the
//! bytes are what somebody wrote, not that a friend wrote them. The archive is
//! made of a `Vec` of `String` only (little-endian, 32-bit relative pointers).

use rkyv::rancor;

use crate::codec::FormatError;

/// Text gathered before a block is closed, in bytes.
const TARGET: usize = 32 << 10;
/// Blocks begin at multiples of this.
const ALIGN: usize = 16;

#[derive(rkyv::Archive, rkyv::Serialize)]
struct PayloadBlock {
    texts: Vec<String>,
}

/// Where a block is and which rows it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub(crate) first_row: u32,
    pub(crate) len: u32,
    pub(crate) offset: u64,
}

impl BlockEntry {
    /// Bytes of an entry on disk.
    pub(crate) const LEN: usize = 16;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[..4].copy_from_slice(&self.first_row.to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..].copy_from_slice(&self.offset.to_le_bytes());
        out
    }

    pub(crate) fn decode(r: &mut crate::codec::Reader) -> Result<Self, FormatError> {
        Ok(Self { first_row: r.u32()?, len: r.u32()?, offset: r.u64()? })
    }
}

/// Gathers texts into blocks.
#[derive(Default)]
pub(crate) struct BlockWriter {
    pub(crate) entries: Vec<BlockEntry>,
    /// Finished blocks that were not taken yet, and where they begin.
    bytes: Vec<u8>,
    taken: u64,
    texts: Vec<String>,
    gathered: usize,
    rows: u32,
}

impl BlockWriter {
    /// Adds the text of the next row.
    pub(crate) fn push(&mut self, text: &str) {
        self.texts.push(text.to_owned());
        self.gathered += text.len();
        self.rows += 1;
        if self.gathered >= TARGET {
            self.close();
        }
    }

    /// Ends the block being gathered.
    pub(crate) fn close(&mut self) {
        let texts = std::mem::take(&mut self.texts);
        if texts.is_empty() {
            return;
        }
        let first_row = self.rows - texts.len() as u32;
        let block = PayloadBlock { texts };
        let bytes = rkyv::to_bytes::<rancor::Panic>(&block).unwrap_or_else(|never| match never {});
        let (len, offset) = (bytes.len() as u32, self.taken + self.bytes.len() as u64);
        self.entries.push(BlockEntry { first_row, len, offset });
        self.bytes.extend_from_slice(&bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
        self.gathered = 0;
    }

    /// The bytes of the blocks finished since the last call.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.taken += self.bytes.len() as u64;
        std::mem::take(&mut self.bytes)
    }
}

/// The text of row number `row` of a block.
pub(crate) fn text(block: &[u8], row: usize) -> Result<&str, FormatError> {
    let block = rkyv::access::<ArchivedPayloadBlock, rancor::Failure>(block)
        .map_err(|_| FormatError::new(0, "payload block is not a valid archive"))?;
    let texts = &block.texts;
    let missing = FormatError::mismatch(0, "rows in payload block", row as u64, texts.len() as u64);
    texts.get(row).map(|text| text.as_str()).ok_or(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_from_blocks() {
        let mut writer = BlockWriter::default();
        let texts: Vec<String> = (0..3000).map(|n| format!("{{\"n\":{n}}}").repeat(n % 7)).collect();
        texts.iter().for_each(|t| writer.push(t));
        writer.close();
        let bytes = writer.take();
        assert!(writer.entries.len() > 1, "more than one block");
        for (n, expected) in texts.iter().enumerate() {
            let at = writer.entries.partition_point(|e| e.first_row <= n as u32) - 1;
            let entry = writer.entries[at];
            let start = entry.offset as usize;
            let block = &bytes[start..start + entry.len as usize];
            assert_eq!(text(block, n - entry.first_row as usize), Ok(expected.as_str()));
        }
    }

    #[test]
    fn damaged_blocks_never_panic() {
        let mut writer = BlockWriter::default();
        (0..20).for_each(|n| writer.push(&format!("{{\"row\":\"text of row {n}\"}}")));
        writer.close();
        let bytes = writer.take();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let _ = text(&bad[..writer.entries[0].len as usize], 7);
        }
        assert!(text(&[], 0).is_err());
    }
}

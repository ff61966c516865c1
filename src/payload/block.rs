//! Payload texts of consecutive rows in one archived block.
//!
//! Blocks are read in place with rkyv, after the segment's checksum has passed
//! and after rkyv's own validation: both, because a checksum proves that the
//! bytes are what somebody wrote, not that a friend wrote them. The archive is
//! made of a `Vec` of `String` only (little-endian, 32-bit relative pointers).

use rkyv::rancor;

use crate::codec::{FormatError, Reader};

/// Bytes gathered before a block is closed: those of texts, and [`OF_A_ROW`] for each.
pub(crate) const TARGET: usize = 32 << 10;
/// Bytes that a row takes in a block whose text is empty.
const OF_A_ROW: usize = 8;
/// Blocks begin at multiples of this.
pub(crate) const ALIGN: usize = 16;

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

    pub(crate) fn decode(r: &mut Reader) -> Result<Self, FormatError> {
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
        self.gathered += text.len() + OF_A_ROW;
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

/// Reads the index of blocks that hold `rows` rows in `bytes` bytes: one after
/// another, without gaps in either.
pub(crate) fn decode_index(
    index: &[u8],
    rows: u32,
    bytes: u64,
) -> Result<Vec<BlockEntry>, FormatError> {
    let mut r = Reader::new(index);
    let mut entries: Vec<BlockEntry> = Vec::new();
    let mut offset = 0;
    while r.remaining() > 0 {
        let at = r.at();
        let entry = BlockEntry::decode(&mut r)?;
        let follows = match entries.last() {
            None => entry.first_row == 0,
            Some(last) => last.first_row < entry.first_row,
        };
        if !follows || entry.first_row >= rows || entry.offset != offset {
            return Err(FormatError::new(at, "payload block stands where none can be"));
        }
        offset += u64::from(entry.len).next_multiple_of(ALIGN as u64);
        entries.push(entry);
    }
    if entries.is_empty() || offset != bytes {
        return Err(FormatError::mismatch(0, "bytes of all payload blocks", bytes, offset));
    }
    Ok(entries)
}

/// The text of row number `row` of a block of `rows`.
pub(crate) fn text(block: &[u8], rows: usize, row: usize) -> Result<&str, FormatError> {
    let block = rkyv::access::<ArchivedPayloadBlock, rancor::Failure>(block)
        .map_err(|_| FormatError::new(0, "payload block is not a valid archive"))?;
    let texts = &block.texts;
    let wrong = FormatError::mismatch(0, "rows in payload block", rows as u64, texts.len() as u64);
    let text = texts.get(row).filter(|_| texts.len() == rows);
    text.map(rkyv::string::ArchivedString::as_str).ok_or(wrong)
}

/// As [`text`], of a block that [`text`] has found valid before: of all its strings one is looked
/// at (FORMAT.md, section 12).
pub(crate) fn text_of_valid(block: &[u8], row: usize) -> Result<&str, FormatError> {
    string(block, row).ok_or_else(|| FormatError::new(0, "payload block is not a valid archive"))
}

fn string(block: &[u8], row: usize) -> Option<&str> {
    let root = block.len().checked_sub(8)?;
    let at = relative(block, root, root)?.checked_add(row.checked_mul(8)?)?;
    let form = block.get(at..at.checked_add(8)?)?;
    // Up to eight bytes stand in place of the pointer.
    let bytes = if form[0] & 0xc0 == 0x80 {
        let packed = u32::from_le_bytes(*form.first_chunk()?);
        let len = (packed & 0x3f | packed >> 8 << 6) as usize;
        let start = relative(block, at, at + 4)?;
        block.get(start..start.checked_add(len)?)?
    } else {
        form.split(|byte| *byte == 0xff).next()?
    };
    std::str::from_utf8(bytes).ok()
}

/// Where the pointer at `at` leads, which counts from `base`.
fn relative(block: &[u8], base: usize, at: usize) -> Option<usize> {
    let distance = i32::from_le_bytes(*block.get(at..)?.first_chunk()?);
    base.checked_add_signed(distance as isize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_back_from_blocks() {
        let mut writer = BlockWriter::default();
        let texts: Vec<String> =
            (0..3000).map(|n| format!("{{\"n\":{n}}}").repeat(n % 7)).collect();
        for text in &texts {
            writer.push(text);
        }
        writer.close();
        let bytes = writer.take();
        assert!(writer.entries.len() > 1, "more than one block");
        for (n, expected) in texts.iter().enumerate() {
            let at = writer.entries.partition_point(|e| e.first_row <= n as u32) - 1;
            let entry = writer.entries[at];
            let start = entry.offset as usize;
            let block = &bytes[start..start + entry.len as usize];
            let end = writer.entries.get(at + 1).map_or(3000, |e| e.first_row);
            let (rows, row) = (end - entry.first_row, n as u32 - entry.first_row);
            assert_eq!(text(block, rows as usize, row as usize), Ok(expected.as_str()));
            assert_eq!(text_of_valid(block, row as usize), Ok(expected.as_str()));
            assert!(text(block, rows as usize + 1, row as usize).is_err());
        }
    }

    /// To read one text its block is validated as a whole.
    #[test]
    fn rows_without_payload_do_not_make_a_block_long() {
        let mut writer = BlockWriter::default();
        for row in 0..1_000_000 {
            writer.push(if row % 100_000 == 0 { "{\"a\":1}" } else { "" });
        }
        writer.close();
        let longest = writer.entries.iter().map(|entry| entry.len as usize).max();
        assert!(longest <= Some(TARGET + 64), "{longest:?} bytes");
        let rows = TARGET / OF_A_ROW;
        assert!(writer.entries.len() <= 1_000_000usize.div_ceil(rows - 20));
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
            let bad = &bad[..writer.entries[0].len as usize];
            let _ = (text(bad, 20, 7), text_of_valid(bad, 7), text_of_valid(bad, usize::MAX / 8));
        }
        assert!(text_of_valid(&[], 0).is_err());
        assert!(text(&[], 0, 0).is_err());
    }

    #[test]
    fn an_index_with_gaps_or_overlaps_is_refused() {
        let mut writer = BlockWriter::default();
        (0..9000).for_each(|n| writer.push(&format!("{{\"row\":{n}}}")));
        writer.close();
        let bytes = writer.take().len() as u64;
        let decode = |entries: &[BlockEntry]| {
            let index: Vec<u8> = entries.iter().flat_map(BlockEntry::encode).collect();
            decode_index(&index, 9000, bytes)
        };
        let good = writer.entries;
        assert_eq!(decode(&good).as_ref(), Ok(&good));
        let wrong = |change: fn(&mut Vec<BlockEntry>)| {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(decode(&bad).is_err(), "{bad:?}");
        };
        wrong(|e| e[0].first_row = 1);
        wrong(|e| e[1].first_row = 0);
        wrong(|e| e[1].first_row = 9000);
        wrong(|e| e[1].offset += 16);
        wrong(|e| e[1].len += 16);
        wrong(|e| e.truncate(1));
        wrong(Vec::clear);
        wrong(|e| e.swap(1, 2));
    }
}

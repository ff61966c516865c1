//! A region of a segment that is paged from disk, checked before first use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::RegionEntry;
use crate::codec::crc32;
use crate::error::{Error, Result};
use crate::index::Source;
use crate::sown::{Bug, sown};
use crate::vfs::map::Bytes;

/// Part of a mapped file with one checksum per block. A block is compared with
/// its checksum when it is first touched in this open, and then trusted.
pub(crate) struct Region {
    file: PathBuf,
    bytes: Bytes,
    offset: usize,
    len: usize,
    block_len: usize,
    checksums: Arc<[u32]>,
    first_checksum: usize,
    /// One bit per block that was compared. Two threads may compare the same
    /// block; both find the same, so no order between them is needed.
    seen: Box<[AtomicU64]>,
}

impl Region {
    /// `entry` was checked to lie inside the file and inside `checksums`.
    pub(crate) fn new(
        file: &Path,
        bytes: Bytes,
        checksums: Arc<[u32]>,
        entry: &RegionEntry,
    ) -> Self {
        let words = usize::try_from(entry.blocks().div_ceil(64)).expect("fits the file");
        Self {
            file: file.to_owned(),
            bytes,
            offset: usize::try_from(entry.offset).expect("fits the file"),
            len: usize::try_from(entry.len).expect("fits the file"),
            block_len: entry.kind.block_len() as usize,
            checksums,
            first_checksum: entry.first_checksum as usize,
            seen: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Where it begins in the file.
    pub(crate) fn offset(&self) -> u64 {
        self.offset as u64
    }

    /// Bytes `[at, at + len)` of the region.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where a block does not match its checksum, or where
    /// the range leaves the region (offsets inside regions come from files too).
    pub(crate) fn get(&self, at: usize, len: usize) -> Result<&[u8]> {
        let Some(end) = at.checked_add(len).filter(|end| *end <= self.len) else {
            let what = format!("bytes {at} + {len} lie outside a region of {} bytes", self.len);
            return Err(Error::corrupt(&self.file, self.offset as u64, what));
        };
        if len > 0 {
            for block in at / self.block_len..=(end - 1) / self.block_len {
                self.check(block)?;
            }
        }
        Ok(&self.bytes[self.offset + at..self.offset + end])
    }

    fn check(&self, block: usize) -> Result<()> {
        if !self.seen(block) {
            self.compare(block)?;
            self.seen[block / 64].fetch_or(1 << (block % 64), Ordering::Relaxed);
        }
        Ok(())
    }

    fn compare(&self, block: usize) -> Result<()> {
        let start = self.offset + block * self.block_len;
        let end = (start + self.block_len).min(self.offset + self.len);
        let sum = crc32(&self.bytes[start..end]);
        if sum == self.checksums[self.first_checksum + block] || sown(Bug::BlockNotChecked) {
            return Ok(());
        }
        let what = format!("checksum of {} bytes does not match", end - start);
        Err(Error::corrupt(&self.file, start as u64, what))
    }

    /// Says that bytes `[at, at + len)` will be read soon. Blocks that were read
    /// in this open are taken to be in memory still: asking for a page that is
    /// there costs as much as scoring it.
    pub(crate) fn will_need(&self, at: usize, len: usize) {
        let inside = len > 0 && at.checked_add(len).is_some_and(|end| end <= self.len);
        if inside && !(self.seen(at / self.block_len) && self.seen((at + len - 1) / self.block_len))
        {
            self.bytes.will_need(self.offset + at, len);
        }
    }

    fn seen(&self, block: usize) -> bool {
        self.seen[block / 64].load(Ordering::Relaxed) & (1 << (block % 64)) != 0
    }
}

impl Source for Region {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, at: usize, len: usize) -> Result<&[u8]> {
        self.get(at, len)
    }

    fn will_need(&self, at: usize, len: usize) {
        self.will_need(at, len.min(self.len.saturating_sub(at)));
    }

    fn corrupt(&self, at: usize, what: &str) -> Error {
        Error::corrupt(&self.file, (self.offset + at) as u64, what)
    }
}

//! A region of a segment that is paged from disk, checked before first use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::format::RegionEntry;
use crate::codec::{Fields, crc32};
use crate::error::{Error, Result};
use crate::index::Source;
use crate::sown::{Bug, sown};
use crate::vfs::{self, map::Bytes};

/// Blocks that are asked for at once when a region is read as a whole.
const AHEAD: usize = 64;

/// The checksums of all blocks of a file.
#[derive(Clone)]
pub(crate) enum Checksums {
    /// At this offset of the same file: they take no RAM of ours. What they were
    /// when the file was opened, its table's checksum vouched for.
    InFile(usize),
    /// Taken out of a file whose table is not where it should be.
    Kept(Arc<[u32]>),
}

/// What was compared with its checksum in this open, or asked for: one bit for each of several
/// things. Two threads may do the same thing twice, which changes nothing, so no order between them
/// is needed.
pub(super) struct Seen(Box<[AtomicU64]>);

impl Seen {
    pub(super) fn none_of(count: usize) -> Self {
        Self((0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn has(&self, at: usize) -> bool {
        self.0[at / 64].load(Ordering::Relaxed) & (1 << (at % 64)) != 0
    }

    pub(super) fn note(&self, at: usize) {
        self.0[at / 64].fetch_or(1 << (at % 64), Ordering::Relaxed);
    }

    pub(super) fn forget(&self) {
        self.0.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// Part of a mapped file with one checksum per block. A block is compared with
/// its checksum when it is first touched in this open, and then trusted.
pub(crate) struct Region {
    file: PathBuf,
    bytes: Bytes,
    offset: usize,
    len: usize,
    block_len: usize,
    checksums: Checksums,
    first_checksum: usize,
    /// Blocks that were compared.
    seen: Seen,
    /// Blocks that the system was asked to read.
    asked: Seen,
}

impl Region {
    /// `entry` was checked to lie inside the file and inside `checksums`.
    pub(crate) fn new(
        file: &Path,
        bytes: Bytes,
        checksums: Checksums,
        entry: &RegionEntry,
    ) -> Self {
        let blocks = usize::try_from(entry.blocks()).expect("fits the file");
        Self {
            file: file.to_owned(),
            bytes,
            offset: usize::try_from(entry.offset).expect("fits the file"),
            len: usize::try_from(entry.len).expect("fits the file"),
            block_len: entry.kind.block_len() as usize,
            checksums,
            first_checksum: entry.first_checksum as usize,
            seen: Seen::none_of(blocks),
            asked: Seen::none_of(blocks),
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
            return Err(self.corrupt(what));
        };
        if len > 0 {
            for block in at / self.block_len..=(end - 1) / self.block_len {
                self.check(block)?;
            }
        }
        Ok(&self.bytes[self.offset + at..self.offset + end])
    }

    /// The error that what the region says makes no sense.
    pub(super) fn corrupt(&self, what: String) -> Error {
        Error::corrupt(&self.file, self.offset as u64, what)
    }

    fn check(&self, block: usize) -> Result<()> {
        if !self.seen.has(block) {
            let start = block * self.block_len;
            let bytes = self.raw();
            self.compare(block, &bytes[start..bytes.len().min(start + self.block_len)])?;
            self.seen.note(block);
        }
        Ok(())
    }

    /// Compares the bytes of a block.
    fn compare(&self, block: usize, bytes: &[u8]) -> Result<()> {
        let sum = crc32(bytes);
        if sum == self.checksum(self.first_checksum + block) || sown(Bug::BlockNotChecked) {
            return Ok(());
        }
        let at = self.offset + block * self.block_len;
        let what = format!("checksum of {} bytes does not match", bytes.len());
        Err(Error::corrupt(&self.file, at as u64, what))
    }

    /// All bytes, compared with their checksums or not.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.bytes[self.offset..self.offset + self.len]
    }

    /// A copy in RAM, each block compared after it was copied.
    pub(crate) fn copy(&self) -> Result<Vec<u8>> {
        let mut copy = Vec::new();
        vfs::reserve(&mut copy, &self.file, self.len)?;
        for (block, bytes) in self.raw().chunks(self.block_len).enumerate() {
            if block.is_multiple_of(AHEAD) {
                let (at, len) = (block * self.block_len, AHEAD * self.block_len);
                self.bytes.will_need(self.offset + at, len.min(self.len - at));
            }
            copy.extend_from_slice(bytes);
            self.compare(block, &copy[block * self.block_len..])?;
        }
        Ok(copy)
    }

    /// Says that the region is read from its beginning to its end.
    pub(crate) fn in_order(&self) {
        self.bytes.in_order(self.offset, self.len);
    }

    fn checksum(&self, at: usize) -> u32 {
        match &self.checksums {
            Checksums::Kept(all) => all[at],
            Checksums::InFile(start) => self.bytes.u32(start + at * 4..start + at * 4 + 4),
        }
    }

    /// Says that bytes `[at, at + len)` will be read soon. Blocks that were asked for before are
    /// taken to be in memory still, until [`Self::ask_again`]: asking for a page that is there
    /// costs as much as scoring it.
    pub(crate) fn will_need(&self, at: usize, len: usize) {
        let inside = len > 0 && at.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside {
            return;
        }
        let blocks = at / self.block_len..=(at + len - 1) / self.block_len;
        if !blocks.clone().all(|block| self.asked.has(block)) {
            self.bytes.will_need(self.offset + at, len);
            blocks.for_each(|block| self.asked.note(block));
        }
    }

    /// What was asked for may have left memory again.
    pub(crate) fn ask_again(&self) {
        self.asked.forget();
    }

    /// Compares each block anew when it is next touched.
    pub(crate) fn distrust(&self) {
        self.seen.forget();
    }
}

impl Source for Region {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, at: usize, len: usize) -> Result<&[u8]> {
        self.get(at, len)
    }

    fn peek(&self, at: usize, len: usize) -> Option<&[u8]> {
        self.raw().get(at..at.checked_add(len)?)
    }

    fn corrupt(&self, at: usize, what: &str) -> Error {
        Error::corrupt(&self.file, (self.offset + at) as u64, what)
    }

    fn will_need(&self, at: usize, len: usize) {
        self.will_need(at, len);
    }

    fn ask_again(&self) {
        self.ask_again();
    }
}

//! What a search needs of a set of rows, wherever they are: the trait [`Rows`],
//! implemented by the memtable's runs and by segments.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::encoding::{StageBuilder, StageCode, StageView};
use crate::error::Result;
use crate::index::Index;
use crate::types::{FileNumber, Ordinal, RowId};
use crate::vfs::map::Bytes;

/// What a scan reads of all rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    /// Norms of the full vectors.
    Norms,
    /// Codes and factors of a stage, by its number in the schema.
    Stage(usize),
}

/// RAM that columns of segments may take together.
pub(crate) struct Budget {
    left: AtomicU64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(bytes) })
    }

    /// So many bytes, until the lease is dropped; `None` if fewer are left.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Option<Lease> {
        let less = |left: u64| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Lease { budget: self.clone(), bytes })
    }
}

/// Part of a budget that is in use.
pub(crate) struct Lease {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// One stage code of a set of rows, in RAM.
pub(crate) struct CodeColumn {
    code: StageCode,
    blocks: Vec<u8>,
    scalars: Vec<f32>,
}

impl CodeColumn {
    /// Blocks and scalars that belong together; `None` if their lengths do not fit.
    pub(crate) fn new(code: StageCode, blocks: Vec<u8>, scalars: Vec<f32>) -> Option<Self> {
        let fits = StageView::new(code, &blocks, &scalars).is_some();
        fits.then_some(Self { code, blocks, scalars })
    }

    /// The rows as the scan wants them.
    pub(crate) fn view(&self) -> StageView<'_> {
        StageView::new(self.code, &self.blocks, &self.scalars).expect("checked by new")
    }

    pub(crate) fn blocks(&self) -> &[u8] {
        &self.blocks
    }

    #[cfg(test)]
    pub(crate) fn scalars(&self) -> &[f32] {
        &self.scalars
    }
}

impl From<StageBuilder> for CodeColumn {
    fn from(builder: StageBuilder) -> Self {
        let code = builder.view().code();
        let (blocks, scalars) = builder.finish();
        Self { code, blocks, scalars }
    }
}

/// Bytes that rows in RAM share: those of a commit, or copies.
#[derive(Default)]
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    /// Where the same bytes are on disk.
    pub(crate) logged: Option<LogPlace>,
}

/// A place in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LogPlace {
    pub(crate) log: FileNumber,
    /// Offset in its file.
    pub(crate) at: u64,
}

/// Where the bytes of a row in RAM are.
#[derive(Clone, Copy)]
pub(crate) struct Lent<'a> {
    pub(crate) held: &'a Arc<Held>,
    pub(crate) place: Place,
}

/// The files that rows are in. They can be read even after they were removed.
pub(crate) struct Mapped<'a> {
    pub(crate) file: &'a Bytes,
    /// The logs that have the vectors, if the file does not.
    pub(crate) logs: Vec<&'a Bytes>,
}

/// Vector and payload of a row, by their offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) vector: u64,
    pub(crate) payload: u64,
    pub(crate) payload_len: u32,
}

/// Asks for vectors ahead of somebody who goes through rows in their order: files are mapped for
/// reads that jump about, so otherwise each page would be waited for by itself.
#[derive(Default)]
pub(crate) struct ReadAhead<'a> {
    rows: Option<&'a dyn Rows>,
    asked: Asked,
}

impl<'a> ReadAhead<'a> {
    /// Before the vector of a row is read.
    pub(crate) fn before(&mut self, rows: &'a dyn Rows, row: Ordinal) {
        if !self.rows.is_some_and(|before| std::ptr::addr_eq(before, rows)) {
            (self.rows, self.asked) = (Some(rows), Asked::default());
        }
        self.asked.before(rows, row);
    }
}

/// How far the vectors of some rows were asked for: those before this one.
#[derive(Default)]
pub(crate) struct Asked(pub(crate) u32);

impl Asked {
    /// Rows that are asked for at once.
    const AHEAD: u32 = 512;

    /// Before the vector of a row is read, by somebody who reads all from there on.
    pub(crate) fn before(&mut self, rows: &dyn Rows, row: Ordinal) {
        if row.0.saturating_add(Self::AHEAD) > self.0 {
            let end = row.0.saturating_add(2 * Self::AHEAD).min(rows.len());
            rows.will_need(self.0.max(row.0)..end);
            self.0 = end.max(self.0).max(row.0 + 1);
        }
    }
}

/// An immutable set of rows. Which of them are dead is kept beside it.
pub(crate) trait Rows: Send + Sync {
    /// Number of rows; ordinals run from 0.
    fn len(&self) -> u32;

    /// The id of a row.
    fn id(&self, row: Ordinal) -> Result<RowId>;

    /// The row at `rank` when rows are sorted by id.
    fn at_rank(&self, rank: u32) -> Result<Ordinal>;

    /// The vector of a row, as stored.
    fn vector(&self, row: Ordinal) -> Result<&[u8]>;

    /// Says that the vectors of some rows will be read soon.
    fn will_need(&self, _: Range<u32>) {}

    /// Reading what was asked for took so long that it may have left memory again.
    fn ask_again(&self) {}

    /// Compares what is read from now on with its checksum once more, as rows must be that are about
    /// to be written anew: what was compared long ago may have left memory and be damaged since,
    /// and new checksums would vouch for it. Of columns see [`Self::compare_columns`].
    fn distrust(&self) {}

    /// Compares the columns that are not in RAM with their checksums once more, for whoever is about
    /// to copy them.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) where one is damaged.
    fn compare_columns(&self) -> Result<()> {
        Ok(())
    }

    /// The payload of a row as JSON text, empty if it has none.
    fn payload(&self, row: Ordinal) -> Result<String>;

    /// The index of a declared field, by its number in the schema.
    fn index(&self, field: usize) -> Result<Index<'_>>;

    /// Norm of each row's full vector, as stored.
    fn norms(&self) -> &[f32];

    /// The rows' codes of a stage, by its number in the schema.
    fn code(&self, stage: usize) -> StageView<'_>;

    /// Makes a column fit for use: of one that is not in RAM, what was not read
    /// in this open yet is compared with its checksums. [`Self::norms`] and
    /// [`Self::code`] are to be asked for only then.
    fn ready(&self, _: Column) -> Result<()> {
        Ok(())
    }

    /// Takes a column into RAM, if it is not there and `budget` has room for all
    /// of it.
    fn hold(&self, _: Column, _budget: &Arc<Budget>) -> Result<()> {
        Ok(())
    }

    /// Bytes of a column, and whether the rows keep it in RAM. Rows that are in RAM
    /// as a whole have no columns to count.
    fn column(&self, _: Column) -> Option<(u64, bool)> {
        None
    }

    /// Bytes of RAM the rows take.
    fn ram_bytes(&self) -> usize;

    /// Bytes on disk by what they hold; none for rows in RAM.
    fn disk_bytes(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// The path of the file the rows are in; none for rows in RAM.
    fn path(&self) -> Option<&Path> {
        None
    }

    /// The files the rows are in; none for rows in RAM.
    fn mapped(&self) -> Option<Mapped<'_>> {
        None
    }

    /// Where a log has the vector of a row, if it does.
    fn logged(&self, _: Ordinal) -> Option<LogPlace> {
        None
    }

    /// The checksum of such a vector, where it is known.
    fn vector_crc(&self, _: Ordinal) -> Option<u32> {
        None
    }

    /// Where a row is in RAM: what a merged run takes over instead of a copy. None
    /// for rows in a file.
    fn lent(&self, _: Ordinal) -> Option<Lent<'_>> {
        None
    }

    /// The row with this id, dead or alive: O(log n).
    fn find(&self, id: &RowId) -> Result<Option<Ordinal>> {
        let (mut low, mut high) = (0, self.len());
        // New ids are often larger than all there are.
        if high > 0 && self.id(self.at_rank(high - 1)?)? < *id {
            return Ok(None);
        }
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.at_rank(middle)?;
            match self.id(row)?.cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(row)),
            }
        }
        Ok(None)
    }
}

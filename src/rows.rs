//! What a search needs of a set of rows, wherever they are: the trait [`Rows`],
//! implemented by the memtable's runs and by segments.

use std::ops::Range;

use crate::encoding::{BoundQuery, StageCode, StageView};
use crate::error::Result;
use crate::index::{Index, Source};
use crate::kernel::BLOCK;
use crate::types::{Ordinal, RowId};
use crate::vfs::map::Bytes;

/// One stage code of a set of rows.
pub(crate) struct CodeColumn {
    code: StageCode,
    rows: usize,
    held: Held,
}

/// Where its bytes are.
enum Held {
    Ram { blocks: Vec<u8>, scalars: Vec<f32> },
    Mapped { blocks: Box<dyn Bytewise>, scalars: Box<dyn Bytewise> },
}

/// Bytes that threads share.
pub(crate) trait Bytewise: Source + Send + Sync {}

impl<T: Source + Send + Sync> Bytewise for T {}

/// Blocks of a mapped code that are checked and scanned at once.
const PIECE: usize = BoundQuery::blocks();
/// Bytes of a mapped code that are asked for before they are reached.
const AHEAD: usize = 4 << 20;

impl CodeColumn {
    /// Blocks and scalars in RAM that belong together; `None` if their lengths do not fit.
    pub(crate) fn new(code: StageCode, blocks: Vec<u8>, scalars: Vec<f32>) -> Option<Self> {
        let rows = StageView::new(code, &blocks, &scalars)?.rows();
        Some(Self { code, rows, held: Held::Ram { blocks, scalars } })
    }

    /// The same for bytes that are paged from disk.
    pub(crate) fn mapped(
        code: StageCode,
        rows: usize,
        blocks: impl Bytewise + 'static,
        scalars: impl Bytewise + 'static,
    ) -> Option<Self> {
        let fits =
            blocks.len() == code.code_bytes(rows) && scalars.len() == code.scalar_bytes(rows);
        let held = Held::Mapped { blocks: Box::new(blocks), scalars: Box::new(scalars) };
        fits.then_some(Self { code, rows, held })
    }

    /// All blocks, in pieces that [`Self::view`] gives at once.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let blocks = self.rows.div_ceil(BLOCK);
        let piece = match self.held {
            Held::Ram { .. } => blocks.max(1),
            Held::Mapped { .. } => PIECE,
        };
        (0..blocks).step_by(piece).map(move |start| start..(start + piece).min(blocks))
    }

    /// Some blocks as a scan wants them. `buffer` is for scalars that have to be copied.
    ///
    /// # Errors
    /// Where a mapped code does not match its checksums.
    pub(crate) fn view<'a>(
        &'a self,
        piece: Range<usize>,
        buffer: &'a mut Vec<f32>,
    ) -> Result<StageView<'a>> {
        let rows = piece.start * BLOCK..(piece.end * BLOCK).min(self.rows);
        let block = self.code.block_bytes();
        let bytes = piece.start * block..piece.end * block;
        let view = match &self.held {
            Held::Ram { blocks, scalars } => {
                let (factors, residuals) = scalars.split_at(self.rows);
                let residuals = residuals.get(rows.clone()).unwrap_or_default();
                StageView::of_parts(self.code, &blocks[bytes], &factors[rows], residuals)
            }
            Held::Mapped { blocks, scalars } => {
                blocks.will_need(bytes.end, AHEAD.div_ceil(bytes.len().max(1)) * bytes.len());
                buffer.clear();
                let columns = self.code.scalar_bytes(1) / 4;
                for column in 0..columns {
                    let at = (column * self.rows + rows.start) * 4;
                    let numbers = scalars.get(at, rows.len() * 4)?.as_chunks::<4>().0;
                    buffer.extend(numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)));
                }
                let bytes = blocks.get(bytes.start, bytes.len())?;
                StageView::new(self.code, bytes, buffer)
            }
        };
        Ok(view.expect("checked by new"))
    }

    /// Blocks and scalars of a column in RAM.
    pub(crate) fn in_ram(&self) -> Option<(&[u8], &[f32])> {
        match &self.held {
            Held::Ram { blocks, scalars } => Some((blocks, scalars)),
            Held::Mapped { .. } => None,
        }
    }

    pub(crate) fn ram_bytes(&self) -> usize {
        self.in_ram().map_or(0, |(blocks, scalars)| blocks.len() + scalars.len() * 4)
    }
}

/// An immutable set of rows. Which of them are dead is kept beside it.
pub(crate) trait Rows: Send + Sync {
    /// Number of rows; ordinals run from 0.
    fn len(&self) -> u32;

    /// The id of a row.
    fn id(&self, row: Ordinal) -> Result<RowId>;

    /// The row at `rank` when rows are sorted by id.
    fn by_id(&self, rank: u32) -> Result<Ordinal>;

    /// Stored bytes of `count` rows from `first`, one after another.
    fn vectors(&self, first: Ordinal, count: u32) -> Result<&[u8]>;

    /// Says that a row's vector will be read soon.
    fn will_need(&self, row: Ordinal);

    /// The payload of a row as JSON text, empty if it has none.
    fn payload(&self, row: Ordinal) -> Result<String>;

    /// The index of a declared field, by its number in the schema.
    fn index(&self, field: usize) -> Result<Index<'_>>;

    /// Norm of each row's full vector, as stored.
    fn norms(&self) -> &[f32];

    /// A stage code of the rows, by its number in the schema.
    fn code(&self, stage: usize) -> &CodeColumn;

    /// Bytes of RAM the rows take.
    fn ram_bytes(&self) -> usize;

    /// The whole file the rows are in; none for rows in RAM. It can be read even
    /// after the file was removed.
    fn mapped(&self) -> Option<&Bytes> {
        None
    }

    /// The row with this id, dead or alive: O(log n).
    fn find(&self, id: &RowId) -> Result<Option<Ordinal>> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let row = self.by_id(middle)?;
            match self.id(row)?.cmp(id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(Some(row)),
            }
        }
        Ok(None)
    }
}

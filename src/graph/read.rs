//! A graph in a file: FORMAT.md, section "Graph".
//!
//! Factors and the codes of entries are in RAM; codes and links are read where they lie,
//! each block compared with its checksum when it is first touched. A right checksum proves
//! nothing about who wrote a block: whatever it says, a walk stays within the rows.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use super::code::{RowCode, RowQuery};
use super::walk::{Beam, Nodes, Walk};
use super::{Built, DEGREE, MAX_DEGREE, NONE};
use crate::codec::{Fields, FormatError, layout, put};
use crate::encoding::Bits;
use crate::error::Result;
use crate::index::Source;
use crate::kernel::gather::prefetch;

layout!(
    /// FORMAT.md, section "Graph": before the entries.
    graph_meta, 32, {
    ROWS: 0, 4;
    DEGREE: 4, 4;
    DIMS: 8, 4;
    BITS: 12, 4;
    ENTRIES: 16, 4;
    RESERVED: 20, 12;
});

/// Most entries that are read.
pub(crate) const MAX_ENTRIES: u32 = 65_536;
/// Entries a walk begins at: the best of all. The first entry, from which every row can
/// be reached, is one more.
const BEST_ENTRIES: usize = 4;

/// What a graph's regions must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    rows: u32,
    degree: usize,
    pub(crate) code: RowCode,
    entries: Vec<u32>,
}

impl Meta {
    /// What describes a graph as it was built.
    pub(crate) fn of(built: &Built) -> Self {
        let (rows, entries) = (built.factors.len() as u32, built.entries.clone());
        Self { rows, degree: DEGREE, code: built.code, entries }
    }

    /// The bytes of the region.
    pub(crate) fn encode(&self) -> Vec<u8> {
        use graph_meta as f;
        let mut out = vec![0; f::LEN];
        put(&mut out, f::ROWS, &self.rows.to_le_bytes());
        put(&mut out, f::DEGREE, &(self.degree as u32).to_le_bytes());
        put(&mut out, f::DIMS, &(self.code.dims as u32).to_le_bytes());
        put(&mut out, f::BITS, &self.code.bits.count().to_le_bytes());
        put(&mut out, f::ENTRIES, &(self.entries.len() as u32).to_le_bytes());
        out.extend(self.entries.iter().flat_map(|entry| entry.to_le_bytes()));
        out
    }

    /// Reads the region of a graph of `rows` rows of `dims` dimensions.
    pub(crate) fn decode(bytes: &[u8], rows: u32, dims: usize) -> Result<Self, FormatError> {
        use graph_meta as f;
        let fail = |range: std::ops::Range<usize>, what| Err(FormatError::new(range.start, what));
        if bytes.len() < f::LEN || bytes.u32(f::ROWS) != rows {
            return fail(f::ROWS, "is not the graph of these rows");
        }
        let degree = bytes.u32(f::DEGREE) as usize;
        if !(1..=MAX_DEGREE).contains(&degree) {
            return fail(f::DEGREE, "number of links is out of range");
        }
        let code = Bits::from_count(bytes.u32(f::BITS));
        let code = code.map(|bits| RowCode { bits, dims: bytes.u32(f::DIMS) as usize });
        let Some(code) = code.filter(|code| (1..=dims).contains(&code.dims)) else {
            return fail(f::DIMS, "is a code that these rows cannot have");
        };
        if bytes.field(f::RESERVED).iter().any(|b| *b != 0) {
            return fail(f::RESERVED, "reserved field is not zero");
        }
        let count = bytes.u32(f::ENTRIES);
        let entries = bytes.get(f::LEN..).unwrap_or(&[]).as_chunks::<4>();
        let fits = entries.0.len() == count as usize && entries.1.is_empty();
        if !fits || !(1..=MAX_ENTRIES.min(rows)).contains(&count) {
            return fail(f::ENTRIES, "number of entries is out of range");
        }
        let entries: Vec<u32> = entries.0.iter().map(|e| u32::from_le_bytes(*e)).collect();
        if entries.iter().any(|entry| *entry >= rows) {
            return fail(f::ENTRIES, "an entry is no row");
        }
        Ok(Self { rows, degree, code, entries })
    }

    /// Bytes of codes, factors and links.
    pub(crate) fn lengths(&self) -> [usize; 3] {
        let rows = self.rows as usize;
        [rows * self.code.row_bytes(), rows * 4, rows * self.degree * 4]
    }
}

/// A graph that can be walked.
pub(crate) struct Graph {
    meta: Meta,
    factors: Vec<f32>,
    codes: Box<dyn Source + Send + Sync>,
    links: Box<dyn Source + Send + Sync>,
    /// Codes of the entries, one after another.
    entry_codes: Vec<u8>,
}

impl Graph {
    /// The regions must have the lengths that [`Meta::lengths`] says.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) where the code of an entry is damaged.
    pub(crate) fn new(
        meta: Meta,
        factors: Vec<f32>,
        codes: Box<dyn Source + Send + Sync>,
        links: Box<dyn Source + Send + Sync>,
    ) -> Result<Self> {
        let len = meta.code.row_bytes();
        let mut entry_codes = Vec::with_capacity(meta.entries.len() * len);
        for entry in &meta.entries {
            entry_codes.extend_from_slice(codes.get(*entry as usize * len, len)?);
        }
        Ok(Self { meta, factors, codes, links, entry_codes })
    }

    /// Reading what was asked for took so long that it may have left memory again.
    pub(crate) fn ask_again(&self) {
        self.codes.ask_again();
        self.links.ask_again();
    }

    /// How rows are coded.
    pub(crate) fn code(&self) -> RowCode {
        self.meta.code
    }

    /// Bytes that scoring a row and following its links read.
    pub(crate) fn row_bytes(&self) -> (u64, u64) {
        (self.meta.code.row_bytes() as u64 + 4, self.meta.degree as u64 * 4)
    }

    /// Bytes on disk of what a walk reads.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.meta.lengths().iter().map(|len| *len as u64).sum()
    }

    /// Bytes of RAM it takes.
    pub(crate) fn ram_bytes(&self) -> usize {
        self.factors.len() * 4 + self.entry_codes.len() + self.meta.entries.len() * 4
    }

    /// Walks to the rows nearest to `query`, as if row `without` were not there: then ask
    /// `walk` what it found.
    ///
    /// # Errors
    /// [`Error::Corrupt`](crate::Error::Corrupt) where a block is damaged, or names a row
    /// that is none.
    pub(crate) fn search(
        &self,
        walk: &mut Walk,
        query: &RowQuery,
        beam: Beam,
        mask: Option<&[u64]>,
        without: Option<u32>,
    ) -> Result<()> {
        let mut starts = Starts::default();
        let codes = self.entry_codes.chunks(MAX_DEGREE * self.meta.code.row_bytes());
        for (codes, rows) in codes.zip(self.meta.entries.chunks(MAX_DEGREE)) {
            let codes = codes.chunks_exact(self.meta.code.row_bytes());
            let factors = rows.iter().map(|row| self.factor(*row));
            starts.offer(query, rows, codes.map(Ok), factors)?;
        }
        starts.keep_first();
        walk.run(self, query, starts.best(), beam, mask, without)?;
        walk.scored += self.meta.entries.len() as u64;
        Ok(())
    }
}

impl Nodes for Graph {
    fn code(&self, row: u32) -> Result<&[u8]> {
        let len = self.meta.code.row_bytes();
        self.codes.get(row as usize * len, len)
    }

    fn factor(&self, row: u32) -> f32 {
        self.factors.get(row as usize).copied().unwrap_or(0.0)
    }

    fn links(&self, row: u32, into: &mut Vec<u32>) -> Result<()> {
        let (len, at) = (self.meta.degree * 4, row as usize * self.meta.degree * 4);
        let links = self.links.get(at, len)?.as_chunks::<4>().0.iter();
        for link in links.map(|link| u32::from_le_bytes(*link)).take_while(|link| *link != NONE) {
            if link >= self.meta.rows {
                return Err(self.links.corrupt(at, "a link leads to no row"));
            }
            into.push(link);
        }
        Ok(())
    }

    fn will_need(&self, rows: &[u32]) {
        let len = self.meta.code.row_bytes();
        rows.iter().for_each(|row| self.codes.will_need(*row as usize * len, len));
    }

    fn prefetch_links(&self, row: u32) {
        let len = self.meta.degree * 4;
        self.links.will_need(row as usize * len, len);
        if let Some(links) = self.links.peek(row as usize * len, len) {
            prefetch(links);
        }
    }
}

/// The best of some rows, to begin a walk at.
#[derive(Debug, Default)]
pub(super) struct Starts {
    best: [(f32, u32); BEST_ENTRIES + 1],
    len: usize,
    first: Option<(f32, u32)>,
}

impl Starts {
    /// Offers up to [`MAX_DEGREE`] rows.
    pub(super) fn offer<'c>(
        &mut self,
        query: &RowQuery,
        rows: &[u32],
        codes: impl Iterator<Item = Result<&'c [u8]>>,
        factors: impl Iterator<Item = f32>,
    ) -> Result<()> {
        let mut code_of: [&[u8]; MAX_DEGREE] = [&[]; MAX_DEGREE];
        let (mut factor_of, mut scores) = ([0.0; MAX_DEGREE], [0.0; MAX_DEGREE]);
        for ((place, slot), (code, factor)) in
            code_of.iter_mut().zip(&mut factor_of).zip(codes.zip(factors))
        {
            (*place, *slot) = (code?, factor);
        }
        let count = rows.len().min(MAX_DEGREE);
        let (codes, factors) = (code_of.split_at(count).0, factor_of.split_at(count).0);
        query.estimate(codes, factors, &mut scores);
        self.first = self.first.or(scores.first().copied().zip(rows.first().copied()));
        for (&row, score) in rows.iter().zip(scores) {
            let place = self.best().partition_point(|best| best.0 >= score);
            // The worst falls off behind, if there is a place at all.
            let after = self.best.get_mut(place..BEST_ENTRIES).unwrap_or_default();
            after.rotate_right(after.len().min(1));
            if let Some(first) = after.first_mut() {
                *first = (score, row);
                self.len = (self.len + 1).min(BEST_ENTRIES);
            }
        }
        Ok(())
    }

    /// Puts the row that was offered first behind the best.
    fn keep_first(&mut self) {
        if let Some((place, first)) = self.best.get_mut(self.len).zip(self.first) {
            *place = first;
            self.len += 1;
        }
    }

    /// The entries kept, best first.
    pub(super) fn best(&self) -> &[(f32, u32)] {
        self.best.split_at(self.len).0
    }
}

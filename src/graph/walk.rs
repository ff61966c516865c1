//! The walk: from row to row along links, nearest first.
//!
//! ```text
//!   frontier = the best of the entries, by estimate
//!   loop: row = the best of the frontier that was not visited; none left: end
//!         floor = the k-th best estimate e among rows that may be found, less margin * sine(e)
//!         row's estimate below the floor: end
//!         for each link of row not seen before: estimate it; not below the floor: frontier
//! ```
//!
//! This is the best-first search of HNSW and Vamana but for when it ends: these keep a
//! fixed number of rows, `ef`. Ending by a margin lets a query whose neighbours stand out
//! end early and one in a crowd go on: on 100 000 text vectors it scores 5 to 20 % fewer
//! rows for the same recall. `Beam::width` bounds it all the same. The unit, the sine of the
//! angle, is what the error of an estimate grows with (`RaBitQ`, theorem 3.2), so one margin
//! does for near neighbours and far ones.
//!
//! Rows that may not be found (dead, or outside of a filter) are walked over like any
//! other; they only do not count for the floor, and are not among what is found. Where they are
//! so many that they fill the frontier before `k` others are known, the walk has overflowed:
//! whoever asked must scan.
//!
//! It ends whatever a graph's bytes say: a row is visited once.

use super::code::RowQuery;
use super::{MAX_DEGREE, NONE};
use crate::calibration::sine;
use crate::error::Result;
use crate::kernel::gather::prefetch;

/// A graph, wherever its bytes are.
pub(super) trait Nodes {
    /// The code of a row.
    fn code(&self, row: u32) -> Result<&[u8]>;
    /// Its factor.
    fn factor(&self, row: u32) -> f32;
    /// Appends its links, each below the number of rows, [`MAX_DEGREE`] at most.
    fn links(&self, row: u32, into: &mut Vec<u32>) -> Result<()>;
    /// Says that its links will be asked for soon.
    fn prefetch_links(&self, row: u32);
    /// Says that the codes of some rows will be asked for soon; they may be on a disk.
    fn will_need(&self, _rows: &[u32]) {}
}

/// How far a walk goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Beam {
    /// Rows wanted.
    pub(crate) k: usize,
    /// How far below the k-th best estimate a row is still visited, in units of [`sine`].
    pub(crate) margin: f32,
    /// Most rows kept.
    pub(crate) width: usize,
}

/// A row on the frontier.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    score: f32,
    row: u32,
    visited: bool,
    found: bool,
}

/// Buffers of a walk, to be used again, and what the last one did.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    seen: Seen,
    /// Best first.
    frontier: Vec<Candidate>,
    /// The best estimates of rows that may be found, best first.
    best: Vec<f32>,
    /// What an estimate must reach to count.
    floor: f32,
    fresh: Vec<u32>,
    /// (estimate, row) of all rows visited, in that order.
    pub(super) visited: Vec<(f32, u32)>,
    /// Rows scored.
    pub(crate) scored: u64,
    /// Whether rows were let go for want of room that may be among the `k` best of those that
    /// may be found.
    pub(crate) overflowed: bool,
}

impl Walk {
    /// Walks from the best of `entries`. `mask` has one bit for each row that may be found;
    /// row `without` is taken for one that is not there.
    pub(super) fn run(
        &mut self,
        nodes: &impl Nodes,
        query: &RowQuery,
        entries: &[(f32, u32)],
        beam: Beam,
        mask: Option<&[u64]>,
        without: Option<u32>,
    ) -> Result<()> {
        self.seen.clear();
        self.frontier.clear();
        self.best.clear();
        self.visited.clear();
        (self.scored, self.floor, self.overflowed) = (0, f32::NEG_INFINITY, false);
        if let Some(row) = without {
            self.seen.insert(row);
        }
        for &(score, row) in entries {
            if self.seen.insert(row) {
                self.offer(score, row, beam, mask);
            }
        }
        let mut at = 0;
        while let Some(&Candidate { score, row, visited, .. }) = self.frontier.get(at) {
            if visited {
                at += 1;
                continue;
            }
            if score < self.floor {
                break;
            }
            self.frontier[at].visited = true;
            self.visited.push((score, row));
            at = self.expand(nodes, query, row, beam, mask)?.min(at + 1);
        }
        // Those that were among the k best and are gone had to make room.
        self.overflowed |= self.found().take(beam.k).count() < self.best.len();
        Ok(())
    }

    /// Scores the links of a row; the first place of the frontier that changed.
    fn expand(
        &mut self,
        nodes: &impl Nodes,
        query: &RowQuery,
        row: u32,
        beam: Beam,
        mask: Option<&[u64]>,
    ) -> Result<usize> {
        self.fresh.clear();
        nodes.links(row, &mut self.fresh)?;
        let seen = &mut self.seen;
        self.fresh.retain(|&link| seen.insert(link));
        let mut codes: [&[u8]; MAX_DEGREE] = [&[]; MAX_DEGREE];
        let (mut factors, mut scores) = ([0.0; MAX_DEGREE], [0.0; MAX_DEGREE]);
        let count = self.fresh.len();
        nodes.will_need(&self.fresh);
        for ((&link, code), factor) in self.fresh.iter().zip(&mut codes).zip(&mut factors) {
            *code = nodes.code(link)?;
            prefetch(code);
            *factor = nodes.factor(link);
        }
        query.estimate(&codes[..count], &factors[..count], &mut scores);
        self.scored += count as u64;
        let mut first = usize::MAX;
        for (i, &score) in scores[..count].iter().enumerate() {
            let link = self.fresh[i];
            let place = self.offer(score, link, beam, mask);
            if place < first {
                first = place;
                nodes.prefetch_links(link);
            }
        }
        Ok(first)
    }

    /// Takes a row into the frontier, if it is good enough; its place there.
    fn offer(&mut self, score: f32, row: u32, beam: Beam, mask: Option<&[u64]>) -> usize {
        let full = self.frontier.len() >= beam.width;
        let worst = if full {
            self.frontier.last().map_or(f32::INFINITY, |c| c.score)
        } else {
            f32::NEG_INFINITY
        };
        self.overflowed |= full && beam.k < usize::MAX && self.best.len() < beam.k;
        // Not `<`: a NaN, which only a forged file can yield, is not taken.
        let good = score >= self.floor && (!full || score > worst);
        if !good {
            return usize::MAX;
        }
        let found = mask.is_none_or(|words| words[row as usize / 64] >> (row % 64) & 1 == 1);
        if found && beam.k < usize::MAX {
            let place = self.best.partition_point(|b| *b >= score);
            if place < beam.k {
                self.best.truncate(beam.k - 1);
                self.best.insert(place, score);
                if let Some(last) = self.best.get(beam.k - 1) {
                    self.floor = last - beam.margin * sine(*last);
                }
            }
        }
        if full {
            self.frontier.pop();
        }
        let before = |c: &Candidate| score.total_cmp(&c.score).then(c.row.cmp(&row)).is_lt();
        let place = self.frontier.partition_point(before);
        self.frontier.insert(place, Candidate { score, row, visited: false, found });
        place
    }

    /// The rows that were found, best first: (estimate, row).
    pub(crate) fn found(&self) -> impl Iterator<Item = (f32, u32)> {
        let found = self.frontier.iter().take_while(|c| c.score >= self.floor);
        found.filter(|c| c.found).map(|c| (c.score, c.row))
    }

    /// Rows that the largest buffer has room for.
    pub(crate) fn capacity(&self) -> usize {
        let slots = self.seen.slots.capacity();
        slots.max(self.frontier.capacity()).max(self.visited.capacity()).max(self.best.capacity())
    }

    /// Rows whose links were followed.
    pub(crate) fn hops(&self) -> u64 {
        self.visited.len() as u64
    }
}

/// A set of rows: open addressing, half full at most.
#[derive(Debug)]
struct Seen {
    slots: Vec<u32>,
    shift: u32,
    len: usize,
}

/// Slots of an empty set, as a power of two: what a walk of common length needs.
const LOG2_SLOTS: u32 = 13;

impl Default for Seen {
    fn default() -> Self {
        Self { slots: vec![NONE; 1 << LOG2_SLOTS], shift: 32 - LOG2_SLOTS, len: 0 }
    }
}

impl Seen {
    fn clear(&mut self) {
        if self.len == 0 {
            return;
        }
        if self.slots.len() > 1 << (LOG2_SLOTS + 4) {
            *self = Self::default();
        }
        self.slots.fill(NONE);
        self.len = 0;
    }

    /// Whether the row is new.
    fn insert(&mut self, row: u32) -> bool {
        if self.len * 2 >= self.slots.len() {
            self.grow();
        }
        let slot = self.slot(row);
        let new = self.slots[slot] != row;
        self.slots[slot] = row;
        self.len += usize::from(new);
        new
    }

    /// Where a row is, or would be (Knuth's multiplicative hashing).
    fn slot(&self, row: u32) -> usize {
        let mut slot = (row.wrapping_mul(0x9e37_79b1) >> self.shift) as usize;
        while self.slots[slot] != row && self.slots[slot] != NONE {
            slot = (slot + 1) % self.slots.len();
        }
        slot
    }

    fn grow(&mut self) {
        let larger = vec![NONE; self.slots.len() * 2];
        let old = std::mem::replace(&mut self.slots, larger);
        self.shift -= 1;
        for row in old.into_iter().filter(|row| *row != NONE) {
            let slot = self.slot(row);
            self.slots[slot] = row;
        }
    }
}

//! Building: rows join the graph in batches, each batch in parallel.
//!
//! ```text
//!   for each batch of rows, in an order without meaning:
//!       each row walks the graph of the batches before and keeps the best it visited,
//!       pruned, as its links;                                    in parallel, reading only
//!       each row that became a link gets the opposite link,
//!       pruned if it has too many                                in parallel, by row
//! ```
//!
//! This is how `ParlayANN` builds Vamana (Manohar et al., `PPoPP` 2024): batches double from
//! one row, so that the graph a row walks is never much smaller than the one it joins. No
//! lock is needed, and **the same rows give the same graph** whatever the number of threads
//! and the CPU: distances are integers times fixed factors, and orders are fixed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::code::{RowCode, RowQuery};
use super::connect::{connect, links_of};
use super::prune::{FINE_DIMS, Fine, Pruner};
use super::read::Starts;
use super::walk::{Beam, Nodes, Walk};
use super::{DEGREE, ENTRIES, MAX_DEGREE, NONE};
use crate::encoding::quantise;
use crate::error::Result;
use crate::kernel::Isa;
use crate::kernel::gather::prefetch;
use crate::sync::on_threads;

/// Rows a walk keeps while a row looks for its links.
const BUILD_WIDTH: usize = 100;
/// Most rows of a batch.
const MOST_ROWS_OF_BATCH: usize = 16_384;
/// Rows a thread takes at once.
const ROWS_PER_TURN: usize = 64;
/// Seed of the order in which rows join.
const ORDER_SEED: u64 = 0x6d61_7472_796f;

/// Where the rows come from.
pub(crate) trait Vectors: Sync {
    /// How many there are.
    fn rows(&self) -> u32;
    /// Dimensions of each.
    fn dims(&self) -> usize;
    /// Reads a row, whose components are finite.
    fn read(&self, row: u32, into: &mut [f32]) -> Result<()>;
}

/// A graph as it will be written.
pub(crate) struct Built {
    pub(crate) code: RowCode,
    /// Rows walks begin at.
    pub(crate) entries: Vec<u32>,
    pub(crate) codes: Vec<u8>,
    pub(crate) factors: Vec<f32>,
    /// [`DEGREE`] for each row, [`NONE`] where it has fewer.
    pub(crate) links: Vec<u32>,
}

/// Builds the graph of some rows, at least one, on `threads` threads. RAM: the graph, and
/// up to 512 bytes a row. `watch` is told how many rows have joined; its error ends it.
///
/// # Errors
/// The errors of reading rows, and of `watch`.
pub(crate) fn build(
    vectors: &dyn Vectors,
    threads: usize,
    watch: &dyn Fn(u64) -> Result<()>,
) -> Result<Built> {
    let (rows, threads) = (vectors.rows() as usize, threads.max(1));
    watch(0)?;
    let (mut built, fine) = encode(vectors, threads)?;
    let order = order(rows);
    built.entries = order[..rows.min(ENTRIES)].to_vec();
    let mut joined = 1;
    while joined < rows {
        let size = joined.min(MOST_ROWS_OF_BATCH).min(rows - joined);
        let batch = &order[joined..joined + size];
        let links = find_links(&built, &fine, batch, &order[..joined.min(ENTRIES / 8)], threads)?;
        join(&mut built.links, &fine, batch, &links, threads)?;
        joined += size;
        watch(joined as u64)?;
    }
    connect(&mut built.links, DEGREE, built.entries[0]);
    Ok(built)
}

/// All rows in an order that has nothing to do with theirs (Fisher and Yates).
fn order(rows: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..rows as u32).collect();
    let mut state = ORDER_SEED;
    for i in (1..rows).rev() {
        // Knuth's linear congruential generator, MMIX; its high bits are the good ones.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (u128::from(state) * (i as u128 + 1)) >> 64;
        order.swap(i, at as usize);
    }
    order
}

/// Codes all rows, once for walks and once for pruning.
fn encode(vectors: &dyn Vectors, threads: usize) -> Result<(Built, Fine)> {
    let (rows, code) = (vectors.rows() as usize, RowCode::choose(vectors.dims()));
    let dims = vectors.dims().min(FINE_DIMS);
    let mut fine = Fine { dims, codes: vec![0; rows * dims], inverse: vec![0.0; rows] };
    let mut built = Built {
        code,
        entries: Vec::new(),
        codes: vec![0; rows * code.row_bytes()],
        factors: vec![0.0; rows],
        links: vec![NONE; rows * DEGREE],
    };
    let per = rows.div_ceil(threads);
    let rough = built.codes.chunks_mut(per * code.row_bytes()).zip(built.factors.chunks_mut(per));
    let exact = fine.codes.chunks_mut(per * dims).zip(fine.inverse.chunks_mut(per));
    let shares = Mutex::new(rough.zip(exact).enumerate());
    let work = || -> Result<Vec<()>> {
        // Not in the head of the loop, which would hold the lock while it works.
        let next = || shares.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((n, (rough, exact))) = next() {
            encode_some(vectors, n * per, code, rough, exact)?;
        }
        Ok(Vec::new())
    };
    on_threads(threads, &work)?;
    Ok((built, fine))
}

fn encode_some(
    vectors: &dyn Vectors,
    first: usize,
    code: RowCode,
    (codes, factors): (&mut [u8], &mut [f32]),
    (fine, inverse): (&mut [i8], &mut [f32]),
) -> Result<()> {
    let (dims, isa) = (fine.len() / inverse.len(), Isa::detect());
    let (mut row, mut signed) = (vec![0.0; vectors.dims()], vec![0; code.dims]);
    let rough = codes.chunks_mut(code.row_bytes()).zip(factors);
    let exact = fine.chunks_mut(dims).zip(inverse);
    for (at, ((code_row, factor), (fine_row, inverse))) in (first..).zip(rough.zip(exact)) {
        vectors.read(at as u32, &mut row)?;
        *factor = code.encode(isa, &row, &mut signed, code_row);
        quantise(&row[..dims], i8::MAX, fine_row);
        let square: i64 = fine_row.iter().map(|&c| i64::from(c).pow(2)).sum();
        *inverse = if square > 0 { (1.0 / (square as f64).sqrt()) as f32 } else { 0.0 };
    }
    Ok(())
}

/// The links of each row of a batch, in its order: what a walk over the rows that have
/// joined visits, pruned.
fn find_links(
    built: &Built,
    fine: &Fine,
    batch: &[u32],
    starts: &[u32],
    threads: usize,
) -> Result<Vec<Vec<u32>>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Vec<u32>)>> {
        let (mut walk, mut pruner, mut found) = (Walk::default(), Pruner::default(), Vec::new());
        loop {
            let first = next.fetch_add(ROWS_PER_TURN, Ordering::Relaxed);
            if first >= batch.len() {
                return Ok(found);
            }
            for (at, &row) in batch.iter().enumerate().skip(first).take(ROWS_PER_TURN) {
                visit(built, fine, row, starts, &mut walk)?;
                let visited = walk.visited.iter().map(|v| v.1);
                pruner.prune(fine, row, visited, DEGREE - 1);
                found.push((at, pruner.links.clone()));
            }
        }
    };
    let mut links = vec![Vec::new(); batch.len()];
    on_threads(threads, &work)?.into_iter().for_each(|(at, of_row)| links[at] = of_row);
    Ok(links)
}

/// Walks to the neighbourhood of a row.
fn visit(built: &Built, fine: &Fine, row: u32, starts: &[u32], walk: &mut Walk) -> Result<()> {
    let query = RowQuery::of_row(built.code, fine.row(row));
    let beam = Beam { k: usize::MAX, margin: 0.0, width: BUILD_WIDTH };
    let mut best = Starts::default();
    for some in starts.chunks(MAX_DEGREE) {
        let codes = some.iter().map(|start| built.code(*start));
        best.offer(&query, some, codes, some.iter().map(|start| built.factor(*start)))?;
    }
    walk.run(built, &query, best.best(), beam, None, None)
}

/// Enters the links of a batch, and the opposite ones.
fn join(
    links: &mut [u32],
    fine: &Fine,
    batch: &[u32],
    found: &[Vec<u32>],
    threads: usize,
) -> Result<()> {
    let mut opposite: Vec<(u32, u32)> = Vec::new();
    for (&row, of_row) in batch.iter().zip(found) {
        links[row as usize * DEGREE..][..of_row.len()].copy_from_slice(of_row);
        opposite.extend(of_row.iter().map(|&link| (link, row)));
    }
    opposite.sort_unstable();
    let per = fine.inverse.len().div_ceil(threads);
    let shares = Mutex::new(links.chunks_mut(per * DEGREE).enumerate());
    let work = || -> Result<Vec<()>> {
        let next = || shares.lock().unwrap_or_else(PoisonError::into_inner).next();
        while let Some((n, links)) = next() {
            let first = (n * per) as u32;
            let from = opposite.partition_point(|(to, _)| *to < first);
            let end = opposite.partition_point(|(to, _)| (*to as usize) < (n + 1) * per);
            link_back(links, first, fine, &opposite[from..end]);
        }
        Ok(Vec::new())
    };
    on_threads(threads, &work).map(drop)
}

/// Adds links, sorted by the row they begin at, to the rows from `first` on.
fn link_back(links: &mut [u32], first: u32, fine: &Fine, new: &[(u32, u32)]) {
    let mut pruner = Pruner::default();
    for of_row in new.chunk_by(|a, b| a.0 == b.0) {
        let row = of_row[0].0;
        let place = (row - first) as usize * DEGREE;
        let old = links_of(links, DEGREE, row - first);
        let all: Vec<u32> = old.chain(of_row.iter().map(|(_, link)| *link)).collect();
        let slots = &mut links[place..place + DEGREE];
        if all.len() < DEGREE {
            slots[..all.len()].copy_from_slice(&all);
            continue;
        }
        // Some room is left, so that the next link does not make it prune again.
        pruner.prune(fine, row, all.iter().copied(), DEGREE - DEGREE / 8);
        slots.fill(NONE);
        slots[..pruner.links.len()].copy_from_slice(&pruner.links);
    }
}

impl Nodes for Built {
    fn code(&self, row: u32) -> Result<&[u8]> {
        let len = self.code.row_bytes();
        Ok(&self.codes[row as usize * len..][..len])
    }

    fn factor(&self, row: u32) -> f32 {
        self.factors[row as usize]
    }

    fn links(&self, row: u32, into: &mut Vec<u32>) -> Result<()> {
        into.extend(links_of(&self.links, DEGREE, row));
        Ok(())
    }

    fn prefetch_links(&self, row: u32) {
        prefetch(bytemuck::cast_slice(&self.links[row as usize * DEGREE..][..DEGREE]));
    }
}

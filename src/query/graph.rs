//! Which parts of a view are walked instead of scanned, and how far.
//!
//! A walk hands on what a scan does: a shortlist, to be ranked by full vectors. Parts
//! differ (a run of the memtable has no graph), so each is scanned or walked for itself.

use std::time::{Duration, Instant};

use super::exec::{Run, Scratch};
use super::explain::{StageName, StageReport};
use super::funnel::Entry;
use crate::encoding::Bits;
use crate::error::Result;
use crate::graph::{Beam, Graph, RowQuery};
use crate::kernel::topk::Scored;

/// Whether a funnel begins with graphs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Walks {
    /// It scans.
    Never,
    /// Where that is quicker, for this share of the true nearest rows.
    Recall(f64),
    /// Wherever there is a graph, keeping so many rows.
    Width(usize),
}

/// How far below the k-th best estimate a walk goes for a share of the true nearest rows,
/// and how many rows it scores then. Read off `benches/graph.rs` on 100 000 text vectors, over
/// 1 bit x 1024 dimensions and with queries from elsewhere; above .98 it is extrapolated. It hardly depends on the number of rows: what it spans is the
/// error of the estimates and the detours of the graph, not a place in a ranking.
const MARGINS: [(f64, f32, f64); 6] = [
    (0.80, 0.043, 1500.0),
    (0.90, 0.068, 2400.0),
    (0.95, 0.091, 4200.0),
    (0.98, 0.128, 10_000.0),
    (0.99, 0.163, 24_000.0),
    (0.999, 0.250, 100_000.0),
];
/// Most rows a walk keeps, for each row it must be able to find.
const WIDTH: usize = 4000;
/// Nanoseconds to score a row on a walk, and to read a byte in a scan. Only their ratio counts:
/// a row of a walk took as long as 23 of a scan, by the same bench.
const WALK_NS: f64 = 80.0;
const SCAN_NS: f64 = 0.05;

/// How far to walk for `share` of the `k` nearest rows of those that pass (`selected`, a
/// share of all), and how many rows that scores.
///
/// What calibration will replace.
fn beam(share: f64, k: usize, selected: f64) -> (Beam, f64) {
    let x = |share: f64| -(1.0 - share.min(0.9999)).ln();
    let last = MARGINS.len() - 2;
    let at = MARGINS.windows(2).position(|w| share <= w[1].0).unwrap_or(last);
    let [low, high] = [MARGINS[at], MARGINS[at + 1]];
    let t = ((x(share) - x(low.0)) / (x(high.0) - x(low.0))).max(0.0);
    let margin = low.1 + t as f32 * (high.1 - low.1);
    let scored = (low.2.ln() + t * (high.2 / low.2).ln()).exp();
    // The k-th best of few rows that pass is farther off, and all between are walked over.
    let more = (k as f64 / 10.0).max(1.0).powf(0.6) / selected;
    let width = (WIDTH.max(k.saturating_mul(4)) as f64 / selected) as usize;
    (Beam { k, margin, width }, scored * more)
}

impl Run<'_> {
    /// How far to walk a part; `None` where it is scanned.
    pub(super) fn beam(&self, plan: &Entry, at: usize) -> Option<Beam> {
        let part = &self.view.parts[at];
        let graph = part.graph.as_ref().filter(|graph| self.dims * 2 >= graph.code().dims)?;
        let pass = match &self.selection {
            Some(selection) => selection.of_part(at).len(),
            None => part.live_rows(),
        };
        let selected = pass as f64 / f64::from(part.rows.len());
        match plan.walks {
            Walks::Width(width) => Some(Beam { k: self.limit, margin: f32::INFINITY, width }),
            Walks::Recall(share) if pass > 0 => {
                let (mut beam, scored) = beam(share, self.limit, selected);
                // Fewer dimensions say less.
                let dims = graph.code().dims;
                beam.margin *= (dims as f32 / self.dims.min(dims) as f32).sqrt();
                let bytes = plan.code.scanned_bytes_per_row(plan.dims) as f64;
                let scan = f64::from(part.rows.len()) * bytes * SCAN_NS;
                (scored * WALK_NS < scan).then_some(beam)
            }
            _ => None,
        }
    }

    /// Walks the parts that are to be walked, and adds what they find to the shortlist.
    pub(super) fn walk(&self, plan: &Entry, scratch: &mut Scratch) -> Result<Option<StageReport>> {
        let start = Instant::now();
        let mut report: Option<StageReport> = None;
        let mut hops = 0;
        for at in 0..self.view.parts.len() {
            let (Some(beam), Some(graph)) = (self.beam(plan, at), &self.view.parts[at].graph)
            else {
                continue;
            };
            let rows = self.walk_part(at, graph, beam, scratch)?;
            hops += scratch.walk.hops();
            let (scored, (code, links)) = (scratch.walk.scored, graph.row_bytes());
            let stage = report.get_or_insert_with(|| self.walk_report(graph));
            stage.rows_in += scored;
            stage.rows_out += rows;
            stage.bytes += scored * code + scratch.walk.hops() * links;
        }
        if let Some(stage) = &mut report {
            stage.name = StageName::new(format_args!("{}, {hops} hops", stage.name));
            stage.time = start.elapsed();
        }
        Ok(report)
    }

    fn walk_report(&self, graph: &Graph) -> StageReport {
        let code = graph.code();
        let bits = if code.bits == Bits::One { 1 } else { 8 };
        let dims = self.dims.min(code.dims);
        let name = StageName::new(format_args!("graph {bits} bit x {}", code.dims));
        StageReport { name, dims, rows_in: 0, rows_out: 0, bytes: 0, time: Duration::ZERO }
    }

    fn walk_part(
        &self,
        at: usize,
        graph: &Graph,
        beam: Beam,
        scratch: &mut Scratch,
    ) -> Result<u64> {
        let part = &self.view.parts[at];
        let query = RowQuery::new(graph.code(), self.query, self.dims);
        let mask = self.selection.as_ref().map(|some| some.mask(at, part.rows.len()));
        let mask = mask.or_else(|| part.alive());
        graph.search(&mut scratch.walk, &query, beam, mask)?;
        let before = scratch.shortlist.len();
        let base = self.bases[at];
        let found = scratch.walk.found(beam);
        scratch.shortlist.extend(found.map(|(score, row)| Scored { ordinal: base + row, score }));
        Ok((scratch.shortlist.len() - before) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_recall_walks_farther() {
        let shares = [0.1, 0.8, 0.85, 0.9, 0.95, 0.97, 0.99, 0.999, 0.9999, 1.0];
        let beams: Vec<_> = shares.iter().map(|share| beam(*share, 10, 1.0)).collect();
        assert!(beams.windows(2).all(|w| w[0].0.margin <= w[1].0.margin && w[0].1 <= w[1].1));
        assert!((beams[4].0.margin - 0.091).abs() < 1e-6);
        assert!(beam(0.95, 10, 0.1).1 > 9.0 * beam(0.95, 10, 1.0).1, "a filter costs");
        assert!(beam(0.95, 1000, 1.0).0.width >= 4000);
    }
}

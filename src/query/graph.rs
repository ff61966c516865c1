//! Which parts of a view are walked instead of scanned, and how far.
//!
//! A walk hands on what a scan does: a shortlist, to be ranked by full vectors. Parts
//! differ (a run of the memtable has no graph), so each is scanned or walked for itself.

use std::time::{Duration, Instant};

use super::entry::{Entry, Walks};
use super::explain::{StageName, StageReport};
use super::run::{QueryRun, Walker};
use super::vectors::DISK_TIME_PER_ROW;
use crate::calibration::WalkMargins;
use crate::encoding::Bits;
use crate::error::Result;
use crate::graph::{Beam, Graph};
use crate::kernel::topk::Scored;

/// Rows that the floor of a walk is counted from, at least.
const WALK_FOR_AT_LEAST: usize = 10;
/// Most rows a walk keeps, for each row it must be able to find.
const WIDEST_FRONTIER: usize = 4000;
/// A walk that was measured to find less than is asked for by more than this is not made.
const RECALL_SLACK_WALK: f64 = 0.005;
/// Nanoseconds to score a row on a walk, and to read a byte in a scan. Only their ratio counts.
/// By `benches/graph.rs` a row of a walk takes 70 to 100, a byte .03 where the codes stay in a
/// cache, .05 where they do not.
const WALK_NS_PER_ROW: f64 = 100.0;
const SCAN_NS_PER_BYTE: f64 = 0.04;

/// How far to walk for this recall of the `k` nearest rows of those that pass (`selected`, a
/// share of all), and how many rows that scores. Queries from elsewhere score more than the
/// rows that calibration asks do, so it is never taken for less than the table's number.
pub(super) fn beam(margins: &WalkMargins, recall: f64, k: usize, selected: f64) -> (Beam, f64) {
    // Of fewer rows than ten, the k-th best says too little about where the others are: a
    // walk ends before it has come to them (`benches/recall.rs`: .52 instead of .8 for k = 1).
    let k = k.max(WALK_FOR_AT_LEAST);
    // The k-th best of few rows that pass is farther off, and all between are walked over.
    let more = (k as f64 / 10.0).max(1.0).powf(0.6) / selected;
    let width = (WIDEST_FRONTIER.max(k.saturating_mul(4)) as f64 / selected) as usize;
    let scored = margins.scored(recall).max(WalkMargins::UNCALIBRATED.scored(recall));
    (Beam { k, margin: margins.margin(recall), width }, scored * more)
}

/// What came of walking.
pub(super) enum Walked {
    /// The stage, if anything was walked.
    Found(Option<StageReport>),
    /// Rows that may not be found have filled a walk's frontier.
    Overflowed,
}

impl QueryRun<'_> {
    /// How far to walk a part; `None` where it is scanned.
    pub(super) fn beam(&self, plan: &Entry, at: usize) -> Option<Beam> {
        let part = &self.view.parts[at];
        let graph = part.walkable().filter(|graph| self.wanted.dims * 2 >= graph.code().dims)?;
        let pass = match &self.selection {
            Some(selection) => selection.of_part(at).len(),
            None => part.live_rows(),
        };
        let selected = pass as f64 / f64::from(part.rows.len());
        match plan.walks {
            Walks::Width(width) => {
                Some(Beam { k: self.wanted.shortlist_for, margin: f32::INFINITY, width })
            }
            Walks::Recall(recall) | Walks::Always(recall) if pass > 0 => {
                let known = self.walk_margins();
                // A calibration that knows nothing of walks vouches for scans only.
                let unknown = known.is_none() && self.view.calibration.is_some();
                let (mut beam, scored) = beam(
                    known.unwrap_or(&WalkMargins::UNCALIBRATED),
                    recall,
                    self.wanted.shortlist_for,
                    selected,
                );
                // Fewer dimensions say less.
                let dims = graph.code().dims;
                beam.margin *= (dims as f32 / self.wanted.dims.min(dims) as f32).sqrt();
                let always = matches!(plan.walks, Walks::Always(_));
                let finds = |margins: &WalkMargins| {
                    recall <= RECALL_SLACK_WALK + f64::from(margins.check(recall).recall)
                };
                let bytes = plan.code.scanned_bytes_per_row(plan.dims) as f64;
                let scan = f64::from(part.rows.len()) * bytes * SCAN_NS_PER_BYTE;
                let pays = scored * WALK_NS_PER_ROW < scan && !unknown && known.is_none_or(finds);
                (always || pays).then_some(beam)
            }
            _ => None,
        }
    }

    /// How far walks must go on these rows, where that was measured.
    pub(super) fn walk_margins(&self) -> Option<&WalkMargins> {
        self.view.calibration.as_ref().and_then(|known| known.walks.as_ref())
    }

    /// Walks the parts that are to be walked, and adds what they find to `list`. A walk
    /// that overflows ends it: then all must be scanned.
    pub(super) fn walk(
        &self,
        plan: &Entry,
        list: &mut Vec<Scored>,
        walker: &mut Walker,
    ) -> Result<Walked> {
        let start = Instant::now();
        let mut report: Option<StageReport> = None;
        let mut hops = 0;
        for at in 0..self.view.parts.len() {
            let (Some(beam), Some(graph)) = (self.beam(plan, at), self.view.parts[at].walkable())
            else {
                continue;
            };
            let rows = self.walk_part(at, graph, beam, None, list, walker)?;
            if walker.walk.overflowed {
                return Ok(Walked::Overflowed);
            }
            hops += walker.walk.hops();
            let (scored, (code, links)) = (walker.walk.scored, graph.row_bytes());
            let stage = report.get_or_insert_with(|| self.walk_report(graph));
            stage.rows_in += scored;
            stage.rows_out += rows;
            stage.bytes += scored * code + walker.walk.hops() * links;
        }
        if let Some(stage) = &mut report {
            stage.name = StageName::new(format_args!("{}, {hops} hops", stage.name));
            stage.time = start.elapsed();
            if stage.time > DISK_TIME_PER_ROW * u32::try_from(stage.rows_in).unwrap_or(u32::MAX) {
                self.view
                    .parts
                    .iter()
                    .filter_map(|part| part.walkable())
                    .for_each(Graph::ask_again);
            }
        }
        Ok(Walked::Found(report))
    }

    /// What a scan is called; a graph that would have been walked, had it not been damaged,
    /// is not passed over in silence.
    pub(super) fn scan_name(&self, plan: &Entry) -> StageName {
        let damaged = self.view.parts.iter().filter(|part| part.graph_damage().is_some()).count();
        match damaged {
            n if n > 0 && plan.walks != Walks::Never => {
                StageName::new(format_args!("scan {}, damaged graphs: {n}", plan.code))
            }
            _ => StageName::new(format_args!("scan {}", plan.code)),
        }
    }

    fn walk_report(&self, graph: &Graph) -> StageReport {
        let code = graph.code();
        let bits = if code.bits == Bits::One { 1 } else { 8 };
        let dims = self.wanted.dims.min(code.dims);
        let name = StageName::new(format_args!("graph {bits} bit x {}", code.dims));
        StageReport { name, dims, rows_in: 0, rows_out: 0, bytes: 0, time: Duration::ZERO }
    }

    /// Adds what a walk finds in a part to `list`, as if the row at position `without`
    /// were not there; how many rows.
    pub(super) fn walk_part(
        &self,
        at: usize,
        graph: &Graph,
        beam: Beam,
        without: Option<u32>,
        list: &mut Vec<Scored>,
        walker: &mut Walker,
    ) -> Result<u64> {
        let part = &self.view.parts[at];
        let Walker { walk, row_query } = walker;
        row_query.set(graph.code(), self.query, self.wanted.dims);
        let mask = self.selection.map_or_else(|| part.alive(), |some| some.mask(at, part));
        let base = self.view.base(at);
        let without = without.and_then(|position| position.checked_sub(base));
        let walked = graph.search(walk, row_query, beam, mask, without);
        walked.inspect_err(|damage| {
            part.graph.iter().for_each(|graph| graph.give_up(damage));
        })?;
        let before = list.len();
        let scoring = self.scoring(at, self.reference);
        list.extend(walk.found().map(|(cosine, row)| {
            let score = scoring.of_row(row as usize, cosine);
            Scored { ordinal: base + row, score }
        }));
        Ok((list.len() - before) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_more_hits_walk_farther() {
        let plain = beam(&WalkMargins::UNCALIBRATED, 0.95, 10, 1.0);
        assert!(
            beam(&WalkMargins::UNCALIBRATED, 0.95, 10, 0.1).1 > 9.0 * plain.1,
            "a filter costs"
        );
        assert!(beam(&WalkMargins::UNCALIBRATED, 0.95, 1000, 1.0).0.width >= 4000);
    }
}

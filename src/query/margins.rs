//! Measures how far walks over graphs must go to come by the true nearest rows.
//!
//! ```text
//!   half of the queries:  walks with wider and wider margins, until they find nearly all
//!   the other half:       searches by the plan made of that, against the truth; margins are
//!                         widened until these find what was asked for
//! ```
//!
//! A query that is a row walks as if its row were not there: else its own links, which were
//! chosen to lead to its nearest rows, would do the work.

use super::adapt::Shortlist;
use super::calibrate::{HITS_CHECKED, Known, Measure, SCALE_STEP, WIDEST_SCALE, summary};
use super::entry::Entry;
use super::explain::Explain;
use super::graph::beam;
use super::plan::Calibrated;
use super::run::{QueryRun, Scratch, Walker, Wanted};
use crate::calibration::{CHECKED_RECALLS, Check, Noise, WalkMargins};
use crate::error::Result;
use crate::graph::Beam;
use crate::kernel::topk::Scored;

/// Margins are taken for this much wider than they were, and never for narrower than the
/// table's, which are of queries from elsewhere: rows find the most of their neighbours by
/// margins with which such queries found .78 where .8 was asked (`benches/graph.rs`).
const MARGIN_SAFETY: f32 = 1.1;
/// The first margin that is tried, and each next one in units of the one before.
const FIRST_MARGIN: f32 = 0.02;
const MARGIN_STEP: f32 = 1.25;
/// Margins tried, at most: beyond .5 nothing of a graph is left out.
const MARGINS_TRIED: i32 = 15;
/// Walks that score more than one row in this many lose against scans.
const WALK_LOSES_ABOVE_ONE_IN: f64 = 8.0;

impl Measure<'_> {
    /// How far walks over the view's graphs go; `None` where there are none, or not all
    /// dimensions are at hand.
    pub(super) fn walk_margins(
        &self,
        noise: Noise,
        known: &[Known],
    ) -> Result<Option<WalkMargins>> {
        if self.most_dims < self.view.schema.dims() {
            return Ok(None);
        }
        self.view.while_graphs_hold(|| match self.view.walkable() {
            0 => Ok(None),
            _ => self.walk_margins_once(noise, known).map(Some),
        })
    }

    fn walk_margins_once(&self, noise: Noise, known: &[Known]) -> Result<WalkMargins> {
        let mut scratch = Scratch::default();
        let curve = self.curve(known, &mut scratch.walker)?;
        let margin = |asked| margin_for(found_by_walks(asked), &curve);
        let margins = CHECKED_RECALLS.map(|asked| {
            margin(asked).max(WalkMargins::UNCALIBRATED.margin(asked) / MARGIN_SAFETY)
        });
        let mut walks = WalkMargins { scale: MARGIN_SAFETY, margins, ..WalkMargins::UNCALIBRATED };
        let held_out: Vec<_> = known.iter().skip(1).step_by(2).collect();
        loop {
            for (at, recall) in CHECKED_RECALLS.into_iter().enumerate() {
                let entry = Entry::choose(&self.view.schema, self.most_dims);
                let (lost, keep) = (1.0 - recall, usize::MAX);
                let plan = Calibrated { entry, recall, lost, noise, keep, table: 0 };
                let (check, scored) = self.check_walks(&plan, &walks, &held_out, &mut scratch)?;
                (walks.checks[at], walks.scored[at]) = (check, scored);
            }
            let mut most = 0.0f32;
            walks.scored = walks.scored.map(|scored| {
                most = most.max(scored);
                most
            });
            if Check::all_found(&walks.checks, held_out.len() * HITS_CHECKED)
                || walks.scale >= WIDEST_SCALE
            {
                return Ok(walks);
            }
            walks.scale *= SCALE_STEP;
        }
    }

    /// (margin, recall of walks) for rising margins.
    fn curve(&self, known: &[Known], walker: &mut Walker) -> Result<Vec<(f32, f64)>> {
        let rows: u64 = self.view.parts.iter().map(|part| u64::from(part.rows.len())).sum();
        let most = rows as f64 / WALK_LOSES_ABOVE_ONE_IN;
        let (mut curve, mut list) = (Vec::new(), Vec::new());
        for step in 0..MARGINS_TRIED {
            let margin = FIRST_MARGIN * MARGIN_STEP.powi(step);
            let beam = Beam { k: HITS_CHECKED, margin, width: usize::MAX };
            let (mut found, mut of, mut scored, mut queries) = (0, 0, 0, 0);
            for known in known.iter().step_by(2) {
                (self.watch)()?;
                let truth = self.walked(known);
                scored += self.walk_all(known, beam, &mut list, walker)?;
                found += truth.iter().filter(|t| list.iter().any(|c| c.ordinal == **t)).count();
                (of, queries) = (of + truth.len(), queries + 1);
            }
            let recall = found as f64 / of.max(1) as f64;
            curve.push((margin, recall));
            let scored = scored as f64 / f64::from(queries.max(1));
            if recall >= found_by_walks(CHECKED_RECALLS[CHECKED_RECALLS.len() - 1]) || scored > most
            {
                break;
            }
        }
        Ok(curve)
    }

    /// Walks all graphs, and puts what is found into `list`; how many rows that scores.
    fn walk_all(
        &self,
        (probe, _): &Known,
        beam: Beam,
        list: &mut Vec<Scored>,
        walker: &mut Walker,
    ) -> Result<u64> {
        let queries = [probe.vector.as_slice()];
        let wanted = Wanted::nearest(&queries, self.most_dims, HITS_CHECKED);
        let run = QueryRun::new(self.view, queries[0], &wanted, None);
        list.clear();
        let mut scored = 0;
        for (at, part) in self.view.parts.iter().enumerate() {
            let Some(graph) = part.walkable() else { continue };
            run.walk_part(at, graph, beam, probe.own, list, walker)?;
            scored += walker.walk.scored;
        }
        Ok(scored)
    }

    /// The nearest rows of a probe that are in parts with graphs: their positions.
    fn walked(&self, (_, truth): &Known) -> Vec<u32> {
        let has_graph = |position: u32| self.view.locate(position).0.walkable().is_some();
        let nearest = truth.iter().take(HITS_CHECKED).map(|row| row.0);
        nearest.filter(|position| has_graph(*position)).collect()
    }

    /// What walks and the plan behind them find, and the mean number of rows scored on a walk
    /// of one graph.
    fn check_walks(
        &self,
        plan: &Calibrated,
        walks: &WalkMargins,
        held_out: &[&Known],
        scratch: &mut Scratch,
    ) -> Result<(Check, f32)> {
        let graphs = self.view.parts.iter().filter(|part| part.walkable().is_some()).count();
        let (beam, _) = beam(walks, plan.recall, HITS_CHECKED, 1.0);
        let (mut recalls, mut compared, mut scored) = (Vec::new(), 0, 0);
        let mut found = Vec::new();
        for known in held_out {
            (self.watch)()?;
            let truth = self.walked(known);
            scored += self.walk_all(known, beam, &mut found, &mut scratch.walker)?;
            if truth.is_empty() {
                // Its nearest rows are in parts without a graph, which says nothing of walks.
                continue;
            }
            let queries = [known.0.vector.as_slice()];
            let wanted = Wanted::nearest(&queries, self.most_dims, HITS_CHECKED);
            let run = QueryRun::new(self.view, queries[0], &wanted, None);
            let list = Shortlist { rows: found, floor: f32::NEG_INFINITY, walked_only: true };
            let (answer, rows) = run.adapt_found(plan, list, Explain::default(), scratch)?;
            found = rows;
            let hits = truth.iter().filter(|t| answer.found.iter().any(|f| f.position == **t));
            recalls.push(hits.count() as f64 / truth.len() as f64);
            compared += answer.listed as u64;
        }
        let walks = (held_out.len() * graphs).max(1);
        Ok((summary(&recalls, compared), scored as f32 / walks as f32))
    }
}

/// The recall of walks that a search for a recall needs: they may lose half of what may be lost.
fn found_by_walks(recall: f64) -> f64 {
    1.0 - (1.0 - recall) / 2.0
}

/// The least margin by which walks come to a recall; twice the widest tried where none does.
fn margin_for(recall: f64, curve: &[(f32, f64)]) -> f32 {
    let Some(at) = curve.iter().position(|point| point.1 >= recall) else {
        return curve.last().map_or(1.0, |point| point.0 * 2.0);
    };
    let (high, low) = (curve[at], curve[at.saturating_sub(1)]);
    let t = if high.1 > low.1 { (recall - low.1) / (high.1 - low.1) } else { 1.0 };
    low.0 + t as f32 * (high.0 - low.0)
}

#[cfg(test)]
mod tests {
    use super::margin_for;

    #[test]
    fn margins_are_read_off_the_curve() {
        let curve = [(0.1, 0.5), (0.2, 0.9), (0.3, 0.9), (0.4, 1.0)];
        let is = |recall, margin: f32| (margin_for(recall, &curve) - margin).abs() < 1e-6;
        assert!(is(0.3, 0.1) && is(0.7, 0.15) && is(0.9, 0.2) && is(0.95, 0.35) && is(1.0, 0.4));
        assert!((margin_for(0.99, &curve[..2]) - 0.4).abs() < 1e-6, "not reached");
    }
}

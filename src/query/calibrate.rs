//! Measures how wrong the estimates of stage codes are about true near rows.
//!
//! ```text
//!   for each number of dimensions that the model was trained at:
//!     half of the queries:  true nearest 100 by `exact`; the error of each one's estimate
//!     the other half:       searches by the plan made of these errors, against the truth;
//!                           the errors are widened until these find what was asked for
//! ```
//!
//! The queries are rows of the collection, each left out of its own search, or the caller's.

use roaring::RoaringBitmap;

use super::adapt::adapt;
use super::entry::{Entry, columns};
use super::exec;
use super::funnel::Funnel;
use super::plan::{Calibrated, Candidates, FIRST_SCAN_KEEPS, Planner};
use super::run::{QueryRun, Scratch, Wanted, with_scratch};
use super::scan::scan;
use super::select::Selection;
use crate::calibration::{CHECKED_RECALLS, Calibration, Check, ERROR_QUANTILES, Noise, names};
use crate::error::{Error, Result};
use crate::random::{next, shuffle};
use crate::types::Ordinal;
use crate::view::View;

/// Fewest rows that are calibrated; searches of fewer compare most of them anyway.
pub(crate) const CALIBRATE_FROM_ROWS: u64 = 256;
/// Rows that are queries, over all dimensions.
const ROWS_AS_QUERIES: usize = 300;
/// Rows that are queries over a prefix, where exact searches compare every row.
const QUERIES_OVER_PREFIX: usize = 100;
/// True nearest rows whose estimates are looked at.
const NEAREST_MEASURED: usize = 100;
/// Hits of the searches that check.
pub(super) const HITS_CHECKED: usize = 10;
/// Errors are taken for this much wider than they were: those of queries from elsewhere are,
/// by up to a tenth (docs/SEARCH.md, "Calibrated recall").
const ERROR_SAFETY: f32 = 1.1;
/// Errors are taken for lower by this many standard deviations.
const ERROR_SHIFT_DEVIATIONS: f32 = 0.1;
/// Errors are widened by this factor until the checks pass, ...
pub(super) const SCALE_STEP: f32 = 1.1;
/// ... and no further than to this.
pub(super) const WIDEST_SCALE: f32 = 2.0;

/// What is calibrated, with what.
pub(crate) struct Measure<'a> {
    pub(crate) view: &'a View,
    /// Most dimensions of a search.
    pub(crate) most_dims: usize,
    /// Chooses the rows that are queries.
    pub(crate) seed: u64,
    /// Called before each query; its error ends the measuring.
    pub(crate) watch: &'a dyn Fn() -> Result<()>,
}

/// About how many queries are asked, with so many given or with rows, where no plan must be widened.
pub(crate) fn foreseen(view: &View, most_dims: usize, given: Option<usize>) -> u64 {
    let probes =
        given.map_or((view.live_rows() / 2).min(ROWS_AS_QUERIES as u64), |given| given as u64);
    let prefixes = view.schema.granularities().iter().filter(|dims| **dims < most_dims).count();
    // Each for its truth; half of them for errors, half for each plan.
    let of = |probes: u64| probes + probes.div_ceil(2) + probes / 2 * CHECKED_RECALLS.len() as u64;
    let walks = if view.walkable() > 0 { of(probes) } else { 0 };
    of(probes.min(QUERIES_OVER_PREFIX as u64)) * prefixes as u64 + of(probes) + walks
}

/// A query, and the position of the row that it is.
pub(super) struct Probe {
    pub(super) vector: Vec<f32>,
    pub(super) own: Option<u32>,
}

/// The true nearest rows of a probe: position and score, best first.
type Truth = Vec<(u32, f32)>;

/// A probe and what is true of it. Those with even numbers measure, those with odd ones check.
pub(super) type Known<'p> = (&'p Probe, Truth);

impl Measure<'_> {
    /// Measures with rows of the collection, or with `given` queries of all dimensions.
    pub(crate) fn run(&self, given: Option<&[&[f32]]>) -> Result<Calibration> {
        let schema = &self.view.schema;
        let rows = self.view.live_rows();
        if rows < CALIBRATE_FROM_ROWS {
            let why = format!("expected at least {CALIBRATE_FROM_ROWS} rows, got {rows}");
            return Err(Error::invalid("calibrate", why));
        }
        for column in columns(schema, self.most_dims) {
            self.view.parts.iter().try_for_each(|part| part.rows.ready(column))?;
        }
        let probes = match given {
            Some(queries) => self.given(queries)?,
            None => self.sample(ROWS_AS_QUERIES)?,
        };
        let below = schema.granularities().iter().filter(|dims| **dims < self.most_dims);
        let mut noises = Vec::new();
        for dims in below.copied() {
            noises.extend(self.noise(dims, &self.known(dims, &probes, QUERIES_OVER_PREFIX)?)?);
        }
        let known = self.known(self.most_dims, &probes, usize::MAX)?;
        let noise = self.noise(self.most_dims, &known)?;
        let Some(whole) = noise else {
            return Err(Error::invalid("calibrate", "no query has a direction"));
        };
        noises.push(whole);
        let walks = self.walk_margins(whole, &known)?;
        let (queries, codes) = (probes.len() as u32, names(schema));
        let given = given.is_some();
        Ok(Calibration { rows, written: 0, queries, given, noises, walks, codes })
    }

    fn given(&self, queries: &[&[f32]]) -> Result<Vec<Probe>> {
        if queries.len() < 2 {
            return Err(Error::invalid("calibrate", "expected at least 2 queries"));
        }
        let dims = self.view.schema.dims();
        let probe = |query: &&[f32]| {
            self.view.schema.check_vector(query, dims)?;
            Ok(Probe { vector: query.to_vec(), own: None })
        };
        let mut probes = queries.iter().map(probe).collect::<Result<Vec<_>>>()?;
        // Logs of queries have their topics in a row, or questions and answers in turns.
        let mut random = self.seed;
        shuffle(&mut probes, &mut random);
        Ok(probes)
    }

    /// Rows spread evenly over the collection, one at random in each of equal pieces.
    fn sample(&self, most: usize) -> Result<Vec<Probe>> {
        let view = self.view;
        let rows = view.live_rows();
        let count = (most as u64).min(rows / 2);
        let mut random = self.seed;
        let mut wanted: Vec<u64> =
            (0..count).map(|n| n * rows / count + next(&mut random) % (rows / count)).collect();
        let (mut probes, mut before) = (Vec::new(), 0);
        for (at, part) in view.parts.iter().enumerate() {
            let end = before + part.live_rows();
            let here = wanted.partition_point(|row| *row < end);
            let mut living = part.living();
            let mut next_row = before;
            for row in wanted.drain(..here) {
                let Some(Ordinal(ordinal)) = living.nth((row - next_row) as usize) else { break };
                next_row = row + 1;
                let mut vector = vec![0.0; view.schema.dims()];
                view.schema.stored().decode(part.rows.vector(Ordinal(ordinal))?, &mut vector);
                probes.push(Probe { vector, own: Some(view.base(at) + ordinal) });
            }
            before = end;
        }
        // Both halves come from everywhere.
        shuffle(&mut probes, &mut random);
        Ok(probes)
    }

    /// What is true of up to `most` probes that have a direction in so few dimensions.
    fn known<'p>(&self, dims: usize, probes: &'p [Probe], most: usize) -> Result<Vec<Known<'p>>> {
        let usable = |p: &&Probe| self.view.schema.check_vector(&p.vector[..dims], dims).is_ok();
        let known = probes.iter().filter(usable).take(most).map(|probe| {
            (self.watch)()?;
            Ok((probe, self.truth(probe, dims)?))
        });
        known.collect()
    }

    /// The noise of the code that a search over `dims` dimensions begins with; `None` where
    /// nothing is known.
    fn noise(&self, dims: usize, known: &[Known]) -> Result<Option<Noise>> {
        let entry = Entry::choose(&self.view.schema, dims);
        let mut scratch = Scratch::default();
        let mut errors = Vec::new();
        for (probe, truth) in known.iter().step_by(2) {
            (self.watch)()?;
            self.errors(probe, truth, &entry, dims, &mut scratch, &mut errors);
        }
        if errors.is_empty() {
            return Ok(None);
        }
        errors.sort_unstable_by(f32::total_cmp);
        let at = |fraction: f64| errors[((errors.len() - 1) as f64 * fraction) as usize];
        let checks = [Check::default(); CHECKED_RECALLS.len()];
        let lower = ERROR_SHIFT_DEVIATIONS * deviation(&errors);
        let quantiles = ERROR_QUANTILES.map(|fraction| at(fraction) - lower);
        let mut noise = Noise { stage: entry.stage, dims, scale: ERROR_SAFETY, quantiles, checks };
        let held_out: Vec<_> = known.iter().skip(1).step_by(2).collect();
        loop {
            let keep = FIRST_SCAN_KEEPS;
            let plan =
                |recall| Calibrated { entry, recall, lost: 1.0 - recall, noise, keep, table: 0 };
            let plans = CHECKED_RECALLS.map(plan);
            noise.checks = self.check(&plans, &held_out, dims, &mut scratch)?;
            if Check::all_found(&noise.checks, held_out.len() * HITS_CHECKED)
                || noise.scale >= WIDEST_SCALE
            {
                return Ok(Some(noise));
            }
            noise.scale *= SCALE_STEP;
        }
    }

    fn truth(&self, probe: &Probe, dims: usize) -> Result<Truth> {
        let rows = self.view.live_rows();
        let limit = NEAREST_MEASURED + 1;
        let all = Candidates { rows, all: rows };
        let plan = Planner::nearest(&self.view.schema, dims, limit, all).plan(&Funnel::exact())?;
        let queries = [probe.vector.as_slice()];
        let wanted = Wanted::nearest(&queries, dims, limit);
        let answers = with_scratch(|scratch| exec::run(self.view, &wanted, None, &plan, scratch))?;
        let found = answers.into_iter().flat_map(|answer| answer.found);
        let others = found.filter(|f| Some(f.position) != probe.own);
        Ok(others.take(NEAREST_MEASURED).map(|f| (f.position, f.score)).collect())
    }

    /// Adds the errors of the estimates of true near rows.
    fn errors(
        &self,
        probe: &Probe,
        truth: &Truth,
        entry: &Entry,
        dims: usize,
        scratch: &mut Scratch,
        errors: &mut Vec<f32>,
    ) {
        let mut rows = vec![RoaringBitmap::new(); self.view.parts.len()];
        for (position, _) in truth {
            let at = self.view.part_at(*position);
            rows[at].insert(position - self.view.base(at));
        }
        let selection = Selection::of(rows);
        let queries = [probe.vector.as_slice()];
        let wanted = Wanted::nearest(&queries, dims, NEAREST_MEASURED);
        let run = QueryRun::new(self.view, queries[0], &wanted, Some(&selection));
        scan(std::slice::from_ref(&run), entry, NEAREST_MEASURED, scratch);
        for estimate in &scratch.lists[0] {
            let found = truth.iter().find(|(position, _)| *position == estimate.ordinal);
            let Some(&(position, score)) = found else { continue };
            let error = (estimate.score - score) / run.unit(position, score);
            errors.extend(error.is_finite().then_some(error));
        }
    }

    /// What each plan finds of the truth, and how many rows it compares.
    fn check(
        &self,
        plans: &[Calibrated; CHECKED_RECALLS.len()],
        held_out: &[&(&Probe, Truth)],
        dims: usize,
        scratch: &mut Scratch,
    ) -> Result<[Check; CHECKED_RECALLS.len()]> {
        let mut done = CHECKED_RECALLS.map(|_| (Vec::new(), 0));
        for (probe, truth) in held_out {
            // Made once for all plans.
            let selection = probe.own.map(|own| self.all_but(own));
            let queries = [probe.vector.as_slice()];
            let wanted = Wanted::nearest(&queries, dims, HITS_CHECKED);
            let run = QueryRun::new(self.view, queries[0], &wanted, selection.as_ref());
            let truth = &truth[..truth.len().min(HITS_CHECKED)];
            for (plan, (recalls, compared)) in plans.iter().zip(&mut done) {
                (self.watch)()?;
                let answer = adapt(std::slice::from_ref(&run), plan, scratch)?.remove(0);
                let (found, explain) = (answer.found, answer.explain);
                let hits = truth.iter().filter(|t| found.iter().any(|f| f.position == t.0)).count();
                recalls.push(hits as f64 / truth.len().max(1) as f64);
                *compared += explain.stages.last().map_or(0, |stage| stage.rows_in);
            }
        }
        Ok(done.map(|(recalls, compared)| summary(&recalls, compared)))
    }

    /// All living rows but one.
    fn all_but(&self, position: u32) -> Selection {
        let parts = self.view.parts.iter().enumerate();
        let rows = parts.map(|(at, part)| {
            let mut rows = RoaringBitmap::new();
            rows.insert_range(0..part.rows.len());
            rows -= &*part.dead;
            position.checked_sub(self.view.base(at)).map(|row| rows.remove(row));
            rows
        });
        Selection::of(rows.collect())
    }
}

/// What searches found of their truths, and how many rows all of them compared.
pub(super) fn summary(recalls: &[f64], compared: u64) -> Check {
    let count = recalls.len().max(1) as f64;
    let mean = recalls.iter().sum::<f64>() / count;
    let variance = recalls.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / count;
    // Hits of one query go together, so queries are counted, not hits. Where all
    // was found: the rule of three.
    let within = (1.96 * (variance / count).sqrt()).max(3.0 / (count * HITS_CHECKED as f64));
    let (recall, within) = (mean as f32, within as f32);
    Check { recall, within, compared: (compared as f64 / count) as f32 }
}

fn deviation(values: &[f32]) -> f32 {
    let count = values.len() as f64;
    let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / count;
    let squares = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>();
    (squares / count).sqrt() as f32
}

//! The plan of a search, made of what the caller asks for, of the rows there are, and of what is
//! known of the estimates.

use super::entry::{Entry, Walks};
use super::funnel::{Funnel, FunnelStage, Kind};
use crate::calibration::{Calibration, Noise};
use crate::encoding::Bits;
use crate::error::{Error, Result};
use crate::graph::RowCode;
use crate::schema::{Metric, Schema};

/// Where a filter leaves one row in this many, or fewer, comparing them all costs
/// no more than the scan of the others' codes (`benches/filters.rs`), ...
const GATHER_BELOW_ONE_IN: u64 = 64;
/// ... unless they are more than this many times the rows that would be compared behind a scan:
/// vectors may have to come from a disk, codes hardly.
const GATHER_AT_MOST_TIMES: u64 = 32;
/// Where one row in this many would be compared, or more, a proof costs less: it reads half a byte
/// of each dimension of all rows in their order, and next to no vector.
const PROVE_ABOVE_ONE_IN: u64 = 8;
/// Where one row in this many would be compared, or more, comparing all of them costs less.
const COMPARE_ABOVE_ONE_IN: u64 = 2;
/// Smaller collections are searched exactly until they are calibrated: that takes half a
/// millisecond at most where codes bound scores, one or two over a prefix, and the table was
/// measured on text.
pub(crate) const EXACT_BELOW_ROWS: u64 = 20_000;
/// Of fewer rows a proof saves nothing worth its beginning.
const PROVE_FROM_ROWS: u64 = 256;
/// Where more than one row in this many is wanted, too many are in reach of a proof.
pub(super) const PROVE_WANTED_ONE_IN: u64 = 16;

/// Rows compared first beside those wanted, at least.
const COMPARE_FIRST: usize = 8;
/// Standard deviations of the error that a first scan keeps rows beyond.
const MARGIN_DEVIATIONS: f32 = 1.5;
/// A first scan keeps at most this many times the rows that are compared on the average, or
/// [`FIRST_SCAN_KEEPS`].
const FIRST_SCAN_TIMES_COMPARED: usize = 64;
/// Rows that a first scan may keep, however few are compared.
pub(super) const FIRST_SCAN_KEEPS: usize = 1 << 14;
/// A list of a fixed length has this many times the rows that are compared on the average: queries
/// from elsewhere want more, and a fifth of them wanted more than that.
const FIXED_LIST_TIMES_COMPARED: usize = 8;

/// The rows a search may find.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidates {
    /// How many there are.
    pub(super) rows: u64,
    /// Among how many living rows.
    pub(super) all: u64,
}

/// What a search does.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Plan {
    /// Compares every full vector.
    Exact,
    /// Bounds every score by a stage code, and compares the full vectors in reach.
    Proven { stage: usize, entry: Entry },
    /// Scans a stage code, keeps the best, ranks them by longer prefixes, and at
    /// last by all dimensions searched.
    Funnel { entry: Entry, keep: usize, reranks: Vec<FunnelStage> },
    /// Scans a stage code, and compares full vectors as far down as its noise asks for.
    Calibrated(Calibrated),
}

impl Plan {
    /// Where it begins; `None` where it compares every vector.
    pub(super) fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Exact => None,
            Self::Proven { entry, .. } | Self::Funnel { entry, .. } => Some(entry),
            Self::Calibrated(plan) => Some(&plan.entry),
        }
    }
}

/// A plan made of what is known of a stage code's estimates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Calibrated {
    pub(super) entry: Entry,
    /// The share of the true nearest rows that is to be found.
    pub(super) recall: f64,
    /// The share of the true nearest rows that may be lost: what is not asked for, or less.
    pub(super) lost: f64,
    pub(super) noise: Noise,
    /// Most rows that the first scan keeps.
    pub(super) keep: usize,
    /// Rows kept where graphs are walked of which nothing is known.
    pub(super) table: usize,
}

impl Calibrated {
    /// Rows that a search for `limit` hits compares first: what held-out queries needed on the
    /// average. Fewer would have to wait for others twice, and queries from elsewhere need more.
    pub(super) fn first(&self, limit: usize) -> usize {
        let compared = f64::from(self.noise.check(self.recall).compared) * limit as f64 / 10.0;
        (compared as usize).max(limit.saturating_add(COMPARE_FIRST))
    }

    /// How far below the k-th best estimate a first scan keeps rows, in units of the error: as far
    /// as the cut can be below the k-th best *score*, and some more, since the best estimates are
    /// estimated too high. On text vectors one query in a hundred wants more and is scanned again;
    /// with a deviation less it is one in fourteen, with one more lists are three times as long.
    pub(super) fn margin(&self) -> f32 {
        let margin = MARGIN_DEVIATIONS * self.noise.deviation() - self.noise.error_at(self.lost);
        // Where estimates are too high on the whole, the k best are kept all the same.
        margin.max(0.0)
    }

    /// What is left to lose behind walks, which may lose half of it. Where all estimates of a
    /// search over `dims` dimensions are of graphs whose code is `code` they are off by less, if
    /// it has more of these dimensions.
    pub(super) fn behind_walks(&self, code: Option<RowCode>, dims: usize) -> Self {
        let bits = self.entry.code.bits;
        let used = code.filter(|code| code.bits == bits).map(|code| code.dims.min(dims));
        let longer = used.filter(|used| *used > self.entry.dims);
        let narrower = longer.map_or(1.0, |used| (self.entry.dims as f64 / used as f64).sqrt());
        let recall = 1.0 - (1.0 - self.recall) / 2.0;
        Self { recall, lost: self.lost / 2.0, noise: self.noise.wider(narrower), ..*self }
    }
}

/// Everything but the funnel that a plan depends on.
#[derive(Clone, Copy)]
pub(super) struct Planner<'a> {
    pub(super) schema: &'a Schema,
    /// Dimensions searched.
    pub(super) dims: usize,
    /// Hits wanted.
    pub(super) limit: usize,
    pub(super) candidates: Candidates,
    pub(super) calibration: Option<&'a Calibration>,
    /// Whether hits are grouped by a field.
    pub(super) grouped: bool,
    /// Whether all rows that reach a score are wanted.
    pub(super) ranged: bool,
}

impl<'a> Planner<'a> {
    /// For the nearest rows of a collection without a calibration.
    pub(super) fn nearest(
        schema: &'a Schema,
        dims: usize,
        limit: usize,
        candidates: Candidates,
    ) -> Self {
        let (calibration, grouped, ranged) = (None, false, false);
        Self { schema, dims, limit, candidates, calibration, grouped, ranged }
    }

    /// The plan of a funnel.
    pub(super) fn plan(&self, funnel: &Funnel) -> Result<Plan> {
        let plan = match &funnel.0 {
            Kind::Exact | Kind::Recall(1.0) | Kind::Walked(1.0) => self.exact(),
            Kind::Recall(recall) | Kind::Walked(recall) if !(0.0..=1.0).contains(recall) => {
                return Err(Error::invalid("recall", format!("expected 0 to 1, got {recall}")));
            }
            Kind::Recall(recall) => self.by_recall(*recall, Walks::Recall(*recall)),
            Kind::Walked(recall) => self.by_recall(*recall, Walks::Always(*recall)),
            Kind::Stages(stages) => self.by_hand(stages)?,
            Kind::Graph(width, stages) => self.walk_by_hand(*width, stages)?,
        };
        let plan = match plan {
            Plan::Calibrated(plan) if self.grouped => self.of_one_list(&plan),
            plan => plan,
        };
        Ok(match plan {
            // That score is a floor from the beginning, so no limit is too large for bounds.
            Plan::Exact if self.ranged => Self { limit: 1, ..*self }.exact(),
            plan => plan,
        })
    }

    /// The true nearest rows: by bounds, where a code proves them and few rows are wanted of many.
    fn exact(&self) -> Plan {
        let Candidates { rows, all } = self.candidates;
        let many = rows > all / GATHER_BELOW_ONE_IN
            && rows >= PROVE_FROM_ROWS
            && self.limit as u64 <= rows / PROVE_WANTED_ONE_IN;
        match self.schema.proves(self.dims).filter(|_| many) {
            Some(stage) => Plan::Proven { stage, entry: Entry::choose(self.schema, self.dims) },
            None => Plan::Exact,
        }
    }

    /// Whether an exact plan costs less than comparing `keep` rows behind a scan.
    fn costs_less(&self, exact: &Plan, keep: usize) -> bool {
        let one_in = match exact {
            Plan::Proven { .. } => PROVE_ABOVE_ONE_IN,
            _ => COMPARE_ABOVE_ONE_IN,
        };
        keep as u64 >= self.candidates.rows / one_in
    }

    /// A plan with a shortlist of a fixed length in the place of a calibrated one. What is grouped
    /// needs it: how many of the best rows it takes to fill the groups, no calibration knows.
    fn of_one_list(&self, plan: &Calibrated) -> Plan {
        let compared =
            f64::from(plan.noise.check(plan.recall).compared) * times_as_long(self.limit);
        let keep = plan.table.max((compared as usize).saturating_mul(FIXED_LIST_TIMES_COMPARED));
        match self.exact() {
            exact if self.costs_less(&exact, keep) => exact,
            _ => Plan::Funnel { entry: plan.entry, keep, reranks: Vec::new() },
        }
    }

    fn by_recall(&self, recall: f64, walks: Walks) -> Plan {
        let Candidates { rows, all } = self.candidates;
        let entry = Entry::choose(self.schema, self.dims).walking(walks);
        let noise = self.noise(&entry);
        let keep = match noise {
            Some(noise) => expected(&noise, recall, self.limit),
            None => self.shortlist(recall, &entry),
        };
        // A shortlist of many rows costs more than a proof, or than comparing all of them; a scan
        // more than gathering few that pass a filter.
        let exact = self.exact();
        let always = matches!(walks, Walks::Always(_));
        let most = if always {
            keep as u64 >= rows / COMPARE_ABOVE_ONE_IN
        } else {
            self.costs_less(&exact, keep)
        };
        let few = rows <= all / GATHER_BELOW_ONE_IN
            && rows <= GATHER_AT_MOST_TIMES.saturating_mul(keep as u64);
        let unknown = noise.is_none() && all < EXACT_BELOW_ROWS;
        let in_vain = noise.is_some_and(|noise| !noise.finds(recall));
        // What calibration shows of other dimensions says nothing for the table.
        let unmeasured = noise.is_none() && self.calibration.is_some();
        if most || few || in_vain || unmeasured || unknown && !always {
            exact
        } else if let Some(noise) = noise {
            let table = self.shortlist(recall, &entry);
            let keep = keep.saturating_mul(FIRST_SCAN_TIMES_COMPARED).max(FIRST_SCAN_KEEPS);
            // More than the row that a search by row leaves out is a filter. The nearest rows that
            // pass may lie far, and alike, so that a query that errs in one errs in many.
            let lost = (1.0 - recall) / if rows + 1 < all { 2.0 } else { 1.0 };
            Plan::Calibrated(Calibrated { entry, recall, lost, noise, keep, table })
        } else {
            Plan::Funnel { entry, keep, reranks: Vec::new() }
        }
    }

    /// What is known of the estimates that a search begins with.
    fn noise(&self, entry: &Entry) -> Option<Noise> {
        let noise = self.calibration?.noise(entry.stage, entry.code.dims, self.dims)?;
        // Estimates over a prefix stand on norms of whole vectors under dot and l2:
        // how far they are off is known only for the dimensions measured.
        let known = noise.dims == self.dims || self.schema.metric() == Metric::Cosine;
        known.then_some(noise)
    }

    /// How many rows a scan keeps: the table [`SHORTLISTS`], stretched by what is known to
    /// matter, and never fewer than twice the hits asked for.
    fn shortlist(&self, recall: f64, entry: &Entry) -> usize {
        let sharp = matches!(entry.code.bits, Bits::Four | Bits::Eight);
        let base = if sharp && entry.dims == self.dims {
            // The code says the score to within a percent. Where rows lie close, many are as near.
            interpolate(recall).max(30.0)
        } else {
            // Half the dimensions need four times the rows, and 8 bits of a prefix
            // are worth 1 bit of twice its dimensions: both measured likewise.
            let worth = if sharp { 2.0 } else { 1.0 } * entry.dims as f64;
            interpolate(recall) * (512.0 / worth).powi(2).max(1.0)
        };
        // More rows crowd the neighbourhood of the k-th one: slowly.
        let crowd = (self.candidates.rows as f64 / 100_000.0).powf(0.35).clamp(0.5, 100.0);
        let rows = (base * crowd * times_as_long(self.limit)).round() as usize;
        rows.max(self.limit.saturating_mul(2))
    }

    fn by_hand(&self, stages: &[FunnelStage]) -> Result<Plan> {
        let Some((first, rest)) = stages.split_first() else {
            return Err(Error::invalid("funnel", "expected at least one stage"));
        };
        self.check_stages(stages)?;
        let entry = Entry::choose(self.schema, first.dims);
        Ok(Plan::Funnel { entry, keep: first.keep, reranks: rest.to_vec() })
    }

    fn walk_by_hand(&self, width: usize, stages: &[FunnelStage]) -> Result<Plan> {
        self.check_stages(stages)?;
        let first = stages.first().map_or(self.limit, |stage| stage.keep);
        if width < first.max(1) {
            let why = format!("a walk keeps {width} rows, of which {first} are wanted");
            return Err(Error::invalid("funnel", why));
        }
        let entry = Entry::choose(self.schema, self.dims).walking(Walks::Width(width));
        Ok(Plan::Funnel { entry, keep: width, reranks: stages.to_vec() })
    }

    /// Each stage ranks by more dimensions than the one before, and keeps no more rows.
    fn check_stages(&self, stages: &[FunnelStage]) -> Result<()> {
        let (dims, limit) = (self.dims, self.limit);
        let rising = stages.windows(2).all(|w| w[0].dims < w[1].dims && w[0].keep >= w[1].keep);
        let fits = stages.iter().all(|s| (1..=dims).contains(&s.dims) && s.keep >= limit);
        if !rising || !fits {
            let why = format!(
                "stages rank by ascending dimensions up to {dims} and keep ever fewer rows, at \
                 least the {limit} asked for: {stages:?}"
            );
            return Err(Error::invalid("funnel", why));
        }
        Ok(())
    }
}

/// How many rows are compared on the average, by the checks for 10 hits.
fn expected(noise: &Noise, recall: f64, limit: usize) -> usize {
    let compared = f64::from(noise.check(recall).compared) * times_as_long(limit);
    (compared.ceil() as usize).max(limit.saturating_mul(2))
}

/// Rows to keep for k = 10 of 100 000 rows, by the share of the true top 10 that
/// is then among them, for 1 bit x 512 dimensions. Read off `benches/codes.rs` on
/// passages whose queries come from elsewhere, which need about three times as
/// many rows as queries about the passages themselves.
const SHORTLISTS: [(f64, f64); 6] =
    [(0.80, 25.0), (0.90, 55.0), (0.95, 110.0), (0.98, 230.0), (0.99, 450.0), (0.999, 2000.0)];

/// How many times as long a list is wanted for `limit` hits, beside one for ten. Of text it is the
/// power .8 of that; but where codes say little the next rows are as hard to find as the first.
fn times_as_long(limit: usize) -> f64 {
    (limit as f64 / 10.0).max(1.0)
}

/// Straight lines between the points of [`SHORTLISTS`], on logarithmic axes.
fn interpolate(recall: f64) -> f64 {
    let first = SHORTLISTS[0];
    if recall <= first.0 {
        return first.1;
    }
    let x = |recall: f64| -(1.0 - recall.min(0.9999)).ln();
    let at = SHORTLISTS.windows(2).find(|w| recall <= w[1].0);
    let [(r0, k0), (r1, k1)] = at.map_or([SHORTLISTS[4], SHORTLISTS[5]], |w| [w[0], w[1]]);
    let t = (x(recall) - x(r0)) / (x(r1) - x(r0));
    (k0.ln() + t * (k1 / k0).ln()).exp()
}

#[cfg(test)]
mod tests {
    use super::super::funnel::DEFAULT_RECALL;
    use super::*;

    fn schema() -> Schema {
        Schema::builder(1024).granularities([32, 64, 256]).build().expect("valid")
    }

    fn plan(funnel: &Funnel, dims: usize, limit: usize, (rows, all): (u64, u64)) -> Result<Plan> {
        Planner::nearest(&schema(), dims, limit, Candidates { rows, all }).plan(funnel)
    }

    /// The plan of the default recall for 10 hits.
    fn by_default(rows: u64, all: u64, dims: usize) -> Plan {
        plan(&Funnel::default(), dims, 10, (rows, all)).expect("plan")
    }

    fn keep(plan: &Plan, rows: u64) -> usize {
        match plan {
            Plan::Exact | Plan::Proven { .. } => rows as usize,
            Plan::Funnel { keep, .. } => *keep,
            Plan::Calibrated(plan) => plan.keep,
        }
    }

    fn kept(recall: f64, limit: usize, rows: u64, dims: usize) -> usize {
        let plan = plan(&Funnel::recall(recall), dims, limit, (rows, rows)).expect("plan");
        keep(&plan, rows)
    }

    #[test]
    fn more_recall_more_hits_and_more_rows_keep_more() {
        let recalls = [0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999, 0.9999];
        let keeps: Vec<_> = recalls.iter().map(|r| kept(*r, 10, 1_000_000, 1024)).collect();
        assert!(keeps.windows(2).all(|w| w[0] <= w[1]), "{keeps:?}");
        assert!(kept(0.95, 100, 1_000_000, 1024) > kept(0.95, 10, 1_000_000, 1024));
        assert!(kept(0.95, 10, 1_000_000, 1024) > kept(0.95, 10, 100_000, 1024));
        assert_eq!(kept(0.95, 10, 100_000, 1024), 110);
    }

    #[test]
    fn recall_of_one_and_tiny_collections_are_exact() {
        let proven = Plan::Proven { stage: 2, entry: Entry::choose(&schema(), 1024) };
        for funnel in [Funnel::recall(1.0), Funnel::exact()] {
            let of = |dims| plan(&funnel, dims, 10, (1 << 20, 1 << 20)).expect("plan");
            assert_eq!(of(1024), proven);
            assert_eq!(of(1023), Plan::Exact, "no code bounds a prefix");
        }
        assert_eq!(kept(0.9, 10, 50, 1024), 50);
    }

    #[test]
    fn shortlists_follow_the_rows_that_pass_a_filter() {
        let passing = |rows| by_default(rows, 1_000_000, 1024);
        assert_eq!(keep(&passing(100_000), 100_000), kept(DEFAULT_RECALL, 10, 100_000, 1024));
        // Few that pass are gathered, if comparing them is not much more than a shortlist asks for.
        let of_few = |rows, all| by_default(rows, all, 1024);
        assert_eq!(of_few(1500, 1500 * GATHER_BELOW_ONE_IN), Plan::Exact);
        assert_ne!(of_few(1500, 1500 * GATHER_BELOW_ONE_IN - 1), Plan::Exact);
        assert_ne!(of_few(15_000, 15_000 * GATHER_BELOW_ONE_IN), Plan::Exact);
        assert_eq!(passing(0), Plan::Exact);
        let all = plan(&Funnel::default(), 1024, usize::MAX, (1, 1000));
        assert_eq!(all.expect("plan"), Plan::Exact);
    }

    #[test]
    fn what_nobody_has_measured_is_exact_while_it_is_small() {
        let plan = |rows, dims| by_default(rows, rows, dims);
        assert!(matches!(plan(EXACT_BELOW_ROWS - 1, 1024), Plan::Proven { .. }));
        assert!(matches!(plan(EXACT_BELOW_ROWS, 1024), Plan::Funnel { .. }));
        // So a byte for each dimension says the score to within a percent: rows may lie closer.
        assert_eq!(plan(EXACT_BELOW_ROWS - 1, 64), Plan::Exact);
        let kept = |recall| kept(recall, 10, EXACT_BELOW_ROWS, 64);
        assert!(kept(0.999) > 10 * kept(0.95));
    }

    #[test]
    fn funnels_that_make_no_sense_are_refused() {
        let of = |stages: &[(usize, usize)]| {
            plan(&Funnel::stages(stages.iter().copied()), 1024, 10, (1 << 20, 1 << 20))
        };
        assert!(of(&[(8, 200), (16, 100), (32, 50)]).is_ok());
        assert!(of(&[]).is_err(), "no stage");
        assert!(of(&[(8, 200), (8, 100)]).is_err(), "dimensions must rise");
        assert!(of(&[(8, 200), (16, 300)]).is_err(), "cannot keep more than came");
        assert!(of(&[(8, 5)]).is_err(), "keeps fewer than asked for");
        assert!(of(&[(2048, 200)]).is_err(), "more dimensions than there are");
        for recall in [-0.1, 1.1, f64::NAN] {
            assert!(plan(&Funnel::recall(recall), 8, 10, (1, 1)).is_err(), "{recall}");
        }
    }
}

//! What the caller asks for, and the plan made of it.

use super::explain::ExpectedRecall;
use super::graph::Walks;
use crate::calibration::{Calibration, Noise};
use crate::encoding::{Bits, StageCode};
use crate::error::{Error, Result};
use crate::graph::RowCode;
use crate::schema::{Metric, Schema};

/// Recall a search aims at where the caller does not say.
pub const DEFAULT_RECALL: f64 = 0.95;

/// How a search goes about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Funnel(Kind);

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Recall(f64),
    /// The same, by graphs where there are any.
    Walked(f64),
    Exact,
    Stages(Vec<FunnelStage>),
    Graph(usize, Vec<FunnelStage>),
}

/// One stage of a hand-written funnel: rank by the first `dims` dimensions and
/// keep the best `keep` rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FunnelStage {
    /// Dimensions to rank by.
    pub(super) dims: usize,
    /// Rows to keep.
    pub(super) keep: usize,
}

impl Funnel {
    /// Aims at this share of the true nearest rows, 0 to 1; 1 is
    /// [`Funnel::exact`]. Once the collection has been calibrated
    /// ([`Collection::calibrate`](crate::Collection::calibrate)) each query compares as many
    /// vectors as it needs for that, or all where that finds too little; before, fewer than
    /// 20 000 rows are searched exactly where their codes are of 1 bit, and of more the share
    /// chooses a fixed shortlist
    /// (docs/SEARCH.md, "Shortlists"). [`Explain::recall`](crate::Explain::recall) says which.
    pub fn recall(share: f64) -> Self {
        Self(Kind::Recall(share))
    }

    /// Always the true nearest rows: every stored vector is compared with the query, or proven to be
    /// too far by the bounds of a stage code (`explain` says which).
    pub fn exact() -> Self {
        Self(Kind::Exact)
    }

    /// A hand-written funnel of stages, each `(dims, keep)`: rank by the first `dims` dimensions and
    /// keep the best `keep` rows. The first stage scans all rows, the others rank
    /// what the one before kept. The first ranks by the estimates of a stage code: of the codes
    /// kept in RAM the shortest that holds its dimensions, else the longest, and then by as many
    /// dimensions as that has. The others rank by the stored vectors, and the result is always
    /// ranked by all dimensions searched. `[(16, 200)]` is adaptive retrieval with a shortlist of 200 from
    /// 16 dimensions, `[(8, 200), (16, 100), (32, 50)]` the cascade of Kusupati
    /// et al., "Matryoshka Representation Learning" (`NeurIPS` 2022), section 4.3.
    pub fn stages(stages: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let stages = stages.into_iter().map(|(dims, keep)| FunnelStage { dims, keep });
        Self(Kind::Stages(stages.collect()))
    }

    /// A hand-written funnel that begins with a walk over the graph of each segment and
    /// keeps `width` rows of it; the stages after it are as in [`Funnel::stages`], and
    /// there may be none. Segments without a graph are scanned, and `width` rows kept of all.
    /// The graph cannot be used for a search over fewer than half of the dimensions it knows.
    pub fn graph(width: usize, stages: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let stages = stages.into_iter().map(|(dims, keep)| FunnelStage { dims, keep });
        Self(Kind::Graph(width, stages.collect()))
    }

    /// As [`Funnel::recall`], but every segment that has a graph is walked, where the other
    /// chooses the quicker one of walk and scan: to compare them. What is searched exactly
    /// walks nothing.
    pub fn graph_recall(share: f64) -> Self {
        Self(Kind::Walked(share))
    }

    /// The plan for a search over `dims` dimensions for `limit` of some rows.
    pub(super) fn plan(
        &self,
        schema: &Schema,
        dims: usize,
        limit: usize,
        candidates: Candidates,
        calibration: Option<&Calibration>,
    ) -> Result<Plan> {
        match &self.0 {
            Kind::Exact | Kind::Recall(1.0) | Kind::Walked(1.0) => {
                Ok(Plan::exact(schema, dims, limit, candidates))
            }
            Kind::Recall(share) | Kind::Walked(share) if !(0.0..=1.0).contains(share) => {
                Err(Error::invalid("recall", format!("expected 0 to 1, got {share}")))
            }
            Kind::Recall(share) => {
                let walks = Walks::Recall(*share);
                Ok(by_recall(*share, walks, schema, dims, limit, candidates, calibration))
            }
            Kind::Walked(share) => {
                let walks = Walks::Always(*share);
                Ok(by_recall(*share, walks, schema, dims, limit, candidates, calibration))
            }
            Kind::Stages(stages) => by_hand(stages, schema, dims, limit),
            Kind::Graph(width, stages) => walk_by_hand(*width, stages, schema, dims, limit),
        }
    }

    /// What an answer found without a calibration, and without certainty, says of itself.
    pub(super) fn uncalibrated(&self, exact: bool) -> Option<ExpectedRecall> {
        match self.0 {
            Kind::Recall(asked) | Kind::Walked(asked) if !exact => {
                Some(ExpectedRecall { asked, measured: None })
            }
            _ => None,
        }
    }
}

/// The rows a search may find.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidates {
    /// How many there are.
    pub(super) rows: u64,
    /// Among how many living rows.
    pub(super) all: u64,
}

/// Where a filter leaves one row in so many, or fewer, comparing them all costs
/// no more than the scan of the others' codes (`benches/filters.rs`), ...
const GATHERED: u64 = 64;
/// ... unless they are so many times the rows that would be compared behind a scan: vectors may
/// have to come from a disk, codes hardly.
const GATHERED_MORE: u64 = 32;
/// Where one row in so many would be compared, or more, a proof costs less: it reads half a byte of
/// each dimension of all rows in their order, and next to no vector.
const PROOF: u64 = 8;
/// Smaller collections are searched exactly until they are calibrated: that takes half a
/// millisecond at most where codes bound scores, and the table was measured on text.
pub(crate) const UNKNOWN: u64 = 20_000;

impl Default for Funnel {
    fn default() -> Self {
        Self::recall(DEFAULT_RECALL)
    }
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

/// A plan made of what is known of a stage code's estimates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Calibrated {
    pub(super) entry: Entry,
    pub(super) share: f64,
    pub(super) noise: Noise,
    /// Most rows that the first scan keeps.
    pub(super) keep: usize,
    /// Rows kept where graphs are walked of which nothing is known.
    pub(super) table: usize,
}

impl Calibrated {
    /// Rows that a search for so many compares first: what held-out queries needed on the average.
    /// Fewer would have to wait for others twice, and queries from elsewhere need more.
    pub(super) fn first(&self, limit: usize) -> usize {
        let compared = f64::from(self.noise.check(self.share).compared) * limit as f64 / 10.0;
        (compared as usize).max(limit.saturating_add(FIRST))
    }

    /// How far below the k-th best estimate a first scan keeps rows, in units of the error: as far
    /// as the cut can be below the k-th best *score*, and some more, since the best estimates are
    /// estimated too high. On text vectors one query in a hundred wants more and is scanned again;
    /// with a deviation less it is one in fourteen, with one more lists are three times as long.
    pub(super) fn margin(&self) -> f32 {
        let margin = SPARE * self.noise.deviation() - self.noise.error_at(1.0 - self.share);
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
        let share = 1.0 - (1.0 - self.share) / 2.0;
        Self { share, noise: self.noise.wider(narrower), ..*self }
    }
}

/// Rows compared first beside those wanted, at least.
const FIRST: usize = 8;

/// Standard deviations of the error that a first scan keeps rows beyond.
const SPARE: f32 = 1.5;

/// A first scan keeps at most so many times the rows that are compared on the average, or
/// [`MOST`].
const ROOM: usize = 64;
/// See [`ROOM`].
pub(super) const MOST: usize = 1 << 14;

/// A list of a fixed length has so many times the rows that are compared on the average: queries
/// from elsewhere want more, and a fifth of them wanted more than that.
const FIXED: usize = 8;

/// How many rows are compared on the average, by the checks for 10 hits.
fn expected(noise: &Noise, share: f64, limit: usize) -> usize {
    let more_hits = (limit as f64 / 10.0).max(1.0);
    let compared = f64::from(noise.check(share).compared) * more_hits;
    (compared.ceil() as usize).max(limit.saturating_mul(2))
}

impl Plan {
    /// The true nearest rows: by bounds, where a code proves them and few rows are wanted of many.
    fn exact(schema: &Schema, dims: usize, limit: usize, candidates: Candidates) -> Self {
        let Candidates { rows, all } = candidates;
        let many = rows > all / GATHERED && rows >= FEW && limit as u64 <= rows / PROOF_WANTED;
        match schema.proves(dims).filter(|_| many) {
            Some(stage) => Self::Proven { stage, entry: Entry::choose(schema, dims) },
            None => Self::Exact,
        }
    }

    /// The same with a shortlist of a fixed length. What is grouped needs one: how many of the best
    /// rows it takes to fill the groups, no calibration knows.
    pub(super) fn of_one_list(
        self,
        schema: &Schema,
        dims: usize,
        hits: usize,
        candidates: Candidates,
    ) -> Self {
        let Self::Calibrated(Calibrated { entry, share, noise, table, .. }) = self else {
            return self;
        };
        let compared = f64::from(noise.check(share).compared) * more_hits(hits);
        let keep = table.max((compared as usize).saturating_mul(FIXED));
        match Self::exact(schema, dims, hits, candidates) {
            exact if exact.costs_less(keep, candidates) => exact,
            _ => Self::Funnel { entry, keep, reranks: Vec::new() },
        }
    }

    /// Whether this exact search costs less than comparing so many rows behind a scan.
    fn costs_less(&self, keep: usize, candidates: Candidates) -> bool {
        let share = if matches!(self, Self::Proven { .. }) { PROOF } else { 2 };
        keep as u64 >= candidates.rows / share
    }

    /// The same where every row that reaches a score is wanted: that score is a floor from the
    /// beginning, so no number of hits is too large for bounds.
    pub(super) fn reaching(self, schema: &Schema, dims: usize, candidates: Candidates) -> Self {
        match self {
            Self::Exact => Self::exact(schema, dims, 1, candidates),
            other => other,
        }
    }
}

/// Rows below which a proof saves nothing worth its beginning.
const FEW: u64 = 256;

/// Where one row in so many is wanted, or more, too many are in reach of a proof.
pub(super) const PROOF_WANTED: u64 = 16;

/// Where a funnel begins: a scan over one stage code.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Entry {
    /// Which of the schema's stages.
    pub(super) stage: usize,
    pub(super) code: StageCode,
    /// Dimensions of the code that are compared.
    pub(super) dims: usize,
    /// Whether parts that have a graph are walked instead.
    pub(super) walks: Walks,
}

impl Entry {
    /// The same, with every part scanned.
    pub(super) fn scanned(self) -> Self {
        Self { walks: Walks::Never, ..self }
    }

    /// The code to shortlist with for a search over `dims` dimensions: the
    /// shortest that holds them all, else the longest. Shorter codes have more
    /// bits, so the first that suffices is also the sharpest.
    pub(super) fn choose(schema: &Schema, dims: usize) -> Self {
        // A code that is not kept in RAM is no place to begin.
        let stages = schema.stages();
        let mut pinned = (0..stages.len()).filter(|n| schema.pins(*n));
        let holds = pinned.clone().find(|n| stages[*n].dims >= dims);
        let stage = holds.or(pinned.next_back()).expect("a schema pins a code");
        let dims = stages[stage].dims.min(dims);
        Self { stage, code: stages[stage], dims, walks: Walks::Never }
    }
}

/// Rows to keep for k = 10 of 100 000 rows, by the share of the true top 10 that
/// is then among them, for 1 bit x 512 dimensions. Read off `benches/codes.rs` on
/// passages whose queries come from elsewhere, which need about three times as
/// many rows as queries about the passages themselves.
const SHORTLISTS: [(f64, f64); 6] =
    [(0.80, 25.0), (0.90, 55.0), (0.95, 110.0), (0.98, 230.0), (0.99, 450.0), (0.999, 2000.0)];

/// How many times as long a list is wanted for so many hits, beside one for ten.
fn more_hits(limit: usize) -> f64 {
    (limit as f64 / 10.0).max(1.0).powf(0.8)
}

/// How many rows a scan keeps: the table above, stretched by what is known to
/// matter, and never fewer than twice the hits asked for.
fn shortlist(share: f64, limit: usize, rows: u64, entry: Entry, dims: usize) -> usize {
    let sharp = matches!(entry.code.bits, Bits::Four | Bits::Eight);
    let base = if sharp && entry.dims == dims {
        // The code says the score to within a percent: only near ties can move.
        30.0
    } else {
        // Half the dimensions need four times the rows, and 8 bits of a prefix
        // are worth 1 bit of twice its dimensions: both measured likewise.
        let worth = if sharp { 2.0 } else { 1.0 } * entry.dims as f64;
        interpolate(share) * (512.0 / worth).powi(2).max(1.0)
    };
    // More rows crowd the neighbourhood of the k-th one: slowly.
    let crowd = (rows as f64 / 100_000.0).powf(0.35).clamp(0.5, 100.0);
    ((base * crowd * more_hits(limit)).round() as usize).max(limit.saturating_mul(2))
}

/// Straight lines between the table's points, on logarithmic axes.
fn interpolate(share: f64) -> f64 {
    let first = SHORTLISTS[0];
    if share <= first.0 {
        return first.1;
    }
    let x = |share: f64| -(1.0 - share.min(0.9999)).ln();
    let at = SHORTLISTS.windows(2).find(|w| share <= w[1].0);
    let [(s0, k0), (s1, k1)] = at.map_or([SHORTLISTS[4], SHORTLISTS[5]], |w| [w[0], w[1]]);
    let t = (x(share) - x(s0)) / (x(s1) - x(s0));
    (k0.ln() + t * (k1 / k0).ln()).exp()
}

fn by_recall(
    share: f64,
    walks: Walks,
    schema: &Schema,
    dims: usize,
    limit: usize,
    candidates: Candidates,
    calibration: Option<&Calibration>,
) -> Plan {
    let Candidates { rows, all } = candidates;
    let mut entry = Entry::choose(schema, dims);
    entry.walks = walks;
    let code = entry.code.dims;
    // Estimates over a prefix stand on norms of whole vectors under dot and l2:
    // how far they are off is known only for the dimensions measured.
    let known = |n: &Noise| n.dims == dims || schema.metric() == Metric::Cosine;
    let noise = calibration.and_then(|c| c.noise(entry.stage, code, dims));
    let noise = noise.filter(known);
    let keep = match noise {
        Some(noise) => expected(&noise, share, limit),
        None => shortlist(share, limit, rows, entry, dims),
    };
    // A shortlist of many rows costs more than a proof, or than comparing all of them; a scan
    // more than gathering few that pass a filter.
    let exact = Plan::exact(schema, dims, limit, candidates);
    let always = matches!(walks, Walks::Always(_));
    let most = if always { keep as u64 >= rows / 2 } else { exact.costs_less(keep, candidates) };
    let few = rows <= all / GATHERED && rows <= GATHERED_MORE.saturating_mul(keep as u64);
    let unknown = noise.is_none() && all < UNKNOWN && entry.code.bits == Bits::One;
    let in_vain = noise.is_some_and(|noise| !noise.finds(share));
    if most || few || in_vain || unknown && !always {
        exact
    } else if let Some(noise) = noise {
        let table = shortlist(share, limit, rows, entry, dims);
        let keep = keep.saturating_mul(ROOM).max(MOST);
        Plan::Calibrated(Calibrated { entry, share, noise, keep, table })
    } else {
        Plan::Funnel { entry, keep, reranks: Vec::new() }
    }
}

fn by_hand(stages: &[FunnelStage], schema: &Schema, dims: usize, limit: usize) -> Result<Plan> {
    let Some((first, rest)) = stages.split_first() else {
        return Err(Error::invalid("funnel", "expected at least one stage"));
    };
    check_stages(stages, dims, limit)?;
    let entry = Entry::choose(schema, first.dims);
    Ok(Plan::Funnel { entry, keep: first.keep, reranks: rest.to_vec() })
}

fn walk_by_hand(
    width: usize,
    stages: &[FunnelStage],
    schema: &Schema,
    dims: usize,
    limit: usize,
) -> Result<Plan> {
    check_stages(stages, dims, limit)?;
    let first = stages.first().map_or(limit, |stage| stage.keep);
    if width < first.max(1) {
        let why = format!("a walk keeps {width} rows, of which {first} are wanted");
        return Err(Error::invalid("funnel", why));
    }
    let mut entry = Entry::choose(schema, dims);
    entry.walks = Walks::Width(width);
    Ok(Plan::Funnel { entry, keep: width, reranks: stages.to_vec() })
}

/// Each stage ranks by more dimensions than the one before, and keeps no more rows.
fn check_stages(stages: &[FunnelStage], dims: usize, limit: usize) -> Result<()> {
    let rising = stages.windows(2).all(|w| w[0].dims < w[1].dims && w[0].keep >= w[1].keep);
    let fits = stages.iter().all(|s| (1..=dims).contains(&s.dims) && s.keep >= limit);
    if !rising || !fits {
        let why = format!(
            "stages rank by ascending dimensions up to {dims} and keep ever fewer rows, at least \
             the {limit} asked for: {stages:?}"
        );
        return Err(Error::invalid("funnel", why));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::builder(1024).granularities([32, 64, 256]).build().expect("valid")
    }

    fn of(rows: u64, all: u64) -> Candidates {
        Candidates { rows, all }
    }

    fn kept(share: f64, limit: usize, rows: u64, dims: usize) -> usize {
        match Funnel::recall(share)
            .plan(&schema(), dims, limit, of(rows, rows), None)
            .expect("plan")
        {
            Plan::Exact | Plan::Proven { .. } => rows as usize,
            Plan::Funnel { keep, .. } => keep,
            Plan::Calibrated(plan) => plan.keep,
        }
    }

    #[test]
    fn more_recall_more_hits_and_more_rows_keep_more() {
        let shares = [0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 0.995, 0.999, 0.9999];
        let keeps: Vec<_> = shares.iter().map(|s| kept(*s, 10, 1_000_000, 1024)).collect();
        assert!(keeps.windows(2).all(|w| w[0] <= w[1]), "{keeps:?}");
        assert!(kept(0.95, 100, 1_000_000, 1024) > kept(0.95, 10, 1_000_000, 1024));
        assert!(kept(0.95, 10, 1_000_000, 1024) > kept(0.95, 10, 100_000, 1024));
        assert_eq!(kept(0.95, 10, 100_000, 1024), 110);
    }

    #[test]
    fn recall_of_one_and_tiny_collections_are_exact() {
        let proven = Plan::Proven { stage: 2, entry: Entry::choose(&schema(), 1024) };
        for funnel in [Funnel::recall(1.0), Funnel::exact()] {
            let plan =
                |dims| funnel.plan(&schema(), dims, 10, of(1 << 20, 1 << 20), None).expect("plan");
            assert_eq!(plan(1024), proven);
            assert_eq!(plan(1023), Plan::Exact, "no code bounds a prefix");
        }
        assert_eq!(kept(0.9, 10, 50, 1024), 50);
    }

    #[test]
    fn shortlists_follow_the_rows_that_pass_a_filter() {
        let plan = |rows| {
            Funnel::default().plan(&schema(), 1024, 10, of(rows, 1_000_000), None).expect("plan")
        };
        let keep = |rows| match plan(rows) {
            Plan::Exact | Plan::Proven { .. } => rows as usize,
            Plan::Funnel { keep, .. } => keep,
            Plan::Calibrated(plan) => plan.keep,
        };
        assert_eq!(keep(100_000), kept(DEFAULT_RECALL, 10, 100_000, 1024));
        // Few that pass are gathered, if comparing them is not much more than a shortlist asks for.
        let of_few = |rows, all| Funnel::default().plan(&schema(), 1024, 10, of(rows, all), None);
        assert_eq!(of_few(1500, 1500 * GATHERED).expect("plan"), Plan::Exact);
        assert_ne!(of_few(1500, 1500 * GATHERED - 1).expect("plan"), Plan::Exact);
        assert_ne!(of_few(15_000, 15_000 * GATHERED).expect("plan"), Plan::Exact);
        assert_eq!(plan(0), Plan::Exact);
        let all = Funnel::default().plan(&schema(), 1024, usize::MAX, of(1, 1000), None);
        assert_eq!(all.expect("plan"), Plan::Exact);
    }

    #[test]
    fn what_nobody_has_measured_is_exact_while_it_is_small() {
        let plan = |rows, dims| {
            Funnel::default().plan(&schema(), dims, 10, of(rows, rows), None).expect("plan")
        };
        assert!(matches!(plan(UNKNOWN - 1, 1024), Plan::Proven { .. }));
        assert!(matches!(plan(UNKNOWN, 1024), Plan::Funnel { .. }));
        // A byte for each dimension searched says the score to within a percent.
        assert!(matches!(plan(UNKNOWN - 1, 64), Plan::Funnel { .. }));
    }

    #[test]
    fn short_searches_scan_the_sharp_code() {
        let entry = |dims| Entry::choose(&schema(), dims);
        assert_eq!((entry(17).stage, entry(17).dims), (0, 17));
        assert_eq!((entry(64).stage, entry(64).dims), (0, 64));
        assert_eq!((entry(65).stage, entry(65).dims), (1, 65));
        assert_eq!((entry(1024).stage, entry(1024).dims), (1, 512));
    }

    #[test]
    fn funnels_that_make_no_sense_are_refused() {
        let plan = |stages: &[(usize, usize)]| {
            Funnel::stages(stages.iter().copied()).plan(
                &schema(),
                1024,
                10,
                of(1 << 20, 1 << 20),
                None,
            )
        };
        assert!(plan(&[(8, 200), (16, 100), (32, 50)]).is_ok());
        assert!(plan(&[]).is_err(), "no stage");
        assert!(plan(&[(8, 200), (8, 100)]).is_err(), "dimensions must rise");
        assert!(plan(&[(8, 200), (16, 300)]).is_err(), "cannot keep more than came");
        assert!(plan(&[(8, 5)]).is_err(), "keeps fewer than asked for");
        assert!(plan(&[(2048, 200)]).is_err(), "more dimensions than there are");
        for share in [-0.1, 1.1, f64::NAN] {
            assert!(
                Funnel::recall(share).plan(&schema(), 8, 10, of(1, 1), None).is_err(),
                "{share}"
            );
        }
    }
}

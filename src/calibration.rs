//! What the estimates of the stage codes are worth on a collection: measured by
//! `query/calibrate.rs`, kept in the manifest, used by `query/adapt.rs`.
//!
//! It is one distribution for each stage code and number of dimensions: by how much the
//! estimate of a true near row is off, over the root of one less the squared cosine, which
//! is how the error of a code falls as a row comes nearer to the query (Gao and Long,
//! `RaBitQ`, SIGMOD 2024, theorem 3.2). In that unit queries that are rows and queries from
//! elsewhere differ by less than a tenth; ranks and plain margins differ several times. Where
//! segments have graphs there is a [`WalkMargins`] too: how far walks must go.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

mod walks;

use std::fmt;

pub(crate) use walks::WalkMargins;
#[cfg(feature = "testing")]
pub(crate) use walks::calibration_reach;

use crate::codec::{Fields, FormatError, Reader, f32_bytes, f32s, layout, put};
use crate::encoding::Bits;
use crate::schema::Schema;

layout!(
    /// FORMAT.md, section "Calibration".
    calibration, 32, {
    ROWS: 0, 8;
    WRITTEN: 8, 8;
    QUERIES: 16, 4;
    GIVEN: 20, 4;
    NOISES: 24, 4;
    REACHES: 28, 4;
});

layout!(
    /// FORMAT.md, section "Noise of a stage".
    calibration_noise, 156, {
    STAGE: 0, 4;
    DIMS: 4, 4;
    SCALE: 8, 4;
    RESERVED: 12, 4;
    QUANTILES: 16, 80;
    CHECKS: 96, 60;
});

/// Fractions of the errors that lie below the stored quantiles. Rows are lost by estimates
/// that are too low, so that end is finer.
pub(crate) const ERROR_QUANTILES: [f64; 20] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4,
    0.5, 0.6, 0.7, 0.85, 0.98,
];

/// Recalls that are checked on held-out queries.
pub(crate) const CHECKED_RECALLS: [f64; 5] = [0.8, 0.9, 0.95, 0.99, 0.999];

/// What a collection knows about its own estimates; [`Collection::calibrate`]
/// measures it. Its `Display` is the plan table: for each stage code and number of
/// dimensions, what recall was found and how many full vectors were compared for
/// each recall asked for, by queries that were held out. Where these found less than was asked,
/// errors were taken for wider until they did: so far the plan knows them.
///
/// [`Collection::calibrate`]: crate::Collection::calibrate
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    pub(crate) rows: u64,
    /// Rows written to segments since, and rows that merges have coded about another centre.
    pub(crate) written: u64,
    pub(crate) queries: u32,
    /// Whether the queries were the caller's.
    pub(crate) given: bool,
    pub(crate) noises: Vec<Noise>,
    /// Of walks over all dimensions, where there were graphs.
    pub(crate) walks: Option<WalkMargins>,
    /// What the stages of the schema are called.
    pub(crate) codes: Vec<String>,
}

// Stored numbers are finite: `decode` refuses others.
impl Eq for Calibration {}

/// How wrong a stage code is about the first `dims` dimensions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Noise {
    pub(crate) stage: usize,
    pub(crate) dims: usize,
    /// What errors are multiplied by before they are believed.
    pub(crate) scale: f32,
    /// The errors at each of [`ERROR_QUANTILES`]; ascending.
    pub(crate) quantiles: [f32; ERROR_QUANTILES.len()],
    /// What was found for each of [`CHECKED_RECALLS`].
    pub(crate) checks: [Check; CHECKED_RECALLS.len()],
}

/// What errors of an estimated cosine are counted in: the sine, but never less than a tenth,
/// for of rows equal to the query the estimate is wrong too, by rounding.
pub(crate) fn sine(cosine: f32) -> f32 {
    (1.0 - cosine * cosine).max(0.01).sqrt()
}

/// What held-out queries found.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Check {
    pub(crate) recall: f32,
    /// Half the width of its 95 % confidence interval.
    pub(crate) within: f32,
    /// Mean number of full vectors compared.
    pub(crate) compared: f32,
}

impl Check {
    /// Between two checks.
    fn mix(a: Self, b: Self, t: f32) -> Self {
        // Beyond the last one nothing was checked.
        let mix = |a: f32, b: f32| a + t.min(1.0) * (b - a);
        Self {
            recall: mix(a.recall, b.recall),
            within: mix(a.within, b.within),
            compared: mix(a.compared, b.compared),
        }
    }

    /// Of what was found and what may have been, that which was less; of what was compared, more.
    fn worse(self, other: Self) -> Self {
        let most = |check: &Self| check.recall + check.within;
        let worst = if most(&other) < most(&self) { other } else { self };
        Self { compared: self.compared.max(other.compared), ..worst }
    }

    /// Whether each of [`CHECKED_RECALLS`] was found by searches for `hits` hits in all. Of so few that
    /// not one may be missing, one may.
    pub(crate) fn all_found(checks: &[Self; CHECKED_RECALLS.len()], hits: usize) -> bool {
        checks.iter().zip(CHECKED_RECALLS).all(|(check, asked)| {
            let missing = (1.0 - f64::from(check.recall)) * hits as f64;
            missing <= ((1.0 - asked) * hits as f64).max(1.0) + 0.01
        })
    }

    fn is_finite(&self) -> bool {
        [self.recall, self.within, self.compared].iter().all(|v| v.is_finite())
    }

    fn encode(checks: &[Self]) -> Vec<u8> {
        let values: Vec<f32> =
            checks.iter().flat_map(|c| [c.recall, c.within, c.compared]).collect();
        f32_bytes(&values)
    }

    fn decode(values: &[f32]) -> [Self; CHECKED_RECALLS.len()] {
        let mut checks = [Self::default(); CHECKED_RECALLS.len()];
        for (to, from) in checks.iter_mut().zip(values.as_chunks::<3>().0) {
            let &[recall, within, compared] = from;
            *to = Self { recall, within, compared };
        }
        checks
    }
}

/// What holds for a recall, by what holds for each of [`CHECKED_RECALLS`]: in between, as far as
/// the logarithm of what is lost.
fn between<T: Copy>(recall: f64, of: &[T; CHECKED_RECALLS.len()], mix: fn(T, T, f32) -> T) -> T {
    let x = |recall: f64| -(1.0 - recall.min(0.9999)).ln();
    let after =
        CHECKED_RECALLS.iter().position(|asked| recall <= *asked).unwrap_or(CHECKED_RECALLS.len());
    let at = after.clamp(1, CHECKED_RECALLS.len() - 1);
    let [Some(low), Some(high)] = [at - 1, at].map(|at| CHECKED_RECALLS.get(at).zip(of.get(at)))
    else {
        unreachable!("clamped to two of CHECKED_RECALLS")
    };
    // Above the last the line goes on; below the first it does not.
    let t = (x(recall) - x(*low.0)) / (x(*high.0) - x(*low.0));
    mix(*low.1, *high.1, t.max(0.0) as f32)
}

/// Held-out queries that found less than was asked for by more than this, and more than they may be
/// wrong by, show that the code does not find it.
const RECALL_SLACK_SCAN: f64 = 0.01;

impl Noise {
    /// Whether plans made of this come to a recall. Where estimates do not rank as the
    /// vectors do, no margin helps.
    pub(crate) fn finds(&self, recall: f64) -> bool {
        let check = self.check(recall);
        f64::from(check.recall + check.within) >= recall - RECALL_SLACK_SCAN
    }

    /// The fraction of errors below `error`.
    pub(crate) fn fraction_below(&self, error: f32) -> f64 {
        let error = error / self.scale;
        let at = self.quantiles.partition_point(|q| *q <= error);
        let point = |at: usize| Some((*self.quantiles.get(at)?, *ERROR_QUANTILES.get(at)?));
        match (at.checked_sub(1).and_then(point), point(at)) {
            (Some((q0, p0)), Some((q1, p1))) => {
                let t = if q1 > q0 { f64::from((error - q0) / (q1 - q0)) } else { 0.0 };
                p0 + t * (p1 - p0)
            }
            // Below all of them, tails fall: e-fold for each step of the lowest two.
            (None, Some((q0, p0))) => {
                let step = point(1).map_or(0.0, |(q1, _)| q1 - q0).max(1e-9);
                p0 * f64::from((error - q0) / step).exp()
            }
            _ => 1.0,
        }
    }

    /// The error below which this fraction of errors lies: what [`Self::fraction_below`] turns back.
    pub(crate) fn error_at(&self, fraction: f64) -> f32 {
        let at = ERROR_QUANTILES.partition_point(|p| *p <= fraction);
        let point = |at: usize| Some((*self.quantiles.get(at)?, *ERROR_QUANTILES.get(at)?));
        let error = match (at.checked_sub(1).and_then(point), point(at)) {
            (Some((q0, p0)), Some((q1, p1))) => {
                q0 + (q1 - q0) * ((fraction - p0) / (p1 - p0)) as f32
            }
            (None, Some((q0, p0))) => {
                let step = point(1).map_or(0.0, |(q1, _)| q1 - q0).max(1e-9);
                q0 + step * (fraction / p0).max(f64::MIN_POSITIVE).ln() as f32
            }
            (last, None) => last.map_or(0.0, |(q, _)| q),
        };
        error * self.scale
    }

    /// Their standard deviation: the distance of the 2nd centile from the median is some two.
    pub(crate) fn deviation(&self) -> f32 {
        let centile = |at: usize| self.quantiles.get(at).copied().unwrap_or(0.0);
        (centile(15) - centile(5)) / 2.05 * self.scale
    }

    /// What a search for this recall may expect, by the checks around it.
    pub(crate) fn check(&self, recall: f64) -> Check {
        between(recall, &self.checks, Check::mix)
    }

    /// This noise, wider by a factor.
    pub(crate) fn wider(mut self, factor: f64) -> Self {
        self.scale *= factor as f32;
        self
    }
}

/// What held-out queries found by the plan for one recall, and what that cost.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct CalibratedPlan {
    /// The stage code that searches begin with; `None` where they walk graphs.
    pub code: Option<String>,
    /// Dimensions searched.
    pub dims: usize,
    /// The recall that was asked for, 0 to 1.
    pub asked: f64,
    /// The recall of the top 10 that was found.
    pub recall: f64,
    /// Half the width of its 95 % confidence interval.
    pub interval: f64,
    /// Full vectors that a query compared, on the average.
    pub compared: f64,
}

impl Calibration {
    /// What its `Display` shows: the plans of each stage code and number of dimensions, then those
    /// of walks over graphs.
    pub fn plans(&self) -> impl Iterator<Item = CalibratedPlan> {
        let plans = |code: Option<String>, dims, checks: [Check; CHECKED_RECALLS.len()]| {
            CHECKED_RECALLS.into_iter().zip(checks).map(move |(asked, check)| {
                let [recall, interval, compared] =
                    [check.recall, check.within, check.compared].map(f64::from);
                CalibratedPlan { code: code.clone(), dims, asked, recall, interval, compared }
            })
        };
        let all = self.noises.iter().map(|noise| noise.dims).max().unwrap_or(0);
        let scans = self.noises.iter().flat_map(move |noise| {
            let code = self.codes.get(noise.stage).cloned();
            plans(code, noise.dims, noise.checks)
        });
        let walks = self.walks.iter().flat_map(move |margins| plans(None, all, margins.checks));
        scans.chain(walks)
    }

    /// Queries it was measured with.
    pub fn queries(&self) -> usize {
        self.queries as usize
    }

    /// Rows of the collection when it was measured.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Whether the rows have changed so much since that it should be measured again,
    /// `rows` being their number now: half as many again (which may be of any kind) or half as
    /// many, or a quarter replaced.
    pub(crate) fn has_drifted(&self, rows: u64) -> bool {
        let grown = rows.saturating_sub(self.rows);
        let replaced = self.written.saturating_sub(grown);
        grown >= self.rows / 2 || rows <= self.rows / 2 || replaced >= self.rows / 4
    }

    /// The noise of a stage over `dims` dimensions, of which its code has `coded`. Between
    /// the numbers of dimensions that were measured, that of a neighbour which is no
    /// smaller: the error of a code falls with the root of its dimensions; dimensions that
    /// it does not have add to it. Such searches are taken to find no more than those of the worse
    /// neighbour, and to compare no fewer rows.
    pub(crate) fn noise(&self, stage: usize, coded: usize, dims: usize) -> Option<Noise> {
        let of_stage = || self.noises.iter().filter(|n| n.stage == stage);
        let above = of_stage().filter(|n| n.dims >= dims).min_by_key(|n| n.dims)?;
        if above.dims == dims {
            return Some(*above);
        }
        let below = of_stage().filter(|n| n.dims < dims).max_by_key(|n| n.dims);
        let low = |n: &&Noise| n.quantiles.first().map_or(0.0, |q| q * n.scale);
        let mut noise = if above.dims <= coded {
            above.wider((above.dims as f64 / dims as f64).sqrt())
        } else {
            *[above, below?].into_iter().min_by(|a, b| low(a).total_cmp(&low(b)))?
        };
        // Errors that are smaller may be found worse: they rank so.
        for other in [above].into_iter().chain(below) {
            let both = noise.checks.iter_mut().zip(other.checks);
            both.for_each(|(check, other)| *check = check.worse(other));
        }
        Some(noise)
    }

    /// Takes over what an earlier one knows of more than `most_dims` dimensions, which a handle
    /// that searches no more of them could not measure.
    pub(crate) fn keep_longer(&mut self, earlier: &Self, most_dims: usize) {
        let longer = earlier.noises.iter().filter(|noise| noise.dims > most_dims);
        let before = self.noises.len();
        self.noises.extend(longer.copied());
        if self.noises.len() > before {
            self.walks = self.walks.or(earlier.walks);
            // What was kept is as old as it was, and as much the caller's.
            (self.rows, self.written) = (earlier.rows, earlier.written);
            self.given |= earlier.given;
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        use calibration as f;
        let mut fixed = [0; f::LEN];
        put(&mut fixed, f::ROWS, &self.rows.to_le_bytes());
        put(&mut fixed, f::WRITTEN, &self.written.to_le_bytes());
        put(&mut fixed, f::QUERIES, &self.queries.to_le_bytes());
        put(&mut fixed, f::GIVEN, &u32::from(self.given).to_le_bytes());
        put(&mut fixed, f::NOISES, &(self.noises.len() as u32).to_le_bytes());
        put(&mut fixed, f::REACHES, &u32::from(self.walks.is_some()).to_le_bytes());
        let mut out = fixed.to_vec();
        self.noises.iter().for_each(|noise| out.extend(noise.encode()));
        out.extend(self.walks.iter().flat_map(WalkMargins::encode));
        out
    }

    pub(crate) fn decode(r: &mut Reader, schema: &Schema) -> Result<Self, FormatError> {
        use calibration as f;
        let at = r.at();
        let b = r.take(f::LEN)?;
        if b.u32(f::GIVEN) > 1 || b.u32(f::REACHES) > 1 || b.u64(f::ROWS) == 0 {
            return Err(FormatError::new(at, "calibration contradicts itself"));
        }
        let count = b.u32(f::NOISES) as usize;
        if count == 0 || count > r.remaining() / calibration_noise::LEN {
            return Err(FormatError::new(at + f::NOISES.start, "count of noises is wrong"));
        }
        let noises = (0..count).map(|_| Noise::decode(r, schema)).collect::<Result<_, _>>()?;
        let walks = (b.u32(f::REACHES) == 1).then(|| WalkMargins::decode(r)).transpose()?;
        Ok(Self {
            rows: b.u64(f::ROWS),
            written: b.u64(f::WRITTEN),
            queries: b.u32(f::QUERIES),
            given: b.u32(f::GIVEN) == 1,
            noises,
            walks,
            codes: names(schema),
        })
    }
}

/// What the stage codes of a schema are called.
pub(crate) fn names(schema: &Schema) -> Vec<String> {
    schema.stages().iter().map(ToString::to_string).collect()
}

impl Noise {
    fn encode(&self) -> [u8; calibration_noise::LEN] {
        use calibration_noise as f;
        let mut out = [0; f::LEN];
        put(&mut out, f::STAGE, &(self.stage as u32).to_le_bytes());
        put(&mut out, f::DIMS, &(self.dims as u32).to_le_bytes());
        put(&mut out, f::SCALE, &self.scale.to_le_bytes());
        put(&mut out, f::QUANTILES, &f32_bytes(&self.quantiles));
        put(&mut out, f::CHECKS, &Check::encode(&self.checks));
        out
    }

    fn decode(r: &mut Reader, schema: &Schema) -> Result<Self, FormatError> {
        use calibration_noise as f;
        let at = r.at();
        let b = r.take(f::LEN)?;
        let floats = |range| f32s(b.field(range));
        let (stage, dims) = (b.u32(f::STAGE) as usize, b.u32(f::DIMS) as usize);
        let mut noise = Self {
            stage,
            dims,
            scale: f32::from_bits(b.u32(f::SCALE)),
            quantiles: [0.0; ERROR_QUANTILES.len()],
            checks: Check::decode(&floats(f::CHECKS)),
        };
        for (to, from) in noise.quantiles.iter_mut().zip(floats(f::QUANTILES)) {
            *to = from;
        }
        let known = schema.stages().get(stage).is_some_and(|code| {
            let sharp = matches!(code.bits, Bits::One | Bits::Four | Bits::Eight);
            sharp && (1..=schema.dims()).contains(&dims)
        });
        let finite = floats(f::QUANTILES).iter().chain(&floats(f::CHECKS)).all(|v| v.is_finite());
        let ordered = noise.quantiles.is_sorted();
        let scaled = noise.scale.is_finite() && noise.scale > 0.0;
        if !(known && finite && ordered && scaled) || b.u32(f::RESERVED) != 0 {
            return Err(FormatError::new(at, "noise of a stage contradicts itself"));
        }
        Ok(noise)
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = if self.given { "queries given" } else { "rows as queries" };
        writeln!(f, "{} {of}, half of them held out; {} rows", self.queries, self.rows)?;
        writeln!(f, "recall@10 found by those held out, and rows compared, for each recall asked")?;
        write!(f, "{:<14} {:>5} {:>7}", "code", "dims", "error")?;
        CHECKED_RECALLS.iter().try_for_each(|asked| write!(f, "  {asked:<20}"))?;
        writeln!(f)?;
        for noise in &self.noises {
            let code = self.codes.get(noise.stage).map_or("?", String::as_str);
            let error = noise.deviation() / noise.scale;
            write!(f, "{code:<14} {:>5} {error:>7.4}", noise.dims)?;
            cells(f, &noise.checks)?;
        }
        if let Some(margins) = &self.walks {
            write!(f, "{:<28}", "walks over graphs")?;
            cells(f, &margins.checks)?;
        }
        Ok(())
    }
}

fn cells(f: &mut fmt::Formatter<'_>, checks: &[Check]) -> fmt::Result {
    for c in checks {
        let cell = format!("{:.4} +-{:.4} {:.0}", c.recall, c.within, c.compared);
        write!(f, "  {cell:<20}")?;
    }
    writeln!(f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(stage: usize, dims: usize, width: f32) -> Noise {
        let quantiles = std::array::from_fn(|i| (i as f32 - 15.0) * width);
        let check = Check { recall: 0.9, within: 0.01, compared: 50.0 };
        Noise { stage, dims, scale: 1.0, quantiles, checks: [check; CHECKED_RECALLS.len()] }
    }

    #[test]
    fn errors_and_their_fractions_turn_each_other_back() {
        let noise = noise(0, 64, 0.01).wider(1.3);
        for fraction in [1e-5, 0.0003, 0.0005, 0.001, 0.0123, 0.05, 0.2, 0.49, 0.5, 0.9, 0.979] {
            let back = noise.fraction_below(noise.error_at(fraction));
            assert!((back / fraction - 1.0).abs() < 1e-3, "{fraction}: {back}");
        }
        assert!(noise.error_at(0.99) <= noise.error_at(1.0));
        assert!(noise.error_at(0.0).is_finite());
        assert!((noise.deviation() - 0.1 * 1.3 / 2.05).abs() < 1e-6);
    }

    fn sample(schema: &Schema) -> Calibration {
        let noises = vec![noise(0, 64, 0.01), noise(1, 256, 0.02), noise(1, 1024, 0.03)];
        Calibration {
            rows: 1000,
            written: 0,
            queries: 300,
            given: false,
            noises,
            walks: Some(WalkMargins::UNCALIBRATED),
            codes: names(schema),
        }
    }

    fn schema() -> Schema {
        Schema::builder(1024).granularities([64, 256]).build().expect("valid")
    }

    #[test]
    fn what_is_stored_is_read_and_nonsense_is_refused() {
        let schema = schema();
        let bytes = sample(&schema).encode();
        let mut r = Reader::new(&bytes);
        assert_eq!(Calibration::decode(&mut r, &schema), Ok(sample(&schema)));
        r.finish().expect("all of it");
        let nan = f32::NAN.to_le_bytes();
        for (at, four) in [
            (0, [0; 4]),
            (20, [2, 0, 0, 0]),
            (24, [0; 4]),
            (24, [255; 4]),
            (28, [2, 0, 0, 0]),
            (32, [9, 0, 0, 0]),
            (36, [0; 4]),
            (40, nan),
            (48, nan),
            (52, 1e9f32.to_le_bytes()),
            (130, [255; 4]),
        ] {
            let mut bad = bytes.clone();
            bad[at..at + 4].copy_from_slice(&four);
            assert!(Calibration::decode(&mut Reader::new(&bad), &schema).is_err(), "at {at}");
        }
        assert!(Calibration::decode(&mut Reader::new(&bytes[..100]), &schema).is_err());
    }

    #[test]
    fn fractions_rise_from_none_to_all() {
        let noise = noise(0, 64, 0.01);
        let below: Vec<_> = (-40..40).map(|i| noise.fraction_below(i as f32 * 0.005)).collect();
        assert!(below.is_sorted() && below[0] < 1e-3 && below[79] > 0.999_999, "{below:?}");
        assert!((noise.fraction_below(0.0) - 0.5).abs() < 1e-3);
        assert!(noise.wider(2.0).fraction_below(-0.1) > noise.fraction_below(-0.1));
    }

    #[test]
    fn between_what_was_measured_the_noise_is_no_smaller() {
        let sample = sample(&schema());
        let width = |dims| sample.noise(1, 512, dims).map(|n| n.quantiles[0] * n.scale);
        let is = |dims, width_is: f32| width(dims).is_some_and(|w| (w - width_is).abs() < 1e-5);
        assert!(is(256, -0.3));
        assert!(width(128).expect("by the root") < -0.42);
        assert!(is(600, -0.45) && is(1024, -0.45));
        assert_eq!(sample.noise(0, 64, 65), None, "longer than anything measured");
        assert!(sample.noise(0, 64, 16).is_some());
    }

    #[test]
    fn between_what_was_measured_both_neighbours_must_find() {
        let bad = Check { recall: 0.3, within: 0.02, compared: 20_000.0 };
        // Of little found, but measured with few.
        let vague = Check { recall: 0.2, within: 0.5, compared: 70.0 };
        for (worse, better) in [(0, 1), (1, 0)] {
            let mut sample = sample(&schema());
            sample.noises = vec![noise(1, 96, 0.02), noise(1, 256, 0.02), noise(1, 1024, 0.03)];
            for (coded, first, dims) in [(512, 0, 200), (512, 1, 600), (64, 1, 257)] {
                let mut sample = sample.clone();
                sample.noises[first + worse].checks = [bad; CHECKED_RECALLS.len()];
                sample.noises[first + better].checks[0] = vague;
                let between = sample.noise(1, coded, dims).expect("between two");
                assert!(!between.finds(0.8) && !between.finds(0.9), "{dims}");
                assert_eq!(between.check(0.8), bad, "{dims}");
            }
        }
        let known = sample(&schema()).noise(1, 512, 600).expect("between two");
        assert!(known.finds(0.9));
    }

    #[test]
    fn drift_is_growth_shrinking_or_replacement() {
        let mut sample = sample(&schema());
        assert!(!sample.has_drifted(1000) && !sample.has_drifted(1499));
        assert!(sample.has_drifted(1500) && sample.has_drifted(500));
        sample.written = 700;
        assert!(!sample.has_drifted(1499), "499 of them are new");
        assert!(sample.has_drifted(1100), "600 of them were replaced");
    }
}

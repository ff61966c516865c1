//! From token vectors to one vector per text, and to unit length.
//!
//! Follows sentence-transformers to the constant: the guards against division by
//! zero are the same, so that even an empty text gives the same vector.

use std::fmt;
use std::ops::Range;

/// How the vectors of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// Their sum, divided by the square root of their number.
    MeanSqrtLength,
    /// Their mean, weighted by position from 1 up.
    WeightedMean,
    /// The largest value in each dimension.
    Max,
    /// The first token's, of those that count.
    Cls,
    /// The last token's.
    Last,
}

/// What a text without any counted token has in every dimension under `Max`.
const MASKED: f32 = -1e9;

/// Smallest divisor of a mean.
const LEAST_COUNT: f32 = 1e-9;

/// Smallest divisor when scaling to unit length.
const LEAST_NORM: f32 = 1e-12;

impl Pooling {
    /// In the order in which Python puts several one after another.
    pub(super) const ALL: [Self; 6] =
        [Self::Cls, Self::Max, Self::Mean, Self::MeanSqrtLength, Self::WeightedMean, Self::Last];

    /// By the name sentence-transformers gives it.
    pub(super) fn named(mode: &str) -> Option<Self> {
        Some(match mode {
            "mean" | "mean_tokens" => Self::Mean,
            "mean_sqrt_len_tokens" => Self::MeanSqrtLength,
            "weightedmean" | "weightedmean_tokens" => Self::WeightedMean,
            "max" | "max_tokens" => Self::Max,
            "cls" | "cls_token" => Self::Cls,
            "lasttoken" => Self::Last,
            _ => return None,
        })
    }

    /// Pools one text into `out`. `tokens` holds the vectors of its tokens back to
    /// back; `counted` are those that are neither padding nor an excluded prompt.
    pub(super) fn pool(self, tokens: &[f32], counted: Range<usize>, out: &mut [f32]) {
        let dims = out.len();
        let row = |at: usize| &tokens[at * dims..(at + 1) * dims];
        match self {
            Self::Cls => {
                out.copy_from_slice(row(if counted.is_empty() { 0 } else { counted.start }));
            }
            Self::Last if counted.is_empty() => out.fill(0.0),
            Self::Last => out.copy_from_slice(row(counted.end - 1)),
            Self::Max => {
                out.fill(MASKED);
                for at in counted {
                    out.iter_mut().zip(row(at)).for_each(|(o, &x)| *o = o.max(x));
                }
            }
            Self::Mean | Self::MeanSqrtLength | Self::WeightedMean => {
                out.fill(0.0);
                let mut total = 0.0_f32;
                for at in counted {
                    let weight = if self == Self::WeightedMean { (at + 1) as f32 } else { 1.0 };
                    total += weight;
                    out.iter_mut().zip(row(at)).for_each(|(o, &x)| *o += weight * x);
                }
                let total = total.max(LEAST_COUNT);
                let by = if self == Self::MeanSqrtLength { total.sqrt() } else { total };
                for o in out {
                    *o /= by;
                }
            }
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mean => "mean",
            Self::MeanSqrtLength => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
            Self::Max => "max",
            Self::Cls => "cls",
            Self::Last => "lasttoken",
        })
    }
}

/// Scales to unit length; a zero vector stays zero.
pub(super) fn normalize(vector: &mut [f32]) {
    let squared: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let norm = (squared.sqrt() as f32).max(LEAST_NORM);
    for x in vector {
        *x /= norm;
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the values are exact in f32")]
mod tests {
    use super::*;

    const TOKENS: [f32; 6] = [1.0, -8.0, 3.0, 4.0, 100.0, 100.0];

    fn pooled(pooling: Pooling, counted: Range<usize>) -> [f32; 2] {
        let mut out = [0.0; 2];
        pooling.pool(&TOKENS, counted, &mut out);
        out
    }

    #[test]
    fn padding_never_counts() {
        assert_eq!(pooled(Pooling::Mean, 0..2), [2.0, -2.0]);
        assert_eq!(pooled(Pooling::Max, 0..2), [3.0, 4.0]);
        assert_eq!(pooled(Pooling::Last, 0..2), [3.0, 4.0]);
        assert_eq!(pooled(Pooling::Cls, 0..2), [1.0, -8.0]);
        assert_eq!(pooled(Pooling::WeightedMean, 0..2), [7.0 / 3.0, 0.0]);
        assert_eq!(pooled(Pooling::MeanSqrtLength, 0..2)[0], 4.0 / 2.0_f32.sqrt());
    }

    #[test]
    fn an_excluded_prompt_does_not_count() {
        assert_eq!(pooled(Pooling::Mean, 1..2), [3.0, 4.0]);
        assert_eq!(pooled(Pooling::Cls, 1..2), [3.0, 4.0]);
    }

    #[test]
    fn nothing_counted_is_zero() {
        assert_eq!(pooled(Pooling::Mean, 0..0), [0.0, 0.0]);
        assert_eq!(pooled(Pooling::Last, 0..0), [0.0, 0.0]);
    }

    #[test]
    fn unit_length_leaves_zero_alone() {
        let mut v = [3.0, 4.0];
        normalize(&mut v);
        assert_eq!(v, [0.6, 0.8]);
        let mut zero = [0.0; 2];
        normalize(&mut zero);
        assert_eq!(zero, [0.0; 2]);
    }
}

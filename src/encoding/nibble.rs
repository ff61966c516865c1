//! The 4-bit code of a vector: which of 16 values each component becomes, by what
//! scale, and how far from the vector that is.
//!
//! With `y = x / |x|` the code is a vector `c` of odd numbers -15..=15 and a scale `s` such that
//! `s c` is near `y`. Which `s` is best depends on `c` and the other way round, so both are
//! improved in turns, as Lloyd (1982) does for one value:
//!
//! ```text
//!   step = 0.335 of the root mean square        the best for normal components
//!   twice: c = 2 floor(y / step) + 1, at most 15 in magnitude
//!          s = <y, c> / <c, c>, step = 2 s      the best scale for c
//! ```
//!
//! By `benches/codes.rs` that comes within half a percent of the best of 36 steps, which is what
//! the search of extended `RaBitQ` (Gao et al., SIGMOD 2025, section 3.2) looks for. Vectors with
//! components far out begin a second time with a step that reaches the farthest, and the
//! nearer of the two results is kept.

use crate::kernel::{Isa, coding};
use crate::sown::{Bug, sown};

/// Step over standard deviation at which 16 equal steps lose least of normal components
/// (Max, "Quantizing for minimum distortion", 1960, table II).
const NORMAL_STEP: f32 = 0.3352;

/// Standard deviations beyond which a component makes a vector begin a second time.
const FAR_DEVIATIONS: f32 = 5.0;

/// Improvements of step and code by turns.
const IMPROVEMENTS: usize = 2;

/// What the residual is enlarged by before it is rounded up, far more than sums in `f64` of
/// 65 535 terms can be wrong by.
const RESIDUAL_SLACK: f64 = 1e-9;

/// A vector's code but for its components, which stand in the buffer `codes`.
pub(super) struct Coded {
    /// `x / |x|` is about the scale times the code; 0 for a vector of zeros.
    pub(super) scale: f32,
    /// At least the distance between the two.
    pub(super) residual: f32,
}

/// Buffers that serve one vector after another.
#[derive(Debug, Clone, Default)]
pub(super) struct Quantiser {
    unit: Vec<f32>,
    other: Vec<i8>,
}

impl Quantiser {
    /// Codes `vector` into `codes`: odd numbers -15..=15.
    pub(super) fn code(&mut self, isa: Isa, vector: &[f32], codes: &mut [i8]) -> Coded {
        let norm = coding::squares(isa, vector).sqrt();
        if norm == 0.0 {
            codes.fill(1);
            return Coded { scale: 0.0, residual: 0.0 };
        }
        self.unit.resize(vector.len(), 0.0);
        let farthest = coding::normalise(isa, vector, norm, &mut self.unit);
        let deviation = (1.0 / vector.len() as f64).sqrt() as f32;
        let mut fit = improve(isa, &self.unit, NORMAL_STEP * deviation, codes);
        if farthest > FAR_DEVIATIONS * deviation {
            self.other.resize(codes.len(), 0);
            let second = improve(isa, &self.unit, farthest / 8.0, &mut self.other);
            if second.cosine > fit.cosine {
                codes.copy_from_slice(&self.other);
                fit = second;
            }
        }
        Coded { scale: fit.scale, residual: residual(isa, vector, norm, fit.scale, codes) }
    }
}

struct Fit {
    scale: f32,
    /// Of the angle between vector and code.
    cosine: f64,
}

/// The code for a step, improved by turns.
fn improve(isa: Isa, unit: &[f32], mut step: f32, codes: &mut [i8]) -> Fit {
    let mut fit = Fit { scale: 0.0, cosine: 0.0 };
    for _ in 0..IMPROVEMENTS {
        let (dot, square) = coding::round(isa, unit, 1.0 / step, codes);
        fit = Fit { scale: (dot / square) as f32, cosine: dot / square.sqrt() };
        step = 2.0 * fit.scale;
    }
    fit
}

/// `|x / |x| - s c|`, rounded up.
fn residual(isa: Isa, vector: &[f32], norm: f64, scale: f32, codes: &[i8]) -> f32 {
    let distance = coding::distance(isa, vector, norm, scale, codes).sqrt();
    if sown(Bug::ResidualTooSmall) {
        return (distance * 0.95) as f32;
    }
    ((distance * (1.0 + RESIDUAL_SLACK) + RESIDUAL_SLACK) as f32).next_up()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The distance by the definition, with the largest component brought near 1 first so that
    /// nothing is lost.
    fn distance(vector: &[f32], coded: &Coded, codes: &[i8]) -> f64 {
        let norm = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let off =
            |(&x, &c): (&f32, &i8)| f64::from(x) / norm - f64::from(coded.scale) * f64::from(c);
        vector.iter().zip(codes).map(off).map(|d| d * d).sum::<f64>().sqrt()
    }

    fn component() -> impl Strategy<Value = f32> {
        prop_oneof![
            6 => -1f32..1.0,
            1 => prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
            1 => Just(0.0),
        ]
    }

    proptest! {
        #[test]
        fn residuals_are_never_too_small(vector in prop::collection::vec(component(), 1..300)) {
            prop_assume!(vector.iter().any(|&x| x != 0.0));
            let mut codes = vec![0; vector.len()];
            let coded = Quantiser::default().code(Isa::detect(), &vector, &mut codes);
            prop_assert!(codes.iter().all(|c| c % 2 != 0 && (-15..=15).contains(c)));
            let distance = distance(&vector, &coded, &codes);
            let residual = f64::from(coded.residual);
            prop_assert!(distance <= residual && residual <= distance + 1e-6, "{distance} {residual}");
        }
    }

    #[test]
    fn normal_components_lose_about_a_tenth() {
        let mut state = 1u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        let mut codes = vec![0; 1024];
        let vector: Vec<f32> = (0..1024).map(|_| (0..12).map(|_| uniform()).sum()).collect();
        let coded = Quantiser::default().code(Isa::detect(), &vector, &mut codes);
        assert!((0.09..0.115).contains(&coded.residual), "{}", coded.residual);
        // One component far out: a step for the others alone would lose all of it.
        let mut spiked = vector.clone();
        spiked[17] = 40.0;
        let coded = Quantiser::default().code(Isa::detect(), &spiked, &mut codes);
        assert!(coded.residual < 0.65, "{}", coded.residual);
    }

    #[test]
    fn zeros_have_no_scale_and_no_residual() {
        let mut codes = vec![0; 9];
        let coded = Quantiser::default().code(Isa::detect(), &[0.0; 9], &mut codes);
        assert_eq!((coded.scale, coded.residual), (0.0, 0.0));
        assert_eq!(codes, [1; 9]);
    }
}

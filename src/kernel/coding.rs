//! The arithmetic of coding rows and of their estimates, written once and compiled for each
//! instruction set.
//!
//! These are plain loops over 16 lanes, in the order of [`super::row`], that the compiler
//! vectorises; it may neither fuse nor reorder, so every instruction set gives the bits that
//! [`define`] gives without one. `x86/coding.rs` compiles the same functions with wider vectors:
//! coding is on the path of every row that is written, and there they are three to five times
//! as fast (`benches/kernels.rs`).
//!
//! Each is compiled apart from its callers, and the sums over lanes apart from the loops: else the
//! optimiser takes lanes for single variables, and the loops stay scalar.

use super::row::{LANES, reduce};
use super::{BLOCK, Isa};

/// Calls the version of a function that is compiled for an instruction set.
macro_rules! dispatch {
    ($isa:expr, $name:ident($($arg:expr),*)) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2(cpu) => cpu.$name($($arg),*),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512(cpu) => cpu.$name($($arg),*),
            // NEON is what `aarch64` is compiled with anyway.
            _ => define::$name($($arg),*),
        }
    };
}

/// Sum of the squares of the components.
pub(crate) fn squares(isa: Isa, vector: &[f32]) -> f64 {
    dispatch!(isa, squares(vector))
}

/// Divides `vector` by its norm into `unit`; the largest magnitude.
///
/// # Panics
/// When the lengths differ.
pub(crate) fn normalise(isa: Isa, vector: &[f32], norm: f64, unit: &mut [f32]) -> f32 {
    assert_eq!(vector.len(), unit.len(), "one component each");
    dispatch!(isa, normalise(vector, norm, unit))
}

/// Rounds each component `y` to `c = 2 floor(y per_step) + 1`, kept within -15..=15; `<y, c>`,
/// summed in `f32`, and `<c, c>`.
///
/// # Panics
/// When the lengths differ, or are such that the sum of squares leaves `i32`.
pub(crate) fn round(isa: Isa, unit: &[f32], per_step: f32, codes: &mut [i8]) -> (f64, f64) {
    assert_eq!(unit.len(), codes.len(), "one code for each component");
    assert!(u16::try_from(unit.len()).is_ok(), "{} components", unit.len());
    dispatch!(isa, round(unit, per_step, codes))
}

/// `|x / norm - scale c|^2`.
///
/// # Panics
/// When the lengths differ.
pub(crate) fn distance(isa: Isa, vector: &[f32], norm: f64, scale: f32, codes: &[i8]) -> f64 {
    assert_eq!(vector.len(), codes.len(), "one code for each component");
    dispatch!(isa, distance(vector, norm, scale, codes))
}

/// `<x, c>`.
///
/// # Panics
/// When the lengths differ.
pub(crate) fn signed_dot(isa: Isa, vector: &[f32], codes: &[i8]) -> f64 {
    assert_eq!(vector.len(), codes.len(), "one code for each component");
    dispatch!(isa, signed_dot(vector, codes))
}

/// Estimates from the dots of a scan: `base + factor (dot scale)` of each row.
///
/// # Panics
/// When the lengths differ.
pub(crate) fn estimate(
    isa: Isa,
    dots: &[i32],
    factors: &[f32],
    (scale, base): (f32, f32),
    out: &mut [f32],
) {
    assert!(dots.len() == out.len() && factors.len() == out.len(), "one estimate a row");
    dispatch!(isa, estimate(dots, factors, scale, base, out));
}

/// Which scores are `floor` or above: bit `i % BLOCK` of word `i / BLOCK` says so of score `i`. NaN
/// is not, and nothing is above a floor of NaN.
///
/// # Panics
/// When there are fewer words than the scores fill.
pub(crate) fn reaching(isa: Isa, scores: &[f32], floor: f32, words: &mut [u64]) {
    let (blocks, rest) = scores.as_chunks::<BLOCK>();
    let (whole, last) = words.split_at_mut(blocks.len());
    dispatch!(isa, reaching(blocks, floor, whole));
    if !rest.is_empty() {
        last[0] = define::reaches(rest, floor);
    }
}

/// The functions themselves, to be compiled into others.
#[allow(clippy::inline_always, reason = "else they are not compiled with the caller's features")]
#[allow(clippy::needless_range_loop, reason = "the vectoriser wants plain loops over lanes")]
pub(super) mod define {
    use super::{BLOCK, LANES, reduce};

    #[inline(always)]
    pub(in crate::kernel) fn squares(vector: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let (runs, rest) = vector.as_chunks::<LANES>();
        for x in runs {
            for i in 0..LANES {
                lanes[i] += f64::from(x[i]) * f64::from(x[i]);
            }
        }
        for (lane, &x) in lanes.iter_mut().zip(rest) {
            *lane += f64::from(x) * f64::from(x);
        }
        sum(&lanes)
    }

    #[inline(always)]
    pub(in crate::kernel) fn normalise(vector: &[f32], norm: f64, unit: &mut [f32]) -> f32 {
        for (y, &x) in unit.iter_mut().zip(vector) {
            *y = (f64::from(x) / norm) as f32;
        }
        // Magnitudes are in the order of their bits, and integers have an instruction for it.
        let magnitude = |y: &f32| y.to_bits() & (u32::MAX >> 1);
        f32::from_bits(unit.iter().fold(0, |most, y| most.max(magnitude(y))))
    }

    #[inline(always)]
    pub(in crate::kernel) fn round(unit: &[f32], per_step: f32, codes: &mut [i8]) -> (f64, f64) {
        let code = |y: f32| {
            // Adding 1.5 * 2^23 rounds to an integer, which is then what the bits are above
            // those of that number; see `encoding::stage::quantise`.
            let floor = (y * per_step - 0.5).clamp(-8.0, 7.0) + 12_582_912.0;
            2 * (floor.to_bits().cast_signed() - 0x4b40_0000) + 1
        };
        let (mut dots, mut squares) = ([0f32; LANES], [0i32; LANES]);
        let (runs, rest) = unit.as_chunks::<LANES>();
        let (code_runs, code_rest) = codes.as_chunks_mut::<LANES>();
        for (y, to) in runs.iter().zip(code_runs) {
            let mut rounded = [0i32; LANES];
            for i in 0..LANES {
                rounded[i] = code(y[i]);
            }
            for i in 0..LANES {
                dots[i] += y[i] * rounded[i] as f32;
                squares[i] += rounded[i] * rounded[i];
            }
            for i in 0..LANES {
                to[i] = rounded[i] as i8;
            }
        }
        for (i, (&y, to)) in rest.iter().zip(code_rest).enumerate() {
            let code = code(y);
            dots[i] += y * code as f32;
            squares[i] += code * code;
            *to = code as i8;
        }
        (sum_singles(&dots), f64::from(sum_integers(&squares)))
    }

    #[inline(always)]
    pub(in crate::kernel) fn distance(x: &[f32], norm: f64, scale: f32, codes: &[i8]) -> f64 {
        let (scale, per_norm) = (f64::from(scale), 1.0 / norm);
        let mut lanes = [0f64; LANES];
        let (runs, rest) = x.as_chunks::<LANES>();
        let (code_runs, code_rest) = codes.as_chunks::<LANES>();
        for (x, c) in runs.iter().zip(code_runs) {
            let mut off = [0f64; LANES];
            for i in 0..LANES {
                off[i] = f64::from(x[i]) * per_norm;
            }
            for i in 0..LANES {
                off[i] -= scale * f64::from(c[i]);
            }
            for i in 0..LANES {
                lanes[i] += off[i] * off[i];
            }
        }
        for (lane, (&x, &c)) in lanes.iter_mut().zip(rest.iter().zip(code_rest)) {
            let off = f64::from(x) * per_norm - scale * f64::from(c);
            *lane += off * off;
        }
        sum(&lanes)
    }

    #[inline(always)]
    pub(in crate::kernel) fn signed_dot(x: &[f32], codes: &[i8]) -> f64 {
        let mut lanes = [0f64; LANES];
        let (runs, rest) = x.as_chunks::<LANES>();
        let (code_runs, code_rest) = codes.as_chunks::<LANES>();
        for (x, c) in runs.iter().zip(code_runs) {
            for i in 0..LANES {
                lanes[i] += f64::from(x[i]) * f64::from(c[i]);
            }
        }
        for (lane, (&x, &c)) in lanes.iter_mut().zip(rest.iter().zip(code_rest)) {
            *lane += f64::from(x) * f64::from(c);
        }
        sum(&lanes)
    }

    #[inline(always)]
    pub(in crate::kernel) fn estimate(
        dots: &[i32],
        factors: &[f32],
        scale: f32,
        base: f32,
        out: &mut [f32],
    ) {
        for ((score, &dot), &factor) in out.iter_mut().zip(dots).zip(factors) {
            *score = base + factor * (dot as f32 * scale);
        }
    }

    #[cfg_attr(target_arch = "x86_64", allow(dead_code, reason = "both have their own"))]
    pub(in crate::kernel) fn reaching(scores: &[[f32; BLOCK]], floor: f32, words: &mut [u64]) {
        for (word, scores) in words.iter_mut().zip(scores) {
            *word = reaches(scores, floor);
        }
    }

    /// The word of up to [`BLOCK`] scores.
    pub(in crate::kernel) fn reaches(scores: &[f32], floor: f32) -> u64 {
        let bit = |(i, &score): (usize, &f32)| u64::from(score >= floor) << i;
        scores.iter().enumerate().map(bit).fold(0, |word, bit| word | bit)
    }

    #[inline(never)]
    fn sum(lanes: &[f64; LANES]) -> f64 {
        reduce(*lanes)
    }

    #[inline(never)]
    fn sum_singles(lanes: &[f32; LANES]) -> f64 {
        reduce(lanes.map(f64::from))
    }

    #[inline(never)]
    fn sum_integers(lanes: &[i32; LANES]) -> i32 {
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Adds term `i` to lane `i % LANES`, one after another.
    fn in_lanes(terms: impl Iterator<Item = f64>) -> f64 {
        let mut lanes = [0.0; LANES];
        terms.enumerate().for_each(|(i, term)| lanes[i % LANES] += term);
        reduce(lanes)
    }

    fn component() -> impl Strategy<Value = f32> {
        prop_oneof![
            6 => -1f32..1.0,
            1 => prop::num::f32::NORMAL | prop::num::f32::SUBNORMAL | prop::num::f32::ZERO,
            1 => prop::sample::select(vec![0.0, -0.0, 0.25, -0.25, 0.5, -0.5]),
        ]
    }

    proptest! {
        #[test]
        fn every_isa_estimates_the_same(
            rows in prop::collection::vec((-100_000i32..100_000, -2f32..2.0), 0..150),
            scale in 0f32..0.01, base in -1f32..1.0, floor in -3f32..3.0,
        ) {
            let (dots, factors): (Vec<i32>, Vec<f32>) = rows.into_iter().unzip();
            let terms = dots.iter().zip(&factors);
            let expected: Vec<f32> =
                terms.map(|(&dot, f)| base + f * (dot as f32 * scale)).collect();
            for isa in Isa::available() {
                let mut got = vec![7.0; dots.len()];
                estimate(isa, &dots, &factors, (scale, base), &mut got);
                prop_assert!(got.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()));
                let mut words = [u64::MAX; 3];
                reaching(isa, &got, floor, &mut words);
                for (i, score) in expected.iter().enumerate() {
                    prop_assert_eq!(words[i / 64] >> (i % 64) & 1 == 1, *score >= floor);
                }
                for (score, floor) in [(f32::NAN, floor), (f32::INFINITY, f32::NAN)] {
                    reaching(isa, &[score; 100], floor, &mut words);
                    prop_assert!(words[..2] == [0, 0]);
                }
            }
        }

        #[test]
        fn every_isa_gives_the_bits_of_a_loop_over_components(
            vector in prop::collection::vec(component(), 1..200), per_step in 0.5f32..40.0,
        ) {
            let norm = in_lanes(vector.iter().map(|&x| f64::from(x) * f64::from(x))).sqrt();
            prop_assume!(norm > 0.0);
            let unit: Vec<f32> = vector.iter().map(|&x| (f64::from(x) / norm) as f32).collect();
            let largest = unit.iter().fold(0f32, |m, y| m.max(y.abs()));
            let code = |y: &f32| (y * per_step - 0.5).clamp(-8.0, 7.0).round_ties_even() as i8;
            let codes: Vec<i8> = unit.iter().map(|y| 2 * code(y) + 1).collect();
            let mut lanes = [0f32; LANES];
            let terms = unit.iter().zip(&codes).enumerate();
            terms.for_each(|(i, (y, &c))| lanes[i % LANES] += y * f32::from(c));
            let dot = reduce(lanes.map(f64::from));
            let square: i32 = codes.iter().map(|&c| i32::from(c).pow(2)).sum();
            let pairs = || vector.iter().map(|&x| f64::from(x)).zip(codes.iter().map(|&c| f64::from(c)));
            let off = |(x, c): (f64, f64)| x * (1.0 / norm) - f64::from(0.07f32) * c;
            let distance_of = in_lanes(pairs().map(|pair| off(pair) * off(pair)));
            let signed = in_lanes(pairs().map(|(x, c)| x * c));
            for isa in Isa::available() {
                let (mut y, mut c) = (vec![9.0; vector.len()], vec![9; vector.len()]);
                prop_assert_eq!(squares(isa, &vector).sqrt().to_bits(), norm.to_bits());
                prop_assert_eq!(normalise(isa, &vector, norm, &mut y).to_bits(), largest.to_bits());
                prop_assert!(y.iter().zip(&unit).all(|(a, b)| a.to_bits() == b.to_bits()));
                let (got, got_square) = round(isa, &unit, per_step, &mut c);
                prop_assert_eq!(&c, &codes, "{}", isa);
                prop_assert_eq!((got.to_bits(), got_square), (dot.to_bits(), f64::from(square)));
                let got = distance(isa, &vector, norm, 0.07, &codes);
                prop_assert_eq!(got.to_bits(), distance_of.to_bits(), "{}", isa);
                prop_assert_eq!(signed_dot(isa, &vector, &codes).to_bits(), signed.to_bits());
            }
        }
    }
}

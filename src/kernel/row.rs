//! Exact scores: one query against one full row as it is stored.
//!
//! This defines what a score *is*, on every machine:
//!
//! 1. Components widen to `f64`, where the product of two `f32` is exact; a
//!    fused multiply-add and a multiply followed by an add are therefore equal.
//!    (The square of a difference is not exact; no implementation fuses it.)
//! 2. Term `i` is added to lane `i % LANES`, in ascending order.
//! 3. Lanes are added pairwise: lane `i` and `i + 8`, then `+ 4`, `+ 2`, `+ 1`.
//!
//! A prefix of `k` dimensions is the first `k` components of both, and has the
//! same bits whatever follows it.
//!
//! [`quick_dot`] is its relative in `f32`, which is twice as quick and wrong by no more than
//! [`quick_error`]: enough to see of most rows that they are not worth the definition. It has an order
//! of its own: a term is added, fused, to lane `i % QUICK_LANES`, and lanes then pairwise as above, from
//! `i` and `i + 32` on.

use std::ops::AddAssign;

use super::{Isa, Precision, coding, scalar};

/// Running sums of the definition: two AVX-512 registers of `f64`.
pub const LANES: usize = 16;

/// Running sums of [`quick_dot`]: as many as hide how long an addition takes.
pub const QUICK_LANES: usize = 4 * LANES;

/// Dot product of `query` with the first `query.len()` components of `row`.
///
/// # Panics
/// When `row` is shorter than that.
pub fn dot(isa: Isa, precision: Precision, query: &[f32], row: &[u8]) -> f64 {
    let row = &row[..query.len() * precision.bytes()];
    match isa {
        Isa::Scalar => scalar::dot(precision, query, row),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.dot(precision, query, row),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.dot(precision, query, row),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => cpu.dot(precision, query, row),
    }
}

/// Dot product of `query` with the first `query.len()` components of `row`, in `f32`.
///
/// # Panics
/// When `row` is shorter than that.
pub fn quick_dot(isa: Isa, precision: Precision, query: &[f32], row: &[u8]) -> f32 {
    let row = &row[..query.len() * precision.bytes()];
    match isa {
        Isa::Scalar => scalar::quick_dot(precision, query, row),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.quick_dot(precision, query, row),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.quick_dot(precision, query, row),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => cpu.quick_dot(precision, query, row),
    }
}

/// How far [`quick_dot`] over `dims` dimensions can be from the dot product, in units of the
/// product of both norms, where these are so that no sum leaves the normal numbers of `f32`.
///
/// A term passes `n` roundings, one for each addition to its lane and one for each time that lanes
/// are added, so the sum is off by at most `n u / (1 - n u)` times the sum of the magnitudes of
/// the terms, `u` being 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1);
/// that sum is at most the product of the norms (Cauchy and Schwarz).
pub fn quick_error(dims: usize) -> f64 {
    let additions = dims.div_ceil(QUICK_LANES) + QUICK_LANES.ilog2() as usize;
    let rounding = additions as f64 * f64::from(f32::EPSILON) / 2.0;
    rounding / (1.0 - rounding)
}

/// Squared norm of all of `row`.
pub fn norm_squared(isa: Isa, precision: Precision, row: &[u8]) -> f64 {
    match isa {
        Isa::Scalar => scalar::norm_squared(precision, row),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.norm_squared(precision, row),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.norm_squared(precision, row),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => cpu.norm_squared(precision, row),
    }
}

/// Squared distance of `query` from the first `query.len()` components of `row`.
///
/// # Panics
/// When `row` is shorter than that.
pub fn l2_squared(isa: Isa, precision: Precision, query: &[f32], row: &[u8]) -> f64 {
    let row = &row[..query.len() * precision.bytes()];
    match isa {
        Isa::Scalar => scalar::l2_squared(precision, query, row),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.l2_squared(precision, query, row),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.l2_squared(precision, query, row),
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(cpu) => cpu.l2_squared(precision, query, row),
    }
}

/// Sum of the squares of components in RAM, in the order of the definition.
pub fn squares(vector: &[f32]) -> f64 {
    coding::squares(Isa::detect(), vector)
}

/// Adds the lanes in the order the definition fixes.
pub(crate) fn reduce<T: Copy + AddAssign>(mut lanes: [T; LANES]) -> T {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// What a walk over rows adds up: products.
pub(super) const DOT: u8 = 0;
/// What a walk over rows adds up: squared differences.
pub(super) const L2: u8 = 1;

/// Copies a cut last piece into zeros, which add nothing to a sum.
pub(super) fn padded<T: Copy + Default, const N: usize>(rest: &[T]) -> [T; N] {
    let mut whole = [T::default(); N];
    whole[..rest.len()].copy_from_slice(rest);
    whole
}

/// Walks over rows, given a module's `step`, `fuse`, `add`, `floats`, `f32s`, `f16s`, `bf16s`, `finish` and
/// `finish_quick`.
macro_rules! rows {
    ($features:literal, $floats:ty, $zero:expr) => {
        #[target_feature(enable = $features)]
        pub(super) fn row<const OP: u8>(precision: Precision, query: &[f32], row: &[u8]) -> f64 {
            match precision {
                Precision::F32 => pairs::<OP, 64>(query, row, |b| f32s(b)),
                Precision::F16 => pairs::<OP, 32>(query, row, |b| f16s(b)),
                Precision::BF16 => pairs::<OP, 32>(query, row, |b| bf16s(b)),
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn pairs<const OP: u8, const BYTES: usize>(
            query: &[f32],
            row: &[u8],
            widen: impl Fn(&[u8; BYTES]) -> $floats,
        ) -> f64 {
            let mut sums = $zero;
            let (queries, query_rest) = query.as_chunks::<LANES>();
            let (rows, row_rest) = row.as_chunks::<BYTES>();
            for (q, x) in queries.iter().zip(rows) {
                step::<OP>(&mut sums, floats(q), widen(x));
            }
            if !query_rest.is_empty() {
                step::<OP>(&mut sums, floats(&padded(query_rest)), widen(&padded(row_rest)));
            }
            finish(sums)
        }

        #[target_feature(enable = $features)]
        pub(super) fn quick(precision: Precision, query: &[f32], row: &[u8]) -> f32 {
            match precision {
                Precision::F32 => quick_pairs::<64>(query, row, |b| f32s(b)),
                Precision::F16 => quick_pairs::<32>(query, row, |b| f16s(b)),
                Precision::BF16 => quick_pairs::<32>(query, row, |b| bf16s(b)),
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn quick_pairs<const BYTES: usize>(
            query: &[f32],
            row: &[u8],
            widen: impl Fn(&[u8; BYTES]) -> $floats,
        ) -> f32 {
            let mut sums = [floats(&[0.0; LANES]); QUICK_LANES / LANES];
            let (queries, query_rest) = query.as_chunks::<LANES>();
            let (rows, row_rest) = row.as_chunks::<BYTES>();
            let fours = queries.chunks_exact(sums.len()).zip(rows.chunks_exact(sums.len()));
            for (queries, rows) in fours {
                for ((sum, q), x) in sums.iter_mut().zip(queries).zip(rows) {
                    *sum = fuse(*sum, floats(q), widen(x));
                }
            }
            let done = queries.len() / sums.len() * sums.len();
            for ((sum, q), x) in sums.iter_mut().zip(&queries[done..]).zip(&rows[done..]) {
                *sum = fuse(*sum, floats(q), widen(x));
            }
            if !query_rest.is_empty() {
                let sum = &mut sums[queries.len() - done];
                *sum = fuse(*sum, floats(&padded(query_rest)), widen(&padded(row_rest)));
            }
            finish_quick(add(add(sums[0], sums[2]), add(sums[1], sums[3])))
        }

        #[target_feature(enable = $features)]
        pub(super) fn norm(precision: Precision, row: &[u8]) -> f64 {
            match precision {
                Precision::F32 => squares::<64>(row, |b| f32s(b)),
                Precision::F16 => squares::<32>(row, |b| f16s(b)),
                Precision::BF16 => squares::<32>(row, |b| bf16s(b)),
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn squares<const BYTES: usize>(row: &[u8], widen: impl Fn(&[u8; BYTES]) -> $floats) -> f64 {
            let mut sums = $zero;
            let (rows, rest) = row.as_chunks::<BYTES>();
            for x in rows {
                step::<DOT>(&mut sums, widen(x), widen(x));
            }
            if !rest.is_empty() {
                let x = widen(&padded(rest));
                step::<DOT>(&mut sums, x, x);
            }
            finish(sums)
        }
    };
}
pub(super) use rows;

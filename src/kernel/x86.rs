//! AVX2 and AVX-512 implementations of what [`super::scalar`] defines.
//!
//! [`Avx2`] and [`Avx512`] can only be had from their `detect`, so holding one
//! proves that the CPU has the instructions: that is what makes calling the
//! `#[target_feature]` functions below sound.
//!
//! How the dots come about:
//!
//! 1. *1 bit, AVX-512*: `and` with a plane, count the bits of each byte
//!    (`vpopcntb`), multiply by the plane's weight and add four bytes into an `i32`
//!    (`vpdpbusd`): three instructions for 64 bytes of code and a plane, no carry between
//!    planes, and a block is read strictly in order. Each lane ends as two `i32`.
//! 2. *1 bit, AVX2*: bytes are counted by looking up their nibbles (`vpshufb`);
//!    weights as in 1. by `vpmaddubsw`, whose 16-bit sums stay below 2^12 for a word.
//! 3. *8 bits, AVX-512*: `vpdpbusd` of the stored byte (code + 128) with the
//!    query, less 128 times the sum of the query.
//! 4. *8 bits, AVX2*: `vpmaddubsw` would saturate (255 x 127 x 2 exceeds 16
//!    bits), so even and odd bytes are widened and go through `vpmaddwd`.
//! 5. *rows*: widen to `f64`, 16 lanes, as [`super::row`] says.
//!
//! The next blocks are prefetched, because the hardware stops at page ends and
//! does not follow the gaps that a shorter prefix leaves.
//!
//! # Safety
//!
//! The `unsafe` here is of three kinds, with these preconditions:
//!
//! 1. A function with `#[target_feature]` is called: the CPU has the features
//!    its token stands for.
//! 2. A vector is loaded or stored through a pointer: it comes from a reference to an
//!    array of the vector's size. No alignment is asked for.
//! 3. An address is prefetched: none, prefetching never faults.
#![expect(unsafe_code, reason = "std::arch; preconditions above")]
#![allow(clippy::wildcard_imports, reason = "the names of std::arch are prefixed already")]

use super::row::{LANES, reduce};
use super::{BLOCK, BitPlanes, ByteLanes, GROUP_BYTES, Precision, WORD_BYTES};
use std::arch::x86_64::*;

/// Bytes ahead of the block at hand that prefetching aims for.
const AHEAD: usize = 8192;

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that this CPU has AVX-512 F, BW, DQ, VL, VNNI and BITALG.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Self(()))
    }
}

impl Avx512 {
    pub(super) fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bitalg");
        has.then_some(Self(()))
    }
}

/// What a row kernel adds up.
const DOT: u8 = 0;
const L2: u8 = 1;

/// The safe methods of a token, each the call of a function with its features.
macro_rules! methods {
    ($token:ident, $isa:ident) => {
        impl $token {
            pub(super) fn bit_dots(
                self,
                blocks: &[u8],
                words: usize,
                q: &BitPlanes,
                out: &mut [i32],
            ) {
                // SAFETY: 1, by the token.
                unsafe {
                    match q.bits() {
                        2 => $isa::bit_dots::<2>(blocks, words, q, out),
                        3 => $isa::bit_dots::<3>(blocks, words, q, out),
                        4 => $isa::bit_dots::<4>(blocks, words, q, out),
                        5 => $isa::bit_dots::<5>(blocks, words, q, out),
                        6 => $isa::bit_dots::<6>(blocks, words, q, out),
                        7 => $isa::bit_dots::<7>(blocks, words, q, out),
                        _ => $isa::bit_dots::<8>(blocks, words, q, out),
                    }
                }
            }

            pub(super) fn byte_dots(
                self,
                blocks: &[u8],
                groups: usize,
                q: &ByteLanes,
                out: &mut [i32],
            ) {
                // SAFETY: 1, by the token.
                unsafe { $isa::byte_dots(blocks, groups, q, out) }
            }

            pub(super) fn byte_squares(
                self,
                blocks: &[u8],
                groups: usize,
                q: &ByteLanes,
                out: &mut [i32],
            ) {
                // SAFETY: 1, by the token.
                unsafe { $isa::byte_squares(blocks, groups, q, out) }
            }

            pub(super) fn dot(self, precision: Precision, query: &[f32], row: &[u8]) -> f64 {
                // SAFETY: 1, by the token.
                unsafe { $isa::row::<DOT>(precision, query, row) }
            }

            pub(super) fn l2_squared(self, precision: Precision, query: &[f32], row: &[u8]) -> f64 {
                // SAFETY: 1, by the token.
                unsafe { $isa::row::<L2>(precision, query, row) }
            }

            pub(super) fn norm_squared(self, precision: Precision, row: &[u8]) -> f64 {
                // SAFETY: 1, by the token.
                unsafe { $isa::norm(precision, row) }
            }
        }
    };
}

methods!(Avx2, avx2);
methods!(Avx512, avx512);

/// Blocks, each with the address to prefetch while it is read.
fn with_ahead(
    blocks: &[u8],
    block: usize,
    used: usize,
) -> impl Iterator<Item = (&[u8], *const u8)> {
    let distance = AHEAD.div_ceil(used.max(1)) * block;
    blocks.chunks_exact(block).map(move |b| (&b[..used], b.as_ptr().wrapping_add(distance)))
}

/// Asks for the `LINES` cache lines at `at` offset by `by`.
#[inline]
fn prefetch<const LINES: usize>(at: *const u8, by: usize) {
    for line in 0..LINES {
        // SAFETY: 3.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(by + line * 64).cast()) }
    }
}

/// Copies a cut last piece into zeros, which add nothing to a sum.
fn padded<T: Copy + Default, const N: usize>(rest: &[T]) -> [T; N] {
    let mut whole = [T::default(); N];
    whole[..rest.len()].copy_from_slice(rest);
    whole
}

/// Walks over rows, given a module's `step`, `floats`, `f32s`, `f16s`, `bf16s` and `finish`.
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

mod avx512 {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load(bytes: &[u8; 64]) -> __m512i {
        // SAFETY: 2.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(vector: __m512i, out: &mut [i32; 16]) {
        // SAFETY: 2.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), vector) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
    pub(super) fn bit_dots<const BITS: usize>(
        blocks: &[u8],
        words: usize,
        query: &BitPlanes,
        out: &mut [i32],
    ) {
        let planes = query.planes().as_chunks::<BITS>().0;
        let mut weights = [_mm512_setzero_si512(); BITS];
        for (p, weight) in weights.iter_mut().enumerate() {
            *weight = _mm512_set1_epi8(query.weight(p) as i8);
        }
        let all = _mm256_set1_epi32(query.sum());
        let dots = out.as_chunks_mut::<BLOCK>().0;
        let blocks = with_ahead(blocks, words * WORD_BYTES, planes.len() * WORD_BYTES);
        for ((block, ahead), dots) in blocks.zip(dots) {
            // A vector holds one word of eight lanes.
            let mut sums = [_mm512_setzero_si512(); 8];
            for (w, (word, planes)) in
                block.as_chunks::<WORD_BYTES>().0.iter().zip(planes).enumerate()
            {
                prefetch::<8>(ahead, w * WORD_BYTES);
                for (code, sum) in word.as_chunks::<64>().0.iter().zip(&mut sums) {
                    let code = load(code);
                    for (plane, weight) in planes.iter().zip(weights) {
                        let common = _mm512_and_si512(code, _mm512_set1_epi64(plane.cast_signed()));
                        *sum = _mm512_dpbusd_epi32(*sum, _mm512_popcnt_epi8(common), weight);
                    }
                }
            }
            for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<8>().0) {
                let lane = _mm512_add_epi32(sum, _mm512_srli_epi64::<32>(sum));
                let set = _mm512_cvtepi64_epi32(lane);
                let dot = _mm256_sub_epi32(_mm256_add_epi32(set, set), all);
                // SAFETY: 2.
                unsafe { _mm256_storeu_si256(dots.as_mut_ptr().cast(), dot) }
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
    pub(super) fn byte_dots(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
        let used = query.groups() * GROUP_BYTES;
        let dots = out.as_chunks_mut::<BLOCK>().0;
        // The stored offset of 128 is taken back before the first group.
        let start = _mm512_set1_epi32(-128 * query.sum());
        for ((block, ahead), dots) in with_ahead(blocks, groups * GROUP_BYTES, used).zip(dots) {
            let mut sums = [start; 4];
            let groups = block.as_chunks::<GROUP_BYTES>().0.iter().zip(query.as_slice());
            for (g, (group, q)) in groups.enumerate() {
                prefetch::<4>(ahead, g * GROUP_BYTES);
                let q = _mm512_set1_epi32(i32::from_le_bytes(q.map(i8::cast_unsigned)));
                for (code, sum) in group.as_chunks::<64>().0.iter().zip(&mut sums) {
                    *sum = _mm512_dpbusd_epi32(*sum, load(code), q);
                }
            }
            for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<16>().0) {
                store(sum, dots);
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
    pub(super) fn byte_squares(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
        let used = query.groups() * GROUP_BYTES;
        let dots = out.as_chunks_mut::<BLOCK>().0;
        let offset = _mm512_set1_epi8(i8::MIN);
        for ((block, _), dots) in with_ahead(blocks, groups * GROUP_BYTES, used).zip(dots) {
            let mut sums = [_mm512_setzero_si512(); 4];
            for (g, group) in block.as_chunks::<GROUP_BYTES>().0.iter().enumerate() {
                let mask = _mm512_set1_epi32(query.mask(g).cast_signed());
                for (code, sum) in group.as_chunks::<64>().0.iter().zip(&mut sums) {
                    let signed = _mm512_and_si512(_mm512_xor_si512(load(code), offset), mask);
                    // Magnitudes are below 128, so they are the same signed and unsigned.
                    let size = _mm512_abs_epi8(signed);
                    *sum = _mm512_dpbusd_epi32(*sum, size, size);
                }
            }
            for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<16>().0) {
                store(sum, dots);
            }
        }
    }

    /// Running sums: lanes 0..8 and 8..16.
    type Sums = [__m512d; 2];

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn halves(v: __m512) -> Sums {
        [
            _mm512_cvtps_pd(_mm512_castps512_ps256(v)),
            _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(v)),
        ]
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn step<const OP: u8>(sums: &mut Sums, query: __m512, row: __m512) {
        for ((sum, q), x) in sums.iter_mut().zip(halves(query)).zip(halves(row)) {
            if OP == DOT {
                *sum = _mm512_fmadd_pd(q, x, *sum);
            } else {
                let d = _mm512_sub_pd(q, x);
                // Not fused: the square of a difference rounds.
                *sum = _mm512_add_pd(*sum, _mm512_mul_pd(d, d));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn floats(v: &[f32; LANES]) -> __m512 {
        // SAFETY: 2.
        unsafe { _mm512_loadu_ps(v.as_ptr()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn f32s(bytes: &[u8; 64]) -> __m512 {
        _mm512_castsi512_ps(load(bytes))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn f16s(bytes: &[u8; 32]) -> __m512 {
        // SAFETY: 2.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn bf16s(bytes: &[u8; 32]) -> __m512 {
        // SAFETY: 2.
        let halves = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn finish(sums: Sums) -> f64 {
        let mut lanes = [0.0; LANES];
        for (sum, lanes) in sums.into_iter().zip(lanes.as_chunks_mut::<8>().0) {
            // SAFETY: 2.
            unsafe { _mm512_storeu_pd(lanes.as_mut_ptr(), sum) }
        }
        reduce(lanes)
    }

    rows!(
        "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg",
        __m512,
        [_mm512_setzero_pd(); 2]
    );
}

mod avx2 {
    use super::*;

    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(bytes: &[u8; 32]) -> __m256i {
        // SAFETY: 2.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    }

    /// Set bits of each byte.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn count_bytes(v: __m256i) -> __m256i {
        let counts = _mm256_setr_epi8(
            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, //
            0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,
        );
        let nibble = _mm256_set1_epi8(15);
        let low = _mm256_and_si256(v, nibble);
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(v), nibble);
        _mm256_add_epi8(_mm256_shuffle_epi8(counts, low), _mm256_shuffle_epi8(counts, high))
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn bit_dots<const BITS: usize>(
        blocks: &[u8],
        words: usize,
        query: &BitPlanes,
        out: &mut [i32],
    ) {
        let planes = query.planes().as_chunks::<BITS>().0;
        let mut weights = [_mm256_setzero_si256(); BITS];
        for (p, weight) in weights.iter_mut().enumerate() {
            *weight = _mm256_set1_epi8(query.weight(p) as i8);
        }
        let dots = out.as_chunks_mut::<BLOCK>().0;
        let blocks = with_ahead(blocks, words * WORD_BYTES, planes.len() * WORD_BYTES);
        for ((block, ahead), dots) in blocks.zip(dots) {
            // A vector holds one word of four lanes, as two sums each.
            let mut sums = [_mm256_setzero_si256(); 16];
            for (w, (word, planes)) in
                block.as_chunks::<WORD_BYTES>().0.iter().zip(planes).enumerate()
            {
                prefetch::<8>(ahead, w * WORD_BYTES);
                for (code, sum) in word.as_chunks::<32>().0.iter().zip(&mut sums) {
                    let code = load(code);
                    let mut shorts = _mm256_setzero_si256();
                    for (plane, weight) in planes.iter().zip(weights) {
                        let plane = _mm256_set1_epi64x(plane.cast_signed());
                        let counts = count_bytes(_mm256_and_si256(code, plane));
                        shorts = _mm256_add_epi16(shorts, _mm256_maddubs_epi16(counts, weight));
                    }
                    let sums = _mm256_madd_epi16(shorts, _mm256_set1_epi16(1));
                    *sum = _mm256_add_epi32(*sum, sums);
                }
            }
            for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<4>().0) {
                let mut pairs = [0i32; 8];
                // SAFETY: 2.
                unsafe { _mm256_storeu_si256(pairs.as_mut_ptr().cast(), sum) };
                for (dot, pair) in dots.iter_mut().zip(pairs.as_chunks::<2>().0) {
                    *dot = 2 * (pair[0] + pair[1]) - query.sum();
                }
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn byte_dots(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
        let used = query.groups() * GROUP_BYTES;
        let dots = out.as_chunks_mut::<BLOCK>().0;
        let start = _mm256_set1_epi32(-128 * query.sum());
        let even_bytes = _mm256_set1_epi16(255);
        for ((block, ahead), dots) in with_ahead(blocks, groups * GROUP_BYTES, used).zip(dots) {
            let mut sums = [start; 8];
            let groups = block.as_chunks::<GROUP_BYTES>().0.iter().zip(query.as_slice());
            for (g, (group, q)) in groups.enumerate() {
                prefetch::<4>(ahead, g * GROUP_BYTES);
                let pair = |low: i8, high: i8| {
                    let low = i16::from(low).cast_unsigned();
                    _mm256_set1_epi32(i32::from(high) << 16 | i32::from(low))
                };
                let (even, odd) = (pair(q[0], q[2]), pair(q[1], q[3]));
                for (code, sum) in group.as_chunks::<32>().0.iter().zip(&mut sums) {
                    let code = load(code);
                    let evens = _mm256_madd_epi16(_mm256_and_si256(code, even_bytes), even);
                    let odds = _mm256_madd_epi16(_mm256_srli_epi16::<8>(code), odd);
                    *sum = _mm256_add_epi32(*sum, _mm256_add_epi32(evens, odds));
                }
            }
            for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<8>().0) {
                // SAFETY: 2.
                unsafe { _mm256_storeu_si256(dots.as_mut_ptr().cast(), sum) }
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn byte_squares(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
        let used = query.groups() * GROUP_BYTES;
        let dots = out.as_chunks_mut::<BLOCK>().0;
        let offset = _mm256_set1_epi8(i8::MIN);
        for ((block, _), dots) in with_ahead(blocks, groups * GROUP_BYTES, used).zip(dots) {
            let mut sums = [_mm256_setzero_si256(); 8];
            for (g, group) in block.as_chunks::<GROUP_BYTES>().0.iter().enumerate() {
                let mask = _mm256_set1_epi32(query.mask(g).cast_signed());
                for (code, sum) in group.as_chunks::<32>().0.iter().zip(&mut sums) {
                    let signed = _mm256_and_si256(_mm256_xor_si256(load(code), offset), mask);
                    // Two squares of at most 127 do fit 16 bits: nothing saturates.
                    let size = _mm256_abs_epi8(signed);
                    let pairs = _mm256_maddubs_epi16(size, size);
                    let squares = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                    *sum = _mm256_add_epi32(*sum, squares);
                }
            }
            for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<8>().0) {
                // SAFETY: 2.
                unsafe { _mm256_storeu_si256(dots.as_mut_ptr().cast(), sum) }
            }
        }
    }

    /// Running sums: lanes 0..4, 4..8, 8..12 and 12..16.
    type Sums = [__m256d; 4];
    /// Sixteen components.
    type Floats = [__m256; 2];

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn quarters(v: Floats) -> Sums {
        let low = |v| _mm256_cvtps_pd(_mm256_castps256_ps128(v));
        let high = |v| _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v));
        [low(v[0]), high(v[0]), low(v[1]), high(v[1])]
    }

    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn step<const OP: u8>(sums: &mut Sums, query: Floats, row: Floats) {
        for ((sum, q), x) in sums.iter_mut().zip(quarters(query)).zip(quarters(row)) {
            if OP == DOT {
                *sum = _mm256_fmadd_pd(q, x, *sum);
            } else {
                let d = _mm256_sub_pd(q, x);
                *sum = _mm256_add_pd(*sum, _mm256_mul_pd(d, d));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn floats(v: &[f32; LANES]) -> Floats {
        // SAFETY: 2, for each half.
        unsafe { [_mm256_loadu_ps(v.as_ptr()), _mm256_loadu_ps(v.as_ptr().add(8))] }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn f32s(bytes: &[u8; 64]) -> Floats {
        // SAFETY: 2, for each half.
        unsafe {
            [_mm256_loadu_ps(bytes.as_ptr().cast()), _mm256_loadu_ps(bytes.as_ptr().add(32).cast())]
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn f16s(bytes: &[u8; 32]) -> Floats {
        let halves = load(bytes);
        let low = _mm256_cvtph_ps(_mm256_castsi256_si128(halves));
        [low, _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(halves))]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn bf16s(bytes: &[u8; 32]) -> Floats {
        let halves = load(bytes);
        let widen = |v| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(v)));
        [widen(_mm256_castsi256_si128(halves)), widen(_mm256_extracti128_si256::<1>(halves))]
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn finish(sums: Sums) -> f64 {
        let mut lanes = [0.0; LANES];
        for (sum, lanes) in sums.into_iter().zip(lanes.as_chunks_mut::<4>().0) {
            // SAFETY: 2.
            unsafe { _mm256_storeu_pd(lanes.as_mut_ptr(), sum) }
        }
        reduce(lanes)
    }

    rows!("avx2,fma,f16c", Floats, [_mm256_setzero_pd(); 4]);
}

//! Dots with 1-bit rows that lie apart: what [`crate::kernel::gather`] defines.

use super::*;
use crate::kernel::gather::{CHUNK_BYTES, RowPlanes};

/// Asks for the cache lines of `bytes`.
pub(in crate::kernel) fn prefetch_bytes(bytes: &[u8]) {
    for line in (0..bytes.len()).step_by(64) {
        // SAFETY: 3. SSE is part of x86-64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(line).cast()) }
    }
}

impl Avx512 {
    pub(in crate::kernel) fn bit_row_dots(self, rows: &[&[u8]], q: &RowPlanes, out: &mut [i32]) {
        // SAFETY: 1, by the token.
        unsafe { avx512(rows, q, out) }
    }
}

impl Avx2 {
    pub(in crate::kernel) fn bit_row_dots(self, rows: &[&[u8]], q: &RowPlanes, out: &mut [i32]) {
        // SAFETY: 1, by the token.
        unsafe { avx2(rows, q, out) }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
fn avx512(rows: &[&[u8]], query: &RowPlanes, out: &mut [i32]) {
    let load = |bytes: &[u8; CHUNK_BYTES]| {
        // SAFETY: 2.
        unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
    };
    for (row, dot) in rows.iter().zip(out) {
        let mut sum = _mm512_setzero_si512();
        let planes = query.planes().chunks(query.weights().len());
        for (code, planes) in row.as_chunks::<CHUNK_BYTES>().0.iter().zip(planes) {
            let code = load(code);
            for (plane, &weight) in planes.iter().zip(query.weights()) {
                let counts = _mm512_popcnt_epi8(_mm512_and_si512(code, load(plane)));
                sum = _mm512_dpbusd_epi32(sum, counts, _mm512_set1_epi8(weight));
            }
        }
        *dot = 2 * _mm512_reduce_add_epi32(sum) - query.sum();
    }
}

#[target_feature(enable = "avx2")]
fn avx2(rows: &[&[u8]], query: &RowPlanes, out: &mut [i32]) {
    let load = |bytes: &[u8; 32]| {
        // SAFETY: 2.
        unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
    };
    let table = load(&std::array::from_fn(|i| (i as u8 & 15).count_ones() as u8));
    let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    for (row, dot) in rows.iter().zip(out) {
        let mut sum = _mm256_setzero_si256();
        let planes = query.planes().chunks(query.weights().len());
        for (code, planes) in row.as_chunks::<CHUNK_BYTES>().0.iter().zip(planes) {
            for (plane, &weight) in planes.iter().zip(query.weights()) {
                let halves = code.as_chunks::<32>().0.iter().zip(plane.as_chunks::<32>().0);
                for (code, plane) in halves {
                    let both = _mm256_and_si256(load(code), load(plane));
                    let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(both), low);
                    let lower = _mm256_and_si256(both, low);
                    let counts = _mm256_add_epi8(
                        _mm256_shuffle_epi8(table, lower),
                        _mm256_shuffle_epi8(table, upper),
                    );
                    // 8 x 128 x 2 at most: 16 bits hold it.
                    let pairs = _mm256_maddubs_epi16(counts, _mm256_set1_epi8(weight));
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        let half = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
        let pair = _mm_add_epi32(half, _mm_shuffle_epi32::<0b01_00_11_10>(half));
        let one = _mm_add_epi32(pair, _mm_shuffle_epi32::<0b10_11_00_01>(pair));
        *dot = 2 * _mm_cvtsi128_si32(one) - query.sum();
    }
}

//! The kernels with AVX-512: F, BW, DQ, VL, VNNI, BITALG and VBMI. See the parent for how.

use super::*;

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 2.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(vector: __m512i, out: &mut [i32; 16]) {
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
        for (w, (word, planes)) in block.as_chunks::<WORD_BYTES>().0.iter().zip(planes).enumerate()
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
        store_lanes(&sums, all, dots);
    }
}

/// Looks up the sum of each four dimensions, whatever the number of planes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn bit_dots_by_table(blocks: &[u8], words: usize, query: &BitPlanes, out: &mut [i32]) {
    // A word's tables are 8 for the lower halves of its bytes, 8 for the upper: two vectors each.
    let tables = query.tables().as_chunks::<4>().0.as_chunks::<4>().0;
    let offset = 16 * tables.len() as i32 * BitPlanes::TABLE_OFFSET;
    let all = _mm256_set1_epi32(query.sum() + 2 * offset);
    let (half, ones) = (_mm512_set1_epi8(15), _mm512_set1_epi8(1));
    // Where in two vectors the table of each byte of a word begins.
    let begin = _mm512_set1_epi64(0x7060_5040_3020_1000);
    let dots = out.as_chunks_mut::<BLOCK>().0;
    let blocks = with_ahead(blocks, words * WORD_BYTES, tables.len() * WORD_BYTES);
    for ((block, ahead), dots) in blocks.zip(dots) {
        // A vector holds one word of eight lanes.
        let mut sums = [_mm512_setzero_si512(); 8];
        let each = block.as_chunks::<WORD_BYTES>().0.iter().zip(tables);
        for (w, (word, tables)) in each.enumerate() {
            prefetch::<8>(ahead, w * WORD_BYTES);
            let [low0, low1, high0, high1] = [0, 1, 2, 3].map(|t| load_tables(&tables[t]));
            for (code, sum) in word.as_chunks::<64>().0.iter().zip(&mut sums) {
                let code = load(code);
                let upper = _mm512_srli_epi16::<4>(code);
                // Both are `begin | (code & half)`, in one instruction.
                let low = _mm512_ternarylogic_epi64::<0xf8>(begin, code, half);
                let high = _mm512_ternarylogic_epi64::<0xf8>(begin, upper, half);
                let low = _mm512_permutex2var_epi8(low0, low, low1);
                let high = _mm512_permutex2var_epi8(high0, high, high1);
                *sum = _mm512_dpbusd_epi32(*sum, low, ones);
                *sum = _mm512_dpbusd_epi32(*sum, high, ones);
            }
        }
        store_lanes(&sums, all, dots);
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_tables(tables: &[[u8; 16]; 4]) -> __m512i {
    // SAFETY: 2.
    unsafe { _mm512_loadu_si512(tables.as_ptr().cast()) }
}

/// Twice the sums of lanes whose halves are apart, less `all`.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn store_lanes(sums: &[__m512i; 8], all: __m256i, dots: &mut [i32; BLOCK]) {
    for (&sum, dots) in sums.iter().zip(dots.as_chunks_mut::<8>().0) {
        let lane = _mm512_add_epi32(sum, _mm512_srli_epi64::<32>(sum));
        let set = _mm512_cvtepi64_epi32(lane);
        let dot = _mm256_sub_epi32(_mm256_add_epi32(set, set), all);
        // SAFETY: 2.
        unsafe { _mm256_storeu_si256(dots.as_mut_ptr().cast(), dot) }
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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
pub(super) fn nibble_dots(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
    let used = query.groups().div_ceil(2);
    let dots = out.as_chunks_mut::<BLOCK>().0;
    let half = _mm512_set1_epi8(15);
    let offset = _mm512_set1_epi32(15 * query.sum());
    let blocks = with_ahead(blocks, groups * GROUP_BYTES, used * GROUP_BYTES);
    for ((block, ahead), dots) in blocks.zip(dots) {
        let (mut lows, mut highs) = ([_mm512_setzero_si512(); 4], [_mm512_setzero_si512(); 4]);
        for (g, group) in block.as_chunks::<GROUP_BYTES>().0.iter().enumerate() {
            prefetch::<4>(ahead, g * GROUP_BYTES);
            let low_q = _mm512_set1_epi32(query.group(2 * g));
            let high_q = _mm512_set1_epi32(query.group(2 * g + 1));
            let sums = lows.iter_mut().zip(&mut highs);
            for (code, (low, high)) in group.as_chunks::<64>().0.iter().zip(sums) {
                let code = load(code);
                let upper = _mm512_and_si512(_mm512_srli_epi16::<4>(code), half);
                *low = _mm512_dpbusd_epi32(*low, _mm512_and_si512(code, half), low_q);
                *high = _mm512_dpbusd_epi32(*high, upper, high_q);
            }
        }
        let sums = lows.into_iter().zip(highs);
        for ((low, high), dots) in sums.zip(dots.as_chunks_mut::<16>().0) {
            let twice = _mm512_slli_epi32::<1>(_mm512_add_epi32(low, high));
            store(_mm512_sub_epi32(twice, offset), dots);
        }
    }
}

/// Running sums: lanes 0..8 and 8..16.
type Sums = [__m512d; 2];

#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn halves(v: __m512) -> Sums {
    [_mm512_cvtps_pd(_mm512_castps512_ps256(v)), _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(v))]
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

/// See [`crate::kernel::coding::reaching`].
#[target_feature(enable = "avx512f")]
pub(super) fn reaching(scores: &[[f32; BLOCK]], floor: f32, words: &mut [u64]) {
    let floor = _mm512_set1_ps(floor);
    for (word, scores) in words.iter_mut().zip(scores) {
        *word = 0;
        for (i, some) in scores.as_chunks::<16>().0.iter().enumerate() {
            let reached = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(floats(some), floor);
            *word |= u64::from(reached) << (16 * i);
        }
    }
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

#[inline]
#[target_feature(enable = "avx512f")]
fn fuse(sum: __m512, q: __m512, x: __m512) -> __m512 {
    _mm512_fmadd_ps(q, x, sum)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: __m512, b: __m512) -> __m512 {
    _mm512_add_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn finish_quick(sum: __m512) -> f32 {
    let mut lanes = [0.0; LANES];
    // SAFETY: 2.
    unsafe { _mm512_storeu_ps(lanes.as_mut_ptr(), sum) }
    reduce(lanes)
}

rows!(
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg",
    __m512,
    [_mm512_setzero_pd(); 2]
);

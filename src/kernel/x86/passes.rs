//! Several queries in one pass over the blocks, with AVX-512.
//!
//! Per 64 bytes of code a query of its own costs eight instructions of a table lookup (or six of
//! a 4-bit dot), of which four are to load codes and take their halves apart. Here those are
//! done once for [`PASS`] queries. The sums are the same integers.

use super::avx512::{load, load_tables, store};
use super::*;

/// Vectors whose sums stay in registers for all queries.
const AT_ONCE: usize = 4;

/// See [`crate::kernel::bit_dots_of_four`]; all queries have tables, and as many words.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")]
pub(super) fn bit_dots(blocks: &[u8], words: usize, queries: [&BitPlanes; PASS], out: &mut [i32]) {
    let tables = queries.map(|query| query.tables().as_chunks::<4>().0.as_chunks::<4>().0);
    let offset = 2 * 16 * queries[0].words() as i32 * BitPlanes::TABLE_OFFSET;
    let (half, ones) = (_mm512_set1_epi8(15), _mm512_set1_epi8(1));
    // As in the kernel for one query, whose comments say why.
    let begin = _mm512_set1_epi64(0x7060_5040_3020_1000);
    let each = out.len() / PASS / 8;
    let dots = out.as_chunks_mut::<8>().0;
    let blocks = with_ahead(blocks, words * WORD_BYTES, queries[0].words() * WORD_BYTES);
    for (b, (block, ahead)) in blocks.enumerate() {
        for part in 0..BLOCK / 8 / AT_ONCE {
            let mut sums = [[_mm512_setzero_si512(); AT_ONCE]; PASS];
            for (w, word) in block.as_chunks::<WORD_BYTES>().0.iter().enumerate() {
                prefetch::<4>(ahead, w * WORD_BYTES + part * WORD_BYTES / 2);
                let (mut lows, mut highs) = ([begin; AT_ONCE], [begin; AT_ONCE]);
                for (i, (low, high)) in lows.iter_mut().zip(&mut highs).enumerate() {
                    let code = load(&word.as_chunks::<64>().0[part * AT_ONCE + i]);
                    let upper = _mm512_srli_epi16::<4>(code);
                    *low = _mm512_ternarylogic_epi64::<0xf8>(begin, code, half);
                    *high = _mm512_ternarylogic_epi64::<0xf8>(begin, upper, half);
                }
                for (tables, sums) in tables.iter().zip(&mut sums) {
                    let [low0, low1, high0, high1] =
                        [0, 1, 2, 3].map(|t| load_tables(&tables[w][t]));
                    for (sum, (low, high)) in sums.iter_mut().zip(lows.iter().zip(highs)) {
                        let low = _mm512_permutex2var_epi8(low0, *low, low1);
                        let high = _mm512_permutex2var_epi8(high0, high, high1);
                        *sum = _mm512_dpbusd_epi32(*sum, low, ones);
                        *sum = _mm512_dpbusd_epi32(*sum, high, ones);
                    }
                }
            }
            for (q, (query, sums)) in queries.iter().zip(sums).enumerate() {
                let all = _mm256_set1_epi32(query.sum() + offset);
                let first = q * each + b * (BLOCK / 8) + part * AT_ONCE;
                for (sum, dots) in sums.into_iter().zip(&mut dots[first..first + AT_ONCE]) {
                    let lane = _mm512_add_epi32(sum, _mm512_srli_epi64::<32>(sum));
                    let set = _mm512_cvtepi64_epi32(lane);
                    let dot = _mm256_sub_epi32(_mm256_add_epi32(set, set), all);
                    // SAFETY: 2.
                    unsafe { _mm256_storeu_si256(dots.as_mut_ptr().cast(), dot) }
                }
            }
        }
    }
}

/// See [`crate::kernel::nibble_dots_of_four`]; all queries have as many groups.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
pub(super) fn nibble_dots(
    blocks: &[u8],
    groups: usize,
    queries: [&ByteLanes; PASS],
    out: &mut [i32],
) {
    let used = queries[0].groups().div_ceil(2);
    let half = _mm512_set1_epi8(15);
    let each = out.len() / PASS / 16;
    let dots = out.as_chunks_mut::<16>().0;
    let blocks = with_ahead(blocks, groups * GROUP_BYTES, used * GROUP_BYTES);
    for (b, (block, ahead)) in blocks.enumerate() {
        let mut sums = [[_mm512_setzero_si512(); AT_ONCE]; PASS];
        for (g, group) in block.as_chunks::<GROUP_BYTES>().0.iter().enumerate() {
            prefetch::<4>(ahead, g * GROUP_BYTES);
            let (mut lows, mut highs) = ([half; AT_ONCE], [half; AT_ONCE]);
            let halves = lows.iter_mut().zip(&mut highs);
            for (code, (low, high)) in group.as_chunks::<64>().0.iter().zip(halves) {
                let code = load(code);
                *low = _mm512_and_si512(code, half);
                *high = _mm512_and_si512(_mm512_srli_epi16::<4>(code), half);
            }
            for (query, sums) in queries.iter().zip(&mut sums) {
                let low_q = _mm512_set1_epi32(query.group(2 * g));
                let high_q = _mm512_set1_epi32(query.group(2 * g + 1));
                for (sum, (low, high)) in sums.iter_mut().zip(lows.iter().zip(highs)) {
                    *sum = _mm512_dpbusd_epi32(*sum, *low, low_q);
                    *sum = _mm512_dpbusd_epi32(*sum, high, high_q);
                }
            }
        }
        for (q, (query, sums)) in queries.iter().zip(sums).enumerate() {
            let offset = _mm512_set1_epi32(15 * query.sum());
            let first = q * each + b * AT_ONCE;
            for (sum, dots) in sums.into_iter().zip(&mut dots[first..first + AT_ONCE]) {
                store(_mm512_sub_epi32(_mm512_slli_epi32::<1>(sum), offset), dots);
            }
        }
    }
}

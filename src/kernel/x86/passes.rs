//! Several queries in one pass over the blocks, with AVX-512.
//!
//! Per 64 bytes of 4-bit code a query of its own costs six instructions, of which four are to load
//! the codes and take their halves apart. Here those are done once for [`QUERIES_PER_PASS`] queries. The sums
//! are the same integers. Lookups in 1-bit codes gain nothing so: what they wait for is the
//! lookup itself, and sums and indices of several queries do not fit the registers.

use super::avx512::{load, store};
use super::*;

/// Vectors whose sums stay in registers for all queries.
const SUMS_AT_ONCE: usize = 4;

/// See [`crate::kernel::nibble_dots_of_four`]; all queries have as many groups.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bitalg")]
pub(super) fn nibble_dots(
    blocks: &[u8],
    groups: usize,
    queries: [&ByteLanes; QUERIES_PER_PASS],
    out: &mut [i32],
) {
    let used = queries[0].groups().div_ceil(2);
    let half = _mm512_set1_epi8(15);
    let each = out.len() / QUERIES_PER_PASS / 16;
    let dots = out.as_chunks_mut::<16>().0;
    let blocks = with_ahead(blocks, groups * GROUP_BYTES, used * GROUP_BYTES);
    for (b, (block, ahead)) in blocks.enumerate() {
        let mut sums = [[_mm512_setzero_si512(); SUMS_AT_ONCE]; QUERIES_PER_PASS];
        for (g, group) in block.as_chunks::<GROUP_BYTES>().0.iter().enumerate() {
            prefetch::<4>(ahead, g * GROUP_BYTES);
            let (mut lows, mut highs) = ([half; SUMS_AT_ONCE], [half; SUMS_AT_ONCE]);
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
            let first = q * each + b * SUMS_AT_ONCE;
            for (sum, dots) in sums.into_iter().zip(&mut dots[first..first + SUMS_AT_ONCE]) {
                store(_mm512_sub_epi32(_mm512_slli_epi32::<1>(sum), offset), dots);
            }
        }
    }
}

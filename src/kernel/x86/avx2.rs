//! The kernels with AVX2, FMA and F16C. See the parent for how.

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

/// Byte `k` of 32 lanes to vector `k`, from vectors that hold four lanes each.
/// Lane `4 i + j` comes to stand at byte `2 i + j` for `j` of 0 and 1, at `2 i + j + 14` for
/// 2 and 3, as no step crosses the halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(mut v: [__m256i; 8]) -> [__m256i; 8] {
    let pairs = _mm256_setr_epi8(
        0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, //
        0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15,
    );
    for v in &mut v {
        *v = _mm256_shuffle_epi8(*v, pairs);
    }
    // Thrice the same perfect shuffle of 16-bit units: its cube is the transposition.
    for _ in 0..3 {
        let from = v;
        for i in 0..4 {
            v[2 * i] = _mm256_unpacklo_epi16(from[i], from[i + 4]);
            v[2 * i + 1] = _mm256_unpackhi_epi16(from[i], from[i + 4]);
        }
    }
    v
}

/// Words whose table sums fit 16 bits: 16 entries of at most 124 each.
const TABLE_WORDS: usize = 32;

/// Looks up the sum of each four dimensions, whatever the number of planes.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bit_dots_by_table(blocks: &[u8], words: usize, query: &BitPlanes, out: &mut [i32]) {
    let used = query.words() * WORD_BYTES;
    let offset = 16 * query.words() as i32 * BitPlanes::TABLE_OFFSET;
    let dots = out.as_chunks_mut::<BLOCK>().0;
    for ((block, ahead), dots) in with_ahead(blocks, words * WORD_BYTES, used).zip(dots) {
        dots.fill(-query.sum() - 2 * offset);
        let runs = block.chunks(TABLE_WORDS * WORD_BYTES);
        for (r, (run, tables)) in runs.zip(query.tables().chunks(TABLE_WORDS * 16)).enumerate() {
            let ahead = ahead.wrapping_add(r * TABLE_WORDS * WORD_BYTES);
            for (half, dots) in dots.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                add_table_sums(run, half, tables, ahead, dots);
            }
        }
    }
}

/// Adds twice the sums over the words of `run` to the dots of half a block.
#[inline]
#[target_feature(enable = "avx2")]
fn add_table_sums(
    run: &[u8],
    half: usize,
    tables: &[[u8; 16]],
    ahead: *const u8,
    dots: &mut [i32; 32],
) {
    let nibble = _mm256_set1_epi8(15);
    // Even bytes plus 256 times the odd ones, and the odd ones alone: the even ones are
    // had by subtraction at the end, which saves masking them every time.
    let (mut both, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
    let tables = tables.as_chunks::<16>().0;
    for (w, (word, tables)) in run.as_chunks::<WORD_BYTES>().0.iter().zip(tables).enumerate() {
        prefetch::<4>(ahead, w * WORD_BYTES + half * WORD_BYTES / 2);
        let mut codes = [_mm256_setzero_si256(); 8];
        for (code, bytes) in codes.iter_mut().zip(&word.as_chunks::<32>().0[half * 8..]) {
            *code = load(bytes);
        }
        let (lower, upper) = tables.split_at(8);
        for (code, (lower, upper)) in transpose(codes).into_iter().zip(lower.iter().zip(upper)) {
            let low = _mm256_shuffle_epi8(table(lower), _mm256_and_si256(code, nibble));
            let high = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
            let sum = _mm256_add_epi8(low, _mm256_shuffle_epi8(table(upper), high));
            both = _mm256_add_epi16(both, sum);
            odd = _mm256_add_epi16(odd, _mm256_srli_epi16::<8>(sum));
        }
    }
    let even = _mm256_sub_epi16(both, _mm256_slli_epi16::<8>(odd));
    let (mut evens, mut odds) = ([0u16; 16], [0u16; 16]);
    // SAFETY: 2, twice.
    unsafe {
        _mm256_storeu_si256(evens.as_mut_ptr().cast(), even);
        _mm256_storeu_si256(odds.as_mut_ptr().cast(), odd);
    }
    for (i, four) in dots.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let sums = [evens[i], odds[i], evens[i + 8], odds[i + 8]];
        for (dot, sum) in four.iter_mut().zip(sums) {
            *dot += 2 * i32::from(sum);
        }
    }
}

/// A table in both halves of a vector.
#[inline]
#[target_feature(enable = "avx2")]
fn table(entries: &[u8; 16]) -> __m256i {
    // SAFETY: 2.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(entries.as_ptr().cast()) })
}

/// Counts bits plane by plane, for queries of more bits than tables hold.
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
        for (w, (word, planes)) in block.as_chunks::<WORD_BYTES>().0.iter().zip(planes).enumerate()
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

/// Groups whose products fit 16 bits: each adds at most 4 x 15 x 127 to a sum.
const NIBBLE_GROUPS: usize = 4;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibble_dots(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
    let used = query.groups().div_ceil(2);
    let dots = out.as_chunks_mut::<BLOCK>().0;
    let offset = _mm256_set1_epi32(15 * query.sum());
    let blocks = with_ahead(blocks, groups * GROUP_BYTES, used * GROUP_BYTES);
    for ((block, ahead), dots) in blocks.zip(dots) {
        let mut sums = [_mm256_setzero_si256(); 8];
        for (r, run) in block.chunks(NIBBLE_GROUPS * GROUP_BYTES).enumerate() {
            let first = r * NIBBLE_GROUPS;
            let mut shorts = [_mm256_setzero_si256(); 8];
            for (g, group) in run.as_chunks::<GROUP_BYTES>().0.iter().enumerate() {
                prefetch::<4>(ahead, (first + g) * GROUP_BYTES);
                add_nibbles(&mut shorts, group, query, first + g);
            }
            for (sum, short) in sums.iter_mut().zip(shorts) {
                let wide = _mm256_madd_epi16(short, _mm256_set1_epi16(1));
                *sum = _mm256_add_epi32(*sum, wide);
            }
        }
        for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<8>().0) {
            let dot = _mm256_sub_epi32(_mm256_slli_epi32::<1>(sum), offset);
            // SAFETY: 2.
            unsafe { _mm256_storeu_si256(dots.as_mut_ptr().cast(), dot) }
        }
    }
}

/// Adds the products of a group, two and two in 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn add_nibbles(sums: &mut [__m256i; 8], group: &[u8; GROUP_BYTES], query: &ByteLanes, g: usize) {
    let half = _mm256_set1_epi8(15);
    let low_q = _mm256_set1_epi32(query.group(2 * g));
    let high_q = _mm256_set1_epi32(query.group(2 * g + 1));
    for (code, sum) in group.as_chunks::<32>().0.iter().zip(sums) {
        let code = load(code);
        let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(code), half);
        let low = _mm256_maddubs_epi16(_mm256_and_si256(code, half), low_q);
        let high = _mm256_maddubs_epi16(upper, high_q);
        *sum = _mm256_add_epi16(*sum, _mm256_add_epi16(low, high));
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

/// See [`crate::kernel::coding::reaching`].
#[target_feature(enable = "avx2")]
pub(super) fn reaching(scores: &[[f32; BLOCK]], floor: f32, words: &mut [u64]) {
    let floor = _mm256_set1_ps(floor);
    let mask = |half: __m256| {
        let reached = _mm256_cmp_ps::<_CMP_GE_OQ>(half, floor);
        u64::from(_mm256_movemask_ps(reached).cast_unsigned())
    };
    for (word, scores) in words.iter_mut().zip(scores) {
        *word = 0;
        for (i, some) in scores.as_chunks::<LANES>().0.iter().enumerate() {
            let [low, high] = floats(some);
            *word |= (mask(low) | mask(high) << 8) << (LANES * i);
        }
    }
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

#[inline]
#[target_feature(enable = "avx2,fma")]
fn fuse(sum: Floats, q: Floats, x: Floats) -> Floats {
    [_mm256_fmadd_ps(q[0], x[0], sum[0]), _mm256_fmadd_ps(q[1], x[1], sum[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: Floats, b: Floats) -> Floats {
    [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])]
}

#[inline]
#[target_feature(enable = "avx2")]
fn finish_quick(sum: Floats) -> f32 {
    let mut lanes = [0.0; LANES];
    for (sum, lanes) in sum.into_iter().zip(lanes.as_chunks_mut::<8>().0) {
        // SAFETY: 2.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), sum) }
    }
    reduce(lanes)
}

rows!("avx2,fma,f16c", Floats, [_mm256_setzero_pd(); 4]);

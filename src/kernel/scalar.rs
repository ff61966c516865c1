//! The definition: what every other implementation must return, bit for bit.

use super::row::{LANES, QUICK_LANES, reduce};
use super::{BLOCK, BitPlanes, ByteLanes, GROUP_BYTES, Precision, WORD_BYTES};

/// See [`super::bit_dots`].
pub(crate) fn bit_dots(blocks: &[u8], block_words: usize, query: &BitPlanes, out: &mut [i32]) {
    let bits = query.bits() as usize;
    for (block, dots) in blocks.chunks_exact(block_words * WORD_BYTES).zip(out.chunks_mut(BLOCK)) {
        // A +-1 dot is twice the sum over the set bits, less the sum of all.
        dots.fill(-query.sum());
        for (word, planes) in block.chunks_exact(WORD_BYTES).zip(query.planes().chunks(bits)) {
            for (code, dot) in word.as_chunks::<8>().0.iter().zip(&mut *dots) {
                let code = u64::from_le_bytes(*code);
                for (p, plane) in planes.iter().enumerate() {
                    *dot += 2 * query.weight(p) * (code & plane).count_ones() as i32;
                }
            }
        }
    }
}

/// See [`super::byte_dots`].
pub(crate) fn byte_dots(blocks: &[u8], block_groups: usize, query: &ByteLanes, out: &mut [i32]) {
    for (block, dots) in blocks.chunks_exact(block_groups * GROUP_BYTES).zip(out.chunks_mut(BLOCK))
    {
        dots.fill(0);
        for (group, q) in block.chunks_exact(GROUP_BYTES).zip(query.as_slice()) {
            for (code, dot) in group.as_chunks::<4>().0.iter().zip(&mut *dots) {
                for (c, q) in code.iter().zip(q) {
                    *dot += (i32::from(*c) - 128) * i32::from(*q);
                }
            }
        }
    }
}

/// See [`super::byte_squares`].
pub(crate) fn byte_squares(blocks: &[u8], block_groups: usize, query: &ByteLanes, out: &mut [i32]) {
    for (block, squares) in
        blocks.chunks_exact(block_groups * GROUP_BYTES).zip(out.chunks_mut(BLOCK))
    {
        squares.fill(0);
        for (g, group) in block.chunks_exact(GROUP_BYTES).take(query.groups()).enumerate() {
            let mask = query.mask(g).to_le_bytes();
            for (code, square) in group.as_chunks::<4>().0.iter().zip(&mut *squares) {
                for (c, mask) in code.iter().zip(mask) {
                    *square += i32::from(((c ^ 0x80) & mask).cast_signed()).pow(2);
                }
            }
        }
    }
}

/// See [`super::nibble_dots`].
pub(crate) fn nibble_dots(blocks: &[u8], block_groups: usize, query: &ByteLanes, out: &mut [i32]) {
    for (block, dots) in blocks.chunks_exact(block_groups * GROUP_BYTES).zip(out.chunks_mut(BLOCK))
    {
        dots.fill(0);
        for (group, pair) in block.chunks_exact(GROUP_BYTES).zip(query.as_slice().chunks(2)) {
            for (bytes, dot) in group.as_chunks::<4>().0.iter().zip(&mut *dots) {
                for (shift, q) in [0, 4].into_iter().zip(pair) {
                    for (byte, q) in bytes.iter().zip(q) {
                        *dot += (2 * i32::from(byte >> shift & 15) - 15) * i32::from(*q);
                    }
                }
            }
        }
    }
}

/// Component `i` of a stored row.
pub(crate) fn component(precision: Precision, row: &[u8], i: usize) -> f32 {
    match precision {
        Precision::F32 => f32::from_le_bytes(row.as_chunks().0[i]),
        Precision::F16 => half::f16::from_le_bytes(row.as_chunks().0[i]).to_f32(),
        Precision::BF16 => half::bf16::from_le_bytes(row.as_chunks().0[i]).to_f32(),
    }
}

/// See [`super::row::dot`].
pub(crate) fn dot(precision: Precision, query: &[f32], row: &[u8]) -> f64 {
    fold(query.len(), |i| f64::from(query[i]) * f64::from(component(precision, row, i)))
}

/// See [`super::row::norm_squared`].
pub(crate) fn norm_squared(precision: Precision, row: &[u8]) -> f64 {
    fold(row.len() / precision.bytes(), |i| f64::from(component(precision, row, i)).powi(2))
}

/// See [`super::row::l2_squared`].
pub(crate) fn l2_squared(precision: Precision, query: &[f32], row: &[u8]) -> f64 {
    fold(query.len(), |i| {
        let d = f64::from(query[i]) - f64::from(component(precision, row, i));
        d * d
    })
}

/// See [`super::row::quick_dot`].
pub(crate) fn quick_dot(precision: Precision, query: &[f32], row: &[u8]) -> f32 {
    let mut lanes = [0f32; QUICK_LANES];
    for (i, q) in query.iter().enumerate() {
        let lane = &mut lanes[i % QUICK_LANES];
        *lane = q.mul_add(component(precision, row, i), *lane);
    }
    let mut last = [0.0; LANES];
    for (i, sum) in last.iter_mut().enumerate() {
        *sum = (lanes[i] + lanes[i + 2 * LANES]) + (lanes[i + LANES] + lanes[i + 3 * LANES]);
    }
    reduce(last)
}

/// Adds term `i` to lane `i % LANES`, lanes then pairwise.
fn fold(len: usize, term: impl Fn(usize) -> f64) -> f64 {
    let mut lanes = [0.0; LANES];
    for i in 0..len {
        lanes[i % LANES] += term(i);
    }
    reduce(lanes)
}

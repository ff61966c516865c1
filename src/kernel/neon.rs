//! NEON implementations of what [`super::scalar`] defines.
//!
//! 1. *1 bit*: `and` with a plane, count the bits of each byte, add pairs, multiply by
//!    the plane's weight into 16 bits; a word's sums stay below 2^12. A quarter of
//!    the lanes at a time, so that the sums stay in registers.
//! 2. *8 bits*: the stored offset is flipped away, products of signed bytes are added in
//!    pairs within 16 bits (2 x 128 x 127 fits), then in fours into 32.
//! 3. *4 bits*: lower and upper halves as bytes, then as in 2.; the dots with `2 u - 15` follow
//!    from those with `u`.
//! 4. *rows*: widen to `f64`, 16 lanes, as [`super::row`] says.
//!
//! # Safety
//!
//! The `unsafe` here is of two kinds, with these preconditions:
//!
//! 1. A function with `#[target_feature]` is called: the CPU has NEON, as every
//!    `aarch64` this crate compiles for has.
//! 2. A vector is loaded or stored through a pointer: it comes from a reference to an
//!    array of the vector's size. No alignment is asked for.
#![expect(unsafe_code, reason = "std::arch; preconditions above")]
#![allow(clippy::wildcard_imports, reason = "the names of std::arch are prefixed already")]
#![allow(clippy::unused_self, reason = "`self` is the proof that the CPU was asked")]

use super::row::{DOT, L2, LANES, QUICK_LANES, padded, reduce, rows};
use super::{BLOCK, BitPlanes, ByteLanes, GROUP_BYTES, Precision, WORD_BYTES};
use std::arch::aarch64::*;

/// Stands for NEON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neon(());

impl Neon {
    pub(super) fn new() -> Self {
        Self(())
    }

    pub(super) fn bit_dots(self, blocks: &[u8], words: usize, q: &BitPlanes, out: &mut [i32]) {
        // SAFETY: 1.
        unsafe { bit_dots(blocks, words, q, out) }
    }

    pub(super) fn byte_dots(self, blocks: &[u8], groups: usize, q: &ByteLanes, out: &mut [i32]) {
        // SAFETY: 1.
        unsafe { byte_dots(blocks, groups, q, out) }
    }

    pub(super) fn byte_squares(self, blocks: &[u8], groups: usize, q: &ByteLanes, out: &mut [i32]) {
        // SAFETY: 1.
        unsafe { byte_squares(blocks, groups, q, out) }
    }

    pub(super) fn nibble_dots(self, blocks: &[u8], groups: usize, q: &ByteLanes, out: &mut [i32]) {
        // SAFETY: 1.
        unsafe { nibble_dots(blocks, groups, q, out) }
    }

    pub(super) fn dot(self, precision: Precision, query: &[f32], stored: &[u8]) -> f64 {
        // SAFETY: 1.
        unsafe { row::<DOT>(precision, query, stored) }
    }

    pub(super) fn quick_dot(self, precision: Precision, query: &[f32], row: &[u8]) -> f32 {
        // SAFETY: 1.
        unsafe { quick(precision, query, row) }
    }

    pub(super) fn l2_squared(self, precision: Precision, query: &[f32], stored: &[u8]) -> f64 {
        // SAFETY: 1.
        unsafe { row::<L2>(precision, query, stored) }
    }

    pub(super) fn norm_squared(self, precision: Precision, stored: &[u8]) -> f64 {
        // SAFETY: 1.
        unsafe { norm(precision, stored) }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 2.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(vector: int32x4_t, out: &mut [i32; 4]) {
    // SAFETY: 2.
    unsafe { vst1q_s32(out.as_mut_ptr(), vector) }
}

#[target_feature(enable = "neon")]
fn bit_dots(blocks: &[u8], words: usize, query: &BitPlanes, out: &mut [i32]) {
    const QUARTER: usize = BLOCK / 4;
    let bits = query.bits() as usize;
    let all = vdupq_n_s32(query.sum());
    for (block, dots) in blocks.chunks_exact(words * WORD_BYTES).zip(out.chunks_mut(BLOCK)) {
        for (part, dots) in dots.as_chunks_mut::<QUARTER>().0.iter_mut().enumerate() {
            // A vector holds one word of two lanes, as two sums each.
            let mut sums = [vdupq_n_s32(0); QUARTER / 2];
            let words = block.as_chunks::<WORD_BYTES>().0;
            for (word, planes) in words.iter().zip(query.planes().chunks_exact(bits)) {
                let codes = &word.as_chunks::<16>().0[part * QUARTER / 2..];
                for (code, sum) in codes.iter().zip(&mut sums) {
                    let code = load(code);
                    let mut shorts = vdupq_n_s16(0);
                    for (p, &plane) in planes.iter().enumerate() {
                        let common = vandq_u8(code, vreinterpretq_u8_u64(vdupq_n_u64(plane)));
                        let pairs = vreinterpretq_s16_u16(vpaddlq_u8(vcntq_u8(common)));
                        shorts = vmlaq_n_s16(shorts, pairs, query.weight(p) as i16);
                    }
                    *sum = vpadalq_s16(*sum, shorts);
                }
            }
            for (sums, dots) in sums.as_chunks::<2>().0.iter().zip(dots.as_chunks_mut::<4>().0) {
                let set = vpaddq_s32(sums[0], sums[1]);
                store(vsubq_s32(vaddq_s32(set, set), all), dots);
            }
        }
    }
}

/// Adds to the sums of four lanes the products of their four bytes with `q`.
#[inline]
#[target_feature(enable = "neon")]
fn add_products(sum: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
    let low = vmull_s8(vget_low_s8(codes), vget_low_s8(q));
    vpadalq_s16(sum, vpaddq_s16(low, vmull_high_s8(codes, q)))
}

#[target_feature(enable = "neon")]
fn byte_dots(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
    let offset = vdupq_n_u8(128);
    for (block, dots) in blocks.chunks_exact(groups * GROUP_BYTES).zip(out.chunks_mut(BLOCK)) {
        let mut sums = [vdupq_n_s32(0); 16];
        for (group, q) in block.as_chunks::<GROUP_BYTES>().0.iter().zip(query.as_slice()) {
            let q = i32::from_le_bytes(q.map(i8::cast_unsigned));
            let q = vreinterpretq_s8_s32(vdupq_n_s32(q));
            for (code, sum) in group.as_chunks::<16>().0.iter().zip(&mut sums) {
                let codes = vreinterpretq_s8_u8(veorq_u8(load(code), offset));
                *sum = add_products(*sum, codes, q);
            }
        }
        for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<4>().0) {
            store(sum, dots);
        }
    }
}

#[target_feature(enable = "neon")]
fn byte_squares(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
    let offset = vdupq_n_u8(128);
    for (block, squares) in blocks.chunks_exact(groups * GROUP_BYTES).zip(out.chunks_mut(BLOCK)) {
        let mut sums = [vdupq_n_s32(0); 16];
        for g in 0..query.groups() {
            let group = &block[g * GROUP_BYTES..(g + 1) * GROUP_BYTES];
            let mask = vreinterpretq_u8_u32(vdupq_n_u32(query.mask(g)));
            for (code, sum) in group.as_chunks::<16>().0.iter().zip(&mut sums) {
                let codes = vandq_u8(veorq_u8(load(code), offset), mask);
                let codes = vreinterpretq_s8_u8(codes);
                *sum = add_products(*sum, codes, codes);
            }
        }
        for (sum, squares) in sums.into_iter().zip(squares.as_chunks_mut::<4>().0) {
            store(sum, squares);
        }
    }
}

#[target_feature(enable = "neon")]
fn nibble_dots(blocks: &[u8], groups: usize, query: &ByteLanes, out: &mut [i32]) {
    let half = vdupq_n_u8(15);
    let offset = vdupq_n_s32(15 * query.sum());
    for (block, dots) in blocks.chunks_exact(groups * GROUP_BYTES).zip(out.chunks_mut(BLOCK)) {
        let mut sums = [vdupq_n_s32(0); 16];
        for g in 0..query.groups().div_ceil(2) {
            let group = &block[g * GROUP_BYTES..(g + 1) * GROUP_BYTES];
            let low_q = vreinterpretq_s8_s32(vdupq_n_s32(query.group(2 * g)));
            let high_q = vreinterpretq_s8_s32(vdupq_n_s32(query.group(2 * g + 1)));
            for (code, sum) in group.as_chunks::<16>().0.iter().zip(&mut sums) {
                let code = load(code);
                let low = vreinterpretq_s8_u8(vandq_u8(code, half));
                let high = vreinterpretq_s8_u8(vshrq_n_u8::<4>(code));
                *sum = add_products(add_products(*sum, low, low_q), high, high_q);
            }
        }
        for (sum, dots) in sums.into_iter().zip(dots.as_chunks_mut::<4>().0) {
            store(vsubq_s32(vaddq_s32(sum, sum), offset), dots);
        }
    }
}

/// Running sums: two lanes each.
type Sums = [float64x2_t; 8];
/// Sixteen components.
type Floats = [float32x4_t; 4];

#[inline]
#[target_feature(enable = "neon")]
fn step<const OP: u8>(sums: &mut Sums, query: Floats, stored: Floats) {
    for (i, sum) in sums.iter_mut().enumerate() {
        let half = |v: float32x4_t| {
            if i % 2 == 0 { vcvt_f64_f32(vget_low_f32(v)) } else { vcvt_high_f64_f32(v) }
        };
        let (q, x) = (half(query[i / 2]), half(stored[i / 2]));
        if OP == DOT {
            *sum = vfmaq_f64(*sum, q, x);
        } else {
            let d = vsubq_f64(q, x);
            // Not fused: the square of a difference rounds.
            *sum = vaddq_f64(*sum, vmulq_f64(d, d));
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn floats(v: &[f32; LANES]) -> Floats {
    let mut floats = [vdupq_n_f32(0.0); 4];
    for (float, four) in floats.iter_mut().zip(v.as_chunks::<4>().0) {
        // SAFETY: 2.
        *float = unsafe { vld1q_f32(four.as_ptr()) };
    }
    floats
}

#[inline]
#[target_feature(enable = "neon")]
fn f32s(bytes: &[u8; 64]) -> Floats {
    let mut floats = [vdupq_n_f32(0.0); 4];
    for (float, four) in floats.iter_mut().zip(bytes.as_chunks::<16>().0) {
        *float = vreinterpretq_f32_u8(load(four));
    }
    floats
}

/// The widening instruction is not in stable Rust; `half` has it.
#[inline]
#[target_feature(enable = "neon")]
fn f16s(bytes: &[u8; 32]) -> Floats {
    let mut wide = [0.0; LANES];
    for (wide, bytes) in wide.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *wide = half::f16::from_le_bytes(*bytes).to_f32();
    }
    floats(&wide)
}

#[inline]
#[target_feature(enable = "neon")]
fn bf16s(bytes: &[u8; 32]) -> Floats {
    let mut floats = [vdupq_n_f32(0.0); 4];
    for (halves, floats) in bytes.as_chunks::<16>().0.iter().zip(floats.as_chunks_mut::<2>().0) {
        let halves = vreinterpretq_u16_u8(load(halves));
        let (low, high) = (vshll_n_u16::<16>(vget_low_u16(halves)), vshll_high_n_u16::<16>(halves));
        *floats = [vreinterpretq_f32_u32(low), vreinterpretq_f32_u32(high)];
    }
    floats
}

#[inline]
#[target_feature(enable = "neon")]
fn finish(sums: Sums) -> f64 {
    let mut lanes = [0.0; LANES];
    for (sum, lanes) in sums.into_iter().zip(lanes.as_chunks_mut::<2>().0) {
        // SAFETY: 2.
        unsafe { vst1q_f64(lanes.as_mut_ptr(), sum) }
    }
    reduce(lanes)
}

#[inline]
#[target_feature(enable = "neon")]
fn fuse(sum: Floats, q: Floats, x: Floats) -> Floats {
    let mut fused = sum;
    for ((sum, q), x) in fused.iter_mut().zip(q).zip(x) {
        *sum = vfmaq_f32(*sum, q, x);
    }
    fused
}

#[inline]
#[target_feature(enable = "neon")]
fn add(a: Floats, b: Floats) -> Floats {
    let mut sums = a;
    for (sum, b) in sums.iter_mut().zip(b) {
        *sum = vaddq_f32(*sum, b);
    }
    sums
}

#[inline]
#[target_feature(enable = "neon")]
fn finish_quick(sum: Floats) -> f32 {
    let mut lanes = [0.0; LANES];
    for (sum, lanes) in sum.into_iter().zip(lanes.as_chunks_mut::<4>().0) {
        // SAFETY: 2.
        unsafe { vst1q_f32(lanes.as_mut_ptr(), sum) }
    }
    reduce(lanes)
}

rows!("neon", Floats, [vdupq_n_f64(0.0); 8]);

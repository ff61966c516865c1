//! AVX2 and AVX-512 implementations of what [`super::scalar`] defines.
//!
//! [`Avx2`] and [`Avx512`] can only be had from their `detect`, so holding one
//! proves that the CPU has the instructions: that is what makes calling the
//! `#[target_feature]` functions below sound.
//!
//! How the dots come about:
//!
//! 1. *1 bit, AVX-512*: each half of a byte looks up the sum of the query over its four
//!    dimensions, all planes at once: `vpermi2b` picks from 128 entries, which are the tables of
//!    the lower (or upper) halves of all eight bytes of a word, and `vpdpbusd` by ones adds four
//!    bytes into an `i32`. Eight instructions for 64 bytes of code, where counting bits plane by
//!    plane takes three for each plane; a block is read strictly in order, and each lane ends as
//!    two `i32`. Queries of more bits than such a table holds are counted: `and` with a plane,
//!    `vpopcntb`, and `vpdpbusd` by the plane's weight, no carry between planes.
//! 2. *1 bit, AVX2*: bytes of 32 lanes are brought together, and each nibble looks up
//!    its sum as in 1. (`vpshufb`). Queries of more bits are counted plane by plane: bytes by
//!    looking up nibbles, weights by `vpmaddubsw`, whose sums stay below 2^12 for a word.
//! 3. *8 bits, AVX-512*: `vpdpbusd` of the stored byte (code + 128) with the
//!    query, less 128 times the sum of the query.
//! 4. *8 bits, AVX2*: `vpmaddubsw` would saturate (255 x 127 x 2 exceeds 16
//!    bits), so even and odd bytes are widened and go through `vpmaddwd`.
//! 5. *4 bits*: lower and upper halves are had by `and` and shift, and go the ways of 3. or, as
//!    their products with a query byte are small, through `vpmaddubsw` on AVX2; the dots with
//!    `2 u - 15` follow from those with `u`.
//! 6. *rows*: widen to `f64`, 16 lanes, as [`super::row`] says.
//!
//! The next blocks are prefetched, because the hardware stops at page ends and does not
//! follow the gaps that a shorter prefix leaves. By `benches/scan.rs`, a 1-bit scan from
//! RAM goes at 0.62 of the speed of reading without, at 0.95 with.
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
#![allow(clippy::unused_self, reason = "`self` is the proof that the CPU was asked")]

mod avx2;
mod avx512;
mod coding;
mod gather;
mod passes;

pub(super) use gather::prefetch_bytes;

use super::row::{DOT, L2, LANES, QUICK_LANES, padded, reduce, rows};
use super::{BLOCK, BitPlanes, ByteLanes, GROUP_BYTES, Precision, QUERIES_PER_PASS, WORD_BYTES};
use std::arch::x86_64::*;

/// Bytes ahead of the block at hand that prefetching aims for.
const PREFETCH_BYTES_AHEAD: usize = 8192;

/// Proof that this CPU has AVX2, FMA and F16C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

/// Proof that this CPU has AVX-512 F, BW, DQ, VL, VNNI, BITALG and VBMI.
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
            && is_x86_feature_detected!("avx512bitalg")
            && is_x86_feature_detected!("avx512vbmi");
        has.then_some(Self(()))
    }
}

/// Calls a bit-plane kernel made for the query's number of planes: more than tables are made for.
macro_rules! by_planes {
    ($isa:ident, $blocks:ident, $words:ident, $query:ident, $out:ident) => {
        match $query.bits() {
            6 => $isa::bit_dots::<6>($blocks, $words, $query, $out),
            7 => $isa::bit_dots::<7>($blocks, $words, $query, $out),
            _ => $isa::bit_dots::<8>($blocks, $words, $query, $out),
        }
    };
}

impl Avx2 {
    pub(super) fn bit_dots(self, blocks: &[u8], words: usize, q: &BitPlanes, out: &mut [i32]) {
        // SAFETY: 1, by the token.
        unsafe {
            if q.bits() <= BitPlanes::TABLE_BITS {
                avx2::bit_dots_by_table(blocks, words, q, out);
            } else {
                by_planes!(avx2, blocks, words, q, out);
            }
        }
    }
}

impl Avx512 {
    pub(super) fn bit_dots(self, blocks: &[u8], words: usize, q: &BitPlanes, out: &mut [i32]) {
        // SAFETY: 1, by the token.
        unsafe {
            if q.bits() <= BitPlanes::TABLE_BITS {
                avx512::bit_dots_by_table(blocks, words, q, out);
            } else {
                by_planes!(avx512, blocks, words, q, out);
            }
        }
    }
}

impl Avx512 {
    pub(super) fn nibble_dots_of_four(
        self,
        blocks: &[u8],
        groups: usize,
        queries: [&ByteLanes; QUERIES_PER_PASS],
        out: &mut [i32],
    ) {
        // SAFETY: 1, by the token.
        unsafe { passes::nibble_dots(blocks, groups, queries, out) }
    }
}

/// The safe methods of a token, each the call of a function with its features.
macro_rules! methods {
    ($token:ident, $isa:ident) => {
        impl $token {
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

            pub(super) fn nibble_dots(
                self,
                blocks: &[u8],
                groups: usize,
                q: &ByteLanes,
                out: &mut [i32],
            ) {
                // SAFETY: 1, by the token.
                unsafe { $isa::nibble_dots(blocks, groups, q, out) }
            }

            pub(super) fn dot(self, precision: Precision, query: &[f32], row: &[u8]) -> f64 {
                // SAFETY: 1, by the token.
                unsafe { $isa::row::<DOT>(precision, query, row) }
            }

            pub(super) fn quick_dot(self, precision: Precision, query: &[f32], row: &[u8]) -> f32 {
                // SAFETY: 1, by the token.
                unsafe { $isa::quick(precision, query, row) }
            }

            pub(super) fn l2_squared(self, precision: Precision, query: &[f32], row: &[u8]) -> f64 {
                // SAFETY: 1, by the token.
                unsafe { $isa::row::<L2>(precision, query, row) }
            }

            pub(super) fn reaching(self, scores: &[[f32; BLOCK]], floor: f32, words: &mut [u64]) {
                // SAFETY: 1, by the token.
                unsafe { $isa::reaching(scores, floor, words) }
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
    let distance = PREFETCH_BYTES_AHEAD.div_ceil(used.max(1)) * block;
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

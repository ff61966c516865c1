//! A query prepared for a stage: small integers in the kernel's shape.

use std::ops::Range;

use super::stage::quantise;
use super::{Bits, StageCode, StageView};
use crate::kernel::{
    BLOCK, BitPlanes, ByteLanes, Isa, QUERIES_PER_PASS, bit_dots, byte_dots, nibble_dots,
    nibble_dots_of_four,
};

/// Bits a component of a query may have when it meets a 1-bit code.
const PLANE_BITS: std::ops::RangeInclusive<u32> = 4..=8;

/// The coarsest step of such a query, over the root mean square of its components.
///
/// Measured by `benches/codes.rs` on text vectors, whose largest component is some 3.3 times
/// that root mean square: 5 bits (a step of 0.22) find what 8 find, 4 bits (0.47) lose 0.5 to
/// 1 point of the top 10 in a shortlist of 10, 3 lose 2 to 3. Models with a few very large
/// components need more bits for the same step, and get them. Codes that come from RAM
/// are scanned as fast with any number; codes in cache are faster with fewer.
const COARSEST_STEP: f64 = 0.3;

/// The first dimensions of a query, quantised for one stage code.
#[derive(Debug, Clone)]
pub struct StageQuery {
    pub(super) code: StageCode,
    pub(super) dims: usize,
    /// The integers, for a 1-bit code.
    pub(super) planes: BitPlanes,
    /// The integers, for a code of 4 or 8 bits.
    pub(super) lanes: ByteLanes,
    /// One over the norm of the prefix in units of the integers: turns a dot
    /// into a length along the query.
    pub(super) scale: f32,
    /// The integers one by one.
    values: Vec<i8>,
}

impl StageQuery {
    /// Prepares the first `dims` dimensions of `query`, of which the code must
    /// hold at least as many. Only the words or groups that contain them are read.
    ///
    /// # Panics
    /// When `dims` is 0, or longer than the query or the code.
    pub fn new(code: StageCode, query: &[f32], dims: usize) -> Self {
        Self::with_plane_bits(code, query, dims, plane_bits(&query[..dims]))
    }

    /// As [`StageQuery::new`], but with `plane_bits` bits (2..=8) for a component
    /// that meets a 1-bit code.
    ///
    /// # Panics
    /// As [`StageQuery::new`].
    pub fn with_plane_bits(code: StageCode, query: &[f32], dims: usize, plane_bits: u32) -> Self {
        let (planes, lanes) = (BitPlanes::default(), ByteLanes::default());
        let mut new = Self { code, dims, planes, lanes, scale: 0.0, values: Vec::new() };
        new.set_with(code, query, dims, plane_bits);
        new
    }

    /// Prepares another query, in the buffers of this one.
    ///
    /// # Panics
    /// As [`StageQuery::new`].
    pub fn set(&mut self, code: StageCode, query: &[f32], dims: usize) {
        self.set_with(code, query, dims, plane_bits(&query[..dims]));
    }

    fn set_with(&mut self, code: StageCode, query: &[f32], dims: usize, plane_bits: u32) {
        assert!((1..=code.dims).contains(&dims), "{dims} of {} dimensions", code.dims);
        let prefix = &query[..dims];
        let top = match code.bits {
            Bits::One => ((1i16 << (plane_bits - 1)) - 1) as i8,
            Bits::Four | Bits::Eight => i8::MAX,
        };
        self.values.resize(dims, 0);
        let step = quantise(prefix, top, &mut self.values);
        match code.bits {
            Bits::One => self.planes.set(&self.values, plane_bits),
            Bits::Four | Bits::Eight => self.lanes.set(&self.values),
        }
        let norm = prefix.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        // See `scan` for what stands in for the factor of a shorter prefix.
        let longer = match code.bits {
            Bits::One | Bits::Four => (code.dims as f64 / dims as f64).sqrt(),
            Bits::Eight => 1.0,
        };
        (self.code, self.dims) = (code, dims);
        self.scale = if norm > 0.0 { (step * longer / norm) as f32 } else { 0.0 };
    }

    /// Dots of at most [`QUERIES_PER_PASS`] queries with the rows of some blocks, those of one query after
    /// those of the other; a whole pass over 4-bit codes takes all at once.
    pub(super) fn dots<'q>(
        queries: impl ExactSizeIterator<Item = &'q Self>,
        isa: Isa,
        view: &StageView<'_>,
        blocks: Range<usize>,
        dots: &mut [i32],
    ) {
        let code = view.code;
        let bytes =
            &view.blocks[blocks.start * code.block_bytes()..blocks.end * code.block_bytes()];
        let (units, each) = (code.units(code.dims), blocks.len() * BLOCK);
        let dots = &mut dots[..queries.len() * each];
        let mut all: [Option<&Self>; QUERIES_PER_PASS] = [None; QUERIES_PER_PASS];
        all.iter_mut().zip(queries).for_each(|(place, query)| *place = Some(query));
        if let ([Some(a), Some(b), Some(c), Some(d)], Bits::Four) = (all, code.bits) {
            let lanes = [a, b, c, d].map(|query| &query.lanes);
            return nibble_dots_of_four(isa, bytes, units, lanes, dots);
        }
        for (query, dots) in all.into_iter().flatten().zip(dots.chunks_mut(each.max(1))) {
            match code.bits {
                Bits::One => bit_dots(isa, bytes, units, &query.planes, dots),
                Bits::Four => nibble_dots(isa, bytes, units, &query.lanes, dots),
                Bits::Eight => byte_dots(isa, bytes, units, &query.lanes, dots),
            }
        }
    }

    /// Its cosine with a base, times the length of that, in units of an estimate.
    pub(super) fn along(&self, base: &[f32]) -> f32 {
        let dot = base.iter().zip(&self.values).map(|(m, v)| f64::from(*m) * f64::from(*v));
        (dot.sum::<f64>() * f64::from(self.scale)) as f32
    }
}

/// The fewest bits whose step is fine enough for `prefix`.
fn plane_bits(prefix: &[f32]) -> u32 {
    let largest = prefix.iter().fold(0f32, |m, v| m.max(v.abs()));
    let square: f64 = prefix.iter().map(|&v| f64::from(v).powi(2)).sum();
    let coarsest = COARSEST_STEP * (square / prefix.len() as f64).sqrt();
    let fine = |bits: u32| f64::from(largest) <= coarsest * f64::from((1 << (bits - 1)) - 1);
    PLANE_BITS.clone().find(|&bits| fine(bits)).unwrap_or(*PLANE_BITS.end())
}

//! Rows and queries as a walk compares them.
//!
//! The estimate is that of [`crate::encoding`]: `cos(x, q) ~ factor <c, q> / |q|`, where `c`
//! is the signed code of a row `x` and `factor = |x| / <x, c>`. Only the layout differs.

use crate::encoding::{Bits, factor, quantise};
use crate::kernel::Isa;
use crate::kernel::gather::{CHUNK_BYTES, CHUNK_DIMS, RowPlanes, bit_row_dots, byte_row_dot};

/// Most dimensions that are coded with a bit each.
const MOST_BIT_DIMS: usize = 1024;
/// Most dimensions that are coded with a byte each.
const MOST_BYTE_DIMS: usize = 256;
/// Bits of a query's component that meets a bit.
const QUERY_PLANES: u32 = 6;

/// How the rows of a graph are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowCode {
    pub(crate) bits: Bits,
    pub(crate) dims: usize,
}

impl RowCode {
    /// The code for vectors of `dims` dimensions. A bit each says more than a byte each
    /// of an eighth of them, where there are enough.
    pub(crate) fn choose(dims: usize) -> Self {
        if dims >= CHUNK_DIMS {
            Self { bits: Bits::One, dims: dims.min(MOST_BIT_DIMS) }
        } else {
            Self { bits: Bits::Eight, dims: dims.min(MOST_BYTE_DIMS) }
        }
    }

    /// Bytes of a row's code.
    pub(crate) fn row_bytes(self) -> usize {
        match self.bits {
            Bits::One => self.dims.div_ceil(CHUNK_DIMS) * CHUNK_BYTES,
            _ => self.dims,
        }
    }

    /// Writes the code of `row` into zeros, and returns its factor.
    pub(super) fn encode(self, isa: Isa, row: &[f32], signed: &mut [i8], out: &mut [u8]) -> f32 {
        let (row, signed) = (&row[..self.dims], &mut signed[..self.dims]);
        if self.bits == Bits::One {
            for (j, (&x, sign)) in row.iter().zip(&mut *signed).enumerate() {
                out[j / 8] |= u8::from(x > 0.0) << (j % 8);
                *sign = if x > 0.0 { 1 } else { -1 };
            }
        } else {
            quantise(row, 127, signed);
            out.copy_from_slice(bytemuck::cast_slice(signed));
        }
        factor(isa, row, signed)
    }
}

/// A query prepared for the codes of a graph.
#[derive(Debug, Clone)]
pub(crate) struct RowQuery {
    isa: Isa,
    bits: Bits,
    /// The integers of the query.
    values: Vec<i8>,
    /// The integers as bit planes, for codes of a bit each.
    planes: RowPlanes,
    /// Turns a dot into a length along the query.
    scale: f32,
}

impl Default for RowQuery {
    fn default() -> Self {
        let (values, planes) = (Vec::new(), RowPlanes::default());
        Self { isa: Isa::detect(), bits: Bits::Eight, values, planes, scale: 0.0 }
    }
}

impl RowQuery {
    /// Prepares the first `dims` dimensions of `query`, or as many as the code has.
    #[cfg(test)]
    pub(super) fn new(code: RowCode, query: &[f32], dims: usize) -> Self {
        let mut new = Self::default();
        new.set(code, query, dims);
        new
    }

    /// Prepares the first `dims` dimensions of `query`, or as many as the code has, in the buffers
    /// of the query before.
    pub(crate) fn set(&mut self, code: RowCode, query: &[f32], dims: usize) {
        let prefix = &query[..dims.min(code.dims)];
        self.values.resize(prefix.len(), 0);
        let top = if code.bits == Bits::One { (1 << (QUERY_PLANES - 1)) - 1 } else { i8::MAX };
        let step = quantise(prefix, top, &mut self.values);
        let norm = prefix.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
        // A factor belongs to all dimensions of a code; see `encoding::scan`.
        let longer = (code.dims as f64 / prefix.len() as f64).sqrt();
        let scale = if norm > 0.0 { (step * longer / norm) as f32 } else { 0.0 };
        self.finish(code, scale);
    }

    /// A query that is a row itself, given as bytes that are proportional to it.
    pub(super) fn of_row(code: RowCode, row: &[i8]) -> Self {
        let mut new = Self::default();
        new.values.extend_from_slice(&row[..row.len().min(code.dims)]);
        if code.bits == Bits::One {
            let down = 8 - QUERY_PLANES;
            new.values.iter_mut().for_each(|v| *v >>= down);
        }
        let square: i32 = new.values.iter().map(|&v| i32::from(v).pow(2)).sum();
        new.finish(code, (1.0 / f64::from(square.max(1)).sqrt()) as f32);
        new
    }

    fn finish(&mut self, code: RowCode, scale: f32) {
        (self.bits, self.scale) = (code.bits, scale);
        if code.bits == Bits::One {
            self.planes.set(&self.values, QUERY_PLANES);
        }
    }

    /// The estimated cosine of each row, from its code and factor.
    pub(super) fn estimate(&self, codes: &[&[u8]], factors: &[f32], out: &mut [f32]) {
        let mut dots = [0; super::MAX_DEGREE];
        let dots = &mut dots[..codes.len()];
        if self.bits == Bits::One {
            bit_row_dots(self.isa, codes, &self.planes, dots);
        } else {
            let query = &self.values;
            for (code, dot) in codes.iter().zip(&mut *dots) {
                *dot = byte_row_dot(query, bytemuck::cast_slice(&code[..query.len()]));
            }
        }
        for ((score, &dot), factor) in out.iter_mut().zip(&*dots).zip(factors) {
            *score = factor * (dot as f32 * self.scale);
        }
    }
}

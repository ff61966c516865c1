//! The code of a stage: its layout, its size, and how rows are written in it.
//!
//! Rows stand in blocks of 64, dimension-major; all numbers are little-endian:
//!
//! ```text
//!   1 bit    words  = ceil(dims / 64), block = words x 64 lanes x u64
//!            bit j of word w of a lane is 1 iff component 64 w + j is > 0;
//!            bits past the last dimension are 0
//!   8 bits   groups = ceil(dims / 4), block = groups x 64 lanes x 4 bytes
//!            byte j of group g of a lane is 128 + round(x / step), x being component
//!            4 g + j and step the row's max |x| over 127; 128 past the last dimension
//!   4 bits   groups = ceil(dims / 8), block = groups x 64 lanes x 4 bytes
//!            byte j of group g of a lane is (c + 15) / 2 of component 8 g + j, plus 16 times
//!            that of component 8 g + 4 + j; see `nibble`; 8 past the last dimension
//! ```
//!
//! Lanes of the last block past the last row are coded as rows of zeros: zero
//! bits, bytes of 128, halves of 8.
//!
//! Beside the blocks stands one `f32` **factor** for each row. Let `c` be the row's signed
//! code (+-1 for a bit, the byte less 128) and `x` the prefix it codes. A query `q` has
//! `cos(x, q) = <x, q> / |x||q|`, and `c` points almost the way of `x`: the part of `c`
//! across `x` is nearly orthogonal to any `q` that does not know the code. So
//! `<c, q> ~ <c, x> <x, q> / |x|^2`, and
//!
//! ```text
//!   cos(x, q) ~ factor <c, q> / |q|     with  factor = |x| / <x, c>
//! ```
//!
//! which is the unbiased estimator of Gao and Long, `RaBitQ` (SIGMOD 2024, section
//! 3), without their rotation. A row of zeros has factor 0 and scores 0.
//!
//! 1-bit codes may be of what a row has beside a **centre** `m`, the mean of `x / |x|`
//! ([`super::centre`]): of vectors without negative components all signs are one. With
//! `y = x / |x| - m` and `c` its signs,
//!
//! ```text
//!   cos(x, q) ~ <b, q> / |q| + factor <c, q> / |q|     with  factor = |y|^2 / <y, c>
//! ```
//!
//! which is the above where `m` and `b` are zero; where they are not, a row of zeros is estimated as
//! `b` is. The **base** `b` is `m` less the mean of `factor c`: of skewed components more lie below
//! their mean than above, so that the codes have a mean of their own, along which queries lie that
//! are skewed likewise.
//!
//! A 4-bit code has two numbers a row instead, which say more: a **scale** `s` and a **residual**,
//! the distance of `s c` from `x / |x|`, rounded up. The scale is that of least squares, so
//! the residual is orthogonal to `c`, `|s c|^2 = 1 - residual^2`, and the factor is
//! `s / (1 - residual^2)`. And the residual *bounds* what the code does not say:
//! `|cos(x, q) - s <c, q> / |q|| <= residual`, by Cauchy and Schwarz.
//!
//! The same rows give the same bytes on every machine: sums are `f64` in the lanes
//! and order of [`crate::kernel::row`], and nothing fuses.

use std::fmt;
use std::ops::Range;

use super::centre::{centred_factor, subtract};
use super::nibble::{Coded, Quantiser};
use crate::kernel::{BLOCK, GROUP_BYTES, Isa, WORD_BYTES, coding};

/// Bits of each dimension in a stage code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bits {
    /// The sign.
    One,
    /// One of 16 values, scaled row by row, and how far that is from the row.
    Four,
    /// A signed byte, scaled row by row.
    Eight,
}

impl Bits {
    /// How many.
    pub const fn count(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The code with that many bits a dimension.
    pub const fn from_count(count: u32) -> Option<Self> {
        match count {
            1 => Some(Self::One),
            4 => Some(Self::Four),
            8 => Some(Self::Eight),
            _ => None,
        }
    }

    /// Dimensions a block interleaves: what a unit of a lane holds.
    const fn unit_dims(self) -> usize {
        match self {
            Self::One => 64,
            Self::Four => 8,
            Self::Eight => 4,
        }
    }

    /// Bytes of that unit for all lanes of a block.
    const fn unit_bytes(self) -> usize {
        match self {
            Self::One => WORD_BYTES,
            Self::Four | Self::Eight => GROUP_BYTES,
        }
    }

    /// The byte that stands for zeros, or past the last dimension or row.
    const fn blank(self) -> u8 {
        match self {
            Self::One => 0,
            Self::Four => 0x88,
            Self::Eight => 0x80,
        }
    }

    /// Numbers kept beside a row's code: its factor, or its scale and residual.
    const fn scalars(self) -> usize {
        match self {
            Self::One | Self::Eight => 1,
            Self::Four => 2,
        }
    }
}

/// A prefix and the bits each of its dimensions is coded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StageCode {
    /// Dimensions coded: the prefix.
    pub dims: usize,
    /// Bits of each.
    pub bits: Bits,
}

impl StageCode {
    /// The code of the first `dims` dimensions with `bits` bits each. Whether a
    /// collection can have it is for its schema to say.
    pub fn new(dims: usize, bits: Bits) -> Self {
        Self { dims, bits }
    }

    /// Words or groups of a block that hold the first `dims` dimensions.
    pub(super) fn units(self, dims: usize) -> usize {
        dims.div_ceil(self.bits.unit_dims())
    }

    /// Bytes of a block.
    pub(crate) fn block_bytes(self) -> usize {
        self.units(self.dims) * self.bits.unit_bytes()
    }

    /// Bytes of the code of `rows` rows, without factors.
    pub(crate) fn code_bytes(self, rows: usize) -> usize {
        rows.div_ceil(BLOCK) * self.block_bytes()
    }

    /// Bytes of the numbers beside the code of `rows` rows, their centre included.
    pub(crate) fn scalar_bytes(self, rows: usize) -> usize {
        (rows * self.bits.scalars() + self.centre_len()) * size_of::<f32>()
    }

    /// Numbers of the centre that rows are coded about, and of its base.
    pub(crate) fn centre_len(self) -> usize {
        if self.bits == Bits::One { 2 * self.dims } else { 0 }
    }

    /// Bytes of code and factor a scan of the first `dims` dimensions reads for each row.
    pub(crate) fn scanned_bytes_per_row(self, dims: usize) -> usize {
        let scalars = self.bits.scalars() * size_of::<f32>();
        self.units(dims) * self.bits.unit_bytes() / BLOCK + scalars
    }

    /// Bytes of code and factor each row takes.
    pub(crate) fn bytes_per_row(self) -> usize {
        self.scanned_bytes_per_row(self.dims)
    }
}

impl fmt::Display for StageCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit x {}", self.bits.count(), self.dims)
    }
}

/// Codes rows one at a time, in order.
#[derive(Debug, Clone)]
pub struct StageBuilder {
    code: StageCode,
    blocks: Vec<u8>,
    /// Factors, or scales.
    factors: Vec<f32>,
    /// Of 4-bit codes.
    residuals: Vec<f32>,
    /// Of 1-bit codes, and then its base; all zeros where rows are coded as they are.
    centre: Vec<f32>,
    centred: bool,
    /// What the row at hand has beside the centre.
    beside: Vec<f32>,
    /// Signed codes of the row at hand.
    signed: Vec<i8>,
    nibbles: Quantiser,
    isa: Isa,
}

impl StageBuilder {
    /// No rows yet.
    pub fn new(code: StageCode) -> Self {
        Self::with_isa(code, Isa::detect())
    }

    /// No rows yet; they will be coded with these instructions. Every instruction set makes the same
    /// bytes.
    pub fn with_isa(code: StageCode, isa: Isa) -> Self {
        Self {
            isa,
            code,
            blocks: Vec::new(),
            factors: Vec::new(),
            residuals: Vec::new(),
            centre: vec![0.0; code.centre_len()],
            centred: false,
            beside: vec![0.0; code.centre_len() / 2],
            signed: vec![0; code.dims],
            nibbles: Quantiser::default(),
        }
    }

    /// No rows yet, and room for `rows` of them.
    pub fn with_room(code: StageCode, rows: usize) -> Self {
        let mut builder = Self::new(code);
        builder.blocks.reserve_exact(code.code_bytes(rows));
        builder.factors.reserve_exact(rows);
        builder
    }

    /// This builder, for rows that are coded about a centre, which its base follows; only 1-bit codes
    /// have one.
    ///
    /// # Panics
    /// When it has another length.
    #[must_use]
    pub fn about(mut self, centre: &[f32]) -> Self {
        self.centre.copy_from_slice(centre);
        self.centred = centre.iter().any(|m| *m != 0.0);
        self
    }

    /// Rows coded so far.
    pub fn rows(&self) -> usize {
        self.factors.len()
    }

    /// Codes the first dimensions of `row`.
    ///
    /// # Panics
    /// When `row` is shorter than the prefix.
    pub fn push(&mut self, row: &[f32]) {
        let prefix = &row[..self.code.dims];
        debug_assert!(prefix.iter().all(|v| v.is_finite()), "rows are checked before");
        let lane = self.rows() % BLOCK;
        if lane == 0 {
            let len = self.blocks.len() + self.code.block_bytes();
            self.blocks.resize(len, self.code.bits.blank());
        }
        let start = self.blocks.len() - self.code.block_bytes();
        let block = &mut self.blocks[start..];
        match self.code.bits {
            Bits::One if self.centred => {
                let Self { isa, beside, centre, signed, .. } = self;
                subtract(*isa, prefix, centre, beside);
                put_signs(beside, signed, block, lane);
                self.factors.push(centred_factor(*isa, beside, signed));
                return;
            }
            Bits::One => put_signs(prefix, &mut self.signed, block, lane),
            Bits::Eight => put_bytes(prefix, &mut self.signed, block, lane),
            Bits::Four => {
                let Coded { scale, residual } =
                    self.nibbles.code(self.isa, prefix, &mut self.signed);
                put_nibbles(&self.signed, block, lane);
                self.factors.push(scale);
                self.residuals.push(residual);
                return;
            }
        }
        self.factors.push(factor(self.isa, prefix, &self.signed));
    }

    /// Takes over rows that were coded before.
    ///
    /// # Panics
    /// When they are of another code, or about another centre, or there are fewer.
    pub fn extend(&mut self, from: &StageView<'_>, rows: Range<usize>) {
        assert_eq!(from.code, self.code, "codes of another kind");
        debug_assert!(from.is_about(&self.centre), "codes about another centre");
        let width = self.code.bits.unit_bytes() / BLOCK;
        let (unit, block) = (width * BLOCK, self.code.block_bytes());
        let mut row = rows.start;
        while row < rows.end {
            let (lane, to) = (row % BLOCK, self.rows() % BLOCK);
            let count = (BLOCK - lane.max(to)).min(rows.end - row);
            if to == 0 {
                self.blocks.resize(self.blocks.len() + block, self.code.bits.blank());
            }
            let start = self.blocks.len() - block;
            let units = from.blocks[row / BLOCK * block..][..block].chunks_exact(unit);
            for (into, unit) in self.blocks[start..].chunks_exact_mut(unit).zip(units) {
                let lanes = &unit[lane * width..][..count * width];
                into[to * width..][..count * width].copy_from_slice(lanes);
            }
            self.factors.extend_from_slice(&from.factors[row..row + count]);
            if self.code.bits == Bits::Four {
                self.residuals.extend_from_slice(&from.residuals[row..row + count]);
            }
            row += count;
        }
    }

    /// The rows coded so far.
    pub fn view(&self) -> StageView<'_> {
        let Self { code, blocks, factors, residuals, centre, .. } = self;
        StageView { code: *code, blocks, factors, residuals, centre }
    }

    /// Blocks, and factors; of 1-bit codes then the centre, of 4-bit codes all scales, then all
    /// residuals.
    pub fn finish(mut self) -> (Vec<u8>, Vec<f32>) {
        self.factors.append(&mut self.residuals);
        self.factors.append(&mut self.centre);
        (self.blocks, self.factors)
    }
}

/// 1 for a component above zero, else -1.
pub(super) fn signs_of(prefix: &[f32], signed: &mut [i8]) {
    for (sign, &x) in signed.iter_mut().zip(prefix) {
        *sign = if x > 0.0 { 1 } else { -1 };
    }
}

fn put_signs(prefix: &[f32], signed: &mut [i8], block: &mut [u8], lane: usize) {
    signs_of(prefix, signed);
    for (word, signs) in block.as_chunks_mut::<WORD_BYTES>().0.iter_mut().zip(signed.chunks(64)) {
        let mut bytes = [0; 8];
        for (byte, signs) in bytes.iter_mut().zip(signs.chunks(8)) {
            let mut eight = [-1; 8];
            eight[..signs.len()].copy_from_slice(signs);
            *byte = bits_of(eight);
        }
        word.as_chunks_mut::<8>().0[lane] = bytes;
    }
}

/// Bit `j` is 1 iff sign `j` is positive.
fn bits_of(signs: [i8; 8]) -> u8 {
    let signs = u64::from_le_bytes(signs.map(i8::cast_unsigned));
    let ones = !signs >> 7 & 0x0101_0101_0101_0101;
    // The product brings the lowest bit of byte `j` to bit `56 + j`, without a carry.
    (ones.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
}

fn put_bytes(prefix: &[f32], signed: &mut [i8], block: &mut [u8], lane: usize) {
    quantise(prefix, 127, signed);
    for (g, codes) in signed.chunks(4).enumerate() {
        let at = g * GROUP_BYTES + lane * 4;
        for (byte, &code) in block[at..at + 4].iter_mut().zip(codes) {
            *byte = code.cast_unsigned() ^ 0x80;
        }
    }
}

fn put_nibbles(signed: &[i8], block: &mut [u8], lane: usize) {
    let mut groups = block.as_chunks_mut::<GROUP_BYTES>().0.iter_mut();
    let (eights, rest) = signed.as_chunks::<8>();
    for (eight, group) in eights.iter().zip(&mut groups) {
        group.as_chunks_mut::<4>().0[lane] = nibbles_of(*eight);
    }
    if let Some(group) = groups.next() {
        // What is past the last dimension stands for 1: half a step above zero.
        let mut eight = [1; 8];
        eight[..rest.len()].copy_from_slice(rest);
        group.as_chunks_mut::<4>().0[lane] = nibbles_of(eight);
    }
}

/// `(c + 15) / 2` of two codes in each byte.
fn nibbles_of(codes: [i8; 8]) -> [u8; 4] {
    let half = |c: i8| (c.cast_unsigned().wrapping_add(15)) >> 1;
    std::array::from_fn(|j| half(codes[j]) | half(codes[j + 4]) << 4)
}

/// Rounds `values` to `-top..=top`, the largest magnitude becoming `top`.
/// Returns the step, in `f64` because that of tiny values is no `f32`.
pub(crate) fn quantise(values: &[f32], top: i8, out: &mut [i8]) -> f64 {
    let largest = values.iter().fold(0f32, |m, v| m.max(v.abs()));
    let step = f64::from(largest) / f64::from(top);
    if largest == 0.0 {
        out.fill(0);
        return 0.0;
    }
    for (code, &value) in out.iter_mut().zip(values) {
        // Adding 1.5 * 2^52 rounds to the nearest integer, ties to even, and leaves it in the low
        // bits: without SSE4.1 `round_ties_even` is a call, and coding takes five times as long.
        *code = (f64::from(value) / step + 6_755_399_441_055_744.0).to_bits() as i8;
    }
    step
}

/// `|x| / <x, c>`, or 0 for a row of zeros.
pub(crate) fn factor(isa: Isa, prefix: &[f32], signed: &[i8]) -> f32 {
    let (square, dot) = (coding::squares(isa, prefix), coding::signed_dot(isa, prefix, signed));
    if dot > 0.0 { (square.sqrt() / dot) as f32 } else { 0.0 }
}

/// Coded rows, wherever their bytes live.
#[derive(Debug, Clone, Copy)]
pub struct StageView<'a> {
    pub(super) code: StageCode,
    pub(super) blocks: &'a [u8],
    pub(super) factors: &'a [f32],
    pub(super) residuals: &'a [f32],
    pub(super) centre: &'a [f32],
}

impl<'a> StageView<'a> {
    /// The blocks of some rows, and the factor of each; of 1-bit codes then the centre, of 4-bit
    /// codes all scales, then all residuals. `None` when the lengths do not fit.
    pub fn new(code: StageCode, blocks: &'a [u8], scalars: &'a [f32]) -> Option<Self> {
        let (scalars, centre) = scalars.split_at(scalars.len().checked_sub(code.centre_len())?);
        let (factors, residuals) = match code.bits {
            Bits::Four => scalars.split_at(scalars.len() / 2),
            Bits::One | Bits::Eight => (scalars, &scalars[..0]),
        };
        let fits = blocks.len() == code.code_bytes(factors.len())
            && residuals.len() == factors.len() * (code.bits.scalars() - 1);
        fits.then_some(Self { code, blocks, factors, residuals, centre })
    }

    /// What 1-bit codes are coded about, and then its base.
    pub fn centre(&self) -> &'a [f32] {
        self.centre
    }

    /// What all rows have in common, as far as estimates go.
    pub(crate) fn base(&self) -> &'a [f32] {
        &self.centre[self.centre.len() / 2..]
    }

    /// Whether rows are coded about this centre, to the bit.
    pub(crate) fn is_about(&self, centre: &[f32]) -> bool {
        self.centre.iter().map(|m| m.to_bits()).eq(centre.iter().map(|m| m.to_bits()))
    }

    /// Numbers of one kind beside the rows: factors, or scales and residuals.
    pub(crate) fn scalars(&self) -> impl Iterator<Item = &'a [f32]> {
        [self.factors, self.residuals].into_iter().take(self.code.bits.scalars())
    }

    /// The code.
    pub fn code(&self) -> StageCode {
        self.code
    }

    /// Rows coded.
    pub fn rows(&self) -> usize {
        self.factors.len()
    }
}

#[cfg(any(test, feature = "testing"))]
impl<'a> StageView<'a> {
    /// The blocks.
    pub fn blocks(&self) -> &'a [u8] {
        self.blocks
    }

    /// Signed code of component `dim` of `row`: +-1, an odd number -15..=15, or -127..=127.
    pub fn signed(&self, row: usize, dim: usize) -> i32 {
        let block = &self.blocks[row / BLOCK * self.code.block_bytes()..];
        let lane = row % BLOCK;
        match self.code.bits {
            Bits::One => {
                let byte = block[dim / 64 * WORD_BYTES + lane * 8 + dim % 64 / 8];
                i32::from(byte >> (dim % 8) & 1) * 2 - 1
            }
            Bits::Four => {
                let byte = block[dim / 8 * GROUP_BYTES + lane * 4 + dim % 4];
                2 * i32::from(byte >> (dim % 8 / 4 * 4) & 15) - 15
            }
            Bits::Eight => i32::from(block[dim / 4 * GROUP_BYTES + lane * 4 + dim % 4]) - 128,
        }
    }

    /// The factor of `row`.
    pub fn factor(&self, row: usize) -> f32 {
        match self.code.bits {
            Bits::Four => unbiased(self.factors[row], self.residuals[row]),
            Bits::One | Bits::Eight => self.factors[row],
        }
    }

    /// Scale and residual of `row` in a 4-bit code.
    pub fn scale(&self, row: usize) -> Option<(f32, f32)> {
        self.residuals.get(row).map(|residual| (self.factors[row], *residual))
    }
}

/// The factor that belongs to a scale. A code that says nothing, with a residual of almost 1, must
/// not divide by nothing.
pub(super) fn unbiased(scale: f32, residual: f32) -> f32 {
    scale / (1.0 - residual * residual).max(0.01)
}

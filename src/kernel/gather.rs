//! One query against 1-bit rows that lie apart: what a walk over a graph scores.
//!
//! A scan reads blocks of 64 rows, dimension-major. A walk meets a few dozen rows from
//! all over a segment, so their codes stand row by row here: [`CHUNK_BYTES`] bytes hold 512
//! dimensions of one row, a cache line, and a row is as many of them as its dimensions
//! need. The dot is the same integer that a scan would find.

use simsimd::SpatialSimilarity;

use super::Isa;

/// Bytes that a row's code is a multiple of: one cache line, 512 dimensions.
pub(crate) const CHUNK_BYTES: usize = 64;

/// Dimensions of a chunk.
pub(crate) const CHUNK_DIMS: usize = CHUNK_BYTES * 8;

/// A query of small signed integers as bit planes, laid out for rows: for each chunk of
/// 512 dimensions all planes, 64 bytes each.
///
/// As in [`super::BitPlanes`], plane `p` weighs `1 << p`, and the last one minus that.
#[derive(Debug, Clone, Default)]
pub(crate) struct RowPlanes {
    planes: Vec<[u8; CHUNK_BYTES]>,
    weights: Vec<i8>,
    sum: i32,
}

impl RowPlanes {
    #[cfg(test)]
    fn new(values: &[i8], bits: u32) -> Self {
        let mut planes = Self::default();
        planes.set(values, bits);
        planes
    }

    /// Splits `values`, each of which must fit `bits` bits (2..=8), into planes, in the buffers of
    /// the query before.
    ///
    /// # Panics
    /// When `bits` is out of range or a value does not fit.
    pub(crate) fn set(&mut self, values: &[i8], bits: u32) {
        assert!((2..=8).contains(&bits), "{bits} planes");
        let limit = 1i16 << (bits - 1);
        let count = bits as usize;
        let Self { planes, weights, sum } = self;
        planes.clear();
        planes.resize(values.len().div_ceil(CHUNK_DIMS) * count, [0; CHUNK_BYTES]);
        for (i, &value) in values.iter().enumerate() {
            assert!((-limit..limit).contains(&i16::from(value)), "{value} in {bits} bits");
            let chunk = &mut planes[i / CHUNK_DIMS * count..][..count];
            for (p, plane) in chunk.iter_mut().enumerate() {
                plane[i % CHUNK_DIMS / 8] |= ((value >> p & 1) as u8) << (i % 8);
            }
        }
        let weight = |p: u32| if p + 1 == bits { -1i16 << p } else { 1i16 << p } as i8;
        weights.clear();
        weights.extend((0..bits).map(weight));
        *sum = values.iter().map(|&v| i32::from(v)).sum();
    }

    /// Bytes of a row the query reads.
    pub(crate) fn row_bytes(&self) -> usize {
        self.planes.len() / self.weights.len() * CHUNK_BYTES
    }
}

/// What the kernels for x86 read; the others ask for dimensions one by one.
#[cfg(target_arch = "x86_64")]
impl RowPlanes {
    /// All planes, chunk by chunk.
    pub(super) fn planes(&self) -> &[[u8; CHUNK_BYTES]] {
        &self.planes
    }

    /// What each plane of a chunk weighs.
    pub(super) fn weights(&self) -> &[i8] {
        &self.weights
    }

    /// Sum of the components.
    pub(super) fn sum(&self) -> i32 {
        self.sum
    }
}

/// Signed dots of the query with each row: the sum over the query's dimensions of `+q`
/// where the row's bit is 1 and `-q` where it is 0.
///
/// # Panics
/// When a row is shorter than the query, or there are fewer `out` than rows.
pub(crate) fn bit_row_dots(isa: Isa, rows: &[&[u8]], query: &RowPlanes, out: &mut [i32]) {
    let bytes = query.row_bytes();
    assert!(rows.iter().all(|row| row.len() >= bytes), "a row is shorter than the query");
    assert!(out.len() >= rows.len(), "one dot per row");
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(cpu) => cpu.bit_row_dots(rows, query, out),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(cpu) => cpu.bit_row_dots(rows, query, out),
        // NEON counts bits in what the compiler makes of the definition.
        _ => scalar(rows, query, out),
    }
}

/// The definition.
fn scalar(rows: &[&[u8]], query: &RowPlanes, out: &mut [i32]) {
    for (row, dot) in rows.iter().zip(out) {
        let mut set = 0;
        let planes = query.planes.chunks(query.weights.len());
        for (code, planes) in row.as_chunks::<CHUNK_BYTES>().0.iter().zip(planes) {
            for (plane, &weight) in planes.iter().zip(&query.weights) {
                set += i32::from(weight) * common(code, plane);
            }
        }
        *dot = 2 * set - query.sum;
    }
}

/// Bits that both have.
fn common(a: &[u8; CHUNK_BYTES], b: &[u8; CHUNK_BYTES]) -> i32 {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let count = |(a, b): (&[u8; 8], &[u8; 8])| {
        (u64::from_le_bytes(*a) & u64::from_le_bytes(*b)).count_ones()
    };
    words.map(count).sum::<u32>().cast_signed()
}

/// Dot product of two rows of signed bytes. An integer, so every machine finds the same.
///
/// # Panics
/// When their lengths differ, or are such that the sum leaves `i32` (131 072 and above).
pub(crate) fn byte_row_dot(a: &[i8], b: &[i8]) -> i32 {
    assert!(a.len() < 1 << 17, "{} bytes in a row", a.len());
    i8::dot(a, b).expect("rows of one length") as i32
}

/// Asks for bytes that will be read in a moment. Does nothing where the CPU offers no way.
pub(crate) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    super::x86::prefetch_bytes(bytes);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_isa_finds_the_sum_over_the_dimensions(
            values in prop::collection::vec(-8i8..8, 1..1300),
            rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 192), 0..9),
            wide: bool,
        ) {
            // Eight bits use the whole range, and the largest sums.
            let values: Vec<i8> =
                values.iter().map(|v| if wide { v.saturating_mul(16) } else { *v }).collect();
            let query = RowPlanes::new(&values, if wide { 8 } else { 4 });
            let sign = |row: &[u8], j: usize| if row[j / 8] >> (j % 8) & 1 == 1 { 1 } else { -1 };
            let expected: Vec<i32> = rows
                .iter()
                .map(|row| (0..values.len()).map(|j| sign(row, j) * i32::from(values[j])).sum())
                .collect();
            let slices: Vec<&[u8]> = rows.iter().map(Vec::as_slice).collect();
            for isa in Isa::available() {
                let mut out = vec![0; rows.len()];
                bit_row_dots(isa, &slices, &query, &mut out);
                prop_assert_eq!(&out, &expected, "{}", isa);
            }
        }
    }

    proptest! {
        #[test]
        fn byte_dots_are_exact(a in prop::collection::vec(-128i8..=127, 0..700), shift in 0usize..9) {
            let mut b = a.clone();
            b.rotate_left(shift.min(a.len()));
            let sum: i32 = a.iter().zip(&b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
            prop_assert_eq!(byte_row_dot(&a, &b), sum);
            let far = vec![-128i8; a.len()];
            prop_assert_eq!(byte_row_dot(&far, &far), 128 * 128 * a.len() as i32);
        }
    }

    #[test]
    fn the_largest_dot_does_not_overflow() {
        let query = RowPlanes::new(&[-128; 4096], 8);
        let row = [0xff; 512];
        for isa in Isa::available() {
            let mut out = [0];
            bit_row_dots(isa, &[&row], &query, &mut out);
            assert_eq!(out, [-128 * 4096], "{isa}");
        }
    }
}

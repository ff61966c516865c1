//! Full vectors to little-endian bytes and back.

use crate::error::Error;
use crate::kernel::Precision;
use bytemuck::NoUninit;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::fmt;
use std::str::FromStr;

/// Components converted at once: asking the CPU what it can do costs more than one.
const CONVERTED_AT_ONCE: usize = 64;

impl Precision {
    /// All precisions, finest first.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::BF16];

    /// Its name, as the command line and the schema write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
        }
    }

    /// Appends `vector` to `out`, each component rounded to nearest, ties to even.
    ///
    /// # Errors
    /// The index of the first component that is finite but too large for this
    /// precision; `out` is then as it was.
    pub(crate) fn encode(self, vector: &[f32], out: &mut Vec<u8>) -> Result<(), usize> {
        let start = out.len();
        out.reserve(vector.len() * self.bytes());
        let infinite = match self {
            Self::F32 => {
                put(out, vector, f32::to_le_bytes);
                None
            }
            Self::F16 => put_halves(out, vector, f16::ZERO, f16::is_infinite),
            Self::BF16 => put_halves(out, vector, bf16::ZERO, bf16::is_infinite),
        };
        infinite.map_or(Ok(()), |at| {
            out.truncate(start);
            Err(at)
        })
    }

    /// Widens stored components into `out`, as many as it has room for.
    ///
    /// # Panics
    /// When `row` has fewer.
    pub(crate) fn decode(self, row: &[u8], out: &mut [f32]) {
        let row = &row[..out.len() * self.bytes()];
        match self {
            Self::F32 => widen(row, out, f32::from_le_bytes),
            Self::F16 => {
                for (out, row) in
                    out.chunks_mut(CONVERTED_AT_ONCE).zip(row.chunks(2 * CONVERTED_AT_ONCE))
                {
                    let mut halves = [f16::ZERO; CONVERTED_AT_ONCE];
                    for (half, bytes) in halves.iter_mut().zip(row.as_chunks().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    halves[..out.len()].convert_to_f32_slice(out);
                }
            }
            Self::BF16 => widen(row, out, |b| bf16::from_le_bytes(b).to_f32()),
        }
    }
}

fn widen<const N: usize>(row: &[u8], out: &mut [f32], read: impl Fn([u8; N]) -> f32) {
    for (value, bytes) in out.iter_mut().zip(row.as_chunks::<N>().0) {
        *value = read(*bytes);
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Appends components rounded to halves of a kind, up to those among which is the first that is
/// finite and becomes infinite, and says which that is.
fn put_halves<H: Copy>(
    out: &mut Vec<u8>,
    vector: &[f32],
    zero: H,
    is_infinite: fn(H) -> bool,
) -> Option<usize>
where
    [H]: HalfFloatSliceExt,
{
    for (r, run) in vector.chunks(CONVERTED_AT_ONCE).enumerate() {
        let mut halves = [zero; CONVERTED_AT_ONCE];
        let halves = &mut halves[..run.len()];
        halves.convert_from_f32_slice(run);
        put(out, halves.reinterpret_cast(), u16::to_le_bytes);
        let infinite = halves.iter().zip(run).position(|(h, v)| is_infinite(*h) && v.is_finite());
        if let Some(i) = infinite {
            return Some(r * CONVERTED_AT_ONCE + i);
        }
    }
    None
}

/// Appends values as little-endian bytes: where the machine is, a plain copy.
fn put<T: NoUninit, const N: usize>(out: &mut Vec<u8>, values: &[T], bytes: impl Fn(T) -> [u8; N]) {
    if cfg!(target_endian = "little") {
        out.extend_from_slice(bytemuck::cast_slice(values));
    } else {
        values.iter().for_each(|value| out.extend(bytes(*value)));
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let known = Self::ALL.into_iter().find(|p| p.name() == name);
        known.ok_or_else(|| {
            Error::invalid("precision", format!("expected f32, f16 or bf16, got {name:?}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(precision: Precision, vector: &[f32]) -> Result<Vec<f32>, usize> {
        let mut bytes = vec![7];
        precision.encode(vector, &mut bytes)?;
        assert_eq!(bytes.len(), 1 + vector.len() * precision.bytes());
        let mut back = vec![0.0; vector.len()];
        precision.decode(&bytes[1..], &mut back);
        Ok(back)
    }

    proptest! {
        #[test]
        fn f32_is_kept_bit_for_bit(bits in prop::collection::vec(any::<u32>(), 0..40)) {
            let vector: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
            let back = round_trip(Precision::F32, &vector).unwrap();
            let back: Vec<u32> = back.iter().map(|v| v.to_bits()).collect();
            prop_assert_eq!(back, bits);
        }

        #[test]
        fn halves_err_by_half_a_unit_at_most(
            vector in prop::collection::vec(-6e4f32..6e4, 1..200),
        ) {
            let units = [(Precision::F16, 2f32.powi(-11)), (Precision::BF16, 2f32.powi(-8))];
            for (precision, unit) in units {
                let once = round_trip(precision, &vector).unwrap();
                for (a, b) in vector.iter().zip(&once) {
                    prop_assert!((a - b).abs() <= a.abs() * unit + 3e-8, "{precision}: {a} {b}");
                }
                let again = round_trip(precision, &once).unwrap();
                prop_assert_eq!(again, once, "stored values are fixed points");
            }
        }
    }

    #[test]
    fn ties_round_to_even() {
        // 2049 and 2051 lie between the f16 neighbours 2048, 2050 and 2052.
        let back = round_trip(Precision::F16, &[2049.0, 2051.0]).unwrap();
        assert_eq!(back, [2048.0, 2052.0]);
        let back = round_trip(Precision::BF16, &[257.0, 259.0]).unwrap();
        assert_eq!(back, [256.0, 260.0]);
    }

    #[test]
    fn the_first_component_that_overflows_is_named() {
        let mut out = vec![1, 2, 3];
        let vector = [65504.0, 65519.0, 65520.0, 1e9];
        assert_eq!(Precision::F16.encode(&vector, &mut out), Err(2));
        let far = [vec![0.0; 150], vec![-7e4]].concat();
        assert_eq!(Precision::F16.encode(&far, &mut out), Err(150));
        assert_eq!(out, [1, 2, 3]);
        assert_eq!(Precision::BF16.encode(&[1.0, f32::MAX], &mut out), Err(1));
        assert_eq!(Precision::BF16.encode(&vector, &mut out), Ok(()));
    }

    #[test]
    fn names_parse_back() {
        for precision in Precision::ALL {
            assert_eq!(precision.name().parse::<Precision>().unwrap(), precision);
        }
        let why = "f8".parse::<Precision>().unwrap_err().to_string();
        assert!(why.contains("bf16") && why.contains("f8"), "{why}");
    }
}

//! Every instruction set against the definition, bit for bit.
//!
//! A CPU that lacks one skips it, unless `MATRYO_TEST_ARCH=all` forbids skipping.

use super::*;
use proptest::prelude::*;

/// The instruction sets under test: all but the definition itself.
fn others() -> Vec<Isa> {
    Isa::available().into_iter().filter(|&isa| isa != Isa::Scalar).collect()
}

/// A word of pseudo-random bits for each index: sizes are what proptest varies.
fn noise(seed: u64, i: usize) -> u64 {
    let mut x = seed ^ (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| noise(seed, i) as u8).collect()
}

/// Finite components over many magnitudes, some of them exactly zero or subnormal.
fn components(seed: u64, len: usize) -> Vec<f32> {
    let component = |i| {
        let bits = noise(seed, i) as u32;
        match bits % 16 {
            0 => 0.0,
            1 => f32::from_bits(bits & 0x807f_ffff),
            2 => f32::from_bits(bits) % 1e30,
            _ => (bits as i32) as f32 * 2f32.powi(-31),
        }
    };
    (0..len).map(component).map(|v: f32| if v.is_finite() { v } else { 1.0 }).collect()
}

#[test]
fn no_instruction_set_is_skipped_when_all_are_asked_for() {
    let have: Vec<_> = Isa::available().iter().map(|isa| isa.name()).collect();
    if std::env::var("MATRYO_TEST_ARCH").as_deref() == Ok("all") {
        assert_eq!(have, Isa::NAMES, "this CPU cannot test all kernels");
    }
    assert!(have.contains(&"scalar"));
    assert!(Isa::NAMES.contains(&Isa::detect().name()));
}

proptest! {
    #[test]
    fn bit_dots_are_the_same_integers(
        seed: u64, blocks in 0usize..6, words in 1usize..9, bits in 2u32..9, short in 0usize..200,
    ) {
        let dims = (words * 64).saturating_sub(short).max(1);
        let codes = bytes(seed, blocks * words * WORD_BYTES);
        let shift = 8 - bits;
        let values: Vec<i8> = (0..dims).map(|i| (noise(!seed, i) as i8) >> shift).collect();
        let query = BitPlanes::new(&values, bits);
        let mut expected = vec![0; blocks * BLOCK];
        bit_dots(Isa::Scalar, &codes, words, &query, &mut expected);
        for isa in others() {
            let mut got = vec![-1; blocks * BLOCK];
            bit_dots(isa, &codes, words, &query, &mut got);
            prop_assert_eq!(&got, &expected, "{}", isa);
        }
    }

    #[test]
    fn the_bit_definition_is_a_signed_dot(
        seed: u64, words in 1usize..4, bits in 2u32..9, short in 0usize..64,
    ) {
        let dims = words * 64 - short;
        let codes = bytes(seed, words * WORD_BYTES);
        let values: Vec<i8> = (0..dims).map(|i| (noise(!seed, i) as i8) >> (8 - bits)).collect();
        let mut dots = vec![0; BLOCK];
        bit_dots(Isa::Scalar, &codes, words, &BitPlanes::new(&values, bits), &mut dots);
        for (lane, &dot) in dots.iter().enumerate() {
            let bit = |i: usize| codes[i / 64 * WORD_BYTES + lane * 8 + i % 64 / 8] >> (i % 8) & 1;
            let signed = |i: usize| if bit(i) == 1 { 1 } else { -1 };
            let terms = values.iter().enumerate().map(|(i, &q)| signed(i) * i32::from(q));
            let naive: i32 = terms.sum();
            prop_assert_eq!(dot, naive);
        }
    }

    #[test]
    fn byte_dots_are_the_same_integers(
        seed: u64, blocks in 0usize..6, groups in 1usize..40, short in 0usize..100, extreme: bool,
    ) {
        let dims = (groups * 4).saturating_sub(short).max(1);
        let codes = bytes(seed, blocks * groups * GROUP_BYTES);
        // The extremes are where an instruction that saturates would show.
        let code = |&c: &u8| if extreme { 255 * (c & 1) } else { c };
        let codes: Vec<u8> = codes.iter().map(code).collect();
        let value = |i| match noise(!seed, i) as i8 {
            v if extreme => 127 * ((v & 1) * 2 - 1),
            v => v.max(-127),
        };
        let values: Vec<i8> = (0..dims).map(value).collect();
        let query = ByteLanes::new(&values);
        let mut expected = vec![0; blocks * BLOCK];
        byte_dots(Isa::Scalar, &codes, groups, &query, &mut expected);
        let naive = |block: &[u8], lane: usize| -> i32 {
            let code = |i: usize| i32::from(block[i / 4 * GROUP_BYTES + lane * 4 + i % 4]) - 128;
            values.iter().enumerate().map(|(i, &q)| code(i) * i32::from(q)).sum()
        };
        for (block, dots) in codes.chunks(groups * GROUP_BYTES).zip(expected.chunks(BLOCK)) {
            prop_assert_eq!(naive(block, 17), dots[17]);
        }
        for isa in others() {
            let mut got = vec![-1; blocks * BLOCK];
            byte_dots(isa, &codes, groups, &query, &mut got);
            prop_assert_eq!(&got, &expected, "{}", isa);
        }
        let codes: Vec<u8> = codes.into_iter().map(|c| c.max(1)).collect();
        byte_squares(Isa::Scalar, &codes, groups, &query, &mut expected);
        for (block, squares) in codes.chunks(groups * GROUP_BYTES).zip(expected.chunks(BLOCK)) {
            let code = |i: usize| i32::from(block[i / 4 * GROUP_BYTES + 17 * 4 + i % 4]) - 128;
            prop_assert_eq!((0..dims).map(|i| code(i).pow(2)).sum::<i32>(), squares[17]);
        }
        for isa in others() {
            let mut got = vec![-1; blocks * BLOCK];
            byte_squares(isa, &codes, groups, &query, &mut got);
            prop_assert_eq!(&got, &expected, "squares, {}", isa);
        }
    }

    #[test]
    fn nibble_dots_are_the_same_integers(
        seed: u64, blocks in 0usize..6, groups in 1usize..40, short in 0usize..200, extreme: bool,
    ) {
        let dims = (groups * 8).saturating_sub(short).max(1);
        let codes = bytes(seed, blocks * groups * GROUP_BYTES);
        // The extremes are where a 16-bit sum of too many products would show.
        let codes: Vec<u8> = codes.iter().map(|&c| if extreme { c | 0xee } else { c }).collect();
        let value = |i| match noise(!seed, i) as i8 {
            v if extreme => if v == 5 { -127 } else { 127 },
            v => v.max(-127),
        };
        let values: Vec<i8> = (0..dims).map(value).collect();
        let query = ByteLanes::new(&values);
        let mut expected = vec![0; blocks * BLOCK];
        nibble_dots(Isa::Scalar, &codes, groups, &query, &mut expected);
        for (block, dots) in codes.chunks(groups * GROUP_BYTES).zip(expected.chunks(BLOCK)) {
            let code = |i: usize| {
                let byte = block[i / 8 * GROUP_BYTES + 17 * 4 + i % 4];
                2 * i32::from(byte >> (i % 8 / 4 * 4) & 15) - 15
            };
            let naive: i32 = values.iter().enumerate().map(|(i, &q)| code(i) * i32::from(q)).sum();
            prop_assert_eq!(naive, dots[17]);
        }
        for isa in others() {
            let mut got = vec![-1; blocks * BLOCK];
            nibble_dots(isa, &codes, groups, &query, &mut got);
            prop_assert_eq!(&got, &expected, "{}", isa);
        }
    }

    #[test]
    fn four_queries_in_one_pass_get_the_dots_of_each(
        seed: u64, blocks in 0usize..5, groups in 1usize..12, short in 0usize..50, uneven: bool,
    ) {
        let codes = bytes(seed, blocks * groups * GROUP_BYTES);
        let lanes: [ByteLanes; QUERIES_PER_PASS] = std::array::from_fn(|q| {
            let longer = if uneven { 8 * q } else { 0 };
            let dims = (groups * 8).saturating_sub(short + longer).max(1);
            let value = |i| (noise(!seed, q * 9999 + i) as i8).max(-127);
            ByteLanes::new(&(0..dims).map(value).collect::<Vec<_>>())
        });
        let each = blocks * BLOCK;
        for isa in Isa::available() {
            let (mut got, mut expected) = (vec![-1; QUERIES_PER_PASS * each], vec![0; each]);
            nibble_dots_of_four(isa, &codes, groups, lanes.each_ref(), &mut got);
            for (q, query) in lanes.iter().enumerate() {
                nibble_dots(Isa::Scalar, &codes, groups, query, &mut expected);
                prop_assert_eq!(&got[q * each..(q + 1) * each], &expected[..], "{}", isa);
            }
        }
    }

    #[test]
    fn row_scores_have_the_same_bits(seed: u64, dims in 0usize..200, extra in 0usize..9) {
        let query = components(seed, dims);
        for precision in [Precision::F32, Precision::F16, Precision::BF16] {
            let mut row = Vec::new();
            let stored = components(!seed, dims + extra);
            match precision {
                Precision::F32 => stored.iter().for_each(|v| row.extend(v.to_le_bytes())),
                // Any finite half, subnormal ones among them: the top exponent is avoided.
                Precision::F16 => row.extend((0..dims + extra)
                    .flat_map(|i| ((noise(!seed, i) as u16) & 0xbbff).to_le_bytes())),
                Precision::BF16 => row.extend(stored.iter()
                    .flat_map(|v| (((v.to_bits() & 0xff7f_ffff) >> 16) as u16).to_le_bytes())),
            }
            let scalar = [
                scalar::dot(precision, &query, &row),
                scalar::l2_squared(precision, &query, &row),
                scalar::norm_squared(precision, &row),
            ];
            prop_assert!(scalar.iter().all(|v| v.is_finite()));
            for isa in others() {
                let got = [
                    row::dot(isa, precision, &query, &row),
                    row::l2_squared(isa, precision, &query, &row),
                    row::norm_squared(isa, precision, &row),
                ];
                let (got, scalar) = (got.map(f64::to_bits), scalar.map(f64::to_bits));
                prop_assert_eq!(got, scalar, "{} {:?}", isa, precision);
            }
            // Sums that leave the range of `f32` are not numbers, or none of its numbers.
            let bits = |v: f32| if v.is_nan() { 0 } else { (v + 0.0).to_bits() };
            let quick = bits(scalar::quick_dot(precision, &query, &row));
            for isa in others() {
                prop_assert_eq!(bits(row::quick_dot(isa, precision, &query, &row)), quick, "{}", isa);
            }
        }
    }

    #[test]
    fn quick_dots_are_off_by_no_more_than_they_say(
        seed: u64, dims in 1usize..3000, magnitude in 0u32..30, same: bool,
    ) {
        // Components of like signs and of magnitudes far apart: what sums lose most by.
        let value = |seed, i| {
            let bits = noise(seed, i) as u32;
            let size = 2f32.powi(-((bits % (magnitude + 1)) as i32));
            if same { size } else { size * (1.0 + bits as f32 * 2f32.powi(-32)) }
        };
        let query: Vec<f32> = (0..dims).map(|i| value(seed, i)).collect();
        let row: Vec<u8> = (0..dims).flat_map(|i| value(!seed, i).to_le_bytes()).collect();
        let norms = row::norm_squared(Isa::Scalar, Precision::F32, &row).sqrt()
            * row::squares(&query).sqrt();
        let exact = row::dot(Isa::Scalar, Precision::F32, &query, &row);
        for isa in Isa::available() {
            let off = f64::from(row::quick_dot(isa, Precision::F32, &query, &row)) - exact;
            prop_assert!(off.abs() <= row::quick_error(dims) * norms * (1.0 + 1e-9), "{}", off);
        }
    }
}

#[test]
fn no_twentieth_of_the_error_of_quick_dots_is_to_spare() {
    // A one in each lane, then halves of its last place: each is lost.
    for dims in [16_384, 65_535] {
        let lost = 2f32.powi(-12);
        let query: Vec<f32> = (0..dims).map(|i| if i < 64 { 1.0 } else { lost }).collect();
        for precision in Precision::ALL {
            let mut row = Vec::new();
            precision.encode(&query, &mut row).unwrap();
            let exact = row::dot(Isa::Scalar, precision, &query, &row);
            for isa in Isa::available() {
                let off = exact - f64::from(row::quick_dot(isa, precision, &query, &row));
                let share = off / exact / row::quick_error(dims);
                assert!((0.95..=1.0).contains(&share), "{isa} {precision} {dims}: {share}");
            }
        }
    }
}

#[test]
fn sums_of_long_codes_do_not_overflow() {
    // 70 words: more than 16-bit sums hold, all bits set, all components at an extreme.
    let codes = vec![0xff; 70 * WORD_BYTES];
    for (value, bits) in [(15, 5), (-16, 5), (127, 8), (-128, 8)] {
        let query = BitPlanes::new(&vec![value; 70 * 64], bits);
        for isa in Isa::available() {
            let mut dots = vec![0; BLOCK];
            bit_dots(isa, &codes, 70, &query, &mut dots);
            assert_eq!(dots, vec![i32::from(value) * 70 * 64; BLOCK], "{isa}, {bits} bits");
        }
    }
}

#[test]
#[should_panic(expected = "whole number of blocks")]
fn a_cut_block_is_refused() {
    let query = ByteLanes::new(&[1, 2, 3]);
    byte_dots(Isa::detect(), &[0; 300], 1, &query, &mut [0; 64]);
}

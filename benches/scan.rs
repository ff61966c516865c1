//! What dimension-major blocks are worth: a scan of stage codes of 64 bytes a
//! row against reading memory, and against the same 64 bytes read out of 4 KiB rows.
//!
//! `MATRYO_ROWS` sets the number of rows (default 1,000,000: 4.1 GB of row-major
//! vectors; with less memory than that, ask for fewer).

mod support;

use matryo::testing::encoding::{
    Bits, Scan, ScanScratch, Scoring, StageCode, StageQuery, StageView, code_bytes, scalar_bytes,
};
use matryo::testing::kernel::{BLOCK, Isa, Scored, TopK};
use simsimd::{BinarySimilarity, SpatialSimilarity};
use std::hint::black_box;
use support::{Noise, Timing, time_in_turns};

const ROW: usize = 4096;
const CODE: usize = 64;
const RUNS: usize = 20;

fn main() {
    let rows = std::env::var("MATRYO_ROWS").map_or(1_000_000, |n| n.parse().expect("a number"));
    let isa = Isa::detect();
    println!("{rows} rows, {CODE} bytes of code and 4 of factor a row, top 100, {isa}, one core");
    let mut noise = Noise(1);
    let factors: Vec<f32> = (0..rows).map(|_| 1.0 + 0.1 * noise.component()).collect();
    let query = noise.vector(512);
    let codes = [(512, Bits::One), (128, Bits::Four), (64, Bits::Eight)];
    let codes = codes.map(|(dims, bits)| StageCode::new(dims, bits));
    let blocks = noise.bytes(code_bytes(codes[0], rows));
    // Behind the factors: of 1 bit the centre, of 4 bits residuals.
    let scalars = codes.map(|code| {
        let rest = if code.bits == Bits::Four { 0.1 } else { 0.0 };
        let mut scalars = factors.clone();
        scalars.resize(scalar_bytes(code, rows) / 4, rest);
        scalars
    });
    let [bit, nibble, byte] = std::array::from_fn(|n| {
        let view = StageView::new(codes[n], &blocks, &scalars[n]).expect("lengths fit");
        (view, StageQuery::new(codes[n], &query, codes[n].dims))
    });
    for (view, query) in [&bit, &nibble, &byte] {
        assert_eq!(scan(isa, *view, query), scan(Isa::Scalar, *view, query), "the answers agree");
    }
    // Of each row only the first bytes are looked at; the rest is there to be skipped.
    let mut full = vec![0u8; rows * ROW];
    for row in full.chunks_exact_mut(ROW) {
        row[..CODE].copy_from_slice(&noise.bytes(CODE));
    }
    let bytes: [u8; CODE] = noise.bytes(CODE).try_into().expect("of that length");
    let wise = |bits, copied| row_wise(bits, copied, &full, &factors, &bytes);
    assert_eq!(wise(Bits::One, true), wise(Bits::One, false));
    assert_eq!(wise(Bits::Eight, true), wise(Bits::Eight, false));

    let [one, four, bit, nibble, byte, bit_in, bit_copied, byte_in, byte_copied] = time_in_turns(
        RUNS,
        [
            &mut || _ = black_box(read_one(&blocks, &factors)),
            &mut || _ = black_box(read_four(&blocks, &factors)),
            &mut || drop(black_box(scan(isa, bit.0, &bit.1))),
            &mut || drop(black_box(scan(isa, nibble.0, &nibble.1))),
            &mut || drop(black_box(scan(isa, byte.0, &byte.1))),
            &mut || drop(black_box(wise(Bits::One, false))),
            &mut || drop(black_box(wise(Bits::One, true))),
            &mut || drop(black_box(wise(Bits::Eight, false))),
            &mut || drop(black_box(wise(Bits::Eight, true))),
        ],
    );
    let read = faster(one, four);
    report("(a) sequential read", rows, read, "");
    let name = ["(b) 1 bit x 512", "(b) 8 bits x 64"];
    for (name, scan) in name.into_iter().zip([bit, byte]) {
        report(name, rows, scan, &format!("(b)/(a) {:.2}", read.seconds / scan.seconds));
    }
    let ratio =
        format!("(b)/(a) {:.2}, and 4 more bytes of scalars", read.seconds / nibble.seconds);
    report("(b) 4 bits x 128", rows, nibble, &ratio);
    let wise = [faster(bit_in, bit_copied), faster(byte_in, byte_copied)];
    let name = ["(c) 1 bit x 512 out of 4 KiB rows", "(c) 8 bits x 64 out of 4 KiB rows"];
    for ((name, scan), wise) in name.into_iter().zip([bit, byte]).zip(wise) {
        report(name, rows, wise, &format!("(b)/(c) {:.1}", wise.seconds / scan.seconds));
    }
}

fn faster(a: Timing, b: Timing) -> Timing {
    if a.seconds < b.seconds { a } else { b }
}

fn report(name: &str, rows: usize, timing: Timing, ratio: &str) {
    println!(
        "{name:<36} {:6.2} GB/s {:7.1} M rows/s (A/A {:4.1} %)  {ratio}",
        (rows * (CODE + 4)) as f64 / timing.seconds / 1e9,
        rows as f64 / timing.seconds / 1e6,
        timing.noise * 100.0
    );
}

fn sum(words: &[[u8; 8]]) -> u64 {
    words.iter().fold(0, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)))
}

/// Reads codes and factors in order and adds them up.
fn read_one(blocks: &[u8], factors: &[f32]) -> u64 {
    let sum = sum(blocks.as_chunks().0);
    factors.iter().fold(sum, |sum, f| sum.wrapping_add(f.to_bits().into()))
}

/// The same as four streams at once, in case that is faster.
fn read_four(blocks: &[u8], factors: &[f32]) -> u64 {
    let words = blocks.as_chunks::<8>().0;
    let quarter = words.len() / 4;
    let mut sums = [0u64; 4];
    for at in (0..quarter).step_by(8) {
        for (stream, total) in sums.iter_mut().enumerate() {
            let start = stream * quarter + at;
            *total = total.wrapping_add(sum(&words[start..(start + 8).min(words.len())]));
        }
    }
    read_one(&[], factors) ^ sums.iter().fold(0, |all, s| all ^ s)
}

fn scan(isa: Isa, view: StageView<'_>, query: &StageQuery) -> Vec<Scored> {
    let scan = Scan { view, query, scoring: Scoring::Cosine, alive: None, base: 0 };
    let mut top = TopK::new(100);
    scan.run(isa, &mut ScanScratch::default(), &mut top);
    top.sorted()
}

/// Scores the first bytes of each row where they lie, or copied 64 rows at a
/// time so that more reads are under way at once; the faster counts.
///
/// The arithmetic errs on the side of rows: one Hamming distance where the scan
/// has a query of several bits.
fn row_wise(
    bits: Bits,
    copied: bool,
    full: &[u8],
    factors: &[f32],
    query: &[u8; CODE],
) -> Vec<Scored> {
    let signed = query.map(u8::cast_signed);
    let score = |row: &[u8; CODE]| -> f32 {
        let found = match bits {
            Bits::One => u8::hamming(query, row).map(|d| 512.0 - 2.0 * d),
            _ => i8::dot(&signed, &row.map(u8::cast_signed)),
        };
        found.expect("lengths agree") as f32
    };
    let first = |row: &[u8]| -> [u8; CODE] { row[..CODE].try_into().expect("long enough") };
    let (mut top, mut scores) = (TopK::new(100), [0f32; BLOCK]);
    for (b, (rows, factors)) in full.chunks(ROW * BLOCK).zip(factors.chunks(BLOCK)).enumerate() {
        let rows = rows.chunks_exact(ROW);
        if copied {
            let mut codes = [[0; CODE]; BLOCK];
            for (code, row) in codes.iter_mut().zip(rows) {
                *code = first(row);
            }
            for ((s, code), factor) in scores.iter_mut().zip(black_box(&codes)).zip(factors) {
                *s = factor * score(code);
            }
        } else {
            for ((s, row), factor) in scores.iter_mut().zip(rows).zip(factors) {
                *s = factor * score(&first(row));
            }
        }
        top.offer_block(Isa::detect(), (b * BLOCK) as u32, &scores[..factors.len()], !0);
    }
    top.sorted()
}

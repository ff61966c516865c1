//! What dimension-major blocks are worth: a scan of stage codes of 64 bytes a
//! row against reading memory, and against the same 64 bytes read out of 4 KiB rows.
//!
//! `MATRYO_ROWS` sets the number of rows (default 1,000,000: 4.1 GB of row-major
//! vectors; with less memory than that, ask for fewer).

mod support;

use matryo::testing::encoding::{
    Bits, Scan, ScanScratch, Scoring, StageCode, StageQuery, StageView,
};
use matryo::testing::kernel::{BLOCK, Isa, Scored, TopK};
use simsimd::{BinarySimilarity, SpatialSimilarity};
use std::hint::black_box;
use support::{Noise, Timing, time};

const ROW: usize = 4096;
const CODE: usize = 64;
const RUNS: usize = 14;

fn main() {
    let rows = std::env::var("MATRYO_ROWS").map_or(1_000_000, |n| n.parse().expect("a number"));
    let isa = Isa::detect();
    println!("{rows} rows, {CODE} bytes of code and 4 of factor a row, top 100, {isa}, one core");
    let mut noise = Noise(1);
    let factors: Vec<f32> = (0..rows).map(|_| 1.0 + 0.1 * noise.component()).collect();
    let query = noise.vector(1024);

    let codes = [StageCode::new(512, Bits::One), StageCode::new(64, Bits::Eight)];
    let blocks = noise.bytes(codes[0].code_bytes(rows));
    assert_eq!(codes[0].block_bytes(), codes[1].block_bytes());
    let read = read_speed(&blocks, &factors);
    let scans = codes.map(|code| {
        let view = StageView::new(code, &blocks, &factors).expect("lengths fit");
        (code, scan_speed(isa, view, &query, read))
    });
    drop(blocks);

    // Of each row only the first bytes are looked at; the rest is there to be skipped.
    let mut full = vec![0u8; rows * ROW];
    for row in full.chunks_exact_mut(ROW) {
        row[..CODE].copy_from_slice(&noise.bytes(CODE));
    }
    let query = noise.bytes(CODE);
    for (code, scan) in scans {
        let (name, wise) = row_wise(code.bits, &full, &factors, &query);
        println!(
            "(c) {}-bit out of 4 KiB rows, {name}: {:6.1} M rows/s (A/A {:.1} %)   (b)/(c) {:.1}",
            code.bits.count(),
            rows as f64 / wise.seconds / 1e6,
            wise.noise * 100.0,
            wise.seconds / scan.seconds
        );
    }
}

/// Reads codes and factors in order and adds them up: as one stream, or as
/// four at once, whichever is faster.
fn read_speed(blocks: &[u8], factors: &[f32]) -> Timing {
    let add = |sum: u64, bytes: &[u8; 8]| sum.wrapping_add(u64::from_le_bytes(*bytes));
    let factor_sum = || factors.iter().fold(0, |sum: u64, f| sum.wrapping_add(f.to_bits().into()));
    let words = blocks.as_chunks::<8>().0;
    let one = time(RUNS, || words.iter().fold(0, add) ^ factor_sum());
    let quarter = words.len() / 4;
    let four = time(RUNS, || {
        let mut sums = [0u64; 4];
        for at in (0..quarter).step_by(8) {
            for (stream, sum) in sums.iter_mut().enumerate() {
                let start = stream * quarter + at;
                *sum = words[start..(start + 8).min(words.len())].iter().fold(*sum, add);
            }
        }
        black_box(sums);
        factor_sum()
    });
    let (name, read) = if one.seconds < four.seconds { ("one", one) } else { ("four", four) };
    let bytes = blocks.len() + size_of_val(factors);
    println!(
        "(a) sequential read, {name:<4}     {:6.2} GB/s (A/A {:.1} %)",
        bytes as f64 / read.seconds / 1e9,
        read.noise * 100.0
    );
    read
}

fn scan_speed(isa: Isa, view: StageView<'_>, query: &[f32], read: Timing) -> Timing {
    let query = StageQuery::new(view.code(), query, view.code().dims);
    let scan = Scan { view, query: &query, scoring: Scoring::Cosine, alive: None, base: 0 };
    let (mut scratch, mut top) = (ScanScratch::default(), TopK::new(100));
    let mut best = |isa| {
        top.reset(100);
        scan.run(isa, &mut scratch, &mut top);
        top.sorted()
    };
    assert_eq!(best(isa), best(Isa::Scalar), "the answer, before its time");
    let timing = time(RUNS, || best(isa));
    println!(
        "(b) {}-bit x {:<4} scan         {:6.2} GB/s (A/A {:.1} %), {:6.1} M rows/s   \
         (b)/(a) {:.2}",
        view.code().bits.count(),
        view.code().dims,
        (view.rows() * view.code().bytes_per_row()) as f64 / timing.seconds / 1e9,
        timing.noise * 100.0,
        view.rows() as f64 / timing.seconds / 1e6,
        read.seconds / timing.seconds
    );
    timing
}

/// The better of two ways to score the first bytes of each row: where they
/// lie, or copied 64 rows at a time so that more reads are under way at once.
///
/// The arithmetic errs on the side of rows: one Hamming distance where the scan
/// has a query of several bits.
fn row_wise(bits: Bits, full: &[u8], factors: &[f32], query: &[u8]) -> (&'static str, Timing) {
    let query: &[u8; CODE] = query.try_into().expect("of that length");
    let signed = query.map(u8::cast_signed);
    let score = |row: &[u8; CODE]| -> f32 {
        let found = match bits {
            Bits::One => u8::hamming(query, row).map(|d| 512.0 - 2.0 * d),
            _ => i8::dot(&signed, &row.map(u8::cast_signed)),
        };
        found.expect("lengths agree") as f32
    };
    let first = |row: &[u8]| -> [u8; CODE] { row[..CODE].try_into().expect("long enough") };
    let mut top = TopK::new(100);
    let mut scores = [0f32; BLOCK];
    let mut pass = |copied: bool| -> Vec<Scored> {
        top.reset(100);
        for (b, (rows, factors)) in full.chunks(ROW * BLOCK).zip(factors.chunks(BLOCK)).enumerate()
        {
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
            top.offer_block((b * BLOCK) as u32, &scores[..factors.len()], !0);
        }
        top.sorted()
    };
    assert_eq!(pass(true), pass(false));
    let (copied, inline) = (time(RUNS, || pass(true)), time(RUNS, || pass(false)));
    if copied.seconds < inline.seconds { ("copied first", copied) } else { ("in place", inline) }
}

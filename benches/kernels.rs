//! Each kernel on each instruction set, on data that fits the second-level cache.

mod support;

use matryo::Precision;
use matryo::testing::encoding::{
    Bits, Scan, ScanScratch, Scoring, StageBuilder, StageCode, StageQuery, StageView, decode,
    encode, scalar_bytes,
};
use matryo::testing::kernel::{
    BLOCK, BitPlanes, ByteLanes, Isa, QUERIES_PER_PASS, TopK, bit_dots, byte_dots, nibble_dots,
    nibble_dots_of_four, row,
};
use simsimd::SpatialSimilarity;
use std::hint::black_box;
use support::{Noise, Timing, time};

const BLOCKS: usize = 64;
const RUNS: usize = 20;

fn main() {
    let mut noise = Noise(7);
    let codes = noise.bytes(BLOCKS * 4096);
    println!("64 bytes of code a row, {BLOCKS} blocks");
    for isa in Isa::available() {
        for bits in [4, 5, 6, 8] {
            bits_speed(isa, &codes, bits, 8, &mut noise);
        }
        bits_speed(isa, &codes, 5, 4, &mut noise);
        bytes_speed(isa, &codes, &mut noise);
        nibbles_speed(isa, &codes, &mut noise);
        passes_speed(isa, &codes, &mut noise);
    }
    println!("the same with scores and collection of 100: a scan, in cache");
    for isa in Isa::available() {
        scan_speed(isa, StageCode::new(512, Bits::One), &codes, &mut noise);
        scan_speed(isa, StageCode::new(128, Bits::Four), &codes, &mut noise);
        scan_speed(isa, StageCode::new(64, Bits::Eight), &codes, &mut noise);
    }
    println!("shortlists of 200 rows of 1024 dimensions");
    for precision in Precision::ALL {
        rows_speed(precision, &mut noise);
    }
    println!("coding rows of 1024 dimensions");
    let vectors: Vec<Vec<f32>> = (0..128).map(|_| noise.vector(1024)).collect();
    for (dims, bits) in [(512, Bits::One), (1024, Bits::Four), (128, Bits::Eight)] {
        coding_speed(StageCode::new(dims, bits), &vectors);
    }
    for precision in Precision::ALL {
        let mut out = Vec::new();
        let timing = time(RUNS, || {
            out.clear();
            vectors.iter().try_for_each(|v| encode(precision, v, &mut out))
        });
        report(&format!("to {precision}"), vectors.len(), 1, timing);
        let mut back = vec![0.0; 1024];
        let timing = time(RUNS, || {
            for row in out.chunks_exact(1024 * precision.bytes()) {
                decode(precision, row, black_box(&mut back));
            }
        });
        report(&format!("from {precision}"), vectors.len(), 1, timing);
    }
    println!("collecting the best k of 1,000,000 scores");
    let scores: Vec<f32> = (0..1_000_000).map(|_| noise.component()).collect();
    for k in [10, 100, 1000] {
        collect_speed(k, &scores);
    }
}

fn report(name: &str, rows: usize, passes: usize, timing: Timing) {
    let each = timing.seconds / (rows * passes) as f64 * 1e9;
    println!("  {name:<44} {each:9.3} ns a row (A/A {:.1} %)", timing.noise * 100.0);
}

fn bits_speed(isa: Isa, codes: &[u8], bits: u32, words: usize, noise: &mut Noise) {
    let values: Vec<i8> = (0..words * 64).map(|_| (noise.word() as i8) >> (8 - bits)).collect();
    let query = BitPlanes::new(&values, bits);
    let mut dots = vec![0; BLOCKS * BLOCK];
    bit_dots(isa, codes, 8, &query, &mut dots);
    let mut expected = vec![0; BLOCKS * BLOCK];
    bit_dots(Isa::Scalar, codes, 8, &query, &mut expected);
    assert_eq!(dots, expected);
    let timing = time(RUNS, || {
        for _ in 0..20 {
            bit_dots(isa, black_box(codes), 8, &query, black_box(&mut dots));
        }
    });
    let name = format!("{isa}: 1 bit x {} of 512, query of {bits} bits", words * 64);
    report(&name, BLOCKS * BLOCK, 20, timing);
}

fn bytes_speed(isa: Isa, codes: &[u8], noise: &mut Noise) {
    let values: Vec<i8> = (0..64).map(|_| (noise.word() as i8).max(-127)).collect();
    let query = ByteLanes::new(&values);
    let mut dots = vec![0; BLOCKS * BLOCK];
    byte_dots(isa, codes, 16, &query, &mut dots);
    let mut expected = vec![0; BLOCKS * BLOCK];
    byte_dots(Isa::Scalar, codes, 16, &query, &mut expected);
    assert_eq!(dots, expected);
    let timing = time(RUNS, || {
        for _ in 0..20 {
            byte_dots(isa, black_box(codes), 16, &query, black_box(&mut dots));
        }
    });
    report(&format!("{isa}: 8 bits x 64"), BLOCKS * BLOCK, 20, timing);
}

fn nibbles_speed(isa: Isa, codes: &[u8], noise: &mut Noise) {
    let values: Vec<i8> = (0..128).map(|_| (noise.word() as i8).max(-127)).collect();
    let query = ByteLanes::new(&values);
    let mut dots = vec![0; BLOCKS * BLOCK];
    nibble_dots(isa, codes, 16, &query, &mut dots);
    let mut expected = vec![0; BLOCKS * BLOCK];
    nibble_dots(Isa::Scalar, codes, 16, &query, &mut expected);
    assert_eq!(dots, expected);
    let timing = time(RUNS, || {
        for _ in 0..20 {
            nibble_dots(isa, black_box(codes), 16, &query, black_box(&mut dots));
        }
    });
    report(&format!("{isa}: 4 bits x 128"), BLOCKS * BLOCK, 20, timing);
}

/// Four queries in one pass; a row counts once for each.
fn passes_speed(isa: Isa, codes: &[u8], noise: &mut Noise) {
    let mut value = || (noise.word() as i8).max(-127);
    let lanes: [_; QUERIES_PER_PASS] =
        std::array::from_fn(|_| ByteLanes::new(&(0..128).map(|_| value()).collect::<Vec<_>>()));
    let each = BLOCKS * BLOCK;
    let (mut dots, mut one) = (vec![0; QUERIES_PER_PASS * each], vec![0; each]);
    nibble_dots_of_four(isa, codes, 16, lanes.each_ref(), &mut dots);
    nibble_dots(Isa::Scalar, codes, 16, &lanes[3], &mut one);
    assert!(dots[3 * each..] == one);
    let timing = time(RUNS, || {
        nibble_dots_of_four(isa, black_box(codes), 16, lanes.each_ref(), black_box(&mut dots));
    });
    report(&format!("{isa}: 4 bits x 128, four queries"), each, QUERIES_PER_PASS, timing);
}

fn scan_speed(isa: Isa, code: StageCode, codes: &[u8], noise: &mut Noise) {
    let mut scalars = vec![0.5; BLOCKS * BLOCK];
    // Behind the factors: of 1 bit the centre, of 4 bits residuals.
    let rest = if code.bits == Bits::Four { 0.5 } else { 0.0 };
    scalars.resize(scalar_bytes(code, BLOCKS * BLOCK) / 4, rest);
    let view = StageView::new(code, codes, &scalars).expect("lengths fit");
    let query = StageQuery::new(code, &noise.vector(code.dims), code.dims);
    let scan = Scan { view, query: &query, scoring: Scoring::Cosine, alive: None, base: 0 };
    let (mut scratch, mut top) = (ScanScratch::default(), TopK::new(100));
    let timing = time(RUNS, || {
        top.reset(100);
        // Later passes find the threshold in place, as most of a long scan does.
        for _ in 0..20 {
            scan.run(isa, &mut scratch, &mut top);
        }
    });
    let name = format!("{isa}: {} bits x {}", code.bits.count(), code.dims);
    report(&name, BLOCKS * BLOCK, 20, timing);
}

fn rows_speed(precision: Precision, noise: &mut Noise) {
    let query = noise.vector(1024);
    let mut rows = Vec::new();
    for _ in 0..200 {
        encode(precision, &noise.vector(1024), &mut rows).expect("small components");
    }
    let rows: Vec<&[u8]> = rows.chunks_exact(1024 * precision.bytes()).collect();
    for isa in Isa::available() {
        let exact = row::dot(Isa::Scalar, precision, &query, rows[7]);
        assert_eq!(exact.to_bits(), row::dot(isa, precision, &query, rows[7]).to_bits());
        let sum = |score: &dyn Fn(&[u8]) -> f64| rows.iter().map(|r| score(r)).sum::<f64>();
        let dot = time(RUNS, || sum(&|r| row::dot(isa, precision, &query, r)));
        report(&format!("{isa}: {precision} dot, by the definition"), 200, 1, dot);
        let expected = row::quick_dot(Isa::Scalar, precision, &query, rows[7]);
        assert_eq!(expected.to_bits(), row::quick_dot(isa, precision, &query, rows[7]).to_bits());
        let quick = |r: &[u8]| f64::from(row::quick_dot(isa, precision, &query, r));
        let timing = time(RUNS, || sum(&quick));
        report(&format!("{isa}: {precision} dot, quick"), 200, 1, timing);
        let l2 = time(RUNS, || sum(&|r| row::l2_squared(isa, precision, &query, r)));
        report(&format!("{isa}: {precision} squared distance"), 200, 1, l2);
        let norm = time(RUNS, || sum(&|r| row::norm_squared(isa, precision, r)));
        report(&format!("{isa}: {precision} squared norm"), 200, 1, norm);
    }
    if precision == Precision::F16 {
        let halves = |bytes: &[u8]| -> Vec<simsimd::f16> {
            let halves = bytes.as_chunks().0.iter();
            halves.map(|&b| simsimd::f16(u16::from_le_bytes(b))).collect()
        };
        let mut stored = Vec::new();
        encode(precision, &query, &mut stored).expect("small components");
        let query = halves(&stored);
        let rows: Vec<_> = rows.iter().map(|r| halves(r)).collect();
        let dot = |row: &Vec<simsimd::f16>| simsimd::f16::dot(&query, row).expect("one length");
        let timing = time(RUNS, || rows.iter().map(dot).sum::<f64>());
        report("simsimd: f16 dot, rows already of its type", 200, 1, timing);
    }
}

fn coding_speed(code: StageCode, vectors: &[Vec<f32>]) {
    let coded = |isa| {
        let mut builder = StageBuilder::with_isa(code, isa);
        vectors.iter().for_each(|vector| builder.push(vector));
        builder.finish()
    };
    let expected = coded(Isa::Scalar);
    for isa in Isa::available() {
        assert!(coded(isa) == expected, "{isa} makes the same bytes");
        let name = format!("{isa}: {} bits x {}", code.bits.count(), code.dims);
        report(&name, vectors.len(), 1, time(RUNS, || coded(isa)));
    }
}

fn collect_speed(k: usize, scores: &[f32]) {
    let mut top = TopK::new(k);
    let mut collect = || {
        top.reset(k);
        for (b, block) in scores.chunks(BLOCK).enumerate() {
            top.offer_block(Isa::detect(), (b * BLOCK) as u32, block, !0);
        }
        top.sorted()
    };
    let mut sorted = scores.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    assert!(collect().iter().zip(&sorted).all(|(a, b)| a.score.to_bits() == b.to_bits()));
    let timing = time(RUNS, &mut collect);
    report(&format!("k = {k}"), scores.len(), 1, timing);
}

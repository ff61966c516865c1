//! Codes, estimates and scans against the naive forms.

use super::*;
use crate::kernel::topk::TopK;
use crate::kernel::{BLOCK, Isa};
use proptest::prelude::*;

const ALL_BITS: [Bits; 3] = [Bits::One, Bits::Four, Bits::Eight];

/// Repeatable noise, roughly normal.
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    }

    fn normal(&mut self) -> f32 {
        (0..4).map(|_| self.uniform()).sum::<f32>() * 3f32.sqrt()
    }

    fn vector(&mut self, dims: usize) -> Vec<f32> {
        (0..dims).map(|_| self.normal()).collect()
    }

    /// `count` vectors scattered about a few centres, with norms that differ.
    fn clusters(&mut self, count: usize, dims: usize) -> Vec<Vec<f32>> {
        let centres: Vec<_> = (0..12).map(|_| self.vector(dims)).collect();
        let row = |i: usize| {
            let length = 1.0 + 3.0 * (self.uniform() + 0.5);
            centres[i % 12].iter().map(|c| (c + 0.8 * self.normal()) * length).collect()
        };
        (0..count).map(row).collect()
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn norm(v: &[f32]) -> f32 {
    v.iter().map(|x| x * x).sum::<f32>().sqrt()
}

fn centre_of(code: StageCode, rows: &[Vec<f32>]) -> Vec<f32> {
    let read = |row: usize, out: &mut [f32]| {
        out.copy_from_slice(&rows[row][..code.dims]);
        Ok::<_, std::convert::Infallible>(())
    };
    centre(code, rows.len(), read).unwrap()
}

fn coded(code: StageCode, rows: &[Vec<f32>]) -> StageBuilder {
    coded_about(&vec![0.0; code.centre_len()], code, rows)
}

fn coded_about(centre: &[f32], code: StageCode, rows: &[Vec<f32>]) -> StageBuilder {
    let mut builder = StageBuilder::with_room(code, rows.len()).about(centre);
    for row in rows {
        builder.push(row);
    }
    builder
}

/// Ordinals and scores of the best `k`.
fn run(scan: &Scan<'_>, k: usize) -> Vec<(u32, f32)> {
    let mut top = TopK::new(k);
    scan.run(Isa::detect(), &mut ScanScratch::default(), &mut top);
    top.sorted().iter().map(|s| (s.ordinal, s.score)).collect()
}

/// What a scan must score `row`: the estimator, component by component.
fn naive(view: StageView<'_>, query: &[f32], row: usize, top: f32) -> f32 {
    let largest = query.iter().fold(0f32, |m, v| m.max(v.abs()));
    let step = largest / top;
    let integer = |q: f32| (q / step).round_ties_even();
    let dot: f32 =
        query.iter().enumerate().map(|(j, &q)| view.signed(row, j) as f32 * integer(q)).sum();
    let norm = query.iter().map(|q| q * q).sum::<f32>().sqrt();
    let (all, used) = (view.code().dims, query.len());
    let longer = (all as f32 / used as f32).sqrt();
    let base: f32 = view.base().iter().zip(query).map(|(m, &q)| m * integer(q)).sum();
    let factor = if view.code().bits != Bits::Eight {
        view.factor(row) * longer
    } else if used == all {
        view.factor(row)
    } else {
        let square: i32 = (0..used).map(|j| view.signed(row, j).pow(2)).sum();
        1.0 / (square.max(1) as f32).sqrt()
    };
    (base * longer + factor * dot) * step / norm
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn scan_equals_the_naive_estimate(
        seed: u64, count in 1usize..300, dims in 1usize..150, short in 0usize..150, filtered: bool,
        off_centre: bool,
    ) {
        let mut noise = Noise(seed);
        let mut rows = noise.clusters(count, dims);
        if off_centre {
            rows.iter_mut().flatten().for_each(|x| *x += 3.0);
        }
        let query = noise.vector(dims);
        let used = dims.saturating_sub(short).max(1);
        let alive: Vec<u64> = (0..count.div_ceil(64)).map(|b| {
            if filtered { if b % 2 == 0 { 0 } else { seed } } else { !0 }
        }).collect();
        for bits in ALL_BITS {
            let code = StageCode::new(dims, bits);
            let builder = coded_about(&centre_of(code, &rows), code, &rows);
            let view = builder.view();
            let scan = Scan {
                view,
                query: &StageQuery::with_plane_bits(code, &query, used, 5),
                scoring: Scoring::Cosine,
                alive: filtered.then_some(&alive),
                base: 1000,
            };
            let got = run(&scan, usize::MAX);
            let top = if bits == Bits::One { 15.0 } else { 127.0 };
            let lives = |i: &usize| alive[i / 64] >> (i % 64) & 1 == 1;
            let live: Vec<usize> = (0..count).filter(lives).collect();
            prop_assert_eq!(got.len(), live.len());
            let mut by_row: Vec<_> = got.iter().map(|s| (s.0 as usize - 1000, s.1)).collect();
            by_row.sort_by_key(|s| s.0);
            for (row, (got_row, score)) in live.into_iter().zip(by_row) {
                prop_assert_eq!(row, got_row);
                let expected = naive(view, &query[..used], row, top);
                let error = (score - expected).abs();
                prop_assert!(error < 1e-4 * (1.0 + expected.abs()), "{score} {expected}");
            }
        }
    }

    #[test]
    fn codes_hold_what_the_layout_says(seed: u64, count in 1usize..130, dims in 1usize..140) {
        let rows = Noise(seed).clusters(count, dims);
        for bits in ALL_BITS {
            let code = StageCode::new(dims, bits);
            let (blocks, factors) = coded(code, &rows).finish();
            prop_assert_eq!(blocks.len(), code.code_bytes(count));
            prop_assert_eq!(factors.len() * 4, code.scalar_bytes(count));
            let view = StageView::new(code, &blocks, &factors).unwrap();
            prop_assert_eq!(view.rows(), count);
            prop_assert!(StageView::new(code, &blocks[1..], &factors).is_none());
            for (i, row) in rows.iter().enumerate() {
                let largest = row.iter().fold(0f32, |m, v| m.max(v.abs()));
                for (j, &x) in row.iter().enumerate() {
                    let signed = view.signed(i, j);
                    let error = (x / largest * 127.0 - signed as f32).abs();
                    match bits {
                        Bits::One => prop_assert_eq!(signed, if x > 0.0 { 1 } else { -1 }),
                        Bits::Four => {
                            let (scale, _) = view.scale(i).unwrap();
                            let unit = x / norm(row);
                            // Half a step, or more beyond the farthest value.
                            let off = (unit - scale * signed as f32).abs();
                            prop_assert!(off < 2.0 * scale || signed.abs() == 15, "{off} {scale}");
                            prop_assert!(x == 0.0 || (x > 0.0) == (signed > 0));
                        }
                        Bits::Eight => prop_assert!(error < 0.501),
                    }
                }
            }
            // Past the last dimension and the last row: zeros, whatever that is coded as.
            let blank = [(Bits::One, 0), (Bits::Four, 0x88), (Bits::Eight, 0x80)];
            let blank = blank.iter().find(|b| b.0 == bits).unwrap().1;
            let unit = if bits == Bits::One { 8 } else { 4 };
            let last = (count - 1) / BLOCK * code.block_bytes();
            for (at, &byte) in blocks.iter().enumerate().skip(last) {
                if at % (BLOCK * unit) / unit > (count - 1) % BLOCK {
                    prop_assert_eq!(byte, blank);
                }
            }
        }
    }
}

#[test]
fn the_estimate_is_unbiased_on_independent_queries() {
    let mut noise = Noise(11);
    let rows = noise.clusters(400, 256);
    for (bits, spread) in [(Bits::One, 0.06), (Bits::Four, 0.01), (Bits::Eight, 0.002)] {
        let code = StageCode::new(256, bits);
        let builder = coded(code, &rows);
        let (mut sum, mut square, mut count) = (0f64, 0f64, 0f64);
        for _ in 0..50 {
            let query = noise.vector(256);
            let prepared = StageQuery::new(code, &query, 256);
            let scan = Scan {
                view: builder.view(),
                query: &prepared,
                scoring: Scoring::Cosine,
                alive: None,
                base: 0,
            };
            for (row, estimate) in run(&scan, 400) {
                let error = f64::from(estimate - cosine(&query, &rows[row as usize]));
                sum += error;
                square += error * error;
                count += 1.0;
            }
        }
        let deviation = (square / count).sqrt();
        assert!(deviation < spread, "{bits:?}: {deviation}");
        assert!((sum / count).abs() < deviation / 20.0, "{bits:?}: bias {}", sum / count);
    }
}

#[test]
fn shortlists_hold_the_true_neighbours() {
    let mut noise = Noise(5);
    let rows = noise.clusters(2000, 256);
    for (bits, dims, wanted) in [
        (Bits::One, 256, 0.9),
        (Bits::Four, 256, 0.99),
        (Bits::Eight, 256, 0.999),
        (Bits::Eight, 96, 0.6),
    ] {
        let code = StageCode::new(256, bits);
        let builder = coded(code, &rows);
        let (mut found, mut asked) = (0, 0);
        for q in 0..20 {
            let query: Vec<f32> = rows[q * 97].iter().map(|x| x + 0.5 * noise.normal()).collect();
            let scores: Vec<f32> = rows.iter().map(|row| cosine(&query, row)).collect();
            let mut exact: Vec<u32> = (0..2000).collect();
            exact.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]));
            let prepared = StageQuery::new(code, &query, dims);
            let scan = Scan {
                view: builder.view(),
                query: &prepared,
                scoring: Scoring::Cosine,
                alive: None,
                base: 0,
            };
            let shortlist = run(&scan, 100);
            asked += 10;
            found += exact[..10].iter().filter(|e| shortlist.iter().any(|s| s.0 == **e)).count();
        }
        let recall = found as f32 / asked as f32;
        assert!(recall >= wanted, "{bits:?} x {dims}: {recall}");
    }
}

#[test]
fn dot_and_l2_follow_from_cosine_and_norms() {
    let mut noise = Noise(3);
    let rows = noise.clusters(200, 64);
    let query = noise.vector(64);
    let norms: Vec<f32> = rows.iter().map(|r| norm(r)).collect();
    let code = StageCode::new(64, Bits::Eight);
    let builder = coded(code, &rows);
    let query_norm = norm(&query);
    let prepared = StageQuery::new(code, &query, 64);
    let all = |scoring| {
        let scan = Scan { view: builder.view(), query: &prepared, scoring, alive: None, base: 0 };
        run(&scan, 200)
    };
    for (row, score) in all(Scoring::Dot { norms: &norms, query_norm }) {
        let exact: f32 = rows[row as usize].iter().zip(&query).map(|(x, q)| x * q).sum();
        assert!((score - exact).abs() < 0.01 * norms[row as usize] * query_norm);
    }
    for (row, score) in all(Scoring::L2 { norms: &norms, query_norm }) {
        let exact: f32 = rows[row as usize].iter().zip(&query).map(|(x, q)| (x - q).powi(2)).sum();
        assert!((score + exact).abs() < 0.02 * norms[row as usize] * query_norm, "{score} {exact}");
    }
}

/// A query along what a code leaves out of a row is the worst there is for a bound: it is
/// reached, but for the rounding of the query.
#[test]
fn bounds_hold_and_are_reached_along_the_residual() {
    let mut noise = Noise(17);
    for dims in [1, 7, 64, 100, 257] {
        let rows = noise.clusters(130, dims);
        let code = StageCode::new(dims, Bits::Four);
        let builder = coded(code, &rows);
        let view = builder.view();
        for target in 0..rows.len() {
            let (scale, residual) = view.scale(target).unwrap();
            let unit = norm(&rows[target]);
            let off = |(j, x): (usize, &f32)| x / unit - scale * view.signed(target, j) as f32;
            let query: Vec<f32> = rows[target].iter().enumerate().map(off).collect();
            if residual < 1e-3 {
                continue;
            }
            let bound = BoundQuery::new(code, &query);
            let mut scratch = ScanScratch::default();
            for isa in Isa::available() {
                let upper = bound.upper(isa, &view, 0..3, &mut scratch);
                for (row, upper) in rows.iter().zip(&*upper) {
                    assert!(cosine(&query, row) <= *upper, "{dims} {isa}");
                }
                let slack = upper[target] - cosine(&query, &rows[target]);
                assert!((0.0..0.04).contains(&slack), "{dims}: {slack}");
            }
        }
    }
}

#[test]
fn a_row_of_zeros_scores_zero_and_so_does_every_row_for_a_zero_query() {
    for bits in ALL_BITS {
        let code = StageCode::new(70, bits);
        let builder = coded(code, &[vec![0.0; 70], vec![1.0; 70], vec![1e-45; 70]]);
        let scan = |query: &[f32]| {
            let query = StageQuery::new(code, query, 70);
            let (view, scoring) = (builder.view(), Scoring::Cosine);
            run(&Scan { view, query: &query, scoring, alive: None, base: 0 }, 3)
        };
        let ones = scan(&[1.0; 70]);
        assert_eq!(ones[2], (0, 0.0), "{bits:?}");
        assert!((ones[0].1 - 1.0).abs() < 1e-2 && (ones[1].1 - 1.0).abs() < 1e-2, "{ones:?}");
        assert!(scan(&[0.0; 70]).iter().all(|s| s.1 == 0.0));
    }
}

/// Signs of rows without negative components are all the same: what they have beside their mean
/// tells them apart.
#[test]
fn rows_off_centre_are_coded_about_their_mean() {
    let mut noise = Noise(3);
    let code = StageCode::new(256, Bits::One);
    let rows = noise.clusters(3000, 256);
    assert!(centre_of(code, &rows).iter().all(|m| *m == 0.0), "they lie about zero");
    let positive = |v: &[f32]| -> Vec<f32> { v.iter().map(|x| x.abs()).collect() };
    let rows: Vec<_> = rows.iter().map(|row| positive(row)).collect();
    let centre = centre_of(code, &rows);
    assert!((0.6..1.0).contains(&norm(&centre[..256])), "{}", norm(&centre[..256]));
    let mut found = [0; 2];
    for query in noise.clusters(20, 256).iter().map(|query| positive(query)) {
        let mut truth: Vec<usize> = (0..rows.len()).collect();
        truth.sort_by(|a, b| cosine(&rows[*b], &query).total_cmp(&cosine(&rows[*a], &query)));
        for (found, centre) in found.iter_mut().zip([vec![0.0; 512], centre.clone()]) {
            let builder = coded_about(&centre, code, &rows);
            let query = &StageQuery::new(code, &query, 256);
            let scan = Scan {
                view: builder.view(),
                query,
                scoring: Scoring::Cosine,
                alive: None,
                base: 0,
            };
            let best = run(&scan, 100);
            *found +=
                truth[..10].iter().filter(|row| best.iter().any(|b| b.0 as usize == **row)).count();
        }
    }
    assert!(found[0] < 20 && found[1] > 100, "{found:?} of 200");
}

/// What a segment written today holds: if this fails, old files read differently.
/// Pieces of other rows, wherever they begin, give the bytes that coding their rows gives.
#[test]
fn codes_that_are_taken_over_are_those_of_the_rows() {
    let mut noise = Noise(5);
    for (bits, dims) in ALL_BITS.into_iter().flat_map(|bits| [(bits, 7), (bits, 64), (bits, 130)]) {
        let code = StageCode::new(dims, bits);
        let rows: Vec<_> = (0..300).map(|_| noise.vector(dims)).collect();
        let from = coded(code, &rows);
        let (mut taken, mut wanted) = (StageBuilder::new(code), StageBuilder::new(code));
        for (start, len) in [(0, 64), (64, 1), (3, 200), (299, 1), (100, 0), (0, 300), (63, 66)] {
            taken.extend(&from.view(), start..start + len);
            rows[start..start + len].iter().for_each(|row| wanted.push(row));
            // And one that is coded behind them.
            taken.push(&rows[7]);
            wanted.push(&rows[7]);
        }
        assert_eq!(taken.rows(), wanted.rows());
        let (taken, wanted) = (taken.finish(), wanted.finish());
        assert!(taken.0 == wanted.0, "{code}: blocks");
        assert_eq!(taken.1, wanted.1, "{code}");
    }
}

#[test]
fn codes_are_these_bytes() {
    let rows = [[1.0, -2.0, 0.5, -0.0, 3.0], [0.0, 0.0, -1e-3, 1e-3, 7e-4]];
    let coded = |bits| {
        let mut builder = StageBuilder::new(StageCode::new(5, bits));
        for row in &rows {
            builder.push(row);
        }
        builder.finish()
    };
    let (blocks, factors) = coded(Bits::One);
    let words: Vec<u64> = blocks.as_chunks().0.iter().map(|&b| u64::from_le_bytes(b)).collect();
    assert_eq!(words[..3], [0b10101, 0b11000, 0]);
    let (factors, centre) = factors.split_at(2);
    assert_eq!(factors.iter().map(|f| f.to_bits()).collect::<Vec<_>>(), [0x3f14_ac75, 0x3f15_9d81]);
    assert_eq!(centre, [0.0; 10]);
    let (blocks, scalars) = coded(Bits::Four);
    assert_eq!(blocks[..8], [217, 132, 136, 136, 184, 136, 131, 140]);
    let bits: Vec<_> = scalars.iter().map(|f| f.to_bits()).collect();
    assert_eq!(bits, [0x3d97_5e52, 0x3d8b_8935, 0x3dd9_2946, 0x3dd9_1a18]);
    let (blocks, factors) = coded(Bits::Eight);
    assert_eq!(blocks[..12], [170, 43, 149, 128, 128, 128, 1, 255, 128, 128, 128, 128]);
    assert_eq!(blocks[256..268], [255, 128, 128, 128, 217, 128, 128, 128, 128, 128, 128, 128]);
    assert_eq!(factors.iter().map(|f| f.to_bits()).collect::<Vec<_>>(), [0x3bcc_f716, 0x3ba3_7983]);
}

#[test]
fn more_bits_go_to_queries_with_a_few_large_components() {
    let code = StageCode::new(128, Bits::One);
    let bits = |query: &[f32]| StageQuery::new(code, query, query.len()).planes.bits();
    let mut query = Noise(9).vector(128);
    assert_eq!(bits(&query), 5);
    query[17] = 9.0;
    assert_eq!(bits(&query), 6);
    query[17] = 1e9;
    assert_eq!((bits(&query), bits(&[0.0; 128]), bits(&[1.0, -1.0])), (7, 4, 4));
}

#[test]
fn sizes_count_what_is_read() {
    let code = StageCode::new(512, Bits::One);
    assert_eq!((code.block_bytes(), code.bytes_per_row()), (4096, 64 + 4));
    assert_eq!((code.scanned_bytes_per_row(96), code.scanned_bytes_per_row(17)), (16 + 4, 8 + 4));
    let code = StageCode::new(64, Bits::Eight);
    assert_eq!((code.block_bytes(), code.code_bytes(65)), (4096, 8192));
    assert_eq!(code.scanned_bytes_per_row(17), 20 + 4);
    let code = StageCode::new(1000, Bits::Four);
    assert_eq!((code.block_bytes(), code.bytes_per_row()), (32_000, 500 + 8));
    assert_eq!(Bits::from_count(8), Some(Bits::Eight));
    assert_eq!(Bits::from_count(3), None);
}

#[test]
fn codes_round_to_nearest_ties_to_even() {
    // With a largest component of 127 the step is 1.
    let values = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2.4999, -126.7, -127.0, -0.0, 64.2];
    let mut codes = [0; 12];
    assert!((stage::quantise(&values, 127, &mut codes) - 1.0).abs() < 1e-12);
    assert_eq!(codes, [127, 0, 2, 2, 0, -2, -2, 2, -127, -127, 0, 64]);
    let tiny = [f32::from_bits(1), -f32::from_bits(1), 0.0];
    stage::quantise(&tiny, 15, &mut codes[..3]);
    assert_eq!(codes[..3], [15, -15, 0]);
}

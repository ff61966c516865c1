//! How many of the true nearest rows a stage's shortlist holds, on real vectors.
//!
//! `MATRYO_DATA` names a folder with `base_f16.npy` (rows), `queries.npy` and
//! `gt100.npy` (for each query the best rows by full score, best first).
//!
//! `q` is the number of bits of a query that meets a 1-bit code, 0 being the engine's own
//! choice; *plain* puts 1 for every factor, to show what factors are worth.

mod support;

use matryo::testing::encoding::{
    Bits, Scan, ScanScratch, Scoring, StageBuilder, StageCode, StageQuery, StageView,
};
use matryo::testing::kernel::{Isa, TopK};
use support::Array;

const SHORTLISTS: [usize; 6] = [10, 20, 50, 100, 200, 500];

struct Data {
    base: Array,
    queries: Array,
    truth: Array,
}

fn main() {
    let Ok(folder) = std::env::var("MATRYO_DATA") else {
        println!("codes: skipped, MATRYO_DATA names no folder of vectors");
        return;
    };
    let data = Data {
        base: Array::read(&folder, "base_f16.npy"),
        queries: Array::read(&folder, "queries.npy"),
        truth: Array::read(&folder, "gt100.npy"),
    };
    println!("share of the true top 10 in the top K; {} rows", data.base.rows().len());
    print!("{:<34}", "code, dimensions ranked by, query");
    for k in SHORTLISTS {
        print!(" {k:>6}");
    }
    println!();
    for (dims, bits) in
        [(256, 1), (512, 1), (1024, 1), (128, 4), (256, 4), (1024, 4), (64, 8), (128, 8)]
    {
        let code = StageCode::new(dims, Bits::from_count(bits).expect("1, 4 or 8"));
        measure(&data, code);
    }
}

fn measure(data: &Data, code: StageCode) {
    let mut builder = StageBuilder::new(code);
    data.base.rows().for_each(|row| builder.push(row));
    let rows = builder.rows();
    let (blocks, factors) = builder.finish();
    let mut plain = factors.clone();
    plain[..rows].fill(1.0);
    let view = |factors| StageView::new(code, &blocks, factors).expect("lengths fit");
    let queries: &[u32] = if code.bits == Bits::One { &[0, 3, 4, 5, 6, 8] } else { &[8] };
    let shorter = if code.bits == Bits::Four { &[4][..] } else { &[4, 3, 2, 1] };
    for used in shorter.iter().map(|quarters| code.dims * quarters / 4) {
        for &plane_bits in queries {
            if used < code.dims && plane_bits != 0 && code.bits == Bits::One {
                continue;
            }
            for (name, factors) in [("factor", &factors), ("plain", &plain)] {
                let shares = shares(data, view(factors), used, plane_bits);
                print!(
                    "{}-bit x {:<4} by {used:<4} q{plane_bits} {name:<8}   ",
                    code.bits.count(),
                    code.dims
                );
                for s in shares {
                    print!(" {s:>6.3}");
                }
                println!();
            }
        }
    }
}

/// The share for each shortlist, over all queries.
fn shares(data: &Data, view: StageView<'_>, dims: usize, plane_bits: u32) -> [f64; 6] {
    let mut found = [0usize; 6];
    let (mut scratch, mut top) = (ScanScratch::default(), TopK::new(500));
    for (query, truth) in data.queries.rows().zip(data.truth.rows()) {
        let query = match plane_bits {
            0 => StageQuery::new(view.code(), query, dims),
            _ => StageQuery::with_plane_bits(view.code(), query, dims, plane_bits),
        };
        top.reset(500);
        let scan = Scan { view, query: &query, scoring: Scoring::Cosine, alive: None, base: 0 };
        scan.run(Isa::detect(), &mut scratch, &mut top);
        let shortlist = top.sorted();
        for (at, row) in shortlist.iter().enumerate() {
            if truth[..10].contains(&(row.ordinal as f32)) {
                SHORTLISTS.iter().zip(&mut found).for_each(|(&k, n)| *n += usize::from(at < k));
            }
        }
    }
    found.map(|n| n as f64 / (10 * data.queries.rows().len()) as f64)
}

//! Filtered searches against the unfiltered one, one query at a time in one thread.
//!
//! The rows are made up: this is about speed and about the filter being kept, not
//! about recall. Each filter is asked through an index of few values (bitmaps) and
//! of many (row numbers). Before anything is timed, the answers are compared with
//! an exact search over all rows of which the others are struck out.

mod support;

use matryo::{Collection, FieldKind, Filter, Options, Precision, RowId, Schema, field, json};
use std::hint::black_box;
use support::{Noise, time_in_turns};

const ROWS: u64 = 100_000;
const DIMS: usize = 512;
const LIMIT: usize = 10;
const QUERIES: usize = 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut noise = Noise(11);
    let dir = tempfile::tempdir()?;
    let collection = import(dir.path(), &mut noise)?;
    let queries: Vec<Vec<f32>> = (0..QUERIES).map(|_| noise.vector(DIMS)).collect();
    println!("{ROWS} made-up rows x {DIMS}, top {LIMIT}, {QUERIES} queries, recall 0.95\n");
    println!("{:<34} {:>8} {:>10} {:>9}  A/A", "filter", "rows", "q/s", "of plain");
    for (percent, few, many) in [
        (0.1, field("few").is_in([7]), field("many").lt(100)),
        (1.0, field("few").lt(10), field("many").lt(1_000)),
        (10.0, field("few").lt(100), field("many").lt(10_000)),
        (50.0, field("few").lt(500), field("many").lt(50_000)),
    ] {
        for (form, filter) in [("few values", few), ("many values", many)] {
            let rows = check(&collection, &queries, &filter)?;
            let name = format!("{percent} %, {form}");
            compare(&collection, &queries, &name, rows, &filter);
        }
    }
    let half = field("many").lt(50_000);
    println!("\n{}", collection.search(&queries[0]).filter(half).run()?.explain);
    Ok(())
}

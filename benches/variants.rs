//! Codes that could be stage codes, tried out before a kernel is written for them: other numbers
//! of bits, codes that contain each other, and rotations that keep the first dimensions.
//!
//! `MATRYO_DATA` names a folder as for `codes`. Every variant turns rows into what its
//! code says they are, as `f32`, and ranks by the unbiased estimate against the query as it is:
//! what is compared is what the code knows, not what a kernel makes of it. *Residual* is
//! the mean distance of a code from its row, over the row's length: what a bound has to allow.

mod support;

use matryo::testing::kernel::{Collect, TopK};
use simsimd::SpatialSimilarity;
use support::{Array, Noise};

const SHORTLISTS: [usize; 6] = [10, 20, 50, 100, 200, 500];

/// Dimensions that stay as trained where a rotation begins behind them.
const KEPT: usize = 64;

/// Step over standard deviation that loses least of normal components, for 1 to 4 bits and 8
/// (Max 1960, table II; for 8 the range is four deviations).
const STEPS: [(u32, f32); 5] = [(1, 1.596), (2, 0.9957), (3, 0.5860), (4, 0.3352), (8, 0.0312)];

fn main() {
    let Ok(folder) = std::env::var("MATRYO_DATA") else {
        println!("variants: skipped, MATRYO_DATA names no folder of vectors");
        return;
    };
    let base = Array::read(&folder, "base_f16.npy");
    let queries = Array::read(&folder, "queries.npy");
    let truth = Array::read(&folder, "gt100.npy");
    let dims = base.width;
    println!("share of the true top 10 in the top K; {folder}: {} rows", base.rows().len());
    print!("{:<44} {:>5} {:>8}", "code", "bytes", "residual");
    SHORTLISTS.iter().for_each(|k| print!(" {k:>6}"));
    println!();
    let half = dims / 2;
    for (bits, prefix) in [(1, half), (2, half / 2), (4, half / 4), (2, half), (4, half / 2)] {
        run(&format!("{bits} bit x {prefix}"), &base, &queries, &truth, prefix, fixed(bits));
    }
    for prefix in [32, 64, 128] {
        let keep = |unit: &[f32], out: &mut [f32]| out.copy_from_slice(unit);
        run(&format!("f16 x {prefix}"), &base, &queries, &truth, prefix, (16, keep));
    }
    for bits in [3, 4, 8] {
        run(&format!("{bits} bit x {dims}"), &base, &queries, &truth, dims, fixed(bits));
    }
    run(
        "8 bit x all, whose upper half is the 4-bit code",
        &base,
        &queries,
        &truth,
        dims,
        (8, nested),
    );
    let spread = |vectors: &Array, from: usize, to: usize| each(vectors, |v| hadamard(v, from, to));
    for (name, from, to) in [("0..half", 0, half), ("half..all", half, dims), ("all", 0, dims)] {
        let (base, queries) = (spread(&base, from, to), spread(&queries, from, to));
        for (bits, prefix) in [(1, half), (4, dims)] {
            let name = format!("{bits} bit x {prefix}, random rotation of {name}");
            run(&name, &base, &queries, &truth, prefix, fixed(bits));
        }
    }
    for kept in [KEPT, 0] {
        let axes = principal_axes(&base, kept);
        let turn = |vectors: &Array| each(vectors, |v| turn(v, &axes, kept));
        let (base, queries) = (turn(&base), turn(&queries));
        for (bits, prefix) in [(1, half / 2), (1, half), (4, half / 2), (4, dims)] {
            let name = format!("{bits} bit x {prefix}, principal axes from {kept} on");
            run(&name, &base, &queries, &truth, prefix, fixed(bits));
        }
    }
}

/// Bits of each dimension, and what a code makes of a vector of length 1 (up to a scale).
type Code<F> = (u32, F);

/// `2^bits` equal steps that suit normal components.
fn fixed(bits: u32) -> Code<impl Fn(&[f32], &mut [f32])> {
    let step = STEPS.iter().find(|s| s.0 == bits).expect("a number of bits in the table").1;
    (bits, move |unit: &[f32], out: &mut [f32]| steps(unit, bits, step, out))
}

fn steps(unit: &[f32], bits: u32, step: f32, out: &mut [f32]) {
    let (step, top) = (step / (unit.len() as f32).sqrt(), (1 << (bits - 1)) as f32);
    for (out, y) in out.iter_mut().zip(unit) {
        *out = (y / step).floor().clamp(-top, top - 1.0) + 0.5;
    }
}

/// 8 bits whose upper four are those of the 4-bit code: the same range in steps of a sixteenth.
fn nested(unit: &[f32], out: &mut [f32]) {
    steps(unit, 8, 0.3352 / 16.0, out);
}

fn run(
    name: &str,
    base: &Array,
    queries: &Array,
    truth: &Array,
    dims: usize,
    (bits, code): Code<impl Fn(&[f32], &mut [f32])>,
) {
    let mut coded = vec![0f32; base.rows().len() * dims];
    let (mut unit, mut residual) = (vec![0f32; dims], 0f64);
    for (row, out) in base.rows().zip(coded.chunks_exact_mut(dims)) {
        let norm = dot(&row[..dims], &row[..dims]).sqrt().max(f64::MIN_POSITIVE);
        unit.iter_mut().zip(row).for_each(|(u, x)| *u = (f64::from(*x) / norm) as f32);
        code(&unit, out);
        // The factor of the unbiased estimate (`encoding/stage.rs`); the angle gives the residual.
        let (along, square) = (dot(&unit, out), dot(out, out));
        residual += (1.0 - along * along / square).max(0.0).sqrt();
        out.iter_mut().for_each(|c| *c = (f64::from(*c) / along) as f32);
    }
    let mut found = [0usize; 6];
    let mut top = TopK::new(500);
    for (query, truth) in queries.rows().zip(truth.rows()) {
        top.reset(500);
        for (row, coded) in coded.chunks_exact(dims).enumerate() {
            top.offer(row as u32, dot(&query[..dims], coded) as f32);
        }
        for (at, row) in top.sorted().iter().enumerate() {
            if truth[..10].contains(&(row.ordinal as f32)) {
                SHORTLISTS.iter().zip(&mut found).for_each(|(&k, n)| *n += usize::from(at < k));
            }
        }
    }
    let residual = residual / base.rows().len() as f64;
    print!("{name:<44} {:>5} {residual:>8.4}", dims * bits as usize / 8);
    let asked = (10 * queries.rows().len()) as f64;
    found.iter().for_each(|&n| print!(" {:>6.3}", n as f64 / asked));
    println!();
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    <f32 as SpatialSimilarity>::dot(a, b).expect("equal lengths")
}

fn each(vectors: &Array, change: impl Fn(&mut [f32])) -> Array {
    let mut values = vectors.values.clone();
    values.chunks_exact_mut(vectors.width).for_each(change);
    Array { values, width: vectors.width }
}

/// A random rotation of a power of two of dimensions: signs and a Hadamard transform, twice.
fn hadamard(vector: &mut [f32], from: usize, to: usize) {
    let part = &mut vector[from..to];
    assert!(part.len().is_power_of_two(), "{} dimensions to rotate", part.len());
    let mut noise = Noise(99);
    for _ in 0..2 {
        for x in &mut *part {
            *x *= (1.0 - 2.0 * (noise.word() & 1) as f32) / (to as f32 - from as f32).sqrt();
        }
        let mut width = 1;
        while width < part.len() {
            for pair in part.chunks_exact_mut(2 * width) {
                let (a, b) = pair.split_at_mut(width);
                for (a, b) in a.iter_mut().zip(b) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            width *= 2;
        }
    }
}

fn turn(vector: &mut [f32], axes: &[Vec<f32>], kept: usize) {
    let turned: Vec<f32> = axes.iter().map(|axis| dot(axis, &vector[kept..]) as f32).collect();
    vector[kept..].copy_from_slice(&turned);
}

/// Orthonormal axes of the dimensions from `kept` on, by descending energy: eigenvectors of
/// the second moments of a sample, by one-sided Jacobi rotations (Hestenes 1958), which make the
/// rows of a symmetric matrix orthogonal.
fn principal_axes(base: &Array, kept: usize) -> Vec<Vec<f32>> {
    let n = base.width - kept;
    let mut rows = vec![vec![0f32; n]; n];
    let step = (base.rows().len() / 8000).max(1);
    for row in base.rows().step_by(step) {
        let tail = &row[kept..];
        for (moments, x) in rows.iter_mut().zip(tail) {
            moments.iter_mut().zip(tail).for_each(|(m, y)| *m += x * y);
        }
    }
    for _ in 0..12 {
        let mut largest = 0f64;
        for p in 0..n - 1 {
            let (head, tail) = rows.split_at_mut(p + 1);
            for other in tail {
                largest = largest.max(orthogonalise(&mut head[p], other));
            }
        }
        if largest < 1e-5 {
            break;
        }
    }
    rows.sort_by(|a, b| dot(b, b).total_cmp(&dot(a, a)));
    for row in &mut rows {
        let norm = dot(row, row).sqrt() as f32;
        row.iter_mut().for_each(|x| *x /= norm);
    }
    rows
}

/// Turns two rows until they are orthogonal; returns the cosine they had.
fn orthogonalise(a: &mut [f32], b: &mut [f32]) -> f64 {
    let (aa, bb, ab) = (dot(a, a), dot(b, b), dot(a, b));
    let cosine = ab.abs() / (aa * bb).sqrt().max(f64::MIN_POSITIVE);
    if cosine > 1e-6 {
        let zeta = (bb - aa) / (2.0 * ab);
        let tangent = zeta.signum() / (zeta.abs() + (1.0 + zeta * zeta).sqrt());
        let cos = 1.0 / (1.0 + tangent * tangent).sqrt();
        let (cos, sin) = (cos as f32, (cos * tangent) as f32);
        for (a, b) in a.iter_mut().zip(b) {
            (*a, *b) = (cos * *a - sin * *b, sin * *a + cos * *b);
        }
    }
    cosine
}

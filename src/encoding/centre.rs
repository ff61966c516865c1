//! What the rows of a segment have in common, which their 1-bit codes leave out: a **centre**, and
//! the **base** that estimates get instead. See [`super::stage`] for how both are used.

use super::StageCode;
use super::stage::signs_of;
use crate::kernel::{Isa, coding};

/// Rows that a centre is the mean of, at most, spread evenly.
const ROWS_SAMPLED: usize = 1024;
/// Fewer rows have no centre: the mean of a few is long whatever they are.
const CENTRE_FROM_ROWS: usize = 256;
/// Centres whose distance has no larger square are as good for the same rows. Those of two samples
/// of one kind are .001 to .002 apart.
const NEAR_SQUARE: f32 = 0.02;

/// Centres whose square is less say little: of text and pictures whose centres have squares of .03
/// and .2 estimates are as good about none, or better (docs/EXPERIMENTS.md, "Centres").
const LEAST_SQUARE: f64 = 0.35;

/// The centre for `rows` rows, of which `read` writes one: the mean of their prefixes, each
/// divided by its length; zeros where that is near none. Then its base. Other codes than of 1 bit
/// have none.
pub(crate) fn centre<E>(
    code: StageCode,
    rows: usize,
    mut read: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
) -> Result<Vec<f32>, E> {
    let isa = Isa::detect();
    let (dims, count) = (code.centre_len() / 2, rows.min(ROWS_SAMPLED));
    let none = vec![0.0; 2 * dims];
    if dims == 0 || count < CENTRE_FROM_ROWS {
        return Ok(none);
    }
    let mut row = vec![0.0; dims];
    let mut beside = |n: usize, centre: &[f32], out: &mut [f32]| {
        read(n * rows / count, &mut row)?;
        subtract(isa, &row, centre, out);
        Ok(())
    };
    let mut centre = mean(count, dims, |n, unit| beside(n, &none, unit))?;
    if coding::squares(isa, &centre) < LEAST_SQUARE {
        return Ok(none);
    }
    let mut signed = vec![0; dims];
    let coded = mean(count, dims, |n, coded| {
        beside(n, &centre, coded)?;
        signs_of(coded, &mut signed);
        let factor = centred_factor(isa, coded, &signed);
        coded.iter_mut().zip(&signed).for_each(|(x, sign)| *x = factor * f32::from(*sign));
        Ok(())
    })?;
    let base: Vec<f32> = centre.iter().zip(&coded).map(|(m, c)| m - c).collect();
    centre.extend(base);
    Ok(centre)
}

/// Whether codes about one centre are as good as about the other.
pub(crate) fn are_near(one: &[f32], other: &[f32]) -> bool {
    let centres = one.iter().zip(other).take(one.len() / 2);
    one.len() == other.len() && centres.map(|(a, b)| (a - b) * (a - b)).sum::<f32>() <= NEAR_SQUARE
}

/// The mean of `count` vectors, of which `write` writes one.
fn mean<E>(
    count: usize,
    dims: usize,
    mut write: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
) -> Result<Vec<f32>, E> {
    let (mut vector, mut sums) = (vec![0.0; dims], vec![0.0f64; dims]);
    for n in 0..count {
        write(n, &mut vector)?;
        sums.iter_mut().zip(&vector).for_each(|(sum, x)| *sum += f64::from(*x));
    }
    Ok(sums.iter().map(|sum| (sum / count as f64) as f32).collect())
}

/// `|y|^2 / <y, c>` of what a row has beside a centre, or 0 where it has nothing.
pub(super) fn centred_factor(isa: Isa, beside: &[f32], signed: &[i8]) -> f32 {
    let (square, dot) = (coding::squares(isa, beside), coding::signed_dot(isa, beside, signed));
    if dot > 0.0 { (square / dot) as f32 } else { 0.0 }
}

/// What a prefix, divided by its length, has beside a centre; nothing where it has no length.
pub(super) fn subtract(isa: Isa, prefix: &[f32], centre: &[f32], beside: &mut [f32]) {
    let norm = coding::squares(isa, prefix).sqrt();
    if norm == 0.0 {
        return beside.fill(0.0);
    }
    for ((y, x), m) in beside.iter_mut().zip(prefix).zip(centre) {
        *y = (f64::from(*x) / norm - f64::from(*m)) as f32;
    }
}

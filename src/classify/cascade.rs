//! Few dimensions first, more where they are not sure.

use super::{Classifier, Labelled, Prediction};
use crate::error::{Error, Result};

/// One step of a [`Cascade`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Dimensions that are looked at.
    pub dims: usize,
    /// An answer at least as sure as this stands; infinite, none does.
    pub threshold: f32,
}

/// Adaptive classification (paper, section 4.2.1 and appendix D.1): the answer of
/// the first dimensions stands if it is sure enough, else more are looked at. The
/// answer of the last level always stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Cascade {
    levels: Vec<Level>,
}

/// What a cascade says of a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The class.
    pub label: String,
    /// Of the level that decided.
    pub confidence: f32,
    /// Dimensions of the level that decided.
    pub dims: usize,
    /// What the levels before it said.
    pub earlier: Vec<Prediction>,
}

/// What a cascade reaches on labelled rows.
#[derive(Debug, Clone, PartialEq)]
pub struct CascadeReport {
    /// Share of the rows whose class was found.
    pub accuracy: f64,
    /// Mean of the dimensions of the levels that decided: the paper's "expected
    /// dimensionality".
    pub expected_dims: f64,
    /// What each level decided.
    pub levels: Vec<LevelReport>,
}

/// What one level of a cascade decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LevelReport {
    /// Its dimensions.
    pub dims: usize,
    /// Rows it decided.
    pub rows: usize,
    /// Those of them whose class it found.
    pub correct: usize,
}

impl Cascade {
    /// A cascade of given levels.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are none, dimensions do not ascend, or a
    /// threshold is NaN.
    pub fn new(levels: impl IntoIterator<Item = Level>) -> Result<Self> {
        let levels: Vec<_> = levels.into_iter().collect();
        let ascending = levels.windows(2).all(|pair| pair[0].dims < pair[1].dims);
        if levels.is_empty() || !ascending || levels.iter().any(|level| level.threshold.is_nan()) {
            let why = format!("expected dimensions that ascend and thresholds, got {levels:?}");
            return Err(Error::invalid("cascade", why));
        }
        Ok(Self { levels })
    }

    /// Learns the thresholds on rows that the classifier was not made of. From the
    /// last level to the first, a level gets the lowest threshold with which level
    /// and those after it find at most `tolerance` (a share of all rows) fewer
    /// classes than with the best threshold. The paper's rule has tolerance 0. Each level
    /// but the last spends its own tolerance, so four levels may lose three times as much.
    ///
    /// # Errors
    /// As [`Self::new`] and [`Classifier::predict`]; [`Error::Invalid`] if there
    /// are no rows, for a tolerance that is not from 0 to 1, or for a confidence that is NaN.
    pub fn learn(
        classifier: &(impl Classifier + ?Sized),
        held_out: &Labelled,
        dims: &[usize],
        tolerance: f64,
    ) -> Result<Self> {
        held_out.check_some()?;
        if !(0.0..=1.0).contains(&tolerance) {
            return Err(Error::invalid("tolerance", format!("expected 0 to 1, got {tolerance}")));
        }
        let open = |dims: &usize| Level { dims: *dims, threshold: f32::NEG_INFINITY };
        let mut cascade = Self::new(dims.iter().map(open))?;
        let spare = (tolerance * held_out.len() as f64).floor() as usize;
        let mut found: Option<Vec<bool>> = None;
        for level in cascade.levels.iter_mut().rev() {
            let answers = answers(classifier, held_out, level.dims)?;
            found = Some(match found {
                None => answers.iter().map(|answer| answer.1).collect(),
                Some(later) => {
                    level.threshold = threshold(&answers, &later, spare);
                    let stands = |answer: &(f32, bool)| answer.0 >= level.threshold;
                    let both = answers.iter().zip(later);
                    both.map(|(answer, later)| if stands(answer) { answer.1 } else { later })
                        .collect()
                }
            });
        }
        Ok(cascade)
    }

    /// The levels, by dimensions.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// The class of a vector.
    ///
    /// # Errors
    /// As [`Classifier::predict`].
    pub fn predict(
        &self,
        classifier: &(impl Classifier + ?Sized),
        vector: &[f32],
    ) -> Result<Decision> {
        let (last, before) = self.levels.split_last().expect("checked by new");
        let mut earlier = Vec::new();
        for level in before {
            let answer = classifier.predict(vector, level.dims)?;
            if answer.confidence >= level.threshold {
                return Ok(Decision::new(answer, level.dims, earlier));
            }
            earlier.push(answer);
        }
        Ok(Decision::new(classifier.predict(vector, last.dims)?, last.dims, earlier))
    }

    /// What the cascade reaches on rows that neither the classifier nor the
    /// thresholds were made of.
    ///
    /// # Errors
    /// As [`Classifier::predict`]; [`Error::Invalid`] if there are no rows.
    pub fn evaluate(
        &self,
        classifier: &(impl Classifier + ?Sized),
        rows: &Labelled,
    ) -> Result<CascadeReport> {
        rows.check_some()?;
        let empty = |level: &Level| LevelReport { dims: level.dims, rows: 0, correct: 0 };
        let mut levels: Vec<_> = self.levels.iter().map(empty).collect();
        for (vector, label) in rows.iter() {
            let decision = self.predict(classifier, vector)?;
            let level = &mut levels[decision.earlier.len()];
            level.rows += 1;
            level.correct += usize::from(decision.label == label);
        }
        let all = rows.len() as f64;
        let correct: usize = levels.iter().map(|level| level.correct).sum();
        let dims: usize = levels.iter().map(|level| level.dims * level.rows).sum();
        Ok(CascadeReport {
            accuracy: correct as f64 / all,
            expected_dims: dims as f64 / all,
            levels,
        })
    }
}

impl Decision {
    fn new(answer: Prediction, dims: usize, earlier: Vec<Prediction>) -> Self {
        Self { label: answer.label, confidence: answer.confidence, dims, earlier }
    }
}

/// Confidence and correctness of each row's prediction.
fn answers(
    classifier: &(impl Classifier + ?Sized),
    rows: &Labelled,
    dims: usize,
) -> Result<Vec<(f32, bool)>> {
    let answer = |(vector, label): (&[f32], &str)| {
        let answer = classifier.predict(vector, dims)?;
        if answer.confidence.is_nan() {
            let why =
                format!("expected a number of {:?} by {dims} dimensions, got NaN", answer.label);
            return Err(Error::invalid("confidence", why));
        }
        Ok((answer.confidence, answer.label == label))
    };
    rows.iter().map(answer).collect()
}

/// The lowest threshold with which at most `spare` fewer rows are right than with
/// the best, if rows below it are as right as `later`.
fn threshold(answers: &[(f32, bool)], later: &[bool], spare: usize) -> f32 {
    let mut rows: Vec<_> = answers.iter().zip(later).collect();
    rows.sort_by(|a, b| b.0.0.total_cmp(&a.0.0));
    let mut right = later.iter().filter(|right| **right).count();
    // Of each threshold the number of right rows, the highest first.
    let mut choices = vec![(f32::INFINITY, right)];
    for some in rows.chunk_by(|a, b| a.0.0.total_cmp(&b.0.0).is_eq()) {
        for (answer, later) in some {
            right = right + usize::from(answer.1) - usize::from(**later);
        }
        choices.push((some[0].0.0, right));
    }
    let best = choices.iter().map(|choice| choice.1).max().unwrap_or(0);
    let good = choices.iter().rev().find(|choice| choice.1 + spare >= best);
    good.map_or(f32::INFINITY, |choice| choice.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_threshold_that_costs_nothing_is_taken() {
        let answers = [(0.9, true), (0.8, false), (0.7, true), (0.7, false), (0.2, true)];
        let later = [true, false, true, true, true];
        assert_eq!(threshold(&answers, &later, 0).to_bits(), 0.8f32.to_bits());
        // Two rows share 0.7: both answers stand, or none.
        assert_eq!(threshold(&answers, &later, 1).to_bits(), 0.2f32.to_bits());
        assert!(threshold(&[(0.5, false)], &[true], 0).is_infinite());
    }

    #[test]
    fn levels_must_ascend() {
        let levels = |dims: &[usize]| {
            Cascade::new(dims.iter().map(|dims| Level { dims: *dims, threshold: 0.5 }))
        };
        assert!(levels(&[8, 16]).is_ok());
        for wrong in [&[][..], &[8, 8], &[16, 8]] {
            assert!(levels(wrong).is_err(), "{wrong:?}");
        }
    }
}

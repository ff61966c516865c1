//! Classification at every granularity, and a cascade that spends dimensions
//! only where they are needed.
//!
//! ```text
//!   labelled.rs    vectors with labels, of a collection or given
//!   neighbours.rs  the labels of the nearest rows decide
//!   means.rs       the nearest mean of a class decides
//!   linear.rs      linear heads decide: one for each granularity, or one for all
//!   train.rs       how linear heads are trained
//!   cascade.rs     few dimensions first, more where they are not sure
//!   evaluate.rs    accuracy, agreement, mean average precision
//! ```
//!
//! All of it follows Kusupati et al., "Matryoshka Representation Learning", 2022:
//! 1-NN and linear classification (section 4.2), adaptive classification (section
//! 4.2.1), nearest class means (section 5).
//!
//! ```
//! use matryo::classify::{Cascade, ClassMeans, Classifier, Labelled};
//! let mut rows = Labelled::new(4);
//! rows.push(&[0.9, 0.1, 0.3, 0.1], "red")?;
//! rows.push(&[0.1, 0.9, 0.3, 0.1], "green")?;
//! rows.push(&[0.1, 0.9, 0.1, 0.9], "blue")?;
//! let means = ClassMeans::fit(&rows)?;
//! assert_eq!(means.predict(&[0.8, 0.2, 0.4, 0.0], 2)?.label, "red");
//! // Two dimensions know red from the others, but not green from blue. How sure they must be
//! // is learnt on other rows than the means: of those they are surer than of what comes.
//! let mut held_out = Labelled::new(4);
//! held_out.push(&[0.8, 0.2, 0.2, 0.2], "red")?;
//! held_out.push(&[0.3, 0.7, 0.4, 0.1], "green")?;
//! held_out.push(&[0.1, 0.8, 0.2, 0.7], "blue")?;
//! let cascade = Cascade::learn(&means, &held_out, &[2, 4], 0.0)?;
//! let blue = cascade.predict(&means, &[0.2, 0.8, 0.1, 0.8])?;
//! assert_eq!((blue.label.as_str(), blue.dims), ("blue", 4));
//! # Ok::<(), matryo::Error>(())
//! ```

mod cascade;
mod evaluate;
mod labelled;
mod linear;
mod means;
mod neighbours;
mod train;

pub use cascade::{Cascade, CascadeReport, Decision, Level, LevelReport};
pub use evaluate::{Agreement, Votes, accuracy, agreement, mean_average_precision, votes};
pub use labelled::Labelled;
pub use linear::{Features, LinearHeads};
pub use means::ClassMeans;
pub use neighbours::Neighbours;
pub use train::LinearTrainer;

use crate::error::{Error, Result, VectorError};

/// Finds the class of a vector by its first dimensions.
pub trait Classifier {
    /// The class of `vector` by its first `dims` dimensions.
    ///
    /// # Errors
    /// [`Error::Invalid`] for dimensions that the classifier does not have,
    /// [`Error::Vector`] for a vector with fewer dimensions or of no use.
    fn predict(&self, vector: &[f32], dims: usize) -> Result<Prediction>;
}

/// What a classifier says of a vector.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The class.
    pub label: String,
    /// How sure the classifier is, 0 to 1. Comparable only among predictions of
    /// one classifier by one number of dimensions.
    pub confidence: f32,
}

/// The first `dims` components of a vector, which must be finite.
fn prefix(vector: &[f32], dims: usize, most: usize) -> Result<&[f32]> {
    if !(1..=most).contains(&dims) {
        return Err(Error::invalid("dims", format!("expected 1 to {most}, got {dims}")));
    }
    let prefix = vector.get(..dims).ok_or_else(|| VectorError::Dimension {
        expected: dims,
        got: vector.len(),
        granularities: Vec::new(),
    })?;
    check_finite(prefix)?;
    Ok(prefix)
}

fn check_finite(vector: &[f32]) -> Result<()> {
    match vector.iter().position(|v| !v.is_finite()) {
        Some(at) => Err(VectorError::NotFinite { at, value: vector[at] }.into()),
        None => Ok(()),
    }
}

/// Length of a vector; sums in `f64`, so that no finite `f32` overflows.
fn norm(vector: &[f32]) -> f64 {
    vector.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// Index and share of the greatest of `exp(logit)`, the first of equals.
fn softmax_best(logits: &[f64]) -> (usize, f32) {
    let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
    let best = best.expect("a classifier has classes");
    let sum: f64 = logits.iter().map(|l| (l - logits[best]).exp()).sum();
    (best, (1.0 / sum) as f32)
}

//! Linear heads decide.

use super::train::LinearTrainer;
use std::borrow::Cow;

use super::{Classifier, Prediction, dot, norm, prefix, softmax_best};
use crate::error::{Error, Result};

/// What a head multiplies its weights with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Features {
    /// The prefix as it is: heads that were trained with the model.
    Raw,
    /// The prefix scaled to length `sqrt(dims)`, so that a component is about 1
    /// whatever the prefix.
    Scaled,
}

impl Features {
    /// What the weights are multiplied with. Scaled in `f64`: the factor of the smallest `f32`s
    /// is none.
    pub(super) fn of(self, prefix: &[f32]) -> Cow<'_, [f32]> {
        let length = norm(prefix);
        if self == Self::Raw || length == 0.0 {
            return Cow::Borrowed(prefix);
        }
        let scale = (prefix.len() as f64).sqrt() / length;
        Cow::Owned(prefix.iter().map(|v| (f64::from(*v) * scale) as f32).collect())
    }
}

/// Weights of a linear head.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) dims: usize,
    /// Class after class, `dims` each.
    pub(super) weights: Vec<f32>,
    /// One for each class.
    pub(super) bias: Vec<f32>,
}

impl Head {
    pub(super) fn zeros(dims: usize, classes: usize) -> Self {
        Self { dims, weights: vec![0.0; dims * classes], bias: vec![0.0; classes] }
    }

    /// A logit for each class, of features that may be fewer than the head's.
    pub(super) fn logits(&self, features: &[f32]) -> Vec<f64> {
        let rows = self.weights.chunks(self.dims).zip(&self.bias);
        rows.map(|(row, bias)| logit(&row[..features.len()], features, *bias)).collect()
    }

    pub(super) fn is_finite(&self) -> bool {
        self.weights.iter().chain(&self.bias).all(|w| w.is_finite())
    }
}

/// Finite, as its arguments are.
fn logit(row: &[f32], features: &[f32], bias: f32) -> f64 {
    let fast = dot_f32(row, features) + bias;
    if fast.is_finite() { fast.into() } else { dot(row, features) + f64::from(bias) }
}

/// In `f32` with eight sums, which compiles to SIMD.
pub(super) fn dot_f32(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; 8];
    let (runs_a, runs_b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest = runs_a.remainder().iter().zip(runs_b.remainder()).map(|(a, b)| a * b).sum::<f32>();
    for (a, b) in runs_a.zip(runs_b) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + rest
}

/// Linear classifiers over prefixes: one head for each granularity (MRL), or one
/// whose first weights serve every prefix (MRL-E, "efficient", which has weights
/// of the full dimension only; paper, section 3).
///
/// The confidence is the class's share in the softmax of the logits.
#[derive(Debug, Clone)]
pub struct LinearHeads {
    pub(super) classes: Vec<String>,
    pub(super) features: Features,
    /// Ascending by dimensions. A single one serves every shorter prefix.
    pub(super) heads: Vec<Head>,
    pub(super) shared: bool,
}

impl LinearHeads {
    /// Begins the training of heads on labelled rows.
    pub fn trainer() -> LinearTrainer {
        LinearTrainer::new()
    }

    /// One head with given weights, for every prefix up to its dimensions: what a
    /// model trained as MRL-E is exported with. `weights` has `classes x dims`
    /// numbers, class after class, `bias` one for each class.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the lengths do not belong together, or for a number that is
    /// not finite.
    pub fn shared(
        classes: Vec<String>,
        weights: Vec<f32>,
        bias: Vec<f32>,
        features: Features,
    ) -> Result<Self> {
        let heads = vec![head(classes.len(), weights, bias)?];
        Ok(Self { classes, features, heads, shared: true })
    }

    /// One head for each of some prefixes: what a model trained as MRL is
    /// exported with. Each head is `(weights, bias)`, as in [`Self::shared`].
    ///
    /// # Errors
    /// [`Error::Invalid`] if the lengths do not belong together, two heads have the same
    /// number of dimensions, or for a number that is not finite.
    pub fn separate(
        classes: Vec<String>,
        heads: impl IntoIterator<Item = (Vec<f32>, Vec<f32>)>,
        features: Features,
    ) -> Result<Self> {
        let heads = heads.into_iter().map(|(weights, bias)| head(classes.len(), weights, bias));
        let mut heads = heads.collect::<Result<Vec<_>>>()?;
        heads.sort_by_key(|head| head.dims);
        if heads.is_empty() || heads.windows(2).any(|pair| pair[0].dims == pair[1].dims) {
            let dims: Vec<_> = heads.iter().map(|head| head.dims).collect();
            let why = format!("expected one for each of some prefixes, got heads of {dims:?}");
            return Err(Error::invalid("linear heads", why));
        }
        Ok(Self { classes, features, heads, shared: false })
    }

    /// The classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The prefixes there is a head for; one that is shared serves all shorter
    /// ones too.
    pub fn dims(&self) -> Vec<usize> {
        self.heads.iter().map(|head| head.dims).collect()
    }

    /// What the heads multiply their weights with.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether it is one head for all prefixes.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Weights and bias of each head, in the order of [`Self::dims`]: with [`Self::classes`]
    /// and [`Self::features`] all that [`Self::shared`] (of the only one) or
    /// [`Self::separate`] make the same heads of again.
    ///
    /// ```
    /// use matryo::classify::{Labelled, LinearHeads};
    /// # let mut rows = Labelled::new(2);
    /// # rows.push(&[0.9, 0.1], "red")?;
    /// # rows.push(&[0.1, 0.9], "blue")?;
    /// let trained = LinearHeads::trainer().fit(&rows, &[1, 2])?;
    /// let heads = trained.heads().map(|(weights, bias)| (weights.to_vec(), bias.to_vec()));
    /// let classes = trained.classes().to_vec();
    /// let again = LinearHeads::separate(classes, heads, trained.features())?;
    /// # assert_eq!(again.dims(), trained.dims());
    /// # Ok::<(), matryo::Error>(())
    /// ```
    pub fn heads(&self) -> impl Iterator<Item = (&[f32], &[f32])> {
        self.heads.iter().map(|head| (&head.weights[..], &head.bias[..]))
    }

    fn head(&self, dims: usize) -> Result<&Head> {
        let fits = |head: &&Head| head.dims == dims || (self.shared && dims < head.dims);
        self.heads.iter().find(fits).ok_or_else(|| {
            let of = if self.shared { "up to" } else { "one of" };
            Error::invalid("dims", format!("expected {of} {:?}, got {dims}", self.dims()))
        })
    }
}

fn head(classes: usize, weights: Vec<f32>, bias: Vec<f32>) -> Result<Head> {
    let dims = weights.len().checked_div(classes).unwrap_or(0);
    if dims == 0 || dims * classes != weights.len() || bias.len() != classes {
        let got = format!("{} weights and {} biases", weights.len(), bias.len());
        let why = format!("expected {classes} x dims and {classes}, got {got}");
        return Err(Error::invalid("linear head", why));
    }
    let head = Head { dims, weights, bias };
    if !head.is_finite() {
        return Err(Error::invalid("linear head", "expected finite weights and biases"));
    }
    Ok(head)
}

impl Classifier for LinearHeads {
    fn predict(&self, vector: &[f32], dims: usize) -> Result<Prediction> {
        let head = self.head(dims)?;
        let prefix = prefix(vector, dims, head.dims)?;
        let (best, confidence) = softmax_best(&head.logits(&self.features.of(prefix)));
        Ok(Prediction { label: self.classes[best].clone(), confidence })
    }
}

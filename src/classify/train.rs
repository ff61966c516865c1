//! How linear heads are trained: softmax regression by Adam (Kingma and Ba, 2015)
//! on shuffled batches.

use super::linear::{Features, Head, LinearHeads};
use super::{Labelled, softmax_best};
use crate::error::{Error, Result};
use crate::random::shuffle;

const BATCH: usize = 128;
const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

/// Trains [`LinearHeads`]: the loss of the paper's equation 1, the sum over
/// granularities of `importance x` cross entropy. The same seed gives the same
/// weights on the same machine.
#[derive(Debug, Clone)]
#[must_use = "trains nothing until `fit`"]
pub struct LinearTrainer {
    epochs: usize,
    learning_rate: f32,
    l2: f32,
    seed: u64,
    shared: bool,
    importance: Vec<f32>,
}

impl LinearTrainer {
    pub(super) fn new() -> Self {
        let (epochs, learning_rate, l2) = (10, 0.01, 1e-4);
        Self { epochs, learning_rate, l2, seed: 1, shared: false, importance: Vec::new() }
    }

    /// How often every row is seen, at least once. Default: 10.
    pub fn epochs(mut self, epochs: usize) -> Self {
        self.epochs = epochs;
        self
    }

    /// Step size of the beginning; it falls to zero in a line. Default: 0.01.
    pub fn learning_rate(mut self, rate: f32) -> Self {
        self.learning_rate = rate;
        self
    }

    /// Share of a weight that is added to its gradient. Default: 1e-4.
    pub fn l2(mut self, l2: f32) -> Self {
        self.l2 = l2;
        self
    }

    /// Orders the rows. Default: 1.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// One head whose first weights serve every prefix (MRL-E) instead of one head
    /// for each (MRL). Default: no.
    pub fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Relative importance of each granularity in the loss (the paper's `c_m`).
    /// It matters to a shared head only. Default: 1 each.
    pub fn importance(mut self, importance: impl IntoIterator<Item = f32>) -> Self {
        self.importance = importance.into_iter().collect();
        self
    }

    /// Trains heads for some granularities.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there are no rows, or for granularities or settings
    /// that cannot be, such as a learning rate with which the weights grow without bound.
    pub fn fit(&self, rows: &Labelled, granularities: &[usize]) -> Result<LinearHeads> {
        rows.check_some()?;
        let mut dims = granularities.to_vec();
        dims.sort_unstable();
        dims.dedup();
        self.check(rows, granularities, &dims)?;
        let heads = if self.shared {
            let weight = |d: &usize| granularities.iter().position(|g| g == d);
            let important = |d| weight(d).and_then(|at| self.importance.get(at)).unwrap_or(&1.0);
            let parts: Vec<_> = dims.iter().map(|d| (*d, *important(d))).collect();
            vec![self.train(rows, &parts)]
        } else {
            dims.iter().map(|d| self.train(rows, &[(*d, 1.0)])).collect()
        };
        if !heads.iter().all(Head::is_finite) {
            let why =
                format!("the weights left f32: lower the learning rate {}", self.learning_rate);
            return Err(Error::invalid("training", why));
        }
        let (classes, features) = (rows.classes().to_vec(), Features::Scaled);
        Ok(LinearHeads { classes, features, heads, shared: self.shared })
    }

    fn check(&self, rows: &Labelled, asked: &[usize], dims: &[usize]) -> Result<()> {
        if dims.first().is_none_or(|d| *d == 0) || dims.last().is_some_and(|d| *d > rows.dims()) {
            let why = format!("expected some of 1 to {}, got {asked:?}", rows.dims());
            return Err(Error::invalid("granularities", why));
        }
        let positive = |v: f32| v.is_finite() && v > 0.0;
        if !(positive(self.learning_rate) && self.l2.is_finite() && self.l2 >= 0.0) {
            let got = format!("{} and {}", self.learning_rate, self.l2);
            let why = format!("expected a learning rate above 0 and an l2 from 0, got {got}");
            return Err(Error::invalid("training", why));
        }
        if self.epochs == 0 {
            return Err(Error::invalid("training", "expected at least 1 epoch, got 0"));
        }
        let importance = &self.importance;
        if !importance.is_empty()
            && (importance.len() != asked.len() || !importance.iter().all(|w| positive(*w)))
        {
            let why = format!("expected {} numbers above 0, got {importance:?}", asked.len());
            return Err(Error::invalid("importance", why));
        }
        Ok(())
    }

    /// One head, trained for prefixes of it with their importance.
    fn train(&self, rows: &Labelled, parts: &[(usize, f32)]) -> Head {
        let (dims, _) = *parts.last().expect("checked");
        let classes = rows.classes().len();
        let mut head = Head::zeros(dims, classes);
        let mut gradient = Head::zeros(dims, classes);
        let mut adam = [Adam::new(dims * classes), Adam::new(classes)];
        let mut order: Vec<usize> = (0..rows.len()).collect();
        let mut random = self.seed;
        let steps = self.epochs * rows.len().div_ceil(BATCH);
        for step in 0..steps {
            let at = step % rows.len().div_ceil(BATCH);
            if at == 0 {
                shuffle(&mut order, &mut random);
            }
            let batch = &order[at * BATCH..((at + 1) * BATCH).min(order.len())];
            gradient.weights.iter_mut().zip(&head.weights).for_each(|(g, w)| *g = self.l2 * w);
            gradient.bias.fill(0.0);
            for row in batch {
                let (vector, class) = rows.at(*row);
                for (dims, importance) in parts {
                    let share = importance / batch.len() as f32;
                    let features = Features::Scaled.of(&vector[..*dims]);
                    add_gradient(&head, &features, class, share, &mut gradient);
                }
            }
            let rate = self.learning_rate * (1.0 - step as f32 / steps as f32);
            adam[0].step(rate, &gradient.weights, &mut head.weights);
            adam[1].step(rate, &gradient.bias, &mut head.bias);
        }
        head
    }
}

/// Adds `share x` the gradient of the cross entropy of one row's features.
fn add_gradient(head: &Head, features: &[f32], class: usize, share: f32, gradient: &mut Head) {
    let logits = head.logits(features);
    let (best, best_share) = softmax_best(&logits);
    let rows = gradient.weights.chunks_mut(head.dims).zip(&mut gradient.bias).zip(&logits);
    for (at, ((row, bias), logit)) in rows.enumerate() {
        let probability = (logit - logits[best]).exp() as f32 * best_share;
        let error = share * (probability - f32::from(u8::from(at == class)));
        // Classes that are out of the question cost nothing.
        if error.abs() > share * 1e-4 {
            row.iter_mut().zip(features).for_each(|(g, v)| *g += error * v);
            *bias += error;
        }
    }
}

/// Running means of a gradient and of its square.
struct Adam {
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Adam {
    fn new(len: usize) -> Self {
        Self { first: vec![0.0; len], second: vec![0.0; len], steps: 0 }
    }

    fn step(&mut self, rate: f32, gradient: &[f32], weights: &mut [f32]) {
        self.steps += 1;
        let (unbias1, unbias2) = (1.0 - BETA1.powi(self.steps), 1.0 - BETA2.powi(self.steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((weight, g), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
            *first = BETA1 * *first + (1.0 - BETA1) * g;
            *second = BETA2 * *second + (1.0 - BETA2) * g * g;
            *weight -= rate * (*first / unbias1) / ((*second / unbias2).sqrt() + EPSILON);
        }
    }
}

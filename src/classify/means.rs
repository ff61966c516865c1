//! The nearest mean of a class decides.

use super::{Classifier, Labelled, Prediction, dot, norm, prefix, softmax_best};
use crate::error::{Result, VectorError};

/// Cosines are divided by this before they become shares: the temperature that
/// contrastive models are commonly trained with.
const TEMPERATURE: f64 = 0.05;

/// Nearest class mean: the class whose mean has the greatest cosine with the
/// vector, both cut to the dimensions asked for. New classes and rows need no
/// training, which is why the paper uses it for long-tail and few-shot data
/// (section 5).
///
/// The mean is that of the vectors at unit length; its prefix is the mean of
/// their prefixes, so one table serves every number of dimensions. The
/// confidence is the class's share in a softmax of the cosines.
#[derive(Debug, Clone)]
pub struct ClassMeans {
    dims: usize,
    classes: Vec<String>,
    /// Class after class.
    means: Vec<f32>,
}

impl ClassMeans {
    /// The means of some rows. Rows of zeros count for nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) if there are no rows.
    pub fn fit(rows: &Labelled) -> Result<Self> {
        rows.check_some()?;
        let dims = rows.dims();
        let mut sums = vec![0f64; rows.classes().len() * dims];
        for (vector, class) in rows.numbered() {
            let length = norm(vector);
            if length > 0.0 {
                let sum = &mut sums[class * dims..(class + 1) * dims];
                sum.iter_mut().zip(vector).for_each(|(s, v)| *s += f64::from(*v) / length);
            }
        }
        // Only directions matter, so a sum does for a mean; scaled, it fits in f32.
        for sum in sums.chunks_mut(dims.max(1)) {
            let length = sum.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
            sum.iter_mut().for_each(|v| *v /= length);
        }
        let means = sums.into_iter().map(|v| v as f32).collect();
        Ok(Self { dims, classes: rows.classes().to_vec(), means })
    }

    /// The classes.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }
}

impl Classifier for ClassMeans {
    fn predict(&self, vector: &[f32], dims: usize) -> Result<Prediction> {
        let vector = prefix(vector, dims, self.dims)?;
        let length = norm(vector);
        if length == 0.0 {
            return Err(VectorError::Zero.into());
        }
        let cosine = |mean: &[f32]| {
            let mean = &mean[..dims];
            let lengths = length * norm(mean);
            if lengths == 0.0 { 0.0 } else { dot(vector, mean) / lengths }
        };
        let logits = self.means.chunks(self.dims).map(|mean| cosine(mean) / TEMPERATURE);
        let (best, confidence) = softmax_best(&logits.collect::<Vec<_>>());
        Ok(Prediction { label: self.classes[best].clone(), confidence })
    }
}

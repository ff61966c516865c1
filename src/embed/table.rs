//! A static model without a graph: a table of word vectors, of which a text's
//! vector is the mean.
//!
//! The `StaticEmbedding` module of sentence-transformers, and model2vec files under
//! its name, where rows may be shared between tokens and weighted.

use super::files::ModelDir;
use super::fingerprint::{Hash, Hasher};
use super::modules::inside;
use super::safetensors::Tensors;
use crate::error::Result;

/// Word vectors by token id.
pub(super) struct Table {
    dims: usize,
    /// Row of each token; `None` when a token's id is its row.
    rows: Option<Vec<u32>>,
    /// Weight of each token; `None` when all weigh 1.
    weights: Option<Vec<f32>>,
    values: Vec<f32>,
    /// Tokens there are vectors for.
    tokens: usize,
}

impl Table {
    pub(super) const FILE: &'static str = "model.safetensors";

    pub(super) fn read(dir: &ModelDir, folder: &str) -> Result<(Self, Hash)> {
        let mut hasher = Hasher::new("table");
        let file = Tensors::read(dir, &inside(folder, Self::FILE), &mut hasher)?;
        // model2vec's own name for it.
        let own = !file.holds("embedding.weight");
        let table = file.need(if own { "embeddings" } else { "embedding.weight" }, 2)?;
        let (count, dims) = (table.shape[0], table.shape[1]);
        if count == 0 || dims == 0 {
            return Err(file.wrong(format!("holds an empty table, {:?}", table.shape)));
        }
        let mut made =
            Self { dims, rows: None, weights: None, values: table.values, tokens: count };
        if own {
            made.read_sharing(&file, count)?;
        }
        Ok((made, hasher.finish()))
    }

    /// The keys with which model2vec shares rows between tokens and weights them.
    fn read_sharing(&mut self, file: &Tensors, count: usize) -> Result<()> {
        if let Some(mapping) = file.integers("mapping")? {
            let row = |&at: &i64| u32::try_from(at).ok().filter(|&row| (row as usize) < count);
            let rows: Option<Vec<u32>> = mapping.values.iter().map(row).collect();
            let rows = rows.ok_or_else(|| {
                file.wrong(format!("maps a token to a row that is not one of the {count}"))
            })?;
            self.tokens = rows.len();
            self.rows = Some(rows);
        }
        let Some(weights) = file.floats("weights")? else { return Ok(()) };
        if weights.values.len() != self.tokens {
            let found = weights.values.len();
            return Err(file.wrong(format!("holds {found} weights for {} tokens", self.tokens)));
        }
        self.weights = Some(weights.values);
        Ok(())
    }

    pub(super) fn dims(&self) -> usize {
        self.dims
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The mean of the tokens' vectors, zero for no token. `None` when there is no
    /// vector for a token.
    pub(super) fn mean(&self, ids: &[u32]) -> Option<Vec<f32>> {
        let mut mean = vec![0.0; self.dims];
        for &id in ids {
            let at = id as usize;
            let row = match &self.rows {
                Some(rows) => *rows.get(at)? as usize,
                None => at,
            };
            let vector = self.values.get(row * self.dims..(row + 1) * self.dims)?;
            let weight = self.weights.as_ref().map_or(Some(1.0), |w| w.get(at).copied())?;
            mean.iter_mut().zip(vector).for_each(|(m, &x)| *m += weight * x);
        }
        let count = ids.len().max(1) as f32;
        mean.iter_mut().for_each(|m| *m /= count);
        Some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_rows_shared_and_weighted() {
        let values = vec![1.0, 2.0, 3.0, 6.0];
        let mut table = Table { dims: 2, rows: None, weights: None, values, tokens: 2 };
        assert_eq!(table.mean(&[0, 1]).unwrap(), [2.0, 4.0]);
        assert_eq!(table.mean(&[]).unwrap(), [0.0, 0.0]);
        assert_eq!(table.mean(&[2]), None);
        table.rows = Some(vec![1, 1, 0]);
        table.weights = Some(vec![1.0, 3.0, 1.0]);
        assert_eq!(table.mean(&[0, 1]).unwrap(), [6.0, 12.0]);
        assert_eq!(table.mean(&[2]).unwrap(), [1.0, 2.0]);
        assert_eq!(table.mean(&[3]), None);
    }
}

//! What is done to the vectors that come out of the graph: pooling, then the
//! modules after it, in the order of `modules.json`.

use std::fmt;
use std::ops::Range;

use super::config::Config;
use super::dense::{Dense, LayerNorm};
use super::files::{ModelDir, model};
use super::fingerprint::Hasher;
use super::modules::Step;
use super::pool::{Pooling, normalize};
use crate::error::{Error, Result};

/// Choices of the caller that change the chain.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// A layer norm without weights after pooling.
    pub(super) layer_norm: bool,
    /// How many components are kept.
    pub(super) dims: Option<usize>,
}

/// What comes into the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// A vector per token.
    Tokens,
    /// A vector per text, the mean of a table's rows.
    Mean,
    /// A vector per text, through the layers that the graph holds.
    Done,
}

/// A step with its weights.
#[derive(Debug)]
enum Module {
    Dense(Dense),
    LayerNorm(LayerNorm),
    /// Keep the first components, this many.
    Keep(usize),
    Normalize,
}

/// Pooling and the steps after it.
#[derive(Debug)]
pub(super) struct Chain {
    /// Empty when the graph gives a vector per text.
    pub(super) pooling: Vec<Pooling>,
    pub(super) pool_prompt: bool,
    modules: Vec<Module>,
    /// Components of the result.
    pub(super) dims: usize,
}

impl Chain {
    /// `width` is the length of the vectors that come in.
    pub(super) fn new(
        dir: &ModelDir,
        config: &Config,
        wanted: Wanted,
        (came, width): (Came, usize),
        hasher: &mut Hasher,
    ) -> Result<Self> {
        let per_token = came == Came::Tokens;
        let mut chain = Self {
            pooling: if per_token { config.modules.pooling.clone() } else { Vec::new() },
            pool_prompt: config.modules.pool_prompt,
            modules: Vec::new(),
            dims: width,
        };
        if per_token {
            chain.dims = width * chain.pooling.len();
        }
        if wanted.layer_norm {
            hasher.text("plain layer norm");
            chain.modules.push(Module::LayerNorm(LayerNorm::plain()));
        }
        for step in &config.modules.steps {
            chain.add(dir, step, came, hasher)?;
        }
        if let Some(keep) = wanted.dims.or(config.truncate) {
            chain.keep(dir, keep)?;
        }
        hasher.text(&chain.to_string());
        Ok(chain)
    }

    fn add(&mut self, dir: &ModelDir, step: &Step, came: Came, hasher: &mut Hasher) -> Result<()> {
        match step {
            Step::Normalize => self.modules.push(Module::Normalize),
            _ if came == Came::Done => {}
            Step::Dense { folder, .. } => {
                let dense = Dense::read(dir, folder, self.dims, hasher)?;
                self.dims = dense.outputs();
                self.modules.push(Module::Dense(dense));
            }
            Step::LayerNorm { folder } => {
                let norm = LayerNorm::read(dir, folder, self.dims, hasher)?;
                self.modules.push(Module::LayerNorm(norm));
            }
        }
        Ok(())
    }

    /// Keeps the first components, before the last scaling to unit length, so that
    /// what is kept has unit length too.
    fn keep(&mut self, dir: &ModelDir, keep: usize) -> Result<()> {
        if keep == 0 || keep > self.dims {
            let why =
                format!("gives vectors of {} components, and {keep} are to be kept", self.dims);
            return Err(model(dir.root(), why));
        }
        if keep < self.dims {
            let last = matches!(self.modules.last(), Some(Module::Normalize));
            let at = self.modules.len() - usize::from(last);
            self.modules.insert(at, Module::Keep(keep));
            self.dims = keep;
        }
        Ok(())
    }

    pub(super) fn dense_layers(&self) -> usize {
        self.modules.iter().filter(|m| matches!(m, Module::Dense(_))).count()
    }

    pub(super) fn layer_norms(&self) -> usize {
        self.modules.iter().filter(|m| matches!(m, Module::LayerNorm(_))).count()
    }

    pub(super) fn normalizes(&self) -> bool {
        matches!(self.modules.last(), Some(Module::Normalize))
    }

    /// The vector of a text. `rows` are the vectors of its tokens, of `width`
    /// components each, of which `counted` are pooled; or the vector of the text.
    pub(super) fn vector(&self, rows: &[f32], width: usize, counted: &Range<usize>) -> Vec<f32> {
        let mut vector = if self.pooling.is_empty() {
            rows.to_vec()
        } else {
            let mut pooled = vec![0.0; width * self.pooling.len()];
            let parts = pooled.chunks_exact_mut(width.max(1));
            for (pooling, part) in self.pooling.iter().zip(parts) {
                pooling.pool(rows, counted.clone(), part);
            }
            pooled
        };
        for module in &self.modules {
            match module {
                Module::Dense(dense) => vector = dense.apply(&vector),
                Module::LayerNorm(norm) => norm.apply(&mut vector),
                Module::Keep(keep) => vector.truncate(*keep),
                Module::Normalize => normalize(&mut vector),
            }
        }
        vector
    }

    /// The length the configuration promises; scores of classes and the like, which
    /// look like vectors, seldom have it. `came` is what the graph gives.
    pub(super) fn check_width(config: &Config, came: usize, told: &str) -> Result<(), String> {
        let dense = config.modules.steps.iter().rev().find_map(|step| match step {
            Step::Dense { outputs, .. } => Some(*outputs),
            Step::Normalize | Step::LayerNorm { .. } => None,
        });
        let pooled = config.width.map(|w| w.saturating_mul(config.modules.pooling.len().max(1)));
        match dense.or(pooled) {
            Some(expected) if expected != came => Err(format!(
                "output {told} gives vectors of {came} components, and the configuration says \
                 {expected}: if it is the embedding all the same, say so with output({told:?})"
            )),
            _ => Ok(()),
        }
    }
}

/// For the fingerprint: all but how much is kept. Shorter vectors are prefixes of the
/// longer ones, as a collection has them that dropped a tier.
impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} prompt {}", self.pooling, self.pool_prompt)?;
        for module in &self.modules {
            match module {
                Module::Dense(dense) => write!(f, " dense {}", dense.outputs())?,
                Module::LayerNorm(_) => f.write_str(" layer norm")?,
                Module::Keep(_) => {}
                Module::Normalize => f.write_str(" normalize")?,
            }
        }
        Ok(())
    }
}

/// Why token vectors cannot be used.
pub(super) fn no_pooling(dir: &ModelDir, output: &str) -> Error {
    let why = format!(
        "the graph gives a vector per token ({output}), and no modules.json says how to pool \
         them: add the one the model was published with, or call pooling(...)"
    );
    model(dir.root(), why)
}

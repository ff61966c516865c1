//! From token ids to vectors: through the graph, batch by batch, or by looking
//! them up in a table.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;

use super::batches::Batches;
use super::builder::not_numbers;
use super::chain::Chain;
use super::files::model;
use super::inputs::Feed;
use super::runtime::Loaded;
use super::session::Model;
use super::table::Table;
use super::text::{Tokenizer, Tokens};
use super::threads;
use crate::error::Result;

/// Fewer texts than this are not worth a thread.
const TEXTS_PER_THREAD: usize = 256;

/// What computes the vectors.
pub(super) enum Backend {
    /// ONNX Runtime.
    Graph(Box<Running>),
    /// No graph: the means of a table's rows.
    Table(Table),
}

/// A session and what was found out about it.
pub(super) struct Running {
    pub(super) model: Model,
    pub(super) loaded: &'static Loaded,
    /// Each text is a batch, because its vector depends on what is in its batch.
    pub(super) alone: bool,
}

/// What every run of one call has in common.
pub(super) struct Runs<'a> {
    pub(super) chain: &'a Chain,
    /// For messages: the file the vectors come from.
    pub(super) weights: &'a Path,
    pub(super) task: usize,
    /// Leading tokens of each text that are not pooled.
    pub(super) excluded: usize,
}

impl Runs<'_> {
    /// The vectors of all texts, through the graph.
    pub(super) fn through(
        &self,
        graph: &Running,
        tokens: &Tokens,
        tokenizer: &Tokenizer,
        batch_tokens: usize,
    ) -> Result<Vec<Vec<f32>>> {
        let mut vectors = vec![Vec::new(); tokens.texts()];
        let (pad_id, left) = (tokenizer.pad_id, tokenizer.pad_left);
        let row = graph.model.row_tokens();
        for batch in Batches::plan(tokens, batch_tokens, graph.alone, row).iter() {
            let feed = Feed { tokens, batch, pad_id, left, task: self.task };
            graph.model.run(&feed, |answer| {
                for (row, &text) in batch.iter().enumerate() {
                    let length = tokens.ids(text as usize).len();
                    let rows = answer.rows(row, length, left);
                    let vector = self.chain.vector(rows, answer.dims, &self.counted(length));
                    if !vector.iter().all(|x| x.is_finite()) {
                        return Err(not_numbers(self.weights));
                    }
                    vectors[text as usize] = vector;
                }
                Ok(())
            })?;
        }
        Ok(vectors)
    }

    /// The vectors of all texts, from the table.
    pub(super) fn look_up(
        &self,
        table: &Table,
        tokens: &Tokens,
        threads: NonZeroUsize,
    ) -> Result<Vec<Vec<f32>>> {
        let mut vectors = vec![Vec::new(); tokens.texts()];
        let wanted = tokens.texts().div_ceil(TEXTS_PER_THREAD).min(threads.get()).max(1);
        let share = tokens.texts().div_ceil(wanted).max(1);
        let one = |(first, part): (usize, &mut [Vec<f32>])| -> Result<()> {
            for (at, vector) in part.iter_mut().enumerate() {
                *vector = self.mean(table, tokens.ids(first + at))?;
            }
            Ok(())
        };
        let mut parts = vectors.chunks_mut(share).enumerate().map(|(n, part)| (n * share, part));
        if wanted == 1 {
            parts.try_for_each(one)?;
            return Ok(vectors);
        }
        threads::each("text", parts.collect(), one)?;
        Ok(vectors)
    }

    fn mean(&self, table: &Table, ids: &[u32]) -> Result<Vec<f32>> {
        let mean = table.mean(ids).ok_or_else(|| {
            let (most, count) = (ids.iter().max().copied().unwrap_or(0), table.tokens());
            let why = format!(
                "holds vectors for {count} tokens, and the tokenizer gives token {most}: they \
                 belong to different models"
            );
            model(self.weights, why)
        })?;
        let vector = self.chain.vector(&mean, table.dims(), &(0..0));
        if vector.iter().all(|x| x.is_finite()) {
            Ok(vector)
        } else {
            Err(not_numbers(self.weights))
        }
    }

    /// The tokens of a text that are pooled.
    fn counted(&self, length: usize) -> Range<usize> {
        self.excluded.min(length)..length
    }
}

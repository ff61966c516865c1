//! A model directory read as far as ONNX Runtime: what is fuzzed of it.

use std::num::NonZeroUsize;
use std::path::Path;

use super::config::{Config, Step};
use super::dense::Dense;
use super::files::ModelDir;
use super::fingerprint::Hasher;
use super::graph::Graph;
use super::text::Tokenizer;
use crate::error::Result;

/// Inputs of a `Dense` where no file says how many.
const WIDTH: usize = 4;

/// Reads every file that opening an embedder reads, and tokenizes some texts;
/// returns the number of tokens.
pub(crate) fn read(dir: &Path, texts: &[&str]) -> Result<usize> {
    let dir = ModelDir::open(dir)?;
    let config = Config::read(&dir)?;
    let (tokenizer, _) = Tokenizer::load(&dir, &config, None)?;
    Graph::read(&dir, None)?;
    let mut width = config.width.unwrap_or(WIDTH);
    for step in &config.steps {
        if let Step::Dense { folder, .. } = step {
            width = Dense::read(&dir, folder, width, &mut Hasher::new("modules"))?.outputs();
        }
    }
    let tokens = tokenizer.encode("", texts, NonZeroUsize::MIN)?;
    Ok((0..tokens.texts()).map(|text| tokens.ids(text).len()).sum())
}

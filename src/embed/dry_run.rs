//! A model directory read as far as ONNX Runtime: what is fuzzed of it.

use std::num::NonZeroUsize;
use std::path::Path;

use super::chain::{Came, Chain, Wanted};
use super::config::Config;
use super::files::ModelDir;
use super::fingerprint::Hasher;
use super::graph::Graph;
use super::modules::{Backbone, inside};
use super::table::Table;
use super::text::{Kind, Tokenizers};
use crate::error::Result;

/// Components of a vector where no file says how many, and at most.
const WIDTH: usize = 4;
const MOST_WIDTH: usize = 1 << 16;

/// Reads every file that opening an embedder reads, and tokenizes some texts;
/// returns the number of tokens.
pub(crate) fn read(dir: &Path, texts: &[&str]) -> Result<usize> {
    let dir = ModelDir::open(dir)?;
    let config = Config::read(&dir)?;
    let (tokenizers, _) = Tokenizers::load(&dir, &config, None)?;
    let tokenizer = tokenizers.of(Kind::Document);
    let folder = &config.modules.folder;
    let mut table = None;
    if config.modules.backbone == Backbone::Static && dir.has(&inside(folder, Table::FILE))? {
        table = Some(Table::read(&dir, folder)?.0);
    } else {
        Graph::read(&dir, folder, None)?;
    }
    let width = table.as_ref().map_or(config.width.unwrap_or(WIDTH).min(MOST_WIDTH), Table::dims);
    let came = (if table.is_none() { Came::Tokens } else { Came::Mean }, width);
    let chain = Chain::new(&dir, &config, Wanted::default(), came, &mut Hasher::new("modules"))?;
    #[cfg(feature = "image")]
    super::image::read_processor(&dir)?;
    let tokens = tokenizer.encode("", texts, NonZeroUsize::MIN)?;
    if let Some(table) = &table {
        for text in 0..tokens.texts() {
            if let Some(mean) = table.mean(tokens.ids(text)) {
                chain.vector(&mean, width, &(0..0));
            }
        }
    }
    Ok((0..tokens.texts()).map(|text| tokens.ids(text).len()).sum())
}

//! The command line of the example.

use std::ffi::OsString;
use std::path::PathBuf;

use super::support::Options;

pub(crate) const HELP: &str = "\
Indexes text, answers questions about it, and shows how the answers were found.

  cargo run --release --example text_search -- [OPTIONS]

  --dir PATH      index the text files below PATH (.md .markdown .txt .text .rst
                  .adoc .org .rs) instead of the documentation of the crates this
                  project depends on
  --out PATH      where the collection is kept
                  (default: a folder text_search in cargo's target folder)
  --query TEXT    ask this instead of the built-in questions; may be repeated
  --limit N       hits shown for each question (default 3)
  --recall SHARE  share of the true nearest passages to aim at, 0 to 1 (default 0.95)
  --model DIR     a sentence-transformers directory with an ONNX graph
                  (default: models/text/matryo-text-en)
  --help          this text
";

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Args {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) out: Option<PathBuf>,
    pub(crate) queries: Vec<String>,
    pub(crate) limit: usize,
    pub(crate) recall: f64,
    pub(crate) model: Option<PathBuf>,
    pub(crate) help: bool,
}

impl Default for Args {
    fn default() -> Self {
        let recall = matryo::DEFAULT_RECALL;
        Self {
            dir: None,
            out: None,
            queries: Vec::new(),
            limit: 3,
            recall,
            model: None,
            help: false,
        }
    }
}

impl Args {
    /// Reads arguments, the program's name not among them.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = Self::default();
        let mut options = Options::new(words);
        while let Some(option) = options.next()? {
            match option.as_str() {
                "--help" | "-h" => args.help = true,
                "--dir" => args.dir = Some(options.value()?.into()),
                "--out" => args.out = Some(options.value()?.into()),
                "--model" => args.model = Some(options.value()?.into()),
                "--query" => args.queries.push(options.query()?),
                "--limit" => args.limit = options.number()?,
                "--recall" => args.recall = options.number()?,
                _ => return Err(options.unknown()),
            }
        }
        if !(0.0..=1.0).contains(&args.recall) {
            return Err(format!("--recall takes 0 to 1, got {}", args.recall));
        }
        Ok(args)
    }
}

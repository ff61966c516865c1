//! The command line of the example.

use std::ffi::OsString;
use std::path::PathBuf;

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
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let word = word.into_string().map_err(|w| format!("{} is no option", w.display()))?;
            if word == "--help" || word == "-h" {
                args.help = true;
                continue;
            }
            let (option, attached) = match word.split_once('=') {
                Some((option, value)) => (option, Some(OsString::from(value))),
                None => (word.as_str(), None),
            };
            let mut value = || {
                let value = attached.clone().or_else(|| words.next());
                value.ok_or_else(|| format!("{option} needs a value"))
            };
            match option {
                "--dir" => args.dir = Some(value()?.into()),
                "--out" => args.out = Some(value()?.into()),
                "--model" => args.model = Some(value()?.into()),
                "--query" => args.queries.push(text(option, value()?)?),
                "--limit" => args.limit = number(option, &text(option, value()?)?)?,
                "--recall" => args.recall = number(option, &text(option, value()?)?)?,
                _ => return Err(format!("unknown option {word}; --help lists them")),
            }
        }
        args.check()
    }

    fn check(self) -> Result<Self, String> {
        if !(0.0..=1.0).contains(&self.recall) {
            return Err(format!("--recall takes 0 to 1, got {}", self.recall));
        }
        if let Some(empty) = self.queries.iter().find(|q| q.trim().is_empty()) {
            return Err(format!("--query takes some words, got {empty:?}"));
        }
        Ok(self)
    }
}

fn text(option: &str, value: OsString) -> Result<String, String> {
    value.into_string().map_err(|v| format!("{option} takes UTF-8 text, got {}", v.display()))
}

fn number<T: std::str::FromStr>(option: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{option} takes a number, got {value:?}"))
}

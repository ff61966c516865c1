//! The command line of the example.

use std::ffi::OsString;
use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Finds pictures by words and by pictures, at every granularity of the model, and
writes what it found as a page with thumbnails.

  cargo run --release --example image_search -- [OPTIONS]

  --dir PATH      search the pictures below PATH (PNG, JPEG, WebP, GIF) instead of
                  the emoji and drawn scenes that come with the example
  --model DIR     an exported model with a text and a vision tower, such as CLIP or
                  SigLIP (default: models/image/matryo-image-en, which knows emoji
                  and simple scenes, not photographs)
  --query TEXT    look for this instead of the built-in questions; may be repeated
  --image PATH    look for pictures like this one; may be repeated
  --limit N       pictures shown for each answer (default 10)
  --out FILE      the page (default: image_search.html in cargo's target folder)
  --help          this text
";

/// What was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Args {
    pub(crate) dir: Option<PathBuf>,
    pub(crate) model: Option<PathBuf>,
    pub(crate) queries: Vec<String>,
    pub(crate) images: Vec<PathBuf>,
    pub(crate) limit: usize,
    pub(crate) out: Option<PathBuf>,
    pub(crate) help: bool,
}

impl Args {
    /// Reads arguments, the program's name not among them.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, String> {
        let mut args = Self {
            dir: None,
            model: None,
            queries: Vec::new(),
            images: Vec::new(),
            limit: 10,
            out: None,
            help: false,
        };
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
                "--model" => args.model = Some(value()?.into()),
                "--out" => args.out = Some(value()?.into()),
                "--image" => args.images.push(value()?.into()),
                "--query" => args.queries.push(text(option, value()?)?),
                "--limit" => args.limit = number(option, &text(option, value()?)?)?,
                _ => return Err(format!("unknown option {word}; --help lists them")),
            }
        }
        args.check()
    }

    fn check(self) -> Result<Self, String> {
        if !(1..=100).contains(&self.limit) {
            return Err(format!("--limit takes 1 to 100, got {}", self.limit));
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

//! The command line of the example.

use std::ffi::OsString;
use std::path::PathBuf;

use super::support::Options;

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
  --db DIR        where the collection is kept; a second run embeds only pictures that
                  are new or changed (default: a folder in cargo's target folder)
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
    pub(crate) db: Option<PathBuf>,
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
            db: None,
            out: None,
            help: false,
        };
        let mut options = Options::new(words);
        while let Some(option) = options.next()? {
            match option.as_str() {
                "--help" | "-h" => args.help = true,
                "--dir" => args.dir = Some(options.value()?.into()),
                "--model" => args.model = Some(options.value()?.into()),
                "--db" => args.db = Some(options.value()?.into()),
                "--out" => args.out = Some(options.value()?.into()),
                "--image" => args.images.push(options.value()?.into()),
                "--query" => args.queries.push(options.query()?),
                "--limit" => args.limit = options.number()?,
                _ => return Err(options.unknown()),
            }
        }
        if !(1..=100).contains(&args.limit) {
            return Err(format!("--limit takes 1 to 100, got {}", args.limit));
        }
        Ok(args)
    }
}

//! `matryo reembed`.

use std::path::PathBuf;
use std::time::Instant;

use matryo::embed::Embedder;
#[cfg(feature = "image")]
use matryo::embed::ImageEmbedder;
use matryo::{Metric, Precision, Progress, ReembedOptions, Reembedded, Result, reembed};

use crate::report::{Outcome, Output, Report, advance};

#[derive(clap::Args)]
#[command(after_help = "\
Rows must keep what they were embedded from: a text (--field), or the path of a picture
(--picture). The new vectors are gathered beside DIR, in DIR.reembed-ID, and replace the old
ones in one step at the end. Whatever stops it, DIR is the old collection or the new one, and
the same command goes on where it was. Readers may go on meanwhile, and a writer until the end.

Examples:
  matryo reembed books.matryo --model models/the-next-one --field text
  matryo reembed photos.matryo --model models/clip --picture path --root /home/me/photos")]
pub(crate) struct Args {
    /// The collection.
    dir: PathBuf,
    /// An exported model, as sentence-transformers and Hugging Face publish it.
    #[arg(long)]
    model: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Where relative paths of pictures begin [default: the folder we are in].
    #[arg(long, requires = "picture")]
    root: Option<PathBuf>,
    /// Store vectors as f32, f16 or bf16 [default: as they are].
    #[arg(long)]
    stored: Option<Precision>,
    /// Compare vectors by cosine, dot or l2 [default: as they are].
    #[arg(long)]
    metric: Option<Metric>,
    /// Rows that are embedded and made durable at a time.
    #[arg(long, default_value_t = ReembedOptions::BATCH)]
    batch: usize,
    /// Leave out rows with nothing to embed, or whose new vector cannot be stored (all
    /// zeros, under cosine). DIR is without them afterwards.
    #[arg(long)]
    skip_unfit: bool,
    /// Discard what a run with other options left that was not finished.
    #[arg(long)]
    restart: bool,
}

/// What the payload keeps.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// The field of the payload with the text; dots go into nested objects.
    #[arg(long)]
    field: Option<String>,
    /// The field of the payload with the path of the picture.
    #[arg(long)]
    picture: Option<String>,
}

impl Args {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let (start, bar) = (Instant::now(), output.progress(0, "rows"));
        let done = match &self.source.field {
            Some(name) => self.texts(name, advance(&bar)),
            None => self.pictures(advance(&bar)),
        }?;
        bar.finish_and_clear();
        let mut report = Report::default();
        report.count("rows", done.rows);
        report.count("embedded", done.embedded);
        if self.skip_unfit {
            report.count("skipped", done.skipped);
        }
        report.seconds(start.elapsed());
        output.print(&report)
    }

    fn options(&self, options: impl Into<ReembedOptions>) -> ReembedOptions {
        let mut options = options.into().batch(self.batch).restart(self.restart);
        options = options.skip_unfit(self.skip_unfit);
        if let Some(metric) = self.metric {
            options = options.metric(metric);
        }
        if let Some(precision) = self.stored {
            options = options.stored(precision);
        }
        options
    }

    fn texts(&self, name: &str, progress: impl Fn(Progress) -> bool) -> Result<Reembedded> {
        let embedder = Embedder::open(&self.model)?;
        let options = self.options(&embedder);
        if self.skip_unfit {
            let text = reembed::optional_field(name);
            return reembed::texts(&self.dir, &embedder, &options, text, progress);
        }
        reembed::texts(&self.dir, &embedder, &options, reembed::field(name), progress)
    }

    #[cfg(feature = "image")]
    fn pictures(&self, progress: impl Fn(Progress) -> bool) -> Result<Reembedded> {
        // As the collection's vectors are to be compared with those of texts, if it can.
        if self.model.join("tokenizer.json").is_file() {
            let embedder = Embedder::open(&self.model)?;
            return self.pictures_by(&embedder, &self.options(&embedder), progress);
        }
        let embedder = ImageEmbedder::open(&self.model)?;
        self.pictures_by(&embedder, &self.options(&embedder), progress)
    }

    #[cfg(feature = "image")]
    fn pictures_by(
        &self,
        embedder: &dyn reembed::PictureEmbedder,
        options: &ReembedOptions,
        progress: impl Fn(Progress) -> bool,
    ) -> Result<Reembedded> {
        let name = self.source.picture.as_deref().unwrap_or_default();
        let root = self.root.clone().unwrap_or_default();
        if self.skip_unfit {
            let picture = reembed::optional_file(name, root);
            return reembed::pictures(&self.dir, embedder, options, picture, progress);
        }
        reembed::pictures(&self.dir, embedder, options, reembed::file(name, root), progress)
    }

    #[cfg(not(feature = "image"))]
    fn pictures(&self, _: impl Fn(Progress) -> bool) -> Result<Reembedded> {
        let (what, why) = ("--picture", "this program was built without the feature `image`");
        Err(matryo::Error::Invalid { what, why: why.into() })
    }
}

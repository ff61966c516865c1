//! What the examples with a command line share: reading options, saying what went
//! wrong, and where files are kept.

pub(crate) mod model;

use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

use matryo::embed::Embedder;
use matryo::{Collection, IdKind, Metric, Precision, Schema};

/// What a collection of vectors by this model is made with: half floats, ids that are text.
pub(crate) fn schema(embedder: &Embedder) -> matryo::Result<Schema> {
    Schema::builder(embedder.dims())
        .granularities(embedder.granularities().iter().copied())
        .metric(Metric::Cosine)
        .stored(Precision::F16)
        .ids(IdKind::Str)
        .embedder(embedder)
        .build()
}

/// Fewer rows are searched nearly whole by any plan.
const WORTH_CALIBRATING: u64 = 1000;

/// Measures what recall searches of this collection find, if that is not known yet. A
/// program that stays need not: the collection does it in the background from 20 000
/// rows on.
pub(crate) fn calibrate(collection: &Collection) -> matryo::Result<Option<Duration>> {
    if collection.calibration().is_some() || collection.len() < WORTH_CALIBRATING {
        return Ok(None);
    }
    let start = Instant::now();
    collection.calibrate()?;
    Ok(Some(start.elapsed()))
}

/// Options of a command line, one after another: `--name VALUE` or `--name=VALUE`.
pub(crate) struct Options<I> {
    words: I,
    /// The option at hand, and the value that was written onto it.
    name: String,
    attached: Option<OsString>,
}

impl<I: Iterator<Item = OsString>> Options<I> {
    pub(crate) fn new(words: impl IntoIterator<IntoIter = I>) -> Self {
        Self { words: words.into_iter(), name: String::new(), attached: None }
    }

    /// The name of the next option.
    pub(crate) fn next(&mut self) -> Result<Option<String>, String> {
        let Some(word) = self.words.next() else { return Ok(None) };
        let word = word.into_string().map_err(|w| format!("{} is no option", w.display()))?;
        (self.name, self.attached) = match word.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.into())),
            None => (word, None),
        };
        Ok(Some(self.name.clone()))
    }

    /// Its value.
    pub(crate) fn value(&mut self) -> Result<OsString, String> {
        let value = self.attached.take().or_else(|| self.words.next());
        value.ok_or_else(|| format!("{} needs a value", self.name))
    }

    /// Its value, as text.
    pub(crate) fn text(&mut self) -> Result<String, String> {
        let value = self.value()?.into_string();
        value.map_err(|v| format!("{} takes UTF-8 text, got {}", self.name, v.display()))
    }

    /// Its value, as some words to search for.
    pub(crate) fn query(&mut self) -> Result<String, String> {
        let text = self.text()?;
        if text.trim().is_empty() {
            return Err(format!("{} takes some words, got {text:?}", self.name));
        }
        Ok(text)
    }

    /// Its value, as a number.
    pub(crate) fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let text = self.text()?;
        text.parse().map_err(|_| format!("{} takes a number, got {text:?}", self.name))
    }

    /// That there is no such option.
    pub(crate) fn unknown(&self) -> String {
        format!("unknown option {}; --help lists them", self.name)
    }
}

/// How a program ends.
pub(crate) fn exit(program: &str, done: Result<(), Box<dyn Error>>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(e) if is_closed_pipe(&*e) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{program}: {e}");
            ExitCode::FAILURE
        }
    }
}

fn is_closed_pipe(e: &(dyn Error + 'static)) -> bool {
    e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// Cargo's target folder, so that `cargo clean` takes away what is put there.
pub(crate) fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf)
}

/// The name of a collection of what is in a folder.
pub(crate) fn collection_name(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    let parts = dir.iter().skip(1).map(|part| part.to_string_lossy());
    format!("{}.matryo", parts.collect::<Vec<_>>().join("-"))
}

/// Whether nothing is at a path yet, or an empty folder; makes the folder above it.
pub(crate) fn is_free(path: &Path) -> io::Result<bool> {
    if path.exists() {
        return Ok(path.is_dir() && path.read_dir()?.next().is_none());
    }
    if let Some(above) = path.parent() {
        std::fs::create_dir_all(above)?;
    }
    Ok(true)
}

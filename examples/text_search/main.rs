//! Semantic search over real text: the documentation of the crates this project
//! depends on, as it lies in the local cargo registry, or any folder.
//!
//! `cargo run --release --example text_search` indexes it, reopens the collection
//! and answers some questions; `-- --help` lists the options. A second run embeds
//! only what has changed.

mod answer;
mod args;
mod corpus;
mod index;
#[path = "../support/mod.rs"]
mod support;

use std::error::Error;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use matryo::embed::Embedder;
use matryo::{Collection, Error as StoreError};

use answer::Asking;
use args::Args;
use corpus::Corpus;
use index::Report;

/// Asked when the command line asks nothing.
const QUESTIONS: [&str; 5] = [
    "how do I map a file into memory",
    "compressed bitmap of integers",
    "compute a CRC-32 checksum",
    "reader writer lock without poisoning",
    "hash map that keeps the order of insertion",
];

fn main() -> ExitCode {
    support::exit("text_search", run(std::env::args_os().skip(1), &mut io::stdout()))
}

/// The whole program.
pub(crate) fn run(
    words: impl Iterator<Item = OsString>,
    out: &mut dyn Write,
) -> Result<(), Box<dyn Error>> {
    let args = Args::parse(words)?;
    if args.help {
        write!(out, "{}", args::HELP)?;
        return Ok(());
    }
    let start = Instant::now();
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = match &args.dir {
        Some(dir) => Corpus::of_folder(dir),
        None => Corpus::of_crates(project),
    }?;
    writeln!(out, "{}: {} files", corpus.name, corpus.files.len())?;
    if corpus.absent > 0 {
        writeln!(out, "  {} crates are not in the local registry", corpus.absent)?;
    }
    let model = args.model.clone().unwrap_or_else(|| project.join("models/text/matryo-text-en"));
    let embedder = support::model::open(&model)?;
    writeln!(
        out,
        "model: {} dimensions, trained at {:?}",
        embedder.dims(),
        embedder.granularities()
    )?;
    let path = args.out.clone().unwrap_or_else(|| default_path(args.dir.as_deref()));
    writeln!(out, "collection: {}", path.display())?;
    let (collection, other_model) = open_or_create(&path, &embedder, &corpus)?;
    if let Some(why) = other_model {
        writeln!(out, "  {why}\n  so everything is embedded again")?;
    }
    let report = index::update(&collection, &embedder, &corpus)?;
    print_report(&report, out)?;
    drop(collection);

    let collection = Collection::open(&path)?;
    let info = collection.info()?;
    writeln!(
        out,
        "reopened: {} passages, {:.1} MB on disk, {:.1} MB in RAM; {:.1} s so far",
        info.rows,
        info.disk_bytes as f64 / 1e6,
        info.ram_bytes as f64 / 1e6,
        start.elapsed().as_secs_f64()
    )?;
    if let Some(took) = support::calibrate(&collection)? {
        writeln!(out, "calibrated by its own rows: {:.1} s", took.as_secs_f64())?;
    }
    let Args { limit, recall, .. } = args;
    let asking = Asking { collection: &collection, embedder: &embedder, limit, recall };
    let built_in = args.queries.is_empty() && args.dir.is_none();
    let questions = QUESTIONS.iter().map(ToString::to_string).filter(|_| built_in);
    for question in questions.chain(args.queries) {
        asking.ask(&question, out)?;
    }
    Ok(())
}

/// In cargo's target folder, so that `cargo clean` takes it away.
fn default_path(dir: Option<&Path>) -> PathBuf {
    let name = dir.map_or("cargo-docs.matryo".to_owned(), support::collection_name);
    support::target().join("text_search").join(name)
}

/// The collection at `path`. One that another model has filled is made anew: its
/// vectors cannot be compared with those of this model. The message says so.
fn open_or_create(
    path: &Path,
    embedder: &Embedder,
    corpus: &Corpus,
) -> Result<(Collection, Option<String>), Box<dyn Error>> {
    let schema = support::schema(embedder)?;
    if support::is_free(path)? {
        return Ok((Collection::create(path, schema)?, None));
    }
    let collection = Collection::open(path)?;
    match collection.check_embedder(embedder) {
        Ok(()) => return Ok((collection, None)),
        Err(other @ StoreError::OtherEmbedder { .. }) => {
            // Only what this program has made of the same texts is made anew.
            index::check_corpus(&collection, corpus)?;
            drop(collection);
            std::fs::remove_dir_all(path)?;
            return Ok((Collection::create(path, schema)?, Some(other.to_string())));
        }
        Err(_) => {}
    }
    let why = "holds other vectors than this model makes: choose another with --out, or remove it";
    Err(format!("{} {why}", path.display()).into())
}

fn print_report(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let Report { unchanged, new, changed, gone, wordless, .. } = report;
    writeln!(
        out,
        "files: {unchanged} unchanged, {new} new, {changed} changed, {gone} gone; \
         {wordless} with nothing to index"
    )?;
    let skipped = report.skipped.in_words();
    if !skipped.is_empty() {
        writeln!(out, "  skipped: {skipped}")?;
    }
    if report.no_direction > 0 {
        writeln!(out, "  {} passages without a known word left out", report.no_direction)?;
    }
    let seconds = report.embedding.as_secs_f64();
    if report.embedded == 0 {
        return writeln!(out, "nothing to embed; {:.1} s reading", report.reading.as_secs_f64());
    }
    writeln!(
        out,
        "embedded {} passages: {:.1} s reading, {seconds:.1} s embedding ({:.0}/s), {:.1} s storing",
        report.embedded,
        report.reading.as_secs_f64(),
        report.embedded as f64 / seconds.max(1e-9),
        report.storing.as_secs_f64()
    )
}

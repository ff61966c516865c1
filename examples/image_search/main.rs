//! Pictures found by words and by pictures, on one page.
//!
//! `cargo run --release --example image_search` embeds every emoji and some drawn
//! scenes with the bundled two-tower model, asks some questions, and writes a page
//! that shows what each granularity finds; `-- --help` lists the options. A second run
//! embeds only what has changed.

mod args;
mod index;
pub(crate) mod page;
mod pictures;
mod scenes;
#[path = "../support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use matryo::embed::{Embedder, Image};
use matryo::{Collection, RowId, SearchResult};

use args::Args;
use page::{Answer, Page, Question};
use pictures::Picture;

/// Asked when the command line asks nothing.
const QUESTIONS: [&str; 8] = [
    "fire engine",
    "red heart",
    "airplane",
    "smiling face",
    "woman",
    "three blue circles",
    "two green squares left of a red triangle",
    "a yellow ring above three black circles",
];

/// Shown as a question, if they are among the pictures.
const LIKE_THESE: [&str; 2] = ["police car", "two red rings"];

fn main() -> ExitCode {
    support::exit("image_search", run(std::env::args_os().skip(1), &mut io::stdout()))
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
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pictures = match &args.dir {
        Some(dir) => pictures::of_folder(dir)?,
        None => pictures::built_in(),
    };
    let model = args.model.clone().unwrap_or_else(|| project.join("models/image/matryo-image-en"));
    let embedder = support::model::open(&model)?;
    if embedder.images().is_none() {
        return Err(format!("{} has no vision tower", model.display()).into());
    }
    writeln!(out, "{}", embedder.describe())?;
    let collection = fill(&args, &embedder, &pictures, out)?;
    let rows = collection.len();
    if rows == 0 {
        return Err("there is no picture to search".into());
    }
    let mut page = Page::new(model_name(&model), embedder.granularities(), rows, &pictures);
    let places = pictures.iter().enumerate().map(|(at, p)| (p.name.as_str(), at)).collect();
    for question in questions(&args, &pictures)? {
        let vector = match &question {
            Question::Words(words) => embedder.embed_query(words)?,
            Question::Picture(_, image) => embedder.embed_image(image)?,
        };
        let answer = answer(&collection, &vector, args.limit, &places)?;
        writeln!(out, "\n? {question}\n{}", page.in_words(&answer))?;
        page.add(&question, &answer)?;
    }
    let path = args.out.clone().unwrap_or_else(default_path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(&path, page.html())?;
    writeln!(out, "\nthe page: {}", path.display())?;
    Ok(())
}

/// The collection, up to date with the pictures.
fn fill(
    args: &Args,
    embedder: &Embedder,
    pictures: &[Picture],
    out: &mut dyn Write,
) -> Result<Collection, Box<dyn Error>> {
    let db = args.db.clone().unwrap_or_else(|| default_collection(args.dir.as_deref()));
    let set = match &args.dir {
        Some(dir) => dir.canonicalize()?.display().to_string(),
        None => "the built-in pictures".to_owned(),
    };
    writeln!(out, "collection: {}", db.display())?;
    let (collection, other_model) = index::open_or_create(&db, embedder, &set)?;
    if let Some(why) = other_model {
        writeln!(out, "  {why}\n  so everything is embedded again")?;
    }
    let start = Instant::now();
    let report = index::update(&collection, embedder, (&set, pictures))?;
    for why in &report.skipped {
        writeln!(out, "skipped: {why}")?;
    }
    let index::Report { embedded, unchanged, gone, .. } = report;
    let seconds = start.elapsed().as_secs_f64();
    writeln!(
        out,
        "{embedded} pictures embedded, {unchanged} unchanged, {gone} gone; {seconds:.1} s"
    )?;
    if let Some(took) = support::calibrate(&collection)? {
        writeln!(out, "calibrated by its own rows: {:.1} s", took.as_secs_f64())?;
    }
    Ok(collection)
}

fn model_name(dir: &Path) -> String {
    dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
}

fn default_path() -> PathBuf {
    support::target().join("image_search.html")
}

fn default_collection(dir: Option<&Path>) -> PathBuf {
    let name = dir.map_or("built-in.matryo".to_owned(), support::collection_name);
    support::target().join("image_search").join(name)
}

fn questions(args: &Args, pictures: &[Picture]) -> Result<Vec<Question>, Box<dyn Error>> {
    let mut questions: Vec<Question> = args.queries.iter().cloned().map(Question::Words).collect();
    for path in &args.images {
        let name = path.display().to_string();
        questions.push(Question::Picture(name, Image::open(path)?.over([255; 3])));
    }
    if !questions.is_empty() {
        return Ok(questions);
    }
    if args.dir.is_none() {
        questions.extend(QUESTIONS.map(|q| Question::Words(q.to_owned())));
    }
    for picture in pictures.iter().filter(|p| LIKE_THESE.contains(&p.name.as_str())) {
        questions.push(Question::Picture(picture.name.clone(), picture.load()?));
    }
    Ok(questions)
}

/// What each granularity finds, and how the funnel over all dimensions found it.
/// `places`: where a picture of this name is in the list.
fn answer(
    collection: &Collection,
    vector: &[f32],
    limit: usize,
    places: &HashMap<&str, usize>,
) -> matryo::Result<Answer> {
    let dims = collection.schema().granularities();
    let ids = |found: &SearchResult| -> Vec<(usize, f32)> {
        let place = |id: &RowId| places.get(id.as_str()?).copied();
        let known = found.hits.iter().filter_map(|hit| Some((place(&hit.id)?, hit.score)));
        known.collect()
    };
    let mut rows = Vec::new();
    for &d in dims {
        let found = collection.search(vector).dims(d).limit(limit).exact().run()?;
        rows.push((d, ids(&found)));
    }
    // Twice, and the second counts: the first reads pages from disk.
    collection.search(vector).limit(limit).run()?;
    let funnel = collection.search(vector).limit(limit).run()?;
    Ok(Answer { rows, funnel: ids(&funnel), explain: funnel.explain })
}

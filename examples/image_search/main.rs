//! Pictures found by words and by pictures, on one page.
//!
//! `cargo run --release --example image_search` embeds every emoji and some drawn
//! scenes with the bundled two-tower model, asks some questions, and writes a page
//! that shows what each granularity finds; `-- --help` lists the options.

mod args;
pub(crate) mod page;
mod pictures;
mod scenes;

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use matryo::embed::{Embedder, Image, runtime};
use matryo::{Collection, Metric, Precision, RowId, Schema, SearchResult, json};

use args::Args;
use page::{Answer, Page, Question};
use pictures::{CHUNK, Picture};

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
    match run(std::env::args_os().skip(1), &mut io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("image_search: {e}");
            ExitCode::FAILURE
        }
    }
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
    let embedder = Embedder::builder(&model).runtime(runtime::locate_or_install()?).open()?;
    if embedder.images().is_none() {
        return Err(format!("{} has no vision tower", model.display()).into());
    }
    writeln!(out, "{}", embedder.describe())?;
    let folder = tempfile::tempdir()?;
    let collection = create(&folder.path().join("pictures.matryo"), &embedder)?;
    let start = Instant::now();
    let skipped = index(&collection, &embedder, &pictures)?;
    for why in &skipped {
        writeln!(out, "skipped: {why}")?;
    }
    let rows = collection.info()?.rows;
    let seconds = start.elapsed().as_secs_f64();
    writeln!(out, "{rows} pictures embedded and stored in {seconds:.1} s")?;
    if rows == 0 {
        return Err("there is no picture to search".into());
    }
    let mut page = Page::new(model_name(&model), embedder.granularities(), rows, &pictures);
    for question in questions(&args, &pictures)? {
        let vector = match &question {
            Question::Words(words) => embedder.embed_query(words)?,
            Question::Picture(_, image) => embedder.embed_image(image)?,
        };
        let answer = answer(&collection, &vector, args.limit)?;
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

fn model_name(dir: &Path) -> String {
    dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
}

/// In cargo's target folder, so that `cargo clean` takes it away.
fn default_path() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    target.map_or_else(std::env::temp_dir, Path::to_path_buf).join("image_search.html")
}

fn create(path: &Path, embedder: &Embedder) -> matryo::Result<Collection> {
    let schema = Schema::builder(embedder.dims())
        .granularities(embedder.granularities().iter().copied())
        .metric(Metric::Cosine)
        .stored(Precision::F16)
        .build()?;
    Collection::create(path, schema)
}

/// Embeds all pictures; returns which were left out, and why. A row's id is the
/// picture's number.
fn index(
    collection: &Collection,
    embedder: &Embedder,
    pictures: &[Picture],
) -> Result<Vec<String>, Box<dyn Error>> {
    let style =
        ProgressStyle::with_template("embedding {bar:40} {pos}/{len} pictures, {eta} left")?;
    let bar = ProgressBar::new(pictures.len() as u64).with_style(style);
    let mut skipped = Vec::new();
    for (chunk_at, chunk) in pictures.chunks(CHUNK).enumerate() {
        let mut loaded: Vec<(usize, Image)> = Vec::with_capacity(chunk.len());
        for (at, picture) in chunk.iter().enumerate() {
            match picture.load() {
                Ok(image) => loaded.push((chunk_at * CHUNK + at, image)),
                Err(e) => skipped.push(e.to_string()),
            }
        }
        let vectors = embedder.embed_images(loaded.iter().map(|(_, image)| image))?;
        let mut batch = collection.batch();
        for ((id, _), vector) in loaded.iter().zip(&vectors) {
            batch.upsert(*id as u64, vector, json!({"name": pictures[*id].name}))?;
        }
        batch.commit()?;
        bar.inc(chunk.len() as u64);
    }
    collection.flush()?;
    bar.finish_and_clear();
    Ok(skipped)
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
fn answer(collection: &Collection, vector: &[f32], limit: usize) -> matryo::Result<Answer> {
    let dims = collection.schema().granularities();
    let ids = |found: &SearchResult| -> Vec<(usize, f32)> {
        let number = |id: &RowId| match id {
            RowId::U64(n) => usize::try_from(*n).unwrap_or(usize::MAX),
            RowId::Str(_) => usize::MAX,
        };
        found.hits.iter().map(|hit| (number(&hit.id), hit.score)).collect()
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

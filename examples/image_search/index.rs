//! Brings a collection up to date with the pictures.
//!
//! A row is a picture; its id is the picture's name. It also says of which content
//! and which set of pictures it was made, so that nothing but the collection has to
//! be kept. Which model made the vectors the collection knows by itself.

use std::collections::HashMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};
use matryo::embed::{BATCH_IMAGES, Embedder, Image};
use matryo::{Collection, Error as StoreError, RowId, Value, json};

use super::pictures::Picture;
use super::support;

/// Pictures that are made durable together.
const COMMIT: usize = 64;

/// A picture that is new or changed, with its content.
type Fresh<'a> = (&'a Picture, String);

/// What a run found and did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) embedded: usize,
    pub(crate) unchanged: usize,
    pub(crate) gone: usize,
    /// Pictures that could not be read, and why.
    pub(crate) skipped: Vec<String>,
}

/// The collection at `path`. One of the same pictures that another model has filled is
/// made anew: its vectors cannot be compared with those of this model. The message
/// says so.
pub(crate) fn open_or_create(
    path: &Path,
    embedder: &Embedder,
    set: &str,
) -> Result<(Collection, Option<String>), Box<dyn Error>> {
    let schema = support::schema(embedder)?;
    if support::is_free(path)? {
        return Ok((Collection::create(path, schema)?, None));
    }
    let collection = Collection::open(path)?;
    // Only what this program has made of the same pictures is changed.
    contents(&collection, set)?;
    match collection.check_embedder(embedder) {
        Ok(()) => Ok((collection, None)),
        Err(other @ StoreError::OtherEmbedder { .. }) => {
            drop(collection);
            fs::remove_dir_all(path)?;
            Ok((Collection::create(path, schema)?, Some(other.to_string())))
        }
        Err(e) => Err(e.into()),
    }
}

/// The content of each picture in the collection, by its name.
fn contents(collection: &Collection, set: &str) -> Result<HashMap<String, String>, Box<dyn Error>> {
    let mut all = HashMap::new();
    for row in collection.snapshot() {
        let row = row?;
        let field = |name: &str| row.payload.get(name).and_then(Value::as_str);
        match (&row.id, field("content"), field("set")) {
            (RowId::Str(name), Some(content), Some(of)) if of == set => {
                all.insert(name.to_string(), content.to_owned());
            }
            (id, _, of) => {
                let of = of.unwrap_or("something else");
                let why = format!("the collection was made of {of} (row {id}), not of {set}");
                return Err(format!("{why}: choose another with --db").into());
            }
        }
    }
    Ok(all)
}

/// Embeds the pictures that are new or changed, and deletes those that are gone.
pub(crate) fn update(
    collection: &Collection,
    embedder: &Embedder,
    (set, pictures): (&str, &[Picture]),
) -> Result<Report, Box<dyn Error>> {
    let mut report = Report::default();
    let mut known = contents(collection, set)?;
    let mut fresh = Vec::new();
    for picture in pictures {
        match picture.content() {
            Ok(content) if known.get(&picture.name) == Some(&content) => {
                known.remove(&picture.name);
                report.unchanged += 1;
            }
            Ok(content) => fresh.push((picture, content)),
            Err(e) => report.skipped.push(e.to_string()),
        }
    }
    let style =
        ProgressStyle::with_template("embedding {bar:40} {pos}/{len} pictures, {eta} left")?;
    let bar = ProgressBar::new(fresh.len() as u64).with_style(style);
    for chunk in fresh.chunks(COMMIT) {
        let mut batch = collection.batch();
        // No more of them decoded than the model takes at a time: photographs are large.
        for some in chunk.chunks(BATCH_IMAGES) {
            let loaded = load(some, &mut report.skipped);
            let vectors = embedder.embed_images(loaded.iter().map(|(_, image)| image))?;
            for ((fresh, _), vector) in loaded.iter().zip(&vectors) {
                let (picture, content) = fresh;
                known.remove(&picture.name);
                let payload = json!({"set": set, "content": content});
                batch.upsert(picture.name.as_str(), vector, payload)?;
            }
            report.embedded += loaded.len();
            bar.inc(some.len() as u64);
        }
        batch.commit()?;
    }
    // What is still in `known` was met by no picture that can be read.
    report.gone = known.len();
    let mut batch = collection.batch();
    for name in known.keys() {
        batch.delete(name.as_str())?;
    }
    batch.commit()?;
    collection.flush()?;
    bar.finish_and_clear();
    Ok(report)
}

/// The pictures that can be read, decoded beside each other; of the others, why not.
fn load<'a>(some: &'a [Fresh<'a>], skipped: &mut Vec<String>) -> Vec<(&'a Fresh<'a>, Image)> {
    let read = thread::scope(|scope| {
        let tasks: Vec<_> =
            some.iter().map(|fresh| (fresh, scope.spawn(|| fresh.0.load()))).collect();
        let join = |(fresh, task): (_, thread::ScopedJoinHandle<'_, _>)| {
            (fresh, task.join().expect("decoders' panics are errors"))
        };
        tasks.into_iter().map(join).collect::<Vec<_>>()
    });
    let mut loaded = Vec::with_capacity(read.len());
    for (fresh, image) in read {
        match image {
            Ok(image) => loaded.push((fresh, image)),
            Err(e) => skipped.push(e.to_string()),
        }
    }
    loaded
}

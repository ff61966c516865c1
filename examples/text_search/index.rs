//! Brings a collection up to date with a corpus.
//!
//! A row is a passage; its id is `FILE#N`. The row `FILE#0` also says of which
//! content and which corpus it was made, so a file's rows and the proof that they
//! are fresh are committed together and nothing but the collection has to be kept.
//! Which model made the vectors the collection knows by itself.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::mem;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use matryo::embed::Embedder;
use matryo::{Collection, RowId, Value, json};
use sha2::{Digest, Sha256};

use super::corpus::{self, Corpus, Passage, Skipped};

/// Rows in a commit, or as many more as the last file has.
const BATCH: usize = 1000;

/// What a run found and did.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) unchanged: usize,
    pub(crate) new: usize,
    pub(crate) changed: usize,
    pub(crate) gone: usize,
    /// Files without a single passage.
    pub(crate) wordless: usize,
    /// Passages embedded now.
    pub(crate) embedded: usize,
    /// Passages whose vector is zero, which have no direction to compare.
    pub(crate) no_direction: usize,
    pub(crate) skipped: Skipped,
    pub(crate) reading: Duration,
    pub(crate) embedding: Duration,
    pub(crate) storing: Duration,
}

/// A file as the collection has it.
#[derive(Default)]
struct Stored {
    rows: usize,
    content: String,
}

/// A file whose passages are to be embedded.
struct Fresh<'c> {
    file: &'c str,
    content: String,
    passages: Vec<Passage>,
    /// Rows that it has in the collection.
    rows: usize,
}

/// Embeds what is new or changed, and deletes what is gone.
pub(crate) fn update(
    collection: &Collection,
    embedder: &Embedder,
    corpus: &Corpus,
) -> Result<Report, Box<dyn Error>> {
    let mut report = Report { skipped: corpus.skipped, ..Report::default() };
    let start = Instant::now();
    let mut stored = stored(collection, corpus)?;
    let fresh = compare(corpus, &mut stored, &mut report);
    report.reading = start.elapsed();
    // What is still in `stored` was met by no file.
    report.gone = stored.len();
    delete(collection, &stored)?;
    let bar = progress(fresh.iter().map(|f| f.passages.len()).sum());
    let mut batch = Vec::new();
    let mut rows = 0;
    for file in fresh {
        rows += file.passages.len();
        batch.push(file);
        if rows >= BATCH {
            commit(collection, embedder, corpus, &mem::take(&mut batch), &mut report, &bar)?;
            rows = 0;
        }
    }
    commit(collection, embedder, corpus, &batch, &mut report, &bar)?;
    bar.finish_and_clear();
    let start = Instant::now();
    collection.flush()?;
    report.storing += start.elapsed();
    Ok(report)
}

/// The files that need embedding; takes every file it meets out of `stored`.
fn compare<'c>(
    corpus: &'c Corpus,
    stored: &mut BTreeMap<String, Stored>,
    report: &mut Report,
) -> Vec<Fresh<'c>> {
    let mut fresh = Vec::new();
    for file in &corpus.files {
        let Some(text) = file.read(&mut report.skipped) else { continue };
        let content = content_hash(&text);
        let before = stored.get(&file.name);
        if before.is_some_and(|b| b.content == content) {
            stored.remove(&file.name);
            report.unchanged += 1;
            continue;
        }
        let passages = corpus::passages(file, &text);
        if passages.is_empty() {
            // If it had rows once they are deleted with those of vanished files.
            report.wordless += 1;
            continue;
        }
        let before = stored.remove(&file.name);
        *(if before.is_some() { &mut report.changed } else { &mut report.new }) += 1;
        let rows = before.map_or(0, |b| b.rows);
        fresh.push(Fresh { file: &file.name, content, passages, rows });
    }
    fresh
}

/// What the collection holds, by file.
fn stored(
    collection: &Collection,
    corpus: &Corpus,
) -> Result<BTreeMap<String, Stored>, Box<dyn Error>> {
    let mut files: BTreeMap<String, Stored> = BTreeMap::new();
    for row in collection.snapshot() {
        let row = row?;
        let RowId::Str(id) = &row.id else { return Err(foreign("it has numbers for ids")) };
        let place = id.rsplit_once('#').and_then(|(file, n)| Some((file, n.parse().ok()?)));
        let (file, number): (&str, usize) = place.ok_or_else(|| foreign(&format!("row {id}")))?;
        let stored = files.entry(file.to_owned()).or_default();
        stored.rows = stored.rows.max(number + 1);
        if number > 0 {
            continue;
        }
        let field = |name: &str| row.payload.get(name).and_then(Value::as_str).unwrap_or("");
        if field("corpus") != corpus.name {
            return Err(foreign(&format!("it holds {:?}", field("corpus"))));
        }
        field("content").clone_into(&mut stored.content);
    }
    Ok(files)
}

/// Fails where the collection holds anything but passages of this corpus.
pub(crate) fn check_corpus(collection: &Collection, corpus: &Corpus) -> Result<(), Box<dyn Error>> {
    stored(collection, corpus).map(drop)
}

fn foreign(why: &str) -> Box<dyn Error> {
    format!("the collection was made of something else ({why}): choose another with --out").into()
}

fn content_hash(text: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(corpus::VERSION.to_le_bytes());
    hasher.update(text.as_bytes());
    let hash = hasher.finalize();
    hash.iter().take(16).fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn delete(collection: &Collection, gone: &BTreeMap<String, Stored>) -> matryo::Result<()> {
    let mut batch = collection.batch();
    for (file, stored) in gone {
        for number in 0..stored.rows {
            batch.delete(format!("{file}#{number}"))?;
        }
    }
    batch.commit().map(drop)
}

/// Embeds and stores the passages of some files, all of them or none.
fn commit(
    collection: &Collection,
    embedder: &Embedder,
    corpus: &Corpus,
    files: &[Fresh<'_>],
    report: &mut Report,
    bar: &ProgressBar,
) -> matryo::Result<()> {
    let texts: Vec<String> =
        files.iter().flat_map(|f| f.passages.iter().map(Passage::to_embed)).collect();
    let start = Instant::now();
    let mut vectors = embedder.embed_documents(&texts)?.into_iter();
    report.embedding += start.elapsed();
    let start = Instant::now();
    let mut batch = collection.batch();
    for file in files {
        let mut number = 0;
        for (passage, vector) in file.passages.iter().zip(vectors.by_ref()) {
            if vector.iter().all(|v| *v == 0.0) {
                report.no_direction += 1;
                continue;
            }
            let mut payload = json!({
                "line": passage.line, "title": passage.title, "text": passage.text,
            });
            if number == 0 {
                payload["corpus"] = json!(corpus.name);
                payload["content"] = json!(file.content);
            }
            batch.upsert(format!("{}#{number}", file.file), &vector, payload)?;
            number += 1;
        }
        for number in number..file.rows {
            batch.delete(format!("{}#{number}", file.file))?;
        }
    }
    batch.commit()?;
    report.storing += start.elapsed();
    report.embedded += texts.len();
    bar.inc(texts.len() as u64);
    Ok(())
}

fn progress(passages: usize) -> ProgressBar {
    let style = "embedding {bar:40} {pos}/{len} passages, {rate}, {eta} left";
    let style = ProgressStyle::with_template(style).expect("the template is right");
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Writing to the bar's text cannot fail.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    ProgressBar::new(passages as u64).with_style(style.with_key("rate", rate))
}

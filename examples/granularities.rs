//! What each granularity of the bundled model is worth, on real text.
//!
//! `cargo run --release --example granularities` indexes the documentation of the
//! crates this project depends on, holds some passages back, asks with their first
//! sentences, and compares exact search over the first dimensions with exact
//! search over all of them.

#[path = "text_search/corpus/mod.rs"]
#[expect(dead_code, reason = "text_search uses the rest")]
mod corpus;
#[path = "support/model.rs"]
mod model;

use std::error::Error;
use std::path::Path;

use corpus::{Corpus, Passage};
use matryo::embed::Embedder;
use matryo::{Collection, Hit, Precision, Schema};

const QUERIES: usize = 200;
const TOP: usize = 10;
const SHORTLIST: usize = 100;

/// Compared beside the model's own: lengths it was not trained at.
const BETWEEN: [usize; 3] = [48, 96, 192];

fn main() -> Result<(), Box<dyn Error>> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = model::open(&project.join("models/text/matryo-text-en"))?;
    let (passages, questions) = held_out(passages(project)?);
    let folder = tempfile::tempdir()?;
    let collection = index(&folder.path().join("docs.matryo"), &model, &passages)?;
    let queries = model.embed_queries(&questions)?;
    println!("{} passages, {} queries about others\n", collection.len(), queries.len());
    print_table(&collection, &model, &queries)
}

/// All passages of the corpus, each text once.
fn passages(project: &Path) -> Result<Vec<Passage>, Box<dyn Error>> {
    let mut corpus = Corpus::of_crates(project)?;
    let mut all = Vec::new();
    for file in &corpus.files {
        let text = file.read(&mut corpus.skipped);
        all.extend(text.map(|text| corpus::passages(file, &text)).unwrap_or_default());
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|passage| seen.insert(passage.text.clone()));
    Ok(all)
}

/// Takes passages out, evenly spread, and returns their first sentences.
fn held_out(passages: Vec<Passage>) -> (Vec<Passage>, Vec<String>) {
    let every = (passages.len() / QUERIES).max(1);
    let (mut kept, mut questions) = (Vec::new(), Vec::new());
    for (at, passage) in passages.into_iter().enumerate() {
        if at % every == every / 2 && questions.len() < QUERIES {
            let sentence = passage.text.split_inclusive(". ").next().unwrap_or_default();
            questions.push(sentence.to_owned());
        } else {
            kept.push(passage);
        }
    }
    (kept, questions)
}

fn index(
    path: &Path,
    model: &Embedder,
    passages: &[Passage],
) -> Result<Collection, Box<dyn Error>> {
    let schema = Schema::builder(model.dims())
        .granularities(model.granularities().iter().copied())
        .stored(Precision::F16)
        .build()?;
    let collection = Collection::create(path, schema)?;
    for (at, some) in passages.chunks(1000).enumerate() {
        let texts: Vec<String> = some.iter().map(Passage::to_embed).collect();
        let mut batch = collection.batch();
        for (id, vector) in (at as u64 * 1000..).zip(model.embed_documents(&texts)?) {
            // A text without a known word has the zero vector, which has no direction.
            if vector.iter().any(|v| *v != 0.0) {
                batch.upsert(id, &vector, ())?;
            }
        }
        batch.commit()?;
    }
    collection.flush()?;
    Ok(collection)
}

fn print_table(
    collection: &Collection,
    model: &Embedder,
    queries: &[Vec<f32>],
) -> Result<(), Box<dyn Error>> {
    let best = |query: &[f32], dims, limit| {
        let found = collection.search(query).dims(dims).limit(limit).exact().run();
        found.map(|found| found.hits)
    };
    let queries: Vec<_> = queries.iter().filter(|q| q.iter().any(|v| *v != 0.0)).collect();
    let truths: Vec<Vec<Hit>> =
        queries.iter().map(|q| best(q, model.dims(), TOP)).collect::<Result<_, _>>()?;
    let mut lengths = model.granularities().to_vec();
    lengths.extend(BETWEEN.iter().filter(|d| **d < model.dims()));
    lengths.sort_unstable();
    lengths.dedup();
    println!("| dimensions | top 10 found | in its top 100 | bytes, f32 | bytes, f16 |");
    println!("|---|---:|---:|---:|---:|");
    for dims in lengths {
        let (mut found, mut listed, mut wanted) = (0, 0, 0);
        for (query, truth) in queries.iter().zip(&truths) {
            let hits = best(query, dims, SHORTLIST)?;
            let is_in = |some: &[Hit], hit: &Hit| some.iter().any(|other| other.id == hit.id);
            wanted += truth.len();
            found += truth.iter().filter(|h| is_in(&hits[..TOP.min(hits.len())], h)).count();
            listed += truth.iter().filter(|h| is_in(&hits, h)).count();
        }
        let share = |part: usize| part as f64 / wanted.max(1) as f64;
        let trained = if model.granularities().contains(&dims) { "" } else { " (between)" };
        let (f32s, f16s) = (dims * Precision::F32.bytes(), dims * Precision::F16.bytes());
        let (found, listed) = (share(found), share(listed));
        println!("| {dims}{trained} | {found:.3} | {listed:.3} | {f32s} | {f16s} |");
    }
    Ok(())
}

//! A collection of texts changes from one model to another.

use std::path::{Path, PathBuf};

use matryo::embed::Embedder;
use matryo::{Collection, Error, ReembedOptions, RowId, Schema, json, reembed};

use super::support::{fixtures, ready};

const TEXTS: [&str; 6] = [
    "the river runs down to the sea",
    "a lock keeps two writers apart",
    "bread is baked in an oven",
    "the harbour was full of ships",
    "a cat sleeps on the roof",
    "vectors are compared by their angle",
];

fn old_model() -> PathBuf {
    fixtures().join("static")
}

fn new_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/text/matryo-text-en")
}

/// A collection of the texts, by the old model.
fn fill(path: &Path) -> Collection {
    let embedder = Embedder::open(old_model()).unwrap();
    let schema = Schema::builder(embedder.dims()).embedder(&embedder).build().unwrap();
    let collection = Collection::create(path, schema).unwrap();
    for (id, (text, vector)) in
        TEXTS.iter().zip(embedder.embed_documents(&TEXTS).unwrap()).enumerate()
    {
        let payload = json!({"body": {"text": text}, "n": id});
        // What that model knows no word of has no direction.
        let vector =
            if vector.iter().all(|v| *v == 0.0) { vec![1.0; vector.len()] } else { vector };
        collection.upsert(id as u64, &vector, payload).unwrap();
    }
    collection
}

/// The row that is nearest to a text.
fn nearest(path: &Path, embedder: &Embedder, query: &str) -> RowId {
    let collection = Collection::open(path).unwrap();
    collection.check_embedder(embedder).unwrap();
    assert_eq!(collection.schema().granularities(), embedder.granularities());
    let query = embedder.embed_query(query).unwrap();
    collection.search(&query).limit(1).run().unwrap().hits[0].id.clone()
}

#[test]
fn texts_are_found_by_the_new_model() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("texts");
    drop(fill(&path));
    let embedder = Embedder::open(new_model()).unwrap();
    let options = ReembedOptions::from(&embedder).batch(4);
    let text = reembed::field("body.text");
    let done = reembed::texts(&path, &embedder, &options, text, |_| true).unwrap();
    assert_eq!((done.rows, done.embedded), (6, 6));
    let vectors = embedder.embed_documents(&TEXTS).unwrap();
    let collection = Collection::open(&path).unwrap();
    for (id, vector) in vectors.iter().enumerate() {
        let row = collection.get(id as u64).unwrap().expect("kept");
        assert_eq!(row.payload["n"], json!(id));
        let cosine: f32 = row.vector.iter().zip(vector).map(|(a, b)| a * b).sum();
        assert!(cosine > 0.9999, "row {id}: {cosine}");
    }
    drop(collection);
    assert_eq!(nearest(&path, &embedder, "ships in the harbour"), 3);
    let old = Embedder::open(old_model()).unwrap();
    let refused = Collection::open(&path).unwrap().check_embedder(&old);
    assert!(matches!(refused, Err(Error::OtherEmbedder { .. })), "{refused:?}");
}

#[test]
fn rows_without_a_text_and_options_of_another_model_are_refused() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("texts");
    let collection = fill(&path);
    let dims = collection.schema().dims();
    for (id, payload) in [
        (100, json!({"body": "no object"})),
        (101, json!({"body": {"text": 5}})),
        (102, json!({"body": {"text": "x".repeat(matryo::embed::MAX_TEXT_BYTES + 1)}})),
    ] {
        collection.upsert(id, &vec![1.0; dims], payload).unwrap();
    }
    drop(collection);
    let embedder = Embedder::open(new_model()).unwrap();
    let options = ReembedOptions::from(&embedder);
    let run = || {
        let text = reembed::field("body.text");
        let done = reembed::texts(&path, &embedder, &options, text, |_| true);
        done.expect_err("must be refused").to_string()
    };
    for (id, why) in [(100, "got none"), (101, "got a number"), (102, "bytes, at most")] {
        let refused = run();
        assert!(refused.contains(&format!("row {id}: ")) && refused.contains(why), "{refused}");
        let collection = Collection::open(&path).unwrap();
        assert_eq!((collection.len(), collection.schema().dims()), (9 - (id - 100), dims));
        collection.delete(id).unwrap();
    }
    let old = Embedder::open(old_model()).unwrap();
    let text = reembed::field("body.text");
    let other = reembed::texts(&path, &old, &options, text, |_| true);
    assert!(matches!(other, Err(Error::OtherEmbedder { .. })), "{other:?}");
    let text = reembed::field("body.text");
    assert_eq!(reembed::texts(&path, &embedder, &options, text, |_| true).unwrap().rows, 6);
}

/// Texts of which the static model makes zeros, one that is too long, and none.
fn fill_unfit(path: &Path) -> usize {
    let embedder = Embedder::open(new_model()).unwrap();
    let schema = Schema::builder(embedder.dims()).embedder(&embedder).build().unwrap();
    let collection = Collection::create(path, schema).unwrap();
    let long = "x".repeat(matryo::embed::MAX_TEXT_BYTES + 1);
    for (id, payload) in [
        json!({"text": "the river runs down to the sea"}),
        json!({"text": ""}),
        json!({"title": "no text"}),
        json!({"text": long}),
        json!({"text": 5}),
    ]
    .into_iter()
    .enumerate()
    {
        collection.upsert(id as u64, &vec![1.0; embedder.dims()], payload).unwrap();
    }
    embedder.dims()
}

#[test]
fn unfit_rows_are_left_out_if_that_is_asked_for() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("texts");
    let dims = fill_unfit(&path);
    let embedder = Embedder::open(old_model()).unwrap();
    let empty = embedder.embed_documents(&[""]).unwrap();
    assert!(empty[0].iter().all(|v| *v == 0.0), "the model makes zeros of an empty text");
    let options = ReembedOptions::from(&embedder);
    let run = |options: &ReembedOptions| {
        let text = reembed::optional_field("text");
        reembed::texts(&path, &embedder, options, text, |_| true)
    };
    let refused = run(&options).expect_err("zeros").to_string();
    assert!(refused.contains("row 1: ") || refused.contains("row 3: "), "{refused}");
    assert_eq!(Collection::open(&path).unwrap().schema().dims(), dims);
    let misspelt = reembed::optional_field("txt");
    let skip = options.skip_unfit(true);
    let refused = reembed::texts(&path, &embedder, &skip, misspelt, |_| true);
    assert!(refused.expect_err("nothing is left").to_string().contains("each of the 5 rows"));
    let done = run(&skip).unwrap();
    assert_eq!((done.rows, done.embedded, done.skipped), (1, 1, 4));
    let collection = Collection::open(&path).unwrap();
    collection.check_embedder(&embedder).unwrap();
    assert!(collection.get(0).unwrap().is_some() && collection.len() == 1);
}

#[test]
#[cfg(feature = "cli")]
fn the_command_leaves_unfit_rows_out() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("texts");
    fill_unfit(&path);
    let run = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_matryo"));
        command.arg("reembed").arg(&path).arg("--model").arg(old_model());
        let done = command.args(["--field", "text", "--json"]).args(more).output();
        let done = done.expect("the program starts");
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    let (code, said) = run(&[]);
    assert!(code == Some(1) && said.contains("row "), "{said}");
    let (code, said) = run(&["--skip-unfit"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &report["rows"], &report["skipped"]), (Some(0), &json!(1), &json!(4)));
}

#[test]
#[cfg(feature = "cli")]
fn the_command_does_it_and_says_what_it_did() {
    if !ready() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("texts");
    drop(fill(&path));
    let run = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_matryo"));
        command.arg("reembed").arg(&path).arg("--model").arg(new_model()).args(more);
        let done = command.args(["--json"]).output().expect("the program starts");
        (done.status.code(), String::from_utf8(done.stdout).unwrap())
    };
    let (code, said) = run(&[]);
    assert!(code == Some(2) && said.contains("--field"), "{said}");
    let (code, said) = run(&["--field", "title"]);
    assert!(code == Some(1) && said.contains("row 0: expected text in \\\"title\\\""), "{said}");
    // What that run began had no vector yet, so that others are no matter.
    let (code, said) = run(&["--field", "body.text", "--stored", "f16"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &report["rows"], &report["embedded"]), (Some(0), &json!(6), &json!(6)));
    let embedder = Embedder::open(new_model()).unwrap();
    assert_eq!(nearest(&path, &embedder, "ships in the harbour"), 3);
    let collection = Collection::open(&path).unwrap();
    assert_eq!(collection.schema().stored(), matryo::Precision::F16);
}

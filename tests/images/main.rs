//! Images against Python's processors and vectors, and files that are meant to
//! hurt.
//!
//! `models/parity/make_images.py` wrote the models, the pictures and what Python
//! makes of them. Where ONNX Runtime is missing and may not be fetched, the tests
//! that need it say so and pass.

#![cfg(feature = "image")]

mod hostile;
mod parity;
mod pillow;
mod reembed;
mod towers;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use matryo::embed::runtime;
use serde_json::Value;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/images")
}

/// Whether ONNX Runtime is here; fetches it once if that is allowed.
fn ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| match runtime::locate_or_install() {
        Ok(_) => true,
        Err(e) if env::var_os("MATRYO_OFFLINE").is_some() => {
            eprintln!("SKIPPED, the image embedder is not tested: {e}");
            false
        }
        Err(e) => panic!("{e}"),
    })
}

fn expected(model: &str) -> Value {
    let path = fixtures().join(model).join("expected.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

fn vectors(value: &Value) -> Vec<Vec<f32>> {
    let row =
        |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    value.as_array().unwrap().iter().map(row).collect()
}

fn cosine(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// A copy of a model directory that a test may change.
fn copy(model: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy_all(&fixtures().join(model), dir.path());
    dir
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

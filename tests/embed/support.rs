//! Fixtures, copies of them to change, and the library they need.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use matryo::Error;
use matryo::embed::{Embedder, runtime};
use serde_json::Value;
use tempfile::TempDir;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

/// Whether ONNX Runtime is here; fetches it once if that is allowed.
pub(crate) fn ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| match runtime::locate_or_install() {
        Ok(_) => true,
        Err(e) if env::var_os("MATRYO_OFFLINE").is_some() => {
            eprintln!("SKIPPED, the embedder is not tested: {e}");
            false
        }
        Err(e) => panic!("{e}"),
    })
}

/// A copy of a fixture that a test may change.
pub(crate) struct Copy {
    pub(crate) dir: TempDir,
}

impl Copy {
    pub(crate) fn of(name: &str) -> Self {
        let copy = Self { dir: tempfile::tempdir().unwrap() };
        copy_all(&fixtures().join(name), copy.dir.path());
        copy
    }

    pub(crate) fn empty() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    pub(crate) fn remove(&self, name: &str) -> &Self {
        fs::remove_file(self.path(name)).unwrap();
        self
    }

    /// Puts one of the odd graphs in place of the good one.
    pub(crate) fn graph(name: &str) -> Self {
        let copy = Self::of("static");
        fs::copy(fixtures().join("graphs").join(name), copy.path("model.onnx")).unwrap();
        copy
    }

    pub(crate) fn error(&self) -> Error {
        Embedder::open(self.dir.path()).unwrap_err()
    }
}

pub(crate) fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub(crate) fn set_pooling(copy: &Copy, mode: &str) {
    let config = format!(r#"{{"pooling_mode_{mode}": true, "pooling_mode_other": false}}"#);
    copy.write("1_Pooling/config.json", config);
}

/// `tokens` with a dense layer between pooling and unit length.
pub(crate) fn with_dense() -> Copy {
    let copy = Copy::of("tokens");
    copy_all(&fixtures().join("dense"), &copy.path("3_Dense"));
    let mut chain = json(&copy.path("modules.json"));
    let dense =
        serde_json::json!({"type": "sentence_transformers.models.Dense", "path": "3_Dense"});
    chain.as_array_mut().unwrap().insert(2, dense);
    copy.write("modules.json", chain.to_string());
    copy
}

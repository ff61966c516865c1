//! The cache of the Hugging Face hub, where a model is links to files named by hash:
//! those are read, and no other link is.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use matryo::Error;
use matryo::embed::Embedder;
use tempfile::TempDir;

use crate::support::ready;

fn family() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/mxbai")
}

/// Changes a cached model, and says where its tokenizer's link is to lead.
type Target<'a> = &'a dyn Fn(&Cached) -> PathBuf;

/// A model as `huggingface_hub` caches it.
struct Cached {
    folder: TempDir,
}

impl Cached {
    fn new() -> Self {
        let cached = Self { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(cached.model().join("blobs")).unwrap();
        cached.add(&family(), &cached.snapshot(), 2, &mut 0);
        cached
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("models--who--what")
    }

    fn snapshot(&self) -> PathBuf {
        self.model().join("snapshots").join("5cf2132a")
    }

    /// Moves files to `blobs` and leaves links; `depth` folders lead up to the model's.
    fn add(&self, from: &Path, to: &Path, depth: usize, count: &mut usize) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let place = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                self.add(&entry.path(), &place, depth + 1, count);
                continue;
            }
            *count += 1;
            // Files kept by Git LFS have a SHA-256, the others a SHA-1.
            let name = if count.is_multiple_of(2) {
                format!("{count:064x}")
            } else {
                format!("{count:040x}")
            };
            fs::copy(entry.path(), self.model().join("blobs").join(&name)).unwrap();
            symlink(format!("{}blobs/{name}", "../".repeat(depth)), place).unwrap();
        }
    }

    /// Puts another link in place of the tokenizer's, and opens the model.
    fn relinked(&self, target: &Path) -> Error {
        let link = self.snapshot().join("tokenizer.json");
        fs::remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        Embedder::open(self.snapshot()).unwrap_err()
    }
}

#[test]
fn a_snapshot_is_the_model() {
    if !ready() {
        return;
    }
    let cached = Cached::new();
    let texts = ["The river runs down to the sea.", "a"];
    let direct = Embedder::open(family()).unwrap();
    let expected = direct.embed_documents(&texts).unwrap();
    // Whoever opens it may come by a link, too.
    let by_link = cached.folder.path().join("model");
    symlink(cached.snapshot(), &by_link).unwrap();
    for path in [cached.snapshot(), by_link] {
        let embedder = Embedder::open(&path).unwrap();
        assert_eq!(embedder.embed_documents(&texts).unwrap(), expected);
        assert_eq!(embedder.fingerprint(), direct.fingerprint());
    }
}

#[test]
fn other_links_are_refused() {
    let tokenizer = family().join("tokenizer.json");
    let name = "a".repeat(64);
    let cases: [(&str, Target<'_>); 7] = [
        ("out of the model's folder", &|cached| {
            fs::create_dir(cached.folder.path().join("blobs")).unwrap();
            fs::copy(&tokenizer, cached.folder.path().join("blobs").join(&name)).unwrap();
            Path::new("../../../blobs").join(&name)
        }),
        ("not to blobs", &|cached| {
            fs::create_dir(cached.model().join("other")).unwrap();
            fs::copy(&tokenizer, cached.model().join("other").join(&name)).unwrap();
            Path::new("../../other").join(&name)
        }),
        ("not named by a hash", &|cached| {
            fs::copy(&tokenizer, cached.model().join("blobs/tokenizer.json")).unwrap();
            "../../blobs/tokenizer.json".into()
        }),
        ("from the root", &|cached| {
            fs::copy(&tokenizer, cached.model().join("blobs").join(&name)).unwrap();
            cached.model().join("blobs").join(&name)
        }),
        ("through a folder below", &|cached| {
            fs::create_dir(cached.model().join("blobs/deep")).unwrap();
            fs::copy(&tokenizer, cached.model().join("blobs/deep").join(&name)).unwrap();
            Path::new("../../blobs/deep").join(&name)
        }),
        ("to a link", &|cached| {
            symlink(&tokenizer, cached.model().join("blobs").join(&name)).unwrap();
            Path::new("../../blobs").join(&name)
        }),
        ("where blobs is a link", &|cached| {
            let elsewhere = cached.folder.path().join("elsewhere");
            fs::rename(cached.model().join("blobs"), &elsewhere).unwrap();
            fs::copy(&tokenizer, elsewhere.join(&name)).unwrap();
            symlink(&elsewhere, cached.model().join("blobs")).unwrap();
            Path::new("../../blobs").join(&name)
        }),
    ];
    for (what, target) in cases {
        let cached = Cached::new();
        let refused = cached.relinked(&target(&cached)).to_string();
        assert!(refused.contains("symbolic link"), "{what}: {refused}");
    }
    // A folder that only looks like it: nobody's cache.
    let cached = Cached::new();
    fs::rename(cached.model(), cached.folder.path().join("models")).unwrap();
    let refused = Embedder::open(cached.folder.path().join("models/snapshots/5cf2132a"));
    assert!(refused.unwrap_err().to_string().contains("symbolic link"));
}

#[test]
fn a_file_that_was_not_fetched_is_named() {
    let cached = Cached::new();
    let missing = cached.relinked(&Path::new("../../blobs").join("b".repeat(40)));
    assert!(missing.to_string().contains("tokenizer.json"), "{missing}");
}

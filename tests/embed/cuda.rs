//! CUDA is used or refused, never quietly replaced; where it is there, its vectors are
//! the processor's.

use std::path::{Path, PathBuf};

use matryo::Error;
use matryo::embed::{Embedder, Provider};

use crate::support::{fixtures, ready};

const DEVICE: Provider = Provider::Cuda { device: 0 };

/// How far a component may be from the processor's.
const TOLERANCE: f32 = 1e-3;

fn tests(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A refusal that says what was asked for and what else there is.
#[track_caller]
fn refused(error: Error) -> String {
    let Error::Runtime { why, cure } = error else { panic!("{error:?}") };
    assert!(why.contains("CUDA") && cure.contains("Provider::Cpu"), "{why}; {cure}");
    why
}

#[track_caller]
fn assert_close(a: &[Vec<f32>], b: &[Vec<f32>], what: &Path) {
    for (at, (a, b)) in a.iter().zip(b).enumerate() {
        let worst = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE, "{}: number {at} is off by {worst}", what.display());
    }
}

#[test]
fn texts_on_cuda_are_the_processors_or_refused() {
    if !ready() {
        return;
    }
    let texts =
        ["The river runs down to the sea.", "a", "", "tab and newline ".repeat(40).as_str()]
            .map(str::to_owned);
    for dir in [fixtures().join("static"), tests("families/mxbai"), tests("families/qwen3")] {
        // Loads the library first, so that a refusal comes from asking it.
        let host = Embedder::open(&dir).unwrap();
        match Embedder::builder(&dir).provider(DEVICE).open() {
            Ok(embedder) => {
                assert_eq!(embedder.describe().provider, DEVICE);
                let found = embedder.embed_documents(&texts).unwrap();
                assert_close(&found, &host.embed_documents(&texts).unwrap(), &dir);
            }
            Err(e) => eprintln!("SKIPPED, CUDA is not compared with the CPU: {}", refused(e)),
        }
    }
}

#[cfg(feature = "image")]
#[test]
fn pictures_on_cuda_are_the_processors_or_refused() {
    use matryo::embed::ImageEmbedder;
    if !ready() {
        return;
    }
    let pictures = ["wide.png", "tall.jpg", "small.png"].map(|p| tests("images/pictures").join(p));
    for dir in ["images/clip_joint", "images/vit", "images/resnet"].map(tests) {
        let host = ImageEmbedder::open(&dir).unwrap();
        assert_eq!(host.describe().provider, Provider::Cpu);
        match ImageEmbedder::builder(&dir).provider(DEVICE).open() {
            Ok(embedder) => {
                let told = embedder.describe();
                assert!(told.provider == DEVICE && told.to_string().contains("CUDA device 0"));
                let found = embedder.embed_images(&pictures).unwrap();
                assert_close(&found, &host.embed_images(&pictures).unwrap(), &dir);
            }
            Err(e) => eprintln!("SKIPPED, CUDA is not compared with the CPU: {}", refused(e)),
        }
    }
}

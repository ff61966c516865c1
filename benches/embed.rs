//! Tokens per second of an `Embedder` against Python's onnxruntime and against
//! sentence-transformers, and pictures per second of an `ImageEmbedder` against
//! Python's image processor with onnxruntime: on the same models, texts and pictures,
//! in one run.
//!
//! `models/parity/bench_model.py DIR` makes the models (BERT-like and `ViT`, 6 layers of
//! 384, random weights: speed does not depend on what they are) and the pictures. This
//! bench then starts `models/parity/bench_peer.py`, which holds the Python sides ready
//! and runs one when told, so that all take turns and meet the same machine. Vectors
//! are compared before anything is timed. Texts are the paragraphs of this repository's
//! documents; only their own tokens are counted, padding is not.
//!
//! `MATRYO_EMBED_MODEL` is DIR, `MATRYO_PYTHON` a Python with the packages of
//! `models/parity/requirements.txt`. `MATRYO_THREADS` (default: all) is for every side;
//! `MATRYO_TEXTS` and `MATRYO_RUNS` make it shorter on a slow machine.

mod support;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use matryo::embed::{Embedder, ImageEmbedder};
use support::Timing;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The Python sides that embed texts, as `bench_peer.py` calls them, and what they are.
const TEXT_SIDES: [(&str, &str); 3] = [
    ("ort", "Python onnxruntime, 32 texts"),
    ("fill", "the same, batches like ours"),
    ("st", "sentence-transformers"),
];

fn main() -> Outcome<()> {
    let Ok(model) = std::env::var("MATRYO_EMBED_MODEL") else {
        println!("MATRYO_EMBED_MODEL names no model: see the head of benches/embed.rs");
        return Ok(());
    };
    let threads = match std::env::var("MATRYO_THREADS") {
        Ok(n) => n.parse()?,
        Err(_) => std::thread::available_parallelism()?,
    };
    let number = |name, usual| std::env::var(name).map_or(Ok(usual), |n| n.parse::<usize>());
    // How often each side embeds everything, in turns.
    let runs = number("MATRYO_RUNS", 10)?;
    let mut texts = paragraphs()?;
    texts.truncate(number("MATRYO_TEXTS", usize::MAX)?);
    let peer = RefCell::new(Peer::start(&model, &texts, threads)?);
    time_texts(&model, &texts, &peer, threads, runs)?;
    time_pictures(&Path::new(&model).join("image"), &peer, threads, runs)
}

fn time_texts(
    model: &str,
    texts: &[String],
    peer: &RefCell<Peer>,
    threads: NonZeroUsize,
    runs: usize,
) -> Outcome<()> {
    let embedder = Embedder::builder(model).threads(threads).open()?;
    println!("{}", embedder.describe());
    let ours = embedder.embed_documents(texts)?;
    for (side, name) in TEXT_SIDES {
        peer.borrow_mut().check(side, name, &ours)?;
    }
    let tokens = peer.borrow().tokens as f64;
    println!("{} texts, {tokens} tokens, {threads} threads, {runs} runs in turns", texts.len());
    let run = |side: &str| peer.borrow_mut().run(side).expect("the peer answers");
    let timings = support::time_in_turns(
        runs,
        [
            &mut || drop(embedder.embed_documents(texts).expect("texts")),
            &mut || run(TEXT_SIDES[0].0),
            &mut || run(TEXT_SIDES[1].0),
            &mut || run(TEXT_SIDES[2].0),
        ],
    );
    let names = TEXT_SIDES.map(|(_, name)| name);
    print_speeds(&timings, &names, tokens, "tokens");
    Ok(())
}

fn time_pictures(
    model: &Path,
    peer: &RefCell<Peer>,
    threads: NonZeroUsize,
    runs: usize,
) -> Outcome<()> {
    let embedder = ImageEmbedder::builder(model).threads(threads).open()?;
    println!("\n{}", embedder.describe());
    let entries = std::fs::read_dir(model.join("pictures"))?;
    let mut paths = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    paths.sort();
    let name = "Python onnxruntime";
    peer.borrow_mut().check("image", name, &embedder.embed_images(&paths)?)?;
    println!("{} pictures, {threads} threads, {runs} runs in turns", paths.len());
    let timings = support::time_in_turns(
        runs,
        [&mut || drop(embedder.embed_images(&paths).expect("pictures")), &mut || {
            peer.borrow_mut().run("image").expect("the peer answers");
        }],
    );
    print_speeds(&timings, &[name], paths.len() as f64, "pictures");
    Ok(())
}

/// A line for each side, matryo's first.
fn print_speeds(timings: &[Timing], others: &[&str], count: f64, what: &str) {
    for (name, timing) in ["matryo"].iter().chain(others).zip(timings) {
        println!(
            "{name:<28} {:>8.0} {what}/s  (A/A {:.1} %)  matryo runs at {:.2} x",
            count / timing.seconds,
            100.0 * timing.noise,
            timing.seconds / timings[0].seconds
        );
    }
}

/// Paragraphs of the documents at the root: real sentences, of very mixed length.
fn paragraphs() -> Outcome<Vec<String>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for name in ["ARCHITECTURE.md", "CONTRIBUTING.md", "FORMAT.md", "README.md", "TESTING.md"] {
        let document = std::fs::read_to_string(root.join(name))?;
        let parts = document.split("\n\n").map(|part| part.replace('\n', " "));
        texts.extend(parts.filter(|part| part.len() > 20));
    }
    Ok(texts)
}

fn least_cosine(ours: &[Vec<f32>], theirs: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let pairs = ours.iter().zip(theirs.chunks_exact(ours[0].len()));
    pairs.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).fold(1.0, f64::min)
}

/// The Python process.
struct Peer {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// Tokens of all texts, as cut by the model's limit.
    tokens: usize,
    scratch: tempfile::TempDir,
}

impl Peer {
    fn start(model: &str, texts: &[String], threads: NonZeroUsize) -> Outcome<Self> {
        let scratch = tempfile::tempdir()?;
        let file = scratch.path().join("texts.json");
        std::fs::write(&file, serde_json::to_string(texts)?)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/parity/bench_peer.py");
        let python = std::env::var("MATRYO_PYTHON").unwrap_or_else(|_| "python3".into());
        let mut process = Command::new(python)
            .arg(script)
            .args([model, file.to_str().ok_or("a path in UTF-8")?, &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let to = process.stdin.take().ok_or("a pipe")?;
        let from = BufReader::new(process.stdout.take().ok_or("a pipe")?);
        let mut peer = Self { process, to, from, tokens: 0, scratch };
        peer.tokens = peer.line()?.parse()?;
        Ok(peer)
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            return Err("the peer ended: see its message above".into());
        }
        Ok(line.trim().to_string())
    }

    /// Embeds all texts once with a side.
    fn run(&mut self, side: &str) -> Outcome<()> {
        writeln!(self.to, "{side}")?;
        self.to.flush()?;
        let answer = self.line()?;
        if answer == "done" { Ok(()) } else { Err(answer.into()) }
    }

    /// That a side computes what we do.
    fn check(&mut self, side: &str, name: &str, ours: &[Vec<f32>]) -> Outcome<()> {
        let least = least_cosine(ours, &self.vectors(side)?);
        println!("least cosine with {name}: {least:.6}");
        // Two decoders of JPEG differ by more than two runs of a graph.
        let asked = if side == "image" { 0.999 } else { 0.9999 };
        assert!(least > asked, "{name} computes something else");
        Ok(())
    }

    /// What that gives.
    fn vectors(&mut self, side: &str) -> Outcome<Vec<f32>> {
        let path = self.scratch.path().join(side);
        self.run(&format!("{side} {}", path.display()))?;
        let bytes = std::fs::read(path)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

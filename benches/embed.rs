//! Tokens per second of an `Embedder` against Python's onnxruntime and against
//! sentence-transformers, on the same model and the same texts, in one run.
//!
//! `models/parity/bench_model.py DIR` makes the model (BERT-like, 6 layers of 384,
//! random weights: speed does not depend on what they are). This bench then starts
//! `models/parity/bench_peer.py`, which holds both Python sides ready and runs one
//! when told, so that all three take turns and meet the same machine. Vectors are
//! compared before anything is timed. Texts are the paragraphs of this repository's
//! documents; only their own tokens are counted, padding is not.
//!
//! `MATRYO_EMBED_MODEL` is DIR, `MATRYO_PYTHON` a Python with the packages of
//! `models/parity/requirements.txt`. `MATRYO_THREADS` (default: all) is for all three;
//! `MATRYO_TEXTS` and `MATRYO_RUNS` make it shorter on a slow machine.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use matryo::embed::Embedder;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

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
    // Each side's texts are embedded this often, in turns.
    let runs = number("MATRYO_RUNS", 10)?;
    let mut texts = paragraphs()?;
    texts.truncate(number("MATRYO_TEXTS", usize::MAX)?);
    let embedder = Embedder::builder(&model).threads(threads).open()?;
    println!("{}", embedder.describe());
    let mut peer = Peer::start(&model, &texts, threads)?;
    let ours = embedder.embed_documents(&texts)?;
    for side in ["ort", "st"] {
        let theirs = peer.vectors(side)?;
        println!("least cosine with {side}: {:.6}", least_cosine(&ours, &theirs));
        assert!(least_cosine(&ours, &theirs) > 0.9999, "{side} computes something else");
    }
    let tokens = peer.tokens as f64;
    println!("{} texts, {tokens} tokens, {threads} threads, {runs} runs in turns", texts.len());
    let peer = std::cell::RefCell::new(peer);
    let run = |side: &str| peer.borrow_mut().run(side).expect("the peer answers");
    let timings = support::time_in_turns(
        runs,
        [
            &mut || drop(embedder.embed_documents(&texts).expect("texts")),
            &mut || run("ort"),
            &mut || run("st"),
        ],
    );
    let names = ["matryo", "Python onnxruntime", "sentence-transformers"];
    for (name, timing) in names.iter().zip(&timings) {
        println!(
            "{name:<22} {:>8.0} tokens/s  (A/A {:.1} %)  matryo runs at {:.2} x",
            tokens / timing.seconds,
            100.0 * timing.noise,
            timing.seconds / timings[0].seconds
        );
    }
    Ok(())
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

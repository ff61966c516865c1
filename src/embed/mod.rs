//! Text to vectors through ONNX Runtime (feature `embed`).
//!
//! [`Embedder::open`] takes a model directory as sentence-transformers and
//! Hugging Face tools export it: the ONNX graph, `tokenizer.json`, the modules
//! after it and the prompts. It gives the vectors that Python's sentence-transformers
//! gives for the same directory, and the whole of them: shortening and rescaling to a
//! prefix is the store's business. What it chose is told by [`Embedder::describe`], and
//! what determines its vectors is hashed by [`Embedder::fingerprint`].
//!
//! Three things differ from Python, where following the directory to the letter gives
//! worse vectors:
//!
//! * [`Embedder::embed_documents`] takes the prompt called `passage` where there is no
//!   prompt `document` or an empty one; sentence-transformers 6.2 finds its own empty
//!   `document` first.
//! * The prompts of nomic (`search_query`, `search_document`) and jina v3
//!   (`retrieval.query`, `retrieval.passage`) count as those for queries and documents.
//! * A vector of unit length that is shortened ([`EmbedderBuilder::dims`],
//!   `truncate_dim`) has unit length again.
//!
//! Texts longer than the model takes ([`Embedder::max_tokens`]) are cut, as in Python, and
//! nothing tells so: split them before, with [`Embedder::count_tokens`].
//!
//! The ONNX Runtime library is found as [`runtime`] says; nothing is downloaded
//! unless [`runtime::install`] is called.
//!
//! Open only models you trust. The files are checked before they are used, and no
//! path outside the directory is read, but ONNX Runtime and the graph it runs are
//! native code in this process.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

mod backend;
mod batches;
#[cfg(feature = "cuda")]
mod binding;
mod builder;
mod chain;
mod config;
mod dense;
mod describe;
#[cfg(feature = "testing")]
pub(crate) mod dry_run;
mod fetch;
mod files;
mod fingerprint;
mod graph;
#[cfg(feature = "image")]
mod image;
mod inputs;
mod modules;
mod object;
mod onnx;
mod outputs;
mod pool;
mod prompts;
pub mod runtime;
mod safetensors;
mod session;
mod table;
mod text;
mod threads;
mod words;

pub use builder::{CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS, EmbedderBuilder};
pub use describe::{Description, Library};
pub use fingerprint::{Fingerprint, Hash};
#[cfg(feature = "image")]
pub use image::{
    BATCH_IMAGES, Image, ImageDescription, ImageEmbedder, ImageEmbedderBuilder, ImageSource,
    MAX_EDGE as MAX_IMAGE_EDGE, MAX_PIXEL_BYTES as MAX_IMAGE_PIXEL_BYTES,
};
pub use pool::Pooling;
pub use prompts::Prompt;

use crate::error::{Error, Result};
use backend::{Backend, Runs};
use chain::Chain;
use prompts::{Chosen, Prompts};
use text::{Kind, Tokenizers};

/// Longest text taken, in bytes. A longer one is refused rather than cut: models
/// read some hundred or thousand tokens, so such a text wants splitting.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// Texts tokenized before their batches run: bounds the memory for token ids
/// while leaving enough texts to find some of equal length.
const WINDOW: usize = 4096;

/// Where the graph runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Provider {
    /// The processor.
    #[default]
    Cpu,
    /// A GPU, with the feature `cuda` and a library that has CUDA in it.
    Cuda {
        /// Its number, from 0.
        device: i32,
    },
}

impl Provider {
    /// Whether this build can ask for it at all.
    fn check(self) -> Result<()> {
        match self {
            Self::Cuda { device } if cfg!(not(feature = "cuda")) => Err(Error::Runtime {
                why: format!(
                    "CUDA device {device} was asked for, and this build has no CUDA in it"
                ),
                cure: "build matryo with the feature `cuda`, or ask for Provider::Cpu".into(),
            }),
            _ => Ok(()),
        }
    }
}

/// A loaded model: texts in, vectors out.
///
/// It may be shared between threads; their batches take turns in the graph.
pub struct Embedder {
    backend: Backend,
    tokenizers: Tokenizers,
    chain: Chain,
    /// The directory that was opened.
    dir: PathBuf,
    /// The file with the weights.
    weights: PathBuf,
    granularities: Vec<usize>,
    prompts: Prompts,
    fingerprint: Fingerprint,
    threads: NonZeroUsize,
    batch_tokens: usize,
    provider: Provider,
    /// The vision tower, or why there is none.
    #[cfg(feature = "image")]
    vision: Result<ImageEmbedder, String>,
}

impl Embedder {
    /// Opens a model directory with the default options.
    ///
    /// # Errors
    /// Those of [`EmbedderBuilder::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::builder(dir).open()
    }

    /// Options for opening a model directory.
    pub fn builder(dir: impl AsRef<Path>) -> EmbedderBuilder {
        EmbedderBuilder::new(dir.as_ref())
    }

    /// Components of a vector.
    pub fn dims(&self) -> usize {
        self.chain.dims
    }

    /// The prefix lengths the model was trained at (`matryoshka_dims` of its
    /// configuration), ascending and ending with [`Embedder::dims`].
    pub fn granularities(&self) -> &[usize] {
        &self.granularities
    }

    /// What the vectors depend on, for telling models apart.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// The directory that was opened, and the file with the weights.
    pub(crate) fn files(&self) -> (&Path, &Path) {
        (&self.dir, &self.weights)
    }

    /// The model's prompts by name.
    pub fn prompts(&self) -> &BTreeMap<String, String> {
        self.prompts.by_name()
    }

    /// Where a text to be found is cut, in tokens, the prompt and special tokens included;
    /// `None` if nowhere, as with most static models. What is cut off has no part in the
    /// vector. Few models cut queries elsewhere; [`Embedder::describe`] tells.
    pub fn max_tokens(&self) -> Option<usize> {
        self.tokenizers.of(Kind::Document).max_tokens
    }

    /// Tokens of a text to be found, before it is cut, with the prompt for documents and
    /// special tokens: if they are more than [`Embedder::max_tokens`], it is cut. The first
    /// call takes the memory of another copy of the tokenizer.
    ///
    /// # Errors
    /// `Error::Invalid` for a text over [`MAX_TEXT_BYTES`].
    pub fn count_tokens(&self, text: &str) -> Result<usize> {
        let prompt = self.prompts.documents().text;
        check_length(0, prompt.len() + text.len())?;
        self.tokenizers.of(Kind::Document).count(prompt, text)
    }

    /// Embeds texts to be found, with the model's prompt for documents if it has
    /// one: `document`, `passage`, `corpus`, `search_document` or
    /// `retrieval.passage`. As in Python, the default prompt is not put before
    /// documents or queries; ask for it with [`Prompt::Default`]. A text of more tokens
    /// than [`Embedder::max_tokens`] is cut without notice.
    ///
    /// The vector of a text without a token that counts may be all zeros: of an empty
    /// text, or, with a static model, of one without a word that it knows. It has no
    /// direction, so a collection under cosine refuses it.
    ///
    /// # Errors
    /// `Error::Invalid` for a text over [`MAX_TEXT_BYTES`], `Error::Runtime` or
    /// `Error::Model` when the graph fails.
    pub fn embed_documents<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Vec<f32>>> {
        self.embed(Kind::Document, self.prompts.documents(), texts)
    }

    /// Embeds texts to search with, with the model's prompt for queries if it has
    /// one: `query`, `search_query` or `retrieval.query`. A vector may be all zeros, as
    /// those of [`Embedder::embed_documents`] may.
    ///
    /// # Errors
    /// Those of [`Embedder::embed_documents`].
    pub fn embed_queries<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Vec<f32>>> {
        self.embed(Kind::Query, self.prompts.queries(), texts)
    }

    /// Embeds one text to search with; see [`Embedder::embed_queries`]. It may be all
    /// zeros.
    ///
    /// # Errors
    /// Those of [`Embedder::embed_documents`].
    pub fn embed_query(&self, text: &str) -> Result<Vec<f32>> {
        Ok(self.embed_queries(&[text])?.pop().unwrap_or_default())
    }

    /// Embeds texts with a prompt of the caller's choice. A vector may be all zeros, as
    /// those of [`Embedder::embed_documents`] may.
    ///
    /// # Errors
    /// Those of [`Embedder::embed_documents`], and `Error::Invalid` for an unknown
    /// prompt name.
    pub fn embed_with_prompt<S: AsRef<str>>(
        &self,
        prompt: Prompt<'_>,
        texts: &[S],
    ) -> Result<Vec<Vec<f32>>> {
        self.embed(Kind::Other, self.prompts.choose(prompt)?, texts)
    }

    fn embed<S: AsRef<str>>(
        &self,
        kind: Kind,
        chosen: Chosen<'_>,
        texts: &[S],
    ) -> Result<Vec<Vec<f32>>> {
        let (tokenizer, prompt) = (self.tokenizers.of(kind), chosen.text);
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        for (at, text) in texts.iter().enumerate() {
            check_length(at, prompt.len() + text.len())?;
        }
        let excluded = if self.chain.pool_prompt || prompt.is_empty() {
            0
        } else {
            tokenizer.prompt_tokens(prompt)?
        };
        let runs = Runs { chain: &self.chain, weights: &self.weights, task: chosen.task, excluded };
        let mut vectors = Vec::with_capacity(texts.len());
        for window in texts.chunks(WINDOW) {
            let tokens = tokenizer.encode(prompt, window, self.threads)?;
            let mut found = match &self.backend {
                Backend::Table(table) => runs.look_up(table, &tokens, self.threads)?,
                Backend::Graph(graph) => {
                    runs.through(graph, &tokens, tokenizer, self.batch_tokens)?
                }
            };
            vectors.append(&mut found);
        }
        Ok(vectors)
    }
}

fn check_length(at: usize, bytes: usize) -> Result<()> {
    if bytes <= MAX_TEXT_BYTES {
        return Ok(());
    }
    let why = format!("text {at} has {bytes} bytes, at most {MAX_TEXT_BYTES} are taken: split it");
    Err(Error::invalid("text", why))
}

impl fmt::Debug for Embedder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedder")
            .field("weights", &self.weights)
            .field("dims", &self.chain.dims)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

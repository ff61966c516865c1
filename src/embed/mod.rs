//! Text to vectors through ONNX Runtime (feature `embed`).
//!
//! [`Embedder::open`] takes a model directory as sentence-transformers and
//! Hugging Face tools export it: the ONNX graph, `tokenizer.json`, the modules
//! after it and the prompts. It gives the vectors that Python gives for the same
//! directory, and the whole of them: shortening and rescaling to a prefix is the
//! store's business. What it chose is told by [`Embedder::describe`], and what
//! determines its vectors is hashed by [`Embedder::fingerprint`].
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

mod builder;
mod config;
mod dense;
mod describe;
mod fetch;
mod files;
mod fingerprint;
mod graph;
#[cfg(feature = "image")]
mod image;
mod onnx;
mod pool;
pub mod runtime;
mod session;
mod text;
mod words;

pub use builder::{CPU_BATCH_TOKENS, CUDA_BATCH_TOKENS, EmbedderBuilder};
pub use describe::Description;
pub use fingerprint::{Fingerprint, Hash};
#[cfg(feature = "image")]
pub use image::{
    BATCH_IMAGES, Image, ImageDescription, ImageEmbedder, ImageEmbedderBuilder, ImageSource,
    MAX_EDGE as MAX_IMAGE_EDGE, MAX_PIXEL_BYTES as MAX_IMAGE_PIXEL_BYTES,
};
pub use pool::Pooling;

use crate::error::{Error, Result};
use dense::Dense;
use session::{Answer, Model};
use text::{Batches, Tokenizer, Tokens};

/// Longest text taken, in bytes. A longer one is refused rather than cut: models
/// read some hundred or thousand tokens, so such a text wants splitting.
pub const MAX_TEXT_BYTES: usize = 1 << 20;

/// Texts tokenized before their batches run: bounds the memory for token ids
/// while leaving enough texts to find some of equal length.
const WINDOW: usize = 4096;

/// Names under which models publish the prompt for documents.
const DOCUMENT_PROMPTS: [&str; 3] = ["document", "passage", "corpus"];
const QUERY_PROMPTS: [&str; 1] = ["query"];

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

/// What is put before each text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt<'a> {
    /// Nothing.
    None,
    /// The model's prompt of that name; an unknown name is an error.
    Named(&'a str),
    /// This text.
    Literal(&'a str),
}

/// A loaded model: texts in, vectors out.
///
/// It may be shared between threads; their batches take turns in the graph.
pub struct Embedder {
    model: Model,
    tokenizer: Tokenizer,
    finish: Finish,
    graph: PathBuf,
    granularities: Vec<usize>,
    prompts: BTreeMap<String, String>,
    default_prompt: Option<String>,
    fingerprint: Fingerprint,
    threads: NonZeroUsize,
    batch_tokens: usize,
    /// Each text is a batch, because its vector depends on what is in its batch.
    alone: bool,
    provider: Provider,
    loaded: &'static runtime::Loaded,
    #[cfg(feature = "image")]
    vision: Option<ImageEmbedder>,
}

/// What is done to the graph's output.
struct Finish {
    /// `None` when the graph gives a vector per text.
    pooling: Option<Pooling>,
    pool_prompt: bool,
    dense: Vec<Dense>,
    normalize: bool,
    dims: usize,
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
        self.finish.dims
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

    /// The model's prompts by name.
    pub fn prompts(&self) -> &BTreeMap<String, String> {
        &self.prompts
    }

    /// Embeds texts to be found, with the model's prompt for documents if it has
    /// one (`document`, `passage` or `corpus`, else its default prompt).
    ///
    /// # Errors
    /// `Error::Invalid` for a text over [`MAX_TEXT_BYTES`], `Error::Runtime` or
    /// `Error::Model` when the graph fails.
    pub fn embed_documents<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Vec<f32>>> {
        self.embed(self.usual_prompt(&DOCUMENT_PROMPTS), texts)
    }

    /// Embeds texts to search with, with the model's prompt for queries if it has
    /// one (`query`, else its default prompt).
    ///
    /// # Errors
    /// Those of [`Embedder::embed_documents`].
    pub fn embed_queries<S: AsRef<str>>(&self, texts: &[S]) -> Result<Vec<Vec<f32>>> {
        self.embed(self.usual_prompt(&QUERY_PROMPTS), texts)
    }

    /// Embeds one text to search with; see [`Embedder::embed_queries`].
    ///
    /// # Errors
    /// Those of [`Embedder::embed_documents`].
    pub fn embed_query(&self, text: &str) -> Result<Vec<f32>> {
        Ok(self.embed_queries(&[text])?.pop().unwrap_or_default())
    }

    /// Embeds texts with a prompt of the caller's choice.
    ///
    /// # Errors
    /// Those of [`Embedder::embed_documents`], and `Error::Invalid` for an unknown
    /// prompt name.
    pub fn embed_with_prompt<S: AsRef<str>>(
        &self,
        prompt: Prompt<'_>,
        texts: &[S],
    ) -> Result<Vec<Vec<f32>>> {
        let prompt = match prompt {
            Prompt::None => "",
            Prompt::Literal(text) => text,
            Prompt::Named(name) => self.prompts.get(name).ok_or_else(|| {
                let names: Vec<&String> = self.prompts.keys().collect();
                Error::invalid("prompt", format!("the model has none called {name:?}: {names:?}"))
            })?,
        };
        self.embed(prompt, texts)
    }

    fn usual_prompt(&self, names: &[&str]) -> &str {
        let named = names.iter().find_map(|name| self.prompts.get(*name));
        let default = || self.prompts.get(self.default_prompt.as_deref()?);
        named.or_else(default).map_or("", String::as_str)
    }

    fn embed<S: AsRef<str>>(&self, prompt: &str, texts: &[S]) -> Result<Vec<Vec<f32>>> {
        let texts: Vec<&str> = texts.iter().map(AsRef::as_ref).collect();
        for (at, text) in texts.iter().enumerate() {
            check_length(at, prompt.len() + text.len())?;
        }
        let excluded = if self.finish.pool_prompt || prompt.is_empty() {
            0
        } else {
            self.tokenizer.prompt_tokens(prompt)?
        };
        let mut vectors = Vec::with_capacity(texts.len());
        for window in texts.chunks(WINDOW) {
            let tokens = self.tokenizer.encode(prompt, window, self.threads)?;
            let mut found = vec![Vec::new(); window.len()];
            for batch in Batches::plan(&tokens, self.batch_tokens, self.alone).iter() {
                self.embed_batch(&tokens, batch, excluded, &mut found)?;
            }
            vectors.append(&mut found);
        }
        Ok(vectors)
    }

    fn embed_batch(
        &self,
        tokens: &Tokens,
        batch: &[u32],
        excluded: usize,
        into: &mut [Vec<f32>],
    ) -> Result<()> {
        self.model.run(tokens, batch, self.tokenizer.pad_id, |answer| {
            for (row, &text) in batch.iter().enumerate() {
                let length = tokens.ids(text as usize).len();
                let vector = self.finish.vector(&answer, row, excluded.min(length)..length);
                if !vector.iter().all(|x| x.is_finite()) {
                    return Err(builder::not_numbers(&self.graph));
                }
                into[text as usize] = vector;
            }
            Ok(())
        })
    }
}

impl Finish {
    /// The vector of one row of an answer.
    fn vector(&self, answer: &Answer<'_>, row: usize, counted: std::ops::Range<usize>) -> Vec<f32> {
        let size = answer.values.len() / answer.rows.max(1);
        let values = &answer.values[row * size..(row + 1) * size];
        let mut vector = match self.pooling {
            None => values.to_vec(),
            Some(pooling) => {
                let mut pooled = vec![0.0; answer.dims];
                pooling.pool(values, counted, &mut pooled);
                pooled
            }
        };
        for dense in &self.dense {
            vector = dense.apply(&vector);
        }
        if self.normalize {
            pool::normalize(&mut vector);
        }
        vector
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
            .field("graph", &self.graph)
            .field("dims", &self.finish.dims)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

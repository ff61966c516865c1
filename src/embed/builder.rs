//! Opening an embedder: options, and the order in which everything is checked.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use super::config::{Config, Step};
use super::dense::Dense;
use super::files::{ModelDir, model};
use super::fingerprint::{Fingerprint, Hash, Hasher};
use super::graph::Graph;
use super::pool::Pooling;
use super::session::{Model, Shape};
use super::text::Tokenizer;
use super::{Embedder, Finish, Provider, runtime};
use crate::error::{Error, Result};

/// Tokens in a batch on the processor, padding included, unless
/// [`EmbedderBuilder::batch_tokens`] says otherwise. What the graph makes of such a
/// batch stays in the processor's caches: a static model of 1024 dimensions ran
/// twice as fast with it as with 4096.
pub const CPU_BATCH_TOKENS: usize = 1024;

/// The same on a GPU, which wants more to do at once. Not measured yet.
pub const CUDA_BATCH_TOKENS: usize = 16_384;

/// Options for opening an [`Embedder`]; made by [`Embedder::builder`].
#[derive(Debug, Clone)]
pub struct EmbedderBuilder {
    pub(super) dir: PathBuf,
    pub(super) runtime: Option<PathBuf>,
    pub(super) threads: Option<NonZeroUsize>,
    pub(super) graph: Option<String>,
    output: Option<String>,
    pooling: Option<Pooling>,
    max_tokens: Option<usize>,
    batch_tokens: Option<usize>,
    pub(super) provider: Provider,
}

impl EmbedderBuilder {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_path_buf(),
            runtime: None,
            threads: None,
            graph: None,
            output: None,
            pooling: None,
            max_tokens: None,
            batch_tokens: None,
            provider: Provider::Cpu,
        }
    }

    /// The ONNX Runtime library to load, instead of looking for one. A process
    /// loads one library: the first embedder decides.
    #[must_use]
    pub fn runtime(mut self, library: impl AsRef<Path>) -> Self {
        self.runtime = Some(library.as_ref().to_path_buf());
        self
    }

    /// Threads for tokenizing and for the graph. By default as many as the machine
    /// offers this process.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Which ONNX file to run, such as `model_quantized.onnx`; looked for in the
    /// directory and in its `onnx` folder. By default `model.onnx`.
    #[must_use]
    pub fn graph(mut self, name: impl Into<String>) -> Self {
        self.graph = Some(name.into());
        self
    }

    /// Which output of the graph is the embedding. By default `sentence_embedding`,
    /// else the only output, else `last_hidden_state` or `token_embeddings`.
    #[must_use]
    pub fn output(mut self, name: impl Into<String>) -> Self {
        self.output = Some(name.into());
        self
    }

    /// How to pool token vectors, where the directory does not say. A directory
    /// that says otherwise is an error, not overruled.
    #[must_use]
    pub fn pooling(mut self, pooling: Pooling) -> Self {
        self.pooling = Some(pooling);
        self
    }

    /// Where a text is cut, in tokens, instead of where the directory says.
    #[must_use]
    pub fn max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = Some(tokens);
        self
    }

    /// Tokens in a batch, padding included; a longer text is a batch by itself.
    /// More takes more memory and is not always faster; vectors stay the same. By
    /// default [`CPU_BATCH_TOKENS`] or [`CUDA_BATCH_TOKENS`].
    #[must_use]
    pub fn batch_tokens(mut self, tokens: usize) -> Self {
        self.batch_tokens = Some(tokens);
        self
    }

    /// Where the graph runs. There is no falling back: what is asked for is used,
    /// or opening fails.
    #[must_use]
    pub fn provider(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// Reads and checks the directory, loads ONNX Runtime and runs the graph once.
    ///
    /// # Errors
    /// `Error::Model` names the file of the directory that is missing or wrong and
    /// what to do; `Error::Runtime` says why ONNX Runtime cannot be used.
    pub fn open(self) -> Result<Embedder> {
        let dir = ModelDir::open(&self.dir)?;
        let mut config = Config::read(&dir)?;
        self.set_pooling(&mut config)?;
        let (tokenizer, tokenizer_hash) = Tokenizer::load(&dir, &config, self.max_tokens)?;
        let graph = Graph::read(&dir, self.graph.as_deref())?;
        // Last, so that a broken directory is reported as such on any machine.
        self.provider.check()?;
        let cuda = matches!(self.provider, Provider::Cuda { .. });
        let loaded = runtime::load(self.runtime.as_deref(), cuda)?;
        let threads = self.threads.unwrap_or_else(available);
        let usual = match self.provider {
            Provider::Cpu => CPU_BATCH_TOKENS,
            Provider::Cuda { .. } => CUDA_BATCH_TOKENS,
        };
        let siglip = config.pads_to_limit() && graph.is_text_tower();
        let output = self.output.as_deref().or(siglip.then_some("pooler_output"));
        let mut session = Model::open(&graph, loaded, self.provider, threads, output)?;
        session.width = tokenizer.max_tokens.filter(|_| siglip);
        let width = probe(&session, &tokenizer, &graph.path)?;
        let mut modules = Hasher::new("modules");
        let finish = Finish::new(&dir, &config, &session, width, &mut modules)?;
        if self.output.is_none() {
            finish.check_width(&config, &graph.path, &session.output)?;
        }
        let granularities = granularities(&dir, &config, finish.dims)?;
        describe_modules(&mut modules, &config, &session, &tokenizer);
        let hashes = (modules.finish(), prompts_hash(&config));
        let fingerprint = Fingerprint::new(graph.hash, tokenizer_hash, hashes.0, hashes.1);
        #[cfg(feature = "image")]
        let vision = self.open_vision(&dir, &session, finish.dims)?;
        #[cfg(feature = "image")]
        let fingerprint = match &vision {
            Some(vision) => fingerprint.with_vision(vision.fingerprint()),
            None => fingerprint,
        };
        Ok(Embedder {
            alone: graph.dynamic_quantization || !(session.masks() || siglip),
            graph: graph.path,
            model: session,
            tokenizer,
            finish,
            granularities,
            prompts: config.prompts,
            default_prompt: config.default_prompt,
            fingerprint,
            threads,
            batch_tokens: self.batch_tokens.unwrap_or(usual).max(1),
            provider: self.provider,
            loaded,
            #[cfg(feature = "image")]
            vision,
        })
    }

    fn set_pooling(&self, config: &mut Config) -> Result<()> {
        match (self.pooling, config.pooling) {
            (Some(asked), Some(own)) if asked != own => Err(Error::invalid(
                "pooling",
                format!("{asked} was asked for, and the model directory says {own}"),
            )),
            (asked, own) => {
                config.pooling = own.or(asked);
                Ok(())
            }
        }
    }
}

pub(super) fn available() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// Runs two texts of different length: the output must be vectors of one length,
/// whatever the graph declares, and its values must be numbers.
fn probe(session: &Model, tokenizer: &Tokenizer, path: &Path) -> Result<usize> {
    let texts = ["a", "a few more words than one"];
    let tokens = tokenizer.encode("", &texts, NonZeroUsize::MIN)?;
    let mut widths = [0; 2];
    for (text, width) in [0_u32, 1].iter().zip(&mut widths) {
        *width = session.run(&tokens, &[*text], tokenizer.pad_id, |answer| {
            let finite = answer.values.iter().all(|v| v.is_finite());
            if finite { Ok(answer.dims) } else { Err(not_numbers(path)) }
        })?;
    }
    let [short, long] = widths;
    if short == long && short > 0 {
        return Ok(short);
    }
    let output = &session.output;
    Err(model(
        path,
        format!(
            "output {output} has {short} components for one text and {long} for another, so it is \
             not an embedding: choose another with output(NAME)"
        ),
    ))
}

pub(super) fn not_numbers(path: &Path) -> Error {
    let why = "its output is not a number (NaN or infinite): half-precision graphs overflow on \
               some providers, so use the f32 graph";
    model(path, why)
}

/// The declared granularities, ending with the whole vector.
fn granularities(dir: &ModelDir, config: &Config, dims: usize) -> Result<Vec<usize>> {
    let mut all = config.granularities.clone().unwrap_or_default();
    if let Some(&most) = all.last()
        && most > dims
    {
        let why = format!("names matryoshka_dims up to {most}, and the vectors have {dims}");
        return Err(model(dir.root().join("config.json"), why));
    }
    if all.last() != Some(&dims) {
        all.push(dims);
    }
    Ok(all)
}

impl Finish {
    /// What is left to do after the graph.
    fn new(
        dir: &ModelDir,
        config: &Config,
        session: &Model,
        width: usize,
        hasher: &mut Hasher,
    ) -> Result<Self> {
        let mut finish = Self {
            pooling: None,
            pool_prompt: config.pool_prompt,
            dense: Vec::new(),
            normalize: false,
            dims: width,
        };
        if session.shape == Shape::PerToken {
            finish.pooling = Some(config.pooling.ok_or_else(|| no_pooling(dir, session))?);
        }
        for step in &config.steps {
            match step {
                Step::Normalize => finish.normalize = true,
                Step::Dense { .. } if finish.normalize => {
                    let why = "puts Dense after Normalize, which is not supported";
                    return Err(model(dir.root().join("modules.json"), why));
                }
                Step::Dense { folder, .. } if finish.pooling.is_some() => {
                    let dense = Dense::read(dir, folder, finish.dims, hasher)?;
                    finish.dims = dense.outputs();
                    finish.dense.push(dense);
                }
                // A vector per text has been through the graph's own.
                Step::Dense { .. } => {}
            }
        }
        Ok(finish)
    }

    /// The length the configuration promises; scores of classes and the like, which
    /// look like vectors, seldom have it.
    fn check_width(&self, config: &Config, graph: &Path, output: &str) -> Result<()> {
        let dense = config.steps.iter().rev().find_map(|step| match step {
            Step::Dense { outputs, .. } => Some(*outputs),
            Step::Normalize => None,
        });
        match dense.or(config.width) {
            Some(expected) if expected != self.dims => Err(model(
                graph,
                format!(
                    "output {output} gives vectors of {} components, and the configuration says \
                     {expected}: if it is the embedding all the same, say so with \
                     output({output:?})",
                    self.dims
                ),
            )),
            _ => Ok(()),
        }
    }
}

fn no_pooling(dir: &ModelDir, session: &Model) -> Error {
    let why = format!(
        "the graph gives a vector per token ({}), and no modules.json says how to pool them: add \
         the one the model was published with, or call pooling(...)",
        session.output
    );
    model(dir.root(), why)
}

/// What was chosen, rather than the files' bytes: reformatting a file changes nothing.
fn describe_modules(hasher: &mut Hasher, config: &Config, session: &Model, text: &Tokenizer) {
    hasher.text(&format!("output {} {:?}", session.output, session.shape));
    let pooling = config.pooling.map(|p| p.to_string());
    hasher.text(&format!("pooling {pooling:?} prompt {}", config.pool_prompt));
    let normalize = config.steps.contains(&Step::Normalize);
    hasher.text(&format!("normalize {normalize}"));
    hasher.text(&format!("max tokens {:?}", text.max_tokens));
    hasher.text(&format!("lower case {} special {}", config.lower_case, config.special_tokens));
}

fn prompts_hash(config: &Config) -> Hash {
    let mut hasher = Hasher::new("prompts");
    hasher.text(config.default_prompt.as_deref().unwrap_or_default());
    for (name, prompt) in &config.prompts {
        hasher.text(name);
        hasher.text(prompt);
    }
    hasher.finish()
}

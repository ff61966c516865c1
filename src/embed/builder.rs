//! Opening an embedder: options, and the order in which everything is checked.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use super::backend::{Backend, Running};
use super::chain::{Came, Chain, Wanted, no_pooling};
use super::config::Config;
use super::files::{ModelDir, model};
use super::fingerprint::{Fingerprint, Hash, Hasher};
use super::graph::Graph;
use super::inputs::Feed;
use super::modules::{Backbone, inside};
use super::outputs::Shape;
use super::pool::Pooling;
use super::prompts::Prompts;
use super::session::Model;
use super::table::Table;
use super::text::{Kind, Tokenizers};
use super::{Embedder, Provider, runtime, threads};
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
    pub(super) wanted: Wanted,
    task: Option<String>,
    max_tokens: Option<usize>,
    batch_tokens: Option<usize>,
    pub(super) provider: Provider,
    #[cfg(feature = "image")]
    pub(super) vision_graph: Option<String>,
    #[cfg(feature = "image")]
    pub(super) batch_images: Option<usize>,
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
            wanted: Wanted::default(),
            task: None,
            max_tokens: None,
            batch_tokens: None,
            provider: Provider::Cpu,
            #[cfg(feature = "image")]
            vision_graph: None,
            #[cfg(feature = "image")]
            batch_images: None,
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
    /// offers this process. The graph gets at most 1024, and no more than the system lets
    /// this process start when it is opened: [`Embedder::describe`] tells how many.
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = Some(threads);
        self
    }

    /// Which ONNX file to run, such as `model_quantized.onnx`; looked for in the
    /// directory and in its `onnx` folder. By default `model.onnx`, or none where a
    /// static model comes with its table.
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

    /// Centres and scales each vector after pooling (layer norm without weights).
    /// `nomic-embed-text-v1.5` and its kind need this before a vector is shortened,
    /// and their directories do not say so.
    #[must_use]
    pub fn layer_norm(mut self, on: bool) -> Self {
        self.wanted.layer_norm = on;
        self
    }

    /// How many components of each vector are kept, instead of what the directory
    /// says (`truncate_dim`) or all. The store shortens vectors too, and then keeps
    /// the rest for ranking: this throws the rest away. It is what a collection wants
    /// that was shortened itself (`Collection::drop_tier`, `copy_to`).
    ///
    /// Where the model ends with a scaling to unit length, what is kept has unit length
    /// too, unlike in Python and unlike the rows of a collection that was shortened. Under
    /// cosine that is no matter; under dot and l2 do not add such vectors to such rows.
    #[must_use]
    pub fn dims(mut self, dims: usize) -> Self {
        self.wanted.dims = Some(dims);
        self
    }

    /// Which of the model's adapters every text goes through, where the graph takes a
    /// `task_id`, such as `classification`. By default that for queries or documents.
    #[must_use]
    pub fn task(mut self, name: impl Into<String>) -> Self {
        self.task = Some(name.into());
        self
    }

    /// Where a text is cut, in tokens, instead of where the directory says. What a longer
    /// one holds behind that has no part in its vector, and nothing tells so;
    /// [`Embedder::count_tokens`] does.
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
        let (tokenizers, tokenizer_hash) = Tokenizers::load(&dir, &config, self.max_tokens)?;
        let asked = self.threads.unwrap_or_else(available);
        let opened = if self.graph.is_none() && has_table(&dir, &config)? {
            self.open_table(&dir, &config)?
        } else {
            self.open_graph(&dir, &config, &tokenizers, asked)?
        };
        let mut modules = Hasher::new("modules");
        let came = match &opened.backend {
            Backend::Table(_) => Came::Mean,
            Backend::Graph(_) if opened.per_token => Came::Tokens,
            Backend::Graph(_) => Came::Done,
        };
        let came = (came, opened.width);
        let chain = Chain::new(&dir, &config, self.wanted, came, &mut modules)?;
        self.check_width(&config, &opened, &chain)?;
        let granularities = granularities(&dir, &config, chain.dims)?;
        describe_modules(&mut modules, &opened, &tokenizers);
        let adapters = matches!(&opened.backend, Backend::Graph(g) if g.model.inputs.takes_task());
        let prompts = Prompts::new(&config, self.task.as_deref(), adapters)
            .map_err(|why| model(&opened.weights, why))?;
        let hashes = (opened.hash, tokenizer_hash, modules.finish(), prompts.hash());
        let fingerprint = Fingerprint::new(hashes.0, hashes.1, hashes.2, hashes.3);
        #[cfg(feature = "image")]
        let vision = self.open_vision(&dir, &config, &opened, &chain)?;
        #[cfg(feature = "image")]
        let fingerprint = match &vision {
            Ok(vision) => fingerprint.with_vision(vision.fingerprint()),
            Err(_) => fingerprint,
        };
        Ok(Embedder {
            backend: opened.backend,
            tokenizers,
            chain,
            dir: self.dir,
            weights: opened.weights,
            granularities,
            fingerprint,
            prompts,
            threads: opened.threads.unwrap_or(asked),
            batch_tokens: self.batch_tokens.unwrap_or(usual_batch(self.provider)).max(1),
            provider: self.provider,
            #[cfg(feature = "image")]
            vision,
        })
    }

    fn open_table(&self, dir: &ModelDir, config: &Config) -> Result<Opened> {
        if self.provider != Provider::Cpu {
            return Err(Error::Runtime {
                why: "a static model without a graph is looked up by the processor, and another \
                      provider was asked for"
                    .into(),
                cure: "ask for Provider::Cpu, or choose a graph with graph(NAME)".into(),
            });
        }
        let (table, hash) = Table::read(dir, &config.modules.folder)?;
        let weights = dir.root().join(inside(&config.modules.folder, Table::FILE));
        let width = table.dims();
        let output = String::new();
        Ok(Opened {
            backend: Backend::Table(table),
            weights,
            hash,
            width,
            output,
            per_token: false,
            threads: None,
        })
    }

    fn open_graph(
        &self,
        dir: &ModelDir,
        config: &Config,
        tokenizers: &Tokenizers,
        asked: NonZeroUsize,
    ) -> Result<Opened> {
        let graph = Graph::read(dir, &config.modules.folder, self.graph.as_deref())?;
        // Last, so that a broken directory is reported as such on any machine.
        self.provider.check()?;
        let cuda = matches!(self.provider, Provider::Cuda { .. });
        let loaded = runtime::load(self.runtime.as_deref(), cuda)?;
        let threads = threads::affordable(asked);
        let on = (self.provider, threads);
        let siglip = config.pads_to_limit() && graph.is_text_tower();
        let output = self.output.as_deref().or(siglip.then_some("pooler_output"));
        let mut session = Model::open(&graph, loaded, on, &config.attention, output)?;
        session.padded_to = tokenizers.longest().filter(|_| siglip);
        let per_token = session.shape == Shape::PerToken;
        if per_token && config.modules.pooling.is_empty() {
            return Err(no_pooling(dir, &session.output));
        }
        check_tokens(&session, tokenizers.longest(), &graph.path)?;
        let (width, apart) = match probe(&session, tokenizers, &graph.path) {
            // Some two-tower graphs cannot do with no picture at all.
            Err(Error::Runtime { .. }) if session.inputs.feed_blanks() => {
                probe(&session, tokenizers, &graph.path)?
            }
            probed => probed?,
        };
        let alone = graph.dynamic_quantization || !apart;
        Ok(Opened {
            output: session.output.clone(),
            backend: Backend::Graph(Box::new(Running { model: session, loaded, alone })),
            weights: graph.path,
            hash: graph.hash,
            width,
            per_token,
            threads: Some(threads),
        })
    }

    fn check_width(&self, config: &Config, opened: &Opened, chain: &Chain) -> Result<()> {
        // Who names the output knows what is in it.
        if self.output.is_some() {
            return Ok(());
        }
        let came = if chain.dense_layers() > 0 { None } else { Some(opened.width) };
        let came = came.map(|w| w * chain.pooling.len().max(1));
        match came.map(|came| Chain::check_width(config, came, &opened.output)) {
            Some(Err(why)) => Err(model(&opened.weights, why)),
            _ => Ok(()),
        }
    }

    fn set_pooling(&self, config: &mut Config) -> Result<()> {
        let own = &mut config.modules.pooling;
        match self.pooling {
            Some(asked) if own.is_empty() => own.push(asked),
            Some(asked) if own.as_slice() != [asked] => {
                let says = own.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let why = format!("{asked} was asked for, and the model directory says {says}");
                return Err(Error::invalid("pooling", why));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What the weights of a model turned out to be.
pub(super) struct Opened {
    pub(super) backend: Backend,
    /// The file they are in, and its hash.
    pub(super) weights: PathBuf,
    hash: Hash,
    /// Components of the vectors that come out, one per token or one per text.
    width: usize,
    per_token: bool,
    /// Name of the graph's output.
    output: String,
    /// Threads the graph runs on, where there is one.
    threads: Option<NonZeroUsize>,
}

/// Whether the directory is a static model with its table.
fn has_table(dir: &ModelDir, config: &Config) -> Result<bool> {
    let name = inside(&config.modules.folder, Table::FILE);
    Ok(config.modules.backbone == Backbone::Static && dir.has(&name)?)
}

fn usual_batch(provider: Provider) -> usize {
    match provider {
        Provider::Cpu => CPU_BATCH_TOKENS,
        Provider::Cuda { .. } => CUDA_BATCH_TOKENS,
    }
}

pub(super) fn available() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// A graph may take rows of one length only; texts must be cut to fit it.
fn check_tokens(session: &Model, longest: Option<usize>, path: &Path) -> Result<()> {
    match session.inputs.fixed_tokens() {
        Some(fixed) if longest.is_none_or(|max| max > fixed) => {
            let why = format!("takes rows of {fixed} tokens: call max_tokens({fixed}) or less");
            Err(model(path, why))
        }
        _ => Ok(()),
    }
}

/// How far a text's output may move when it is padded, against its largest value:
/// rounding, in a half-precision graph too, but nothing that the padding added.
const PADDING_MOVES: f32 = 2e-3;

/// Runs two texts of different length, each alone and both together. The output
/// must be vectors of one length, whatever the graph declares, and its values must be
/// numbers. Also tells whether the vector of the shorter stays the same when it is
/// padded: if not, texts must not share a batch.
fn probe(session: &Model, tokenizers: &Tokenizers, path: &Path) -> Result<(usize, bool)> {
    let tokenizer = tokenizers.of(Kind::Other);
    let texts = ["a", "a few more words than one"];
    let tokens = tokenizer.encode("", &texts, NonZeroUsize::MIN)?;
    let (pad_id, left) = (tokenizer.pad_id, tokenizer.pad_left);
    let length = tokens.ids(0).len();
    let run = |batch: &[u32]| {
        let feed = Feed { tokens: &tokens, batch, pad_id, left, task: 0 };
        let length = tokens.ids(batch[0] as usize).len();
        session.run(&feed, |answer| {
            let rows = answer.rows(0, length, left);
            let rows = &rows[..rows.len().min(length.max(1) * answer.dims)];
            // Where there is no token, all is padding.
            if length > 0 && !rows.iter().all(|x| x.is_finite()) {
                return Err(not_numbers(path));
            }
            Ok((answer.dims, rows.to_vec()))
        })
    };
    let ((short, vector), (long, _)) = (run(&[0])?, run(&[1])?);
    if short != long || short == 0 {
        let output = &session.output;
        let why = format!(
            "output {output} has {short} components for one text and {long} for another, so it is \
             not an embedding: choose another with output(NAME)"
        );
        return Err(model(path, why));
    }
    if session.inputs.one_text() {
        return Ok((short, false));
    }
    let (_, padded) = run(&[0, 1])?;
    let most = vector.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
    let same = vector.iter().zip(&padded).all(|(a, b)| (a - b).abs() <= PADDING_MOVES * most);
    Ok((short, same || length == 0))
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
        if config.width.is_some_and(|width| most <= width) {
            // The caller keeps less than there is.
            all.retain(|&n| n <= dims);
        } else {
            let why = format!("names matryoshka_dims up to {most}, and the vectors have {dims}");
            return Err(model(dir.root().join("config.json"), why));
        }
    }
    if all.last() != Some(&dims) {
        all.push(dims);
    }
    Ok(all)
}

/// What was chosen, rather than the files' bytes: reformatting a file changes nothing.
fn describe_modules(hasher: &mut Hasher, opened: &Opened, tokenizers: &Tokenizers) {
    let text = tokenizers.of(Kind::Other);
    hasher.text(&format!("output {} per token {}", opened.output, opened.per_token));
    hasher.text(&format!("max tokens {:?} special {}", text.max_tokens, text.special_tokens));
    let (left, cut_left) = (text.pad_left, text.cut_left);
    hasher.text(&format!("left {left} cut left {cut_left} lower case {}", text.lower_case));
    if let Some(limits) = tokenizers.apart() {
        hasher.text(&format!("documents, queries, others {limits:?}"));
    }
    if let Backend::Graph(graph) = &opened.backend {
        hasher.text(&format!("rows {:?}", graph.model.padded_to));
        // Padding that no mask hides is part of what the graph sees.
        if graph.model.padded_to.is_some() || graph.model.inputs.shows_padding() {
            hasher.text(&format!("padding {}", text.pad_id));
        }
    }
}

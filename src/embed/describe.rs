//! What an embedder chose, for people: nothing it decided stays silent.

use std::fmt;
use std::path::PathBuf;

use super::backend::Backend;
use super::text::Kind;
use super::{Embedder, Pooling, Provider, runtime};

/// What was chosen when a model was opened; displays as a few lines.
#[derive(Debug, Clone)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Description {
    /// The file with the weights: the ONNX graph, or the table of a static model.
    pub graph: PathBuf,
    /// Inputs the graph is fed; empty without a graph.
    pub inputs: Vec<String>,
    /// The output taken; empty without a graph.
    pub output: String,
    /// How token vectors are pooled, the results one after another; empty when the
    /// graph gives a vector per text.
    pub pooling: Vec<Pooling>,
    /// Dense layers applied after pooling.
    pub dense_layers: usize,
    /// Layer norms applied after pooling.
    pub layer_norms: usize,
    /// Whether vectors are scaled to unit length after the graph.
    pub normalize: bool,
    /// Components of a vector.
    pub dims: usize,
    /// Prefix lengths the model was trained at.
    pub granularities: Vec<usize>,
    /// Where a text to be found is cut, in tokens.
    pub max_tokens: Option<usize>,
    /// Where a query is cut.
    pub query_max_tokens: Option<usize>,
    /// Where a text with a prompt of the caller's choice is cut.
    pub other_max_tokens: Option<usize>,
    /// Whether the tokenizer adds its special tokens.
    pub special_tokens: bool,
    /// Whether padding comes before the text.
    pub pad_left: bool,
    /// Put before documents.
    pub document_prompt: String,
    /// Put before queries.
    pub query_prompt: String,
    /// The adapter for documents, where the graph has any.
    pub document_task: Option<String>,
    /// The adapter for queries.
    pub query_task: Option<String>,
    /// Tokens in a batch, padding included.
    pub batch_tokens: usize,
    /// Whether each text is run alone, because its vector would depend on its batch:
    /// the graph quantises activations while running, or counts padding in.
    pub one_at_a_time: bool,
    /// Where the graph runs.
    pub provider: Provider,
    /// Threads used.
    pub threads: usize,
    /// The ONNX Runtime library, where there is a graph to run.
    pub runtime: Option<Library>,
    /// Hash over everything the vectors depend on, in hex.
    pub fingerprint: String,
    /// The vision tower of a model that has one.
    #[cfg(feature = "image")]
    pub images: Option<super::ImageDescription>,
}

/// The ONNX Runtime library in use.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Library {
    /// Where it is.
    pub path: PathBuf,
    /// Its version, where its file name tells.
    pub version: Option<String>,
    /// How it was found.
    pub source: &'static str,
    /// What it says about its build.
    pub build: &'static str,
}

impl Embedder {
    /// What was chosen: graph, output, pooling, prompts, limits, library.
    pub fn describe(&self) -> Description {
        let graph = match &self.backend {
            Backend::Graph(graph) => Some(graph),
            Backend::Table(_) => None,
        };
        let (documents, queries) = (self.prompts.documents(), self.prompts.queries());
        let task = |chosen| self.prompts.task_name(chosen).map(String::from);
        let usual = self.tokenizers.of(Kind::Other);
        Description {
            graph: self.weights.clone(),
            inputs: graph.iter().flat_map(|g| g.model.inputs.names()).map(String::from).collect(),
            output: graph.map_or(String::new(), |g| g.model.output.clone()),
            pooling: self.chain.pooling.clone(),
            dense_layers: self.chain.dense_layers(),
            layer_norms: self.chain.layer_norms(),
            normalize: self.chain.normalizes(),
            dims: self.chain.dims,
            granularities: self.granularities.clone(),
            max_tokens: self.max_tokens(),
            query_max_tokens: self.tokenizers.of(Kind::Query).max_tokens,
            other_max_tokens: usual.max_tokens,
            special_tokens: usual.special_tokens,
            pad_left: usual.pad_left,
            document_prompt: documents.text.to_string(),
            query_prompt: queries.text.to_string(),
            document_task: task(documents),
            query_task: task(queries),
            batch_tokens: self.batch_tokens,
            one_at_a_time: graph.is_some_and(|g| g.alone),
            provider: self.provider,
            threads: self.threads.get(),
            runtime: graph.map(|g| Library::of(g.loaded)),
            fingerprint: self.fingerprint.to_string(),
            #[cfg(feature = "image")]
            images: self.images().map(super::ImageEmbedder::describe),
        }
    }
}

impl Library {
    pub(super) fn of(loaded: &'static runtime::Loaded) -> Self {
        Self {
            path: loaded.found.path.clone(),
            version: runtime::version_text(&loaded.found.path),
            source: loaded.found.source,
            build: loaded.build,
        }
    }
}

/// What a graph runs on, for people.
pub(super) fn ran_on(provider: Provider, threads: usize) -> String {
    match provider {
        Provider::Cpu => format!("CPU, {threads} threads"),
        Provider::Cuda { device } => format!("CUDA device {device}"),
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().unwrap_or("of unknown version");
        writeln!(f, "{} ({})", self.path.display(), self.source)?;
        write!(f, "              {version}, {}", self.build)
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |is: bool| if is { "yes" } else { "no" };
        let modes: Vec<String> = self.pooling.iter().map(ToString::to_string).collect();
        let pooling = match modes.as_slice() {
            [] => "before the vectors come out".into(),
            modes => format!("{} over tokens", modes.join(", ")),
        };
        let number = |n: Option<usize>| n.map_or("no limit".into(), |n| n.to_string());
        let [queries, others] = [self.query_max_tokens, self.other_max_tokens];
        let limit = if [queries, others] == [self.max_tokens; 2] {
            number(self.max_tokens)
        } else {
            let [documents, queries, others] = [self.max_tokens, queries, others].map(number);
            format!("documents {documents}, queries {queries}, others {others}")
        };
        let alone = if self.one_at_a_time { ", one text at a time" } else { "" };
        let side = if self.pad_left { ", padding before them" } else { "" };
        let prompt = |prompt: &str, task: &Option<String>| match task {
            Some(task) => format!("{prompt:?}, adapter {task}"),
            None => format!("{prompt:?}"),
        };
        writeln!(f, "weights       {}", self.graph.display())?;
        if self.runtime.is_some() {
            writeln!(f, "inputs        {}", self.inputs.join(", "))?;
            writeln!(f, "output        {}", self.output)?;
        }
        writeln!(f, "pooling       {pooling}")?;
        writeln!(f, "layers after  {} dense, {} norm", self.dense_layers, self.layer_norms)?;
        let unit = if self.normalize { "yes" } else { "not after the graph" };
        writeln!(f, "unit length   {unit}")?;
        writeln!(f, "dimensions    {} (granularities {:?})", self.dims, self.granularities)?;
        writeln!(f, "max tokens    {limit} (special: {}{side})", yes(self.special_tokens))?;
        writeln!(
            f,
            "prompts       document {}",
            prompt(&self.document_prompt, &self.document_task)
        )?;
        writeln!(f, "              query {}", prompt(&self.query_prompt, &self.query_task))?;
        writeln!(f, "batches       up to {} tokens{alone}", self.batch_tokens)?;
        writeln!(f, "provider      {}", ran_on(self.provider, self.threads))?;
        match &self.runtime {
            Some(library) => writeln!(f, "runtime       {library}")?,
            None => writeln!(f, "runtime       none needed")?,
        }
        #[cfg(feature = "image")]
        if let Some(images) = &self.images {
            images.graph_lines(f)?;
        }
        write!(f, "fingerprint   {}", self.fingerprint)
    }
}

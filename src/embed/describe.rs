//! What an embedder chose, for people: nothing it decided stays silent.

use std::fmt;
use std::path::PathBuf;

use super::{DOCUMENT_PROMPTS, Embedder, Pooling, Provider, QUERY_PROMPTS, runtime};

/// What was chosen when a model was opened; displays as a few lines.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Description {
    /// The ONNX file.
    pub graph: PathBuf,
    /// Inputs the graph is fed.
    pub inputs: Vec<String>,
    /// The output taken.
    pub output: String,
    /// How token vectors are pooled; `None` when the graph gives a vector per text.
    pub pooling: Option<Pooling>,
    /// Dense layers applied after pooling.
    pub dense_layers: usize,
    /// Whether vectors are scaled to unit length after the graph.
    pub normalize: bool,
    /// Components of a vector.
    pub dims: usize,
    /// Prefix lengths the model was trained at.
    pub granularities: Vec<usize>,
    /// Where a text is cut, in tokens.
    pub max_tokens: Option<usize>,
    /// Whether the tokenizer adds its special tokens.
    pub special_tokens: bool,
    /// Put before documents.
    pub document_prompt: String,
    /// Put before queries.
    pub query_prompt: String,
    /// Tokens in a batch, padding included.
    pub batch_tokens: usize,
    /// Whether each text is run alone, because its vector would depend on its batch:
    /// the graph quantises activations while running, or takes no mask.
    pub one_at_a_time: bool,
    /// Where the graph runs.
    pub provider: Provider,
    /// Threads used.
    pub threads: usize,
    /// The ONNX Runtime library.
    pub runtime: PathBuf,
    /// Its version, where its file name tells.
    pub runtime_version: Option<String>,
    /// How the library was found.
    pub runtime_source: &'static str,
    /// What the library says about its build.
    pub runtime_build: &'static str,
    /// Hash over everything the vectors depend on, in hex.
    pub fingerprint: String,
    /// The vision tower of a model that has one.
    #[cfg(feature = "image")]
    pub images: Option<super::ImageDescription>,
}

impl Embedder {
    /// What was chosen: graph, output, pooling, prompts, limits, library.
    pub fn describe(&self) -> Description {
        Description {
            graph: self.graph.clone(),
            inputs: self.model.inputs().map(String::from).collect(),
            output: self.model.output.clone(),
            pooling: self.finish.pooling,
            dense_layers: self.finish.dense.len(),
            normalize: self.finish.normalize,
            dims: self.finish.dims,
            granularities: self.granularities.clone(),
            max_tokens: self.tokenizer.max_tokens,
            special_tokens: self.tokenizer.special_tokens,
            document_prompt: self.usual_prompt(&DOCUMENT_PROMPTS).to_string(),
            query_prompt: self.usual_prompt(&QUERY_PROMPTS).to_string(),
            batch_tokens: self.batch_tokens,
            one_at_a_time: self.alone,
            provider: self.provider,
            threads: self.threads.get(),
            runtime: self.loaded.found.path.clone(),
            runtime_version: runtime::version_text(&self.loaded.found.path),
            runtime_source: self.loaded.found.source,
            runtime_build: self.loaded.build,
            fingerprint: self.fingerprint.to_string(),
            #[cfg(feature = "image")]
            images: self.vision.as_ref().map(super::ImageEmbedder::describe),
        }
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pooling = match self.pooling {
            Some(pooling) => format!("{pooling} over tokens"),
            None => "in the graph".into(),
        };
        let limit = self.max_tokens.map_or("no limit".into(), |n| n.to_string());
        let provider = match self.provider {
            Provider::Cpu => format!("CPU, {} threads", self.threads),
            Provider::Cuda { device } => format!("CUDA device {device}"),
        };
        let alone = if self.one_at_a_time { ", one text at a time" } else { "" };
        writeln!(f, "graph         {}", self.graph.display())?;
        writeln!(f, "inputs        {}", self.inputs.join(", "))?;
        writeln!(f, "output        {}", self.output)?;
        writeln!(f, "pooling       {pooling}")?;
        writeln!(f, "dense layers  {}", self.dense_layers)?;
        writeln!(f, "unit length   {}", if self.normalize { "yes" } else { "as the graph gives" })?;
        writeln!(f, "dimensions    {} (granularities {:?})", self.dims, self.granularities)?;
        writeln!(f, "max tokens    {limit} (special tokens: {})", self.special_tokens)?;
        writeln!(f, "prompts       document {:?}", self.document_prompt)?;
        writeln!(f, "              query {:?}", self.query_prompt)?;
        writeln!(f, "batches       up to {} tokens{alone}", self.batch_tokens)?;
        writeln!(f, "provider      {provider}")?;
        writeln!(f, "runtime       {} ({})", self.runtime.display(), self.runtime_source)?;
        let version = self.runtime_version.as_deref().unwrap_or("of unknown version");
        writeln!(f, "              {version}, {}", self.runtime_build)?;
        #[cfg(feature = "image")]
        if let Some(images) = &self.images {
            writeln!(f, "{images}")?;
        }
        write!(f, "fingerprint   {}", self.fingerprint)
    }
}

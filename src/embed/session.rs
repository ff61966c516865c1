//! One ONNX Runtime session: what goes in, what comes out.
//!
//! Inputs are fed exactly as the graph lists them (`inputs`), and the output is
//! chosen by a fixed rule (`outputs`); a graph that fits neither is refused when it
//! is opened, with what was found, and never run on a guess.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::sync::Arc;

use half::{bf16, f16};
use ort::session::builder::SessionBuilder;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionOutputs};
use ort::value::{DynValue, TensorElementType};
use parking_lot::Mutex;

use super::Provider;
#[cfg(feature = "cuda")]
use super::binding::Bound;
use super::config::Attention;
use super::files::model;
use super::graph::{Graph, Weights};
use super::inputs::{Feed, Inputs};
use super::outputs::{self, Shape};
use super::runtime::Loaded;
use crate::error::{Error, Result};

/// A session that two towers in one graph share. Who runs it takes its own state
/// first, then the session.
pub(super) type Shared = Arc<Mutex<Session>>;

/// A session ready to run.
pub(super) struct Model {
    pub(super) session: Shared,
    ready: Mutex<Ready>,
    pub(super) inputs: Inputs,
    pub(super) output: String,
    pub(super) shape: Shape,
    /// Tokens in every row, where the model was trained with rows of one length.
    pub(super) padded_to: Option<usize>,
}

/// What a run needs to itself.
pub(super) struct Ready {
    options: RunOptions<HasSelectedOutputs>,
    /// On a GPU only.
    #[cfg(feature = "cuda")]
    bound: Option<Bound>,
}

impl Ready {
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, reason = "only a GPU's memory is bound")
    )]
    pub(super) fn new(session: &Session, output: &str, provider: Provider) -> ort::Result<Self> {
        let options = RunOptions::new()?;
        let options = options.with_outputs(OutputSelector::no_default().with(output));
        Ok(Self {
            #[cfg(feature = "cuda")]
            bound: match provider {
                Provider::Cpu => None,
                Provider::Cuda { device } => Some(Bound::new(session, output, device)?),
            },
            options,
        })
    }

    pub(super) fn run<'a>(
        &'a mut self,
        session: &'a mut Session,
        inputs: Vec<(&str, DynValue)>,
    ) -> ort::Result<SessionOutputs<'a>> {
        #[cfg(feature = "cuda")]
        if let Some(bound) = &mut self.bound {
            return bound.run(session, &inputs);
        }
        session.run_with_options(inputs, &self.options)
    }
}

/// The answer for one batch.
pub(super) struct Answer<'a> {
    /// Components per vector.
    pub(super) dims: usize,
    values: &'a [f32],
    /// Vectors per text: its tokens and padding, or 1.
    width: usize,
}

impl Answer<'_> {
    /// The vectors of one text, from its first token on; `length` is its tokens.
    pub(super) fn rows(&self, text: usize, length: usize, left: bool) -> &[f32] {
        let padding = if left && length > 0 { self.width.saturating_sub(length) } else { 0 };
        let size = self.width * self.dims;
        &self.values[text * size + padding * self.dims..(text + 1) * size]
    }
}

impl Model {
    pub(super) fn open(
        graph: &Graph,
        loaded: &Loaded,
        (provider, threads): (Provider, NonZeroUsize),
        attention: &Attention,
        output: Option<&str>,
    ) -> Result<Self> {
        let session = start(graph, loaded, provider, threads)?;
        let wrong = |why| model(&graph.path, why);
        let inputs = Inputs::of(session.inputs(), attention).map_err(wrong)?;
        let (output, shape) = outputs::choose(session.outputs(), output).map_err(wrong)?;
        let ready = Ready::new(&session, &output, provider).map_err(|e| run_failed(&e))?;
        let (session, ready) = (Arc::new(Mutex::new(session)), Mutex::new(ready));
        Ok(Self { session, ready, inputs, output, shape, padded_to: None })
    }

    /// Tokens in every row, padding included, where that does not depend on the batch.
    pub(super) fn row_tokens(&self) -> Option<usize> {
        self.inputs.fixed_tokens().or(self.padded_to)
    }

    /// Runs one batch and hands its output to `take`.
    pub(super) fn run<R>(
        &self,
        feed: &Feed<'_>,
        take: impl FnOnce(Answer<'_>) -> Result<R>,
    ) -> Result<R> {
        let longest = feed.batch.iter().map(|&t| feed.tokens.ids(t as usize).len()).max();
        let width = self.row_tokens().unwrap_or(longest.unwrap_or(0).max(1));
        let inputs = self.inputs.fill(feed, width).map_err(|e| run_failed(&e))?;
        let (mut ready, mut session) = (self.ready.lock(), self.session.lock());
        let outputs = ready.run(&mut session, inputs).map_err(|e| run_failed(&e))?;
        let value = outputs
            .get(&self.output)
            .ok_or_else(|| failed(format!("the graph gave no {}", self.output)))?;
        let (found, values) = floats(value)?;
        let texts = feed.batch.len();
        let (width, dims) = match (self.shape, found.as_slice()) {
            (Shape::PerText, &[r, d]) if r == texts => (1, d),
            (Shape::PerToken, &[r, w, d]) if r == texts && w == width => (w, d),
            _ => {
                return Err(failed(format!(
                    "output {} has shape {found:?} for {texts} texts of {width} tokens",
                    self.output
                )));
            }
        };
        take(Answer { dims, values: &values, width })
    }
}

pub(super) fn start(
    graph: &Graph,
    loaded: &Loaded,
    provider: Provider,
    threads: NonZeroUsize,
) -> Result<Session> {
    let builder = configure(loaded, threads).map_err(|e| run_failed(&e))?;
    let mut builder = with_provider(builder, provider)?;
    let refused = |e: ort::Error| {
        let why = format!(
            "ONNX Runtime refuses it ({e}): copy or export the model again, for ONNX Runtime \
             1.{} or older",
            ort::MINOR_VERSION
        );
        model(&graph.path, why)
    };
    match &graph.weights {
        Weights::Path => builder.commit_from_file(&graph.path).map_err(refused),
        Weights::Memory(bytes, external) => {
            for (name, content) in external {
                builder = builder
                    .with_external_initializer_file_in_memory(name, content.clone())
                    .map_err(|e| refused(e.into()))?;
            }
            builder.commit_from_memory(bytes).map_err(refused)
        }
    }
}

fn configure(loaded: &Loaded, threads: NonZeroUsize) -> ort::Result<SessionBuilder> {
    let builder = Session::builder(&loaded.environment)?
        .with_intra_threads(threads.get())?
        // What fails comes back as an error; a library does not write to stderr.
        .with_log_level(ort::logging::LogLevel::Fatal)?
        // Idle threads that spin take the cores from the tokenizer and from whoever
        // else runs here: on a busy machine it cost half the speed.
        .with_intra_op_spinning(false)?
        // Plans memory for one shape; ours change from batch to batch.
        .with_memory_pattern(false)?;
    Ok(builder)
}

fn with_provider(builder: SessionBuilder, provider: Provider) -> Result<SessionBuilder> {
    match provider {
        Provider::Cpu => Ok(builder),
        #[cfg(feature = "cuda")]
        Provider::Cuda { device } => {
            // Strictly: the default is to go on without it and say nothing.
            let cuda = ort::ep::CUDA::default().with_device_id(device).build().error_on_failure();
            builder.with_execution_providers([cuda]).map_err(|e| Error::Runtime {
                why: format!("CUDA device {device} was asked for and cannot be used: {e}"),
                cure: "use the library of the Python package onnxruntime-gpu, with the CUDA and \
                       cuDNN it names (runtime(PATH) or ORT_DYLIB_PATH), or ask for Provider::Cpu"
                    .into(),
            })
        }
        #[cfg(not(feature = "cuda"))]
        Provider::Cuda { .. } => provider.check().map(|()| builder),
    }
}

/// The values of an output as f32, borrowed where they are.
pub(super) fn floats(value: &DynValue) -> Result<(Vec<usize>, Cow<'_, [f32]>)> {
    let wrap = |e: ort::Error| run_failed(&e);
    let (shape, values) = match value.dtype().tensor_type() {
        Some(TensorElementType::Float16) => {
            let (shape, values) = value.try_extract_tensor::<f16>().map_err(wrap)?;
            (shape, Cow::Owned(values.iter().map(|v| v.to_f32()).collect()))
        }
        Some(TensorElementType::Bfloat16) => {
            let (shape, values) = value.try_extract_tensor::<bf16>().map_err(wrap)?;
            (shape, Cow::Owned(values.iter().map(|v| v.to_f32()).collect()))
        }
        _ => {
            let (shape, values) = value.try_extract_tensor::<f32>().map_err(wrap)?;
            (shape, Cow::Borrowed(values))
        }
    };
    let shape = shape.iter().map(|&n| usize::try_from(n).unwrap_or(0)).collect();
    Ok((shape, values))
}

pub(super) fn run_failed(e: &ort::Error) -> Error {
    failed(e.to_string())
}

pub(super) fn failed(why: String) -> Error {
    let cure = "the graph and its configuration do not fit each other, or memory ran out: check \
                them, or lower batch_tokens";
    Error::Runtime { why, cure: cure.into() }
}

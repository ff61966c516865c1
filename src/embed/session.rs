//! One ONNX Runtime session: what goes in, what comes out.
//!
//! Inputs are fed exactly as the graph lists them, and the output is chosen by a
//! fixed rule; a graph that fits neither is refused when it is opened, with what
//! was found, and never run on a guess.

use std::borrow::Cow;
use std::num::NonZeroUsize;

use half::{bf16, f16};
use ort::session::builder::SessionBuilder;
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue};
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, ValueType};
use parking_lot::Mutex;

use super::Provider;
use super::files::model;
use super::graph::{Graph, Weights};
use super::runtime::Loaded;
use super::text::Tokens;
use crate::error::{Error, Result};

/// Outputs that hold a vector per token, by the names exporters give them.
const TOKEN_OUTPUTS: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// The output that holds the finished vector.
const SENTENCE_OUTPUT: &str = "sentence_embedding";

/// What an input of the graph is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    InputIds,
    AttentionMask,
    TokenTypeIds,
    PositionIds,
    /// Of a graph with both towers: one black picture, since CLIP's graphs cannot
    /// reshape none.
    Pictures,
}

#[derive(Debug)]
struct Input {
    name: String,
    role: Role,
    /// The graph takes 32-bit integers here; 64 is the rule.
    narrow: bool,
    /// Height and width of a picture.
    edges: [usize; 2],
}

/// What the chosen output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One vector per text, `[texts, dims]`.
    PerText,
    /// One vector per token, `[texts, tokens, dims]`.
    PerToken,
}

/// A session ready to run.
pub(super) struct Model {
    session: Mutex<(Session, RunOptions<HasSelectedOutputs>)>,
    inputs: Vec<Input>,
    pub(super) output: String,
    pub(super) shape: Shape,
    /// Tokens in every row, where the model wants one length.
    pub(super) width: Option<usize>,
}

/// The answer for one batch.
pub(super) struct Answer<'a> {
    /// Components per vector.
    pub(super) dims: usize,
    pub(super) values: &'a [f32],
    /// Texts in the batch.
    pub(super) rows: usize,
}

impl Model {
    pub(super) fn open(
        graph: &Graph,
        loaded: &Loaded,
        provider: Provider,
        threads: NonZeroUsize,
        output: Option<&str>,
    ) -> Result<Self> {
        let session = start(graph, loaded, provider, threads)?;
        let inputs = session.inputs().iter().map(Input::of).collect::<Result<Vec<_>, String>>();
        let inputs = inputs.and_then(complete).map_err(|why| model(&graph.path, why))?;
        let chosen = choose_output(session.outputs(), output);
        let (output, shape) = chosen.map_err(|why| model(&graph.path, why))?;
        let options = RunOptions::new().map_err(|e| run_failed(&e))?;
        let options = options.with_outputs(OutputSelector::no_default().with(&output));
        Ok(Self { session: Mutex::new((session, options)), inputs, output, shape, width: None })
    }

    pub(super) fn inputs(&self) -> impl Iterator<Item = &str> {
        self.inputs.iter().map(|i| i.name.as_str())
    }

    /// Without a mask the graph cannot tell padding from text.
    pub(super) fn masks(&self) -> bool {
        self.inputs.iter().any(|i| i.role == Role::AttentionMask)
    }

    /// Runs one batch and hands its output to `take`.
    pub(super) fn run<R>(
        &self,
        tokens: &Tokens,
        batch: &[u32],
        pad_id: u32,
        take: impl FnOnce(Answer<'_>) -> Result<R>,
    ) -> Result<R> {
        let longest = batch.iter().map(|&t| tokens.ids(t as usize).len()).max();
        let width = self.width.unwrap_or(longest.unwrap_or(0).max(1));
        let mut inputs = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let values = fill(input.role, tokens, batch, width, pad_id);
            let value = input.tensor([batch.len(), width], values).map_err(|e| run_failed(&e))?;
            inputs.push((input.name.as_str(), value));
        }
        let mut guard = self.session.lock();
        let (session, options) = &mut *guard;
        let outputs = session.run_with_options(inputs, options).map_err(|e| run_failed(&e))?;
        let value = outputs
            .get(&self.output)
            .ok_or_else(|| failed(format!("the graph gave no {}", self.output)))?;
        let (found, values) = floats(value)?;
        let rows = batch.len();
        let dims = match (self.shape, found.as_slice()) {
            (Shape::PerText, &[r, d]) if r == rows => d,
            (Shape::PerToken, &[r, w, d]) if r == rows && w == width => d,
            _ => {
                return Err(failed(format!(
                    "output {} has shape {found:?} for {rows} texts of {width} tokens",
                    self.output
                )));
            }
        };
        take(Answer { rows, dims, values: &values })
    }
}

impl Input {
    fn of(outlet: &Outlet) -> Result<Self, String> {
        let name = outlet.name();
        let role = match name {
            "input_ids" => Role::InputIds,
            "attention_mask" => Role::AttentionMask,
            "token_type_ids" => Role::TokenTypeIds,
            "position_ids" => Role::PositionIds,
            "pixel_values" => return Self::no_pictures(outlet),
            _ => return Err(format!("takes an input {}, {KNOWN_INPUTS}", described(outlet))),
        };
        let narrow = match outlet.dtype().tensor_type() {
            Some(TensorElementType::Int64) => false,
            Some(TensorElementType::Int32) => true,
            _ => return Err(format!("takes {}, and {name} must be integers", described(outlet))),
        };
        Ok(Self { name: name.to_string(), role, narrow, edges: [0; 2] })
    }

    fn no_pictures(outlet: &Outlet) -> Result<Self, String> {
        let refused = || Err(format!("takes {}, and pictures must be f32", described(outlet)));
        let ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } = outlet.dtype() else {
            return refused();
        };
        let edge = |at: usize| {
            let fixed = shape.get(at).and_then(|&n| usize::try_from(n).ok());
            fixed.filter(|&n| n > 0).unwrap_or(224)
        };
        let (role, edges) = (Role::Pictures, [edge(2), edge(3)]);
        Ok(Self { name: outlet.name().into(), role, narrow: false, edges })
    }

    fn tensor(
        &self,
        shape: [usize; 2],
        values: Vec<i64>,
    ) -> ort::Result<SessionInputValue<'static>> {
        if self.role == Role::Pictures {
            let [height, width] = self.edges;
            let black = vec![0.0_f32; 3 * height * width];
            return Ok(Tensor::from_array(([1, 3, height, width], black))?.into());
        }
        if self.narrow {
            let values: Vec<i32> = values.into_iter().map(|v| v as i32).collect();
            Ok(Tensor::from_array((shape, values))?.into())
        } else {
            Ok(Tensor::from_array((shape, values))?.into())
        }
    }
}

const KNOWN_INPUTS: &str = "and only input_ids, attention_mask, token_type_ids and position_ids \
                            are known: export the graph for feature extraction, without past keys";

fn complete(inputs: Vec<Input>) -> Result<Vec<Input>, String> {
    if inputs.iter().any(|i| i.role == Role::InputIds) {
        return Ok(inputs);
    }
    let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
    Err(format!("takes {names:?} and no input_ids, so it does not take text"))
}

fn fill(role: Role, tokens: &Tokens, batch: &[u32], width: usize, pad_id: u32) -> Vec<i64> {
    let mut values = Vec::with_capacity(batch.len() * width);
    for &text in batch {
        let ids = tokens.ids(text as usize);
        let end = values.len() + width;
        match role {
            Role::InputIds => {
                values.extend(ids.iter().map(|&id| i64::from(id)));
                values.resize(end, i64::from(pad_id));
            }
            Role::AttentionMask => {
                values.resize(values.len() + ids.len(), 1);
                values.resize(end, 0);
            }
            Role::TokenTypeIds => values.resize(end, 0),
            Role::PositionIds => values.extend(0..width as i64),
            Role::Pictures => {}
        }
    }
    values
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
        .with_log_level(ort::logging::LogLevel::Error)?
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

/// By name on request; else `sentence_embedding`; else the only output if it has a
/// vector per text; else the token vectors under one of their usual names; else
/// the only output if it has a vector per token. Nothing else is an embedding.
fn choose_output(outputs: &[Outlet], asked: Option<&str>) -> Result<(String, Shape), String> {
    let named = |name: &str| outputs.iter().find(|o| o.name() == name);
    if let Some(name) = asked {
        let outlet =
            named(name).ok_or_else(|| format!("has no output {name:?}: {}", list(outputs)))?;
        let shape = shape_of(outlet).ok_or_else(|| not_vectors(outlet))?;
        return Ok((name.to_string(), shape));
    }
    let only = if let [only] = outputs { Some(only) } else { None };
    // Scores of classes have the shape of an embedding, and are none.
    let only = only.filter(|o| !o.name().contains("logits"));
    let usual = || TOKEN_OUTPUTS.into_iter().find_map(named);
    let text = || named("text_embeds");
    let chosen = named(SENTENCE_OUTPUT).or(only).or_else(text).or_else(usual).ok_or_else(|| {
        format!(
            "has no output that is an embedding: {}; expected {SENTENCE_OUTPUT}, {} or {}, or \
             choose one with output(NAME)",
            list(outputs),
            TOKEN_OUTPUTS[0],
            TOKEN_OUTPUTS[1]
        )
    })?;
    let shape = shape_of(chosen).ok_or_else(|| not_vectors(chosen))?;
    Ok((chosen.name().to_string(), shape))
}

/// What an output holds, if it is floating-point and of two or three dimensions;
/// where the graph leaves the shape open, the usual names decide.
fn shape_of(outlet: &Outlet) -> Option<Shape> {
    use TensorElementType::{Bfloat16, Float16, Float32};
    let ValueType::Tensor { ty: Float32 | Float16 | Bfloat16, shape, .. } = outlet.dtype() else {
        return None;
    };
    match shape.len() {
        2 => Some(Shape::PerText),
        3 => Some(Shape::PerToken),
        0 if outlet.name() == SENTENCE_OUTPUT => Some(Shape::PerText),
        0 if TOKEN_OUTPUTS.contains(&outlet.name()) => Some(Shape::PerToken),
        _ => None,
    }
}

fn not_vectors(outlet: &Outlet) -> String {
    format!(
        "has output {}, which is not an embedding: expected floats of shape [texts, dims] or \
         [texts, tokens, dims]; export the graph for feature extraction",
        described(outlet)
    )
}

fn list(outputs: &[Outlet]) -> String {
    let all: Vec<String> = outputs.iter().map(described).collect();
    format!("its outputs are {}", all.join(", "))
}

fn described(outlet: &Outlet) -> String {
    format!("{} {}", outlet.name(), outlet.dtype())
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

//! The graph of an image model: what goes in, what comes out.
//!
//! Pixels go into `pixel_values`. A graph that also takes text (both towers of a
//! model in one file) is given a short one. The output is chosen by a fixed rule, and a
//! graph that does not fit is refused when it is opened.

use std::num::NonZeroUsize;
use std::sync::Arc;

use half::f16;
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, ValueType};
use parking_lot::Mutex;

use super::super::files::model;
use super::super::graph::Graph;
use super::super::pool::Pooling;
use super::super::runtime::Loaded;
use super::super::session::{Ready, Shared, failed, floats, run_failed, start};
use super::super::{Provider, builder};
use super::pixels::Planes;
use crate::error::Result;

pub(in super::super) const PIXELS: &str = "pixel_values";

/// Outputs that hold the vector of an image in the space it shares with text.
const IMAGE_OUTPUTS: [&str; 4] =
    ["image_embeds", "image_embeddings", "l2norm_image_embeddings", "sentence_embedding"];

const TOKEN_OUTPUT: &str = "last_hidden_state";
const POOLED_OUTPUT: &str = "pooler_output";

/// Model types whose vector is that of the first token: their `pooler_output` is
/// trained for something else, or not at all.
const FIRST_TOKEN: [&str; 5] = ["vit", "deit", "beit", "data2vec-vision", "vit_msn"];

/// An input that is fed beside the pixels.
#[derive(Debug)]
struct Other {
    name: String,
    kind: TensorElementType,
    /// Sizes after the first; where the graph leaves one open, 2.
    rest: Vec<usize>,
}

/// What the chosen output holds for each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A vector, or a map of one place.
    Vector,
    /// A vector per token.
    Tokens(Pooling),
    /// A map of channels, rows and columns: the mean over the places.
    Map,
}

/// A session ready to run.
pub(super) struct Vision {
    session: Shared,
    ready: Mutex<Ready>,
    half: bool,
    others: Vec<Other>,
    pub(super) output: String,
    shape: Shape,
    /// Images a graph takes at once, if it fixes that.
    pub(super) batch: Option<usize>,
    /// Edges of the picture, if the graph fixes them: height, width.
    pub(super) size: (Option<usize>, Option<usize>),
}

/// What the caller or the configuration says about a graph's output.
pub(super) struct Wanted<'a> {
    pub(super) output: Option<&'a str>,
    pub(super) pooling: Option<Pooling>,
    pub(super) model_type: Option<&'a str>,
}

impl Vision {
    /// Of a graph that runs already for texts, `shared` is the session.
    pub(super) fn open(
        graph: &Graph,
        loaded: &Loaded,
        (provider, threads): (Provider, NonZeroUsize),
        wanted: &Wanted<'_>,
        shared: Option<Shared>,
    ) -> Result<Self> {
        let started = match shared {
            Some(session) => session,
            None => Arc::new(Mutex::new(start(graph, loaded, provider, threads)?)),
        };
        let session = started.lock();
        let wrong = |why: String| model(&graph.path, why);
        let pixels = session.inputs().iter().find(|i| i.name() == PIXELS).ok_or_else(|| {
            let names: Vec<&str> = session.inputs().iter().map(Outlet::name).collect();
            wrong(format!("takes {names:?} and no {PIXELS}, so it does not take images"))
        })?;
        let (half, sizes) = pixel_input(pixels).map_err(wrong)?;
        let others = session.inputs().iter().filter(|i| i.name() != PIXELS);
        let others = others.map(Other::of).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let (output, shape) = choose_output(session.outputs(), wanted).map_err(wrong)?;
        let ready = Ready::new(&session, &output, provider).map_err(|e| run_failed(&e))?;
        let [batch, _, height, width] = sizes;
        drop(session);
        let (session, ready, size) = (started, Mutex::new(ready), (height, width));
        Ok(Self { session, ready, half, others, output, shape, batch, size })
    }

    /// What the output is and how it becomes one vector, for people and for the
    /// fingerprint.
    pub(super) fn pooling(&self) -> String {
        match self.shape {
            Shape::Vector => "in the graph".into(),
            Shape::Tokens(pooling) => format!("{pooling} over tokens"),
            Shape::Map => "mean over places".into(),
        }
    }

    /// Runs a grey picture: the output must be a vector of numbers.
    pub(super) fn probe(&self, graph: &Graph, (width, height): (u32, u32)) -> Result<usize> {
        let (width, height) = (width as usize, height as usize);
        let grey = Planes { width, height, values: vec![0.0; 3 * width * height] };
        let batch = vec![grey; self.batch.unwrap_or(1)];
        let vector = self.run(&batch)?.swap_remove(0);
        if vector.iter().all(|v| v.is_finite()) {
            Ok(vector.len())
        } else {
            Err(builder::not_numbers(&graph.path))
        }
    }

    /// The vectors of a batch of pictures of one size.
    pub(super) fn run(&self, batch: &[Planes]) -> Result<Vec<Vec<f32>>> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let rows = self.batch.unwrap_or(batch.len()).max(batch.len());
        let shape = [rows, 3, first.height, first.width];
        let mut values = Vec::with_capacity(shape.iter().product());
        for planes in batch {
            values.extend_from_slice(&planes.values);
        }
        // A graph of a fixed batch is fed black pictures beyond the last.
        values.resize(shape.iter().product(), 0.0);
        let mut inputs = vec![(PIXELS, self.pixels(shape, values).map_err(|e| run_failed(&e))?)];
        for other in &self.others {
            let value = other.value().map_err(|e| run_failed(&e))?;
            inputs.push((other.name.as_str(), value));
        }
        let (mut ready, mut session) = (self.ready.lock(), self.session.lock());
        let outputs = ready.run(&mut session, inputs).map_err(|e| run_failed(&e))?;
        let value = outputs
            .get(&self.output)
            .ok_or_else(|| failed(format!("the graph gave no {}", self.output)))?;
        let (found, values) = floats(value)?;
        let wrong = || failed(format!("output {} has shape {found:?}", self.output));
        if found.first() != Some(&rows) || values.is_empty() {
            return Err(wrong());
        }
        let size = values.len() / rows;
        let rows = values.chunks_exact(size).take(batch.len());
        rows.map(|row| self.vector(row, &found[1..]).ok_or_else(wrong)).collect()
    }

    fn pixels(&self, shape: [usize; 4], values: Vec<f32>) -> ort::Result<DynValue> {
        if self.half {
            let values: Vec<f16> = values.into_iter().map(f16::from_f32).collect();
            Ok(Tensor::from_array((shape, values))?.into_dyn())
        } else {
            Ok(Tensor::from_array((shape, values))?.into_dyn())
        }
    }

    fn vector(&self, row: &[f32], shape: &[usize]) -> Option<Vec<f32>> {
        match (self.shape, shape) {
            (Shape::Vector, [_] | [_, 1, 1]) => Some(row.to_vec()),
            (Shape::Map, &[_, height, width]) => {
                let places = height * width;
                let mean = |map: &[f32]| map.iter().sum::<f32>() / places as f32;
                Some(row.chunks_exact(places).map(mean).collect())
            }
            (Shape::Tokens(pooling), &[tokens, dims]) => {
                let mut pooled = vec![0.0; dims];
                pooling.pool(row, 0..tokens, &mut pooled);
                Some(pooled)
            }
            _ => None,
        }
    }
}

impl Other {
    fn of(outlet: &Outlet) -> Result<Self, String> {
        let name = outlet.name();
        let refused = || {
            let dtype = outlet.dtype();
            format!(
                "takes an input {name} {dtype} beside {PIXELS}, which is not known: export the \
                 vision tower by itself"
            )
        };
        if !matches!(name, "input_ids" | "attention_mask" | "token_type_ids" | "position_ids") {
            return Err(refused());
        }
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return Err(refused()) };
        if !matches!(ty, TensorElementType::Int64 | TensorElementType::Int32) {
            return Err(refused());
        }
        let size = |&n: &i64| usize::try_from(n).ok().filter(|&n| n > 0).unwrap_or(2);
        let rest = shape.iter().skip(1).map(size).collect();
        Ok(Self { name: name.into(), kind: *ty, rest })
    }

    /// One short text of zeros, or its mask. None at all would do, but CLIP's graphs
    /// cannot reshape an empty tensor.
    fn value(&self) -> ort::Result<DynValue> {
        let shape: Vec<usize> = std::iter::once(1).chain(self.rest.iter().copied()).collect();
        let value = i32::from(self.name == "attention_mask");
        let values = vec![value; shape.iter().product()];
        if self.kind == TensorElementType::Int32 {
            return Ok(Tensor::from_array((shape, values))?.into_dyn());
        }
        let values: Vec<i64> = values.into_iter().map(i64::from).collect();
        Ok(Tensor::from_array((shape, values))?.into_dyn())
    }
}

/// Whether pixels are half precision, and the sizes that are fixed.
fn pixel_input(outlet: &Outlet) -> Result<(bool, [Option<usize>; 4]), String> {
    let wrong = || {
        let dtype = outlet.dtype();
        format!("takes {PIXELS} as {dtype}, expected floats of shape [images, 3, height, width]")
    };
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return Err(wrong()) };
    let half = match ty {
        TensorElementType::Float32 => false,
        TensorElementType::Float16 => true,
        _ => return Err(wrong()),
    };
    let fixed = |n: i64| usize::try_from(n).ok().filter(|&n| n > 0);
    let sizes: Vec<Option<usize>> = shape.iter().map(|&n| fixed(n)).collect();
    match <[Option<usize>; 4]>::try_from(sizes) {
        Ok(sizes) if sizes[1].is_none_or(|channels| channels == 3) => Ok((half, sizes)),
        _ => Err(wrong()),
    }
}

/// By name on request; else the vector shared with text; else, of models whose
/// vector is the first token's, the tokens; else `pooler_output`; else the tokens;
/// else the only output. Scores of classes are never taken.
fn choose_output(outputs: &[Outlet], wanted: &Wanted<'_>) -> Result<(String, Shape), String> {
    let named = |name: &str| outputs.iter().find(|o| o.name() == name);
    let first_token = wanted.model_type.is_some_and(|kind| FIRST_TOKEN.contains(&kind));
    let pooled = || named(POOLED_OUTPUT).filter(|_| !first_token && wanted.pooling.is_none());
    let only = || match outputs {
        [only] if !only.name().contains("logits") => Some(only),
        _ => None,
    };
    let chosen = match wanted.output {
        Some(name) => named(name),
        None => IMAGE_OUTPUTS
            .into_iter()
            .find_map(named)
            .or_else(pooled)
            .or_else(|| named(TOKEN_OUTPUT))
            .or_else(only),
    };
    let all = || {
        let all: Vec<String> =
            outputs.iter().map(|o| format!("{} {}", o.name(), o.dtype())).collect();
        all.join(", ")
    };
    let chosen = chosen.ok_or_else(|| match wanted.output {
        Some(name) => format!("has no output {name:?}: its outputs are {}", all()),
        None => format!(
            "has no output that is an image's vector: its outputs are {}; expected {}, \
             {POOLED_OUTPUT} or {TOKEN_OUTPUT}, or choose one with output(NAME)",
            all(),
            IMAGE_OUTPUTS[0]
        ),
    })?;
    let shape = shape_of(chosen, wanted, first_token)?;
    Ok((chosen.name().to_string(), shape))
}

fn shape_of(outlet: &Outlet, wanted: &Wanted<'_>, first_token: bool) -> Result<Shape, String> {
    use TensorElementType::{Bfloat16, Float16, Float32};
    let (name, dtype) = (outlet.name(), outlet.dtype());
    let ValueType::Tensor { ty: Float32 | Float16 | Bfloat16, shape, .. } = dtype else {
        return Err(format!("has output {name} {dtype}, which is no vector of numbers"));
    };
    match shape.len() {
        2 => Ok(Shape::Vector),
        3 => match (wanted.pooling, first_token) {
            (Some(pooling), _) => Ok(Shape::Tokens(pooling)),
            (None, true) => Ok(Shape::Tokens(Pooling::Cls)),
            (None, false) => Err(format!(
                "gives a vector per token ({name}), and config.json's model_type does not tell \
                 how to pool them: call pooling(...)"
            )),
        },
        4 if name == POOLED_OUTPUT => Ok(Shape::Vector),
        4 => Ok(Shape::Map),
        _ => Err(format!(
            "has output {name} {dtype}, which is not an image's vector: expected [images, dims], \
             [images, tokens, dims] or [images, channels, height, width]"
        )),
    }
}

//! Choosing the output of a graph that holds the embedding.

use ort::value::{Outlet, TensorElementType, ValueType};

/// Outputs that hold a vector per token, by the names exporters give them.
const TOKEN_OUTPUTS: [&str; 2] = ["last_hidden_state", "token_embeddings"];

/// What the text side of a two-tower model gives, and what jina-embeddings-v3
/// calls its token vectors.
const TEXT_OUTPUTS: [&str; 3] = ["text_embeds", "text_embeddings", "l2norm_text_embeddings"];

/// The output that holds the finished vector.
const SENTENCE_OUTPUT: &str = "sentence_embedding";

/// What the chosen output holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One vector per text, `[texts, dims]`.
    PerText,
    /// One vector per token, `[texts, tokens, dims]`.
    PerToken,
}

/// By name on request; else `sentence_embedding`; else the only output; else the
/// vector per text of a two-tower model; else the token vectors under one of their
/// usual names. Nothing else is an embedding.
pub(super) fn choose(outputs: &[Outlet], asked: Option<&str>) -> Result<(String, Shape), String> {
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
    let text = || TEXT_OUTPUTS.into_iter().find_map(named);
    let per_text = || text().filter(|o| shape_of(o) == Some(Shape::PerText));
    let tokens = || TOKEN_OUTPUTS.into_iter().find_map(named);
    let found = named(SENTENCE_OUTPUT).or(only).or_else(per_text).or_else(tokens).or_else(text);
    let chosen = found.ok_or_else(|| {
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

pub(super) fn described(outlet: &Outlet) -> String {
    format!("{} {}", outlet.name(), outlet.dtype())
}

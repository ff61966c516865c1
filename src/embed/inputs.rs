//! What a graph is fed: exactly the inputs it lists, in the types it lists.
//!
//! Beside token ids and mask, exported graphs ask for things that mean "nothing"
//! when embedding text: an empty key-value cache, a switch that says so, pictures
//! or sounds of a model that takes those too. Of the latter none is fed, or, to a
//! graph that cannot do with none, a blank one. An input that is not known is refused when the graph is
//! opened, never guessed.

use half::{bf16, f16};
use ort::value::{DynValue, Outlet, Tensor, TensorElementType, ValueType};

use super::config::Attention;
use super::outputs::described;
use super::text::Tokens;

/// Names that begin like this are pictures, films or sounds.
const OTHER_MODALITIES: [&str; 6] =
    ["pixel_", "image", "video", "audio", "input_features", "input_values"];

/// Edge of a picture where neither graph nor configuration says it. There are no
/// pictures, so it only has to pass.
const USUAL_IMAGE: usize = 224;

/// Values of a blank picture; more is not a picture.
const MOST_BLANK: i64 = 1 << 26;

/// Heads of an attention, or the size of one; more is not a model.
const MOST_HEADS: i64 = 1 << 20;

/// What an input of the graph is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    InputIds,
    AttentionMask,
    TokenTypeIds,
    PositionIds,
    /// Where each text begins in a flat list of ids.
    Offsets,
    /// The number of the adapter to use.
    Task,
    /// Whether the cache is used: no.
    CacheSwitch,
    /// Keys and values of earlier tokens, of which there are none.
    Past,
    /// Another modality, of which there is nothing.
    Nothing,
}

#[derive(Debug)]
struct Input {
    name: String,
    role: Role,
    kind: TensorElementType,
    /// As declared, with everything filled in that can be known; -1 stays where the
    /// batch decides.
    shape: Vec<i64>,
}

/// All inputs of a graph, in its order.
#[derive(Debug)]
pub(super) struct Inputs {
    all: Vec<Input>,
    /// Pictures or sounds fed, all zeros.
    blanks: usize,
}

/// A batch of texts, and how it is laid out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Feed<'a> {
    pub(super) tokens: &'a Tokens,
    /// Which of the texts.
    pub(super) batch: &'a [u32],
    pub(super) pad_id: u32,
    /// Padding comes before the text.
    pub(super) left: bool,
    pub(super) task: usize,
}

impl Inputs {
    pub(super) fn of(outlets: &[Outlet], attention: &Attention) -> Result<Self, String> {
        let of = |outlet| Input::of(outlet, attention);
        let all = outlets.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        let inputs = Self { all, blanks: 0 };
        if inputs.has(Role::InputIds) {
            return Ok(inputs);
        }
        let names: Vec<&str> = inputs.names().collect();
        Err(format!("takes {names:?} and no input_ids, so it does not take text"))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|i| i.name.as_str())
    }

    fn has(&self, role: Role) -> bool {
        self.all.iter().any(|i| i.role == role)
    }

    /// Whether the graph chooses between adapters.
    pub(super) fn takes_task(&self) -> bool {
        self.has(Role::Task)
    }

    /// Whether ids come as one list, without padding.
    pub(super) fn flat(&self) -> bool {
        self.has(Role::Offsets)
    }

    /// Whether rows are padded and nothing tells the graph where.
    pub(super) fn shows_padding(&self) -> bool {
        !self.flat() && !self.has(Role::AttentionMask)
    }

    /// Feeds a blank picture or sound instead of none. False if there is nothing of
    /// the kind to feed, or it is fed already.
    pub(super) fn feed_blanks(&mut self) -> bool {
        let first = self.blanks == 0 && self.has(Role::Nothing);
        self.blanks = usize::from(first);
        first
    }

    /// A size of `input_ids` that the graph fixes: 0 texts, 1 tokens.
    fn fixed(&self, axis: usize) -> Option<usize> {
        let ids = self.all.iter().find(|i| i.role == Role::InputIds)?;
        ids.shape.get(axis).and_then(|&n| usize::try_from(n).ok()).filter(|&n| n > 0)
    }

    /// How many tokens every row must have, if the graph fixes it.
    pub(super) fn fixed_tokens(&self) -> Option<usize> {
        if self.flat() { None } else { self.fixed(1) }
    }

    /// Whether the graph takes one text at a time.
    pub(super) fn one_text(&self) -> bool {
        !self.flat() && self.fixed(0) == Some(1)
    }

    /// The tensors for a batch whose rows have `width` tokens.
    pub(super) fn fill(&self, feed: &Feed<'_>, width: usize) -> ort::Result<Vec<(&str, DynValue)>> {
        let flat = self.flat();
        let fill = |input: &Input| match input.role {
            Role::Past => input.zeros(feed.batch.len()),
            Role::Nothing => input.zeros(self.blanks),
            _ => input.value(feed, width, flat),
        };
        self.all.iter().map(|input| Ok((input.name.as_str(), fill(input)?))).collect()
    }
}

impl Input {
    fn of(outlet: &Outlet, attention: &Attention) -> Result<Self, String> {
        let name = outlet.name();
        let refused = |why: &str| Err(format!("takes an input {}, {why}", described(outlet)));
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
            return refused("and only tensors are fed");
        };
        let Some(role) = Role::named(name) else {
            return refused(
                "which is not known: export the graph for feature extraction, or with a \
                 sentence_embedding output",
            );
        };
        if !role.takes(*ty) {
            return refused("and it is fed in other types");
        }
        let mut shape: Vec<i64> = shape.to_vec();
        role.complete(&mut shape, attention)
            .map_err(|why| format!("takes an input {}, {why}", described(outlet)))?;
        Ok(Self { name: name.to_string(), role, kind: *ty, shape })
    }

    fn value(&self, feed: &Feed<'_>, width: usize, flat: bool) -> ort::Result<DynValue> {
        let texts = feed.batch.len();
        match self.role {
            Role::Task | Role::CacheSwitch => {
                let value = if self.role == Role::Task { feed.task as i64 } else { 0 };
                let count = if self.shape.first() == Some(&-1) { texts } else { 1 };
                let shape: Vec<usize> = self.shape.iter().map(|_| count).collect();
                self.numbers(shape, vec![value; count])
            }
            Role::InputIds if flat => {
                let ids = feed.batch.iter().flat_map(|&t| feed.tokens.ids(t as usize));
                let ids: Vec<i64> = ids.map(|&id| i64::from(id)).collect();
                self.numbers(vec![ids.len()], ids)
            }
            Role::Offsets => {
                let lengths = feed.batch.iter().map(|&t| feed.tokens.ids(t as usize).len());
                let starts = lengths.scan(0, |at, n| Some(std::mem::replace(at, *at + n) as i64));
                self.numbers(vec![texts], starts.collect())
            }
            role => self.numbers(vec![texts, width], rows(role, feed, width)),
        }
    }

    fn numbers(&self, shape: Vec<usize>, values: Vec<i64>) -> ort::Result<DynValue> {
        Ok(match self.kind {
            TensorElementType::Int64 => Tensor::from_array((shape, values))?.into_dyn(),
            TensorElementType::Bool => {
                let values: Vec<bool> = values.into_iter().map(|v| v != 0).collect();
                Tensor::from_array((shape, values))?.into_dyn()
            }
            TensorElementType::Float32 => {
                let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
                Tensor::from_array((shape, values))?.into_dyn()
            }
            _ => {
                let values: Vec<i32> = values.into_iter().map(|v| v as i32).collect();
                Tensor::from_array((shape, values))?.into_dyn()
            }
        })
    }

    /// A tensor of zeros, `count` where the shape is open: no value at all for a
    /// cache, or for no pictures.
    fn zeros(&self, count: usize) -> ort::Result<DynValue> {
        let size = |&n: &i64| usize::try_from(n).unwrap_or(count);
        let shape: Vec<usize> = self.shape.iter().map(size).collect();
        let n: usize = shape.iter().product();
        Ok(match self.kind {
            TensorElementType::Float16 => {
                Tensor::from_array((shape, vec![f16::ZERO; n]))?.into_dyn()
            }
            TensorElementType::Bfloat16 => {
                Tensor::from_array((shape, vec![bf16::ZERO; n]))?.into_dyn()
            }
            TensorElementType::Float32 => Tensor::from_array((shape, vec![0_f32; n]))?.into_dyn(),
            _ => self.numbers(shape, vec![0; n])?,
        })
    }
}

impl Role {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "input_ids" => Self::InputIds,
            "attention_mask" => Self::AttentionMask,
            "token_type_ids" => Self::TokenTypeIds,
            "position_ids" => Self::PositionIds,
            "offsets" => Self::Offsets,
            "task_id" => Self::Task,
            "use_cache_branch" => Self::CacheSwitch,
            _ if name.starts_with("past_key_values") => Self::Past,
            _ if OTHER_MODALITIES.iter().any(|start| name.starts_with(start)) => Self::Nothing,
            _ => return None,
        })
    }

    fn takes(self, kind: TensorElementType) -> bool {
        use TensorElementType::{Bfloat16, Bool, Float16, Float32, Int32, Int64};
        match self {
            Self::AttentionMask => matches!(kind, Int64 | Int32 | Bool | Float32),
            Self::CacheSwitch => kind == Bool,
            Self::Past => matches!(kind, Float32 | Float16 | Bfloat16),
            Self::Nothing => matches!(kind, Float32 | Float16 | Bfloat16 | Int64 | Int32 | Bool),
            _ => matches!(kind, Int64 | Int32),
        }
    }

    /// Fills in what the declared shape leaves open and the batch does not decide.
    fn complete(self, shape: &mut [i64], attention: &Attention) -> Result<(), String> {
        let whole = |n: Option<usize>| n.and_then(|n| i64::try_from(n).ok());
        match self {
            Self::Past => {
                let &mut [_, heads, past, head_dim] = &mut *shape else {
                    return Err("and a cache is fed as [texts, heads, tokens, components]".into());
                };
                let known = |n: i64, from: Option<usize>| if n > 0 { Some(n) } else { whole(from) };
                let (heads, head_dim) =
                    (known(heads, attention.heads), known(head_dim, attention.head_dim));
                let (Some(heads), Some(head_dim)) = (heads, head_dim) else {
                    return Err("and neither it nor config.json tells its heads and their size \
                                (num_key_value_heads, head_dim)"
                        .into());
                };
                if heads.max(head_dim) > MOST_HEADS {
                    return Err(format!("and {heads} heads of {head_dim} are too many"));
                }
                if past > 0 {
                    return Err(format!("and {past} earlier tokens cannot be given"));
                }
                shape.copy_from_slice(&[-1, heads, 0, head_dim]);
            }
            Self::Nothing => {
                let image = whole(attention.image_size).unwrap_or(USUAL_IMAGE as i64);
                let open = if shape.len() == 4 { [3, image, image] } else { [1, 1, 1] };
                for (size, usual) in shape.iter_mut().skip(1).zip(open.into_iter().cycle()) {
                    *size = if *size > 0 { *size } else { usual };
                }
                // So much is a blank one at most, whatever the graph declares.
                let blank = shape.iter().skip(1).try_fold(1_i64, |all, &n| all.checked_mul(n));
                if blank.is_none_or(|n| n > MOST_BLANK) || shape.first().is_none_or(|&n| n > 1) {
                    return Err("and neither none nor one can be given".into());
                }
                shape[0] = if shape[0] == 1 { 1 } else { -1 };
            }
            _ => {}
        }
        Ok(())
    }
}

/// The rows of one of the inputs that have a number for each token.
fn rows(role: Role, feed: &Feed<'_>, width: usize) -> Vec<i64> {
    let mut values = Vec::with_capacity(feed.batch.len() * width);
    for &text in feed.batch {
        let ids = feed.tokens.ids(text as usize);
        let end = values.len() + width;
        let padding = if role == Role::InputIds { i64::from(feed.pad_id) } else { 0 };
        if feed.left {
            values.resize(end - ids.len(), padding);
        }
        match role {
            Role::InputIds => values.extend(ids.iter().map(|&id| i64::from(id))),
            Role::AttentionMask => values.resize(values.len() + ids.len(), 1),
            Role::PositionIds if feed.left => values.extend(0..ids.len() as i64),
            // Counting on through the padding, as the graphs that count for
            // themselves do.
            Role::PositionIds => values.extend(0..width as i64),
            _ => {}
        }
        values.resize(end, padding);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_goes_to_its_side() {
        let mut tokens = Tokens::default();
        tokens.push(&[7, 8]);
        tokens.push(&[9]);
        let mut feed = Feed { tokens: &tokens, batch: &[1, 0], pad_id: 5, left: false, task: 0 };
        assert_eq!(rows(Role::InputIds, &feed, 3), [9, 5, 5, 7, 8, 5]);
        assert_eq!(rows(Role::AttentionMask, &feed, 3), [1, 0, 0, 1, 1, 0]);
        assert_eq!(rows(Role::PositionIds, &feed, 3), [0, 1, 2, 0, 1, 2]);
        feed.left = true;
        assert_eq!(rows(Role::InputIds, &feed, 3), [5, 5, 9, 5, 7, 8]);
        assert_eq!(rows(Role::AttentionMask, &feed, 3), [0, 0, 1, 0, 1, 1]);
        assert_eq!(rows(Role::PositionIds, &feed, 3), [0, 0, 0, 0, 0, 1]);
        assert_eq!(rows(Role::TokenTypeIds, &feed, 3), [0; 6]);
    }

    #[test]
    fn an_empty_cache_takes_its_shape_from_the_graph_then_the_configuration() {
        let attention = Attention { heads: Some(2), head_dim: Some(16), image_size: Some(32) };
        let complete = |role: Role, mut shape: Vec<i64>, attention: &Attention| {
            role.complete(&mut shape, attention).map(|()| shape)
        };
        let fixed = complete(Role::Past, vec![-1, 8, -1, 128], &attention);
        assert_eq!(fixed.unwrap(), [-1, 8, 0, 128]);
        let open = complete(Role::Past, vec![-1, -1, -1, -1], &attention);
        assert_eq!(open.unwrap(), [-1, 2, 0, 16]);
        assert!(complete(Role::Past, vec![-1; 4], &Attention::default()).is_err());
        assert!(complete(Role::Past, vec![-1; 3], &attention).is_err());
        assert!(complete(Role::Past, vec![-1, i64::MAX, -1, 8], &attention).is_err());
        let picture = complete(Role::Nothing, vec![-1, 3, -1, -1], &attention);
        assert_eq!(picture.unwrap(), [-1, 3, 32, 32]);
        assert!(complete(Role::Nothing, vec![-1, 1 << 40, 1 << 40], &attention).is_err());
    }
}

//! What a model directory says about itself.
//!
//! Reads the sentence-transformers layout ([`Modules`], `sentence_bert_config.json`,
//! `config_sentence_transformers.json`) and the Hugging Face `config.json` and
//! `tokenizer_config.json`. A missing file means its documented default; a file
//! that says something this version does not do is an error that names it, because
//! a vector computed by almost the right recipe is worse than none.

use std::collections::BTreeMap;

use serde_json::Value;

use super::files::ModelDir;
use super::modules::{Backbone, Modules, inside};
use super::object::Object;
use crate::error::Result;

/// Tokenizers write "no limit" as a huge number.
const NO_LIMIT: usize = 1_000_000;

/// Names under which the settings of the first module were saved over the years.
const TRANSFORMER_CONFIGS: [&str; 7] = [
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
];

/// Keys under which models publish the prefix lengths they were trained at.
const GRANULARITIES: [&str; 2] = ["matryoshka_dims", "matryoshka_dimensions"];

/// Which end of a row padding fills, or a long text loses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Shape of the attention, for graphs that take an empty key-value cache whose
/// shape they leave open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Attention {
    pub(super) heads: Option<usize>,
    pub(super) head_dim: Option<usize>,
    /// Edge of the pictures a two-tower model takes, in pixels.
    pub(super) image_size: Option<usize>,
}

/// Everything read from the configuration files.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) modules: Modules,
    pub(super) max_tokens: Option<usize>,
    /// Where queries and documents are cut, if elsewhere.
    pub(super) query_tokens: Option<usize>,
    pub(super) document_tokens: Option<usize>,
    pub(super) lower_case: bool,
    pub(super) special_tokens: bool,
    pub(super) pad_id: Option<u32>,
    pub(super) pad_token: Option<String>,
    pub(super) padding: Option<Side>,
    pub(super) truncation: Option<Side>,
    /// Length of the vector before any `Dense`, where the files tell.
    pub(super) width: Option<usize>,
    pub(super) granularities: Option<Vec<usize>>,
    /// How many components of a vector are kept, where the files tell.
    pub(super) truncate: Option<usize>,
    pub(super) prompts: BTreeMap<String, String>,
    pub(super) default_prompt: Option<String>,
    /// Names of the adapters a graph with a `task_id` has, in the order of their ids.
    pub(super) tasks: Vec<String>,
    pub(super) attention: Attention,
    pub(super) model_type: Option<String>,
}

impl Config {
    pub(super) fn read(dir: &ModelDir) -> Result<Self> {
        let modules = Modules::read(dir)?;
        let beside = |name: &str| [inside(&modules.folder, name), name.to_string()];
        let base = Object::read_first(dir, &beside("config.json"))?;
        let tokenizer = Object::read_first(dir, &beside("tokenizer_config.json"))?;
        let st = Object::read(dir, "config_sentence_transformers.json")?;
        let names = TRANSFORMER_CONFIGS.map(|name| inside(&modules.folder, name));
        let bert = Object::read_first(dir, &names)?;
        refuse_others(&bert)?;
        let config = Self {
            max_tokens: max_tokens(&base, &bert, &tokenizer, modules.backbone)?,
            query_tokens: bert.size("query_length")?,
            document_tokens: bert.size("document_length")?,
            lower_case: bert.boolean("do_lower_case")?.unwrap_or(false),
            special_tokens: base
                .boolean("add_special_tokens")?
                .unwrap_or(modules.backbone != Backbone::Static),
            pad_id: base.size("pad_token_id")?.and_then(|id| u32::try_from(id).ok()),
            pad_token: pad_token(&tokenizer),
            padding: side(&tokenizer, "padding_side")?,
            truncation: side(&tokenizer, "truncation_side")?,
            width: modules.width.or(base.size("hidden_size")?),
            granularities: granularities(&[&base, &st])?,
            truncate: st.size("truncate_dim")?,
            prompts: prompts(&base, &st)?,
            default_prompt: st.text("default_prompt_name")?,
            tasks: base.texts("lora_adaptations")?.unwrap_or_default(),
            attention: attention(&base)?,
            model_type: base.text("model_type")?,
            modules,
        };
        config.check_default_prompt(&st)?;
        Ok(config)
    }

    /// The text tower takes no mask: every text is padded to the limit, and the
    /// vector is the pooled output.
    pub(super) fn pads_to_limit(&self) -> bool {
        self.model_type.as_ref().is_some_and(|kind| kind.starts_with("siglip"))
    }

    fn check_default_prompt(&self, st: &Object) -> Result<()> {
        match &self.default_prompt {
            Some(name) if !self.prompts.contains_key(name) => {
                Err(st.wrong(&format!("names {name:?} as default prompt, which is not in prompts")))
            }
            _ => Ok(()),
        }
    }
}

/// What the first module may be told to do with texts, and this version does not.
fn refuse_others(bert: &Object) -> Result<()> {
    let some = |key: &str| match bert.present(key) {
        None => false,
        Some(Value::Object(map)) => !map.is_empty(),
        Some(_) => true,
    };
    for key in ["processing_kwargs", "query_expansion"] {
        if some(key) {
            return Err(bert.wrong(&format!("has {key}, which is not supported")));
        }
    }
    let message = bert.present("modality_config").is_some_and(|all| all.get("message").is_some());
    if message {
        let why = "has a message in its modality_config: texts go through a chat template there, \
                   which is not supported";
        return Err(bert.wrong(why));
    }
    Ok(())
}

/// The first of the places that say how many tokens the model takes.
fn max_tokens(
    base: &Object,
    bert: &Object,
    tokenizer: &Object,
    backbone: Backbone,
) -> Result<Option<usize>> {
    if let Some(n) = bert.size("max_seq_length")?.or(base.size("max_tokens")?) {
        return Ok(Some(n));
    }
    // These two limit a transformer's positions. Tables have none, and they often keep the
    // files of the transformer whose tokenizer they use.
    if backbone == Backbone::Static {
        return Ok(None);
    }
    // "No limit" is often written as a float like 1e30, so a plain number is asked for.
    let tokens = tokenizer.present("model_max_length").and_then(Value::as_u64);
    let tokens = tokens.and_then(|n| usize::try_from(n).ok()).filter(|&n| n < NO_LIMIT);
    let positions = base.size("max_position_embeddings")?;
    Ok(tokens.into_iter().chain(positions).min())
}

fn granularities(places: &[&Object]) -> Result<Option<Vec<usize>>> {
    for place in places {
        for key in GRANULARITIES {
            if let Some(sizes) = place.sizes(key)? {
                return Ok(Some(sizes));
            }
        }
    }
    Ok(None)
}

/// Some models name their prompts only beside the adapters they belong to.
fn prompts(base: &Object, st: &Object) -> Result<BTreeMap<String, String>> {
    let mut prompts = base.named_texts("task_instructions")?;
    prompts.extend(st.named_texts("prompts")?);
    Ok(prompts)
}

fn side(tokenizer: &Object, key: &str) -> Result<Option<Side>> {
    match tokenizer.text(key)?.as_deref() {
        None => Ok(None),
        Some("left") => Ok(Some(Side::Left)),
        Some("right") => Ok(Some(Side::Right)),
        Some(other) => {
            Err(tokenizer.wrong(&format!("has {key} = {other:?}, expected left or right")))
        }
    }
}

/// Written as a string, or as an object with its `content`.
fn pad_token(tokenizer: &Object) -> Option<String> {
    let value = tokenizer.present("pad_token")?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(String::from)
}

fn attention(base: &Object) -> Result<Attention> {
    let all = base.size("num_attention_heads")?;
    let heads = base.size("num_key_value_heads")?.or(all);
    let each = || Some(base.size("hidden_size").ok()?? / all.filter(|&n| n > 0)?);
    let vision = base.present("vision_config").and_then(|v| v.get("image_size")?.as_u64());
    Ok(Attention {
        heads,
        head_dim: base.size("head_dim")?.or_else(each),
        image_size: vision.and_then(|n| usize::try_from(n).ok()),
    })
}

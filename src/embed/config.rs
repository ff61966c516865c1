//! What a model directory says about itself.
//!
//! Reads the sentence-transformers layout (`modules.json` and the folder of each
//! module, `sentence_bert_config.json`, `config_sentence_transformers.json`) and
//! the Hugging Face `config.json`. A missing file means its documented default;
//! a file that says something this version does not do is an error that names
//! it, because a vector computed by almost the right recipe is worse than none.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::files::{ModelDir, model};
use super::pool::Pooling;
use crate::error::Result;

/// Tokenizers write "no limit" as a huge number.
const NO_LIMIT: usize = 1_000_000;

/// What turns tokens into the first vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backbone {
    /// A table of word vectors: takes texts of any length, no special tokens.
    Static,
    /// A transformer.
    Transformer,
    /// There is no `modules.json`.
    Undeclared,
}

/// A step after pooling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Scale to unit length.
    Normalize,
    /// A linear layer; its weights are in this folder.
    Dense { folder: String, outputs: usize },
}

/// Everything read from the configuration files.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) backbone: Backbone,
    pub(super) pooling: Option<Pooling>,
    /// Whether the tokens of the prompt count in pooling.
    pub(super) pool_prompt: bool,
    pub(super) steps: Vec<Step>,
    pub(super) max_tokens: Option<usize>,
    pub(super) lower_case: bool,
    pub(super) special_tokens: bool,
    pub(super) pad_id: Option<u32>,
    pub(super) pad_token: Option<String>,
    /// Length of the vector before any `Dense`, where the files tell.
    pub(super) width: Option<usize>,
    pub(super) granularities: Option<Vec<usize>>,
    pub(super) prompts: BTreeMap<String, String>,
    pub(super) default_prompt: Option<String>,
    pub(super) model_type: Option<String>,
}

impl Config {
    pub(super) fn read(dir: &ModelDir) -> Result<Self> {
        let base = Object::read(dir, "config.json")?;
        let st = Object::read(dir, "config_sentence_transformers.json")?;
        let bert = Object::read(dir, "sentence_bert_config.json")?;
        let tokenizer = Object::read(dir, "tokenizer_config.json")?;
        let mut config = Self {
            backbone: Backbone::Undeclared,
            pooling: None,
            pool_prompt: true,
            steps: Vec::new(),
            max_tokens: max_tokens(&base, &bert, &tokenizer)?,
            lower_case: bert.boolean("do_lower_case")?.unwrap_or(false),
            special_tokens: true,
            pad_id: base.size("pad_token_id")?.and_then(|id| u32::try_from(id).ok()),
            pad_token: pad_token(&tokenizer),
            width: base.size("hidden_size")?,
            granularities: granularities(&base, &st)?,
            prompts: st.prompts()?,
            default_prompt: st.text("default_prompt_name")?,
            model_type: base.text("model_type")?,
        };
        config.read_modules(dir)?;
        if config.backbone == Backbone::Static {
            config.special_tokens = false;
        }
        if let Some(add) = base.boolean("add_special_tokens")? {
            config.special_tokens = add;
        }
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

    fn read_modules(&mut self, dir: &ModelDir) -> Result<()> {
        const FILE: &str = "modules.json";
        let Some(value) = dir.json(FILE)? else { return Ok(()) };
        let path = dir.root().join(FILE);
        let Value::Array(modules) = value else {
            return Err(model(path, "must hold a list of modules: export the model again"));
        };
        for (at, module) in modules.iter().enumerate() {
            let text = |key| module.get(key).and_then(Value::as_str);
            let (Some(kind), Some(folder)) = (text("type"), text("path")) else {
                let why = format!("module {at} has no type and path: export the model again");
                return Err(model(path, why));
            };
            self.add_module(dir, &path, kind, folder)?;
        }
        if self.backbone == Backbone::Undeclared {
            return Err(model(path, "begins with neither Transformer nor StaticEmbedding"));
        }
        Ok(())
    }

    fn add_module(
        &mut self,
        dir: &ModelDir,
        path: &PathBuf,
        kind: &str,
        folder: &str,
    ) -> Result<()> {
        // Code of the model's own ("custom_st.Transformer") may do anything, so
        // only the library's classes are taken at their name.
        let name = kind
            .strip_prefix("sentence_transformers.")
            .map_or("", |rest| rest.rsplit('.').next().unwrap_or(rest));
        let first = self.backbone == Backbone::Undeclared;
        match name {
            "Transformer" if first => self.backbone = Backbone::Transformer,
            "StaticEmbedding" if first => self.backbone = Backbone::Static,
            "Pooling" if !first && self.pooling.is_none() && self.steps.is_empty() => {
                let config = Object::read(dir, &format!("{folder}/config.json"))?;
                self.read_pooling(&config)?;
            }
            "Normalize" if !first => self.steps.push(Step::Normalize),
            "Dense" if !first => {
                let config = Object::read(dir, &format!("{folder}/config.json"))?;
                let outputs = config.need_size("out_features")?;
                self.steps.push(Step::Dense { folder: folder.to_string(), outputs });
            }
            _ => {
                let why = format!(
                    "module {kind:?} is not supported in this place; supported are Transformer or \
                     StaticEmbedding, then Pooling, then Dense and Normalize: export a graph with \
                     a sentence_embedding output that contains it, and take it out of this file"
                );
                return Err(model(path, why));
            }
        }
        Ok(())
    }

    fn read_pooling(&mut self, config: &Object) -> Result<()> {
        self.pool_prompt = config.boolean("include_prompt")?.unwrap_or(true);
        self.width = config.size("word_embedding_dimension")?.or(self.width);
        let mut modes = Vec::new();
        if let Some(Value::String(mode)) = config.map.get("pooling_mode") {
            modes.push(mode.clone());
        }
        for (key, value) in &config.map {
            if let Some(mode) = key.strip_prefix("pooling_mode_")
                && value == &Value::Bool(true)
            {
                modes.push(mode.to_string());
            }
        }
        let [mode] = modes.as_slice() else {
            let why = format!("asks for the pooling modes {modes:?}, and exactly one is supported");
            return Err(config.wrong(&why));
        };
        let pooling = Pooling::named(mode)
            .ok_or_else(|| config.wrong(&format!("asks for unknown pooling mode {mode:?}")))?;
        self.pooling = Some(pooling);
        Ok(())
    }
}

/// The first of the places that say how many tokens the model takes.
fn max_tokens(base: &Object, bert: &Object, tokenizer: &Object) -> Result<Option<usize>> {
    if let Some(n) = bert.size("max_seq_length")?.or(base.size("max_tokens")?) {
        return Ok(Some(n));
    }
    // "No limit" is often written as a float like 1e30, so a plain number is asked for.
    let tokens = tokenizer.map.get("model_max_length").and_then(Value::as_u64);
    let tokens = tokens.and_then(|n| usize::try_from(n).ok()).filter(|&n| n < NO_LIMIT);
    let positions = base.size("max_position_embeddings")?;
    Ok(tokens.into_iter().chain(positions).min())
}

fn granularities(base: &Object, st: &Object) -> Result<Option<Vec<usize>>> {
    const KEY: &str = "matryoshka_dims";
    let from = if base.map.contains_key(KEY) { base } else { st };
    let Some(value) = from.map.get(KEY).filter(|v| !v.is_null()) else { return Ok(None) };
    let sizes = value.as_array().and_then(|list| {
        list.iter()
            .map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0))
            .collect::<Option<Vec<usize>>>()
    });
    let Some(mut sizes) = sizes else {
        return Err(from.wrong("has matryoshka_dims that are not a list of positive numbers"));
    };
    sizes.sort_unstable();
    sizes.dedup();
    Ok(Some(sizes))
}

/// Written as a string, or as an object with its `content`.
fn pad_token(tokenizer: &Object) -> Option<String> {
    let value = tokenizer.map.get("pad_token")?;
    value.as_str().or_else(|| value.get("content")?.as_str()).map(String::from)
}

/// A JSON object with the path it came from, for messages.
struct Object {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Object {
    /// A missing file is an empty object: every key has a default or is asked for.
    fn read(dir: &ModelDir, relative: &str) -> Result<Self> {
        let path = dir.root().join(relative);
        match dir.json(relative)? {
            None => Ok(Self { path, map: Map::new() }),
            Some(Value::Object(map)) => Ok(Self { path, map }),
            Some(_) => Err(model(path, "must hold a JSON object: export the model again")),
        }
    }

    fn wrong(&self, why: &str) -> crate::Error {
        model(&self.path, why)
    }

    fn present(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.present(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(&format!("has {key} = {value}, expected a whole number"))),
        }
    }

    fn need_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.wrong(&format!("has no {key}: export the model again")))
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.present(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.wrong(&format!("has {key} = {v}, expected true or false"))),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>> {
        match self.present(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(v) => Err(self.wrong(&format!("has {key} = {v}, expected a string"))),
        }
    }

    fn prompts(&self) -> Result<BTreeMap<String, String>> {
        let Some(value) = self.present("prompts") else { return Ok(BTreeMap::new()) };
        let prompts = value.as_object().and_then(|map| {
            map.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
        });
        prompts.ok_or_else(|| self.wrong("has prompts that are not strings by name"))
    }
}

//! `modules.json`: the chain of sentence-transformers modules a model is made of.
//!
//! Classes are taken at their name, whatever package path precedes it: the path
//! changed between versions (`sentence_transformers.models.Pooling`,
//! `sentence_transformers.sentence_transformer.modules.pooling.Pooling`). A class of
//! the model's own may do anything, so it is refused, except as the first module:
//! there its work is in the graph, and only what comes out of that counts.

use serde_json::Value;

use super::files::{ModelDir, model};
use super::object::Object;
use super::pool::Pooling;
use crate::error::{Error, Result};

const FILE: &str = "modules.json";
const LIBRARY: &str = "sentence_transformers.";

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
    /// Layer norm over the vector; its weights are in this folder.
    LayerNorm { folder: String },
}

/// What `modules.json` and the pooling module say.
#[derive(Debug, Clone)]
pub(super) struct Modules {
    pub(super) backbone: Backbone,
    /// Folder of the first module, `""` for the directory itself.
    pub(super) folder: String,
    /// Poolings whose vectors are put one after another; empty if there is none.
    pub(super) pooling: Vec<Pooling>,
    /// Whether the tokens of the prompt count in pooling.
    pub(super) pool_prompt: bool,
    /// Components of a token's vector, where the pooling module tells.
    pub(super) width: Option<usize>,
    pub(super) steps: Vec<Step>,
}

impl Modules {
    pub(super) fn read(dir: &ModelDir) -> Result<Self> {
        let mut modules = Self {
            backbone: Backbone::Undeclared,
            folder: String::new(),
            pooling: Vec::new(),
            pool_prompt: true,
            width: None,
            steps: Vec::new(),
        };
        let Some(value) = dir.json(FILE)? else { return Ok(modules) };
        let wrong = |why: String| model(dir.root().join(FILE), why);
        let Value::Array(list) = value else {
            return Err(wrong("must hold a list of modules: export the model again".into()));
        };
        for (at, module) in list.iter().enumerate() {
            let text = |key| module.get(key).and_then(Value::as_str);
            let (Some(kind), Some(folder)) = (text("type"), text("path")) else {
                return Err(wrong(format!(
                    "module {at} has no type and path: export the model again"
                )));
            };
            modules.add(dir, at, kind, plain(folder))?;
        }
        if modules.backbone == Backbone::Undeclared {
            return Err(wrong("begins with neither Transformer nor StaticEmbedding".into()));
        }
        Ok(modules)
    }

    fn add(&mut self, dir: &ModelDir, at: usize, kind: &str, folder: &str) -> Result<()> {
        let class = kind.rsplit('.').next().unwrap_or(kind);
        let own = !kind.starts_with(LIBRARY);
        let first = at == 0;
        match class {
            "Transformer" if first => self.backbone = Backbone::Transformer,
            _ if first && own && class.contains("Transformer") => {
                self.backbone = Backbone::Transformer;
            }
            "StaticEmbedding" if first && !own => self.backbone = Backbone::Static,
            _ if first || own => return Err(unsupported(dir, kind)),
            "Pooling" if self.pooling.is_empty() && self.steps.is_empty() => {
                self.read_pooling(&Object::read(dir, &inside(folder, "config.json"))?)?;
            }
            "Normalize" => {
                check_features(&Object::read(dir, &inside(folder, "config.json"))?)?;
                self.steps.push(Step::Normalize);
            }
            "Dense" => {
                let config = Object::read(dir, &inside(folder, "config.json"))?;
                check_features(&config)?;
                let outputs = config.need_size("out_features")?;
                self.steps.push(Step::Dense { folder: folder.into(), outputs });
            }
            "LayerNorm" => self.steps.push(Step::LayerNorm { folder: folder.into() }),
            // Does nothing but in training.
            "Dropout" => {}
            _ => return Err(unsupported(dir, kind)),
        }
        if first {
            self.folder = folder.into();
        }
        Ok(())
    }

    /// Both forms: one key `pooling_mode`, or one switch for each mode.
    fn read_pooling(&mut self, config: &Object) -> Result<()> {
        const SWITCH: &str = "pooling_mode_";
        self.pool_prompt = config.boolean("include_prompt")?.unwrap_or(true);
        self.width =
            config.size("embedding_dimension")?.or(config.size("word_embedding_dimension")?);
        let named = |mode: &str| {
            Pooling::named(mode)
                .ok_or_else(|| config.wrong(&format!("asks for unknown pooling mode {mode:?}")))
        };
        if let Some(modes) = config.texts("pooling_mode")? {
            self.pooling = modes.iter().map(|m| named(m)).collect::<Result<_>>()?;
        } else {
            let on: Vec<Pooling> = config.switched_on(SWITCH).map(named).collect::<Result<_>>()?;
            // Python's order, whatever the file's.
            self.pooling = Pooling::ALL.into_iter().filter(|p| on.contains(p)).collect();
        }
        // Python's default, also when every switch is off.
        if self.pooling.is_empty() {
            self.pooling.push(Pooling::Mean);
        }
        Ok(())
    }
}

/// A step may be told to read or write something else than the text's vector.
fn check_features(config: &Object) -> Result<()> {
    for key in ["module_input_name", "module_output_name"] {
        if let Some(name) = config.text(key)?.filter(|name| name != "sentence_embedding") {
            let why = format!("has {key} = {name:?}, supported is \"sentence_embedding\" alone");
            return Err(config.wrong(&why));
        }
    }
    Ok(())
}

/// A folder as modules name it: `.` and a trailing slash mean nothing.
fn plain(folder: &str) -> &str {
    let folder = folder.strip_prefix("./").unwrap_or(folder).trim_end_matches('/');
    if folder == "." { "" } else { folder }
}

/// A file in a folder that may be the directory itself.
pub(super) fn inside(folder: &str, file: &str) -> String {
    if folder.is_empty() { file.into() } else { format!("{folder}/{file}") }
}

fn unsupported(dir: &ModelDir, kind: &str) -> Error {
    let why = format!(
        "module {kind:?} is not supported in this place; supported are Transformer or \
         StaticEmbedding, then Pooling, then Dense, LayerNorm and Normalize: export a graph with \
         a sentence_embedding output that contains it, and take it out of this file"
    );
    model(dir.root().join(FILE), why)
}

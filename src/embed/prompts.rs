//! What is put before a text, and which adapter of the graph it goes through.

use std::collections::BTreeMap;

use super::config::Config;
use super::fingerprint::{Hash, Hasher};
use crate::error::{Error, Result};

/// Names under which models publish what belongs before documents, and the adapter
/// for them; the first that a model has is taken.
const DOCUMENTS: [&str; 5] =
    ["document", "passage", "corpus", "search_document", "retrieval.passage"];
const QUERIES: [&str; 3] = ["query", "search_query", "retrieval.query"];

/// What is put before each text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Prompt<'a> {
    /// Nothing.
    None,
    /// The model's default prompt (`default_prompt_name`), or nothing if it has none.
    Default,
    /// The model's prompt of that name; an unknown name is an error. Where the model
    /// has an adapter of that name, it is used too.
    Named(&'a str),
    /// This text.
    Literal(&'a str),
}

/// A prompt and an adapter that were chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chosen<'a> {
    pub(super) text: &'a str,
    /// Number of the adapter; 0 where there are none.
    pub(super) task: usize,
}

/// The prompts and adapters of a model.
#[derive(Debug)]
pub(super) struct Prompts {
    by_name: BTreeMap<String, String>,
    default: Option<String>,
    /// Names of the graph's adapters; empty if it has none.
    tasks: Vec<String>,
    /// The adapter the caller asked for, for every text.
    asked: Option<usize>,
}

impl Prompts {
    /// `asked` is the adapter to use for every text; `adapters` says whether the
    /// graph has any.
    pub(super) fn new(
        config: &Config,
        asked: Option<&str>,
        adapters: bool,
    ) -> Result<Self, String> {
        let tasks = if adapters { config.tasks.clone() } else { Vec::new() };
        if adapters && tasks.is_empty() {
            return Err("takes a task_id, and config.json has no lora_adaptations to number \
                        them by"
                .into());
        }
        let number = |name: &str| {
            tasks
                .iter()
                .position(|task| task == name)
                .ok_or_else(|| format!("has no adapter {name:?}: it has {tasks:?}"))
        };
        let asked = asked.map(number).transpose()?;
        let prompts = Self {
            by_name: config.prompts.clone(),
            default: config.default_prompt.clone(),
            tasks,
            asked,
        };
        if adapters && asked.is_none() && prompts.usual_task(&DOCUMENTS).is_none() {
            let tasks = &prompts.tasks;
            return Err(format!("has adapters for {tasks:?}: choose one with task(NAME)"));
        }
        Ok(prompts)
    }

    pub(super) fn by_name(&self) -> &BTreeMap<String, String> {
        &self.by_name
    }

    pub(super) fn documents(&self) -> Chosen<'_> {
        self.usual(&DOCUMENTS)
    }

    pub(super) fn queries(&self) -> Chosen<'_> {
        self.usual(&QUERIES)
    }

    pub(super) fn choose<'a>(&'a self, prompt: Prompt<'a>) -> Result<Chosen<'a>> {
        let name = match prompt {
            Prompt::None => return Ok(self.literal("")),
            Prompt::Literal(text) => return Ok(self.literal(text)),
            Prompt::Named(name) => name,
            Prompt::Default => match &self.default {
                Some(name) => name,
                None => return Ok(self.literal("")),
            },
        };
        self.named(name).ok_or_else(|| {
            let names: Vec<&String> = self.by_name.keys().collect();
            Error::invalid("prompt", format!("the model has none called {name:?}: {names:?}"))
        })
    }

    /// The name of an adapter, if there are any.
    pub(super) fn task_name(&self, chosen: Chosen<'_>) -> Option<&str> {
        self.tasks.get(chosen.task).map(String::as_str)
    }

    /// What belongs to the first of these names that says anything: saved models list
    /// `query` and `document` with nothing in them, whatever they call their own.
    fn usual(&self, names: &[&str]) -> Chosen<'_> {
        let task = names.iter().find(|name| self.tasks.iter().any(|task| task == *name));
        let says = |name: &&&str| self.by_name.get(**name).is_some_and(|text| !text.is_empty());
        let name = task.or_else(|| names.iter().find(says));
        name.and_then(|name| self.named(name)).unwrap_or_else(|| self.literal(""))
    }

    /// The prompt and the adapter of that name, if there is either.
    fn named(&self, name: &str) -> Option<Chosen<'_>> {
        let task = self.tasks.iter().position(|task| task == name);
        let text = self.by_name.get(name).map(String::as_str);
        if text.is_none() && task.is_none() {
            return None;
        }
        let usual = self.literal("").task;
        let task = self.asked.or(task).unwrap_or(usual);
        Some(Chosen { text: text.unwrap_or_default(), task })
    }

    /// A text of the caller's own goes through the adapter for documents.
    fn literal<'a>(&self, text: &'a str) -> Chosen<'a> {
        let task = self.asked.or_else(|| self.usual_task(&DOCUMENTS)).unwrap_or(0);
        Chosen { text, task }
    }

    fn usual_task(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.tasks.iter().position(|task| task == name))
    }

    pub(super) fn hash(&self) -> Hash {
        let mut hasher = Hasher::new("prompts");
        hasher.text(self.default.as_deref().unwrap_or_default());
        for (name, prompt) in &self.by_name {
            hasher.text(name);
            hasher.text(prompt);
        }
        for task in &self.tasks {
            hasher.text(task);
        }
        if let Some(asked) = self.asked {
            hasher.text(&format!("asked {asked}"));
        }
        hasher.finish()
    }
}

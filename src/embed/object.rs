//! A JSON object with the path it came from, so that every complaint names its file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::files::{ModelDir, model};
use crate::error::{Error, Result};

/// The object a configuration file holds.
pub(super) struct Object {
    path: PathBuf,
    map: Map<String, Value>,
}

impl Object {
    /// A missing file is an empty object: every key has a default or is asked for.
    pub(super) fn read(dir: &ModelDir, relative: &str) -> Result<Self> {
        let path = dir.root().join(relative);
        match dir.json(relative)? {
            None => Ok(Self { path, map: Map::new() }),
            Some(Value::Object(map)) => Ok(Self { path, map }),
            Some(_) => Err(model(path, "must hold a JSON object: export the model again")),
        }
    }

    /// The first of these files that exists, else an empty object.
    pub(super) fn read_first(dir: &ModelDir, names: &[String]) -> Result<Self> {
        for name in names {
            if dir.has(name)? {
                return Self::read(dir, name);
            }
        }
        Self::read(dir, names.first().map_or("config.json", String::as_str))
    }

    pub(super) fn wrong(&self, why: &str) -> Error {
        model(&self.path, why)
    }

    /// The value of a key, unless it is null.
    pub(super) fn present(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.present(key) else { return Ok(None) };
        match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(&format!("has {key} = {value}, expected a whole number"))),
        }
    }

    pub(super) fn need_size(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.wrong(&format!("has no {key}: export the model again")))
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>> {
        match self.present(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.wrong(&format!("has {key} = {v}, expected true or false"))),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<String>> {
        match self.present(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s.clone())),
            Some(v) => Err(self.wrong(&format!("has {key} = {v}, expected a string"))),
        }
    }

    /// A list of strings; a string by itself is a list of one.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let strings = match value {
            Value::String(one) => Some(vec![one.clone()]),
            Value::Array(all) => all.iter().map(|v| v.as_str().map(String::from)).collect(),
            _ => None,
        };
        match strings {
            Some(strings) => Ok(Some(strings)),
            None => Err(self.wrong(&format!("has {key} = {value}, expected strings"))),
        }
    }

    /// A list of positive numbers, ascending and each once.
    pub(super) fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let Some(value) = self.present(key) else { return Ok(None) };
        let size = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
        let sizes = value.as_array().and_then(|all| all.iter().map(size).collect());
        let Some(mut sizes): Option<Vec<usize>> = sizes else {
            return Err(self.wrong(&format!("has {key} that are not a list of positive numbers")));
        };
        sizes.sort_unstable();
        sizes.dedup();
        Ok(Some(sizes))
    }

    /// The object's strings by name, under `key`.
    pub(super) fn named_texts(&self, key: &str) -> Result<BTreeMap<String, String>> {
        let Some(value) = self.present(key) else { return Ok(BTreeMap::new()) };
        let texts = value.as_object().and_then(|map| {
            map.iter().map(|(k, v)| Some((k.clone(), v.as_str()?.to_string()))).collect()
        });
        texts.ok_or_else(|| self.wrong(&format!("has {key} that are not strings by name")))
    }

    /// Keys that begin with `prefix` and hold `true`, without the prefix.
    pub(super) fn switched_on<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.map
            .iter()
            .filter_map(move |(k, v)| k.strip_prefix(prefix).filter(|_| v == &Value::Bool(true)))
    }
}

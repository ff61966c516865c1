//! Choosing the ONNX graph of a directory and reading it, with its weights.
//!
//! What ONNX Runtime is given are bytes that were read, checked and hashed here,
//! so that the file it runs is the file of the fingerprint. Only models whose
//! weights exceed [`MEMORY_CAP`] are left for it to open by path.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::files::{self, ModelDir, damaged, model};
use super::fingerprint::{Hash, Hasher};
use super::modules::inside;
use super::onnx;
use crate::error::{Error, Result};

/// Where exporters put the graph.
const USUAL: [&str; 2] = ["onnx/model.onnx", "model.onnx"];

/// Where they put the text side of a model with two towers.
const TEXT_TOWER: &str = "text_model.onnx";

/// A protobuf cannot be larger.
const GRAPH_CAP: u64 = 2 << 30;

/// External weights up to this size are handed over in memory.
const MEMORY_CAP: u64 = 2 << 30;

/// A graph that has been read and checked.
pub(super) struct Graph {
    pub(super) path: PathBuf,
    pub(super) weights: Weights,
    /// Over the graph and all its external files.
    pub(super) hash: Hash,
    /// See [`onnx::Facts::dynamic_quantization`].
    pub(super) dynamic_quantization: bool,
}

/// What a session is made from.
pub(super) enum Weights {
    /// The graph's bytes, and its external files by name.
    Memory(Vec<u8>, Vec<(String, Arc<[u8]>)>),
    /// Too large for that: ONNX Runtime opens the path itself.
    Path,
}

impl Graph {
    /// Whether it is the text side of a model with two towers.
    pub(super) fn is_text_tower(&self) -> bool {
        self.path.file_name() == Some(TEXT_TOWER.as_ref())
    }

    /// Reads the graph of that name, or the usual one, in the directory or in the
    /// `folder` of its first module.
    pub(super) fn read(dir: &ModelDir, folder: &str, asked: Option<&str>) -> Result<Self> {
        let name = choose(dir, folder, asked)?;
        let path = dir.path(&name)?;
        let bytes = files::read_file(&path, GRAPH_CAP)?;
        let facts = onnx::inspect(&bytes).map_err(|why| {
            model(&path, format!("is not a usable ONNX graph, {why}: {}", damaged(&bytes)))
        })?;
        let external = External::check(&path, &facts)?;
        let mut hasher = Hasher::new("graph");
        hasher.bytes(&bytes);
        let weights = if external.total <= MEMORY_CAP {
            Weights::Memory(bytes, external.read(&mut hasher)?)
        } else {
            external.hash(&mut hasher)?;
            Weights::Path
        };
        let dynamic_quantization = facts.dynamic_quantization;
        Ok(Self { path, weights, hash: hasher.finish(), dynamic_quantization })
    }
}

/// The graph that was asked for, or the only one in a usual place.
fn choose(dir: &ModelDir, folder: &str, asked: Option<&str>) -> Result<String> {
    if let Some(name) = asked {
        let in_folder = [inside(folder, name), inside(folder, &format!("onnx/{name}"))];
        for candidate in [name.to_string(), format!("onnx/{name}")].into_iter().chain(in_folder) {
            if dir.has(&candidate)? {
                return Ok(candidate);
            }
        }
        return Err(missing(dir, &format!("there is no graph {name:?}")));
    }
    if !folder.is_empty() {
        for name in USUAL.map(|name| inside(folder, name)) {
            if dir.has(&name)? {
                return Ok(name);
            }
        }
    }
    let [in_folder, at_root] = [dir.has(USUAL[0])?, dir.has(USUAL[1])?];
    match (in_folder, at_root) {
        (true, false) => Ok(USUAL[0].into()),
        (false, true) => Ok(USUAL[1].into()),
        (true, true) => Err(missing(dir, "there are two graphs called model.onnx")),
        (false, false) => {
            for name in [format!("onnx/{TEXT_TOWER}"), TEXT_TOWER.into()] {
                if dir.has(&name)? {
                    return Ok(name);
                }
            }
            Err(missing(dir, "there is no ONNX graph, neither onnx/model.onnx nor model.onnx"))
        }
    }
}

fn missing(dir: &ModelDir, why: &str) -> Error {
    let found = dir.graphs();
    let cure = if found.is_empty() {
        "export the model to ONNX (in Python: SentenceTransformer(NAME, backend=\"onnx\")\
         .save_pretrained(DIR))"
            .to_string()
    } else {
        format!("choose one with graph(NAME); there are {}", found.join(", "))
    };
    model(dir.root(), format!("{why}: {cure}"))
}

/// The external files of a graph: all there, regular, long enough.
struct External {
    files: Vec<(String, PathBuf)>,
    total: u64,
}

impl External {
    fn check(graph: &Path, facts: &onnx::Facts) -> Result<Self> {
        let mut external = Self { files: Vec::new(), total: 0 };
        for (location, &needed) in &facts.external {
            if !is_plain_name(location) {
                let why = format!(
                    "keeps weights in {location:?}, and only plain file names beside the graph are \
                     read: save the model again with its weights in one file beside it"
                );
                return Err(model(graph, why));
            }
            let path = graph.with_file_name(location);
            let size = size_of(graph, &path)?;
            if size < needed {
                let why = format!(
                    "has {size} bytes and the graph reads {needed} of it: it is cut short or \
                     belongs to another graph, so copy both files again"
                );
                return Err(model(path, why));
            }
            external.total = external.total.saturating_add(size);
            external.files.push((location.clone(), path));
        }
        Ok(external)
    }

    fn read(&self, hasher: &mut Hasher) -> Result<Vec<(String, Arc<[u8]>)>> {
        let read = |(name, path): &(String, PathBuf)| {
            let bytes = files::read_file(path, MEMORY_CAP)?;
            hasher.text(name);
            hasher.bytes(&bytes);
            Ok((name.clone(), bytes.into()))
        };
        self.files.iter().map(read).collect()
    }

    fn hash(&self, hasher: &mut Hasher) -> Result<()> {
        for (name, path) in &self.files {
            let (file, size) = files::open(path)?;
            hasher.text(name);
            hasher.stream(size, file).map_err(|e| Error::io("read", path, e))?;
        }
        Ok(())
    }
}

/// Size of an external file; a missing one is named together with its graph.
fn size_of(graph: &Path, path: &Path) -> Result<u64> {
    match files::open(path) {
        Ok((_, size)) => Ok(size),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            let graph = graph.file_name().unwrap_or_default().display();
            let why = format!(
                "is missing: the weights of {graph} are in it, so put it beside {graph}, from \
                 where that came"
            );
            Err(model(path, why))
        }
        Err(e) => Err(e),
    }
}

/// Exactly one file name: no folder, no way up, not absolute, nothing to resolve.
fn is_plain_name(location: &str) -> bool {
    let mut parts = Path::new(location).components();
    let first = parts.next();
    let plain = matches!(first, Some(Component::Normal(name)) if name == location);
    plain && parts.next().is_none() && !location.contains(['\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::is_plain_name;

    #[test]
    fn only_plain_names_are_plain() {
        for plain in ["model.onnx_data", "weights", "..data", "a b"] {
            assert!(is_plain_name(plain), "{plain}");
        }
        for other in ["", ".", "..", "/etc/passwd", "a/b", "../a", "./a", "a/", "a\\b", "a\0"] {
            assert!(!is_plain_name(other), "{other:?}");
        }
    }
}

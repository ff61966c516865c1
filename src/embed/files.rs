//! Reading a model directory: the only place of `embed` that opens its files.
//!
//! A model directory may come from anywhere, so a file is read only if it is a
//! regular file with a plain name, below the directory, no larger than a cap;
//! no symbolic link is followed but one kind. That is what keeps promise P29: no path
//! outside the model directory is read. The directory itself may be reached by a link,
//! since that name comes from the caller.
//!
//! The one kind: in the cache of the Hugging Face hub a model is a folder
//! `models--OWNER--NAME`; its `blobs` holds the files, named by their hashes, and
//! `snapshots/REVISION` is links to them. A link of exactly that form, to a regular file
//! of that model's own `blobs`, is taken for the file.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::Value;

use crate::error::{Error, Result};

/// Configuration files are a few kilobytes; more is not a configuration file.
const JSON_CAP: u64 = 16 << 20;

/// A model directory that exists.
#[derive(Debug, Clone)]
pub(super) struct ModelDir {
    root: PathBuf,
}

impl ModelDir {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let meta = fs::metadata(root).map_err(|e| {
            model(
                root,
                format!("cannot be read ({e}): give the path of an exported model directory"),
            )
        })?;
        if meta.is_dir() {
            return Ok(Self { root: root.to_path_buf() });
        }
        let why = "is not a directory: give the directory that holds tokenizer.json and the \
                   ONNX graph, not a file in it";
        Err(model(root, why))
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// The path of a file named relative to the directory, with every folder on
    /// the way checked. The file itself need not exist.
    pub(super) fn path(&self, relative: &str) -> Result<PathBuf> {
        let mut path = self.root.clone();
        let mut parts = Path::new(relative).components().peekable();
        while let Some(part) = parts.next() {
            let Component::Normal(name) = part else {
                return Err(model(
                    &self.root,
                    format!(
                        "{relative:?} leaves the model directory: only names inside it are read"
                    ),
                ));
            };
            path.push(name);
            if parts.peek().is_some() {
                refuse_link(&path)?;
            }
        }
        Ok(path)
    }

    /// Whether a file of that name exists (as anything: links are refused later,
    /// with a message, rather than treated as missing).
    pub(super) fn has(&self, relative: &str) -> Result<bool> {
        Ok(fs::symlink_metadata(self.path(relative)?).is_ok())
    }

    /// The bytes of a file, or `None` when there is none.
    pub(super) fn read(&self, relative: &str, cap: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path(relative)?;
        if fs::symlink_metadata(&path).is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
            return Ok(None);
        }
        read_file(&path, cap).map(Some)
    }

    /// A parsed JSON file, or `None` when there is none.
    pub(super) fn json(&self, relative: &str) -> Result<Option<Value>> {
        let Some(bytes) = self.read(relative, JSON_CAP)? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            let why = format!("is not valid JSON ({e}): {}", damaged(&bytes));
            model(self.root.join(relative), why)
        })
    }

    /// Names of the `.onnx` files in the directory and its `onnx` folder, sorted.
    pub(super) fn graphs(&self) -> Vec<String> {
        let mut found = Vec::new();
        for folder in ["", "onnx/"] {
            let Ok(entries) = fs::read_dir(self.root.join(folder)) else { continue };
            let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
            found.extend(
                names
                    .filter(|n| Path::new(n).extension() == Some("onnx".as_ref()))
                    .map(|n| format!("{folder}{n}")),
            );
        }
        found.sort();
        found
    }
}

/// Opens without following a link and reads at most `cap` bytes.
pub(super) fn read_file(path: &Path, cap: u64) -> Result<Vec<u8>> {
    let (mut file, size) = open(path)?;
    if size > cap {
        return Err(model(path, format!("has {size} bytes, more than the {cap} allowed here")));
    }
    let mut bytes = Vec::new();
    let wanted = usize::try_from(size).unwrap_or(usize::MAX);
    if bytes.try_reserve_exact(wanted).is_err() {
        return Err(model(path, format!("has {size} bytes, more than there is memory for")));
    }
    // The size was taken from the open file; a file growing under us stays capped.
    (&mut file).take(cap).read_to_end(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    Ok(bytes)
}

/// Opens a regular file for reading and says how long it is.
pub(super) fn open(path: &Path) -> Result<(impl Read + use<>, u64)> {
    let blob = blob(path);
    let real = blob.as_deref().unwrap_or(path);
    refuse_link(real)?;
    // NONBLOCK: a FIFO put in place of the file must not hang the open.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(real)
        .map_err(|e| Error::io("open", path, e))?;
    let meta = file.metadata().map_err(|e| Error::io("read", path, e))?;
    if !meta.is_file() {
        return Err(model(path, "is not a regular file"));
    }
    Ok((file, meta.len()))
}

/// Where the hub's cache keeps a file of a snapshot; `None` if this is no such link.
fn blob(path: &Path) -> Option<PathBuf> {
    let target = fs::read_link(path).ok()?;
    let mut parts = target.components().peekable();
    let mut up = 0;
    while parts.next_if_eq(&Component::ParentDir).is_some() {
        up += 1;
    }
    let (Some(Component::Normal(folder)), Some(Component::Normal(name)), None) =
        (parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let hash = name.to_str()?;
    let is_hash = matches!(hash.len(), 40 | 64) && hash.bytes().all(|b| b.is_ascii_hexdigit());
    // Where it lies must be as deep in the model's folder as the link says, for what
    // the link leads to is taken from there and not from the system.
    let place = path.parent()?.canonicalize().ok()?;
    let whole = place.ancestors().nth(up)?;
    let mut below = place.strip_prefix(whole).ok()?.components();
    let in_snapshot = up >= 2 && below.next()?.as_os_str() == "snapshots";
    let of_model = whole.file_name()?.to_str()?.starts_with("models--");
    let blobs = whole.join("blobs");
    let expected = is_hash && in_snapshot && of_model && folder == "blobs";
    (expected && refuse_link(&blobs).is_ok()).then(|| blobs.join(hash))
}

fn refuse_link(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_symlink()) {
        let why = "is a symbolic link, and nothing outside a model directory is read: copy the \
                   model with its links resolved (cp -rL)";
        return Err(model(path, why));
    }
    Ok(())
}

/// What a file that does not parse most likely is.
pub(super) fn damaged(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"version https://git-lfs") {
        "it is a Git LFS pointer, so fetch the real file (git lfs pull)"
    } else {
        "copy or export the model again"
    }
}

pub(super) fn model(path: impl Into<PathBuf>, why: impl Into<String>) -> Error {
    Error::Model { path: path.into(), why: why.into() }
}

//! Files that hold text, below a folder.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use super::name_and_version;

/// Larger files are data, not text for people.
const MAX_BYTES: u64 = 4 << 20;

/// Longest name kept, so that an id made of it fits a collection.
const MAX_NAME: usize = 480;

/// Folders deeper than this are not entered.
const MAX_DEPTH: usize = 64;

const TEXT: [&str; 8] = ["md", "markdown", "txt", "text", "rst", "adoc", "org", "rs"];

/// Files of a crate that say nothing about its use.
const BOILERPLATE: [&str; 12] = [
    "changelog",
    "changes",
    "releases",
    "release-notes",
    "history",
    "news",
    "license",
    "licence",
    "copying",
    "contributing",
    "security",
    "code_of_conduct",
];

/// Folders of a crate that are not documentation of it.
const NOT_DOCUMENTATION: [&str; 7] =
    ["tests", "test", "testdata", "test_data", "benches", "fuzz", "target"];

/// Which files are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    /// Rust and Markdown, without boilerplate.
    Documentation,
    /// Everything that says it is text.
    Text,
}

/// A file of text.
#[derive(Debug, Clone)]
pub(crate) struct TextFile {
    pub(crate) path: PathBuf,
    /// Its name in the collection: the crate's folder, or nothing, then the path
    /// below the folder, with `/`.
    pub(crate) name: String,
}

/// Files that were left out, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    pub(crate) not_utf8: usize,
    pub(crate) too_large: usize,
    pub(crate) unreadable: usize,
    pub(crate) links: usize,
    pub(crate) names: usize,
}

impl TextFile {
    /// Its extension, empty if there is none.
    pub(super) fn extension(&self) -> &str {
        self.path.extension().and_then(OsStr::to_str).unwrap_or_default()
    }

    /// What the file as a whole is about: its name without the extension, or that
    /// of its folder or crate where its own says nothing.
    pub(super) fn subject(&self) -> &str {
        let stem = self.path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        if !["lib", "main", "mod", "readme", "index"].contains(&&*stem.to_ascii_lowercase()) {
            return stem;
        }
        let above = self.name.rsplit('/').skip(1).find(|folder| *folder != "src");
        above.map_or(stem, |folder| name_and_version(folder).0)
    }

    /// Its content; `None`, and counted, if it cannot be had or is not text.
    pub(crate) fn read(&self, skipped: &mut Skipped) -> Option<String> {
        let Ok(bytes) = fs::read(&self.path) else {
            skipped.unreadable += 1;
            return None;
        };
        let text = String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'));
        skipped.not_utf8 += usize::from(text.is_none());
        text
    }
}

/// Adds the files below `root` to `files`, in the order of their names. Symbolic
/// links are not followed, so there are no loops and nothing outside is read.
pub(super) fn below(
    root: &Path,
    label: &str,
    kinds: Kinds,
    files: &mut Vec<TextFile>,
) -> io::Result<Skipped> {
    let mut skipped = Skipped::default();
    let first = fs::read_dir(root)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot list {}: {e}", root.display())))?;
    let mut folders = vec![(first, 0)];
    let start = files.len();
    while let Some((entries, depth)) = folders.pop() {
        for entry in entries {
            let Some((kind, entry)) = entry.and_then(|e| Ok((e.file_type()?, e))).ok() else {
                skipped.unreadable += 1;
                continue;
            };
            let path = entry.path();
            if kind.is_symlink() {
                skipped.links += 1;
            } else if kind.is_dir() && depth < MAX_DEPTH && enters(&path, kinds) {
                match fs::read_dir(&path) {
                    Ok(entries) => folders.push((entries, depth + 1)),
                    Err(_) => skipped.unreadable += 1,
                }
            } else if kind.is_file() && wanted(&path, kinds) {
                match (entry.metadata(), name(root, label, &path)) {
                    (Err(_), _) => skipped.unreadable += 1,
                    (Ok(meta), _) if meta.len() > MAX_BYTES => skipped.too_large += 1,
                    (_, None) => skipped.names += 1,
                    (_, Some(name)) => files.push(TextFile { path, name }),
                }
            }
        }
    }
    files[start..].sort_by(|a, b| a.name.cmp(&b.name));
    Ok(skipped)
}

fn enters(folder: &Path, kinds: Kinds) -> bool {
    let Some(name) = folder.file_name().and_then(OsStr::to_str) else { return false };
    // A collection's own folder holds nothing to read.
    let documentation = kinds == Kinds::Text || !NOT_DOCUMENTATION.contains(&name);
    documentation && !name.starts_with('.') && !name.ends_with(".matryo")
}

fn wanted(file: &Path, kinds: Kinds) -> bool {
    let part = |part: Option<&OsStr>| {
        part.and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase()
    };
    let (stem, extension) = (part(file.file_stem()), part(file.extension()));
    match kinds {
        Kinds::Documentation => {
            let boilerplate = BOILERPLATE.iter().any(|b| stem.contains(b));
            extension == "rs" || extension == "md" && !boilerplate
        }
        Kinds::Text => !stem.starts_with('.') && TEXT.contains(&extension.as_str()),
    }
}

fn name(root: &Path, label: &str, path: &Path) -> Option<String> {
    let below = path.strip_prefix(root).ok()?;
    let parts: Option<Vec<&str>> = below.iter().map(OsStr::to_str).collect();
    let below = parts?.join("/");
    let name = if label.is_empty() { below } else { format!("{label}/{below}") };
    Some(name).filter(|name| name.len() <= MAX_NAME)
}

impl Skipped {
    /// The counts that are not zero, in words.
    pub(crate) fn in_words(&self) -> String {
        let counts = [
            (self.not_utf8, "not UTF-8 text"),
            (self.too_large, "larger than 4 MiB"),
            (self.unreadable, "unreadable"),
            (self.links, "symbolic links"),
            (self.names, "with names too long or not UTF-8"),
        ];
        let some = counts.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}"));
        some.collect::<Vec<_>>().join(", ")
    }
}

impl AddAssign for Skipped {
    fn add_assign(&mut self, more: Self) {
        self.not_utf8 += more.not_utf8;
        self.too_large += more.too_large;
        self.unreadable += more.unreadable;
        self.links += more.links;
        self.names += more.names;
    }
}

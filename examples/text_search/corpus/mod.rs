//! The text to search: files, cut into passages.
//!
//! ```text
//!   crates.rs    Cargo.lock -> folders of the local cargo registry
//!   files.rs     folders -> files that hold text, each read within limits
//!   rust.rs      Rust source -> documentation comments with the name of their item
//!   markdown.rs  Markdown -> sections of plain sentences
//!   split.rs     sections -> passages of some hundred words
//! ```

mod crates;
mod files;
mod markdown;
mod rust;
mod split;

use std::collections::HashSet;
use std::io;
use std::path::Path;

pub(crate) use files::{Skipped, TextFile};

/// Changes whenever the same file would be cut into other passages.
pub(crate) const VERSION: u32 = 1;

/// A piece of text that is embedded as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Passage {
    /// Where it begins, from 1.
    pub(crate) line: usize,
    /// The item or heading it belongs to.
    pub(crate) title: String,
    /// Its sentences, without markup.
    pub(crate) text: String,
}

impl Passage {
    /// What is embedded for it: its title in words, then its text.
    pub(crate) fn to_embed(&self) -> String {
        format!("{}. {}", in_words(&self.title), self.text)
    }
}

/// `MmapOptions::map_copy` -> `Mmap Options map copy`: a model that knows words
/// makes little of names.
fn in_words(title: &str) -> String {
    let mut words = String::new();
    let mut before = ' ';
    for c in title.chars() {
        if c.is_uppercase() && before.is_lowercase() {
            words.push(' ');
        }
        words.push(if c == '_' { ' ' } else { c });
        before = c;
    }
    words.replace("::", " ")
}

/// Files to index.
pub(crate) struct Corpus {
    /// What was asked for, in words; a collection belongs to one of these.
    pub(crate) name: String,
    pub(crate) files: Vec<TextFile>,
    /// Crates of `Cargo.lock` that are not in the local registry.
    pub(crate) absent: usize,
    pub(crate) skipped: Skipped,
}

impl Corpus {
    /// The documentation of the crates that the project in `project` depends on.
    pub(crate) fn of_crates(project: &Path) -> io::Result<Self> {
        let name = "documentation of the crates this project depends on".to_owned();
        let mut corpus = Self { name, files: Vec::new(), absent: 0, skipped: Skipped::default() };
        let found = crates::of_lock_file(&project.join("Cargo.lock"))?;
        corpus.absent = found.absent;
        for folder in &found.folders {
            let label = folder.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            let kinds = files::Kinds::Documentation;
            corpus.skipped += files::below(folder, label, kinds, &mut corpus.files)?;
        }
        Ok(corpus)
    }

    /// All text below a folder.
    pub(crate) fn of_folder(folder: &Path) -> io::Result<Self> {
        let folder = folder.canonicalize().map_err(|e| {
            io::Error::new(e.kind(), format!("cannot list {}: {e}", folder.display()))
        })?;
        let mut files = Vec::new();
        let skipped = files::below(&folder, "", files::Kinds::Text, &mut files)?;
        Ok(Self { name: format!("text below {}", folder.display()), files, absent: 0, skipped })
    }
}

/// `memmap2-0.9.12` -> `memmap2`, `0.9.12`; the version is empty if there is none.
pub(crate) fn name_and_version(folder: &str) -> (&str, &str) {
    let digit = |at: usize| folder.as_bytes().get(at + 1).is_some_and(u8::is_ascii_digit);
    let dash = folder.match_indices('-').find(|(at, _)| digit(*at));
    dash.map_or((folder, ""), |(at, _)| (&folder[..at], &folder[at + 1..]))
}

/// The passages of a file's content.
pub(crate) fn passages(file: &TextFile, content: &str) -> Vec<Passage> {
    let mut found = Vec::new();
    if file.extension() == "rs" {
        for item in rust::documented_items(content) {
            let title = if item.title.is_empty() { file.subject() } else { &item.title };
            split::passages(title, &markdown::sections(&item.lines), &mut found);
        }
    } else {
        let lines: Vec<_> = content.lines().enumerate().map(|(at, l)| (at + 1, l)).collect();
        split::passages(file.subject(), &markdown::sections(&lines), &mut found);
    }
    // Generated code repeats its comments; one of each is enough.
    let mut seen = HashSet::new();
    found.retain(|passage| seen.insert(passage.text.clone()));
    found
}

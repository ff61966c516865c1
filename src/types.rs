//! Small types every layer shares: row ids, ordinals, file numbers, LSNs.

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

use crate::error::{Error, Result};

/// Longest string id, in bytes.
pub const MAX_ID_BYTES: usize = 512;

/// The user's key of a row: one kind per collection, fixed by its schema.
///
/// Ids order as numbers or as bytes; equal scores are ranked by it. Of the types of numbers only
/// `u64` becomes one by itself: were there another, a literal as in `get(7)` would need its type.
///
/// ```
/// use matryo::{RowId, Value, json};
/// let (number, string) = (RowId::from(7), RowId::from("pear"));
/// assert!(number == 7 && string == "pear");
/// assert_eq!(Value::from([number, string].to_vec()), json!([7, "pear"]));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RowId {
    /// A number; all of `u64` is allowed.
    U64(u64),
    /// A string, UTF-8 of 1 to [`MAX_ID_BYTES`] bytes.
    Str(Box<str>),
}

/// Which kind of [`RowId`] a collection uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdKind {
    /// [`RowId::U64`], 8 bytes a row.
    U64,
    /// [`RowId::Str`].
    Str,
}

impl IdKind {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::U64, Self::Str];

    /// The name the command line and messages use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::U64 => "u64",
            Self::Str => "string",
        }
    }
}

impl FromStr for IdKind {
    type Err = Error;

    /// Reads the [`name`](Self::name).
    fn from_str(name: &str) -> Result<Self> {
        let why = || format!("expected u64 or string, got {name:?}");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == name);
        found.ok_or_else(|| Error::invalid("kind of ids", why()))
    }
}

impl RowId {
    /// The kind of this id.
    pub fn kind(&self) -> IdKind {
        match self {
            Self::U64(_) => IdKind::U64,
            Self::Str(_) => IdKind::Str,
        }
    }

    /// The number, if it is one.
    pub fn as_u64(&self) -> Option<u64> {
        if let Self::U64(id) = self { Some(*id) } else { None }
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::Str(id) = self { Some(id) } else { None }
    }

    /// What to say of an id that is not of a collection's kind.
    pub(crate) fn wrong_kind(&self, kind: IdKind) -> String {
        let got = format_args!("this collection has {kind} ids, got");
        match self {
            Self::U64(n) => format!("{got} the number {n}"),
            Self::Str(s) => format!(
                "{got} the string {}; a collection has string ids if its schema is built with \
                 `.ids(IdKind::Str)`",
                shown(s)
            ),
        }
    }

    /// Checks the id against a collection's kind and the length limit.
    pub(crate) fn check(&self, kind: IdKind) -> Result<()> {
        if self.kind() != kind {
            return Err(Error::invalid("id", self.wrong_kind(kind)));
        }
        match self {
            Self::Str(s) if s.is_empty() || s.len() > MAX_ID_BYTES => {
                let why = format!("a string id has 1 to {MAX_ID_BYTES} bytes, got {}", s.len());
                Err(Error::invalid("id", why))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U64(n) => n.fmt(f),
            Self::Str(s) => s.fmt(f),
        }
    }
}

impl fmt::Display for IdKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A string between quotes, of long ones the beginning.
fn shown(s: &str) -> String {
    let end = s.floor_char_boundary(60);
    if end < s.len() { format!("{:?}...", &s[..end]) } else { format!("{s:?}") }
}

impl PartialEq<u64> for RowId {
    fn eq(&self, other: &u64) -> bool {
        self.as_u64() == Some(*other)
    }
}

impl PartialEq<str> for RowId {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == Some(other)
    }
}

impl PartialEq<&str> for RowId {
    fn eq(&self, other: &&str) -> bool {
        self == *other
    }
}

/// A number or a string in JSON.
impl From<RowId> for Value {
    fn from(id: RowId) -> Self {
        match id {
            RowId::U64(n) => n.into(),
            RowId::Str(s) => String::from(s).into(),
        }
    }
}

impl From<&RowId> for Value {
    fn from(id: &RowId) -> Self {
        id.clone().into()
    }
}

impl From<u64> for RowId {
    fn from(n: u64) -> Self {
        Self::U64(n)
    }
}

impl From<&str> for RowId {
    fn from(s: &str) -> Self {
        Self::Str(s.into())
    }
}

impl From<String> for RowId {
    fn from(s: String) -> Self {
        Self::Str(s.into())
    }
}

impl From<&String> for RowId {
    fn from(s: &String) -> Self {
        Self::from(s.as_str())
    }
}

impl From<&RowId> for RowId {
    fn from(id: &RowId) -> Self {
        id.clone()
    }
}

/// Position of a row in its segment (or in its run of the memtable).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Ordinal(pub(crate) u32);

impl Ordinal {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// Number in a file's name. One counter serves all kinds and never repeats, so
/// that a name once seen in a manifest always means the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileNumber(pub(crate) u64);

/// Log sequence number: one per commit, ascending, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

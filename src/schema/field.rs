//! Declared payload fields: what filters can ask about.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// Most fields a schema can declare.
pub const MAX_FIELDS: usize = 64;
/// Longest name of a field, in bytes.
pub const MAX_FIELD_NAME: usize = 255;

/// What values a declared field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FieldKind {
    /// Text compared byte by byte, of at most 65 535 bytes.
    Keyword,
    /// A whole number that fits `i64`. JSON numbers with a point are refused.
    Integer,
    /// A number, kept as `f64`; -0 equals 0.
    Float,
    /// `true` or `false`; `false` is the lesser.
    Bool,
    /// A moment, to the millisecond: RFC 3339 text (`2024-05-01T12:00:00Z`, a time with its
    /// zone, or a date alone, which is its midnight in UTC), or a whole number of
    /// milliseconds since 1970. Digits below the millisecond are dropped.
    Timestamp,
}

impl FieldKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Keyword, Self::Integer, Self::Float, Self::Bool, Self::Timestamp];

    /// The name messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keyword => "keyword",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Bool => "bool",
            Self::Timestamp => "timestamp",
        }
    }
}

impl fmt::Display for FieldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FieldKind {
    type Err = Error;

    /// Reads the [`name`](Self::name).
    fn from_str(s: &str) -> Result<Self> {
        let names = Self::ALL.map(Self::name).join(", ");
        let why = || format!("expected one of {names}, got {s:?}");
        let found = Self::ALL.into_iter().find(|kind| kind.name() == s);
        found.ok_or_else(|| Error::invalid("kind of field", why()))
    }
}

/// A payload field that is indexed, so that filters can ask about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    pub(super) name: String,
    pub(super) kind: FieldKind,
    pub(super) list: bool,
}

impl Field {
    /// Its name: a key of the payload, or a path of keys with dots between them.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What values it has.
    pub fn kind(&self) -> FieldKind {
        self.kind
    }

    /// Whether its values are arrays. A row then matches a comparison if any
    /// element does.
    pub fn is_list(&self) -> bool {
        self.list
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = if self.list { "list of " } else { "" };
        write!(f, "{} ({list}{})", self.name, self.kind)
    }
}

/// Names are paths without empty keys, each declared once.
pub(super) fn validate(fields: &[Field]) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid("schema", why));
    if fields.len() > MAX_FIELDS {
        return refuse(format!("at most {MAX_FIELDS} fields, got {}", fields.len()));
    }
    for (at, field) in fields.iter().enumerate() {
        let name = &field.name;
        if !(1..=MAX_FIELD_NAME).contains(&name.len()) {
            let len = name.len();
            return refuse(format!("a field name has 1 to {MAX_FIELD_NAME} bytes, got {len}"));
        }
        if name.split('.').any(str::is_empty) {
            let why = "dots stand between the keys of nested objects, each of at least one byte";
            return refuse(format!("field name {name:?}: {why}"));
        }
        if fields[..at].iter().any(|other| other.name == *name) {
            return refuse(format!("field {name:?} is declared twice"));
        }
    }
    Ok(())
}

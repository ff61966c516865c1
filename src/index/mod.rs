//! Which rows have which values of a declared field: FORMAT.md, section "Field index".
//!
//! ```text
//!   head | present: bitmap | distinct values, ascending | ends | rows of each value
//! ```
//!
//! The rows of the values lie in the order of the values, so everything a filter
//! asks (equal, less, between, prefix) is a range of values found by binary
//! search. A field of few distinct values keeps a roaring bitmap for each; one of
//! many keeps row numbers, of which a range of values is one slice.
//!
//! ```text
//!   value.rs   JSON value -> key, which orders as the values do
//!   time.rs    RFC 3339
//!   build.rs   payloads -> bytes
//!   read.rs    bytes -> rows
//! ```
//!
//! The bytes are the same in a segment and in RAM; nothing here does I/O.

mod build;
mod read;
mod time;
mod value;

use std::ops::Bound;

pub(crate) use build::IndexBuilder;
#[cfg(feature = "testing")]
pub(crate) use build::MOST_BITMAPS;
pub(crate) use read::{Index, NO_VALUE, Source};
#[cfg(feature = "testing")]
pub(crate) use value::MAX_KEYWORD;
pub(crate) use value::{Key, check};

use crate::codec::layout;

layout!(
    /// FORMAT.md, section "Field index".
    field_index, 32, {
    FORM: 0, 4;
    VALUES: 4, 4;
    PRESENT_LEN: 8, 8;
    KEYS_LEN: 16, 8;
    ROWS_LEN: 24, 8;
});

/// Rows of a value as a roaring bitmap, or as ascending `u32` numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Bitmaps = 0,
    Numbers = 1,
}

/// A question about one field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Test {
    /// Rows that have any value.
    Exists,
    /// Rows with one of these values; ascending, each once.
    Keys(Vec<Key>),
    /// Rows with a value between these.
    Range(Bound<Key>, Bound<Key>),
    /// Rows with a keyword that begins so.
    Prefix(Box<str>),
}

#[cfg(test)]
mod tests;

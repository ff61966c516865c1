//! Filters: which rows a search may find, as the caller says it.
//!
//! ```text
//!   mod.rs    the filter and its builder
//!   text.rs   string -> filter
//!   print.rs  filter -> the same string
//!   bind.rs   filter + schema -> questions to the field indexes
//! ```
//!
//! A filter is kept as a list of steps for a stack machine (operands first), not
//! as a tree: nothing that is done to one goes deeper with its nesting, so none
//! is so deep that it ends the process.

mod bind;
mod print;
mod text;

use std::sync::Arc;

use serde_json::Value;

pub(crate) use bind::{Bound, bind, unknown};

use crate::error::Result;
use crate::types::RowId;

/// Deepest nesting of a filter: a condition alone has depth 1.
pub const MAX_FILTER_DEPTH: usize = 64;
/// Most conditions, `and`s, `or`s and `not`s of a filter. The values of an `IN`
/// and the ids of an id set do not count.
pub const MAX_FILTER_NODES: usize = 10_000;

/// Which rows a search may find: conditions on declared fields and sets of ids,
/// combined by and, or and not.
///
/// ```
/// use matryo::{Filter, field};
/// let built = field("year").ge(2020).and(field("lang").is_in(["en", "de"]));
/// let parsed: Filter = "year >= 2020 and lang in ('en', 'de')".parse()?;
/// assert_eq!(built, parsed);
/// assert_eq!(built.to_string(), "year >= 2020 AND lang IN ('en', 'de')");
/// # Ok::<(), matryo::Error>(())
/// ```
///
/// A row without a value passes no condition on it, so it passes the condition's
/// negation: `lang != 'en'` is `NOT lang = 'en'`, and finds rows without `lang`
/// too. A row with several values passes a condition if one of them does.
///
/// Whether a field exists, and has values of that kind, is looked at when the
/// filter is used. Clones share their lists of values and ids, however long.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// Operands first; never empty, and leaves one operand on the stack.
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(Box<str>, Condition),
    Ids(Arc<[RowId]>),
    /// All of this many last operands, at least two.
    And(usize),
    /// Any of them.
    Or(usize),
    Not,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Compare(Comparison, Value),
    Between(Value, Value),
    In(Arc<[Value]>),
    Exists,
    Prefix(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Eq,
    Lt,
    Le,
    Gt,
    Ge,
}

/// A field that a condition is about; made by [`field`].
#[derive(Debug, Clone)]
#[must_use = "a field is no filter until it is compared"]
pub struct FieldRef(Box<str>);

/// Begins a condition on a declared field.
///
/// Values are numbers, text or booleans, as the field's
/// [`FieldKind`](crate::FieldKind) says; a timestamp is RFC 3339 text or whole
/// milliseconds since 1970.
pub fn field(name: impl Into<String>) -> FieldRef {
    FieldRef(name.into().into())
}

impl FieldRef {
    fn is(self, condition: Condition) -> Filter {
        Filter { steps: vec![Step::Field(self.0, condition)] }
    }

    fn compare(self, comparison: Comparison, value: impl Into<Value>) -> Filter {
        self.is(Condition::Compare(comparison, value.into()))
    }

    /// The value is this one.
    pub fn eq(self, value: impl Into<Value>) -> Filter {
        self.compare(Comparison::Eq, value)
    }

    /// The value is not this one, or there is none.
    pub fn ne(self, value: impl Into<Value>) -> Filter {
        self.eq(value).not()
    }

    /// The value is less.
    pub fn lt(self, value: impl Into<Value>) -> Filter {
        self.compare(Comparison::Lt, value)
    }

    /// The value is less or equal.
    pub fn le(self, value: impl Into<Value>) -> Filter {
        self.compare(Comparison::Le, value)
    }

    /// The value is greater.
    pub fn gt(self, value: impl Into<Value>) -> Filter {
        self.compare(Comparison::Gt, value)
    }

    /// The value is greater or equal.
    pub fn ge(self, value: impl Into<Value>) -> Filter {
        self.compare(Comparison::Ge, value)
    }

    /// The value lies between these, or is one of them. In a list a single
    /// element must.
    pub fn between(self, low: impl Into<Value>, high: impl Into<Value>) -> Filter {
        self.is(Condition::Between(low.into(), high.into()))
    }

    /// The value is one of these. There may be millions.
    pub fn is_in<V: Into<Value>>(self, values: impl IntoIterator<Item = V>) -> Filter {
        self.is(Condition::In(values.into_iter().map(Into::into).collect()))
    }

    /// There is a value.
    pub fn exists(self) -> Filter {
        self.is(Condition::Exists)
    }

    /// The value is a keyword that begins so.
    pub fn prefix(self, prefix: impl Into<String>) -> Filter {
        self.is(Condition::Prefix(prefix.into()))
    }
}

impl Filter {
    /// Rows with one of these ids. Ids that no row has are no error.
    pub fn ids<I: Into<RowId>>(ids: impl IntoIterator<Item = I>) -> Self {
        Self { steps: vec![Step::Ids(ids.into_iter().map(Into::into).collect())] }
    }

    /// Rows that pass all of these; all rows, if there are none.
    ///
    /// ```
    /// use matryo::{Filter, field};
    /// let asked = [("lang", "en"), ("shelf", "7a")];
    /// let filter = Filter::all(asked.map(|(name, value)| field(name).eq(value)));
    /// assert_eq!(filter, Filter::parse("lang = 'en' AND shelf = '7a'")?);
    /// # Ok::<(), matryo::Error>(())
    /// ```
    pub fn all(filters: impl IntoIterator<Item = Self>) -> Self {
        filters.into_iter().reduce(Self::and).unwrap_or_else(|| Self::nothing().not())
    }

    /// Rows that pass at least one of these; no row, if there are none.
    pub fn any(filters: impl IntoIterator<Item = Self>) -> Self {
        filters.into_iter().reduce(Self::or).unwrap_or_else(Self::nothing)
    }

    /// No row has one of no ids.
    fn nothing() -> Self {
        Self { steps: vec![Step::Ids(Arc::default())] }
    }

    /// Rows that pass both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        self.join(other, Step::And, |step| match step {
            Step::And(n) => Some(*n),
            _ => None,
        })
    }

    /// Rows that pass one or the other.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        self.join(other, Step::Or, |step| match step {
            Step::Or(n) => Some(*n),
            _ => None,
        })
    }

    /// Rows that do not pass.
    #[must_use]
    #[expect(clippy::should_implement_trait, reason = "it does; this needs no `use`")]
    pub fn not(mut self) -> Self {
        self.steps.push(Step::Not);
        self
    }

    /// Reads the string form.
    ///
    /// ```text
    /// year >= 2020 AND (lang IN ('en', 'de') OR NOT draft = true)
    /// created BETWEEN '2024-01-01' AND '2024-06-30T12:00:00Z' AND title PREFIX 'The '
    /// EXISTS author.name AND IDS(1, 2, 3)
    /// ```
    ///
    /// Comparisons are `= != < <= > >=`, and as other languages write two of them `==` and `<>`.
    /// `year NOT IN (2019, 2020)` is `NOT year IN (2019, 2020)`, and so with `BETWEEN` and
    /// `PREFIX`; `year EXISTS` is `EXISTS year`, `year NOT EXISTS` is `NOT EXISTS year`. There is
    /// no `IS NULL`, which is `NOT EXISTS`. `NOT` binds closest, then `AND`, then
    /// `OR`. Words like `AND` may be in any case. Text stands between single
    /// quotes, a quote in it is doubled; a field's name that is no plain word (or
    /// is one of the words above) stands between double quotes.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) tells the column, what was
    /// expected there and what came.
    pub fn parse(text: &str) -> Result<Self> {
        text::parse(text)
    }

    /// Joins two filters; what is joined in the same way already is not nested.
    fn join(
        mut self,
        mut other: Self,
        step: fn(usize) -> Step,
        joined: fn(&Step) -> Option<usize>,
    ) -> Self {
        let mut operands = 0;
        for side in [&mut self, &mut other] {
            let inner = side.steps.last().and_then(joined);
            if inner.is_some() {
                side.steps.pop();
            }
            operands += inner.unwrap_or(1);
        }
        self.steps.append(&mut other.steps);
        self.steps.push(step(operands));
        self
    }
}

/// A clone, which is cheap.
impl From<&Filter> for Filter {
    fn from(filter: &Filter) -> Self {
        filter.clone()
    }
}

impl std::ops::Not for Filter {
    type Output = Self;

    fn not(self) -> Self {
        self.not()
    }
}

impl std::str::FromStr for Filter {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

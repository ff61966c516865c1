//! At most a few hits for each value of a field.
//!
//! The answer is what one gets by going through all rows from the best on, and passing over
//! those whose value has its hits already, until there are enough. [`Groups`] finds the same
//! whatever the order rows come in:
//!
//! ```text
//!   of each value keep its best n rows
//!   of all those keep the best k
//! ```
//!
//! A row that falls out of either never comes back: what was better than it is only ever
//! replaced by what is better still. For the same reason the score of the k-th row kept is a
//! floor, as without groups, and bounds prune by it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use super::score::Found;
use crate::error::{Error, Result};
use crate::filter;
use crate::index::{Key, NO_VALUE};
use crate::schema::Schema;
use crate::types::{Ordinal, RowId};
use crate::view::View;

/// The number of a field that rows can be grouped by.
pub(super) fn field(schema: &Schema, name: &str, most: usize) -> Result<usize> {
    if most == 0 {
        return Err(Error::invalid("group_by", "expected at least one hit for each value, got 0"));
    }
    let declared = schema.fields();
    let Some(at) = declared.iter().position(|field| field.name() == name) else {
        return Err(filter::unknown("group_by", name, schema));
    };
    if declared[at].is_list() {
        let why = format!("expected a field of one value a row, got {}", declared[at]);
        return Err(Error::invalid("group_by", why));
    }
    Ok(at)
}

/// The values of a field, row by row, of the parts that were asked about.
pub(super) struct Labels {
    view: Arc<View>,
    field: usize,
    /// Most hits for each value.
    most: usize,
    parts: Vec<OnceLock<Vec<u32>>>,
}

impl Labels {
    pub(super) fn new(view: Arc<View>, field: usize, most: usize) -> Self {
        let parts = view.parts.iter().map(|_| OnceLock::new()).collect();
        Self { view, field, most, parts }
    }

    /// The value of the row at a position of the view.
    fn of(&self, position: u32) -> Result<Option<Key>> {
        let at = self.view.part_at(position);
        let index = self.view.parts[at].rows.index(self.field)?;
        let numbers = if let Some(numbers) = self.parts[at].get() {
            numbers
        } else {
            let numbers = index.numbers()?;
            self.parts[at].get_or_init(|| numbers)
        };
        let row = Ordinal(position - self.view.base(at));
        let number = numbers[row.index()];
        if number == NO_VALUE { Ok(None) } else { index.key(number).map(Some) }
    }
}

/// The best rows, at most [`Labels::most`] of each value. Rows without a value are in no group.
pub(super) struct Groups<'a> {
    labels: &'a Labels,
    kept: BTreeMap<Found, Key>,
    by_value: HashMap<Key, BTreeSet<Found>>,
}

impl<'a> Groups<'a> {
    pub(super) fn new(labels: &'a Labels) -> Self {
        Self { labels, kept: BTreeMap::new(), by_value: HashMap::new() }
    }

    pub(super) fn offer(
        &mut self,
        limit: usize,
        score: f32,
        position: u32,
        id: impl FnOnce() -> Result<RowId>,
    ) -> Result<()> {
        if self.worst(limit).is_some_and(|worst| score.total_cmp(&worst.score).is_lt()) {
            return Ok(());
        }
        let found = Found { score, id: id()?, position };
        if self.worst(limit).is_some_and(|worst| found >= *worst) {
            return Ok(());
        }
        let Some(value) = self.labels.of(position)? else { return Ok(()) };
        let group = self.by_value.entry(value.clone()).or_default();
        if group.len() >= self.labels.most {
            if group.last().is_some_and(|worst| found >= *worst) {
                return Ok(());
            }
            let worst = group.pop_last().expect("at least one hit for each value");
            self.kept.remove(&worst);
        }
        group.insert(found.clone());
        self.kept.insert(found, value);
        if self.kept.len() > limit {
            let (worst, value) = self.kept.pop_last().expect("more than the limit");
            self.by_value.get_mut(&value).expect("its group").remove(&worst);
        }
        Ok(())
    }

    /// The last of the rows kept, once there are as many as wanted.
    pub(super) fn worst(&self, limit: usize) -> Option<&Found> {
        self.kept.last_key_value().filter(|_| self.kept.len() >= limit).map(|(worst, _)| worst)
    }

    pub(super) fn into_sorted(self) -> Vec<Found> {
        self.kept.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_declared_fields_of_one_value_make_groups() {
        use crate::schema::FieldKind::{Integer, Keyword};
        let schema = Schema::builder(2).field("year", Integer).list_field("tags", Keyword);
        let schema = schema.build().expect("valid");
        let says = |name, most| field(&schema, name, most).expect_err("refused").to_string();
        assert_eq!(field(&schema, "year", 1).expect("declared"), 0);
        assert!(says("month", 1).contains("year (integer)"), "{}", says("month", 1));
        assert!(says("tags", 1).contains("tags (list of keyword)"));
        assert!(says("year", 0).contains("got 0"));
    }
}

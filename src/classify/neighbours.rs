//! The labels of the nearest rows decide.

use std::collections::HashMap;

use super::labelled::label;
use super::{Classifier, Prediction};
use crate::collection::Snapshot;
use crate::error::{Error, Result};
use crate::filter;
use crate::query::Funnel;
use crate::schema::{Field, FieldKind};

/// Rows that are asked how sure an answer is.
const WITNESSES: usize = 10;

/// k nearest neighbours: the class that most of the `k` nearest labelled rows have; of
/// equally many the one with the nearest row. The rows are not copied: every
/// prediction is a search.
///
/// The confidence is the share of the 10 nearest labelled rows (or `k`, if that is more)
/// which have the class, so that it says something for `k = 1` too.
///
/// A vector that is asked about must not be among the rows, as those that one measures with
/// easily are: each would be its own nearest neighbour, and its label would answer for it.
/// Keep them in a collection of their own, or take them out before the [`Snapshot`].
///
/// Rows without a label have no part in it. They are passed over by a filter where the
/// field is declared as a [`FieldKind::Keyword`]; else by searching for four times as
/// many rows until enough of them have a label, which is slow where few have one.
#[derive(Debug)]
pub struct Neighbours {
    rows: Snapshot,
    field: String,
    k: usize,
    funnel: Funnel,
}

impl Neighbours {
    /// Classifies by the text in `field` of the payloads of `rows`; dots go into nested
    /// objects. `k = 1` is the 1-NN of the paper.
    ///
    /// # Errors
    /// [`Error::Invalid`] for `k = 0`, or if there are no rows.
    pub fn new(rows: Snapshot, field: impl Into<String>, k: usize) -> Result<Self> {
        if k == 0 {
            return Err(Error::invalid("k", "expected at least 1, got 0"));
        }
        if rows.is_empty() {
            return Err(Error::invalid("rows", "expected at least one, got none"));
        }
        Ok(Self { rows, field: field.into(), k, funnel: Funnel::exact() })
    }

    /// How neighbours are searched. Default: exactly. One by hand must keep as many rows as
    /// are searched for: `k` and at least 10, more where unlabelled rows are passed over by
    /// searching for more.
    #[must_use]
    pub fn funnel(mut self, funnel: Funnel) -> Self {
        self.funnel = funnel;
        self
    }

    /// The labels of as many rows as vote or witness, nearest first; of all that have one,
    /// where these are fewer.
    fn nearest_labels(&self, vector: &[f32], dims: usize) -> Result<Vec<String>> {
        let wanted = self.k.max(WITNESSES);
        let mut limit = wanted;
        loop {
            let search = self.rows.search(vector).dims(dims).limit(limit);
            let mut search = search.funnel(self.funnel.clone()).payloads(true);
            if self.indexed() {
                search = search.filter(filter::field(&*self.field).exists());
            }
            let hits = search.run()?.hits;
            let payloads = hits.iter().filter_map(|hit| hit.payload.as_ref());
            let labels = payloads.filter_map(|payload| label(payload, &self.field));
            let labels: Vec<String> = labels.take(wanted).map(str::to_owned).collect();
            if labels.len() == wanted || hits.len() < limit {
                return Ok(labels);
            }
            limit = limit.saturating_mul(4);
        }
    }

    /// Whether a filter finds just the rows that have a label.
    fn indexed(&self) -> bool {
        let labels = |field: &Field| field.kind() == FieldKind::Keyword && !field.is_list();
        let mut fields = self.rows.schema().fields().iter();
        fields.any(|field| field.name() == self.field && labels(field))
    }
}

impl Classifier for Neighbours {
    fn predict(&self, vector: &[f32], dims: usize) -> Result<Prediction> {
        let labels = self.nearest_labels(vector, dims)?;
        let voters = labels.iter().take(self.k).map(String::as_str);
        let Some(winner) = majority(voters) else {
            let why = format!("{}: no row has a text there", self.field);
            return Err(Error::invalid("label field", why));
        };
        let agreeing = labels.iter().filter(|label| *label == winner).count();
        let confidence = agreeing as f32 / labels.len() as f32;
        Ok(Prediction { label: winner.to_owned(), confidence })
    }
}

/// The label that comes most often, of equals the one that comes first.
fn majority<'a>(labels: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut votes: HashMap<&str, (usize, usize)> = HashMap::new();
    for (at, label) in labels.enumerate() {
        votes.entry(label).or_insert((0, at)).0 += 1;
    }
    let best = votes.into_iter().max_by_key(|(_, (count, at))| (*count, usize::MAX - at));
    best.map(|(label, _)| label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_votes_win_and_of_equals_the_nearest() {
        let of = |labels: &[&'static str]| majority(labels.iter().copied());
        assert_eq!(of(&["a", "b", "b"]), Some("b"));
        assert_eq!(of(&["c", "b", "b", "c"]), Some("c"));
        assert_eq!(of(&[]), None);
    }
}

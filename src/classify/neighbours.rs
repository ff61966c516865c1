//! The labels of the nearest rows decide.

use std::collections::HashMap;

use super::labelled::label;
use super::{Classifier, Prediction};
use crate::collection::Snapshot;
use crate::error::{Error, Result};
use crate::query::Funnel;

/// Rows that are asked how sure an answer is.
const WITNESSES: usize = 10;

/// k nearest neighbours: the class that most of the `k` nearest rows have; of
/// equally many the one with the nearest row. The rows are not copied: every
/// prediction is a search.
///
/// The confidence is the share of the 10 nearest rows (or `k`, if that is more)
/// which have the class, so that it says something for `k = 1` too.
pub struct Neighbours {
    rows: Snapshot,
    field: String,
    k: usize,
    funnel: Funnel,
}

impl Neighbours {
    /// Classifies by the text in `field` of the payloads of `rows`. Rows without
    /// one have no vote, but are found and count as neighbours. `k = 1` is the
    /// 1-NN of the paper.
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

    /// How neighbours are searched. Default: exactly.
    #[must_use]
    pub fn funnel(mut self, funnel: Funnel) -> Self {
        self.funnel = funnel;
        self
    }
}

impl Classifier for Neighbours {
    fn predict(&self, vector: &[f32], dims: usize) -> Result<Prediction> {
        let limit = self.k.max(WITNESSES);
        let search = self.rows.search(vector).dims(dims).limit(limit).funnel(self.funnel.clone());
        let hits = search.payloads(true).run()?.hits;
        let labels: Vec<Option<&str>> = hits
            .iter()
            .map(|hit| hit.payload.as_ref().and_then(|payload| label(payload, &self.field)))
            .collect();
        let voters = labels.iter().take(self.k).flatten();
        let Some(winner) = majority(voters.copied()) else {
            let why = format!("none of the nearest {} rows has a text there", self.k);
            return Err(Error::invalid("label field", format!("{}: {why}", self.field)));
        };
        let agreeing = labels.iter().filter(|label| **label == Some(winner)).count();
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

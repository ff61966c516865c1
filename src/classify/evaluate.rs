//! How well classes are found, and how well the rows of a class find each other.

use super::labelled::label;
use super::{Classifier, Labelled, Prediction};
use crate::collection::Snapshot;
use crate::error::{Error, Result};
use crate::query::Funnel;

/// What a classifier says of one vector by several prefixes. Prefixes that
/// disagree are a sign that the vector is hard, or unlike anything known.
#[derive(Debug, Clone, PartialEq)]
pub struct Votes {
    /// Dimensions and the prediction by them, in the order asked for.
    pub predictions: Vec<(usize, Prediction)>,
}

impl Votes {
    /// Whether all prefixes name the same class.
    pub fn unanimous(&self) -> bool {
        self.predictions.windows(2).all(|pair| pair[0].1.label == pair[1].1.label)
    }

    /// Share of the prefixes that name the class that the last one names.
    pub fn agreement(&self) -> f64 {
        let Some((_, last)) = self.predictions.last() else { return 1.0 };
        let agreeing = self.predictions.iter().filter(|(_, p)| p.label == last.label).count();
        agreeing as f64 / self.predictions.len() as f64
    }
}

/// Asks a classifier about one vector by several prefixes.
///
/// # Errors
/// As [`Classifier::predict`].
pub fn votes(
    classifier: &(impl Classifier + ?Sized),
    vector: &[f32],
    dims: &[usize],
) -> Result<Votes> {
    let ask = |dims: &usize| Ok((*dims, classifier.predict(vector, *dims)?));
    Ok(Votes { predictions: dims.iter().map(ask).collect::<Result<_>>()? })
}

/// How far the agreement of prefixes tells right answers from wrong ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Share of the rows whose prefixes are unanimous.
    pub unanimous: f64,
    /// Accuracy of the last prefix on them; NaN if there are none.
    pub accuracy_unanimous: f64,
    /// Accuracy of the last prefix on the others; NaN if there are none.
    pub accuracy_divided: f64,
}

/// Measures the agreement of prefixes on labelled rows.
///
/// # Errors
/// As [`Classifier::predict`]; [`Error::Invalid`] if there are no rows or prefixes.
pub fn agreement(
    classifier: &(impl Classifier + ?Sized),
    rows: &Labelled,
    dims: &[usize],
) -> Result<Agreement> {
    rows.check_some()?;
    // Rows and right answers: of the divided, of the unanimous.
    let mut counts = [[0usize; 2]; 2];
    for (vector, label) in rows.iter() {
        let votes = votes(classifier, vector, dims)?;
        let (_, last) = votes.predictions.last().ok_or_else(|| {
            Error::invalid("dims", "expected at least one number of dimensions, got none")
        })?;
        let of = &mut counts[usize::from(votes.unanimous())];
        of[0] += 1;
        of[1] += usize::from(last.label == label);
    }
    let accuracy = |of: [usize; 2]| of[1] as f64 / of[0] as f64;
    Ok(Agreement {
        unanimous: counts[1][0] as f64 / rows.len() as f64,
        accuracy_unanimous: accuracy(counts[1]),
        accuracy_divided: accuracy(counts[0]),
    })
}

/// Share of the rows whose class is found by their first `dims` dimensions.
///
/// # Errors
/// As [`Classifier::predict`]; [`Error::Invalid`] if there are no rows.
pub fn accuracy(
    classifier: &(impl Classifier + ?Sized),
    rows: &Labelled,
    dims: usize,
) -> Result<f64> {
    rows.check_some()?;
    let mut right = 0usize;
    for (vector, label) in rows.iter() {
        right += usize::from(classifier.predict(vector, dims)?.label == label);
    }
    Ok(right as f64 / rows.len() as f64)
}

/// Mean over the queries of the average precision of the first `k` hits, searched
/// exactly by the first `dims` dimensions. A hit is relevant if the text in `field`
/// of its payload is the query's label. The average precision is the sum of the
/// precision at each relevant hit, divided by the smaller of `k` and the number of
/// relevant rows; queries without a relevant row are left out. Queries that are rows of the
/// collection find themselves first: take others.
///
/// # Errors
/// As [`Search::run`](crate::Search::run); [`Error::Invalid`] for `k = 0`, or if
/// no query has a relevant row.
pub fn mean_average_precision(
    rows: &Snapshot,
    field: &str,
    queries: &Labelled,
    dims: usize,
    k: usize,
) -> Result<f64> {
    if k == 0 {
        return Err(Error::invalid("k", "expected at least 1, got 0"));
    }
    let relevant = count_relevant(rows, field, queries)?;
    let (mut sum, mut asked) = (0.0, 0usize);
    for (vector, class) in queries.numbered().filter(|(_, class)| relevant[*class] > 0) {
        let search = rows.search(vector).dims(dims).limit(k).funnel(Funnel::exact());
        let hits = search.payloads(true).run()?.hits;
        let wanted = Some(queries.classes()[class].as_str());
        let right =
            hits.iter().map(|hit| hit.payload.as_ref().and_then(|p| label(p, field)) == wanted);
        sum += average_precision(right, k.min(relevant[class]));
        asked += 1;
    }
    if asked == 0 {
        return Err(Error::invalid("queries", "no row has the label of any of them"));
    }
    Ok(sum / asked as f64)
}

/// How many rows have the label of each class, one row in RAM at a time.
fn count_relevant(rows: &Snapshot, field: &str, queries: &Labelled) -> Result<Vec<usize>> {
    let mut relevant = vec![0; queries.classes().len()];
    for row in rows {
        let row = row?;
        let class = label(&row.payload, field).and_then(|label| queries.class_number(label));
        if let Some(class) = class {
            relevant[class] += 1;
        }
    }
    Ok(relevant)
}

fn average_precision(relevant: impl Iterator<Item = bool>, most: usize) -> f64 {
    let (mut found, mut sum) = (0usize, 0.0);
    for (at, relevant) in relevant.enumerate() {
        if relevant {
            found += 1;
            sum += found as f64 / (at + 1) as f64;
        }
    }
    sum / most as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn average_precision_is_that_of_the_textbook() {
        let of = |hits: &[u8], most| average_precision(hits.iter().map(|hit| *hit == 1), most);
        assert!((of(&[1, 0, 1, 0], 2) - 5.0 / 6.0).abs() < 1e-12);
        assert!((of(&[1, 1], 2) - 1.0).abs() < 1e-12);
        assert!(of(&[0, 0], 2).abs() < 1e-12);
    }
}

//! Vectors with labels.

use std::collections::HashMap;

use super::check_finite;
use crate::collection::Snapshot;
use crate::error::{Error, Result, VectorError};
use crate::payload::{self, Payload};

/// Vectors and the class of each, in RAM: what classifiers learn from and are
/// measured with.
#[derive(Debug, Clone)]
pub struct Labelled {
    dims: usize,
    classes: Vec<String>,
    numbers: HashMap<String, u32>,
    labels: Vec<u32>,
    vectors: Vec<f32>,
    unlabelled: u64,
}

impl Labelled {
    /// No vectors yet; those to come have `dims` dimensions.
    pub fn new(dims: usize) -> Self {
        let (classes, numbers) = (Vec::new(), HashMap::new());
        Self { dims, classes, numbers, labels: Vec::new(), vectors: Vec::new(), unlabelled: 0 }
    }

    /// All rows of a collection whose payload has a text in `field` (a path, as the names of
    /// declared fields are: `author.name`); the others are counted ([`Self::unlabelled`]).
    /// Takes `4 * dims` bytes of RAM a row.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where a row is damaged.
    pub fn of(rows: &Snapshot, field: &str) -> Result<Self> {
        let mut labelled = Self::new(rows.schema().dims());
        for row in rows {
            let row = row?;
            match label(&row.payload, field) {
                Some(label) => labelled.push(&row.vector, label)?,
                None => labelled.unlabelled += 1,
            }
        }
        Ok(labelled)
    }

    /// Adds a vector.
    ///
    /// # Errors
    /// [`Error::Vector`] for another number of dimensions, NaN or infinities.
    pub fn push(&mut self, vector: &[f32], label: &str) -> Result<()> {
        if vector.len() != self.dims {
            let (expected, got) = (self.dims, vector.len());
            return Err(VectorError::Dimension { expected, got, granularities: vec![] }.into());
        }
        check_finite(vector)?;
        let number = match self.numbers.get(label) {
            Some(number) => *number,
            None => self.add_class(label)?,
        };
        self.labels.push(number);
        self.vectors.extend_from_slice(vector);
        Ok(())
    }

    fn add_class(&mut self, label: &str) -> Result<u32> {
        let too_many = |_| Error::invalid("label", "more than 2^32 classes");
        let number = u32::try_from(self.classes.len()).map_err(too_many)?;
        self.classes.push(label.to_owned());
        self.numbers.insert(label.to_owned(), number);
        Ok(number)
    }

    /// Components of each vector.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The classes, in the order they first came.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Rows of the collection that have no label.
    pub fn unlabelled(&self) -> u64 {
        self.unlabelled
    }

    /// The vectors and their labels.
    pub fn iter(&self) -> impl Iterator<Item = (&[f32], &str)> {
        self.numbered().map(|(vector, class)| (vector, self.classes[class].as_str()))
    }

    /// The vectors and the numbers of their classes.
    pub(super) fn numbered(&self) -> impl Iterator<Item = (&[f32], usize)> {
        (0..self.len()).map(|at| self.at(at))
    }

    pub(super) fn class_number(&self, label: &str) -> Option<usize> {
        self.numbers.get(label).map(|number| *number as usize)
    }

    pub(super) fn at(&self, at: usize) -> (&[f32], usize) {
        (&self.vectors[at * self.dims..(at + 1) * self.dims], self.labels[at] as usize)
    }

    /// An error if nothing can be learnt from them.
    pub(super) fn check_some(&self) -> Result<()> {
        if self.is_empty() {
            return Err(Error::invalid("labelled rows", "expected at least one, got none"));
        }
        Ok(())
    }
}

/// The text in a field of a payload; dots in its name go into nested objects.
pub(super) fn label<'a>(payload: &'a Payload, field: &str) -> Option<&'a str> {
    payload::at(payload, field)?.as_str()
}

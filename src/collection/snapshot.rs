//! A collection as it was at one moment.

use std::fmt;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::error::Result;
use crate::filter::Filter;
use crate::payload::Payload;
use crate::query::{self, Search, SearchBatch};
use crate::rows::ReadAhead;
use crate::schema::Schema;
use crate::types::{Ordinal, RowId};
use crate::view::{Part, View};

/// The rows of a collection at one moment: it never changes, whatever is
/// committed, flushed or merged after. Cheap to clone, safe to share; it keeps
/// the files it needs alive, but not the collection's lock.
#[derive(Clone)]
pub struct Snapshot {
    view: Arc<View>,
    /// Most dimensions of a search.
    most_dims: usize,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lsn, rows) = (self.lsn(), self.len());
        f.debug_struct("Snapshot").field("lsn", &lsn).field("rows", &rows).finish_non_exhaustive()
    }
}

/// A row as it is stored.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Row {
    /// Its id.
    pub id: RowId,
    /// Its vector, in the stored precision.
    pub vector: Vec<f32>,
    /// Its payload, empty if it has none.
    pub payload: Payload,
}

impl Snapshot {
    pub(super) fn new(view: Arc<View>, most_dims: usize) -> Self {
        Self { view, most_dims }
    }

    /// What the collection stores.
    pub fn schema(&self) -> &Schema {
        &self.view.schema
    }

    /// Number of commits the snapshot has seen: it grows with every commit.
    pub fn lsn(&self) -> u64 {
        self.view.lsn.0
    }

    /// Number of rows.
    pub fn len(&self) -> u64 {
        self.view.live_rows()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row with this id.
    ///
    /// # Errors
    /// [`Error::Invalid`](crate::Error::Invalid) for an id of the wrong kind,
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the row is damaged.
    pub fn get(&self, id: impl Into<RowId>) -> Result<Option<Row>> {
        let Some((part, row)) = self.find(&id.into())? else { return Ok(None) };
        self.row(&self.view.parts[part], row).map(Some)
    }

    /// Whether there is a row with this id.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn contains(&self, id: impl Into<RowId>) -> Result<bool> {
        Ok(self.find(&id.into())?.is_some())
    }

    /// All rows, in the order they are stored: older ones mostly come first. `for row in &snapshot`
    /// is the same.
    pub fn iter(&self) -> impl Iterator<Item = Result<Row>> {
        let parts = self.view.parts.iter();
        parts.flat_map(move |part| {
            let mut ahead = ReadAhead::default();
            part.living().map(move |row| {
                ahead.before(&*part.rows, row);
                self.row(part, row)
            })
        })
    }

    /// The rows that pass a filter, and no others, in the order of [`Self::iter`]. Which rows pass
    /// is found first, from the indexes of the fields; each row is read when the iterator comes
    /// to it.
    ///
    /// ```
    /// use matryo::{Collection, FieldKind, Schema, field, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("books.matryo");
    /// let schema = Schema::builder(2).field("year", FieldKind::Integer).build()?;
    /// let books = Collection::create(&path, schema)?;
    /// books.upsert(1, &[0.1, 0.9], json!({"year": 1999}))?;
    /// books.upsert(2, &[0.2, 0.8], json!({"year": 2021}))?;
    /// let old: Vec<_> = books.snapshot().select(&field("year").lt(2000))?.collect::<Result<_, _>>()?;
    /// assert!(old.len() == 1 && old[0].id == 1);
    ///
    /// // Deletes what passes: the snapshot does not change meanwhile.
    /// let mut batch = books.batch();
    /// for row in books.snapshot().select(&"year < 2000".parse()?)? {
    ///     batch.delete(row?.id)?;
    /// }
    /// batch.commit()?;
    /// assert_eq!(books.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::count`]; of a row, [`Error::Corrupt`](crate::Error::Corrupt) if it is damaged.
    /// The iterator then continues with the next row.
    pub fn select<'s>(
        &'s self,
        filter: &Filter,
    ) -> Result<impl Iterator<Item = Result<Row>> + use<'s>> {
        let rows = query::passing(&self.view, filter)?;
        let parts = self.view.parts.iter().zip(rows);
        Ok(parts.flat_map(|(part, rows)| asked_for(part, rows).map(|row| self.row(part, row))))
    }

    /// Begins a search.
    pub fn search(&self, query: &[f32]) -> Search {
        Search::new(self.view.clone(), query, self.most_dims)
    }

    /// Begins a search for the rows most like a stored one.
    ///
    /// # Errors
    /// As [`Collection::search_like`](super::Collection::search_like).
    pub fn search_like(&self, id: impl Into<RowId>) -> Result<Search> {
        Search::like(self.view.clone(), id.into(), self.most_dims)
    }

    /// Begins a search for many queries at once.
    pub fn search_batch<Q: AsRef<[f32]>>(
        &self,
        queries: impl IntoIterator<Item = Q>,
    ) -> SearchBatch {
        SearchBatch::new(self.view.clone(), queries, self.most_dims)
    }

    /// Number of rows that pass a filter.
    ///
    /// # Errors
    /// As [`Collection::count`](super::Collection::count).
    pub fn count(&self, filter: &Filter) -> Result<u64> {
        query::count(&self.view, filter)
    }

    fn find(&self, id: &RowId) -> Result<Option<(usize, Ordinal)>> {
        id.check(self.schema().ids())?;
        self.view.find(id)
    }

    fn row(&self, part: &Part, row: Ordinal) -> Result<Row> {
        let mut vector = vec![0.0; self.schema().dims()];
        self.schema().stored().decode(part.rows.vector(row)?, &mut vector);
        Ok(Row { id: part.rows.id(row)?, vector, payload: part.payload(row)? })
    }
}

/// As [`Snapshot::iter`].
impl<'s> IntoIterator for &'s Snapshot {
    type Item = Result<Row>;
    type IntoIter = Box<dyn Iterator<Item = Result<Row>> + Send + 's>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.iter())
    }
}

/// Some rows of a part, ascending. They may be few of many, so those of a group are asked for
/// before the first of them is read, and none between them.
fn asked_for(part: &Part, rows: RoaringBitmap) -> impl Iterator<Item = Ordinal> {
    const GROUP: usize = 128;
    let mut rows = rows.into_iter();
    let groups = std::iter::from_fn(move || {
        let group: Vec<u32> = rows.by_ref().take(GROUP).collect();
        for run in group.chunk_by(|row, next| row + 1 == *next) {
            part.rows.will_need(run[0]..run[0] + run.len() as u32);
        }
        (!group.is_empty()).then_some(group)
    });
    groups.flatten().map(Ordinal)
}

//! A collection as it was at one moment.

use std::fmt;
use std::sync::Arc;

use super::listing::{Ids, Places, Rows};
use crate::error::Result;
use crate::filter::Filter;
use crate::payload::Payload;
use crate::query::{self, PreparedSearch, Search, SearchBatch};
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
    /// is the same. The iterator keeps the snapshot alive by itself. To go on somewhere in the
    /// middle, [`Iterator::nth`] and [`Iterator::skip`] pass over rows without reading them.
    pub fn iter(&self) -> Rows {
        Rows { snapshot: self.clone(), places: Places::new(self.view.clone(), None) }
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
    /// // The snapshot does not change meanwhile. To delete what passes: `Collection::delete_where`.
    /// let snapshot = books.snapshot();
    /// for row in snapshot.select(&"year < 2000".parse()?)? {
    ///     books.set_payload(row?.id, json!({"year": 2000}))?;
    /// }
    /// assert_eq!(books.count(&field("year").eq(2000))?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::count`]; of a row, [`Error::Corrupt`](crate::Error::Corrupt) if it is damaged.
    /// The iterator then continues with the next row.
    pub fn select(&self, filter: &Filter) -> Result<Rows> {
        let places = Places::new(self.view.clone(), Some(query::passing(&self.view, filter)?));
        Ok(Rows { snapshot: self.clone(), places })
    }

    /// The ids of the rows that pass a filter, in the order of [`Self::iter`]: no vector and no
    /// payload is read.
    ///
    /// # Errors
    /// As [`Self::select`].
    pub fn ids(&self, filter: &Filter) -> Result<Ids> {
        Ok(Ids(Places::new(self.view.clone(), Some(query::passing(&self.view, filter)?))))
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

    /// Settles everything of a search but its query, as [`Collection::prepare`] does.
    ///
    /// # Errors
    /// As [`Collection::prepare`].
    ///
    /// [`Collection::prepare`]: super::Collection::prepare
    pub fn prepare(&self, ask: impl FnOnce(Search) -> Search) -> Result<PreparedSearch> {
        PreparedSearch::new(ask(self.search(&[])))
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

    pub(super) fn row(&self, part: &Part, row: Ordinal) -> Result<Row> {
        let vector = self.view.vector(part, row)?;
        Ok(Row { id: part.rows.id(row)?, vector, payload: part.payload(row)? })
    }
}

/// As [`Snapshot::iter`].
impl IntoIterator for &Snapshot {
    type Item = Result<Row>;
    type IntoIter = Rows;

    fn into_iter(self) -> Rows {
        self.iter()
    }
}

/// As [`Snapshot::iter`].
impl IntoIterator for Snapshot {
    type Item = Result<Row>;
    type IntoIter = Rows;

    fn into_iter(self) -> Rows {
        self.iter()
    }
}

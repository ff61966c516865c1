//! Committed rows that are not in a segment yet, as immutable runs.
//!
//! A commit becomes a [`Run`]; nobody ever changes one, so a snapshot is a list
//! of references. Small runs are merged into larger ones as they come (ids and places
//! O(log n) times before a flush, vectors never), so a search meets few of them.
//! A run is what a segment is made from: same columns, in RAM.

use std::cmp::Ordering;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::encoding::{Precision, StageBuilder, StageCode, StageView, centre};
use crate::error::{Error, Result};
use crate::index::{Index, IndexBuilder, Source};
use crate::kernel::{Isa, row};
use crate::rows::{CodeColumn, Held, Lent, LogPlace, Place, Rows};
use crate::schema::Schema;
use crate::types::{IdKind, Ordinal, RowId};

/// Ids in row order, packed.
#[derive(Debug, Clone)]
pub(crate) enum IdColumn {
    U64(Vec<u64>),
    /// Row `i` is `text[ends[i - 1]..ends[i]]`.
    Str {
        ends: Vec<u64>,
        text: String,
    },
}

impl IdColumn {
    pub(crate) fn new(kind: IdKind) -> Self {
        Self::with_room(kind, 0)
    }

    /// Without ids, with room for those of `rows` rows; for text as it comes.
    pub(crate) fn with_room(kind: IdKind, rows: usize) -> Self {
        match kind {
            IdKind::U64 => Self::U64(Vec::with_capacity(rows)),
            IdKind::Str => Self::Str { ends: Vec::with_capacity(rows), text: String::new() },
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::U64(ids) => ids.len(),
            Self::Str { ends, .. } => ends.len(),
        }
    }

    pub(crate) fn push(&mut self, id: &RowId) {
        match (self, id) {
            (Self::U64(ids), RowId::U64(id)) => ids.push(*id),
            (Self::Str { ends, text }, RowId::Str(id)) => {
                text.push_str(id);
                ends.push(text.len() as u64);
            }
            _ => unreachable!("ids are checked against the schema when a batch is built"),
        }
    }

    fn get(&self, row: usize) -> RowId {
        match self {
            Self::U64(ids) => RowId::U64(ids[row]),
            Self::Str { ends, text } => RowId::from(&text[span(ends, row)]),
        }
    }

    /// How the id of a row compares with another.
    fn compare(&self, row: usize, id: &RowId) -> Ordering {
        match (self, id) {
            (Self::U64(ids), RowId::U64(id)) => ids[row].cmp(id),
            _ => self.get(row).cmp(id),
        }
    }

    /// Ordinals sorted by id.
    pub(crate) fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        match self {
            Self::U64(ids) => order.sort_unstable_by_key(|row| ids[*row as usize]),
            Self::Str { ends, text } => {
                let id = |row: u32| &text[span(ends, row as usize)];
                order.sort_unstable_by(|a, b| id(*a).cmp(id(*b)));
            }
        }
        order
    }
}

/// Where the text of a row is, in all texts one after another.
fn span(ends: &[u64], row: usize) -> Range<usize> {
    let start = if row == 0 { 0 } else { ends[row - 1] as usize };
    start..ends[row] as usize
}

/// What is computed of vectors: their norms and their stage codes.
pub(crate) struct Codes {
    pub(crate) norms: Vec<f32>,
    pub(crate) stages: Vec<CodeColumn>,
}

impl Codes {
    /// Those of `rows` vectors as stored, about the centre of each stage.
    pub(crate) fn of<'a>(
        schema: &Schema,
        centres: &[Vec<f32>],
        rows: usize,
        vectors: impl Iterator<Item = Result<&'a [u8]>>,
    ) -> Result<Self> {
        let builder = |(code, centre): (&StageCode, &Vec<f32>)| {
            StageBuilder::with_room(*code, rows).about(centre)
        };
        let mut stages: Vec<_> = schema.stages().iter().zip(centres).map(builder).collect();
        let mut norms = Vec::with_capacity(rows);
        let (stored, mut wide) = (schema.stored(), vec![0.0; schema.dims()]);
        for vector in vectors {
            let vector = vector?;
            stored.decode(vector, &mut wide);
            stages.iter_mut().for_each(|stage| stage.push(&wide));
            norms.push(norm(stored, vector));
        }
        Ok(Self { norms, stages: stages.into_iter().map(CodeColumn::from).collect() })
    }
}

/// The norm of a vector as stored.
fn norm(stored: Precision, vector: &[u8]) -> f32 {
    row::norm_squared(Isa::detect(), stored, vector).sqrt() as f32
}

/// An immutable set of rows in RAM. Vectors and payloads stay in the bytes they
/// came in, those of a commit in the frame that the log has of it: runs that are
/// merged pass them on, and no vector is copied before it goes to a segment.
pub(crate) struct Run {
    schema: Arc<Schema>,
    ids: IdColumn,
    order: Vec<u32>,
    held: Vec<Arc<Held>>,
    /// Of all of them: asked for by every commit.
    held_bytes: usize,
    /// Of each row: which of `held`, and where in it.
    places: Vec<(u32, Place)>,
    /// Made by the first search that asks for them: most runs are merged or
    /// flushed before any does.
    norms: OnceLock<Vec<f32>>,
    codes: Box<[OnceLock<CodeColumn>]>,
    /// Of each declared field, made by the first filter that asks for one. Not
    /// counted by `ram_bytes`: when rows are flushed must not depend on searches.
    indexes: OnceLock<Vec<Bytes>>,
}

/// The bytes of an index in RAM.
struct Bytes(Vec<u8>);

/// Gathers rows for a [`Run`].
pub(crate) struct RunBuilder {
    schema: Arc<Schema>,
    ids: IdColumn,
    /// Of rows that were copied; becomes the first of `held`.
    copied: Vec<u8>,
    held: Vec<Arc<Held>>,
    places: Vec<(u32, Place)>,
}

impl RunBuilder {
    pub(crate) fn new(schema: &Arc<Schema>) -> Self {
        Self {
            ids: IdColumn::new(schema.ids()),
            copied: Vec::new(),
            held: vec![Arc::default()],
            places: Vec::new(),
            schema: schema.clone(),
        }
    }

    /// Adds a row and copies it: `vector` as stored, `payload` as JSON text.
    pub(crate) fn push(&mut self, id: &RowId, vector: &[u8], payload: &str) {
        let copy = |out: &mut Vec<u8>| {
            out.extend_from_slice(vector);
            Ok::<_, Infallible>(())
        };
        let Ok(()) = self.put(id, copy, payload);
    }

    /// Adds a row whose vector, as stored, is what `vector` appends; none where it fails.
    pub(crate) fn put<E>(
        &mut self,
        id: &RowId,
        vector: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
        payload: &str,
    ) -> Result<(), E> {
        let start = self.copied.len();
        vector(&mut self.copied).inspect_err(|_| self.copied.truncate(start))?;
        let (vector, payload_len) = (start as u64, payload.len() as u32);
        let place = Place { vector, payload: self.copied.len() as u64, payload_len };
        self.copied.extend_from_slice(payload.as_bytes());
        self.ids.push(id);
        self.places.push((0, place));
        Ok(())
    }

    /// Adds a row that stays where it is. Rows of the same bytes come together.
    pub(crate) fn lend(&mut self, id: &RowId, lent: Lent) {
        let last = self.held.last().expect("the first is there from the beginning");
        if !Arc::ptr_eq(last, lent.held) {
            self.held.push(lent.held.clone());
        }
        self.ids.push(id);
        self.places.push((self.held.len() as u32 - 1, lent.place));
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn finish(mut self) -> Run {
        self.held[0] = Arc::new(Held { bytes: self.copied, logged: None });
        Run {
            order: self.ids.order(),
            held_bytes: self.held.iter().map(|held| held.bytes.len()).sum(),
            ids: self.ids,
            held: self.held,
            places: self.places,
            norms: OnceLock::new(),
            codes: self.schema.stages().iter().map(|_| OnceLock::new()).collect(),
            indexes: OnceLock::new(),
            schema: self.schema,
        }
    }
}

impl Run {
    fn slice(&self, row: usize, at: u64, len: usize) -> &[u8] {
        let start = at as usize;
        &self.held[self.places[row].0 as usize].bytes[start..start + len]
    }

    fn stored(&self, row: usize) -> &[u8] {
        self.slice(row, self.places[row].1.vector, self.schema.vector_bytes())
    }

    fn text(&self, row: usize) -> Result<&str> {
        let place = self.places[row].1;
        let bytes = self.slice(row, place.payload, place.payload_len as usize);
        std::str::from_utf8(bytes).map_err(|_| corrupt(&format!("payload of row {row} is no text")))
    }

    fn make_code(&self, code: StageCode) -> CodeColumn {
        let (stored, rows) = (self.schema.stored(), self.places.len());
        let Ok(centre) = centre(code, rows, |row, wide| {
            stored.decode(self.stored(row), wide);
            Ok::<_, Infallible>(())
        });
        let mut builder = StageBuilder::with_room(code, rows).about(&centre);
        let mut wide = vec![0.0; code.dims];
        for row in 0..rows {
            stored.decode(self.stored(row), &mut wide);
            builder.push(&wide);
        }
        builder.into()
    }

    fn indexes(&self) -> Result<&[Bytes]> {
        if let Some(indexes) = self.indexes.get() {
            return Ok(indexes);
        }
        let mut builder = IndexBuilder::new(self.schema.shared_fields());
        for row in 0..self.places.len() {
            let pushed = builder.push(self.text(row)?);
            pushed.map_err(|why| corrupt(&format!("payload of row {row}: {why}")))?;
        }
        let built = builder.finish().map(Bytes).collect();
        Ok(self.indexes.get_or_init(|| built))
    }
}

/// What batches refuse can only come from a log that was made by hand.
fn corrupt(what: &str) -> Error {
    Error::corrupt("log", 0, what)
}

impl Source for Bytes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, at: usize, len: usize) -> Result<&[u8]> {
        let bytes = at.checked_add(len).and_then(|end| self.0.get(at..end));
        bytes.ok_or_else(|| self.corrupt(at, "read beyond a field index"))
    }

    fn corrupt(&self, _: usize, what: &str) -> Error {
        corrupt(what)
    }
}

impl Rows for Run {
    fn len(&self) -> u32 {
        self.ids.len() as u32
    }

    fn id(&self, row: Ordinal) -> Result<RowId> {
        Ok(self.ids.get(row.index()))
    }

    fn at_rank(&self, rank: u32) -> Result<Ordinal> {
        Ok(Ordinal(self.order[rank as usize]))
    }

    fn vector(&self, row: Ordinal) -> Result<&[u8]> {
        Ok(self.stored(row.index()))
    }

    fn payload(&self, row: Ordinal) -> Result<String> {
        self.text(row.index()).map(str::to_owned)
    }

    fn lent(&self, row: Ordinal) -> Option<Lent<'_>> {
        let (held, place) = self.places[row.index()];
        Some(Lent { held: &self.held[held as usize], place })
    }

    fn logged(&self, row: Ordinal) -> Option<LogPlace> {
        let (held, place) = self.places[row.index()];
        let start = self.held[held as usize].logged?;
        Some(LogPlace { at: start.at + place.vector, ..start })
    }

    fn find(&self, id: &RowId) -> Result<Option<Ordinal>> {
        // New ids are often larger than all there are.
        let below = |row: &u32| self.ids.compare(*row as usize, id) == Ordering::Less;
        if self.order.last().is_none_or(below) {
            return Ok(None);
        }
        let found = self.order.binary_search_by(|row| self.ids.compare(*row as usize, id));
        Ok(found.ok().map(|rank| Ordinal(self.order[rank])))
    }

    fn index(&self, field: usize) -> Result<Index<'_>> {
        Index::new(&self.indexes()?[field], &self.schema.fields()[field], self.len())
    }

    fn norms(&self) -> &[f32] {
        self.norms.get_or_init(|| {
            let stored = self.schema.stored();
            (0..self.places.len()).map(|row| norm(stored, self.stored(row))).collect()
        })
    }

    fn code(&self, stage: usize) -> StageView<'_> {
        self.codes[stage].get_or_init(|| self.make_code(self.schema.stages()[stage])).view()
    }

    fn ram_bytes(&self) -> usize {
        // Searches do not ask a run for codes that are mapped in a segment.
        let pinned = self.schema.stages().iter().enumerate().filter(|(n, _)| self.schema.pins(*n));
        let codes = pinned.map(|(_, code)| code.bytes_per_row()).sum::<usize>() * self.ids.len();
        let ids = match &self.ids {
            IdColumn::U64(ids) => ids.len() * 8,
            IdColumn::Str { ends, text } => ends.len() * 8 + text.len(),
        };
        let columns = size_of::<(u32, Place)>() + size_of::<u32>();
        self.held_bytes + codes + ids + self.order.len() * columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ids: &[&str]) -> Run {
        let schema = Arc::new(Schema::builder(3).ids(IdKind::Str).build().expect("valid"));
        let mut builder = RunBuilder::new(&schema);
        for (n, id) in ids.iter().enumerate() {
            let mut vector = Vec::new();
            schema.stored().encode(&[n as f32, 1.0, 2.0], &mut vector).expect("in range");
            builder.push(&RowId::from(*id), &vector, &format!("{{\"n\":{n}}}"));
        }
        builder.finish()
    }

    #[test]
    fn rows_are_found_by_id_whatever_their_order() {
        let run = run(&["pear", "apple", "fig", "quince"]);
        for (n, id) in ["pear", "apple", "fig", "quince"].into_iter().enumerate() {
            assert_eq!(run.find(&id.into()).expect("find"), Some(Ordinal(n as u32)));
            assert_eq!(run.id(Ordinal(n as u32)).expect("id"), id);
        }
        assert_eq!(run.find(&"grape".into()).expect("find"), None);
        assert_eq!(run.find(&"".into()).expect("find"), None);
    }
}

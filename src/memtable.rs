//! Committed rows that are not in a segment yet, as immutable runs.
//!
//! A commit becomes a [`Run`]; nobody ever changes one, so a snapshot is a list
//! of references. Small runs are merged into larger ones as they come (each row
//! is copied O(log n) times before its flush), so a search meets few of them.
//! A run is what a segment is made from: same columns, in RAM.

use std::sync::{Arc, OnceLock};

use crate::encoding::{Precision, StageBuilder, StageCode};
use crate::error::{Error, Result};
use crate::index::{Index, IndexBuilder, Source};
use crate::kernel::{Isa, row};
use crate::rows::{CodeColumn, Rows};
use crate::schema::{Field, Schema};
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
    fn new(kind: IdKind) -> Self {
        match kind {
            IdKind::U64 => Self::U64(Vec::new()),
            IdKind::Str => Self::Str { ends: Vec::new(), text: String::new() },
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::U64(ids) => ids.len(),
            Self::Str { ends, .. } => ends.len(),
        }
    }

    fn push(&mut self, id: &RowId) {
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
            Self::Str { ends, text } => {
                let start = if row == 0 { 0 } else { ends[row - 1] as usize };
                RowId::from(&text[start..ends[row] as usize])
            }
        }
    }

    /// Ordinals sorted by id.
    fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        match self {
            Self::U64(ids) => order.sort_unstable_by_key(|row| ids[*row as usize]),
            Self::Str { .. } => order.sort_by_cached_key(|row| self.get(*row as usize)),
        }
        order
    }
}

/// What is computed of vectors: their norms and their stage codes.
pub(crate) struct Codes {
    pub(crate) norms: Vec<f32>,
    pub(crate) stages: Vec<CodeColumn>,
}

/// Gathers [`Codes`].
struct CodesBuilder {
    norms: Vec<f32>,
    stages: Vec<StageBuilder>,
    stored: Precision,
    /// The vector at hand, widened.
    wide: Vec<f32>,
}

impl CodesBuilder {
    fn new(schema: &Schema) -> Self {
        Self {
            norms: Vec::new(),
            stages: schema.stages().iter().map(|code| StageBuilder::new(*code)).collect(),
            stored: schema.stored(),
            wide: vec![0.0; schema.dims()],
        }
    }

    /// Adds a vector as stored.
    fn push(&mut self, vector: &[u8]) {
        self.stored.decode(vector, &mut self.wide);
        self.stages.iter_mut().for_each(|stage| stage.push(&self.wide));
        self.norms.push(norm(self.stored, vector));
    }

    fn finish(self) -> Codes {
        Codes { norms: self.norms, stages: self.stages.into_iter().map(column).collect() }
    }
}

/// The norm of a vector as stored.
fn norm(stored: Precision, vector: &[u8]) -> f32 {
    row::norm_squared(Isa::detect(), stored, vector).sqrt() as f32
}

fn column(builder: StageBuilder) -> CodeColumn {
    let code = builder.view().code();
    let (blocks, factors) = builder.finish();
    CodeColumn::new(code, blocks, factors).expect("a builder's parts fit each other")
}

/// What a segment keeps of its rows beside vectors and payloads.
pub(crate) struct Columns {
    pub(crate) ids: IdColumn,
    /// Ordinals sorted by id.
    pub(crate) order: Vec<u32>,
    pub(crate) codes: Codes,
    /// What is to be indexed of their payloads.
    pub(crate) fields: Arc<[Field]>,
}

/// Gathers [`Columns`]. Every id comes at most once.
pub(crate) struct ColumnsBuilder {
    ids: IdColumn,
    codes: CodesBuilder,
    fields: Arc<[Field]>,
}

impl ColumnsBuilder {
    pub(crate) fn new(schema: &Schema) -> Self {
        Self {
            ids: IdColumn::new(schema.ids()),
            codes: CodesBuilder::new(schema),
            fields: schema.shared_fields(),
        }
    }

    /// Adds a row: `vector` as stored.
    pub(crate) fn push(&mut self, id: &RowId, vector: &[u8]) {
        self.codes.push(vector);
        self.ids.push(id);
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn finish(self) -> Columns {
        Columns {
            order: self.ids.order(),
            ids: self.ids,
            codes: self.codes.finish(),
            fields: self.fields,
        }
    }
}

/// An immutable set of rows in RAM.
pub(crate) struct Run {
    schema: Arc<Schema>,
    ids: IdColumn,
    order: Vec<u32>,
    vectors: Vec<u8>,
    payloads: Vec<Box<str>>,
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
    vectors: Vec<u8>,
    payloads: Vec<Box<str>>,
}

impl RunBuilder {
    pub(crate) fn new(schema: &Arc<Schema>) -> Self {
        Self {
            ids: IdColumn::new(schema.ids()),
            vectors: Vec::new(),
            payloads: Vec::new(),
            schema: schema.clone(),
        }
    }

    /// Adds a row: `vector` as stored, `payload` as JSON text.
    pub(crate) fn push(&mut self, id: &RowId, vector: &[u8], payload: &str) {
        self.ids.push(id);
        self.vectors.extend_from_slice(vector);
        self.payloads.push(payload.into());
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn finish(self) -> Run {
        Run {
            order: self.ids.order(),
            ids: self.ids,
            vectors: self.vectors,
            payloads: self.payloads,
            norms: OnceLock::new(),
            codes: self.schema.stages().iter().map(|_| OnceLock::new()).collect(),
            indexes: OnceLock::new(),
            schema: self.schema,
        }
    }
}

impl Run {
    fn make_code(&self, code: StageCode) -> CodeColumn {
        let mut builder = StageBuilder::new(code);
        let mut wide = vec![0.0; code.dims];
        for vector in self.vectors.chunks_exact(self.schema.vector_bytes()) {
            self.schema.stored().decode(vector, &mut wide);
            builder.push(&wide);
        }
        column(builder)
    }

    fn indexes(&self) -> Result<&[Bytes]> {
        if let Some(indexes) = self.indexes.get() {
            return Ok(indexes);
        }
        let mut builder = IndexBuilder::new(self.schema.shared_fields());
        for (row, payload) in self.payloads.iter().enumerate() {
            let pushed = builder.push(payload);
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

    fn by_id(&self, rank: u32) -> Result<Ordinal> {
        Ok(Ordinal(self.order[rank as usize]))
    }

    fn vectors(&self, first: Ordinal, count: u32) -> Result<&[u8]> {
        let start = first.index() * self.schema.vector_bytes();
        Ok(&self.vectors[start..start + count as usize * self.schema.vector_bytes()])
    }

    fn will_need(&self, _: Ordinal) {}

    fn payload(&self, row: Ordinal) -> Result<String> {
        Ok(self.payloads[row.index()].to_string())
    }

    fn index(&self, field: usize) -> Result<Index<'_>> {
        Index::new(&self.indexes()?[field], &self.schema.fields()[field], self.len())
    }

    fn norms(&self) -> &[f32] {
        self.norms.get_or_init(|| {
            let vectors = self.vectors.chunks_exact(self.schema.vector_bytes());
            vectors.map(|vector| norm(self.schema.stored(), vector)).collect()
        })
    }

    fn code(&self, stage: usize) -> &CodeColumn {
        self.codes[stage].get_or_init(|| self.make_code(self.schema.stages()[stage]))
    }

    fn ram_bytes(&self) -> usize {
        // Searches do not ask a run for codes that are mapped in a segment.
        let pinned = self.schema.stages().iter().enumerate().filter(|(n, _)| self.schema.pins(*n));
        let codes = pinned.map(|(_, code)| code.bytes_per_row()).sum::<usize>() * self.ids.len();
        let payloads: usize = self.payloads.iter().map(|p| p.len() + size_of::<Box<str>>()).sum();
        let ids = match &self.ids {
            IdColumn::U64(ids) => ids.len() * 8,
            IdColumn::Str { ends, text } => ends.len() * 8 + text.len(),
        };
        self.vectors.len() + codes + payloads + ids + self.order.len() * 8
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
            assert_eq!(run.id(Ordinal(n as u32)).expect("id"), id.into());
        }
        assert_eq!(run.find(&"grape".into()).expect("find"), None);
        assert_eq!(run.find(&"".into()).expect("find"), None);
    }
}

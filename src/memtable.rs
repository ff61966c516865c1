//! Committed rows that are not in a segment yet, as immutable runs.
//!
//! A commit becomes a [`Run`]; nobody ever changes one, so a snapshot is a list
//! of references. Small runs are merged into larger ones as they come (each row
//! is copied O(log n) times before its flush), so a search meets few of them.
//! A run is what a segment is made from: same columns, in RAM.

use crate::encoding::{Precision, StageBuilder};
use crate::error::Result;
use crate::kernel::{Isa, row};
use crate::rows::{CodeColumn, Rows};
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

/// What of a set of rows is kept in RAM, whether its vectors are or not.
pub(crate) struct Columns {
    pub(crate) ids: IdColumn,
    /// Ordinals sorted by id.
    pub(crate) order: Vec<u32>,
    pub(crate) norms: Vec<f32>,
    pub(crate) codes: Vec<CodeColumn>,
}

/// Gathers [`Columns`]. Every id comes at most once.
pub(crate) struct ColumnsBuilder {
    ids: IdColumn,
    norms: Vec<f32>,
    codes: Vec<StageBuilder>,
    stored: Precision,
    /// The row at hand, widened.
    wide: Vec<f32>,
}

impl ColumnsBuilder {
    pub(crate) fn new(schema: &Schema) -> Self {
        Self {
            ids: IdColumn::new(schema.ids()),
            norms: Vec::new(),
            codes: schema.stages().iter().map(|code| StageBuilder::new(*code)).collect(),
            stored: schema.stored(),
            wide: vec![0.0; schema.dims()],
        }
    }

    /// Adds a row: `vector` as stored.
    pub(crate) fn push(&mut self, id: &RowId, vector: &[u8]) {
        self.stored.decode(vector, &mut self.wide);
        self.codes.iter_mut().for_each(|code| code.push(&self.wide));
        let norm = row::norm_squared(Isa::detect(), self.stored, vector).sqrt();
        self.norms.push(norm as f32);
        self.ids.push(id);
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn finish(self) -> Columns {
        Columns {
            order: self.ids.order(),
            ids: self.ids,
            norms: self.norms,
            codes: self.codes.into_iter().map(column).collect(),
        }
    }
}

fn column(builder: StageBuilder) -> CodeColumn {
    let code = builder.view().code();
    let (blocks, factors) = builder.finish();
    CodeColumn::new(code, blocks, factors).expect("a builder's parts fit each other")
}

/// An immutable set of rows in RAM.
pub(crate) struct Run {
    columns: Columns,
    vectors: Vec<u8>,
    payloads: Vec<Box<str>>,
    vector_bytes: usize,
}

/// Gathers rows for a [`Run`]. Every id comes at most once.
pub(crate) struct RunBuilder {
    columns: ColumnsBuilder,
    vectors: Vec<u8>,
    payloads: Vec<Box<str>>,
    vector_bytes: usize,
}

impl RunBuilder {
    pub(crate) fn new(schema: &Schema) -> Self {
        Self {
            columns: ColumnsBuilder::new(schema),
            vectors: Vec::new(),
            payloads: Vec::new(),
            vector_bytes: schema.vector_bytes(),
        }
    }

    /// Adds a row: `vector` as stored, `payload` as JSON text.
    pub(crate) fn push(&mut self, id: &RowId, vector: &[u8], payload: &str) {
        self.columns.push(id, vector);
        self.vectors.extend_from_slice(vector);
        self.payloads.push(payload.into());
    }

    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    pub(crate) fn finish(self) -> Run {
        Run {
            columns: self.columns.finish(),
            vectors: self.vectors,
            payloads: self.payloads,
            vector_bytes: self.vector_bytes,
        }
    }
}

impl Rows for Run {
    fn len(&self) -> u32 {
        self.columns.ids.len() as u32
    }

    fn id(&self, row: Ordinal) -> Result<RowId> {
        Ok(self.columns.ids.get(row.index()))
    }

    fn by_id(&self, rank: u32) -> Result<Ordinal> {
        Ok(Ordinal(self.columns.order[rank as usize]))
    }

    fn vectors(&self, first: Ordinal, count: u32) -> Result<&[u8]> {
        let start = first.index() * self.vector_bytes;
        Ok(&self.vectors[start..start + count as usize * self.vector_bytes])
    }

    fn will_need(&self, _: Ordinal) {}

    fn payload(&self, row: Ordinal) -> Result<String> {
        Ok(self.payloads[row.index()].to_string())
    }

    fn norms(&self) -> &[f32] {
        &self.columns.norms
    }

    fn codes(&self) -> &[CodeColumn] {
        &self.columns.codes
    }

    fn ram_bytes(&self) -> usize {
        let codes: usize = self.columns.codes.iter().map(CodeColumn::ram_bytes).sum();
        let payloads: usize = self.payloads.iter().map(|p| p.len() + size_of::<Box<str>>()).sum();
        let ids = match &self.columns.ids {
            IdColumn::U64(ids) => ids.len() * 8,
            IdColumn::Str { ends, text } => ends.len() * 8 + text.len(),
        };
        self.vectors.len() + codes + payloads + ids + self.columns.order.len() * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ids: &[&str]) -> Run {
        let schema = Schema::builder(3).ids(IdKind::Str).build().expect("valid");
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

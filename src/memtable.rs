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

/// An immutable set of rows in RAM.
pub(crate) struct Run {
    pub(crate) ids: IdColumn,
    pub(crate) order: Vec<u32>,
    pub(crate) vectors: Vec<u8>,
    pub(crate) payloads: Vec<Box<str>>,
    norms: Vec<f32>,
    codes: Vec<CodeColumn>,
    vector_bytes: usize,
}

/// Gathers rows for a [`Run`]. Every id comes at most once.
pub(crate) struct RunBuilder {
    run: Run,
    codes: Vec<StageBuilder>,
    stored: Precision,
    /// The row at hand, widened.
    wide: Vec<f32>,
}

impl RunBuilder {
    pub(crate) fn new(schema: &Schema) -> Self {
        let run = Run {
            ids: IdColumn::new(schema.ids()),
            order: Vec::new(),
            vectors: Vec::new(),
            payloads: Vec::new(),
            norms: Vec::new(),
            codes: Vec::new(),
            vector_bytes: schema.vector_bytes(),
        };
        let codes = schema.stages().iter().map(|code| StageBuilder::new(*code)).collect();
        Self { run, codes, stored: schema.stored(), wide: vec![0.0; schema.dims()] }
    }

    /// Adds a row: `vector` as stored, `payload` as JSON text.
    pub(crate) fn push(&mut self, id: &RowId, vector: &[u8], payload: &str) {
        self.stored.decode(vector, &mut self.wide);
        self.codes.iter_mut().for_each(|code| code.push(&self.wide));
        // The scalar definition: norms are stored, so they must not depend on
        // the machine (all kernels agree, but nothing here is hot).
        let norm = row::norm_squared(Isa::detect(), self.stored, vector).sqrt();
        self.run.norms.push(norm as f32);
        self.run.ids.push(id);
        self.run.vectors.extend_from_slice(vector);
        self.run.payloads.push(payload.into());
    }

    /// Adds all rows of `from` but those for which `dead` says so.
    pub(crate) fn push_rows(&mut self, from: &dyn Rows, dead: impl Fn(u32) -> bool) -> Result<()> {
        for row in (0..from.len()).filter(|row| !dead(*row)).map(Ordinal) {
            self.push(&from.id(row)?, from.vectors(row, 1)?, &from.payload(row)?);
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.run.ids.len()
    }

    pub(crate) fn finish(self) -> Run {
        let mut run = self.run;
        run.order = run.ids.order();
        run.codes = self.codes.into_iter().map(column).collect();
        run
    }
}

fn column(builder: StageBuilder) -> CodeColumn {
    let code = builder.view().code();
    let (blocks, factors) = builder.finish();
    CodeColumn::new(code, blocks, factors).expect("a builder's parts fit each other")
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
        let start = first.index() * self.vector_bytes;
        Ok(&self.vectors[start..start + count as usize * self.vector_bytes])
    }

    fn will_need(&self, _: Ordinal) {}

    fn payload(&self, row: Ordinal) -> Result<String> {
        Ok(self.payloads[row.index()].to_string())
    }

    fn norms(&self) -> &[f32] {
        &self.norms
    }

    fn codes(&self) -> &[CodeColumn] {
        &self.codes
    }

    fn ram_bytes(&self) -> usize {
        let codes: usize = self.codes.iter().map(CodeColumn::ram_bytes).sum();
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

    #[test]
    fn merging_leaves_the_dead_behind() {
        let (a, b) = (run(&["a", "b", "c"]), run(&["d"]));
        let schema = Schema::builder(3).ids(IdKind::Str).build().expect("valid");
        let mut merged = RunBuilder::new(&schema);
        merged.push_rows(&a, |row| row == 1).expect("merge");
        merged.push_rows(&b, |_| false).expect("merge");
        let merged = merged.finish();
        assert_eq!(merged.len(), 3);
        assert_eq!(merged.find(&"b".into()).expect("find"), None);
        let c = merged.find(&"c".into()).expect("find").expect("kept");
        assert_eq!(merged.payload(c).expect("payload"), "{\"n\":2}");
        assert_eq!(
            merged.vectors(c, 1).expect("vector"),
            a.vectors(Ordinal(2), 1).expect("vector")
        );
        assert!((merged.norms()[c.index()] - 3.0).abs() < 1e-6);
    }
}

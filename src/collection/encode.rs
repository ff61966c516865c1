//! A row as the user gives it becomes a row as it is stored, or is refused.

use serde_json::Value;

use crate::encoding::Precision;
use crate::error::{Result, VectorError};
use crate::payload;
use crate::schema::Schema;
use crate::types::RowId;
use crate::wal::ops::MAX_PAYLOAD;

/// Buffers for the row at hand.
#[derive(Default)]
pub(super) struct RowEncoder {
    /// The vector in stored precision.
    pub(super) vector: Vec<u8>,
    /// The payload as JSON text.
    pub(super) payload: String,
    wide: Vec<f32>,
}

impl RowEncoder {
    /// Checks a row against the schema and leaves its stored form here.
    pub(super) fn encode(
        &mut self,
        schema: &Schema,
        id: &RowId,
        vector: &[f32],
        payload: Value,
    ) -> Result<()> {
        id.check(schema.ids())?;
        schema.check_vector(vector, schema.dims())?;
        self.payload = payload::to_text(payload, MAX_PAYLOAD)?;
        self.vector.clear();
        let stored = schema.stored();
        stored.encode(vector, &mut self.vector).map_err(|at| VectorError::OutOfRange {
            at,
            value: vector[at],
            stored: stored.name(),
        })?;
        if stored == Precision::F32 {
            return Ok(());
        }
        // Rounding can change the norm, even to zero; what counts is what is kept.
        self.wide.resize(schema.dims(), 0.0);
        stored.decode(&self.vector, &mut self.wide);
        schema.check_vector(&self.wide, schema.dims())
    }
}

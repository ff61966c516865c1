//! A row as the user gives it becomes a row as it is stored, or is refused.

use serde_json::Value;

use crate::encoding::Precision;
use crate::error::{Result, VectorError};
use crate::index;
use crate::payload;
use crate::schema::Schema;
use crate::types::RowId;
use crate::wal::ops::MAX_PAYLOAD;

/// Buffers for the row at hand.
#[derive(Default)]
pub(super) struct RowEncoder {
    /// The payload as JSON text.
    pub(super) payload: String,
    /// The vector as it was stored, widened again.
    pub(super) wide: Vec<f32>,
    /// Whether payloads are those of rows that are stored already.
    pub(super) stored: bool,
}

impl RowEncoder {
    /// Checks a row against the schema and leaves its payload's stored form here.
    /// Only [`Self::put_vector`] knows whether the vector can be stored.
    pub(super) fn check(
        &mut self,
        schema: &Schema,
        id: &RowId,
        vector: &[f32],
        payload: Value,
    ) -> Result<()> {
        id.check(schema.ids())?;
        schema.check_vector(vector, schema.dims())?;
        self.check_payload(schema, payload)
    }

    /// The same of a payload alone.
    pub(super) fn check_payload(&mut self, schema: &Schema, payload: Value) -> Result<()> {
        index::check(schema.fields(), &payload, self.stored)?;
        self.payload = payload::to_text(payload, MAX_PAYLOAD)?;
        Ok(())
    }

    /// Appends the vector of the row that was checked, in stored precision. After an
    /// error what was appended is to be taken back.
    ///
    /// `wide` is the buffer of that name: the payload is in use meanwhile.
    pub(super) fn put_vector(
        wide: &mut Vec<f32>,
        schema: &Schema,
        vector: &[f32],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let (start, stored) = (out.len(), schema.stored());
        stored.encode(vector, out).map_err(|at| VectorError::OutOfRange {
            at,
            value: vector[at],
            stored: stored.name(),
        })?;
        if stored == Precision::F32 {
            return Ok(());
        }
        // Rounding can change the norm, even to zero; what counts is what is kept.
        wide.resize(schema.dims(), 0.0);
        stored.decode(&out[start..], wide);
        schema.check_vector(wide, schema.dims())
    }
}

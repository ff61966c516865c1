//! Payloads become the index of each declared field.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::{Map, Value};

use super::value::{self, Key};
use super::{Form, field_index};
use crate::codec::put;
use crate::schema::{Field, FieldKind};

/// A field of at most this many distinct values keeps a bitmap for each. With more,
/// a range of values would be a union of very many small bitmaps.
pub(crate) const MOST_BITMAPS: usize = 256;

/// Gathers the values of consecutive rows.
pub(crate) struct IndexBuilder {
    fields: Arc<[Field]>,
    columns: Vec<Column>,
    rows: u32,
}

/// The values of one field; of keywords each text once.
#[derive(Default)]
struct Column {
    texts: HashMap<Box<str>, u64>,
    /// (number or position among the texts, row).
    pairs: Vec<(u64, u32)>,
}

impl IndexBuilder {
    pub(crate) fn new(fields: Arc<[Field]>) -> Self {
        let columns = fields.iter().map(|_| Column::default()).collect();
        Self { fields, columns, rows: 0 }
    }

    /// Adds the payload of the next row.
    ///
    /// # Errors
    /// Says what is wrong with a text that no batch would have taken.
    pub(crate) fn push(&mut self, text: &str) -> Result<(), String> {
        let row = self.rows;
        self.rows += 1;
        if self.fields.is_empty() || text.is_empty() {
            return Ok(());
        }
        let payload: Map<String, Value> =
            serde_json::from_str(text).map_err(|e| format!("is not JSON: {e}"))?;
        for (field, column) in self.fields.iter().zip(&mut self.columns) {
            value::keys(field, &payload)?.into_iter().for_each(|key| column.push(key, row));
        }
        Ok(())
    }

    /// The bytes of each field's index, in the order of the schema.
    pub(crate) fn finish(self) -> impl Iterator<Item = Vec<u8>> {
        let numbers = |field: &Field| field.kind() != FieldKind::Keyword;
        let numbers: Vec<bool> = self.fields.iter().map(numbers).collect();
        self.columns.into_iter().zip(numbers).map(|(column, numbers)| column.encode(numbers))
    }
}

impl Column {
    fn push(&mut self, key: Key, row: u32) {
        let number = match key {
            Key::Number(n) => n,
            Key::Text(text) => {
                let next = self.texts.len() as u64;
                *self.texts.entry(text).or_insert(next)
            }
        };
        self.pairs.push((number, row));
    }

    /// Sorts by value, then row; a row has a value once.
    fn encode(self, numbers: bool) -> Vec<u8> {
        let Self { texts, mut pairs } = self;
        let mut texts: Vec<(Box<str>, u64)> = texts.into_iter().collect();
        texts.sort_unstable();
        let mut ranks = vec![0; texts.len()];
        for ((_, position), rank) in texts.iter().zip(0..) {
            ranks[*position as usize] = rank;
        }
        if !numbers {
            pairs.iter_mut().for_each(|(number, _)| *number = ranks[*number as usize]);
        }
        pairs.sort_unstable();
        pairs.dedup();
        let keys = if numbers { number_keys(&pairs) } else { text_keys(&texts) };
        encode(&pairs, &keys)
    }
}

/// Each number once.
fn number_keys(pairs: &[(u64, u32)]) -> Vec<u8> {
    values(pairs).flat_map(|of_value| of_value[0].0.to_le_bytes()).collect()
}

/// Where each text ends, then the texts.
fn text_keys(texts: &[(Box<str>, u64)]) -> Vec<u8> {
    let ends = texts.iter().scan(0, |end: &mut u64, (text, _)| {
        *end += text.len() as u64;
        Some(*end)
    });
    let mut keys: Vec<u8> = ends.flat_map(u64::to_le_bytes).collect();
    texts.iter().for_each(|(text, _)| keys.extend_from_slice(text.as_bytes()));
    keys
}

/// The pairs of one value after the other.
fn values(pairs: &[(u64, u32)]) -> impl Iterator<Item = &[(u64, u32)]> {
    pairs.chunk_by(|a, b| a.0 == b.0)
}

fn encode(pairs: &[(u64, u32)], keys: &[u8]) -> Vec<u8> {
    use field_index as f;
    let distinct = values(pairs).count();
    let form = if distinct <= MOST_BITMAPS { Form::Bitmaps } else { Form::Numbers };
    let (mut ends, mut rows) = (Vec::with_capacity(distinct * 8), Vec::new());
    for of_value in values(pairs) {
        let of_value = of_value.iter().map(|pair| pair.1);
        match form {
            Form::Numbers => rows.extend(of_value.flat_map(u32::to_le_bytes)),
            Form::Bitmaps => put_bitmap(&of_value.collect(), &mut rows),
        }
        ends.extend((rows.len() as u64).to_le_bytes());
    }
    let mut present = Vec::new();
    put_bitmap(&pairs.iter().map(|pair| pair.1).collect(), &mut present);
    let mut head = [0; f::LEN];
    put(&mut head, f::FORM, &(form as u32).to_le_bytes());
    put(&mut head, f::VALUES, &(distinct as u32).to_le_bytes());
    put(&mut head, f::PRESENT_LEN, &(present.len() as u64).to_le_bytes());
    put(&mut head, f::KEYS_LEN, &(keys.len() as u64).to_le_bytes());
    put(&mut head, f::ROWS_LEN, &(rows.len() as u64).to_le_bytes());
    [head.as_slice(), &present, keys, &ends, &rows].concat()
}

fn put_bitmap(bitmap: &RoaringBitmap, into: &mut Vec<u8>) {
    bitmap.serialize_into(into).expect("writing to a Vec does not fail");
}

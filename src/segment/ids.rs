//! Reading one id out of the region of ids.

use std::path::Path;

use super::region::Region;
use crate::codec::Reader;
use crate::error::{Error, Result};
use crate::types::{IdKind, RowId};

/// The id of a row of `rows`.
pub(super) fn read(
    ids: &Region,
    kind: IdKind,
    rows: u32,
    row: usize,
    file: &Path,
) -> Result<RowId> {
    match kind {
        IdKind::U64 => number(ids, row * 8, file).map(RowId::U64),
        IdKind::Str => text(ids, rows as usize, row, file),
    }
}

fn number(ids: &Region, at: usize, file: &Path) -> Result<u64> {
    Reader::new(ids.get(at, 8)?).u64().map_err(|e| e.in_file(file, 0))
}

fn text(ids: &Region, rows: usize, row: usize, file: &Path) -> Result<RowId> {
    let wrong = |what: &str| Error::corrupt(file, 0, format!("id of row {row} {what}"));
    let end_of = |row: usize| -> Result<usize> {
        Ok(usize::try_from(number(ids, row * 8, file)?).unwrap_or(usize::MAX))
    };
    let start = if row == 0 { 0 } else { end_of(row - 1)? };
    let len = end_of(row)?.checked_sub(start);
    let (Some(len), Some(at)) = (len, (rows * 8).checked_add(start)) else {
        return Err(wrong("ends before it begins"));
    };
    let text = std::str::from_utf8(ids.get(at, len)?);
    text.map(RowId::from).map_err(|_| wrong("is not UTF-8"))
}

//! Answers questions from the bytes of an index. They may come from a file that
//! was made to harm us: every position is checked before it is used, and every
//! row is one of those there are.
#![deny(clippy::indexing_slicing, clippy::unwrap_used)]

use std::cmp::Ordering;
use std::ops::{Bound, Range};

use roaring::{MultiOps, RoaringBitmap};

use super::{Form, Key, Test, field_index};
use crate::codec::{Fields, FormatError, Reader};
use crate::error::{Error, Result};
use crate::schema::{Field, FieldKind};

/// Stands for a row without a value.
pub(crate) const NO_VALUE: u32 = u32::MAX;

/// Where the bytes of an index are.
pub(crate) trait Source {
    /// Number of bytes.
    fn len(&self) -> usize;

    /// Some of them, checked against their checksums where they have any.
    fn get(&self, at: usize, len: usize) -> Result<&[u8]>;

    /// Some of them, whatever they are and without reading them; `None` where they are not.
    fn peek(&self, at: usize, len: usize) -> Option<&[u8]> {
        self.get(at, len).ok()
    }

    /// The error that names the file and the place in it.
    fn corrupt(&self, at: usize, what: &str) -> Error;

    /// Says that some of them will be read soon.
    fn will_need(&self, _at: usize, _len: usize) {}

    /// What was asked for may have left memory again.
    fn ask_again(&self) {}
}

/// The index of one field of a set of rows.
pub(crate) struct Index<'a> {
    source: &'a dyn Source,
    rows: u32,
    text: bool,
    form: Form,
    /// Distinct values.
    values: usize,
    present: Range<usize>,
    keys: Range<usize>,
    ends: usize,
    rows_of: Range<usize>,
}

impl<'a> Index<'a> {
    /// The index of `field` of `rows` rows.
    pub(crate) fn new(source: &'a dyn Source, field: &Field, rows: u32) -> Result<Self> {
        use field_index as f;
        let wrong = || source.corrupt(0, "head of a field index contradicts itself");
        let head = source.get(0, f::LEN)?;
        let form = match head.u32(f::FORM) {
            0 => Form::Bitmaps,
            1 => Form::Numbers,
            _ => return Err(source.corrupt(0, "form of a field index is unknown")),
        };
        let len = |range| usize::try_from(head.u64(range)).ok();
        let values = head.u32(f::VALUES) as usize;
        let text = field.kind() == FieldKind::Keyword;
        let parts = [
            Some(f::LEN),
            len(f::PRESENT_LEN),
            len(f::KEYS_LEN),
            values.checked_mul(8),
            len(f::ROWS_LEN),
        ];
        let mut starts = [0; 6];
        let mut end = 0usize;
        for (part, start) in parts.into_iter().zip(starts.iter_mut().skip(1)) {
            end = part.and_then(|part| end.checked_add(part)).ok_or_else(wrong)?;
            *start = end;
        }
        let [_, present, keys, ends, rows_of, end] = starts;
        let keys_fit = if text { ends - keys >= values * 8 } else { ends - keys == values * 8 };
        if end != source.len() || !keys_fit {
            return Err(wrong());
        }
        let (present, keys) = (present..keys, keys..ends);
        Ok(Self { source, rows, text, form, values, present, keys, ends, rows_of: rows_of..end })
    }

    /// The rows that pass a test; `bytes` grows by what of them was read.
    pub(crate) fn select(&self, test: &Test, bytes: &mut u64) -> Result<RoaringBitmap> {
        let ranges = match test {
            Test::Exists => {
                *bytes += self.present.len() as u64;
                return self.bitmap(self.present.clone());
            }
            Test::Keys(keys) => {
                let found = keys.iter().filter_map(|key| self.find(key).transpose());
                found.collect::<Result<Vec<_>>>()?
            }
            Test::Range(low, high) => Vec::from([self.between(low, high)?]),
            Test::Prefix(prefix) => Vec::from([self.beginning(prefix)?]),
        };
        // Bounds the wrong way round hold nothing.
        let ranges = ranges.into_iter().filter(|range| !range.is_empty());
        match self.form {
            Form::Bitmaps => self.union(ranges.flatten(), bytes),
            Form::Numbers => self.gather(ranges, bytes),
        }
    }

    /// For each row the number of its value, [`NO_VALUE`] where it has none; of several values
    /// of a row any. [`Self::key`] says what a number stands for.
    pub(crate) fn numbers(&self) -> Result<Vec<u32>> {
        let mut numbers = vec![NO_VALUE; self.rows as usize];
        for value in 0..self.values {
            let range = self.extent(self.ends, value, &self.rows_of)?;
            let outside = || self.source.corrupt(range.start, "a value names a row beyond all");
            let mut set = |row: u32| -> Result<()> {
                *numbers.get_mut(row as usize).ok_or_else(outside)? = value as u32;
                Ok(())
            };
            match self.form {
                Form::Bitmaps => self.bitmap(range.clone())?.iter().try_for_each(set)?,
                Form::Numbers => {
                    let rows = self.bytes(range.clone())?.as_chunks::<4>().0;
                    rows.iter().try_for_each(|row| set(u32::from_le_bytes(*row)))?;
                }
            }
        }
        Ok(numbers)
    }

    /// The value of a number below that of all values.
    pub(crate) fn key(&self, number: u32) -> Result<Key> {
        let at = number as usize;
        if !self.text {
            return Ok(Key::Number(self.number(self.keys.start, at)?));
        }
        let text = std::str::from_utf8(self.text_at(at)?);
        let text =
            text.map_err(|_| self.source.corrupt(self.keys.start, "a value is not UTF-8"))?;
        Ok(Key::Text(text.into()))
    }

    fn between(&self, low: &Bound<Key>, high: &Bound<Key>) -> Result<Range<usize>> {
        let start = self.position(|at| self.is_before(at, low))?;
        let end = self.position(|at| Ok(!self.is_after(at, high)?))?;
        Ok(start..end)
    }

    fn beginning(&self, prefix: &str) -> Result<Range<usize>> {
        let key = Key::Text(prefix.into());
        let start = self.position(|at| Ok(self.compare(at, &key)?.is_lt()))?;
        let end = self.position(|at| {
            let before = self.compare(at, &key)?.is_lt();
            Ok(before || self.text_at(at)?.starts_with(prefix.as_bytes()))
        })?;
        Ok(start..end)
    }

    /// The first value for which `before` does not hold; it holds for those
    /// before it.
    fn position(&self, before: impl Fn(usize) -> Result<bool>) -> Result<usize> {
        let (mut low, mut high) = (0, self.values);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(middle)? { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    fn find(&self, key: &Key) -> Result<Option<Range<usize>>> {
        let at = self.position(|at| Ok(self.compare(at, key)?.is_lt()))?;
        let there = at < self.values && self.compare(at, key)?.is_eq();
        Ok(there.then_some(at..at + 1))
    }

    fn is_before(&self, at: usize, low: &Bound<Key>) -> Result<bool> {
        Ok(match low {
            Bound::Unbounded => false,
            Bound::Included(key) => self.compare(at, key)?.is_lt(),
            Bound::Excluded(key) => self.compare(at, key)?.is_le(),
        })
    }

    fn is_after(&self, at: usize, high: &Bound<Key>) -> Result<bool> {
        Ok(match high {
            Bound::Unbounded => false,
            Bound::Included(key) => self.compare(at, key)?.is_gt(),
            Bound::Excluded(key) => self.compare(at, key)?.is_ge(),
        })
    }

    /// The value at a position against a key of the field's kind.
    fn compare(&self, at: usize, key: &Key) -> Result<Ordering> {
        match key {
            Key::Text(text) if self.text => Ok(self.text_at(at)?.cmp(text.as_bytes())),
            Key::Number(n) if !self.text => Ok(self.number(self.keys.start, at)?.cmp(n)),
            _ => unreachable!("filters are bound to the kinds of the schema's fields"),
        }
    }

    /// Number `n` of the `u64`s from `start`.
    fn number(&self, start: usize, n: usize) -> Result<u64> {
        let bytes = self.source.get(start + n * 8, 8)?;
        Reader::new(bytes).u64().map_err(|e: FormatError| self.source.corrupt(start, e.what))
    }

    /// From where to where item `at` reaches in `area`, by the list of ends at `ends`.
    fn extent(&self, ends: usize, at: usize, area: &Range<usize>) -> Result<Range<usize>> {
        let start = if at == 0 { 0 } else { self.number(ends, at - 1)? };
        let end = self.number(ends, at)?;
        let within = |n: u64| usize::try_from(n).ok().and_then(|n| n.checked_add(area.start));
        match (within(start), within(end)) {
            (Some(start), Some(end)) if start <= end && end <= area.end => Ok(start..end),
            _ => Err(self.source.corrupt(ends, "values of a field index overlap")),
        }
    }

    fn text_at(&self, at: usize) -> Result<&[u8]> {
        let texts = self.keys.start + self.values * 8..self.keys.end;
        self.bytes(self.extent(self.keys.start, at, &texts)?)
    }

    fn bytes(&self, range: Range<usize>) -> Result<&[u8]> {
        self.source.get(range.start, range.len())
    }

    /// Rows of some values, by their bitmaps.
    fn union(&self, values: impl Iterator<Item = usize>, bytes: &mut u64) -> Result<RoaringBitmap> {
        let bitmaps = values.map(|at| {
            let range = self.extent(self.ends, at, &self.rows_of)?;
            *bytes += range.len() as u64;
            self.bitmap(range)
        });
        bitmaps.union()
    }

    fn bitmap(&self, range: Range<usize>) -> Result<RoaringBitmap> {
        let mut bytes = self.bytes(range.clone())?;
        let bitmap = RoaringBitmap::deserialize_from(&mut bytes);
        match bitmap {
            Ok(rows) if bytes.is_empty() && rows.max().is_none_or(|max| max < self.rows) => {
                Ok(rows)
            }
            _ => Err(self.source.corrupt(range.start, "rows of a value are not a bitmap of them")),
        }
    }

    /// Rows of some ranges of values, by their numbers.
    fn gather(
        &self,
        ranges: impl Iterator<Item = Range<usize>>,
        bytes: &mut u64,
    ) -> Result<RoaringBitmap> {
        let slice = |range: Range<usize>| {
            let first = self.extent(self.ends, range.start, &self.rows_of)?;
            let last = self.extent(self.ends, range.end - 1, &self.rows_of)?;
            if first.start > last.end || !(last.end - first.start).is_multiple_of(4) {
                return Err(self.source.corrupt(self.ends, "values of a field index overlap"));
            }
            self.bytes(first.start..last.end)
        };
        let slices = ranges.map(slice).collect::<Result<Vec<_>>>()?;
        let numbers = slices.iter().flat_map(|slice| slice.as_chunks::<4>().0);
        let numbers = numbers.map(|four| u32::from_le_bytes(*four));
        let count: usize = slices.iter().map(|slice| slice.len() / 4).sum();
        *bytes += count as u64 * 4;
        let rows = rows(numbers, count, self.rows);
        let outside = || self.source.corrupt(self.rows_of.start, "a value names a row beyond all");
        rows.ok_or_else(outside)
    }
}

/// A bitmap of `count` row numbers in any order; `None` if one is not below
/// `rows`. Few are sorted, many are marked.
fn rows(numbers: impl Iterator<Item = u32>, count: usize, rows: u32) -> Option<RoaringBitmap> {
    if count < rows as usize / 64 {
        let mut few: Vec<u32> = numbers.collect();
        few.sort_unstable();
        few.dedup();
        let inside = few.last().is_none_or(|max| *max < rows);
        return inside.then(|| RoaringBitmap::from_sorted_iter(few).expect("sorted, each once"));
    }
    let mut marks = vec![0u8; (rows as usize).div_ceil(8)];
    for row in numbers {
        *marks.get_mut(row as usize / 8).filter(|_| row < rows)? |= 1 << (row % 8);
    }
    Some(RoaringBitmap::from_lsb0_bytes(0, &marks))
}

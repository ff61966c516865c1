use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;
use crate::error::{Error, Result};
use crate::schema::{Field, FieldKind, Schema};

struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, at: usize, len: usize) -> Result<&[u8]> {
        let end = at.checked_add(len).filter(|end| *end <= self.0.len());
        Ok(&self.0[at..end.ok_or_else(|| self.corrupt(at, "beyond the end"))?])
    }

    fn corrupt(&self, at: usize, what: &str) -> Error {
        Error::corrupt("index", at as u64, what)
    }
}

fn field(kind: FieldKind) -> Field {
    Schema::builder(1).list_field("x", kind).build().expect("valid").fields()[0].clone()
}

fn built(kind: FieldKind, rows: &[Vec<Value>]) -> Bytes {
    let mut builder = IndexBuilder::new([field(kind)].into());
    for values in rows {
        builder.push(&json!({"x": values}).to_string()).expect("values fit");
    }
    Bytes(builder.finish().next().expect("one field"))
}

fn select(bytes: &Bytes, kind: FieldKind, rows: usize, test: &Test) -> Result<Vec<u32>> {
    let found = Index::new(bytes, &field(kind), rows as u32)?.select(test, &mut 0)?;
    Ok(found.into_iter().collect())
}

/// Rows of up to three values, of which there are about as many as asked for.
fn rows(kind: FieldKind, distinct: u64) -> Vec<Vec<Value>> {
    let mut state = distinct;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let value = |n: u64| match kind {
        FieldKind::Keyword => json!(format!("{:b}", n * n)),
        FieldKind::Float => json!(n as f64 / 7.0 - 20.0),
        FieldKind::Bool => json!(n.is_multiple_of(2)),
        _ => json!(n as i64 - 100),
    };
    (0..3000).map(|_| (0..next(4)).map(|_| value(next(distinct))).collect()).collect()
}

fn tests(kind: FieldKind, keys: &[Key]) -> Vec<Test> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let at = |share: usize| keys[(keys.len() - 1) * share / 4].clone();
    let mut tests = vec![
        Test::Exists,
        Test::Keys(vec![]),
        Test::Keys(vec![at(0), at(2), at(4)]),
        Test::Range(Unbounded, Unbounded),
        Test::Range(Unbounded, Excluded(at(1))),
        Test::Range(Unbounded, Included(at(1))),
        Test::Range(Excluded(at(3)), Unbounded),
        Test::Range(Included(at(3)), Unbounded),
        Test::Range(Included(at(1)), Included(at(3))),
        Test::Range(Excluded(at(3)), Excluded(at(1))),
    ];
    if kind == FieldKind::Keyword {
        let absent = Test::Keys(vec![Key::Text("2".into())]);
        let prefixes = ["", "1", "110", "1100100", "2"].map(|prefix| Test::Prefix(prefix.into()));
        tests.extend(prefixes.into_iter().chain([absent]));
    }
    tests
}

fn passes(test: &Test, keys: &[Key]) -> bool {
    use std::ops::RangeBounds;
    keys.iter().any(|key| match test {
        Test::Exists => true,
        Test::Keys(wanted) => wanted.contains(key),
        Test::Range(low, high) => (low.clone(), high.clone()).contains(key),
        Test::Prefix(prefix) => matches!(key, Key::Text(text) if text.starts_with(&**prefix)),
    })
}

#[test]
fn answers_are_those_of_looking_at_every_value() {
    for (kind, distinct) in
        FieldKind::ALL.into_iter().flat_map(|kind| [1, 5, 256, 257, 2000].map(|n| (kind, n)))
    {
        let rows = rows(kind, distinct);
        let key = |value: &Value| Key::of(kind, value).expect("fits");
        let keys: Vec<Vec<Key>> = rows.iter().map(|row| row.iter().map(key).collect()).collect();
        let mut all: Vec<Key> = keys.concat();
        all.sort_unstable();
        all.dedup();
        let bytes = built(kind, &rows);
        for test in tests(kind, &all) {
            let expected: Vec<u32> = (0u32..)
                .zip(&keys)
                .filter(|(_, keys)| passes(&test, keys))
                .map(|(row, _)| row)
                .collect();
            let found = select(&bytes, kind, rows.len(), &test).expect("intact");
            assert_eq!(found, expected, "{kind} of {distinct} values: {test:?}");
        }
    }
}

#[test]
fn rows_without_values_have_an_index_too() {
    for rows in [vec![], vec![vec![]; 3]] {
        let bytes = built(FieldKind::Keyword, &rows);
        for test in tests(FieldKind::Keyword, &[Key::Text("a".into())]) {
            let found = select(&bytes, FieldKind::Keyword, rows.len(), &test);
            assert!(found.expect("intact").is_empty());
        }
    }
}

/// A value of each row that has one.
fn one_value_each(bytes: &Bytes, kind: FieldKind, rows: usize) -> Result<Vec<Option<Key>>> {
    let field = field(kind);
    let index = Index::new(bytes, &field, rows as u32)?;
    let value = |number| match number {
        NO_VALUE => Ok(None),
        number => index.key(number).map(Some),
    };
    index.numbers()?.into_iter().map(value).collect()
}

#[test]
fn the_number_of_a_row_stands_for_one_of_its_values() {
    for (kind, distinct) in FieldKind::ALL.into_iter().flat_map(|kind| [5, 2000].map(|n| (kind, n)))
    {
        let rows = rows(kind, distinct);
        let found = one_value_each(&built(kind, &rows), kind, rows.len()).expect("intact");
        assert_eq!(found.len(), rows.len());
        for (row, found) in rows.iter().zip(found) {
            let keys: Vec<_> = row.iter().map(|v| Key::of(kind, v).expect("fits")).collect();
            assert_eq!(found.is_none(), keys.is_empty());
            assert!(found.is_none_or(|key| keys.contains(&key)), "{kind}: {row:?}");
        }
    }
}

/// No checksum stands in front of these bytes: they are what a forged file holds.
#[test]
fn any_bytes_are_answered_or_refused() {
    let mut outcomes = BTreeMap::new();
    for (kind, distinct) in [
        (FieldKind::Keyword, 4),
        (FieldKind::Keyword, 3000),
        (FieldKind::Integer, 4),
        (FieldKind::Integer, 3000),
    ] {
        let rows = &rows(kind, distinct)[..if distinct == 4 { 20 } else { 600 }];
        let good = built(kind, rows);
        let all: Vec<Key> = [json!("1"), json!("11"), json!(-50), json!(7)]
            .iter()
            .filter_map(|value| Key::of(kind, value).ok())
            .collect();
        for at in 0..good.0.len() {
            for change in [1, 0x80, 0xff] {
                let mut bad = Bytes(good.0.clone());
                bad.0[at] ^= change;
                for test in tests(kind, &all) {
                    let found = select(&bad, kind, rows.len(), &test);
                    if let Ok(found) = &found {
                        assert!(found.iter().all(|row| (*row as usize) < rows.len()));
                    }
                    *outcomes.entry(found.is_ok()).or_insert(0) += 1;
                }
                if let Ok(values) = one_value_each(&bad, kind, rows.len()) {
                    assert_eq!(values.len(), rows.len());
                }
            }
        }
        for len in 0..good.0.len() {
            let cut = Bytes(good.0[..len].to_vec());
            assert!(select(&cut, kind, rows.len(), &Test::Exists).is_err(), "cut at {len}");
        }
    }
    assert!(outcomes.values().all(|n| *n > 1000), "{outcomes:?}");
}

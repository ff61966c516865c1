//! Values of declared fields.

use serde_json::{Map, Value};

use super::time;
use crate::error::{Error, Result};
use crate::payload::{self, shown};
use crate::schema::{Field, FieldKind};

/// Longest keyword, in bytes.
pub(crate) const MAX_KEYWORD: usize = 65_535;

/// A value as it is indexed: keys order as values do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Key {
    Number(u64),
    Text(Box<str>),
}

impl Key {
    /// The key of a value of this kind; else what was expected and what came.
    pub(crate) fn of(kind: FieldKind, value: &Value) -> Result<Self, String> {
        let key = match kind {
            FieldKind::Keyword => {
                let short = value.as_str().filter(|text| text.len() <= MAX_KEYWORD);
                short.map(|text| Self::Text(text.into()))
            }
            FieldKind::Integer => value.as_i64().map(Self::integer),
            FieldKind::Float => value.as_f64().map(Self::float),
            FieldKind::Bool => value.as_bool().map(|b| Self::Number(u64::from(b))),
            FieldKind::Timestamp => {
                let moment = value.as_str().map_or_else(|| value.as_i64(), time::milliseconds);
                moment.map(Self::integer)
            }
        };
        key.ok_or_else(|| format!("expected {}, got {}", expected(kind), shown(value)))
    }

    fn integer(n: i64) -> Self {
        Self::Number(n.cast_unsigned() ^ (1 << 63))
    }

    fn float(x: f64) -> Self {
        // -0 is 0. Of the others the bits order as the numbers do, once the sign
        // is flipped, and all bits of the negative ones.
        let bits = if x == 0.0 { 0 } else { x.to_bits() };
        Self::Number(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 })
    }
}

fn expected(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Keyword => "text of at most 65535 bytes",
        FieldKind::Integer => "a whole number from -2^63 to 2^63 - 1",
        FieldKind::Float => "a number",
        FieldKind::Bool => "true or false",
        FieldKind::Timestamp => "RFC 3339 text or whole milliseconds since 1970",
    }
}

/// What a payload holds at a field's path; none for null, and where the path
/// leads nowhere.
fn find<'v>(field: &Field, payload: &'v Map<String, Value>) -> Option<&'v Value> {
    payload::at(payload, field.name()).filter(|value| !value.is_null())
}

/// The keys of a payload's values of a field, or why it has none that can be.
pub(super) fn keys(field: &Field, payload: &Map<String, Value>) -> Result<Vec<Key>, String> {
    let Some(value) = find(field, payload) else { return Ok(Vec::new()) };
    let named = |why| format!("field {field}: {why}");
    match (field.is_list(), value) {
        (true, Value::Array(all)) => {
            let keys = all.iter().map(|value| Key::of(field.kind(), value));
            keys.collect::<Result<_, _>>().map_err(|why| named(format!("in the list, {why}")))
        }
        (true, other) => Err(named(format!("expected an array, got {}", shown(other)))),
        (false, one) => Ok(vec![Key::of(field.kind(), one).map_err(named)?]),
    }
}

/// Checks the values of all declared fields.
///
/// # Errors
/// [`Error::Invalid`] names the field, what it expects and what came.
pub(crate) fn check(fields: &[Field], payload: &Value) -> Result<()> {
    let Value::Object(payload) = payload else { return Ok(()) };
    let wrong = fields.iter().find_map(|field| keys(field, payload).err());
    wrong.map_or(Ok(()), |why| Err(Error::invalid("payload", why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_order_as_the_values_do() {
        let ordered = |kind, values: Value| {
            let values = values.as_array().expect("a list").clone();
            let keys: Vec<Key> = values.iter().map(|v| Key::of(kind, v).expect("fits")).collect();
            assert!(keys.windows(2).all(|w| w[0] < w[1]), "{kind}: {keys:?}");
        };
        ordered(FieldKind::Integer, json!([i64::MIN, -5, -1, 0, 1, 7, i64::MAX]));
        let tiny = f64::from_bits(1);
        ordered(FieldKind::Float, json!([f64::MIN, -2, -1.5, -tiny, 0, tiny, 1, 1e300, f64::MAX]));
        ordered(FieldKind::Bool, json!([false, true]));
        ordered(FieldKind::Keyword, json!(["", "A", "a", "aa", "b", "\u{e9}", "\u{1f980}"]));
        ordered(FieldKind::Timestamp, json!([-1, "1970-01-01", 1, "1970-01-01T00:00:00.002Z"]));
        assert_eq!(Key::float(-0.0), Key::float(0.0));
    }

    #[test]
    fn values_of_another_kind_are_named() {
        let schema = crate::schema::Schema::builder(1)
            .field("year", FieldKind::Integer)
            .list_field("author.tags", FieldKind::Keyword)
            .field("at", FieldKind::Timestamp)
            .build()
            .expect("valid");
        let says = |payload: Value| match check(schema.fields(), &payload) {
            Ok(()) => String::new(),
            Err(e) => e.to_string(),
        };
        for fine in [
            json!(null),
            json!({}),
            json!({"year": null, "author": null}),
            json!({"year": -3, "author": {"tags": []}}),
            json!({"author": {"tags": ["a", ""]}, "at": "2024-02-29", "other": {"year": "x"}}),
            json!({"author": "no object", "author.tags": 3}),
        ] {
            assert_eq!(says(fine), "");
        }
        let year = "field year (integer): expected a whole number from -2^63 to 2^63 - 1, got ";
        for bad in [json!("2020"), json!(2.5), json!(1u64 << 63), json!([2020]), json!(true)] {
            assert_eq!(says(json!({"year": bad})), format!("invalid payload: {year}{bad}"));
        }
        let tags = says(json!({"author": {"tags": "a"}}));
        assert!(tags.contains("author.tags (list of keyword): expected an array, got \"a\""));
        let tags = says(json!({"author": {"tags": ["a", null]}}));
        assert!(tags.contains("in the list, expected text"), "{tags}");
        assert!(says(json!({"at": "yesterday"})).contains("RFC 3339"));
        let long = says(json!({"author": {"tags": ["x".repeat(1 << 20)]}}));
        assert!(long.contains("65535") && long.len() < 250, "{long}");
    }
}

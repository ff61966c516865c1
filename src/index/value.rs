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
        key.ok_or_else(|| {
            let zone = match value {
                Value::String(text) if kind == FieldKind::Timestamp && time::lacks_zone(text) => {
                    " (its zone is missing: Z is UTC, +02:00 two hours east)"
                }
                _ => "",
            };
            format!("expected {}, got {}{zone}", expected(kind), shown(value))
        })
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

/// Checks the values of all declared fields, and of a payload that is not stored yet where they
/// are: filters would miss a value that was meant for a field and is not at its path, without a
/// word. A row that has one already is indexed without it ([`keys`]).
///
/// # Errors
/// [`Error::Invalid`] names the field, what it expects and what came.
pub(crate) fn check(fields: &[Field], payload: &Value, stored: bool) -> Result<()> {
    let Value::Object(payload) = payload else { return Ok(()) };
    let declared = |path: &str| fields.iter().any(|field| field.name() == path);
    let wrong = fields.iter().find_map(|field| {
        let astray = if stored { None } else { astray(field, payload, &declared) };
        astray.or_else(|| keys(field, payload).err())
    });
    wrong.map_or(Ok(()), |why| Err(Error::invalid("payload", why)))
}

/// What stands in the way of a field whose path has dots: a key with dots instead of objects
/// inside each other, or no object where the path goes through one, unless that is declared itself.
fn astray(
    field: &Field,
    payload: &Map<String, Value>,
    declared: &dyn Fn(&str) -> bool,
) -> Option<String> {
    let (name, mut object, mut from) = (field.name(), payload, 0);
    while let Some(dot) = name[from..].find('.') {
        let (rest, path) = (&name[from..], &name[..from + dot]);
        if object.get(rest).is_some_and(|value| !value.is_null()) {
            return Some(format!(
                "field {field}: the dots of its name go into nested objects, got one key {rest:?}"
            ));
        }
        match object.get(&rest[..dot]) {
            None | Some(Value::Null) => return None,
            Some(Value::Object(inner)) => (object, from) = (inner, from + dot + 1),
            Some(_) if declared(path) => return None,
            Some(other) => {
                let got = shown(other);
                return Some(format!("field {field}: expected an object at {path:?}, got {got}"));
            }
        }
    }
    None
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
    fn a_field_inside_another_that_is_declared_may_be_missing() {
        let schema = crate::schema::Schema::builder(1)
            .field("a", FieldKind::Keyword)
            .field("a.b.c", FieldKind::Integer)
            .field("d.e.f", FieldKind::Integer);
        let schema = schema.build().expect("valid");
        let fits = |payload: Value| check(schema.fields(), &payload, false).is_ok();
        assert!(fits(json!({"a": "text"})), "it is a keyword then");
        assert!(!fits(json!({"a": {"b": {"c": 1}}})), "no keyword");
        assert!(fits(json!({"d": {"e": {"f": 1}}})));
        for bad in [json!({"e.f": 1}), json!({"e": {"f": "1"}}), json!({"e": 1}), json!(true)] {
            assert!(!fits(json!({"d": bad})), "{bad}");
        }
        assert!(fits(json!({"d": {"e.f": null, "e": null}})));
        // What is stored already is indexed without.
        let stored = json!({"d.e.f": 1, "d": "text"});
        assert!(!fits(stored.clone()) && check(schema.fields(), &stored, true).is_ok());
        assert!(check(schema.fields(), &json!({"a": 1}), true).is_err(), "no keyword");
        assert_eq!(keys(&schema.fields()[2], stored.as_object().expect("one")), Ok(vec![]));
    }

    #[test]
    fn values_of_another_kind_are_named() {
        let schema = crate::schema::Schema::builder(1)
            .field("year", FieldKind::Integer)
            .list_field("author.tags", FieldKind::Keyword)
            .field("at", FieldKind::Timestamp)
            .build()
            .expect("valid");
        let says = |payload: Value| match check(schema.fields(), &payload, false) {
            Ok(()) => String::new(),
            Err(e) => e.to_string(),
        };
        for fine in [
            json!(null),
            json!({}),
            json!({"year": null, "author": null}),
            json!({"year": -3, "author": {"tags": []}}),
            json!({"author": {"tags": ["a", ""]}, "at": "2024-02-29", "other": {"year": "x"}}),
            json!({"author.tags": null, "author": {"other.tags": 3, "names": "x"}}),
            json!({"other": {"author": 3}, "author.tags.x": 1}),
        ] {
            assert_eq!(says(fine), "");
        }
        let field = "invalid payload: field author.tags (list of keyword): ";
        let dots = "the dots of its name go into nested objects, got one key \"author.tags\"";
        assert_eq!(says(json!({"author.tags": ["a"], "author": {}})), format!("{field}{dots}"));
        for (bad, got) in [(json!("Ann"), "\"Ann\""), (json!([{"tags": []}]), "[{\"tags\":[]}]")] {
            let expected = format!("{field}expected an object at \"author\", got {got}");
            assert_eq!(says(json!({"author": bad})), expected);
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
        let local = says(json!({"at": "2024-05-01T12:00:00"}));
        assert!(
            local.ends_with(
                "got \"2024-05-01T12:00:00\" (its zone is missing: Z is UTC, +02:00 two hours east)"
            ),
            "{local}"
        );
        let long = says(json!({"author": {"tags": ["x".repeat(1 << 20)]}}));
        assert!(long.contains("65535") && long.len() < 250, "{long}");
    }
}

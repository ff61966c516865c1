//! Payloads: a JSON object beside each vector.
//!
//! In the log and in RAM a payload is its JSON text; in a segment texts are
//! gathered into archived blocks ([`block`]).

pub(crate) mod block;

use serde_json::Value;

use crate::error::{Error, Result};

/// The payload of a row: a JSON object.
pub type Payload = serde_json::Map<String, Value>;

/// Most objects and arrays around a value; deeper text could not be read back.
pub(crate) const MAX_DEPTH: usize = 127;
/// Most characters of a value in a message.
const SHOWN: usize = 60;

/// What a payload holds under a name whose dots go into nested objects; none where the
/// path leads nowhere.
pub(crate) fn at<'p>(payload: &'p Payload, path: &str) -> Option<&'p Value> {
    let mut keys = path.split('.');
    let first = payload.get(keys.next()?);
    keys.fold(first, |value, key| value?.get(key))
}

/// JSON text of a payload given by the user; empty for none.
///
/// # Errors
/// [`Error::Invalid`] for anything but an object or null, objects nested deeper
/// than they can be read back, or text above `limit`.
pub(crate) fn to_text(payload: Value, limit: usize) -> Result<String> {
    if too_deep(&payload) {
        let why = format!("at most {MAX_DEPTH} objects and arrays inside each other");
        return Err(Error::invalid("payload", why));
    }
    let text = match payload {
        Value::Null => return Ok(String::new()),
        Value::Object(map) if map.is_empty() => return Ok(String::new()),
        Value::Object(_) => payload.to_string(),
        other => {
            let why = format!("expected a JSON object or null, got {}", shown(&other));
            return Err(Error::invalid("payload", why));
        }
    };
    if text.len() > limit {
        let why = format!("at most {limit} bytes of JSON, got {}", text.len());
        return Err(Error::invalid("payload", why));
    }
    Ok(text)
}

/// A value as messages show it: its JSON, of long ones the beginning.
pub(crate) fn shown(value: &Value) -> String {
    // Nobody waits for megabytes to be written out for a message.
    let text = match value {
        Value::String(s) if s.len() > 4 * SHOWN => {
            Value::from(s.chars().take(SHOWN).collect::<String>()).to_string()
        }
        Value::Array(all) if all.len() > SHOWN => return format!("{} values", all.len()),
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// Goes one nesting deeper at a time, on no stack.
fn too_deep(payload: &Value) -> bool {
    let mut at_depth = vec![payload];
    for _ in 0..=MAX_DEPTH {
        at_depth.retain(|value| value.is_object() || value.is_array());
        if at_depth.is_empty() {
            return false;
        }
        at_depth = at_depth.into_iter().flat_map(inner).collect();
    }
    true
}

fn inner(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(map) => map.values().collect(),
        Value::Array(values) => values.iter().collect(),
        _ => Vec::new(),
    }
}

/// The payload behind a text made by [`to_text`].
pub(crate) fn from_text(text: &str) -> Result<Payload, serde_json::Error> {
    if text.is_empty() { Ok(Payload::new()) } else { serde_json::from_str(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn nested(depth: usize) -> Value {
        (1..depth).fold(json!({"a": 1.5}), |inner, n| match n % 2 {
            0 => json!([inner]),
            _ => json!({"a": inner}),
        })
    }

    fn round_trip(payload: Value) -> Result<Value> {
        let text = to_text(payload, 1 << 20)?;
        Ok(Value::Object(from_text(&text).expect("what is accepted can be read back")))
    }

    #[test]
    fn payloads_are_accepted_up_to_the_depth_they_can_be_read_back_from() {
        let deepest = (1..200).filter(|depth| {
            let payload = json!({"a": nested(*depth)});
            round_trip(payload.clone()).is_ok_and(|back| back == payload)
        });
        assert_eq!(deepest.max(), Some(MAX_DEPTH - 1), "one more around it");
    }

    #[test]
    fn a_refusal_is_short_however_long_what_it_is_about() {
        for wrong in
            [json!("x".repeat(1 << 20)), json!(vec!["x"; 1 << 16]), json!([vec!["y"; 999]])]
        {
            let message = to_text(wrong, 1 << 20).expect_err("no object").to_string();
            assert!(message.contains("expected a JSON object or null, got "), "{message}");
            assert!(message.len() < 200, "{} bytes", message.len());
        }
    }

    #[test]
    fn a_path_goes_into_nested_objects() {
        let Value::Object(payload) = json!({"a": {"b": {"c": 7}}, "d": [1]}) else {
            panic!("an object")
        };
        assert_eq!(at(&payload, "a.b.c"), Some(&json!(7)));
        assert_eq!(at(&payload, "a.b"), Some(&json!({"c": 7})));
        for nowhere in ["", "b", "a.c", "a.b.c.d", "d.0", "a."] {
            assert_eq!(at(&payload, nowhere), None, "{nowhere}");
        }
    }

    #[test]
    fn numbers_come_back_to_the_last_bit() {
        let mut state = 1u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let number = f64::from_bits(state);
            if number.is_finite() {
                let payload = json!({"x": number, "n": state, "i": state.cast_signed()});
                assert_eq!(round_trip(payload.clone()).expect("fits"), payload, "{number:e}");
            }
        }
    }
}

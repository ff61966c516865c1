//! Payloads: a JSON object beside each vector.
//!
//! In the log and in RAM a payload is its JSON text; in a segment texts are
//! gathered into archived blocks ([`block`]).

pub(crate) mod block;

use serde_json::Value;

use crate::error::{Error, Result};

/// The payload of a row: a JSON object.
pub type Payload = serde_json::Map<String, Value>;

/// JSON text of a payload given by the user; empty for none.
///
/// # Errors
/// [`Error::Invalid`] for anything but an object or null, or text above `limit`.
pub(crate) fn to_text(payload: Value, limit: usize) -> Result<String> {
    let text = match payload {
        Value::Null => return Ok(String::new()),
        Value::Object(map) if map.is_empty() => return Ok(String::new()),
        Value::Object(_) => payload.to_string(),
        other => {
            let why = format!("expected a JSON object or null, got {other}");
            return Err(Error::invalid("payload", why));
        }
    };
    if text.len() > limit {
        let why = format!("at most {limit} bytes of JSON, got {}", text.len());
        return Err(Error::invalid("payload", why));
    }
    Ok(text)
}

/// The payload behind a text made by [`to_text`].
pub(crate) fn from_text(text: &str) -> Result<Payload, serde_json::Error> {
    if text.is_empty() { Ok(Payload::new()) } else { serde_json::from_str(text) }
}

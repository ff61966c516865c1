//! The operations of a commit: FORMAT.md, section "Operations".
//!
//! A batch is built directly in this form; what is applied to the memtable is
//! always what the log holds, in normal running and in recovery alike.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use crate::codec::{FormatError, Reader};
use crate::rows::Place;
use crate::types::{IdKind, MAX_ID_BYTES, RowId};

const UPSERT: u8 = 1;
const DELETE: u8 = 2;

/// Longest payload, as JSON text.
pub(crate) const MAX_PAYLOAD: usize = 16 << 20;

/// One change to one row.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operation<'a> {
    /// The row now is this: vector in stored precision, payload as JSON text
    /// (empty: none), and where in the body both are.
    Upsert { id: RowId, vector: &'a [u8], payload: &'a str, place: Place },
    /// The row is gone.
    Delete { id: RowId },
}

impl Operation<'_> {
    /// The row that is changed.
    pub(crate) fn id(&self) -> &RowId {
        match self {
            Self::Upsert { id, .. } | Self::Delete { id } => id,
        }
    }

    /// The same operation where `len` bytes stand before the body.
    pub(crate) fn behind(mut self, len: usize) -> Self {
        if let Self::Upsert { place, .. } = &mut self {
            place.vector += len as u64;
            place.payload += len as u64;
        }
        self
    }
}

/// Appends an upsert, whose vector, as stored, is what `vector` appends.
pub(crate) fn put_upsert<E>(
    out: &mut Vec<u8>,
    id: &RowId,
    vector: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    payload: &str,
) -> Result<(), E> {
    out.push(UPSERT);
    put_id(out, id);
    vector(out)?;
    out.extend((payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload.as_bytes());
    Ok(())
}

/// Appends a delete.
pub(crate) fn put_delete(out: &mut Vec<u8>, id: &RowId) {
    out.push(DELETE);
    put_id(out, id);
}

/// Bytes that an id takes.
pub(crate) fn id_bytes(id: &RowId) -> usize {
    match id {
        RowId::U64(_) => size_of::<u64>(),
        RowId::Str(s) => size_of::<u16>() + s.len(),
    }
}

fn put_id(out: &mut Vec<u8>, id: &RowId) {
    match id {
        RowId::U64(n) => out.extend(n.to_le_bytes()),
        RowId::Str(s) => {
            out.extend((s.len() as u16).to_le_bytes());
            out.extend_from_slice(s.as_bytes());
        }
    }
}

/// Reads the `count` operations of a commit, whose vectors have `vector_bytes`.
pub(crate) fn parse(
    body: &[u8],
    count: u32,
    ids: IdKind,
    vector_bytes: usize,
) -> Result<Vec<Operation<'_>>, FormatError> {
    let mut r = Reader::new(body);
    let mut operations = Vec::new();
    for _ in 0..count {
        operations.push(operation(&mut r, ids, vector_bytes)?);
    }
    r.finish()?;
    Ok(operations)
}

fn operation<'a>(
    r: &mut Reader<'a>,
    ids: IdKind,
    vector_bytes: usize,
) -> Result<Operation<'a>, FormatError> {
    let at = r.at();
    match r.u8()? {
        UPSERT => {
            let id = row_id(r, ids)?;
            let vector_at = r.at() as u64;
            let vector = r.take(vector_bytes)?;
            let len = r.count(1)?;
            let (payload_at, payload_len) = (r.at() as u64, len as u32);
            let payload = utf8(r, len)?;
            let place = Place { vector: vector_at, payload: payload_at, payload_len };
            Ok(Operation::Upsert { id, vector, payload, place })
        }
        DELETE => Ok(Operation::Delete { id: row_id(r, ids)? }),
        other => Err(FormatError::mismatch(at, "kind of operation", 1, u64::from(other))),
    }
}

fn row_id(r: &mut Reader, ids: IdKind) -> Result<RowId, FormatError> {
    match ids {
        IdKind::U64 => r.u64().map(RowId::U64),
        IdKind::Str => {
            let at = r.at();
            let len = usize::from(r.u16()?);
            if !(1..=MAX_ID_BYTES).contains(&len) {
                return Err(FormatError::mismatch(at, "id length", 512, len as u64));
            }
            utf8(r, len).map(RowId::from)
        }
    }
}

fn utf8<'a>(r: &mut Reader<'a>, len: usize) -> Result<&'a str, FormatError> {
    let at = r.at();
    std::str::from_utf8(r.take(len)?).map_err(|_| FormatError::new(at, "text is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(body: &mut Vec<u8>, id: &RowId, vector: &[u8], payload: &str) {
        let copy = |out: &mut Vec<u8>| {
            out.extend_from_slice(vector);
            Ok::<_, FormatError>(())
        };
        put_upsert(body, id, copy, payload).expect("nothing fails");
    }

    #[test]
    fn operations_round_trip() {
        let mut body = Vec::new();
        put(&mut body, &RowId::from("a"), &[1, 2, 3, 4], "{\"x\":1}");
        put_delete(&mut body, &RowId::from("some id"));
        let back = parse(&body, 2, IdKind::Str, 4).expect("parses");
        let place = Place { vector: 4, payload: 12, payload_len: 7 };
        let (vector, payload) = (&[1, 2, 3, 4], "{\"x\":1}");
        let first = Operation::Upsert { id: "a".into(), vector, payload, place };
        assert_eq!(back, [first, Operation::Delete { id: "some id".into() }]);
    }

    #[test]
    fn wrong_counts_and_cut_bodies_are_refused() {
        let mut body = Vec::new();
        put(&mut body, &RowId::U64(1), &[0; 8], "");
        assert!(parse(&body, 2, IdKind::U64, 8).is_err());
        assert!(parse(&body, 0, IdKind::U64, 8).is_err());
        assert!(parse(&body, 1, IdKind::U64, 4).is_err());
        for len in 0..body.len() {
            assert!(parse(&body[..len], 1, IdKind::U64, 8).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn what_no_batch_would_have_written_is_refused() {
        let longest = "x".repeat(MAX_ID_BYTES);
        let body = |id: &str, payload: &[u8]| {
            let mut body = vec![UPSERT];
            put_id(&mut body, &RowId::from(id));
            body.extend([1, 2]);
            body.extend((payload.len() as u32).to_le_bytes());
            body.extend(payload);
            body
        };
        let is_read = |body: &[u8]| parse(body, 1, IdKind::Str, 2).is_ok();
        assert!(is_read(&body(&longest, b"{}")) && is_read(&body("a", b"")));
        assert!(!is_read(&body("", b"{}")), "an id of no length");
        assert!(!is_read(&body(&format!("{longest}x"), b"{}")), "a longer id");
        assert!(!is_read(&body("a", b"\xff")), "a payload that is no text");
        let mut odd = body("a", b"");
        odd[3] = 0xff;
        assert!(!is_read(&odd), "an id that is no text");
        for kind in [0, 3, 0xff] {
            odd = body("a", b"");
            odd[0] = kind;
            let refused = parse(&odd, 1, IdKind::Str, 2);
            let why = FormatError::mismatch(0, "kind of operation", 1, u64::from(kind));
            assert_eq!(refused, Err(why));
        }
    }
}

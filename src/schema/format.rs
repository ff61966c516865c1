//! The schema inside the manifest: FORMAT.md, section "Schema".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use std::sync::Arc;

use super::{EmbedderId, Field, FieldKind, Metric, Schema, Stages};
use crate::codec::{FormatError, Reader};
use crate::encoding::{Bits, Precision, StageCode};
use crate::types::IdKind;

/// Code numbers on disk; position in the array is the number.
const METRICS: [Metric; 3] = Metric::ALL;
const PRECISIONS: [Precision; 3] = Precision::ALL;
const IDS: [IdKind; 2] = [IdKind::U64, IdKind::Str];
const KINDS: [FieldKind; 5] = FieldKind::ALL;

impl Schema {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend((self.dims as u32).to_le_bytes());
        out.push(number(&METRICS, &self.metric));
        out.push(number(&PRECISIONS, &self.stored));
        out.push(number(&IDS, &self.ids));
        out.push(0);
        out.extend((self.granularities.len() as u32).to_le_bytes());
        self.granularities.iter().for_each(|g| out.extend((*g as u32).to_le_bytes()));
        out.extend((self.stages().len() as u32).to_le_bytes());
        for stage in self.stages() {
            out.extend((stage.dims as u32).to_le_bytes());
            out.extend(stage.bits.count().to_le_bytes());
        }
        if self.fields.is_empty() && self.embedder.is_none() {
            return out;
        }
        out.extend((self.fields.len() as u32).to_le_bytes());
        for field in self.fields() {
            out.push(number(&KINDS, &field.kind));
            out.push(u8::from(field.list));
            out.extend((field.name.len() as u16).to_le_bytes());
            out.extend_from_slice(field.name.as_bytes());
        }
        if let Some(embedder) = &self.embedder {
            let named = |out: &mut Vec<u8>, name: &str, hash: &[u8; 32]| {
                out.push(name.len() as u8);
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(hash);
            };
            named(&mut out, &embedder.name, &embedder.hash);
            out.push(embedder.parts.len() as u8);
            embedder.parts.iter().for_each(|(name, hash)| named(&mut out, name, hash));
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut r = Reader::new(bytes);
        let dims = r.u32()? as usize;
        let metric = pick(&METRICS, &mut r, "metric")?;
        let stored = pick(&PRECISIONS, &mut r, "stored precision")?;
        let ids = pick(&IDS, &mut r, "kind of ids")?;
        if r.u8()? != 0 {
            return Err(FormatError::new(7, "reserved byte of the schema is not zero"));
        }
        let granularities = (0..r.count(4)?).map(|_| r.u32().map(|g| g as usize));
        let granularities = granularities.collect::<Result<_, _>>()?;
        let codes = (0..r.count(8)?).map(|_| stage(&mut r)).collect::<Result<_, _>>()?;
        let stages = Stages { codes, stated: true };
        let fields = fields(&mut r)?;
        let embedder = if r.remaining() > 0 { Some(embedder(&mut r)?) } else { None };
        r.finish()?;
        let schema = Self { dims, metric, granularities, stored, ids, stages, fields, embedder };
        schema.validate().map_err(|_| FormatError::new(0, "schema contradicts itself"))?;
        Ok(schema)
    }
}

fn number<T: PartialEq>(all: &[T], one: &T) -> u8 {
    all.iter().position(|x| x == one).map_or(u8::MAX, |n| n as u8)
}

fn pick<T: Copy>(all: &[T], r: &mut Reader, what: &'static str) -> Result<T, FormatError> {
    let at = r.at();
    let n = r.u8()?;
    let known = all.get(usize::from(n)).copied();
    known.ok_or(FormatError::mismatch(at, what, all.len() as u64 - 1, u64::from(n)))
}

fn stage(r: &mut Reader) -> Result<StageCode, FormatError> {
    let dims = r.u32()? as usize;
    let at = r.at();
    let count = r.u32()?;
    let bits = Bits::from_count(count);
    let bits =
        bits.ok_or(FormatError::mismatch(at, "bits of a stage code", 8, u64::from(count)))?;
    Ok(StageCode { dims, bits })
}

/// A schema without fields ends before them, unless an embedder follows.
fn fields(r: &mut Reader) -> Result<Arc<[Field]>, FormatError> {
    if r.remaining() == 0 {
        return Ok(Arc::default());
    }
    let at = r.at();
    match r.count(4)? {
        0 if r.remaining() == 0 => Err(FormatError::new(at, "a list of no fields is left out")),
        count => (0..count).map(|_| field(r)).collect(),
    }
}

fn embedder(r: &mut Reader) -> Result<EmbedderId, FormatError> {
    let (name, hash) = named_hash(r)?;
    let parts = (0..r.u8()?).map(|_| named_hash(r)).collect::<Result<_, _>>()?;
    Ok(EmbedderId { name, hash, parts, dims: None })
}

fn named_hash(r: &mut Reader) -> Result<(String, [u8; 32]), FormatError> {
    let len = usize::from(r.u8()?);
    let at = r.at();
    let name = std::str::from_utf8(r.take(len)?);
    let name = name.map_err(|_| FormatError::new(at, "name of an embedder is not UTF-8"))?;
    let mut hash = [0; 32];
    hash.copy_from_slice(r.take(32)?);
    Ok((name.to_owned(), hash))
}

fn field(r: &mut Reader) -> Result<Field, FormatError> {
    let kind = pick(&KINDS, r, "kind of a field")?;
    let at = r.at();
    let list = match r.u8()? {
        flag @ (0 | 1) => flag == 1,
        other => return Err(FormatError::mismatch(at, "list flag of a field", 1, other.into())),
    };
    let len = usize::from(r.u16()?);
    let at = r.at();
    let name = std::str::from_utf8(r.take(len)?);
    let name = name.map_err(|_| FormatError::new(at, "name of a field is not UTF-8"))?;
    Ok(Field { name: name.to_owned(), kind, list })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemas_round_trip() {
        let schema = Schema::builder(300)
            .metric(Metric::L2)
            .stored(Precision::BF16)
            .ids(IdKind::Str)
            .granularities([20, 100])
            .field("year", FieldKind::Integer)
            .list_field("author.names", FieldKind::Keyword)
            .build()
            .expect("valid");
        assert_eq!(Schema::decode(&schema.encode()), Ok(schema));
    }

    #[test]
    fn embedders_round_trip_with_fields_and_without() {
        let id = EmbedderId::new("m\u{fc}", [7; 32]).part("graph", [1; 32]).part("x", [2; 32]);
        let plain = || Schema::builder(8).embedder(&id);
        for builder in [plain(), plain().field("year", FieldKind::Integer)] {
            let schema = builder.build().expect("valid");
            let bytes = schema.encode();
            assert_eq!(Schema::decode(&bytes).as_ref(), Ok(&schema));
            assert_eq!(schema.embedder(), Some(&id));
            let without = Schema { embedder: None, ..schema }.encode();
            for len in without.len() + 1..bytes.len() {
                assert!(Schema::decode(&bytes[..len]).is_err(), "cut at {len}");
            }
            assert!(Schema::decode(&[bytes.as_slice(), &[0]].concat()).is_err(), "trailing byte");
        }
        // A part that is there twice.
        let mut twice = plain().build().expect("valid").encode();
        let at = twice.len() - 33;
        assert_eq!(twice[at], b'x');
        let end = twice.len() - 34;
        twice.truncate(end);
        twice.extend([&[5], b"graph".as_slice(), &[3; 32]].concat());
        assert!(Schema::decode(&twice).is_err());
    }

    #[test]
    fn damaged_schemas_are_refused() {
        let good = Schema::builder(64).build().expect("valid").encode();
        for at in [0, 4, 5, 6, 7, 8, 12, 16, 20, 24] {
            let mut bad = good.clone();
            bad[at] ^= 0x80;
            assert!(Schema::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Schema::decode(&good[..good.len() - 1]).is_err());
        let good = Schema::builder(64).field("year", FieldKind::Float).build().expect("valid");
        let good = good.encode();
        for (at, value) in [(9, 1), (8, 5), (7, 2), (6, 3), (4, 0xff), (4, b'.'), (12, 2), (12, 0)]
        {
            let mut bad = good.clone();
            let end = bad.len();
            bad[end - at] = value;
            assert!(Schema::decode(&bad).is_err(), "{at} before the end");
        }
        let whole = |len: &usize| Schema::decode(&good[..*len]).is_ok();
        let without = good.len() - 12;
        assert_eq!((0..good.len()).filter(whole).collect::<Vec<_>>(), [without]);
    }
}

//! The schema inside the manifest: FORMAT.md, section "Schema".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use super::{Metric, Schema};
use crate::codec::{FormatError, Reader};
use crate::encoding::{Bits, Precision, StageCode};
use crate::types::IdKind;

/// Code numbers on disk; position in the array is the number.
const METRICS: [Metric; 3] = Metric::ALL;
const PRECISIONS: [Precision; 3] = Precision::ALL;
const IDS: [IdKind; 2] = [IdKind::U64, IdKind::Str];

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
        out.extend((self.stages.len() as u32).to_le_bytes());
        for stage in &self.stages {
            out.extend((stage.dims as u32).to_le_bytes());
            out.extend(stage.bits.count().to_le_bytes());
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
        let stages = (0..r.count(8)?).map(|_| stage(&mut r)).collect::<Result<_, _>>()?;
        r.finish()?;
        let schema = Self { dims, metric, granularities, stored, ids, stages };
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
            .build()
            .expect("valid");
        assert_eq!(Schema::decode(&schema.encode()), Ok(schema));
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
    }
}

//! Reading safetensors files: eight bytes of length, that much JSON giving type,
//! shape and byte range of each tensor, then the bytes.
//!
//! Nothing is allocated before the range is known to lie in the file and to hold
//! exactly what type and shape say.

use std::path::PathBuf;

use half::{bf16, f16};
use serde_json::{Map, Value};

use super::files::{ModelDir, damaged, model};
use super::fingerprint::Hasher;
use crate::error::{Error, Result};

/// Largest file read; the largest table of word vectors in use has about 1 GB.
const CAP: u64 = 4 << 30;

/// A file that has been read, its header parsed.
pub(super) struct Tensors {
    path: PathBuf,
    header: Map<String, Value>,
    file: Vec<u8>,
    /// Where the tensors' bytes begin.
    data: usize,
}

/// Type, shape and bytes of a tensor.
type Entry<'a> = (&'a str, Vec<usize>, &'a [u8]);

/// A tensor's values, row-major.
#[derive(Debug, PartialEq)]
pub(super) struct Tensor<T> {
    pub(super) shape: Vec<usize>,
    pub(super) values: Vec<T>,
}

impl Tensors {
    /// Reads a file of the model directory and hashes all of it.
    pub(super) fn read(dir: &ModelDir, name: &str, hasher: &mut Hasher) -> Result<Self> {
        let path = dir.root().join(name);
        let file = dir.read(name, CAP)?.ok_or_else(|| {
            model(&path, "there is no such file: save the model again as safetensors")
        })?;
        hasher.bytes(&file);
        Self::parse(path, file)
    }

    fn parse(path: PathBuf, file: Vec<u8>) -> Result<Self> {
        let header = || {
            let (length, rest) = file.split_first_chunk::<8>()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let header: Map<String, Value> = serde_json::from_slice(rest.get(..length)?).ok()?;
            Some((header, 8 + length))
        };
        if let Some((header, data)) = header() {
            return Ok(Self { path, header, file, data });
        }
        let why = damaged(&file);
        Err(model(path, format!("is cut short or is not a safetensors file: {why}")))
    }

    pub(super) fn wrong(&self, why: impl Into<String>) -> Error {
        model(&self.path, why)
    }

    /// Whether there is a tensor of that name, without reading it.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.header.contains_key(name)
    }

    /// A tensor of floats, or `None` when there is none of that name.
    pub(super) fn floats(&self, name: &str) -> Result<Option<Tensor<f32>>> {
        let Some((kind, shape, bytes)) = self.entry(name)? else { return Ok(None) };
        let values = match kind {
            "F32" => words(bytes).map(f32::from_le_bytes).collect(),
            "F16" => words(bytes).map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            "BF16" => words(bytes).map(|b| bf16::from_le_bytes(b).to_f32()).collect(),
            "F64" => words(bytes).map(|b| f64::from_le_bytes(b) as f32).collect(),
            "I8" => bytes.iter().map(|&b| f32::from(b.cast_signed())).collect(),
            other => return Err(self.not_read(name, other, "F64, F32, F16, BF16 and I8")),
        };
        Ok(Some(Tensor { shape, values }))
    }

    /// A tensor of whole numbers, or `None` when there is none of that name.
    pub(super) fn integers(&self, name: &str) -> Result<Option<Tensor<i64>>> {
        let Some((kind, shape, bytes)) = self.entry(name)? else { return Ok(None) };
        let values = match kind {
            "I64" => words(bytes).map(i64::from_le_bytes).collect(),
            "I32" => words(bytes).map(|b| i64::from(i32::from_le_bytes(b))).collect(),
            other => return Err(self.not_read(name, other, "I64 and I32")),
        };
        Ok(Some(Tensor { shape, values }))
    }

    /// The same as [`Tensors::floats`], and it must be there and of that rank.
    pub(super) fn need(&self, name: &str, rank: usize) -> Result<Tensor<f32>> {
        let tensor = self.floats(name)?.ok_or_else(|| self.wrong(format!("holds no {name}")))?;
        if tensor.shape.len() == rank {
            return Ok(tensor);
        }
        let why = format!("holds {name} of shape {:?}, expected {rank} dimensions", tensor.shape);
        Err(self.wrong(why))
    }

    fn not_read(&self, name: &str, kind: &str, known: &str) -> Error {
        self.wrong(format!("holds {name} as {kind}; {known} are read"))
    }

    /// Type, shape and bytes of a tensor, which fit each other.
    fn entry(&self, name: &str) -> Result<Option<Entry<'_>>> {
        let Some(entry) = self.header.get(name) else { return Ok(None) };
        let number = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok());
        let numbers = |key: &str| -> Option<Vec<usize>> {
            entry.get(key)?.as_array()?.iter().map(number).collect()
        };
        let read = || {
            let kind = entry.get("dtype")?.as_str()?;
            let shape = numbers("shape")?;
            let &[start, end] = numbers("data_offsets")?.as_slice() else { return None };
            let bytes = self.file.get(self.data..)?.get(start..end)?;
            let size = match kind {
                "F64" | "I64" | "U64" => 8,
                "F32" | "I32" | "U32" => 4,
                "F16" | "BF16" | "I16" | "U16" => 2,
                _ => 1,
            };
            let product = shape.iter().try_fold(size, |all: usize, &n| all.checked_mul(n))?;
            (product == bytes.len()).then_some((kind, shape, bytes))
        };
        let broken = || {
            let why = format!(
                "says of {name} what does not fit the file: it is cut short, or \
                               was changed, so save it again"
            );
            self.wrong(why)
        };
        read().map(Some).ok_or_else(broken)
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> {
    bytes.as_chunks::<N>().0.iter().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn floats(file: &[u8], name: &str) -> Result<Option<Tensor<f32>>> {
        Tensors::parse("test".into(), file.to_vec())?.floats(name)
    }

    #[test]
    fn reads_a_tensor_and_survives_every_cut() {
        let header = r#"{"w":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
        let data = [1.5_f32.to_le_bytes(), (-2.0_f32).to_le_bytes()].concat();
        let whole = file(header, &data);
        let tensor = floats(&whole, "w").unwrap().unwrap();
        assert_eq!((tensor.shape, tensor.values), (vec![1, 2], vec![1.5, -2.0]));
        assert!(floats(&whole, "bias").unwrap().is_none());
        for cut in 0..whole.len() {
            assert!(floats(&whole[..cut], "w").is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_does_not_fit_the_file_is_an_error() {
        let cases = [
            ("[2]", "[0,99]"),
            ("[2]", "[8,0]"),
            ("[2]", "[18446744073709551615,0]"),
            ("[2]", "[]"),
            ("[1]", "[0,8]"),
            ("[4294967296,4294967296]", "[0,0]"),
            ("[-1]", "[0,8]"),
            ("2", "[0,8]"),
        ];
        for (shape, range) in cases {
            let header =
                format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{range}}}}}"#);
            assert!(floats(&file(&header, &[0; 8]), "w").is_err(), "{shape} {range}");
        }
        assert!(floats(&file("{}", &[]), "w").unwrap().is_none());
        assert!(floats(&u64::MAX.to_le_bytes(), "w").is_err());
    }

    #[test]
    fn every_changed_byte_is_an_answer_or_an_error() {
        let header = r#"{"w":{"dtype":"I8","shape":[2],"data_offsets":[0,2]}}"#;
        let whole = file(header, &[1, 255]);
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = floats(&changed, "w");
            }
        }
        assert_eq!(floats(&whole, "w").unwrap().unwrap().values, [1.0, -1.0]);
    }
}

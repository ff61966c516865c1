//! What makes two embedders the same: a hash over everything that shapes a vector.
//!
//! Vectors of different models must never be searched together, and the mistake
//! is invisible in the numbers. So a collection can store the fingerprint of the
//! embedder that filled it (`Schema::builder(..).embedder(&embedder)`), part by
//! part, and a mismatch says which part.

use std::fmt::{self, Write as _};
use std::io::{self, Read};
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// SHA-256 of one part.
pub type Hash = [u8; 32];

/// Names of the parts, in the order they are hashed and written.
const PARTS: [&str; 4] = ["graph", "tokenizer", "modules", "prompts"];

/// Name of the part that only models with images have.
const VISION: &str = "vision";

/// Identifies what an embedder computes. Equal fingerprints give equal vectors,
/// up to rounding by another machine or version of ONNX Runtime, and up to how many
/// components are kept of them: that is no part of it.
///
/// Displays as one hex number; [`Fingerprint::to_record`] writes every part.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint {
    parts: [Hash; 4],
    /// Of models that take images.
    vision: Option<Hash>,
}

impl Fingerprint {
    pub(super) fn new(graph: Hash, tokenizer: Hash, modules: Hash, prompts: Hash) -> Self {
        Self { parts: [graph, tokenizer, modules, prompts], vision: None }
    }

    /// That of a model that takes images alone.
    #[cfg(feature = "image")]
    pub(super) fn of_vision(vision: Hash) -> Self {
        Self { parts: [Hash::default(); 4], vision: Some(vision) }
    }

    /// With the vision tower that `vision` was made for.
    #[cfg(feature = "image")]
    pub(super) fn with_vision(self, vision: &Self) -> Self {
        Self { vision: vision.vision, ..self }
    }

    /// The parts by name: `graph` (with its external data), `tokenizer`, `modules`
    /// (output, pooling, dense layers, unit length, token limits and which end is cut, padding) and `prompts`; then,
    /// if the model takes images, `vision` (graph, output, preparation of pictures).
    pub fn parts(&self) -> impl Iterator<Item = (&'static str, &Hash)> {
        PARTS.into_iter().zip(&self.parts).chain(self.vision.iter().map(|hash| (VISION, hash)))
    }

    /// Names of the parts in which `other` differs; empty when they are equal.
    pub fn differing_parts(&self, other: &Self) -> Vec<&'static str> {
        let pairs = self.parts.iter().zip(&other.parts).zip(PARTS);
        let mut differing: Vec<_> =
            pairs.filter(|((a, b), _)| a != b).map(|(_, name)| name).collect();
        if self.vision != other.vision {
            differing.push(VISION);
        }
        differing
    }

    /// All parts as text, for keeping; [`FromStr`] reads it back.
    pub fn to_record(&self) -> String {
        let parts: Vec<String> =
            self.parts().map(|(name, hash)| format!("{name}={}", hex(hash))).collect();
        parts.join(" ")
    }

    /// The hash over the parts.
    pub fn hash(&self) -> Hash {
        let mut all = Hasher::new("matryo embedder 1");
        for (name, hash) in self.parts() {
            all.text(name);
            all.bytes(hash);
        }
        all.finish()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.hash()))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.to_record())
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(record: &str) -> Result<Self> {
        let wrong = || Error::invalid("fingerprint", format!("{record:?} is not a record of one"));
        let mut words = record.split(' ');
        let mut parts = [Hash::default(); 4];
        for (part, name) in parts.iter_mut().zip(PARTS) {
            let value = words.next().and_then(|w| w.strip_prefix(name)?.strip_prefix('='));
            *part = value.and_then(unhex).ok_or_else(wrong)?;
        }
        let value = |word: &str| word.strip_prefix(VISION)?.strip_prefix('=').and_then(unhex);
        let vision = match words.next() {
            None => None,
            Some(word) => Some(value(word).ok_or_else(wrong)?),
        };
        if words.next().is_some() { Err(wrong()) } else { Ok(Self { parts, vision }) }
    }
}

/// SHA-256 over fields, each preceded by its length so that none runs into the next.
pub(super) struct Hasher(Sha256);

impl Hasher {
    pub(super) fn new(purpose: &str) -> Self {
        let mut hasher = Self(Sha256::new());
        hasher.text(purpose);
        hasher
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// The same as [`Hasher::bytes`] of `length` bytes read from `from`.
    pub(super) fn stream(&mut self, length: u64, from: impl Read) -> io::Result<()> {
        self.0.update(length.to_le_bytes());
        let copied = io::copy(&mut from.take(length), &mut Sink(&mut self.0))?;
        if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(super) fn finish(self) -> Hash {
        self.0.finalize().into()
    }
}

struct Sink<'a>(&'a mut Sha256);

impl io::Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn hex(hash: &[u8]) -> String {
    hash.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<Hash> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut hash = Hash::default();
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| char::from(d).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(prompts: u8) -> Fingerprint {
        Fingerprint::new([1; 32], [2; 32], [3; 32], [prompts; 32])
    }

    #[test]
    fn a_mismatch_names_its_part() {
        assert!(sample(4).differing_parts(&sample(4)).is_empty());
        assert_eq!(sample(4).differing_parts(&sample(5)), ["prompts"]);
        assert_ne!(sample(4).to_string(), sample(5).to_string());
        assert_eq!(sample(4).to_string().len(), 64);
    }

    #[test]
    fn a_record_reads_back_and_nothing_else_does() {
        let record = sample(0xfe).to_record();
        assert_eq!(record.parse::<Fingerprint>().unwrap(), sample(0xfe));
        for bad in ["", "graph=00", &record[1..], &record[..record.len() - 1]] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
        assert!(format!("{record} more=1").parse::<Fingerprint>().is_err());
    }

    #[test]
    fn a_stream_hashes_like_its_bytes_and_must_be_whole() {
        let (mut whole, mut streamed) = (Hasher::new("t"), Hasher::new("t"));
        whole.text("abc");
        streamed.stream(3, &b"abc"[..]).unwrap();
        assert_eq!(whole.finish(), streamed.finish());
        assert!(Hasher::new("t").stream(4, &b"abc"[..]).is_err());
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let hash = |fields: &[&str]| {
            let mut h = Hasher::new("test");
            for field in fields {
                h.text(field);
            }
            h.finish()
        };
        assert_ne!(hash(&["ab", "c"]), hash(&["a", "bc"]));
    }
}

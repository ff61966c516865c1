//! Little-endian bytes, checksums and the header all files share.
//!
//! Fixed structures are described once, with [`layout!`]: the same table gives
//! the constants the code uses and the rows that a test compares with the
//! tables of FORMAT.md. Nothing here knows a path; nothing here panics on
//! bytes that came from a file.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

pub(crate) mod header;

/// Describes a fixed structure: constant `LEN`, one byte range per field, and
/// `FIELDS` with (name, offset, size) for the test of FORMAT.md.
macro_rules! layout {
    ($(#[$meta:meta])* $name:ident, $len:literal, { $($field:ident: $at:literal, $size:literal;)* }) => {
        $(#[$meta])*
        #[allow(dead_code, reason = "the table is the format; not every field is read")]
        pub(crate) mod $name {
            use std::ops::Range;
            pub(crate) const LEN: usize = $len;
            $(pub(crate) const $field: Range<usize> = $at..$at + $size;)*
            #[cfg(feature = "testing")]
            pub(crate) const FIELDS: &[(&str, usize, usize)] =
                &[$((stringify!($field), $at, $size)),*];
        }
    };
}
pub(crate) use layout;

use std::ops::Range;

/// Why bytes are not what they claim to be; offsets are relative to the bytes
/// that were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FormatError {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
    pub(crate) numbers: Option<(u64, u64)>,
}

impl FormatError {
    pub(crate) fn new(at: usize, what: &'static str) -> Self {
        Self { at, what, numbers: None }
    }

    pub(crate) fn mismatch(at: usize, what: &'static str, expected: u64, got: u64) -> Self {
        Self { at, what, numbers: Some((expected, got)) }
    }

    /// The error the user sees, once the file and the position in it are known.
    pub(crate) fn in_file(self, file: &std::path::Path, base: u64) -> crate::Error {
        crate::Error::corrupt(file, base + self.at as u64, self)
    }
}

impl std::fmt::Display for FormatError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.numbers {
            None => f.write_str(self.what),
            Some((expected, got)) => {
                write!(f, "{}: expected {expected}, got {got}", self.what)
            }
        }
    }
}

/// CRC-32/ISO-HDLC (polynomial 0x04C11DB7 reflected, as in zlib).
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32 of several pieces as if they were one.
pub(crate) fn crc32_of(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize()
}

/// Fixed-size fields of a structure described by [`layout!`].
pub(crate) trait Fields {
    fn field(&self, range: Range<usize>) -> &[u8];

    fn u16(&self, range: Range<usize>) -> u16 {
        u16::from_le_bytes(fixed(self.field(range)))
    }
    fn u32(&self, range: Range<usize>) -> u32 {
        u32::from_le_bytes(fixed(self.field(range)))
    }
    fn u64(&self, range: Range<usize>) -> u64 {
        u64::from_le_bytes(fixed(self.field(range)))
    }
}

/// A short field reads as if zero-filled; lengths are checked before.
fn fixed<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    for (to, from) in out.iter_mut().zip(bytes) {
        *to = *from;
    }
    out
}

impl Fields for [u8] {
    fn field(&self, range: Range<usize>) -> &[u8] {
        self.get(range).unwrap_or(&[])
    }
}

/// Writes a field of a fixed structure.
pub(crate) fn put(into: &mut [u8], range: Range<usize>, bytes: &[u8]) {
    debug_assert_eq!(range.len(), bytes.len(), "field size");
    if let Some(field) = into.get_mut(range) {
        field.copy_from_slice(bytes);
    }
}

/// Reads values one after another out of untrusted bytes.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], FormatError> {
        let end = self.at.checked_add(n);
        let Some(slice) = end.and_then(|end| self.bytes.get(self.at..end)) else {
            let (need, have) = (n as u64, self.remaining() as u64);
            return Err(FormatError::mismatch(self.at, "ends too early, in bytes", need, have));
        };
        self.at += n;
        Ok(slice)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, FormatError> {
        self.take(1).map(|b| fixed::<1>(b)[0])
    }

    pub(crate) fn u16(&mut self) -> Result<u16, FormatError> {
        self.take(2).map(|b| u16::from_le_bytes(fixed(b)))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, FormatError> {
        self.take(4).map(|b| u32::from_le_bytes(fixed(b)))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, FormatError> {
        self.take(8).map(|b| u64::from_le_bytes(fixed(b)))
    }

    /// A count of things of at least `each` bytes: refused where the bytes left
    /// cannot hold that many, so that no allocation is larger than the file.
    pub(crate) fn count(&mut self, each: usize) -> Result<usize, FormatError> {
        let at = self.at;
        let n = self.u32()? as usize;
        let most = self.remaining() / each.max(1);
        if n > most {
            return Err(FormatError::mismatch(at, "count too large", most as u64, n as u64));
        }
        Ok(n)
    }

    /// All bytes must have been used: trailing bytes are damage too.
    pub(crate) fn finish(self) -> Result<(), FormatError> {
        match self.remaining() {
            0 => Ok(()),
            n => Err(FormatError::mismatch(self.at, "trailing bytes", 0, n as u64)),
        }
    }
}

/// `f32` values out of little-endian bytes.
pub(crate) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(fixed(b))).collect()
}

/// Little-endian bytes of `f32` values.
pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_zlib_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32_of(&[b"1234", b"56789"]), 0xcbf4_3926);
    }

    #[test]
    fn reader_refuses_to_run_past_the_end() {
        let mut r = Reader::new(&[1, 0, 0, 0, 9]);
        assert_eq!(r.u32(), Ok(1));
        assert_eq!(r.u16(), Err(FormatError::mismatch(4, "ends too early, in bytes", 2, 1)));
        assert_eq!(r.u8(), Ok(9));
        assert_eq!(r.finish(), Ok(()));
    }

    #[test]
    fn reader_refuses_counts_that_the_bytes_cannot_hold() {
        let mut r = Reader::new(&[255, 255, 255, 255, 1, 2]);
        assert!(r.count(2).is_err());
    }

    #[test]
    fn a_count_is_taken_if_the_bytes_can_just_hold_it() {
        let counted = |count: u8, each, bytes: usize| {
            let mut all = vec![count, 0, 0, 0];
            all.resize(4 + bytes, 0);
            let mut r = Reader::new(&all);
            let got = r.count(each);
            assert_eq!(r.remaining(), bytes);
            got
        };
        assert_eq!(counted(3, 2, 6), Ok(3));
        assert_eq!(counted(3, 2, 5), Err(FormatError::mismatch(0, "count too large", 2, 3)));
        assert_eq!(counted(0, 2, 0), Ok(0));
        assert_eq!(counted(6, 0, 6), Ok(6), "things of no length are taken to have one");
    }

    #[test]
    fn bytes_that_are_left_are_damage_and_errors_say_where() {
        let mut r = Reader::new(&[1, 2, 3]);
        r.u8().expect("there");
        let left = r.finish().expect_err("two are left");
        assert_eq!(left, FormatError::mismatch(1, "trailing bytes", 0, 2));
        assert_eq!(left.to_string(), "trailing bytes: expected 0, got 2");
        assert_eq!(FormatError::new(0, "is odd").to_string(), "is odd");
        let crate::Error::Corrupt(damage) = left.in_file(std::path::Path::new("f"), 64) else {
            panic!("damage")
        };
        assert_eq!((damage.file.as_path(), damage.offset), (std::path::Path::new("f"), 65));
    }
}

//! The 64 bytes every file begins with: FORMAT.md, section "File header".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use std::path::Path;

use super::{Fields, FormatError, crc32, layout, put};
use crate::error::{Error, Result};
use crate::sown::{Bug, sown};
use crate::types::FileNumber;

/// Format written by this version: major changes are unreadable to older
/// readers, minor ones only add.
pub(crate) const FORMAT_MAJOR: u16 = 1;
/// See [`FORMAT_MAJOR`].
pub(crate) const FORMAT_MINOR: u16 = 0;

layout!(
    /// FORMAT.md, section "File header".
    file_header, 64, {
    MAGIC: 0, 4;
    KIND: 4, 4;
    MAJOR: 8, 2;
    MINOR: 10, 2;
    COMPATIBLE: 12, 4;
    READ_ONLY: 16, 4;
    INCOMPATIBLE: 20, 4;
    FILE_NUMBER: 24, 8;
    COLLECTION: 32, 16;
    GENERATION: 48, 8;
    BODY_CRC: 56, 4;
    HEADER_CRC: 60, 4;
});

const MAGIC: &[u8; 4] = b"MTRY";

/// Highest LSN, generation and file number, so that adding one never overflows.
pub(crate) const MAX_COUNTER: u64 = (1 << 62) - 1;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    Manifest,
    Wal,
    Segment,
    Tombstones,
    Graph,
}

impl FileKind {
    fn tag(self) -> &'static [u8; 4] {
        match self {
            Self::Manifest => b"MANI",
            Self::Wal => b"WLOG",
            Self::Segment => b"SEGM",
            Self::Tombstones => b"TOMB",
            Self::Graph => b"GRPH",
        }
    }

    /// File name of number `n`; the manifest is replaced in place and has none.
    pub(crate) fn name(self, n: FileNumber) -> String {
        match self {
            Self::Manifest => "MANIFEST".into(),
            Self::Wal => format!("wal-{:010}", n.0),
            Self::Segment => format!("seg-{:010}", n.0),
            Self::Tombstones => format!("del-{:010}", n.0),
            Self::Graph => format!("gra-{:010}", n.0),
        }
    }

    /// Reads a name made by [`Self::name`]; `None` for any other file.
    pub(crate) fn parse(name: &str) -> Option<(Self, FileNumber)> {
        let (kind, digits) = [
            (Self::Wal, "wal-"),
            (Self::Segment, "seg-"),
            (Self::Tombstones, "del-"),
            (Self::Graph, "gra-"),
        ]
        .into_iter()
        .find_map(|(kind, prefix)| name.strip_prefix(prefix).map(|digits| (kind, digits)))?;
        let n = FileNumber(digits.parse().ok()?);
        (kind.name(n) == name && n.0 <= MAX_COUNTER).then_some((kind, n))
    }
}

/// Random name of a collection, in all its files: a file of another collection
/// is noticed even though its checksums are right.
pub(crate) type CollectionId = [u8; 16];

/// Whose file it is, and since when: what [`FileHeader`] records beside its name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) collection: CollectionId,
    /// Of the installed manifest.
    pub(crate) generation: u64,
}

/// The first 64 bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) kind: FileKind,
    pub(crate) number: FileNumber,
    pub(crate) collection: CollectionId,
    /// Of a manifest, its own; of another file, that of the manifest that was
    /// installed when the file was created.
    pub(crate) generation: u64,
    /// 0 in files that carry their own checksums.
    pub(crate) body_crc: u32,
    /// Flags that allow reading and forbid writing; all are unknown here.
    pub(crate) read_only: u32,
}

impl FileHeader {
    pub(crate) const LEN: usize = file_header::LEN;

    /// A header for a file whose body checksums itself.
    pub(crate) fn new(kind: FileKind, number: FileNumber, owner: Owner) -> Self {
        let Owner { collection, generation } = owner;
        Self { kind, number, collection, generation, body_crc: 0, read_only: 0 }
    }

    /// The same, covering `body`.
    pub(crate) fn over(mut self, body: &[u8]) -> Self {
        self.body_crc = crc32(body);
        self
    }

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        use file_header as f;
        let mut out = [0; Self::LEN];
        put(&mut out, f::MAGIC, MAGIC);
        put(&mut out, f::KIND, self.kind.tag());
        put(&mut out, f::MAJOR, &FORMAT_MAJOR.to_le_bytes());
        put(&mut out, f::MINOR, &FORMAT_MINOR.to_le_bytes());
        put(&mut out, f::FILE_NUMBER, &self.number.0.to_le_bytes());
        put(&mut out, f::COLLECTION, &self.collection);
        put(&mut out, f::GENERATION, &self.generation.to_le_bytes());
        put(&mut out, f::BODY_CRC, &self.body_crc.to_le_bytes());
        let crc = crc32(out.field(0..f::HEADER_CRC.start));
        put(&mut out, f::HEADER_CRC, &crc.to_le_bytes());
        out
    }

    /// Reads the header of a file that should be of `kind`. The first failure
    /// names the damage best, so: magic, checksum, kind, version, flags.
    pub(crate) fn decode(bytes: &[u8], kind: FileKind, file: &Path) -> Result<Self> {
        use file_header as f;
        let fail = |at, what| Err(FormatError::new(at, what).in_file(file, 0));
        if bytes.len() < Self::LEN {
            return fail(bytes.len(), "ends inside the 64-byte file header");
        }
        let bytes = bytes.field(0..Self::LEN);
        if bytes.field(f::MAGIC) != MAGIC {
            return fail(0, "does not begin with MTRY: not a matryo file");
        }
        let sum = crc32(bytes.field(0..f::HEADER_CRC.start));
        if sum != bytes.u32(f::HEADER_CRC) && !sown(Bug::HeaderNotChecked) {
            return fail(f::HEADER_CRC.start, "checksum of the file header does not match");
        }
        if bytes.field(f::KIND) != kind.tag() {
            return fail(f::KIND.start, "is a matryo file of another kind");
        }
        check_version(bytes, file)?;
        Ok(Self {
            kind,
            number: FileNumber(bytes.u64(f::FILE_NUMBER)),
            collection: super::fixed(bytes.field(f::COLLECTION)),
            generation: bytes.u64(f::GENERATION),
            body_crc: bytes.u32(f::BODY_CRC),
            read_only: bytes.u32(f::READ_ONLY),
        })
    }

    /// The file must be the one its name and its manifest say.
    pub(crate) fn expect(&self, n: FileNumber, id: &CollectionId, file: &Path) -> Result<()> {
        use file_header as f;
        let at = |range: std::ops::Range<usize>| range.start as u64;
        if &self.collection != id {
            return Err(Error::corrupt(file, at(f::COLLECTION), "belongs to another collection"));
        }
        if self.number != n {
            let what = format!("is file number {}, expected {}", self.number.0, n.0);
            return Err(Error::corrupt(file, at(f::FILE_NUMBER), what));
        }
        Ok(())
    }

    /// The body of a file covered by one checksum.
    pub(crate) fn body<'a>(&self, bytes: &'a [u8], file: &Path) -> Result<&'a [u8]> {
        let body = bytes.get(Self::LEN..).unwrap_or(&[]);
        if crc32(body) != self.body_crc && !sown(Bug::BodyNotChecked) {
            let what = "checksum of the body does not match";
            return Err(Error::corrupt(file, Self::LEN as u64, what));
        }
        Ok(body)
    }

    /// The header of a file whose body checksums itself says nothing of the body.
    pub(crate) fn no_body(&self, file: &Path) -> Result<()> {
        let at = file_header::BODY_CRC.start as u64;
        match self.body_crc {
            0 => Ok(()),
            _ => Err(Error::corrupt(file, at, "unused field of the header is not zero")),
        }
    }
}

/// Format 1.0 defines no feature flags, so any that is set is unknown here:
/// compatible ones are ignored, incompatible ones refused. Those that forbid
/// writing are for whoever wants to write: [`check_writable`].
fn check_version(bytes: &[u8], file: &Path) -> Result<()> {
    use file_header as f;
    let (major, minor) = (bytes.u16(f::MAJOR), bytes.u16(f::MINOR));
    let flags = bytes.u32(f::INCOMPATIBLE);
    if major == FORMAT_MAJOR && flags == 0 {
        return Ok(());
    }
    unsupported(file, format!("{major}.{minor} with incompatible features {flags:#x}"))
}

/// Fails if features that this version does not know forbid writing.
pub(crate) fn check_writable(read_only: u32, file: &Path) -> Result<()> {
    match read_only {
        0 => Ok(()),
        flags => unsupported(file, format!("features {flags:#x}, which allow only reading")),
    }
}

fn unsupported(file: &Path, found: String) -> Result<()> {
    let supported = format!("{FORMAT_MAJOR}.{FORMAT_MINOR}");
    Err(Error::UnsupportedFormat { file: file.to_owned(), found, supported })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner { collection: [7; 16], generation: 3 };

    #[test]
    fn names_round_trip_and_foreign_names_do_not_parse() {
        for kind in [FileKind::Wal, FileKind::Segment, FileKind::Tombstones, FileKind::Graph] {
            let name = kind.name(FileNumber(42));
            assert_eq!(FileKind::parse(&name), Some((kind, FileNumber(42))));
        }
        for name in [
            "seg-42",
            "seg-+000000042",
            "MANIFEST",
            "notes.txt",
            "seg-00000000420",
            "seg-18446744073709551615",
        ] {
            assert_eq!(FileKind::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_newer_major_version_is_refused_by_name() {
        let header = FileHeader::new(FileKind::Wal, FileNumber(1), OWNER);
        let mut bytes = header.encode();
        put(&mut bytes, file_header::MAJOR, &9u16.to_le_bytes());
        let crc = crc32(&bytes[..60]);
        put(&mut bytes, file_header::HEADER_CRC, &crc.to_le_bytes());
        let got = FileHeader::decode(&bytes, FileKind::Wal, Path::new("w"));
        assert!(matches!(got, Err(Error::UnsupportedFormat { .. })), "{got:?}");
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let header = FileHeader::new(FileKind::Segment, FileNumber(3), OWNER).over(b"body");
        let good = header.encode();
        assert_eq!(
            FileHeader::decode(&good, FileKind::Segment, Path::new("s")).expect("intact"),
            header
        );
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(FileHeader::decode(&bad, FileKind::Segment, Path::new("s")).is_err());
        }
    }

    #[test]
    fn a_file_in_the_place_of_another_is_refused_by_what_it_is() {
        let header = FileHeader::new(FileKind::Wal, FileNumber(1), OWNER);
        let bytes = header.encode();
        let path = Path::new("w");
        let decode = |bytes: &[u8]| FileHeader::decode(bytes, FileKind::Wal, path);
        let says = |result: Result<()>, what: &str| {
            let refused = result.expect_err(what).to_string();
            assert!(refused.contains(what), "{refused}");
        };
        assert_eq!(decode(&[&bytes[..], b"body"].concat()).expect("whole"), header);
        says(decode(&bytes[..63]).map(drop), "ends inside the 64-byte file header");
        says(decode(&[0; 64]).map(drop), "does not begin with MTRY");
        let segment = FileHeader { kind: FileKind::Segment, ..header }.encode();
        says(decode(&segment).map(drop), "of another kind");
        header.expect(FileNumber(1), &[7; 16], path).expect("its own name");
        says(header.expect(FileNumber(2), &[7; 16], path), "is file number 1, expected 2");
        says(header.expect(FileNumber(1), &[8; 16], path), "belongs to another collection");
        header.no_body(path).expect("says nothing of a body");
        says(header.over(b"body").no_body(path), "unused field of the header is not zero");
        let over = header.over(b"body");
        let with_body = [over.encode().as_slice(), b"body"].concat();
        assert_eq!(over.body(&with_body, path).expect("its own"), b"body");
        says(over.body(&with_body[..67], path).map(drop), "checksum of the body");
    }

    #[test]
    fn flags_that_are_not_known_forbid_what_they_say() {
        let with = |field: std::ops::Range<usize>| {
            let mut bytes = FileHeader::new(FileKind::Wal, FileNumber(1), OWNER).encode();
            put(&mut bytes, field, &1u32.to_le_bytes());
            let crc = crc32(&bytes[..60]);
            put(&mut bytes, file_header::HEADER_CRC, &crc.to_le_bytes());
            FileHeader::decode(&bytes, FileKind::Wal, Path::new("w"))
        };
        let writable = |header: &FileHeader| check_writable(header.read_only, Path::new("w"));
        let compatible = with(file_header::COMPATIBLE).expect("can be ignored");
        writable(&compatible).expect("can be written, too");
        let read_only = with(file_header::READ_ONLY).expect("can be read");
        assert!(matches!(writable(&read_only), Err(Error::UnsupportedFormat { .. })));
        let got = with(file_header::INCOMPATIBLE);
        assert!(matches!(got, Err(Error::UnsupportedFormat { .. })), "{got:?}");
    }

    #[test]
    fn numbers_up_to_the_highest_are_names() {
        let highest = FileKind::Graph.name(FileNumber(MAX_COUNTER));
        assert_eq!(FileKind::parse(&highest), Some((FileKind::Graph, FileNumber(MAX_COUNTER))));
        assert_eq!(FileKind::parse(&FileKind::Graph.name(FileNumber(MAX_COUNTER + 1))), None);
    }
}

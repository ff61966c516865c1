//! Region table and footer of a segment: FORMAT.md, section "Segment".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use crate::codec::{Fields, FormatError, Reader, crc32, layout, put};

/// Regions begin at multiples of this: a page.
pub(crate) const PAGE: usize = 4096;
/// Checksum block of regions that are read a row at a time.
pub(crate) const SMALL_BLOCK: u32 = 4096;
/// Checksum block of regions that are read whole.
pub(crate) const LARGE_BLOCK: u32 = 65_536;

layout!(
    /// FORMAT.md, section "Region entry".
    region_entry, 32, {
    KIND: 0, 2;
    STAGE: 2, 2;
    BLOCK_LEN: 4, 4;
    OFFSET: 8, 8;
    REGION_LEN: 16, 8;
    FIRST_CHECKSUM: 24, 4;
    RESERVED: 28, 4;
});

layout!(
    /// FORMAT.md, section "Places".
    place_entry, 16, {
    OFFSET: 0, 8;
    LOG: 8, 4;
    VECTOR_CRC: 12, 4;
});

layout!(
    /// FORMAT.md, section "Footer".
    segment_footer, 64, {
    TABLE_AT: 0, 8;
    FILE_LEN: 8, 8;
    REGIONS: 16, 4;
    CHECKSUMS: 20, 4;
    ROWS: 24, 4;
    TABLE_CRC: 28, 4;
    KEPT: 32, 4;
    RESERVED: 36, 20;
    FOOTER_CRC: 56, 4;
    MAGIC: 60, 4;
});

const MAGIC: &[u8; 4] = b"MTRY";

/// Bit of a kind's number: whoever does not know the kind can read the segment
/// without it.
pub(crate) const IGNORABLE: u16 = 0x8000;

/// What a region holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RegionKind {
    Ids,
    IdOrder,
    Norms,
    Codes,
    Factors,
    Vectors,
    Payload,
    PayloadIndex,
    FieldIndex,
    GraphMeta,
    GraphCodes,
    GraphFactors,
    GraphLinks,
    Places,
    Logs,
    /// A kind that only later versions know.
    Later {
        /// Its number on disk.
        number: u16,
        /// Bytes covered by one checksum.
        block_len: u32,
    },
}

impl RegionKind {
    /// In the order of their numbers, from 1.
    const KNOWN: [Self; 15] = [
        Self::Ids,
        Self::IdOrder,
        Self::Norms,
        Self::Codes,
        Self::Factors,
        Self::Vectors,
        Self::Payload,
        Self::PayloadIndex,
        Self::FieldIndex,
        Self::GraphMeta,
        Self::GraphCodes,
        Self::GraphFactors,
        Self::GraphLinks,
        Self::Places,
        Self::Logs,
    ];

    /// What it holds, in the words of `info`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ids | Self::IdOrder => "ids",
            Self::Norms | Self::Codes | Self::Factors => "stage codes",
            Self::Vectors | Self::Places | Self::Logs => "full vectors",
            Self::Payload | Self::PayloadIndex => "payloads",
            Self::FieldIndex => "field indexes",
            Self::GraphMeta | Self::GraphCodes | Self::GraphFactors | Self::GraphLinks => "graphs",
            Self::Later { .. } => "of later versions",
        }
    }

    /// Bytes covered by one checksum.
    pub(crate) fn block_len(self) -> u32 {
        match self {
            Self::Norms | Self::Codes | Self::Factors | Self::GraphFactors => LARGE_BLOCK,
            Self::Later { block_len, .. } => block_len,
            _ => SMALL_BLOCK,
        }
    }

    /// The number on disk.
    pub(crate) fn number(self) -> u16 {
        match self {
            Self::Later { number, .. } => number,
            known => (1..).zip(Self::KNOWN).find(|(_, k)| *k == known).map_or(0, |(n, _)| n),
        }
    }

    /// Of blocks of another length than its own, a known kind is none.
    fn of(number: u16, block_len: u32) -> Option<Self> {
        let known = (1..).zip(Self::KNOWN).find(|(n, _)| *n == number);
        let kind = known.map_or(Self::Later { number, block_len }, |(_, kind)| kind);
        let fits = kind.block_len() == block_len && [SMALL_BLOCK, LARGE_BLOCK].contains(&block_len);
        fits.then_some(kind)
    }

    /// Whether this version knows it, or can do without.
    pub(crate) fn is_readable(self) -> bool {
        !matches!(self, Self::Later { number, .. } if number & IGNORABLE == 0)
    }
}

/// Where a region is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RegionEntry {
    pub(crate) kind: RegionKind,
    /// Which stage, for codes and factors; which field, for field indexes; else 0.
    pub(crate) stage: u16,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Index of its first block's checksum.
    pub(crate) first_checksum: u32,
}

impl RegionEntry {
    /// Number of its checksums.
    pub(crate) fn blocks(&self) -> u64 {
        self.len.div_ceil(u64::from(self.kind.block_len()))
    }

    fn encode(&self) -> [u8; region_entry::LEN] {
        use region_entry as f;
        let mut out = [0; f::LEN];
        put(&mut out, f::KIND, &self.kind.number().to_le_bytes());
        put(&mut out, f::STAGE, &self.stage.to_le_bytes());
        put(&mut out, f::BLOCK_LEN, &self.kind.block_len().to_le_bytes());
        put(&mut out, f::OFFSET, &self.offset.to_le_bytes());
        put(&mut out, f::REGION_LEN, &self.len.to_le_bytes());
        put(&mut out, f::FIRST_CHECKSUM, &self.first_checksum.to_le_bytes());
        out
    }

    fn decode(r: &mut Reader) -> Result<Self, FormatError> {
        use region_entry as f;
        let at = r.at();
        let b = r.take(f::LEN)?;
        let kind = RegionKind::of(b.u16(f::KIND), b.u32(f::BLOCK_LEN));
        let Some(kind) = kind.filter(|_| b.u32(f::RESERVED) == 0) else {
            return Err(FormatError::new(at, "region entry contradicts itself"));
        };
        Ok(Self {
            kind,
            stage: b.u16(f::STAGE),
            offset: b.u64(f::OFFSET),
            len: b.u64(f::REGION_LEN),
            first_checksum: b.u32(f::FIRST_CHECKSUM),
        })
    }
}

/// The last 64 bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) table_at: u64,
    pub(crate) file_len: u64,
    pub(crate) regions: u32,
    pub(crate) checksums: u32,
    pub(crate) rows: u32,
    pub(crate) table_crc: u32,
    /// How many logs have the vectors, if they are not in a region.
    pub(crate) kept: u32,
}

/// Where a log has the vector of a row, and the vector's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlaceEntry {
    pub(crate) offset: u64,
    /// Which of the logs that the segment keeps.
    pub(crate) log: u32,
    pub(crate) crc: u32,
}

impl PlaceEntry {
    pub(crate) const LEN: usize = place_entry::LEN;

    pub(crate) fn encode(self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        put(&mut out, place_entry::OFFSET, &self.offset.to_le_bytes());
        put(&mut out, place_entry::LOG, &self.log.to_le_bytes());
        put(&mut out, place_entry::VECTOR_CRC, &self.crc.to_le_bytes());
        out
    }

    /// Of [`Self::LEN`] bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let (offset, log) = (bytes.u64(place_entry::OFFSET), bytes.u32(place_entry::LOG));
        Self { offset, log, crc: bytes.u32(place_entry::VECTOR_CRC) }
    }
}

impl Footer {
    pub(crate) const LEN: usize = segment_footer::LEN;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        use segment_footer as f;
        let mut out = [0; Self::LEN];
        put(&mut out, f::TABLE_AT, &self.table_at.to_le_bytes());
        put(&mut out, f::FILE_LEN, &self.file_len.to_le_bytes());
        put(&mut out, f::REGIONS, &self.regions.to_le_bytes());
        put(&mut out, f::CHECKSUMS, &self.checksums.to_le_bytes());
        put(&mut out, f::ROWS, &self.rows.to_le_bytes());
        put(&mut out, f::TABLE_CRC, &self.table_crc.to_le_bytes());
        put(&mut out, f::KEPT, &self.kept.to_le_bytes());
        let crc = crc32(out.field(0..f::FOOTER_CRC.start));
        put(&mut out, f::FOOTER_CRC, &crc.to_le_bytes());
        put(&mut out, f::MAGIC, MAGIC);
        out
    }

    /// Magic first, then the checksum: the first failure names the damage best.
    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, FormatError> {
        use segment_footer as f;
        let fail = |range: std::ops::Range<usize>, what| Err(FormatError::new(range.start, what));
        if bytes.field(f::MAGIC) != MAGIC {
            return fail(f::MAGIC, "does not end with MTRY: the file is cut or foreign");
        }
        if crc32(bytes.field(0..f::FOOTER_CRC.start)) != bytes.u32(f::FOOTER_CRC) {
            return fail(f::FOOTER_CRC, "checksum of the footer does not match");
        }
        if bytes.field(f::RESERVED).iter().any(|b| *b != 0) {
            return fail(f::RESERVED, "reserved bytes are not zero");
        }
        Ok(Self {
            table_at: bytes.u64(f::TABLE_AT),
            file_len: bytes.u64(f::FILE_LEN),
            regions: bytes.u32(f::REGIONS),
            checksums: bytes.u32(f::CHECKSUMS),
            rows: bytes.u32(f::ROWS),
            table_crc: bytes.u32(f::TABLE_CRC),
            kept: bytes.u32(f::KEPT),
        })
    }

    /// Bytes of region table and checksums together; `None` if it overflows.
    pub(crate) fn table_len(&self) -> Option<u64> {
        let regions = u64::from(self.regions).checked_mul(region_entry::LEN as u64)?;
        regions.checked_add(u64::from(self.checksums) * 4)
    }
}

/// Bytes of region table and checksums.
pub(crate) fn encode_table(regions: &[RegionEntry], checksums: &[u32]) -> Vec<u8> {
    let regions = regions.iter().flat_map(RegionEntry::encode);
    regions.chain(checksums.iter().flat_map(|c| c.to_le_bytes())).collect()
}

/// Writes into the entries of a table, front to back, what these kinds and stages say.
pub(crate) fn name_regions(table: &mut [u8], names: &[(RegionKind, u16)]) {
    use region_entry as f;
    for (entry, (kind, stage)) in table.chunks_exact_mut(f::LEN).zip(names) {
        put(entry, f::KIND, &kind.number().to_le_bytes());
        put(entry, f::STAGE, &stage.to_le_bytes());
        put(entry, f::BLOCK_LEN, &kind.block_len().to_le_bytes());
    }
}

/// Reads region table and checksums, whose own checksum has been compared.
/// Regions must stand one after another with nothing but padding between.
pub(crate) fn decode_table(
    bytes: &[u8],
    footer: &Footer,
) -> Result<(Vec<RegionEntry>, Vec<u32>), FormatError> {
    let mut r = Reader::new(bytes);
    let mut regions: Vec<RegionEntry> = Vec::new();
    let (mut offset, mut checksums) = (PAGE as u64, 0);
    for _ in 0..footer.regions {
        let at = r.at();
        let region = RegionEntry::decode(&mut r)?;
        let in_order = region.offset == offset && u64::from(region.first_checksum) == checksums;
        let end = region.offset.checked_add(region.len).filter(|end| *end <= footer.table_at);
        let (true, Some(end)) = (in_order, end) else {
            return Err(FormatError::new(at, "region lies where none can be"));
        };
        offset = end.next_multiple_of(PAGE as u64);
        checksums += region.blocks();
        regions.push(region);
    }
    if checksums != u64::from(footer.checksums) || offset != footer.table_at {
        return Err(FormatError::new(0, "regions, checksums and footer contradict each other"));
    }
    let checksums = (0..footer.checksums).map(|_| r.u32()).collect::<Result<_, _>>()?;
    r.finish()?;
    Ok((regions, checksums))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: RegionKind = RegionKind::Later { number: IGNORABLE | 7, block_len: SMALL_BLOCK };

    fn region(kind: RegionKind, offset: u64, len: u64, first_checksum: u32) -> RegionEntry {
        RegionEntry { kind, stage: 0, offset, len, first_checksum }
    }

    /// Five regions of which two are longer than a block, one is empty and one of a later version.
    fn table() -> (Vec<RegionEntry>, Vec<u32>, Footer) {
        let regions = vec![
            region(RegionKind::Vectors, 4096, 8193, 0),
            region(RegionKind::Ids, 16_384, 8, 3),
            region(RegionKind::Norms, 20_480, 65_537, 4),
            region(RegionKind::Payload, 90_112, 0, 6),
            region(LATER, 90_112, 4096, 6),
        ];
        let footer = Footer {
            table_at: 94_208,
            file_len: 94_208 + 5 * 32 + 7 * 4 + 64,
            regions: 5,
            checksums: 7,
            rows: 1,
            table_crc: 2,
            kept: 3,
        };
        (regions, (0..7).collect(), footer)
    }

    type Change = fn(&mut Vec<RegionEntry>, &mut Vec<u32>, &mut Footer);

    #[test]
    fn a_table_comes_back_and_any_other_is_refused() {
        let (regions, checksums, footer) = table();
        let good = encode_table(&regions, &checksums);
        assert_eq!(footer.table_len(), Some(good.len() as u64));
        assert_eq!(decode_table(&good, &footer), Ok((regions.clone(), checksums.clone())));
        let changes: [(&str, Change); 12] = [
            ("a gap", |r, _, _| r[1].offset += 4096),
            ("an overlap", |r, _, _| r[1].offset -= 4096),
            ("a checksum left out", |r, _, _| r[1].first_checksum = 4),
            ("one block less", |r, _, _| r[0].len = 8192),
            ("beyond the table", |r, _, _| r[4].len = 4097),
            ("beyond all", |r, _, _| r[4].len = u64::MAX),
            ("ends before the table", |_, _, f| f.table_at += 4096),
            ("a region less", |_, _, f| f.regions = 4),
            ("a region more", |_, _, f| f.regions = 6),
            ("a checksum less", |_, _, f| f.checksums = 6),
            ("a checksum more", |_, _, f| f.checksums = 8),
            ("bytes behind", |_, c, _| c.push(0)),
        ];
        for (what, change) in changes {
            let (mut regions, mut checksums, mut footer) = table();
            change(&mut regions, &mut checksums, &mut footer);
            let bytes = encode_table(&regions, &checksums);
            assert!(decode_table(&bytes, &footer).is_err(), "{what}");
        }
        for len in 0..good.len() {
            assert!(decode_table(&good[..len], &footer).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn a_region_says_nothing_that_contradicts_its_kind() {
        let entry = |change: &dyn Fn(&mut [u8])| {
            let mut bytes = region(RegionKind::Norms, 4096, 5, 9).encode();
            change(&mut bytes);
            RegionEntry::decode(&mut Reader::new(&bytes))
        };
        assert_eq!(entry(&|_| {}), Ok(region(RegionKind::Norms, 4096, 5, 9)));
        let block =
            |len: u32| move |b: &mut [u8]| put(b, region_entry::BLOCK_LEN, &len.to_le_bytes());
        let kind = |kind: u16| move |b: &mut [u8]| put(b, region_entry::KIND, &kind.to_le_bytes());
        assert!(entry(&block(SMALL_BLOCK)).is_err(), "norms have large blocks");
        assert!(entry(&kind(1)).is_err(), "ids have small ones");
        assert!(entry(&|b| b[region_entry::RESERVED.start] = 1).is_err());
        // Of kinds that are not known, only whether one can do without is.
        let later = |number| {
            let decoded = entry(&kind(number)).expect("any kind");
            assert_eq!(decoded.kind, RegionKind::Later { number, block_len: LARGE_BLOCK });
            assert_eq!((decoded.kind.number(), decoded.blocks()), (number, 1));
            decoded.kind.is_readable()
        };
        assert!(!later(0) && !later(16) && !later(0x7fff) && later(0x8000) && later(0x800f));
        let odd = |b: &mut [u8]| {
            kind(0x8000)(b);
            block(1000)(b);
        };
        assert!(entry(&odd).is_err(), "blocks of a length there is none of");
        for (known, number) in RegionKind::KNOWN.into_iter().zip(1..) {
            assert_eq!(known.number(), number);
            assert!(known.is_readable());
        }
    }

    #[test]
    fn a_footer_that_was_changed_is_refused() {
        let footer = table().2;
        let good = footer.encode();
        assert_eq!(Footer::decode(&good), Ok(footer));
        for bit in 0..good.len() * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Footer::decode(&bad).is_err(), "bit {bit}");
        }
        // What contradicts itself, whatever its checksum says.
        let sealed = |change: fn(&mut [u8])| {
            let mut bytes = good;
            change(&mut bytes);
            let crc = crc32(&bytes[..segment_footer::FOOTER_CRC.start]);
            put(&mut bytes, segment_footer::FOOTER_CRC, &crc.to_le_bytes());
            Footer::decode(&bytes).is_ok()
        };
        assert!(sealed(|_| {}));
        assert!(!sealed(|b| b[segment_footer::RESERVED.start] = 1), "reserved");
    }
}

//! Compares every byte of a sealed file with what vouches for it: of a segment or a graph,
//! which have the same form, or of a log that a segment keeps ([`LogCheck`]).
//!
//! The file is cut into spans that lie one after another and cover all of it:
//! whole checksum blocks with the padding behind them, the header's page, the
//! region table with the footer. Whoever reads the spans, in any order or on any
//! number of threads, keeps no more of the file in RAM than the span at hand.

use std::sync::Arc;

use super::format::{Footer, PAGE};
use super::graph;
use super::parts::{Described, Parts, check_header};
use super::reader::PayloadRegion;
use crate::codec::crc32;
use crate::codec::header::{CollectionId, FileHeader, FileKind};
use crate::error::{Error, Result};
use crate::manifest::{GraphEntry, LogEntry, SegmentEntry};
use crate::schema::Schema;
use crate::sync::Mutex;
use crate::vfs::{self, ReadFile};

/// Most bytes of blocks in a span: they stay in the cache of a core between
/// being read and being summed.
pub(crate) const SPAN: usize = 256 << 10;

/// A file to be compared.
pub(crate) trait Check: Send + Sync {
    /// Its spans, front to back.
    fn spans(&self) -> Vec<Span>;

    /// Reads a span into `buffer` and compares it.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the first byte or block that differs; [`Error::Io`] where there
    /// is no RAM for the buffer.
    fn read<'b>(&self, span: Span, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]>;
}

/// A segment file whose header, footer and region table are right, and agree
/// with each other, the schema and the manifest.
pub(crate) struct RegionsCheck {
    parts: Parts,
    collection: CollectionId,
    described: Described,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    /// Where it begins.
    at: u64,
    len: usize,
    /// Bytes at its beginning that are no padding.
    content: usize,
    /// Bytes a checksum covers; 0 where none does.
    block_len: usize,
    /// The first of its checksums.
    first: usize,
}

impl Span {
    /// Bytes that are read.
    pub(crate) fn bytes(&self) -> u64 {
        self.len as u64
    }
}

impl RegionsCheck {
    /// # Errors
    /// [`Error::Corrupt`] where that is not so.
    pub(crate) fn new(
        file: Arc<dyn ReadFile>,
        collection: &CollectionId,
        schema: &Schema,
        entry: &SegmentEntry,
    ) -> Result<Self> {
        let described = Described::segment(entry);
        let parts = Parts::open(file, collection, &described)?;
        parts.check_regions(schema, entry)?;
        PayloadRegion::open(&parts, entry.rows)?;
        Ok(Self { parts, collection: *collection, described })
    }

    /// The same of a graph file, for `rows` rows of `dims` dimensions.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where that is not so.
    pub(crate) fn of_graph(
        file: Arc<dyn ReadFile>,
        collection: &CollectionId,
        dims: usize,
        entry: &GraphEntry,
        rows: u32,
    ) -> Result<Self> {
        let described = Described::graph(entry, rows);
        let parts = graph::parts(file, collection, &described)?;
        graph::meta(&parts, rows, dims)?;
        Ok(Self { parts, collection: *collection, described })
    }

    fn check_blocks(&self, span: Span, content: &[u8], block_len: usize) -> Result<()> {
        let checksums = &self.parts.checksums[span.first..];
        let mut blocks = content.chunks(block_len).zip(checksums);
        match blocks.position(|(block, crc)| crc32(block) != *crc) {
            None => Ok(()),
            Some(block) => {
                let at = span.at + (block * block_len) as u64;
                Err(self.corrupt(at, "checksum of a block does not match"))
            }
        }
    }

    /// The region table and the footer have been read before; they are compared
    /// again because it is these bytes that are copied.
    fn check_end(&self, bytes: &[u8]) -> Result<()> {
        let (table, footer) = bytes.split_at(bytes.len() - Footer::LEN);
        let footer: &[u8; Footer::LEN] = footer.try_into().expect("split there");
        let at = self.described.len - Footer::LEN as u64;
        Footer::decode(footer).map_err(|e| e.in_file(self.path(), at))?;
        if crc32(table) == self.described.table_crc {
            return Ok(());
        }
        Err(self.corrupt(self.parts.table_at, "checksum of the region table does not match"))
    }

    fn path(&self) -> &std::path::Path {
        self.parts.file.path()
    }

    fn corrupt(&self, at: u64, what: &str) -> Error {
        Error::corrupt(self.path(), at, what)
    }
}

impl Check for RegionsCheck {
    fn spans(&self) -> Vec<Span> {
        let span = Span { at: 0, len: PAGE, content: FileHeader::LEN, block_len: 0, first: 0 };
        let mut spans = vec![span];
        for region in &self.parts.entries {
            let block_len = region.kind.block_len() as usize;
            let mut first = region.first_checksum as usize;
            let mut done = 0;
            while done < region.len {
                let content = (region.len - done).min(SPAN as u64);
                let (at, last) = (region.offset + done, done + content == region.len);
                let padded = if last { content.next_multiple_of(PAGE as u64) } else { content };
                let (len, content) = (padded as usize, content as usize);
                spans.push(Span { at, len, content, block_len, first });
                first += SPAN / block_len;
                done += content as u64;
            }
        }
        let table_at = self.parts.table_at;
        let len = (self.described.len - table_at) as usize;
        spans.push(Span { at: table_at, len, content: len, ..span });
        spans
    }

    fn read<'b>(&self, span: Span, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        let bytes = span.read(&*self.parts.file, buffer)?;
        let (content, padding) = bytes.split_at(span.content);
        match span.block_len {
            0 if span.at == 0 => {
                let header = FileHeader::decode(content, self.described.kind, self.path())?;
                header.expect(self.described.number, &self.collection, self.path())?;
                header.no_body(self.path())?;
            }
            0 => self.check_end(content)?,
            block_len => self.check_blocks(span, content, block_len)?,
        }
        match padding.iter().position(|b| *b != 0) {
            None => Ok(bytes),
            Some(at) => {
                Err(self.corrupt(span.at + (span.content + at) as u64, "padding is not zero"))
            }
        }
    }
}

impl Span {
    /// Its bytes.
    fn read<'b>(&self, file: &dyn ReadFile, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        let more = self.len.saturating_sub(buffer.len());
        vfs::reserve(buffer, file.path(), more)?;
        buffer.resize(buffer.len() + more, 0);
        file.read_at(&mut buffer[..self.len], self.at)?;
        Ok(&buffer[..self.len])
    }
}

/// A log that a segment keeps, which has one checksum.
pub(crate) struct LogCheck {
    file: Arc<dyn ReadFile>,
    entry: LogEntry,
    /// Of its spans, and how many were not read yet.
    sums: Mutex<(Vec<Option<crc32fast::Hasher>>, usize)>,
}

impl LogCheck {
    /// # Errors
    /// [`Error::Corrupt`] where length or header are not those of the entry.
    pub(crate) fn new(
        file: Arc<dyn ReadFile>,
        collection: &CollectionId,
        entry: LogEntry,
    ) -> Result<Self> {
        check_header(&*file, FileKind::Wal, collection, entry.number, entry.len)?;
        let spans = file.len().div_ceil(SPAN as u64) as usize;
        Ok(Self { file, entry, sums: Mutex::new((vec![None; spans], spans)) })
    }
}

impl Check for LogCheck {
    fn spans(&self) -> Vec<Span> {
        let span = |(first, at): (usize, u64)| {
            let len = (self.entry.len - at).min(SPAN as u64) as usize;
            Span { at, len, content: len, block_len: 0, first }
        };
        (0..self.entry.len).step_by(SPAN).enumerate().map(span).collect()
    }

    /// Sums the span; with the last of them, compares the sum of all.
    fn read<'b>(&self, span: Span, buffer: &'b mut Vec<u8>) -> Result<&'b [u8]> {
        let bytes = span.read(&*self.file, buffer)?;
        let mut sum = crc32fast::Hasher::new();
        sum.update(bytes);
        let mut sums = self.sums.lock();
        let (sums, left) = &mut *sums;
        *left -= usize::from(sums[span.first].replace(sum).is_none());
        if *left > 0 {
            return Ok(bytes);
        }
        let mut whole = crc32fast::Hasher::new();
        sums.iter().flatten().for_each(|sum| whole.combine(sum));
        if whole.finalize() == self.entry.crc {
            return Ok(bytes);
        }
        Err(Error::corrupt(self.file.path(), 0, "checksum of the log does not match"))
    }
}

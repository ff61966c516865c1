//! The full vectors of a segment: in a region of its file, or where commits have put them,
//! in a log that the segment keeps. Then the file has their places in it.

use std::path::PathBuf;
use std::sync::Arc;

use super::format::PlaceEntry;
use super::reader::check_header;
use super::region::{Region, Seen};
use crate::codec::crc32;
use crate::codec::header::{CollectionId, FileKind};
use crate::error::{Error, Result};
use crate::manifest::LogEntry;
use crate::sown::{Bug, sown};
use crate::types::Ordinal;
use crate::vfs::map::Bytes;
use crate::vfs::{ReadFile, Vfs, open_named};

/// Vectors of `width` bytes, as stored.
pub(super) struct Vectors {
    width: usize,
    source: Source,
}

enum Source {
    Region(Region),
    Log(Logged),
}

impl Vectors {
    pub(super) fn in_region(region: Region, width: usize) -> Self {
        Self { width, source: Source::Region(region) }
    }

    /// Those of `rows` rows, at `places` of a log.
    pub(super) fn in_log(
        places: Region,
        log: &dyn ReadFile,
        rows: u32,
        width: usize,
    ) -> Result<Self> {
        let bytes = log.map()?;
        bytes.random_access();
        // Few bytes, without which none of the log can be asked for ahead.
        places.will_need(0, places.len());
        let seen = Seen::none_of(rows as usize);
        let logged = Logged { places, file: log.path().to_owned(), bytes, seen };
        Ok(Self { width, source: Source::Log(logged) })
    }

    /// The vector of a row, compared with its checksum when it is first read in this open.
    pub(super) fn get(&self, row: Ordinal) -> Result<&[u8]> {
        match &self.source {
            Source::Region(region) => region.get(row.index() * self.width, self.width),
            Source::Log(logged) => logged.get(row.index(), self.width),
        }
    }

    /// Says that a vector will be read soon.
    pub(super) fn will_need(&self, row: Ordinal) {
        match &self.source {
            Source::Region(region) => region.will_need(row.index() * self.width, self.width),
            Source::Log(logged) => logged.will_need(row.index(), self.width),
        }
    }

    /// The log that has them.
    pub(super) fn log(&self) -> Option<&Bytes> {
        match &self.source {
            Source::Region(_) => None,
            Source::Log(logged) => Some(&logged.bytes),
        }
    }
}

/// Vectors in a log.
struct Logged {
    places: Region,
    /// The log's path, for messages.
    file: PathBuf,
    bytes: Bytes,
    /// Rows whose vectors were compared.
    seen: Seen,
}

impl Logged {
    fn place(&self, row: usize) -> Result<PlaceEntry> {
        Ok(PlaceEntry::decode(self.places.get(row * PlaceEntry::LEN, PlaceEntry::LEN)?))
    }

    fn get(&self, row: usize, width: usize) -> Result<&[u8]> {
        let place = self.place(row)?;
        let wrong = |what: &str| {
            Error::corrupt(&self.file, place.offset, format!("vector of row {row} {what}"))
        };
        let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(width).and_then(|end| self.bytes.get(start..end));
        let bytes = bytes.ok_or_else(|| wrong("lies outside the log"))?;
        if !self.seen.has(row) {
            if crc32(bytes) != place.crc && !sown(Bug::LoggedNotChecked) {
                return Err(wrong("does not match its checksum"));
            }
            self.seen.note(row);
        }
        Ok(bytes)
    }

    fn will_need(&self, row: usize, width: usize) {
        if self.seen.has(row) {
            return;
        }
        let Ok(place) = self.place(row) else { return };
        let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
        if start.checked_add(width).is_some_and(|end| end <= self.bytes.len()) {
            self.bytes.will_need(start, width);
        }
    }
}

/// Opens a log that a segment keeps.
///
/// # Errors
/// [`Error::Corrupt`] where it is not there, or has another length or header than it should.
pub(super) fn open_log(
    vfs: &dyn Vfs,
    collection: &CollectionId,
    entry: &LogEntry,
) -> Result<Arc<dyn ReadFile>> {
    let log = open_named(vfs, &FileKind::Wal.name(entry.number))?;
    check_header(&*log, FileKind::Wal, collection, entry.number, entry.len)?;
    Ok(log)
}

//! The full vectors of a segment: in a region of its file, or where commits have put them,
//! in logs that the segment keeps. Then the file has their places in these.

use std::ops::Range;
use std::path::PathBuf;

use super::format::PlaceEntry;
use super::parts::check_header;
use super::region::{Region, Seen};
use crate::codec::crc32;
use crate::codec::header::{CollectionId, FileKind};
use crate::error::{Error, Result};
use crate::manifest::LogEntry;
use crate::rows::LogPlace;
use crate::sown::{Bug, sown};
use crate::types::{FileNumber, Ordinal};
use crate::vfs::map::Bytes;
use crate::vfs::{ReadFile, Vfs, open_damaged, open_named};

/// Vectors of `width` bytes, as stored.
pub(super) struct Vectors {
    width: usize,
    source: Source,
}

enum Source {
    Region(Region),
    Logs(Logged),
}

/// A log that a segment keeps.
pub(super) struct KeptLog {
    number: FileNumber,
    /// For messages.
    file: PathBuf,
    bytes: Bytes,
}

impl KeptLog {
    /// Opens the log of an entry.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it is not there, or has another length or header than it should.
    pub(super) fn open(vfs: &dyn Vfs, collection: &CollectionId, entry: &LogEntry) -> Result<Self> {
        let log = open_named(vfs, &FileKind::Wal.name(entry.number))?;
        check_header(&*log, FileKind::Wal, collection, entry.number, entry.len)?;
        Self::map(&*log, entry.number)
    }

    /// As [`Self::open`], whatever the file is; without bytes if there is none.
    pub(super) fn open_damaged(vfs: &dyn Vfs, number: FileNumber) -> Result<Self> {
        let name = FileKind::Wal.name(number);
        let none = || Self { number, file: vfs.path(&name), bytes: Bytes::none() };
        open_damaged(vfs, &name)?.map_or_else(|| Ok(none()), |log| Self::map(&*log, number))
    }

    fn map(log: &dyn ReadFile, number: FileNumber) -> Result<Self> {
        let bytes = log.map()?;
        bytes.random_access();
        Ok(Self { number, file: log.path().to_owned(), bytes })
    }
}

impl Vectors {
    pub(super) fn in_region(region: Region, width: usize) -> Self {
        Self { width, source: Source::Region(region) }
    }

    /// Those of `rows` rows, at `places` of logs.
    pub(super) fn in_logs(places: Region, logs: Vec<KeptLog>, rows: u32, width: usize) -> Self {
        // Few bytes, without which none of the logs can be asked for ahead.
        places.will_need(0, places.len());
        let [seen, asked] = [0; 2].map(|_| Seen::none_of(rows as usize));
        Self { width, source: Source::Logs(Logged { places, logs, seen, asked }) }
    }

    /// The vector of a row, compared with its checksum when it is first read in this open.
    pub(super) fn get(&self, row: Ordinal) -> Result<&[u8]> {
        match &self.source {
            Source::Region(region) => region.get(row.index() * self.width, self.width),
            Source::Logs(logged) => logged.get(row.index(), self.width),
        }
    }

    /// Says that the vectors of some rows will be read soon.
    pub(super) fn will_need(&self, rows: Range<u32>) {
        let (start, count) = (rows.start as usize, rows.len());
        match &self.source {
            Source::Region(region) => region.will_need(start * self.width, count * self.width),
            Source::Logs(logged) => {
                (start..start + count).for_each(|row| logged.will_need(row, self.width));
            }
        }
    }

    /// What was asked for may have left memory again.
    pub(super) fn ask_again(&self) {
        match &self.source {
            Source::Region(region) => region.ask_again(),
            Source::Logs(logged) => logged.asked.forget(),
        }
    }

    /// Compares each vector anew when it is next read.
    pub(super) fn distrust(&self) {
        match &self.source {
            Source::Region(region) => region.distrust(),
            Source::Logs(logged) => {
                logged.places.distrust();
                logged.seen.forget();
            }
        }
    }

    /// Where a log has the vector of a row; `None` if none has, or the place cannot be read.
    pub(super) fn place(&self, row: Ordinal) -> Option<LogPlace> {
        let Source::Logs(logged) = &self.source else { return None };
        let (log, place) = logged.place(row.index()).ok()?;
        Some(LogPlace { log: log.number, at: place.offset })
    }

    /// Its checksum there.
    pub(super) fn crc(&self, row: Ordinal) -> Option<u32> {
        let Source::Logs(logged) = &self.source else { return None };
        Some(logged.place(row.index()).ok()?.1.crc)
    }

    /// The logs that have them.
    pub(super) fn logs(&self) -> impl Iterator<Item = &Bytes> {
        let logs = match &self.source {
            Source::Region(_) => &[][..],
            Source::Logs(logged) => &logged.logs,
        };
        logs.iter().map(|log| &log.bytes)
    }
}

/// Vectors in logs.
struct Logged {
    places: Region,
    logs: Vec<KeptLog>,
    /// Rows whose vectors were compared.
    seen: Seen,
    /// Rows whose vectors were asked for.
    asked: Seen,
}

impl Logged {
    fn place(&self, row: usize) -> Result<(&KeptLog, PlaceEntry)> {
        let bytes = self.places.get(row * PlaceEntry::LEN, PlaceEntry::LEN)?;
        let place = PlaceEntry::decode(bytes);
        let no_log = || self.places.corrupt(format!("row {row} is in log {}", place.log));
        Ok((self.logs.get(place.log as usize).ok_or_else(no_log)?, place))
    }

    fn get(&self, row: usize, width: usize) -> Result<&[u8]> {
        let (log, place) = self.place(row)?;
        let wrong = |what: &str| {
            Error::corrupt(&log.file, place.offset, format!("vector of row {row} {what}"))
        };
        let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(width).and_then(|end| log.bytes.get(start..end));
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
        if self.asked.has(row) {
            return;
        }
        self.asked.note(row);
        let Ok((log, place)) = self.place(row) else { return };
        let start = usize::try_from(place.offset).unwrap_or(usize::MAX);
        if start.checked_add(width).is_some_and(|end| end <= log.bytes.len()) {
            log.bytes.will_need(start, width);
        }
    }
}

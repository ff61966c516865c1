//! A damaged segment whose vectors are in logs: these have its ids and payloads, too.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use roaring::RoaringBitmap;

use super::frames::Frames;
use crate::codec::crc32;
use crate::codec::header::FileKind;
use crate::error::Result;
use crate::manifest::{LogEntry, MAX_LOG, Manifest};
use crate::rows::LogPlace;
use crate::types::{FileNumber, RowId};
use crate::vfs::map::Bytes;
use crate::vfs::{ReadFile, Vfs, open_damaged, read_damaged};
use crate::view::Part;
use crate::wal::format::MAX_BODY;
use crate::wal::ops::Operation;

/// The bytes of a log that may be damaged, and longer than logs are.
pub(super) fn read_log(file: &dyn ReadFile) -> Result<Vec<u8>> {
    // No frame is as long as that, so none comes behind this many zeros.
    read_damaged(file, MAX_LOG, 2 * MAX_BODY)
}

/// The bytes of a log that a segment keeps; `None` where it is not there or damaged.
///
/// # Errors
/// [`crate::Error::Io`] where it cannot be read.
fn intact(vfs: &dyn Vfs, log: LogEntry) -> Result<Option<Bytes>> {
    let Some(file) = open_damaged(vfs, &FileKind::Wal.name(log.number))? else { return Ok(None) };
    if file.len() != log.len {
        return Ok(None);
    }
    let bytes = file.map()?;
    Ok((crc32(&bytes) == log.crc).then_some(bytes))
}

/// The rows that the commits of a log leave, as if there had been no others: one part without
/// dead rows, in the order that a flush has them. `None` where there are none, or it is damaged.
///
/// # Errors
/// [`crate::Error::Io`] where it cannot be read.
pub(super) fn rows(vfs: &dyn Vfs, manifest: &Manifest, log: LogEntry) -> Result<Option<Part>> {
    let Some(bytes) = intact(vfs, log)? else { return Ok(None) };
    Frames::new(manifest, log.number, &bytes).rows()
}

/// The rows that the commits of those logs leave that are intact, as if there had been no others:
/// those of each log, the last first, so that one of them at a time is in RAM. Whether all logs
/// were intact.
///
/// # Errors
/// [`crate::Error::Io`] where a log cannot be read; those of `found`.
pub(super) fn replay(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    logs: &[LogEntry],
    found: &mut dyn FnMut(FileNumber, Part) -> Result<()>,
) -> Result<bool> {
    let (mut later, mut all): (HashSet<RowId>, _) = (HashSet::new(), true);
    for log in in_order(logs).into_iter().rev() {
        let Some(bytes) = intact(vfs, log)? else {
            all = false;
            continue;
        };
        let frames = Frames::new(manifest, log.number, &bytes);
        if let Some(part) = frames.rows()? {
            let mut dead = RoaringBitmap::new();
            for row in part.living() {
                if later.contains(&part.rows.id(row)?) {
                    dead.insert(row.0);
                }
            }
            let part = part.with_dead(dead);
            if part.live_rows() > 0 {
                found(log.number, part)?;
            }
        }
        later.extend(frames.operations().map(|operation| operation.id().clone()));
    }
    Ok(all)
}

/// The order in which they were written.
fn in_order(logs: &[LogEntry]) -> Vec<LogEntry> {
    let mut logs = logs.to_vec();
    logs.sort_unstable_by_key(|log| log.number);
    logs
}

/// What intact logs say of the rows whose vectors they have. Vectors and payloads stay in the
/// logs until they are asked for.
#[derive(Default)]
pub(super) struct Logged {
    logs: HashMap<FileNumber, Bytes>,
    rows: HashMap<LogPlace, Place>,
    /// Where the last vector of each id is.
    last: HashMap<RowId, LogPlace>,
    width: usize,
}

/// Where a commit has the payload of a row, and whose it is.
struct Place {
    id: RowId,
    payload: Range<u64>,
}

/// A row as a commit wrote it.
#[derive(Clone, Copy)]
pub(super) struct LoggedRow<'a> {
    pub(super) id: &'a RowId,
    pub(super) vector: &'a [u8],
    pub(super) payload: &'a str,
}

impl Logged {
    /// # Errors
    /// [`crate::Error::Io`] where a log cannot be read.
    pub(super) fn read(vfs: &dyn Vfs, manifest: &Manifest, logs: &[LogEntry]) -> Result<Self> {
        let mut logged = Self { width: manifest.schema.vector_bytes(), ..Self::default() };
        for log in in_order(logs) {
            let Some(bytes) = intact(vfs, log)? else { continue };
            for operation in Frames::new(manifest, log.number, &bytes).operations() {
                let Operation::Upsert { id, place, .. } = operation else { continue };
                let payload = place.payload..place.payload + u64::from(place.payload_len);
                let place = LogPlace { log: log.number, at: place.vector };
                logged.last.insert(id.clone(), place);
                logged.rows.insert(place, Place { id, payload });
            }
            logged.logs.insert(log.number, bytes);
        }
        Ok(logged)
    }

    /// The row whose vector is at a place; else the last with an id.
    pub(super) fn row(&self, place: Option<LogPlace>, id: Option<&RowId>) -> Option<LoggedRow<'_>> {
        let at = |place: &LogPlace| self.at(*place);
        place.as_ref().and_then(at).or_else(|| at(self.last.get(id?)?))
    }

    fn at(&self, place: LogPlace) -> Option<LoggedRow<'_>> {
        let (Place { id, payload }, bytes) = (self.rows.get(&place)?, self.logs.get(&place.log)?);
        let vector = place.at as usize..place.at as usize + self.width;
        let payload = bytes.get(payload.start as usize..payload.end as usize)?;
        let payload = std::str::from_utf8(payload).ok()?;
        Some(LoggedRow { id, vector: bytes.get(vector)?, payload })
    }
}

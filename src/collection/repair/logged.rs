//! A damaged segment whose vectors are in logs: these have its ids and payloads, too.

use std::collections::HashMap;
use std::sync::Arc;

use super::frames::Frames;
use crate::codec::crc32;
use crate::codec::header::FileKind;
use crate::error::Result;
use crate::manifest::{LogEntry, MAX_LOG, Manifest};
use crate::rows::LogPlace;
use crate::types::RowId;
use crate::vfs::{Vfs, read_all};
use crate::view::{Part, View};
use crate::wal::ops::Operation;

/// The bytes of a log that a segment keeps; `None` where it is not there or damaged.
///
/// # Errors
/// [`crate::Error::Io`] where it cannot be read.
fn intact(vfs: &dyn Vfs, log: LogEntry) -> Result<Option<Vec<u8>>> {
    let Some(file) = vfs.open(&FileKind::Wal.name(log.number))? else { return Ok(None) };
    if file.len() != log.len {
        return Ok(None);
    }
    let bytes = read_all(&*file, MAX_LOG)?;
    Ok((crc32(&bytes) == log.crc).then_some(bytes))
}

/// The rows that the commits of those logs leave that are intact, as if there had been no others.
/// Those of one log are one part without dead rows, in the order that a flush has them.
///
/// # Errors
/// [`crate::Error::Io`] where a log cannot be read.
pub(super) fn rows(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    logs: &[LogEntry],
) -> Result<Vec<Arc<Part>>> {
    let schema = Arc::new(manifest.schema.clone());
    let mut view = View { schema, lsn: manifest.lsn, parts: Vec::new(), calibration: None };
    for log in in_order(logs) {
        let Some(bytes) = intact(vfs, log)? else { continue };
        let frames = Frames::new(manifest, log.number, &bytes);
        view.lsn = frames.before();
        view = frames.apply(view)?;
    }
    view.parts.retain(|part| part.live_rows() > 0);
    Ok(view.parts)
}

/// The order in which they were written.
fn in_order(logs: &[LogEntry]) -> Vec<LogEntry> {
    let mut logs = logs.to_vec();
    logs.sort_unstable_by_key(|log| log.number);
    logs
}

/// What intact logs say of the rows whose vectors they have.
#[derive(Default)]
pub(super) struct Logged {
    rows: HashMap<LogPlace, LoggedRow>,
    /// Where the last vector of each id is.
    last: HashMap<RowId, LogPlace>,
}

/// A row as a commit wrote it.
pub(super) struct LoggedRow {
    pub(super) id: RowId,
    pub(super) vector: Vec<u8>,
    pub(super) payload: String,
}

impl Logged {
    /// # Errors
    /// [`crate::Error::Io`] where a log cannot be read.
    pub(super) fn read(vfs: &dyn Vfs, manifest: &Manifest, logs: &[LogEntry]) -> Result<Self> {
        let mut logged = Self::default();
        for log in in_order(logs) {
            let Some(bytes) = intact(vfs, log)? else { continue };
            for operation in Frames::new(manifest, log.number, &bytes).operations() {
                let Operation::Upsert { id, vector, payload, place } = operation else { continue };
                let place = LogPlace { log: log.number, at: place.vector };
                logged.last.insert(id.clone(), place);
                let (vector, payload) = (vector.to_vec(), payload.to_owned());
                logged.rows.insert(place, LoggedRow { id, vector, payload });
            }
        }
        Ok(logged)
    }

    /// The row whose vector is at a place; else the last with an id.
    pub(super) fn row(&self, place: Option<LogPlace>, id: Option<&RowId>) -> Option<&LoggedRow> {
        let at = |place: &LogPlace| self.rows.get(place);
        place.as_ref().and_then(at).or_else(|| at(self.last.get(id?)?))
    }
}

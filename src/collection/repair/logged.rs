//! A damaged segment whose vectors are in a log: the log has its ids and payloads, too.

use std::sync::Arc;

use super::frames::Frames;
use crate::codec::crc32;
use crate::codec::header::FileKind;
use crate::error::Result;
use crate::manifest::{LogEntry, MAX_LOG, Manifest};
use crate::types::FileNumber;
use crate::vfs::{Vfs, read_all};
use crate::view::{Part, View};

/// The rows of a log that a segment keeps, in the order that the segment has them; `None`
/// where the log is not there, is damaged or has none.
///
/// # Errors
/// [`crate::Error::Io`] where it cannot be read.
pub(super) fn rows(vfs: &dyn Vfs, manifest: &Manifest, log: LogEntry) -> Result<Option<Arc<Part>>> {
    let Some(file) = vfs.open(&FileKind::Wal.name(log.number))? else { return Ok(None) };
    if file.len() != log.len {
        return Ok(None);
    }
    let bytes = read_all(&*file, MAX_LOG)?;
    if crc32(&bytes) == log.crc { rows_of(manifest, log.number, &bytes) } else { Ok(None) }
}

/// The rows of the commits of a log, as if there had been none before: as one part, none of
/// whose rows is dead.
pub(super) fn rows_of(
    manifest: &Manifest,
    number: FileNumber,
    log: &[u8],
) -> Result<Option<Arc<Part>>> {
    let frames = Frames::new(manifest, number, log);
    let (schema, lsn) = (Arc::new(manifest.schema.clone()), frames.before());
    let view = frames.apply(View { schema, lsn, parts: Vec::new(), calibration: None })?;
    Ok(view.parts.into_iter().next())
}

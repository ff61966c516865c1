//! A damaged segment whose vectors are in a log: the log has its ids and payloads, too.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::frames::Frames;
use crate::codec::crc32;
use crate::codec::header::FileKind;
use crate::error::Result;
use crate::manifest::{LogEntry, MAX_LOG, Manifest};
use crate::memtable::{Run, RunBuilder};
use crate::types::Ordinal;
use crate::vfs::{Vfs, read_all};
use crate::view::{Part, View};

/// The rows of a log that a segment keeps, in the order that the segment has them; `None`
/// where the log is not there, or damaged.
///
/// # Errors
/// [`crate::Error::Io`] where it cannot be read.
pub(super) fn rows(vfs: &dyn Vfs, manifest: &Manifest, log: LogEntry) -> Result<Option<View>> {
    let Some(file) = vfs.open(&FileKind::Wal.name(log.number))? else { return Ok(None) };
    if file.len() != log.len {
        return Ok(None);
    }
    let bytes = read_all(&*file, MAX_LOG)?;
    if crc32(&bytes) != log.crc {
        return Ok(None);
    }
    let frames = Frames::new(manifest, log.number, &bytes);
    let (schema, lsn) = (Arc::new(manifest.schema.clone()), frames.before());
    frames.apply(View { schema, lsn, parts: Vec::new(), calibration: None }).map(Some)
}

/// Those of the rows that are not `dead`; none if there are none.
pub(super) fn living(view: &View, dead: &RoaringBitmap) -> Result<Option<Run>> {
    let mut run = RunBuilder::new(&view.schema);
    let living =
        |part: &Arc<Part>| part.living().map(|row| (part.clone(), row)).collect::<Vec<_>>();
    let rows = view.parts.iter().flat_map(living).enumerate();
    for (_, (part, row)) in rows.filter(|(at, _)| !dead.contains(*at as u32)) {
        copy(&part, row, &mut run)?;
    }
    Ok((run.len() > 0).then(|| run.finish()))
}

fn copy(part: &Part, row: Ordinal, run: &mut RunBuilder) -> Result<()> {
    run.push(&part.rows.id(row)?, part.rows.vector(row)?, &part.rows.payload(row)?);
    Ok(())
}

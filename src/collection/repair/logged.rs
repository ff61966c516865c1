//! A damaged segment whose vectors are in a log: the log has its ids and payloads, too.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::super::open::read_log;
use super::frames::Frames;
use crate::codec::crc32;
use crate::error::Result;
use crate::manifest::{Manifest, SegmentEntry};
use crate::memtable::{Run, RunBuilder};
use crate::types::Ordinal;
use crate::vfs::Vfs;
use crate::view::{Part, View};

/// The rows of the log that a segment keeps, as the segment has them; `None` if there is no
/// such log, it is damaged, or its rows are others.
pub(super) fn rows(vfs: &dyn Vfs, manifest: &Manifest, entry: &SegmentEntry) -> Option<View> {
    let log = entry.log?;
    let bytes = read_log(vfs, log).ok()?;
    if bytes.len() as u64 != log.len || crc32(&bytes) != log.crc {
        return None;
    }
    let frames = Frames::new(manifest, log.number, &bytes);
    let lsn = frames.before();
    let schema = Arc::new(manifest.schema.clone());
    let empty = View { schema, lsn, parts: Vec::new(), calibration: None };
    frames.apply(empty).ok().filter(|view| view.live_rows() == u64::from(entry.rows))
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

//! A folder without its manifest: what its files say of themselves.

use std::cmp::Reverse;
use std::sync::Arc;

use super::super::verify::{Sealed, check_files};
use super::logged;
use crate::codec::crc32;
use crate::codec::header::{FileHeader, FileKind};
use crate::error::{Corruption, Error, Result};
use crate::manifest::{LogEntry, Manifest, SegmentEntry, UNCOUNTED, counted};
use crate::schema::Schema;
use crate::segment::salvage::own_entry;
use crate::types::FileNumber;
use crate::vfs::{ReadFile, Vfs, open_damaged};

/// The error that says what is there beside a lost manifest.
pub(super) fn manifest_lost(vfs: &dyn Vfs, mut damage: Corruption) -> Error {
    let names = vfs.list().unwrap_or_default();
    let count = |kind| {
        let kinds = names.iter().filter_map(|name| FileKind::parse(name));
        kinds.filter(|(found, _)| *found == kind).count()
    };
    let (segments, logs) = (count(FileKind::Segment), count(FileKind::Wal));
    damage.what = format!(
        "{}; {segments} segments and {logs} logs are there: restore the manifest from a backup, \
         or repair with the schema",
        damage.what
    );
    Error::Corrupt(damage)
}

/// What can be said of a collection without its manifest: the segments and logs
/// that say whose they are, in the order of their numbers. Segments that do not say what they
/// are go to `damage`.
pub(super) fn without_manifest(
    vfs: &dyn Vfs,
    schema: &Schema,
    damage: &mut Vec<Corruption>,
) -> Result<Manifest> {
    let names = vfs.list()?;
    let mut files: Vec<_> = counted(&names).collect();
    files.sort_by_key(|(_, number)| *number);
    let mut made = Manifest::new([0; 16], schema.clone());
    made.spend(&names);
    let (mut known, mut logs, mut unknown) = (false, Vec::new(), Vec::new());
    for (kind, number) in files {
        let Some(file) = vfs.open(&kind.name(number))? else { continue };
        let header = header_of(&*file)?;
        if let Ok(header) = FileHeader::decode(&header, kind, file.path()) {
            if known && header.collection != made.collection {
                continue;
            }
            (made.collection, known) = (header.collection, true);
            made.generation = made.generation.max(header.generation.min(UNCOUNTED));
        }
        match kind {
            FileKind::Segment => {
                let entry = own_entry(number, file.path(), &file.map()?);
                if entry.is_none() {
                    unknown.push(number);
                    damage.push(footer_lost(&*file));
                }
                made.segments.extend(entry.filter(|entry| entry.rows > 0));
            }
            FileKind::Wal => logs.push(log_of(&*file, number, &header)),
            // Only the manifest knew of which segment a graph is; it is built again.
            FileKind::Tombstones | FileKind::Graph | FileKind::Manifest => {}
        }
    }
    sort_logs(vfs, &mut made, &logs, &unknown)?;
    Ok(made)
}

/// The bytes of a file's header; zeros where there is none.
fn header_of(file: &dyn ReadFile) -> Result<[u8; FileHeader::LEN]> {
    let mut header = [0; FileHeader::LEN];
    if file.len() >= header.len() as u64 {
        file.read_at(&mut header, 0)?;
    }
    Ok(header)
}

fn footer_lost(file: &dyn ReadFile) -> Corruption {
    let what = "is cut short, or its footer is damaged; its contents were recorded only in the \
                lost manifest";
    Corruption { file: file.path().to_owned(), offset: file.len(), what: what.to_owned() }
}

/// Tells logs that segments keep from those that are replayed.
///
/// Logs are flushed in the order of their numbers, so one before the last that is kept was
/// flushed too: the segment that kept it is lost, but the log has its rows. So may one that comes
/// before a segment of `unknown` contents, and then later segments have newer rows.
fn sort_logs(
    vfs: &dyn Vfs,
    made: &mut Manifest,
    logs: &[Log],
    unknown: &[FileNumber],
) -> Result<()> {
    let claimed = claim_logs(vfs, made)?;
    let is_kept = |log: &&Log| claimed.contains(&(log.header.number, log.len));
    let last = logs.iter().filter(is_kept).map(|log| log.header.number).max();
    let newest = made.segments.iter().map(|entry| entry.number).max();
    let last = last.max(unknown.iter().copied().filter(|number| Some(*number) < newest).max());
    for Log { header, .. } in logs.iter().filter(|log| !is_kept(log)) {
        if last.is_none_or(|last| header.number > last) {
            made.logs.push(*header);
        } else {
            made.segments.extend(lost_segment(vfs, made, header.number)?);
        }
    }
    made.segments.sort_by_key(|entry| entry.number);
    Ok(())
}

/// Gives each log to one segment, and drops those that keep a log of another: of what was merged
/// and its sources one is left over.
///
/// # Errors
/// Those of reading: what cannot be read now may be sound, and must not give way.
fn claim_logs(vfs: &dyn Vfs, made: &mut Manifest) -> Result<Vec<(FileNumber, u64)>> {
    let segments = std::mem::take(&mut made.segments);
    let logs = |entry: &SegmentEntry| -> Vec<_> {
        entry.kept.iter().map(|log| (log.number, log.len)).collect()
    };
    let all: Vec<_> = segments.iter().flat_map(logs).collect();
    let is_contested = |log| all.iter().filter(|other| **other == log).count() > 1;
    let mut ordered = Vec::new();
    for entry in segments {
        let contested = logs(&entry).into_iter().any(is_contested);
        let damaged = contested && is_damaged(vfs, made, &entry)?;
        ordered.push((damaged, entry));
    }
    // What was merged has the rows of all its logs, its sources of some; unless the merge was not
    // finished.
    ordered.sort_by_key(|(damaged, entry)| (*damaged, Reverse(entry.number)));
    let mut segments: Vec<_> = ordered.into_iter().map(|(_, entry)| entry).collect();
    let mut claimed = Vec::new();
    segments.retain(|entry| {
        let logs = logs(entry);
        let first = logs.iter().all(|log| !claimed.contains(log));
        claimed.extend(logs.into_iter().filter(|_| first));
        first
    });
    made.segments = segments;
    Ok(claimed)
}

fn is_damaged(vfs: &dyn Vfs, made: &Manifest, entry: &SegmentEntry) -> Result<bool> {
    let file = [Sealed::Segment(entry.clone())];
    let checked: Result<Vec<()>> =
        check_files(vfs, made, &file, 1, &|_| true).into_iter().collect();
    match checked {
        Ok(_) => Ok(false),
        Err(Error::Corrupt(_)) => Ok(true),
        Err(e) => Err(e),
    }
}

/// An entry of the segment that kept a log and is lost: it has the log's number, for nobody
/// knows its own.
fn lost_segment(
    vfs: &dyn Vfs,
    made: &Manifest,
    number: FileNumber,
) -> Result<Option<SegmentEntry>> {
    let Some(file) = open_damaged(vfs, &FileKind::Wal.name(number))? else { return Ok(None) };
    let bytes = logged::read_log(&*file)?;
    let log = LogEntry { number, len: bytes.len() as u64, crc: crc32(&bytes), sealed: true };
    let rows = logged::rows(vfs, made, log)?.map_or(0, |part| part.rows.len());
    let kept = Arc::from([log]);
    let entry = SegmentEntry { number, len: 0, rows, table_crc: 0, tombstones: None, kept };
    Ok(Some(entry).filter(|entry| entry.rows > 0))
}

/// A log as one that is replayed, of which only the header is vouched for; and its length.
struct Log {
    header: LogEntry,
    len: u64,
}

fn log_of(file: &dyn ReadFile, number: FileNumber, header: &[u8]) -> Log {
    let header = &header[..header.len().min(file.len() as usize)];
    let (len, crc) = (header.len() as u64, crc32(header));
    Log { header: LogEntry { number, len, crc, sealed: false }, len: file.len() }
}

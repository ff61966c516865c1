//! A folder without its manifest: what its files say of themselves.

use crate::codec::crc32;
use crate::codec::header::{FileHeader, FileKind};
use crate::error::{Corruption, Error, Result};
use crate::manifest::{LogEntry, MAX_LOG, Manifest, SegmentEntry};
use crate::schema::Schema;
use crate::segment::format::Footer;
use crate::types::FileNumber;
use crate::vfs::{ReadFile, Vfs, read_all};

use super::logged;

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
/// that say whose they are, in the order of their numbers.
pub(super) fn without_manifest(vfs: &dyn Vfs, schema: &Schema) -> Result<Manifest> {
    let mut files: Vec<(FileKind, FileNumber)> =
        vfs.list()?.iter().filter_map(|name| FileKind::parse(name)).collect();
    files.sort_by_key(|(_, number)| *number);
    let mut made = Manifest::new([0; 16], schema.clone());
    let (mut known, mut logs) = (false, Vec::new());
    for (kind, number) in files {
        made.next_file = made.next_file.max(FileNumber(number.0 + 1));
        let Some(file) = vfs.open(&kind.name(number))? else { continue };
        let mut header = [0; FileHeader::LEN];
        if file.len() >= header.len() as u64 {
            file.read_at(&mut header, 0)?;
        }
        if let Ok(header) = FileHeader::decode(&header, kind, file.path()) {
            if known && header.collection != made.collection {
                continue;
            }
            (made.collection, known) = (header.collection, true);
            made.generation = made.generation.max(header.generation);
        }
        match kind {
            FileKind::Segment => made.segments.extend(entry_of(&*file, number)?),
            FileKind::Wal => logs.push(log_of(&*file, number, &header)),
            // Only the manifest knew of which segment a graph is; it is built again.
            FileKind::Tombstones | FileKind::Graph | FileKind::Manifest => {}
        }
    }
    sort_logs(vfs, &mut made, &logs)?;
    Ok(made)
}

/// Tells logs that segments keep from those that are replayed.
///
/// Logs are flushed in the order of their numbers, so one before the last that is kept was
/// flushed too: the segment that kept it is lost, but the log has its rows.
fn sort_logs(vfs: &dyn Vfs, made: &mut Manifest, logs: &[Log]) -> Result<()> {
    let mut claimed = Vec::new();
    made.segments.retain(|entry| {
        let Some(log) = entry.log else { return true };
        let first = !claimed.contains(&(log.number, log.len));
        claimed.push((log.number, log.len));
        first
    });
    let is_kept = |log: &&Log| claimed.contains(&(log.header.number, log.len));
    let last = logs.iter().filter(is_kept).map(|log| log.header.number).max();
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

/// An entry of the segment that kept a log and is lost: it has the log's number, for nobody
/// knows its own.
fn lost_segment(
    vfs: &dyn Vfs,
    made: &Manifest,
    number: FileNumber,
) -> Result<Option<SegmentEntry>> {
    let Some(file) = vfs.open(&FileKind::Wal.name(number))? else { return Ok(None) };
    let bytes = read_all(&*file, MAX_LOG)?;
    let Some(part) = logged::rows_of(made, number, &bytes)? else { return Ok(None) };
    let log = LogEntry { number, len: bytes.len() as u64, crc: crc32(&bytes), sealed: true };
    let (rows, log) = (part.rows.len(), Some(log));
    Ok(Some(SegmentEntry { rows, log, ..SegmentEntry::planned(number) }))
}

/// The entry of a segment, by its own word.
fn entry_of(file: &dyn ReadFile, number: FileNumber) -> Result<Option<SegmentEntry>> {
    let mut footer = [0; Footer::LEN];
    let Some(at) = file.len().checked_sub(Footer::LEN as u64) else { return Ok(None) };
    file.read_at(&mut footer, at)?;
    let footer = Footer::decode(&footer).ok().filter(|f| f.rows > 0);
    Ok(footer.map(|footer| SegmentEntry { len: file.len(), ..footer.entry(number) }))
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

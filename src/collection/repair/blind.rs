//! A folder without its manifest: what its files say of themselves.

use crate::codec::header::{FileHeader, FileKind};
use crate::codec::{Fields, crc32};
use crate::error::{Corruption, Error, Result};
use crate::manifest::{LogEntry, Manifest, SegmentEntry};
use crate::schema::Schema;
use crate::segment::format::Footer;
use crate::types::FileNumber;
use crate::vfs::{ReadFile, Vfs, read_all};

use super::super::open::MAX_LOG;

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
    let mut known = false;
    let kept = kept_logs(vfs, &files)?;
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
            // What a segment keeps is not replayed.
            FileKind::Wal if kept.contains(&number) => {}
            FileKind::Wal => made.logs.push(log_of(&*file, number)?),
            // Only the manifest knew of which segment a graph is; it is built again.
            FileKind::Tombstones | FileKind::Graph | FileKind::Manifest => {}
        }
    }
    Ok(made)
}

/// The logs that segments keep, by the word of these.
fn kept_logs(vfs: &dyn Vfs, files: &[(FileKind, FileNumber)]) -> Result<Vec<FileNumber>> {
    let mut kept = Vec::new();
    for (_, number) in files.iter().filter(|(kind, _)| *kind == FileKind::Segment) {
        let Some(file) = vfs.open(&FileKind::Segment.name(*number))? else { continue };
        let log = entry_of(&*file, *number)?.and_then(|entry| entry.log);
        kept.extend(log.map(|log| log.number));
    }
    Ok(kept)
}

/// The entry of a segment, by its own word.
fn entry_of(file: &dyn ReadFile, number: FileNumber) -> Result<Option<SegmentEntry>> {
    let mut footer = [0; Footer::LEN];
    let Some(at) = file.len().checked_sub(Footer::LEN as u64) else { return Ok(None) };
    file.read_at(&mut footer, at)?;
    let footer = Footer::decode(&footer).ok().filter(|f| f.rows > 0);
    Ok(footer.map(|footer| SegmentEntry { len: file.len(), ..footer.entry(number) }))
}

/// The entry of a log, of which only the header is vouched for.
fn log_of(file: &dyn ReadFile, number: FileNumber) -> Result<LogEntry> {
    let bytes = read_all(file, MAX_LOG)?;
    let header = bytes.field(0..FileHeader::LEN.min(bytes.len()));
    Ok(LogEntry { number, len: header.len() as u64, crc: crc32(header), sealed: false })
}

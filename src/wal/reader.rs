//! Reads a log back, and tells a torn end from damage.
//!
//! A frame is written once and synced; power may fail in between and leave any
//! part of it. Such a *torn end* is no damage: nobody was told that the commit
//! succeeded. But a bad frame with a good one behind it that was written after
//! the bad one had been synced (its `synced` mark says so) held a commit that
//! somebody was told about. That is damage, and is reported, never skipped.
//!
//! What cannot be told apart: damage to the last frame of a log that was not
//! closed cleanly, and a torn end. A manifest therefore records how long the log
//! was when it was installed, and the checksum of those bytes: up to there the
//! log must be whole, and a *sealed* one must end there.
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

use std::path::Path;

use super::format::{ALIGN, LogName, wal_frame};
use crate::codec::crc32;
use crate::codec::header::{CollectionId, FileHeader, FileKind};
use crate::error::{Error, Result};
use crate::manifest::LogEntry;
use crate::sown::{Bug, sown};
use crate::types::Lsn;

/// One commit out of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit<'a> {
    /// Offset of the body in the log.
    pub(crate) at: u64,
    pub(crate) lsn: Lsn,
    pub(crate) operations: u32,
    pub(crate) body: &'a [u8],
}

impl Commit<'_> {
    /// Where the next frame begins.
    pub(crate) fn end(&self) -> u64 {
        (self.at + self.body.len() as u64).next_multiple_of(ALIGN as u64)
    }
}

/// All commits of the log that `entry` names, whose first has the LSN after
/// `before`.
pub(crate) fn commits<'a>(
    bytes: &'a [u8],
    file: &Path,
    collection: &CollectionId,
    entry: LogEntry,
    before: Lsn,
) -> Result<Vec<Commit<'a>>> {
    let name = LogName { collection: *collection, number: entry.number };
    let header = FileHeader::decode(bytes, FileKind::Wal, file)?;
    header.expect(name.number, &name.collection, file)?;
    header.no_body(file)?;
    check_len(bytes, file, entry)?;
    let (found, _) = behind(bytes, 0, FileHeader::LEN, file, name, entry, before)?;
    check_durable(bytes, file, entry)?;
    Ok(found)
}

/// A log as far as it was read, by somebody who reads beside its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Read {
    /// Where the next frame will begin.
    pub(crate) at: u64,
    /// The last commit before it.
    pub(crate) lsn: Lsn,
}

/// The commits behind `read`, and how far the log is read then. `bytes` are those
/// of the log from `read.at` on.
///
/// A frame that was read once is trusted: as long as it is part of the log nobody
/// changes it.
pub(crate) fn following<'a>(
    bytes: &'a [u8],
    file: &Path,
    collection: &CollectionId,
    entry: LogEntry,
    read: Read,
) -> Result<(Vec<Commit<'a>>, Read)> {
    let name = LogName { collection: *collection, number: entry.number };
    let start = usize::try_from(read.at).unwrap_or(usize::MAX);
    behind(bytes, start, start, file, name, entry, read.lsn)
}

/// The commits from the frame at `at` on, where `bytes` leaves out the first
/// `start` bytes of the log; refused if they end in damage.
fn behind<'a>(
    bytes: &'a [u8],
    start: usize,
    mut at: usize,
    file: &Path,
    name: LogName,
    entry: LogEntry,
    before: Lsn,
) -> Result<(Vec<Commit<'a>>, Read)> {
    let mut found = Vec::new();
    let mut last = before;
    while let Some((frame, body, end)) = name.frame_behind(start, bytes, at) {
        if frame.lsn != last.next() && !sown(Bug::GapsAccepted) {
            let what = format!("commit {} follows commit {}", frame.lsn.0, last.0);
            return Err(Error::corrupt(file, at as u64, what));
        }
        let body_at = (at + wal_frame::LEN) as u64;
        found.push(Commit { at: body_at, lsn: frame.lsn, operations: frame.operations, body });
        (at, last) = (end, frame.lsn);
    }
    let known = entry.sealed || (at as u64) < entry.len || was_synced(bytes, start, name, at);
    let damaged = at < start + bytes.len() && known && !sown(Bug::DamageIsTornEnd);
    if damaged {
        return Err(Error::corrupt(file, at as u64, "a commit that was durable is damaged"));
    }
    Ok((found, Read { at: at as u64, lsn: last }))
}

/// As many bytes as the manifest vouches for are there, and no more if it was sealed.
fn check_len(bytes: &[u8], file: &Path, entry: LogEntry) -> Result<()> {
    let len = bytes.len() as u64;
    if len < entry.len || (entry.sealed && len > entry.len) {
        let what = format!("log has {len} bytes, the manifest says {}", entry.len);
        return Err(Error::corrupt(file, len.min(entry.len), what));
    }
    Ok(())
}

/// The bytes are the very ones the manifest vouches for: valid frames of another
/// history of the same collection (a copy that went its own way) are not.
fn check_durable(bytes: &[u8], file: &Path, entry: LogEntry) -> Result<()> {
    let durable = usize::try_from(entry.len).ok().and_then(|len| bytes.get(..len));
    if durable.map(crc32) != Some(entry.crc) {
        let what = format!("checksum of the first {} bytes does not match", entry.len);
        return Err(Error::corrupt(file, FileHeader::LEN as u64, what));
    }
    Ok(())
}

/// Whether a head behind `bad` says that the log was synced beyond it. The body
/// of that frame does not matter (nor is it read: a hostile log could otherwise
/// make each of its bytes be summed once for every head it forges).
fn was_synced(bytes: &[u8], start: usize, name: LogName, bad: usize) -> bool {
    (bad + ALIGN..start + bytes.len())
        .step_by(ALIGN)
        .filter_map(|at| name.head_behind(start, bytes, at))
        .any(|frame| frame.synced > bad as u64)
}

#[cfg(test)]
mod tests;

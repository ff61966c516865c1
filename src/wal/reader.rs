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
mod tests {
    use super::*;
    use crate::codec::header::Owner;
    use crate::types::FileNumber;
    use crate::vfs::Vfs;
    use crate::vfs::mem::Mem;
    use crate::wal::format::{Frame, FrameHead};
    use crate::wal::writer::LogWriter;

    const OWNER: Owner = Owner { collection: [5; 16], generation: 1 };

    /// A log of three commits, each synced, and the offsets where they begin.
    fn log() -> (Vec<u8>, Vec<usize>) {
        let vfs = Mem::default();
        let mut log = LogWriter::create(&vfs, FileNumber(3), OWNER).expect("create");
        let mut starts = Vec::new();
        for (n, body) in [b"first".as_slice(), b"second commit", b"third"].iter().enumerate() {
            starts.push(log.len() as usize);
            log.append(Lsn(n as u64 + 1), 1, &mut Frame::of(body)).expect("append");
            log.sync().expect("sync");
        }
        assert_eq!(vfs.list().expect("list"), ["wal-0000000003"]);
        (vfs.bytes("wal-0000000003").expect("written"), starts)
    }

    /// The entry of a log whose first `durable` bytes a manifest vouches for.
    fn entry(durable: &[u8], sealed: bool) -> LogEntry {
        let (len, crc) = (durable.len() as u64, crc32(durable));
        LogEntry { number: FileNumber(3), len, crc, sealed }
    }

    fn read(bytes: &[u8], entry: LogEntry) -> Result<Vec<Vec<u8>>> {
        let commits = commits(bytes, Path::new("wal"), &[5; 16], entry, Lsn(0))?;
        Ok(commits.iter().map(|c| c.body.to_vec()).collect())
    }

    /// As after an unclean stop: the manifest knows of the header only.
    fn read_unsealed(log: &[u8], bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        read(bytes, entry(&log[..FileHeader::LEN], false))
    }

    #[test]
    fn commits_come_back_in_order() {
        let (bytes, _) = log();
        let all = read(&bytes, entry(&bytes, true)).expect("whole");
        assert_eq!(all, [b"first".to_vec(), b"second commit".to_vec(), b"third".to_vec()]);
    }

    #[test]
    fn a_torn_end_loses_only_the_last_commit() {
        let (bytes, starts) = log();
        for len in starts[2]..bytes.len() {
            assert_eq!(read_unsealed(&bytes, &bytes[..len]).expect("torn").len(), 2, "at {len}");
            for sealed in [true, false] {
                assert!(read(&bytes[..len], entry(&bytes, sealed)).is_err(), "known, cut at {len}");
            }
        }
    }

    #[test]
    fn damage_below_a_synced_frame_is_an_error_at_every_bit() {
        let (bytes, starts) = log();
        for bit in starts[0] * 8..starts[2] * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let got = read_unsealed(&bytes, &bad);
            assert!(matches!(got, Err(Error::Corrupt(_))), "bit {bit}: {got:?}");
        }
    }

    #[test]
    fn any_damage_to_what_the_manifest_vouches_for_is_an_error() {
        let (bytes, _) = log();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            for sealed in [true, false] {
                assert!(read(&bad, entry(&bytes, sealed)).is_err(), "bit {bit}");
            }
        }
    }

    #[test]
    fn a_frame_that_moved_does_not_validate() {
        let (bytes, starts) = log();
        let mut moved = bytes.clone();
        let third = bytes[starts[2]..].to_vec();
        moved[starts[0]..starts[0] + third.len()].copy_from_slice(&third);
        assert!(read_unsealed(&bytes, &moved).is_err());
    }

    #[test]
    fn a_head_whose_body_is_torn_still_tells_what_was_synced() {
        let (bytes, starts) = log();
        let mut bad = bytes[..starts[2] + wal_frame::LEN].to_vec();
        bad[starts[1] + wal_frame::LEN] ^= 1;
        assert!(read_unsealed(&bytes, &bad).is_err(), "the second commit was durable");
    }

    #[test]
    fn a_log_made_of_forged_heads_is_read_in_time() {
        let name = LogName { collection: [5; 16], number: FileNumber(3) };
        let mut bytes = FileHeader::new(FileKind::Wal, FileNumber(3), OWNER).encode().to_vec();
        let entry = entry(&bytes, false);
        while bytes.len() < 8 << 20 {
            let head =
                FrameHead { lsn: Lsn(9), synced: 0, operations: 0, body_len: 4 << 20, body_crc: 1 };
            bytes.extend_from_slice(&name.encode(bytes.len() as u64, head));
        }
        assert_eq!(read(&bytes, entry).expect("a torn end"), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn commits_that_do_not_follow_each_other_are_refused() {
        let vfs = Mem::default();
        let mut log = LogWriter::create(&vfs, FileNumber(3), OWNER).expect("create");
        for lsn in [1, 3] {
            log.append(Lsn(lsn), 1, &mut Frame::of(b"body")).expect("append");
            log.sync().expect("sync");
        }
        let bytes = vfs.bytes("wal-0000000003").expect("written");
        let refused = read(&bytes, entry(&bytes, true)).expect_err("commit 2 is missing");
        assert!(refused.to_string().contains("commit 3 follows commit 1"), "{refused}");
        let first = commits(&bytes, Path::new("wal"), &[5; 16], entry(&bytes, true), Lsn(2));
        assert!(first.is_err(), "the first is not the one after the last that is known");
    }

    /// Whoever reads beside the writer begins where it stopped, with those bytes only.
    #[test]
    fn a_log_is_read_on_from_every_frame() {
        let (bytes, starts) = log();
        let known = entry(&bytes[..FileHeader::LEN], false);
        let ends = [starts[1], starts[2], bytes.len()];
        for (done, at) in starts.iter().chain([&bytes.len()]).enumerate() {
            let before = Read { at: *at as u64, lsn: Lsn(done as u64) };
            for len in *at..=bytes.len() {
                let got = following(&bytes[*at..len], Path::new("wal"), &[5; 16], known, before);
                let (commits, after) = got.expect("whole, or torn");
                let whole = ends.iter().filter(|end| **end <= len && **end > *at).count();
                assert_eq!(commits.len(), whole, "from {at} to {len}");
                let end = commits.last().map_or(before.at, Commit::end);
                assert_eq!(after, Read { at: end, lsn: Lsn((done + whole) as u64) });
            }
        }
        let mut bad = bytes[starts[0]..].to_vec();
        bad[wal_frame::LEN] ^= 1;
        let before = Read { at: starts[0] as u64, lsn: Lsn(0) };
        let got = following(&bad, Path::new("wal"), &[5; 16], known, before);
        assert!(got.is_err(), "a later frame says that this one was durable");
    }
}

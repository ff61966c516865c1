//! Reads a log back, and tells a torn end from damage.
//!
//! A frame is written once and synced; power may fail in between and leave any
//! part of it. Such a *torn end* is no damage: nobody was told that the commit
//! succeeded. But a bad frame with a good one behind it that was written after
//! the bad one had been synced (its `synced` mark says so) held a commit that
//! somebody was told about. That is damage, and is reported, never skipped.
//!
//! What cannot be told apart: damage to the last frame of a log that was not
//! closed cleanly, and a torn end. A clean close therefore records the length of
//! the log in the manifest, and such a *sealed* log must be whole.
#![deny(clippy::indexing_slicing, clippy::unwrap_used)]

use std::path::Path;

use super::format::{ALIGN, LogName};
use crate::codec::header::{FileHeader, FileKind};
use crate::error::{Error, Result};
use crate::types::Lsn;

/// One commit out of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) operations: u32,
    pub(crate) body: &'a [u8],
}

/// All commits of a log whose first has the LSN after `before`.
///
/// `sealed` is the length that a clean close recorded.
pub(crate) fn commits<'a>(
    bytes: &'a [u8],
    file: &Path,
    name: LogName,
    before: Lsn,
    sealed: Option<u64>,
) -> Result<Vec<Commit<'a>>> {
    let header = FileHeader::decode(bytes, FileKind::Wal, file)?;
    header.expect(name.number, &name.collection, file)?;
    if header.body_len != 0 || header.body_crc != 0 {
        return Err(Error::corrupt(file, 48, "unused fields of a log's header are not zero"));
    }
    if let Some(len) = sealed.filter(|len| *len != bytes.len() as u64) {
        let what = format!("log was closed at {len} bytes, but has {}", bytes.len());
        return Err(Error::corrupt(file, len.min(bytes.len() as u64), what));
    }
    let mut found = Vec::new();
    let (mut at, mut last) = (FileHeader::LEN, before);
    while let Some((frame, body, end)) = name.decode(bytes, at) {
        if frame.lsn != last.next() {
            let what = format!("commit {} follows commit {}", frame.lsn.0, last.0);
            return Err(Error::corrupt(file, at as u64, what));
        }
        found.push(Commit { lsn: frame.lsn, operations: frame.operations, body });
        (at, last) = (end, frame.lsn);
    }
    let damaged = at < bytes.len() && (sealed.is_some() || was_synced(bytes, name, at));
    if damaged {
        return Err(Error::corrupt(file, at as u64, "a commit that was durable is damaged"));
    }
    Ok(found)
}

/// Whether a good frame behind `bad` says that the log was synced beyond it.
fn was_synced(bytes: &[u8], name: LogName, bad: usize) -> bool {
    (bad + ALIGN..bytes.len())
        .step_by(ALIGN)
        .filter_map(|at| name.decode(bytes, at))
        .any(|(frame, ..)| frame.synced > bad as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FileNumber;
    use crate::vfs::Vfs;
    use crate::vfs::mem::Mem;
    use crate::wal::writer::LogWriter;

    const NAME: LogName = LogName { collection: [5; 16], number: FileNumber(3) };

    /// A log of three commits, each synced, and the offsets where they begin.
    fn log() -> (Vec<u8>, Vec<usize>) {
        let vfs = Mem::default();
        let mut log = LogWriter::create(&vfs, NAME).expect("create");
        let mut starts = Vec::new();
        for (n, body) in [b"first".as_slice(), b"second commit", b"third"].iter().enumerate() {
            starts.push(log.len() as usize);
            log.append(Lsn(n as u64 + 1), 1, body).expect("append");
            log.sync().expect("sync");
        }
        assert_eq!(vfs.list().expect("list"), ["wal-0000000003"]);
        (vfs.bytes("wal-0000000003").expect("written"), starts)
    }

    fn read(bytes: &[u8], sealed: Option<u64>) -> Result<Vec<Vec<u8>>> {
        let commits = commits(bytes, Path::new("wal"), NAME, Lsn(0), sealed)?;
        Ok(commits.iter().map(|c| c.body.to_vec()).collect())
    }

    #[test]
    fn commits_come_back_in_order() {
        let (bytes, _) = log();
        let all = read(&bytes, Some(bytes.len() as u64)).expect("whole");
        assert_eq!(all, [b"first".to_vec(), b"second commit".to_vec(), b"third".to_vec()]);
    }

    #[test]
    fn a_torn_end_loses_only_the_last_commit() {
        let (bytes, starts) = log();
        for len in starts[2]..bytes.len() {
            assert_eq!(read(&bytes[..len], None).expect("torn").len(), 2, "cut at {len}");
            assert!(read(&bytes[..len], Some(bytes.len() as u64)).is_err(), "sealed, cut at {len}");
        }
    }

    #[test]
    fn damage_below_a_synced_frame_is_an_error_at_every_bit() {
        let (bytes, starts) = log();
        for bit in starts[0] * 8..starts[2] * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let got = read(&bad, None);
            assert!(matches!(got, Err(Error::Corrupt(_))), "bit {bit}: {got:?}");
        }
    }

    #[test]
    fn any_damage_to_a_sealed_log_is_an_error() {
        let (bytes, _) = log();
        for bit in 0..bytes.len() * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&bad, Some(bytes.len() as u64)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_frame_that_moved_does_not_validate() {
        let (mut bytes, starts) = log();
        let third = bytes[starts[2]..].to_vec();
        bytes[starts[0]..starts[0] + third.len()].copy_from_slice(&third);
        assert!(read(&bytes, None).is_err());
    }
}

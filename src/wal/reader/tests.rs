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
        log.append(Lsn(n as u64 + 1), &mut Frame::again(body, 1)).expect("append");
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
        log.append(Lsn(lsn), &mut Frame::again(b"body", 1)).expect("append");
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

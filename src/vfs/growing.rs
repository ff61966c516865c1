//! A file on disk while it is written.
#![expect(clippy::disallowed_types, reason = "part of the module the ban points to")]

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::{PIECE, WriteFile, writeback};
use crate::error::{Error, Result};

/// A file being written. All that is written is to be synced sooner or later, so the
/// medium begins with it piece by piece, while the next piece comes.
pub(super) struct Growing {
    file: File,
    /// For messages only.
    path: PathBuf,
    len: u64,
    /// As far as the medium was asked to begin.
    begun: u64,
}

impl Growing {
    pub(super) fn new(file: File, path: PathBuf) -> Self {
        Self { file, path, len: 0, begun: 0 }
    }
}

impl WriteFile for Growing {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let left = PIECE - (self.len % PIECE as u64) as usize;
            let (piece, later) = rest.split_at(rest.len().min(left));
            self.file.write_all(piece).map_err(|e| Error::io("write", &self.path, e))?;
            self.len += piece.len() as u64;
            rest = later;
            if self.len - self.begun >= PIECE as u64 {
                writeback::start(&self.file, self.begun, self.len - self.begun);
                self.begun = self.len;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.begun = self.len;
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        (self.len, self.begun) = (len, self.begun.min(len));
        let cut = self.file.set_len(len).and_then(|()| self.file.seek(SeekFrom::Start(len)));
        cut.map(drop).map_err(|e| Error::io("truncate", &self.path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe cannot be synced: who says that it was has not asked the system.
    #[test]
    fn a_sync_is_asked_of_the_system() {
        let (_reader, writer) = std::io::pipe().expect("pipe");
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut growing = Growing::new(file, "pipe".into());
        growing.write(b"x").expect("there is room");
        let refused = growing.sync().expect_err("a pipe");
        assert!(matches!(refused, Error::Io { action: "sync", .. }), "{refused}");
    }

    /// Pieces of all sizes, some of them longer than what is begun at once, and cuts
    /// before and behind what was begun.
    #[test]
    fn what_is_written_is_there() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("file");
        let file = File::create(&path).expect("create");
        let mut growing = Growing::new(file, path.clone());
        let mut expected = Vec::new();
        for (n, len) in [1, PIECE - 1, 1, 3 * PIECE + 7, 0, PIECE / 2, 5].into_iter().enumerate() {
            let piece: Vec<u8> = (0..len).map(|at| (at * 31 + n) as u8).collect();
            growing.write(&piece).expect("write");
            expected.extend(piece);
            if n % 2 == 1 {
                growing.sync().expect("sync");
            }
            if n > 2 {
                expected.truncate(expected.len() - PIECE / 3);
                growing.truncate(expected.len() as u64).expect("truncate");
            }
        }
        growing.sync().expect("sync");
        assert_eq!(growing.len, expected.len() as u64);
        assert!(std::fs::read(&path).expect("read") == expected);
    }
}

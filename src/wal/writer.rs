//! Appends frames to the one log that is open for writing.

use super::format::{Frame, FrameHead, LogName};
use crate::codec::header::{FileHeader, FileKind, Owner};
use crate::error::Result;
use crate::manifest::LogEntry;
use crate::sown::{Bug, sown};
use crate::types::{FileNumber, Lsn};
use crate::vfs::{Vfs, WriteFile};

/// The open log. After an error it must not be used again, unless
/// [`LogWriter::roll_back`] succeeds: what reached the file is unknown then.
pub(crate) struct LogWriter {
    file: Box<dyn WriteFile>,
    name: LogName,
    len: u64,
    synced: u64,
    crc: crc32fast::Hasher,
    ended: bool,
}

/// A moment in the life of a log, to go back to.
pub(crate) struct Mark {
    len: u64,
    crc: crc32fast::Hasher,
}

impl LogWriter {
    /// Creates a log and makes its header durable; its name becomes durable with the next sync of
    /// the folder.
    pub(crate) fn create(vfs: &dyn Vfs, number: FileNumber, owner: Owner) -> Result<Self> {
        let name = LogName { collection: owner.collection, number };
        let file = vfs.create(&FileKind::Wal.name(number))?;
        let crc = crc32fast::Hasher::new();
        let mut log = Self { file, name, len: 0, synced: 0, crc, ended: false };
        let header = FileHeader::new(FileKind::Wal, number, owner).encode();
        log.file.write(&header)?;
        log.crc.update(&header);
        log.len = header.len() as u64;
        log.sync()?;
        Ok(log)
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Appends one commit; durable only after [`Self::sync`]. Its body is summed
    /// once: the log's checksum takes the frame's over.
    pub(crate) fn append(&mut self, lsn: Lsn, frame: &mut Frame) -> Result<()> {
        let body = frame.body_crc().clone();
        let head = FrameHead {
            lsn,
            synced: self.synced,
            operations: frame.operations(),
            body_len: frame.body_len() as u32,
            body_crc: body.clone().finalize(),
        };
        frame.seal(&self.name, self.len, head);
        let bytes = frame.bytes();
        self.file.write(bytes)?;
        let (head, rest) = bytes.split_at(Frame::BODY);
        self.crc.update(head);
        self.crc.combine(&body);
        self.crc.update(&rest[frame.body_len()..]);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// What a manifest says of the log as it is now; it must be synced before one does.
    pub(crate) fn entry(&self, sealed: bool) -> LogEntry {
        let crc = self.crc.clone().finalize();
        LogEntry { number: self.name.number, len: self.len, crc, sealed }
    }

    /// Whether all frames so far are durable.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced == self.len
    }

    /// Makes all frames so far durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if !sown(Bug::LogNotSynced) {
            let synced = self.file.sync();
            if sown(Bug::LogSyncedAgain) { synced.or_else(|_| self.file.sync())? } else { synced? }
        }
        self.synced = self.len;
        Ok(())
    }

    /// Whether frames were taken back: the next must go to another log.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Now.
    pub(crate) fn mark(&self) -> Mark {
        Mark { len: self.len, crc: self.crc.clone() }
    }

    /// Takes back the frames since `mark`, durably: whoever brought them was told
    /// that they failed, so they must not be there after a crash.
    ///
    /// The log ends here. Somebody who reads beside us may have seen those frames;
    /// were others written in their place, of the same length, he could not tell.
    pub(crate) fn roll_back(&mut self, mark: Mark) -> Result<()> {
        (self.len, self.crc) = (mark.len, mark.crc);
        self.ended = !sown(Bug::LogGoesOn);
        if sown(Bug::FailedFramesStay) {
            return Ok(());
        }
        self.file.truncate(self.len)?;
        self.sync()
    }
}

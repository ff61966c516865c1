//! Appends frames to the one log that is open for writing.

use super::format::{FrameHead, LogName};
use crate::codec::header::{FileHeader, FileKind};
use crate::error::Result;
use crate::types::Lsn;
use crate::vfs::{Vfs, WriteFile};

/// The open log. After an error it must not be used again: what reached the
/// file is unknown then, and the collection refuses further writes.
pub(crate) struct LogWriter {
    file: Box<dyn WriteFile>,
    name: LogName,
    len: u64,
    synced: u64,
    buffer: Vec<u8>,
}

impl LogWriter {
    /// Creates a log and makes its header and its name durable.
    pub(crate) fn create(vfs: &dyn Vfs, name: LogName) -> Result<Self> {
        let mut file = vfs.create(&FileKind::Wal.name(name.number))?;
        let header = FileHeader::new(FileKind::Wal, name.number, name.collection);
        file.write(&header.encode())?;
        file.sync()?;
        vfs.sync_dir()?;
        let len = FileHeader::LEN as u64;
        Ok(Self { file, name, len, synced: len, buffer: Vec::new() })
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Appends one commit; durable only after [`Self::sync`].
    pub(crate) fn append(&mut self, lsn: Lsn, operations: u32, body: &[u8]) -> Result<()> {
        self.buffer.clear();
        let head = FrameHead { lsn, synced: self.synced, operations };
        self.name.encode(self.len, head, body, &mut self.buffer);
        self.file.write(&self.buffer)?;
        self.len += self.buffer.len() as u64;
        Ok(())
    }

    /// Makes all frames so far durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.file.sync()?;
        self.synced = self.len;
        Ok(())
    }
}

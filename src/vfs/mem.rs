//! A folder that lives in RAM: for tests, and deterministic in all it does.
//!
//! It keeps no notion of what was synced; it is a file system that never loses
//! power. Names and random bytes are counted, not drawn, so runs repeat.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::map::Bytes;
use super::{LockMode, ReadFile, TempFile, Vfs, WriteFile};
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// The folder; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Mem {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    drawn: u128,
    process: u32,
    readers: usize,
    writer: bool,
}

impl Mem {
    /// The bytes of a file now.
    pub(crate) fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        self.state.lock().files.get(name).cloned()
    }

    /// Puts bytes there as an outsider would.
    pub(crate) fn set(&self, name: &str, bytes: Vec<u8>) {
        self.state.lock().files.insert(name.into(), bytes);
    }

    /// A copy that shares nothing with this folder, without its locks.
    pub(crate) fn fork(&self) -> Self {
        let state = self.state.lock();
        let copy = State { files: state.files.clone(), drawn: state.drawn, ..State::default() };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// From here on the folder is used by a process that was forked off.
    pub(crate) fn enter_fork(&self) {
        self.state.lock().process += 1;
    }

    fn append(&self, name: &str, bytes: &[u8]) {
        self.state.lock().files.entry(name.into()).or_default().extend_from_slice(bytes);
    }
}

impl Vfs for Mem {
    fn path(&self, name: &str) -> PathBuf {
        Path::new("mem").join(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.state.lock().files.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn ReadFile>>> {
        let state = self.state.lock();
        Ok(state.files.get(name).map(|bytes| {
            let file = Sealed { bytes: bytes.as_slice().into(), path: self.path(name) };
            Arc::new(file) as Arc<dyn ReadFile>
        }))
    }

    fn create(&self, name: &str) -> Result<Box<dyn WriteFile>> {
        let mut state = self.state.lock();
        if state.files.contains_key(name) {
            let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(Error::io("create", self.path(name), exists));
        }
        state.files.insert(name.into(), Vec::new());
        Ok(Box::new(Growing { folder: self.clone(), name: name.into() }))
    }

    fn create_temp(&self) -> Result<Box<dyn TempFile>> {
        let mut state = self.state.lock();
        state.drawn += 1;
        let name = format!("{}{}", super::disk::TEMP_PREFIX, state.drawn);
        state.files.insert(name.clone(), Vec::new());
        Ok(Box::new(Growing { folder: self.clone(), name }))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.state.lock().files.remove(name);
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        Ok(())
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Send + Sync>> {
        let mut state = self.state.lock();
        if state.writer || (mode == LockMode::Exclusive && state.readers > 0) {
            return Err(Error::Locked { path: self.path("") });
        }
        match mode {
            LockMode::Exclusive => state.writer = true,
            LockMode::Shared => state.readers += 1,
        }
        Ok(Box::new(Guard { folder: self.clone(), mode }))
    }

    fn process(&self) -> u32 {
        self.state.lock().process
    }

    fn entropy(&self) -> Result<[u8; 16]> {
        let mut state = self.state.lock();
        state.drawn += 1;
        Ok(state.drawn.to_le_bytes())
    }
}

struct Guard {
    folder: Mem,
    mode: LockMode,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.folder.state.lock();
        match self.mode {
            LockMode::Exclusive => state.writer = false,
            LockMode::Shared => state.readers -= 1,
        }
    }
}

struct Sealed {
    bytes: Arc<[u8]>,
    path: PathBuf,
}

impl ReadFile for Sealed {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let from = start.checked_add(buf.len()).and_then(|end| self.bytes.get(start..end));
        let Some(from) = from else {
            return Err(Error::corrupt(&self.path, offset, "read past the end of the file"));
        };
        buf.copy_from_slice(from);
        Ok(())
    }

    fn map(&self) -> Result<Bytes> {
        Ok(Bytes::Owned(self.bytes.clone()))
    }
}

struct Growing {
    folder: Mem,
    name: String,
}

impl WriteFile for Growing {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.folder.append(&self.name, bytes);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let mut state = self.folder.state.lock();
        let bytes = state.files.entry(self.name.clone()).or_default();
        bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }
}

impl TempFile for Growing {
    fn persist(self: Box<Self>, name: &str) -> Result<()> {
        let mut state = self.folder.state.lock();
        if let Some(bytes) = state.files.remove(&self.name) {
            state.files.insert(name.into(), bytes);
        }
        Ok(())
    }
}

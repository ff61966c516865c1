//! A folder that lives in RAM: for tests, and deterministic in all it does.
//!
//! It keeps no notion of what was synced; it is a file system that never loses
//! power. Names and random bytes are counted, not drawn, so runs repeat.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::map::Bytes;
use super::{NamesSync, ReadFile, TempFile, Vfs, WriteFile};
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
    /// Bytes kept by [`Vfs::allocate`]. No file: nobody reads it.
    kept: BTreeMap<String, u64>,
    /// Most bytes of all files.
    capacity: Option<u64>,
    drawn: u128,
    process: u32,
    locked: bool,
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

    /// From here on all files together have at most this many bytes.
    pub(crate) fn limit(&self, capacity: Option<u64>) {
        self.state.lock().capacity = capacity;
    }

    /// Bytes of all files, and bytes that are kept.
    pub(crate) fn used(&self) -> u64 {
        self.state.lock().used()
    }

    /// A copy that shares nothing with this folder, without its locks.
    pub(crate) fn fork(&self) -> Self {
        let state = self.state.lock();
        let (files, kept) = (state.files.clone(), state.kept.clone());
        let copy = State { files, kept, drawn: state.drawn, ..State::default() };
        Self { state: Arc::new(Mutex::new(copy)) }
    }

    /// From here on the folder is used by a process that was forked off.
    pub(crate) fn enter_fork(&self) {
        self.state.lock().process += 1;
    }

    /// Appends what there is room for.
    fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.lock();
        let taken = bytes.len().min(usize::try_from(state.room()).unwrap_or(usize::MAX));
        state.files.entry(name.into()).or_default().extend_from_slice(&bytes[..taken]);
        if taken == bytes.len() { Ok(()) } else { Err(full("write", self.path(name))) }
    }
}

impl State {
    fn used(&self) -> u64 {
        let files: u64 = self.files.values().map(|bytes| bytes.len() as u64).sum();
        files + self.kept.values().sum::<u64>()
    }

    fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }
}

fn full(action: &'static str, path: PathBuf) -> Error {
    Error::io(action, path, std::io::ErrorKind::StorageFull.into())
}

impl Vfs for Mem {
    fn path(&self, name: &str) -> PathBuf {
        super::within(Path::new("mem"), name)
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
        Ok(Box::new(Growing { folder: self.clone(), name: name.into(), temp: false }))
    }

    fn create_temp(&self) -> Result<Box<dyn TempFile>> {
        let mut state = self.state.lock();
        state.drawn += 1;
        let name = format!("{}{}", super::disk::TEMP_PREFIX, state.drawn);
        state.files.insert(name.clone(), Vec::new());
        Ok(Box::new(Growing { folder: self.clone(), name, temp: true }))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.state.lock().files.remove(name);
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        Ok(())
    }

    fn names(&self) -> Arc<NamesSync> {
        Arc::default()
    }

    fn allocate(&self, name: &str, len: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.kept.remove(name);
        if state.room() < len {
            return Err(full("allocate", self.path(name)));
        }
        state.kept.insert(name.into(), len);
        Ok(())
    }

    fn release(&self, name: &str) -> Result<bool> {
        Ok(self.state.lock().kept.remove(name).is_some())
    }

    /// Never waits: there is no clock here.
    fn lock(&self, _: Duration) -> Result<Box<dyn Send + Sync>> {
        if std::mem::replace(&mut self.state.lock().locked, true) {
            return Err(Error::Locked { path: self.path("") });
        }
        Ok(Box::new(Guard(self.clone())))
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

struct Guard(Mem);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.state.lock().locked = false;
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
    /// It disappears when it is dropped.
    temp: bool,
}

impl Drop for Growing {
    fn drop(&mut self) {
        if self.temp {
            self.folder.state.lock().files.remove(&self.name);
        }
    }
}

impl WriteFile for Growing {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.folder.append(&self.name, bytes)
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
    fn persist(mut self: Box<Self>, name: &str) -> Result<()> {
        self.temp = false;
        let mut state = self.folder.state.lock();
        if let Some(bytes) = state.files.remove(&self.name) {
            state.files.insert(name.into(), bytes);
        }
        Ok(())
    }
}

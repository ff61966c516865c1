//! A folder in RAM that records every operation, and builds what power loss
//! could leave after any of them.
//!
//! Bytes are safe once their file was synced, names once the folder was. Of all
//! that was not synced when the power went, any part may be there: a file keeps
//! some of its unsynced bytes, as written or as garbage; names that were made,
//! renamed or removed may be so or not, each by itself (FORMAT.md, section 3).
//!
//! To show that the tests notice what they are for, it can have a [`Bug`].

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use super::mem::Mem;
use super::{LockMode, ReadFile, TempFile, Vfs, WriteFile};
use crate::error::{Error, Result};

/// What a folder with a bug forgets to do. It says that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// To sync the folder.
    NoDirSync,
    /// To sync the folder after a rename.
    NoDirSyncAfterRename,
    /// To sync the folder unless something was renamed.
    NoDirSyncAfterCreate,
    /// To sync files whose names begin so.
    NoSyncOf(&'static str),
    /// To sync the last write to a file, because it syncs too early.
    SyncBeforeWrite,
    /// That removing a file must wait for the manifest: it is done at once.
    RemoveBeforeRename,
    /// That a rename must replace a file as one: the file is rewritten instead.
    RewriteInsteadOfRename,
}

/// Which part of what was not synced is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it.
    Everything,
    /// Nothing: only the process died.
    Nothing,
    /// Names survive, bytes do not.
    Bytes,
    /// Bytes survive, names do not.
    Names,
    /// Any part, as drawn.
    Drawn,
}

type Inode = usize;

#[derive(Debug, Clone)]
enum Op {
    Create(String, Inode),
    Write(Inode, Vec<u8>),
    Sync(Inode),
    Rename(String, String, Inode),
    Remove(String),
    SyncDir,
}

/// The folder; clones share it.
#[derive(Clone)]
pub(crate) struct Record {
    mem: Mem,
    start: Mem,
    bug: Option<Bug>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    ops: Vec<Op>,
    inodes: usize,
    /// Changes tried, failed ones included.
    tried: usize,
    /// Changes that fail, counted as `tried` is.
    failing: std::ops::Range<usize>,
}

/// A file as the medium and the cache have it.
#[derive(Default, Clone)]
struct File {
    safe: Vec<u8>,
    /// Written since the last sync.
    unsafe_: Vec<u8>,
}

impl Record {
    pub(crate) fn new(mem: Mem, bug: Option<Bug>) -> Self {
        Self { start: mem.fork(), mem, bug, log: Arc::default() }
    }

    pub(crate) fn operations(&self) -> usize {
        self.log.lock().ops.len()
    }

    /// Lets the changes counted so fail, as on a full disk.
    pub(crate) fn fail(&self, changes: std::ops::Range<usize>) {
        self.log.lock().failing = changes;
    }

    /// Changes tried so far.
    pub(crate) fn tried(&self) -> usize {
        self.log.lock().tried
    }

    fn attempt(&self, action: &'static str, name: &str) -> Result<()> {
        let mut log = self.log.lock();
        log.tried += 1;
        if !log.failing.contains(&(log.tried - 1)) {
            return Ok(());
        }
        let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
        Err(Error::io(action, self.mem.path(name), full))
    }

    pub(crate) fn describe(&self, at: usize) -> String {
        match self.log.lock().ops.get(at) {
            None => "the end".into(),
            Some(Op::Write(inode, bytes)) => format!("write {} bytes to file {inode}", bytes.len()),
            Some(op) => format!("{op:?}"),
        }
    }

    fn push(&self, op: Op) {
        let mut log = self.log.lock();
        let renamed = log.ops.iter().rev().find_map(|op| match op {
            Op::Rename(..) => Some(true),
            Op::SyncDir => Some(false),
            _ => None,
        });
        let forgotten = match (&op, self.bug) {
            (Op::SyncDir, Some(Bug::NoDirSync)) => true,
            (Op::SyncDir, Some(Bug::NoDirSyncAfterRename)) => renamed == Some(true),
            (Op::SyncDir, Some(Bug::NoDirSyncAfterCreate)) => renamed != Some(true),
            _ => false,
        };
        if !forgotten {
            log.ops.push(op);
        }
    }

    fn new_file(&self, name: &str) -> Inode {
        let mut log = self.log.lock();
        let inode = log.inodes;
        log.inodes += 1;
        log.ops.push(Op::Create(name.into(), inode));
        inode
    }

    /// What a cut of the power before operation `cut` leaves.
    pub(crate) fn after(&self, cut: usize, loss: Loss, draw: &mut dyn FnMut() -> u64) -> Mem {
        let log = self.log.lock();
        let start = Files::of(&self.start);
        let (mut safe, mut files, mut pending) = (start.names, start.files, Vec::new());
        for op in &log.ops[..cut] {
            match op {
                Op::Write(inode, bytes) => {
                    files.entry(*inode).or_default().unsafe_.extend_from_slice(bytes);
                }
                Op::Sync(inode) => {
                    let file = files.entry(*inode).or_default();
                    let now_safe = std::mem::take(&mut file.unsafe_);
                    file.safe.extend(now_safe);
                }
                Op::SyncDir => {
                    for op in pending.drain(..) {
                        rename(&mut safe, op);
                    }
                }
                Op::Create(..) | Op::Rename(..) | Op::Remove(_) => pending.push(op),
            }
        }
        let survives = |draw: &mut dyn FnMut() -> u64| match loss {
            Loss::Everything | Loss::Names => false,
            Loss::Nothing | Loss::Bytes => true,
            Loss::Drawn => draw() & 1 == 1,
        };
        for op in pending {
            if survives(draw) {
                rename(&mut safe, op);
            }
        }
        let left = Mem::default();
        for (name, inode) in safe {
            let file = files.get(&inode).cloned().unwrap_or_default();
            left.set(&name, torn(file, loss, draw));
        }
        left
    }
}

/// The names and bytes a recording begins with; their inodes count from the top.
struct Files {
    names: BTreeMap<String, Inode>,
    files: BTreeMap<Inode, File>,
}

impl Files {
    fn of(mem: &Mem) -> Self {
        let (mut names, mut files) = (BTreeMap::new(), BTreeMap::new());
        for (n, name) in mem.list().unwrap_or_default().into_iter().enumerate() {
            let safe = mem.bytes(&name).unwrap_or_default();
            names.insert(name, usize::MAX - n);
            files.insert(usize::MAX - n, File { safe, unsafe_: Vec::new() });
        }
        Self { names, files }
    }
}

fn rename(names: &mut BTreeMap<String, Inode>, op: &Op) {
    match op {
        Op::Create(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        Op::Rename(from, to, inode) => {
            names.remove(from);
            names.insert(to.clone(), *inode);
        }
        Op::Remove(name) => {
            names.remove(name);
        }
        _ => {}
    }
}

/// The safe bytes, and what the loss leaves of the others.
fn torn(file: File, loss: Loss, draw: &mut dyn FnMut() -> u64) -> Vec<u8> {
    let File { safe: mut bytes, unsafe_: rest } = file;
    match loss {
        Loss::Everything | Loss::Bytes => {}
        Loss::Nothing | Loss::Names => bytes.extend(rest),
        Loss::Drawn if rest.is_empty() => {}
        Loss::Drawn => {
            let kept = (draw() % (rest.len() as u64 + 1)) as usize;
            match draw() % 4 {
                0 => {}
                // The beginning; all of it, with a hole of zeros or of garbage.
                1 => bytes.extend(&rest[..kept]),
                2 => {
                    bytes.extend(std::iter::repeat_n(0, kept));
                    bytes.extend(&rest[kept..]);
                }
                _ => {
                    bytes.extend(&rest[..kept]);
                    bytes.extend(rest[kept..].iter().map(|_| draw() as u8));
                }
            }
        }
    }
    bytes
}

impl Vfs for Record {
    fn path(&self, name: &str) -> PathBuf {
        self.mem.path(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        self.mem.list()
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn ReadFile>>> {
        self.mem.open(name)
    }

    fn create(&self, name: &str) -> Result<Box<dyn WriteFile>> {
        self.attempt("create", name)?;
        let file = self.mem.create(name)?;
        let inode = self.new_file(name);
        Ok(Box::new(Recorded { folder: self.clone(), name: name.into(), inode, file, held: None }))
    }

    fn create_temp(&self) -> Result<Box<dyn TempFile>> {
        self.attempt("create", super::disk::TEMP_PREFIX)?;
        let file = self.mem.create_temp()?;
        let inode = self.log.lock().inodes;
        let name = format!("{}{inode}", super::disk::TEMP_PREFIX);
        self.new_file(&name);
        Ok(Box::new(Recorded { folder: self.clone(), name, inode, file, held: None }))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.attempt("remove", name)?;
        self.mem.remove(name)?;
        self.push(Op::Remove(name.into()));
        if self.bug == Some(Bug::RemoveBeforeRename) {
            let mut log = self.log.lock();
            let removal = log.ops.pop();
            let at = log.ops.iter().rposition(|op| matches!(op, Op::Rename(..))).unwrap_or(0);
            log.ops.splice(at..at, removal.into_iter().chain([Op::SyncDir]));
        }
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        self.attempt("sync", "")?;
        self.mem.sync_dir()?;
        self.push(Op::SyncDir);
        Ok(())
    }

    fn lock(&self, mode: LockMode) -> Result<Box<dyn Send + Sync>> {
        self.mem.lock(mode)
    }

    fn process(&self) -> u32 {
        0
    }

    fn entropy(&self) -> Result<[u8; 16]> {
        self.mem.entropy()
    }
}

/// A file of a folder in RAM, and what is done to it.
struct Recorded<F: ?Sized> {
    folder: Record,
    name: String,
    inode: Inode,
    /// With [`Bug::SyncBeforeWrite`]: the write that is recorded too late.
    held: Option<Vec<u8>>,
    file: Box<F>,
}

impl<F: WriteFile + ?Sized> WriteFile for Recorded<F> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let full = self.folder.attempt("write", &self.name);
        // A disk that fills up takes some of the bytes.
        let bytes = if full.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        self.file.write(bytes)?;
        if self.folder.bug == Some(Bug::SyncBeforeWrite) {
            self.release();
            self.held = Some(bytes.to_vec());
        } else {
            self.folder.push(Op::Write(self.inode, bytes.to_vec()));
        }
        full
    }

    fn sync(&mut self) -> Result<()> {
        self.folder.attempt("sync", &self.name)?;
        self.file.sync()?;
        let forgotten =
            matches!(self.folder.bug, Some(Bug::NoSyncOf(prefix)) if self.name.starts_with(prefix));
        if !forgotten {
            self.folder.push(Op::Sync(self.inode));
        }
        self.release();
        Ok(())
    }
}

impl<F: ?Sized> Recorded<F> {
    fn release(&mut self) {
        if let Some(bytes) = self.held.take() {
            self.folder.push(Op::Write(self.inode, bytes));
        }
    }
}

impl TempFile for Recorded<dyn TempFile> {
    fn persist(self: Box<Self>, name: &str) -> Result<()> {
        let Self { folder, name: temp, inode: old, file, .. } = *self;
        folder.attempt("rename to", name)?;
        file.persist(name)?;
        if folder.bug == Some(Bug::RewriteInsteadOfRename) {
            let inode = folder.new_file(name);
            folder.push(Op::SyncDir);
            let bytes = folder.mem.bytes(name).unwrap_or_default();
            folder.push(Op::Write(inode, bytes));
            folder.push(Op::Sync(inode));
        } else {
            folder.push(Op::Rename(temp, name.into(), old));
        }
        Ok(())
    }
}

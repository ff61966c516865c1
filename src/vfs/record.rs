//! A folder in RAM that records every operation, and builds what power loss
//! could leave after any of them.
//!
//! Bytes are safe once their file was synced, names once the folder was. Of all
//! that was not synced when the power went, any part may be there, each write
//! and each name by itself (FORMAT.md, section 3).
//!
//! Operations can be made to fail. To show that the tests notice what they are
//! for, the folder can have a [`Flaw`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::map::Bytes;
use super::mem::Mem;
use super::{NamesSync, ReadFile, TempFile, Vfs, WriteFile};
use crate::error::{Error, Result};
use crate::sync::Mutex;

/// What a folder with a flaw forgets to do. It says that it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
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

/// How operations fail.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// The code of the operating system.
    pub code: i32,
    /// Of a write that fails, this many hundredths are written.
    pub percent_written: usize,
}

/// What of the last unsynced write is there.
#[derive(Debug, Clone, Copy)]
pub struct Torn {
    /// Its first bytes,
    pub kept: usize,
    /// then, if any, bytes of this kind up to its length.
    pub filler: Option<u8>,
}

type Inode = usize;

#[derive(Debug, Clone)]
enum Op {
    Create(String, Inode),
    Write(Inode, u64, Vec<u8>),
    Truncate(Inode, u64),
    Sync(Inode),
    /// A sync of a file failed: what was written to it before may never reach the medium,
    /// whatever later syncs say (Rebello et al., USENIX ATC 2020).
    SyncFailed(Inode),
    Rename(String, String, Inode),
    Remove(String),
    SyncDir,
    /// A sync of the folder failed: the names before it may never reach the medium, whatever
    /// later syncs say.
    SyncDirFailed,
    /// An operation that was lost so; the medium may have done it all the same. No file is
    /// written to where it was written before, so nothing has to stand above it.
    Doomed(Box<Op>),
}

/// The folder; clones share it.
#[derive(Clone)]
pub(crate) struct Record {
    mem: Mem,
    start: Mem,
    flaw: Option<Flaw>,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    ops: Vec<Op>,
    inodes: usize,
    /// Operations tried, failed ones included.
    tried: usize,
    /// Operations that fail, counted as `tried` is, and how.
    failing: Option<(std::ops::Range<usize>, Failure)>,
    syncs: usize,
    dir_syncs: usize,
    /// Those of the handle that has the folder.
    names: Arc<NamesSync>,
}

impl Record {
    pub(crate) fn new(mem: Mem, flaw: Option<Flaw>) -> Self {
        Self { start: mem.fork(), mem, flaw, log: Arc::default() }
    }

    pub(crate) fn operations(&self) -> usize {
        self.log.lock().ops.len()
    }

    /// Lets the operations counted so fail.
    pub(crate) fn fail(&self, operations: std::ops::Range<usize>, how: Failure) {
        self.log.lock().failing = Some((operations, how));
    }

    /// Operations tried so far.
    pub(crate) fn tried(&self) -> usize {
        self.log.lock().tried
    }

    /// Syncs so far: of files, of the folder.
    pub(crate) fn syncs(&self) -> (usize, usize) {
        let log = self.log.lock();
        (log.syncs, log.dir_syncs)
    }

    /// What happened, to be looked at one operation after the other.
    pub(crate) fn replay(&self) -> Replay {
        let mut replay = Replay { ops: self.log.lock().ops.clone(), ..Replay::default() };
        // The files it began with are durable; their inodes count from the top.
        for (n, name) in self.start.list().unwrap_or_default().into_iter().enumerate() {
            let bytes = self.start.bytes(&name).unwrap_or_default();
            replay.names.insert(name, usize::MAX - n);
            replay.files.insert(usize::MAX - n, bytes);
        }
        replay
    }

    fn attempt(&self, action: &'static str, name: &str) -> Result<(), (Failure, Error)> {
        let mut log = self.log.lock();
        let at = log.tried;
        log.tried += 1;
        match &log.failing {
            Some((range, how)) if range.contains(&at) => {
                let source = std::io::Error::from_raw_os_error(how.code);
                Err((*how, Error::io(action, self.mem.path(name), source)))
            }
            _ => Ok(()),
        }
    }

    fn may(&self, action: &'static str, name: &str) -> Result<()> {
        self.attempt(action, name).map_err(|(_, e)| e)
    }

    fn push(&self, op: Op) {
        let mut log = self.log.lock();
        let renamed = log.ops.iter().rev().find_map(|op| match op {
            Op::Rename(..) => Some(true),
            Op::SyncDir => Some(false),
            _ => None,
        });
        let forgotten = match (&op, self.flaw) {
            (Op::SyncDir, Some(Flaw::NoDirSync)) => true,
            (Op::SyncDir, Some(Flaw::NoDirSyncAfterRename)) => renamed == Some(true),
            (Op::SyncDir, Some(Flaw::NoDirSyncAfterCreate)) => renamed != Some(true),
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
}

/// A recording, run up to some operation.
#[derive(Default)]
pub(crate) struct Replay {
    ops: Vec<Op>,
    at: usize,
    /// What the medium has.
    names: BTreeMap<String, Inode>,
    files: BTreeMap<Inode, Vec<u8>>,
    /// Operations that were not made durable, in order.
    pending: Vec<Op>,
}

impl Replay {
    /// Runs one more operation; false at the end.
    pub(crate) fn step(&mut self) -> bool {
        let Some(op) = self.ops.get(self.at).cloned() else { return false };
        self.at += 1;
        match op {
            Op::Sync(inode) => {
                for op in self.pending.extract_if(.., |op| op.changes(inode)) {
                    op.write(self.files.entry(inode).or_default(), None);
                }
            }
            Op::SyncDir => {
                for op in self.pending.extract_if(.., |op| op.names()).collect::<Vec<_>>() {
                    op.rename(&mut self.names);
                    // What a name is now stands above what it was to be before.
                    self.pending.retain(|doomed| doomed.target() != op.target());
                }
            }
            Op::SyncFailed(inode) => self.doom(|op| op.changes(inode)),
            Op::SyncDirFailed => self.doom(Op::names),
            other => self.pending.push(other),
        }
        true
    }

    /// What is pending and so is lost to later syncs.
    fn doom(&mut self, lost: impl Fn(&Op) -> bool) {
        let doomed = |op: &mut Op| *op = Op::Doomed(Box::new(op.clone()));
        self.pending.iter_mut().filter(|op| lost(op)).for_each(doomed);
    }

    /// The operation that comes next, for messages.
    pub(crate) fn describe(&self) -> String {
        match self.ops.get(self.at) {
            None => "the end".into(),
            Some(Op::Write(inode, at, bytes)) => {
                format!("write {} bytes at {at} of file {inode}", bytes.len())
            }
            Some(op) => format!("{op:?}"),
        }
    }

    /// How many operations are not durable.
    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Bytes of the last write if it is not durable.
    pub(crate) fn last_write(&self) -> Option<usize> {
        self.pending.iter().rev().find_map(|op| match op {
            Op::Write(_, _, bytes) => Some(bytes.len()),
            _ => None,
        })
    }

    /// What power loss now leaves: of the pending operations those that `keep`
    /// says, of the last write what `torn` says.
    pub(crate) fn folder(&self, keep: &dyn Fn(usize) -> bool, torn: Option<Torn>) -> Mem {
        let mut names = self.names.clone();
        let mut files: BTreeMap<Inode, Vec<u8>> = BTreeMap::new();
        let last = self.pending.iter().rposition(|op| matches!(op, Op::Write(..)));
        for (n, op) in self.pending.iter().enumerate().filter(|(n, _)| keep(*n)) {
            op.rename(&mut names);
            if let Some(inode) = op.file() {
                let before = || self.files.get(&inode).cloned().unwrap_or_default();
                let torn = torn.filter(|_| last == Some(n));
                op.write(files.entry(inode).or_insert_with(before), torn);
            }
        }
        let left = Mem::default();
        for (name, inode) in names {
            let safe = || self.files.get(&inode).cloned().unwrap_or_default();
            left.set(&name, files.get(&inode).cloned().unwrap_or_else(safe));
        }
        left
    }
}

impl Op {
    fn changes(&self, file: Inode) -> bool {
        matches!(self, Op::Write(inode, ..) | Op::Truncate(inode, _) if *inode == file)
    }

    fn names(&self) -> bool {
        matches!(self, Op::Create(..) | Op::Rename(..) | Op::Remove(_))
    }

    /// The name that it gives or takes, if names are all that it is about.
    fn target(&self) -> Option<&str> {
        match self {
            Op::Create(name, _) | Op::Rename(_, name, _) | Op::Remove(name) => Some(name),
            Op::Doomed(op) => op.target(),
            _ => None,
        }
    }

    /// The file whose bytes it changes, if it does.
    fn file(&self) -> Option<Inode> {
        match self {
            Op::Write(inode, ..) | Op::Truncate(inode, _) => Some(*inode),
            Op::Doomed(op) => op.file(),
            _ => None,
        }
    }

    /// Does to the bytes of a file what the operation did; where earlier bytes
    /// are missing there are zeros.
    fn write(&self, file: &mut Vec<u8>, torn: Option<Torn>) {
        match self {
            Op::Truncate(_, len) => file.truncate(*len as usize),
            Op::Write(_, at, bytes) => {
                let mut bytes = bytes.clone();
                if let Some(Torn { kept, filler }) = torn {
                    let len = bytes.len();
                    bytes.truncate(kept);
                    bytes.extend(filler.into_iter().flat_map(|f| vec![f; len - kept.min(len)]));
                }
                let at = *at as usize;
                file.resize(file.len().max(at + bytes.len()), 0);
                file[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Op::Doomed(op) => op.write(file, torn),
            _ => {}
        }
    }

    fn rename(&self, names: &mut BTreeMap<String, Inode>) {
        match self {
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
            Op::Doomed(op) => op.rename(names),
            _ => {}
        }
    }
}

impl Vfs for Record {
    fn path(&self, name: &str) -> PathBuf {
        self.mem.path(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        self.may("list", "")?;
        self.mem.list()
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn ReadFile>>> {
        self.may("open", name)?;
        let file = self.mem.open(name)?;
        Ok(file.map(|file| {
            let (folder, name) = (self.clone(), name.to_owned());
            Arc::new(Reading { folder, name, file }) as Arc<dyn ReadFile>
        }))
    }

    fn create(&self, name: &str) -> Result<Box<dyn WriteFile>> {
        self.may("create", name)?;
        let file = self.mem.create(name)?;
        let inode = self.new_file(name);
        Ok(Box::new(Recorded::new(self, name.into(), inode, file)))
    }

    fn create_temp(&self) -> Result<Box<dyn TempFile>> {
        self.may("create", super::disk::TEMP_PREFIX)?;
        let file = self.mem.create_temp()?;
        let inode = self.log.lock().inodes;
        let name = format!("{}{inode}", super::disk::TEMP_PREFIX);
        self.new_file(&name);
        Ok(Box::new(Recorded::new(self, name, inode, file)))
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.may("remove", name)?;
        self.mem.remove(name)?;
        self.push(Op::Remove(name.into()));
        if self.flaw == Some(Flaw::RemoveBeforeRename) {
            let mut log = self.log.lock();
            let removal = log.ops.pop();
            let at = log.ops.iter().rposition(|op| matches!(op, Op::Rename(..))).unwrap_or(0);
            log.ops.splice(at..at, removal.into_iter().chain([Op::SyncDir]));
        }
        Ok(())
    }

    fn sync_dir(&self) -> Result<()> {
        self.names().sync(|| {
            let tried = self.may("sync", "");
            match &tried {
                Ok(()) => {
                    self.push(Op::SyncDir);
                    self.log.lock().dir_syncs += 1;
                }
                // For want of room nothing is given up: the next sync does it.
                Err(e) if e.is_exhaustion() => {}
                Err(_) => self.push(Op::SyncDirFailed),
            }
            tried
        })
    }

    fn names(&self) -> Arc<NamesSync> {
        self.log.lock().names.clone()
    }

    // Nothing is read of what is allocated, so power loss changes nothing either.
    fn allocate(&self, name: &str, len: u64) -> Result<()> {
        self.may("allocate", name)?;
        self.mem.allocate(name, len)
    }

    fn release(&self, name: &str) -> Result<bool> {
        self.may("release", name)?;
        self.mem.release(name)
    }

    fn lock(&self, patience: Duration) -> Result<Box<dyn Send + Sync>> {
        self.may("lock", super::disk::LOCK_NAME)?;
        let lock = self.mem.lock(patience)?;
        self.log.lock().names = Arc::default();
        Ok(lock)
    }

    fn process(&self) -> u32 {
        0
    }

    fn entropy(&self) -> Result<[u8; 16]> {
        self.may("read", "urandom")?;
        self.mem.entropy()
    }
}

/// A file that is read, as long as reading does not fail. Nothing of it is recorded. What
/// [`ReadFile::map`] gave cannot fail any more: on a disk that would be a signal.
struct Reading {
    folder: Record,
    name: String,
    file: Arc<dyn ReadFile>,
}

impl ReadFile for Reading {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.folder.may("read", &self.name)?;
        self.file.read_at(buf, offset)
    }

    fn map(&self) -> Result<Bytes> {
        self.folder.may("map", &self.name)?;
        self.file.map()
    }
}

/// A file of a folder in RAM, and what is done to it.
struct Recorded<F: ?Sized> {
    folder: Record,
    name: String,
    inode: Inode,
    len: u64,
    /// With [`Flaw::SyncBeforeWrite`]: the write that is recorded too late.
    held: Option<Op>,
    file: Box<F>,
}

impl<F: ?Sized> Recorded<F> {
    fn new(folder: &Record, name: String, inode: Inode, file: Box<F>) -> Self {
        Self { folder: folder.clone(), name, inode, len: 0, held: None, file }
    }

    fn release(&mut self) {
        if let Some(op) = self.held.take() {
            self.folder.push(op);
        }
    }
}

impl<F: WriteFile + ?Sized> WriteFile for Recorded<F> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let tried = self.folder.attempt("write", &self.name);
        // A disk that fills up takes some of the bytes.
        let taken = match &tried {
            Ok(()) => bytes.len(),
            Err((how, _)) => bytes.len() * how.percent_written / 100,
        };
        self.file.write(&bytes[..taken])?;
        let op = Op::Write(self.inode, self.len, bytes[..taken].to_vec());
        self.len += taken as u64;
        if self.folder.flaw == Some(Flaw::SyncBeforeWrite) {
            self.release();
            self.held = Some(op);
        } else {
            self.folder.push(op);
        }
        tried.map_err(|(_, e)| e)
    }

    fn sync(&mut self) -> Result<()> {
        if let Err(e) = self.folder.may("sync", &self.name) {
            // For want of room nothing is given up: the next sync does it.
            if !e.is_exhaustion() {
                self.folder.push(Op::SyncFailed(self.inode));
            }
            return Err(e);
        }
        self.file.sync()?;
        self.folder.log.lock().syncs += 1;
        let forgotten = matches!(
            self.folder.flaw,
            Some(Flaw::NoSyncOf(prefix)) if self.name.starts_with(prefix)
        );
        if !forgotten {
            self.folder.push(Op::Sync(self.inode));
        }
        self.release();
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.folder.may("truncate", &self.name)?;
        self.file.truncate(len)?;
        self.len = len;
        self.folder.push(Op::Truncate(self.inode, len));
        Ok(())
    }
}

impl TempFile for Recorded<dyn TempFile> {
    fn persist(self: Box<Self>, name: &str) -> Result<()> {
        let Self { folder, name: temp, inode: old, file, .. } = *self;
        folder.may("rename to", name)?;
        file.persist(name)?;
        if folder.flaw == Some(Flaw::RewriteInsteadOfRename) {
            let inode = folder.new_file(name);
            folder.push(Op::SyncDir);
            let bytes = folder.mem.bytes(name).unwrap_or_default();
            folder.push(Op::Write(inode, 0, bytes));
            folder.push(Op::Sync(inode));
        } else {
            folder.push(Op::Rename(temp, name.into(), old));
        }
        Ok(())
    }
}

//! The only door to files: one collection folder behind the trait [`Vfs`].
//!
//! The engine names files by plain names inside its folder, so no path that
//! comes from a file can lead outside. [`disk`] is the real thing, [`mem`] keeps
//! everything in RAM for tests.
//!
//! # Durability contract
//!
//! * Bytes written are durable after [`WriteFile::sync`] returns.
//! * A created, renamed or removed *name* is durable after [`Vfs::sync_dir`].
//! * [`TempFile::persist`] replaces a name atomically: after a crash the name
//!   means the old file or the new one, never a mixture. It does not sync.
//! * Sealed files are read through [`ReadFile`], which never writes.

mod allocate;
pub(crate) mod disk;
pub(crate) mod file_system;
mod growing;
mod lock;
pub(crate) mod map;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod mem;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod record;
mod writeback;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::sown::{Bug, sown};

/// Files are written in pieces of this many bytes, each from a multiple of it on. Linux may then
/// keep a piece in one page of memory, and map it as one: vectors that are read here and there
/// cost fewer misses of the TLB (docs/EXPERIMENTS.md, "What a search by recall costs").
pub(crate) const PIECE: usize = 2 << 20;

/// A folder of files. See the module documentation for what is durable when.
pub(crate) trait Vfs: Send + Sync {
    /// Where a file is, or the folder for an empty name; for messages only.
    fn path(&self, name: &str) -> PathBuf;

    /// Names of all files in the folder, in no order.
    fn list(&self) -> Result<Vec<String>>;

    /// Opens a file that is not written any more; `None` if there is none.
    fn open(&self, name: &str) -> Result<Option<Arc<dyn ReadFile>>>;

    /// Creates a file that must not exist yet.
    fn create(&self, name: &str) -> Result<Box<dyn WriteFile>>;

    /// Creates a nameless-to-be file: it takes a name with
    /// [`TempFile::persist`], or disappears when dropped.
    fn create_temp(&self) -> Result<Box<dyn TempFile>>;

    /// Removes a file; one that is not there is no error.
    fn remove(&self, name: &str) -> Result<()>;

    /// Makes creations, renames and removals so far durable. Where it failed once, but for
    /// want of room, it fails from then on with [`crate::Error::Poisoned`].
    fn sync_dir(&self) -> Result<()>;

    /// What became of the syncs of this folder.
    fn names(&self) -> Arc<NamesSync>;

    /// Takes `len` bytes of the medium for a file that nobody reads, and keeps them
    /// until [`Self::release`]; one that has them is left as it is. On failure
    /// there is no such file.
    fn allocate(&self, name: &str, len: u64) -> Result<()>;

    /// Gives back what [`Self::allocate`] took; whether there was something.
    fn release(&self, name: &str) -> Result<bool>;

    /// Takes the folder's lock, which one writer at a time can have. Where another
    /// has it this waits for so long, and then fails with [`crate::Error::Locked`].
    /// Dropping the guard releases it, as does the death of the process.
    fn lock(&self, patience: Duration) -> Result<Box<dyn Send + Sync>>;

    /// Number of the process: another one than at open means that the handle
    /// was inherited by a fork, and must not write.
    fn process(&self) -> u32;

    /// Random bytes that name a new collection.
    fn entropy(&self) -> Result<[u8; 16]>;
}

/// A sealed file, open for reading.
pub(crate) trait ReadFile: Send + Sync {
    /// Its path, for messages.
    fn path(&self) -> &Path;

    /// Its length in bytes when it was opened.
    fn len(&self) -> u64;

    /// Fills `buf` from `offset`, which must lie inside the file with all of
    /// `buf`; a shorter file is reported as damaged.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// All of the file as memory, paged in as it is touched, or read now where the
    /// folder was told not to map.
    fn map(&self) -> Result<map::Bytes>;
}

/// A file being written from its beginning to its end.
pub(crate) trait WriteFile: Send + Sync {
    /// Appends bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes everything written so far durable.
    fn sync(&mut self) -> Result<()>;

    /// Cuts the file back to its first `len` bytes; what is written next follows
    /// them. Durable after [`Self::sync`].
    fn truncate(&mut self, len: u64) -> Result<()>;
}

/// A file without a lasting name yet.
pub(crate) trait TempFile: WriteFile {
    /// Gives the file its name, replacing any other file of that name.
    fn persist(self: Box<Self>, name: &str) -> Result<()>;
}

/// Syncs of a folder. After one that failed the system may report success of the next although
/// names are lost (Rebello et al., USENIX ATC 2020), so there is none.
#[derive(Default)]
pub(crate) struct NamesSync {
    failed: OnceLock<String>,
}

impl NamesSync {
    /// Fails if a sync did.
    pub(crate) fn healthy(&self) -> Result<()> {
        match self.failed.get() {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
        }
    }

    fn sync(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        self.healthy()?;
        sync().inspect_err(|e| {
            if !e.is_exhaustion() && !sown(Bug::NamesSyncedAgain) {
                let _ = self.failed.set(e.to_string());
            }
        })
    }
}

/// The path of a file in a folder; of the folder itself, without a slash behind it, for an empty name.
fn within(folder: &Path, name: &str) -> PathBuf {
    if name.is_empty() { folder.to_owned() } else { folder.join(name) }
}

/// Opens a file that a manifest names.
///
/// # Errors
/// [`Error::Corrupt`] where it is not there.
pub(crate) fn open_named(vfs: &dyn Vfs, name: &str) -> Result<Arc<dyn ReadFile>> {
    vfs.open(name)?.ok_or_else(|| Error::corrupt(vfs.path(name), 0, "is missing"))
}

/// Opens a file that may be missing; `None` also where something that is no file has its name.
pub(crate) fn open_damaged(vfs: &dyn Vfs, name: &str) -> Result<Option<Arc<dyn ReadFile>>> {
    match vfs.open(name) {
        Err(Error::Corrupt(_)) => Ok(None),
        opened => opened,
    }
}

/// Reads what may be of use of a file that may be longer than any of its kind: up to `limit` bytes,
/// or to the first `piece` of them that are all zero, which a file has that was extended.
pub(crate) fn read_damaged(file: &dyn ReadFile, limit: u64, piece: usize) -> Result<Vec<u8>> {
    let (len, mut bytes) = (file.len().min(limit), Vec::new());
    while (bytes.len() as u64) < len {
        let (start, left) = (bytes.len(), len - bytes.len() as u64);
        let more = usize::try_from(left).unwrap_or(usize::MAX).min(piece);
        reserve(&mut bytes, file.path(), more)?;
        bytes.resize(start + more, 0);
        file.read_at(&mut bytes[start..], start as u64)?;
        if more == piece && bytes[start..].iter().all(|byte| *byte == 0) {
            bytes.truncate(start);
            break;
        }
    }
    Ok(bytes)
}

/// Reads all of a file of at most `limit` bytes.
pub(crate) fn read_all(file: &dyn ReadFile, limit: u64) -> Result<Vec<u8>> {
    let len = file.len();
    if len > limit {
        let what = format!("is {len} bytes long; a file of its kind has at most {limit}");
        return Err(crate::Error::corrupt(file.path(), limit, what));
    }
    let mut bytes = buffer(file.path(), usize::try_from(len).unwrap_or(usize::MAX))?;
    file.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// A buffer for `len` bytes of a file, or an error where there is no RAM for it.
pub(crate) fn buffer(file: &Path, len: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reserve(&mut bytes, file, len)?;
    bytes.resize(len, 0);
    Ok(bytes)
}

/// Room for `more` bytes of a file, or an error where there is no RAM for them.
pub(crate) fn reserve(bytes: &mut Vec<u8>, file: &Path, more: usize) -> Result<()> {
    bytes.try_reserve_exact(more).map_err(|e| Error::io("allocate for", file, e.into()))
}

/// Makes what was written to a file durable. After a sync that failed there is no other: the
/// system may report its success although bytes are lost (Rebello et al., USENIX ATC 2020).
pub(crate) fn sync_file(file: &mut (impl WriteFile + ?Sized)) -> Result<()> {
    let synced = file.sync();
    if sown(Bug::FileSyncedAgain) { synced.or_else(|_| file.sync()) } else { synced }
}

/// A durable file that has no lasting name yet. Dropping it changes nothing.
pub(crate) struct Staged(Box<dyn TempFile>);

/// The first half of replacing a file: as long as only this was done, or tried,
/// the file is what it was.
pub(crate) fn stage(vfs: &dyn Vfs, bytes: &[u8]) -> Result<Staged> {
    let mut temp = vfs.create_temp()?;
    temp.write(bytes)?;
    sync_file(&mut *temp)?;
    Ok(Staged(temp))
}

impl Staged {
    /// The second half: `name` becomes this file, atomically and durably. After
    /// an error nobody knows which of the two it is.
    pub(crate) fn replace(self, vfs: &dyn Vfs, name: &str) -> Result<()> {
        self.0.persist(name)?;
        vfs.sync_dir()
    }
}

//! A folder on a real file system.
//!
//! Every name is looked up from one descriptor of the folder, opened once, and no
//! link is followed: whoever renames the folder meanwhile, or puts a link in its
//! place, cannot make us read or write anywhere else.
#![expect(clippy::disallowed_types, reason = "this is the module the ban points to")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, RawMode};
use rustix::io::Errno;

use super::allocate::allocate;
use super::file_system::check_file_system;
use super::growing::Growing;
use super::lock::Lock;
use super::map::Bytes;
use super::{NamesSync, ReadFile, TempFile, Vfs, WriteFile};
use crate::error::{Error, Result};

/// Prefix of files that were not given a name yet; strays are removed at open.
pub(crate) const TEMP_PREFIX: &str = "tmp-";
/// Name of the lock file. It is removed with a whole collection (the shadow of a
/// re-embedding), or a folder in which there never was one, and never else.
pub(crate) const LOCK_NAME: &str = "LOCK";
/// Name of a file whose blocks are kept for when there are no others.
pub(crate) const RESERVE_NAME: &str = "RESERVE";
/// Permission bits of files that are created, unless asked for others.
pub(crate) const PRIVATE: u32 = 0o600;

/// Flags of every open of a file: a link could lead out of the folder, a pipe
/// would keep us waiting for whoever made it, and a program that is started
/// inherits nothing.
const FILE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const FOLDER: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);
/// How often the lock file is looked for anew if it is replaced under us.
const LOCK_ATTEMPTS: usize = 16;

/// The folder of a collection; clones share it.
#[derive(Clone)]
pub(crate) struct Disk {
    folder: Arc<Folder>,
}

struct Folder {
    fd: OwnedFd,
    /// Where it was when it was opened, for messages only.
    dir: PathBuf,
    /// Permission bits of files that are created.
    mode: u32,
    /// Whether [`ReadFile::map`] maps, or reads.
    mapped: bool,
    /// Whether it was made by [`Disk::create`].
    made: bool,
    names: Arc<NamesSync>,
}

impl Disk {
    /// An existing folder.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        Self::open_as(dir, FOLDER)
    }

    /// An existing folder, if its name is no link.
    pub(crate) fn open_unlinked(dir: &Path) -> Result<Self> {
        Self::open_as(dir, FOLDER | OFlags::NOFOLLOW)
    }

    fn open_as(dir: &Path, flags: OFlags) -> Result<Self> {
        let found = match rustix::fs::openat(CWD, dir, flags, Mode::empty()) {
            Ok(fd) => return Ok(Self::at(fd, dir, PRIVATE)),
            Err(Errno::NOENT) => return Err(Error::NotFound { path: dir.to_owned() }),
            Err(Errno::NOTDIR) if dir.is_file() => "it is a file, a collection is a folder",
            Err(e) => return Err(Error::io("open", dir, e.into())),
        };
        Err(Error::NotACollection { path: dir.to_owned(), found: found.into() })
    }

    /// A new folder, or one that exists and is empty, with permission bits, where `check`
    /// accepts it, or the one that it would be made in; else nothing is made. Its name is
    /// made durable.
    pub(crate) fn create(
        dir: &Path,
        mode: u32,
        check: &dyn Fn(BorrowedFd, &Path) -> Result<()>,
    ) -> Result<Self> {
        let failed = |e: Errno| match e {
            Errno::EXIST => Error::AlreadyExists { path: dir.to_owned() },
            e => Error::io("create", dir, e.into()),
        };
        match rustix::fs::openat(CWD, dir, FOLDER, Mode::empty()) {
            Ok(fd) => {
                let found = Self::at(fd, dir, mode);
                found.check_empty()?;
                check(found.folder.fd.as_fd(), dir)?;
                // Whoever made it may have stopped before its name was durable.
                let above = found.folder.open("..", FOLDER);
                let above = above.map_err(|e| found.folder.io("open", "..", e))?;
                sync_folder(above.as_fd(), &parent(dir))?;
                return Ok(found);
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) if dir.is_file() => return Err(failed(Errno::EXIST)),
            Err(e) => return Err(failed(e)),
        }
        let (parent, name) = (parent(dir), dir.file_name().ok_or_else(|| failed(Errno::NOENT))?);
        let above = rustix::fs::openat(CWD, &parent, FOLDER, Mode::empty());
        let above = above.map_err(|e| match e {
            Errno::NOENT => Error::NotFound { path: parent.clone() },
            e => Error::io("open", &parent, e.into()),
        })?;
        check(above.as_fd(), &parent)?;
        rustix::fs::mkdirat(&above, name, folder_mode(mode)).map_err(failed)?;
        sync_folder(above.as_fd(), &parent)?;
        // It is the one we made, not a link that somebody put there since.
        let made = rustix::fs::openat(&above, name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
        Ok(Self::of(made.map_err(failed)?, dir, mode, true))
    }

    /// Whether [`Self::create`] made the folder, and did not find it.
    pub(crate) fn is_new(&self) -> bool {
        self.folder.made
    }

    /// Removes the folder, if it was made for something that then was not to be: there is
    /// nothing in it but a lock that nobody holds. In any other case it stays.
    pub(crate) fn unmake(&self) {
        let Folder { fd, dir, made, .. } = &*self.folder;
        if !made {
            return;
        }
        let Ok(lock) = self.lock(Duration::ZERO) else { return };
        let is_lock = |name: &String| name == LOCK_NAME;
        if !self.list().is_ok_and(|names| names.iter().all(is_lock)) {
            return;
        }
        let _ = self.remove(LOCK_NAME);
        drop(lock);
        // The name may mean another one by now.
        let named = rustix::fs::statat(CWD, dir, AtFlags::SYMLINK_NOFOLLOW);
        if let (Ok(ours), Ok(named)) = (rustix::fs::fstat(fd), named)
            && (ours.st_dev, ours.st_ino) == (named.st_dev, named.st_ino)
        {
            let _ = rustix::fs::unlinkat(CWD, dir, AtFlags::REMOVEDIR);
        }
    }

    /// The same folder. Files that are created have these permission bits (less
    /// those that the process masks); sealed ones are mapped, or read as a whole.
    pub(crate) fn with(self, mode: u32, mapped: bool) -> Result<Self> {
        let Folder { fd, dir, made, .. } = &*self.folder;
        let fd = fd.try_clone().map_err(|e| Error::io("open", dir, e))?;
        let (dir, made, names) = (dir.clone(), *made, Arc::default());
        Ok(Self { folder: Arc::new(Folder { fd, dir, mode, mapped, made, names }) })
    }

    fn at(fd: OwnedFd, dir: &Path, mode: u32) -> Self {
        Self::of(fd, dir, mode, false)
    }

    fn of(fd: OwnedFd, dir: &Path, mode: u32, made: bool) -> Self {
        let (dir, names) = (dir.to_owned(), Arc::default());
        Self { folder: Arc::new(Folder { fd, dir, mode, mapped: true, made, names }) }
    }

    /// Fails on a file system that may break the durability contract.
    pub(crate) fn check_file_system(&self) -> Result<()> {
        check_file_system(self.folder.fd.as_fd(), &self.folder.dir)
    }

    /// A lock file alone is what an interrupted `create` leaves behind.
    fn check_empty(&self) -> Result<()> {
        let ours = |name: &String| {
            name == LOCK_NAME || name == RESERVE_NAME || name.starts_with(TEMP_PREFIX)
        };
        if self.list()?.iter().all(ours) {
            return Ok(());
        }
        Err(Error::AlreadyExists { path: self.folder.dir.clone() })
    }
}

/// Makes names in a folder durable.
fn sync_folder(folder: BorrowedFd, dir: &Path) -> Result<()> {
    // There a plain sync leaves it to the drive when it writes.
    #[cfg(target_vendor = "apple")]
    let synced = rustix::fs::fcntl_fullfsync(folder);
    #[cfg(not(target_vendor = "apple"))]
    let synced = rustix::fs::fsync(folder);
    synced.map_err(|e| Error::io("sync", dir, e.into()))
}

fn parent(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Whoever may read the files may list the folder; whoever may write them, too.
fn folder_mode(mode: u32) -> Mode {
    Mode::from_raw_mode((mode | (mode & 0o444) >> 2) as RawMode)
}

impl Folder {
    /// Locks a file, if it can be had in time.
    fn wait_for(&self, file: File, patience: Duration) -> Result<Lock> {
        let lock = Lock::take(file, patience).map_err(|e| self.io("lock", LOCK_NAME, e))?;
        lock.ok_or_else(|| Error::Locked { path: self.dir.clone() })
    }

    /// Locks the folder, which no name has to lead to; nothing where the system locks files only.
    fn lock_itself(&self, patience: Duration) -> Result<Option<Lock>> {
        let opened = rustix::fs::openat(&self.fd, ".", FOLDER, Mode::empty());
        let opened = File::from(opened.map_err(|e| self.io("open", ".", e))?);
        match self.wait_for(opened, patience) {
            Err(Error::Io { .. }) => Ok(None),
            done => done.map(Some),
        }
    }

    fn io(&self, action: &'static str, name: &str, source: impl Into<io::Error>) -> Error {
        Error::io(action, self.dir.join(name), source.into())
    }

    fn open(&self, name: &str, flags: OFlags) -> Result<File, Errno> {
        let mode = Mode::from_raw_mode(self.mode as RawMode);
        rustix::fs::openat(&self.fd, name, flags | FILE, mode).map(File::from)
    }

    fn create(&self, name: &str) -> Result<File, Errno> {
        self.open(name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL)
    }

    /// Removes a file; whether there was one.
    fn remove(&self, name: &str) -> Result<bool> {
        match rustix::fs::unlinkat(&self.fd, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(self.io("remove", name, e)),
        }
    }

    /// Whether `name` means this very file.
    fn is_named(&self, name: &str, file: &File) -> Result<bool> {
        let open = file.metadata().map_err(|e| self.io("inspect", name, e))?;
        match self.open(name, OFlags::RDONLY) {
            Ok(named) => {
                let named = named.metadata().map_err(|e| self.io("inspect", name, e))?;
                Ok((open.dev(), open.ino()) == (named.dev(), named.ino()))
            }
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(self.io("inspect", name, e)),
        }
    }
}

impl Vfs for Disk {
    fn path(&self, name: &str) -> PathBuf {
        super::within(&self.folder.dir, name)
    }

    fn list(&self) -> Result<Vec<String>> {
        let failed = |e: Errno| Error::io("list", &self.folder.dir, e.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder.fd).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn ReadFile>>> {
        let folder = &self.folder;
        let file = match folder.open(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(e) => return Err(folder.io("open", name, e)),
        };
        let meta = file.metadata().map_err(|e| folder.io("inspect", name, e))?;
        if !meta.is_file() {
            return Err(Error::corrupt(folder.dir.join(name), 0, "is not a regular file"));
        }
        let (len, path) = (meta.len(), folder.dir.join(name));
        Ok(Some(Arc::new(Sealed { file, len, path, mapped: folder.mapped })))
    }

    fn create(&self, name: &str) -> Result<Box<dyn WriteFile>> {
        let file = self.folder.create(name).map_err(|e| self.folder.io("create", name, e))?;
        Ok(Box::new(Growing::new(file, self.folder.dir.join(name))))
    }

    fn create_temp(&self) -> Result<Box<dyn TempFile>> {
        static DRAWN: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{TEMP_PREFIX}{}", DRAWN.fetch_add(1, Ordering::Relaxed));
            match self.folder.create(&name) {
                Ok(file) => {
                    let file = Growing::new(file, self.folder.dir.join(&name));
                    return Ok(Box::new(Temp { file, folder: self.folder.clone(), name }));
                }
                // Another process left it, or has forked off from this one.
                Err(Errno::EXIST) => {}
                Err(e) => return Err(self.folder.io("create", &name, e)),
            }
        }
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.folder.remove(name).map(drop)
    }

    fn sync_dir(&self) -> Result<()> {
        self.folder.names.sync(|| sync_folder(self.folder.fd.as_fd(), &self.folder.dir))
    }

    fn names(&self) -> Arc<NamesSync> {
        self.folder.names.clone()
    }

    fn allocate(&self, name: &str, len: u64) -> Result<()> {
        let folder = &self.folder;
        let file = folder.open(name, OFlags::RDWR | OFlags::CREATE);
        let file = file.map_err(|e| folder.io("create", name, e))?;
        let done = file.metadata().and_then(|meta| {
            if meta.len() == len && meta.blocks().saturating_mul(512) >= len {
                return Ok(());
            }
            file.set_len(len)?;
            allocate(&file, len)
        });
        done.map_err(|e| {
            // Half a reserve is none, and stands in the way.
            let _ = folder.remove(name);
            folder.io("allocate", name, e)
        })
    }

    fn release(&self, name: &str) -> Result<bool> {
        self.folder.remove(name)
    }

    /// The lock counts for whoever finds the file by its name, so it is looked for
    /// once more when it is locked: another may be there by then. The folder itself is
    /// locked beside it, for whoever removes the file.
    fn lock(&self, patience: Duration) -> Result<Box<dyn Send + Sync>> {
        let folder = &self.folder;
        let start = Instant::now();
        let left = || patience.saturating_sub(start.elapsed());
        for _ in 0..LOCK_ATTEMPTS {
            let file = folder.open(LOCK_NAME, OFlags::RDWR | OFlags::CREATE);
            let file = file.map_err(|e| folder.io("open", LOCK_NAME, e))?;
            let lock = folder.wait_for(file, left())?;
            if folder.is_named(LOCK_NAME, lock.file())? {
                return Ok(Box::new((lock, folder.lock_itself(left())?)));
            }
        }
        Err(folder.io("lock", LOCK_NAME, io::Error::other("it is replaced again and again")))
    }

    fn process(&self) -> u32 {
        std::process::id()
    }

    fn entropy(&self) -> Result<[u8; 16]> {
        let source = Path::new("/dev/urandom");
        let mut bytes = [0; 16];
        let mut file = File::open(source).map_err(|e| Error::io("open", source, e))?;
        file.read_exact(&mut bytes).map_err(|e| Error::io("read", source, e))?;
        Ok(bytes)
    }
}

/// A file that is only read.
struct Sealed {
    file: File,
    len: u64,
    path: PathBuf,
    mapped: bool,
}

impl ReadFile for Sealed {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => {
                Error::corrupt(&self.path, offset, "file became shorter while it was open")
            }
            _ => Error::io("read", &self.path, e),
        })
    }

    fn map(&self) -> Result<Bytes> {
        if !self.mapped {
            return Ok(Bytes::Read(Arc::new(super::read_all(self, u64::MAX)?)));
        }
        Bytes::map(&self.file).map_err(|e| Error::io("map", &self.path, e))
    }
}

/// A file that is removed unless it is given a lasting name.
struct Temp {
    file: Growing,
    folder: Arc<Folder>,
    /// Empty once it is persisted.
    name: String,
}

impl WriteFile for Temp {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes)
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync()
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        self.file.truncate(len)
    }
}

impl TempFile for Temp {
    fn persist(mut self: Box<Self>, name: &str) -> Result<()> {
        let Folder { fd, .. } = &*self.folder;
        let renamed = rustix::fs::renameat(fd, &*self.name, fd, name);
        renamed.map_err(|e| self.folder.io("rename to", name, e))?;
        self.name.clear();
        Ok(())
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if !self.name.is_empty() {
            // What cannot be removed now is a stray for the next open.
            let _ = self.folder.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_refused_file_system_is_left_as_it_was() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let path = dir.path().join("new");
        let refuse = |_: BorrowedFd, asked: &Path| {
            assert_eq!(asked, dir.path(), "the folder that it would be made in");
            Err(Error::invalid("file system", "refused"))
        };
        assert!(Disk::create(&path, PRIVATE, &refuse).is_err());
        assert!(!path.exists());
        // One that is there already is asked about itself.
        fs::create_dir(&path).expect("create");
        let refuse = |_: BorrowedFd, asked: &Path| {
            assert_eq!(asked, path);
            Err(Error::invalid("file system", "refused"))
        };
        assert!(Disk::create(&path, PRIVATE, &refuse).is_err());
        assert_eq!(fs::read_dir(&path).expect("list").count(), 0);
    }

    /// A pipe cannot be synced: who says that it was has not asked the system.
    #[test]
    fn a_sync_of_the_folder_is_asked_of_the_system() {
        let (pipe, _writer) = io::pipe().expect("pipe");
        let disk = Disk::of(OwnedFd::from(pipe), Path::new("pipe"), PRIVATE, false);
        let refused = disk.sync_dir().expect_err("a pipe");
        assert!(matches!(refused, Error::Io { action: "sync", .. }), "{refused}");
        let dir = tempfile::tempdir().expect("temporary folder");
        Disk::open(dir.path()).expect("open").sync_dir().expect("a folder");
    }

    #[test]
    fn a_file_that_was_replaced_is_not_the_one_that_was_locked() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let disk = Disk::open(dir.path()).expect("open");
        let _lock = disk.lock(Duration::ZERO).expect("lock");
        let locked = disk.folder.open(LOCK_NAME, OFlags::RDONLY).expect("open");
        assert!(disk.folder.is_named(LOCK_NAME, &locked).expect("inspect"));
        fs::rename(dir.path().join(LOCK_NAME), dir.path().join("old")).expect("rename");
        assert!(!disk.folder.is_named(LOCK_NAME, &locked).expect("inspect"));
        fs::write(dir.path().join(LOCK_NAME), "").expect("write");
        assert!(!disk.folder.is_named(LOCK_NAME, &locked).expect("inspect"));
    }

    /// A thread replaces the lock file all the time: whoever gets the lock has that
    /// of the file which was there when it looked.
    #[test]
    fn a_lock_file_that_is_replaced_again_and_again_ends_in_an_error_at_worst() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let disk = Disk::open(dir.path()).expect("open");
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    fs::write(dir.path().join("other"), "").expect("write");
                    fs::rename(dir.path().join("other"), dir.path().join(LOCK_NAME)).expect("move");
                }
            });
            for _ in 0..300 {
                match disk.lock(Duration::ZERO) {
                    Ok(_) | Err(Error::Io { .. } | Error::Locked { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            done.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_temporary_file_is_gone_unless_it_was_given_a_name() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let disk = Disk::open(dir.path()).expect("open");
        drop(disk.create_temp().expect("create"));
        assert!(disk.list().expect("list").is_empty());
        fs::write(dir.path().join("A"), "old").expect("write");
        let mut temp = disk.create_temp().expect("create");
        temp.write(b"new").expect("write");
        temp.persist("A").expect("rename");
        assert_eq!(disk.list().expect("list"), ["A"]);
        assert_eq!(fs::read(dir.path().join("A")).expect("read"), b"new");
    }

    #[test]
    fn blocks_are_allocated_and_released() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let disk = Disk::open(dir.path()).expect("open");
        for len in [1 << 20, 3 << 20, 1 << 16] {
            disk.allocate("R", len).expect("there is room");
            disk.allocate("R", len).expect("as it is");
            let meta = fs::metadata(dir.path().join("R")).expect("there");
            assert_eq!(meta.len(), len);
            assert!(meta.blocks() * 512 >= len, "{} blocks", meta.blocks());
        }
        assert!(disk.release("R").expect("release"));
        assert!(!disk.release("R").expect("there is none"));
    }

    #[test]
    fn links_pipes_and_folders_are_not_opened() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let at = |name: &str| dir.path().join(name);
        fs::write(at("outside"), "x").expect("write");
        std::os::unix::fs::symlink(at("outside"), at("link")).expect("link");
        fs::create_dir(at("folder")).expect("folder");
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).expect("pipe");
        let disk = Disk::open(dir.path()).expect("open");
        assert!(disk.open("outside").expect("open").is_some());
        for name in ["link", "folder", "pipe"] {
            assert!(disk.open(name).is_err(), "{name}");
        }
        std::os::unix::fs::symlink(at("folder"), at("way")).expect("link");
        assert!(Disk::open(&at("way")).is_ok() && Disk::open_unlinked(&at("folder")).is_ok());
        assert!(Disk::open_unlinked(&at("way")).is_err());
    }
}

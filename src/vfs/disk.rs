//! A folder on a real file system.
#![expect(clippy::disallowed_types, reason = "this is the module the ban points to")]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use super::map::Bytes;
use super::{ReadFile, TempFile, Vfs, WriteFile};
use crate::error::{Error, Result};

/// Prefix of files that were not given a name yet; strays are removed at open.
pub(crate) const TEMP_PREFIX: &str = "tmp-";
/// Name of the lock file, which is never removed.
pub(crate) const LOCK_NAME: &str = "LOCK";

/// The folder of a collection.
pub(crate) struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// An existing folder.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        match fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => Ok(Self { dir: dir.to_owned() }),
            Ok(_) => Err(Error::NotACollection {
                path: dir.to_owned(),
                found: "it is a file, a collection is a folder".into(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NotACollection {
                path: dir.to_owned(),
                found: "there is nothing there".into(),
            }),
            Err(e) => Err(Error::io("open", dir, e)),
        }
    }

    /// A new folder, or one that exists and is empty. Its name is made durable.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => sync_folder(&parent(dir))?,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => check_empty(dir)?,
            Err(e) => return Err(Error::io("create", dir, e)),
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Fails on a file system that may break the durability contract.
    #[cfg(target_os = "linux")]
    pub(crate) fn check_file_system(&self) -> Result<()> {
        let found = rustix::fs::statfs(&self.dir);
        let found = found.map_err(|e| Error::io("inspect", &self.dir, e.into()))?;
        let kind = UNSAFE_FILE_SYSTEMS.iter().find(|(n, _)| u64::from(*n) == found.f_type as u64);
        let Some((_, name)) = kind else { return Ok(()) };
        let why = format!(
            "{} is on {name}, which may lose durable commits or ignore locks: use a local disk, \
             open read-only, or say `allow_unsafe_fs`",
            self.dir.display()
        );
        Err(Error::invalid("file system", why))
    }

    /// Elsewhere nothing tells.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn check_file_system(&self) -> Result<()> {
        Ok(())
    }

    fn io(&self, action: &'static str, name: &str, source: io::Error) -> Error {
        Error::io(action, self.dir.join(name), source)
    }
}

/// File systems that may not keep a sync's promise, or know no lock between
/// machines: their numbers in `statfs`, and their names.
#[cfg(target_os = "linux")]
const UNSAFE_FILE_SYSTEMS: [(u32, &str); 8] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x6573_5546, "FUSE"),
    (0x0102_1997, "9P"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
];

fn parent(dir: &Path) -> PathBuf {
    match dir.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Flags of every open: a link could lead out of the folder, and a pipe would
/// keep us waiting for whoever made it.
fn only_files() -> i32 {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    flags.bits().cast_signed()
}

/// A lock file alone is what an interrupted `create` leaves behind.
fn check_empty(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).map_err(|e| Error::io("list", dir, e))?;
    let occupied = entries.flatten().any(|entry| {
        let name = entry.file_name();
        name != LOCK_NAME && !name.to_string_lossy().starts_with(TEMP_PREFIX)
    });
    if occupied { Err(Error::AlreadyExists { path: dir.to_owned() }) } else { Ok(()) }
}

fn sync_folder(dir: &Path) -> Result<()> {
    let handle = File::open(dir).map_err(|e| Error::io("open", dir, e))?;
    handle.sync_all().map_err(|e| Error::io("sync", dir, e))
}

impl Vfs for Disk {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn list(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.dir).map_err(|e| Error::io("list", &self.dir, e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", &self.dir, e))?;
            names.extend(entry.file_name().into_string());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> Result<Option<Arc<dyn ReadFile>>> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(only_files());
        let file = match options.open(self.dir.join(name)) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(self.io("open", name, e)),
        };
        let meta = file.metadata().map_err(|e| self.io("inspect", name, e))?;
        if !meta.is_file() {
            return Err(Error::corrupt(self.dir.join(name), 0, "is not a regular file"));
        }
        Ok(Some(Arc::new(Sealed { file, len: meta.len(), path: self.dir.join(name) })))
    }

    fn create(&self, name: &str) -> Result<Box<dyn WriteFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(self.dir.join(name)).map_err(|e| self.io("create", name, e))?;
        Ok(Box::new(Growing { file, path: self.dir.join(name) }))
    }

    fn create_temp(&self) -> Result<Box<dyn TempFile>> {
        let temp = tempfile::Builder::new()
            .prefix(TEMP_PREFIX)
            .tempfile_in(&self.dir)
            .map_err(|e| self.io("create", TEMP_PREFIX, e))?;
        Ok(Box::new(Temp { temp, dir: self.dir.clone() }))
    }

    fn remove(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.dir.join(name)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.io("remove", name, e)),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self) -> Result<()> {
        sync_folder(&self.dir)
    }

    fn lock(&self, patience: Duration) -> Result<Box<dyn Send + Sync>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(only_files());
        let path = self.dir.join(LOCK_NAME);
        let file = options.open(&path).map_err(|e| Error::io("open", &path, e))?;
        // The system could wait for us, but not for a time and no longer.
        let (start, mut pause) = (Instant::now(), Duration::from_millis(1));
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Box::new(file)),
                Err(TryLockError::Error(e)) => return Err(Error::io("lock", path, e)),
                Err(TryLockError::WouldBlock) => {}
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Err(Error::Locked { path: self.dir.clone() });
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(32));
        }
    }

    fn process(&self) -> u32 {
        std::process::id()
    }

    fn entropy(&self) -> Result<[u8; 16]> {
        let source = Path::new("/dev/urandom");
        let mut bytes = [0; 16];
        let mut file = File::open(source).map_err(|e| Error::io("open", source, e))?;
        io::Read::read_exact(&mut file, &mut bytes).map_err(|e| Error::io("read", source, e))?;
        Ok(bytes)
    }
}

/// A file that is only read.
struct Sealed {
    file: File,
    len: u64,
    path: PathBuf,
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
        Bytes::map(&self.file).map_err(|e| Error::io("map", &self.path, e))
    }
}

/// A file under its final name, being written.
struct Growing {
    file: File,
    path: PathBuf,
}

impl WriteFile for Growing {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write", &self.path, e))
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("sync", &self.path, e))
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        truncate(&self.file, len).map_err(|e| Error::io("truncate", &self.path, e))
    }
}

fn truncate(mut file: &File, len: u64) -> io::Result<()> {
    file.set_len(len)?;
    file.seek(SeekFrom::Start(len)).map(drop)
}

struct Temp {
    temp: tempfile::NamedTempFile,
    dir: PathBuf,
}

impl WriteFile for Temp {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.temp.write_all(bytes).map_err(|e| Error::io("write", self.temp.path(), e))
    }

    fn sync(&mut self) -> Result<()> {
        self.temp.as_file().sync_data().map_err(|e| Error::io("sync", self.temp.path(), e))
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        let cut = truncate(self.temp.as_file(), len);
        cut.map_err(|e| Error::io("truncate", self.temp.path(), e))
    }
}

impl TempFile for Temp {
    fn persist(self: Box<Self>, name: &str) -> Result<()> {
        let path = self.dir.join(name);
        match self.temp.persist(&path) {
            Ok(_) => Ok(()),
            Err(e) => Err(Error::io("rename to", path, e.error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}

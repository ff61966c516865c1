//! The only place that maps files: read-only, sealed files, through memmap2.
#![expect(unsafe_code, reason = "mapping a file is unsafe: see `Bytes::map`")]
#![expect(clippy::disallowed_types, reason = "part of the module the ban points to")]

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// The bytes of a file: mapped, read, or owned by a file system that lives in RAM.
#[derive(Clone)]
pub(crate) enum Bytes {
    Mapped(Arc<memmap2::Mmap>),
    Read(Arc<Vec<u8>>),
    Owned(Arc<[u8]>),
}

impl Bytes {
    /// Those of an empty file.
    pub(crate) fn none() -> Self {
        Self::Owned(Arc::from([]))
    }

    /// Maps `file`, which is never written after it was named in a manifest.
    pub(crate) fn map(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::none());
        }
        // SAFETY: a map is sound while nobody changes or truncates the file.
        // 1. We never do: sealed files are only read and, at last, unlinked,
        //    which leaves the mapped pages alone.
        // 2. So do other matryo processes, whoever of them has the lock.
        // 3. Foreign programs that truncate our files are outside what we can
        //    promise (README, "Limits"); the process gets SIGBUS,
        //    unless it asked for files that are read (`Options::mapped`).
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Self::Mapped(Arc::new(map)))
    }

    /// Asks the system to read `[offset, offset + len)` soon.
    pub(crate) fn will_need(&self, offset: usize, len: usize) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            // Advice only: where the system refuses, the page faults still work.
            let _ = map.advise_range(memmap2::Advice::WillNeed, offset, len);
        }
    }

    /// Says that `[offset, offset + len)` is read in order, as by default.
    pub(crate) fn in_order(&self, offset: usize, len: usize) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let _ = map.advise_range(memmap2::Advice::Normal, offset, len);
        }
    }

    /// Says that reads jump about, so that reading ahead would be wasted.
    pub(crate) fn random_access(&self) {
        #[cfg(unix)]
        if let Self::Mapped(map) = self {
            let _ = map.advise(memmap2::Advice::Random);
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Read(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

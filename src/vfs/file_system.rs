//! Which file systems keep the durability contract.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::{Error, Result};

/// Fails on a file system that may break the durability contract.
#[cfg(target_os = "linux")]
pub(crate) fn check_file_system(folder: BorrowedFd, dir: &Path) -> Result<()> {
    let found = rustix::fs::fstatfs(folder).map_err(|e| Error::io("inspect", dir, e.into()))?;
    let kind = UNSAFE_FILE_SYSTEMS.iter().find(|(n, _)| u64::from(*n) == found.f_type as u64);
    let Some((_, name)) = kind else { return Ok(()) };
    Err(Error::UnsafeFileSystem { path: dir.to_owned(), name })
}

/// Elsewhere nothing tells.
#[cfg(not(target_os = "linux"))]
pub(crate) fn check_file_system(_: BorrowedFd, _: &Path) -> Result<()> {
    Ok(())
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

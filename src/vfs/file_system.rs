//! Which file systems keep the durability contract.

use std::os::fd::BorrowedFd;
use std::path::Path;

use crate::error::{Error, Result};

/// Fails on a file system that may break the durability contract.
#[cfg(target_os = "linux")]
pub(crate) fn check_file_system(folder: BorrowedFd, dir: &Path) -> Result<()> {
    let found = rustix::fs::fstatfs(folder).map_err(|e| Error::io("inspect", dir, e.into()))?;
    match unsafe_name(found.f_type as u32) {
        None => Ok(()),
        Some(name) => Err(Error::UnsafeFileSystem { path: dir.to_owned(), name }),
    }
}

/// The name of a file system, from its number in `statfs`, if it may break the contract.
#[cfg(target_os = "linux")]
fn unsafe_name(number: u32) -> Option<&'static str> {
    UNSAFE_FILE_SYSTEMS.iter().find(|(n, _)| *n == number).map(|(_, name)| *name)
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The numbers of `linux/magic.h` and of the kernel's own sources.
    #[test]
    fn file_systems_of_networks_and_processes_are_known() {
        let refused = [
            (0x6969, "NFS"),
            (0x517b, "SMB"),
            (0xff53_4d42, "CIFS"),
            (0xfe53_4d42, "SMB2"),
            (0x6573_5546, "FUSE"),
            (0x0102_1997, "9P"),
            (0x00c3_6400, "Ceph"),
            (0x5346_414f, "AFS"),
        ];
        for (number, name) in refused {
            assert_eq!(unsafe_name(number), Some(name));
        }
        // ext4, XFS, Btrfs, tmpfs, ZFS, F2FS, overlay: what is below that one keeps the contract.
        let local =
            [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x2fc1_2fc1, 0xf2f5_2010, 0x794c_7630];
        assert!(local.into_iter().all(|number| unsafe_name(number).is_none()));
    }
}

//! Asks the system to begin early with what a sync will wait for.
#![cfg_attr(target_os = "linux", expect(unsafe_code, reason = "a call that only libc has"))]
#![expect(clippy::disallowed_types, reason = "part of the module the ban points to")]

use std::fs::File;

/// Begins to bring `len` bytes of `file` from `offset` on to the medium, where the
/// system can be asked to. It promises nothing, and no failure matters: only a sync
/// says what is durable.
#[cfg(target_os = "linux")]
pub(super) fn start(file: &File, offset: u64, len: u64) {
    use std::os::fd::AsRawFd;

    let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) else { return };
    // SAFETY: the call gets no address, and a descriptor that `file` keeps open.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Elsewhere the sync does it all.
#[cfg(not(target_os = "linux"))]
pub(super) fn start(_: &File, _: u64, _: u64) {}

//! The lock of a file or a folder, which one open description at a time can have.
#![expect(clippy::disallowed_types, reason = "beneath the module the ban points to")]

use std::fs::{File, TryLockError};
use std::io;
use std::time::{Duration, Instant};

/// A file that is locked until this is dropped, or the process dies.
pub(super) struct Lock {
    file: File,
    /// The process that took it: one that was forked off has a copy, which it must not release.
    process: u32,
}

impl Lock {
    /// Locks a file, if it can be had in time.
    pub(super) fn take(file: File, patience: Duration) -> io::Result<Option<Self>> {
        // The system could wait for us, but not for a time and no longer.
        let (start, mut pause) = (Instant::now(), Duration::from_millis(1));
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(Self { file, process: std::process::id() })),
                Err(TryLockError::Error(e)) => return Err(e),
                Err(TryLockError::WouldBlock) => {}
            }
            let left = patience.saturating_sub(start.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            std::thread::sleep(pause.min(left));
            pause = (pause * 2).min(Duration::from_millis(32));
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for Lock {
    /// Closing our descriptor would not do: a child that is being started holds a copy of it
    /// between its fork and its exec, and with it the lock.
    fn drop(&mut self) {
        if self.process == std::process::id() {
            let _ = self.file.unlock();
        }
    }
}

//! Room that is kept for what frees room: deletes, small merges, a clean close.
//!
//! A file without meaning takes some blocks of the medium before the first write
//! through a handle. When the medium is full it is removed, and what was asked for
//! is tried once more. From then on nothing that adds rows is written until the
//! blocks are taken again, so that upserts cannot use up what deletes need.

use crate::error::{Error, Result};
use crate::sown::{Bug, sown};
use crate::vfs::Vfs;
use crate::vfs::disk::RESERVE_NAME;

/// Does `work` on something; where there is no room for it and `make_room`, which is told so,
/// makes some, once more. `work` leaves nothing behind where it fails.
pub(super) fn retry<S: ?Sized, T>(
    on: &mut S,
    mut work: impl FnMut(&mut S) -> Result<T>,
    make_room: impl FnOnce(&mut S, &Error) -> Result<bool>,
) -> Result<T> {
    match work(on) {
        Err(e) if e.is_full() && make_room(on, &e)? => work(on),
        done => done,
    }
}

/// The reserve of a handle that writes.
pub(super) struct Reserve {
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was asked for, or an earlier handle may have left it.
    Unknown,
    Held,
    Spent,
}

impl Reserve {
    /// `bytes` of 0 turn it off.
    pub(super) fn new(bytes: u64) -> Self {
        Self { bytes, state: State::Unknown }
    }

    /// Takes the reserve before the first write. Without room for it there is none:
    /// then the rest of the medium is for whatever comes first.
    pub(super) fn keep(&mut self, vfs: &dyn Vfs) {
        if self.state != State::Unknown {
            return;
        }
        if self.bytes == 0 {
            let _ = vfs.release(RESERVE_NAME);
            self.state = State::Held;
        } else if vfs.allocate(RESERVE_NAME, self.bytes).is_ok() {
            self.state = State::Held;
        }
    }

    /// Gives the blocks back; whether there were any.
    pub(super) fn spend(&mut self, vfs: &dyn Vfs) -> bool {
        let spent = self.state != State::Spent && matches!(vfs.release(RESERVE_NAME), Ok(true));
        if spent {
            self.state = State::Spent;
        }
        spent
    }

    /// Takes the blocks again if they were spent.
    ///
    /// # Errors
    /// [`crate::Error::Io`] where there is no room: then none is for new rows.
    pub(super) fn refill(&mut self, vfs: &dyn Vfs) -> Result<()> {
        if self.state == State::Spent && !sown(Bug::ReserveNotTakenAgain) {
            vfs.allocate(RESERVE_NAME, self.bytes)?;
            self.state = State::Held;
        }
        Ok(())
    }
}

//! Flushing in the background: commits go on while full runs become a segment.
//!
//! ```text
//!   with the lock     freeze: a new log; the manifest names it and the full one
//!   without           write the frozen runs as a segment
//!   with the lock     install it; the manifest names the new log alone
//! ```
//!
//! A stop anywhere between finds each commit in a segment or in a log. At most
//! one set of runs is frozen at a time: when the memtable is full again before
//! that, commits wait, so RAM in use stays below twice its size.

#[cfg(feature = "testing")]
use super::Collection;
use super::compact::{died_meanwhile, replaced};
use super::files::{NewSegment, Watch};
use super::writer::Writer;
use super::{Engine, Handle};
use crate::error::Result;
use crate::sown::{Bug, sown};
use crate::sync::thread::{self, JoinHandle};

impl Handle {
    /// Has the background write the runs that were just frozen.
    ///
    /// The thread before this one has let waiting commits go on, but may not have
    /// ended: forgotten, it would hold the folder's lock behind the last handle's
    /// back. It needs the writer's lock no more, so to wait for it here is safe.
    pub(super) fn flush_in_background(&self, writer: &mut Writer) {
        let mut thread = self.flush.lock();
        let last = thread.take().filter(|_| !sown(Bug::FlushThreadForgotten));
        drop(last.map(JoinHandle::join));
        let engine = self.engine.clone();
        let sown = crate::sown::inherit();
        writer.flushing = true;
        let work = move || {
            sown();
            let done = Done(&engine);
            let error = write_frozen(&engine, &|_| Ok(())).err().map(|e| e.to_string());
            engine.background_errors.lock().flush = error;
            drop(done);
            engine.wake();
        };
        let spawned = thread::Builder::new().name("matryo-flush".into()).spawn(work);
        // Without a thread the next commit that finds the memtable full does it.
        writer.flushing = spawned.is_ok();
        *thread = spawned.ok();
    }
}

#[cfg(feature = "testing")]
impl Collection {
    pub(crate) fn begin_flush(&self) -> Result<bool> {
        let mut writer = self.handle.idle_writer()?;
        if writer.is_frozen() {
            return Ok(false);
        }
        let frozen = writer.freeze(&*self.handle.vfs, &self.view())?;
        self.handle.publish(&mut writer, frozen);
        Ok(true)
    }

    pub(crate) fn finish_flush(&self, watch: &dyn Fn()) -> Result<()> {
        let watch = |_| {
            watch();
            Ok(())
        };
        write_frozen(&self.handle, &watch)
    }
}

/// Lets those go on that wait for the flush, however it ended.
struct Done<'a>(&'a Engine);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        if let Some(writer) = &self.0.writer {
            writer.lock().flushing = false;
        }
        if !sown(Bug::FlushWakesNobody) {
            self.0.flushed.notify_all();
        }
    }
}

/// Writes the frozen runs as a segment and installs it.
///
/// # Errors
/// Whatever kept the segment from being written: the runs stay frozen then, and
/// the next flush writes them.
pub(super) fn write_frozen(engine: &Engine, watch: &Watch) -> Result<()> {
    let vfs = &*engine.vfs;
    let ((group, logs), number) = {
        let mut writer = engine.lock_writer()?;
        let Some(frozen) = writer.frozen_runs() else { return Ok(()) };
        (frozen, writer.reserve_number(vfs)?)
    };
    let living = group.iter().any(|part| part.live_rows() > 0);
    let write = || NewSegment::write(vfs, number, &engine.schema, &group, &logs, watch);
    let written = living.then(write).transpose()?;
    // Now, while nobody waits for us.
    written.iter().for_each(|new| engine.residency.welcome(&[&new.segment]));
    let mut writer = engine.lock_writer()?;
    let view = engine.view();
    let mut died = died_meanwhile(&view, &group);
    if sown(Bug::FlushForgetsFrozenDead) {
        died.clear();
    }
    let written = written.filter(|new| died.len() < u64::from(new.entry.rows));
    let part = writer.install_frozen(vfs, &view, written, died)?;
    let view = replaced(&view, &group, part);
    let living = view.parts.iter().filter(|part| part.segment.is_none() || part.live_rows() > 0);
    let parts = living.cloned().collect();
    engine.publish(&mut writer, view.with(view.lsn, parts));
    Ok(())
}

//! Bulk loading: many rows at once, without the log.
//!
//! Rows go straight into segments, which nobody sees until [`Bulk::finish`]
//! installs them all with one manifest. Each byte is written once and synced
//! once; a crash before that leaves only stray files, which the next open removes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use roaring::RoaringBitmap;
use serde_json::Value;

use super::encode::RowEncoder;
use super::files::{Change, NewFiles, NewSegment};
use super::newest::{self, superseded};
use super::options::spill_at;
use super::writer::{Writer, check_room};
use super::{Collection, Engine};
use crate::codec::header::FileKind;
use crate::error::{Error, Result};
use crate::manifest::{SegmentEntry, TombstonesEntry};
use crate::memtable::RunBuilder;
use crate::rows::Rows;
use crate::segment::reader::Segment;
use crate::sown::{Bug, sown};
use crate::sync::MutexGuard;
use crate::sync::thread::{self, JoinHandle};
use crate::types::{FileNumber, RowId};
use crate::view::{Part, View};

/// How often older rows are looked at without the writer's lock, while merges bring new parts.
const LOOKS: usize = 4;

/// Rows being loaded in bulk; made by [`Collection::bulk`]. Nothing is visible
/// or lasting until [`Bulk::finish`]; dropping it forgets all rows.
///
/// Of several rows with one id the last one counts, and it replaces the row that
/// the collection may hold already.
#[must_use = "rows loaded in bulk are forgotten unless `finish` is called"]
pub struct Bulk {
    collection: Collection,
    encoder: RowEncoder,
    run: RunBuilder,
    run_bytes: usize,
    /// Those of the runs before.
    spilled: usize,
    written: Vec<(SegmentEntry, Arc<Segment>)>,
    /// Names of all files that were written for the load.
    files: Vec<String>,
    /// Dead rows of parts, and the files that have them already.
    tombstones: Vec<(Arc<Part>, TombstonesEntry)>,
    /// The thread that writes the rows gathered before those at hand.
    writing: Option<JoinHandle<Written>>,
    /// Why rows were lost, if a segment could not be written: the first cause.
    failed: Option<String>,
    rows: u64,
}

impl fmt::Debug for Bulk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bulk").field("rows", &self.rows).finish_non_exhaustive()
    }
}

type Written = Result<(SegmentEntry, Segment)>;

impl Collection {
    /// Begins loading rows in bulk: the fast way to fill a collection, all or
    /// nothing, durable when [`Bulk::finish`] returns. RAM in use is about twice
    /// [`Options::memtable_bytes`](crate::Options::memtable_bytes), whatever the
    /// number of rows. The load holds a clone of the handle.
    ///
    /// # Errors
    /// [`Error::ReadOnly`](crate::Error::ReadOnly) for a handle that only reads,
    /// [`Error::Poisoned`](crate::Error::Poisoned) after a write that failed,
    /// [`Error::Forked`](crate::Error::Forked).
    pub fn bulk(&self) -> Result<Bulk> {
        drop(self.handle.lock_writer()?);
        let run = RunBuilder::new(&self.handle.schema);
        let encoder = RowEncoder::default();
        Ok(Bulk {
            collection: self.clone(),
            encoder,
            run,
            run_bytes: 0,
            spilled: 0,
            written: Vec::new(),
            files: Vec::new(),
            tombstones: Vec::new(),
            writing: None,
            failed: None,
            rows: 0,
        })
    }
}

impl Bulk {
    /// Adds a row; see [`Batch::upsert`](crate::Batch::upsert).
    ///
    /// # Errors
    /// As [`Batch::upsert`](crate::Batch::upsert); the rows added before stay.
    /// [`Error::Io`](crate::Error::Io) if a segment could not be written, this time
    /// or the last; the load cannot be finished then, and [`Self::finish`] says why.
    pub fn upsert(
        &mut self,
        id: impl Into<RowId>,
        vector: &[f32],
        payload: impl Into<Value>,
    ) -> Result<()> {
        let id = id.into();
        let schema = self.collection.schema();
        self.encoder.check(schema, &id, vector, payload.into())?;
        let RowEncoder { payload, wide, .. } = &mut self.encoder;
        let put = |out: &mut Vec<u8>| RowEncoder::put_vector(wide, schema, vector, out);
        self.run.put(&id, put, payload)?;
        let codes: usize = schema.stages().iter().map(|code| code.bytes_per_row()).sum();
        self.run_bytes += schema.vector_bytes() + payload.len() + codes + 64;
        self.rows += 1;
        let memory = self.collection.handle.options.memtable_bytes;
        if self.run_bytes >= spill_at(memory, self.spilled) {
            self.spill()?;
        }
        Ok(())
    }

    /// Rows added so far.
    pub fn len(&self) -> u64 {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Makes all rows durable and visible, at once. Commits go on meanwhile, and count as
    /// earlier ones; they wait only while they are flushed, what they changed is looked at, and
    /// the load is installed.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if a file could not be written,
    /// [`Error::Corrupt`](crate::Error::Corrupt) if ids of older rows cannot be read. This
    /// handle shows nothing of the load then. Where it was the manifest that could not be
    /// installed, nobody knows which one is on disk: the handle refuses further writes
    /// ([`Error::Poisoned`](crate::Error::Poisoned)), and the next open finds all of the load
    /// or nothing of it.
    pub fn finish(mut self) -> Result<()> {
        if let Some(cause) = &self.failed {
            let why = format!("rows were lost when a segment could not be written: {cause}");
            return Err(Error::invalid("bulk load", why));
        }
        self.spill()?;
        self.settle()?;
        if self.written.is_empty() {
            return Ok(());
        }
        let handle = self.collection.handle.clone();
        let engine = &handle.engine;
        let mut replaced = Replaced::by(self.loaded()?);
        // Now, while nobody waits for us.
        let segments: Vec<_> = replaced.new.iter().map(|part| &*part.rows).collect();
        engine.residency.welcome(&segments);
        if engine.view().parts.iter().any(|part| part.segment.is_none()) {
            drop(flushed(engine)?);
        }
        // A long look may miss what was merged meanwhile; a short one behind it will not.
        for _ in 0..LOOKS {
            if !replaced.look_up(&engine.view())? {
                break;
            }
        }
        self.write_tombstones(&replaced)?;
        let mut writer = flushed(engine)?;
        self.install(&mut writer, replaced)?;
        drop(writer);
        engine.wake();
        Ok(())
    }

    /// What was loaded, as parts in which of rows with one id the last one lives.
    fn loaded(&self) -> Result<Vec<Arc<Part>>> {
        let part = |(entry, segment): &(SegmentEntry, Arc<Segment>)| {
            let rows: Arc<dyn Rows> = segment.clone();
            Arc::new(Part::new(rows, Arc::default(), Some(entry.number)))
        };
        let parts: Vec<_> = self.written.iter().map(part).collect();
        if sown(Bug::BulkForgetsDead) {
            return Ok(parts);
        }
        let dead = superseded(&parts)?;
        Ok(parts.iter().zip(dead).map(|(part, dead)| Arc::new(part.with_dead(dead))).collect())
    }

    /// Writes the dead rows that the load leaves, as far as they are known now.
    fn write_tombstones(&mut self, replaced: &Replaced) -> Result<()> {
        let engine: &Engine = &self.collection.handle;
        let (vfs, view) = (&*engine.vfs, engine.view());
        let is_new = |part: &Part| {
            let old = view.parts.iter().find(|old| Arc::ptr_eq(&old.rows, &part.rows));
            part.dead.len() > old.map_or(0, |old| old.dead.len())
        };
        let mut parts = replaced.parts(&view);
        parts.retain(|part| part.segment.is_some() && part.live_rows() > 0 && is_new(part));
        let reserve = |part: Arc<Part>| Ok((part, engine.lock_writer()?.reserve_number(vfs)?));
        let mut files = NewFiles::new(vfs);
        for (part, number) in parts.into_iter().map(reserve).collect::<Result<Vec<_>>>()? {
            let written = files.tombstones(number, &part.dead)?;
            self.tombstones.push((part, written));
        }
        self.files.extend(files.release());
        Ok(())
    }

    /// Installs the manifest that names what was loaded, and shows it.
    fn install(&mut self, writer: &mut Writer, mut replaced: Replaced) -> Result<()> {
        let engine = Arc::clone(&self.collection.handle.engine);
        let (vfs, view) = (&*engine.vfs, engine.view());
        check_room(&view, u32::try_from(self.rows).unwrap_or(u32::MAX))?;
        replaced.look_up(&view)?;
        let parts = replaced.parts(&view);
        writer.change(vfs, |change| {
            if !sown(Bug::BulkTakesNoLsn) {
                change.next.lsn = view.lsn.next();
            }
            // Not all may be needed: all rows of a segment may have come again later, and dead
            // rows have become more.
            change.adopt(NewFiles::written(vfs, std::mem::take(&mut self.files)));
            self.enter(change, &parts)
        })?;
        let living = parts.into_iter().filter(|part| part.live_rows() > 0).collect();
        engine.publish(writer, view.with(view.lsn.next(), living));
        Ok(())
    }

    /// Writes the rows gathered so far as a segment, in the background if there is
    /// one: then the next rows are gathered meanwhile.
    fn spill(&mut self) -> Result<()> {
        self.settle()?;
        if self.run.len() == 0 {
            return Ok(());
        }
        let begun = self.write_run();
        self.note(begun)
    }

    /// Keeps why rows are lost.
    fn note<T>(&mut self, written: Result<T>) -> Result<T> {
        written.inspect_err(|e| {
            self.failed.get_or_insert_with(|| e.to_string());
        })
    }

    fn write_run(&mut self) -> Result<()> {
        let engine = Arc::clone(&self.collection.handle.engine);
        let number = {
            let mut writer = engine.lock_writer()?;
            // Rows that were only loaded are deleted on a full disk, too.
            writer.reserve.keep(&*engine.vfs);
            writer.reserve_number(&*engine.vfs)?
        };
        let run = std::mem::replace(&mut self.run, RunBuilder::new(&engine.schema)).finish();
        self.spilled += std::mem::take(&mut self.run_bytes);
        let part = Arc::new(Part::new(Arc::new(run), Arc::default(), None));
        let again = superseded(std::slice::from_ref(&part))?.into_iter().next();
        let part = Arc::new(part.with_dead(again.unwrap_or_default()));
        let background = engine.options.background;
        let write = move || {
            let (vfs, schema) = (&*engine.vfs, &engine.schema);
            let written = NewSegment::write(vfs, number, schema, &[part], &[], &|_| Ok(()));
            written.map(NewSegment::release)
        };
        let spawn = || thread::Builder::new().name("matryo-bulk".into()).spawn(write.clone()).ok();
        self.writing = background.then(spawn).flatten();
        // Where there is no thread to be had, the next rows wait.
        if self.writing.is_none() { self.keep(write()) } else { Ok(()) }
    }

    /// Waits for the segment that is being written.
    fn settle(&mut self) -> Result<()> {
        match self.writing.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(written)) => self.keep(written),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    fn keep(&mut self, written: Written) -> Result<()> {
        let (entry, segment) = self.note(written)?;
        self.files.push(FileKind::Segment.name(entry.number));
        self.written.push((entry, Arc::new(segment)));
        Ok(())
    }

    /// Enters the parts into the manifest, and writes the tombstones they need.
    fn enter(&self, change: &mut Change, parts: &[Arc<Part>]) -> Result<()> {
        let entries = std::mem::take(&mut change.next.segments);
        let mut all: HashMap<FileNumber, SegmentEntry> = entries
            .into_iter()
            .chain(self.written.iter().map(|(entry, _)| entry.clone()))
            .map(|entry| (entry.number, entry))
            .collect();
        for part in parts.iter().filter(|part| part.live_rows() > 0) {
            let number = part.segment.expect("all rows were flushed");
            let mut entry = all.remove(&number).expect("entered, or written by this load");
            let known = self.tombstones.iter().find(|(known, _)| known.segment == part.segment);
            if let Some((_, written)) = known.filter(|(known, _)| known.dead == part.dead) {
                entry.tombstones = Some(*written);
            }
            change.enter(entry, &part.dead)?;
        }
        Ok(())
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        // The files are the parent's, and so is the thread.
        if self.collection.handle.is_forked() {
            std::mem::forget(self.writing.take());
            return;
        }
        if let Some(Ok(written)) = self.writing.take().map(JoinHandle::join) {
            let _ = self.keep(written);
        }
        if sown(Bug::BulkLeavesFiles) {
            return;
        }
        drop(NewFiles::written(&*self.collection.handle.vfs, std::mem::take(&mut self.files)));
    }
}

/// The writer, once all commits so far are in segments: logs hold what comes before a load.
fn flushed(engine: &Engine) -> Result<MutexGuard<'_, Writer>> {
    let mut writer = engine.idle_writer()?;
    let view = writer.flush(&*engine.vfs, &engine.view())?;
    engine.publish(&mut writer, view);
    Ok(writer)
}

/// Rows of older parts that a load replaces, as far as they were looked up.
struct Replaced {
    /// The load.
    new: Vec<Arc<Part>>,
    known: Vec<(Arc<Part>, RoaringBitmap)>,
}

impl Replaced {
    fn by(new: Vec<Arc<Part>>) -> Self {
        Self { new, known: Vec::new() }
    }

    fn of(&self, part: &Part) -> Option<&RoaringBitmap> {
        let known = self.known.iter().find(|(known, _)| Arc::ptr_eq(&known.rows, &part.rows));
        known.map(|(_, dead)| dead)
    }

    /// Looks at those parts of a view that were in none before; whether there were any.
    fn look_up(&mut self, view: &View) -> Result<bool> {
        let unknown = view.parts.iter().filter(|part| self.of(part).is_none());
        let unknown: Vec<_> = unknown.cloned().collect();
        let mut dead = newest::replaced(&unknown, &self.new)?;
        if sown(Bug::BulkForgetsDead) {
            dead.iter_mut().for_each(RoaringBitmap::clear);
        }
        let any = !unknown.is_empty();
        self.known.extend(unknown.into_iter().zip(dead));
        Ok(any)
    }

    /// All parts of the next view, those of the load last.
    fn parts(&self, view: &View) -> Vec<Arc<Part>> {
        let old = view.parts.iter().map(|part| match self.of(part) {
            Some(dead) if !dead.is_subset(&part.dead) => {
                Arc::new(part.with_dead(&*part.dead | dead))
            }
            _ => part.clone(),
        });
        old.chain(self.new.iter().cloned()).collect()
    }
}

//! New files, and the manifest that will name them.
//!
//! ```text
//!   take a number, note the name, write the file and make its bytes durable
//!   enter it in the next manifest
//!   make the names durable
//!   replace the manifest: from here on the files may be needed
//! ```
//!
//! Until then nobody needs them. Who gives up, because something failed or the rows have died
//! meanwhile, drops what he has, and the files are removed: on a full disk they must not stay
//! in the way. What a crash leaves of them the next open removes, as strays.

use std::collections::HashSet;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::codec::crc32;
use crate::codec::header::{FileHeader, FileKind, Owner};
use crate::error::Result;
use crate::manifest::{self, LogEntry, Manifest, SegmentEntry, StagedManifest, TombstonesEntry};
use crate::schema::Schema;
use crate::segment::{reader::Segment, writer as segment_writer};
use crate::sown::{Bug, sown};
use crate::types::FileNumber;
use crate::vfs::{Vfs, WriteFile, sync_file};
use crate::view::{Part, View};
use crate::wal::writer::LogWriter;

/// Is told of the first row that is written and of every thousandth; its error ends the writing.
pub(super) type Watch<'w> = dyn Fn(u64) -> Result<()> + 'w;

/// Files that no manifest names yet. Dropping it removes them, unless this process was forked
/// off meanwhile: they are the parent's.
pub(super) struct NewFiles<'v> {
    vfs: &'v dyn Vfs,
    process: u32,
    names: Vec<String>,
    /// Whether all the names are durable.
    synced: bool,
}

impl<'v> NewFiles<'v> {
    pub(super) fn new(vfs: &'v dyn Vfs) -> Self {
        Self { vfs, process: vfs.process(), names: Vec::new(), synced: true }
    }

    /// Those with these names, which were written before; whether their names are durable is not
    /// known.
    pub(super) fn written(vfs: &'v dyn Vfs, names: Vec<String>) -> Self {
        let synced = names.is_empty();
        Self { vfs, process: vfs.process(), names, synced }
    }

    /// Adds a file before it is created, so that one that could not be written is known.
    pub(super) fn add(&mut self, name: String) {
        self.names.push(name);
        self.synced = false;
    }

    pub(super) fn create(&mut self, name: String) -> Result<Box<dyn WriteFile>> {
        let file = self.vfs.create(&name);
        self.add(name);
        file
    }

    /// Takes over the files of another.
    pub(super) fn adopt(&mut self, mut other: NewFiles) {
        self.synced &= other.synced;
        self.names.append(&mut other.names);
    }

    /// Writes the living rows of parts, at least one, as a segment, durably. It may keep some of
    /// `logs`: nothing is written to these any more, and they are durable before a manifest names
    /// the segment.
    fn segment(
        &mut self,
        (number, owner): (FileNumber, Owner),
        schema: &Schema,
        parts: &[Arc<Part>],
        logs: &[LogEntry],
        watch: &Watch,
    ) -> Result<SegmentEntry> {
        self.add(FileKind::Segment.name(number));
        let mut rows = Vec::with_capacity(parts.iter().map(|part| part.live_rows() as usize).sum());
        for part in parts {
            part.rows.distrust();
            part.rows.compare_columns()?;
            rows.extend(part.living().map(|row| (&*part.rows, row)));
        }
        segment_writer::write(self.vfs, owner, schema, number, &rows, logs, watch)
    }

    /// Writes a bitmap of dead rows, durably.
    pub(super) fn tombstones(
        &mut self,
        (number, owner): (FileNumber, Owner),
        dead: &RoaringBitmap,
    ) -> Result<TombstonesEntry> {
        let mut body = Vec::with_capacity(dead.serialized_size());
        dead.serialize_into(&mut body).expect("writing to a Vec does not fail");
        let header = FileHeader::new(FileKind::Tombstones, number, owner).over(&body);
        let mut file = self.create(FileKind::Tombstones.name(number))?;
        file.write(&header.encode())?;
        file.write(&body)?;
        sync_file(&mut *file)?;
        Ok(TombstonesEntry { number, dead: dead.len() as u32, crc: crc32(&body) })
    }

    /// Makes the names durable, so that a manifest can name the files.
    pub(super) fn sync_names(&mut self) -> Result<()> {
        if !self.synced {
            self.vfs.sync_dir()?;
        }
        self.synced = true;
        Ok(())
    }

    /// The names; what becomes of the files is somebody else's business now.
    pub(super) fn release(&mut self) -> Vec<String> {
        std::mem::take(&mut self.names)
    }
}

impl Drop for NewFiles<'_> {
    fn drop(&mut self) {
        if self.vfs.process() == self.process {
            remove(self.vfs, &self.names);
        }
    }
}

/// Removes files that nobody needs. What cannot be removed is a stray, which the next open removes.
fn remove(vfs: &dyn Vfs, names: &[String]) {
    names.iter().for_each(|name| drop(vfs.remove(name)));
}

/// Removes those of these files that a manifest, which is installed, does not name.
pub(super) fn remove_unnamed(vfs: &dyn Vfs, mut names: Vec<String>, installed: &Manifest) {
    let needed: HashSet<String> = installed.files().into_iter().collect();
    names.retain(|name| !needed.contains(name));
    remove(vfs, &names);
}

/// A segment that is durable and open, written without the writer's lock, that no manifest names
/// yet. Dropping it removes the file.
pub(super) struct NewSegment<'v> {
    file: NewFiles<'v>,
    pub(super) entry: SegmentEntry,
    pub(super) segment: Segment,
}

impl<'v> NewSegment<'v> {
    /// Writes the living rows of parts: see [`NewFiles::segment`].
    pub(super) fn write(
        vfs: &'v dyn Vfs,
        (number, owner): (FileNumber, Owner),
        schema: &Schema,
        parts: &[Arc<Part>],
        logs: &[LogEntry],
        watch: &Watch,
    ) -> Result<Self> {
        let mut file = NewFiles::new(vfs);
        let entry = file.segment((number, owner), schema, parts, logs, watch)?;
        file.sync_names()?;
        let segment = Segment::open(vfs, &owner.collection, schema, &entry)?;
        Ok(Self { file, entry, segment })
    }

    /// What the manifest will say of it, and its rows; the file stays.
    pub(super) fn release(mut self) -> (SegmentEntry, Segment) {
        self.file.release();
        (self.entry, self.segment)
    }
}

/// The next manifest, and the files that were made for it. Dropping it removes these.
pub(super) struct Change<'v> {
    files: NewFiles<'v>,
    pub(super) next: Manifest,
}

impl<'v> Change<'v> {
    /// A change of the manifest that is installed, which was vouched for
    /// ([`Writer::vouch`](super::writer::Writer::vouch)) where files will be made.
    pub(super) fn of(vfs: &'v dyn Vfs, installed: Manifest) -> Self {
        Self { files: NewFiles::new(vfs), next: installed }
    }

    /// What will be a collection in a folder without one. Of what could not be finished the
    /// manifest, if it was installed, is removed first: should the rest stay, it does not open.
    pub(super) fn from_nothing(vfs: &'v dyn Vfs, next: Manifest) -> Self {
        let mut change = Self::of(vfs, next);
        change.files.add(manifest::NAME.to_owned());
        change
    }

    /// A number for a new file, and what its header records.
    fn take_number(&mut self) -> (FileNumber, Owner) {
        (self.next.take_number(), self.next.owner())
    }

    /// Creates a file that was or will be entered.
    pub(super) fn create(&mut self, name: String) -> Result<Box<dyn WriteFile>> {
        self.files.create(name)
    }

    /// Takes over files that were or will be entered.
    pub(super) fn adopt(&mut self, files: NewFiles) {
        self.files.adopt(files);
    }

    /// Creates a log. It is entered when all is in it that is to be there at once.
    pub(super) fn log(&mut self) -> Result<LogWriter> {
        let (number, owner) = self.take_number();
        self.files.add(FileKind::Wal.name(number));
        LogWriter::create(self.files.vfs, number, owner)
    }

    /// Writes the living rows of parts as a segment, and enters it: see [`NewFiles::segment`].
    pub(super) fn segment(
        &mut self,
        parts: &[Arc<Part>],
        logs: &[LogEntry],
        watch: &Watch,
    ) -> Result<SegmentEntry> {
        let number = self.take_number();
        let entry = self.files.segment(number, &self.next.schema, parts, logs, watch)?;
        self.next.segments.push(entry.clone());
        Ok(entry)
    }

    /// Enters a segment whose dead rows are these, which are written where they have become more.
    pub(super) fn enter(&mut self, mut entry: SegmentEntry, dead: &RoaringBitmap) -> Result<()> {
        if entry.tombstones.map_or(0, |known| u64::from(known.dead)) != dead.len() {
            let number = self.take_number();
            entry.tombstones = Some(self.files.tombstones(number, dead)?);
        }
        self.next.segments.push(entry);
        Ok(())
    }

    /// Takes over and enters a segment, of whose rows some have died since it was written. The
    /// part that it is from now on.
    pub(super) fn enter_new(&mut self, new: NewSegment, died: RoaringBitmap) -> Result<Arc<Part>> {
        let NewSegment { file, entry, segment } = new;
        let number = entry.number;
        self.adopt(file);
        self.enter(entry, &died)?;
        Ok(Arc::new(Part::new(Arc::new(segment), Arc::new(died), Some(number))))
    }

    /// Writes the runs of `view` as one segment, which may keep some of `logs`, and the dead rows
    /// of older segments where they have become more. All parts as they are then.
    pub(super) fn flush(&mut self, view: &View, logs: &[LogEntry]) -> Result<Vec<Arc<Part>>> {
        let mut parts = self.flush_dead(view)?;
        let runs = view.parts.iter().filter(|part| part.segment.is_none());
        let runs: Vec<_> = runs.filter(|part| part.live_rows() > 0).cloned().collect();
        if !runs.is_empty() {
            let entry = self.segment(&runs, logs, &|_| Ok(()))?;
            parts.push(self.part(&entry)?);
        }
        Ok(parts)
    }

    /// Opens a segment that was written for this, without dead rows.
    pub(super) fn part(&self, entry: &SegmentEntry) -> Result<Arc<Part>> {
        let Manifest { collection, schema, .. } = &self.next;
        let segment = Segment::open(self.files.vfs, collection, schema, entry)?;
        Ok(Arc::new(Part::new(Arc::new(segment), Arc::default(), Some(entry.number))))
    }

    /// Writes the dead rows of segments that have lost some since they were entered, drops those
    /// that have lost all, and returns the parts that remain.
    pub(super) fn flush_dead(&mut self, view: &View) -> Result<Vec<Arc<Part>>> {
        let mut kept = Vec::new();
        for entry in std::mem::take(&mut self.next.segments) {
            let part = view.parts.iter().find(|p| p.segment == Some(entry.number));
            let part = part.expect("a view has all segments of its manifest");
            if part.live_rows() == 0 {
                continue;
            }
            kept.push(part.clone());
            if sown(Bug::FlushForgetsDead) {
                self.next.segments.push(entry);
            } else {
                self.enter(entry, &part.dead)?;
            }
        }
        Ok(kept)
    }

    /// Makes the names of the files durable.
    pub(super) fn sync_names(&mut self) -> Result<()> {
        self.files.sync_names()
    }

    /// All that comes before the manifest is replaced; and the names of the files, which nobody
    /// removes from here on: once that is tried, the new manifest may be the one on disk.
    pub(super) fn stage(mut self) -> Result<(StagedManifest, Vec<String>)> {
        self.sync_names()?;
        let staged = self.next.stage(self.files.vfs)?;
        Ok((staged, self.files.release()))
    }

    /// Installs what was begun by [`Self::from_nothing`].
    pub(super) fn finish(mut self) -> Result<()> {
        self.sync_names()?;
        self.next.install(self.files.vfs)?;
        self.files.release();
        Ok(())
    }
}

//! A copy of a collection that others go on using.
//!
//! What is copied is a view: its segments as they lie on disk, byte by byte and
//! each compared with its checksum on the way; the rows that are only in the log,
//! as a segment; what is dead, as tombstones. The manifest comes last. Until it
//! is there the copy does not open, so whatever interrupts a backup, nothing that
//! looks complete is left.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::files::Change;
use super::verify::Sealed;
use super::{Collection, Progress, open};
use crate::codec::header::{FileKind, check_writable};
use crate::error::{Error, Result};
use crate::manifest::{self, GraphEntry, Manifest, SegmentEntry};
use crate::segment::salvage::own_entry;
use crate::types::FileNumber;
use crate::vfs::disk::Disk;
use crate::vfs::map::Bytes;
use crate::vfs::{ReadFile, Vfs};
use crate::view::{Part, View};

/// What [`Collection::backup_to`] or [`Collection::copy_to`] wrote.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Rows of the copy.
    pub rows: u64,
    /// Rows that were left out: see [`CopyOptions::skip_unfit`](crate::CopyOptions::skip_unfit).
    pub skipped: u64,
    /// Graphs that were left out because they are damaged, cannot be read, or are of a newer version: searches of the copy scan instead,
    /// and [`Collection::build_graphs`] makes new ones.
    pub graphs_left_out: usize,
    /// Its files.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Collection {
    /// Copies the collection as it is now into a new folder (or an empty one),
    /// while commits, searches and merges go on. The copy is a collection like
    /// any other. Every byte is compared with its checksum before it is written,
    /// and the copy does not open before it is complete and durable. A graph that is
    /// damaged, or cannot be read, is left out.
    ///
    /// Works with a collection that is open for reading only, too.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if something is there, [`Error::NotFound`] if the folder around it
    /// is missing; [`Error::Corrupt`] if what
    /// should be copied is damaged; [`Error::Io`]. What was written is removed then, and
    /// the folder if it was made for it; one that was there keeps an empty file `LOCK`.
    pub fn backup_to(&self, path: impl AsRef<Path>) -> Result<Copied> {
        self.backup_with(path, |_| true)
    }

    /// As [`Self::backup_to`], telling how far it is, in bytes. When `progress`
    /// returns false the backup ends early, with an error, and leaves what an error leaves.
    ///
    /// # Errors
    /// As [`Self::backup_to`]; [`Error::Cancelled`] if `progress` ended it.
    pub fn backup_with(
        &self,
        path: impl AsRef<Path>,
        progress: impl Fn(Progress) -> bool,
    ) -> Result<Copied> {
        let write = |to: &Disk| self.back_up(to, &progress);
        open::in_folder_of_a_copy(path.as_ref(), &self.handle.options, write)
    }

    /// Backs up into a folder without a collection.
    pub(crate) fn back_up(
        &self,
        to: &dyn Vfs,
        progress: &dyn Fn(Progress) -> bool,
    ) -> Result<Copied> {
        let _lock = claim(to)?;
        // In this order: the manifest is then not older than the view, and all
        // file numbers of the view are spent in it.
        let view = self.view();
        let installed = manifest::load_installed(&*self.handle.vfs)?;
        // What a newer version alone may write cannot be copied by this one.
        check_writable(installed.read_only, &self.handle.vfs.path(manifest::NAME))?;
        let mut next = Manifest { segments: Vec::new(), logs: Vec::new(), ..installed };
        next.lsn = view.lsn;
        // Beside a reader's handle the folder may have been shortened, or embedded again.
        next.schema = (*view.schema).clone();
        next.calibration = view.calibration.as_deref().cloned();
        let mut change = Change::from_nothing(to, next);
        let backup = Backup { from: &*self.handle.vfs, to, progress, total: mapped_bytes(&view) };
        backup.write(&view, &mut change)?;
        let had = view.parts.iter().filter(|part| part.live_rows() > 0 && part.graph.is_some());
        let graphs_left_out = had.count().saturating_sub(change.next.graphs.len());
        let copied = Copied { rows: view.live_rows(), graphs_left_out, ..Copied::default() };
        let copied = copied.measured(to, &change)?;
        change.finish()?;
        Ok(copied)
    }
}

impl Copied {
    /// Adds files and bytes, of the files that are written and the manifest that will be: where
    /// they cannot be looked at, nothing is installed yet.
    pub(super) fn measured(mut self, to: &dyn Vfs, change: &Change) -> Result<Self> {
        (self.files, self.bytes) = change.next.measure(to)?;
        Ok(self)
    }
}

/// Locks a folder that no collection is in.
pub(super) fn claim(to: &dyn Vfs) -> Result<Box<dyn Send + Sync>> {
    let lock = to.lock(Duration::ZERO)?;
    if to.list()?.iter().any(|name| name == manifest::NAME || FileKind::parse(name).is_some()) {
        return Err(Error::AlreadyExists { path: to.path("") });
    }
    Ok(lock)
}

fn mapped_bytes(view: &View) -> u64 {
    let living = view.parts.iter().filter(|part| part.live_rows() > 0);
    let files = living.filter_map(|part| part.rows.mapped());
    let files = files.flat_map(|mapped| [mapped.file].into_iter().chain(mapped.logs));
    files.map(|bytes| bytes.len() as u64).sum()
}

struct Backup<'a> {
    from: &'a dyn Vfs,
    to: &'a dyn Vfs,
    progress: &'a dyn Fn(Progress) -> bool,
    total: u64,
}

impl Backup<'_> {
    /// Writes the files, and enters them.
    fn write(&self, view: &View, change: &mut Change) -> Result<()> {
        let mut done = 0;
        let graphs = std::mem::take(&mut change.next.graphs);
        let living = || view.parts.iter().filter(|part| part.live_rows() > 0);
        for part in living() {
            let (Some(number), Some(mapped)) = (part.segment, part.rows.mapped()) else { continue };
            let entry = own_entry(number, &self.path(number), mapped.file)
                .ok_or_else(|| Error::corrupt(self.path(number), 0, "its footer is damaged"))?;
            let maps = [mapped.file].into_iter().chain(mapped.logs);
            for (file, map) in Sealed::of_segment(&entry).iter().zip(maps) {
                self.copy(change, file, map, &mut done)?;
            }
            change.enter(entry.clone(), &part.dead)?;
            self.copy_graph(change, &entry, &graphs)?;
        }
        let runs: Vec<Arc<Part>> = living().filter(|p| p.segment.is_none()).cloned().collect();
        if !runs.is_empty() {
            change.segment(&runs, &[], &|_| self.tell(done))?;
        }
        Ok(())
    }

    /// Copies a file; where it was removed meanwhile, from the map that the view holds.
    fn copy(&self, change: &mut Change, file: &Sealed, map: &Bytes, done: &mut u64) -> Result<()> {
        let name = file.name();
        let unlinked = || Arc::new(Unlinked { path: self.from.path(&name), map: map.clone() });
        let from = self.from.open(&name)?.unwrap_or_else(|| unlinked() as Arc<dyn ReadFile>);
        let check = file.check(from, &change.next.collection, &change.next.schema)?;
        let mut out = change.create(name)?;
        let mut buffer = Vec::new();
        for span in check.spans() {
            let bytes = check.read(span, &mut buffer)?;
            out.write(bytes)?;
            *done += bytes.len() as u64;
            self.tell(*done)?;
        }
        out.sync()
    }

    /// Copies the graph of a segment, if it has one, it is intact and still there: one that was
    /// dropped meanwhile is not missed, and one that cannot be read can be built again.
    fn copy_graph(
        &self,
        change: &mut Change,
        segment: &SegmentEntry,
        graphs: &[GraphEntry],
    ) -> Result<()> {
        let Some(entry) = graphs.iter().find(|graph| graph.segment == segment.number) else {
            return Ok(());
        };
        let graph = Sealed::Graph(*entry, segment.rows);
        let name = graph.name();
        let Some(Some(file)) = readable(self.from.open(&name))? else { return Ok(()) };
        let check = graph.check(file, &change.next.collection, &change.next.schema);
        let Some(check) = readable(check)? else { return Ok(()) };
        let mut out = change.create(name.clone())?;
        let mut buffer = Vec::new();
        for span in check.spans() {
            let Some(bytes) = readable(check.read(span, &mut buffer))? else {
                return self.to.remove(&name);
            };
            out.write(bytes)?;
        }
        change.next.graphs.push(*entry);
        out.sync()
    }

    fn tell(&self, done: u64) -> Result<()> {
        Error::unless((self.progress)(Progress { done, total: self.total }), "backup")
    }

    fn path(&self, number: FileNumber) -> PathBuf {
        self.from.path(&FileKind::Segment.name(number))
    }
}

/// What was read of a graph; `None` if the file is to blame that it cannot be: damaged, of
/// a newer version, or on a bad place of the medium.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(e) if !e.is_exhaustion() => Ok(None),
        read => read.map(Some),
    }
}

/// A file without a name.
struct Unlinked {
    path: PathBuf,
    map: Bytes,
}

impl ReadFile for Unlinked {
    fn path(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> u64 {
        self.map.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = start.checked_add(buf.len()).and_then(|end| self.map.get(start..end));
        let short = || Error::corrupt(&self.path, offset, "file became shorter while it was open");
        let bytes = bytes.ok_or_else(short)?;
        self.map.will_need(start, bytes.len());
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn map(&self) -> Result<Bytes> {
        Ok(self.map.clone())
    }
}

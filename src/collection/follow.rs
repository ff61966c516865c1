//! A handle that only reads follows a writer in another process.
//!
//! It takes no lock and leaves no trace. What it reads is either never changed
//! (segments, tombstones, frames of a log) or replaced whole (the manifest), so
//! all that can happen is that a file is gone, which the manifest named when it
//! was read and a newer one names no more. Then the newer one is read:
//!
//! ```text
//!   read the manifest
//!   open what it names and is not open yet, read the log from where it was left
//!   if that fails and the manifest is another one by now: begin anew
//! ```
//!
//! Segments that were opened are kept for the next attempt, so every attempt has
//! less to do than the one before.
//!
//! A frame counts when it is complete. Its commit may not be durable yet, and if
//! the disk is full it is taken back: the log becomes shorter, and whoever read
//! further begins it anew. The writer puts nothing else in its place
//! ([`LogWriter::roll_back`](crate::wal::writer::LogWriter::roll_back)).

use std::sync::Arc;

use super::load::{Opened, apply_commits, read_commits, read_log, strays};
use super::{Collection, Engine};
use crate::codec::header::{FileHeader, FileKind};
use crate::error::{Error, Result};
use crate::manifest::{self, LogEntry, MAX_LOG, Manifest};
use crate::sown::{Bug, sown};
use crate::vfs::{self, Vfs};
use crate::view::View;
use crate::wal::reader::{Read, following};

/// How often something must be found damaged under the same manifest to be so: a
/// log may be cut back while it is read.
const ATTEMPTS: u32 = 3;

/// What a handle that only reads knows of the folder.
#[derive(Clone)]
pub(super) struct Follower {
    manifest: Manifest,
    files: Opened,
    /// How far the last log is read; nothing where there is none.
    read: Option<Read>,
    pub(super) view: Arc<View>,
}

impl Follower {
    /// Reads the collection as it is now.
    pub(super) fn open(vfs: &dyn Vfs) -> Result<Self> {
        let mut opened = Opened::default();
        settled(vfs, |manifest| {
            strays(vfs, manifest)?;
            Self::load(vfs, manifest, &mut opened)
        })
    }

    /// The collection as it is now; `None` if it is as it was.
    pub(super) fn refresh(&self, vfs: &dyn Vfs) -> Result<Option<Self>> {
        let mut opened = self.files.clone();
        settled(vfs, |manifest| {
            self.check_successor(vfs, manifest)?;
            let next = match self.go_on(vfs, manifest)? {
                Some(next) => next,
                None => Self::load(vfs, manifest, &mut opened)?,
            };
            let is_new = (&next.manifest, next.read) != (&self.manifest, self.read);
            Ok(is_new.then_some(next))
        })
    }

    /// Opens what `manifest` names, but for what is in `opened` already.
    fn load(vfs: &dyn Vfs, manifest: &Manifest, opened: &mut Opened) -> Result<Self> {
        let view = opened.view(vfs, manifest)?;
        let damage = view.parts.iter().find_map(|part| part.graph_damage());
        if damage.is_some() && manifest::load_installed(vfs)?.generation != manifest.generation {
            // A writer has dropped it meanwhile.
            let what = "was replaced while its files were opened";
            return Err(Error::corrupt(vfs.path(manifest::NAME), 0, what));
        }
        let files = opened.named_by(manifest);
        let start = Self { manifest: manifest.clone(), files, read: None, view: Arc::new(view) };
        start.read_logs(vfs, &manifest.logs)
    }

    /// Reads logs from their beginning.
    fn read_logs(mut self, vfs: &dyn Vfs, logs: &[LogEntry]) -> Result<Self> {
        for entry in logs {
            let bytes = read_log(vfs, *entry)?;
            let commits = read_commits(vfs, &self.manifest, &bytes, *entry, self.view.lsn)?;
            let read = Read { at: FileHeader::LEN as u64, lsn: self.view.lsn };
            let last = commits.last().map(|last| Read { at: last.end(), lsn: last.lsn });
            self.read = Some(last.unwrap_or(read));
            self.view = Arc::new(apply_commits(vfs, *entry, &commits, &self.view, None)?);
        }
        Ok(self)
    }

    /// Reads on where it was left; `None` if what was read is no beginning of what
    /// is there, because segments are others or a log is gone or shorter.
    fn go_on(&self, vfs: &dyn Vfs, manifest: &Manifest) -> Result<Option<Self>> {
        let (old, new) = (&self.manifest, manifest);
        let numbers = |logs: &[LogEntry]| logs.iter().map(|l| l.number).collect::<Vec<_>>();
        let same_base = (&old.segments, old.lsn) == (&new.segments, new.lsn)
            && (&old.graphs, &old.calibration) == (&new.graphs, &new.calibration)
            && numbers(&new.logs).starts_with(&numbers(&old.logs));
        if !same_base {
            return Ok(None);
        }
        let mut next = Self { manifest: new.clone(), ..self.clone() };
        let mut unread = new.logs.as_slice();
        if let (Some(read), Some(known)) = (self.read, old.logs.len().checked_sub(1)) {
            let Some(further) = next.read_on(vfs, new.logs[known], read)? else {
                return Ok(None);
            };
            next = further;
            unread = &new.logs[known + 1..];
        }
        next.read_logs(vfs, unread).map(Some)
    }

    /// Reads what was appended to a log; `None` if what was read is no more in it.
    fn read_on(&self, vfs: &dyn Vfs, entry: LogEntry, read: Read) -> Result<Option<Self>> {
        let file = vfs::open_named(vfs, &FileKind::Wal.name(entry.number))?;
        if file.len() < read.at || (entry.sealed && entry.len < read.at) {
            return Ok(None);
        }
        if entry.sealed && entry.len != file.len() {
            let what = format!("log has {} bytes, the manifest says {}", file.len(), entry.len);
            return Err(Error::corrupt(file.path(), entry.len.min(file.len()), what));
        }
        if file.len() > MAX_LOG {
            let what = format!("is {} bytes long; a log has at most {MAX_LOG}", file.len());
            return Err(Error::corrupt(file.path(), MAX_LOG, what));
        }
        let new = usize::try_from(file.len() - read.at).unwrap_or(usize::MAX);
        let mut bytes = vfs::buffer(file.path(), new)?;
        file.read_at(&mut bytes, read.at)?;
        let collection = &self.manifest.collection;
        let (commits, read) = following(&bytes, file.path(), collection, entry, read)?;
        let mut next = Self { read: Some(read), ..self.clone() };
        if !commits.is_empty() {
            next.view = Arc::new(apply_commits(vfs, entry, &commits, &self.view, None)?);
        }
        Ok(Some(next))
    }

    /// Whether a manifest can come after the one that is known.
    fn check_successor(&self, vfs: &dyn Vfs, new: &Manifest) -> Result<()> {
        let old = &self.manifest;
        if new.collection != old.collection || new.generation < old.generation {
            let what = "was replaced by that of another collection, or by an older one";
            return Err(Error::corrupt(vfs.path(manifest::NAME), 0, what));
        }
        if new.schema != old.schema {
            return Err(Error::SchemaChanged { path: vfs.path("") });
        }
        Ok(())
    }
}

/// Does `work` under the installed manifest, and again where it fails because a
/// writer has replaced that meanwhile.
pub(super) fn settled<T>(vfs: &dyn Vfs, mut work: impl FnMut(&Manifest) -> Result<T>) -> Result<T> {
    let mut failed = 0;
    loop {
        let manifest = manifest::load_installed(vfs)?;
        match work(&manifest) {
            Err(e @ Error::Corrupt(_)) => {
                let same = manifest::load_installed(vfs)?.generation == manifest.generation;
                failed = if same { failed + 1 } else { 0 };
                if failed >= ATTEMPTS || sown(Bug::ReaderLooksOnce) {
                    return Err(e);
                }
            }
            done => return done,
        }
    }
}

impl Collection {
    /// Lets a handle that is open for reading only see what a writer, in this
    /// process or another, has committed since it was opened or refreshed last.
    /// Returns whether there was anything new. Of a handle that writes there
    /// never is.
    ///
    /// Searches and snapshots keep the rows they began with. Where nothing has
    /// changed this reads the manifest and the length of the log; after commits,
    /// the new frames; after a flush or a merge, the new segments.
    ///
    /// Commits are seen whole and in order, each when it is complete in the log:
    /// a moment before its writer is told that it is durable. Should the disk be
    /// full at that moment, it fails, and the next refresh takes it back.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Io`]; [`Error::SchemaChanged`] where the collection
    /// was given another schema ([`Self::drop_tier`], [`Self::reembed`]) and must be
    /// opened again; [`Error::Forked`]. The handle then answers as before.
    pub fn refresh(&self) -> Result<bool> {
        let engine: &Engine = &self.handle;
        let Some(follower) = &engine.follower else { return Ok(false) };
        if engine.is_forked() {
            return Err(Error::Forked { path: engine.vfs.path("") });
        }
        let mut follower = follower.lock();
        let Some(next) = follower.refresh(&*engine.vfs)? else { return Ok(false) };
        let view = next.view.clone();
        // First: the one before holds RAM that the new view may want.
        *follower = next;
        engine.publish_arc(view);
        Ok(true)
    }
}

impl Engine {
    /// Reads files of the installed manifest; of a handle that only reads, again
    /// and again until no writer has replaced them meanwhile.
    pub(super) fn settled<T>(&self, work: impl FnMut(&Manifest) -> Result<T>) -> Result<T> {
        settled(&*self.vfs, work)
    }
}

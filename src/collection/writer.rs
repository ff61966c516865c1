//! The one writer of a collection: log, flush, clean close.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::Options;
use super::files::{Change, NewSegment, remove_unnamed};
use super::reserve::{Reserve, retry};
use crate::codec::header::Owner;
use crate::error::{Error, Result};
use crate::manifest::{LogEntry, MAX_LOG, MAX_ROWS, Manifest, SegmentEntry};
use crate::sown::{Bug, sown};
use crate::types::{FileNumber, Lsn};
use crate::vfs::{NamesSync, Vfs};
use crate::view::{Part, View};
use crate::wal::format::Frame;
use crate::wal::writer::LogWriter;

/// Logs that may pile up over clean closes before they are flushed away.
const MAX_LOGS: usize = 8;

/// What is installed, and the log that is open.
pub(super) struct Writer {
    pub(super) manifest: Manifest,
    /// Whether the manifest is known to be the one on the medium: see [`Self::vouch`].
    vouched: bool,
    /// Opened with the first commit: a handle that only reads writes nothing.
    log: Option<LogWriter>,
    frozen: Option<Frozen>,
    /// Whether the background thread is writing the frozen runs.
    pub(super) flushing: bool,
    poisoned: Option<String>,
    names: Arc<NamesSync>,
    pub(super) reserve: Reserve,
}

/// Runs that are set apart to be written.
struct Frozen {
    /// With the rows that were dead then: the segment has all others, as the log does.
    runs: Vec<Arc<Part>>,
    /// The last commit of theirs.
    lsn: Lsn,
    /// The last log that holds such commits.
    log: FileNumber,
}

impl Writer {
    /// `names` are the syncs of the folder; `vouched` says that the manifest was installed by
    /// this handle.
    pub(super) fn new(
        manifest: Manifest,
        vouched: bool,
        names: Arc<NamesSync>,
        reserve: Reserve,
    ) -> Self {
        let (log, frozen, flushing, poisoned) = (None, None, false, None);
        Self { manifest, vouched, log, frozen, flushing, poisoned, names, reserve }
    }

    /// Installs the manifest that was found, before the first file is created under it, or
    /// removed. Where the sync of its name failed before this handle was there, the one on the
    /// medium is an older one: it names what are strays to this one, and files of this one would
    /// be newer than itself.
    pub(super) fn vouch(&mut self, vfs: &dyn Vfs) -> Result<()> {
        if self.vouched || sown(Bug::ManifestTrusted) {
            self.vouched = true;
            return Ok(());
        }
        let staged = self.manifest.stage(vfs).inspect_err(|e| self.poison_unless_exhausted(e))?;
        self.manifest = staged.replace(vfs).inspect_err(|e| self.poison(e))?;
        self.vouched = true;
        Ok(())
    }

    /// Whether the manifest is known to be the one on the medium.
    pub(super) fn is_vouched(&self) -> bool {
        self.vouched
    }

    /// Installs the manifest that `make` makes of the one in use, when the files it creates for it
    /// are durable, and removes those that are not needed any more: [`super::files`]. A writer
    /// that has not done so yet must [`Self::vouch`] before it creates any.
    pub(super) fn change<T>(
        &mut self,
        vfs: &dyn Vfs,
        make: impl FnOnce(&mut Change) -> Result<T>,
    ) -> Result<T> {
        let mut change = Change::of(vfs, self.manifest.clone());
        let made = make(&mut change);
        // Numbers are spent even if writing fails: names are never reused.
        self.manifest.next_file = change.next.next_file;
        let made = made?;
        // Where this fails the folder ends writing by itself.
        change.sync_names()?;
        self.sync_kept(&change.next)?;
        self.count_written(&mut change.next);
        self.install(vfs, change)?;
        Ok(made)
    }

    fn install(&mut self, vfs: &dyn Vfs, change: Change) -> Result<()> {
        let mut unneeded = self.manifest.files();
        let (staged, made) = change.stage().inspect_err(|e| self.poison_unless_exhausted(e))?;
        unneeded.extend(made.iter().cloned());
        let installed = staged.replace(vfs).inspect_err(|e| {
            self.poison(e);
            if sown(Bug::InstalledRemoved) {
                remove_unnamed(vfs, made, &self.manifest);
            }
        });
        self.manifest = installed?;
        remove_unnamed(vfs, unneeded, &self.manifest);
        Ok(())
    }

    /// A number for a file that is made without the lock, and what its header records.
    pub(super) fn reserve_number(&mut self, vfs: &dyn Vfs) -> Result<(FileNumber, Owner)> {
        self.vouch(vfs)?;
        Ok((self.manifest.take_number(), self.manifest.owner()))
    }

    /// Does what frees room; where there is none for it, once more with the reserve. `work`
    /// leaves nothing behind when it fails.
    pub(super) fn with_reserve<T>(
        &mut self,
        vfs: &dyn Vfs,
        work: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        let done = retry(self, work, |writer, _| {
            // The first try may have ended writing.
            Ok(writer.healthy().is_ok() && writer.reserve.spend(vfs))
        });
        // Where there is still no room the next commit says so.
        let _ = self.reserve.refill(vfs);
        done
    }

    /// Fails if an earlier write did.
    pub(super) fn healthy(&self) -> Result<()> {
        match &self.poisoned {
            None => self.names.healthy(),
            Some(cause) => Err(Error::Poisoned { cause: cause.clone() }),
        }
    }

    /// Refuses all further writes. After a failed sync nobody knows what is on
    /// disk (Rebello et al., "Can Applications Recover from fsync Failures?",
    /// USENIX ATC 2020): only a new recovery can tell.
    pub(super) fn poison(&mut self, cause: &Error) {
        self.poisoned.get_or_insert_with(|| cause.to_string());
    }

    /// Whether rows in RAM, or logs, should become a segment first.
    pub(super) fn wants_flush(&self, view: &View, options: &Options) -> bool {
        let runs = view.parts.iter().filter(|p| p.is_run());
        let bytes: usize = runs.map(|p| p.rows.ram_bytes()).sum();
        let log = self.log.as_ref().map_or(0, LogWriter::len);
        let logs = self.manifest.logs.len();
        bytes >= options.memtable_bytes
            || log >= (options.memtable_bytes as u64).saturating_mul(2).min(MAX_LOG / 2)
            || (self.needs_log() && logs >= MAX_LOGS)
    }

    /// Writes commits to the log, all or none; durable after [`Self::sync_log`].
    ///
    /// Where there is no room for them the log is as it was, and there may be
    /// room for the next.
    pub(super) fn log<'a>(
        &mut self,
        vfs: &dyn Vfs,
        commits: impl Iterator<Item = (Lsn, &'a mut Frame)>,
    ) -> Result<()> {
        self.reserve.keep(vfs);
        if self.needs_log() {
            self.start_log(vfs)?;
        }
        let log = self.log.as_mut().expect("started above");
        let before = log.mark();
        for (lsn, frame) in commits {
            let Err(e) = log.append(lsn, frame) else { continue };
            if !e.is_exhaustion() || log.roll_back(before).is_err() {
                self.poison(&e);
            }
            return Err(e);
        }
        Ok(())
    }

    /// Whether the next commit goes to a new log.
    fn needs_log(&self) -> bool {
        self.log.as_ref().is_none_or(LogWriter::has_ended)
    }

    /// Creates a log and installs a manifest that names it, and says how long the
    /// one before is.
    fn start_log(&mut self, vfs: &dyn Vfs) -> Result<()> {
        let full = self.log.as_ref().map(|log| log.entry(true));
        self.go_on_with(vfs, |change| {
            if let (Some(full), Some(entry)) = (full, change.next.logs.last_mut()) {
                *entry = full;
            }
            change.log()
        })
    }

    /// Goes on with the log that `create` creates, and installs a manifest that names it.
    pub(super) fn go_on_with(
        &mut self,
        vfs: &dyn Vfs,
        create: impl FnOnce(&mut Change) -> Result<LogWriter>,
    ) -> Result<()> {
        self.vouch(vfs)?;
        let log = self.change(vfs, |change| {
            let log = create(change)?;
            change.next.logs.push(log.entry(false));
            Ok(log)
        });
        self.log = Some(log.inspect_err(|e| self.poison_unless_exhausted(e))?);
        Ok(())
    }

    /// Whether some runs are frozen: being written in the background, or left
    /// over where that failed.
    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.is_some()
    }

    /// Sets the runs of `view` apart, to be written while commits go on in a new
    /// log. Returns the view in which they are frozen.
    pub(super) fn freeze(&mut self, vfs: &dyn Vfs, view: &View) -> Result<View> {
        // The manifest is going to vouch for all of it.
        if !sown(Bug::FreezeBeforeLogSync) {
            self.sync_log()?;
        }
        self.start_log(vfs)?;
        let logs = self.manifest.logs.iter().rev();
        let log = logs.map(|log| log.number).nth(1).unwrap_or(FileNumber(0));
        let freeze =
            |part: &Arc<Part>| if part.is_run() { Arc::new(part.freeze()) } else { part.clone() };
        let parts: Vec<_> = view.parts.iter().map(freeze).collect();
        let runs = parts.iter().filter(|part| part.frozen).cloned().collect();
        self.frozen = Some(Frozen { runs, lsn: view.lsn, log });
        Ok(view.with(view.lsn, parts))
    }

    /// Installs the segment that was made of the frozen runs, with those of its
    /// rows that `died` meanwhile, and what a flush does besides. No segment where
    /// all have died.
    pub(super) fn install_frozen(
        &mut self,
        vfs: &dyn Vfs,
        view: &View,
        segment: Option<NewSegment>,
        died: RoaringBitmap,
    ) -> Result<Option<Arc<Part>>> {
        let Some(Frozen { lsn, log, .. }) = self.frozen else { return Ok(None) };
        // The tombstones know of commits that are in the log only.
        if !sown(Bug::FlushBeforeLogSync) {
            self.sync_log()?;
        }
        let part = self.change(vfs, |change| {
            change.next.lsn = if sown(Bug::FlushTakesLaterLsn) { view.lsn } else { lsn };
            change.next.logs.retain(|entry| entry.number > log && !sown(Bug::FlushDropsOpenLog));
            change.flush_dead(view)?;
            segment.map(|segment| change.enter_new(segment, died)).transpose()
        })?;
        self.frozen = None;
        Ok(part)
    }

    /// Installs a manifest with the segment that `group` was merged into in the place of theirs,
    /// and those of its rows that `died` meanwhile. No segment where all have died. `recoded` rows
    /// are coded about another centre than before.
    pub(super) fn install_merged(
        &mut self,
        vfs: &dyn Vfs,
        group: &[Arc<Part>],
        merged: Option<NewSegment>,
        died: RoaringBitmap,
        recoded: u64,
    ) -> Result<Option<Arc<Part>>> {
        // The merged segment leaves out rows that commits in the log replaced
        // or deleted. Those commits must not be lost after their effect is durable.
        if !sown(Bug::MergeBeforeLogSync) {
            self.sync_log()?;
        }
        self.change(vfs, |change| {
            change.next.segments.retain(|entry| !is_of(entry, group));
            if let Some(calibration) = &mut change.next.calibration {
                calibration.written = calibration.written.saturating_add(recoded);
            }
            merged.map(|segment| change.enter_new(segment, died)).transpose()
        })
    }

    /// Whether these segments, as far as the manifest still names them, keep all of these logs.
    pub(super) fn keeps(&self, group: &[Arc<Part>], logs: &[LogEntry]) -> bool {
        let there = self.kept_by(group);
        logs.iter().all(|log| there.contains(log))
    }

    /// The logs that these segments keep.
    pub(super) fn kept_by(&self, group: &[Arc<Part>]) -> Vec<LogEntry> {
        let named = self.manifest.segments.iter().filter(|entry| is_of(entry, group));
        named.flat_map(|entry| entry.kept.iter().copied()).collect()
    }

    /// For a failure that has changed nothing that is installed.
    fn poison_unless_exhausted(&mut self, e: &Error) {
        let in_doubt = matches!(e, Error::Io { .. }) && !e.is_exhaustion();
        if in_doubt || sown(Bug::FullForGood) {
            self.poison(e);
        }
    }

    /// Writes the runs of `view` as one segment and the new tombstones of older
    /// segments, installs them, and returns the view that stands on them.
    ///
    /// A failure before the manifest is installed leaves everything as it was.
    pub(super) fn flush(&mut self, vfs: &dyn Vfs, view: &View) -> Result<View> {
        if self.manifest.logs.is_empty() {
            return Ok(view.with(view.lsn, view.parts.clone()));
        }
        // Logs may have nothing but deletes, which become tombstones.
        let runs = view.parts.iter().any(|part| part.segment.is_none());
        if runs || !sown(Bug::TombstonesNotVouched) {
            self.vouch(vfs)?;
        }
        let logs = self.sealed_logs();
        let parts = self.change(vfs, |change| {
            if !sown(Bug::FlushKeepsLsn) {
                change.next.lsn = view.lsn;
            }
            change.next.logs.clear();
            change.flush(view, &logs)
        })?;
        (self.log, self.frozen) = (None, None);
        Ok(view.with(view.lsn, parts))
    }

    /// Counts the rows that were written since the calibration: those of new segments, but
    /// for merged ones, whose manifest has no later commit.
    fn count_written(&self, next: &mut Manifest) {
        if next.lsn == self.manifest.lsn {
            return;
        }
        let old = |s: &SegmentEntry| self.manifest.segments.iter().any(|o| o.number == s.number);
        let new = next.segments.iter().filter(|s| !old(s));
        let rows: u64 = new.map(|s| u64::from(s.rows)).sum();
        if let Some(calibration) = &mut next.calibration {
            calibration.written = calibration.written.saturating_add(rows);
        }
    }

    /// All logs, as if each had been closed.
    fn sealed_logs(&self) -> Vec<LogEntry> {
        let mut logs = self.manifest.logs.clone();
        if let (Some(open), Some(last)) = (&self.log, logs.last_mut()) {
            *last = open.entry(true);
        }
        logs
    }

    /// Makes the open log durable if a segment of `next` keeps it.
    fn sync_kept(&mut self, next: &Manifest) -> Result<()> {
        let open = self.log.as_ref().filter(|log| !log.is_synced()).map(|log| log.entry(true));
        let named = |log| next.segments.iter().any(|segment| segment.kept.contains(&log));
        let kept = open.is_some_and(named);
        if kept && !sown(Bug::KeptLogNotSynced) { self.sync_log() } else { Ok(()) }
    }

    /// The frozen runs as they were frozen, and the logs that have them.
    pub(super) fn frozen_runs(&self) -> Option<(Vec<Arc<Part>>, Vec<LogEntry>)> {
        let frozen = self.frozen.as_ref()?;
        let logs = self.manifest.logs.iter().filter(|log| log.number <= frozen.log);
        Some((frozen.runs.clone(), logs.copied().collect()))
    }

    /// Makes all commits so far durable.
    pub(super) fn sync_log(&mut self) -> Result<()> {
        let log = self.log.as_mut().filter(|log| !log.is_synced());
        let synced = log.map_or(Ok(()), LogWriter::sync);
        synced.inspect_err(|e| self.poison(e))
    }

    /// Records the log's length, so that damage to its end can be told from a
    /// torn write.
    pub(super) fn close(&mut self, vfs: &dyn Vfs) -> Result<()> {
        self.healthy()?;
        let Some(mut log) = self.log.take() else { return Ok(()) };
        log.sync()?;
        if sown(Bug::CloseDoesNotSeal) {
            return Ok(());
        }
        let mut next = self.manifest.clone();
        if let Some(entry) = next.logs.last_mut() {
            *entry = log.entry(true);
        }
        self.manifest = self.with_reserve(vfs, |_| next.install(vfs))?;
        Ok(())
    }

    /// Whether `manifest` is the one installed last. File numbers may have been
    /// spent since.
    pub(super) fn installed(&self, manifest: &Manifest) -> bool {
        let last = Manifest { next_file: manifest.next_file, ..self.manifest.clone() };
        last == *manifest
    }

    /// The log that is open, as it would be closed now.
    pub(super) fn open_log(&self) -> Option<LogEntry> {
        self.log.as_ref().map(|log| log.entry(true))
    }
}

/// Whether a segment is one of these.
fn is_of(entry: &SegmentEntry, group: &[Arc<Part>]) -> bool {
    group.iter().any(|part| part.segment == Some(entry.number))
}

/// Fails if `more` rows have no position left.
pub(super) fn check_room(view: &View, more: u32) -> Result<()> {
    let rows: u64 = view.parts.iter().map(|p| u64::from(p.rows.len())).sum();
    if rows + u64::from(more) <= MAX_ROWS {
        return Ok(());
    }
    Err(Error::TooManyRows { rows: rows + u64::from(more), most: MAX_ROWS })
}

//! The one writer of a collection: log, flush, clean close.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::Options;
use super::reserve::Reserve;
use crate::codec::crc32;
use crate::codec::header::{FileHeader, FileKind, Owner};
use crate::error::{Error, Result};
use crate::manifest::{LogEntry, MAX_LOG, MAX_ROWS, Manifest, SegmentEntry, TombstonesEntry};
use crate::schema::Schema;
use crate::segment::{reader::Segment, writer as segment_writer};
use crate::sown::{Bug, sown};
use crate::types::{FileNumber, Lsn};
use crate::vfs::{NamesSync, Vfs, sync_file};
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

    /// The manifest, for one that will name new files.
    pub(super) fn next_manifest(&mut self, vfs: &dyn Vfs) -> Result<Manifest> {
        self.vouch(vfs)?;
        Ok(self.manifest.clone())
    }

    /// A number for a file, and what its header records.
    pub(super) fn reserve_number(&mut self, vfs: &dyn Vfs) -> Result<(FileNumber, Owner)> {
        self.vouch(vfs)?;
        Ok((self.manifest.take_number(), self.manifest.owner()))
    }

    /// Does what frees room; where there is none for it, once more with the reserve. `work`
    /// leaves nothing behind when it fails.
    pub(super) fn with_reserve<T>(
        &mut self,
        vfs: &dyn Vfs,
        mut work: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T> {
        match work(self) {
            Err(e) if e.is_full() && self.reserve.spend(vfs) => {}
            done => return done,
        }
        // The first try may have ended writing.
        let done = self.healthy().and_then(|()| work(self));
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
        commits: impl Iterator<Item = (Lsn, (u32, &'a mut Frame))>,
    ) -> Result<()> {
        self.reserve.keep(vfs);
        if self.needs_log() {
            self.start_log(vfs)?;
        }
        let log = self.log.as_mut().expect("started above");
        let before = log.mark();
        for (lsn, (operations, frame)) in commits {
            let Err(e) = log.append(lsn, operations, frame) else { continue };
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
        let (number, owner) = self.reserve_number(vfs)?;
        let created = LogWriter::create(vfs, number, owner);
        let log = created.inspect_err(|e| {
            let _ = vfs.remove(&FileKind::Wal.name(number));
            self.poison_unless_exhausted(e);
        })?;
        let mut next = self.manifest.clone();
        if let (Some(full), Some(entry)) = (&self.log, next.logs.last_mut()) {
            *entry = full.entry(true);
        }
        next.logs.push(log.entry(false));
        self.install(vfs, next)?;
        self.log = Some(log);
        Ok(())
    }

    /// Goes on with the copy of the last log, which was not closed.
    pub(super) fn go_on_with(&mut self, vfs: &dyn Vfs, log: LogWriter) -> Result<()> {
        let mut next = self.manifest.clone();
        next.logs.pop();
        next.logs.push(log.entry(false));
        self.install(vfs, next)?;
        self.log = Some(log);
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
        segment: Option<SegmentEntry>,
        died: &RoaringBitmap,
    ) -> Result<()> {
        let Some(Frozen { lsn, log, .. }) = self.frozen else { return Ok(()) };
        // The tombstones know of commits that are in the log only.
        if !sown(Bug::FlushBeforeLogSync) {
            self.sync_log()?;
        }
        let mut next = self.manifest.clone();
        next.lsn = if sown(Bug::FlushTakesLaterLsn) { view.lsn } else { lsn };
        next.logs.retain(|entry| entry.number > log && !sown(Bug::FlushDropsOpenLog));
        let written = enter_frozen(vfs, view, &mut next, segment, died);
        // Numbers are spent even if writing fails: names are never reused.
        self.manifest.next_file = next.next_file;
        written.inspect_err(|_| remove_unnamed(vfs, &next, &self.manifest))?;
        self.install(vfs, next)?;
        self.frozen = None;
        Ok(())
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
    /// A failure before the manifest is installed leaves everything as it was,
    /// but for files that no manifest names; the next open removes those.
    pub(super) fn flush(&mut self, vfs: &dyn Vfs, view: &View) -> Result<View> {
        // Logs may have nothing but deletes, which become tombstones.
        let runs = view.parts.iter().any(|part| part.segment.is_none());
        if runs || (!self.manifest.logs.is_empty() && !sown(Bug::TombstonesNotVouched)) {
            self.vouch(vfs)?;
        }
        let mut next = self.manifest.clone();
        if !sown(Bug::FlushKeepsLsn) {
            next.lsn = view.lsn;
        }
        let logs = self.sealed_logs();
        next.logs.clear();
        let written = write_files(vfs, view, &mut next, &logs);
        let written = written.and_then(|parts| self.sync_kept(&next).map(|()| parts));
        // Numbers are spent even if writing fails: names are never reused.
        self.manifest.next_file = next.next_file;
        // On a full disk, what was written of the files must not stay in the way.
        let parts = written.inspect_err(|_| remove_unnamed(vfs, &next, &self.manifest))?;
        if next == self.manifest {
            return Ok(view.with(view.lsn, parts));
        }
        self.install(vfs, next)?;
        (self.log, self.frozen) = (None, None);
        Ok(view.with(view.lsn, parts))
    }

    /// Installs a manifest whose files are durable, and removes those that only
    /// the one before named. Where it fails the new files are removed, unless the
    /// new manifest may be the one on disk.
    pub(super) fn install(&mut self, vfs: &dyn Vfs, mut next: Manifest) -> Result<()> {
        self.count_written(&mut next);
        if sown(Bug::RemovedBeforeInstall) {
            remove_unnamed(vfs, &self.manifest, &next);
        }
        let staged = next.stage(vfs).inspect_err(|e| {
            remove_unnamed(vfs, &next, &self.manifest);
            self.poison_unless_exhausted(e);
        })?;
        let installed = staged.replace(vfs).inspect_err(|e| self.poison(e))?;
        let old = std::mem::replace(&mut self.manifest, installed);
        remove_unnamed(vfs, &old, &self.manifest);
        Ok(())
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

/// Fails if `more` rows have no position left.
pub(super) fn check_room(view: &View, more: u32) -> Result<()> {
    let rows: u64 = view.parts.iter().map(|p| u64::from(p.rows.len())).sum();
    if rows + u64::from(more) <= MAX_ROWS {
        return Ok(());
    }
    Err(Error::TooManyRows { rows: rows + u64::from(more), most: MAX_ROWS })
}

/// Writes the files of a flush, durably, and enters them in `next`. An entry is
/// made before its file, so that a file that could not be written is known. `logs` are
/// those that the new segment may keep.
pub(super) fn write_files(
    vfs: &dyn Vfs,
    view: &View,
    next: &mut Manifest,
    logs: &[LogEntry],
) -> Result<Vec<Arc<Part>>> {
    let mut parts = flush_tombstones(vfs, view, next)?;
    if let Some(entry) = flush_runs(vfs, view, next, logs)? {
        let segment = Segment::open(vfs, &next.collection, &view.schema, &entry)?;
        parts.push(Arc::new(Part::new(Arc::new(segment), Arc::default(), Some(entry.number))));
    }
    sync_names(vfs)?;
    Ok(parts)
}

/// Enters a segment that was written before, and writes the tombstones it and
/// older ones need.
fn enter_frozen(
    vfs: &dyn Vfs,
    view: &View,
    next: &mut Manifest,
    segment: Option<SegmentEntry>,
    died: &RoaringBitmap,
) -> Result<()> {
    let before = next.next_file;
    let old = flush_tombstones(vfs, view, next);
    match segment {
        Some(entry) if died.is_empty() => next.segments.push(entry),
        Some(entry) => enter_with_dead(vfs, next, entry, died)?,
        None => {}
    }
    old?;
    if next.next_file == before { Ok(()) } else { sync_names(vfs) }
}

/// Writes the living rows of all runs as a segment; `None` if there are none.
fn flush_runs(
    vfs: &dyn Vfs,
    view: &View,
    next: &mut Manifest,
    logs: &[LogEntry],
) -> Result<Option<SegmentEntry>> {
    let runs: Vec<_> = view.parts.iter().filter(|p| p.segment.is_none()).cloned().collect();
    if runs.iter().all(|part| part.live_rows() == 0) {
        return Ok(None);
    }
    let number = next.take_number();
    next.segments.push(SegmentEntry::planned(number));
    let owner = next.owner();
    let entry = write_parts(vfs, owner, &view.schema, number, &runs, logs, &|_| Ok(()))?;
    next.segments.pop();
    next.segments.push(entry.clone());
    Ok(Some(entry))
}

/// Writes the living rows of some parts, at least one, as one segment, which may keep
/// some of `logs`: nothing is written to these any more, and they are durable before a
/// manifest names the segment. `watch` is told of the first row and every thousandth; its
/// error ends the writing.
pub(super) fn write_parts(
    vfs: &dyn Vfs,
    owner: Owner,
    schema: &Schema,
    number: FileNumber,
    parts: &[Arc<Part>],
    logs: &[LogEntry],
    watch: &dyn Fn(u64) -> Result<()>,
) -> Result<SegmentEntry> {
    let rows = parts.iter().flat_map(|part| part.living().map(|row| (&*part.rows, row)));
    let rows: Vec<_> = rows.collect();
    segment_writer::write(vfs, owner, schema, number, &rows, logs, watch)
}

/// Writes the tombstones of segments that lost rows since the last flush, drops
/// segments that lost all, and returns the parts that remain.
fn flush_tombstones(vfs: &dyn Vfs, view: &View, next: &mut Manifest) -> Result<Vec<Arc<Part>>> {
    let mut kept = Vec::new();
    for entry in std::mem::take(&mut next.segments) {
        let part = view.parts.iter().find(|p| p.segment == Some(entry.number));
        let part = part.expect("a view has all segments of its manifest");
        if part.live_rows() == 0 {
            continue;
        }
        kept.push(part.clone());
        if sown(Bug::FlushForgetsDead) {
            next.segments.push(entry);
            continue;
        }
        enter_segment(vfs, next, entry, &part.dead)?;
    }
    Ok(kept)
}

/// Enters a segment whose dead rows are these, and writes them where they have become more.
pub(super) fn enter_segment(
    vfs: &dyn Vfs,
    next: &mut Manifest,
    entry: SegmentEntry,
    dead: &RoaringBitmap,
) -> Result<()> {
    if entry.tombstones.map_or(0, |t| u64::from(t.dead)) == dead.len() {
        next.segments.push(entry);
        return Ok(());
    }
    enter_with_dead(vfs, next, entry, dead)
}

/// Enters a segment and its dead rows, and writes those. The entry is made before
/// the file, so that a file that could not be written is known.
pub(super) fn enter_with_dead(
    vfs: &dyn Vfs,
    next: &mut Manifest,
    mut entry: SegmentEntry,
    dead: &RoaringBitmap,
) -> Result<()> {
    let (number, owner) = (next.take_number(), next.owner());
    let (body, planned) = plan_tombstones(number, dead);
    entry.tombstones = Some(planned);
    next.segments.push(entry);
    write_tombstones(vfs, owner, planned, &body)
}

/// Writes the living rows of some parts as one segment, makes it durable and opens
/// it. On a full disk, what was written must not stay in the way.
pub(super) fn write_segment(
    vfs: &dyn Vfs,
    owner: Owner,
    schema: &Schema,
    number: FileNumber,
    parts: &[Arc<Part>],
    logs: &[LogEntry],
    watch: &dyn Fn(u64) -> Result<()>,
) -> Result<(SegmentEntry, Segment)> {
    let write = || {
        let entry = write_parts(vfs, owner, schema, number, parts, logs, watch)?;
        sync_names(vfs)?;
        let segment = Segment::open(vfs, &owner.collection, schema, &entry)?;
        Ok((entry, segment))
    };
    write().inspect_err(|_: &Error| drop(vfs.remove(&FileKind::Segment.name(number))))
}

/// The bytes of a bitmap and the entry of the file that will hold them.
pub(super) fn plan_tombstones(
    number: FileNumber,
    dead: &RoaringBitmap,
) -> (Vec<u8>, TombstonesEntry) {
    let mut body = Vec::with_capacity(dead.serialized_size());
    dead.serialize_into(&mut body).expect("writing to a Vec does not fail");
    let crc = crc32(&body);
    (body, TombstonesEntry { number, dead: dead.len() as u32, crc })
}

/// Writes a bitmap of dead rows and makes its bytes durable.
pub(super) fn write_tombstones(
    vfs: &dyn Vfs,
    owner: Owner,
    entry: TombstonesEntry,
    body: &[u8],
) -> Result<()> {
    let header = FileHeader::new(FileKind::Tombstones, entry.number, owner).over(body);
    let mut file = vfs.create(&FileKind::Tombstones.name(entry.number))?;
    file.write(&header.encode())?;
    file.write(body)?;
    if sown(Bug::TombstonesNotSynced) { Ok(()) } else { sync_file(&mut *file) }
}

/// Makes the names of new files durable, so that a manifest can name them.
pub(super) fn sync_names(vfs: &dyn Vfs) -> Result<()> {
    if sown(Bug::FolderNotSyncedBeforeInstall) { Ok(()) } else { vfs.sync_dir() }
}

/// Removes what the new manifest does not name any more. A failure leaves a
/// stray file, which the next open removes.
pub(super) fn remove_unnamed(vfs: &dyn Vfs, old: &Manifest, new: &Manifest) {
    let needed = new.files();
    for name in old.files() {
        if !needed.contains(&name) {
            let _ = vfs.remove(&name);
        }
    }
}

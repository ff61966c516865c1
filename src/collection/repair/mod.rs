//! Making a damaged folder a collection again.
//!
//! Repair needs no healthy open. It compares every file with what vouches for it
//! and leaves the intact ones as they are. Of a damaged segment it reads row by
//! row what can be read and writes that as a new segment, whose codes, factors,
//! norms and order of ids follow from the rows. Of a damaged log it keeps the
//! commits before the damage. One manifest then installs all of it.
//!
//! Nothing that was damaged is lost by it: a copy named `damaged-<n>-<file>` is
//! durable in the folder before the manifest is replaced, and stays there.

mod blind;
mod frames;
mod logged;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::open::{open_segments, read_tombstones, replay, strays};
use super::verify::{Sealed, check_files};
use super::writer::{remove_unnamed, write_files, write_parts};
use super::{Collection, Options};
use crate::codec::header::{FileHeader, FileKind, check_writable};
use crate::error::{Corruption, Error, Result};
use crate::manifest::{self, MAX_LOG, Manifest, SegmentEntry};
use crate::memtable::RunBuilder;
use crate::schema::Schema;
use crate::segment::reader::Segment;
use crate::segment::salvage::Salvage;
use crate::types::{FileNumber, Ordinal, RowId};
use crate::vfs::disk::{Disk, RESERVE_NAME};
use crate::vfs::{ReadFile, Vfs, read_all};
use crate::view::{Part, View};
use blind::{manifest_lost, without_manifest};
use frames::Frames;
use logged::Logged;

/// Prefix of the copies of damaged files.
const ASIDE: &str = "damaged-";
/// Bytes of vectors that are gathered for one new segment.
const RUN_BYTES: usize = 64 << 20;
/// Threads that compare blocks.
const THREADS: usize = 4;

/// How [`Collection::repair_with`] goes about it.
#[derive(Debug, Clone, Default)]
pub struct RepairOptions {
    schema: Option<Schema>,
    keep_without_payload: bool,
    open: Options,
}

impl RepairOptions {
    /// Drops rows that cannot be read whole; needs an intact manifest.
    pub fn new() -> Self {
        Self::default()
    }

    /// What the collection stores, for a folder whose manifest is lost: nothing
    /// else says it. It must be the very schema; which rows were deleted is not
    /// known then, and they may come back.
    #[must_use]
    pub fn schema(mut self, schema: Schema) -> Self {
        self.schema = Some(schema);
        self
    }

    /// Keeps rows whose payload is lost, without payload. Default: no.
    #[must_use]
    pub fn keep_without_payload(mut self, yes: bool) -> Self {
        self.keep_without_payload = yes;
        self
    }

    /// How the folder is opened: how long to wait for the lock, permission bits of files that
    /// are made, unsafe file systems.
    #[must_use]
    pub fn open(mut self, options: Options) -> Self {
        self.open = options;
        self
    }
}

/// What [`Collection::repair`] found, made new and lost.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Repaired {
    /// The first damage of each damaged file. Empty: all was intact, and nothing
    /// was changed.
    pub damage: Vec<Corruption>,
    /// Rows there are now.
    pub rows: u64,
    /// Damaged segments whose rows were written anew, all or some.
    pub rebuilt: usize,
    /// Rows that could not be read.
    pub lost: u64,
    /// The ids of lost rows, as far as these could be read.
    pub lost_ids: Vec<RowId>,
    /// Rows that were kept without their payload.
    pub payloads_lost: u64,
    /// At most this many rows that had been deleted are back, because it is lost
    /// which rows were.
    pub undeleted: u64,
    /// Commits that the damage of a log took, as far as others came after them.
    pub commits_lost: u64,
    /// Copies of the damaged files.
    pub kept: Vec<PathBuf>,
}

impl Repaired {
    /// Whether all was intact.
    pub fn was_intact(&self) -> bool {
        self.damage.is_empty()
    }
}

impl Collection {
    /// Makes a damaged collection one that opens, with every row that can still
    /// be read. What follows from full vectors is made anew; rows in damaged
    /// blocks are dropped and reported. Copies of damaged files stay in the
    /// folder. Without damage nothing is changed.
    ///
    /// No handle may be open. The folder needs room for what is written anew.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::NotACollection`]; [`Error::Corrupt`] if the
    /// manifest is damaged, or older than the other files; [`Error::Io`] if files
    /// cannot be read: then copy the folder to a healthy disk first.
    pub fn repair(path: impl AsRef<Path>) -> Result<Repaired> {
        Self::repair_with(path, &RepairOptions::new())
    }

    /// As [`Self::repair`], with options.
    ///
    /// # Errors
    /// As [`Self::repair`]; a damaged manifest is none if the schema is given.
    pub fn repair_with(path: impl AsRef<Path>, options: &RepairOptions) -> Result<Repaired> {
        let open = &options.open;
        let vfs = Disk::open(path.as_ref())?.with(open.file_mode, open.mapped)?;
        // Before the lock, which would leave a file in a folder that is not ours.
        if let Err(e @ Error::NotACollection { .. }) = manifest::load_installed(&vfs) {
            return Err(e);
        }
        if !open.allow_unsafe_fs {
            vfs.check_file_system()?;
        }
        repair(&vfs, options)
    }
}

/// Repairs the collection in a folder.
pub(crate) fn repair(vfs: &dyn Vfs, options: &RepairOptions) -> Result<Repaired> {
    let _lock = vfs.lock(options.open.lock_timeout)?;
    let mut repair = Repair::begin(vfs, options)?;
    let sources = repair.examine()?;
    let logs = repair.examine_logs()?;
    if repair.report.was_intact() {
        let (view, _) = replay(vfs, &repair.found, open_segments(vfs, &repair.found)?)?;
        return Ok(Repaired { rows: view.live_rows(), ..repair.report });
    }
    // Copies and new segments need all the room there is; the next writer takes it again.
    let _ = vfs.release(RESERVE_NAME);
    repair.set_aside()?;
    if !repair.blind {
        // Before the first file, as a writer does (FORMAT.md, section "Open").
        repair.found = repair.found.install(vfs)?;
    }
    let mut next = repair.found.clone();
    next.segments.clear();
    next.logs.clear();
    next.graphs.retain(|graph| !repair.lost_graphs.contains(&graph.number));
    let staged = repair.write(sources, &logs, &mut next).and_then(|()| next.stage(vfs));
    let staged = staged.inspect_err(|_| remove_unnamed(vfs, &next, &repair.found))?;
    // From here on the new manifest may be the one on disk, even where this fails.
    let next = staged.replace(vfs)?;
    remove_unnamed(vfs, &repair.found, &next);
    Ok(repair.report)
}

/// A segment, as it was found.
struct Source {
    entry: SegmentEntry,
    dead: RoaringBitmap,
    /// Whether its list of dead rows could not be read.
    dead_unknown: bool,
    state: State,
}

/// What can be done with a segment.
enum State {
    Intact,
    /// The logs it keeps have its rows.
    Logged,
    Damaged(Box<Salvage>),
    Lost,
}

impl Source {
    /// Whether its rows are those that commits of its logs leave, not in the segment's order.
    fn is_replayed(&self) -> bool {
        matches!(self.state, State::Logged) && self.entry.kept.len() > 1
    }
}

struct Repair<'a> {
    vfs: &'a dyn Vfs,
    options: &'a RepairOptions,
    /// The manifest, or what can be said without one.
    found: Manifest,
    /// There is none.
    blind: bool,
    /// Names of damaged files.
    damaged: Vec<String>,
    /// Graphs that are damaged.
    lost_graphs: Vec<FileNumber>,
    report: Repaired,
}

impl<'a> Repair<'a> {
    fn begin(vfs: &'a dyn Vfs, options: &'a RepairOptions) -> Result<Self> {
        let mut damaged = Vec::new();
        let mut report = Repaired::default();
        let mut found = match (manifest::load_installed(vfs), &options.schema) {
            (Ok(manifest), _) => manifest,
            (Err(Error::Corrupt(damage)), Some(schema)) => {
                report.damage.push(damage);
                damaged.push(manifest::NAME.to_owned());
                without_manifest(vfs, schema)?
            }
            (Err(Error::Corrupt(damage)), None) => return Err(manifest_lost(vfs, damage)),
            (Err(e), _) => return Err(e),
        };
        check_writable(found.read_only, &vfs.path(manifest::NAME))?;
        // Names are never reused, not even those of files that nobody ever named.
        let blind = !damaged.is_empty();
        let strays = strays(vfs, &found)?;
        found.spend(&strays);
        if blind {
            // Without a manifest nobody knows that they are not needed.
            damaged.extend(strays.into_iter().filter(|name| FileKind::parse(name).is_some()));
        }
        Ok(Self { vfs, options, found, blind, damaged, lost_graphs: Vec::new(), report })
    }

    fn note(&mut self, name: String, error: Error) -> Result<()> {
        let Error::Corrupt(damage) = error else { return Err(error) };
        self.report.damage.push(damage);
        self.damaged.push(name);
        Ok(())
    }

    /// Compares all segments, the logs that they keep, and tombstones.
    fn examine(&mut self) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        for entry in self.found.segments.clone() {
            let damage = self.damage_of(&entry)?;
            let state = if damage { self.what_is_left(&entry)? } else { State::Intact };
            self.examine_graph(&entry)?;
            let mut source =
                Source { dead: RoaringBitmap::new(), dead_unknown: self.blind, state, entry };
            match read_tombstones(self.vfs, &self.found, &source.entry) {
                // By what order of rows they count is lost with the segment.
                Ok(dead) if source.is_replayed() => source.dead_unknown |= !dead.is_empty(),
                Ok(dead) => source.dead = dead,
                Err(e) => {
                    let tombstones = source.entry.tombstones.expect("only what is named is read");
                    self.note(FileKind::Tombstones.name(tombstones.number), e)?;
                    source.dead_unknown = true;
                }
            }
            sources.push(source);
        }
        Ok(sources)
    }

    /// Whether a segment or a log that it keeps is damaged. The segment is set aside in both
    /// cases, for it will not be named any more.
    fn damage_of(&mut self, entry: &SegmentEntry) -> Result<bool> {
        let files = Sealed::of_segment(entry);
        let checked = check_files(self.vfs, &self.found, &files, THREADS);
        let name = FileKind::Segment.name(entry.number);
        let mut damaged = false;
        for (file, checked) in files.iter().zip(checked) {
            let Err(e) = checked else { continue };
            damaged = true;
            self.note(file.name(), e)?;
        }
        if damaged && !self.damaged.contains(&name) {
            self.damaged.push(name);
        }
        Ok(damaged)
    }

    /// Compares the graph of a segment. A damaged one is dropped: it follows from the
    /// rows, and is built again when it is wanted.
    fn examine_graph(&mut self, entry: &SegmentEntry) -> Result<()> {
        let Some(graph) = self.found.graph_of(entry.number) else { return Ok(()) };
        let file = Sealed::Graph(graph, entry.rows);
        for checked in check_files(self.vfs, &self.found, &[file], THREADS) {
            match checked {
                // Of a version that can read it.
                Ok(()) | Err(Error::UnsupportedFormat { .. }) => {}
                Err(e) => {
                    self.note(FileKind::Graph.name(graph.number), e)?;
                    self.lost_graphs.push(graph.number);
                }
            }
        }
        Ok(())
    }

    fn what_is_left(&self, entry: &SegmentEntry) -> Result<State> {
        // The log of a flush has the rows in the segment's order, if it has as many.
        if entry.kept.len() == 1 {
            let rows = logged::rows(self.vfs, &self.found, &entry.kept)?;
            if rows.iter().map(|part| part.rows.len()).sum::<u32>() == entry.rows {
                return Ok(State::Logged);
            }
        }
        let left = if entry.kept.is_empty() { State::Lost } else { State::Logged };
        let Some(file) = self.vfs.open(&FileKind::Segment.name(entry.number))? else {
            return Ok(left);
        };
        match Salvage::open(self.vfs, &*file, &self.found.schema, entry) {
            Ok(left) => Ok(State::Damaged(Box::new(left))),
            Err(Error::Corrupt(_)) => Ok(left),
            Err(e) => Err(e),
        }
    }

    /// Reads all logs; keeps the commits before the first damage.
    fn examine_logs(&mut self) -> Result<Vec<Vec<u8>>> {
        let (mut logs, mut last, mut broken) = (Vec::new(), self.found.lsn, false);
        let mut highest = last;
        for entry in self.found.logs.clone() {
            let name = FileKind::Wal.name(entry.number);
            let mut bytes = match self.vfs.open(&name)? {
                Some(file) => read_all(&*file, MAX_LOG)?,
                None => Vec::new(),
            };
            let frames = Frames::new(&self.found, entry.number, &bytes);
            if self.blind {
                // What comes between may be in segments.
                last = last.max(frames.before());
            }
            let (lsn, end) = frames.valid_from(last);
            let checked = frames.check(&self.vfs.path(&name), entry, last);
            if broken {
                // These commits stand on others that are lost.
                highest = highest.max(frames.highest_from(FileHeader::LEN));
                self.damaged.push(name);
                bytes.clear();
            } else {
                last = lsn;
                if let Err(e) = checked {
                    broken = true;
                    highest = frames.highest_from(end);
                    self.note(name, e)?;
                    bytes.truncate(end);
                }
            }
            logs.push(bytes);
        }
        self.report.commits_lost = if broken { highest.0.saturating_sub(last.0) } else { 0 };
        Ok(logs)
    }

    /// Copies damaged files under names that nothing removes.
    fn set_aside(&mut self) -> Result<()> {
        let names = self.vfs.list()?;
        let number = |name: &String| -> Option<u64> {
            name.strip_prefix(ASIDE)?.split('-').next()?.parse().ok()
        };
        let n = names.iter().filter_map(number).max().unwrap_or(0) + 1;
        for name in &self.damaged {
            let Ok(Some(file)) = self.vfs.open(name) else { continue };
            let aside = format!("{ASIDE}{n}-{name}");
            copy_file(&*file, &mut *self.vfs.create(&aside)?)?;
            self.report.kept.push(self.vfs.path(&aside));
        }
        self.vfs.sync_dir()
    }

    /// Writes what is needed beside the intact files, and enters all in `next`.
    fn write(&mut self, sources: Vec<Source>, logs: &[Vec<u8>], next: &mut Manifest) -> Result<()> {
        let schema = Arc::new(self.found.schema.clone());
        let (mut parts, mut unsure) = (Vec::new(), Vec::new());
        for source in sources {
            let (number, unknown) = (source.entry.number, source.dead_unknown);
            let dead = source.entry.tombstones.map_or(0, |t| u64::from(t.dead));
            for part in self.parts_of(source, next)? {
                if unknown {
                    unsure.push((number, dead, part));
                } else {
                    parts.push(part);
                }
            }
        }
        self.settle(unsure, &mut parts, next)?;
        let mut view = View { schema, lsn: self.found.lsn, parts, calibration: None };
        for (entry, bytes) in self.found.logs.iter().zip(logs) {
            let frames = Frames::new(&self.found, entry.number, bytes);
            if self.blind {
                view.lsn = view.lsn.max(frames.before());
            }
            view = frames.apply(view)?;
        }
        next.lsn = view.lsn;
        self.report.rows = view.live_rows();
        write_files(self.vfs, &view, next, &[]).map(drop)
    }

    /// The parts a source becomes: itself, or new segments of what is left.
    fn parts_of(&mut self, source: Source, next: &mut Manifest) -> Result<Vec<Arc<Part>>> {
        let Source { mut entry, dead, dead_unknown, state } = source;
        match state {
            State::Intact => {
                if dead_unknown {
                    entry.tombstones = None;
                }
                let part = self.open(&entry, dead)?;
                next.segments.push(entry);
                Ok(vec![part])
            }
            State::Lost => {
                self.report.lost += u64::from(entry.rows) - dead.len();
                Ok(Vec::new())
            }
            State::Logged => {
                self.report.rebuilt += 1;
                let rows = logged::rows(self.vfs, &self.found, &entry.kept)?;
                let had: u64 = rows.iter().map(|part| part.live_rows()).sum();
                self.report.lost += u64::from(entry.rows).saturating_sub(had);
                let rows = match &rows[..] {
                    [one] if !dead.is_empty() => vec![Arc::new(one.with_dead(dead))],
                    _ => rows,
                };
                if rows.is_empty() { Ok(rows) } else { Ok(vec![self.write_parts(&rows, next)?]) }
            }
            State::Damaged(salvage) => {
                self.report.rebuilt += 1;
                let logged = Logged::read(self.vfs, &self.found, &entry.kept)?;
                self.rebuild(&salvage, &logged, &dead, next)
            }
        }
    }

    fn open(&self, entry: &SegmentEntry, dead: RoaringBitmap) -> Result<Arc<Part>> {
        let (collection, schema) = (&self.found.collection, &self.found.schema);
        let segment = Segment::open(self.vfs, collection, schema, entry)?;
        Ok(Arc::new(Part::new(Arc::new(segment), Arc::new(dead), Some(entry.number))))
    }

    /// Writes the living rows that can be read as new segments.
    fn rebuild(
        &mut self,
        salvage: &Salvage,
        logged: &Logged,
        dead: &RoaringBitmap,
        next: &mut Manifest,
    ) -> Result<Vec<Arc<Part>>> {
        let schema = Arc::new(self.found.schema.clone());
        let (mut parts, mut bytes) = (Vec::new(), 0);
        let mut run = RunBuilder::new(&schema);
        for row in (0..salvage.rows).filter(|row| !dead.contains(*row)).map(Ordinal) {
            let Some((id, vector, payload)) = self.read_row(salvage, logged, row) else { continue };
            run.push(&id, vector, &payload);
            bytes += vector.len() + payload.len() + 64;
            if bytes >= RUN_BYTES {
                bytes = 0;
                let full = std::mem::replace(&mut run, RunBuilder::new(&schema));
                parts.push(self.write_run(full, next)?);
            }
        }
        if run.len() > 0 {
            parts.push(self.write_run(run, next)?);
        }
        Ok(parts)
    }

    /// Id, vector and payload of a row, from the segment or else from a log that it keeps; notes
    /// what cannot be read.
    fn read_row<'s>(
        &mut self,
        salvage: &'s Salvage,
        logged: &'s Logged,
        row: Ordinal,
    ) -> Option<(RowId, &'s [u8], String)> {
        // Under the wrong schema anything may come out.
        let id = salvage.id(row).ok().filter(|id| id.check(self.found.schema.ids()).is_ok());
        let logged = logged.row(salvage.place(row), id.as_ref());
        let Some(id) = id.or_else(|| Some(logged?.id.clone())) else {
            self.report.lost += 1;
            return None;
        };
        let vector = salvage.vector(row).ok().or_else(|| Some(&*logged?.vector));
        let payload = salvage.payload(row).ok().or_else(|| Some(logged?.payload.clone()));
        match (vector, payload) {
            (Some(vector), Some(payload)) => Some((id, vector, payload)),
            (Some(vector), None) if self.options.keep_without_payload => {
                self.report.payloads_lost += 1;
                Some((id, vector, String::new()))
            }
            _ => {
                self.report.lost += 1;
                self.report.lost_ids.push(id);
                None
            }
        }
    }

    fn write_run(&self, run: RunBuilder, next: &mut Manifest) -> Result<Arc<Part>> {
        let part = Part::new(Arc::new(run.finish()), Arc::default(), None);
        self.write_parts(&[Arc::new(part)], next)
    }

    /// Writes the living rows of parts as a new segment.
    fn write_parts(&self, parts: &[Arc<Part>], next: &mut Manifest) -> Result<Arc<Part>> {
        let number = next.take_number();
        next.segments.push(SegmentEntry::planned(number));
        let (owner, schema) = (next.owner(), &self.found.schema);
        let entry = write_parts(self.vfs, owner, schema, number, parts, &[], &|_| Ok(()))?;
        *next.segments.last_mut().expect("pushed") = entry.clone();
        self.vfs.sync_dir()?;
        self.open(&entry, RoaringBitmap::new())
    }

    /// Of rows with one id one may live. A row whose segment lost its list of
    /// dead rows gives way to any other, the older of two such to the newer.
    fn settle(
        &mut self,
        mut unsure: Vec<(FileNumber, u64, Arc<Part>)>,
        parts: &mut Vec<Arc<Part>>,
        next: &mut Manifest,
    ) -> Result<()> {
        unsure.sort_by_key(|(number, ..)| std::cmp::Reverse(*number));
        for (_, were_dead, part) in unsure {
            let mut dead = RoaringBitmap::new();
            for row in part.living() {
                let id = part.rows.id(row)?;
                for other in parts.iter() {
                    if other.find(&id)?.is_some() {
                        dead.insert(row.0);
                        break;
                    }
                }
            }
            let alive = part.live_rows() - dead.len();
            let most = if self.blind { alive } else { were_dead.saturating_sub(dead.len()) };
            self.report.undeleted += most.min(alive);
            parts.push(Arc::new(part.with_dead(dead)));
        }
        // The order of the manifest, which `write_files` goes by.
        let place =
            |part: &Arc<Part>| next.segments.iter().position(|e| Some(e.number) == part.segment);
        parts.sort_by_key(place);
        Ok(())
    }
}

fn copy_file(from: &dyn ReadFile, to: &mut dyn crate::vfs::WriteFile) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < from.len() {
        let len = (from.len() - at).min(buffer.len() as u64) as usize;
        from.read_at(&mut buffer[..len], at)?;
        to.write(&buffer[..len])?;
        at += len as u64;
    }
    to.sync()
}

//! Creating, opening, recovering.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::apply;
use super::follow::Follower;
use super::graph;
use super::options::Options;
use super::reserve::Reserve;
use super::residency::Residency;
use super::writer::Writer;
use super::{Collection, Handle, Shared};
use crate::codec::header::{FileHeader, FileKind, Owner, check_writable};
use crate::error::{Error, Result};
use crate::manifest::{self, LogEntry, MAX_LOG, Manifest, SegmentEntry};
use crate::rows::{Held, LogPlace};
use crate::schema::Schema;
use crate::segment::reader::Segment;
use crate::sown::{Bug, sown};
use crate::sync::atomic::{AtomicBool, AtomicUsize};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::types::{FileNumber, Lsn};
use crate::vfs::disk::{Disk, TEMP_PREFIX};
use crate::vfs::{Vfs, file_system, open_named, read_all};
use crate::view::{Part, View};
use crate::wal::format::Frame;
use crate::wal::ops::{self, Operation};
use crate::wal::reader::{Commit, commits};
use crate::wal::writer::LogWriter;

pub(super) fn create_on_disk(path: &Path, schema: Schema, options: Options) -> Result<Collection> {
    check_writing(&options)?;
    let folder = Arc::new(new_folder(path, &options)?);
    create(folder.clone(), schema, options).inspect_err(|_| folder.unmake())
}

/// A new folder, or one that exists and is empty, for a collection.
pub(super) fn new_folder(path: &Path, options: &Options) -> Result<Disk> {
    let allowed = |folder: BorrowedFd, dir: &Path| {
        if options.allow_unsafe_fs { Ok(()) } else { file_system::check_file_system(folder, dir) }
    };
    let disk = Disk::create(path, options.file_mode, &allowed)?;
    disk.with(options.file_mode, options.mapped)
}

/// Writes a copy of a collection that is open with `options` into such a folder: on any file
/// system, for nobody writes there but us, once, and a network's is where copies are often kept.
/// Where that fails, a folder that was made for it is removed.
pub(super) fn in_folder_of_a_copy<T>(
    path: &Path,
    options: &Options,
    write: impl FnOnce(&Disk) -> Result<T>,
) -> Result<T> {
    let folder = new_folder(path, &options.clone().allow_unsafe_fs(true))?;
    write(&folder).inspect_err(|_| folder.unmake())
}

pub(super) fn open_on_disk(path: &Path, options: Options) -> Result<Collection> {
    open(folder(path, &options)?, options)
}

/// A folder with a collection in it.
pub(super) fn folder(path: &Path, options: &Options) -> Result<Arc<dyn Vfs>> {
    let vfs = Arc::new(Disk::open(path)?.with(options.file_mode, options.mapped)?);
    // Before the lock, which would leave a file in a folder that is not ours.
    manifest::load_installed(&*vfs)?;
    if !options.read_only && !options.allow_unsafe_fs {
        vfs.check_file_system()?;
    }
    Ok(vfs)
}

fn check_writing(options: &Options) -> Result<()> {
    if options.read_only {
        return Err(Error::invalid("options", "a collection cannot be created read-only"));
    }
    Ok(())
}

/// Creates a collection in an empty folder.
pub(crate) fn create(vfs: Arc<dyn Vfs>, schema: Schema, options: Options) -> Result<Collection> {
    check_writing(&options)?;
    let residency = Residency::new(&schema, &options)?;
    let lock = vfs.lock(options.lock_timeout)?;
    if Manifest::load(&*vfs)?.is_some() {
        return Err(Error::AlreadyExists { path: vfs.path("") });
    }
    let manifest = Manifest::new(vfs.entropy()?, schema).install(&*vfs)?;
    let schema = Arc::new(manifest.schema.clone());
    let view = Arc::new(View { schema, lsn: Lsn(0), parts: Vec::new(), calibration: None });
    let reserve = Reserve::new(options.reserve);
    let writer = Writer::new(manifest, true, vfs.names(), reserve);
    Ok(handle(vfs, options, view, residency, Access::Write(writer, lock)))
}

/// Opens a collection and recovers what is in its logs.
pub(crate) fn open(vfs: Arc<dyn Vfs>, options: Options) -> Result<Collection> {
    if options.read_only {
        let follower = Follower::open(&*vfs)?;
        let view = follower.view.clone();
        let residency = Residency::new(&view.schema, &options)?;
        residency.settle(&view)?;
        return Ok(handle(vfs, options, view, residency, Access::Read(follower)));
    }
    let lock = vfs.lock(options.lock_timeout)?;
    let mut manifest = manifest::load_installed(&*vfs)?;
    check_writable(manifest.read_only, &vfs.path(manifest::NAME))?;
    let strays = strays(&*vfs, &manifest)?;
    let segments = open_segments(&*vfs, &manifest)?;
    let (view, tail) = replay(&*vfs, &manifest, segments)?;
    // Before anything is changed: what is damaged is to be left as it is.
    let residency = Residency::new(&view.schema, &options)?;
    residency.settle(&view)?;
    // Names are never reused, not even those of files that nobody ever named.
    manifest.spend(&strays);
    let reserve = Reserve::new(options.reserve);
    let mut writer = Writer::new(manifest, false, vfs.names(), reserve);
    match tail {
        Some(tail) => tail.renew(&*vfs, &mut writer)?,
        None if !strays.is_empty() => vouch_if_there_is_room(&*vfs, &mut writer)?,
        None => {}
    }
    // What cannot be removed now is a stray again at the next open.
    if writer.is_vouched() && !sown(Bug::StraysStay) {
        strays.iter().for_each(|name| drop(vfs.remove(name)));
    }
    Ok(handle(vfs, options, Arc::new(view), residency, Access::Write(writer, lock)))
}

/// Makes sure of the manifest ([`Writer::vouch`]), so that strays can be removed. Without room
/// for that they stay, and the collection opens all the same.
fn vouch_if_there_is_room(vfs: &dyn Vfs, writer: &mut Writer) -> Result<()> {
    match writer.with_reserve(vfs, |writer| writer.vouch(vfs)) {
        Err(e) if e.is_exhaustion() && writer.healthy().is_ok() => Ok(()),
        done => done,
    }
}

/// What a handle may do: one that only reads follows whoever writes.
enum Access {
    Read(Follower),
    Write(Writer, Box<dyn Send + Sync>),
}

fn handle(
    vfs: Arc<dyn Vfs>,
    options: Options,
    view: Arc<View>,
    residency: Residency,
    access: Access,
) -> Collection {
    let process = vfs.process();
    let (writer, lock, follower) = match access {
        Access::Write(writer, lock) => (Some(writer), Some(lock), None),
        Access::Read(follower) => (None, None, Some(follower)),
    };
    let shared = Shared {
        vfs,
        schema: view.schema.clone(),
        options,
        view: RwLock::new(view),
        residency,
        writer: writer.map(Mutex::new),
        follower: follower.map(Mutex::new),
        queue: super::commit::Queue::default(),
        process,
        compacting: Mutex::new(()),
        flushed: Condvar::new(),
        merges: Mutex::default(),
        batch_bytes: AtomicUsize::new(0),
        closing: AtomicBool::new(false),
        searched: AtomicBool::new(false),
        background_errors: Mutex::default(),
        _lock: lock,
    };
    let handle = Handle { shared: Arc::new(shared), flush: Mutex::default() };
    // The last handle may have been closed while segments were being merged.
    handle.wake();
    Collection { shared: Arc::new(handle) }
}

pub(super) fn open_segments(vfs: &dyn Vfs, manifest: &Manifest) -> Result<View> {
    let schema = Arc::new(manifest.schema.clone());
    let part = |entry: &SegmentEntry| -> Result<Arc<Part>> {
        let segment = Segment::open(vfs, &manifest.collection, &schema, entry)?;
        let dead = read_tombstones(vfs, manifest, entry)?;
        let part = Part::new(Arc::new(segment), Arc::new(dead), Some(entry.number));
        let graph = graph::open(vfs, manifest, entry)?;
        Ok(Arc::new(if graph.is_some() { part.with_graph(graph) } else { part }))
    };
    let parts = manifest.segments.iter().map(part).collect::<Result<_>>()?;
    let calibration = manifest.calibration.clone().map(Arc::new);
    Ok(View { schema, lsn: manifest.lsn, parts, calibration })
}

/// Reads the dead rows of a segment, and checks that they are as many as the
/// manifest says and rows of the segment at all.
pub(super) fn read_tombstones(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    entry: &SegmentEntry,
) -> Result<RoaringBitmap> {
    let Some(tombstones) = entry.tombstones else { return Ok(RoaringBitmap::new()) };
    let file = open_named(vfs, &FileKind::Tombstones.name(tombstones.number))?;
    let bytes = read_all(&*file, max_tombstones(entry.rows))?;
    let header = FileHeader::decode(&bytes, FileKind::Tombstones, file.path())?;
    header.expect(tombstones.number, &manifest.collection, file.path())?;
    let body = header.body(&bytes, file.path())?;
    let at = FileHeader::LEN as u64;
    if header.body_crc != tombstones.crc {
        return Err(Error::corrupt(
            file.path(),
            at,
            "is not the file the manifest was written for",
        ));
    }
    let mut rest = body;
    let dead = RoaringBitmap::deserialize_from(&mut rest)
        .map_err(|e| Error::corrupt(file.path(), at, format!("is not a bitmap: {e}")))?;
    if !rest.is_empty() {
        let end = at + (body.len() - rest.len()) as u64;
        return Err(Error::corrupt(file.path(), end, "trailing bytes behind the bitmap"));
    }
    let inside = dead.max().is_none_or(|max| max < entry.rows);
    if !inside || dead.len() != u64::from(tombstones.dead) {
        let what = format!("does not hold {} of {} rows", tombstones.dead, entry.rows);
        return Err(Error::corrupt(file.path(), at, what));
    }
    Ok(dead)
}

/// Most bytes of a tombstone file: of each 65536 rows a header of 16 bytes at
/// most and their bits, or as many bytes in another form.
fn max_tombstones(rows: u32) -> u64 {
    FileHeader::LEN as u64 + 64 + u64::from(rows.div_ceil(1 << 16)) * (8192 + 16)
}

/// The log that was being written when the collection stopped uncleanly.
pub(super) struct Tail {
    entry: LogEntry,
    held: Arc<Held>,
    before: Lsn,
}

impl Tail {
    /// Copies the commits to a new log, makes it durable and installs it.
    ///
    /// The old file cannot be trusted as it lies: after a failed sync the system
    /// may show bytes that the disk does not have, and its torn end would stand
    /// in the way of the next frame.
    fn renew(self, vfs: &dyn Vfs, writer: &mut Writer) -> Result<()> {
        writer.with_reserve(vfs, |writer| {
            let (number, owner) = writer.reserve_number(vfs)?;
            // On a full disk, what was written must not stay in the way.
            let remove = |_: &Error| drop(vfs.remove(&FileKind::Wal.name(number)));
            let log = self.copy(vfs, &writer.manifest, number, owner).inspect_err(remove)?;
            writer.go_on_with(vfs, log)
        })
    }

    fn copy(
        &self,
        vfs: &dyn Vfs,
        manifest: &Manifest,
        number: FileNumber,
        owner: Owner,
    ) -> Result<LogWriter> {
        let mut log = LogWriter::create(vfs, number, owner)?;
        for commit in read_commits(vfs, manifest, &self.held.bytes, self.entry, self.before)? {
            log.append(commit.lsn, commit.operations, &mut Frame::of(commit.body))?;
        }
        if !sown(Bug::RecoveredLogNotSynced) {
            log.sync()?;
        }
        Ok(log)
    }
}

/// Applies the commits of all logs to `view`; returns the unsealed log, if any.
pub(super) fn replay(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    mut view: View,
) -> Result<(View, Option<Tail>)> {
    let mut tail = None;
    for entry in &manifest.logs {
        // One that is sealed stays where it is, so a segment may keep it.
        let logged = entry.sealed.then_some(LogPlace { log: entry.number, at: 0 });
        let held = Arc::new(Held { bytes: read_log(vfs, *entry)?, logged });
        let before = view.lsn;
        view = replay_log(vfs, manifest, &held, *entry, &view)?;
        if !entry.sealed {
            tail = Some(Tail { entry: *entry, held, before });
        }
    }
    Ok((view, tail))
}

pub(super) fn read_log(vfs: &dyn Vfs, entry: LogEntry) -> Result<Vec<u8>> {
    read_all(&*open_named(vfs, &FileKind::Wal.name(entry.number))?, MAX_LOG)
}

/// Reads all logs and checks every frame, without applying any.
///
/// `open` is what the writer knows of the log it has open.
pub(super) fn check_logs(vfs: &dyn Vfs, manifest: &Manifest, open: Option<LogEntry>) -> Result<()> {
    let mut last = manifest.lsn;
    for installed in &manifest.logs {
        let entry = &open.filter(|log| log.number == installed.number).unwrap_or(*installed);
        let bytes = read_log(vfs, *entry)?;
        let commits = read_commits(vfs, manifest, &bytes, *entry, last)?;
        last = commits.last().map_or(last, |commit| commit.lsn);
    }
    Ok(())
}

pub(super) fn read_commits<'a>(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    bytes: &'a [u8],
    entry: LogEntry,
    before: Lsn,
) -> Result<Vec<Commit<'a>>> {
    let path = vfs.path(&FileKind::Wal.name(entry.number));
    commits(bytes, &path, &manifest.collection, entry, before)
}

/// All commits of a log at once: nobody saw the views between them.
fn replay_log(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    log: &Arc<Held>,
    entry: LogEntry,
    view: &View,
) -> Result<View> {
    let commits = read_commits(vfs, manifest, &log.bytes, entry, view.lsn)?;
    apply_commits(vfs, entry, &commits, view, Some(log))
}

/// The view after commits that were read from a log. Their rows stay in `log`, if that is all
/// of it, or are copied.
pub(super) fn apply_commits(
    vfs: &dyn Vfs,
    entry: LogEntry,
    commits: &[Commit],
    view: &View,
    log: Option<&Arc<Held>>,
) -> Result<View> {
    let schema = view.schema.clone();
    let mut operations = Vec::new();
    let mut lsn = view.lsn;
    let mut wide = vec![0.0; schema.dims()];
    for commit in commits {
        let parsed =
            ops::parse(commit.body, commit.operations, schema.ids(), schema.vector_bytes());
        let path = vfs.path(&FileKind::Wal.name(entry.number));
        let parsed = parsed.map_err(|e| e.in_file(&path, commit.at))?;
        if !parsed.iter().all(|operation| is_finite(operation, &schema, &mut wide)) {
            return Err(Error::corrupt(path, commit.at, "holds a vector that is not finite"));
        }
        operations.extend(parsed.into_iter().map(|one| one.behind(commit.at as usize)));
        lsn = commit.lsn;
    }
    if operations.is_empty() {
        return Ok(view.with(lsn, view.parts.clone()));
    }
    apply::apply(view, lsn, &operations, log)
}

/// What a batch refuses; only a log that was made by hand can hold it. `wide` is a buffer for a
/// vector.
pub(super) fn is_finite(operation: &Operation, schema: &Schema, wide: &mut [f32]) -> bool {
    let Operation::Upsert { vector, .. } = operation else { return true };
    schema.stored().decode(vector, wide);
    wide.iter().all(|v| v.is_finite())
}

/// Files of ours that the manifest does not name: an interrupted flush leaves
/// them. Names that are not ours are left alone.
///
/// # Errors
/// [`Error::Corrupt`] where such a file cannot be left over: then it is the
/// manifest that is wrong, an older copy put in the place of the last one, and
/// to go on would remove the rows it does not know of.
pub(super) fn strays(vfs: &dyn Vfs, manifest: &Manifest) -> Result<Vec<String>> {
    let mut names = vfs.list()?;
    let needed = manifest.files();
    names.retain(|name| !needed.contains(name));
    names.retain(|name| FileKind::parse(name).is_some() || name.starts_with(TEMP_PREFIX));
    for name in &names {
        if let Some((kind, _)) = FileKind::parse(name)
            && is_newer(vfs, manifest, name, kind)?
        {
            let what = format!("is older than {name}: it was replaced by an earlier copy");
            return Err(Error::corrupt(vfs.path(manifest::NAME), 0, what));
        }
    }
    Ok(names)
}

/// Whether an unnamed file was made, or commits were written to it, after the
/// manifest had been replaced by a later one. FORMAT.md, section "Open".
fn is_newer(vfs: &dyn Vfs, manifest: &Manifest, name: &str, kind: FileKind) -> Result<bool> {
    let file = match vfs.open(name) {
        Ok(Some(file)) => file,
        // A stray may be cut short, empty or no file at all: what tells nothing is no witness.
        Ok(None) | Err(Error::Corrupt(_)) => return Ok(false),
        // One that cannot be read now may tell something, and would be removed.
        Err(e) => return Err(e),
    };
    let mut bytes = [0; FileHeader::LEN];
    if file.len() < bytes.len() as u64 {
        return Ok(false);
    }
    file.read_at(&mut bytes, 0)?;
    let header = match FileHeader::decode(&bytes, kind, file.path()) {
        Ok(header) => header,
        // A graph of a newer version can be built again, and goes as any other does.
        Err(Error::UnsupportedFormat { .. }) if kind == FileKind::Graph => return Ok(false),
        // Left by a newer version: not ours to remove.
        Err(e @ Error::UnsupportedFormat { .. }) => return Err(e),
        Err(_) => return Ok(false),
    };
    if header.collection != manifest.collection {
        return Ok(false);
    }
    // Commits go to a log that is named; recovery alone copies them first, and
    // only while the log it copies from is named and unsealed.
    let unsealed = manifest.logs.last().is_some_and(|log| !log.sealed);
    let has_commits = kind == FileKind::Wal && file.len() > bytes.len() as u64 && !unsealed;
    Ok(header.generation > manifest.generation
        || (header.generation == manifest.generation && has_commits))
}

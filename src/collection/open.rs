//! Creating, opening, recovering.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};
use roaring::RoaringBitmap;

use super::apply;
use super::options::Options;
use super::writer::Writer;
use super::{Collection, Handle, Shared};
use crate::codec::header::{FileHeader, FileKind};
use crate::error::{Error, Result};
use crate::manifest::{self, LogEntry, Manifest, SegmentEntry};
use crate::schema::Schema;
use crate::segment::reader::Segment;
use crate::types::Lsn;
use crate::vfs::disk::{Disk, TEMP_PREFIX};
use crate::vfs::{LockMode, Vfs, read_all};
use crate::view::{Part, View};
use crate::wal::format::LogName;
use crate::wal::ops;
use crate::wal::reader::{Commit, commits};
use crate::wal::writer::LogWriter;

/// Longest tombstone file: a bitmap of all 2^32 ordinals, and some.
const MAX_TOMBSTONES: u64 = 640 << 20;
/// Longest log that is read. Flushing keeps them far below.
const MAX_LOG: u64 = 8 << 30;

pub(super) fn create_on_disk(path: &Path, schema: Schema, options: Options) -> Result<Collection> {
    create(Arc::new(Disk::create(path)?), schema, options)
}

pub(super) fn open_on_disk(path: &Path, options: Options) -> Result<Collection> {
    let vfs = Arc::new(Disk::open(path)?);
    // Before the lock, which would leave a file in a folder that is not ours.
    manifest::load_installed(&*vfs)?;
    open(vfs, options)
}

/// Creates a collection in an empty folder.
pub(crate) fn create(vfs: Arc<dyn Vfs>, schema: Schema, options: Options) -> Result<Collection> {
    if options.read_only {
        return Err(Error::invalid("options", "a collection cannot be created read-only"));
    }
    let lock = vfs.lock(LockMode::Exclusive)?;
    if Manifest::load(&*vfs)?.is_some() {
        return Err(Error::AlreadyExists { path: vfs.path("") });
    }
    let mut manifest = Manifest::new(vfs.entropy()?, schema);
    manifest.install(&*vfs)?;
    let schema = Arc::new(manifest.schema.clone());
    let view = View { schema: schema.clone(), lsn: Lsn(0), parts: Vec::new() };
    Ok(handle(vfs, options, lock, view, Some(Writer::new(manifest, None))))
}

/// Opens a collection and recovers what is in its logs.
pub(crate) fn open(vfs: Arc<dyn Vfs>, options: Options) -> Result<Collection> {
    let mode = if options.read_only { LockMode::Shared } else { LockMode::Exclusive };
    let lock = vfs.lock(mode)?;
    let mut manifest = manifest::load_installed(&*vfs)?;
    let segments = open_segments(&*vfs, &manifest)?;
    let (view, tail) = replay(&*vfs, &manifest, segments)?;
    if options.read_only {
        return Ok(handle(vfs, options, lock, view, None));
    }
    let log = tail.map(|tail| tail.renew(&*vfs, &mut manifest)).transpose()?;
    remove_strays(&*vfs, &manifest)?;
    Ok(handle(vfs, options, lock, view, Some(Writer::new(manifest, log))))
}

fn handle(
    vfs: Arc<dyn Vfs>,
    options: Options,
    lock: Box<dyn Send + Sync>,
    view: View,
    writer: Option<Writer>,
) -> Collection {
    let shared = Shared {
        vfs,
        schema: view.schema.clone(),
        options,
        view: RwLock::new(Arc::new(view)),
        writer: writer.map(Mutex::new),
        compacting: Mutex::new(()),
        closing: AtomicBool::new(false),
        background_error: Mutex::new(None),
        _lock: lock,
    };
    let handle = Handle { shared: Arc::new(shared), background: Mutex::new(None) };
    Collection { shared: Arc::new(handle) }
}

fn open_segments(vfs: &dyn Vfs, manifest: &Manifest) -> Result<View> {
    let schema = Arc::new(manifest.schema.clone());
    let part = |entry: &SegmentEntry| -> Result<Arc<Part>> {
        let segment = Segment::open(vfs, &manifest.collection, &schema, entry)?;
        let dead = read_tombstones(vfs, manifest, entry)?;
        Ok(Arc::new(Part::new(Arc::new(segment), Arc::new(dead), Some(entry.number))))
    };
    let parts = manifest.segments.iter().map(part).collect::<Result<_>>()?;
    Ok(View { schema, lsn: manifest.lsn, parts })
}

/// Reads the dead rows of a segment, and checks that they are as many as the
/// manifest says and rows of the segment at all.
pub(super) fn read_tombstones(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    entry: &SegmentEntry,
) -> Result<RoaringBitmap> {
    let Some((number, count)) = entry.tombstones else { return Ok(RoaringBitmap::new()) };
    let name = FileKind::Tombstones.name(number);
    let Some(file) = vfs.open(&name)? else {
        return Err(Error::corrupt(vfs.path(&name), 0, "is missing"));
    };
    let bytes = read_all(&*file, MAX_TOMBSTONES)?;
    let header = FileHeader::decode(&bytes, FileKind::Tombstones, file.path())?;
    header.expect(number, &manifest.collection, file.path())?;
    let body = header.body(&bytes, file.path())?;
    let at = FileHeader::LEN as u64;
    let dead = RoaringBitmap::deserialize_from(body)
        .map_err(|e| Error::corrupt(file.path(), at, format!("is not a bitmap: {e}")))?;
    let inside = dead.max().is_none_or(|max| max < entry.rows);
    if !inside || dead.len() != u64::from(count) {
        let what = format!("does not hold {count} of {} rows", entry.rows);
        return Err(Error::corrupt(file.path(), at, what));
    }
    Ok(dead)
}

/// The log that was being written when the collection stopped uncleanly.
struct Tail {
    entry: LogEntry,
    bytes: Vec<u8>,
    before: Lsn,
}

impl Tail {
    /// Copies the commits to a new log, makes it durable and installs it.
    ///
    /// The old file cannot be trusted as it lies: after a failed sync the system
    /// may show bytes that the disk does not have, and its torn end would stand
    /// in the way of the next frame.
    fn renew(self, vfs: &dyn Vfs, manifest: &mut Manifest) -> Result<LogWriter> {
        let number = manifest.take_number();
        let name = LogName { collection: manifest.collection, number };
        let mut log = LogWriter::create(vfs, name)?;
        for commit in read_commits(vfs, manifest, &self.bytes, self.entry, self.before)? {
            log.append(commit.lsn, commit.operations, commit.body)?;
        }
        log.sync()?;
        manifest.logs.pop();
        manifest.logs.push(LogEntry { number, sealed: None });
        manifest.install(vfs)?;
        Ok(log)
    }
}

/// Applies the commits of all logs to `view`; returns the unsealed log, if any.
fn replay(vfs: &dyn Vfs, manifest: &Manifest, mut view: View) -> Result<(View, Option<Tail>)> {
    let mut tail = None;
    for entry in &manifest.logs {
        let bytes = read_log(vfs, *entry)?;
        let before = view.lsn;
        view = replay_log(vfs, manifest, &bytes, *entry, view)?;
        if entry.sealed.is_none() {
            tail = Some(Tail { entry: *entry, bytes, before });
        }
    }
    Ok((view, tail))
}

fn read_log(vfs: &dyn Vfs, entry: LogEntry) -> Result<Vec<u8>> {
    let name = FileKind::Wal.name(entry.number);
    match vfs.open(&name)? {
        Some(file) => read_all(&*file, MAX_LOG),
        None => Err(Error::corrupt(vfs.path(&name), 0, "is missing")),
    }
}

/// Reads all logs and checks every frame, without applying any.
pub(super) fn check_logs(vfs: &dyn Vfs, manifest: &Manifest) -> Result<()> {
    let mut last = manifest.lsn;
    for entry in &manifest.logs {
        let bytes = read_log(vfs, *entry)?;
        let commits = read_commits(vfs, manifest, &bytes, *entry, last)?;
        last = commits.last().map_or(last, |commit| commit.lsn);
    }
    Ok(())
}

fn read_commits<'a>(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    bytes: &'a [u8],
    entry: LogEntry,
    before: Lsn,
) -> Result<Vec<Commit<'a>>> {
    let name = LogName { collection: manifest.collection, number: entry.number };
    let path = vfs.path(&FileKind::Wal.name(entry.number));
    commits(bytes, &path, name, before, entry.sealed)
}

/// All commits of a log at once: nobody saw the views between them.
fn replay_log(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    bytes: &[u8],
    entry: LogEntry,
    view: View,
) -> Result<View> {
    let schema = view.schema.clone();
    let mut operations = Vec::new();
    let mut lsn = view.lsn;
    for commit in read_commits(vfs, manifest, bytes, entry, view.lsn)? {
        let parsed =
            ops::parse(commit.body, commit.operations, schema.ids(), schema.vector_bytes());
        let path = || vfs.path(&FileKind::Wal.name(entry.number));
        operations.extend(parsed.map_err(|e| e.in_file(&path(), 0))?);
        lsn = commit.lsn;
    }
    if operations.is_empty() {
        return Ok(View { lsn, ..view });
    }
    apply::apply(&view, lsn, &operations)
}

/// Removes files of ours that no manifest names: an interrupted flush leaves
/// them. Names that are not ours are left alone.
fn remove_strays(vfs: &dyn Vfs, manifest: &Manifest) -> Result<()> {
    let needed = manifest.files();
    for name in vfs.list()? {
        let ours = FileKind::parse(&name).is_some() || name.starts_with(TEMP_PREFIX);
        if ours && !needed.contains(&name) {
            vfs.remove(&name)?;
        }
    }
    Ok(())
}

//! Creating, opening, recovering.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use super::files::Change;
use super::follow::Follower;
use super::load::{Opened, Tail, read_commits, replay, strays};
use super::options::Options;
use super::reserve::Reserve;
use super::residency::Residency;
use super::writer::Writer;
use super::{Collection, Engine, Handle};
use crate::codec::header::check_writable;
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest};
use crate::schema::Schema;
use crate::sown::{Bug, sown};
use crate::sync::atomic::{AtomicBool, AtomicUsize};
use crate::sync::{Condvar, Mutex, RwLock};
use crate::types::Lsn;
use crate::vfs::disk::Disk;
use crate::vfs::{Vfs, file_system};
use crate::view::View;
use crate::wal::format::Frame;
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
    let view = Arc::new(View::new(schema, Lsn(0), Vec::new(), None));
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
    let segments = Opened::default().view(&*vfs, &manifest)?;
    let (view, tail) = replay(&*vfs, &manifest, segments)?;
    // Before anything is changed: what is damaged is to be left as it is.
    let residency = Residency::new(&view.schema, &options)?;
    residency.settle(&view)?;
    // Names are never reused, not even those of files that nobody ever named.
    manifest.spend(&strays);
    let reserve = Reserve::new(options.reserve);
    let mut writer = Writer::new(manifest, false, vfs.names(), reserve);
    if !strays.is_empty() {
        vouch_if_there_is_room(&*vfs, &mut writer)?;
    }
    // What cannot be removed now is a stray again at the next open. The log is renewed after that:
    // on a full disk the room may be theirs.
    if writer.is_vouched() && !sown(Bug::StraysStay) {
        strays.iter().for_each(|name| drop(vfs.remove(name)));
    }
    if let Some(tail) = tail {
        renew(&tail, &*vfs, &mut writer)?;
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
    let engine = Engine {
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
    let handle = Handle { engine: Arc::new(engine), flush: Mutex::default() };
    // The last handle may have been closed while segments were being merged.
    handle.engine.wake();
    Collection { handle: Arc::new(handle) }
}

/// Copies the commits of a log to a new one, makes it durable and installs it.
///
/// The old file cannot be trusted as it lies: after a failed sync the system
/// may show bytes that the disk does not have, and its torn end would stand
/// in the way of the next frame.
fn renew(tail: &Tail, vfs: &dyn Vfs, writer: &mut Writer) -> Result<()> {
    writer.with_reserve(vfs, |writer| {
        writer.go_on_with(vfs, |change| {
            change.next.logs.pop();
            copy(tail, vfs, change)
        })
    })
}

fn copy(tail: &Tail, vfs: &dyn Vfs, change: &mut Change) -> Result<LogWriter> {
    let mut log = change.log()?;
    let commits = read_commits(vfs, &change.next, &tail.held.bytes, tail.entry, tail.before)?;
    for commit in commits {
        log.append(commit.lsn, &mut Frame::again(commit.body, commit.operations))?;
    }
    if !sown(Bug::RecoveredLogNotSynced) {
        log.sync()?;
    }
    Ok(log)
}

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
//!
//! ```text
//!   examine.rs  what is damaged, and what is left of it
//!   blind.rs    the same without a manifest
//!   rebuild.rs  new segments, and which of their rows live
//!   logged.rs   rows of damaged segments that logs have
//!   frames.rs   commits of a log, damaged or not
//! ```

mod blind;
mod examine;
mod frames;
mod logged;
mod rebuild;

use std::path::{Path, PathBuf};

use super::files::{Change, NewFiles, remove_unnamed};
use super::load::{Opened, replay, strays};
use super::{Collection, Options};
use crate::codec::header::{FileKind, check_writable};
use crate::error::{Corruption, Error, Result};
use crate::manifest::{self, Manifest};
use crate::schema::Schema;
use crate::sown::{Bug, sown};
use crate::types::{FileNumber, RowId};
use crate::vfs::disk::{Disk, RESERVE_NAME};
use crate::vfs::{ReadFile, Vfs, WriteFile, open_damaged};
use blind::{manifest_lost, without_manifest};
use examine::Source;

/// Prefix of the copies of damaged files.
const ASIDE: &str = "damaged-";

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
    /// Rows that could not be read. Of a segment that is lost with one of several logs it kept,
    /// at least so many: rows of the others that had been deleted may stand for them.
    pub lost: u64,
    /// The ids of lost rows, as far as these could be read.
    pub lost_ids: Vec<RowId>,
    /// Rows that were kept without their payload.
    pub payloads_lost: u64,
    /// At most this many rows that had been deleted are back, or as they were before they were
    /// replaced, because it is lost which rows lived: with a list of dead rows, with the manifest,
    /// or with a segment whose logs have other rows beside its own.
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
    /// [`Error::Locked`]; [`Error::NotFound`], [`Error::NotACollection`]; [`Error::Corrupt`] if the
    /// manifest is damaged, or older than the other files; [`Error::Io`] if files
    /// cannot be read: then copy the folder to a healthy disk first; or where there is no room:
    /// what was written is removed then, and the damage is as it was.
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
        let (view, _) = replay(vfs, &repair.found, Opened::default().view(vfs, &repair.found)?)?;
        return Ok(Repaired { rows: view.live_rows(), ..repair.report });
    }
    // Copies and new segments need all the room there is; the next writer takes it again.
    let _ = vfs.release(RESERVE_NAME);
    let (staged, _) = repair.prepare(sources, &logs)?.stage()?;
    // From here on the new manifest may be the one on disk, even where this fails.
    let next = staged.replace(vfs)?;
    remove_unnamed(vfs, repair.found.files(), &next);
    Ok(repair.report)
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
                without_manifest(vfs, schema, &mut report.damage)?
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

    /// The new manifest and its files. Where it cannot be installed, the copies of damaged files
    /// go with these: what they are copies of is still there.
    fn prepare(&mut self, sources: Vec<Source>, logs: &[Vec<u8>]) -> Result<Change<'a>> {
        let mut copies = NewFiles::new(self.vfs);
        self.set_aside(&mut copies)?;
        if !self.blind {
            // Before the first file, as a writer does: its name may not be on the medium.
            self.found = self.found.install(self.vfs)?;
        }
        let mut next = Manifest { segments: Vec::new(), logs: Vec::new(), ..self.found.clone() };
        next.graphs.retain(|graph| !self.lost_graphs.contains(&graph.number));
        let mut change = Change::of(self.vfs, next);
        change.adopt(copies);
        self.write(sources, logs, &mut change)?;
        Ok(change)
    }

    /// Copies damaged files under names that nothing removes: the first that are free.
    fn set_aside(&mut self, copies: &mut NewFiles) -> Result<()> {
        let names = self.vfs.list()?;
        let is_free = |prefix: &String| !names.iter().any(|name| name.starts_with(prefix));
        let mut prefixes = (1u64..).map(|n| format!("{ASIDE}{n}-"));
        let prefix = prefixes.find(is_free).expect("there are more numbers than names");
        for name in &self.damaged {
            let file = match open_damaged(self.vfs, name) {
                Ok(Some(file)) => file,
                // It is not there, or is a folder or a pipe: there are no bytes to keep.
                Ok(None) => continue,
                Err(_) if sown(Bug::AsideSkipped) => continue,
                // It goes when the manifest is replaced, so there must be a copy before.
                Err(e) => return Err(e),
            };
            let aside = format!("{prefix}{name}");
            self.report.kept.push(self.vfs.path(&aside));
            copy_file(&*file, copies.create(aside)?)?;
        }
        copies.sync_names()
    }
}

fn copy_file(from: &dyn ReadFile, mut to: Box<dyn WriteFile>) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    while at < from.len() {
        let len = (from.len() - at).min(buffer.len() as u64) as usize;
        from.read_at(&mut buffer[..len], at)?;
        to.write(&buffer[..len])?;
        at += len as u64;
    }
    if sown(Bug::AsideNotSynced) { Ok(()) } else { to.sync() }
}

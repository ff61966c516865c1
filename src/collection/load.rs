//! What a manifest names, read and checked: by those who open a collection, follow a writer,
//! verify or repair.

use std::collections::HashMap;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::{apply, graph};
use crate::codec::header::{FileHeader, FileKind};
use crate::error::{Error, Result};
use crate::graph::Attached;
use crate::manifest::{self, GraphEntry, LogEntry, MAX_LOG, Manifest, SegmentEntry};
use crate::rows::{Held, LogPlace, Rows};
use crate::schema::Schema;
use crate::segment::reader::Segment;
use crate::types::{FileNumber, Lsn};
use crate::vfs::disk::TEMP_PREFIX;
use crate::vfs::{Vfs, open_damaged, open_named, read_all};
use crate::view::{Part, View};
use crate::wal::ops::{self, Operation};
use crate::wal::reader::{Commit, commits};

/// Files that are open, as the manifest described them.
#[derive(Clone, Default)]
pub(super) struct Opened {
    segments: HashMap<FileNumber, (SegmentEntry, Arc<dyn Rows>)>,
    graphs: HashMap<FileNumber, (GraphEntry, Arc<Attached>)>,
}

impl Opened {
    /// The rows that are in segments. Opens what is not open yet.
    pub(super) fn view(&mut self, vfs: &dyn Vfs, manifest: &Manifest) -> Result<View> {
        let schema = Arc::new(manifest.schema.clone());
        let part = |entry: &SegmentEntry| -> Result<Arc<Part>> {
            let rows = self.segment(vfs, manifest, entry)?;
            let dead = read_tombstones(vfs, manifest, entry)?;
            let part = Part::new(rows, Arc::new(dead), Some(entry.number));
            let graph = self.graph(vfs, manifest, entry)?;
            Ok(Arc::new(if graph.is_some() { part.with_graph(graph) } else { part }))
        };
        let parts = manifest.segments.iter().map(part).collect::<Result<_>>()?;
        let calibration = manifest.calibration.clone().map(Arc::new);
        Ok(View::new(schema, manifest.lsn, parts, calibration))
    }

    fn segment(
        &mut self,
        vfs: &dyn Vfs,
        manifest: &Manifest,
        entry: &SegmentEntry,
    ) -> Result<Arc<dyn Rows>> {
        let same = |old: &SegmentEntry| (old.len, old.table_crc) == (entry.len, entry.table_crc);
        if let Some((_, rows)) = self.segments.get(&entry.number).filter(|(old, _)| same(old)) {
            return Ok(rows.clone());
        }
        let segment = Segment::open(vfs, &manifest.collection, &manifest.schema, entry)?;
        let rows: Arc<dyn Rows> = Arc::new(segment);
        self.segments.insert(entry.number, (entry.clone(), rows.clone()));
        Ok(rows)
    }

    /// The graph of a segment, if it has one.
    fn graph(
        &mut self,
        vfs: &dyn Vfs,
        manifest: &Manifest,
        segment: &SegmentEntry,
    ) -> Result<Option<Arc<Attached>>> {
        let Some(entry) = manifest.graph_of(segment.number) else { return Ok(None) };
        if let Some((_, graph)) = self.graphs.get(&entry.number).filter(|(old, _)| *old == entry) {
            return Ok(Some(graph.clone()));
        }
        let graph = graph::open(vfs, manifest, segment)?;
        self.graphs.extend(graph.iter().map(|graph| (entry.number, (entry, graph.clone()))));
        Ok(graph)
    }

    /// Those that the manifest names.
    pub(super) fn named_by(&self, manifest: &Manifest) -> Self {
        let mut named = self.clone();
        named.segments.retain(|number, _| manifest.segments.iter().any(|s| s.number == *number));
        named.graphs.retain(|number, _| manifest.graphs.iter().any(|g| g.number == *number));
        named
    }
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
    pub(super) entry: LogEntry,
    pub(super) held: Arc<Held>,
    /// The last commit before its first.
    pub(super) before: Lsn,
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
    // A stray file may be cut short or empty: what tells nothing is no witness. One that cannot be
    // opened, for want of descriptors or for a bad medium, might be.
    let Some(file) = open_damaged(vfs, name)? else { return Ok(false) };
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

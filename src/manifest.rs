//! The manifest: which files make up the collection, and how far they reach.
//!
//! One file, replaced whole; replacing it is the one atomic step of every
//! flush, compaction and clean close. FORMAT.md, section "Manifest".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

mod entries;

use crate::calibration::Calibration;
use crate::codec::header::{CollectionId, FileHeader, FileKind, MAX_COUNTER, Owner};
use crate::codec::{Fields, FormatError, Reader, layout, put};
use crate::error::{Error, Result};
use crate::schema::Schema;
use crate::sown::{Bug, sown};
use crate::types::{FileNumber, Lsn};
use crate::vfs::{self, Staged, Vfs};

pub(crate) use entries::{GraphEntry, LogEntry, SegmentEntry, TombstonesEntry};
pub(crate) use entries::{decode_kept, encode_kept};
#[cfg(feature = "testing")]
pub(crate) use entries::{graph_entry, log_entry, segment_entry};

/// Name of the manifest file.
pub(crate) const NAME: &str = "MANIFEST";
/// Longest manifest that is read, or written.
pub(crate) const MAX_LEN: u64 = 16 << 20;
/// Longest log that is read, or kept. Flushing keeps them far below.
pub(crate) const MAX_LOG: u64 = 8 << 30;
/// Most logs that one segment keeps.
pub(crate) const MAX_KEPT: u32 = 256;
/// Most rows of a collection, dead ones included: a row's position is a `u32`.
pub(crate) const MAX_ROWS: u64 = u32::MAX as u64;

layout!(
    /// FORMAT.md, section "Manifest": the fixed part of the body.
    manifest_body, 32, {
    NEXT_FILE: 0, 8;
    LSN: 8, 8;
    SCHEMA_LEN: 16, 4;
    SEGMENTS: 20, 4;
    LOGS: 24, 4;
    GRAPHS: 28, 4;
});

/// A file number and a generation to which nobody counts. A file that somebody named so would
/// leave the next one no number: it spends none.
pub(crate) const UNCOUNTED: u64 = MAX_COUNTER / 2;

/// Kinds and numbers of our files among these, if they can have been counted to.
pub(crate) fn counted(names: &[String]) -> impl Iterator<Item = (FileKind, FileNumber)> {
    names.iter().filter_map(|name| FileKind::parse(name)).filter(|(_, n)| n.0 < UNCOUNTED)
}

/// The state of a collection on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) collection: CollectionId,
    pub(crate) schema: Schema,
    /// Flags that forbid writing; none in what we install.
    pub(crate) read_only: u32,
    /// Counts installs; kept in the file header.
    pub(crate) generation: u64,
    /// The next file number; no file has it or a higher one.
    pub(crate) next_file: FileNumber,
    /// Commits up to here are in the segments; later ones are in the logs.
    pub(crate) lsn: Lsn,
    /// Oldest first.
    pub(crate) segments: Vec<SegmentEntry>,
    /// Oldest first; only the last can be unsealed.
    pub(crate) logs: Vec<LogEntry>,
    /// Of some segments, one each at most.
    pub(crate) graphs: Vec<GraphEntry>,
    /// What is known of the stage codes' estimates.
    pub(crate) calibration: Option<Calibration>,
}

impl Manifest {
    /// The manifest of an empty collection.
    pub(crate) fn new(collection: CollectionId, schema: Schema) -> Self {
        Self {
            collection,
            schema,
            read_only: 0,
            generation: 0,
            next_file: FileNumber(1),
            lsn: Lsn(0),
            segments: Vec::new(),
            logs: Vec::new(),
            graphs: Vec::new(),
            calibration: None,
        }
    }

    /// Takes the next file number.
    pub(crate) fn take_number(&mut self) -> FileNumber {
        let n = self.next_file;
        self.next_file = FileNumber(n.0 + 1);
        if sown(Bug::NumbersReused) { self.unnamed_number() } else { n }
    }

    /// Numbers of these files are never given out again, though nobody named them.
    pub(crate) fn spend(&mut self, names: &[String]) {
        let spent = counted(names).map(|(_, number)| FileNumber(number.0 + 1));
        self.next_file = spent.fold(self.next_file, Ord::max);
    }

    /// The lowest number that no file has now.
    fn unnamed_number(&self) -> FileNumber {
        let taken = self.files();
        let kinds = [FileKind::Segment, FileKind::Tombstones, FileKind::Wal, FileKind::Graph];
        let free = |n: &FileNumber| !kinds.iter().any(|kind| taken.contains(&kind.name(*n)));
        (1..=MAX_COUNTER).map(FileNumber).find(free).expect("there are more numbers than files")
    }

    /// Names of all files this manifest needs.
    pub(crate) fn files(&self) -> Vec<String> {
        let segments = self.segments.iter().map(|s| FileKind::Segment.name(s.number));
        let tombstones = self.segments.iter().filter_map(|s| s.tombstones);
        let tombstones = tombstones.map(|t| FileKind::Tombstones.name(t.number));
        let logs = self.all_logs().map(|log| FileKind::Wal.name(log.number));
        let graphs = self.graphs.iter().map(|g| FileKind::Graph.name(g.number));
        segments.chain(tombstones).chain(logs).chain(graphs).collect()
    }

    /// The logs that are replayed, and those that segments keep.
    fn all_logs(&self) -> impl Iterator<Item = LogEntry> {
        let kept = self.segments.iter().flat_map(|segment| segment.kept.iter().copied());
        self.logs.iter().copied().chain(kept.filter(|_| !sown(Bug::KeptLogUnnamed)))
    }

    /// How many files these are with the manifest itself, and their bytes; the manifest may be one
    /// that is not installed yet.
    pub(crate) fn measure(&self, vfs: &dyn Vfs) -> Result<(usize, u64)> {
        let names = self.files();
        let mut bytes = self.encode().len() as u64;
        for name in &names {
            bytes += vfs.open(name)?.map_or(0, |file| file.len());
        }
        Ok((names.len() + 1, bytes))
    }

    /// Makes this the state of the collection, atomically and durably: returns it as it is
    /// installed. Every file it names must be durable already.
    pub(crate) fn install(&self, vfs: &dyn Vfs) -> Result<Self> {
        self.stage(vfs)?.replace(vfs)
    }

    /// The first half of [`Self::install`], which leaves what is installed alone, and this too:
    /// files are created under the generation that is installed, never under one that only was
    /// to be.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a manifest that could not be read again.
    pub(crate) fn stage(&self, vfs: &dyn Vfs) -> Result<StagedManifest> {
        let mut next = self.clone();
        next.drop_orphans();
        next.generation = next.generation.saturating_add(1);
        check(&next).map_err(|e| Error::invalid("manifest", e))?;
        let bytes = next.encode();
        if bytes.len() as u64 > MAX_LEN {
            let why = format!("at most {MAX_LEN} bytes of manifest, got {}", bytes.len());
            return Err(Error::invalid("number of segments", why));
        }
        Ok(StagedManifest { file: vfs::stage(vfs, &bytes)?, next })
    }

    /// The graph of a segment.
    pub(crate) fn graph_of(&self, segment: FileNumber) -> Option<GraphEntry> {
        self.graphs.iter().find(|graph| graph.segment == segment).copied()
    }

    /// Forgets the graphs of segments that are gone.
    pub(crate) fn drop_orphans(&mut self) {
        let segments = &self.segments;
        self.graphs.retain(|graph| segments.iter().any(|s| s.number == graph.segment));
    }

    /// What the headers of new files record.
    pub(crate) fn owner(&self) -> Owner {
        Owner { collection: self.collection, generation: self.generation }
    }

    /// Rows of all segments, dead or alive.
    pub(crate) fn rows(&self) -> u64 {
        self.segments.iter().map(|s| u64::from(s.rows)).sum()
    }

    /// Reads the installed manifest; `None` if there is none.
    pub(crate) fn load(vfs: &dyn Vfs) -> Result<Option<Self>> {
        let Some(file) = vfs.open(NAME)? else { return Ok(None) };
        let bytes = vfs::read_all(&*file, MAX_LEN)?;
        let header = FileHeader::decode(&bytes, FileKind::Manifest, file.path())?;
        header.expect(FileNumber(0), &header.collection, file.path())?;
        let body = header.body(&bytes, file.path())?;
        decode(body, &header).map(Some).map_err(|e| e.in_file(file.path(), FileHeader::LEN as u64))
    }

    fn encode(&self) -> Vec<u8> {
        use manifest_body as f;
        let schema = self.schema.encode();
        let mut fixed = [0; f::LEN];
        put(&mut fixed, f::NEXT_FILE, &self.next_file.0.to_le_bytes());
        put(&mut fixed, f::LSN, &self.lsn.0.to_le_bytes());
        put(&mut fixed, f::SCHEMA_LEN, &(schema.len() as u32).to_le_bytes());
        put(&mut fixed, f::SEGMENTS, &(self.segments.len() as u32).to_le_bytes());
        put(&mut fixed, f::LOGS, &(self.logs.len() as u32).to_le_bytes());
        put(&mut fixed, f::GRAPHS, &(self.graphs.len() as u32).to_le_bytes());
        let mut body = [fixed.as_slice(), &schema].concat();
        self.segments.iter().for_each(|s| body.extend(s.encode()));
        self.logs.iter().for_each(|l| body.extend(l.encode()));
        self.graphs.iter().for_each(|g| body.extend(g.encode()));
        self.calibration.iter().for_each(|c| body.extend(c.encode()));
        let header = FileHeader::new(FileKind::Manifest, FileNumber(0), self.owner());
        [header.over(&body).encode().as_slice(), &body].concat()
    }
}

/// A manifest in a durable file that has no lasting name yet. Dropping it changes nothing.
pub(crate) struct StagedManifest {
    file: Staged,
    next: Manifest,
}

impl StagedManifest {
    /// The second half of [`Manifest::install`]. After an error nobody knows which of the two
    /// manifests is installed.
    pub(crate) fn replace(self, vfs: &dyn Vfs) -> Result<Manifest> {
        self.file.replace(vfs, NAME)?;
        Ok(self.next)
    }
}

fn decode(body: &[u8], header: &FileHeader) -> Result<Manifest, FormatError> {
    use manifest_body as f;
    let mut r = Reader::new(body);
    let fixed = r.take(f::LEN)?;
    let schema_at = r.at();
    let schema = Schema::decode(r.take(fixed.u32(f::SCHEMA_LEN) as usize)?)
        .map_err(|e| FormatError { at: schema_at + e.at, ..e })?;
    let segments = entries(&mut r, fixed.u32(f::SEGMENTS), SegmentEntry::decode)?;
    let logs = entries(&mut r, fixed.u32(f::LOGS), LogEntry::decode)?;
    let graphs = entries(&mut r, fixed.u32(f::GRAPHS), GraphEntry::decode)?;
    let calibrated = r.remaining() > 0;
    let calibration = calibrated.then(|| Calibration::decode(&mut r, &schema)).transpose()?;
    r.finish()?;
    let manifest = Manifest {
        collection: header.collection,
        schema,
        read_only: header.read_only,
        generation: header.generation,
        next_file: FileNumber(fixed.u64(f::NEXT_FILE)),
        lsn: Lsn(fixed.u64(f::LSN)),
        segments,
        logs,
        graphs,
        calibration,
    };
    check(&manifest)?;
    Ok(manifest)
}

/// Reads `count` entries; grows with the bytes that are there, so a count that
/// lies allocates nothing.
fn entries<T>(
    r: &mut Reader,
    count: u32,
    one: fn(&mut Reader) -> Result<T, FormatError>,
) -> Result<Vec<T>, FormatError> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(one(r)?);
    }
    Ok(all)
}

/// Counters and rows leave room to count on; file numbers are below the next
/// one and none is used twice; logs but the last are sealed; graphs are of
/// segments, one each at most.
fn check(m: &Manifest) -> Result<(), FormatError> {
    if m.lsn.0.max(m.next_file.0).max(m.generation) > MAX_COUNTER {
        return Err(FormatError::new(0, "a counter is too large"));
    }
    if m.rows() > MAX_ROWS {
        return Err(FormatError::mismatch(0, "rows of all segments", MAX_ROWS, m.rows()));
    }
    let tombstones = m.segments.iter().filter_map(|s| s.tombstones.map(|t| t.number));
    let segments = m.segments.iter().map(|s| s.number);
    let logs = m.all_logs().map(|log| log.number);
    let mut all: Vec<_> = segments.chain(tombstones).chain(logs).collect();
    all.extend(m.graphs.iter().map(|g| g.number));
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    let in_range = |n: &FileNumber| n.0 > 0 && *n < m.next_file;
    if all.len() != count || !all.iter().all(in_range) {
        return Err(FormatError::new(0, "file numbers contradict each other"));
    }
    let mut graphs: Vec<_> = m.graphs.iter().map(|g| g.segment).collect();
    graphs.sort_unstable();
    graphs.dedup();
    let known = |segment: &FileNumber| m.segments.iter().any(|s| s.number == *segment);
    if graphs.len() != m.graphs.len() || !graphs.iter().all(known) {
        return Err(FormatError::new(0, "graphs and segments contradict each other"));
    }
    let sealed_but_last = m.logs.iter().rev().skip(1).all(|l| l.sealed);
    if !sealed_but_last {
        return Err(FormatError::new(0, "a log before the last one is not sealed"));
    }
    Ok(())
}

/// The installed manifest, or the error that says what is there instead.
pub(crate) fn load_installed(vfs: &dyn Vfs) -> Result<Manifest> {
    if let Some(manifest) = Manifest::load(vfs)? {
        return Ok(manifest);
    }
    let names = vfs.list()?;
    let files = names.iter().filter_map(|n| FileKind::parse(n));
    if files.count() > 0 {
        return Err(Error::corrupt(vfs.path(NAME), 0, "is missing, but other files are there"));
    }
    let found = match names.len() {
        0 => "the folder is empty".to_owned(),
        n => format!("it has no {NAME}, but {n} other files or folders"),
    };
    Err(Error::NotACollection { path: vfs.path(""), found })
}

#[cfg(test)]
mod tests;

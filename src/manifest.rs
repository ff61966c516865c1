//! The manifest: which files make up the collection, and how far they reach.
//!
//! One file, replaced whole; replacing it is the one atomic step of every
//! flush, compaction and clean close. FORMAT.md, section "Manifest".
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::unwrap_used))]

mod entries;

#[cfg(test)]
use std::sync::Arc;

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
mod tests {
    use super::*;
    use crate::calibration::{CHECKED_RECALLS, Check, ERROR_QUANTILES, Noise, names};
    use crate::vfs::mem::Mem;

    fn sample() -> Manifest {
        let schema = Schema::builder(96).granularities([32]).build().expect("valid");
        let mut m = Manifest::new([9; 16], schema);
        m.next_file = FileNumber(12);
        m.lsn = Lsn(77);
        let clean = SegmentEntry {
            number: FileNumber(3),
            len: 8192,
            rows: 10,
            table_crc: 5,
            tombstones: None,
            kept: Arc::default(),
        };
        let dead = TombstonesEntry { number: FileNumber(7), dead: 2, crc: 6 };
        let log = LogEntry { number: FileNumber(2), len: 900, crc: 1, sealed: true };
        let other = LogEntry { number: FileNumber(1), len: 64, ..log };
        let logged = SegmentEntry { kept: [log, other].into(), ..clean.clone() };
        m.segments =
            vec![logged, SegmentEntry { number: FileNumber(4), tombstones: Some(dead), ..clean }];
        m.logs = vec![
            LogEntry { number: FileNumber(8), len: 640, crc: 8, sealed: true },
            LogEntry { number: FileNumber(11), len: 64, crc: 9, sealed: false },
        ];
        m.graphs = vec![GraphEntry {
            number: FileNumber(9),
            len: 70,
            segment: FileNumber(4),
            table_crc: 3,
        }];
        let noise = Noise {
            stage: 0,
            dims: 32,
            scale: 1.1,
            quantiles: [-0.5; ERROR_QUANTILES.len()],
            checks: [Check::default(); CHECKED_RECALLS.len()],
        };
        let codes = names(&m.schema);
        let (noises, given) = (vec![noise], true);
        let (rows, written, queries) = (20, 3, 7);
        m.calibration =
            Some(Calibration { rows, written, queries, given, noises, walks: None, codes });
        m
    }

    #[test]
    fn manifests_round_trip() {
        let vfs = Mem::default();
        let m = sample();
        let installed = m.install(&vfs).expect("install");
        assert_eq!(installed, Manifest { generation: m.generation + 1, ..m });
        let m = installed;
        assert_eq!(Manifest::load(&vfs).expect("load"), Some(m));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = sample().encode();
        for bit in 0..good.len() * 8 {
            let vfs = Mem::default();
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            vfs.set(NAME, bad);
            assert!(Manifest::load(&vfs).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            let vfs = Mem::default();
            vfs.set(NAME, good[..len].to_vec());
            assert!(Manifest::load(&vfs).is_err(), "cut at {len}");
        }
    }

    fn kept(m: &mut Manifest, change: fn(&mut LogEntry)) {
        change(&mut Arc::make_mut(&mut m.segments[0].kept)[1]);
    }

    fn keeps(m: &mut Manifest, logs: u32) {
        m.next_file = FileNumber(1000);
        let one = m.segments[0].kept[0];
        let log = |n| LogEntry { number: FileNumber(100 + u64::from(n)), ..one };
        m.segments[0].kept = (0..logs).map(log).collect();
    }

    #[test]
    fn a_body_that_contradicts_itself_is_refused_even_with_right_checksums() {
        let wrong = |change: fn(&mut Manifest)| {
            let mut m = sample();
            change(&mut m);
            let vfs = Mem::default();
            vfs.set(NAME, m.encode());
            Manifest::load(&vfs).is_err()
        };
        assert!(wrong(|m| m.next_file = FileNumber(11)), "number not below the next one");
        assert!(wrong(|m| m.logs.reverse()), "unsealed log before the last");
        assert!(wrong(|m| m.segments[1].number = FileNumber(3)), "number used twice");
        assert!(wrong(|m| m.segments[0].number = FileNumber(0)), "number of the manifest");
        assert!(wrong(|m| m.segments[1].rows = 2), "all rows dead");
        assert!(wrong(|m| m.segments[0].rows = 0), "no rows");
        assert!(wrong(|m| m.segments[0].rows = u32::MAX), "more rows than there are positions");
        assert!(wrong(|m| m.lsn = Lsn(u64::MAX)), "no next commit");
        assert!(wrong(|m| m.graphs[0].segment = FileNumber(8)), "graph of no segment");
        assert!(wrong(|m| m.graphs[0].number = FileNumber(8)), "number of a log");
        assert!(
            wrong(|m| m.graphs.push(GraphEntry { number: FileNumber(10), ..m.graphs[0] })),
            "two graphs"
        );
        assert!(wrong(|m| m.next_file = FileNumber(u64::MAX)), "no next file number");
        assert!(wrong(|m| m.generation = u64::MAX), "no next generation");
        assert!(wrong(|m| m.logs[1].len = 63), "shorter than a header");
        assert!(wrong(|m| kept(m, |log| log.len = 63)), "kept log shorter than a header");
        assert!(wrong(|m| kept(m, |log| log.len = MAX_LOG + 1)), "longer than any");
        assert!(wrong(|m| kept(m, |log| log.sealed = false)), "a kept log that may grow");
        assert!(wrong(|m| kept(m, |log| log.number = FileNumber(0))), "the number of no log");
        assert!(wrong(|m| kept(m, |log| log.number = FileNumber(8))), "a kept log to be replayed");
        assert!(wrong(|m| kept(m, |log| log.number = FileNumber(2))), "a log kept twice");
        assert!(wrong(|m| m.segments[1].kept = m.segments[0].kept.clone()), "and by another");
        assert!(!wrong(|m| keeps(m, MAX_KEPT)), "as many logs as may be");
        assert!(wrong(|m| keeps(m, MAX_KEPT + 1)), "one more");
    }

    #[test]
    fn an_entry_that_contradicts_itself_is_refused_even_with_right_checksums() {
        use super::entries::{graph_entry, log_entry, segment_entry};
        let m = sample();
        let first = FileHeader::LEN + manifest_body::LEN + m.schema.encode().len();
        let second = first + segment_entry::LEN + 2 * log_entry::LEN;
        let log = second + segment_entry::LEN;
        let graph = log + 2 * log_entry::LEN;
        let is_read = |at: usize, value: u8| {
            let mut bytes = m.encode();
            bytes[at] = value;
            let header = FileHeader::new(FileKind::Manifest, FileNumber(0), m.owner());
            let header = header.over(&bytes[FileHeader::LEN..]).encode();
            bytes[..FileHeader::LEN].copy_from_slice(&header);
            let vfs = Mem::default();
            vfs.set(NAME, bytes);
            Manifest::load(&vfs).is_ok()
        };
        assert!(is_read(first + segment_entry::TABLE_CRC.start, 9), "any checksum");
        assert!(is_read(second + segment_entry::DEAD.start, 9), "all but one row dead");
        assert!(!is_read(second + segment_entry::DEAD.start, 10), "all of them");
        assert!(!is_read(second + segment_entry::DEAD.start, 0), "none, in a file of them");
        assert!(!is_read(second + segment_entry::TOMBSTONES.start, 0), "dead rows in no file");
        assert!(!is_read(first + segment_entry::DEAD.start, 1), "the same");
        assert!(!is_read(first + segment_entry::TOMBSTONES_CRC.start, 1), "checksum of no file");
        assert!(!is_read(first + segment_entry::RESERVED.start, 1), "reserved");
        assert!(!is_read(log + log_entry::SEALED.start, 2), "neither sealed nor not");
        assert!(!is_read(log + log_entry::SEALED.start, 0), "unsealed before the last");
        assert!(!is_read(graph + graph_entry::RESERVED.start, 1), "reserved");
    }

    #[test]
    fn a_manifest_longer_than_any_is_not_written() {
        let vfs = Mem::default();
        let installed = sample().install(&vfs).expect("install");
        let mut m = installed.clone();
        let more = MAX_LEN / entries::segment_entry::LEN as u64;
        let one = SegmentEntry { kept: Arc::default(), ..m.segments[0].clone() };
        let numbers = (100..100 + more).map(FileNumber);
        m.segments.extend(numbers.map(|number| SegmentEntry { number, ..one.clone() }));
        let refused = m.install(&vfs);
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
        assert_eq!(Manifest::load(&vfs).expect("load"), Some(installed));
        assert_eq!(vfs.list().expect("list"), [NAME]);
    }

    #[test]
    fn one_that_could_not_be_read_again_is_not_written() {
        let vfs = Mem::default();
        let m = sample().install(&vfs).expect("install");
        let wrong = [
            Manifest { next_file: FileNumber(MAX_COUNTER + 1), ..m.clone() },
            Manifest { next_file: FileNumber(11), ..m.clone() },
            Manifest { generation: u64::MAX, ..m.clone() },
            Manifest { lsn: Lsn(MAX_COUNTER + 1), ..m.clone() },
        ];
        for wrong in wrong {
            let refused = wrong.install(&vfs);
            assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
            assert_eq!(Manifest::load(&vfs).expect("load").as_ref(), Some(&m));
        }
        assert_eq!(vfs.list().expect("list"), [NAME]);
    }

    #[test]
    fn names_spend_the_numbers_that_somebody_can_have_counted_to() {
        let mut m = sample();
        let mut spend = |kind: FileKind, number: u64| {
            m.spend(&["notes".to_owned(), kind.name(FileNumber(number))]);
            m.next_file.0
        };
        assert_eq!(spend(FileKind::Wal, 3), 12);
        assert_eq!(spend(FileKind::Tombstones, 20), 21);
        assert_eq!(spend(FileKind::Segment, MAX_COUNTER), 21);
        assert_eq!(spend(FileKind::Graph, UNCOUNTED), 21);
        assert_eq!(spend(FileKind::Graph, UNCOUNTED - 1), UNCOUNTED);
    }

    #[test]
    fn a_folder_without_a_manifest_is_told_by_what_is_in_it() {
        let vfs = Mem::default();
        let says = |what: &str| {
            let error = load_installed(&vfs).expect_err("no manifest");
            assert!(error.to_string().contains(what), "{error}");
            matches!(error, Error::Corrupt(_))
        };
        assert!(!says("the folder is empty"));
        vfs.set("notes.txt", Vec::new());
        assert!(!says("it has no MANIFEST, but 1 other files or folders"));
        vfs.set(&FileKind::Segment.name(FileNumber(3)), Vec::new());
        assert!(says("is missing, but other files are there"));
    }

    #[test]
    fn a_graph_goes_with_its_segment() {
        let (vfs, mut m) = (Mem::default(), sample());
        assert_eq!(m.graph_of(FileNumber(4)), Some(m.graphs[0]));
        assert_eq!(m.graph_of(FileNumber(3)), None);
        m.segments.remove(1);
        let m = m.install(&vfs).expect("install");
        assert!(m.graphs.is_empty());
        assert_eq!(Manifest::load(&vfs).expect("load"), Some(m));
    }
}

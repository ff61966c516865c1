//! What is damaged, and what is left of it.

use roaring::RoaringBitmap;

use super::super::load::read_tombstones;
use super::super::verify::{Sealed, check_files};
use super::Repair;
use super::frames::Frames;
use super::logged;
use crate::codec::header::{FileHeader, FileKind};
use crate::error::{Error, Result};
use crate::manifest::{LogEntry, SegmentEntry};
use crate::segment::salvage::Salvage;
use crate::vfs::open_damaged;

/// Threads that compare blocks.
const THREADS: usize = 4;

/// A segment, as it was found.
pub(super) struct Source {
    pub(super) entry: SegmentEntry,
    pub(super) dead: Dead,
    pub(super) state: State,
}

/// What is known of which rows are dead.
pub(super) enum Dead {
    /// These, and no others.
    Known(RoaringBitmap),
    /// At most so many.
    AtMost(u64),
    /// Nothing.
    Unknown,
}

/// What can be done with a segment.
pub(super) enum State {
    Intact,
    /// The log it keeps has its rows and no others, in the same order.
    Log(LogEntry),
    /// The logs it keeps have its rows, and may have others that had been deleted or replaced
    /// before it was written: nobody knows which.
    Logs,
    Damaged(Box<Salvage>),
    Lost,
}

impl Repair<'_> {
    /// Compares all segments, the logs that they keep, and tombstones.
    pub(super) fn examine(&mut self) -> Result<Vec<Source>> {
        let mut sources = Vec::new();
        for entry in self.found.segments.clone() {
            let damage = self.damage_of(&entry)?;
            let state = if damage { self.what_is_left(&entry)? } else { State::Intact };
            self.examine_graph(&entry)?;
            let dead = self.dead_of(&entry, &state)?;
            sources.push(Source { entry, dead, state });
        }
        Ok(sources)
    }

    fn dead_of(&mut self, entry: &SegmentEntry, state: &State) -> Result<Dead> {
        match read_tombstones(self.vfs, &self.found, entry) {
            // Only the manifest names the list; and by what order of rows it counts is lost with
            // the segment.
            Ok(_) if self.blind || matches!(state, State::Logs) => Ok(Dead::Unknown),
            Ok(dead) => Ok(Dead::Known(dead)),
            Err(e) => {
                let tombstones = entry.tombstones.expect("only what is named is read");
                self.note(FileKind::Tombstones.name(tombstones.number), e)?;
                Ok(Dead::AtMost(u64::from(tombstones.dead)))
            }
        }
    }

    /// Whether a segment or a log that it keeps is damaged. The segment is set aside in both
    /// cases, for it will not be named any more.
    fn damage_of(&mut self, entry: &SegmentEntry) -> Result<bool> {
        let files = Sealed::of_segment(entry);
        let checked = check_files(self.vfs, &self.found, &files, THREADS, &|_| true);
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
        for checked in check_files(self.vfs, &self.found, &[file], THREADS, &|_| true) {
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
        // All rows of the segment are among those of its one log, in the same order.
        if let [log] = &*entry.kept {
            let part = logged::rows(self.vfs, &self.found, *log)?;
            if part.is_some_and(|part| part.rows.len() == entry.rows) {
                return Ok(State::Log(*log));
            }
        }
        let left = if entry.kept.is_empty() { State::Lost } else { State::Logs };
        let Some(file) = open_damaged(self.vfs, &FileKind::Segment.name(entry.number))? else {
            return Ok(left);
        };
        match Salvage::open(self.vfs, &*file, &self.found.schema, entry) {
            Ok(left) => Ok(State::Damaged(Box::new(left))),
            Err(Error::Corrupt(_)) => Ok(left),
            Err(e) => Err(e),
        }
    }

    /// Reads all logs; keeps the commits before the first damage.
    pub(super) fn examine_logs(&mut self) -> Result<Vec<Vec<u8>>> {
        let (mut logs, mut last, mut broken) = (Vec::new(), self.found.lsn, false);
        let mut highest = last;
        for entry in self.found.logs.clone() {
            let name = FileKind::Wal.name(entry.number);
            let mut bytes = match open_damaged(self.vfs, &name)? {
                Some(file) => logged::read_log(&*file)?,
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
}

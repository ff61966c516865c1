//! New segments of what is left of damaged ones, and which of their rows live.

use std::cmp::Reverse;
use std::slice;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::super::files::Change;
use super::super::newest::replaced;
use super::Repair;
use super::examine::{Dead, Source, State};
use super::frames::Frames;
use super::logged::{self, Logged};
use crate::codec::header::FileKind;
use crate::error::{Error, Result};
use crate::manifest::{Manifest, SegmentEntry};
use crate::memtable::RunBuilder;
use crate::segment::reader::Segment;
use crate::segment::salvage::Salvage;
use crate::types::{FileNumber, Ordinal, RowId};
use crate::view::{Part, View};

/// Bytes of vectors that are gathered for one new segment.
const RUN_BYTES: usize = 64 << 20;

/// What becomes of a source.
struct Found {
    /// Each with the number of the file that says what rows it has: later rows are in files of
    /// higher numbers.
    parts: Vec<(FileNumber, Arc<Part>)>,
    /// Which rows of these parts were dead: where it is known, they are not in them any more, or
    /// dead there.
    dead: Dead,
}

impl Dead {
    /// Those that are known to be.
    fn rows(&self) -> RoaringBitmap {
        if let Self::Known(rows) = self { rows.clone() } else { RoaringBitmap::new() }
    }

    /// Of rows that live as far as is known, how many may be dead.
    fn most(&self) -> u64 {
        match self {
            Self::Known(_) => 0,
            Self::AtMost(rows) => *rows,
            Self::Unknown => u64::MAX,
        }
    }

    fn is_known(&self) -> bool {
        matches!(self, Self::Known(_))
    }
}

impl Repair<'_> {
    /// Writes what is needed beside the intact files, and enters all.
    pub(super) fn write(
        &mut self,
        sources: Vec<Source>,
        logs: &[Vec<u8>],
        change: &mut Change,
    ) -> Result<()> {
        let schema = Arc::new(self.found.schema.clone());
        let found = sources.into_iter().map(|source| self.parts_of(source, change));
        let found = found.collect::<Result<Vec<_>>>()?;
        let parts = self.settle(found, &change.next)?;
        let mut view = View::new(schema, self.found.lsn, parts, None);
        for (entry, bytes) in self.found.logs.iter().zip(logs) {
            let frames = Frames::new(&self.found, entry.number, bytes);
            if self.blind {
                view.lsn = view.lsn.max(frames.before());
            }
            view = frames.apply(view)?;
        }
        change.next.lsn = view.lsn;
        self.report.rows = view.live_rows();
        change.flush(&view, &[]).map(drop)
    }

    /// The parts a source becomes: itself, or new segments of what is left.
    fn parts_of(&mut self, source: Source, change: &mut Change) -> Result<Found> {
        let Source { mut entry, dead, state } = source;
        let were_dead = entry.tombstones.map_or(0, |t| u64::from(t.dead));
        let number = entry.number;
        let parts = match state {
            State::Intact => {
                if !dead.is_known() {
                    entry.tombstones = None;
                }
                let part = self.open(&entry, dead.rows())?;
                change.next.segments.push(entry);
                vec![part]
            }
            State::Lost => {
                self.report.lost += u64::from(entry.rows) - were_dead;
                Vec::new()
            }
            State::Logs => return self.replay(&entry, change),
            State::Log(log) => {
                self.report.rebuilt += 1;
                let changed = || {
                    let path = self.vfs.path(&FileKind::Wal.name(log.number));
                    Error::corrupt(path, 0, "was changed while it was read")
                };
                let part = logged::rows(self.vfs, &self.found, log)?.ok_or_else(changed)?;
                vec![write_part(part.with_dead(dead.rows()), change)?]
            }
            State::Damaged(salvage) => {
                self.report.rebuilt += 1;
                let logged = Logged::read(self.vfs, &self.found, &entry.kept)?;
                self.rebuild(&salvage, &logged, &dead.rows(), change)?
            }
        };
        Ok(Found { parts: parts.into_iter().map(|part| (number, part)).collect(), dead })
    }

    /// A new segment for each log that a lost one kept. How many rows that had lived there tells
    /// how many of these had been dead, unless another log is lost, too.
    fn replay(&mut self, entry: &SegmentEntry, change: &mut Change) -> Result<Found> {
        let mut parts = Vec::new();
        let all = logged::replay(self.vfs, &self.found, &entry.kept, &mut |log, part| {
            parts.push((log, write_part(part, change)?));
            Ok(())
        })?;
        let came: u64 = parts.iter().map(|(_, part)| part.live_rows()).sum();
        let lived = u64::from(entry.rows) - entry.tombstones.map_or(0, |t| u64::from(t.dead));
        self.report.rebuilt += usize::from(came > 0);
        self.report.lost += lived.saturating_sub(came);
        let exact = all && !self.blind;
        let dead = if exact { Dead::AtMost(came.saturating_sub(lived)) } else { Dead::Unknown };
        Ok(Found { parts, dead })
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
        change: &mut Change,
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
                parts.push(write_run(full, change)?);
            }
        }
        if run.len() > 0 {
            parts.push(write_run(run, change)?);
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
        let vector = salvage.vector(row).ok().or_else(|| Some(logged?.vector));
        let payload = salvage.payload(row).ok().or_else(|| Some(logged?.payload.to_owned()));
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

    /// Of rows with one id one may live. A row that may have been dead gives way to any that
    /// was not, the older of two such to the newer.
    fn settle(&mut self, found: Vec<Found>, next: &Manifest) -> Result<Vec<Arc<Part>>> {
        let (mut parts, mut unsure, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        for (source, found) in found.into_iter().enumerate() {
            counts.push((found.dead.most(), 0));
            if found.dead.is_known() {
                parts.extend(found.parts.into_iter().map(|(_, part)| part));
            } else {
                unsure.extend(found.parts.into_iter().map(|part| (part, source)));
            }
        }
        unsure.sort_by_key(|((number, _), _)| Reverse(*number));
        for ((_, part), source) in unsure {
            let dead = replaced(slice::from_ref(&part), &parts)?.remove(0);
            let part = part.with_dead(dead);
            let (most, living) = &mut counts[source];
            // Those that give way were dead.
            *most = most.saturating_sub(part.dead.len());
            *living += part.live_rows();
            parts.push(Arc::new(part));
        }
        self.report.undeleted = counts.iter().map(|(most, living)| most.min(living)).sum();
        // The order of the manifest, which `Change::flush` goes by.
        let place =
            |part: &Arc<Part>| next.segments.iter().position(|e| Some(e.number) == part.segment);
        parts.sort_by_key(place);
        Ok(parts)
    }
}

fn write_run(run: RunBuilder, change: &mut Change) -> Result<Arc<Part>> {
    write_part(Part::new(Arc::new(run.finish()), Arc::default(), None), change)
}

/// Writes the living rows of a part as a new segment.
fn write_part(part: Part, change: &mut Change) -> Result<Arc<Part>> {
    let entry = change.segment(&[Arc::new(part)], &[], &|_| Ok(()))?;
    change.part(&entry)
}

//! The commits of a log, whether all of it can be read or not.

use std::path::Path;
use std::sync::Arc;

use super::super::apply;
use super::super::load::is_finite;
use crate::codec::header::{FileHeader, MAX_COUNTER};
use crate::error::{Error, Result};
use crate::manifest::{LogEntry, Manifest};
use crate::types::{FileNumber, Lsn};
use crate::view::{Part, View};
use crate::wal::format::{ALIGN, LogName, wal_frame};
use crate::wal::ops::{self, Operation};
use crate::wal::reader::commits;

/// The commits of a log, damaged or not.
pub(super) struct Frames<'a> {
    manifest: &'a Manifest,
    name: LogName,
    bytes: &'a [u8],
}

/// A frame that is whole.
struct Valid<'a> {
    lsn: Lsn,
    operations: Vec<Operation<'a>>,
    /// Where its body begins,
    body: usize,
    /// and where it ends.
    end: usize,
}

impl<'a> Frames<'a> {
    pub(super) fn new(manifest: &'a Manifest, number: FileNumber, bytes: &'a [u8]) -> Self {
        let name = LogName { collection: manifest.collection, number };
        Self { manifest, name, bytes }
    }

    /// The valid frames behind `before`.
    fn valid(&self, before: Lsn) -> Vec<Valid<'a>> {
        let (mut at, mut last, mut all) = (FileHeader::LEN, before, Vec::new());
        while let Some((frame, body, end)) = self.name.frame(self.bytes, at) {
            let parsed = self.parse(body, frame.operations).filter(|_| frame.lsn == last.next());
            let Some(operations) = parsed else { break };
            all.push(Valid { lsn: frame.lsn, operations, body: at + wal_frame::LEN, end });
            (at, last) = (end, frame.lsn);
        }
        all
    }

    /// The operations of the valid frames, in order, with places that count from the beginning of
    /// the log.
    pub(super) fn operations(&self) -> impl Iterator<Item = Operation<'a>> {
        let frames = self.valid(self.before()).into_iter();
        frames.flat_map(|Valid { operations, body, .. }| {
            operations.into_iter().map(move |operation| operation.behind(body))
        })
    }

    fn parse(&self, body: &'a [u8], operations: u32) -> Option<Vec<Operation<'a>>> {
        let schema = &self.manifest.schema;
        let parsed = ops::parse(body, operations, schema.ids(), schema.vector_bytes()).ok()?;
        let mut wide = vec![0.0; schema.dims()];
        parsed.iter().all(|one| is_finite(one, schema, &mut wide)).then_some(parsed)
    }

    /// The LSN before that of the first frame, as that says; 0 where there is none.
    pub(super) fn before(&self) -> Lsn {
        let first = self.name.head(self.bytes, FileHeader::LEN);
        let first = first.filter(|head| head.lsn.0 <= MAX_COUNTER);
        Lsn(first.map_or(0, |head| head.lsn.0.saturating_sub(1)))
    }

    /// The last LSN of the valid frames behind `before`, and where they end.
    pub(super) fn valid_from(&self, before: Lsn) -> (Lsn, usize) {
        let none = (before, self.bytes.len().min(FileHeader::LEN));
        self.valid(before).last().map_or(none, |frame| (frame.lsn, frame.end))
    }

    /// Fails where an open would: if the log is damaged, or a commit holds what
    /// cannot be applied.
    pub(super) fn check(&self, path: &Path, entry: LogEntry, before: Lsn) -> Result<()> {
        let all = commits(self.bytes, path, &self.manifest.collection, entry, before)?;
        let Some(bad) = all.get(self.valid(before).len()) else { return Ok(()) };
        Err(Error::corrupt(path, bad.at, "holds operations that cannot be read"))
    }

    /// The highest LSN of the frames that begin at `start` or behind it, whole
    /// or not.
    pub(super) fn highest_from(&self, start: usize) -> Lsn {
        let places = (start..self.bytes.len()).step_by(ALIGN);
        let heads = places.filter_map(|at| self.name.head(self.bytes, at));
        heads.map(|head| head.lsn).max().unwrap_or_default()
    }

    /// The rows that the valid frames leave, as if there had been no others; `None` without any.
    pub(super) fn rows(&self) -> Result<Option<Part>> {
        let schema = Arc::new(self.manifest.schema.clone());
        let view = View::new(schema, self.before(), Vec::new(), None);
        Ok(self.apply(view)?.parts.pop().map(|run| run.freeze()))
    }

    /// The view after the valid frames that come next.
    pub(super) fn apply(&self, view: View) -> Result<View> {
        let valid = self.valid(view.lsn);
        let Some(lsn) = valid.last().map(|frame| frame.lsn) else { return Ok(view) };
        let operations: Vec<_> = valid.into_iter().flat_map(|frame| frame.operations).collect();
        apply::apply(&view, lsn, &operations, None)
    }
}

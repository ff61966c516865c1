//! Reading every byte of a collection and comparing it with what vouches for it.

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::Collection;
use super::open::{check_logs, read_tombstones};
use crate::codec::header::FileKind;
use crate::error::{Error, Result};
use crate::manifest::{self, GraphEntry, Manifest, SegmentEntry};
use crate::segment::check::{Check, Span};
use crate::segment::graph;
use crate::vfs::Vfs;

/// Most threads that sum blocks: more would wait for the disk.
const THREADS: usize = 4;
/// Spans a thread takes at once: it then reads a stretch of the file in order.
const TAKE: usize = 16;

/// What [`Collection::verify`] read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Files.
    pub files: usize,
    /// Bytes.
    pub bytes: u64,
}

impl Collection {
    /// Reads every file of the collection from disk and compares every byte that
    /// can change an answer with its checksum. Commits and searches go on
    /// meanwhile; segments that are merged away meanwhile are passed over.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the first damage found.
    pub fn verify(&self) -> Result<Verified> {
        let vfs = &*self.shared.vfs;
        let mut verified = Verified { files: 1, bytes: 0 };
        let manifest = self.verify_logs(&mut verified)?;
        for entry in &manifest.segments {
            let read = check_segment(vfs, &manifest, entry, THREADS).and_then(|segment| {
                read_tombstones(vfs, &manifest, entry)?;
                let tombstones = entry.tombstones.map(|t| FileKind::Tombstones.name(t.number));
                let graph = manifest.graph_of(entry.number);
                let graph = graph.map(|graph| check_graph(vfs, &manifest, entry, &graph, THREADS));
                let tombstones = tombstones.map(|name| len(vfs, &name));
                Ok((segment, [tombstones.transpose()?, graph.transpose()?]))
            });
            match read {
                Ok((segment, others)) => {
                    verified.files += 1 + others.iter().flatten().count();
                    verified.bytes += segment + others.iter().flatten().sum::<u64>();
                }
                // A flush or a merge may have replaced the files meanwhile.
                Err(_) if !same_files(&manifest::load_installed(vfs)?, &manifest, entry) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(verified)
    }

    /// Reads manifest and logs, while the writer waits: it appends to a log.
    fn verify_logs(&self, verified: &mut Verified) -> Result<Manifest> {
        let vfs = &*self.shared.vfs;
        let writer = self.shared.writer.as_ref().map(|writer| writer.lock());
        let manifest = manifest::load_installed(vfs)?;
        if writer.as_ref().is_some_and(|w| w.healthy().is_ok() && !w.installed(&manifest)) {
            let what = "is not the one this handle installed";
            return Err(Error::corrupt(vfs.path(manifest::NAME), 0, what));
        }
        verified.bytes += len(vfs, manifest::NAME)?;
        check_logs(vfs, &manifest, writer.and_then(|w| w.open_log()))?;
        for log in &manifest.logs {
            verified.files += 1;
            verified.bytes += len(vfs, &FileKind::Wal.name(log.number))?;
        }
        Ok(manifest)
    }
}

/// Whether a segment, its dead rows and its graph are the same in both.
fn same_files(now: &Manifest, before: &Manifest, entry: &SegmentEntry) -> bool {
    now.segments.contains(entry) && now.graph_of(entry.number) == before.graph_of(entry.number)
}

fn len(vfs: &dyn Vfs, name: &str) -> Result<u64> {
    Ok(vfs.open(name)?.map_or(0, |file| file.len()))
}

/// Compares all of a segment file, and returns its length.
pub(super) fn check_segment(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    entry: &SegmentEntry,
    threads: usize,
) -> Result<u64> {
    let name = FileKind::Segment.name(entry.number);
    let Some(file) = vfs.open(&name)? else {
        return Err(Error::corrupt(vfs.path(&name), 0, "is missing"));
    };
    let check = Check::new(&*file, &manifest.collection, &manifest.schema, entry)?;
    check_all(&check, threads)?;
    Ok(entry.len)
}

/// Compares all of a graph file, and returns its length.
pub(super) fn check_graph(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    segment: &SegmentEntry,
    entry: &GraphEntry,
    threads: usize,
) -> Result<u64> {
    let file = graph::file(vfs, entry)?;
    let (dims, entry) = (manifest.schema.dims(), entry.as_segment(segment.rows));
    check_all(&Check::of_graph(&*file, &manifest.collection, dims, &entry)?, threads)?;
    Ok(entry.len)
}

fn check_all(check: &Check, threads: usize) -> Result<()> {
    let spans = check.spans();
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(cores).min(spans.len().div_ceil(TAKE));
    let (next, first) = (AtomicUsize::new(0), Mutex::new(None));
    let work = || check_spans(check, &spans, &next, &first);
    std::thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(work)));
        work();
    });
    match first.into_inner() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Takes spans until there are none, or damage was found before them: which
/// damage is reported does not depend on threads.
fn check_spans(
    check: &Check,
    spans: &[Span],
    next: &AtomicUsize,
    first: &Mutex<Option<(usize, Error)>>,
) {
    let mut buffer = Vec::new();
    loop {
        let start = next.fetch_add(TAKE, Ordering::Relaxed);
        if start >= spans.len() || first.lock().as_ref().is_some_and(|(at, _)| *at < start) {
            return;
        }
        let stretch = &spans[start..spans.len().min(start + TAKE)];
        for (at, span) in (start..).zip(stretch) {
            if let Err(error) = check.read(*span, &mut buffer) {
                let mut first = first.lock();
                if first.as_ref().is_none_or(|(earlier, _)| at < *earlier) {
                    *first = Some((at, error));
                }
                return;
            }
        }
    }
}

//! Reading every byte of a collection and comparing it with what vouches for it.

use std::num::NonZero;
use std::sync::Arc;

use super::Collection;
use super::open::{check_logs, read_tombstones};
use crate::codec::header::FileKind;
use crate::error::{Error, Result};
use crate::manifest::{self, GraphEntry, Manifest, SegmentEntry};
use crate::segment::check::{Check, SPAN, Span};
use crate::segment::graph;
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, helper, thread};
use crate::vfs::{Vfs, open_named};

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
        let files = sealed_files(&manifest);
        for (file, checked) in files.iter().zip(check_files(vfs, &manifest, &files, THREADS)) {
            let read = checked.and_then(|()| {
                let Some(tombstones) = file.tombstones() else { return Ok(None) };
                read_tombstones(vfs, &manifest, &file.entry)?;
                len(vfs, &tombstones).map(Some)
            });
            match read {
                Ok(tombstones) => {
                    let beside = [tombstones.is_some(), file.entry.log.is_some()];
                    verified.files += 1 + beside.into_iter().filter(|there| *there).count();
                    verified.bytes += file.len() + tombstones.unwrap_or(0);
                }
                // A flush or a merge may have replaced the files meanwhile.
                Err(_) if !sealed_files(&manifest::load_installed(vfs)?).contains(file) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(verified)
    }

    /// Reads manifest and logs, while the writer waits: it appends to a log.
    fn verify_logs(&self, verified: &mut Verified) -> Result<Manifest> {
        let vfs = &*self.shared.vfs;
        let writer = self.shared.writer.as_ref().map(|writer| writer.lock());
        let open = writer.as_ref().and_then(|w| w.open_log());
        let (manifest, bytes) = self.shared.settled(|manifest| {
            if writer.as_ref().is_some_and(|w| w.healthy().is_ok() && !w.installed(manifest)) {
                let what = "is not the one this handle installed";
                return Err(Error::corrupt(vfs.path(manifest::NAME), 0, what));
            }
            check_logs(vfs, manifest, open)?;
            let logs = manifest.logs.iter().map(|log| FileKind::Wal.name(log.number));
            let names = logs.chain([manifest::NAME.to_owned()]);
            let bytes = names.map(|name| len(vfs, &name)).sum::<Result<u64>>()?;
            Ok((manifest.clone(), bytes))
        })?;
        verified.files += manifest.logs.len();
        verified.bytes += bytes;
        Ok(manifest)
    }
}

/// A file that is never written to again: a segment, or the graph of one.
#[derive(PartialEq)]
pub(super) struct Sealed {
    /// Of the file, as of a segment.
    entry: SegmentEntry,
    graph: Option<GraphEntry>,
}

impl Sealed {
    pub(super) fn segment(entry: &SegmentEntry) -> Self {
        Self { entry: *entry, graph: None }
    }

    pub(super) fn graph(graph: GraphEntry, segment: &SegmentEntry) -> Self {
        Self { entry: graph.as_segment(segment.rows), graph: Some(graph) }
    }

    /// The name of the list of a segment's dead rows.
    fn tombstones(&self) -> Option<String> {
        let tombstones = self.entry.tombstones.filter(|_| self.graph.is_none())?;
        Some(FileKind::Tombstones.name(tombstones.number))
    }

    fn open(&self, vfs: &dyn Vfs, manifest: &Manifest) -> Result<Check> {
        if let Some(graph) = &self.graph {
            let (file, dims) = (graph::file(vfs, graph)?, manifest.schema.dims());
            return Check::of_graph(file, &manifest.collection, dims, &self.entry);
        }
        let file = open_named(vfs, &FileKind::Segment.name(self.entry.number))?;
        let log = self.entry.log.map(|log| open_named(vfs, &FileKind::Wal.name(log.number)));
        Check::new(file, log.transpose()?, &manifest.collection, &manifest.schema, &self.entry)
    }

    /// Its bytes, with those of the log that it keeps.
    fn len(&self) -> u64 {
        self.entry.len + self.entry.log.map_or(0, |log| log.len)
    }
}

/// The segments and graphs that a manifest names.
fn sealed_files(manifest: &Manifest) -> Vec<Sealed> {
    let files = manifest.segments.iter().flat_map(|segment| {
        let graph = manifest.graph_of(segment.number);
        let graph = graph.map(|graph| Sealed::graph(graph, segment));
        [Some(Sealed::segment(segment)), graph].into_iter().flatten()
    });
    files.collect()
}

fn len(vfs: &dyn Vfs, name: &str) -> Result<u64> {
    Ok(vfs.open(name)?.map_or(0, |file| file.len()))
}

/// Compares all of each file with what vouches for it. What is found does not
/// depend on the number of threads, but for its order in time.
///
/// All threads work on one file after another: who finds no more to do in one
/// opens the next and does not wait for the others, so at most one file more (with the log
/// that it keeps) is open than there are threads.
pub(super) fn check_files(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    files: &[Sealed],
    threads: usize,
) -> Vec<Result<()>> {
    let open = |file: &Sealed| file.open(vfs, manifest);
    let feed = Feed {
        open: &open,
        files,
        at: Mutex::new((0, None)),
        found: files.iter().map(|_| Mutex::new(None)).collect(),
    };
    let stretch = (TAKE * SPAN) as u64;
    let stretches: u64 = files.iter().map(|file| file.len().div_ceil(stretch)).sum();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(cores).min(usize::try_from(stretches).unwrap_or(usize::MAX));
    thread::scope(|scope| {
        for _ in 1..threads {
            helper(scope, || feed.work());
        }
        feed.work();
    });
    let found = feed.found.into_iter().map(Mutex::into_inner);
    found.map(|found| found.map_or(Ok(()), |(_, error)| Err(error))).collect()
}

/// What threads take their work from.
struct Feed<'a> {
    open: &'a (dyn Fn(&Sealed) -> Result<Check> + Sync),
    files: &'a [Sealed],
    /// How many files were opened, and the last of them.
    at: Mutex<(usize, Option<Arc<Opened>>)>,
    /// The first damage in each file, with the span it is in.
    found: Vec<Mutex<Option<(usize, Error)>>>,
}

/// A file that is being compared.
struct Opened {
    file: usize,
    check: Check,
    spans: Vec<Span>,
    next: AtomicUsize,
}

impl Feed<'_> {
    fn work(&self) {
        let mut buffer = Vec::new();
        while let Some((opened, start)) = self.take() {
            let end = opened.spans.len().min(start + TAKE);
            for (at, span) in (start..end).zip(&opened.spans[start..end]) {
                if let Err(error) = opened.check.read(*span, &mut buffer) {
                    // Spans behind it say nothing new.
                    opened.next.store(opened.spans.len(), Ordering::Relaxed);
                    self.note(opened.file, at, error);
                    break;
                }
            }
        }
    }

    /// The next stretch of spans, of the file that is open or of the next.
    fn take(&self) -> Option<(Arc<Opened>, usize)> {
        let mut at = self.at.lock();
        loop {
            if let Some(opened) = &at.1 {
                let start = opened.next.fetch_add(TAKE, Ordering::Relaxed);
                if start < opened.spans.len() {
                    return Some((opened.clone(), start));
                }
            }
            let file = at.0;
            let entry = self.files.get(file)?;
            at.0 += 1;
            match (self.open)(entry) {
                Ok(check) => {
                    let (spans, next) = (check.spans(), AtomicUsize::new(0));
                    at.1 = Some(Arc::new(Opened { file, check, spans, next }));
                }
                Err(error) => self.note(file, 0, error),
            }
        }
    }

    fn note(&self, file: usize, at: usize, error: Error) {
        let mut found = self.found[file].lock();
        if found.as_ref().is_none_or(|(earlier, _)| at < *earlier) {
            *found = Some((at, error));
        }
    }
}

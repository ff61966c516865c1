//! Reading every byte of a collection and comparing it with what vouches for it.

use std::cell::Cell;
use std::num::NonZero;
use std::sync::Arc;

use super::load::{check_logs, read_tombstones};
use super::{Collection, Progress};
use crate::codec::header::{CollectionId, FileKind};
use crate::error::{Error, Result};
use crate::manifest::{self, GraphEntry, LogEntry, Manifest, SegmentEntry};
use crate::schema::Schema;
use crate::segment::check::{Check, LogCheck, RegionsCheck, SPAN, Span};
use crate::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Mutex, helper, thread};
use crate::vfs::{ReadFile, Vfs, open_named};

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
    /// can change an answer with its checksum. Searches go on meanwhile, and commits but for
    /// the moment in which logs are read; segments that are merged away meanwhile are passed over.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for the first damage found; [`Error::Io`] where a file cannot be read.
    pub fn verify(&self) -> Result<Verified> {
        self.verify_with(|_| true)
    }

    /// As [`Self::verify`], telling how far it is, in bytes of logs, segments and graphs: once manifest
    /// and logs were read, again every few MiB, and when all was. When `progress` returns
    /// false it ends with an error, whatever it has found so far.
    ///
    /// # Errors
    /// As [`Self::verify`]; [`Error::Cancelled`] if `progress` ended it.
    pub fn verify_with(&self, progress: impl Fn(Progress) -> bool) -> Result<Verified> {
        let vfs = &*self.handle.vfs;
        let mut verified = Verified { files: 1, bytes: 0 };
        let manifest = self.verify_logs(&mut verified)?;
        let files = sealed_files(&manifest);
        let before = verified.bytes;
        let total = before + files.iter().map(Sealed::len).sum::<u64>();
        let goes_on = Cell::new(true);
        let tell = |done: u64| {
            let done = (before + done).min(total);
            goes_on.set(goes_on.get() && progress(Progress { done, total }));
            goes_on.get()
        };
        let checked = check_files(vfs, &manifest, &files, THREADS, &tell);
        Error::unless(goes_on.get(), "verification")?;
        for (file, checked) in files.iter().zip(checked) {
            let read = checked.and_then(|()| file.read_tombstones(vfs, &manifest));
            match read {
                Ok(tombstones) => {
                    verified.files += 1 + usize::from(tombstones.is_some());
                    verified.bytes += file.len() + tombstones.unwrap_or(0);
                }
                // A flush or a merge may have replaced the files meanwhile.
                Err(_) if !sealed_files(&manifest::load_installed(vfs)?).contains(file) => {}
                Err(e) => return Err(e),
            }
        }
        Error::unless(progress(Progress { done: total, total }), "verification")?;
        Ok(verified)
    }

    /// Reads manifest and logs, while the writer waits: it appends to a log.
    fn verify_logs(&self, verified: &mut Verified) -> Result<Manifest> {
        let vfs = &*self.handle.vfs;
        // Of a fork the writer is as it was then, and may be locked for good.
        let writer = self.handle.writer.as_ref().filter(|_| !self.handle.is_forked());
        let writer = writer.map(|writer| writer.lock());
        // Behind a write that failed there may be half a frame, as after a crash.
        let open = writer.as_ref().filter(|w| w.healthy().is_ok()).and_then(|w| w.open_log());
        let (manifest, bytes) = self.handle.settled(|manifest| {
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

/// A file that is never written to again.
#[derive(PartialEq)]
pub(super) enum Sealed {
    Segment(SegmentEntry),
    /// One that a segment keeps.
    Log(LogEntry),
    /// The graph of a segment with this many rows.
    Graph(GraphEntry, u32),
}

impl Sealed {
    /// A segment, and the logs that it keeps.
    pub(super) fn of_segment(entry: &SegmentEntry) -> Vec<Self> {
        let logs = entry.kept.iter().map(|log| Self::Log(*log));
        [Self::Segment(entry.clone())].into_iter().chain(logs).collect()
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Segment(entry) => FileKind::Segment.name(entry.number),
            Self::Log(entry) => FileKind::Wal.name(entry.number),
            Self::Graph(entry, _) => FileKind::Graph.name(entry.number),
        }
    }

    fn open(&self, vfs: &dyn Vfs, manifest: &Manifest) -> Result<Box<dyn Check>> {
        let (file, collection) = (open_named(vfs, &self.name())?, &manifest.collection);
        self.check(file, collection, &manifest.schema)
    }

    /// What compares `file`, which is this one.
    pub(super) fn check(
        &self,
        file: Arc<dyn ReadFile>,
        collection: &CollectionId,
        schema: &Schema,
    ) -> Result<Box<dyn Check>> {
        Ok(match self {
            Self::Segment(entry) => Box::new(RegionsCheck::new(file, collection, schema, entry)?),
            Self::Log(entry) => Box::new(LogCheck::new(file, collection, *entry)?),
            Self::Graph(entry, rows) => {
                Box::new(RegionsCheck::of_graph(file, collection, schema.dims(), entry, *rows)?)
            }
        })
    }

    fn len(&self) -> u64 {
        match self {
            Self::Segment(entry) => entry.len,
            Self::Log(entry) => entry.len,
            Self::Graph(entry, _) => entry.len,
        }
    }

    /// Checks the list of a segment's dead rows; its bytes, if there is one.
    fn read_tombstones(&self, vfs: &dyn Vfs, manifest: &Manifest) -> Result<Option<u64>> {
        let Self::Segment(entry) = self else { return Ok(None) };
        let Some(tombstones) = entry.tombstones else { return Ok(None) };
        read_tombstones(vfs, manifest, entry)?;
        len(vfs, &FileKind::Tombstones.name(tombstones.number)).map(Some)
    }
}

/// The segments that a manifest names, with the logs they keep, and graphs.
fn sealed_files(manifest: &Manifest) -> Vec<Sealed> {
    let files = manifest.segments.iter().flat_map(|segment| {
        let graph = manifest.graph_of(segment.number);
        let graph = graph.map(|graph| Sealed::Graph(graph, segment.rows));
        Sealed::of_segment(segment).into_iter().chain(graph)
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
/// opens the next and does not wait for the others, so at most one file more is open than there
/// are threads.
///
/// `watch` is told, by this thread, how many bytes were compared before each stretch that it takes,
/// the first of all among them, and when it finds no more; where it says no, the rest is not.
pub(super) fn check_files(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    files: &[Sealed],
    threads: usize,
    watch: &dyn Fn(u64) -> bool,
) -> Vec<Result<()>> {
    let open = |file: &Sealed| file.open(vfs, manifest);
    let feed = Feed {
        open: &open,
        files,
        at: Mutex::new((0, None)),
        done: AtomicU64::new(0),
        found: files.iter().map(|_| Mutex::new(None)).collect(),
    };
    let stretch = (TAKE * SPAN) as u64;
    let stretches: u64 = files.iter().map(|file| file.len().div_ceil(stretch)).sum();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(cores).min(usize::try_from(stretches).unwrap_or(usize::MAX));
    thread::scope(|scope| {
        // Before others could have taken all.
        let first = feed.take();
        for _ in 1..threads {
            helper(scope, || feed.work(feed.take(), &|_| true));
        }
        feed.work(first, watch);
    });
    let found = feed.found.into_iter().map(Mutex::into_inner);
    found.map(|found| found.map_or(Ok(()), |(_, error)| Err(error))).collect()
}

/// What threads take their work from.
struct Feed<'a> {
    open: &'a (dyn Fn(&Sealed) -> Result<Box<dyn Check>> + Sync),
    files: &'a [Sealed],
    /// How many files were opened, and the last of them.
    at: Mutex<(usize, Option<Arc<Opened>>)>,
    /// Bytes that were compared.
    done: AtomicU64,
    /// The first damage in each file, with the span it is in.
    found: Vec<Mutex<Option<(usize, Error)>>>,
}

/// A file that is being compared.
struct Opened {
    file: usize,
    check: Box<dyn Check>,
    spans: Vec<Span>,
    next: AtomicUsize,
}

impl Feed<'_> {
    /// Compares a stretch, and others until there are no more.
    fn work(&self, mut taken: Option<(Arc<Opened>, usize)>, watch: &dyn Fn(u64) -> bool) {
        let mut buffer = Vec::new();
        while let Some((opened, start)) = taken {
            if !watch(self.done.load(Ordering::Relaxed)) {
                return self.stop();
            }
            let end = opened.spans.len().min(start + TAKE);
            for (at, span) in (start..end).zip(&opened.spans[start..end]) {
                if let Err(error) = opened.check.read(*span, &mut buffer) {
                    // Spans behind it say nothing new.
                    opened.next.store(opened.spans.len(), Ordering::Relaxed);
                    self.note(opened.file, at, error);
                    break;
                }
                self.done.fetch_add(span.bytes(), Ordering::Relaxed);
            }
            taken = self.take();
        }
        watch(self.done.load(Ordering::Relaxed));
    }

    /// Leaves nothing more to take.
    fn stop(&self) {
        let mut at = self.at.lock();
        at.0 = self.files.len();
        if let Some(opened) = at.1.take() {
            opened.next.store(opened.spans.len(), Ordering::Relaxed);
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

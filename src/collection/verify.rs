//! Reading every byte of a collection and comparing it with what vouches for it.

use std::num::NonZero;
use std::sync::Arc;

use super::Collection;
use super::open::{check_logs, read_tombstones};
use crate::codec::header::FileKind;
use crate::error::{Error, Result};
use crate::manifest::{self, Manifest, SegmentEntry};
use crate::segment::check::{Check, SPAN, Span};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::{Mutex, thread};
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
        let checked = check_segments(vfs, &manifest, &manifest.segments, THREADS);
        for (entry, checked) in manifest.segments.iter().zip(checked) {
            let read = checked.and_then(|()| {
                read_tombstones(vfs, &manifest, entry)?;
                let tombstones = entry.tombstones.map(|t| FileKind::Tombstones.name(t.number));
                tombstones.map_or(Ok(None), |name| len(vfs, &name).map(Some))
            });
            match read {
                Ok(tombstones) => {
                    verified.files += 1 + usize::from(tombstones.is_some());
                    verified.bytes += entry.len + tombstones.unwrap_or(0);
                }
                // A flush or a merge may have replaced the files meanwhile.
                Err(_) if !manifest::load_installed(vfs)?.segments.contains(entry) => {}
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

fn len(vfs: &dyn Vfs, name: &str) -> Result<u64> {
    Ok(vfs.open(name)?.map_or(0, |file| file.len()))
}

/// Compares all of each segment file with what vouches for it. What is found
/// does not depend on the number of threads, but for its order in time.
///
/// All threads work on one file after another: who finds no more to do in one
/// opens the next and does not wait for the others, so at most one file more is
/// open than there are threads.
pub(super) fn check_segments(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    entries: &[SegmentEntry],
    threads: usize,
) -> Vec<Result<()>> {
    let open = |entry: &SegmentEntry| open_segment(vfs, manifest, entry);
    let feed = Feed {
        open: &open,
        entries,
        at: Mutex::new((0, None)),
        found: entries.iter().map(|_| Mutex::new(None)).collect(),
    };
    let stretch = (TAKE * SPAN) as u64;
    let stretches: u64 = entries.iter().map(|entry| entry.len.div_ceil(stretch)).sum();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = threads.min(cores).min(usize::try_from(stretches).unwrap_or(usize::MAX));
    thread::scope(|scope| {
        (1..threads).for_each(|_| drop(scope.spawn(|| feed.work())));
        feed.work();
    });
    let found = feed.found.into_iter().map(Mutex::into_inner);
    found.map(|found| found.map_or(Ok(()), |(_, error)| Err(error))).collect()
}

fn open_segment(vfs: &dyn Vfs, manifest: &Manifest, entry: &SegmentEntry) -> Result<Check> {
    let name = FileKind::Segment.name(entry.number);
    let Some(file) = vfs.open(&name)? else {
        return Err(Error::corrupt(vfs.path(&name), 0, "is missing"));
    };
    Check::new(file, &manifest.collection, &manifest.schema, entry)
}

/// What threads take their work from.
struct Feed<'a> {
    open: &'a (dyn Fn(&SegmentEntry) -> Result<Check> + Sync),
    entries: &'a [SegmentEntry],
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
            let entry = self.entries.get(file)?;
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

//! Graphs of segments: built, dropped, opened.
//!
//! A graph is built from an immutable segment without any lock; only installing it does
//! lock. Until then searches scan, and a crash leaves a stray file. When segments are
//! merged their graphs go with them, and the merged segment gets one of its own: walking
//! the larger one for the rows of the smaller would save little, because most time goes
//! into the walks of new rows either way, and it would make the graph depend on history.

use std::num::NonZero;
use std::sync::Arc;

use super::files::NewFiles;
use super::{Collection, Engine, Progress};
use crate::codec::header::FileKind;
use crate::error::{Error, Result};
use crate::graph::{self, Attached, Graph, MIN_ROWS, Vectors};
use crate::manifest::{GraphEntry, Manifest, SegmentEntry};
use crate::rows::Column;
use crate::schema::{Metric, Schema};
use crate::segment::graph as file;
use crate::sync::atomic::Ordering;
use crate::sync::thread;
use crate::types::Ordinal;
use crate::vfs::Vfs;
use crate::view::Part;

/// Most threads that build a graph.
const THREADS: usize = 4;
/// Norms that differ by no more than this factor are taken for equal.
const ALIKE: f32 = 1.01;

/// What [`Collection::build_graphs`] or [`Collection::drop_graphs`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Graphs {
    /// Segments that got, or lost, a graph.
    pub segments: usize,
    /// Their rows.
    pub rows: u64,
}

impl Collection {
    /// Gives every segment of at least two rows a graph, if it has none and can have
    /// one: searches then walk from row to row instead of scanning all codes, where the
    /// planner expects that to be quicker. Rows in RAM are flushed first. A graph that was
    /// found to be damaged ([`Info::graph_errors`](crate::Info::graph_errors)) is replaced; in
    /// the background it is left as it is, for somebody to look at the disk.
    ///
    /// A segment can have a graph under [`Metric::Cosine`], and under the other metrics
    /// if all its vectors have the same length (within 1 %): near rows are then near
    /// under all of them.
    ///
    /// # Errors
    /// As [`Self::flush`]: [`Error::Io`] where a file could not be written, [`Error::Corrupt`]
    /// where a vector is damaged, and what forbids to write at all. Nothing is lost then.
    pub fn build_graphs(&self) -> Result<Graphs> {
        self.build_graphs_with(|_| true)
    }

    /// As [`Self::build_graphs`], telling how far the graph at hand is, in rows. When
    /// `progress` returns false it ends early and keeps the graphs built before. It may read and write
    /// the collection, but not merge it or build or drop graphs: those would wait for each other.
    ///
    /// # Errors
    /// As [`Self::build_graphs`]; [`Error::Cancelled`] if `progress` ended it.
    pub fn build_graphs_with(&self, progress: impl Fn(Progress) -> bool) -> Result<Graphs> {
        self.flush()?;
        let engine: &Engine = &self.handle;
        let _alone = engine.compacting.lock();
        build_all(engine, 0, Damaged::Replace, &progress)
    }

    /// Drops all graphs. Searches are slower then, and find the same rows or more; with
    /// [`Options::graph_min_rows`](crate::Options::graph_min_rows) at its default, large
    /// segments get new ones when next something is merged or the collection is opened.
    ///
    /// # Errors
    /// [`Error::Io`] where the manifest could not be written; [`Error::ReadOnly`],
    /// [`Error::Poisoned`] or [`Error::Forked`], as for [`Self::flush`].
    pub fn drop_graphs(&self) -> Result<Graphs> {
        let engine: &Engine = &self.handle;
        // In a fork nobody would end what goes on.
        engine.writer()?;
        let _alone = engine.compacting.lock();
        let mut writer = engine.lock_writer()?;
        let view = engine.view();
        let mut dropped = Graphs::default();
        if writer.manifest.graphs.is_empty() {
            return Ok(dropped);
        }
        writer.change(&*engine.vfs, |change| {
            change.next.graphs.clear();
            Ok(())
        })?;
        let mut parts = view.parts.clone();
        for part in parts.iter_mut().filter(|part| part.graph.is_some()) {
            dropped.segments += 1;
            dropped.rows += u64::from(part.rows.len());
            *part = Arc::new(part.with_graph(None));
        }
        engine.publish(&mut writer, view.with(view.lsn, parts));
        Ok(dropped)
    }
}

/// Opens the graph of a segment, if it has one. One that is damaged is no error: it says so.
pub(super) fn open(
    vfs: &dyn Vfs,
    manifest: &Manifest,
    segment: &SegmentEntry,
) -> Result<Option<Arc<Attached>>> {
    let Some(entry) = manifest.graph_of(segment.number) else { return Ok(None) };
    let dims = manifest.schema.dims();
    let opened = file::open(vfs, &manifest.collection, dims, &entry, segment.rows);
    Attached::new(opened).map(Arc::new).map(Some)
}

/// What is done about graphs that are damaged.
#[derive(Clone, Copy, PartialEq)]
enum Damaged {
    Leave,
    Replace,
}

/// Whether a segment wants a graph that it has not.
pub(super) fn has_work(engine: &Engine) -> bool {
    next_wanted(engine, engine.options.graph_min_rows, Damaged::Leave).is_some()
}

/// What the background thread does when there is nothing left to merge.
pub(super) fn run_policy(engine: &Engine) -> Result<()> {
    let _alone = engine.compacting.lock();
    let go_on = |_| !engine.closing.load(Ordering::Relaxed);
    build_wanted(engine, engine.options.graph_min_rows, &go_on).map(drop)
}

/// Builds the graphs of all segments of at least `min_rows` rows that want one.
pub(super) fn build_wanted(
    engine: &Engine,
    min_rows: u64,
    progress: &dyn Fn(Progress) -> bool,
) -> Result<Graphs> {
    build_all(engine, min_rows, Damaged::Leave, progress)
}

fn build_all(
    engine: &Engine,
    min_rows: u64,
    damaged: Damaged,
    progress: &dyn Fn(Progress) -> bool,
) -> Result<Graphs> {
    let mut done = Graphs::default();
    while let Some(part) = next_wanted(engine, min_rows, damaged) {
        build_one(engine, &part, progress)?;
        done.segments += 1;
        done.rows += u64::from(part.rows.len());
    }
    Ok(done)
}

fn next_wanted(engine: &Engine, min_rows: u64, damaged: Damaged) -> Option<Arc<Part>> {
    let replace = damaged == Damaged::Replace;
    let wants = |part: &&Arc<Part>| {
        let rows = part.rows.len();
        part.segment.is_some()
            && (part.graph.is_none() || replace && part.graph_damage().is_some())
            && rows >= MIN_ROWS
            && u64::from(rows) >= min_rows
            && (engine.schema.metric() == Metric::Cosine || has_alike_norms(part))
    };
    engine.view().parts.iter().find(wants).cloned()
}

/// Whether all norms are nearly the same; where they cannot be read, not.
fn has_alike_norms(part: &Part) -> bool {
    if part.rows.ready(Column::Norms).is_err() {
        return false;
    }
    let norms = part.rows.norms();
    let (least, most) =
        norms.iter().fold((f32::MAX, 0f32), |(least, most), n| (least.min(*n), most.max(*n)));
    most <= least * ALIKE
}

/// Builds the graph of a segment and installs it, unless the segment is gone by then.
fn build_one(engine: &Engine, part: &Part, progress: &dyn Fn(Progress) -> bool) -> Result<()> {
    let vfs = &*engine.vfs;
    let segment = part.segment.expect("only segments have graphs");
    let total = u64::from(part.rows.len());
    let watch = |done| Error::unless(progress(Progress { done, total }), "building of a graph");
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let source = Source { part, schema: &engine.schema };
    let built = graph::build(&source, cores.min(THREADS), &watch)?;
    let (number, owner) = engine.lock_writer()?.reserve_number(vfs)?;
    let mut new = NewFiles::new(vfs);
    new.add(FileKind::Graph.name(number));
    let entry = file::write(vfs, owner, number, segment, &built)?;
    new.sync_names()?;
    let dims = engine.schema.dims();
    let graph = file::open(vfs, &owner.collection, dims, &entry, part.rows.len())?;
    install(engine, new, entry, graph)
}

/// Installs a graph, whose file is durable.
fn install(engine: &Engine, file: NewFiles, entry: GraphEntry, graph: Graph) -> Result<()> {
    let mut writer = engine.lock_writer()?;
    if !writer.manifest.segments.iter().any(|segment| segment.number == entry.segment) {
        // A flush has dropped the segment: all its rows are dead.
        return Ok(());
    }
    writer.change(&*engine.vfs, |change| {
        change.adopt(file);
        change.next.graphs.retain(|damaged| damaged.segment != entry.segment);
        change.next.graphs.push(entry);
        Ok(())
    })?;
    let view = engine.view();
    let graph = Arc::new(Attached::new(Ok(graph))?);
    let mut parts = view.parts.clone();
    for part in parts.iter_mut().filter(|part| part.segment == Some(entry.segment)) {
        *part = Arc::new(part.with_graph(Some(graph.clone())));
    }
    engine.publish(&mut writer, view.with(view.lsn, parts));
    Ok(())
}

/// The vectors of a segment, dead rows included: they are walked over too.
struct Source<'a> {
    part: &'a Part,
    schema: &'a Schema,
}

impl Vectors for Source<'_> {
    fn rows(&self) -> u32 {
        self.part.rows.len()
    }

    fn dims(&self) -> usize {
        self.schema.dims()
    }

    fn read(&self, row: u32, into: &mut [f32]) -> Result<()> {
        self.schema.stored().decode(self.part.rows.vector(Ordinal(row))?, into);
        Ok(())
    }
}

//! Compaction: several segments become one, and dead rows are left behind.
//!
//! Merging reads immutable segments and writes a new file, so it needs no lock;
//! only installing the result does. Rows that die meanwhile are carried over as
//! tombstones of the new segment.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::files::NewSegment;
use super::reserve::retry;
use super::{Collection, Engine, Progress, calibrate, graph};
use crate::encoding::are_near;
use crate::error::{Error, Result};
use crate::rows::{Column, Rows};
use crate::segment::reader::Segment;
use crate::sown::{Bug, sown};
use crate::sync::atomic::Ordering;
use crate::view::{Part, View};

/// Segments of like size that are merged at once.
const FAN_IN: usize = 4;
/// A segment with this share of dead rows, in percent, is rewritten by itself.
const DEAD_PERCENT: u64 = 25;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Compacted {
    /// Segments that were merged away.
    pub segments: usize,
    /// Rows that were copied.
    pub rows: u64,
    /// Dead rows whose bytes are gone.
    pub reclaimed: u64,
}

impl Collection {
    /// Merges all rows into one segment and frees the bytes of dead ones.
    ///
    /// # Errors
    /// As [`Self::flush`]: [`Error::Io`] where a file could not be written, [`Error::Corrupt`]
    /// where a row is damaged, and what forbids to write at all. Nothing is lost then.
    pub fn compact(&self) -> Result<Compacted> {
        self.compact_with(|_| true)
    }

    /// As [`Self::compact`], telling how far it is: first the merge, in rows (at the first, every
    /// 1024, and once more when all are written, before they are installed), then each graph that
    /// [`Options::graph_min_rows`](crate::Options::graph_min_rows) asks for. Where there is
    /// nothing to merge it is told of none. When `progress`
    /// returns false it ends early: a merge changes nothing then, and where graphs are built what
    /// was merged stays so, as do the graphs built before. It may read and write the collection,
    /// but not merge it or build or drop graphs: those would wait for each other.
    ///
    /// # Errors
    /// As [`Self::compact`]; [`Error::Cancelled`] if `progress` ended it.
    pub fn compact_with(&self, progress: impl Fn(Progress) -> bool) -> Result<Compacted> {
        self.flush()?;
        let engine: &Engine = &self.handle;
        let _alone = engine.compacting.lock();
        let group = segments(&engine.view());
        // In a log there may be rows that died before their segment was written.
        let clean = |part: &Arc<Part>| {
            part.dead.is_empty() && part.rows.mapped().is_none_or(|mapped| mapped.logs.is_empty())
        };
        let clean = group.iter().all(clean);
        let compacted = if group.len() < 2 && clean {
            Compacted::default()
        } else {
            merge(engine, group, Vectors::Written, &progress)?
        };
        graph::build_wanted(engine, engine.options.graph_min_rows, &progress)?;
        if calibrate::has_work(engine) {
            self.handle.engine.wake();
        }
        Ok(compacted)
    }
}

#[cfg(feature = "testing")]
impl Collection {
    /// Merges all segments as the background would.
    pub(crate) fn merge_all(&self, watch: &dyn Fn()) -> Result<Compacted> {
        let engine: &Engine = &self.handle;
        let _alone = engine.compacting.lock();
        let progress = |_: Progress| {
            watch();
            true
        };
        let group = segments(&engine.view());
        merge(engine, group, Vectors::Kept, &progress)
    }
}

/// Merges what the policy names until it names nothing; what the background
/// thread does. Ends early when the collection is being closed.
pub(super) fn run_policy(engine: &Engine) -> Result<()> {
    while !engine.closing.load(Ordering::Relaxed) {
        let _alone = engine.compacting.lock();
        let Some(group) = choose(&segments(&engine.view())) else { return Ok(()) };
        // One alone is rewritten for the room that its dead rows take.
        let vectors = if group.len() > 1 { Vectors::Kept } else { Vectors::Written };
        // What is written need not be thrown away.
        let goes_on =
            |now: Progress| now.done == now.total || !engine.closing.load(Ordering::Relaxed);
        merge(engine, group, vectors, &goes_on)?;
    }
    Ok(())
}

/// Whether the policy names anything to merge.
pub(super) fn has_work(view: &View) -> bool {
    choose(&segments(view)).is_some()
}

fn segments(view: &View) -> Vec<Arc<Part>> {
    view.parts.iter().filter(|part| part.segment.is_some()).cloned().collect()
}

/// Size-tiered: segments whose numbers of living rows have the same magnitude
/// (a power of [`FAN_IN`]) are merged when there are that many, smallest first.
/// A row is thus copied once per magnitude.
fn choose(segments: &[Arc<Part>]) -> Option<Vec<Arc<Part>>> {
    let tier = |part: &Arc<Part>| part.live_rows().max(1).ilog(FAN_IN as u64);
    let mut tiers: Vec<u32> = segments.iter().map(tier).collect();
    tiers.sort_unstable();
    let crowded = tiers.windows(FAN_IN).find(|w| w[0] == w[FAN_IN - 1]).map(|w| w[0]);
    if let Some(crowded) = crowded {
        return Some(segments.iter().filter(|part| tier(part) == crowded).cloned().collect());
    }
    let stale = |part: &&Arc<Part>| part.dead.len() * 100 >= part_rows(part) * DEAD_PERCENT;
    let stale = segments.iter().filter(|part| !part.dead.is_empty()).find(stale);
    stale.map(|part| vec![part.clone()])
}

fn part_rows(part: &Part) -> u64 {
    u64::from(part.rows.len())
}

/// What becomes of the vectors of merged segments.
#[derive(Clone, Copy, PartialEq)]
enum Vectors {
    /// They stay in the logs that the sources keep, where that is worth it.
    Kept,
    /// They go to the new segment, and nothing of dead rows is left.
    Written,
}

/// Merges; where there is no room for the new segment, with the reserve.
fn merge(
    engine: &Engine,
    group: Vec<Arc<Part>>,
    mut vectors: Vectors,
    progress: &dyn Fn(Progress) -> bool,
) -> Result<Compacted> {
    let vfs = &*engine.vfs;
    let work = |vectors: &mut Vectors| loop {
        match merge_once(engine, &group, *vectors, progress)? {
            Merged::Done(done) => return Ok(done),
            Merged::LogsGone => *vectors = Vectors::Written,
        }
    };
    // Once: commits take the reserve back as soon as there is room for it.
    let done = retry(&mut vectors, work, |_, _| Ok(engine.lock_writer()?.reserve.spend(vfs)));
    if let Ok(mut writer) = engine.lock_writer() {
        // Where there is still no room the next commit says so.
        let _ = writer.reserve.refill(vfs);
    }
    // The RAM of what was merged away was not there for others as long as we held it.
    drop(group);
    let _ = engine.residency.settle(&engine.view());
    done
}

/// What became of a merge.
enum Merged {
    Done(Compacted),
    /// Nothing: all rows of a source have died meanwhile, and with it went the logs it kept.
    LogsGone,
}

fn merge_once(
    engine: &Engine,
    group: &[Arc<Part>],
    vectors: Vectors,
    progress: &dyn Fn(Progress) -> bool,
) -> Result<Merged> {
    let vfs = &*engine.vfs;
    let (number, logs) = {
        let mut writer = engine.lock_writer()?;
        let logs = if vectors == Vectors::Kept { writer.kept_by(group) } else { Vec::new() };
        (writer.reserve_number(vfs)?, logs)
    };
    let total = group.iter().map(|part| part.live_rows()).sum();
    let watch = |done| Error::unless(progress(Progress { done, total }), "compaction");
    let write = || NewSegment::write(vfs, number, &engine.schema, group, &logs, &watch);
    let merged = match (total > 0).then(write).transpose() {
        // The new segment did not open without them.
        Err(Error::Corrupt(_)) if !engine.lock_writer()?.keeps(group, &logs) => {
            return Ok(Merged::LogsGone);
        }
        written => written?,
    };
    watch(total)?;
    // Now, while nobody waits for us.
    merged.iter().for_each(|new| engine.residency.welcome(&[&new.segment]));
    // Damage is told by whoever searches.
    let recoded = |new: &NewSegment| recoded(engine, group, &new.segment).unwrap_or(0);
    let recoded = merged.as_ref().map_or(0, recoded);
    if !install(engine, group, merged, recoded)? {
        return Ok(Merged::LogsGone);
    }
    Ok(Merged::Done(Compacted {
        segments: group.len(),
        rows: total,
        reclaimed: group.iter().map(|part| part.dead.len()).sum(),
    }))
}

/// Rows that the merged segment codes about centres other than theirs were: of their codes no
/// calibration knows.
fn recoded(engine: &Engine, group: &[Arc<Part>], merged: &Segment) -> Result<u64> {
    let mut rows = 0;
    for part in group {
        let mut same = true;
        for (stage, code) in engine.schema.stages().iter().enumerate() {
            if code.centre_len() > 0 {
                part.rows.ready(Column::Stage(stage))?;
                merged.ready(Column::Stage(stage))?;
                same &= are_near(part.rows.code(stage).centre(), merged.code(stage).centre());
            }
        }
        rows += if same { 0 } else { part.live_rows() };
    }
    Ok(rows)
}

/// Installs what `group` was merged into, `recoded` rows of it about other centres; whether the
/// logs that it keeps were all there still.
fn install(
    engine: &Engine,
    group: &[Arc<Part>],
    merged: Option<NewSegment>,
    recoded: u64,
) -> Result<bool> {
    let old = sown(Bug::MergeOnOldView).then(|| engine.view());
    let mut writer = engine.lock_writer()?;
    let view = old.unwrap_or_else(|| engine.view());
    let mut died = died_meanwhile(&view, group);
    if sown(Bug::MergeForgetsDead) {
        died.clear();
    }
    let merged = merged.filter(|new| died.len() < u64::from(new.entry.rows));
    if merged.as_ref().is_some_and(|new| !writer.keeps(group, &new.entry.kept)) {
        return Ok(false);
    }
    let merged = writer.install_merged(&*engine.vfs, group, merged, died, recoded)?;
    let mut view = replaced(&view, group, merged);
    view.calibration = writer.manifest.calibration.clone().map(Arc::new);
    engine.publish(&mut writer, view);
    Ok(true)
}

/// Rows of the new segment that died while it was written. Row `r` of a
/// source became row `base + r - (dead rows up to r)`.
pub(super) fn died_meanwhile(view: &View, group: &[Arc<Part>]) -> RoaringBitmap {
    let mut died = RoaringBitmap::new();
    let mut base = 0;
    for part in group {
        let live = part.live_rows() as u32;
        match view.parts.iter().find(|p| Arc::ptr_eq(&p.rows, &part.rows)) {
            Some(now) => {
                let new = &*now.dead - &*part.dead;
                let gone = |row| {
                    let before = part.dead.rank(row) as u32;
                    if sown(Bug::MergeMistakesDead) { 0 } else { before }
                };
                died.extend(new.iter().map(|row| base + row - gone(row)));
            }
            // The segment was dropped, or the run: all its rows are dead.
            None => {
                died.insert_range(base..base + live);
            }
        }
        base += live;
    }
    died
}

/// The view with `merged` in the place of its sources.
pub(super) fn replaced(view: &View, group: &[Arc<Part>], merged: Option<Arc<Part>>) -> View {
    let is_source =
        |part: &&Arc<Part>| group.iter().any(|source| Arc::ptr_eq(&source.rows, &part.rows));
    let mut parts: Vec<_> = view.parts.iter().filter(|p| !is_source(p)).cloned().collect();
    let at = parts.iter().position(|p| p.segment.is_none()).unwrap_or(parts.len());
    parts.splice(at..at, merged);
    view.with(view.lsn, parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memtable::RunBuilder;
    use crate::schema::Schema;
    use crate::types::{FileNumber, RowId};

    /// Parts with that many rows, of which some are dead.
    fn parts(sizes: &[(u32, u32)]) -> Vec<Arc<Part>> {
        let schema = Arc::new(Schema::builder(1).build().expect("valid"));
        let part = |(n, (rows, dead)): (usize, &(u32, u32))| {
            let mut run = RunBuilder::new(&schema);
            (0..*rows).for_each(|id| run.push(&RowId::U64(u64::from(id)), &[0, 0, 0, 64], ""));
            let dead = Arc::new((0..*dead).collect());
            Arc::new(Part::new(Arc::new(run.finish()), dead, Some(FileNumber(n as u64))))
        };
        sizes.iter().enumerate().map(part).collect()
    }

    fn chosen(sizes: &[(u32, u32)]) -> Option<Vec<u64>> {
        let group = choose(&parts(sizes))?;
        Some(group.iter().map(|p| p.segment.expect("a segment").0).collect())
    }

    #[test]
    fn segments_of_one_magnitude_are_merged_when_there_are_four() {
        assert_eq!(chosen(&[(20, 0), (20, 0), (20, 0)]), None);
        assert_eq!(chosen(&[(300, 0), (20, 0), (17, 0), (63, 0), (16, 0)]), Some(vec![1, 2, 3, 4]));
        assert_eq!(chosen(&[(300, 0), (20, 0), (17, 0), (63, 0), (64, 0)]), None);
    }

    #[test]
    fn a_segment_with_many_dead_rows_is_rewritten() {
        assert_eq!(chosen(&[(100, 24), (1000, 0)]), None);
        assert_eq!(chosen(&[(1000, 0), (100, 25)]), Some(vec![1]));
    }
}

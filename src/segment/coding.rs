//! Codes the rows of a segment while their vectors are written. Rows that come from segments have
//! been coded: their codes are copied.
//!
//! Rows are cut into groups of whole blocks, and each group goes to the next thread
//! that is free. It is coded by itself, so the codes depend on the rows alone.

use std::cmp::Reverse;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::encoding::{StageBuilder, StageCode, are_near, centre};
use crate::error::{Error, Result};
use crate::kernel::BLOCK;
use crate::memtable::Codes;
use crate::rows::{CodeColumn, Column, ReadAhead, Rows};
use crate::schema::Schema;
use crate::types::Ordinal;

/// A row to be written: where it is now.
pub(crate) type Source<'a> = (&'a dyn Rows, Ordinal);

/// Rows coded at once; their codes stay in a core's cache, or nearly.
const GROUP: usize = 16 * BLOCK;
/// Most threads that code, the one that writes among them: a segment is written
/// beside commits and searches, and by more than these the medium is busy anyway.
const MOST_THREADS: usize = 4;

/// The codes of a group of rows.
pub(super) enum Coded<'a> {
    Held(Codes),
    /// Segments have them. They are copied when they are written, column by column, so a merge
    /// holds those of one group; about another centre they are made anew then.
    InSegments(&'a [Source<'a>]),
}

impl Coded<'_> {
    pub(super) fn norms<T>(&self, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
        let group = match self {
            Self::Held(codes) => return Ok(read(&codes.norms)),
            Self::InSegments(group) => group,
        };
        let mut norms = Vec::with_capacity(group.len());
        for (source, rows) in runs(group) {
            source.ready(Column::Norms)?;
            norms.extend_from_slice(&source.norms()[rows]);
        }
        Ok(read(&norms))
    }

    /// Those of a stage of the schema, about its centre.
    pub(super) fn stage<T>(
        &self,
        schema: &Schema,
        (stage, centre): (usize, &[f32]),
        read: impl FnOnce(&CodeColumn) -> T,
    ) -> Result<T> {
        let group = match self {
            Self::Held(codes) => return Ok(read(&codes.stages[stage])),
            Self::InSegments(group) => group,
        };
        let code = schema.stages()[stage];
        let mut made = StageBuilder::with_room(code, group.len()).about(centre);
        let (mut wide, mut ahead) = (vec![0.0; code.dims], ReadAhead::default());
        for rows in group.chunk_by(|a, b| ptr::addr_eq(a.0, b.0)) {
            let source = rows[0].0;
            source.ready(Column::Stage(stage))?;
            let codes = source.code(stage);
            if codes.is_about(centre) {
                runs(rows).for_each(|(_, rows)| made.extend(&codes, rows));
                continue;
            }
            for (source, row) in rows {
                ahead.before(*source, *row);
                schema.stored().decode(source.vector(*row)?, &mut wide);
                made.push(&wide);
            }
        }
        Ok(read(&made.into()))
    }
}

/// The centre of each stage for a segment of these rows: their own, or one as good of a segment
/// that they come from, of that which has the most of them, for its codes are about it.
pub(super) fn centres(schema: &Schema, rows: &[Source]) -> Result<Vec<Vec<f32>>> {
    let mut sources: Vec<(&dyn Rows, usize)> = Vec::new();
    for (source, rows) in runs(rows) {
        match sources.iter_mut().rev().find(|(other, _)| ptr::addr_eq(*other, source)) {
            Some((_, count)) => *count += rows.len(),
            None => sources.push((source, rows.len())),
        }
    }
    sources.retain(|(source, _)| is_coded(*source));
    sources.sort_by_key(|(_, rows)| Reverse(*rows));
    let centre_of = |(stage, code): (usize, &StageCode)| {
        let own = centre(*code, rows.len(), |at, wide| {
            let (source, row) = rows[at];
            match source.vector(row) {
                Ok(vector) => schema.stored().decode(vector, wide),
                // Whoever needs it says so: a merge may leave it where it is.
                Err(Error::Corrupt(_)) => wide.fill(0.0),
                Err(e) => return Err(e),
            }
            Ok(())
        })?;
        for (source, _) in &sources {
            source.ready(Column::Stage(stage))?;
            let centre = source.code(stage).centre();
            if are_near(centre, &own) {
                return Ok(centre.to_vec());
            }
        }
        Ok(own)
    };
    schema.stages().iter().enumerate().map(centre_of).collect()
}

/// Whether rows have their codes on disk: those of a segment.
fn is_coded(source: &dyn Rows) -> bool {
    source.column(Column::Norms).is_some()
}

/// Rows of a group that lie one after another in the same place.
fn runs<'a>(group: &[Source<'a>]) -> impl Iterator<Item = (&'a dyn Rows, Range<usize>)> {
    let follows = |a: &Source, b: &Source| ptr::addr_eq(a.0, b.0) && a.1.0 + 1 == b.1.0;
    group.chunk_by(follows).map(|run| {
        let (source, first) = (run[0].0, run[0].1.index());
        (source, first..first + run.len())
    })
}

/// The codes of rows, in groups, in their order.
struct Coding<'a> {
    schema: &'a Schema,
    /// Of each stage.
    centres: &'a [Vec<f32>],
    groups: Vec<&'a [Source<'a>]>,
    /// The next group that nobody has taken.
    next: AtomicUsize,
}

impl<'a> Coding<'a> {
    /// Codes groups as long as there are any.
    fn work(&self) -> Result<Vec<(usize, Coded<'a>)>> {
        let mut done = Vec::new();
        loop {
            let at = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = self.groups.get(at) else { return Ok(done) };
            done.push((at, self.codes(group).inspect_err(|_| self.end())?));
        }
    }

    fn codes(&self, group: &'a [Source<'a>]) -> Result<Coded<'a>> {
        if group.iter().all(|(source, _)| is_coded(*source)) {
            return Ok(Coded::InSegments(group));
        }
        let vectors = group.iter().map(|(source, row)| source.vector(*row));
        Codes::of(self.schema, self.centres, group.len(), vectors).map(Coded::Held)
    }

    /// Leaves the groups that are left to nobody.
    fn end(&self) {
        self.next.store(self.groups.len(), Ordering::Relaxed);
    }
}

/// Does `write`, and has other threads code the rows meanwhile; this one helps when
/// it has written. Returns the codes of groups of rows, each of whole blocks but the
/// last.
pub(super) fn beside<'a, T>(
    schema: &'a Schema,
    centres: &'a [Vec<f32>],
    rows: &'a [Source<'a>],
    write: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<Coded<'a>>)> {
    let groups: Vec<_> = rows.chunks(GROUP).collect();
    let helpers = if groups.len() < 2 { 0 } else { threads().min(groups.len()) - 1 };
    let coding = Coding { schema, centres, groups, next: AtomicUsize::new(0) };
    let (written, coded) = thread::scope(|scope| {
        let help = |_| {
            let sown = crate::sown::inherit();
            let work = || {
                sown();
                coding.work()
            };
            // Where there is no thread to be had, there are fewer.
            thread::Builder::new().name("matryo-code".into()).spawn_scoped(scope, work).ok()
        };
        let helpers: Vec<_> = (0..helpers).filter_map(help).collect();
        let written = write().inspect_err(|_| coding.end());
        let mut coded = vec![coding.work()];
        for helper in helpers {
            coded.push(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        (written, coded)
    });
    let written = written?;
    let mut groups = Vec::new();
    for some in coded {
        groups.extend(some?);
    }
    groups.sort_unstable_by_key(|(at, _)| *at);
    Ok((written, groups.into_iter().map(|(_, codes)| codes).collect()))
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::Error;
    use crate::memtable::{Run, RunBuilder};
    use crate::schema::Schema;
    use crate::types::RowId;

    /// A schema whose codes have all numbers of bits, and rows of it.
    fn sample(rows: u32) -> (Arc<Schema>, Run) {
        let schema = Schema::builder(130).granularities([8, 64]).build().expect("valid");
        let schema = Arc::new(schema);
        let bits: Vec<_> = schema.stages().iter().map(|code| code.bits.count()).collect();
        assert_eq!(bits, [8, 1, 4]);
        let mut run = RunBuilder::new(&schema);
        for row in 0..rows {
            let value = |d: u32| ((row * 131 + d * 17) % 509) as f32 - 254.0;
            let bytes: Vec<u8> = (0..130).flat_map(|d| value(d).to_le_bytes()).collect();
            run.push(&RowId::U64(u64::from(row)), &bytes, "");
        }
        (schema, run.finish())
    }

    fn sources(run: &Run) -> Vec<Source<'_>> {
        (0..run.len()).map(|row| (run as &dyn Rows, Ordinal(row))).collect()
    }

    #[test]
    fn groups_have_the_codes_of_their_rows_whoever_codes_them() {
        for rows in [0, 1, GROUP, GROUP + 1, 3 * GROUP + 100] {
            let (schema, run) = sample(rows as u32);
            let sources = sources(&run);
            let centres = centres(&schema, &sources).expect("read");
            let (said, groups) = beside(&schema, &centres, &sources, || Ok(7)).expect("codes");
            assert_eq!(said, 7);
            assert_eq!(groups.len(), rows.div_ceil(GROUP));
            for (group, codes) in sources.chunks(GROUP).zip(&groups) {
                let Coded::Held(codes) = codes else { panic!("of rows in RAM") };
                let vectors = group.iter().map(|(source, row)| source.vector(*row));
                let alone = Codes::of(&schema, &centres, group.len(), vectors).expect("codes");
                assert_eq!(alone.norms, codes.norms);
                for (a, b) in alone.stages.iter().zip(&codes.stages) {
                    assert!(a.blocks() == b.blocks() && a.scalars() == b.scalars());
                }
            }
        }
    }

    #[test]
    fn coding_ends_when_writing_fails() {
        let (schema, run) = sample(3 * GROUP as u32);
        let failed = || Err::<(), _>(Error::invalid("test", "no"));
        let sources = sources(&run);
        let centres = centres(&schema, &sources).expect("read");
        let got = beside(&schema, &centres, &sources, failed).map(|_| ());
        assert!(matches!(got, Err(Error::Invalid { what: "test", .. })), "{got:?}");
    }
}

//! Of rows with one id in several parts one lives: which are the others?
//!
//! Parts know their rows in the order of ids, so they are merged by it, as sorted
//! runs are (Knuth, The Art of Computer Programming 3, section 5.4.1): each row is
//! looked at once, whatever the number of parts. Of two sides of which only common
//! ids matter, the one behind leaps to where the other is, with steps that double
//! (Bentley and Yao, Inf. Proc. Letters 5, 1976), so a small side costs little
//! beside a large one.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::error::Result;
use crate::types::{Ordinal, RowId};
use crate::view::Part;

/// Of each of `parts`, oldest first, the living rows whose id a later one has, or a
/// later row of the same part.
pub(super) fn superseded(parts: &[Arc<Part>]) -> Result<Vec<RoaringBitmap>> {
    let mut dead = vec![RoaringBitmap::new(); parts.len()];
    let mut rows = Sorted::new(parts)?;
    let mut newest: Option<Head> = None;
    while let Some(row) = rows.next()? {
        let Some(last) = newest.take() else {
            newest = Some(row);
            continue;
        };
        if last.id == row.id {
            let last_is_older = (last.part, last.row) < (row.part, row.row);
            let (older, newer) = if last_is_older { (last, row) } else { (row, last) };
            dead[older.part].insert(older.row.0);
            newest = Some(newer);
        } else {
            newest = Some(row);
        }
    }
    Ok(dead)
}

/// Of each of `parts` the living rows whose id one of `newer` has.
pub(super) fn replaced(parts: &[Arc<Part>], newer: &[Arc<Part>]) -> Result<Vec<RoaringBitmap>> {
    let mut dead = vec![RoaringBitmap::new(); parts.len()];
    let (mut old, mut new) = (Sorted::new(parts)?, Sorted::new(newer)?);
    while let (Some(a), Some(b)) = (old.first(), new.first()) {
        match a.id.cmp(&b.id) {
            Ordering::Less => {
                let id = b.id.clone();
                old.leap(&id)?;
            }
            Ordering::Greater => {
                let id = a.id.clone();
                new.leap(&id)?;
            }
            Ordering::Equal => {
                dead[a.part].insert(a.row.0);
                old.next()?;
            }
        }
    }
    Ok(dead)
}

/// The living rows of several parts, in the order of their ids.
struct Sorted<'a> {
    parts: &'a [Arc<Part>],
    /// The first row of each part that has some left.
    heads: BinaryHeap<Reverse<Head>>,
}

/// A row, and where it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Head {
    id: RowId,
    part: usize,
    rank: u32,
    row: Ordinal,
}

impl<'a> Sorted<'a> {
    fn new(parts: &'a [Arc<Part>]) -> Result<Self> {
        let mut heads = Vec::with_capacity(parts.len());
        for part in 0..parts.len() {
            heads.extend(living(parts, part, 0)?.map(Reverse));
        }
        Ok(Self { parts, heads: heads.into() })
    }

    fn first(&self) -> Option<&Head> {
        self.heads.peek().map(|Reverse(head)| head)
    }

    /// Takes the first row.
    fn next(&mut self) -> Result<Option<Head>> {
        let Some(top) = self.heads.peek_mut() else { return Ok(None) };
        let after = living(self.parts, top.0.part, top.0.rank + 1)?;
        Ok(Some(put(top, after)))
    }

    /// Passes all rows with ids below this one.
    fn leap(&mut self, id: &RowId) -> Result<()> {
        while let Some(top) = self.heads.peek_mut()
            && top.0.id < *id
        {
            let rank = seek(&self.parts[top.0.part], top.0.rank, id)?;
            let there = living(self.parts, top.0.part, rank)?;
            put(top, there);
        }
        Ok(())
    }
}

/// Puts another row of its part in the place of the first, or none.
fn put(mut top: PeekMut<'_, Reverse<Head>>, head: Option<Head>) -> Head {
    match head {
        Some(head) => std::mem::replace(&mut top.0, head),
        None => PeekMut::pop(top).0,
    }
}

/// The first living row from `rank` on.
fn living(parts: &[Arc<Part>], part: usize, rank: u32) -> Result<Option<Head>> {
    let Part { rows, dead, .. } = &*parts[part];
    for rank in rank..rows.len() {
        let row = rows.at_rank(rank)?;
        if !dead.contains(row.0) {
            return Ok(Some(Head { id: rows.id(row)?, part, rank, row }));
        }
    }
    Ok(None)
}

/// The first rank behind `rank`, whose id is below this one, with an id that is not.
fn seek(part: &Part, rank: u32, id: &RowId) -> Result<u32> {
    let rows = &*part.rows;
    let is_below = |rank| -> Result<bool> { Ok(rows.id(rows.at_rank(rank)?)? < *id) };
    let (mut below, mut step) = (rank, 1);
    let mut end = loop {
        match below.checked_add(step).filter(|next| *next < rows.len()) {
            None => break rows.len(),
            Some(next) if is_below(next)? => (below, step) = (next, step.saturating_mul(2)),
            Some(next) => break next,
        }
    };
    while end - below > 1 {
        let middle = below + (end - below) / 2;
        if is_below(middle)? { below = middle } else { end = middle }
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering::Relaxed;

    use proptest::prelude::*;

    use super::*;
    use crate::encoding::StageView;
    use crate::index::Index;
    use crate::memtable::RunBuilder;
    use crate::rows::Rows;
    use crate::schema::Schema;
    use crate::types::IdKind;

    /// A part with rows of these ids, of which some are dead.
    fn part(kind: IdKind, rows: &[(u64, bool)]) -> Arc<Part> {
        let schema = Arc::new(Schema::builder(1).ids(kind).build().expect("valid"));
        let mut run = RunBuilder::new(&schema);
        for (id, _) in rows {
            let id = match kind {
                IdKind::U64 => RowId::U64(*id),
                IdKind::Str => RowId::from(format!("row {id}")),
            };
            run.push(&id, &[0, 0, 0, 64], "");
        }
        let dead = rows.iter().zip(0..).filter(|((_, dead), _)| *dead).map(|(_, row)| row);
        Arc::new(Part::new(Arc::new(run.finish()), Arc::new(dead.collect()), None))
    }

    /// Rows that count how often their order is asked for.
    struct Counted(Arc<dyn Rows>, AtomicUsize);

    impl Rows for Counted {
        fn len(&self) -> u32 {
            self.0.len()
        }

        fn id(&self, row: Ordinal) -> Result<RowId> {
            self.0.id(row)
        }

        fn at_rank(&self, rank: u32) -> Result<Ordinal> {
            self.1.fetch_add(1, Relaxed);
            self.0.at_rank(rank)
        }

        fn vector(&self, row: Ordinal) -> Result<&[u8]> {
            self.0.vector(row)
        }

        fn payload(&self, row: Ordinal) -> Result<String> {
            self.0.payload(row)
        }

        fn index(&self, field: usize) -> Result<Index<'_>> {
            self.0.index(field)
        }

        fn norms(&self) -> &[f32] {
            self.0.norms()
        }

        fn code(&self, stage: usize) -> StageView<'_> {
            self.0.code(stage)
        }

        fn ram_bytes(&self) -> usize {
            0
        }
    }

    /// Parts of 50 rows each, whose ids are spread over all of them.
    fn counted(parts: u64, shift: u64) -> (Vec<Arc<Part>>, Vec<Arc<Counted>>) {
        let ids = |n| (0..50).map(move |row| ((row * parts + n) * 7 + shift, false));
        let rows = |n| part(IdKind::U64, &ids(n).collect::<Vec<_>>()).rows.clone();
        let counted = |n| Arc::new(Counted(rows(n), AtomicUsize::new(0)));
        let counted: Vec<_> = (0..parts).map(counted).collect();
        let part = |rows: &Arc<Counted>| Arc::new(Part::new(rows.clone(), Arc::default(), None));
        (counted.iter().map(part).collect(), counted)
    }

    fn looks(counted: &[Arc<Counted>]) -> usize {
        counted.iter().map(|rows| rows.1.swap(0, Relaxed)).sum()
    }

    #[test]
    fn rows_are_looked_at_once_however_many_parts_there_are() {
        for parts in [1, 40, 400] {
            let rows = parts as usize * 50;
            let (all, counts) = counted(parts, 0);
            assert!(superseded(&all).expect("in RAM").iter().all(RoaringBitmap::is_empty));
            assert_eq!(looks(&counts), rows);
            // As many others, between which they lie.
            let (others, beside) = counted(parts, 3);
            assert!(replaced(&all, &others).expect("in RAM").iter().all(RoaringBitmap::is_empty));
            let seen = looks(&counts) + looks(&beside);
            assert!(seen < 4 * 2 * rows, "{seen} looks at {rows} and as many rows");
            // One beside many: each of them is asked for a few places.
            let (one, few) = counted(1, 0);
            let found = replaced(&all, &one).expect("in RAM");
            assert_eq!(found.iter().map(RoaringBitmap::len).sum::<u64>(), 50);
            let seen = looks(&counts) + looks(&few);
            assert!(seen < 20 * parts as usize + 300, "{seen} looks at {parts} parts");
        }
    }

    fn ids() -> impl Strategy<Value = Vec<Vec<(u64, bool)>>> {
        let row = (0..60u64, prop::bool::weighted(0.2));
        prop::collection::vec(prop::collection::vec(row, 0..40), 0..7)
    }

    proptest! {
        /// What one after another looked up would give.
        #[test]
        fn the_newest_of_each_id_lives(rows in ids(), newer in ids(), kind in any::<bool>()) {
            let kind = if kind { IdKind::U64 } else { IdKind::Str };
            let all = |rows: &[Vec<(u64, bool)>]| -> Vec<_> {
                rows.iter().map(|rows| part(kind, rows)).collect()
            };
            let living = |rows: &[Vec<(u64, bool)>]| {
                let place = |part: usize, rows: &[(u64, bool)]| -> Vec<_> {
                    let living = rows.iter().enumerate().filter(|(_, (_, dead))| !dead);
                    living.map(|(row, (id, _))| (*id, part, row as u32)).collect()
                };
                rows.iter().enumerate().flat_map(|(n, rows)| place(n, rows)).collect::<Vec<_>>()
            };
            let (parts, new) = (all(&rows), all(&newer));
            let last: HashMap<_, _> =
                living(&rows).into_iter().map(|(id, part, row)| (id, (part, row))).collect();
            let new_ids: Vec<u64> = living(&newer).into_iter().map(|(id, ..)| id).collect();
            let mut expected = vec![RoaringBitmap::new(); rows.len()];
            let mut given_way = expected.clone();
            for (id, part, row) in living(&rows) {
                if last[&id] != (part, row) {
                    expected[part].insert(row);
                }
                if new_ids.contains(&id) {
                    given_way[part].insert(row);
                }
            }
            prop_assert_eq!(superseded(&parts).expect("in RAM"), expected);
            prop_assert_eq!(replaced(&parts, &new).expect("in RAM"), given_way);
        }
    }
}

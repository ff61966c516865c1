//! Deleting what passes a filter.
//!
//! Few rows are deleted as by a batch, through the log. Of many, the log would hold an operation
//! for each, and each would be looked up by its id; so they become tombstones at once, with one
//! manifest, as a bulk load does it.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::Collection;
use super::commit;
use crate::error::Result;
use crate::filter::Filter;
use crate::query;
use crate::types::{MAX_ID_BYTES, Ordinal, RowId};
use crate::view::{Part, View};
use crate::wal::format::{Frame, MAX_BODY};

/// Most rows that are deleted through the log.
const LOGGED: u64 = 1 << 14;
// Their ids fit one frame, however long they are.
const _: () = assert!(LOGGED as usize * (MAX_ID_BYTES + 16) <= MAX_BODY);

impl Collection {
    /// Deletes the rows that pass a filter, and says how many: those that pass when it is
    /// committed, for no other commit comes between the look and the deletion. It is one commit,
    /// whatever the number of rows: after a crash all are gone or none. Many rows (more than
    /// 16 384) are deleted by way of a [`flush`](Self::flush), for which commits wait, and are
    /// durable when this returns under any [`Durability`](crate::Durability).
    ///
    /// ```
    /// use matryo::{Collection, FieldKind, Schema, field, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("books.matryo");
    /// let schema = Schema::builder(2).field("year", FieldKind::Integer).build()?;
    /// let books = Collection::create(&path, schema)?;
    /// books.upsert(1, &[0.1, 0.9], json!({"year": 1999}))?;
    /// books.upsert(2, &[0.2, 0.8], json!({"year": 2021}))?;
    /// assert_eq!(books.delete_where(&field("year").lt(2000))?, 1);
    /// assert_eq!(books.len(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`Self::count`], [`Batch::commit`](crate::Batch::commit) and [`Self::flush`]; nothing
    /// was deleted then.
    pub fn delete_where(&self, filter: &Filter) -> Result<u64> {
        let mut few = true;
        let deleted = commit::replace(&self.handle, |view| {
            let rows = query::passing(view, filter)?;
            let count: u64 = rows.iter().map(RoaringBitmap::len).sum();
            few = count <= LOGGED;
            if !few || count == 0 {
                return Ok(None);
            }
            deletes(view, &rows).map(Some)
        })?;
        if few { Ok(deleted) } else { self.delete_many(filter) }
    }

    fn delete_many(&self, filter: &Filter) -> Result<u64> {
        let (engine, vfs) = (&self.handle.engine, &*self.handle.vfs);
        let mut writer = engine.idle_writer()?;
        let view = engine.view();
        let rows = query::passing(&view, filter)?;
        let deleted = rows.iter().map(RoaringBitmap::len).sum();
        if deleted == 0 {
            return Ok(0);
        }
        let less = |(part, rows): (&Arc<Part>, &RoaringBitmap)| {
            if rows.is_empty() {
                return part.clone();
            }
            Arc::new(part.with_dead(&*part.dead | rows))
        };
        let parts = view.parts.iter().zip(&rows).map(less).collect();
        let next = view.with(view.lsn.next(), parts);
        let flushed = writer.with_reserve(vfs, |writer| writer.flush(vfs, &next))?;
        engine.publish(&mut writer, flushed);
        drop(writer);
        engine.wake();
        Ok(deleted)
    }
}

/// Deletes of these rows of each part.
fn deletes(view: &View, rows: &[RoaringBitmap]) -> Result<Frame> {
    let ids = view
        .parts
        .iter()
        .zip(rows)
        .flat_map(|(part, rows)| rows.iter().map(|row| part.rows.id(Ordinal(row))));
    let mut frame = Frame::for_body(0);
    for id in ids.collect::<Result<Vec<RowId>>>()? {
        frame.delete(&id);
    }
    Ok(frame)
}

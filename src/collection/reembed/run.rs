//! A run: the shadow catches up with the collection.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use serde_json::Value;

use super::super::{Collection, Progress};
use super::{ReembedOptions, Reembedded, SourceRow, Work};
use crate::error::{Error, Result, VectorError};
use crate::payload::{self, Payload};
use crate::sown::{Bug, sown};
use crate::types::{MAX_ID_BYTES, RowId};
use crate::view::View;
use crate::wal::ops::MAX_PAYLOAD;

/// What the rows of one batch may take as the collection has them, unless it is one row:
/// with room for what grows when it is written as we write it, a commit's frame holds it.
const MAX_BATCH_BYTES: usize = 8 << 20;
/// Deletions in one commit, for the same reason.
const MAX_DELETES: u64 = 10_000;

/// A run: the shadow it fills, and how far it is.
pub(super) struct Run<'r, 'w> {
    shadow: &'r Collection,
    work: &'r mut Work<'w>,
    embedded: u64,
    unfit: Unfit,
    /// Rows that the pass left out.
    skipped: u64,
    /// What was told last.
    told: Option<Progress>,
}

/// Rows that are to be embedded.
#[derive(Default)]
struct Waiting {
    rows: Vec<SourceRow>,
    /// Of each row what it is known by if it is unfit, and whether the shadow has it
    /// with another payload.
    about: Vec<(Print, bool)>,
    bytes: usize,
}

type Print = (u64, u64);

/// Rows that were found unfit, by id and payload, so that the second pass does not try
/// them again: 16 bytes each, whatever their payloads take. That a row is taken for
/// another is as likely as that two random numbers of 128 bits are the same.
#[derive(Default)]
struct Unfit {
    found: HashSet<Print>,
    keys: (RandomState, RandomState),
}

impl Unfit {
    fn print(&self, id: &RowId, payload: &str) -> Print {
        let row = (id, payload);
        (self.keys.0.hash_one(row), self.keys.1.hash_one(row))
    }
}

impl<'r, 'w> Run<'r, 'w> {
    pub(super) fn new(shadow: &'r Collection, work: &'r mut Work<'w>) -> Self {
        Self { shadow, work, embedded: 0, unfit: Unfit::default(), skipped: 0, told: None }
    }

    pub(super) fn options(&self) -> &ReembedOptions {
        self.work.options
    }

    /// Makes the shadow have the rows of `source`, with their payloads, but for those
    /// that are left out.
    pub(super) fn catch_up(&mut self, source: &View) -> Result<()> {
        let known = self.shadow.view();
        if !sown(Bug::ReembedKeepsDeleted) {
            forget_deleted(source, &known, self.shadow)?;
        }
        let total = source.live_rows();
        self.skipped = 0;
        let (mut done, mut waiting) = (0, Waiting::default());
        self.tell(done, total)?;
        for part in &source.parts {
            part.rows.distrust();
            for row in part.living() {
                let (id, text) = (part.rows.id(row)?, part.rows.payload(row)?);
                let had = payload_of(&known, &id)?;
                if had.as_ref() == Some(&text) || (had.is_some() && sown(Bug::ReembedTrustsIds)) {
                    done += 1;
                    continue;
                }
                let print = self.unfit.print(&id, &text);
                if self.work.options.skip_unfit && self.unfit.found.contains(&print) {
                    (done, self.skipped) = (done + 1, self.skipped + 1);
                    continue;
                }
                let payload = part.parse_payload(row, &text)?;
                if had.is_some() && had == canonical(&payload) {
                    done += 1;
                    continue;
                }
                let size = self.shadow.schema().vector_bytes() + text.len() + MAX_ID_BYTES;
                let full = waiting.rows.len() == self.work.options.batch;
                if full || waiting.bytes + size > MAX_BATCH_BYTES {
                    done += self.commit(std::mem::take(&mut waiting))?;
                    self.tell(done, total)?;
                }
                waiting.bytes += size;
                waiting.rows.push(SourceRow { id, payload });
                waiting.about.push((print, had.is_some()));
            }
        }
        done += self.commit(waiting)?;
        self.tell(done, total)
    }

    /// What was done, if `new`, the rows of the shadow, are those of `source`, the last
    /// that it caught up with.
    pub(super) fn finished(&self, source: &View, new: &View) -> Result<Reembedded> {
        let (rows, all) = (new.live_rows(), source.live_rows());
        let expected = all - self.skipped;
        if rows != expected {
            let why = format!(
                "expected {expected} rows in the shadow, got {rows}: discard it with `restart`"
            );
            return Err(Error::invalid("reembed", why));
        }
        if rows == 0 && all > 0 {
            let why = format!(
                "each of the {all} rows is unfit and would be left out: is the source of the \
                 vectors named right?"
            );
            return Err(Error::invalid("reembed", why));
        }
        Ok(Reembedded { rows, embedded: self.embedded, skipped: self.skipped })
    }

    /// Embeds some rows and makes them durable in the shadow, all or none. How many
    /// they were.
    fn commit(&mut self, waiting: Waiting) -> Result<u64> {
        let Waiting { rows, about, .. } = waiting;
        if rows.is_empty() {
            return Ok(0);
        }
        let (vectors, expected) = ((self.work.embed)(&rows)?, rows.len());
        if vectors.len() != expected {
            let got = vectors.len();
            let why = format!("expected {expected} vectors for as many rows, got {got}");
            return Err(Error::invalid("reembed", why));
        }
        let (mut batch, mut unfit) = (self.shadow.batch().of_stored(), Vec::new());
        for ((SourceRow { id, payload }, vector), (print, had)) in
            rows.into_iter().zip(vectors).zip(about)
        {
            let added = vector.map(|v| batch.upsert(&id, &v, Value::Object(payload)).map(drop));
            let why = match added {
                Some(Ok(())) => continue,
                Some(Err(Error::Vector(why))) => Some(why),
                Some(Err(other)) => return Err(other),
                None => None,
            };
            // A vector of another length is a mistake, not a property of the row.
            let fits_none = !matches!(why, Some(VectorError::Dimension { .. }));
            if !fits_none || !self.work.options.skip_unfit {
                return Err(refused(&id, why.as_ref()));
            }
            // The vector there was made of another payload.
            if had && !sown(Bug::ReembedKeepsUnfit) {
                batch.delete(id)?;
            }
            unfit.push(print);
        }
        batch.commit()?;
        self.skipped += unfit.len() as u64;
        self.embedded += (expected - unfit.len()) as u64;
        self.unfit.found.extend(unfit);
        Ok(expected as u64)
    }

    /// Tells how far the run is, if that is news. The second pass begins at the first
    /// row again, which is no step back.
    fn tell(&mut self, done: u64, total: u64) -> Result<()> {
        let done = self.told.map_or(done, |told| told.done.max(done)).min(total);
        let now = Progress { done, total };
        let go_on = self.told.replace(now) == Some(now) || (self.work.progress)(now);
        Error::unless(go_on, "making of new vectors")
    }
}

fn refused(id: &RowId, why: Option<&VectorError>) -> Error {
    let why = match why {
        Some(why @ VectorError::Dimension { .. }) => why.to_string(),
        Some(why) => format!("{why}; such rows can be left out (skip_unfit)"),
        None => "there is nothing to embed; such rows can be left out (skip_unfit)".into(),
    };
    Error::invalid("reembed", format!("row {id}: {why}"))
}

/// The text of the payload that a row has, if there is such a row.
fn payload_of(view: &View, id: &RowId) -> Result<Option<String>> {
    let Some((part, row)) = view.find(id)? else { return Ok(None) };
    Ok(Some(view.parts[part].rows.payload(row)?))
}

/// The text of a payload as the shadow has it. That of the collection may be another:
/// the format leaves the order of keys and the form of numbers open.
fn canonical(payload: &Payload) -> Option<String> {
    payload::to_text(Value::Object(payload.clone()), MAX_PAYLOAD).ok()
}

/// Deletes rows of the shadow that are not in the collection any more.
fn forget_deleted(source: &View, known: &View, shadow: &Collection) -> Result<()> {
    let mut gone = shadow.batch();
    for part in &known.parts {
        for row in part.living() {
            let id = part.rows.id(row)?;
            if source.find(&id)?.is_some() {
                continue;
            }
            gone.delete(id)?;
            if gone.len() == MAX_DELETES {
                std::mem::replace(&mut gone, shadow.batch()).commit()?;
            }
        }
    }
    gone.commit().map(drop)
}

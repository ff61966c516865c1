//! Full vectors of a shortlist: asked for, and scored while the next are on their way.
//!
//! They lie all over a file, so what a row costs is the wait for it from memory, several times what
//! scoring it takes. Each row is looked up once, [`ROWS_AHEAD`] rows before it is scored.

use std::time::{Duration, Instant};

use super::run::QueryRun;
use super::score::Scorer;
use crate::error::Result;
use crate::kernel::gather;
use crate::kernel::topk::Scored;

/// A list whose rows took longer than this each, on the average, was read from a disk, though all
/// had been asked for: what memory had of them it has given up. From memory a row takes a
/// microsecond at most, from a disk a hundred. Clocks decide what is asked for, not what is found.
pub(super) const DISK_TIME_PER_ROW: Duration = Duration::from_micros(10);

/// Rows whose vectors are on their way while one is scored.
const ROWS_AHEAD: usize = 4;

/// What is compared of a row's vector, and the norm of all of it, if all is compared.
pub(super) type Vector<'a> = (&'a [u8], Option<f32>);

impl<'a> QueryRun<'a> {
    /// Asks for all rows of a shortlist before the first is touched, in the
    /// order they lie on disk.
    pub(super) fn request(&self, shortlist: &mut [Scored]) {
        shortlist.sort_unstable_by_key(|c| c.ordinal);
        for candidate in shortlist {
            let (part, row) = self.view.locate(candidate.ordinal);
            part.rows.will_need(row.0..row.0 + 1);
        }
    }

    /// Goes through a list. `take` gets each row, and of its vector what `scorer` compares, and says
    /// whether to go on. A row that is damaged is an error only for who takes its vector.
    pub(super) fn each_vector(
        &self,
        list: &mut [Scored],
        scorer: &Scorer,
        mut take: impl FnMut(&mut Scored, Result<Vector<'a>>) -> Result<bool>,
    ) -> Result<()> {
        let start = Instant::now();
        let mut coming = [const { None }; ROWS_AHEAD];
        for at in 0..list.len() + ROWS_AHEAD {
            let place = &mut coming[at % ROWS_AHEAD];
            if let Some(vector) = place.take()
                && !take(&mut list[at - ROWS_AHEAD], vector)?
            {
                break;
            }
            *place = list.get(at).map(|row| self.vector(row.ordinal, scorer));
            if let Some(Ok((vector, _))) = place {
                gather::prefetch(vector);
            }
        }
        if !list.is_empty() && start.elapsed() > DISK_TIME_PER_ROW * list.len() as u32 {
            self.view.parts.iter().for_each(|part| part.rows.ask_again());
        }
        Ok(())
    }

    /// Scores the rows of a list by the definition; `take` gets each and its score.
    pub(super) fn each_score(
        &self,
        list: &mut [Scored],
        scorer: &Scorer,
        mut take: impl FnMut(&mut Scored, f32) -> Result<()>,
    ) -> Result<()> {
        self.each_vector(list, scorer, |row, vector| {
            let (vector, norm) = vector?;
            take(row, scorer.score(vector, norm))?;
            Ok(true)
        })
    }

    /// What is compared of the row at a position of the view.
    fn vector(&self, position: u32, scorer: &Scorer) -> Result<Vector<'a>> {
        let (part, row) = self.view.locate(position);
        let whole = scorer.dims() == self.view.schema.dims();
        let norm = whole.then(|| part.rows.norms()[row.index()]);
        Ok((&part.rows.vector(row)?[..scorer.row_bytes()], norm))
    }
}

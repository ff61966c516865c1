//! The best of many rows, ties broken by id.

use std::collections::BinaryHeap;

use super::group::Groups;
use super::score::{Found, Scorer};
use crate::error::Result;
use crate::types::RowId;

/// Hits that there is room for from the beginning.
const HITS_RESERVED: usize = 16;

/// The best `limit` rows seen that reach a score, equal scores by ascending id.
pub(super) struct Best<'a> {
    limit: usize,
    /// No row below it is kept.
    least: f32,
    kept: Kept<'a>,
}

enum Kept<'a> {
    Any(BinaryHeap<Found>),
    Few(Box<Groups<'a>>),
}

impl<'a> Best<'a> {
    /// With `groups`, only as many rows of each group as these allow. The rows are kept in the
    /// buffer `found`.
    pub(super) fn new(
        limit: usize,
        least: f32,
        groups: Option<Groups<'a>>,
        mut found: Vec<Found>,
    ) -> Self {
        found.clear();
        // Room for as many as most searches want; more comes as rows do.
        found.reserve(limit.min(HITS_RESERVED));
        let any = || Kept::Any(BinaryHeap::from(found));
        Self { limit, least, kept: groups.map_or_else(any, |groups| Kept::Few(Box::new(groups))) }
    }

    /// Offers a row. Its id is only looked up if the row can be among the best.
    pub(super) fn offer(
        &mut self,
        score: f32,
        position: u32,
        id: impl FnOnce() -> Result<RowId>,
    ) -> Result<()> {
        if self.limit == 0 || score < self.least {
            return Ok(());
        }
        let heap = match &mut self.kept {
            Kept::Any(heap) => heap,
            Kept::Few(groups) => return groups.offer(self.limit, score, position, id),
        };
        let full = heap.len() >= self.limit;
        if full && heap.peek().is_some_and(|worst| score.total_cmp(&worst.score).is_lt()) {
            return Ok(());
        }
        let found = Found { score, id: id()?, position };
        if !full {
            heap.push(found);
        } else if let Some(mut worst) = heap.peek_mut()
            && found < *worst
        {
            *worst = found;
        }
        Ok(())
    }

    /// The score below which a row is certain not to be among the best: that of the worst, once
    /// there are as many as wanted, or the least that is wanted at all.
    pub(super) fn floor(&self) -> f32 {
        let worst = match &self.kept {
            Kept::Any(heap) if heap.len() >= self.limit => heap.peek(),
            Kept::Any(_) => None,
            Kept::Few(groups) => groups.worst(self.limit),
        };
        worst.map_or(self.least, |worst| worst.score.max(self.least))
    }

    /// The best rows, best first.
    pub(super) fn into_sorted(self) -> Vec<Found> {
        match self.kept {
            Kept::Any(heap) => heap.into_sorted_vec(),
            Kept::Few(groups) => groups.into_sorted(),
        }
    }
}

/// Scores rows against a query, and keeps the best.
pub(super) struct Rank<'a> {
    pub(super) scorer: Scorer<'a>,
    pub(super) best: Best<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_are_ranked_by_id_in_any_order_of_offers() {
        let offers = [(0.5, 9), (0.7, 8), (0.5, 1), (0.5, 4), (0.2, 0), (0.7, 3)];
        for turn in 0..offers.len() {
            let mut best = Best::new(4, f32::NEG_INFINITY, None, Vec::new());
            for (score, id) in offers.iter().cycle().skip(turn).take(offers.len()) {
                best.offer(*score, 0, || Ok(RowId::U64(*id))).expect("offer");
            }
            let ids: Vec<_> = best.into_sorted().into_iter().map(|f| f.id).collect();
            assert_eq!(ids, [3u64, 8, 1, 4].map(RowId::U64), "turn {turn}");
        }
    }
}

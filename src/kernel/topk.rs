//! Keeps the best `k` of a stream of scores.
//!
//! A candidate is one `u64`: the score's bits, made to sort as integers do,
//! above the complement of the ordinal. Comparing two candidates is then one
//! integer comparison, and of equal scores the smaller ordinal wins whatever
//! the order they came in.
//!
//! Candidates above the threshold go to a buffer of about `2k`; when it is full the
//! best `k` are selected and the worst of them becomes the threshold. A block
//! none of whose scores reaches it costs one vectorised comparison: over a
//! million rows that is nearly every block.
//!
//! [`Near`] keeps what lies within a margin of the k-th best: how many rows that is, the query
//! decides.

use std::cmp::Ordering;

use super::BLOCK;

/// A row and its score; higher is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// The row's ordinal.
    pub ordinal: u32,
    /// Its score.
    pub score: f32,
}

impl Scored {
    /// The order of rows from the best down; of equal scores the first row is better.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "sorting calls it so")]
    pub fn best_first(&self, other: &Self) -> Ordering {
        other.score.total_cmp(&self.score).then(self.ordinal.cmp(&other.ordinal))
    }
}

/// Takes the rows that a scan offers.
pub trait Collect {
    /// No row with a score below it is wanted any more; with NaN, none at all.
    fn floor(&self) -> f32;

    /// Offers one row. NaN is never taken.
    fn offer(&mut self, ordinal: u32, score: f32);

    /// Offers rows with consecutive ordinals, [`BLOCK`] of them for each word: bit `i` of it says
    /// whether row `i` of the block takes part, and has a score that reached the floor lately.
    ///
    /// # Panics
    /// When a bit stands for no score.
    fn offer_words(&mut self, first: u32, scores: &[f32], words: &[u64]) {
        for (block, &word) in words.iter().enumerate() {
            let mut left = word;
            while left != 0 {
                let at = block * BLOCK + left.trailing_zeros() as usize;
                if scores[at] >= self.floor() {
                    self.offer(first + at as u32, scores[at]);
                }
                left &= left - 1;
            }
        }
    }
}

/// The best `k` rows offered so far, in a buffer that is reused.
#[derive(Debug, Clone)]
pub struct TopK {
    k: usize,
    /// Rows kept before the best are selected.
    room: usize,
    kept: Vec<u64>,
    /// Candidates must exceed this; 0 admits all but NaN.
    floor: u64,
    /// The score of `floor`: the coarse test, where equal still passes.
    floor_score: f32,
}

impl TopK {
    /// Room for the best `k`; 0 keeps nothing.
    pub fn new(k: usize) -> Self {
        let mut top = Self { k, room: 0, kept: Vec::new(), floor: 0, floor_score: 0.0 };
        top.reset(k);
        top
    }

    /// Forgets all rows and keeps the buffer, for the next query.
    pub fn reset(&mut self, k: usize) {
        self.k = k;
        self.room = k.saturating_mul(2).max(BLOCK);
        self.kept.clear();
        self.floor = 0;
        // Nothing passes a threshold of NaN.
        self.floor_score = if k == 0 { f32::NAN } else { f32::NEG_INFINITY };
    }

    /// From now on takes no row whose score is below `score`.
    pub fn raise(&mut self, score: f32) {
        let floor = key(score, u32::MAX).saturating_sub(1);
        if !score.is_nan() && floor > self.floor && self.k > 0 {
            (self.floor, self.floor_score) = (floor, score);
        }
    }

    /// Appends the best rows to `out`, best first. Offers may go on after.
    pub fn sorted_into(&mut self, out: &mut Vec<Scored>) {
        self.select();
        self.kept.sort_unstable_by(|a, b| b.cmp(a));
        out.extend(self.kept.iter().map(|&key| scored(key)));
    }

    /// Appends the best rows in no order, at most twice as many as wanted; the score down to which
    /// they are all that were offered.
    pub fn unsorted_into(&mut self, out: &mut Vec<Scored>) -> f32 {
        let rows = self.kept.iter().map(|&key| scored(key));
        out.extend(rows.filter(|row| row.score >= self.floor_score));
        if self.floor == 0 { f32::NEG_INFINITY } else { self.floor_score }
    }

    fn admit(&mut self, key: u64) {
        if key <= self.floor {
            return;
        }
        self.kept.push(key);
        if self.kept.len() >= self.room {
            self.select();
        }
    }

    /// Drops all but the best `k`, and raises the floor to the worst of them.
    fn select(&mut self) {
        if self.kept.len() > self.k {
            self.kept.select_nth_unstable_by(self.k, |a, b| b.cmp(a));
            self.kept.truncate(self.k);
        }
        if self.kept.len() == self.k && self.k > 0 {
            let worst = *self.kept.iter().min().expect("k > 0");
            if worst > self.floor {
                self.floor = worst;
                self.floor_score = scored(worst).score;
            }
        }
    }
}

#[cfg(any(test, feature = "testing"))]
impl TopK {
    /// Offers up to [`BLOCK`] rows with consecutive ordinals; bit `i` of
    /// `alive` says whether row `first + i` takes part.
    ///
    /// # Panics
    /// When there are more scores than a block has lanes.
    pub fn offer_block(&mut self, isa: super::Isa, first: u32, scores: &[f32], alive: u64) {
        assert!(scores.len() <= BLOCK, "{} scores in a block", scores.len());
        let mut words = [0];
        super::coding::reaching(isa, scores, self.floor_score, &mut words);
        self.offer_words(first, scores, &[words[0] & alive]);
    }

    /// The best rows, best first.
    pub fn sorted(&mut self) -> Vec<Scored> {
        let mut out = Vec::with_capacity(self.k.min(self.kept.len()));
        self.sorted_into(&mut out);
        out
    }
}

impl Collect for TopK {
    fn floor(&self) -> f32 {
        self.floor_score
    }

    fn offer(&mut self, ordinal: u32, score: f32) {
        if score >= self.floor_score {
            self.admit(key(score, ordinal));
        }
    }
}

/// The rows whose scores are within a margin of the k-th best. While that becomes better, some
/// are taken that are not: [`Near::finish_into`] leaves them out.
#[derive(Debug)]
pub struct Near<'a, F> {
    best: &'a mut TopK,
    list: &'a mut TopK,
    floor: F,
}

impl<'a, F: Fn(Scored) -> f32> Near<'a, F> {
    /// Collects in `list`, at most twice as many as it is for; `best` is for the k best. `floor`
    /// says how low scores may be if a row is the k-th best.
    pub fn new(best: &'a mut TopK, list: &'a mut TopK, floor: F) -> Self {
        // It is asked often, so the k-th best is to be known well.
        best.room = best.k + (best.k / 4).max(8);
        Self { best, list, floor }
    }

    /// Appends the rows that are within the margin of what was the k-th best at last, in no order;
    /// the score down to which they are all that were offered.
    pub fn finish_into(&mut self, out: &mut Vec<Scored>) -> f32 {
        self.best.select();
        self.raise();
        self.list.unsorted_into(out)
    }

    fn raise(&mut self) {
        if self.best.floor > 0 {
            self.list.raise((self.floor)(scored(self.best.floor)));
        }
    }
}

impl<F: Fn(Scored) -> f32> Collect for Near<'_, F> {
    fn floor(&self) -> f32 {
        self.list.floor_score
    }

    fn offer(&mut self, ordinal: u32, score: f32) {
        self.list.offer(ordinal, score);
        let before = self.best.floor;
        self.best.offer(ordinal, score);
        if self.best.floor != before {
            self.raise();
        }
    }
}

const SIGN_BIT: u32 = 1 << 31;

/// Sorts by score, then by smaller ordinal. Never 0 for a number: the smallest,
/// minus infinity, has a high half of `0x007f_ffff`.
fn key(score: f32, ordinal: u32) -> u64 {
    // Adding zero turns -0 into 0, which must be one score.
    let bits = (score + 0.0).to_bits();
    let ordered = if bits & SIGN_BIT == 0 { bits | SIGN_BIT } else { !bits };
    u64::from(ordered) << 32 | u64::from(!ordinal)
}

fn scored(key: u64) -> Scored {
    let ordered = (key >> 32) as u32;
    let bits = if ordered & SIGN_BIT == 0 { !ordered } else { ordered & !SIGN_BIT };
    Scored { ordinal: !(key as u32), score: f32::from_bits(bits) }
}

#[cfg(test)]
mod tests {
    use super::super::{Isa, coding};
    use super::*;
    use proptest::prelude::*;

    fn best(mut rows: Vec<(u32, f32)>, k: usize) -> Vec<(u32, f32)> {
        rows.retain(|r| !r.1.is_nan());
        rows.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        rows.truncate(k);
        rows
    }

    fn pairs(top: &mut TopK) -> Vec<(u32, f32)> {
        top.sorted().iter().map(|s| (s.ordinal, s.score)).collect()
    }

    /// Few distinct values, so that ties are common; and the odd ones out.
    fn scores() -> impl Strategy<Value = Vec<f32>> {
        let odd = prop::sample::select(vec![
            0.0,
            -0.0,
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MIN_POSITIVE,
        ]);
        prop::collection::vec(prop_oneof![8 => (-20i8..20).prop_map(f32::from), 1 => odd], 0..700)
    }

    proptest! {
        #[test]
        fn equals_a_full_sort_in_any_order(scores in scores(), k in 0usize..300, seed: u64) {
            let rows: Vec<_> = scores.iter().enumerate().map(|(i, &s)| (i as u32, s)).collect();
            let mut shuffled = rows.clone();
            shuffled.sort_by_key(|r| (u64::from(r.0) ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut one = TopK::new(k);
            for &(ordinal, score) in &shuffled {
                one.offer(ordinal, score);
            }
            prop_assert_eq!(pairs(&mut one), best(rows, k));
        }

        #[test]
        fn blocks_equal_single_offers(scores in scores(), alive: u64, k in 0usize..100) {
            let (mut blocks, mut single) = (TopK::new(k), TopK::new(k));
            for (b, block) in scores.chunks(BLOCK).enumerate() {
                let first = (b * BLOCK) as u32;
                blocks.offer_block(Isa::detect(), first, block, alive);
                for (i, &s) in block.iter().enumerate().filter(|(i, _)| alive >> i & 1 == 1) {
                    single.offer(first + i as u32, s);
                }
            }
            prop_assert_eq!(pairs(&mut blocks), pairs(&mut single));
        }

    }

    proptest! {
        #[test]
        fn near_rows_are_those_within_the_margin(
            scores in scores(), k in 1usize..20, margin in 0f32..30.0, alive: u64,
        ) {
            let (mut best, mut list) = (TopK::new(k), TopK::new(1000));
            let mut near = Near::new(&mut best, &mut list, |kth| kth.score - margin);
            for (b, block) in scores.chunks(BLOCK).enumerate() {
                let mut words = [0];
                coding::reaching(Isa::detect(), block, near.floor(), &mut words);
                near.offer_words((b * BLOCK) as u32, block, &[words[0] & alive]);
            }
            let mut found = Vec::new();
            let floor = near.finish_into(&mut found);
            let rows = scores.iter().enumerate().filter(|(i, _)| alive >> (i % BLOCK) & 1 == 1);
            let mut expected = best_of_all(rows.map(|(i, &s)| (i as u32, s)).collect());
            if let Some((_, kth)) = expected.get(k - 1).copied() {
                expected.retain(|(_, s)| *s >= kth - margin);
            }
            prop_assert!(expected.iter().all(|(_, s)| *s >= floor));
            let found = found.iter().map(|s| (s.ordinal, s.score)).collect();
            prop_assert_eq!(best_of_all(found), expected);
        }
    }

    fn best_of_all(rows: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
        best(rows, usize::MAX)
    }

    #[test]
    fn what_is_below_a_raised_floor_is_not_taken() {
        let mut top = TopK::new(2);
        top.raise(2.0);
        for (i, score) in [1.0, 2.0, 1.5, -1.0, 3.0, 2.0].into_iter().enumerate() {
            top.offer(i as u32, score);
        }
        assert_eq!(pairs(&mut top), [(4, 3.0), (1, 2.0)]);
        top.raise(-5.0);
        top.offer(9, 0.0);
        assert_eq!(top.sorted().len(), 2);
    }
}

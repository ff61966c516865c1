//! Which texts go through the graph together.
//!
//! Texts of similar length, so that little is padding; and no more than a bound of
//! padded tokens, so that memory does not depend on the input.

use std::ops::Range;

use super::text::Tokens;

/// Which texts go to the model together.
#[derive(Debug)]
pub(super) struct Batches {
    /// Texts, shortest first.
    order: Vec<u32>,
    /// Ranges of `order`.
    ranges: Vec<Range<usize>>,
}

impl Batches {
    /// Sorts by length and cuts where texts times longest would pass `max_tokens`.
    /// `alone` puts each text in a batch of its own; `row` is the length of every
    /// row, where the graph or the model wants one.
    pub(super) fn plan(
        tokens: &Tokens,
        max_tokens: usize,
        alone: bool,
        row: Option<usize>,
    ) -> Self {
        let length = |text: u32| row.unwrap_or_else(|| tokens.ids(text as usize).len().max(1));
        let mut order: Vec<u32> = (0..tokens.texts() as u32).collect();
        order.sort_by_key(|&text| length(text));
        let mut ranges = Vec::new();
        let mut start = 0;
        for (at, &text) in order.iter().enumerate() {
            let full = (at + 1 - start) * length(text) > max_tokens;
            if at > start && (alone || full) {
                ranges.push(start..at);
                start = at;
            }
        }
        if start < order.len() {
            ranges.push(start..order.len());
        }
        Self { order, ranges }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u32]> {
        self.ranges.iter().map(|range| &self.order[range.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(lengths: &[usize]) -> Tokens {
        let mut tokens = Tokens::default();
        for &n in lengths {
            tokens.push(&vec![7; n]);
        }
        tokens
    }

    fn batches(lengths: &[usize], max: usize, alone: bool) -> Vec<Vec<u32>> {
        let tokens = tokens(lengths);
        Batches::plan(&tokens, max, alone, None).iter().map(<[u32]>::to_vec).collect()
    }

    #[test]
    fn batches_are_sorted_and_bounded_by_padded_tokens() {
        assert_eq!(batches(&[5, 1, 0, 2], 6, false), [vec![1, 2, 3], vec![0]]);
        assert_eq!(batches(&[5, 1, 0, 2], 5, false), [vec![1, 2], vec![3], vec![0]]);
    }

    #[test]
    fn a_text_longer_than_the_bound_still_gets_its_batch() {
        assert_eq!(batches(&[9, 9], 4, false), [vec![0], vec![1]]);
        assert!(batches(&[], 4, false).is_empty());
    }

    #[test]
    fn rows_of_one_length_are_counted_with_their_padding() {
        let tokens = tokens(&[3, 1, 2]);
        let plan = Batches::plan(&tokens, 9, false, Some(4));
        assert_eq!(plan.iter().map(<[u32]>::len).collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn alone_means_alone() {
        assert_eq!(batches(&[1, 1, 1], 100, true), [vec![0], vec![1], vec![2]]);
    }
}

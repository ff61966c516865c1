//! An input read as a list of choices: where it ends, all further ones are 0.

use crate::support::Rng;

pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(crate) fn number(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.number(1) as u8
    }

    /// One of so many.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        let bytes = if n <= 256 { 1 } else { 4 };
        self.number(bytes) as usize % n.max(1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Changes some bytes of a file; `numbers` are those that are likely to matter.
pub(crate) fn edit(input: &mut Input, bytes: &mut Vec<u8>, numbers: &[u64]) {
    let at = input.below(bytes.len() + 1);
    match input.below(5) {
        0 => {
            let len = 1 + input.below(16);
            let new = input.take(len);
            let end = (at + new.len()).min(bytes.len());
            bytes.splice(at..end, new.iter().copied());
        }
        1 => {
            let width = input.pick(&[1, 2, 4, 8]);
            let number = input.pick(numbers).to_le_bytes();
            let end = (at + width).min(bytes.len());
            bytes.splice(at..end, number[..width].iter().copied());
        }
        2 => bytes.truncate(at),
        3 => {
            let len = 1 + input.below(16);
            let new = input.take(len);
            bytes.splice(at..at, new.iter().copied());
        }
        _ => {
            let end = (at + 1 + input.below(64)).min(bytes.len());
            bytes.drain(at..end);
        }
    }
}

/// Where nothing better is known: choices at random.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut rng = Rng(6);
    let seed = |len: usize| (0..len).map(|_| rng.next() as u8).collect();
    [0, 1, 8, 32, 128, 512, 512, 512].map(seed).to_vec()
}

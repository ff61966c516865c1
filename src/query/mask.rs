//! A roaring bitmap as the words a scan wants: one bit per row, 64 rows a word.
//!
//! ```text
//!   for row in rows: words[row / 64] |= 1 << (row % 64)
//! ```
//!
//! That loop costs as much as the scan it is for, once a filter lets through
//! every other row. Inside, crowded stretches of a bitmap are such words
//! already, and its serialization copies them out as they are (100 times faster,
//! measured on half of 100 000 rows): so we read that.

use roaring::RoaringBitmap;

use crate::codec::{FormatError, Reader};
use crate::kernel::BLOCK;

/// First number of a serialization without run containers.
const ROARING_COOKIE: u32 = 12_346;
/// Rows of a container, and most that one lists one by one.
const CONTAINER_ROWS: usize = 1 << 16;
const MOST_LISTED: usize = 4096;

/// Words of `rows` rows, among them those of the bitmap.
pub(super) fn words(mut bitmap: RoaringBitmap, rows: u32) -> Vec<u64> {
    bitmap.remove_run_compression();
    let mut bytes = Vec::with_capacity(bitmap.serialized_size());
    bitmap.serialize_into(&mut bytes).expect("writing to a Vec does not fail");
    let mut words = vec![0; (rows as usize).div_ceil(BLOCK)];
    fill(&bytes, &mut words).expect("the portable serialization of a bitmap");
    words
}

/// ```text
/// u32 cookie, u32 n, n x (u16 upper half, u16 rows - 1), n x u32 offset
/// n containers: up to 4096 x u16 lower half, or 1024 x u64 words
/// ```
fn fill(bytes: &[u8], words: &mut [u64]) -> Result<(), FormatError> {
    let mut r = Reader::new(bytes);
    if r.u32()? != ROARING_COOKIE {
        return Err(FormatError::new(0, "another form of bitmap"));
    }
    let count = r.count(8)?;
    let mut heads = Reader::new(r.take(count * 4)?);
    r.take(count * 4)?;
    for _ in 0..count {
        let first = usize::from(heads.u16()?) * CONTAINER_ROWS;
        let rows = usize::from(heads.u16()?) + 1;
        if rows > MOST_LISTED {
            let full = r.take(CONTAINER_ROWS / 8)?.as_chunks::<8>().0;
            let words = words.iter_mut().skip(first / BLOCK);
            words.zip(full).for_each(|(word, eight)| *word = u64::from_le_bytes(*eight));
        } else {
            for two in r.take(rows * 2)?.as_chunks::<2>().0 {
                let row = first + usize::from(u16::from_le_bytes(*two));
                words[row / BLOCK] |= 1 << (row % BLOCK);
            }
        }
    }
    r.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_the_bits_of_the_bitmap() {
        let mut cases = vec![(RoaringBitmap::new(), 0), (RoaringBitmap::new(), 100)];
        for (rows, share) in [(1, 1), (64, 2), (200_000, 1), (200_000, 3), (200_000, 1000)] {
            cases.push(((0..rows).filter(|row| row % share == 0).collect(), rows));
        }
        let mut runs = RoaringBitmap::new();
        runs.insert_range(70_000..250_001);
        runs.insert(3);
        runs.optimize();
        cases.push((runs, 250_001));
        for (bitmap, rows) in cases {
            let words = words(bitmap.clone(), rows);
            assert_eq!(words.len(), (rows as usize).div_ceil(64));
            let set = |row: &u32| words[*row as usize / 64] >> (row % 64) & 1 == 1;
            assert!(bitmap.iter().all(|row| set(&row)));
            let bits: u64 = words.iter().map(|word| u64::from(word.count_ones())).sum();
            assert_eq!(bits, bitmap.len());
        }
    }
}

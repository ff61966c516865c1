//! What the benches share: timing with its noise, made-up rows, `.npy` files.
#![allow(dead_code, unreachable_pub, reason = "each bench uses a part")]

use std::hint::black_box;
use std::time::Instant;

/// Median, and the spread an unchanged program shows against itself.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Median seconds of a run.
    pub seconds: f64,
    /// Difference between the medians of two interleaved halves of the runs, relative.
    pub noise: f64,
}

/// Runs `work` `runs` times (an even number) after one that is not counted.
pub fn time<T>(runs: usize, mut work: impl FnMut() -> T) -> Timing {
    let [timing] = time_in_turns(runs, [&mut || drop(black_box(work()))]);
    timing
}

/// Times several works in turns, so that what else the machine does meets all alike.
pub fn time_in_turns<const N: usize>(runs: usize, mut works: [&mut dyn FnMut(); N]) -> [Timing; N] {
    let mut halves = [const { [Vec::new(), Vec::new()] }; N];
    for i in 0..=runs {
        for (work, halves) in works.iter_mut().zip(&mut halves) {
            let start = Instant::now();
            work();
            if i > 0 {
                halves[i % 2].push(start.elapsed().as_secs_f64());
            }
        }
    }
    halves.map(|mut halves| {
        let [a, b] = [median(&mut halves[0]), median(&mut halves[1])];
        let seconds = median(&mut halves.concat());
        Timing { seconds, noise: (a - b).abs() / seconds }
    })
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Repeatable noise: one 64-bit word after another.
#[derive(Debug, Clone)]
pub struct Noise(pub u64);

impl Noise {
    /// The next word.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A component between -1 and 1.
    pub fn component(&mut self) -> f32 {
        (self.word() as i32) as f32 * 2f32.powi(-31)
    }

    /// A vector of such components.
    pub fn vector(&mut self, dims: usize) -> Vec<f32> {
        (0..dims).map(|_| self.component()).collect()
    }

    /// Bytes, quickly.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for eight in bytes.as_chunks_mut::<8>().0 {
            *eight = self.word().to_le_bytes();
        }
        bytes
    }
}

/// A two-dimensional `.npy` array of little-endian `f2`, `f4` or `i4`, as `f32`.
pub struct Array {
    /// Rows, one after another.
    pub values: Vec<f32>,
    /// Values in a row.
    pub width: usize,
}

impl Array {
    /// Reads `name` in `folder`.
    ///
    /// # Panics
    /// When the file is not there or is not such an array.
    pub fn read(folder: &str, name: &str) -> Self {
        let bytes = std::fs::read(format!("{folder}/{name}")).expect("the file is there");
        assert!(bytes.starts_with(b"\x93NUMPY\x01"), "{name} is not a version 1 .npy file");
        let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = String::from_utf8_lossy(&bytes[10..start]);
        let body = &bytes[start..];
        let values = if header.contains("<f2") {
            body.as_chunks().0.iter().map(|&b| half::f16::from_le_bytes(b).to_f32()).collect()
        } else if header.contains("<f4") {
            body.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
        } else {
            assert!(header.contains("<i4"), "{name}: {header}");
            body.as_chunks().0.iter().map(|&b| i32::from_le_bytes(b) as f32).collect()
        };
        let shape = header.split("'shape': (").nth(1).expect("a shape");
        let width = shape.split([',', ')']).nth(1).expect("two dimensions").trim();
        Self { values, width: width.parse().expect("a number") }
    }

    /// The rows.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, f32> {
        self.values.chunks_exact(self.width)
    }
}

/// Rows and queries: those in the folder that `MATRYO_DATA` names, else 100 000 made up, with
/// values that half floats hold.
///
/// # Panics
/// As [`Array::read`].
pub fn text() -> (String, Array, Array) {
    if let Ok(folder) = std::env::var("MATRYO_DATA") {
        let base = Array::read(&folder, "base_f16.npy");
        return (folder.clone(), base, Array::read(&folder, "queries.npy"));
    }
    // Noisy copies of a thousand centres whose components shrink, so that rows
    // have neighbours and prefixes say something about them.
    let (mut noise, dims) = (Noise(7), 1024);
    let centres: Vec<Vec<f32>> = (0..1000).map(|_| noise.vector(dims)).collect();
    let mut rows = |n: usize| -> Array {
        let mut values = Vec::with_capacity(n * dims);
        for _ in 0..n {
            let centre = &centres[noise.word() as usize % centres.len()];
            let spread = |(j, c): (usize, &f32)| (c + noise.component()) / (1.0 + j as f32 / 64.0);
            values.extend(
                centre.iter().enumerate().map(spread).map(|v| half::f16::from_f32(v).to_f32()),
            );
        }
        Array { values, width: dims }
    };
    ("made-up clusters".into(), rows(100_000), rows(256))
}

/// The rows found, by a collection whose ids are numbers.
///
/// # Panics
/// Where the search fails, or ids are text.
pub fn ids(
    collection: &matryo::Collection,
    query: &[f32],
    limit: usize,
    funnel: matryo::Funnel,
) -> Vec<u64> {
    let result = collection.search(query).limit(limit).funnel(funnel).run().expect("search");
    result.hits.iter().map(|hit| number(&hit.id)).collect()
}

/// The stages of a search, as its report names them: which plan it was.
pub fn plan(explain: &matryo::Explain) -> String {
    let names: Vec<&str> = explain.stages.iter().map(|stage| stage.name.as_str()).collect();
    let recall = explain.recall.map_or(String::new(), |recall| format!(" ({recall})"));
    names.join(" > ") + &recall
}

/// An id that is a number.
///
/// # Panics
/// Where it is text.
pub fn number(id: &matryo::RowId) -> u64 {
    id.as_u64().expect("the schema has u64 ids")
}

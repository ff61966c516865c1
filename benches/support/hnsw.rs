//! HNSW as in the paper (Malkov and Yashunin, TPAMI 2020, algorithms 1, 2, 4 and 5) over
//! full `f32` vectors: the baseline of `benches/graph.rs`. Cosine, one thread.
#![allow(dead_code, unreachable_pub, reason = "one bench uses it")]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use simsimd::SpatialSimilarity;

use super::support::{Array, Noise};

/// Links of a row on each layer above the lowest, which has twice as many.
const M: usize = 16;
/// Rows kept while a row looks for its links.
const EF_CONSTRUCTION: usize = 200;

#[derive(Debug, Clone, Copy, PartialEq)]
struct Near(f32, u32);

impl Eq for Near {}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// The index: of each row, its links on each layer it is on.
pub struct Hnsw<'a> {
    base: &'a Array,
    links: Vec<Vec<Vec<u32>>>,
    top: u32,
    seen: Vec<u32>,
    turn: u32,
}

impl<'a> Hnsw<'a> {
    /// Inserts the first `rows` rows one after another.
    pub fn build(base: &'a Array, rows: usize) -> Self {
        let mut index = Self { base, links: Vec::new(), top: 0, seen: vec![0; rows], turn: 0 };
        let mut noise = Noise(11);
        for row in 0..rows as u32 {
            let uniform = (noise.word() >> 11) as f64 / (1u64 << 53) as f64;
            let level = (-(uniform.max(1e-300)).ln() / (M as f64).ln()) as usize;
            index.insert(row, level);
        }
        index
    }

    fn row(&self, row: u32) -> &'a [f32] {
        &self.base.values[row as usize * self.base.width..][..self.base.width]
    }

    fn distance(&self, query: &[f32], row: u32) -> f32 {
        1.0 - f32::dot(query, self.row(row)).expect("equal lengths") as f32
    }

    fn insert(&mut self, row: u32, level: usize) {
        let query = self.row(row);
        self.links.push(vec![Vec::new(); level + 1]);
        if row == 0 {
            return;
        }
        let highest = self.links[self.top as usize].len() - 1;
        let mut entries = vec![Near(self.distance(query, self.top), self.top)];
        for layer in (level + 1..=highest).rev() {
            entries = self.search_layer(query, &entries, 1, layer);
        }
        for layer in (0..=level.min(highest)).rev() {
            entries = self.search_layer(query, &entries, EF_CONSTRUCTION, layer);
            let chosen = self.choose(&entries, M);
            for &link in &chosen {
                self.link(link, row, layer);
            }
            self.links[row as usize][layer] = chosen;
        }
        if level > highest {
            self.top = row;
        }
    }

    fn link(&mut self, from: u32, to: u32, layer: usize) {
        self.links[from as usize][layer].push(to);
        let most = if layer == 0 { 2 * M } else { M };
        if self.links[from as usize][layer].len() > most {
            let query = self.row(from);
            let near = |&link: &u32| Near(self.distance(query, link), link);
            let mut all: Vec<Near> = self.links[from as usize][layer].iter().map(near).collect();
            all.sort_unstable();
            self.links[from as usize][layer] = self.choose(&all, most);
        }
    }

    /// Algorithm 4: candidates, nearest first, that are nearer to the row than to any chosen.
    fn choose(&self, candidates: &[Near], most: usize) -> Vec<u32> {
        let mut chosen: Vec<u32> = Vec::with_capacity(most);
        for &Near(distance, row) in candidates {
            let nearer = |&other: &u32| self.distance(self.row(row), other) < distance;
            if chosen.len() < most && !chosen.iter().any(nearer) {
                chosen.push(row);
            }
        }
        chosen
    }

    /// Algorithm 2: the `ef` nearest that are reached from the entries, nearest first.
    fn search_layer(
        &mut self,
        query: &[f32],
        entries: &[Near],
        ef: usize,
        layer: usize,
    ) -> Vec<Near> {
        self.turn += 1;
        let mut open: BinaryHeap<Reverse<Near>> = entries.iter().copied().map(Reverse).collect();
        let mut found: BinaryHeap<Near> = entries.iter().copied().collect();
        entries.iter().for_each(|entry| self.seen[entry.1 as usize] = self.turn);
        while let Some(Reverse(Near(distance, row))) = open.pop() {
            if found.len() >= ef && found.peek().is_some_and(|worst| distance > worst.0) {
                break;
            }
            for &link in &self.links[row as usize][layer] {
                if std::mem::replace(&mut self.seen[link as usize], self.turn) == self.turn {
                    continue;
                }
                let near = Near(self.distance(query, link), link);
                if found.len() < ef || found.peek().is_some_and(|worst| near < *worst) {
                    open.push(Reverse(near));
                    found.push(near);
                    if found.len() > ef {
                        found.pop();
                    }
                }
            }
        }
        found.into_sorted_vec()
    }

    /// Algorithm 5: the `k` nearest rows.
    pub fn search(&mut self, query: &[f32], k: usize, ef: usize) -> Vec<u64> {
        let mut entries = vec![Near(self.distance(query, self.top), self.top)];
        for layer in (1..self.links[self.top as usize].len()).rev() {
            entries = self.search_layer(query, &entries, 1, layer);
        }
        let found = self.search_layer(query, &entries, ef.max(k), 0);
        found.into_iter().take(k).map(|near| u64::from(near.1)).collect()
    }

    /// Bytes of links and vectors.
    pub fn bytes(&self) -> usize {
        let links: usize = self.links.iter().flatten().map(|links| links.len() * 4).sum();
        links + self.links.len() * self.base.width * 4
    }
}

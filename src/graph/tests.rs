use std::collections::HashSet;

use super::connect::links_of;
use super::walk::Nodes;
use super::*;
use crate::error::{Error, Result};
use crate::index::Source;

/// Made-up rows: noisy copies of some centres, every tenth row the same as one before.
struct Rows {
    dims: usize,
    values: Vec<f32>,
}

impl Rows {
    fn new(rows: usize, dims: usize, seed: u64) -> Self {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((state >> 40) as f32) / 8_388_608.0 - 1.0
        };
        let centres: Vec<f32> = (0..32 * dims).map(|_| next()).collect();
        let mut values = Vec::with_capacity(rows * dims);
        for row in 0..rows {
            let centre = &centres[row % 32 * dims..][..dims];
            if row % 10 == 9 {
                values.extend_from_within((row - 9) * dims..(row - 8) * dims);
            } else {
                values.extend(centre.iter().map(|c| c + 1.5 * next()));
            }
        }
        Self { dims, values }
    }

    fn row(&self, row: u32) -> &[f32] {
        &self.values[row as usize * self.dims..][..self.dims]
    }

    /// The nearest rows by cosine.
    fn nearest(&self, query: &[f32], k: usize) -> HashSet<u32> {
        let cosine = |row: u32| {
            let row = self.row(row);
            let dot: f32 = row.iter().zip(query).map(|(a, b)| a * b).sum();
            dot / row.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE)
        };
        let mut all: Vec<u32> = (0..self.rows()).collect();
        all.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)).then(a.cmp(b)));
        all.into_iter().take(k).collect()
    }
}

impl Vectors for Rows {
    fn rows(&self) -> u32 {
        (self.values.len() / self.dims) as u32
    }

    fn dims(&self) -> usize {
        self.dims
    }

    fn read(&self, row: u32, into: &mut [f32]) -> Result<()> {
        into.copy_from_slice(self.row(row));
        Ok(())
    }
}

/// Bytes in RAM as a region.
struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, at: usize, len: usize) -> Result<&[u8]> {
        Ok(&self.0[at..at + len])
    }

    fn corrupt(&self, at: usize, what: &str) -> Error {
        Error::corrupt("graph", at as u64, what)
    }
}

fn built(rows: &Rows, threads: usize) -> Built {
    build(rows, threads, &|_| Ok(())).expect("rows in RAM")
}

fn link_bytes(links: &[u32]) -> Vec<u8> {
    links.iter().flat_map(|link| link.to_le_bytes()).collect()
}

fn opened(built: Built) -> Graph {
    let links = link_bytes(&built.links);
    let meta = Meta::of(&built);
    Graph::new(meta, built.factors, Box::new(Bytes(built.codes)), Box::new(Bytes(links)))
        .expect("intact")
}

#[test]
fn every_row_is_reachable_and_no_row_has_too_many_links() {
    for (rows, dims) in [(1, 3), (2, 3), (70, 16), (3000, 40)] {
        let graph = built(&Rows::new(rows, dims, 5), 2);
        let mut open = vec![graph.entries[0]];
        let mut reached: HashSet<u32> = open.iter().copied().collect();
        while let Some(row) = open.pop() {
            let links: Vec<u32> = links_of(&graph.links, DEGREE, row).collect();
            assert!(links.iter().all(|link| (*link as usize) < rows && *link != row));
            assert_eq!(links.iter().collect::<HashSet<_>>().len(), links.len(), "twice");
            open.extend(links.into_iter().filter(|link| reached.insert(*link)));
        }
        assert_eq!(reached.len(), rows, "{rows} rows");
    }
}

#[test]
fn rows_that_are_all_the_same_are_all_reachable() {
    for value in [0.0, 1.0] {
        let rows = Rows { dims: 4, values: vec![value; 4 * 1500] };
        let graph = opened(built(&rows, 2));
        let query = RowQuery::new(graph.code(), &[1.0; 4], 4);
        let mut walk = Walk::default();
        let beam = Beam { k: 1500, margin: 1.0, width: 1500 };
        graph.search(&mut walk, &query, beam, None, None).expect("intact");
        assert_eq!(walk.found().count(), 1500, "rows of {value}");
    }
}

#[test]
fn the_same_rows_give_the_same_graph_on_any_number_of_threads() {
    let rows = Rows::new(2500, 24, 9);
    let one = built(&rows, 1);
    for threads in [2, 3, 7] {
        let other = built(&rows, threads);
        assert_eq!(one.links, other.links, "{threads} threads");
        assert_eq!((&one.codes, &one.entries), (&other.codes, &other.entries));
    }
}

#[test]
fn a_walk_finds_the_nearest_rows_and_only_those_that_may_be_found() {
    // A bit each says less than a byte each: the margin spans its errors.
    for (dims, margin, most) in [(48, 0.1, 3000), (600, 0.2, 4000)] {
        let mut rows = Rows::new(4040, dims, 77);
        let queries = Rows { dims, values: rows.values.split_off(4000 * dims) };
        let graph = opened(built(&rows, 2));
        let odd: Vec<u64> = vec![0xaaaa_aaaa_aaaa_aaaa; 4000 / 64 + 1];
        let (mut walk, mut all, mut some, mut scored) = (Walk::default(), 0, 0, 0);
        for q in 0..40 {
            let query = RowQuery::new(graph.code(), queries.row(q), dims);
            let beam = Beam { k: 10, margin, width: 400 };
            graph.search(&mut walk, &query, beam, None, None).expect("intact");
            scored += walk.scored;
            let truth = rows.nearest(queries.row(q), 10);
            all += walk.found().filter(|(_, row)| truth.contains(row)).count();
            graph.search(&mut walk, &query, beam, Some(&odd), None).expect("intact");
            let truth: HashSet<u32> =
                rows.nearest(queries.row(q), 200).into_iter().filter(|r| r % 2 == 1).collect();
            assert!(walk.found().all(|(_, row)| row % 2 == 1), "a row that may not be found");
            some += walk.found().take(10).filter(|(_, row)| truth.contains(row)).count();
        }
        assert!(all >= 380, "{dims} dimensions: {all} of 400 found");
        assert!(some >= 380, "{dims} dimensions: {some} of 400 odd rows found");
        assert!(scored / 40 < most, "{dims} dimensions: {} rows scored for a query", scored / 40);
    }
}

#[test]
fn a_walk_over_forged_links_ends_and_stays_within_the_rows() {
    let rows = Rows::new(500, 24, 3);
    let query = RowQuery::new(RowCode::choose(24), rows.row(0), 24);
    let beam = Beam { k: 10, margin: 9.0, width: 1000 };
    let mut walk = Walk::default();
    for (n, forge) in [
        (|_: usize, link: u32| if link == NONE { 0 } else { link }) as fn(usize, u32) -> u32,
        |at, _| (at / DEGREE) as u32,
        |at, _| (at * 7919 % 500) as u32,
        |_, _| NONE,
    ]
    .into_iter()
    .enumerate()
    {
        let mut graph = built(&rows, 1);
        graph.links.iter_mut().enumerate().for_each(|(at, link)| *link = forge(at, *link));
        graph.factors.iter_mut().step_by(3).for_each(|factor| *factor = f32::NAN);
        opened(graph).search(&mut walk, &query, beam, None, None).expect("all links lead to rows");
        assert!(walk.hops() <= 500, "forgery {n}: {} hops", walk.hops());
    }
    let mut graph = built(&rows, 1);
    graph.links.iter_mut().for_each(|link| *link = 500);
    let found = opened(graph).search(&mut walk, &query, beam, None, None);
    assert!(matches!(found, Err(Error::Corrupt(_))), "{found:?}");
}

#[test]
fn meta_that_does_not_fit_is_refused() {
    let rows = Rows::new(100, 24, 3);
    let meta = Meta::of(&built(&rows, 1));
    let good = meta.encode();
    assert_eq!(Meta::decode(&good, 100, 24).expect("intact"), meta);
    assert!(Meta::decode(&good, 101, 24).is_err(), "other rows");
    assert!(Meta::decode(&good, 100, 23).is_err(), "fewer dimensions than the code has");
    for len in 0..good.len() {
        assert!(Meta::decode(&good[..len], 100, 24).is_err(), "cut at {len}");
    }
    for (at, value) in [(4, 0u32), (4, 65), (8, 0), (12, 3), (16, 0), (16, 101), (20, 1), (32, 100)]
    {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&value.to_le_bytes());
        assert!(Meta::decode(&bad, 100, 24).is_err(), "{value} at {at}");
    }
}

#[test]
fn building_ends_when_it_is_told_to() {
    let rows = Rows::new(300, 8, 1);
    let stop = |done| if done > 50 { Err(Error::invalid("build", "stop")) } else { Ok(()) };
    assert!(build(&rows, 2, &stop).is_err());
    let graph = built(&rows, 1);
    assert!(graph.code(299).is_ok());
}

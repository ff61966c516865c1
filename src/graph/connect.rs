//! No row without a way to it.
//!
//! Links are one-way, and pruning a row's links can take the last one that led to another.
//! Among many equal rows it does: of equal candidates all but one are left out. So each
//! row keeps its last link free while the graph is built, and rows that no walk would
//! reach are hung there, one behind the other.

use std::collections::HashMap;

use super::NONE;

/// Makes every row reachable from `root`; how many were not.
pub(super) fn connect(links: &mut [u32], degree: usize, root: u32) -> u32 {
    let rows = (links.len() / degree) as u32;
    let mut reached = vec![false; rows as usize];
    spread(links, degree, root, &mut reached);
    // Of a row whose free link is used, another that stands behind it.
    let (mut hung, mut behind) = (0, HashMap::<u32, u32>::new());
    for row in 0..rows {
        if reached[row as usize] {
            continue;
        }
        // The row found its links by a walk, so they are near; the first is the nearest.
        let near = links_of(links, degree, row).find(|link| reached[*link as usize]);
        let near = near.unwrap_or(root);
        let mut tail = near;
        while let Some(next) = behind.get(&tail) {
            tail = *next;
        }
        append(links, degree, tail, row);
        behind.insert(tail, row);
        behind.insert(near, row);
        hung += 1;
        spread(links, degree, row, &mut reached);
    }
    hung
}

/// The links of a row.
pub(super) fn links_of(links: &[u32], degree: usize, row: u32) -> impl Iterator<Item = u32> {
    let of_row = &links[row as usize * degree..][..degree];
    of_row.iter().copied().take_while(|link| *link != NONE)
}

/// Adds a link where the row keeps one free.
fn append(links: &mut [u32], degree: usize, row: u32, link: u32) {
    let of_row = &mut links[row as usize * degree..][..degree];
    let free = of_row.iter().position(|link| *link == NONE);
    of_row[free.expect("the last link is kept free, and used once")] = link;
}

/// Marks all rows that `from` leads to.
fn spread(links: &[u32], degree: usize, from: u32, reached: &mut [bool]) {
    let mut open = vec![from];
    while let Some(row) = open.pop() {
        if !std::mem::replace(&mut reached[row as usize], true) {
            open.extend(links_of(links, degree, row).filter(|link| !reached[*link as usize]));
        }
    }
}

//! What vectors become: stored precisions for full rows, and **stage codes**,
//! a few bits for each of the first dimensions, for the rows a scan runs over.
//!
//! A stage code estimates the *cosine of prefixes*. It is never the raw partial
//! dot product that ranks: rows whose prefix happens to be long would win.

#![cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "`testing` re-exports them"))]

mod bound;
mod centre;
mod nibble;
mod precision;
mod query;
mod scan;
mod stage;
#[cfg(test)]
mod tests;

pub use crate::kernel::Precision;
pub use bound::BoundQuery;
pub(crate) use centre::{are_near, centre};
pub use query::StageQuery;
pub use scan::{Scan, ScanScratch, Scoring};
pub use stage::{Bits, StageBuilder, StageCode, StageView};
pub(crate) use stage::{factor, quantise};

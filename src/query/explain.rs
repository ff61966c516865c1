//! What a search did: rows, bytes and time of each stage.

use std::fmt::{self, Write};
use std::ops::Deref;
use std::time::Duration;

use crate::calibration::Check;

/// How an answer was found, stage by stage. Its `Display` is a small table.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Explain {
    /// In the order they ran.
    pub stages: Vec<StageReport>,
    /// Whether the answer is certain to hold the true nearest rows.
    pub exact: bool,
    /// What recall the plan may expect, where it was made for one ([`Funnel::recall`]
    /// below 1) and the answer is not certain.
    ///
    /// [`Funnel::recall`]: super::Funnel::recall
    pub recall: Option<ExpectedRecall>,
}

/// What recall a plan may expect.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ExpectedRecall {
    /// Asked for.
    pub asked: f64,
    /// What calibration found; `None` if the plan comes from a table that knows nothing of this
    /// collection, or if there is a filter, or a number of dimensions that was not measured.
    pub measured: Option<MeasuredRecall>,
}

/// What queries that were held out of the calibration found of their top 10 with some plan.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct MeasuredRecall {
    /// Their recall, 0 to 1.
    pub recall: f64,
    /// Half the width of its 95 % confidence interval.
    pub interval: f64,
}

impl ExpectedRecall {
    pub(super) fn new(asked: f64, check: Option<Check>) -> Self {
        let measured = check.map(|Check { recall, within, .. }| MeasuredRecall {
            recall: recall.into(),
            interval: within.into(),
        });
        Self { asked, measured }
    }
}

impl fmt::Display for ExpectedRecall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "recall {} asked, ", self.asked)?;
        match self.measured {
            Some(MeasuredRecall { recall, interval }) => {
                write!(f, "{recall:.4} +- {interval:.4} expected by calibration")
            }
            None => f.write_str("not calibrated for such searches"),
        }
    }
}

impl StageReport {
    /// Counts the same stage, run once more.
    pub(super) fn add(&mut self, again: &Self) {
        self.rows_in += again.rows_in;
        self.bytes += again.bytes;
        self.time += again.time;
    }
}

/// Bytes of the longest name.
const NAME_BYTES: usize = 47;

/// What a stage did, in a few words: a `str` that is kept in place, so that a report of a
/// search allocates nothing for it.
#[derive(Clone, PartialEq, Eq)]
pub struct StageName {
    text: [u8; NAME_BYTES],
    len: u8,
}

impl StageName {
    /// What is too long is cut.
    pub(super) fn new(text: fmt::Arguments<'_>) -> Self {
        let mut name = Self { text: [0; NAME_BYTES], len: 0 };
        // Refused is only what does not fit.
        let _ = name.write_fmt(text);
        name
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        let text = self.text.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

impl Write for StageName {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let start = usize::from(self.len);
        let fits = more.floor_char_boundary(NAME_BYTES - start);
        self.text[start..start + fits].copy_from_slice(&more.as_bytes()[..fits]);
        self.len += fits as u8;
        if fits == more.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

impl Deref for StageName {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq<str> for StageName {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialEq<&str> for StageName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str() == *other
    }
}

/// One stage of a funnel.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StageReport {
    /// What it did.
    pub name: StageName,
    /// Dimensions it compared.
    pub dims: usize,
    /// Rows it scored.
    pub rows_in: u64,
    /// Rows it handed on.
    pub rows_out: u64,
    /// Bytes of codes or vectors it read.
    pub bytes: u64,
    /// How long it took. In a batch, the share of a query in what was done for several at once.
    pub time: Duration,
}

impl Explain {
    /// Bytes read by all stages.
    pub fn bytes(&self) -> u64 {
        self.stages.iter().map(|s| s.bytes).sum()
    }

    /// Time of all stages.
    pub fn time(&self) -> Duration {
        self.stages.iter().map(|s| s.time).sum()
    }
}

impl fmt::Display for Explain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["stage", "dims", "rows in", "rows out", "bytes read", "time"];
        writeln!(
            f,
            "{:<28} {:>5} {:>10} {:>9} {:>12} {:>10}",
            head[0], head[1], head[2], head[3], head[4], head[5]
        )?;
        for s in &self.stages {
            let time = format!("{} us", s.time.as_micros());
            writeln!(
                f,
                "{:<28} {:>5} {:>10} {:>9} {:>12} {time:>10}",
                s.name, s.dims, s.rows_in, s.rows_out, s.bytes
            )?;
        }
        self.recall.iter().try_for_each(|recall| writeln!(f, "{recall}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_texts_that_are_cut_at_a_character() {
        let name = StageName::new(format_args!("scan {} bit", 1));
        assert_eq!(name, "scan 1 bit");
        assert_eq!(format!("{name:<12}|{name:?}"), "scan 1 bit  |\"scan 1 bit\"");
        let long = "\u{e9}".repeat(NAME_BYTES);
        assert_eq!(*StageName::new(format_args!("{long}")), long[..NAME_BYTES - 1]);
    }
}

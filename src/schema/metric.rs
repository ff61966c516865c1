//! How two vectors are compared.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// How two vectors are compared. Scores are higher-is-better under all three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Metric {
    /// Cosine of the angle, -1 to 1. Zero vectors are refused.
    Cosine,
    /// Inner product, any number.
    Dot,
    /// Euclidean distance; the score is the *negated squared* distance, so 0 is
    /// a perfect match and everything else is below.
    L2,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Self; 3] = [Self::Cosine, Self::Dot, Self::L2];

    /// The name the command line and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::L2 => "l2",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Metric {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|m| m.name() == s).ok_or_else(|| {
            Error::invalid("metric", format!("expected cosine, dot or l2, got {s:?}"))
        })
    }
}

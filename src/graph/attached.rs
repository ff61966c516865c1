//! The graph that a manifest gives a segment, usable or not.

use std::sync::OnceLock;

use super::Graph;
use crate::error::{Error, Result};

/// A graph that can be walked, or one that is damaged.
///
/// A graph makes searches quicker and nothing else, so damage to it is no reason to refuse
/// rows that are intact: they are scanned, which finds the same rows or more, and whoever
/// asks is told why. Damage may be found at open or by a walk, but it is final for the handle.
pub(crate) struct Attached {
    graph: Option<Graph>,
    damage: OnceLock<String>,
}

impl Attached {
    /// What came of opening a graph.
    ///
    /// # Errors
    /// That for which the file is not to blame: too few open files, too little memory.
    pub(crate) fn new(opened: Result<Graph>) -> Result<Self> {
        match opened {
            Ok(graph) => Ok(Self { graph: Some(graph), damage: OnceLock::new() }),
            Err(e) if e.is_exhaustion() => Err(e),
            Err(e) => Ok(Self { graph: None, damage: e.to_string().into() }),
        }
    }

    /// The graph, while nothing is known against it.
    pub(crate) fn usable(&self) -> Option<&Graph> {
        self.graph.as_ref().filter(|_| self.damage().is_none())
    }

    /// What was found damaged first.
    pub(crate) fn damage(&self) -> Option<&str> {
        self.damage.get().map(String::as_str)
    }

    /// Notes what a walk came upon: nobody walks here again.
    pub(crate) fn give_up(&self, damage: &Error) {
        let _ = self.damage.set(damage.to_string());
    }
}

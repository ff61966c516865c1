//! An immutable view of a collection at one LSN: sets of rows, and which of
//! their rows are dead. Searches and snapshots hold one; commits make new ones.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use roaring::RoaringBitmap;

use crate::calibration::Calibration;
use crate::error::{Error, Result};
use crate::graph::{Attached, Graph};
use crate::kernel::BLOCK;
use crate::payload::{self, Payload};
use crate::rows::Rows;
use crate::schema::Schema;
use crate::types::{FileNumber, Lsn, Ordinal, RowId};

/// Rows of one segment or run, and the dead among them.
pub(crate) struct Part {
    pub(crate) rows: Arc<dyn Rows>,
    pub(crate) dead: Arc<RoaringBitmap>,
    /// The segment's file; none for a run of the memtable.
    pub(crate) segment: Option<FileNumber>,
    /// A run that is being written as a segment, and is merged with no other.
    pub(crate) frozen: bool,
    /// Links between the rows, if the segment has a graph, damaged or not.
    pub(crate) graph: Option<Arc<Attached>>,
    /// `dead` inverted, one word per block, made when first asked for.
    alive: OnceLock<Vec<u64>>,
}

impl Part {
    pub(crate) fn new(
        rows: Arc<dyn Rows>,
        dead: Arc<RoaringBitmap>,
        segment: Option<FileNumber>,
    ) -> Self {
        Self { rows, dead, segment, frozen: false, graph: None, alive: OnceLock::new() }
    }

    /// This part, with a graph or without.
    pub(crate) fn with_graph(&self, graph: Option<Arc<Attached>>) -> Self {
        let (rows, dead) = (self.rows.clone(), self.dead.clone());
        Self { graph, ..Self::new(rows, dead, self.segment) }
    }

    /// This part, with other dead rows.
    pub(crate) fn with_dead(&self, dead: RoaringBitmap) -> Self {
        let (frozen, graph) = (self.frozen, self.graph.clone());
        Self { frozen, graph, ..Self::new(self.rows.clone(), Arc::new(dead), self.segment) }
    }

    /// The graph, if there is one that can be walked.
    pub(crate) fn walkable(&self) -> Option<&Graph> {
        self.graph.as_ref()?.usable()
    }

    /// Why the graph cannot be walked, if there is one and it cannot.
    pub(crate) fn graph_damage(&self) -> Option<&str> {
        self.graph.as_ref()?.damage()
    }

    /// This run, to be written as a segment.
    pub(crate) fn freeze(&self) -> Self {
        Self { frozen: true, ..Self::new(self.rows.clone(), self.dead.clone(), None) }
    }

    /// Whether these are rows of the memtable that are still to be written.
    pub(crate) fn is_run(&self) -> bool {
        self.segment.is_none() && !self.frozen
    }

    pub(crate) fn live_rows(&self) -> u64 {
        u64::from(self.rows.len()) - self.dead.len()
    }

    /// The rows that are not dead.
    pub(crate) fn living(&self) -> impl Iterator<Item = Ordinal> {
        (0..self.rows.len()).filter(|row| !self.dead.contains(*row)).map(Ordinal)
    }

    /// One bit per row, 64 rows a word; `None` where all rows live.
    pub(crate) fn alive(&self) -> Option<&[u64]> {
        if self.dead.is_empty() {
            return None;
        }
        let alive = self.alive.get_or_init(|| {
            let mut words = vec![u64::MAX; (self.rows.len() as usize).div_ceil(BLOCK)];
            for row in &*self.dead {
                words[row as usize / BLOCK] &= !(1 << (row as usize % BLOCK));
            }
            words
        });
        Some(alive)
    }

    /// The payload of a row.
    pub(crate) fn payload(&self, row: Ordinal) -> Result<Payload> {
        self.parse_payload(row, &self.rows.payload(row)?)
    }

    /// The payload of a row, whose text is this.
    pub(crate) fn parse_payload(&self, row: Ordinal, text: &str) -> Result<Payload> {
        payload::from_text(text).map_err(|e| {
            // Rows in RAM do not know their log.
            let file = self.rows.path().unwrap_or(Path::new("log"));
            Error::corrupt(file, 0, format!("payload of row {} is not JSON: {e}", row.0))
        })
    }

    /// The living row with this id.
    pub(crate) fn find(&self, id: &RowId) -> Result<Option<Ordinal>> {
        Ok(self.rows.find(id)?.filter(|row| !self.dead.contains(row.0)))
    }
}

/// All rows of a collection at one LSN.
pub(crate) struct View {
    pub(crate) schema: Arc<Schema>,
    pub(crate) lsn: Lsn,
    /// Segments, then runs; oldest first. At most one living row has an id.
    pub(crate) parts: Vec<Arc<Part>>,
    /// What is known of the stage codes' estimates.
    pub(crate) calibration: Option<Arc<Calibration>>,
    /// The position of the first row of each part: rows of all parts are numbered through.
    bases: Vec<u32>,
}

impl View {
    pub(crate) fn new(
        schema: Arc<Schema>,
        lsn: Lsn,
        parts: Vec<Arc<Part>>,
        calibration: Option<Arc<Calibration>>,
    ) -> Self {
        let starts = parts.iter().scan(0u32, |next, part| {
            let start = *next;
            // Writers refuse more rows than there are positions.
            *next = start.saturating_add(part.rows.len());
            Some(start)
        });
        let bases = starts.collect();
        Self { schema, lsn, parts, calibration, bases }
    }

    /// This view with other parts, as of another commit.
    pub(crate) fn with(&self, lsn: Lsn, parts: Vec<Arc<Part>>) -> Self {
        Self::new(self.schema.clone(), lsn, parts, self.calibration.clone())
    }

    /// This view with another calibration.
    pub(crate) fn with_calibration(&self, calibration: Arc<Calibration>) -> Self {
        Self::new(self.schema.clone(), self.lsn, self.parts.clone(), Some(calibration))
    }

    /// The position of the first row of a part.
    pub(crate) fn base(&self, at: usize) -> u32 {
        self.bases[at]
    }

    /// The number of the part that has the row at a position.
    pub(crate) fn part_at(&self, position: u32) -> usize {
        // Parts without rows share their base with the next one: the last wins, and
        // it is the one that has the row.
        self.bases.partition_point(|base| *base <= position) - 1
    }

    /// Which row stands at a position.
    pub(crate) fn locate(&self, position: u32) -> (&Part, Ordinal) {
        let at = self.part_at(position);
        (&self.parts[at], Ordinal(position - self.bases[at]))
    }

    pub(crate) fn live_rows(&self) -> u64 {
        self.parts.iter().map(|p| p.live_rows()).sum()
    }

    /// The vector of a row of one of the parts, as it is stored.
    pub(crate) fn vector(&self, part: &Part, row: Ordinal) -> Result<Vec<f32>> {
        let mut vector = vec![0.0; self.schema.dims()];
        self.schema.stored().decode(part.rows.vector(row)?, &mut vector);
        Ok(vector)
    }

    /// How many parts have a graph that can be walked.
    pub(crate) fn walkable(&self) -> usize {
        self.parts.iter().filter(|part| part.walkable().is_some()).count()
    }

    /// Does `work`, and again where a graph was given up meanwhile, by it or by a search beside
    /// it: a part whose graph is gone between two looks is neither walked nor scanned.
    pub(crate) fn while_graphs_hold<T>(&self, mut work: impl FnMut() -> T) -> T {
        loop {
            let walkable = self.walkable();
            let done = work();
            if self.walkable() == walkable {
                return done;
            }
        }
    }

    /// The living row with this id. Newer parts are looked at first: what was
    /// written last is read most.
    pub(crate) fn find(&self, id: &RowId) -> Result<Option<(usize, Ordinal)>> {
        for (at, part) in self.parts.iter().enumerate().rev() {
            if let Some(row) = part.find(id)? {
                return Ok(Some((at, row)));
            }
        }
        Ok(None)
    }
}

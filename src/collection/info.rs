//! Sizes of a collection.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Collection, ColumnInfo};
use crate::error::Result;
use crate::schema::Schema;
use crate::vfs::disk::RESERVE_NAME;
use crate::view::View;

/// What a collection holds and what it takes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Info {
    /// What it stores.
    pub schema: Schema,
    /// Rows that can be found.
    pub rows: u64,
    /// Rows that were deleted or replaced and still take space.
    pub dead_rows: u64,
    /// Segments on disk.
    pub segments: usize,
    /// Rows not in a segment yet.
    pub memtable_rows: u64,
    /// Bytes of RAM these take: vectors, codes, ids and payloads.
    pub memtable_bytes: u64,
    /// Bytes of all files that hold something.
    pub disk_bytes: u64,
    /// Bytes kept for a full disk ([`Options::reserve`](super::Options::reserve)), beside these.
    pub reserve_bytes: u64,
    /// Bytes on disk by what they hold.
    pub regions: BTreeMap<&'static str, u64>,
    /// Bytes of stage codes, factors and norms kept in RAM for the rows in segments, and
    /// of what is kept of their graphs.
    pub ram_bytes: u64,
    /// Stage codes and norms of the rows in segments: how much of each is in RAM,
    /// and why.
    pub columns: Vec<ColumnInfo>,
    /// The RAM they may take together, where [`Options::ram_budget`](super::Options::ram_budget) says so.
    pub ram_budget: Option<u64>,
    /// Most dimensions of a search: all, or [`Options::max_dims`](super::Options::max_dims).
    pub max_dims: usize,
    /// What is wrong with graphs of segments that are damaged, one message each: those found
    /// at open, and those that a search came upon. Their rows are scanned until
    /// [`Collection::build_graphs`] makes new ones.
    pub graph_errors: Vec<String>,
    /// Why a flush in the background last failed, or else merging, building graphs or calibrating,
    /// if one did.
    pub background_error: Option<String>,
}

impl Collection {
    /// The folder, as it was named when it was opened.
    pub fn path(&self) -> PathBuf {
        self.handle.vfs.path("")
    }

    /// Whether the handle was opened for reading only ([`Options::read_only`](super::Options::read_only)).
    pub fn is_read_only(&self) -> bool {
        self.handle.writer.is_none()
    }

    /// What the collection holds and what it takes.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Corrupt`] if the files cannot be read.
    pub fn info(&self) -> Result<Info> {
        let vfs = &*self.handle.vfs;
        let view = self.view();
        let errors = self.handle.background_errors.lock();
        let background_error = errors.flush.clone().or_else(|| errors.merge.clone());
        drop(errors);
        let mut info = Info {
            schema: (*view.schema).clone(),
            rows: view.live_rows(),
            dead_rows: view.parts.iter().map(|p| p.dead.len()).sum(),
            segments: 0,
            memtable_rows: 0,
            memtable_bytes: 0,
            disk_bytes: 0,
            reserve_bytes: vfs.open(RESERVE_NAME)?.map_or(0, |file| file.len()),
            regions: BTreeMap::new(),
            ram_bytes: 0,
            columns: self.handle.residency.info(&view),
            ram_budget: self.handle.options.ram_budget,
            max_dims: self.handle.residency.dims,
            graph_errors: view
                .parts
                .iter()
                .filter_map(|p| p.graph_damage().map(String::from))
                .collect(),
            background_error,
        };
        info.count(&view);
        (info.segments, info.disk_bytes) = self
            .handle
            .settled(|manifest| Ok((manifest.segments.len(), manifest.measure(vfs)?.1)))?;
        Ok(info)
    }
}

impl Info {
    /// Adds what each part takes.
    fn count(&mut self, view: &View) {
        for part in &view.parts {
            let bytes = part.rows.ram_bytes() as u64;
            for (what, bytes) in part.rows.disk_bytes() {
                *self.regions.entry(what).or_default() += bytes;
            }
            if let Some(graph) = part.walkable() {
                *self.regions.entry("graphs").or_default() += graph.disk_bytes();
            }
            if part.segment.is_some() {
                self.ram_bytes += bytes + part.walkable().map_or(0, |g| g.ram_bytes() as u64);
            } else {
                self.memtable_rows += part.live_rows();
                self.memtable_bytes += bytes;
            }
        }
    }
}

//! Sizes of a collection.

use std::collections::BTreeMap;

use parking_lot::MutexGuard;

use super::Collection;
use super::writer::Writer;
use crate::error::Result;
use crate::manifest;
use crate::schema::Schema;
use crate::segment::format::RegionKind;
use crate::segment::reader::Segment;

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
    /// Bytes of all files.
    pub disk_bytes: u64,
    /// Bytes on disk by what they hold.
    pub regions: BTreeMap<&'static str, u64>,
    /// Bytes of stage codes, factors and norms kept in RAM for the rows in segments, and
    /// of what is kept of their graphs.
    pub ram_bytes: u64,
    /// Why merging segments in the background last failed, if it did.
    pub background_error: Option<String>,
}

impl Collection {
    /// What the collection holds and what it takes.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Corrupt`] if the files cannot be read.
    pub fn info(&self) -> Result<Info> {
        let vfs = &*self.shared.vfs;
        let _quiet = self.quiet();
        let view = self.view();
        let manifest = manifest::load_installed(vfs)?;
        let mut info = Info {
            schema: (*view.schema).clone(),
            rows: view.live_rows(),
            dead_rows: view.parts.iter().map(|p| p.dead.len()).sum(),
            segments: manifest.segments.len(),
            memtable_rows: 0,
            memtable_bytes: 0,
            disk_bytes: 0,
            regions: BTreeMap::new(),
            ram_bytes: 0,
            background_error: self.shared.background_error.lock().clone(),
        };
        for part in &view.parts {
            let bytes = part.rows.ram_bytes() as u64;
            if part.segment.is_some() {
                info.ram_bytes += bytes + part.graph.as_ref().map_or(0, |g| g.ram_bytes() as u64);
            } else {
                info.memtable_rows += part.live_rows();
                info.memtable_bytes += bytes;
            }
        }
        for entry in &manifest.segments {
            let segment = Segment::open(vfs, &manifest.collection, &view.schema, entry)?;
            for (kind, bytes) in segment.sizes() {
                *info.regions.entry(region_name(kind)).or_default() += bytes;
            }
        }
        let graphs: u64 = manifest.graphs.iter().map(|graph| graph.len).sum();
        if graphs > 0 {
            info.regions.insert(region_name(RegionKind::GraphMeta), graphs);
        }
        (_, info.disk_bytes) = manifest.measure(vfs)?;
        Ok(info)
    }

    /// Keeps the writer from replacing files while they are read.
    fn quiet(&self) -> Option<MutexGuard<'_, Writer>> {
        self.shared.writer.as_ref().map(|writer| writer.lock())
    }
}

fn region_name(kind: RegionKind) -> &'static str {
    match kind {
        RegionKind::Ids | RegionKind::IdOrder => "ids",
        RegionKind::Norms | RegionKind::Codes | RegionKind::Factors => "stage codes",
        RegionKind::Vectors => "full vectors",
        RegionKind::Payload | RegionKind::PayloadIndex => "payloads",
        RegionKind::FieldIndex => "field indexes",
        RegionKind::GraphMeta
        | RegionKind::GraphCodes
        | RegionKind::GraphFactors
        | RegionKind::GraphLinks => "graphs",
    }
}

//! The graph of a segment, in a file of its own: FORMAT.md, section "Graph".
//!
//! The file has the form of a segment (header, regions, table, footer), so that it is
//! written, checked, mapped and copied by the same code. It is not part of the segment's
//! file because it comes later and can go again, and files are never rewritten.

use std::sync::Arc;

use super::format::RegionKind as K;
use super::parts::{Described, Parts};
use super::writer::SegmentWriter;
use crate::codec::header::{CollectionId, FileHeader, FileKind, Owner};
use crate::codec::{f32_bytes, f32s};
use crate::error::{Error, Result};
use crate::graph::{Built, Graph, Meta};
use crate::manifest::GraphEntry;
use crate::types::FileNumber;
use crate::vfs::{ReadFile, Vfs, open_named};

/// The regions of the file, in their order.
const REGIONS: [K; 4] = [K::GraphMeta, K::GraphFactors, K::GraphCodes, K::GraphLinks];

/// Writes the graph of a segment to file `number`, and makes its bytes durable.
pub(crate) fn write(
    vfs: &dyn Vfs,
    owner: Owner,
    number: FileNumber,
    segment: FileNumber,
    built: &Built,
) -> Result<GraphEntry> {
    let header = FileHeader::new(FileKind::Graph, number, owner);
    let mut out = SegmentWriter::begin(vfs, &header)?;
    let links: Vec<u8> = built.links.iter().flat_map(|link| link.to_le_bytes()).collect();
    out.region(K::GraphMeta, 0, &Meta::of(built).encode())?;
    out.region(K::GraphFactors, 0, &f32_bytes(&built.factors))?;
    out.region(K::GraphCodes, 0, &built.codes)?;
    out.region(K::GraphLinks, 0, &links)?;
    let (len, table_crc) = out.finish(built.factors.len() as u32, 0)?;
    Ok(GraphEntry { number, len, segment, table_crc })
}

/// Opens the graph of a segment of `rows` rows of `dims` dimensions.
///
/// # Errors
/// [`Error::Corrupt`] where it is not there, or is not that.
pub(crate) fn open(
    vfs: &dyn Vfs,
    collection: &CollectionId,
    dims: usize,
    entry: &GraphEntry,
    rows: u32,
) -> Result<Graph> {
    let file = file(vfs, entry)?;
    let parts = parts(file, collection, &Described::graph(entry, rows))?;
    let meta = meta(&parts, rows, dims)?;
    let factors = f32s(&parts.mapped(K::GraphFactors, 0)?.copy()?);
    let region = |kind| parts.mapped(kind, 0).map(Box::new);
    Graph::new(meta, factors, region(K::GraphCodes)?, region(K::GraphLinks)?)
}

/// The file of a graph.
pub(crate) fn file(vfs: &dyn Vfs, entry: &GraphEntry) -> Result<Arc<dyn ReadFile>> {
    open_named(vfs, &FileKind::Graph.name(entry.number))
}

/// The file, with its region table checked.
pub(super) fn parts(
    file: Arc<dyn ReadFile>,
    collection: &CollectionId,
    described: &Described,
) -> Result<Parts> {
    let parts = Parts::open(file, collection, described)?;
    let found: Vec<_> = parts.entries.iter().map(|e| (e.kind, e.stage)).collect();
    let expected = REGIONS.map(|kind| (kind, 0));
    if found != expected {
        let what = format!("regions are {found:?}, expected {expected:?}");
        return Err(Error::corrupt(parts.file.path(), 0, what));
    }
    Ok(parts)
}

/// What the graph is; the other regions have the lengths that follow from it.
pub(super) fn meta(parts: &Parts, rows: u32, dims: usize) -> Result<Meta> {
    let region = parts.mapped(K::GraphMeta, 0)?;
    let meta = Meta::decode(region.get(0, region.len())?, rows, dims)
        .map_err(|e| e.in_file(parts.file.path(), region.offset()))?;
    let [codes, factors, links] = meta.lengths();
    parts.required(K::GraphCodes, 0, Some(codes))?;
    parts.required(K::GraphFactors, 0, Some(factors))?;
    parts.required(K::GraphLinks, 0, Some(links))?;
    Ok(meta)
}

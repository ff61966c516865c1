//! `matryo info` and `matryo verify`.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Instant;

use indicatif::BinaryBytes;
use matryo::{Field, Info, Schema, json};
use serde_json::Map;

use crate::declared::written;
use crate::report::{Outcome, Output, Report};
use crate::{Opening, open_to_read};

#[derive(clap::Args)]
#[command(after_help = "Example:\n  matryo info books.matryo --json")]
pub(crate) struct Args {
    /// The collection.
    dir: PathBuf,
    #[command(flatten)]
    opening: Opening,
}

impl Args {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let info = self.opening.open(&self.dir)?.info()?;
        let mut report = Report::default();
        schema(&mut report, &info.schema);
        report.count("rows", info.rows);
        report.count("dead_rows", info.dead_rows);
        report.count("segments", info.segments as u64);
        report.count("memtable_rows", info.memtable_rows);
        sizes(&mut report, &info)?;
        columns(&mut report, &info)?;
        if !info.graph_errors.is_empty() {
            let errors = info.graph_errors.clone();
            report.field("graph_errors", errors, info.graph_errors.join("; "));
        }
        output.print(&report)
    }
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  matryo verify books.matryo && echo intact")]
pub(crate) struct VerifyArgs {
    /// The collection.
    dir: PathBuf,
}

impl VerifyArgs {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let collection = open_to_read(&self.dir)?;
        let start = Instant::now();
        let verified = collection.verify()?;
        let time = start.elapsed();
        let mut report = Report::default();
        report.field("damaged", false, "no");
        report.count("files", verified.files as u64);
        report.bytes("bytes", verified.bytes);
        report.seconds(time);
        let rate = verified.bytes as f64 / time.as_secs_f64() / 1e9;
        report.figure("gigabytes_per_second", rate, " GB/s");
        output.print(&report)
    }
}

fn schema(report: &mut Report, schema: &Schema) {
    report.plain("dims", schema.dims());
    report.plain("metric", schema.metric().name());
    report.plain("stored", schema.stored().name());
    report.field("ids", schema.ids().to_string(), schema.ids());
    let granularities = schema.granularities();
    report.field("granularities", granularities, format_args!("{granularities:?}"));
    let codes = schema.stages().iter();
    let json: Vec<_> =
        codes.clone().map(|c| json!({"dims": c.dims, "bits": c.bits.count()})).collect();
    let text: Vec<_> = codes.map(ToString::to_string).collect();
    report.field("stage_codes", json, text.join(", "));
    if let Some(embedder) = schema.embedder() {
        let add = |hex: String, byte: &u8| format!("{hex}{byte:02x}");
        let hex = |hash: &[u8; 32]| hash.iter().fold(String::new(), add);
        let parts = embedder.parts().map(|(name, hash)| (name.to_owned(), hex(hash).into()));
        let json = json!({
            "name": embedder.name(), "hash": hex(embedder.hash()),
            "parts": parts.collect::<Map<_, _>>(),
        });
        report.field("embedder", json, embedder);
    }
    let fields = schema.fields().iter();
    // As `import --field`, `copy --field` and `repair --field` take it.
    let text: Vec<_> = fields.clone().map(written).collect();
    let field = |f: &Field| json!({"name": f.name(), "kind": f.kind().name(), "list": f.is_list()});
    report.field("fields", fields.map(field).collect::<Vec<_>>(), text.join(", "));
}

/// What is kept in RAM, and why.
fn columns(report: &mut Report, info: &Info) -> Outcome {
    if let Some(budget) = info.ram_budget {
        report.bytes("ram_budget", budget);
    }
    if info.max_dims < info.schema.dims() {
        report.plain("max_dims", info.max_dims);
    }
    let (mut json, mut text) = (Vec::new(), String::new());
    for column in &info.columns {
        let (why, ram) = (column.placement.to_string(), column.ram_bytes);
        writeln!(
            text,
            "  {:<22} {} of {}, {why}",
            column.name,
            BinaryBytes(ram),
            BinaryBytes(column.bytes)
        )?;
        json.push(json!({
            "name": column.name, "bytes": column.bytes, "ram_bytes": ram, "placement": why,
        }));
    }
    report.block("ram_by_column", json, &text);
    Ok(())
}

/// Bytes on disk and in RAM, whole and for each vector.
pub(crate) fn sizes(report: &mut Report, info: &Info) -> Outcome {
    report.bytes("disk_bytes", info.disk_bytes);
    let (mut json, mut text) = (Map::new(), String::new());
    let regions = info.regions.iter().map(|(name, bytes)| (*name, *bytes));
    let other = info.disk_bytes.saturating_sub(info.regions.values().sum());
    // Headers, checksums, tombstones, manifest, and the log until it is flushed.
    for (name, bytes) in regions.chain([("everything else", other)]) {
        json.insert(name.replace(' ', "_"), bytes.into());
        writeln!(text, "  {name:<22} {}", BinaryBytes(bytes))?;
    }
    report.block("disk_bytes_by_region", json, &text);
    report.bytes("reserve_bytes", info.reserve_bytes);
    report.bytes("ram_bytes", info.ram_bytes + info.memtable_bytes);
    report.per_vector("disk_bytes_per_vector", info.disk_bytes, info.rows);
    report.per_vector("ram_bytes_per_vector", info.ram_bytes + info.memtable_bytes, info.rows);
    Ok(())
}

//! `matryo backup`, `copy`, `drop-tier`, `compact`, `calibrate` and `repair`.

use std::path::PathBuf;
use std::time::Instant;

use matryo::{
    CalibratedPlan, Collection, Copied, CopyOptions, Metric, Options, Precision, RepairOptions,
    Repaired, Schema, json,
};

use crate::declared::Declared;
use crate::npy::Reader;
use crate::open_to_read;
use crate::report::{Outcome, Output, Report, advance};

#[derive(clap::Args)]
#[command(after_help = "\
Every byte is compared with its checksum on the way. TO does not open before the backup is
complete. The collection may be in use meanwhile, also by a process that writes to it: the
backup holds what was committed when it began.

Example:
  matryo backup books.matryo /mnt/backups/books-monday.matryo")]
pub(crate) struct BackupArgs {
    /// The collection.
    dir: PathBuf,
    /// A folder that does not exist, or is empty.
    to: PathBuf,
}

impl BackupArgs {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let collection = open_to_read(&self.dir)?;
        let (start, bar) = (Instant::now(), output.progress(0, "bytes"));
        let copied = collection.backup_with(&self.to, advance(&bar))?;
        bar.finish_and_clear();
        print_copied(output, copied, start)
    }
}

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  matryo copy books.matryo small.matryo --dims 256 --stored f16
  matryo copy books.matryo books2.matryo --field year:integer --field 'tags:keyword[]'")]
pub(crate) struct CopyArgs {
    /// The collection.
    dir: PathBuf,
    /// A folder that does not exist, or is empty.
    to: PathBuf,
    #[command(flatten)]
    keep: Keep,
    /// Declare a field that the collection does not, as NAME:KIND, or NAME:KIND[] if its values are
    /// arrays; KIND is keyword, integer, float, bool or timestamp. A row with a value of another
    /// kind there does not fit.
    #[arg(long = "field", value_name = "NAME:KIND", value_parser = Declared::parse)]
    fields: Vec<Declared>,
}

/// What a copy keeps.
#[derive(clap::Args)]
struct Keep {
    /// Keep the first DIMS dimensions of every vector [default: all].
    #[arg(long)]
    dims: Option<usize>,
    /// Store vectors as f32, f16 or bf16 [default: as they are].
    #[arg(long)]
    stored: Option<Precision>,
    /// Leave out rows that do not fit (under cosine a prefix of zeros), instead of failing at
    /// the first.
    #[arg(long)]
    skip_unfit: bool,
}

impl Keep {
    fn options(&self) -> CopyOptions {
        let mut options = CopyOptions::new().skip_unfit(self.skip_unfit);
        if let Some(dims) = self.dims {
            options = options.dims(dims);
        }
        if let Some(precision) = self.stored {
            options = options.stored(precision);
        }
        options
    }
}

impl CopyArgs {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let collection = open_to_read(&self.dir)?;
        let (start, bar) = (Instant::now(), output.progress(0, "rows"));
        let options = self.fields.iter().fold(self.keep.options(), |o, field| field.in_copy(o));
        let copied = collection.copy_with(&self.to, &options, advance(&bar))?;
        bar.finish_and_clear();
        print_copied(output, copied, start)
    }
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("what").args(["dims", "stored"]).required(true).multiple(true))]
#[command(after_help = "\
The dimensions beyond DIMS are gone for good: back up first. Until it is done the folder
needs room for both forms; a crash leaves the one or the other, whole.

Example:
  matryo drop-tier books.matryo --dims 256 --yes")]
pub(crate) struct DropTierArgs {
    /// The collection.
    dir: PathBuf,
    #[command(flatten)]
    keep: Keep,
    /// Yes, the other dimensions may go: there is a backup, or none is wanted.
    #[arg(long, required = true)]
    yes: bool,
}

impl DropTierArgs {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let (start, bar) = (Instant::now(), output.progress(0, "rows"));
        let options = self.keep.options();
        let copied = Collection::rewrite_with(&self.dir, &options, advance(&bar))?;
        bar.finish_and_clear();
        print_copied(output, copied, start)
    }
}

#[derive(clap::Args)]
#[command(after_help = "Example:\n  matryo compact books.matryo")]
pub(crate) struct CompactArgs {
    /// The collection.
    dir: PathBuf,
}

impl CompactArgs {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        // Nothing is searched, so nothing is taken into RAM for searches.
        let options = Options::new().background(false).ram_budget(0);
        let collection = Collection::open_with(&self.dir, options)?;
        let before = collection.info()?.disk_bytes;
        let (start, bar) = (Instant::now(), output.progress(0, "rows"));
        let done = collection.compact_with(advance(&bar))?;
        bar.finish_and_clear();
        let mut report = Report::default();
        report.count("segments_merged", done.segments as u64);
        report.count("rows_copied", done.rows);
        report.count("dead_rows_reclaimed", done.reclaimed);
        report.bytes("disk_bytes_before", before);
        report.bytes("disk_bytes", collection.info()?.disk_bytes);
        report.seconds(start.elapsed());
        output.print(&report)
    }
}

#[derive(clap::Args)]
#[command(after_help = "\
Rows that cannot be read whole are dropped and counted, and their ids listed as far as these can
be read. Commits behind the damage of a log are dropped and counted too. Where a list of deleted
rows is lost, such rows may come back, at most as many as the report says. Copies of damaged files
stay in the folder, as damaged-<n>-<file>; it needs room for them and for what is written anew.
Nothing else may have the collection open. Without damage nothing is changed.

Where MANIFEST itself is lost or damaged, say what the collection stored: --dims, --granularities,
--metric, --stored, --string-ids for string ids, and each declared field in its order, as
`matryo info` showed them. Deleted rows may come back then.

Examples:
  matryo repair books.matryo
  matryo repair books.matryo --dims 768 --field year:integer --field 'tags:keyword[]'")]
pub(crate) struct RepairArgs {
    /// The collection.
    dir: PathBuf,
    /// Keep rows whose payload is lost, without it.
    #[arg(long)]
    keep_without_payload: bool,
    /// Without MANIFEST: dimensions of the vectors.
    #[arg(long)]
    dims: Option<usize>,
    /// Without MANIFEST: cosine, dot or l2.
    #[arg(long, requires = "dims", default_value = "cosine")]
    metric: Metric,
    /// Without MANIFEST: f32, f16 or bf16.
    #[arg(long, requires = "dims", default_value = "f32")]
    stored: Precision,
    /// Without MANIFEST: ids are strings.
    #[arg(long, requires = "dims")]
    string_ids: bool,
    /// Without MANIFEST: prefix lengths the model was trained at, ascending.
    #[arg(long, requires = "dims", value_delimiter = ',')]
    granularities: Vec<usize>,
    /// Without MANIFEST: a declared field, as NAME:KIND, or NAME:KIND[] if its values are arrays;
    /// KIND is keyword, integer, float, bool or timestamp.
    #[arg(long = "field", requires = "dims", value_name = "NAME:KIND", value_parser = Declared::parse)]
    fields: Vec<Declared>,
}

#[derive(clap::Args)]
#[command(after_help = "\
Prints, for each stage code and number of dimensions, the recall@10 that held-out queries found,
with its 95 % confidence interval, and how many full vectors they compared on the average.

Examples:
  matryo calibrate books.matryo
  matryo calibrate books.matryo --vectors sample-queries.npy")]
pub(crate) struct CalibrateArgs {
    /// The collection.
    dir: PathBuf,
    /// Sample queries of all dimensions, .npy of shape [queries, dimensions]
    /// [default: 300 rows of the collection].
    #[arg(long)]
    vectors: Option<PathBuf>,
}

impl CalibrateArgs {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let collection = Collection::open_with(&self.dir, Options::new().background(false))?;
        let start = Instant::now();
        let found = match &self.vectors {
            None => collection.calibrate()?,
            Some(path) => {
                let mut reader = Reader::vectors(path)?;
                let (rows, columns) = (reader.rows(), reader.columns());
                let mut values = Vec::new();
                reader.read_floats(rows, &mut values)?;
                let queries: Vec<&[f32]> = values.chunks_exact(columns.max(1)).collect();
                collection.calibrate_with(&queries)?
            }
        };
        let mut report = Report::default();
        report.count("rows", found.rows());
        report.count("queries", found.queries() as u64);
        report.seconds(start.elapsed());
        let plan = |p: CalibratedPlan| {
            json!({"code": p.code, "dims": p.dims, "recall_asked": p.asked, "recall": p.recall,
                   "interval": p.interval, "compared": p.compared})
        };
        let plans: Vec<_> = found.plans().map(plan).collect();
        report.block("plans", json!(plans), &format!("plans: {found}"));
        output.print(&report)
    }
}

impl RepairArgs {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let mut options = RepairOptions::new().keep_without_payload(self.keep_without_payload);
        if let Some(dims) = self.dims {
            let ids = if self.string_ids { matryo::IdKind::Str } else { matryo::IdKind::U64 };
            let schema = Schema::builder(dims).metric(self.metric).stored(self.stored).ids(ids);
            let schema = schema.granularities(self.granularities.clone());
            let schema = self.fields.iter().fold(schema, |s, field| field.in_schema(s));
            options = options.schema(schema.build()?);
        }
        let repaired = Collection::repair_with(&self.dir, &options)?;
        output.print(&repair_report(&repaired))
    }
}

fn repair_report(repaired: &Repaired) -> Report {
    let mut report = Report::default();
    let found: Vec<_> = repaired.damage.iter().map(ToString::to_string).collect();
    report.field("damaged", !found.is_empty(), if found.is_empty() { "no" } else { "yes" });
    report.count("rows", repaired.rows);
    report.count("segments_rebuilt", repaired.rebuilt as u64);
    report.count("rows_lost", repaired.lost);
    report.count("payloads_lost", repaired.payloads_lost);
    report.count("commits_lost", repaired.commits_lost);
    report.count("rows_undeleted_at_most", repaired.undeleted);
    let ids: Vec<_> = repaired.lost_ids.iter().map(ToString::to_string).collect();
    let text = |title: &str, lines: &[String]| {
        let lines: Vec<_> = lines.iter().map(|line| format!("  {line}\n")).collect();
        if lines.is_empty() { String::new() } else { format!("{title}:\n{}", lines.concat()) }
    };
    let kept: Vec<_> = repaired.kept.iter().map(|path| path.display().to_string()).collect();
    report.block("damage", json!(found), &text("damage", &found));
    report.block("lost_ids", json!(ids), &text("ids of lost rows", &ids));
    report.block("kept", json!(kept), &text("copies of damaged files", &kept));
    report
}

fn print_copied(output: Output, copied: Copied, start: Instant) -> Outcome {
    let mut report = Report::default();
    report.count("rows", copied.rows);
    report.count("skipped", copied.skipped);
    report.count("graphs_left_out", copied.graphs_left_out as u64);
    report.count("files", copied.files as u64);
    report.bytes("disk_bytes", copied.bytes);
    report.seconds(start.elapsed());
    output.print(&report)
}

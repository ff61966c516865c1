//! `matryo export`, `get` and `delete`: rows as JSON lines, and rows that go.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::path::PathBuf;

use matryo::{Batch, Collection, Filter, Options, Row, RowId, Value};

use crate::open_to_read;
use crate::report::{Outcome, Output, Report, is_read};
use crate::search::{filter, parse_id};

#[derive(clap::Args)]
#[command(after_help = "\
Rows come in the order they are stored, as they were when the command began. A row is an
object with `id`, `payload` and, if asked for, `vector`, in the precision it is stored in.
The lines are the same with --json and without.

Examples:
  matryo export books.matryo > rows.jsonl
  matryo export books.matryo --filter 'year < 2000' --vectors")]
pub(crate) struct ExportArgs {
    /// The collection.
    dir: PathBuf,
    /// Only rows whose payload passes, such as \"year >= 2020 AND lang = 'en'\".
    #[arg(long, value_name = "TEXT", value_parser = filter)]
    filter: Option<Filter>,
    /// Print vectors too.
    #[arg(long)]
    vectors: bool,
}

impl ExportArgs {
    pub(crate) fn run(&self) -> Outcome {
        let snapshot = open_to_read(&self.dir)?.snapshot();
        let mut lines = Lines::new(self.vectors);
        match &self.filter {
            None => lines.write_all(snapshot.iter()),
            Some(filter) => lines.write_all(snapshot.select(filter)?),
        }
    }
}

#[derive(clap::Args)]
#[command(after_help = "\
Prints a line for each, as `matryo export` does, in the order of the ids. Where one has no
row the others are printed all the same, and the exit code is 1.

Example:
  matryo get books.matryo 17 4")]
pub(crate) struct GetArgs {
    /// The collection.
    dir: PathBuf,
    /// Ids of rows.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Print vectors too.
    #[arg(long)]
    vectors: bool,
}

impl GetArgs {
    pub(crate) fn run(&self) -> Outcome {
        let collection = open_to_read(&self.dir)?;
        let ids = parse_ids(&self.ids, &collection)?;
        let mut lines = Lines::new(self.vectors);
        let mut missing = Vec::new();
        let found = ids.iter().filter_map(|id| {
            let row = collection.get(id).transpose();
            if row.is_none() {
                missing.push(id.to_string());
            }
            row
        });
        lines.write_all(found)?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!("no row has the id {}", missing.join(", ")).into())
    }
}

#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("which").args(["ids", "filter"]).required(true))]
#[command(after_help = "\
Ids that no row has are counted, and no error. What is deleted is gone for searches when the
command ends; its bytes go when segments are merged (`matryo compact`).

Examples:
  matryo delete books.matryo 17 4
  matryo delete books.matryo --filter 'year < 2000'")]
pub(crate) struct DeleteArgs {
    /// The collection.
    dir: PathBuf,
    /// Ids of rows.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All rows whose payload passes, such as \"year >= 2020 AND lang = 'en'\".
    #[arg(long, value_name = "TEXT", value_parser = filter)]
    filter: Option<Filter>,
}

impl DeleteArgs {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        // Nothing is searched, so nothing is taken into RAM for searches.
        let options = Options::new().background(false).ram_budget(0);
        let collection = Collection::open_with(&self.dir, options)?;
        // An id that is named twice is one row.
        let ids: BTreeSet<_> = parse_ids(&self.ids, &collection)?.into_iter().collect();
        let named = ids.len() as u64;
        let (deleted, missing) = match &self.filter {
            Some(filter) => (collection.delete_where(filter)?, 0),
            None => delete(&collection, ids).map(|deleted| (deleted, named - deleted))?,
        };
        let mut report = Report::default();
        report.count("rows_deleted", deleted);
        report.count("ids_not_found", missing);
        report.count("rows_in_collection", collection.len());
        collection.close()?;
        output.print(&report)
    }
}

/// Deletes rows, in as many batches as it takes; how many there were.
fn delete(collection: &Collection, ids: BTreeSet<RowId>) -> matryo::Result<u64> {
    let (mut batch, mut deleted) = (collection.batch(), 0);
    for id in ids {
        batch.delete(id)?;
        if batch.bytes() >= Batch::MAX_BYTES / 2 {
            deleted += std::mem::replace(&mut batch, collection.batch()).commit()?.deleted;
        }
    }
    Ok(deleted + batch.commit()?.deleted)
}

fn parse_ids(ids: &[String], collection: &Collection) -> Outcome<Vec<RowId>> {
    ids.iter().map(|id| parse_id(id, collection)).collect()
}

/// Rows on their way to stdout, a line each.
struct Lines {
    output: BufWriter<StdoutLock<'static>>,
    vectors: bool,
}

impl Lines {
    fn new(vectors: bool) -> Self {
        Self { output: BufWriter::with_capacity(1 << 16, io::stdout().lock()), vectors }
    }

    /// Writes all rows, up to the first that is damaged; none after a reader has seen enough
    /// (`| head`), which is no failure.
    fn write_all(&mut self, rows: impl Iterator<Item = matryo::Result<Row>>) -> Outcome {
        let mut written = Ok(());
        for row in rows {
            let row = match row {
                Ok(row) => row,
                Err(e) => {
                    let _ = self.output.flush();
                    return Err(e.into());
                }
            };
            written = self.write(row);
            if written.is_err() {
                break;
            }
        }
        is_read(written.and_then(|()| self.output.flush())).map(drop)
    }

    fn write(&mut self, row: Row) -> io::Result<()> {
        let out = &mut self.output;
        write!(out, "{{\"id\":{},\"payload\":{}", Value::from(row.id), Value::Object(row.payload))?;
        if self.vectors {
            // The fewest digits that are read back as the same float.
            for (at, value) in row.vector.iter().enumerate() {
                write!(out, "{}{value:?}", if at == 0 { ",\"vector\":[" } else { "," })?;
            }
            out.write_all(b"]")?;
        }
        out.write_all(b"}\n")
    }
}

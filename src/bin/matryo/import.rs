//! `matryo import`: vectors of a `.npy` file become rows of a collection.
//!
//! The file is read a few rows at a time and loaded in bulk, so memory is bounded
//! by `--memtable-mib` and not by the file. A new collection grows in a folder
//! beside its place, named like it with `.partial` at the end, and takes its
//! place when it is whole: whatever interrupts the import, nothing that looks
//! complete is left. Adding to a collection is all or nothing, too.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use matryo::{Bulk, Collection, IdKind, Info, Metric, Options, Precision, Schema};

use crate::info::sizes;
use crate::npy::Reader;
use crate::report::{Failure, Outcome, Output, Report, context};

const HELP: &str = "\
Without --ids the ids are the numbers of the rows, from 0. The collection grows in
DIR.partial and is renamed when it is whole: an import that fails leaves nothing, one
that is killed leaves DIR.partial. With --append, all rows are added at once when the
last is read, or none. What is there when the import ends survives a power loss.

Example:
  matryo import books.matryo --npy base.npy --granularities 64,256,1024 \\
      --metric cosine --stored f16";

/// Rows read at once.
const READ_ROWS: usize = 1000;

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The collection to make; must not exist, unless --append.
    dir: PathBuf,
    /// Vectors: .npy, float16, float32 or float64 of shape [rows, dimensions].
    #[arg(long, value_name = "FILE")]
    npy: PathBuf,
    /// Their ids: .npy, integers from 0 of shape [rows]. Of rows with the same id
    /// the last counts.
    #[arg(long, value_name = "FILE")]
    ids: Option<PathBuf>,
    /// Dimensions the model was trained at, ascending [default: all of them only].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    granularities: Vec<usize>,
    /// cosine, dot or l2 [default: cosine].
    #[arg(long)]
    metric: Option<Metric>,
    /// Precision of the full vectors: f32, f16 or bf16 [default: f32].
    #[arg(long, value_name = "PRECISION")]
    stored: Option<Precision>,
    /// Add to a collection that exists, replacing rows by id. Options of the schema
    /// that are given must be those it has.
    #[arg(long, requires = "ids")]
    append: bool,
    /// RAM for rows on their way to disk, and so the size of a segment, in MiB; while
    /// a segment is written, about as much again and some.
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    memtable_mib: u32,
}

/// The input: vectors, and their ids if they have some.
struct Input {
    vectors: Reader,
    ids: Option<Reader>,
    /// The rows at hand.
    floats: Vec<f32>,
    numbers: Vec<i128>,
}

/// What an import did.
struct Done {
    rows: usize,
    time: Duration,
    /// Of the collection as it is now; the rows are there even where that cannot be told.
    info: matryo::Result<Info>,
}

impl Args {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let input = Input::open(&self.npy, self.ids.as_deref())?;
        let done =
            if self.append { self.append(input, output) } else { self.create(input, output) };
        let Done { rows, time, info } = done?;
        let dir = self.dir.display();
        let info = info.map_err(|e| context(format!("all rows are in {dir}, but"), e))?;
        let mut report = Report::default();
        report.count("rows", rows as u64);
        report.seconds(time);
        report.figure("rows_per_second", rows as f64 / time.as_secs_f64(), "");
        report.count("rows_in_collection", info.rows);
        report.count("segments", info.segments as u64);
        sizes(&mut report, &info)?;
        output.print(&report)
    }

    fn append(&self, input: Input, output: Output) -> Outcome<Done> {
        let collection = Collection::open_with(&self.dir, self.options())?;
        self.check_schema(collection.schema(), input.vectors.columns())
            .map_err(|e| context(format!("cannot add to {}", self.dir.display()), e))?;
        fill(&collection, input, output).map_err(|failure| {
            let dir = self.dir.display();
            match failure {
                Unfinished::Before(e) => context(format!("nothing was added to {dir}"), e),
                Unfinished::Finishing(e) => {
                    let found = "what opens it next finds all rows of this import or none";
                    context(format!("cannot add to {dir}; {found}"), e)
                }
            }
        })
    }

    fn create(&self, input: Input, output: Output) -> Outcome<Done> {
        let dir = self.dir.display();
        let partial = partial_of(&self.dir)?;
        if !is_free(&self.dir) {
            return Err(format!("{dir} already exists: add to it with --append and --ids").into());
        }
        if partial.exists() {
            let whose = "another import is at work, or was killed and left it";
            let partial = partial.display();
            return Err(format!("{partial} is in the way: {whose}; if so, remove it").into());
        }
        let schema = self.schema(input.vectors.columns())?;
        let collection = Collection::create_with(&partial, schema, self.options())?;
        let filled = fill(&collection, input, output);
        // The folder is moved or removed when nothing has it open.
        drop(collection);
        let done = filled.map_err(|failure| {
            remove(&partial);
            match failure {
                Unfinished::Before(e) | Unfinished::Finishing(e) => e,
            }
        })?;
        put_in_place(&partial, &self.dir).map_err(|e| {
            context(format!("the collection is whole, but still named {}", partial.display()), e)
        })?;
        Ok(done)
    }

    fn options(&self) -> Options {
        Options::new().memtable_bytes((self.memtable_mib as usize) << 20)
    }

    fn schema(&self, dims: usize) -> matryo::Result<Schema> {
        Schema::builder(dims)
            .granularities(self.granularities.iter().copied())
            .metric(self.metric.unwrap_or(Metric::Cosine))
            .stored(self.stored.unwrap_or(Precision::F32))
            .build()
    }

    /// Whether rows of `dims` dimensions with numbers as ids can be added, and all
    /// options that are given are those of the collection.
    fn check_schema(&self, schema: &Schema, dims: usize) -> Outcome {
        let mut granularities = self.granularities.clone();
        if granularities.last().is_some_and(|last| *last != dims) {
            granularities.push(dims);
        }
        let given = Some(granularities).filter(|g| !g.is_empty());
        let differences = [
            differs("dimensions", &schema.dims(), Some(&dims)),
            differs("ids", &schema.ids(), Some(&IdKind::U64)),
            differs("granularities", &schema.granularities(), given.as_deref().as_ref()),
            differs("metric", &schema.metric(), self.metric.as_ref()),
            differs("stored precision", &schema.stored(), self.stored.as_ref()),
        ];
        match differences.into_iter().flatten().next() {
            Some(difference) => Err(difference.into()),
            None => Ok(()),
        }
    }
}

/// When a load failed, and why.
enum Unfinished {
    /// The collection is as it was.
    Before(Failure),
    /// All rows may be on disk, or none.
    Finishing(Failure),
}

/// Loads all rows, or none.
fn fill(collection: &Collection, mut input: Input, output: Output) -> Result<Done, Unfinished> {
    let start = Instant::now();
    let rows = input.vectors.rows();
    let bar = output.progress(rows as u64, "rows");
    let mut bulk = collection.bulk().map_err(|e| Unfinished::Before(e.into()))?;
    let mut done = 0;
    while done < rows {
        let now = READ_ROWS.min(rows - done);
        input.load(&mut bulk, done, now).map_err(Unfinished::Before)?;
        done += now;
        bar.inc(now as u64);
    }
    bulk.finish().map_err(|e| Unfinished::Finishing(e.into()))?;
    bar.finish_and_clear();
    Ok(Done { rows, time: start.elapsed(), info: collection.info() })
}

fn differs<T: PartialEq + fmt::Debug>(what: &str, has: &T, given: Option<&T>) -> Option<String> {
    let given = given.filter(|given| *given != has)?;
    Some(format!("{what}: it has {has:?}, got {given:?}").to_lowercase())
}

impl Input {
    fn open(vectors: &Path, ids: Option<&Path>) -> Outcome<Self> {
        let vectors = Reader::vectors(vectors)?;
        let input = Self { vectors, ids: None, floats: Vec::new(), numbers: Vec::new() };
        let Some(path) = ids else { return Ok(input) };
        let ids = Reader::ids(path)?;
        let (expected, got) = (input.vectors.rows(), ids.rows());
        if expected != got {
            let path = path.display();
            return Err(format!("{path}: expected {expected} ids, one a vector, got {got}").into());
        }
        Ok(Self { ids: Some(ids), ..input })
    }

    /// Reads `rows` rows and loads them; `first` is the number of the first.
    fn load(&mut self, bulk: &mut Bulk, first: usize, rows: usize) -> Outcome {
        self.vectors.read_floats(rows, &mut self.floats)?;
        match &mut self.ids {
            Some(ids) => ids.read_integers(rows, &mut self.numbers)?,
            None => self.numbers = (first as i128..).take(rows).collect(),
        }
        let vectors = self.floats.chunks(self.vectors.columns());
        for (at, (vector, id)) in vectors.zip(&self.numbers).enumerate() {
            let row = || format!("row {}", first + at);
            let id = u64::try_from(*id)
                .map_err(|_| format!("{}: id {id} is negative, ids are from 0", row()))?;
            bulk.upsert(id, vector, ()).map_err(|e| context(row(), e))?;
        }
        Ok(())
    }
}

/// Where a collection grows until it is whole.
fn partial_of(dir: &Path) -> Outcome<PathBuf> {
    let Some(name) = dir.file_name() else {
        return Err(format!("{}: expected a path that ends with a name", dir.display()).into());
    };
    let mut name = name.to_owned();
    name.push(".partial");
    Ok(dir.with_file_name(name))
}

/// Whether nothing is there, or an empty folder.
fn is_free(dir: &Path) -> bool {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(dir).is_err(),
    }
}

/// Renames a closed collection, durably.
fn put_in_place(partial: &Path, dir: &Path) -> io::Result<()> {
    fs::rename(partial, dir)?;
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    #[expect(clippy::disallowed_types, reason = "the folder around the collection")]
    fs::File::open(parent)?.sync_all()
}

/// Removes what an import made before it failed.
fn remove(partial: &Path) {
    if let Err(e) = fs::remove_dir_all(partial) {
        eprintln!("warning: cannot remove {}: {e}", partial.display());
    }
}

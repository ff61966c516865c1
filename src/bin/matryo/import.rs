//! `matryo import`: vectors of a `.npy` file become rows of a collection, with payloads of a file of
//! JSON lines.
//!
//! The files are read a few rows at a time and loaded in bulk, so memory is bounded
//! by `--memtable-mib` and not by the files. A new collection grows in a folder
//! beside its place, named like it with `.partial` at the end, and takes its
//! place when it is whole: whatever interrupts the import, nothing that looks
//! complete is left. Adding to a collection is all or nothing, too.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use matryo::{Bulk, Collection, IdKind, Info, Metric, Options, Payload, Precision, Schema, Value};

use crate::declared::Declared;
use crate::info::sizes;
use crate::npy::Reader;
use crate::payloads::{Payloads, id_kind};
use crate::report::{Failure, Outcome, Output, Report, context};

const HELP: &str = "\
Without --ids or --id-field the ids are the numbers of the rows, from 0. --payloads is a
file of JSON lines: an object (or null) for each vector, in their order. Fields that are
declared with --field can be asked for by filters, then or later; `matryo copy` declares
more.

The collection grows in DIR.partial and is renamed when it is whole: an import that fails
leaves nothing, one that is killed leaves DIR.partial. With --append, all rows are added at
once when the last is read, or none. What is there when the import ends survives a power loss.

Example:
  matryo import books.matryo --npy base.npy --granularities 64,256,1024 \\
      --metric cosine --stored f16
  matryo import books.matryo --npy base.npy --payloads books.jsonl --id-field isbn \\
      --field year:integer --field 'tags:keyword[]'";

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
    #[arg(long, value_name = "FILE", group = "named")]
    ids: Option<PathBuf>,
    /// Their payloads: JSON lines, an object or null for each vector.
    #[arg(long, value_name = "FILE")]
    payloads: Option<PathBuf>,
    /// Where payloads have the id, a whole number or a string; dots go into nested objects. The
    /// payloads keep it. Of rows with the same id the last counts.
    #[arg(long, value_name = "NAME", requires = "payloads", group = "named")]
    id_field: Option<String>,
    /// Declare a field of the payloads, as NAME:KIND, or NAME:KIND[] if its values are arrays; KIND
    /// is keyword, integer, float, bool or timestamp. Dots in NAME go into nested objects.
    #[arg(long = "field", value_name = "NAME:KIND", value_parser = Declared::parse)]
    fields: Vec<Declared>,
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
    #[arg(long, requires = "named")]
    append: bool,
    /// RAM for rows on their way to disk, and so the size of a segment, in MiB; while
    /// a segment is written, about as much again and some.
    #[arg(long, value_name = "MIB", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    memtable_mib: u32,
}

/// The input: vectors, and their ids and payloads if they have some.
struct Input {
    vectors: Reader,
    ids: Option<Reader>,
    payloads: Option<Payloads>,
    /// Where payloads have the id.
    id_field: Option<String>,
    /// Kind of the ids.
    kind: IdKind,
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
        let input = Input::open(self)?;
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
        self.check_schema(collection.schema(), &input)
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
            return Err(format!(
                "{dir} already exists: add to it with --append and --ids (or --id-field)"
            )
            .into());
        }
        if partial.exists() {
            let whose = "another import is at work, or was killed and left it";
            let partial = partial.display();
            return Err(format!("{partial} is in the way: {whose}; if so, remove it").into());
        }
        let schema = self.schema(&input)?;
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

    fn schema(&self, input: &Input) -> matryo::Result<Schema> {
        let schema = Schema::builder(input.vectors.columns())
            .granularities(self.granularities.iter().copied())
            .metric(self.metric.unwrap_or(Metric::Cosine))
            .stored(self.stored.unwrap_or(Precision::F32))
            .ids(input.kind);
        self.fields.iter().fold(schema, |schema, field| field.in_schema(schema)).build()
    }

    /// Whether the rows can be added, and all options that are given are those of the collection.
    fn check_schema(&self, schema: &Schema, input: &Input) -> Outcome {
        let dims = input.vectors.columns();
        let mut granularities = self.granularities.clone();
        if granularities.last().is_some_and(|last| *last != dims) {
            granularities.push(dims);
        }
        let given = Some(granularities).filter(|g| !g.is_empty());
        let differences = [
            differs("dimensions", &schema.dims(), Some(dims)),
            differs("ids", &schema.ids(), Some(input.kind)),
            differs("granularities", &Listed(schema.granularities()), given.as_deref().map(Listed)),
            differs("metric", &schema.metric(), self.metric),
            differs("stored precision", &schema.stored(), self.stored),
        ];
        let fields = self.fields.iter().map(|field| field.missing_in(schema));
        match differences.into_iter().chain(fields).flatten().next() {
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

fn differs<T: PartialEq + fmt::Display>(what: &str, has: &T, given: Option<T>) -> Option<String> {
    let given = given.filter(|given| given != has)?;
    Some(format!("{what}: it has {has}, got {given}"))
}

#[derive(PartialEq)]
struct Listed<'a>(&'a [usize]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Input {
    fn open(args: &Args) -> Outcome<Self> {
        let vectors = Reader::vectors(&args.npy)?;
        let rows = vectors.rows();
        let ids = args.ids.as_deref().map(|path| open_ids(path, rows)).transpose()?;
        let payloads =
            args.payloads.as_deref().map(|path| Payloads::open(path, rows)).transpose()?;
        let id_field = args.id_field.clone();
        let kind = match (&args.payloads, &id_field) {
            (Some(path), Some(name)) if rows > 0 => id_kind(path, name)?,
            _ => IdKind::U64,
        };
        let (floats, numbers) = (Vec::new(), Vec::new());
        Ok(Self { vectors, ids, payloads, id_field, kind, floats, numbers })
    }

    /// Reads `rows` rows and loads them; `first` is the number of the first.
    fn load(&mut self, bulk: &mut Bulk, first: usize, rows: usize) -> Outcome {
        self.vectors.read_floats(rows, &mut self.floats)?;
        match &mut self.ids {
            Some(ids) => ids.read_integers(rows, &mut self.numbers)?,
            None => self.numbers = (first as i128..).take(rows).collect(),
        }
        let vectors = self.floats.chunks(self.vectors.columns());
        for (at, (vector, number)) in vectors.zip(&self.numbers).enumerate() {
            let row = first + at;
            let payload =
                self.payloads.as_mut().map_or_else(|| Ok(Payload::new()), Payloads::next)?;
            let id = match (&self.payloads, &self.id_field) {
                (Some(payloads), Some(name)) => payloads.id(&payload, name)?,
                _ => u64::try_from(*number)
                    .map_err(|_| format!("row {row}: id {number} is negative, ids are from 0"))?
                    .into(),
            };
            bulk.upsert(id, vector, Value::Object(payload)).map_err(|e| {
                let line =
                    self.payloads.as_ref().map(|payloads| format!(" ({})", payloads.place()));
                context(format!("row {row}{}", line.unwrap_or_default()), e)
            })?;
        }
        Ok(())
    }
}

/// Opens ids, one for each of the vectors.
fn open_ids(path: &Path, expected: usize) -> Outcome<Reader> {
    let ids = Reader::ids(path)?;
    let (path, got) = (path.display(), ids.rows());
    if expected != got {
        return Err(format!("{path}: expected {expected} ids, one a vector, got {got}").into());
    }
    Ok(ids)
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

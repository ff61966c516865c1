//! `matryo search`: the nearest rows of each query.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use matryo::{
    Collection, Error, Explain, Filter, Funnel, Hit, IdKind, RowId, Search, SearchBatch,
    SearchResult, Value, json,
};

use crate::Opening;
use crate::npy::{Dtype, Reader, Writer};
use crate::report::{Outcome, Output, Report, context, explain_json, print_some};

const HELP: &str = "\
Ids are written as int64 [queries, limit], -1 where there are fewer hits; scores as
float32 of the same shape, NaN there. An id above the int64 range is an error: print
with --json instead.

Example:
  matryo search books.matryo --vectors q.npy --limit 10 --recall 0.95 \\
      --out ids.npy --scores scores.npy";

/// Queries that are answered as one batch.
const TOGETHER: usize = 256;

/// Most hits of one query that can be asked for.
const MAX_LIMIT: u64 = 1_000_000;

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The collection.
    dir: PathBuf,
    /// Queries: .npy of shape [queries, dimensions], or [queries, D] with --dims D.
    #[arg(long, value_name = "FILE", required_unless_present = "like")]
    vectors: Option<PathBuf>,
    /// Instead of queries, find the rows most like the one with this id, without itself.
    #[arg(long, value_name = "ID", conflicts_with_all = ["vectors", "out", "threads"])]
    like: Option<String>,
    /// Threads that answer queries [default: as many as the system offers].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Most hits of each query.
    #[arg(long, value_name = "K", default_value_t = matryo::DEFAULT_LIMIT as u64,
          value_parser = clap::value_parser!(u64).range(1..=MAX_LIMIT))]
    limit: u64,
    #[command(flatten)]
    method: Method,
    #[command(flatten)]
    opening: Opening,
    /// Only rows whose payload passes, such as "year >= 2020 AND lang = 'en'": the text that
    /// `Filter::parse` documents.
    #[arg(long, value_name = "TEXT", value_parser = filter)]
    filter: Option<Filter>,
    /// Show the payloads of the hits.
    #[arg(long, conflicts_with = "out")]
    payloads: bool,
    /// Write the ids of the hits here, as .npy; without it they are printed.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Write the scores of the hits here, as .npy.
    #[arg(long, value_name = "FILE", requires = "out")]
    scores: Option<PathBuf>,
    /// Show what each stage of the first query's funnel did.
    #[arg(long)]
    explain: bool,
}

/// How the answer is looked for: shared by `search` and `bench`.
#[derive(clap::Args)]
pub(crate) struct Method {
    /// Aim at this share of the true nearest rows, 0 to 1 [default: 0.95]. How much is
    /// read for it was measured on the collection, if it is calibrated (`matryo calibrate`,
    /// or by itself in a program that keeps it open); else a built-in table tells, which
    /// knows nothing of its rows. `--explain` says which.
    #[arg(long, value_name = "R", group = "method", value_parser = share)]
    pub(crate) recall: Option<f64>,
    /// Always the true nearest rows. Bounds prove of most vectors, where the collection has
    /// 4-bit codes, that they need not be read; the others are compared.
    #[arg(long, group = "method")]
    pub(crate) exact: bool,
    /// A funnel by hand, as dims:keep stages: --funnel 8:200,16:100.
    #[arg(long, value_name = "STAGES", group = "method", value_delimiter = ',',
          value_parser = stage)]
    pub(crate) funnel: Vec<(usize, usize)>,
    /// Search by the first D dimensions only.
    #[arg(long, value_name = "D")]
    pub(crate) dims: Option<usize>,
    /// Only hits whose score is S or above.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub(crate) within: Option<f32>,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|r| (0.0..=1.0).contains(r));
    share.ok_or_else(|| "expected a number from 0 to 1".into())
}

pub(crate) fn filter(text: &str) -> Result<Filter, String> {
    Filter::parse(text).map_err(|e| e.to_string())
}

fn stage(text: &str) -> Result<(usize, usize), String> {
    let (dims, keep) = text.split_once(':').ok_or("expected dims:keep, as in 16:200")?;
    let number = |n: &str| n.parse().map_err(|e| format!("{n:?}: {e}"));
    Ok((number(dims)?, number(keep)?))
}

impl Method {
    /// A search for `query` in this way.
    pub(crate) fn search(&self, collection: &Collection, query: &[f32], limit: usize) -> Search {
        self.ask(collection.search(query).limit(limit))
    }

    /// A search in this way.
    pub(crate) fn ask(&self, search: Search) -> Search {
        let mut search = search.funnel(self.funnel());
        if let Some(dims) = self.dims {
            search = search.dims(dims);
        }
        match self.within {
            Some(score) => search.within(score),
            None => search,
        }
    }

    /// A search for all of `queries` in this way, on `threads` threads.
    pub(crate) fn batch(
        &self,
        collection: &Collection,
        queries: &[&[f32]],
        limit: usize,
        threads: Option<u16>,
    ) -> matryo::Result<Vec<SearchResult>> {
        self.ask_all(collection.search_batch(queries).limit(limit), threads)
    }

    /// A batch of searches in this way, on `threads` threads.
    fn ask_all(
        &self,
        search: SearchBatch,
        threads: Option<u16>,
    ) -> matryo::Result<Vec<SearchResult>> {
        let mut search = search.funnel(self.funnel());
        if let Some(threads) = threads {
            search = search.threads(threads.into());
        }
        if let Some(dims) = self.dims {
            search = search.dims(dims);
        }
        if let Some(score) = self.within {
            search = search.within(score);
        }
        search.run()
    }

    fn funnel(&self) -> Funnel {
        match self.recall {
            _ if self.exact => Funnel::exact(),
            _ if !self.funnel.is_empty() => Funnel::stages(self.funnel.iter().copied()),
            Some(share) => Funnel::recall(share),
            None => Funnel::default(),
        }
    }

    /// What was asked for, in words.
    pub(crate) fn name(&self) -> String {
        let stages: Vec<_> = self.funnel.iter().map(|(d, k)| format!("{d}:{k}")).collect();
        let name = match self.recall {
            _ if self.exact => "exact".into(),
            _ if !stages.is_empty() => format!("funnel {}", stages.join(",")),
            share => format!("recall {}", share.unwrap_or(matryo::DEFAULT_RECALL)),
        };
        self.dims.map_or(name.clone(), |dims| format!("{name}, {dims} dimensions"))
    }

    /// Opens queries that fit the collection.
    pub(crate) fn queries(&self, path: &Path, collection: &Collection) -> Outcome<Reader> {
        let queries = Reader::vectors(path)?;
        let (whole, got) = (collection.schema().dims(), queries.columns());
        if got == whole || got == self.dims.unwrap_or(collection.max_dims()) {
            return Ok(queries);
        }
        let most = collection.max_dims();
        let or = match self.dims {
            Some(dims) => format!(" or the {dims} of --dims"),
            None if got < most => format!("; to search by the first {got} say --dims {got}"),
            None if most < whole => format!(" or the {most} that it was opened with"),
            None => String::new(),
        };
        let path = path.display();
        Err(format!("{path}: queries have {got} dimensions, expected {whole}{or}").into())
    }
}

impl Args {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let collection = self.opening.open(&self.dir)?;
        let Some(vectors) = &self.vectors else {
            let id = self.like.as_deref().unwrap_or_default();
            return self
                .to_stdout(&collection, 1, output, |show| show(0, self.like(&collection, id)?));
        };
        let queries = self.method.queries(vectors, &collection)?;
        if let Some(out) = &self.out {
            return self.to_files(&collection, queries, out, output);
        }
        let rows = queries.rows();
        self.to_stdout(&collection, rows, output, |show| self.answer(&collection, queries, show))
    }

    /// The rows most like the one with this id.
    fn like(&self, collection: &Collection, id: &str) -> Outcome<SearchResult> {
        let id = parse_id(id, collection)?;
        let search = collection.search_like(id)?.limit(self.limit as usize);
        let mut search = search.payloads(self.payloads);
        if let Some(filter) = &self.filter {
            search = search.filter(filter);
        }
        Ok(self.method.ask(search).run()?)
    }

    /// Answers all queries, [`TOGETHER`] at a time.
    fn answer(
        &self,
        collection: &Collection,
        mut queries: Reader,
        show: &mut dyn FnMut(usize, SearchResult) -> Outcome,
    ) -> Outcome {
        let (mut values, columns) = (Vec::new(), queries.columns());
        for first in (0..queries.rows()).step_by(TOGETHER) {
            let count = TOGETHER.min(queries.rows() - first);
            queries.read_floats(count, &mut values)?;
            let some: Vec<_> = values.chunks(columns.max(1)).collect();
            let search = collection.search_batch(&some).limit(self.limit as usize);
            let mut search = search.payloads(self.payloads);
            if let Some(filter) = &self.filter {
                search = search.filter(filter);
            }
            let results = self.method.ask_all(search, self.threads);
            let results = results.map_err(|e| match e {
                Error::Query { at, source } => context(format!("query {}", first + at), source),
                other => other.into(),
            })?;
            for (at, result) in results.into_iter().enumerate() {
                show(first + at, result)?;
            }
        }
        Ok(())
    }

    fn to_files(
        &self,
        collection: &Collection,
        queries: Reader,
        out: &Path,
        output: Output,
    ) -> Outcome {
        if collection.schema().ids() == IdKind::Str {
            let why = "--out holds numbers, and this collection has string ids";
            return Err(format!("{why}: leave --out away to print them").into());
        }
        self.check_places(out)?;
        let rows = queries.rows();
        let mut files = Files::create(out, self.scores.as_deref(), rows, self.limit as usize)?;
        let (mut found, mut explain, start) = (0, None, Instant::now());
        let bar = output.progress(rows as u64, "queries");
        self.answer(collection, queries, &mut |number, result| {
            files.write(number, &result.hits)?;
            found += result.hits.len();
            explain.get_or_insert(result.explain);
            bar.inc(1);
            Ok(())
        })?;
        bar.finish_and_clear();
        files.finish()?;
        let mut report = Report::default();
        report.count("queries", rows as u64);
        report.plain("limit", self.limit);
        report.count("hits", found as u64);
        report.plain("method", self.method.name());
        report.seconds(start.elapsed());
        self.add_explain(&mut report, explain);
        output.print(&report)
    }

    /// Nothing that is read or written may take the place of another: `./o.npy` is `o.npy`.
    fn check_places(&self, out: &Path) -> Outcome {
        let all = [
            ("--vectors", self.vectors.as_deref()),
            ("--out", Some(out)),
            ("--scores", self.scores.as_deref()),
        ];
        let some: Vec<_> = all.into_iter().filter_map(|(name, path)| Some((name, path?))).collect();
        for (at, (name, path)) in some.iter().enumerate() {
            if let Some((other, _)) = some[..at].iter().find(|(_, before)| same_place(before, path))
            {
                return Err(format!("{other} and {name} are the same file").into());
            }
        }
        Ok(())
    }

    /// Prints what `answer` hands on, of so many queries.
    fn to_stdout(
        &self,
        collection: &Collection,
        rows: usize,
        output: Output,
        answer: impl FnOnce(&mut dyn FnMut(usize, SearchResult) -> Outcome) -> Outcome,
    ) -> Outcome {
        let (mut all, mut explain, mut read) = (Vec::new(), None, true);
        let answered = answer(&mut |number, result| {
            if output.is_json() {
                all.push(json!({"query": number, "hits": hits_json(&result.hits)}));
            } else {
                read = print_some(&table(number, &result.hits))?;
            }
            explain.get_or_insert(result.explain);
            if read { Ok(()) } else { Err("nobody reads on".into()) }
        });
        if !read {
            return Ok(());
        }
        answered?;
        let mut report = Report::default();
        report.block("queries", rows, "");
        report.block("method", self.method.name(), "");
        report.block("metric", collection.schema().metric().name(), "");
        report.block("results", all, "");
        self.add_explain(&mut report, explain);
        output.print(&report)
    }

    fn add_explain(&self, report: &mut Report, explain: Option<Explain>) {
        if let Some(explain) = explain.filter(|_| self.explain) {
            report.block("explain", explain_json(&explain), &explain.to_string());
        }
    }
}

/// An id on the command line, of the collection's kind.
pub(crate) fn parse_id(text: &str, collection: &Collection) -> Outcome<RowId> {
    if collection.schema().ids() == IdKind::Str {
        return Ok(text.into());
    }
    let number = text.parse::<u64>();
    Ok(number.map_err(|e| format!("id {text:?}: {e}; this collection has u64 ids"))?.into())
}

/// Whether a file written to one takes the place of the other, or of what that links to.
fn same_place(a: &Path, b: &Path) -> bool {
    let place = |path: &Path| {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(folder.canonicalize().ok()?.join(path.file_name()?))
    };
    let same = |a: Option<PathBuf>, b: Option<PathBuf>| a.is_some() && a == b;
    same(place(a), place(b)) || same(a.canonicalize().ok(), b.canonicalize().ok())
}

/// The hits of all queries as arrays with a row for each query.
struct Files {
    ids: Writer,
    scores: Option<Writer>,
    limit: usize,
}

impl Files {
    fn create(ids: &Path, scores: Option<&Path>, rows: usize, limit: usize) -> Outcome<Self> {
        let ids = Writer::create(ids, Dtype::I64, rows, limit)?;
        let create = |path| Writer::create(path, Dtype::F32, rows, limit);
        Ok(Self { ids, scores: scores.map(create).transpose()?, limit })
    }

    fn write(&mut self, query: usize, hits: &[Hit]) -> Outcome {
        let ids = hits.iter().map(|hit| id_of(query, hit)).collect::<Outcome<Vec<_>>>()?;
        self.ids.write(padded(ids, -1, self.limit).map(i64::to_le_bytes))?;
        if let Some(scores) = &mut self.scores {
            let row = hits.iter().map(|hit| hit.score);
            scores.write(padded(row, f32::NAN, self.limit).map(f32::to_le_bytes))?;
        }
        Ok(())
    }

    fn finish(self) -> Outcome {
        self.ids.finish()?;
        self.scores.map_or(Ok(()), Writer::finish)
    }
}

/// The id as an int64.
fn id_of(query: usize, hit: &Hit) -> Outcome<i64> {
    hit.id.as_u64().and_then(|id| i64::try_from(id).ok()).ok_or_else(|| {
        let id = &hit.id;
        format!("query {query}: id {id} does not fit int64: print with --json instead").into()
    })
}

/// `row`, made as long as `limit`.
fn padded<T: Copy>(
    row: impl IntoIterator<Item = T>,
    fill: T,
    limit: usize,
) -> impl Iterator<Item = T> {
    row.into_iter().chain(std::iter::repeat(fill)).take(limit)
}

fn hits_json(hits: &[Hit]) -> Vec<Value> {
    let one = |hit: &Hit| {
        let mut shown = json!({"id": Value::from(&hit.id), "score": hit.score});
        if let Some(payload) = &hit.payload {
            shown["payload"] = Value::Object(payload.clone());
        }
        shown
    };
    hits.iter().map(one).collect()
}

fn table(query: usize, hits: &[Hit]) -> String {
    let mut text = format!("query {query}\n{:>6} {:>10}  id\n", "rank", "score");
    for (rank, hit) in (1..).zip(hits) {
        write!(text, "{rank:>6} {:>10.6}  {}", hit.score, hit.id).expect("a String grows");
        if let Some(payload) = &hit.payload {
            write!(text, "  {}", Value::Object(payload.clone())).expect("a String grows");
        }
        text.push('\n');
    }
    text.push('\n');
    text
}

//! `matryo bench`: recall against known answers, speed, bytes read.
//!
//! One thread asks one query at a time. A first pass over all queries warms the
//! caches and measures what does not vary: recall, rows and bytes. The passes
//! after it only measure time; their two halves, the same work twice, show how
//! much two figures may differ for no reason (an A/A comparison). How long it took to open
//! the collection, and to answer the first query of all, is reported beside them.

use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use matryo::{Collection, Explain, IdKind, RowId, SearchResult, Value, json};

use crate::Opening;
use crate::npy::Reader;
use crate::report::{Outcome, Output, Report, context};
use crate::search::Method;

const HELP: &str = "\
The truth is the ids of the nearest rows of each query, nearest first, by whatever
knows them: with --dims D, the nearest by the first D dimensions.

Example:
  matryo bench books.matryo --vectors q.npy --truth gt.npy --recall 0.95";

#[derive(clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The collection.
    dir: PathBuf,
    /// Queries: .npy of shape [queries, dimensions], or [queries, D] with --dims D.
    #[arg(long, value_name = "FILE")]
    vectors: PathBuf,
    /// Ids of the true nearest rows: .npy, integers of shape [queries, K or more].
    #[arg(long, value_name = "FILE")]
    truth: PathBuf,
    #[command(flatten)]
    method: Method,
    #[command(flatten)]
    opening: Opening,
    /// Hits asked for, and compared with as many of the truth.
    #[arg(long, value_name = "K", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(1..=100_000))]
    limit: u64,
    /// Timed passes over all queries, after one that is not timed. With 0 that one is, as it is
    /// where nothing was read before.
    #[arg(long, value_name = "N", default_value_t = 2)]
    repeat: u64,
    /// Also answer all queries as one batch on N threads, as often.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

impl Args {
    pub(crate) fn run(&self, output: Output) -> Outcome {
        let start = Instant::now();
        let collection = self.opening.open(&self.dir)?;
        let opened = start.elapsed();
        let limit = self.limit as usize;
        let mut reader = self.method.queries(&self.vectors, &collection)?;
        let truth = Truth::open(&self.truth, &collection, reader.rows(), limit)?;
        let (mut queries, columns) = (Vec::new(), reader.columns());
        reader.read_floats(reader.rows(), &mut queries)?;
        let queries: Vec<_> = queries.chunks(columns).collect();
        let bar = output.progress(self.repeat + 1, "passes");
        let mut tally = Tally::default();
        let mut first = Vec::with_capacity(queries.len());
        self.pass(&collection, &queries, |at, time, result| {
            first.push(time);
            tally.add(&result, &truth.rows[at]);
        })?;
        bar.inc(1);
        let first_search = first.first().copied().unwrap_or_default();
        let mut passes = if self.repeat == 0 { vec![first] } else { Vec::new() };
        for _ in 0..self.repeat {
            let mut times = Vec::with_capacity(queries.len());
            self.pass(&collection, &queries, |_, time, _| times.push(time))?;
            passes.push(times);
            bar.inc(1);
        }
        bar.finish_and_clear();
        let mut report = Report::default();
        report.plain("method", self.method.name());
        report.count("rows", collection.len());
        report.count("queries", queries.len() as u64);
        report.count("passes", passes.len() as u64);
        tally.report(&mut report, limit, queries.len() as f64)?;
        report.figure("open_us", opened.as_secs_f64() * 1e6, " us");
        report.figure("first_search_us", first_search.as_secs_f64() * 1e6, " us");
        report_speed(&mut report, &passes);
        if let Some(threads) = self.threads {
            let speed = self.batch_speed(&collection, &queries, threads)?;
            report.figure("batch_queries_per_second", speed, "");
        }
        output.print(&report)
    }

    /// Queries per second where all are one batch: the median of some passes.
    fn batch_speed(
        &self,
        collection: &Collection,
        queries: &[&[f32]],
        threads: u16,
    ) -> Outcome<f64> {
        let mut seconds = Vec::new();
        for _ in 0..self.repeat.max(1) {
            let start = Instant::now();
            self.method.batch(collection, queries, self.limit as usize, Some(threads))?;
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        Ok(queries.len() as f64 / seconds[seconds.len() / 2])
    }

    /// Asks every query once, and hands on its number, time and result.
    fn pass(
        &self,
        collection: &Collection,
        queries: &[&[f32]],
        mut show: impl FnMut(usize, Duration, SearchResult),
    ) -> Outcome {
        for (at, query) in queries.iter().enumerate() {
            let start = Instant::now();
            let result = self.method.search(collection, query, self.limit as usize).run();
            let time = start.elapsed();
            show(at, time, result.map_err(|e| context(format!("query {at}"), e))?);
        }
        Ok(())
    }
}

/// The nearest rows of each query.
struct Truth {
    rows: Vec<HashSet<u64>>,
}

impl Truth {
    fn open(path: &Path, collection: &Collection, queries: usize, limit: usize) -> Outcome<Self> {
        if collection.schema().ids() == IdKind::Str {
            return Err("--truth holds numbers, this collection has string ids".into());
        }
        let mut reader = Reader::id_rows(path)?;
        if reader.rows() != queries || reader.columns() < limit || queries == 0 {
            let got = format!("[{}, {}]", reader.rows(), reader.columns());
            let expected = format!("[{queries}, {limit} or more], a row for each query");
            return Err(format!("{}: expected {expected}, got {got}", path.display()).into());
        }
        let mut row = Vec::new();
        let mut rows = Vec::with_capacity(queries);
        for _ in 0..queries {
            reader.read_integers(1, &mut row)?;
            // Fewer neighbours than columns are padded with -1.
            rows.push(row[..limit].iter().filter_map(|id| u64::try_from(*id).ok()).collect());
        }
        Ok(Self { rows })
    }
}

/// What a pass found and read: the same in every pass.
#[derive(Default)]
struct Tally {
    wanted: usize,
    found: usize,
    bytes: u64,
    stages: Vec<Stage>,
}

/// Sums over all queries, of the stages that have a name and dimensions in common.
struct Stage {
    /// With what follows its comma, where that is the same for all.
    name: String,
    dims: usize,
    rows_in: u64,
    rows_out: u64,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, result: &SearchResult, truth: &HashSet<u64>) {
        let is_true = |id: &RowId| matches!(id, RowId::U64(id) if truth.contains(id));
        self.wanted += truth.len();
        self.found += result.hits.iter().filter(|hit| is_true(&hit.id)).count();
        self.bytes += result.explain.bytes();
        self.add_stages(&result.explain);
    }

    fn add_stages(&mut self, explain: &Explain) {
        for stage in &explain.stages {
            let key = without_detail(&stage.name);
            let same = |s: &Stage| without_detail(&s.name) == key && s.dims == stage.dims;
            let at = self.stages.iter().position(same).unwrap_or(self.stages.len());
            if at == self.stages.len() {
                let (name, dims) = (stage.name.to_string(), stage.dims);
                self.stages.push(Stage { name, dims, rows_in: 0, rows_out: 0, bytes: 0 });
            }
            let sum = &mut self.stages[at];
            if sum.name != *stage.name {
                sum.name.truncate(key.len());
            }
            sum.rows_in += stage.rows_in;
            sum.rows_out += stage.rows_out;
            sum.bytes += stage.bytes;
        }
    }

    fn report(&self, report: &mut Report, limit: usize, queries: f64) -> Outcome {
        if self.wanted == 0 {
            return Err("the truth holds no ids, so there is no recall".into());
        }
        let recall = self.found as f64 / self.wanted as f64;
        report.field(&format!("recall_at_{limit}"), recall, format_args!("{recall:.4}"));
        report.figure("bytes_read_per_query", self.bytes as f64 / queries, " B");
        let mut text = format!(
            "  {:<24} {:>5} {:>12} {:>10} {:>12}\n",
            "mean of stage", "dims", "rows in", "rows out", "bytes read"
        );
        let mut stages = Vec::<Value>::new();
        for s in &self.stages {
            let [rows_in, rows_out, bytes] =
                [s.rows_in, s.rows_out, s.bytes].map(|sum| sum as f64 / queries);
            writeln!(
                text,
                "  {:<24} {:>5} {rows_in:>12.1} {rows_out:>10.1} {bytes:>12.0}",
                s.name, s.dims
            )?;
            stages.push(json!({"name": s.name, "dims": s.dims, "rows_in": rows_in,
                               "rows_out": rows_out, "bytes": bytes}));
        }
        report.block("stages", stages, &text);
        Ok(())
    }
}

/// What the name of a stage says before its comma: after it may stand what is of one query
/// alone, as the hops of a walk.
fn without_detail(name: &str) -> &str {
    name.split_once(',').map_or(name, |(stage, _)| stage)
}

/// How fast some searches were.
struct Speed {
    per_second: f64,
    p50: f64,
    p99: f64,
}

impl Speed {
    /// Of at least one search; percentiles by nearest rank.
    fn of(passes: &[Vec<Duration>]) -> Self {
        let mut micros: Vec<_> = passes.iter().flatten().map(|t| t.as_secs_f64() * 1e6).collect();
        micros.sort_by(f64::total_cmp);
        let at = |share: f64| micros[((micros.len() as f64 * share).ceil() as usize).max(1) - 1];
        let sum: f64 = micros.iter().sum();
        Self { per_second: micros.len() as f64 / (sum / 1e6), p50: at(0.50), p99: at(0.99) }
    }
}

fn report_speed(report: &mut Report, passes: &[Vec<Duration>]) {
    let all = Speed::of(passes);
    report.figure("queries_per_second", all.per_second, "");
    report.figure("p50_us", all.p50, " us");
    report.figure("p99_us", all.p99, " us");
    if passes.len() < 2 {
        return report.block("noise", Value::Null, "noise: needs --repeat 2 or more\n");
    }
    let half = passes.len() / 2;
    let first = Speed::of(&passes[..half]);
    let second = Speed::of(&passes[passes.len() - half..]);
    let differ = |a: f64, b: f64| (b / a - 1.0) * 100.0;
    let (per_second, p50, p99) = (
        differ(first.per_second, second.per_second),
        differ(first.p50, second.p50),
        differ(first.p99, second.p99),
    );
    let json = json!({"queries_per_second_percent": per_second, "p50_percent": p50,
                      "p99_percent": p99});
    let text = format!("queries/s {per_second:+.1} %, p50 {p50:+.1} %, p99 {p99:+.1} %");
    report.field("noise", json, format_args!("second half of the passes vs first: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use matryo::{Funnel, Schema};

    #[test]
    fn stages_are_summed_by_what_they_are() -> Outcome {
        let folder = tempfile::tempdir()?;
        let collection = Collection::create(folder.path().join("c"), Schema::builder(8).build()?)?;
        let vector = |n: u64| (1..=8).map(|d| (n * d % 97) as f32 - 48.5).collect::<Vec<_>>();
        let mut bulk = collection.bulk()?;
        (0..900).try_for_each(|id| bulk.upsert(id, &vector(id), ()))?;
        bulk.finish()?;
        collection.build_graphs()?;
        let ask = |n, funnel| collection.search(&vector(n)).funnel(funnel).run();
        let mut tally = Tally::default();
        let mut names = HashSet::new();
        for n in 0..20 {
            let explain = ask(n, Funnel::graph(20, []))?.explain;
            names.insert(explain.stages[0].name.to_string());
            tally.add_stages(&explain);
        }
        assert!(names.len() > 1, "walks of as many hops show nothing: {names:?}");
        let shown = |tally: &Tally| tally.stages.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
        assert_eq!(shown(&tally), ["graph 8 bit x 8", "re-rank full, f32"]);
        let walked = tally.stages[0].rows_in;
        tally.add_stages(&ask(0, Funnel::stages([(8, 20)]))?.explain);
        let expected = ["graph 8 bit x 8", "re-rank full, f32", "scan 8 bit x 8"];
        assert_eq!(shown(&tally), expected);
        assert_eq!((tally.stages[0].rows_in, tally.stages[2].rows_in), (walked, 900));
        Ok(())
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let passes: Vec<_> = [1..=60u64, 61..=100]
            .map(|range| range.map(Duration::from_micros).collect::<Vec<_>>())
            .into();
        let speed = Speed::of(&passes);
        assert!((speed.p50 - 50.0).abs() < 1e-9 && (speed.p99 - 99.0).abs() < 1e-9);
        assert!((speed.per_second - 100.0 / 5050e-6).abs() < 1e-3);
        let one = Speed::of(&[vec![Duration::from_micros(7)]]);
        assert!((one.p50 - 7.0).abs() < 1e-9 && (one.p99 - 7.0).abs() < 1e-9);
    }
}

//! A shortlist: rows that a scan or a walk estimates to be the best, ranked by longer prefixes, and
//! at last by full vectors.

use std::time::{Duration, Instant};

use super::best::Rank;
use super::entry::Entry;
use super::explain::{Explain, StageName, StageReport};
use super::funnel::FunnelStage;
use super::graph::Walked;
use super::run::{Answer, Few, QueryRun, Scratch};
use super::scan::scan;
use super::score::Found;
use crate::error::Result;
use crate::kernel::topk::Scored;

/// Scan or walk, longer prefixes, full vectors. What a stage reads of the shortlists of all
/// queries is asked for before the first is scored.
pub(super) fn run(
    runs: &[QueryRun],
    entry: &Entry,
    keep: usize,
    reranks: &[FunnelStage],
    scratch: &mut Scratch,
) -> Result<Few<Answer>> {
    if runs.first().is_none_or(|run| run.wanted.limit == 0) {
        return Ok(runs.iter().map(|_| Answer::none(scratch.explain(true))).collect());
    }
    let mut explains = scan(runs, entry, keep, scratch);
    for (n, (run, explain)) in runs.iter().zip(&mut explains).enumerate() {
        let walked = run.walk(entry, &mut scratch.lists[n], &mut scratch.walker)?;
        let Walked::Found(walked) = walked else {
            explains.into_iter().for_each(|e| scratch.recycle(Vec::new(), e.stages));
            return self::run(runs, &entry.scanned(), keep, reranks, scratch);
        };
        if walked.is_some() && explain.stages[0].rows_in == 0 {
            explain.stages.clear();
        }
        explain.stages.extend(walked);
    }
    let lists = &mut scratch.lists[..runs.len()];
    for stage in reranks {
        let asked = request(runs, lists);
        for ((run, list), explain) in runs.iter().zip(&mut *lists).zip(&mut explains) {
            explain.stages.push(run.rerank(*stage, list, asked)?);
        }
    }
    let asked = request(runs, lists);
    let mut answers = Few::new();
    for (n, (run, explain)) in runs.iter().zip(explains).enumerate() {
        let found = scratch.found();
        answers.push(run.finish(&mut scratch.lists[n], asked, found, explain)?);
    }
    Ok(answers)
}

/// Asks for the rows of all shortlists; the time of each.
fn request(runs: &[QueryRun], lists: &mut [Vec<Scored>]) -> Duration {
    let start = Instant::now();
    runs.iter().zip(lists).for_each(|(run, list)| run.request(list));
    start.elapsed() / runs.len() as u32
}

impl QueryRun<'_> {
    /// A middle stage: ranks the shortlist by a longer prefix.
    fn rerank(
        &self,
        stage: FunnelStage,
        shortlist: &mut Vec<Scored>,
        asked: Duration,
    ) -> Result<StageReport> {
        let start = Instant::now();
        let scorer = self.scorer(stage.dims);
        let rows_in = shortlist.len() as u64;
        self.each_score(shortlist, &scorer, |row, score| {
            row.score = score;
            Ok(())
        })?;
        shortlist.sort_unstable_by(Scored::best_first);
        shortlist.truncate(stage.keep);
        Ok(StageReport {
            name: StageName::new(format_args!("re-rank by prefix")),
            dims: stage.dims,
            rows_in,
            rows_out: shortlist.len() as u64,
            bytes: rows_in * scorer.row_bytes() as u64,
            time: start.elapsed() + asked,
        })
    }

    /// The last stage: full vectors, scored by the definition.
    fn finish(
        &self,
        shortlist: &mut [Scored],
        asked: Duration,
        found: Vec<Found>,
        mut explain: Explain,
    ) -> Result<Answer> {
        let start = Instant::now();
        let mut rank = self.rank(self.wanted.dims, found);
        let rows_in = shortlist.len() as u64;
        let Rank { scorer, best } = &mut rank;
        self.each_score(shortlist, scorer, |row, score| {
            row.score = score;
            self.offer(row.ordinal, score, best)
        })?;
        let floor = rank.best.floor();
        let depth = shortlist.iter().filter(|row| row.score >= floor).count();
        let bytes = rows_in * rank.scorer.row_bytes() as u64;
        let found = rank.best.into_sorted();
        explain.stages.push(StageReport {
            name: StageName::new(format_args!("re-rank full, {}", self.view.schema.stored())),
            dims: self.wanted.dims,
            rows_in,
            rows_out: found.len() as u64,
            bytes,
            time: start.elapsed() + asked,
        });
        Ok(Answer { found, explain, listed: shortlist.len(), depth })
    }
}

//! Searching for groups by a shortlist that becomes longer until it suffices.
//!
//! A shortlist may hold too few values, or, where they are crowded, not reach down to the last
//! hit. So after each pass one looks how many rows of the shortlist stand above the last
//! hit, and plans for that many hits: if that asks for a longer shortlist, the search is done again.

use super::entry::Entry;
use super::exec;
use super::funnel::FunnelStage;
use super::plan::Plan;
use super::run::{Answer, Scratch, Wanted};
use super::select::Selection;
use crate::error::Result;
use crate::view::View;

/// How much longer a hand-written shortlist becomes that held too few values.
const WIDEN_TIMES: usize = 4;

/// Runs a plan for one query, and others as long as the shortlist is too short. `plan_for` makes
/// the plan for a number of hits.
pub(super) fn run(
    view: &View,
    wanted: &Wanted,
    selection: Option<&Selection>,
    first: &Plan,
    plan_for: &dyn Fn(usize) -> Result<Plan>,
    scratch: &mut Scratch,
) -> Result<Answer> {
    let rows = selection.map_or_else(|| view.live_rows(), Selection::rows);
    let mut done = Vec::new();
    let (mut plan, mut shortlist_for) = (first.clone(), wanted.shortlist_for);
    loop {
        let wanted = Wanted { shortlist_for, ..*wanted };
        let mut answer = exec::run(view, &wanted, selection, &plan, scratch)?.remove(0);
        done.append(&mut answer.explain.stages);
        let Some(next) = wider(&plan, &answer, wanted.limit, rows, plan_for) else {
            answer.explain.stages = done;
            return Ok(answer);
        };
        // No shortlist is for more hits than it has rows.
        let most = if let Plan::Funnel { keep, .. } = &next { *keep } else { usize::MAX };
        (plan, shortlist_for) = (next, shortlist_for.max(answer.depth).min(most));
    }
}

/// A plan with a longer shortlist, if this one was too short for its answer.
fn wider(
    plan: &Plan,
    answer: &Answer,
    limit: usize,
    rows: u64,
    plan_for: &dyn Fn(usize) -> Result<Plan>,
) -> Option<Plan> {
    let Plan::Funnel { entry, keep, reranks } = plan else { return None };
    if limit == 0 || answer.listed as u64 >= rows {
        return None;
    }
    match plan_for(answer.depth.max(limit)) {
        Ok(Plan::Funnel { keep: more, .. }) if more <= *keep => {}
        Ok(next) => return Some(next),
        // A hand-written funnel keeps what it says.
        Err(_) => {}
    }
    let short = answer.found.len() < limit && answer.depth == answer.listed;
    let longer = |keep: usize| keep.saturating_mul(WIDEN_TIMES);
    (short && (*keep as u64) < rows).then(|| Plan::Funnel {
        entry: Entry { walks: entry.walks.wider(WIDEN_TIMES), ..*entry },
        keep: longer(*keep),
        reranks: reranks.iter().map(|s| FunnelStage { keep: longer(s.keep), ..*s }).collect(),
    })
}

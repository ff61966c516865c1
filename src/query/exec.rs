//! Runs a plan, by the module that knows how.

use super::plan::Plan;
use super::run::{Answer, Few, QueryRun, Scratch, Wanted};
use super::select::Selection;
use super::{adapt, exact, shortlist, sieve};
use crate::error::Result;
use crate::view::View;

/// The rows that are wanted, of those selected, and how they were found: an answer for each
/// query, the same as if it were alone. All begins again where a walk comes upon damage.
pub(super) fn run(
    view: &View,
    wanted: &Wanted,
    selection: Option<&Selection>,
    plan: &Plan,
    scratch: &mut Scratch,
) -> Result<Few<Answer>> {
    let queries = wanted.queries.iter();
    let runs: Few<QueryRun> =
        queries.map(|query| QueryRun::new(view, query, wanted, selection)).collect();
    view.while_graphs_hold(|| match plan {
        Plan::Exact => sieve::compare_all(&runs, scratch),
        Plan::Proven { stage, entry } => exact::prove(&runs, *stage, entry, scratch),
        Plan::Funnel { entry, keep, reranks } => {
            shortlist::run(&runs, entry, *keep, reranks, scratch)
        }
        Plan::Calibrated(plan) => adapt::adapt(&runs, plan, scratch),
    })
}

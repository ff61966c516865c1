//! What the estimates of the stage codes are worth on this collection: measured,
//! installed with the manifest, measured again when the rows have changed much.
//!
//! Measuring reads a view and takes no lock that a commit waits for; only installing does.

use std::cell::Cell;
use std::sync::Arc;

use super::{Collection, Engine, Progress};
use crate::calibration::Calibration;
use crate::error::{Error, Result};
use crate::query::EXACT_BELOW_ROWS;
use crate::query::calibrate::{CALIBRATE_FROM_ROWS, Measure, foreseen};
use crate::sync::atomic::Ordering;
use crate::view::View;

/// Chooses the sample: the same rows of the same collection every time.
const SAMPLE_SEED: u64 = 0x6d61_7472_796f;

impl Collection {
    /// Measures, with 300 of the collection's rows as queries (each left out of its own
    /// search), how wrong the stage codes' estimates are about true near rows.
    /// [`Search::recall`](crate::Search::recall) is planned by that from then on, query by query, until the
    /// collection is calibrated again; before, by a fixed table. The result is kept with
    /// the collection; its `Display` is the table of plans. The background thread does it by
    /// itself ([`Options::recalibrate`](crate::Options::recalibrate)).
    ///
    /// It takes 300 exact searches over all dimensions, 100 over each granularity, and
    /// some thousand searches that check, and no commit waits for it.
    ///
    /// ```
    /// use matryo::{Collection, Schema, json};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("a.matryo");
    /// let points = Collection::create(&path, Schema::builder(16).build()?)?;
    /// let mut batch = points.batch();
    /// for id in 0..1000u64 {
    ///     let point: Vec<f32> = (0..16).map(|d| ((id + 1) as f32 * (d + 1) as f32).sin()).collect();
    ///     batch.upsert(id, &point, json!({}))?;
    /// }
    /// batch.commit()?;
    /// println!("{}", points.calibrate()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Invalid`] for fewer than 256 rows; [`Error::ReadOnly`] for a handle that only
    /// reads, [`Error::Poisoned`] after a write that failed, [`Error::Forked`]; [`Error::Corrupt`]
    /// where a row that had to be read is damaged; [`Error::Io`].
    pub fn calibrate(&self) -> Result<Calibration> {
        measure_and_install(&self.handle, None, &|_| true, &|| Ok(()))
    }

    /// As [`Self::calibrate`], with sample queries of all dimensions instead of rows: a few
    /// hundred such as will be asked. Half of them measure, the other half check. It is
    /// not repeated by itself when rows change, for the queries are not kept.
    ///
    /// # Errors
    /// As [`Self::calibrate`]; [`Error::Vector`] for a query that could not be searched for,
    /// [`Error::Invalid`] for fewer than two.
    pub fn calibrate_with<Q: AsRef<[f32]>>(&self, queries: &[Q]) -> Result<Calibration> {
        let queries: Vec<&[f32]> = queries.iter().map(AsRef::as_ref).collect();
        measure_and_install(&self.handle, Some(&queries), &|_| true, &|| Ok(()))
    }

    /// As [`Self::calibrate_with`] where there are `queries`, else as [`Self::calibrate`], telling how
    /// far it is, in queries that were asked. How often plans must be widened until they find what
    /// they should is not known before, so the number of all of them is a guess that may
    /// grow, until at the end both are the same. When `progress` returns false, then too, it ends
    /// and changes nothing.
    ///
    /// # Errors
    /// As [`Self::calibrate_with`]; [`Error::Cancelled`] if `progress` ended it.
    pub fn calibrate_with_progress(
        &self,
        queries: Option<&[&[f32]]>,
        progress: impl Fn(Progress) -> bool,
    ) -> Result<Calibration> {
        let asked = Cell::new(0);
        let guess = foreseen(&self.view(), self.handle.residency.dims, queries.map(<[_]>::len));
        let tell = |done, total| Error::unless(progress(Progress { done, total }), "calibration");
        let watch = || {
            let done = asked.get();
            asked.set(done + 1);
            tell(done, guess.max(done + 1))
        };
        let found = measure(&self.handle, queries, &watch)?;
        tell(asked.get(), asked.get())?;
        install(&self.handle, found, &|_| true)
    }

    /// What [`Self::calibrate`] found last, if it ever ran.
    pub fn calibration(&self) -> Option<Calibration> {
        self.view().calibration.as_deref().cloned()
    }
}

/// Whether the background thread should calibrate: not before somebody searches, or a
/// collection that grows would be calibrated again and again for nobody. Rows that were
/// replaced since the collection was opened are counted when it runs next.
pub(super) fn has_work(engine: &Engine) -> bool {
    let view = engine.view();
    engine.searched.load(Ordering::Relaxed) && wants(engine, view.calibration.as_deref(), &view)
}

fn wants(engine: &Engine, known: Option<&Calibration>, view: &View) -> bool {
    let rows = view.live_rows();
    let walks = view.walkable() > 0;
    // A handle with fewer dimensions would leave the others without a calibration.
    let whole = engine.residency.dims == view.schema.dims();
    engine.options.recalibrate
        && whole
        && match known {
            None => rows >= EXACT_BELOW_ROWS,
            Some(known) if known.given => false,
            // Graphs have come, of which it knows nothing.
            Some(known) if known.walks.is_none() && walks => rows >= CALIBRATE_FROM_ROWS,
            Some(known) => rows >= CALIBRATE_FROM_ROWS && known.has_drifted(rows),
        }
}

/// What the background thread does at last.
pub(super) fn run_policy(engine: &Engine) -> Result<()> {
    let known = engine.lock_writer()?.manifest.calibration.clone();
    let searched = engine.searched.load(Ordering::Relaxed);
    if !searched || !wants(engine, known.as_ref(), &engine.view()) {
        return Ok(());
    }
    let go_on = || Error::unless(!engine.closing.load(Ordering::Relaxed), "calibration");
    // What the caller has had measured meanwhile stays.
    let wanted = |known: Option<&Calibration>| wants(engine, known, &engine.view());
    // Where it fails the next flush is the next occasion, not the next search.
    match measure_and_install(engine, None, &wanted, &go_on) {
        Ok(_) => engine.searched.store(false, Ordering::Relaxed),
        // Rows without a direction, or fewer than there were: nobody has asked for it.
        Err(Error::Invalid { .. } | Error::Cancelled { .. }) => {}
        Err(e) => return Err(e),
    }
    Ok(())
}

fn measure_and_install(
    engine: &Engine,
    given: Option<&[&[f32]]>,
    wanted: &dyn Fn(Option<&Calibration>) -> bool,
    watch: &dyn Fn() -> Result<()>,
) -> Result<Calibration> {
    install(engine, measure(engine, given, watch)?, wanted)
}

fn measure(
    engine: &Engine,
    given: Option<&[&[f32]]>,
    watch: &dyn Fn() -> Result<()>,
) -> Result<Calibration> {
    drop(engine.lock_writer()?);
    let view = engine.view();
    let most_dims = engine.residency.dims;
    Measure { view: &view, most_dims, seed: SAMPLE_SEED, watch }.run(given)
}

/// Keeps what was found, unless what is known by then is wanted more.
fn install(
    engine: &Engine,
    mut found: Calibration,
    wanted: &dyn Fn(Option<&Calibration>) -> bool,
) -> Result<Calibration> {
    let most_dims = engine.residency.dims;
    let mut writer = engine.lock_writer()?;
    if let Some(known) = &writer.manifest.calibration {
        found.keep_longer(known, most_dims);
    }
    if !wanted(writer.manifest.calibration.as_ref()) {
        return Ok(found);
    }
    writer.change(&*engine.vfs, |change| {
        change.next.calibration = Some(found.clone());
        Ok(())
    })?;
    let view = engine.view().with_calibration(Arc::new(found.clone()));
    engine.publish(&mut writer, view);
    Ok(found)
}

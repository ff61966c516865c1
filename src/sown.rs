//! Bugs that tests sow into the engine, to show that they would notice them.
//!
//! Each is asked for where it would sit: `if sown(Bug::LogNotSynced) { .. }`.
//! Without the feature `testing` nothing can be sown and the question is a
//! constant, so nothing of this is left in the library.
//!
//! What the folder can forget by itself (to sync, to wait with removing) is no bug here but a flaw
//! of the folder that records: `vfs::record`.

/// A step that is left out, or done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "testing"), expect(unreachable_pub, reason = "only tests reach it"))]
pub enum Bug {
    /// A commit is acknowledged before the log is synced.
    LogNotSynced,
    /// Strays are removed though the name of the manifest may not be durable.
    ManifestTrusted,
    /// A flush that writes tombstones alone trusts the manifest that was found.
    TombstonesNotVouched,
    /// The folder is synced again after a sync that failed, and that is believed.
    NamesSyncedAgain,
    /// Numbers of files that are gone are given out again.
    NumbersReused,
    /// A log that has the vectors of a segment is taken for one that is not needed.
    KeptLogUnnamed,
    /// A log is kept for its vectors while its end can be lost.
    KeptLogNotSynced,
    /// The checksum of a vector in a log is not compared.
    LoggedNotChecked,
    /// A flush forgets rows of segments that died since the last one.
    FlushForgetsDead,
    /// A flush does not say up to which commit the segments reach.
    FlushKeepsLsn,
    /// A segment made in the background is installed while commits it takes for
    /// granted can be lost.
    FlushBeforeLogSync,
    /// A segment made in the background is said to hold commits that came later.
    FlushTakesLaterLsn,
    /// With a segment made in the background the log of later commits goes too.
    FlushDropsOpenLog,
    /// Rows that die while a flush writes them in the background live on.
    FlushForgetsFrozenDead,
    /// A log is sealed for a flush in the background while its end can be lost.
    FreezeBeforeLogSync,
    /// A merge is installed while commits it takes for granted can be lost.
    MergeBeforeLogSync,
    /// Rows that die while they are merged live on in the merged segment.
    MergeForgetsDead,
    /// Rows that die while they are merged are taken for others.
    MergeMistakesDead,
    /// A bulk load takes no LSN of its own.
    BulkTakesNoLsn,
    /// A bulk load does not replace rows that have the same id.
    BulkForgetsDead,
    /// New files are removed though the manifest that names them may be installed.
    InstalledRemoved,
    /// A bulk load that was dropped leaves its segments.
    BulkLeavesFiles,
    /// Frames of a commit that failed are not cut off.
    FailedFramesStay,
    /// A log goes on after frames were taken back.
    LogGoesOn,
    /// The reserve is for whatever comes first.
    ReserveForAll,
    /// A reserve that was spent is not taken again.
    ReserveNotTakenAgain,
    /// A disk that was full is never written to again.
    FullForGood,
    /// Recovery relies on a copy of the log that is not durable.
    RecoveredLogNotSynced,
    /// Files that nobody names stay.
    StraysStay,
    /// A clean close does not record how long the log is.
    CloseDoesNotSeal,
    /// Bad frames below the last sync are taken for a torn end.
    DamageIsTornEnd,
    /// The order of commits in the log is not checked.
    GapsAccepted,
    /// The checksum of a commit is not compared.
    FrameNotChecked,
    /// The checksum of a block of a segment is not compared.
    BlockNotChecked,
    /// The checksum of a manifest or of tombstones is not compared.
    BodyNotChecked,
    /// The checksum of a file header is not compared.
    HeaderNotChecked,
    /// A commit takes the queue before it has the writer's lock.
    GroupTakenBeforeLock,
    /// Readers see a commit before it is durable.
    PublishedBeforeSync,
    /// A flush gives the writer's lock back before its view is published.
    FlushPublishedLate,
    /// A merge builds on the view from before it had the writer's lock.
    MergeOnOldView,
    /// A handle that only reads does not look again where a writer came in between.
    ReaderLooksOnce,
    /// The last handle does not wait for the background thread.
    CloseDoesNotWait,
    /// Codes are said to be nearer to their rows than they are.
    ResidualTooSmall,
    /// Rows are pruned that reach the floor, but not by much.
    FloorTooHigh,
    /// Bounds leave out what a query loses by rounding.
    QueryTakenAsExact,
    /// Sums in `f32` are said to be off by less than they can be.
    SumsTooExact,
    /// A flush in the background that has not ended is forgotten for the next one.
    FlushThreadForgotten,
    /// A commit does not wait for a flush in the background.
    CommitDoesNotWait,
    /// A flush that ends in the background does not wake those who wait for it.
    FlushWakesNobody,
    /// A thread panics while it commits a group.
    CommitPanics,
    /// The log is synced again after a sync that failed, and that is believed.
    LogSyncedAgain,
    /// So are segments, tombstones and manifests.
    FileSyncedAgain,
    /// A repair that cannot open a damaged file goes on without a copy of it.
    AsideSkipped,
    /// Copies of damaged files are not made durable before these go.
    AsideNotSynced,
    /// What was written while rows were embedded again is not looked at.
    ReembedOnePass,
    /// Rows that are embedded already are not embedded again where their payload changed.
    ReembedTrustsIds,
    /// Rows that were deleted meanwhile stay among those that were embedded.
    ReembedKeepsDeleted,
    /// Rows that became unfit keep the vector of what they were before.
    ReembedKeepsUnfit,
}

/// Whether tests have sown this bug, on this thread.
#[cfg(feature = "testing")]
pub(crate) fn sown(bug: Bug) -> bool {
    SOWN.get() == Some(bug)
}

/// Whether tests have sown this bug: there are no tests.
#[cfg(not(feature = "testing"))]
pub(crate) const fn sown(_: Bug) -> bool {
    false
}

#[cfg(feature = "testing")]
thread_local! {
    static SOWN: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// What a thread that is started does first, to have the bugs of this one.
#[cfg(feature = "testing")]
pub(crate) fn inherit() -> impl FnOnce() + Send {
    let bug = SOWN.get();
    move || sow(bug)
}

/// What a thread that is started does first: nothing, there are no tests.
#[cfg(not(feature = "testing"))]
pub(crate) fn inherit() -> impl FnOnce() + Send {
    || ()
}

/// Sows a bug into what this thread does, or weeds it out.
#[cfg(feature = "testing")]
pub fn sow(bug: Option<Bug>) {
    SOWN.set(bug);
}

//! Bugs that are sown into the folder and into the engine, each of which the
//! tests of power loss, of failing operations and of damage must notice.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use matryo::testing::{Bug, Flaw, Folder, sow};
use matryo::{Collection, Durability, Options, json};
use support::cuts::{Wrong, sweep};
use support::damage::{make, power_loss, repair_fails};
use support::full::{deletes_go_on, reserve_comes_and_goes, with_disk};
use support::reembed::changes_meanwhile;
use support::{
    Answers, DIMS, crc32, fails, files, folder_of, questions, schema, sure_answers, vector,
};

/// Which test is to notice a bug.
#[derive(Debug, Clone, Copy)]
enum By {
    PowerLoss(Durability),
    FailingOperations,
    Reopening,
    /// The power fails behind each commit.
    LosingAtOnce,
    /// The first file that a handle writes.
    FirstWrites,
    Damage,
    /// A manifest made by hand that begins at another commit.
    ForgedManifest,
    /// Files are counted behind a bulk load that was dropped.
    CountingFiles,
    /// A disk is full, and later it is not.
    FullDisk,
    /// Operations of a repair fail, and its power.
    Repair,
    /// Rows change while they are embedded again.
    Reembedding,
}

const POWER: By = By::PowerLoss(Durability::Full);

const BUGS: [(Wrong, By); 53] = [
    (Wrong::Folder(Flaw::NoDirSync), POWER),
    (Wrong::Folder(Flaw::NoDirSyncAfterRename), POWER),
    (Wrong::Folder(Flaw::NoDirSyncAfterCreate), POWER),
    (Wrong::Folder(Flaw::NoSyncOf("wal-")), POWER),
    (Wrong::Folder(Flaw::NoSyncOf("seg-")), POWER),
    (Wrong::Folder(Flaw::NoSyncOf("del-")), POWER),
    (Wrong::Folder(Flaw::NoSyncOf("tmp-")), POWER),
    (Wrong::Folder(Flaw::SyncBeforeWrite), POWER),
    (Wrong::Folder(Flaw::RemoveBeforeRename), POWER),
    (Wrong::Folder(Flaw::RewriteInsteadOfRename), POWER),
    (Wrong::Engine(Bug::LogNotSynced), POWER),
    (Wrong::Engine(Bug::NumbersReused), POWER),
    (Wrong::Engine(Bug::KeptLogUnnamed), POWER),
    (Wrong::Engine(Bug::KeptLogNotSynced), By::PowerLoss(Durability::Buffered)),
    (Wrong::Engine(Bug::LoggedNotChecked), By::Damage),
    (Wrong::Engine(Bug::FlushForgetsDead), POWER),
    (Wrong::Engine(Bug::FlushKeepsLsn), POWER),
    (Wrong::Engine(Bug::FlushBeforeLogSync), By::PowerLoss(Durability::Buffered)),
    (Wrong::Engine(Bug::FlushTakesLaterLsn), POWER),
    (Wrong::Engine(Bug::FlushDropsOpenLog), POWER),
    (Wrong::Engine(Bug::FlushForgetsFrozenDead), POWER),
    (Wrong::Engine(Bug::FreezeBeforeLogSync), By::PowerLoss(Durability::Buffered)),
    (Wrong::Engine(Bug::MergeBeforeLogSync), By::PowerLoss(Durability::Buffered)),
    (Wrong::Engine(Bug::MergeForgetsDead), POWER),
    (Wrong::Engine(Bug::MergeMistakesDead), POWER),
    (Wrong::Engine(Bug::BulkTakesNoLsn), POWER),
    (Wrong::Engine(Bug::BulkForgetsDead), POWER),
    (Wrong::Engine(Bug::InstalledRemoved), By::FailingOperations),
    (Wrong::Engine(Bug::BulkLeavesFiles), By::CountingFiles),
    (Wrong::Engine(Bug::FailedFramesStay), By::FailingOperations),
    (Wrong::Engine(Bug::NamesSyncedAgain), By::Reopening),
    (Wrong::Engine(Bug::ManifestTrusted), By::Reopening),
    (Wrong::Engine(Bug::TombstonesNotVouched), By::FirstWrites),
    (Wrong::Engine(Bug::FullForGood), By::FailingOperations),
    (Wrong::Engine(Bug::ReserveForAll), By::FullDisk),
    (Wrong::Engine(Bug::ReserveNotTakenAgain), By::FullDisk),
    (Wrong::Engine(Bug::RecoveredLogNotSynced), POWER),
    (Wrong::Engine(Bug::StraysStay), POWER),
    (Wrong::Engine(Bug::CloseDoesNotSeal), By::Damage),
    (Wrong::Engine(Bug::DamageIsTornEnd), By::Damage),
    (Wrong::Engine(Bug::GapsAccepted), By::ForgedManifest),
    (Wrong::Engine(Bug::FrameNotChecked), By::Damage),
    (Wrong::Engine(Bug::BlockNotChecked), By::Damage),
    (Wrong::Engine(Bug::BodyNotChecked), By::Damage),
    (Wrong::Engine(Bug::HeaderNotChecked), By::Damage),
    (Wrong::Engine(Bug::LogSyncedAgain), By::LosingAtOnce),
    (Wrong::Engine(Bug::FileSyncedAgain), By::FailingOperations),
    (Wrong::Engine(Bug::AsideSkipped), By::Repair),
    (Wrong::Engine(Bug::AsideNotSynced), By::Repair),
    (Wrong::Engine(Bug::ReembedOnePass), By::Reembedding),
    (Wrong::Engine(Bug::ReembedTrustsIds), By::Reembedding),
    (Wrong::Engine(Bug::ReembedKeepsDeleted), By::Reembedding),
    (Wrong::Engine(Bug::ReembedKeepsUnfit), By::Reembedding),
];

/// What the test says against it, if anything.
fn noticed(wrong: Wrong, by: By) -> Option<String> {
    let bug = if let Wrong::Engine(bug) = wrong { Some(bug) } else { None };
    let run = || {
        sow(bug);
        match by {
            By::PowerLoss(durability) => sweep(wrong, durability, 0..60).1,
            By::FailingOperations => {
                let cases = (0..6).map(|seed| fails::sweep(seed, bug, &fails::FAILURES[..2]));
                println!("{} cases passed", cases.sum::<usize>());
                None
            }
            By::LosingAtOnce => fails::lost_at_once(bug).err(),
            By::Reopening => fails::reopened(bug).err(),
            By::FirstWrites => {
                fails::first_writes();
                None
            }
            By::Damage => damage().err(),
            By::ForgedManifest => forged_manifest().err(),
            By::CountingFiles => counting_files().err(),
            By::FullDisk => {
                with_disk(|_, disk| deletes_go_on(disk));
                with_disk(reserve_comes_and_goes);
                None
            }
            By::Repair => {
                power_loss(&make(), 6, 4096 * 2, 32);
                repair_fails();
                None
            }
            By::Reembedding => {
                changes_meanwhile();
                None
            }
        }
    };
    let said = catch_unwind(AssertUnwindSafe(run)).unwrap_or(Some("a panic".into()));
    sow(None);
    said
}

fn put(db: &Collection, ids: std::ops::Range<u64>) {
    let mut batch = db.batch();
    for id in ids {
        batch.upsert(id, &vector(id, DIMS), json!({"n": id})).expect("upsert");
    }
    batch.commit().expect("commit");
}

/// A folder that was closed cleanly, one whose process died, and the answers of
/// the first; of the second, those and the ones without the last commit.
fn samples() -> (Folder, Folder, [Vec<u64>; 2]) {
    let folder = Folder::default();
    let db = folder.create(schema(), Options::new()).expect("create");
    put(&db, 0..10);
    db.flush().expect("flush");
    db.delete(3).expect("delete");
    db.flush().expect("flush");
    (10..13).for_each(|id| put(&db, id..id + 1));
    let before = sure_answers(&db);
    put(&db, 13..14);
    let after = sure_answers(&db);
    let unclean = folder.fork();
    drop(db);
    (folder, unclean, [before, after])
}

fn ask(folder: &Folder) -> Option<(Answers, bool)> {
    let db = folder.open(Options::new()).ok()?;
    Some((questions(&db), db.verify().is_ok()))
}

/// Bytes of every file are changed, and every file is cut short.
fn damage() -> Result<(), String> {
    let (clean, unclean, states) = samples();
    for (folder, sealed) in [(clean, true), (unclean, false)] {
        let files = files(&folder);
        for (n, (name, bytes)) in files.iter().enumerate() {
            let step = if bytes.len() > 2000 { 41 } else { 1 };
            let changed = (0..bytes.len()).step_by(step).map(|at| {
                let mut bad = bytes.clone();
                bad[at] ^= 0x10;
                (at, bad)
            });
            // A log that was not closed and is cut short reads as an earlier state.
            let log = name.starts_with("wal-");
            let lengths = if log && !sealed { 0 } else { bytes.len() };
            let cut = (0..lengths).step_by(step * 3).map(|len| (len, bytes[..len].to_vec()));
            for (at, bad) in changed.chain(cut) {
                let mut damaged = files.clone();
                damaged[n].1 = bad;
                let Some((answers, verified)) = ask(&folder_of(&damaged)) else { continue };
                let agrees = |state: &Vec<u64>| {
                    answers.iter().zip(state).all(|(a, s)| a.as_ref().map_or(true, |a| a == s))
                };
                let right = if sealed { agrees(&states[1]) } else { states.iter().any(agrees) };
                if !right || (verified && (sealed || !log)) {
                    return Err(format!("{name} damaged at {at}: right {right}, found {verified}"));
                }
            }
        }
    }
    Ok(())
}

/// The manifest says that the segments reach a commit further.
fn forged_manifest() -> Result<(), String> {
    let (_, unclean, _) = samples();
    let mut manifest = unclean.read("MANIFEST").expect("there");
    // LSN is at 8 of the body; the sums are at 56 and 60 of the header.
    manifest[64 + 8] += 1;
    let body = crc32(&manifest[64..]);
    manifest[56..60].copy_from_slice(&body.to_le_bytes());
    let header = crc32(&manifest[..60]);
    manifest[60..64].copy_from_slice(&header.to_le_bytes());
    unclean.write("MANIFEST", manifest);
    match unclean.open(Options::new()) {
        Err(_) => Ok(()),
        Ok(db) => Err(format!("opened, with {} rows", db.len())),
    }
}

fn counting_files() -> Result<(), String> {
    let folder = Folder::default();
    let db = folder.create(schema(), Options::new().memtable_bytes(500)).expect("create");
    let before = folder.names();
    let mut bulk = db.bulk().expect("bulk");
    (0..20).for_each(|id| bulk.upsert(id, &vector(id, DIMS), ()).expect("upsert"));
    assert!(folder.names().len() > before.len(), "segments were written");
    drop(bulk);
    if folder.names() != before {
        return Err(format!("left: {:?}", folder.names()));
    }
    // Rows that come again later in the same load.
    let mut bulk = db.bulk().expect("bulk");
    (0..20).for_each(|id| bulk.upsert(id % 2, &vector(id, DIMS), ()).expect("upsert"));
    bulk.finish().expect("finish");
    let needed = db.verify().expect("undamaged").files;
    if folder.names().len() == needed { Ok(()) } else { Err(format!("left: {:?}", folder.names())) }
}

#[test]
fn every_bug_is_noticed() {
    let (left, missed) = (Mutex::new(BUGS.iter()), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let next = left.lock().expect("no panic").next();
            let Some((wrong, by)) = next else { return };
            match noticed(*wrong, *by) {
                Some(why) => println!("{wrong:?}: {}", why.chars().take(160).collect::<String>()),
                None => missed.lock().expect("no panic").push((*wrong, *by)),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let missed = missed.into_inner().expect("no panic");
    assert!(missed.is_empty(), "not noticed: {missed:?}");
}

#[test]
fn without_a_bug_nothing_is_noticed() {
    assert_eq!(damage(), Ok(()));
    assert_eq!(forged_manifest(), Ok(()));
    assert_eq!(counting_files(), Ok(()));
}

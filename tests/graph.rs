//! Graphs of segments: made, used, dropped, damaged, and never the reason for a wrong answer.

use std::collections::HashSet;

use matryo::testing::{Failure, Flaw, Folder, Recorder};
use matryo::{
    Collection, CopyOptions, Error, FieldKind, Funnel, Metric, Options, RepairOptions, RowId,
    Schema, field, json,
};

const DIMS: usize = 24;

/// A vector that is nearest to those of the same remainder.
fn vector(id: u64) -> Vec<f32> {
    let mix = |j: u64| {
        let x = (id * 31 + j).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((x >> 40) as f32) / 16_777_216.0 - 0.5
    };
    let centre = |j: u64| if (id % 7 + j).is_multiple_of(7) { 1.5 } else { 0.0 };
    (0..DIMS as u64).map(|j| centre(j) + mix(j)).collect()
}

fn schema() -> Schema {
    Schema::builder(DIMS).granularities([8]).field("n", FieldKind::Integer).build().expect("valid")
}

fn fill(collection: &Collection, ids: std::ops::Range<u64>) {
    fill_in_groups(collection, ids, 10);
}

fn fill_in_groups(collection: &Collection, ids: std::ops::Range<u64>, groups: u64) {
    let mut batch = collection.batch();
    for id in ids {
        batch.upsert(id, &vector(id), json!({"n": id % groups})).expect("a row");
    }
    batch.commit().expect("commit");
}

/// A collection of 1500 rows whose segment has a graph.
fn with_graph() -> (Folder, Collection) {
    with_graph_of(10)
}

/// The same, with rows of so many groups; of seven, near rows are of one.
fn with_graph_of(groups: u64) -> (Folder, Collection) {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new()).expect("create");
    fill_in_groups(&collection, 0..1500, groups);
    let built = collection.build_graphs().expect("build");
    assert_eq!((built.segments, built.rows), (1, 1500));
    (folder, collection)
}

fn graph_files(folder: &Folder) -> Vec<String> {
    folder.names().into_iter().filter(|name| name.starts_with("gra-")).collect()
}

/// The hits, and the names of the stages that found them.
fn ids(collection: &Collection, query: u64, funnel: Funnel) -> (Vec<u64>, String) {
    let found = collection.search(&vector(query)).funnel(funnel).run().expect("search");
    let id = |id: &RowId| if let RowId::U64(id) = id { *id } else { unreachable!("u64 ids") };
    let names: Vec<_> = found.explain.stages.iter().map(|stage| stage.name.as_str()).collect();
    (found.hits.iter().map(|hit| id(&hit.id)).collect(), names.join("; "))
}

/// Share of the true hits that a walk finds; it must be a walk.
fn recall(collection: &Collection) -> f64 {
    let mut found = 0;
    for query in 0..50 {
        let truth: HashSet<u64> = ids(collection, query, Funnel::exact()).0.into_iter().collect();
        let (hits, stages) = ids(collection, query, Funnel::graph(200, []));
        assert!(stages.contains("graph 8 bit x 24, "), "{stages}");
        assert_eq!(hits.len(), truth.len());
        found += hits.iter().filter(|id| truth.contains(id)).count();
    }
    f64::from(found as u32) / 500.0
}

#[test]
fn walks_find_what_exact_searches_find() {
    let (folder, collection) = with_graph();
    assert!(recall(&collection) >= 0.99, "{}", recall(&collection));
    drop(collection);
    let collection = folder.open(Options::new()).expect("open");
    assert!(recall(&collection) >= 0.99, "after a reopen");
    assert_eq!(collection.build_graphs().expect("nothing to do").segments, 0);
    assert!(!ids(&collection, 3, Funnel::exact()).1.contains("graph"), "exact never walks");
    assert!(!ids(&collection, 3, Funnel::default()).1.contains("graph"), "so few are scanned");
}

/// Near rows are all of one group, so a walk must become wider to come to the others.
#[test]
fn a_walk_that_comes_upon_too_few_groups_is_made_wider() {
    let (_folder, collection) = with_graph_of(7);
    let search = || collection.search(&vector(3)).group_by("n", 1).limit(7);
    let walked = search().funnel(Funnel::graph(20, [])).run().expect("search");
    let stages: Vec<_> = walked.explain.stages.iter().map(|stage| stage.name.as_str()).collect();
    assert!(stages.iter().all(|name| !name.starts_with("scan")), "{stages:?}");
    assert_eq!(walked.hits.len(), 7, "{stages:?}");
    assert_eq!(walked.hits[0], search().exact().run().expect("search").hits[0]);
}

#[test]
fn the_same_rows_give_the_same_file() {
    let (one, _c1) = with_graph();
    let (two, _c2) = with_graph();
    let [a, b] = [&one, &two].map(|folder| folder.read(&graph_files(folder)[0]).expect("there"));
    // The name of the collection is random.
    assert_eq!(a[4096..], b[4096..]);
}

#[test]
fn dropped_graphs_are_gone_and_can_be_built_again() {
    let (folder, collection) = with_graph();
    assert_eq!(graph_files(&folder).len(), 1);
    let dropped = collection.drop_graphs().expect("drop");
    assert_eq!((dropped.segments, dropped.rows), (1, 1500));
    assert!(graph_files(&folder).is_empty());
    assert!(ids(&collection, 1, Funnel::graph(50, [])).1.starts_with("scan"));
    assert_eq!(collection.drop_graphs().expect("none").segments, 0);
    assert_eq!(collection.build_graphs().expect("again").segments, 1);
    collection.verify().expect("intact");
    assert!(recall(&collection) >= 0.99);
}

#[test]
fn dead_rows_and_rows_outside_of_a_filter_are_not_found() {
    let (folder, collection) = with_graph();
    let mut batch = collection.batch();
    (0..1500).filter(|id| id % 3 == 0).for_each(|id| drop(batch.delete(id)));
    batch.commit().expect("commit");
    fill(&collection, 1500..1600); // in RAM: scanned beside the walk
    collection.upsert(1, &vector(1), json!({"n": 9})).expect("replaced");
    assert!(recall(&collection) >= 0.99);
    let check = |collection: &Collection| {
        for query in 0..20 {
            let search = || collection.search(&vector(query)).filter(field("n").ge(5));
            let truth = search().exact().run().expect("exact").hits;
            let found = search().funnel(Funnel::graph(400, [])).run().expect("walk").hits;
            let known: HashSet<_> = truth.iter().map(|hit| hit.id.clone()).collect();
            assert!(found.iter().filter(|hit| known.contains(&hit.id)).count() >= 9, "{query}");
            for hit in found {
                let row = collection.get(&hit.id).expect("get").expect("a living row");
                assert!(row.payload["n"].as_u64().is_some_and(|n| n >= 5));
            }
        }
    };
    check(&collection);
    drop(collection);
    check(&folder.open(Options::new()).expect("open"));
}

#[test]
fn a_filter_that_leaves_out_all_near_rows_still_finds_as_many_as_pass() {
    let (_folder, collection) = with_graph_of(7);
    for (query, width) in [(0, 10), (7, 50), (14, 200)] {
        // The 214 rows of the query's kind fail, and fill the walk.
        let search = || collection.search(&vector(query)).filter(field("n").ge(1));
        let truth = search().exact().run().expect("exact").hits;
        let found = search().funnel(Funnel::graph(width, [])).run().expect("walk");
        assert_eq!(found.hits.len(), 10, "{width}: {}", found.explain);
        assert!(found.explain.stages[1].name.starts_with("scan"), "{}", found.explain);
        let known: HashSet<_> = truth.iter().map(|hit| hit.id.clone()).collect();
        let common = found.hits.iter().filter(|hit| known.contains(&hit.id)).count();
        assert!(common >= if width < 50 { 3 } else { 9 }, "{width}: {common}");
    }
    collection.delete(7).expect("delete");
    let found = collection.search(&vector(7)).funnel(Funnel::graph(10, [])).run().expect("walk");
    assert_eq!(found.hits.len(), 10, "a dead row takes no place");
}

#[test]
fn a_merge_takes_old_graphs_away_and_builds_a_new_one_of_enough_rows() {
    let folder = Folder::default();
    let options = Options::new().graph_min_rows(1000);
    let collection = folder.create(schema(), options).expect("create");
    for start in [0, 400, 800] {
        fill(&collection, start..start + 400);
        collection.flush().expect("flush");
    }
    assert_eq!(collection.build_graphs().expect("build").segments, 3, "by hand any number");
    let before = graph_files(&folder);
    collection.delete(0).expect("delete");
    collection.compact().expect("compact");
    let after = graph_files(&folder);
    assert_eq!((before.len(), after.len()), (3, 1));
    assert!(!before.contains(&after[0]));
    assert!(recall(&collection) >= 0.99);
    collection.verify().expect("intact");
}

#[test]
fn a_build_that_is_ended_leaves_nothing() {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new()).expect("create");
    fill(&collection, 0..1000);
    collection.flush().expect("flush");
    let names = folder.names();
    let ended = collection.build_graphs_with(|progress| progress.done < 500);
    assert!(matches!(ended, Err(Error::Cancelled { .. })), "{ended:?}");
    assert_eq!(folder.names(), names);
    assert_eq!(collection.build_graphs().expect("build").rows, 1000);
}

#[test]
fn vectors_of_many_lengths_get_no_graph_unless_only_directions_count() {
    for (metric, expected) in [(Metric::Cosine, 1), (Metric::Dot, 0), (Metric::L2, 0)] {
        let folder = Folder::default();
        let schema = Schema::builder(DIMS).metric(metric).build().expect("valid");
        let collection = folder.create(schema, Options::new()).expect("create");
        fill(&collection, 0..300);
        assert_eq!(collection.build_graphs().expect("build").segments, expected, "{metric}");
    }
}

#[test]
fn backups_and_copies_are_whole() {
    let (_folder, collection) = with_graph();
    let copy = Folder::default();
    collection.back_up_into(&copy);
    let opened = copy.open(Options::new()).expect("open");
    opened.verify().expect("intact");
    assert_eq!(graph_files(&copy).len(), 1);
    assert!(recall(&opened) >= 0.99);
    drop(opened);
    copy.drop_tier(&CopyOptions::new().dims(12), &|_| true).expect("shorten");
    assert!(graph_files(&copy).is_empty(), "it linked other vectors");
    assert_eq!(copy.open(Options::new()).expect("open").verify().expect("intact").files, 2);
}

trait BackUp {
    fn back_up_into(&self, folder: &Folder);
}

impl BackUp for Collection {
    fn back_up_into(&self, folder: &Folder) {
        folder.back_up(self, &|_| true).expect("backup");
    }
}

#[test]
fn damage_is_noticed_and_repaired_without_losing_a_row() {
    let (folder, collection) = with_graph();
    drop(collection);
    let name = graph_files(&folder)[0].clone();
    let good = folder.read(&name).expect("there");
    let step = good.len() / 97;
    for at in (0..good.len()).step_by(step).chain([good.len() - 1]) {
        let damaged = folder.fork();
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        damaged.write(&name, bytes);
        let collection = damaged.open(Options::new()).expect("rows are intact");
        assert!(matches!(collection.verify(), Err(Error::Corrupt(_))), "byte {at}");
        drop(collection);
        let repaired = damaged.repair(&RepairOptions::new()).expect("repair");
        assert_eq!((repaired.rows, repaired.lost, repaired.damage.len()), (1500, 0, 1));
        let collection = damaged.open(Options::new()).expect("open");
        collection.verify().expect("intact");
        assert_eq!(collection.len(), 1500);
        assert!(graph_files(&damaged).is_empty());
    }
    folder.remove(&name);
    assert_eq!(folder.repair(&RepairOptions::new()).expect("repair").rows, 1500);
    assert_eq!(folder.open(Options::new()).expect("open").build_graphs().expect("new").segments, 1);
}

/// The bytes of a graph file, damaged in a way that is found when the collection is opened.
fn unreadable(good: &[u8]) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let flipped = |at: usize| {
        let mut bytes = good.to_vec();
        bytes[at] ^= 1;
        Some(bytes)
    };
    vec![
        ("missing", None),
        ("empty", Some(Vec::new())),
        ("cut", Some(good[..good.len() - 1].to_vec())),
        ("longer", Some([good, &[0]].concat())),
        ("header", flipped(20)),
        ("graph meta", flipped(4096)),
        ("region table", flipped(good.len() - 100)),
        ("footer", flipped(good.len() - 1)),
    ]
}

#[test]
fn a_graph_that_cannot_be_opened_costs_its_speed_and_no_row() {
    let (folder, collection) = with_graph();
    let funnel = || Funnel::graph(200, []);
    collection.drop_graphs().expect("drop");
    let scanned: Vec<_> = (0..20).map(|query| ids(&collection, query, funnel()).0).collect();
    collection.build_graphs().expect("build");
    drop(collection);
    let name = graph_files(&folder)[0].clone();
    let good = folder.read(&name).expect("there");
    for (what, bytes) in unreadable(&good) {
        let damaged = folder.fork();
        damaged.remove(&name);
        bytes.into_iter().for_each(|bytes| damaged.write(&name, bytes));
        for read_only in [true, false] {
            let options = Options::new().read_only(read_only);
            let collection = damaged.open(options).expect(what);
            let told = collection.info().expect("info").graph_errors;
            assert!(told.len() == 1 && told[0].contains(&name), "{what}: {told:?}");
            for (query, hits) in (0..).zip(&scanned) {
                let (found, stages) = ids(&collection, query, funnel());
                assert_eq!(&found, hits, "{what}");
                assert!(stages.starts_with("scan 8 bit x 24, damaged graphs: 1;"), "{stages}");
            }
            assert!(!ids(&collection, 0, Funnel::exact()).1.contains("damaged"), "{what}");
            assert!(matches!(collection.verify(), Err(Error::Corrupt(_))), "{what}");
        }
        writes_go_on_and_a_new_graph_cures(&damaged, &name, what);
    }
}

/// Rows come and go beside a damaged graph; a backup leaves it out; building replaces it.
fn writes_go_on_and_a_new_graph_cures(damaged: &Folder, name: &str, what: &str) {
    let collection = damaged.open(Options::new().graph_min_rows(0)).expect("open");
    collection.delete(0).expect("delete");
    fill(&collection, 1500..1510);
    collection.flush().expect("flush");
    assert_eq!(collection.info().expect("info").graph_errors.len(), 1, "{what}: nobody built");
    let copy = Folder::default();
    let copied = copy.back_up(&collection, &|_| true).expect("backup");
    assert_eq!((copied.rows, copied.graphs_left_out), (1509, 1), "{what}");
    let copy = copy.open(Options::new()).expect("open");
    copy.verify().expect("a backup has no damage");
    assert_eq!(copy.info().expect("info").graph_errors, [""; 0]);

    assert_eq!(collection.build_graphs().expect("build").segments, 2, "{what}: a new one, too");
    assert_eq!(collection.info().expect("info").graph_errors, [""; 0]);
    assert!(!graph_files(damaged).contains(&name.to_owned()) && graph_files(damaged).len() == 2);
    collection.verify().expect("intact");
    assert!(recall(&collection) >= 0.99, "{what}");
}

#[test]
fn damage_that_a_walk_comes_upon_ends_its_walks_and_no_search() {
    let (folder, collection) = with_graph();
    drop(collection);
    let name = graph_files(&folder)[0].clone();
    let good = folder.read(&name).expect("there");
    // Every block of links, the last region before the table: whichever a walk touches first.
    let mut bytes = good.clone();
    let links = 1500 * 48 * 4;
    let table = (good.len() - 1) / 4096 * 4096;
    let first = table - links / 4096 * 4096;
    (first..table).step_by(4096).for_each(|at| bytes[at] ^= 1);
    folder.write(&name, bytes);
    let collection = folder.open(Options::new()).expect("open");
    assert_eq!(collection.info().expect("info").graph_errors, [""; 0], "links were not read yet");
    let copy = Folder::default();
    assert_eq!(copy.back_up(&collection, &|_| true).expect("backup").graphs_left_out, 1);
    assert!(graph_files(&copy).is_empty(), "what was begun of it is removed");
    copy.open(Options::new()).expect("open").verify().expect("a backup has no damage");
    let threads = (0..4).map(|n| {
        let collection = collection.clone();
        std::thread::spawn(move || {
            (0..10).for_each(|query| {
                let (hits, stages) = ids(&collection, query + n, Funnel::graph(200, []));
                let truth = ids(&collection, query + n, Funnel::exact()).0;
                assert_eq!(hits, truth, "8 bits and 200 of 1500 rows");
                assert!(stages.starts_with("scan") && stages.contains("damaged graphs: 1"));
            });
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    let told = collection.info().expect("info").graph_errors;
    assert!(told.len() == 1 && told[0].contains("checksum"), "{told:?}");
    let queries: Vec<_> = (0..5).map(vector).collect();
    let batch = collection.search_batch(&queries).funnel(Funnel::graph(200, [])).run();
    assert_eq!(batch.expect("batch").len(), 5);
    assert_eq!(collection.build_graphs().expect("build").segments, 1);
    assert!(recall(&collection) >= 0.99);
    collection.verify().expect("intact");
}

#[test]
fn too_little_of_something_is_no_damage() {
    let recorder = Recorder::new(None);
    let collection = recorder.create(schema(), Options::new()).expect("create");
    fill(&collection, 0..100);
    collection.build_graphs().expect("build");
    drop(collection);
    let (mut refused, mut told) = (0, 0);
    for at in 0.. {
        let begin = recorder.tried();
        let few = Failure { code: 24, percent_written: 0 }; // EMFILE
        recorder.fail(begin + at..begin + at + 1, few);
        let opened = recorder.open(Options::new().read_only(true));
        if recorder.tried() <= begin + at {
            break;
        }
        match opened {
            Ok(collection) => told += collection.info().expect("info").graph_errors.len(),
            Err(e) => {
                refused += 1;
                assert!(matches!(e, Error::Io { .. }), "{e}");
            }
        }
    }
    assert!(refused > 3 && told == 0, "{refused} {told}");
}

#[test]
fn readers_beside_a_writer_get_graphs_of_segments_they_have_open() {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new()).expect("create");
    fill(&collection, 0..1500);
    collection.flush().expect("flush");
    let reader = folder.open(Options::new().read_only(true)).expect("open");
    let walks = || ids(&reader, 3, Funnel::graph(200, [])).1.contains("hops");
    assert!(!walks());
    collection.build_graphs().expect("build");
    assert!(!walks(), "not refreshed");
    assert!(reader.refresh().expect("refresh") && walks());
    assert!(recall(&reader) >= 0.99);
    // Commits, tombstones and another segment leave it in its place.
    fill(&collection, 1500..1510);
    assert!(reader.refresh().expect("refresh") && walks());
    collection.delete(3).expect("delete");
    collection.flush().expect("flush");
    assert!(reader.refresh().expect("refresh") && walks());
    let before = reader.snapshot();
    collection.drop_graphs().expect("drop");
    assert!(reader.refresh().expect("refresh") && !walks());
    assert_eq!(reader.info().expect("info").graph_errors, [""; 0], "dropped, not damaged");
    assert_eq!(before.len(), reader.len());
    assert!(!reader.refresh().expect("refresh"), "nothing new");
}

#[test]
fn funnels_over_graphs_that_make_no_sense_are_refused() {
    let (_folder, collection) = with_graph();
    let run = |funnel| collection.search(&vector(1)).funnel(funnel).run();
    assert!(run(Funnel::graph(9, [])).is_err(), "keeps fewer than asked for");
    assert!(run(Funnel::graph(50, [(12, 60)])).is_err(), "a stage cannot keep more than came");
    assert!(run(Funnel::graph(50, [(12, 40), (12, 30)])).is_err(), "dimensions must rise");
    let found = run(Funnel::graph(50, [(12, 40), (20, 30)])).expect("a funnel");
    let stages: Vec<u64> = found.explain.stages.iter().map(|stage| stage.rows_out).collect();
    assert_eq!(stages, [50, 40, 30, 10]);
    // A short prefix says too little of what the graph knows.
    let short = collection.search(&vector(1)).dims(8).funnel(Funnel::graph(50, [])).run();
    assert!(short.expect("scanned").explain.stages[0].name.starts_with("scan"));
}

/// Cuts the power before every operation of a build, a drop and another build; of what is
/// not durable then each operation is lost, alone and with all behind it. How many states there
/// were, and how many of them were bad.
fn power_cuts(flaw: Option<Flaw>) -> (usize, usize) {
    let recorder = Recorder::new(flaw);
    let collection = recorder.create(schema(), Options::new()).expect("create");
    fill(&collection, 0..100);
    collection.flush().expect("flush");
    let begin = recorder.operations();
    collection.build_graphs().expect("build");
    collection.drop_graphs().expect("drop");
    collection.build_graphs().expect("build");
    drop(collection);
    let mut replay = recorder.replay();
    let (mut at, mut states, mut bad) = (0, 0, 0);
    while replay.step() {
        at += 1;
        if at < begin {
            continue;
        }
        // The last choice loses none.
        for lost in 0..=replay.pending() {
            for all in [false, true] {
                let keep = |n| if all { n < lost } else { n != lost };
                states += 1;
                bad += usize::from(!is_whole(&replay.folder(keep, None)));
            }
        }
    }
    (states, bad)
}

/// Whether a folder opens, has its rows and no stray graph, and can build and walk graphs.
fn is_whole(folder: &Folder) -> bool {
    let Ok(collection) = folder.open(Options::new()) else { return false };
    collection.verify().is_ok()
        && collection.len() == 100
        && collection.build_graphs().is_ok()
        && graph_files(folder).len() == 1
        && collection.search(&vector(5)).funnel(Funnel::graph(20, [])).run().is_ok()
}

#[test]
fn no_power_cut_while_graphs_come_and_go_loses_anything() {
    let (states, bad) = power_cuts(None);
    assert!(states > 50, "only {states} states");
    assert_eq!(bad, 0, "of {states} states");
    for flaw in [Flaw::NoSyncOf("gra-"), Flaw::NoDirSyncAfterCreate, Flaw::RemoveBeforeRename] {
        assert!(power_cuts(Some(flaw)).1 > 0, "{flaw:?} was not noticed");
    }
}

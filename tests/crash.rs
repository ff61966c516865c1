//! Stopping at every moment: what was committed is there, all of it or none.

mod support;

use std::collections::BTreeMap;

use matryo::testing::Folder;
use matryo::{Collection, Options, RowId, json};
use support::{DIMS, Rng, read_only, schema, vector};

/// Rows by id: the seed of the vector, which the payload repeats.
type Oracle = BTreeMap<u64, u64>;

fn check(collection: &Collection, oracle: &Oracle, what: &str) {
    let same = matches(collection, oracle);
    assert!(same.is_ok(), "{what}: {}", same.unwrap_err());
    collection.verify().unwrap_or_else(|e| panic!("{what}: {e}"));
}

fn matches(collection: &Collection, oracle: &Oracle) -> Result<(), String> {
    if collection.len() != oracle.len() as u64 {
        return Err(format!("{} rows, expected {}", collection.len(), oracle.len()));
    }
    for (id, seed) in oracle {
        let row = collection.get(*id).map_err(|e| e.to_string())?;
        let row = row.ok_or(format!("row {id} is missing"))?;
        if row.vector != vector(*seed, DIMS) || row.payload["seed"] != json!(seed) {
            return Err(format!("row {id} is not the one written last"));
        }
    }
    let hits = collection.search(&vector(5, DIMS)).limit(1000).exact().run();
    let mut ids: Vec<RowId> =
        hits.map_err(|e| e.to_string())?.hits.into_iter().map(|hit| hit.id).collect();
    ids.sort_unstable();
    let expected: Vec<RowId> = oracle.keys().map(|id| RowId::U64(*id)).collect();
    if ids == expected { Ok(()) } else { Err(format!("a search finds {ids:?}")) }
}

/// One random batch, on the collection and on the oracle.
fn batch(collection: &Collection, oracle: &mut Oracle, rng: &mut Rng) {
    let mut batch = collection.batch();
    for _ in 0..=rng.below(5) {
        let (id, seed) = (rng.below(24) as u64, rng.next());
        if rng.below(3) == 0 {
            batch.delete(id).expect("delete");
            oracle.remove(&id);
        } else {
            batch.upsert(id, &vector(seed, DIMS), json!({"seed": seed})).expect("upsert");
            oracle.insert(id, seed);
        }
    }
    batch.commit().expect("commit");
}

/// Runs a workload; `each` sees the folder after every commit and every flush.
fn workload(seed: u64, steps: usize, mut each: impl FnMut(&Folder, &Oracle)) {
    let folder = Folder::default();
    let mut rng = Rng(seed);
    let mut oracle = Oracle::new();
    let mut collection = Some(folder.create(schema(), Options::new()).expect("create"));
    for _ in 0..steps {
        match rng.below(9) {
            0 | 1 => collection.as_ref().expect("open").flush().expect("flush"),
            2 => {
                // Closed before it is opened again: the folder is locked.
                drop(collection.take());
                each(&folder, &oracle);
                collection = Some(folder.open(Options::new()).expect("reopen"));
            }
            _ => batch(collection.as_ref().expect("open"), &mut oracle, &mut rng),
        }
        each(&folder, &oracle);
    }
}

#[test]
fn a_process_that_dies_at_any_commit_has_lost_nothing() {
    let mut states = 0;
    for seed in 0..20 {
        workload(seed, 30, |folder, oracle| {
            let what = format!("seed {seed}, state {states}");
            check(&folder.fork().open(read_only()).expect("open"), oracle, &what);
            // Dies again during recovery, then opens for good; then it goes on.
            let fork = folder.fork();
            let first = fork.open(Options::new()).expect("open");
            check(&first, oracle, &what);
            let second = fork.fork();
            drop(first);
            for folder in [fork, second] {
                let collection = folder.open(Options::new()).expect("open again");
                check(&collection, oracle, &what);
                let mut oracle = oracle.clone();
                batch(&collection, &mut oracle, &mut Rng(states));
                collection.flush().expect("flush");
                check(&collection, &oracle, &what);
            }
            states += 1;
        });
    }
    println!("{states} states");
}

#[test]
fn a_log_cut_anywhere_holds_the_commits_before_the_cut() {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new()).expect("create");
    let (mut rng, mut oracle) = (Rng(3), Oracle::new());
    let log = || {
        let name = folder.names().into_iter().find(|name| name.starts_with("wal-"));
        name.map_or(0, |name| folder.read(&name).expect("there").len())
    };
    for _ in 0..3 {
        batch(&collection, &mut oracle, &mut rng);
    }
    collection.flush().expect("flush");
    let mut states = vec![(0, oracle.clone())];
    for _ in 0..6 {
        batch(&collection, &mut oracle, &mut rng);
        states.push((log(), oracle.clone()));
    }
    let name = folder.names().into_iter().find(|name| name.starts_with("wal-")).expect("a log");
    let bytes = folder.read(&name).expect("there");
    for len in 64..=bytes.len() {
        for tail in [&[][..], &[0; 24], &[0xff; 24]] {
            let cut = folder.fork();
            let torn = [&bytes[..len], tail].concat();
            // Zeros can be just what was cut off.
            let same = torn.iter().zip(&bytes).take_while(|(a, b)| a == b).count();
            let (_, oracle) = states.iter().rfind(|(end, _)| *end <= same).expect("the first");
            cut.write(&name, torn);
            let what = format!("log cut at {len}, {} bytes of another kind behind", tail.len());
            check(&cut.open(read_only()).expect("open"), oracle, &what);
            let collection = cut.open(Options::new()).expect("open");
            check(&collection, oracle, &what);
            // What is written next is read back, whatever the old end was.
            let mut oracle = oracle.clone();
            batch(&collection, &mut oracle, &mut Rng(len as u64));
            check(&cut.fork().open(Options::new()).expect("reopen"), &oracle, &what);
        }
    }
}

/// A stop between the steps of a flush leaves the files of the old state and
/// some of the new, all combinations of which open as the old or the new.
#[test]
fn files_of_an_interrupted_flush_are_cleaned_up() {
    for seed in 0..40 {
        let folder = Folder::default();
        let collection = folder.create(schema(), Options::new()).expect("create");
        let (mut rng, mut oracle) = (Rng(seed), Oracle::new());
        for _ in 0..4 {
            batch(&collection, &mut oracle, &mut rng);
            collection.flush().expect("flush");
        }
        batch(&collection, &mut oracle, &mut rng);
        let before = folder.fork();
        collection.flush().expect("flush");
        let new: Vec<String> =
            folder.names().into_iter().filter(|name| before.read(name).is_none()).collect();
        // The new files appear one after another; the last may be cut anywhere.
        for (n, name) in new.iter().enumerate() {
            let bytes = folder.read(name).expect("new");
            for len in [0, 1, 63, 64, 65, 4096, bytes.len() - 1, bytes.len()] {
                let stopped = before.fork();
                new[..n].iter().for_each(|f| stopped.write(f, folder.read(f).expect("new")));
                stopped.write(name, bytes[..len.min(bytes.len())].to_vec());
                stopped.write("tmp-x1", b"half a manifest".to_vec());
                let what = format!("seed {seed}: {name} of {len} bytes, manifest not replaced");
                check(&stopped.open(read_only()).expect("open"), &oracle, &what);
                let collection = stopped.open(Options::new()).expect("open");
                check(&collection, &oracle, &what);
                let left = stopped.names();
                assert!(!left.contains(name) && !left.contains(&"tmp-x1".into()), "{left:?}");
                collection.flush().expect("flush");
                check(&collection, &oracle, &what);
                assert!(!stopped.names().contains(name), "{name} was used again");
            }
        }
        // The manifest is replaced, the old files are not removed yet.
        let stopped = folder.fork();
        for name in before.names() {
            if folder.read(&name).is_none() {
                stopped.write(&name, before.read(&name).expect("old"));
            }
        }
        let collection = stopped.open(Options::new()).expect("open");
        check(&collection, &oracle, &format!("seed {seed}: old files are left"));
        assert_eq!(stopped.names(), folder.names());
    }
}

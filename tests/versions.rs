//! What version 1.0 does with files of later ones: FORMAT.md, section 5.

mod support;

use matryo::testing::Folder;
use matryo::{Collection, CopyOptions, Error, Funnel, Options, RepairOptions, Result, json};
use support::forge::{field, reseal_all};
use support::{DIMS, crc32, files, folder_of, read_only, schema, sure_answers, vector};

/// Two segments that keep their logs, one with tombstones and one with a graph; rows in a log
/// that was not closed.
fn sample() -> Folder {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new()).expect("create");
    let put = |ids: std::ops::Range<u64>| {
        let mut batch = collection.batch();
        for id in ids {
            batch.upsert(id, &vector(id, DIMS), json!({"n": id})).expect("a row");
        }
        batch.commit().expect("commit");
    };
    put(0..40);
    collection.build_graphs().expect("build");
    put(30..60);
    collection.flush().expect("flush");
    put(60..64);
    let left = folder.fork();
    let kinds: Vec<_> = left.names().iter().map(|name| name[..3].to_owned()).collect();
    assert_eq!(kinds, ["MAN", "del", "gra", "seg", "seg", "wal", "wal", "wal"]);
    left
}

/// The folder with other bytes in the header of a file, and every checksum right.
fn with(folder: &Folder, name: &str, at: &str, value: u8) -> Folder {
    let change = |(file, mut bytes): (String, Vec<u8>)| {
        if file == name {
            bytes[field("file_header", at).start] = value;
            let sum = crc32(&bytes[..60]).to_le_bytes();
            bytes[60..64].copy_from_slice(&sum);
        }
        (file, bytes)
    };
    let all = files(folder).into_iter().map(change);
    // Resealing does not know graphs, and these vouch for themselves.
    let (graphs, mut others): (Vec<_>, Vec<_>) = all.partition(|f| f.0.starts_with("gra-"));
    reseal_all(&mut others);
    others.extend(graphs);
    folder_of(&others)
}

fn unsupported<T>(result: Result<T>, what: &str) {
    let error = result.err();
    assert!(matches!(error, Some(Error::UnsupportedFormat { .. })), "{what}: {error:?}");
}

/// All that changes a collection, or makes another from it.
fn changes(folder: &Folder, what: &str) {
    unsupported(folder.open(Options::new()), what);
    unsupported(folder.repair(&RepairOptions::new()), what);
    unsupported(folder.drop_tier(&CopyOptions::new().dims(16), &|_| true), what);
}

/// It is read and written as if nothing were there that this version does not know.
fn is_used(folder: &Folder, answers: &[u64], what: &str) {
    let reader = folder.open(read_only()).expect(what);
    assert_eq!(sure_answers(&reader), answers, "{what}");
    let collection = folder.open(Options::new()).expect(what);
    assert_eq!(sure_answers(&collection), answers, "{what}");
    collection.verify().expect(what);
    let copy = Folder::default();
    copy.back_up(&collection, &|_| true).expect(what);
    assert_eq!(sure_answers(&copy.open(read_only()).expect(what)), answers, "{what}");
    collection.upsert(500, &vector(500, DIMS), ()).expect(what);
    collection.flush().expect(what);
    assert!(reader.refresh().expect(what), "{what}");
    assert_eq!(reader.len(), collection.len());
    collection.compact().expect(what);
    drop(collection);
    assert!(folder.repair(&RepairOptions::new()).expect(what).was_intact(), "{what}");
    folder.open(Options::new()).expect(what).verify().expect(what);
}

#[test]
fn higher_minor_versions_and_compatible_flags_change_nothing() {
    let folder = sample();
    let answers = sure_answers(&folder.open(read_only()).expect("open"));
    for name in folder.names() {
        for (at, value) in [("MINOR", 7), ("COMPATIBLE", 1), ("COMPATIBLE", 0x80)] {
            is_used(&with(&folder, &name, at, value), &answers, &format!("{name} {at} {value}"));
        }
        // These count in the manifest, for all files.
        if name != "MANIFEST" {
            is_used(&with(&folder, &name, "READ_ONLY", 1), &answers, &format!("{name} READ_ONLY"));
        }
    }
}

#[test]
fn read_only_flags_let_it_read_and_nothing_else() {
    let folder = sample();
    let answers = sure_answers(&folder.open(read_only()).expect("open"));
    for value in [1, 0x80] {
        let later = with(&folder, "MANIFEST", "READ_ONLY", value);
        let before = files(&later);
        changes(&later, "read-only");
        let reader = later.open(read_only()).expect("may be read");
        assert_eq!(sure_answers(&reader), answers);
        reader.verify().expect("every byte is checked");
        assert!(!reader.refresh().expect("nothing new"));
        unsupported(Folder::default().back_up(&reader, &|_| true), "a backup");
        let refused = reader.upsert(1, &vector(1, DIMS), ()).expect_err("read-only");
        assert!(matches!(refused, Error::ReadOnly { .. }), "{refused}");
        assert_eq!(files(&later), before, "left alone");
    }
}

#[test]
fn incompatible_flags_and_major_versions_are_refused_by_all_and_left_alone() {
    let folder = sample();
    for name in folder.names().into_iter().filter(|name| !name.starts_with("gra-")) {
        for (at, value) in [("INCOMPATIBLE", 1), ("INCOMPATIBLE", 0x80), ("MAJOR", 2), ("MAJOR", 0)]
        {
            let what = format!("{name} {at} {value}");
            let later = with(&folder, &name, at, value);
            let before = files(&later);
            changes(&later, &what);
            unsupported(later.open(read_only()), &what);
            assert_eq!(files(&later), before, "{what}");
        }
    }
}

#[test]
fn graphs_of_later_versions_are_done_without() {
    let folder = sample();
    let answers = sure_answers(&folder.open(read_only()).expect("open"));
    let name = folder.names().into_iter().find(|name| name.starts_with("gra-")).expect("one");
    for at in ["INCOMPATIBLE", "MAJOR"] {
        let later = with(&folder, &name, at, 2);
        for options in [read_only(), Options::new()] {
            let collection = later.open(options).expect(at);
            assert_eq!(sure_answers(&collection), answers, "{at}");
            let told = collection.info().expect("info").graph_errors;
            assert!(told.len() == 1 && told[0].contains("use a newer matryo"), "{told:?}");
            let walk = collection.search(&vector(1, DIMS)).funnel(Funnel::graph(60, [])).run();
            assert!(walk.expect("scans").explain.stages[0].name.starts_with("scan"), "{at}");
            unsupported(collection.verify(), at);
            let copied = Folder::default().back_up(&collection, &|_| true).expect("backup");
            assert_eq!(copied.graphs_left_out, 1);
        }
        // Repair leaves it to whoever can read it.
        let kept = later.read(&name);
        assert!(later.repair(&RepairOptions::new()).expect("repair").was_intact(), "{at}");
        assert_eq!(later.read(&name), kept);
        let collection = later.open(Options::new()).expect("open");
        collection.build_graphs().expect("build");
        collection.verify().expect("whole again");
    }
}

/// As a writer of a later version leaves one that it was stopped at.
#[test]
fn leftover_graphs_of_later_versions_are_removed_as_any_other() {
    let folder = sample();
    let answers = sure_answers(&folder.open(read_only()).expect("open"));
    let name = folder.names().into_iter().find(|name| name.starts_with("gra-")).expect("one");
    for at in ["INCOMPATIBLE", "MAJOR"] {
        let (left, stray) = (folder.fork(), "gra-0000000077");
        let later = with(&folder, &name, at, 2).read(&name).expect("there");
        left.write(stray, later);
        is_used(&left, &answers, at);
        assert!(!left.names().iter().any(|name| name == stray), "{at}");
    }
}

/// A later version takes the collection over while somebody reads it.
#[test]
fn a_reader_keeps_what_it_has_when_a_later_version_takes_over() {
    let folder = sample();
    let reader: Collection = folder.open(read_only()).expect("open");
    let answers = sure_answers(&reader);
    let next = |at: &str, generation: u8| {
        let mut manifest = folder.read("MANIFEST").expect("there");
        manifest[field("file_header", "GENERATION").start] += generation;
        let newer = folder.fork();
        newer.write("MANIFEST", manifest);
        with(&newer, "MANIFEST", at, 1).read("MANIFEST").expect("there")
    };
    let old = folder.read("MANIFEST").expect("there");
    folder.write("MANIFEST", next("INCOMPATIBLE", 1));
    unsupported(reader.refresh(), "incompatible");
    assert_eq!(sure_answers(&reader), answers, "as before");
    folder.write("MANIFEST", old);
    folder.write("MANIFEST", next("READ_ONLY", 2));
    assert!(reader.refresh().expect("may be read"));
    assert_eq!(sure_answers(&reader), answers);
}

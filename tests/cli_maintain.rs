//! `matryo backup`, `copy`, `drop-tier`, `compact`, `calibrate` and `repair` as a script meets them.
#![cfg(feature = "cli")]

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use matryo::{Collection, FieldKind, IdKind, Options, Precision, Schema, json};
use serde_json::Value;

type Done = Result<(), Box<dyn std::error::Error>>;

const DIMS: usize = 24;

/// One test at a time: a child that another test starts holds our locks too, from
/// its fork until it runs the program.
static ALONE: Mutex<()> = Mutex::new(());

struct Place(tempfile::TempDir, #[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Place {
    /// A folder with the collection `a`: two segments, one of them with dead rows.
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Self(tempfile::tempdir()?, alone);
        let schema = Schema::builder(DIMS).granularities([8]).build()?;
        let options = Options::new().background(false);
        let collection = Collection::create_with(place.at("a"), schema, options)?;
        for ids in [0..300, 290..500] {
            let mut batch = collection.batch();
            for id in ids {
                let vector: Vec<f32> =
                    (1..=DIMS).map(|d| ((id + 3) * d as u64 % 17 + 1) as f32).collect();
                batch.upsert(id, &vector, json!({"n": id}))?;
            }
            batch.commit()?;
            collection.flush()?;
        }
        Ok(place)
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// Exit code, stdout, stderr.
    fn run(&self, args: &str) -> (i32, String, String) {
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_matryo")));
        let output = command.args(args.split_whitespace()).current_dir(self.0.path()).output();
        let output = output.expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let code = output.status.code().expect("no signal");
        (code, text(output.stdout), text(output.stderr))
    }

    fn json(&self, args: &str) -> Value {
        let (code, out, err) = self.run(&format!("{args} --json"));
        assert_eq!((code, err.as_str()), (0, ""), "{args}");
        serde_json::from_str(&out).expect("JSON")
    }

    fn fails(&self, args: &str) -> String {
        let (code, out, err) = self.run(args);
        let expected = if err.contains("is damaged at byte") { 3 } else { 1 };
        assert_eq!((code, out.as_str()), (expected, ""), "{args}: {err}");
        assert!(err.starts_with("error: "), "{err}");
        err
    }

    fn segment(&self, dir: &str) -> std::path::PathBuf {
        let entries = std::fs::read_dir(self.at(dir)).expect("is there").flatten();
        let mut names: Vec<_> = entries.map(|e| e.path()).collect();
        names.sort();
        let name = |path: &&std::path::PathBuf| path.to_string_lossy().contains("/seg-");
        names.iter().find(name).expect("a segment").clone()
    }
}

#[test]
fn backup_copies_a_collection_once() -> Done {
    let place = Place::new()?;
    let report = place.json("backup a b");
    assert_eq!((&report["rows"], &report["files"]), (&json!(500), &json!(6)));
    assert!(place.run("verify b").1.contains("damaged"));
    assert_eq!(
        Collection::open(place.at("b"))?.get(295)?,
        Collection::open(place.at("a"))?.get(295)?
    );
    assert!(place.fails("backup a b").contains("already exists"));
    assert!(place.fails("backup nothing c").contains("nothing does not exist"));
    assert!(!place.at("c").exists());
    Ok(())
}

#[test]
fn copy_makes_a_smaller_collection() -> Done {
    let place = Place::new()?;
    let report = place.json("copy a b --dims 8 --stored f16");
    assert_eq!((&report["rows"], &report["skipped"]), (&json!(500), &json!(0)));
    let info = place.json("info b");
    assert_eq!((&info["dims"], &info["stored"]), (&json!(8), &json!("f16")));
    assert_eq!(info["granularities"], json!([8]));
    let (a, b) = (Collection::open(place.at("a"))?, Collection::open(place.at("b"))?);
    assert_eq!(b.schema().stored(), Precision::F16);
    assert_eq!(a.get(77)?.expect("row").vector[..8], b.get(77)?.expect("row").vector);
    drop(a);
    assert!(place.fails("copy a c --dims 25").contains("expected 1 to 24"));
    // Payloads are {"n": id}.
    assert_eq!(place.json("copy a c --field n:integer --field x:float[]")["rows"], json!(500));
    let info = place.json("info c");
    assert_eq!(info["fields"][0], json!({"name": "n", "kind": "integer", "list": false}));
    assert_eq!(info["fields"][1], json!({"name": "x", "kind": "float", "list": true}));
    assert_eq!(Collection::open(place.at("c"))?.count(&"n < 7".parse()?)?, 7);
    let wrong = place.fails("copy a d --field n:keyword");
    assert!(wrong.contains("row 0 does not fit") && wrong.contains("field n (keyword)"), "{wrong}");
    assert!(!place.at("d").exists());
    assert!(place.fails("copy c d --field n:integer").contains("declared twice"));
    assert_eq!(place.run("copy a d --field n:number").0, 2);
    Ok(())
}

#[test]
fn drop_tier_wants_to_be_told_twice() -> Done {
    let place = Place::new()?;
    let (code, _, err) = place.run("drop-tier a --dims 8");
    assert!(code == 2 && err.contains("--yes"), "{err}");
    assert_eq!(place.run("drop-tier a --yes").0, 2, "drops what?");
    assert_eq!(place.json("info a")["dims"], json!(24));
    let report = place.json("drop-tier a --dims 8 --yes");
    assert_eq!(report["rows"], json!(500));
    assert_eq!(place.json("info a")["dims"], json!(8));
    assert_eq!(place.json("verify a")["damaged"], json!(false));
    Ok(())
}

#[test]
fn compact_merges_and_reclaims() -> Done {
    let place = Place::new()?;
    let report = place.json("compact a");
    let merged =
        (&report["segments_merged"], &report["rows_copied"], &report["dead_rows_reclaimed"]);
    assert_eq!(merged, (&json!(2), &json!(500), &json!(10)));
    assert!(report["disk_bytes"].as_u64() < report["disk_bytes_before"].as_u64());
    assert_eq!(place.json("info a")["segments"], json!(1));
    assert_eq!(place.json("compact a")["segments_merged"], json!(0));
    Ok(())
}

#[test]
fn calibrate_prints_the_plans_and_keeps_them() -> Done {
    let place = Place::new()?;
    let report = place.json("calibrate a");
    assert_eq!(
        report["queries"],
        report["rows"].as_u64().map(|rows| json!((rows / 2).min(300))).unwrap()
    );
    assert!(report["plans"].as_array().is_some_and(|lines| lines.len() > 3), "{report}");
    assert!(Collection::open(place.at("a"))?.calibration().is_some());
    Ok(())
}

#[test]
fn repair_says_what_it_did_and_keeps_the_evidence() -> Done {
    let place = Place::new()?;
    assert_eq!(place.json("repair a")["damaged"], json!(false));
    let path = place.segment("a");
    let mut bytes = std::fs::read(&path)?;
    // Behind header, kept logs and two pages of places (the vectors are in a log), ids, order and
    // norms: the first stage code.
    bytes[4096 * 7 + 9] ^= 1;
    std::fs::write(&path, &bytes)?;
    let (code, ..) = place.run("info a");
    assert_eq!(code, 3, "it does not open");
    let report = place.json("repair a");
    assert_eq!((&report["damaged"], &report["rows_lost"]), (&json!(true), &json!(0)));
    assert_eq!((&report["rows"], &report["segments_rebuilt"]), (&json!(500), &json!(1)));
    let kept = report["kept"][0].as_str().expect("a path");
    assert_eq!(std::fs::read(place.at(kept))?, bytes);
    assert_eq!(place.json("verify a")["damaged"], json!(false));
    assert_eq!(place.json("repair a")["damaged"], json!(false));
    // Without its manifest it needs the schema.
    std::fs::remove_file(place.at("a").join("MANIFEST"))?;
    assert!(place.fails("repair a").contains("repair with the schema"));
    let report = place.json("repair a --dims 24 --granularities 8");
    assert_eq!((&report["rows"], &report["rows_lost"]), (&json!(500), &json!(0)));
    assert_eq!(place.run("repair a --metric l2").0, 2, "only with --dims");
    Ok(())
}

#[test]
fn repair_without_a_manifest_takes_declared_fields() -> Done {
    let place = Place::new()?;
    let schema = Schema::builder(2).field("n", FieldKind::Integer);
    let schema = schema.list_field("meta.tags", FieldKind::Keyword).build()?;
    let options = Options::new().background(false);
    let collection = Collection::create_with(place.at("b"), schema.clone(), options)?;
    for n in 0..9 {
        collection.upsert(n, &[1.0, n as f32], json!({"n": n, "meta": {"tags": ["x"]}}))?;
    }
    collection.flush()?;
    drop(collection);
    std::fs::remove_file(place.at("b").join("MANIFEST"))?;
    let fields = "--field n:integer --field meta.tags:keyword[]";
    assert_eq!(place.run(&format!("repair b {fields}")).0, 2, "only with --dims");
    for wrong in ["n", "n:int", "n:integer()"] {
        assert_eq!(place.run(&format!("repair b --dims 2 --field {wrong}")).0, 2, "{wrong}");
    }
    let report = place.json(&format!("repair b --dims 2 {fields}"));
    assert_eq!((&report["rows"], &report["rows_lost"]), (&json!(9), &json!(0)));
    let collection = Collection::open(place.at("b"))?;
    assert_eq!(collection.schema(), &schema);
    assert_eq!(collection.count(&"n >= 5 AND meta.tags = 'x'".parse()?)?, 4);
    Ok(())
}

/// The program as people read it: a line for each figure.
#[test]
fn reports_are_tables_for_people() -> Done {
    let place = Place::new()?;
    for (command, says) in [
        ("backup a b", &["rows", "500", "files", "disk bytes", "seconds"][..]),
        ("copy a c --dims 8", &["rows", "500", "skipped", "0"]),
        ("calibrate a", &["rows", "500", "queries", "250", "plans:", "recall"]),
        ("compact a", &["segments merged", "2", "dead rows reclaimed", "10"]),
        ("drop-tier a --dims 8 --yes", &["rows", "500"]),
        ("repair a", &["damaged", "no", "rows", "500", "rows lost", "0"]),
    ] {
        let (code, out, err) = place.run(command);
        assert_eq!((code, err.as_str()), (0, ""), "{command}");
        assert!(out.lines().count() >= 4, "{command}: {out}");
        for word in says {
            assert!(out.contains(word), "{command}: {word} in {out}");
        }
        assert!(!out.contains('{'), "{command}: {out}");
    }
    // What is damaged, and where its copy is, in lines of their own.
    let path = place.segment("a");
    let mut bytes = std::fs::read(&path)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes)?;
    let (code, out, _) = place.run("repair a");
    assert_eq!(code, 0);
    assert!(out.contains("damage:\n  ") && out.contains("copies of damaged files:\n  "), "{out}");
    Ok(())
}

#[test]
fn rows_whose_payload_is_lost_are_kept_on_request() -> Done {
    for keep in [false, true] {
        let place = Place::new()?;
        // Into segments without logs, which would have the payloads, too.
        place.json("compact a");
        let path = place.segment("a");
        let mut bytes = std::fs::read(&path)?;
        let payload = bytes.windows(5).position(|w| w == b"{\"n\":").expect("payloads");
        bytes[payload + 5] ^= 1;
        std::fs::write(&path, bytes)?;
        let report = place.json(if keep { "repair a --keep-without-payload" } else { "repair a" });
        let (lost, without) = (&report["rows_lost"], &report["payloads_lost"]);
        assert!(
            (lost.as_u64() == Some(0)) == keep && (without.as_u64() > Some(0)) == keep,
            "{report}"
        );
        assert_eq!(report["rows"].as_u64() == Some(500), keep, "{report}");
    }
    Ok(())
}

#[test]
fn repair_without_a_manifest_takes_string_ids() -> Done {
    let place = Place::new()?;
    let schema = Schema::builder(2).ids(IdKind::Str).build()?;
    let collection = Collection::create_with(place.at("b"), schema, Options::new())?;
    (0..9).try_for_each(|n| collection.upsert(format!("row {n}"), &[1.0, n as f32], ()))?;
    collection.flush()?;
    drop(collection);
    std::fs::remove_file(place.at("b").join("MANIFEST"))?;
    assert_eq!(place.run("repair b --string-ids").0, 2, "only with --dims");
    let report = place.json("repair b --dims 2 --string-ids");
    assert_eq!((&report["rows"], &report["rows_lost"]), (&json!(9), &json!(0)));
    assert!(Collection::open(place.at("b"))?.get("row 7")?.is_some());
    Ok(())
}

#[test]
fn calibrate_takes_queries_and_drop_tier_a_precision_alone() -> Done {
    let place = Place::new()?;
    let text = "{'descr': '<f4', 'fortran_order': False, 'shape': (40, 24), }\n";
    let data: Vec<u8> =
        (0..40 * DIMS).flat_map(|n| ((n * n % 31) as f32 - 15.0).to_le_bytes()).collect();
    let length = (text.len() as u16).to_le_bytes();
    let npy = [b"\x93NUMPY\x01\x00", length.as_slice(), text.as_bytes(), &data].concat();
    std::fs::write(place.at("q.npy"), npy)?;
    let report = place.json("calibrate a --vectors q.npy");
    assert_eq!((&report["rows"], &report["queries"]), (&json!(500), &json!(40)));
    assert!(place.fails("calibrate a --vectors none.npy").contains("none.npy: cannot open"));
    let before = place.json("info a");
    let report = place.json("drop-tier a --stored f16 --yes");
    assert_eq!(report["rows"], json!(500));
    let after = place.json("info a");
    assert_eq!((&after["dims"], &after["stored"]), (&json!(24), &json!("f16")));
    assert!(after["disk_bytes"].as_u64() < before["disk_bytes"].as_u64(), "{after}");
    Ok(())
}

#[test]
fn a_collection_that_another_process_writes_to_is_left_alone() -> Done {
    let place = Place::new()?;
    let writer = Collection::open(place.at("a"))?;
    for command in ["compact a", "calibrate a", "repair a", "drop-tier a --dims 8 --yes"] {
        let error = place.fails(command);
        assert!(error.contains("another handle or process"), "{command}: {error}");
    }
    // Reading takes no lock.
    assert_eq!(place.json("info a")["rows"], json!(500));
    assert_eq!(place.json("backup a b")["rows"], json!(500));
    writer.upsert(1000, &[1.0; DIMS], ())?;
    drop(writer);
    assert_eq!(place.json("compact a")["rows_copied"], json!(501));
    Ok(())
}

#[test]
fn every_command_has_an_example() -> Done {
    let place = Place::new()?;
    let (code, all, _) = place.run("--help");
    assert_eq!(code, 0);
    let listed = all.split("Commands:\n").nth(1).expect("a list").split("\n\n").next();
    let commands = listed.expect("lines").lines().filter_map(|l| l.split_whitespace().next());
    let commands: Vec<_> = commands.filter(|command| *command != "help").collect();
    assert!(commands.len() >= 11, "{commands:?}");
    for command in commands {
        let (code, help, _) = place.run(&format!("{command} --help"));
        assert_eq!(code, 0, "{command}");
        let example = help.split("Example").nth(1).unwrap_or_default();
        assert!(example.contains(&format!("  matryo {command} ")), "{command}: {help}");
    }
    Ok(())
}

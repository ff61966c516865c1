//! `reader.py`, made from FORMAT.md alone, finds what the library finds: ids,
//! vectors, payloads and neighbours. Without python3 this is not known.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use matryo::{
    Collection, FieldKind, IdKind, Metric, Options, Precision, RowId, Schema, Value, json,
};
use support::{read_only, vector};

type Done = Result<(), Box<dyn std::error::Error>>;

/// What the reader says: its lines, or what it wrote to stderr. None without python3.
fn read(args: &[&str]) -> Option<Result<Vec<Value>, String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/reader.py");
    let Ok(output) = Command::new("python3").arg(script).args(args).output() else {
        println!("python3 is not there: the independent reader was not run");
        return None;
    };
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    if !output.status.success() {
        return Some(Err(text(output.stderr)));
    }
    let lines = text(output.stdout);
    Some(Ok(lines.lines().map(|line| line.parse().expect("JSON")).collect()))
}

fn id_json(id: &RowId) -> Value {
    id.into()
}

/// Compares the reader with the library on one folder.
fn compare(path: &Path) -> Done {
    let folder = path.to_str().expect("UTF-8");
    let Some(rows) = read(&[folder]) else { return Ok(()) };
    let rows = rows?;
    // The library reads a copy: it wants a lock file.
    let copy = tempfile::tempdir()?;
    for entry in fs::read_dir(path)?.flatten() {
        fs::copy(entry.path(), copy.path().join(entry.file_name()))?;
    }
    fs::write(copy.path().join("LOCK"), "")?;
    let collection = Collection::open_with(copy.path(), read_only())?;
    let mut expected: Vec<_> = collection.snapshot().iter().collect::<Result<_, _>>()?;
    expected.sort_by(|a, b| a.id.cmp(&b.id));
    assert_eq!(rows.len(), expected.len(), "{folder}");
    for (line, row) in rows.iter().zip(&expected) {
        assert_eq!((&line["id"], &line["payload"]), (&id_json(&row.id), &json!(row.payload)));
        let vector: Vec<_> = row.vector.iter().map(|v| json!(f64::from(*v))).collect();
        assert_eq!(line["vector"], json!(vector), "{folder}: {}", row.id);
    }
    let dims = collection.schema().dims();
    for (seed, dims) in [(1, dims), (2, dims), (3, dims.div_ceil(3))] {
        let query = vector(seed, dims);
        let json = serde_json::to_string(&query)?;
        let nearest = read(&[folder, &json, "12"]).expect("it ran before")?;
        let found = collection.search(&query).dims(dims).exact().limit(12).run()?.hits;
        assert_eq!(nearest.len(), found.len());
        for (line, hit) in nearest.iter().zip(&found) {
            assert_eq!(line["id"], id_json(&hit.id), "{folder}: query {seed}");
            let score = line["score"].as_f64().expect("a number");
            assert!((score - f64::from(hit.score)).abs() <= 1e-6 * score.abs().max(1.0));
        }
    }
    Ok(())
}

#[test]
fn golden_folders_read_alike() -> Done {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut folders = 0;
    for version in fs::read_dir(golden)?.flatten().filter(|e| e.path().is_dir()) {
        for entry in fs::read_dir(version.path())?.flatten().filter(|e| e.path().is_dir()) {
            compare(&entry.path())?;
            folders += 1;
        }
    }
    assert!(folders >= 5, "{folders} folders");
    Ok(())
}

#[test]
fn fresh_folders_read_alike_and_damaged_ones_are_refused() -> Done {
    for (n, metric) in Metric::ALL.into_iter().enumerate() {
        let dir = tempfile::tempdir()?;
        let stored = Precision::ALL[n];
        let ids = if n == 1 { IdKind::Str } else { IdKind::U64 };
        let mut schema = Schema::builder(40).metric(metric).stored(stored).ids(ids);
        if n > 0 {
            schema = schema.field("n", FieldKind::Integer).list_field("t", FieldKind::Keyword);
        }
        let schema = schema.build()?;
        let options = Options::new().background(false);
        let collection = Collection::create_with(dir.path(), schema, options)?;
        let id = |n: u64| match ids {
            IdKind::U64 => RowId::U64(n),
            IdKind::Str => RowId::from(format!("id \u{e9} {n}")),
        };
        for ids in [0..700, 600..900, 880..950] {
            let mut batch = collection.batch();
            for n in ids {
                let payload = if n % 5 == 0 {
                    json!(null)
                } else {
                    json!({"n": n, "t": ["z".repeat(n as usize % 90)]})
                };
                batch.upsert(id(n), &vector(n, 40), payload)?;
            }
            batch.delete(id(17))?;
            batch.commit()?;
            if collection.len() < 900 {
                collection.flush()?;
            }
        }
        drop(collection);
        compare(dir.path())?;
        for entry in fs::read_dir(dir.path())?.flatten() {
            // Nobody reads these two.
            if ["LOCK", "RESERVE"].iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let good = fs::read(entry.path())?;
            let mut bad = good.clone();
            let at = bad.len() / 3;
            bad[at] ^= 4;
            fs::write(entry.path(), bad)?;
            let folder = dir.path().to_str().expect("UTF-8");
            let refused =
                read(&[folder]).is_none_or(|said| said.is_err_and(|e| e.starts_with("damaged")));
            assert!(refused, "{}", entry.path().display());
            fs::write(entry.path(), good)?;
        }
    }
    Ok(())
}

//! `matryo search` and the files and pipes beside it.
#![cfg(feature = "cli")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use matryo::{Collection, Metric, Schema};

type Done = Result<(), Box<dyn std::error::Error>>;

/// A folder with the collection `c`, of two vectors of one number.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let place = Self(tempfile::tempdir()?);
        let schema = Schema::builder(1).metric(Metric::Dot).build()?;
        let collection = Collection::create(place.at("c"), schema)?;
        collection.upsert(1, &[1.0], ())?;
        collection.upsert(2, &[2.0], ())?;
        Ok(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn queries(&self, name: &str, values: &[f32]) -> std::io::Result<()> {
        let shape = format!("({}, 1)", values.len());
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let length = (text.len() as u16).to_le_bytes();
        let bytes = [b"\x93NUMPY\x01\x00", length.as_slice(), text.as_bytes(), &data].concat();
        std::fs::write(self.at(name), bytes)
    }

    fn search(&self, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_matryo"));
        command.args(["search", "c", "--vectors"]).args(args.split_whitespace());
        command.current_dir(self.0.path());
        command
    }
}

fn error(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn no_output_takes_the_place_of_another_file() -> Done {
    let place = Place::new()?;
    place.queries("v.npy", &[1.0, 2.0])?;
    std::fs::create_dir(place.at("d"))?;
    std::os::unix::fs::symlink("v.npy", place.at("link.npy"))?;
    let before = std::fs::read(place.at("v.npy"))?;
    for (files, words) in [
        ("v.npy --out o.npy --scores o.npy", "--out and --scores"),
        ("v.npy --out o.npy --scores ./o.npy", "--out and --scores"),
        ("v.npy --out d/../o.npy --scores o.npy", "--out and --scores"),
        ("v.npy --out v.npy", "--vectors and --out"),
        ("link.npy --out v.npy", "--vectors and --out"),
        ("d/../v.npy --out o.npy --scores v.npy", "--vectors and --scores"),
    ] {
        let output = place.search(files).output()?;
        let error = error(&output);
        assert_eq!(output.status.code(), Some(1), "{files}: {error}");
        assert!(error.contains(words) && error.contains("the same file"), "{files}: {error}");
    }
    assert!(!place.at("o.npy").exists());
    assert_eq!(std::fs::read(place.at("v.npy"))?, before);
    let output = place.search("v.npy --out d/v.npy --scores o.npy").output()?;
    assert!(output.status.success(), "{}", error(&output));
    Ok(())
}

/// As in `matryo search .. | head`: the last query, in another batch than the first, is an error
/// that nobody waits for.
#[test]
fn a_search_ends_when_nobody_reads_on() -> Done {
    let place = Place::new()?;
    let mut queries = [1.0; 300];
    queries[299] = f32::NAN;
    place.queries("q.npy", &queries)?;
    let whole = place.search("q.npy").output()?;
    assert!(error(&whole).contains("query 299"), "{}", error(&whole));
    let mut child = place.search("q.npy").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    drop(child.stdout.take());
    let output = child.wait_with_output()?;
    let error = error(&output);
    assert!(output.status.success() && error.is_empty(), "{}: {error}", output.status);
    Ok(())
}

//! A model directory with changed files: whatever it says, reading it as far as
//! ONNX Runtime ends in an error that names a file, or in token ids.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use matryo::Error;
use matryo::testing::read_model_directory;

use super::input::{Input, edit};

type Files = Vec<(String, Vec<u8>)>;

const NUMBERS: [u64; 8] = [0, 1, 9, 0x2c30, 1 << 31, u32::MAX as u64, 1 << 62, u64::MAX];

/// Values to put in the place of a JSON number.
const VALUES: [&str; 12] = [
    "-1",
    "0",
    "1",
    "4294967296",
    "18446744073709551615",
    "1e300",
    "null",
    "true",
    "\"\"",
    "[]",
    "{}",
    "[[[[[[]]]]]]",
];

fn read(root: &Path, below: &str, into: &mut Files) {
    for entry in fs::read_dir(root.join(below)).expect("fixtures").flatten() {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            read(root, &format!("{name}/"), into);
        } else {
            into.push((name, fs::read(entry.path()).expect("fixtures")));
        }
    }
    into.sort();
}

/// The fixtures of `tests/embed`; one with a `Dense` module added, one without a
/// graph but with a table, and with what an image model says of its pictures.
fn samples() -> &'static [Files; 4] {
    static SAMPLES: OnceLock<[Files; 4]> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let root = [here.join("tests"), here.join("../tests")].into_iter().find(|p| p.is_dir());
        let root: PathBuf = root.expect("there are tests").join("fixtures");
        let load = |name| {
            let mut files = Vec::new();
            read(&root.join(name), "", &mut files);
            files
        };
        let mut with_dense = load("models/tokens");
        let dense =
            load("models/dense").into_iter().map(|(name, b)| (format!("2_Dense/{name}"), b));
        with_dense.extend(dense);
        let modules = with_dense.iter_mut().find(|f| f.0 == "modules.json").expect("there");
        let kind = "sentence_transformers.models.Dense";
        let more = format!(r#", {{"idx": 2, "name": "2", "path": "2_Dense", "type": "{kind}"}}]"#);
        let text = String::from_utf8_lossy(&modules.1).trim_end().trim_end_matches(']').to_owned();
        modules.1 = (text + &more).into_bytes();
        let mut table = load("families/model2vec");
        table.retain(|(name, _)| name != "expected.json");
        let pictures = "preprocessor_config.json";
        let file = fs::read(root.join("images/clip").join(pictures)).expect("fixtures");
        table.push((pictures.into(), file));
        let samples = [load("models/static"), load("models/tokens"), with_dense, table];
        for sample in &samples {
            read_model_directory(write(sample).path(), &["a few words"]).expect("it is sound");
        }
        samples
    })
}

fn write(files: &Files) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temporary folder");
    for (name, bytes) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("in a folder")).expect("made");
        fs::write(path, bytes).expect("written");
    }
    dir
}

pub(super) fn tokenizer_dir(data: &[u8]) {
    let mut input = Input(data);
    let mut files = samples()[input.below(4)].clone();
    let edits = input.below(5);
    for _ in 0..edits {
        let at = input.below(files.len());
        match input.below(8) {
            0 if files.len() > 1 => drop(files.remove(at)),
            1 => {
                let other = files[input.below(files.len())].1.clone();
                files[at].1 = other;
            }
            2..6 => replace_value(&mut input, &mut files[at].1),
            _ => edit(&mut input, &mut files[at].1, &NUMBERS),
        }
    }
    let dir = write(&files);
    let text = String::from_utf8_lossy(input.0).into_owned();
    match read_model_directory(dir.path(), &["a few words", &text]) {
        Ok(_) | Err(Error::Model { .. }) => {}
        Err(e) => panic!("{e:?}"),
    }
}

/// Puts another value in the place of some JSON scalar.
fn replace_value(input: &mut Input, bytes: &mut Vec<u8>) {
    let starts: Vec<usize> = (1..bytes.len())
        .filter(|at| matches!(bytes[at - 1], b':' | b' ' | b'[' | b',' | b'"'))
        .collect();
    if starts.is_empty() {
        return;
    }
    let start = starts[input.below(starts.len())];
    let ends = |b: &u8| matches!(b, b',' | b'}' | b']' | b'\n' | b'"');
    let len = bytes[start..].iter().position(ends).unwrap_or(0);
    let value = input.pick(&VALUES);
    bytes.splice(start..start + len, value.bytes());
}

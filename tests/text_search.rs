//! The example `text_search`, run on small folders: what it indexes, and what it
//! leaves alone the second time.

#![cfg(feature = "embed")]

use std::env;
use std::fs;
use std::path::Path;

#[path = "../examples/text_search/main.rs"]
#[expect(dead_code, reason = "main itself is not called")]
mod example;

/// Whether ONNX Runtime is here; fetches it once if that is allowed.
fn ready() -> bool {
    match matryo::embed::runtime::locate_or_install() {
        Ok(_) => true,
        Err(e) if env::var_os("MATRYO_OFFLINE").is_some() => {
            eprintln!("SKIPPED, the example text_search is not tested: {e}");
            false
        }
        Err(e) => panic!("{e}"),
    }
}

/// Runs the example on a folder and returns what it printed.
fn run(dir: &Path, out: &Path, more: &[&str]) -> Result<String, String> {
    let mut printed = Vec::new();
    let fixed = ["--dir".into(), dir.into(), "--out".into(), out.into()];
    let words = fixed.into_iter().chain(more.iter().map(Into::into));
    example::run(words, &mut printed).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(printed).expect("UTF-8"))
}

fn files_line(printed: &str) -> &str {
    printed.lines().find_map(|line| line.strip_prefix("files: ")).expect("a line about files")
}

/// Three files with passages, and others that are to be left out.
fn folder(dir: &Path) {
    let map =
        "/// Maps a file into memory, so that its bytes are read on demand.\npub fn map() {}\n";
    fs::write(dir.join("map.rs"), map).unwrap();
    let locks = "# Locks\n\nA lock keeps two threads from writing the same data at one time.\n";
    fs::write(dir.join("locks.md"), locks).unwrap();
    fs::create_dir(dir.join("sub")).unwrap();
    let sums = "A checksum tells whether the bytes of a file were damaged on the way.\n";
    fs::write(dir.join("sub/sums.txt"), sums).unwrap();
    fs::write(dir.join("latin1.txt"), b"caf\xe9 and other words that are not UTF-8").unwrap();
    fs::write(dir.join("short.md"), "Too short.\n").unwrap();
    fs::write(dir.join("data.bin"), [0; 100]).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir, dir.join("sub/loop")).unwrap();
}

#[test]
fn a_second_run_embeds_only_what_changed() {
    if !ready() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (dir, out) = (temp.path().join("text"), temp.path().join("index.matryo"));
    fs::create_dir(&dir).unwrap();
    folder(&dir);
    let ask = ["--query", "map a file into memory"];

    let first = run(&dir, &out, &ask).unwrap();
    assert!(files_line(&first).starts_with("0 unchanged, 3 new, 0 changed, 0 gone; 1"), "{first}");
    assert!(first.contains("skipped: 1 not UTF-8 text, 1 symbolic links"), "{first}");
    assert!(first.contains("map.rs:1  map"), "{first}");
    assert!(first.contains("found 3 of the true top 3"), "{first}");

    let second = run(&dir, &out, &ask).unwrap();
    assert!(files_line(&second).starts_with("3 unchanged, 0 new, 0 changed, 0 gone"), "{second}");
    assert!(second.contains("nothing to embed"), "{second}");

    fs::write(dir.join("map.rs"), "/// Sorts a list of numbers in ascending order.\nfn s() {}\n")
        .unwrap();
    fs::remove_file(dir.join("locks.md")).unwrap();
    fs::write(dir.join("new.txt"), "A file that was not there when we looked before.").unwrap();
    let third = run(&dir, &out, &["--query", "sort numbers"]).unwrap();
    assert!(files_line(&third).starts_with("1 unchanged, 1 new, 1 changed, 1 gone"), "{third}");
    assert!(third.contains("reopened: 3 passages"), "{third}");
    assert!(third.contains("map.rs:1  s\n") && !third.contains("locks"), "{third}");
}

#[test]
fn rows_beyond_the_end_of_a_shortened_file_go() {
    if !ready() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (dir, out) = (temp.path().join("text"), temp.path().join("index.matryo"));
    fs::create_dir(&dir).unwrap();
    let section = |n: i32| format!("# Part {n}\n\nThis part tells the story of number {n}.\n\n");
    let long: String = (0..1200).map(section).collect();
    fs::write(dir.join("a.md"), &long).unwrap();
    assert!(run(&dir, &out, &[]).unwrap().contains("reopened: 1200 passages"));
    fs::write(dir.join("a.md"), section(7) + &section(8)).unwrap();
    let shortened = run(&dir, &out, &[]).unwrap();
    assert!(shortened.contains("reopened: 2 passages"), "{shortened}");
    fs::write(dir.join("a.md"), "gone").unwrap();
    let emptied = run(&dir, &out, &["--query", "a story"]).unwrap();
    assert!(emptied.contains("reopened: 0 passages"), "{emptied}");
}

#[test]
fn another_model_embeds_everything_again() {
    if !ready() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (dir, out) = (temp.path().join("text"), temp.path().join("index.matryo"));
    fs::create_dir(&dir).unwrap();
    folder(&dir);
    run(&dir, &out, &[]).unwrap();
    // The same model with another prompt gives other vectors.
    let model = temp.path().join("model");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/text/matryo-text-en"), &model);
    let prompts = r#"{"prompts": {"query": "", "document": "about: "}}"#;
    fs::write(model.join("config_sentence_transformers.json"), prompts).unwrap();
    let more = ["--model", model.to_str().unwrap()];
    let other = run(&dir, &out, &more).unwrap();
    assert!(files_line(&other).starts_with("0 unchanged, 3 new, 0 changed, 0 gone"), "{other}");
    assert!(other.contains("they differ in prompts"), "{other}");
    assert!(other.contains("reopened: 3 passages"), "{other}");
    assert!(run(&dir, &out, &more).unwrap().contains("3 unchanged"));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_collection_of_something_else_is_left_alone() {
    if !ready() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let (dir, other) = (temp.path().join("text"), temp.path().join("other"));
    let out = temp.path().join("index.matryo");
    for dir in [&dir, &other] {
        fs::create_dir(dir).unwrap();
        folder(dir);
    }
    run(&dir, &out, &[]).unwrap();
    let refused = run(&other, &out, &[]).expect_err("another folder");
    assert!(refused.contains("made of something else"), "{refused}");
    assert!(run(&dir, &out, &[]).unwrap().contains("3 unchanged"));

    let small = temp.path().join("small.matryo");
    let schema = matryo::Schema::builder(4).build().unwrap();
    drop(matryo::Collection::create(&small, schema).unwrap());
    let refused = run(&dir, &small, &[]).expect_err("another schema");
    assert!(refused.contains("other vectors"), "{refused}");
    // Even if it is of another model: what this program has not made stays.
    let foreign = temp.path().join("foreign.matryo");
    let schema = matryo::Schema::builder(4).embedder(matryo::EmbedderId::new("x", [0; 32]));
    let collection = matryo::Collection::create(&foreign, schema.build().unwrap()).unwrap();
    collection.upsert(1, &[1.0; 4], ()).unwrap();
    drop(collection);
    let refused = run(&dir, &foreign, &[]).expect_err("not ours");
    assert!(refused.contains("made of something else"), "{refused}");
    assert_eq!(matryo::Collection::open(&foreign).unwrap().len(), 1);
}

#[test]
fn wrong_arguments_are_refused_with_a_reason() {
    let refused = |words: &[&str]| {
        let words = words.iter().map(Into::into);
        example::run(words, &mut Vec::new()).expect_err("must be refused").to_string()
    };
    assert!(refused(&["--nothing"]).contains("unknown option --nothing"));
    assert!(refused(&["--limit"]).contains("--limit needs a value"));
    assert!(refused(&["--limit", "x"]).contains("takes a number"));
    assert!(refused(&["--recall=1.5"]).contains("0 to 1"));
    assert!(refused(&["--recall=NaN"]).contains("0 to 1"));
    assert!(refused(&["--query", " "]).contains("some words"));
    assert!(refused(&["--dir", "/no/such/folder"]).contains("/no/such/folder"));
}

//! Finding ONNX Runtime. A process loads one library, so each case is a process.

use std::env;
use std::fs;
use std::process::{Command, Output};

use matryo::embed::{Embedder, runtime};

use crate::support::fixtures;

/// Runs one of the `child_*` tests below in a process of its own.
fn child(name: &str, set: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    for variable in ["ORT_DYLIB_PATH", "MATRYO_OFFLINE", "MATRYO_PYTHON", "XDG_CACHE_HOME"] {
        command.env_remove(variable);
    }
    command.env("LD_LIBRARY_PATH", "").envs(set.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
#[ignore = "run by the tests below"]
fn child_open() {
    match Embedder::open(fixtures().join("static")) {
        Ok(embedder) => println!("opened\n{}", embedder.describe()),
        Err(e) => println!("refused: {e}"),
    }
}

#[test]
#[ignore = "run by the tests below"]
fn child_install() {
    match runtime::install() {
        Ok(path) => println!("installed: {}", path.display()),
        Err(e) => println!("refused: {e}"),
    }
}

#[test]
fn an_ordered_library_that_is_missing_or_wrong_is_an_error() {
    let text = said(&child("library::child_open", &[("ORT_DYLIB_PATH", "/no/such/lib.so")]));
    assert!(text.contains("ORT_DYLIB_PATH says /no/such/lib.so"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("libonnxruntime.so");
    fs::write(&fake, "not a library").unwrap();
    let text = said(&child("library::child_open", &[("ORT_DYLIB_PATH", fake.to_str().unwrap())]));
    assert!(text.contains("cannot load") && text.contains("set ORT_DYLIB_PATH"), "{text}");
}

#[test]
fn no_library_anywhere_says_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let cache = empty.path().to_str().unwrap();
    let none = "/no/such/python";
    let text =
        said(&child("library::child_open", &[("XDG_CACHE_HOME", cache), ("MATRYO_PYTHON", none)]));
    if text.contains("opened") {
        return; // The system has one of its own.
    }
    for words in ["runtime::install()", "pip install onnxruntime==", "ORT_DYLIB_PATH"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let text = said(&child(
        "library::child_install",
        &[("XDG_CACHE_HOME", cache), ("MATRYO_PYTHON", none)],
    ));
    assert!(text.contains("cannot be run") && text.contains("set MATRYO_PYTHON"), "{text}");
    let text = said(&child(
        "library::child_install",
        &[("XDG_CACHE_HOME", cache), ("MATRYO_OFFLINE", "1")],
    ));
    assert!(text.contains("MATRYO_OFFLINE is set") && text.contains("by hand"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_python_without_pip_is_named_with_the_cure() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python");
    fs::write(&python, "#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let cache = dir.path().to_str().unwrap();
    let python = python.to_str().unwrap();
    let text = said(&child(
        "library::child_install",
        &[("XDG_CACHE_HOME", cache), ("MATRYO_PYTHON", python)],
    ));
    assert!(text.contains("install pip") && text.contains("ensurepip"), "{text}");
}

#[test]
#[ignore = "fetches 24 MB with pip"]
fn two_processes_fetch_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().to_str().unwrap();
    let fetch = || said(&child("library::child_install", &[("XDG_CACHE_HOME", cache)]));
    let both = std::thread::scope(|scope| {
        let tasks = [scope.spawn(fetch), scope.spawn(fetch)];
        tasks.map(|t| t.join().unwrap())
    });
    assert!(both.iter().all(|text| text.contains("installed: ")), "{both:?}");
    let fetched = both.iter().filter(|text| text.contains("fetching ONNX Runtime")).count();
    assert_eq!(fetched, 1, "{both:?}");
    let opened = said(&child("library::child_open", &[("XDG_CACHE_HOME", cache)]));
    assert!(opened.contains("matryo's cache"), "{opened}");
}

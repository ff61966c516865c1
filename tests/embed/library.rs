//! Finding ONNX Runtime. A process loads one library, so each case is a process.

use std::env;
use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use matryo::embed::{Embedder, runtime};
use matryo::{Collection, Schema, json};

use crate::support::{copy_all, fixtures, ready};

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
#[ignore = "run by the tests below"]
fn child_threads() {
    let model = env::var("TEST_MODEL").expect("a model");
    let threads = env::var("TEST_THREADS").expect("threads").parse().expect("a number");
    let embedder = Embedder::builder(model).threads(threads).open().expect("opens");
    let vector = embedder.embed_query("the river").expect("a vector");
    println!("ran on {} threads, {} numbers", embedder.describe().threads, vector.len());
}

/// Opens a model on so many threads in a shell that has set `limit`; what it said, or why there
/// is nothing to say. A hang is a failure.
fn open_on(threads: usize, limit: &str, user: Option<u32>) -> Result<String, String> {
    let dir = tempfile::Builder::new().prefix("matryo-threads").tempdir().unwrap();
    // What another user may read.
    let open = fs::Permissions::from_mode(0o755);
    fs::set_permissions(dir.path(), open).unwrap();
    let place = |name| dir.path().join(name);
    fs::copy(env::current_exe().unwrap(), place("tests")).unwrap();
    fs::copy(runtime::locate().unwrap(), place("libonnxruntime.so")).unwrap();
    copy_all(&fixtures().join("static"), &place("model"));
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{limit} && exec \"$0\" \"$@\"")]).arg(place("tests"));
    command.args(["--exact", "library::child_threads", "--ignored", "--nocapture"]);
    command.env("ORT_DYLIB_PATH", place("libonnxruntime.so"));
    command.env("TEST_MODEL", place("model")).env("TEST_THREADS", threads.to_string());
    command.current_dir(dir.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(user) = user {
        command.uid(user);
    }
    let mut child = command.spawn().map_err(|e| format!("bash as user {user:?}: {e}"))?;
    let began = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if began.elapsed() > Duration::from_mins(2) {
            child.kill().unwrap();
            panic!(
                "hangs with {threads} threads after {limit}: {}",
                said(&child.wait_with_output().unwrap())
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = said(&child.wait_with_output().unwrap());
    if text.contains("ran on") { Ok(text) } else { Err(text) }
}

/// ONNX Runtime waits for ever for a thread that the system refuses.
#[test]
fn no_more_threads_are_asked_for_than_the_system_gives() {
    if !ready() {
        return;
    }
    let text = open_on(400, "ulimit -v 3000000", None).expect("opens in little memory");
    assert!(!text.contains("ran on 400 threads") && text.contains("8 numbers"), "{text}");
    // Processes are counted by user, and root's are not: a user that nobody is.
    match open_on(16, "ulimit -u 8", Some(3_456_789)) {
        Ok(text) => assert!(!text.contains("ran on 16 threads"), "{text}"),
        Err(why) => eprintln!("SKIPPED, the limit of processes is not tested: {why}"),
    }
}

#[test]
fn a_number_of_threads_that_no_machine_has_is_not_cut_short() {
    if !ready() {
        return;
    }
    let threads = NonZeroUsize::new(1 << 32).unwrap();
    let embedder = Embedder::builder(fixtures().join("static")).threads(threads).open().unwrap();
    assert!((1..=1024).contains(&embedder.describe().threads));
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

/// What lies in matryo's cache folder is loaded only if it is what matryo put there.
#[test]
fn only_the_fetched_library_itself_is_taken_from_the_cache() {
    if !ready() {
        return;
    }
    let Ok(library) = runtime::install() else {
        eprintln!("SKIPPED, matryo's cache is not tested: the pinned library is not there");
        return;
    };
    let cache = tempfile::tempdir().unwrap();
    let dir = cache.path().join("matryo").join(library.parent().unwrap().file_name().unwrap());
    fs::create_dir_all(&dir).unwrap();
    let set = [("XDG_CACHE_HOME", cache.path().to_str().unwrap()), ("MATRYO_PYTHON", "/no/such")];
    let open = || said(&child("library::child_open", &set));
    let of_cache = |text: &str| text.contains("(matryo's cache)");
    let mut bytes = fs::read(&library).unwrap();
    let path = dir.join(library.file_name().unwrap());
    fs::write(&path, &bytes).unwrap();
    assert!(of_cache(&open()), "the library itself");
    bytes.push(0);
    fs::write(&path, &bytes).unwrap();
    assert!(!of_cache(&open()), "a changed library");
    bytes.pop();
    fs::remove_file(path).unwrap();
    fs::write(dir.join("libonnxruntime.so.1.99.0"), &bytes).unwrap();
    assert!(!of_cache(&open()), "another version");
}

#[cfg(unix)]
#[test]
fn a_python_without_pip_is_named_with_the_cure() {
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
    // The next fetch removes what one that was killed has left.
    let mut folders = fs::read_dir(dir.path().join("matryo")).unwrap();
    let folder = folders.next().unwrap().unwrap().path();
    let left = folder.join(".fetch-left");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("half.whl"), "half").unwrap();
    child("library::child_install", &[("XDG_CACHE_HOME", cache), ("MATRYO_PYTHON", python)]);
    let found = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name());
    assert_eq!(found.collect::<Vec<_>>(), [".lock"]);
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

/// A static model is read from its table, wherever the library is not.
#[test]
fn the_program_reembeds_by_a_static_model_without_a_library() {
    let Some(program) = option_env!("CARGO_BIN_EXE_matryo") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let collection = Collection::create(&path, Schema::builder(2).build().unwrap()).unwrap();
    collection.upsert(1, &[1.0, 0.5], json!({"text": "the river"})).unwrap();
    drop(collection);
    let mut command = Command::new(program);
    command.arg("reembed").arg(&path).args(["--field", "text", "--quiet", "--model"]);
    command.arg(fixtures().with_file_name("families").join("static"));
    let output = command.env("ORT_DYLIB_PATH", "/no/such/lib.so").output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

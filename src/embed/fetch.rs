//! Fetching ONNX Runtime with pip, when the user asks for it.
//!
//! The Python package `onnxruntime` carries the shared library, so whoever can
//! use pip can have it, behind the same mirrors and proxies as everything else.
//! One file is taken out of the pinned wheel, compared with a hash that is part
//! of this source, and put in the user's cache folder by a rename, so that no
//! other process ever sees half of it.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::files;
use super::fingerprint::hex;
use super::runtime::offline;
use crate::error::{Error, Result};

/// The version that is fetched.
pub(super) const VERSION: &str = "1.31.1";

/// Set to anything but 0, it forbids fetching.
pub(super) const OFFLINE: &str = "MATRYO_OFFLINE";

/// Names the Python interpreter to use instead of `python3`.
pub(super) const PYTHON: &str = "MATRYO_PYTHON";

const LIBRARY: &str = "libonnxruntime.so.1.31.1";

/// How the names of the folders begin in which a fetch works.
const WORK: &str = ".fetch-";

/// Far above the library's 29 MB, far below what would hurt.
const LIBRARY_CAP: u64 = 256 << 20;

/// The Python the wheel is made for. Any would do: the library in the wheels for
/// `CPython` 3.11, 3.12, 3.13 and 3.14 was compared and is the same file, byte for
/// byte, on both machines below. Naming one makes the choice independent of the
/// Python that happens to be installed.
const WHEEL_PYTHON: &str = "3.12";

/// Platform tag and SHA-256 of the library, for machines that have a wheel.
const PINNED: [(&str, &str, &str); 2] = [
    (
        "x86_64",
        "manylinux_2_28_x86_64",
        "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
    ),
    (
        "aarch64",
        "manylinux_2_28_aarch64",
        "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
    ),
];

/// Fetches ONNX Runtime into matryo's cache folder, unless it is there already,
/// and returns the path of the library. Says on stderr what it does.
///
/// Runs `python3 -m pip download` (or the interpreter that `MATRYO_PYTHON`
/// names), which obeys pip's own settings. `MATRYO_OFFLINE=1` forbids it.
///
/// # Errors
/// `Error::Runtime` when fetching is forbidden or fails, with what to do by hand.
pub fn install() -> Result<PathBuf> {
    let (platform, expected) = pinned()?;
    let dir = cache_dir()?;
    let target = dir.join(LIBRARY);
    if verify(&target, expected).is_ok() {
        return Ok(target);
    }
    if offline() {
        return Err(Error::Runtime {
            why: format!("{OFFLINE} is set, so ONNX Runtime is not fetched"),
            cure: by_hand(platform, &target),
        });
    }
    fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
    let turn = take_turn(&dir)?;
    // Another process may have fetched it while this one waited.
    if verify(&target, expected).is_ok() {
        return Ok(target);
    }
    if turn.is_some() {
        sweep(&dir);
    }
    say(&format!("fetching ONNX Runtime {VERSION} (24 MB) with pip into {}", dir.display()));
    // Inside the folder, so that the rename stays on one file system.
    let work = tempfile::Builder::new().prefix(WORK).tempdir_in(&dir);
    let work = work.map_err(|e| Error::io("create a folder in", &dir, e))?;
    let python = python();
    download(&python, platform, work.path(), &target)?;
    let fetched = extract(&python, work.path())?;
    verify(&fetched, expected)?;
    put(&fetched, &target)?;
    say(&format!("ONNX Runtime is at {}", target.display()));
    Ok(target)
}

/// The library that [`install`] fetched before, if it is there and still what it was.
pub(super) fn fetched() -> Option<PathBuf> {
    // Hashing it takes as long as opening a small model.
    static VERIFIED: Mutex<Option<PathBuf>> = Mutex::new(None);
    let (_, expected) = pinned().ok()?;
    let target = cache_dir().ok()?.join(LIBRARY);
    let mut verified = VERIFIED.lock();
    if verified.as_ref() != Some(&target) {
        verify(&target, expected).ok()?;
        *verified = Some(target.clone());
    }
    Some(target)
}

/// Where [`install`] puts the library.
fn cache_dir() -> Result<PathBuf> {
    let set = |name| env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    let cache = cache.ok_or_else(|| Error::Runtime {
        why: "neither XDG_CACHE_HOME nor HOME names a folder to keep it in".into(),
        cure: "set one of them to an absolute path".into(),
    })?;
    Ok(cache.join("matryo").join(format!("onnxruntime-{VERSION}")))
}

fn pinned() -> Result<(&'static str, &'static str)> {
    let glibc = cfg!(all(target_os = "linux", target_env = "gnu"));
    let known = PINNED.iter().find(|(arch, ..)| glibc && *arch == env::consts::ARCH);
    known.map(|&(_, platform, hash)| (platform, hash)).ok_or_else(|| Error::Runtime {
        why: "matryo knows no pinned build of it for this machine".into(),
        cure: format!(
            "install ONNX Runtime {VERSION} yourself, for example with `python3 -m pip install \
             onnxruntime=={VERSION}`, or set ORT_DYLIB_PATH to its library"
        ),
    })
}

fn python() -> PathBuf {
    env::var_os(PYTHON).map_or_else(|| PathBuf::from("python3"), PathBuf::from)
}

/// What a fetch that was killed left: while the turn is ours, nobody uses it.
fn sweep(dir: &Path) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let left = entries.filter(|e| e.file_name().to_string_lossy().starts_with(WORK));
    // What cannot be removed only takes space.
    left.for_each(|e| drop(fs::remove_dir_all(e.path())));
}

/// Holds the other processes that want to fetch until this one is done; `None` where locks do not
/// work, and two fetches at once are merely wasteful.
fn take_turn(dir: &Path) -> Result<Option<impl Drop + use<>>> {
    let path = dir.join(".lock");
    let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let lock = lock.map_err(|e| Error::io("open", &path, e))?;
    let locked = lock.lock().is_ok();
    Ok(locked.then(|| std::os::fd::OwnedFd::from(lock)))
}

fn download(python: &Path, platform: &str, into: &Path, target: &Path) -> Result<()> {
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"])
        .args(["--implementation", "cp", "--python-version", WHEEL_PYTHON])
        .args(["--platform", platform, "--dest"])
        .arg(into)
        .arg(format!("onnxruntime=={VERSION}"));
    let output = run(&mut command, python)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let cure = if said.contains("No module named pip") {
        format!(
            "install pip (`{0} -m ensurepip --user`, or your system's python3-pip package), or \
             set {PYTHON} to a Python that has it",
            python.display()
        )
    } else {
        by_hand(platform, target)
    };
    Err(Error::Runtime { why: format!("pip could not fetch it: {}", last_lines(&said)), cure })
}

/// Takes the library out of the only wheel in the folder.
fn extract(python: &Path, work: &Path) -> Result<PathBuf> {
    const SCRIPT: &str = "import sys, zipfile; \
                          zipfile.ZipFile(sys.argv[1]).extract(sys.argv[2], sys.argv[3])";
    let member = format!("onnxruntime/capi/{LIBRARY}");
    let entries = fs::read_dir(work).map_err(|e| Error::io("list", work, e))?;
    let mut paths = entries.flatten().map(|e| e.path());
    let wheel = paths.find(|p| p.extension().is_some_and(|e| e == "whl"));
    let wheel = wheel.ok_or_else(|| failed("pip left no wheel"))?;
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).arg(wheel).arg(&member).arg(work);
    let output = run(&mut command, python)?;
    if output.status.success() {
        return Ok(work.join(member));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(&format!("its wheel cannot be unpacked: {}", last_lines(&said))))
}

fn run(command: &mut Command, python: &Path) -> Result<Output> {
    command.stdin(Stdio::null()).output().map_err(|e| Error::Runtime {
        why: format!("{} cannot be run ({e}), and pip is needed to fetch it", python.display()),
        cure: format!("install Python 3 with pip, or set {PYTHON} to a Python that has it"),
    })
}

fn verify(path: &Path, expected: &str) -> Result<()> {
    let bytes = files::read_file(path, LIBRARY_CAP)?;
    let found = hex(&Sha256::digest(&bytes));
    if found == expected {
        return Ok(());
    }
    Err(failed(&format!("{} has SHA-256 {found}, expected {expected}", path.display())))
}

/// Makes the file durable, then visible under its name in one step.
fn put(fetched: &Path, target: &Path) -> Result<()> {
    let sync = || -> io::Result<()> {
        OpenOptions::new().write(true).open(fetched)?.sync_all()?;
        fs::rename(fetched, target)
    };
    sync().map_err(|e| Error::io("put in place", target, e))
}

fn failed(why: &str) -> Error {
    Error::Runtime {
        why: why.to_string(),
        cure: "check where pip fetches from (`python3 -m pip config list`) and try again, or set \
               ORT_DYLIB_PATH to a library you trust"
            .into(),
    }
}

fn by_hand(platform: &str, target: &Path) -> String {
    format!(
        "by hand: on a machine with a network run `python3 -m pip download onnxruntime=={VERSION} \
         --no-deps --only-binary=:all: --python-version {WHEEL_PYTHON} --platform {platform}`, \
         unzip onnxruntime/capi/{LIBRARY} from the wheel and put it at {}, or set ORT_DYLIB_PATH \
         to it",
        target.display()
    )
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    lines[lines.len().saturating_sub(3)..].join("; ")
}

/// The one place of the library that prints: a download must never be silent.
fn say(what: &str) {
    eprintln!("matryo: {what}");
}

//! Finding and loading the ONNX Runtime shared library.
//!
//! matryo links no ONNX Runtime; it loads one when the first embedder is opened,
//! looking in this order and taking the first it finds:
//!
//! 1. the path given to [`EmbedderBuilder::runtime`](super::EmbedderBuilder::runtime)
//! 2. the environment variable `ORT_DYLIB_PATH`
//! 3. the folder of the running program
//! 4. matryo's cache folder, which [`install`] fills: only the very file that it fetches, by
//!    its hash
//! 5. the folders of the system's loader
//! 6. an installed Python package `onnxruntime` or `onnxruntime-gpu`
//!
//! The first two are orders: when they name no usable file, that is an error and
//! the search stops. Nothing is downloaded here, ever; [`install`] does that, and
//! only when called.
//!
//! A process loads one library, for good. A failed load is not remembered, so a
//! program may call [`install`] and try again.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use ort::environment::Environment;
use parking_lot::Mutex;

pub use super::fetch::install;
use super::fetch::{self, OFFLINE, PYTHON, VERSION};
use crate::error::{Error, Result};

/// The variable by which `ort` programs are told where the library is.
const DYLIB_PATH: &str = "ORT_DYLIB_PATH";

/// Oldest minor version that has the functions `ort` was built to call.
const OLDEST_MINOR: u32 = ort::MINOR_VERSION;

const CUDA_PROVIDER: &str = "libonnxruntime_providers_cuda.so";

/// Where the library is, without loading it.
///
/// # Errors
/// `Error::Runtime` when there is none, with what to do about it.
pub fn locate() -> Result<PathBuf> {
    find(None, false).map(|found| found.path)
}

/// Where the library is, fetching it with [`install`] if it is nowhere.
///
/// # Errors
/// Those of [`install`].
pub fn locate_or_install() -> Result<PathBuf> {
    if let Some(path) = ordered(None)? {
        return Ok(path.path);
    }
    match search(false) {
        Some(found) => Ok(found.path),
        None => install(),
    }
}

/// A library and where it was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) source: &'static str,
}

/// The library this process has loaded.
pub(super) struct Loaded {
    pub(super) environment: Environment,
    pub(super) found: Found,
    /// What the library says about its build.
    pub(super) build: &'static str,
}

static LOADED: OnceLock<Loaded> = OnceLock::new();
static LOADING: Mutex<()> = Mutex::new(());

/// Loads the library, or returns the one already loaded.
pub(super) fn load(explicit: Option<&Path>, cuda: bool) -> Result<&'static Loaded> {
    let _one_at_a_time = LOADING.lock();
    if let Some(loaded) = LOADED.get() {
        return same_library(loaded, explicit);
    }
    let found = find(explicit, cuda)?;
    let builder = ort::init_from(&found.path).map_err(|e| load_failed(&found, &e.to_string()))?;
    let environment = builder
        .with_name("matryo")
        .with_telemetry(false)
        .build()
        .map_err(|e| load_failed(&found, &e.to_string()))?;
    Ok(LOADED.get_or_init(|| Loaded { environment, found, build: ort::info() }))
}

fn same_library(loaded: &'static Loaded, explicit: Option<&Path>) -> Result<&'static Loaded> {
    let Some(asked) = explicit else { return Ok(loaded) };
    let same = asked
        .canonicalize()
        .is_ok_and(|asked| loaded.found.path.canonicalize().is_ok_and(|have| have == asked));
    if same {
        return Ok(loaded);
    }
    Err(Error::Runtime {
        why: format!(
            "{} was asked for, but this process has already loaded {}",
            asked.display(),
            loaded.found.path.display()
        ),
        cure: "a process loads one: ask for the same path every time".into(),
    })
}

fn load_failed(found: &Found, why: &str) -> Error {
    Error::Runtime {
        why: format!("cannot load {} ({}): {why}", found.path.display(), found.source),
        cure: format!(
            "matryo needs ONNX Runtime 1.{OLDEST_MINOR} or newer for this machine: set \
             {DYLIB_PATH} to the library of such a version, for example the one in the Python \
             package onnxruntime=={VERSION}"
        ),
    }
}

fn find(explicit: Option<&Path>, cuda: bool) -> Result<Found> {
    if let Some(found) = ordered(explicit)? {
        return Ok(found);
    }
    search(cuda).ok_or_else(|| if cuda { no_cuda() } else { nowhere() })
}

/// The path somebody ordered to be used, if anybody did.
fn ordered(explicit: Option<&Path>) -> Result<Option<Found>> {
    let from_env = || env::var_os(DYLIB_PATH).filter(|v| !v.is_empty()).map(PathBuf::from);
    let (asked, source) = match explicit {
        Some(path) => (path.to_path_buf(), "the runtime option"),
        None => match from_env() {
            Some(path) => (path, DYLIB_PATH),
            None => return Ok(None),
        },
    };
    // A relative path means the working directory, not ort's or the loader's idea.
    match asked.canonicalize() {
        Ok(path) if path.is_file() => Ok(Some(Found { path, source })),
        _ => Err(Error::Runtime {
            why: format!("{source} says {}, and there is no such file", asked.display()),
            cure: format!("give the path of {} itself, not its folder", file_name()),
        }),
    }
}

fn search(cuda: bool) -> Option<Found> {
    let usable = |dir: &Path| {
        if cuda && !dir.join(CUDA_PROVIDER).is_file() { None } else { library_in(dir) }
    };
    places().into_iter().find_map(|(source, place)| {
        let path = match place {
            Place::Dir(dir) => usable(&dir),
            // What is fetched has no CUDA.
            Place::Cache if cuda => None,
            Place::Cache => fetch::fetched(),
            Place::Python => usable(&python_package()?),
        };
        path.map(|path| Found { path, source })
    })
}

/// A folder to look in; asking Python costs a process, so it is put off.
enum Place {
    Dir(PathBuf),
    Cache,
    Python,
}

fn places() -> Vec<(&'static str, Place)> {
    let mut places = Vec::new();
    if let Some(dir) = env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_path_buf())) {
        places.push(("beside the program", Place::Dir(dir)));
    }
    places.push(("matryo's cache", Place::Cache));
    let named = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let system = ["/usr/local/lib", "/usr/local/lib64", "/usr/lib", "/usr/lib64", "/lib"];
    let multiarch = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    let dirs = env::split_paths(&named).filter(|d| d.is_absolute());
    let dirs = dirs.chain(system.map(PathBuf::from)).chain([PathBuf::from(multiarch)]);
    places.extend(dirs.map(|dir| ("the system's loader folders", Place::Dir(dir))));
    places.push(("the Python package", Place::Python));
    places
}

fn nowhere() -> Error {
    Error::Runtime {
        why: format!(
            "{} was found neither by {DYLIB_PATH}, nor beside the program, nor in matryo's cache \
             folder, nor in the system's library folders, nor as a Python package",
            file_name()
        ),
        cure: format!(
            "run `python3 -m pip install onnxruntime=={VERSION}`, or set {DYLIB_PATH} to the \
             library of ONNX Runtime 1.{OLDEST_MINOR} or newer; in a program, \
             matryo::embed::runtime::install() fetches it with pip"
        ),
    }
}

fn no_cuda() -> Error {
    Error::Runtime {
        why: format!("no library with {CUDA_PROVIDER} beside it was found, which CUDA needs"),
        cure: format!(
            "`python3 -m pip install onnxruntime-gpu=={VERSION}` with the CUDA and cuDNN it names, \
             or set {DYLIB_PATH} to such a library, or ask for Provider::Cpu"
        ),
    }
}

fn file_name() -> String {
    format!("{}onnxruntime{}", env::consts::DLL_PREFIX, env::consts::DLL_SUFFIX)
}

/// The newest library in a folder whose name does not say that it is too old.
fn library_in(dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    let paths = entries.flatten().map(|e| e.path());
    let libraries = paths.filter(|p| p.file_name().is_some_and(is_library) && p.is_file());
    // A bare name is a link whose target carries the version.
    let versioned =
        libraries.map(|p| (version(&p.canonicalize().unwrap_or_else(|_| p.clone())), p));
    versioned
        .filter(|(version, _)| version.is_none_or(|v| v >= (1, OLDEST_MINOR)))
        .max()
        .map(|(_, path)| path)
}

fn is_library(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    let Some(rest) = name.strip_prefix("libonnxruntime.") else { return false };
    rest == "so" || rest.starts_with("so.") || rest.ends_with("dylib")
}

/// Major and minor version, as file names carry them.
fn version(path: &Path) -> Option<(u32, u32)> {
    let name = path.file_name()?.to_str()?;
    let mut numbers = name.split('.').filter_map(|part| part.parse::<u32>().ok());
    Some((numbers.next()?, numbers.next()?))
}

/// The whole version, as the name of the library or of what it links to carries it:
/// the library does not tell it through `ort`.
pub(super) fn version_text(library: &Path) -> Option<String> {
    let real = library.canonicalize().ok()?;
    let name = real.file_name()?.to_str()?;
    let numbers: Vec<&str> = name.split('.').filter(|part| part.parse::<u32>().is_ok()).collect();
    if numbers.is_empty() { None } else { Some(numbers.join(".")) }
}

/// The folder of the library in Python's `onnxruntime`, without importing it.
fn python_package() -> Option<PathBuf> {
    // The working directory is on Python's path under -c, and must not be: a folder
    // that happens to be called onnxruntime there is not the installed package.
    const SCRIPT: &str = "import sys; sys.path[:] = [p for p in sys.path if p]\n\
        import importlib.util\n\
        found = importlib.util.find_spec('onnxruntime')\n\
        print(found.submodule_search_locations[0] if found else '')";
    let python = env::var_os(PYTHON).unwrap_or_else(|| "python3".into());
    let mut command = Command::new(python);
    command.args(["-c", SCRIPT]).stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().ok().filter(|o| o.status.success())?;
    let folder = String::from_utf8(output.stdout).ok()?;
    let folder = folder.trim_end_matches('\n');
    if folder.is_empty() { None } else { Some(Path::new(folder).join("capi")) }
}

/// Whether fetching is forbidden.
pub(super) fn offline() -> bool {
    env::var_os(OFFLINE).is_some_and(|v| !v.is_empty() && v != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_names() {
        assert_eq!(version(Path::new("/a/libonnxruntime.so.1.31.1")), Some((1, 31)));
        assert_eq!(version(Path::new("libonnxruntime.1.24.0.dylib")), Some((1, 24)));
        assert_eq!(version(Path::new("libonnxruntime.so")), None);
    }

    #[test]
    fn only_the_runtime_itself_is_a_library() {
        let is = |name: &str| is_library(OsStr::new(name));
        assert!(is("libonnxruntime.so") && is("libonnxruntime.so.1") && is("libonnxruntime.dylib"));
        assert!(!is("libonnxruntime_providers_shared.so") && !is("libonnxruntime.a"));
    }

    #[test]
    fn the_newest_is_taken_and_an_old_one_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| std::fs::write(dir.path().join(name), "").unwrap();
        put("libonnxruntime.so.1.16.3");
        assert_eq!(library_in(dir.path()), None);
        put("libonnxruntime.so.1.31.1");
        put("libonnxruntime.so.1.30.0");
        assert_eq!(library_in(dir.path()), Some(dir.path().join("libonnxruntime.so.1.31.1")));
    }
}

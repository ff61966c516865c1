//! From `Cargo.lock` to folders of the local cargo registry.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the crates of a lock file lie.
pub(super) struct Found {
    pub(super) folders: Vec<PathBuf>,
    /// Crates that are nowhere: cargo fetches only what this platform needs.
    pub(super) absent: usize,
}

/// The folders of all registry crates that a lock file names, in its order.
pub(super) fn of_lock_file(lock: &Path) -> io::Result<Found> {
    let text = fs::read_to_string(lock)
        .map_err(|e| io::Error::new(e.kind(), format!("cannot read {}: {e}", lock.display())))?;
    let registries = registries()?;
    let mut found = Found { folders: Vec::new(), absent: 0 };
    for name in from_registries(&text) {
        let folder = registries.iter().map(|r| r.join(&name)).find(|f| f.is_dir());
        match folder {
            Some(folder) => found.folders.push(folder),
            None => found.absent += 1,
        }
    }
    Ok(found)
}

/// `NAME-VERSION` of each package that comes from a registry. A lock file is TOML
/// written by cargo, one key to a line.
fn from_registries(lock: &str) -> Vec<String> {
    let value = |line: &str, key: &str| {
        let quoted = line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"')?;
        Some(quoted.to_owned())
    };
    let mut found = Vec::new();
    for package in lock.split("[[package]]").skip(1) {
        let get = |key| package.lines().find_map(|line| value(line, key));
        let (Some(name), Some(version), Some(source)) =
            (get("name"), get("version"), get("source"))
        else {
            continue;
        };
        if source.starts_with("registry+") || source.starts_with("sparse+") {
            found.push(format!("{name}-{version}"));
        }
    }
    found
}

/// The folders into which cargo unpacks the crates of each registry.
fn registries() -> io::Result<Vec<PathBuf>> {
    let set = env::var_os("CARGO_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = set.or_else(|| Some(env::home_dir()?.join(".cargo")));
    let home = home.ok_or_else(|| io::Error::other("no home folder: set CARGO_HOME"))?;
    let sources = home.join("registry").join("src");
    let entries = fs::read_dir(&sources).map_err(|e| {
        let why = format!("cannot list {}: {e}; use --dir to index a folder", sources.display());
        io::Error::new(e.kind(), why)
    })?;
    let mut folders: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    folders.sort();
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_file_names_its_registry_crates() {
        let lock = "version = 4\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n\n\
            [[package]]\nname = \"a-b\"\nversion = \"1.2.3+4\"\nsource = \"registry+https://x\"\n\
            dependencies = [\n \"c\",\n]\n";
        assert_eq!(from_registries(lock), ["a-b-1.2.3+4"]);
    }
}

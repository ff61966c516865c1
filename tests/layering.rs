//! Modules import downwards only, and `unsafe` stays where it is allowed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// ARCHITECTURE.md, "Layers": a module may import those with a smaller number.
const LAYERS: &[(u32, &[&str])] = &[
    (0, &["error", "random", "sown", "sync"]),
    (1, &["types"]),
    (2, &["codec", "kernel", "vfs"]),
    (3, &["encoding", "payload"]),
    (4, &["schema"]),
    (5, &["calibration", "index"]),
    (6, &["manifest", "rows", "filter", "graph"]),
    (7, &["wal", "memtable", "view"]),
    (8, &["segment"]),
    (9, &["query"]),
    (10, &["collection"]),
    (11, &["classify"]),
    (12, &["reembed"]),
];

/// Beside the engine: imports the lowest layer, and only `lib.rs` and the top layer
/// import it.
const BESIDE: &[&str] = &["embed"];
const TOP: u32 = 12;

/// The modules of `query`: each may import those of earlier lines. `mod.rs` only names them.
const QUERY_LAYERS: &[&[&str]] = &[
    &["explain", "mask", "entry", "score"],
    &["funnel", "select", "group", "result"],
    &["plan", "best"],
    &["run"],
    &["vectors"],
    &["sieve", "graph"],
    &["scan"],
    &["exact", "shortlist"],
    &["adapt"],
    &["exec"],
    &["widen", "calibrate"],
    &["margins", "search"],
    &["batch", "prepared"],
];

/// Not part of the library proper.
const OUTSIDE: &[&str] = &["lib", "testing", "bin"];

const UNSAFE_FILES: &[&str] =
    &["kernel/x86.rs", "kernel/x86/", "kernel/neon.rs", "vfs/map.rs", "vfs/writeback.rs"];

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("src can be listed").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|e| e == "rs") {
            into.push(path);
        }
    }
}

/// (path below src, text without comments and test modules).
fn files() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("source is UTF-8");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("").lines();
        let code: Vec<_> = code.filter(|line| !line.trim_start().starts_with("//")).collect();
        let name = path.strip_prefix(&src).expect("below src").to_string_lossy().into_owned();
        (name, code.join("\n"))
    };
    paths.into_iter().map(read).collect()
}

fn module(file: &str) -> &str {
    file.split(['/', '.']).next().expect("a name")
}

/// Modules named in `crate::a` or `crate::{a, b::c}`, or behind another `root`.
fn imports(code: &str, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in code.split(root).skip(1) {
        let list = match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or(""),
            None => rest,
        };
        let names = if rest.starts_with('{') { list.split(',').collect() } else { vec![list] };
        for name in names {
            let name: String = name
                .trim()
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            found.push(name);
        }
    }
    found
}

#[test]
fn modules_import_downwards_only() {
    let layers: BTreeMap<&str, u32> =
        LAYERS.iter().flat_map(|(n, names)| names.iter().map(|name| (*name, *n))).collect();
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for (file, code) in files() {
        let from = module(&file);
        if OUTSIDE.contains(&from) {
            continue;
        }
        let level = match layers.get(from) {
            Some(level) => *level,
            None if BESIDE.contains(&from) => 2,
            None => panic!("{file}: module {from} has no layer"),
        };
        for to in imports(&code, "crate::") {
            // `crate::Error` and the like are re-exports of the lowest layer.
            let lowest = to.starts_with(char::is_uppercase);
            if lowest || to == from {
                continue;
            }
            arrows += 1;
            match layers.get(to.as_str()) {
                Some(target) if *target < level => {}
                None if BESIDE.contains(&to.as_str()) && level == TOP => {}
                Some(_) => wrong.push(format!("{file} imports {to}, which is not below it")),
                None => wrong.push(format!("{file} imports {to}, which has no layer")),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(arrows > 50, "found only {arrows} imports: is the parser broken?");
}

#[test]
fn modules_of_queries_import_downwards_only() {
    let level = |name: &str| QUERY_LAYERS.iter().position(|names| names.contains(&name));
    let mut wrong = Vec::new();
    let mut arrows = 0;
    for (file, code) in files() {
        let Some(name) = file.strip_prefix("query/").filter(|name| *name != "mod.rs") else {
            continue;
        };
        let from = level(module(name)).unwrap_or_else(|| panic!("{file} has no layer"));
        assert!(!code.contains("crate::query"), "{file} imports its own module by another path");
        for to in imports(&code, "super::") {
            arrows += 1;
            if level(&to).is_none_or(|to| to >= from) {
                wrong.push(format!("{file} imports {to}, which is not below it"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(arrows > 50, "found only {arrows} imports: is the parser broken?");
}

#[test]
fn unsafe_code_is_where_it_is_allowed() {
    let mut found = 0;
    for (file, code) in files() {
        if code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl") {
            found += 1;
            assert!(UNSAFE_FILES.iter().any(|f| file.starts_with(f)), "unsafe code in {file}");
        }
    }
    assert!(found > 0, "found none at all: is the parser broken?");
}

#[test]
fn the_architecture_document_names_every_layer() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = fs::read_to_string(path).expect("ARCHITECTURE.md is there");
    for (n, names) in LAYERS {
        let row = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" ");
        assert!(text.contains(&format!("| {n} | {row} |")), "layer {n}: {row}");
    }
}

/// Versions below these have advisories that reach us (`rkyv`: memory read beyond an archive;
/// `memmap2`: arithmetic on pointers). There is no `cargo deny`: CI has no network but for crates.
#[test]
fn dependencies_are_not_older_than_their_last_advisory() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let lock = fs::read_to_string(path).expect("Cargo.lock is there");
    for (name, least) in [("rkyv", [0, 8, 18]), ("memmap2", [0, 9, 11])] {
        let package = format!("name = \"{name}\"\nversion = \"");
        let versions: Vec<_> = lock.split(&package).skip(1).collect();
        assert!(!versions.is_empty(), "{name} is not locked");
        for version in versions {
            let version = version.split('"').next().expect("a version");
            let parts: Vec<u32> = version.split('.').map_while(|n| n.parse().ok()).collect();
            assert!(parts.as_slice() >= least.as_slice(), "{name} {version}, at least {least:?}");
        }
    }
}

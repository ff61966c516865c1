//! Searches of a collection that does not fit into memory: the page cache capped at a share
//! of its bytes, nothing cached at the start.
//!
//! A process of its own searches inside a memory control group (Linux, version 1; needs the
//! right to make one, else the bench says so and stops), which holds what it reads *and* its
//! heap, codes in RAM among it. `MATRYO_DATA` names a folder with `base_f16.npy` and
//! `queries.npy`; without it rows are made up. `MATRYO_DIR` is the folder to write in (default:
//! the system's temporary one; name one on the disk that matters), `MATRYO_SHARE` the cap as a
//! share of the collection's bytes (default 0.1).
//!
//! The collection is calibrated, as one is that is asked for recall. Beside each search stand reads of as many vectors at random places of the same files, one
//! after the other: what a store pays that touches a row before it asks for the next.

mod support;

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use matryo::{Collection, Funnel, Options, Precision, Schema};
use support::{Array, Noise, ids, number};

const LIMIT: usize = 10;
/// Most queries for each recall; none is asked twice, so none finds its rows in the cache.
const QUERIES: usize = 300;
/// Searches between the first and the second time that these are asked: what they read has pushed
/// out what was in the cache, and most of the collection has been read once.
const BETWEEN: usize = 2000;
const ASKED: [f64; 3] = [0.9, 0.95, 0.99];
/// Tells the process that searches which collection to open.
const CHILD: &str = "MATRYO_COLD_COLLECTION";
/// And which of [`ASKED`] to ask for: each has a process of its own, and nothing cached.
const WHICH: &str = "MATRYO_COLD_RECALL";

type Any = Box<dyn std::error::Error>;

fn main() -> Result<(), Any> {
    if let Some(path) = std::env::var_os(CHILD) {
        return search(Path::new(&path));
    }
    let share: f64 = std::env::var("MATRYO_SHARE").map_or(Ok(0.1), |s| s.parse())?;
    let place = std::env::var_os("MATRYO_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(place)?;
    let path = dir.path().join("bench");
    let (bytes, pinned) = load(&path)?;
    let cap = (bytes as f64 * share) as u64;
    println!(
        "collection of {} MB; {} MB of codes and norms in RAM; memory capped at {} MB",
        bytes >> 20,
        pinned >> 20,
        cap >> 20
    );
    let Some(group) = Group::new(cap) else {
        println!("skipped: no memory control group (version 1) can be made here");
        return Ok(());
    };
    println!(
        "{:<24} {:>9} {:>8} {:>9} {:>9} {:>12}",
        "", "recall", "q/s", "p50 ms", "p99 ms", "read/query"
    );
    let join = format!("echo $$ > {}/cgroup.procs && exec \"$0\"", group.0.display());
    let program = std::env::current_exe()?;
    for which in 0..ASKED.len() {
        forget(&path)?;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(&join).arg(&program).env(CHILD, &path).env(WHICH, which.to_string());
        assert!(shell.status()?.success(), "the search inside the cap failed");
    }
    println!("most memory in use: {} MB", group.peak()? >> 20);
    Ok(())
}

/// Makes the collection; its bytes, and those of them that a search holds in RAM. The true
/// neighbours lie beside it.
fn load(path: &Path) -> Result<(u64, u64), Any> {
    let (name, base, queries) = data();
    println!("{name}: {} rows x {}", base.rows().len(), base.width);
    let granularities = [64, 256, 512].into_iter().filter(|g| *g < base.width);
    let schema = Schema::builder(base.width).granularities(granularities).stored(Precision::F16);
    let options = Options::new().memtable_bytes(1 << 30).background(false);
    let collection = Collection::create_with(path, schema.build()?, options)?;
    let mut bulk = collection.bulk()?;
    for (id, row) in (0u64..).zip(base.rows()) {
        bulk.upsert(id, row, ())?;
    }
    bulk.finish()?;
    drop(base);
    collection.calibrate()?;
    let mut text = String::new();
    for query in queries.rows().take(QUERIES * ASKED.len()) {
        let words = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(" ");
        let truth = ids(&collection, query, LIMIT, Funnel::exact());
        text += &words(&mut query.iter().map(|v| v.to_bits().to_string()));
        text += "\n";
        text += &words(&mut truth.iter().map(ToString::to_string));
        text += "\n";
    }
    std::fs::write(beside(path), text)?;
    let info = collection.info()?;
    Ok((info.disk_bytes, info.ram_bytes))
}

fn data() -> (String, Array, Array) {
    if let Ok(folder) = std::env::var("MATRYO_DATA") {
        let base = Array::read(&folder, "base_f16.npy");
        return (folder.clone(), base, Array::read(&folder, "queries.npy"));
    }
    let (mut noise, width) = (Noise(13), 1024);
    let mut rows = |count: usize| {
        let shrunk = |(d, v): (usize, f32)| v / (1.0 + (d % width) as f32 / 64.0);
        let values = noise.vector(count * width).into_iter().enumerate().map(shrunk).collect();
        Array { values, width }
    };
    ("made up".into(), rows(200_000), rows(QUERIES * ASKED.len()))
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("queries")
}

/// Asks the system to drop the files of a folder from its cache.
fn forget(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        #[expect(clippy::disallowed_types, reason = "measures the system, not the store")]
        let file = std::fs::File::open(entry?.path())?;
        file.sync_all()?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

/// What runs under the cap.
fn search(path: &Path) -> Result<(), Any> {
    let text = std::fs::read_to_string(beside(path))?;
    let lines: Vec<&str> = text.lines().collect();
    let numbers = |line: &str| line.split(' ').map(|n| n.parse().expect("a number")).collect();
    let cases: Vec<(Vec<f32>, Vec<u64>)> = lines
        .chunks(2)
        .map(|two| {
            let bits: Vec<u64> = numbers(two[0]);
            (bits.iter().map(|b| f32::from_bits(*b as u32)).collect(), numbers(two[1]))
        })
        .collect();
    let start = Instant::now();
    let collection = Collection::open_with(path, Options::new().read_only(true))?;
    let opened = start.elapsed().as_secs_f64();
    println!("opened in {:.0} ms", opened * 1e3);
    let which: usize = std::env::var(WHICH)?.parse()?;
    let each = (cases.len() / ASKED.len()).max(1);
    let (share, cases) = (ASKED[which], &cases[which * each..][..each]);
    let each = ask(&collection, share, cases, &format!("recall({share})"))?;
    for (n, (query, _)) in cases.iter().cycle().take(BETWEEN).enumerate() {
        let other = &cases[(n * 7 + n / cases.len() + 1) % cases.len()].0;
        let sum: Vec<f32> = query.iter().zip(other).map(|(a, b)| a + b).collect();
        collection.search(&sum).limit(LIMIT).recall(share).run()?;
    }
    ask(&collection, share, cases, &format!("  after {BETWEEN} others"))?;
    forget(path)?;
    let before = bytes_read()?;
    let mut times = one_by_one(path, collection.schema().dims() * 2, each, cases.len())?;
    print(&format!("{each} reads in turn"), None, &mut times, bytes_read()? - before);
    Ok(())
}

/// Asks and measures all; how many vectors each query compared.
fn ask(
    collection: &Collection,
    share: f64,
    cases: &[(Vec<f32>, Vec<u64>)],
    name: &str,
) -> Result<usize, Any> {
    let (mut vectors, mut hits, mut times) = (0, 0, Vec::new());
    let before = bytes_read()?;
    for (query, truth) in cases {
        let start = Instant::now();
        let found = collection.search(query).limit(LIMIT).recall(share).run()?;
        times.push(start.elapsed().as_secs_f64());
        vectors += found.explain.stages.last().map_or(0, |stage| stage.rows_in);
        let truth: HashSet<u64> = truth.iter().copied().collect();
        hits += found.hits.iter().filter(|hit| truth.contains(&number(&hit.id))).count();
    }
    let recall = hits as f64 / (cases.len() * LIMIT) as f64;
    print(name, Some(recall), &mut times, bytes_read()? - before);
    Ok(vectors as usize / cases.len())
}

fn print(name: &str, recall: Option<f64>, times: &mut [f64], bytes: u64) {
    let all: f64 = times.iter().sum();
    times.sort_by(f64::total_cmp);
    let recall = recall.map_or(String::new(), |recall| format!("{recall:.4}"));
    println!(
        "{name:<24} {recall:>9} {:>8.0} {:>9.2} {:>9.2} {:>9} KiB",
        times.len() as f64 / all,
        times[times.len() / 2] * 1e3,
        times[times.len() * 99 / 100] * 1e3,
        (bytes / times.len() as u64) >> 10,
    );
}

/// Seconds for each of `queries` to read `each` vectors of `len` bytes at random places of
/// the largest file.
fn one_by_one(path: &Path, len: usize, each: usize, queries: usize) -> Result<Vec<f64>, Any> {
    let files = std::fs::read_dir(path)?.map(|entry| Ok((entry?.path(), 0)));
    let files = files.collect::<std::io::Result<Vec<(PathBuf, u64)>>>()?;
    let sized = files.into_iter().map(|(path, _)| Ok((std::fs::metadata(&path)?.len(), path)));
    let sized = sized.collect::<std::io::Result<Vec<_>>>()?;
    let (bytes, path) = sized.into_iter().max().expect("a file");
    #[expect(clippy::disallowed_types, reason = "measures the system, not the store")]
    let file = std::fs::File::open(path)?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    let (mut noise, mut buffer) = (Noise(17), vec![0; len]);
    let mut times = Vec::with_capacity(queries);
    for _ in 0..queries {
        let start = Instant::now();
        for _ in 0..each {
            file.read_exact_at(&mut buffer, noise.word() % (bytes / len as u64) * len as u64)?;
        }
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times)
}

/// What this process has caused to be read from disk.
fn bytes_read() -> Result<u64, Any> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    Ok(line.ok_or("no read_bytes in /proc/self/io")?.parse()?)
}

/// A memory control group, removed when dropped.
struct Group(PathBuf);

impl Group {
    fn new(bytes: u64) -> Option<Self> {
        let path = format!("/sys/fs/cgroup/memory/matryo-cold-{}", std::process::id());
        std::fs::create_dir(&path).ok()?;
        let group = Self(path.into());
        std::fs::write(group.0.join("memory.limit_in_bytes"), bytes.to_string()).ok()?;
        Some(group)
    }

    fn peak(&self) -> Result<u64, Any> {
        Ok(std::fs::read_to_string(self.0.join("memory.max_usage_in_bytes"))?.trim().parse()?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

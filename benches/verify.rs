//! `verify()` against reading the same bytes, from the system's cache and from the disk.
//!
//! The read is the cheapest there is: 256 KiB at a time into one buffer for each thread, nothing
//! looked at; by one thread, and by as many as `verify()` has, which take stretches of the files
//! from a common list as its threads do. All run in turns, so that what else the machine does
//! meets all alike. Before each cold run the system is asked to drop the files from its cache,
//! which is part of every time. `MATRYO_ROWS` sets the size (default 200 000 rows of 1024
//! dimensions as f16: 0.4 GB).

mod support;

use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use matryo::{Collection, Options, Precision, Schema};
use support::Noise;

const DIMS: usize = 1024;
/// Most threads `verify()` has.
const THREADS: usize = 4;
/// Bytes read at once: they stay in the cache of a core, as those that are verified do.
const PIECE: usize = 256 << 10;
/// Bytes of a file that a thread takes from the list.
const STRETCH: u64 = 4 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = std::env::var("MATRYO_ROWS").map_or(Ok(200_000), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bench");
    write(&path, rows)?;
    let collection = Collection::open_with(&path, Options::new().read_only(true))?;
    let verified = collection.verify()?;
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS);
    let mut buffers = vec![vec![0; PIECE]; threads];
    assert_eq!(read_all(&path, &mut buffers)?, verified.bytes, "verify read every byte");
    let mut one = vec![vec![0; PIECE]];
    let (files, bytes) = (verified.files, verified.bytes);
    println!("{rows} rows x {DIMS}: {files} files, {bytes} bytes; {threads} threads");
    let rate = |seconds: f64| verified.bytes as f64 / seconds / 1e9;
    for (cache, runs) in [("warm", 20), ("cold", 6)] {
        let ready = || {
            if cache == "cold" {
                forget(&path).expect("files");
            }
        };
        let mut read_by_one = || {
            ready();
            assert_eq!(read_all(&path, &mut one).expect("readable"), verified.bytes);
        };
        let mut read = || {
            ready();
            assert_eq!(read_all(&path, &mut buffers).expect("readable"), verified.bytes);
        };
        let mut verify = || {
            ready();
            assert_eq!(collection.verify().expect("whole"), verified);
        };
        let works: [&mut dyn FnMut(); 3] = [&mut read_by_one, &mut read, &mut verify];
        let timings = support::time_in_turns(runs, works);
        let names = ["read by 1 thread", &format!("read by {threads} threads"), "verify()"];
        for (name, timing) in names.into_iter().zip(timings) {
            let noise = timing.noise * 100.0;
            let rate = rate(timing.seconds);
            println!("{cache}: {name:<18} {rate:>6.2} GB/s  (A/A {noise:.1} %)");
        }
        let [by_one, read, verify] = timings.map(|timing| timing.seconds);
        println!(
            "{cache}: verify() runs at {:.0} % of reading by {threads} threads, {:.0} % of reading by 1",
            100.0 * read / verify,
            100.0 * by_one / verify
        );
    }
    if let Some(peak) = peak() {
        println!("peak RSS of all this: {peak}");
    }
    Ok(())
}

fn write(path: &Path, rows: u64) -> matryo::Result<()> {
    let schema = Schema::builder(DIMS).granularities([64, 256]).stored(Precision::F16);
    let options = Options::new().background(false);
    let collection = Collection::create_with(path, schema.build()?, options)?;
    let mut noise = Noise(3);
    let mut bulk = collection.bulk()?;
    let mut vector = noise.vector(DIMS);
    for id in 0..rows {
        vector[id as usize % DIMS] = noise.component();
        bulk.upsert(id, &vector, ())?;
    }
    bulk.finish()
}

/// Reads all files of a folder, with a thread for each buffer, and returns how many bytes they have.
fn read_all(path: &Path, buffers: &mut [Vec<u8>]) -> std::io::Result<u64> {
    let mut stretches = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let len = entry.metadata()?.len();
        #[expect(clippy::disallowed_types, reason = "measures the system, not the store")]
        let file = std::sync::Arc::new(std::fs::File::open(entry.path())?);
        for start in (0..len).step_by(STRETCH as usize) {
            stretches.push((file.clone(), start..len.min(start + STRETCH)));
        }
    }
    let next = AtomicUsize::new(0);
    let work = |buffer: &mut [u8]| -> std::io::Result<u64> {
        let mut bytes = 0;
        while let Some((file, range)) = stretches.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut at = range.start;
            while at < range.end {
                let most = buffer.len().min((range.end - at) as usize);
                file.read_exact_at(&mut buffer[..most], at)?;
                at += most as u64;
            }
            bytes += range.end - range.start;
        }
        Ok(bytes)
    };
    let (first, others) = buffers.split_first_mut().expect("a thread");
    thread::scope(|scope| {
        let others: Vec<_> = others.iter_mut().map(|b| scope.spawn(|| work(b))).collect();
        let own = work(first)?;
        let join = |other: thread::ScopedJoinHandle<_>| other.join().expect("no panic");
        others.into_iter().map(join).try_fold(own, |sum, bytes| Ok(sum + bytes?))
    })
}

/// Asks the system to drop all files of a folder from its cache.
fn forget(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        #[expect(clippy::disallowed_types, reason = "measures the system, not the store")]
        let file = std::fs::File::open(entry?.path())?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    Ok(())
}

fn peak() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

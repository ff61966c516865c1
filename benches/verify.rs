//! `verify()` against a sequential read of the same bytes, from the system's
//! cache and from the disk.
//!
//! The read is the cheapest there is: one thread, 1 MiB at a time into one
//! buffer, nothing looked at. Both run in turns, so that what else the machine
//! does meets both alike. Before each cold run the system is asked to drop the
//! files from its cache, which is part of the time of both. `MATRYO_ROWS` sets the size (default 200 000 rows of
//! 1024 dimensions as f16: 0.4 GB).

mod support;

use std::io::Read;
use std::path::Path;

use matryo::{Collection, Options, Precision, Schema};
use support::Noise;

const DIMS: usize = 1024;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let rows = std::env::var("MATRYO_ROWS").map_or(Ok(200_000), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("bench");
    write(&path, rows)?;
    let collection = Collection::open_with(&path, Options::new().read_only(true))?;
    let verified = collection.verify()?;
    let mut buffer = vec![0; 1 << 20];
    assert_eq!(read_all(&path, &mut buffer)?, verified.bytes, "verify read every byte");
    println!("{rows} rows x {DIMS}: {} files, {} bytes", verified.files, verified.bytes);
    let rate = |seconds: f64| verified.bytes as f64 / seconds / 1e9;
    for (cache, runs) in [("warm", 20), ("cold", 6)] {
        let ready = || {
            if cache == "cold" {
                forget(&path).expect("files");
            }
        };
        let mut read = || {
            ready();
            assert_eq!(read_all(&path, &mut buffer).expect("readable"), verified.bytes);
        };
        let mut verify = || {
            ready();
            assert_eq!(collection.verify().expect("whole"), verified);
        };
        let [read, verify] = support::time_in_turns(runs, [&mut read, &mut verify]);
        for (name, timing) in [("sequential read", read), ("verify()", verify)] {
            let noise = timing.noise * 100.0;
            let rate = rate(timing.seconds);
            println!("{cache}: {name:<18} {rate:>6.2} GB/s  (A/A {noise:.1} %)");
        }
        println!(
            "{cache}: verify() runs at {:.0} % of reading",
            100.0 * read.seconds / verify.seconds
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

/// Reads all files of a folder, and returns how many bytes they have.
fn read_all(path: &Path, buffer: &mut [u8]) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(path)? {
        #[expect(clippy::disallowed_types, reason = "measures the system, not the store")]
        let mut file = std::fs::File::open(entry?.path())?;
        loop {
            match file.read(buffer)? {
                0 => break,
                n => bytes += n as u64,
            }
        }
    }
    Ok(bytes)
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

//! The command line of matryo: arguments, and which command they mean.
//!
//! ```text
//!   import.rs   .npy, and JSON lines beside it -> collection
//!   payloads.rs JSON lines, streamed
//!   declared.rs payload fields as arguments
//!   rows.rs     export, get, delete
//!   search.rs   queries -> hits, on stdout or as .npy
//!   bench.rs    recall, speed and bytes read against known answers
//!   info.rs     info, verify
//!   maintain.rs backup, copy, drop-tier, compact, calibrate, repair
//!   reembed.rs  reembed
//!   npy/        NumPy files, streamed
//!   report.rs   tables, JSON, errors, progress
//! ```
//!
//! It uses the public API only: whatever it does, a program can do.

mod bench;
mod declared;
mod import;
mod info;
mod maintain;
mod npy;
mod payloads;
#[cfg(feature = "embed")]
mod reembed;
mod report;
mod rows;
mod search;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use report::{Outcome, Output};

/// Embedded vector database for Matryoshka embeddings.
///
/// A collection is a folder. Vectors and ids are exchanged as the .npy files of
/// numpy.save: little-endian, C order, no pickle; payloads as JSON lines.
///
/// Exit codes: 0 done, 1 failed (stderr says why), 2 wrong usage, 3 a file is damaged.
#[derive(Parser)]
#[command(version, about, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    output: Output,
}

const EXAMPLE: &str = "Example:
  matryo import books.matryo --npy base.npy --granularities 64,256,1024 --stored f16
  matryo search books.matryo --vectors queries.npy --limit 10";

#[derive(Subcommand)]
enum Command {
    /// Make a collection of the vectors in a .npy file, or add them to one.
    Import(import::Args),
    /// Print all rows, or those that pass a filter, as JSON lines.
    Export(rows::ExportArgs),
    /// Print rows by their ids, as JSON lines.
    Get(rows::GetArgs),
    /// Delete rows by their ids, or all that pass a filter.
    Delete(rows::DeleteArgs),
    /// Find the nearest rows of each query in a .npy file.
    Search(search::Args),
    /// Measure recall, speed and bytes read: one thread, one query at a time.
    Bench(bench::Args),
    /// Show what a collection holds, and what it takes on disk and in RAM.
    Info(info::Args),
    /// Read every file and compare it with its checksums; exit 3 on damage.
    Verify(info::VerifyArgs),
    /// Copy a collection as it is, checking every byte.
    Backup(maintain::BackupArgs),
    /// Copy a collection with fewer dimensions, another precision or more declared fields.
    Copy(maintain::CopyArgs),
    /// Shorten the vectors of a collection in place: the rest of them is gone.
    DropTier(maintain::DropTierArgs),
    /// Merge all segments and free the bytes of dead rows.
    Compact(maintain::CompactArgs),
    /// Measure what estimates are worth on a collection, so that --recall keeps its word.
    Calibrate(maintain::CalibrateArgs),
    /// Give all rows new vectors, made by another model of what their payloads keep.
    #[cfg(feature = "embed")]
    Reembed(reembed::Args),
    /// Make a damaged collection one that opens, with all that can still be read.
    Repair(maintain::RepairArgs),
}

impl Command {
    fn run(&self, output: Output) -> Outcome {
        match self {
            Self::Import(args) => args.run(output),
            Self::Export(args) => args.run(),
            Self::Get(args) => args.run(),
            Self::Delete(args) => args.run(output),
            Self::Search(args) => args.run(output),
            Self::Bench(args) => args.run(output),
            Self::Info(args) => args.run(output),
            Self::Verify(args) => args.run(output),
            Self::Backup(args) => args.run(output),
            Self::Copy(args) => args.run(output),
            Self::DropTier(args) => args.run(output),
            Self::Compact(args) => args.run(output),
            Self::Calibrate(args) => args.run(output),
            #[cfg(feature = "embed")]
            Self::Reembed(args) => args.run(output),
            Self::Repair(args) => args.run(output),
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|e| {
        // Usage errors are JSON too, for a script that reads nothing else.
        if e.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
            report::print_json_error(&[e.to_string()], None);
        }
        e.exit()
    });
    match cli.command.run(cli.output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => cli.output.fail(&*failure),
    }
}

/// The collection at `path`, for reading only: any number of commands may, beside
/// one that writes. Nothing is searched, so nothing is taken into RAM for searches.
fn open_to_read(path: &std::path::Path) -> Outcome<matryo::Collection> {
    Opening { ram_budget: Some(0), ..Opening::default() }.open(path)
}

/// How much of a collection is opened: shared by `search`, `bench` and `info`.
#[derive(clap::Args, Default)]
pub(crate) struct Opening {
    /// Open it to be searched by at most its first D dimensions; finer codes stay on
    /// disk.
    #[arg(long, value_name = "D")]
    max_dims: Option<usize>,
    /// Keep at most this many bytes of stage codes and norms in RAM, as in 500M (K, M, G
    /// are powers of 1024); the rest is mapped. Answers are the same.
    #[arg(long, value_name = "BYTES", value_parser = report::bytes)]
    ram_budget: Option<u64>,
}

impl Opening {
    fn open(&self, path: &std::path::Path) -> Outcome<matryo::Collection> {
        let mut options = matryo::Options::new().read_only(true);
        if let Some(dims) = self.max_dims {
            options = options.max_dims(dims);
        }
        if let Some(bytes) = self.ram_budget {
            options = options.ram_budget(bytes);
        }
        Ok(matryo::Collection::open_with(path, options)?)
    }
}

//! The one error type of the library.
//!
//! Every message names what was expected and what came; where the user can do
//! something about it, the message says what. Code that parses bytes uses
//! [`crate::codec::FormatError`], which knows no paths; whoever knows the file
//! turns it into [`Error::Corrupt`].

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// `std::result::Result` with this library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong. New variants may be added.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation on a file.
    Io {
        /// What was being done: "open", "sync", "rename", ...
        action: &'static str,
        /// The file or folder it was done to.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes on disk are not what was written there.
    Corrupt(Corruption),
    /// A file is intact but was written by a version this one cannot read.
    UnsupportedFormat {
        /// The file that says so.
        file: PathBuf,
        /// What it asks for.
        found: String,
        /// What this build understands.
        supported: String,
    },
    /// There is nothing at a path: no collection where one was to be opened, or no folder where
    /// one was to be created in it.
    NotFound {
        /// What is missing.
        path: PathBuf,
    },
    /// Something else than a matryo collection is at the path, or an empty folder.
    NotACollection {
        /// The path that was opened.
        path: PathBuf,
        /// What was found instead.
        found: String,
    },
    /// `create` was asked for a folder that already holds something.
    AlreadyExists {
        /// The folder.
        path: PathBuf,
    },
    /// Another handle or process holds the collection.
    Locked {
        /// The folder.
        path: PathBuf,
    },
    /// An earlier write or sync failed, and not for want of room, so nothing more
    /// is written through this handle; reads go on. Reopen the collection to
    /// recover.
    Poisoned {
        /// The failure that poisoned the handle.
        cause: String,
    },
    /// The process was forked off from the one that opened the collection. It may
    /// read, but only that one may write.
    Forked {
        /// The folder.
        path: PathBuf,
    },
    /// A vector cannot be stored or searched for.
    Vector(VectorError),
    /// One of the queries of a batch cannot be searched for; none was.
    Query {
        /// Its place among the queries, from 0.
        at: usize,
        /// What is wrong with it.
        source: Box<Error>,
    },
    /// A batch has no room for another change: commit it, and put the change into a new one.
    BatchFull {
        /// Bytes it would take with the change.
        bytes: usize,
        /// Most that a batch can take: [`Batch::MAX_BYTES`](crate::Batch::MAX_BYTES).
        most: usize,
    },
    /// More rows than a collection can have. Compaction frees the places of dead ones.
    TooManyRows {
        /// Rows it would have, dead ones included.
        rows: u64,
        /// Most that it can have.
        most: u64,
    },
    /// The collection was given another schema since this handle was opened, which must be opened
    /// again. It goes on to answer as before.
    SchemaChanged {
        /// The folder.
        path: PathBuf,
    },
    /// The folder is on a file system that may lose durable commits or ignore locks.
    UnsafeFileSystem {
        /// The folder.
        path: PathBuf,
        /// What the file system is called.
        name: &'static str,
    },
    /// A write through a handle that was opened for reading only.
    ReadOnly {
        /// The folder.
        path: PathBuf,
    },
    /// A progress callback said to go no further. Nothing is half done.
    Cancelled {
        /// What was ended: "backup", "compaction", ...
        what: &'static str,
    },
    /// A search for what is like a row that is not there.
    NoSuchRow {
        /// The id that no row has.
        id: String,
    },
    /// The collection does not record what made its vectors, so nobody knows whether an embedder
    /// is the right one.
    NoEmbedder {
        /// The one that was to be compared.
        given: String,
    },
    /// The collection has another schema than the one that was given to
    /// [`Collection::open_or_create`](crate::Collection::open_or_create).
    OtherSchema {
        /// The first part that differs: "dimensions", "metric", "granularities", "stored precision",
        /// "ids", "stage codes", "fields" or "embedder".
        part: &'static str,
        /// What the collection has.
        stored: String,
        /// What was given.
        given: String,
    },
    /// A schema, batch, query or option makes no sense; nothing was changed.
    Invalid {
        /// Which argument.
        what: &'static str,
        /// What was expected and what came.
        why: String,
    },
    /// Vectors of another model than the one that made those of the collection.
    OtherEmbedder {
        /// What made the vectors that are stored.
        stored: String,
        /// What was to be used with them.
        given: String,
        /// Parts in which the two differ, as far as both say.
        parts: Vec<String>,
    },
    /// A model directory cannot be used.
    Model {
        /// The file or directory at fault.
        path: PathBuf,
        /// What is wrong with it, and what would make it right.
        why: String,
    },
    /// A failure of the caller's own, in a closure that was called back: see [`Error::other`].
    Other(Box<dyn std::error::Error + Send + Sync>),
    /// ONNX Runtime could not be loaded, or failed while running.
    Runtime {
        /// What failed.
        why: String,
        /// What the user can do about it.
        cure: String,
    },
}

/// Where bytes on disk differ from what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Corruption {
    /// The damaged file.
    pub file: PathBuf,
    /// Offset of the damaged structure in the file, in bytes.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

/// Why a vector was refused.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum VectorError {
    /// It has the wrong number of dimensions.
    Dimension {
        /// What the collection (or the asked-for prefix) needs.
        expected: usize,
        /// What came.
        got: usize,
        /// Of a query that is too short the granularities of the collection, one of which may be
        /// meant; else none.
        granularities: Vec<usize>,
    },
    /// A component is NaN or infinite.
    NotFinite {
        /// Its index.
        at: usize,
        /// Its value.
        value: f32,
    },
    /// A component, finite as given, does not fit the stored precision.
    OutOfRange {
        /// Its index.
        at: usize,
        /// Its value.
        value: f32,
        /// The stored precision.
        stored: &'static str,
    },
    /// Its norm is outside of what is kept of it, a normal `f32`.
    Norm {
        /// The norm.
        norm: f64,
    },
    /// All components are zero, which has no direction: cosine is undefined.
    Zero,
    /// The first components of a query, by which is searched, are zero, and only these.
    ZeroPrefix {
        /// How many are searched by.
        dims: usize,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    pub(crate) fn corrupt(file: impl Into<PathBuf>, offset: u64, what: impl fmt::Display) -> Self {
        Self::Corrupt(Corruption { file: file.into(), offset, what: what.to_string() })
    }

    /// An error where somebody who is told about progress wants it to end.
    pub(crate) fn unless(go_on: bool, what: &'static str) -> Result<()> {
        if go_on { Ok(()) } else { Err(Self::Cancelled { what }) }
    }

    pub(crate) fn invalid(what: &'static str, why: impl fmt::Display) -> Self {
        Self::Invalid { what, why: why.to_string() }
    }
}

impl Error {
    /// The caller's own failure, for closures that have to return this type, as that of
    /// [`Collection::reembed`](crate::Collection::reembed). It is handed through as it is: `Other`
    /// holds it, to be downcast, and says what it says.
    ///
    /// ```
    /// use matryo::Error;
    /// let length = |text: &str| text.parse::<u32>().map_err(Error::other);
    /// let Err(Error::Other(own)) = length("three") else { panic!("no number") };
    /// assert!(own.is::<std::num::ParseIntError>());
    /// assert_eq!(Error::other("no model").to_string(), "no model");
    /// ```
    pub fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    /// Whether the system had too little of something: it did what it could, and
    /// can do the rest once there is room. Any other failure leaves in doubt what
    /// reached the disk.
    pub fn is_exhaustion(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, OutOfMemory, QuotaExceeded, StorageFull};
        let Self::Io { source, .. } = self else { return false };
        let few_files = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
        matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge | OutOfMemory)
            || source.raw_os_error().is_some_and(|code| few_files.contains(&code))
    }
}

impl Error {
    /// The same error for somebody else who waits for the same work.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Io { action, path, source } => {
                // The system's number, if there is one, tells what can be done about it.
                let said = || io::Error::new(source.kind(), source.to_string());
                let number = source.raw_os_error();
                let source = number.map_or_else(said, io::Error::from_raw_os_error);
                Self::Io { action, path: path.clone(), source }
            }
            Self::Corrupt(corruption) => Self::Corrupt(corruption.clone()),
            Self::Poisoned { cause } => Self::Poisoned { cause: cause.clone() },
            Self::Invalid { what, why } => Self::Invalid { what, why: why.clone() },
            other => Self::Poisoned { cause: other.to_string() },
        }
    }

    /// Whether the medium, or what this user may have of it, is full.
    pub(crate) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), StorageFull | QuotaExceeded))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())
            }
            Self::Corrupt(c) => c.fmt(f),
            Self::UnsupportedFormat { file, found, supported } => {
                of(f, file, format_args!("has format {found}; this version reads {supported}"))?;
                f.write_str(": use a newer matryo")
            }
            Self::NotFound { path } => of(f, path, "does not exist"),
            Self::NotACollection { path, found } => {
                of(f, path, format_args!("is not a matryo collection: {found}"))
            }
            Self::AlreadyExists { path } => of(f, path, ALREADY_EXISTS),
            Self::Locked { path } => of(f, path, LOCKED),
            Self::Poisoned { cause } => write!(f, "an earlier write failed ({cause}), {POISONED}"),
            Self::Forked { path } => of(f, path, FORKED),
            Self::Vector(v) => v.fmt(f),
            Self::Query { at, source } => write!(f, "query {at}: {source}"),
            Self::BatchFull { bytes, most } => {
                write!(f, "at most {most} bytes in one batch, got {bytes}: {BATCH_FULL}")
            }
            Self::TooManyRows { rows, most } => {
                write!(
                    f,
                    "a collection has at most {most} rows, dead ones included, got {rows}: "
                )?;
                f.write_str("compact it, or begin another")
            }
            Self::SchemaChanged { path } => of(f, path, "has another schema now: open it again"),
            Self::UnsafeFileSystem { path, name } => {
                of(f, path, format_args!("is on {name}, {UNSAFE_FILE_SYSTEM}"))
            }
            Self::ReadOnly { path } => of(f, path, "is open for reading only through this handle"),
            Self::Cancelled { what } => write!(f, "the {what} was ended before it was done"),
            Self::NoSuchRow { id } => {
                write!(f, "no row has the id {id}, so nothing can be found that is like it")
            }
            Self::NoEmbedder { given } => write!(f, "{NO_EMBEDDER}, {given} or another"),
            Self::OtherSchema { part, stored, given } => {
                write!(
                    f,
                    "the collection has another schema; {part}: it has {stored}, got {given}"
                )?;
                write!(f, ": {}", schema_cure(part))
            }
            Self::Invalid { what, why } => write!(f, "invalid {what}: {why}"),
            Self::OtherEmbedder { stored, given, parts } => {
                write!(f, "the vectors were made by {stored}, not by {given}")?;
                if !parts.is_empty() {
                    write!(f, "; they differ in {}", parts.join(", "))?;
                }
                f.write_str(": use the same model, or embed into a new collection")
            }
            Self::Model { path, why } => write!(f, "model {}: {why}", path.display()),
            Self::Other(own) => own.fmt(f),
            Self::Runtime { why, cure } => write!(f, "ONNX Runtime: {why}; {cure}"),
        }
    }
}

const ALREADY_EXISTS: &str = "already exists: open it instead, or choose another path";
const LOCKED: &str = "is in use by another handle or process: only one may write at a time \
                      (readers may: open read-only; `lock_timeout` waits)";
const POISONED: &str = "so this handle writes no more: reopen the collection";
const FORKED: &str = "was opened before this process was forked off: open it again here";
const BATCH_FULL: &str = "commit what is in it, and go on with a new one";
const UNSAFE_FILE_SYSTEM: &str = "which may lose durable commits or ignore locks: use a local \
                                  disk, open read-only, or say `allow_unsafe_fs`";
const NO_DIRECTION: &str = "the query has no direction under cosine";
const NO_EMBEDDER: &str = "the collection does not record what made its vectors";

/// What somebody can do who wants the other schema.
fn schema_cure(part: &str) -> &'static str {
    match part {
        "fields" => {
            "open it with the fields it has, or declare more in a copy (`CopyOptions::field`, \
             `matryo copy --field`)"
        }
        "dimensions" => {
            "open it with those it has, or make a copy of fewer (`CopyOptions::dims`, \
             `matryo copy --dims`)"
        }
        "stored precision" => {
            "open it with the one it has, or make a copy of another (`CopyOptions::stored`, \
             `matryo copy --stored`)"
        }
        "metric" | "embedder" => {
            "open it with the one it has, or give its rows other vectors \
             (`Collection::reembed`, `matryo reembed`)"
        }
        _ => "open it with those it has, or make another collection",
    }
}

/// What there is to say of a file or folder.
fn of(f: &mut fmt::Formatter<'_>, path: &Path, what: impl fmt::Display) -> fmt::Result {
    write!(f, "{} {what}", path.display())
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.file.display(), self.offset, self.what)
    }
}

impl fmt::Display for VectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dimension { expected, got, granularities } => {
                write!(f, "vector has {got} dimensions, expected {expected}")?;
                if granularities.is_empty() {
                    return Ok(());
                }
                write!(f, " (granularities {granularities:?}; a shorter query says so with `dims`)")
            }
            Self::NotFinite { at, value } => {
                write!(f, "vector component {at} is {value}, expected a finite number")
            }
            Self::OutOfRange { at, value, stored } => {
                write!(f, "vector component {at} is {value:e}, too large to store as {stored}")
            }
            Self::Norm { norm } => write!(
                f,
                "vector has norm {norm:e}, expected {:e} to {:e}: scale it",
                f32::MIN_POSITIVE,
                f32::MAX
            ),
            Self::Zero => f.write_str("vector is all zeros, which has no direction under cosine"),
            Self::ZeroPrefix { dims } => {
                write!(f, "{NO_DIRECTION}: its first {dims} dimensions are all zeros")
            }
        }
    }
}

impl std::error::Error for Error {
    /// What is behind the cause. The cause itself is part of the message, and is not said twice to
    /// who prints a whole chain.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => source.source(),
            Self::Query { source, .. } => source.source(),
            Self::Other(own) => own.source(),
            _ => None,
        }
    }
}

impl std::error::Error for Corruption {}

impl std::error::Error for VectorError {}

impl From<VectorError> for Error {
    fn from(v: VectorError) -> Self {
        Self::Vector(v)
    }
}

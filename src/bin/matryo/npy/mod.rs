//! `NumPy` `.npy` files, read and written row by row, so that an array larger
//! than RAM can pass through.
//!
//! A reader checks the header and the length of the file before the first row;
//! whatever it refuses, it says what was expected and what came. A written file
//! gets its name when it is whole: a failure leaves what was there before.

#![expect(clippy::disallowed_types, reason = "the files of the user, not of a collection")]

mod header;

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use tempfile::NamedTempFile;

pub(crate) use header::Dtype;
use header::{Header, MAGIC, MAX_TEXT};

use crate::report::{Outcome, context};

/// An array of one or two axes, read from the first row to the last.
pub(crate) struct Reader {
    path: PathBuf,
    input: BufReader<File>,
    dtype: Dtype,
    shape: Vec<usize>,
    /// The next row to read, which errors name.
    row: usize,
    bytes: Vec<u8>,
}

impl Reader {
    /// Opens an array of vectors: floats of two axes.
    pub(crate) fn vectors(path: &Path) -> Outcome<Self> {
        let reader = Self::open(path)?;
        let rows = "vectors as rows, float16, float32 or float64 of shape [rows, dimensions]";
        let usable = reader.dtype.is_float() && reader.shape.len() == 2 && reader.shape[1] > 0;
        reader.require(usable, rows)
    }

    /// Opens one id a row: integers of one axis.
    pub(crate) fn ids(path: &Path) -> Outcome<Self> {
        let reader = Self::open(path)?;
        let usable = !reader.dtype.is_float() && reader.shape.len() == 1;
        reader.require(usable, "ids, int32, int64, uint32 or uint64 of shape [rows]")
    }

    /// Opens rows of ids: integers of two axes.
    pub(crate) fn id_rows(path: &Path) -> Outcome<Self> {
        let reader = Self::open(path)?;
        let usable = !reader.dtype.is_float() && reader.shape.len() == 2;
        reader.require(usable, "ids, int32, int64, uint32 or uint64 of shape [queries, neighbours]")
    }

    pub(crate) fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Elements in a row.
    pub(crate) fn columns(&self) -> usize {
        self.shape.get(1).copied().unwrap_or(1)
    }

    /// Reads the next `rows` rows of floats into `out`, replacing what is there.
    pub(crate) fn read_floats(&mut self, rows: usize, out: &mut Vec<f32>) -> Outcome {
        self.read_bytes(rows)?;
        out.resize(self.bytes.len() / self.dtype.bytes(), 0.0);
        match self.dtype {
            Dtype::F16 => {
                let halves = self.bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b));
                halves.collect::<Vec<_>>().convert_to_f32_slice(out);
            }
            Dtype::F32 => {
                for (out, bytes) in out.iter_mut().zip(self.bytes.as_chunks().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            Dtype::F64 => self.narrow(out)?,
            _ => unreachable!("a reader of vectors has floats"),
        }
        self.row += rows;
        Ok(())
    }

    /// Reads the next `rows` rows of integers into `out`, replacing what is there.
    pub(crate) fn read_integers(&mut self, rows: usize, out: &mut Vec<i128>) -> Outcome {
        self.read_bytes(rows)?;
        out.clear();
        let bytes = &self.bytes;
        match self.dtype {
            Dtype::I32 => widen(bytes, out, i32::from_le_bytes),
            Dtype::U32 => widen(bytes, out, u32::from_le_bytes),
            Dtype::I64 => widen(bytes, out, i64::from_le_bytes),
            Dtype::U64 => widen(bytes, out, u64::from_le_bytes),
            _ => unreachable!("a reader of ids has integers"),
        }
        self.row += rows;
        Ok(())
    }

    fn open(path: &Path) -> Outcome<Self> {
        let named = |e: String| format!("{}: {e}", path.display());
        let file = File::open(path).map_err(|e| context(named("cannot open".into()), e))?;
        let meta = file.metadata().map_err(|e| context(named("cannot open".into()), e))?;
        if !meta.is_file() {
            return Err(
                named("expected a .npy file, got something that is not a file".into()).into()
            );
        }
        let mut input = BufReader::with_capacity(1 << 20, file);
        let (header, header_bytes) = read_header(&mut input).map_err(named)?;
        check_length(&header, header_bytes, meta.len()).map_err(named)?;
        let shape = header.shape.iter().map(|n| usize::try_from(*n)).collect::<Result<_, _>>();
        let shape = shape.map_err(|_| named("is too large for this machine".into()))?;
        Ok(Self { path: path.into(), input, dtype: header.dtype, shape, row: 0, bytes: Vec::new() })
    }

    fn require(self, usable: bool, expected: &str) -> Outcome<Self> {
        if usable {
            return Ok(self);
        }
        let (path, dtype, shape) = (self.path.display(), self.dtype, &self.shape);
        Err(format!("{path}: expected {expected}, got {dtype} of shape {shape:?}").into())
    }

    fn read_bytes(&mut self, rows: usize) -> Outcome {
        self.bytes.resize(rows * self.columns() * self.dtype.bytes(), 0);
        self.input.read_exact(&mut self.bytes).map_err(|e| {
            context(format!("{}: cannot read from row {}", self.path.display(), self.row), e)
        })
    }

    /// Rounds doubles to floats. One that is finite but becomes infinite would be
    /// reported as an infinity that the file does not hold, so it is named here.
    fn narrow(&self, out: &mut [f32]) -> Outcome {
        for (at, bytes) in self.bytes.as_chunks::<8>().0.iter().enumerate() {
            let value = f64::from_le_bytes(*bytes);
            out[at] = value as f32;
            if out[at].is_infinite() && value.is_finite() {
                let (row, column) = (self.row + at / self.columns(), at % self.columns());
                let path = self.path.display();
                let place = format!("{path}: row {row}, component {column}");
                return Err(format!("{place}: {value:e} is too large for a float32").into());
            }
        }
        Ok(())
    }
}

fn widen<const N: usize, T: Into<i128>>(
    bytes: &[u8],
    out: &mut Vec<i128>,
    read: impl Fn([u8; N]) -> T,
) {
    out.extend(bytes.as_chunks::<N>().0.iter().map(|b| read(*b).into()));
}

/// Reads the header and says how long it is.
fn read_header(input: &mut impl Read) -> Result<(Header, u64), String> {
    let mut prelude = [0; 8];
    let got = read_up_to(input, &mut prelude)?;
    if !prelude.starts_with(MAGIC) || got < prelude.len() {
        let got = prelude[..got].escape_ascii();
        return Err(format!("expected a .npy file, which begins \\x93NUMPY, got \"{got}\""));
    }
    let mut length = [0; 4];
    let length_bytes = match prelude[6..] {
        [1, 0] => 2,
        [2 | 3, 0] => 4,
        [major, minor] => {
            return Err(format!("expected .npy version 1.0, 2.0 or 3.0, got {major}.{minor}"));
        }
        _ => unreachable!("two bytes are left of eight"),
    };
    let truncated = || "is truncated: it ends within its header".to_owned();
    if read_up_to(input, &mut length[..length_bytes])? < length_bytes {
        return Err(truncated());
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_TEXT {
        return Err(format!("expected a header of at most {MAX_TEXT} bytes, got {length}"));
    }
    let mut text = vec![0; length];
    if read_up_to(input, &mut text)? < length {
        return Err(truncated());
    }
    Ok((Header::parse(&text)?, (prelude.len() + length_bytes + length) as u64))
}

/// Fills `bytes` as far as the input goes, and says how far.
fn read_up_to(input: &mut impl Read, bytes: &mut [u8]) -> Result<usize, String> {
    let mut filled = 0;
    while filled < bytes.len() {
        match input.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("cannot read: {e}")),
        }
    }
    Ok(filled)
}

/// A file longer than its shape says is refused too: its header and its data
/// were not written together, so neither can be trusted.
fn check_length(header: &Header, header_bytes: u64, file: u64) -> Result<(), String> {
    let expected = header.data_bytes().and_then(|data| data.checked_add(header_bytes));
    if expected == Some(file) {
        return Ok(());
    }
    let what =
        if expected.is_none_or(|expected| file < expected) { "truncated" } else { "too long" };
    let expected = expected.map_or("more than fits in a number".into(), |n| n.to_string());
    let (dtype, shape) = (header.dtype, &header.shape);
    Err(format!("is {what}: expected {expected} bytes for {dtype} of shape {shape:?}, got {file}"))
}

/// An array of two axes being written.
pub(crate) struct Writer {
    path: PathBuf,
    output: BufWriter<NamedTempFile>,
    /// Bytes of data still to come.
    missing: u64,
}

impl Writer {
    /// Begins an array beside the place it will take.
    pub(crate) fn create(path: &Path, dtype: Dtype, rows: usize, columns: usize) -> Outcome<Self> {
        let cannot = |e: io::Error| context(format!("{}: cannot create", path.display()), e);
        // Renaming onto a device would replace the device.
        if path.exists() && !path.is_file() {
            return Err(format!("{}: is there and is not a file", path.display()).into());
        }
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Readable as far as the umask allows, like any other output.
        let permissions = std::fs::Permissions::from_mode(0o666);
        let file = tempfile::Builder::new().permissions(permissions).tempfile_in(folder);
        let mut output = BufWriter::with_capacity(1 << 20, file.map_err(cannot)?);
        let header = Header { dtype, shape: vec![rows as u64, columns as u64] };
        output.write_all(&header.encode()).map_err(cannot)?;
        let missing = header.data_bytes().ok_or("more output than fits in a number")?;
        Ok(Self { path: path.into(), output, missing })
    }

    /// Writes the next elements, as little-endian bytes.
    pub(crate) fn write<const N: usize>(
        &mut self,
        elements: impl IntoIterator<Item = [u8; N]>,
    ) -> Outcome {
        for bytes in elements {
            self.missing -= N as u64;
            self.output.write_all(&bytes).map_err(|e| cannot_write(&self.path, e))?;
        }
        Ok(())
    }

    /// Gives the finished file its name.
    pub(crate) fn finish(self) -> Outcome {
        assert_eq!(self.missing, 0, "all rows were written");
        let path = &self.path;
        let file = self.output.into_inner().map_err(|e| cannot_write(path, e.into_error()))?;
        file.persist(path).map_err(|e| cannot_write(path, e.error))?;
        Ok(())
    }
}

fn cannot_write(path: &Path, e: io::Error) -> crate::report::Failure {
    context(format!("{}: cannot write", path.display()), e)
}

#[cfg(test)]
mod tests;

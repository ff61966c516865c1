//! JSON lines: payloads on their way in, a line at a time, so that a file larger than RAM can pass
//! through.

#![expect(clippy::disallowed_types, reason = "the files of the user, not of a collection")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use matryo::{IdKind, Payload, RowId, Value};

use crate::report::{Failure, Outcome, context};

/// Longest line, in bytes: a payload is much shorter, but may be written with much space.
const MAX_LINE: u64 = 64 << 20;
/// Most characters of a value in a message.
const SHOWN: usize = 60;

/// Payloads of a file of JSON lines, read from the first to the last.
pub(crate) struct Payloads {
    path: PathBuf,
    input: BufReader<File>,
    /// Number of the line read last, from 1.
    line: usize,
    bytes: Vec<u8>,
}

impl Payloads {
    /// Opens a file that has `rows` lines.
    pub(crate) fn open(path: &Path, rows: usize) -> Outcome<Self> {
        let mut payloads = Self::at_start(path)?;
        let lines = payloads.count()?;
        if lines != rows {
            let path = path.display();
            return Err(format!("{path}: expected {rows} lines, one a vector, got {lines}").into());
        }
        Self::at_start(path)
    }

    fn at_start(path: &Path) -> Outcome<Self> {
        let named = |what: &str| format!("{}: {what}", path.display());
        let file = File::open(path).map_err(|e| context(named("cannot open"), e))?;
        let meta = file.metadata().map_err(|e| context(named("cannot open"), e))?;
        if !meta.is_file() {
            return Err(named("expected a file of JSON lines, got something else").into());
        }
        let input = BufReader::with_capacity(1 << 20, file);
        Ok(Self { path: path.into(), input, line: 0, bytes: Vec::new() })
    }

    /// Lines from here to the end, whether or not the last is ended.
    fn count(&mut self) -> Outcome<usize> {
        let (mut lines, mut open) = (0, false);
        loop {
            let bytes = self.input.fill_buf();
            let bytes =
                bytes.map_err(|e| context(format!("{}: cannot read", self.path.display()), e))?;
            let Some(last) = bytes.last() else { return Ok(lines + usize::from(open)) };
            open = *last != b'\n';
            lines += bytes.split(|byte| *byte == b'\n').count() - 1;
            let len = bytes.len();
            self.input.consume(len);
        }
    }

    /// The payload of the next line: an object, or null for none.
    pub(crate) fn next(&mut self) -> Outcome<Payload> {
        self.line += 1;
        self.bytes.clear();
        let mut line = self.input.by_ref().take(MAX_LINE);
        line.read_until(b'\n', &mut self.bytes).map_err(|e| context(self.place(), e))?;
        if self.bytes.len() as u64 == MAX_LINE {
            return Err(self.wrong(&format!("is longer than {MAX_LINE} bytes")));
        }
        // Without its end, which would be another line to the parser.
        let text = self.bytes.trim_ascii_end();
        if text.is_empty() {
            return Err(self.wrong("expected a JSON object, got nothing"));
        }
        match serde_json::from_slice(text) {
            Ok(Value::Object(payload)) => Ok(payload),
            Ok(Value::Null) => Ok(Payload::new()),
            Ok(other) => {
                Err(self.wrong(&format!("expected a JSON object or null, got {}", shown(&other))))
            }
            Err(e) => Err(self.malformed(&e)),
        }
    }

    /// Where the line read last is.
    pub(crate) fn place(&self) -> String {
        format!("{}, line {}", self.path.display(), self.line)
    }

    fn wrong(&self, why: &str) -> Failure {
        format!("{}: {why}", self.place()).into()
    }

    /// The parser counts lines too, of which it has seen one.
    fn malformed(&self, e: &serde_json::Error) -> Failure {
        let text = e.to_string();
        let why = text.split(" at line ").next().unwrap_or_default();
        format!("{}, column {}: {why}", self.place(), e.column()).into()
    }

    /// The id that the payload of the line read last holds under a name, whose dots go into nested
    /// objects.
    pub(crate) fn id(&self, payload: &Payload, name: &str) -> Outcome<RowId> {
        let got = match at(payload, name) {
            Some(Value::String(id)) => return Ok(id.as_str().into()),
            Some(value) => match value.as_u64() {
                Some(id) => return Ok(id.into()),
                None => shown(value),
            },
            None => "nothing".into(),
        };
        let why = format!("expected an id at {name:?}, a whole number from 0 or a string");
        Err(self.wrong(&format!("{why}, got {got}")))
    }
}

/// Kind of the ids of a file, as its first line tells.
pub(crate) fn id_kind(path: &Path, name: &str) -> Outcome<IdKind> {
    let mut payloads = Payloads::at_start(path)?;
    let first = payloads.next()?;
    Ok(payloads.id(&first, name)?.kind())
}

fn at<'p>(payload: &'p Payload, path: &str) -> Option<&'p Value> {
    let mut keys = path.split('.');
    let first = payload.get(keys.next()?);
    keys.fold(first, |value, key| value?.get(key))
}

/// The beginning of a value's JSON.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

//! What a command says: a table for people or one JSON object for scripts, both
//! from the same fields; errors with their causes; progress.

use std::error::Error;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{
    BinaryBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
};
use matryo::{Corruption, Explain, Progress, Value, json};
use serde_json::Map;

/// Anything that ends a command: printed with its causes, exit code 1, or 3 where files are damaged.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// The result of a command, or of a part of one.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// An error with what was being done when it came.
#[derive(Debug)]
struct Context {
    what: String,
    cause: Failure,
}

/// Says what was being done when `cause` came.
pub(crate) fn context(what: String, cause: impl Into<Failure>) -> Failure {
    Box::new(Context { what, cause: cause.into() })
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl Error for Context {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

/// How a command talks.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Output {
    /// Print one JSON object on stdout; errors too, as {"error": ...}.
    #[arg(long, global = true)]
    json: bool,
    /// Show no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
}

impl Output {
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints the result of a command.
    pub(crate) fn print(self, report: &Report) -> Outcome {
        if self.json {
            print(&format!("{:#}\n", Value::from(report.json.clone())))
        } else {
            print(&report.text)
        }
    }

    /// Prints why a command failed; the exit code tells damage from other failures.
    pub(crate) fn fail(self, failure: &(dyn Error + 'static)) -> ExitCode {
        let (messages, damage) = (chain(failure), damage(failure));
        eprintln!("error: {}", messages.join("\n  caused by: "));
        if self.json {
            print_json_error(&messages, damage);
        }
        ExitCode::from(if damage.is_some() { 3 } else { 1 })
    }

    /// A progress bar on stderr: hidden where nobody watches.
    pub(crate) fn progress(self, total: u64, unit: &str) -> ProgressBar {
        if self.json || self.quiet {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        let template =
            format!("{{wide_bar}} {{human_pos}} of {{human_len}} {unit}, {{rate}}/s, {{eta}} left");
        let style = ProgressStyle::with_template(&template).expect("a constant template");
        let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
            let _ = write!(out, "{}", HumanCount(state.per_sec() as u64));
        };
        bar.with_style(style.with_key("rate", rate))
    }
}

/// Shows progress on a bar.
pub(crate) fn advance(bar: &indicatif::ProgressBar) -> impl Fn(Progress) -> bool {
    |progress| {
        bar.set_length(progress.total);
        bar.set_position(progress.done);
        true
    }
}

/// An error as JSON on stdout: its message and those of its causes, and which file is damaged.
pub(crate) fn print_json_error(messages: &[String], damage: Option<&Corruption>) {
    let mut error = json!({"error": messages[0], "causes": messages[1..]});
    if let Some(Corruption { file, offset, what, .. }) = damage {
        error["damaged"] = json!(true);
        error["damage"] =
            json!({"file": file.display().to_string(), "offset": offset, "what": what});
    }
    // The exit code and stderr still tell, if stdout is gone.
    let _ = print(&format!("{error:#}\n"));
}

/// What is damaged, if that is why a command failed.
fn damage<'a>(failure: &'a (dyn Error + 'static)) -> Option<&'a Corruption> {
    let causes = std::iter::successors(Some(failure), |e| (*e).source());
    causes.filter_map(|e| e.downcast_ref()).find_map(|e| match e {
        matryo::Error::Corrupt(damage) => Some(damage),
        _ => None,
    })
}

/// The messages of an error and its causes. Some errors end with the message of
/// their cause; said once is enough.
fn chain(failure: &(dyn Error + 'static)) -> Vec<String> {
    let mut messages = vec![failure.to_string()];
    let causes = std::iter::successors(failure.source(), |e| (*e).source());
    for message in causes.map(ToString::to_string) {
        if !messages.last().is_some_and(|last| last.ends_with(&message)) {
            messages.push(message);
        }
    }
    messages
}

/// Writes to stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Outcome {
    print_some(text).map(drop)
}

/// Writes to stdout, if anybody reads on: else there is no use in more.
pub(crate) fn print_some(text: &str) -> Outcome<bool> {
    let mut stdout = io::stdout().lock();
    is_read(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// Whether somebody reads on, by what became of a write to stdout.
pub(crate) fn is_read(written: io::Result<()>) -> Outcome<bool> {
    match written {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(context("cannot write to stdout".into(), e)),
        Ok(()) => Ok(true),
    }
}

/// What a command found out.
#[derive(Default)]
pub(crate) struct Report {
    json: Map<String, Value>,
    text: String,
}

impl Report {
    /// Adds a value under `key`, and a line that names it the same way.
    pub(crate) fn field(&mut self, key: &str, value: impl Into<Value>, text: impl fmt::Display) {
        let label = key.replace('_', " ");
        writeln!(self.text, "{label:<24} {text}").expect("a String grows");
        self.json.insert(key.into(), value.into());
    }

    /// Adds a value that reads the same in both forms.
    pub(crate) fn plain(&mut self, key: &str, value: impl Into<Value> + fmt::Display + Clone) {
        self.field(key, value.clone(), value);
    }

    /// Adds a count.
    pub(crate) fn count(&mut self, key: &str, n: u64) {
        self.field(key, n, HumanCount(n));
    }

    /// Adds a size.
    pub(crate) fn bytes(&mut self, key: &str, n: u64) {
        self.field(key, n, BinaryBytes(n));
    }

    /// Adds a figure, with its unit.
    pub(crate) fn figure(&mut self, key: &str, value: f64, unit: &str) {
        // Three digits that mean something; more would be noise.
        let digits = if value.abs() >= 100.0 {
            0
        } else if value.abs() >= 10.0 {
            1
        } else {
            3
        };
        self.field(key, value, format_args!("{value:.digits$}{unit}"));
    }

    /// Adds a value that only scripts see, and text that only people see.
    pub(crate) fn block(&mut self, key: &str, value: impl Into<Value>, text: &str) {
        self.text.push_str(text);
        self.json.insert(key.into(), value.into());
    }

    /// Adds bytes per row; of no rows there is no such figure.
    pub(crate) fn per_vector(&mut self, key: &str, bytes: u64, rows: u64) {
        if rows == 0 {
            return self.field(key, Value::Null, "-");
        }
        self.figure(key, bytes as f64 / rows as f64, " B");
    }

    /// Adds how long something took and how much of it a second did.
    pub(crate) fn seconds(&mut self, time: Duration) {
        self.figure("seconds", time.as_secs_f64(), " s");
    }
}

/// The funnel of one search, for scripts.
pub(crate) fn explain_json(explain: &Explain) -> Value {
    let stages = explain.stages.iter().map(|s| {
        json!({"name": s.name.as_str(), "dims": s.dims, "rows_in": s.rows_in, "rows_out": s.rows_out,
               "bytes": s.bytes, "microseconds": s.time.as_secs_f64() * 1e6})
    });
    let recall = explain.recall.map(|recall| {
        let (measured, interval) = recall.measured.map(|m| (m.recall, m.interval)).unzip();
        json!({"asked": recall.asked, "measured": measured, "interval": interval})
    });
    json!({"exact": explain.exact, "recall": recall, "stages": stages.collect::<Vec<_>>()})
}

/// A size on the command line: bytes, or with K, M or G so many powers of 1024.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size: expected bytes, or as in 512K, 64M, 2G");
    let (digits, shift) = match text.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

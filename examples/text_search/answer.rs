//! Prints answers: the hits, the funnel that found them, and what each
//! granularity would have found.

use std::error::Error;
use std::io::Write;

use matryo::embed::Embedder;
use matryo::{Collection, Hit, Payload, RowId, SearchResult};

use super::corpus::name_and_version;

/// Depth at which answers are compared with exact ones.
const TOP: usize = 10;

/// Rows of the table of granularities.
const COMPARED: usize = 5;

/// How questions are answered.
pub(crate) struct Asking<'a> {
    pub(crate) collection: &'a Collection,
    pub(crate) embedder: &'a Embedder,
    pub(crate) limit: usize,
    pub(crate) recall: f64,
}

impl Asking<'_> {
    /// Answers one question.
    pub(crate) fn ask(&self, question: &str, out: &mut dyn Write) -> Result<(), Box<dyn Error>> {
        writeln!(out, "\n? {question}\n")?;
        let query = self.embedder.embed_query(question)?;
        if query.iter().all(|v| *v == 0.0) {
            writeln!(out, "  The model knows no word of this.")?;
            return Ok(());
        }
        let depth = self.limit.max(TOP);
        let search = || self.collection.search(&query).limit(depth).payloads(true);
        // Twice, and the second counts: the first reads pages from disk.
        search().recall(self.recall).run()?;
        let found = search().recall(self.recall).run()?;
        search().exact().run()?;
        let truth = search().exact().run()?;
        for (at, hit) in found.hits.iter().take(self.limit).enumerate() {
            print_hit(at + 1, hit, out)?;
        }
        print_funnel(&found, &truth, out)?;
        self.side_by_side(&query, &truth, out)
    }

    /// The best hits at each granularity, as if the vectors had no more dimensions.
    fn side_by_side(
        &self,
        query: &[f32],
        truth: &SearchResult,
        out: &mut dyn Write,
    ) -> Result<(), Box<dyn Error>> {
        let dims = self.collection.schema().granularities();
        let answers: Vec<SearchResult> = dims
            .iter()
            .map(|d| self.collection.search(query).dims(*d).limit(TOP).exact().payloads(true).run())
            .collect::<Result<_, _>>()?;
        let width = (112 / dims.len().max(1)).clamp(12, 32);
        let line = |cells: Vec<String>| {
            let cells: Vec<String> = cells.iter().map(|c| format!("{c:<width$}")).collect();
            format!("  {}", cells.concat().trim_end())
        };
        writeln!(out, "\n  By the first dimensions alone (* in the top {TOP} of all):")?;
        writeln!(out, "{}", line(dims.iter().map(|d| format!("  {d}")).collect()))?;
        for rank in 0..COMPARED.min(truth.hits.len()) {
            let cell = |answer: &SearchResult| {
                let Some(hit) = answer.hits.get(rank) else { return String::new() };
                let mark = if is_in(hit, truth) { '*' } else { ' ' };
                format!("{mark} {}", short_name(hit, width - 3))
            };
            writeln!(out, "{}", line(answers.iter().map(cell).collect()))?;
        }
        let kept = answers.iter().map(|a| format!("  {} of {TOP}", common(a, truth)));
        writeln!(out, "{}", line(kept.collect()))?;
        let bytes = self.collection.schema().stored().bytes();
        let sizes = dims.iter().map(|d| format!("  {} bytes", d * bytes));
        writeln!(out, "{}", line(sizes.collect()))?;
        Ok(())
    }
}

fn print_hit(rank: usize, hit: &Hit, out: &mut dyn Write) -> std::io::Result<()> {
    let empty = Payload::new();
    let payload = hit.payload.as_ref().unwrap_or(&empty);
    let place = Place::of(hit);
    let line = payload.get("line").and_then(matryo::Value::as_u64).unwrap_or(0);
    let title = text(payload, "title");
    let (name, version) = name_and_version(place.krate);
    writeln!(out, "{rank:>3}  {:.3}  {name} {version}  {}:{line}  {title}", hit.score, place.file)?;
    writeln!(out, "            {}", cut(text(payload, "text"), 88))
}

fn print_funnel(
    found: &SearchResult,
    truth: &SearchResult,
    out: &mut dyn Write,
) -> std::io::Result<()> {
    writeln!(out)?;
    for line in found.explain.to_string().lines() {
        writeln!(out, "  {line}")?;
    }
    let all: &[_] = &truth.hits;
    writeln!(
        out,
        "  found {} of the true top {}; an exact search reads {} bytes, in {} us",
        common(found, truth),
        all.len().min(TOP),
        truth.explain.bytes(),
        truth.explain.time().as_micros(),
    )
}

/// Where a passage comes from.
struct Place<'h> {
    krate: &'h str,
    file: &'h str,
}

impl<'h> Place<'h> {
    fn of(hit: &'h Hit) -> Self {
        let RowId::Str(id) = &hit.id else { return Self { krate: "", file: "" } };
        let path = id.rsplit_once('#').map_or(&**id, |(path, _)| path);
        let (krate, file) = path.split_once('/').unwrap_or((".", path));
        Self { krate, file }
    }
}

/// A hit in a few letters: its crate and its item, of which the item is cut last.
fn short_name(hit: &Hit, most: usize) -> String {
    let (name, _) = name_and_version(Place::of(hit).krate);
    let title = hit.payload.as_ref().map_or("", |payload| text(payload, "title"));
    let item = title.rsplit("::").next().unwrap_or(title);
    let item = item.strip_prefix(name).and_then(|i| i.strip_prefix(": ")).unwrap_or(item);
    let left = most.saturating_sub(item.chars().count() + 1).max(most / 2);
    cut(&format!("{} {item}", cut(name, left)), most)
}

fn text<'p>(payload: &'p Payload, field: &str) -> &'p str {
    payload.get(field).and_then(matryo::Value::as_str).unwrap_or_default()
}

/// Hits of `a` among the first [`TOP`] of both.
fn common(a: &SearchResult, b: &SearchResult) -> usize {
    a.hits.iter().take(TOP).filter(|hit| is_in(hit, b)).count()
}

fn is_in(hit: &Hit, answer: &SearchResult) -> bool {
    answer.hits.iter().take(TOP).any(|other| other.id == hit.id)
}

/// At most `most` characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(2)).chain("..".chars()).collect()
}

//! The page: one section for each question, one row of pictures for each
//! granularity, and the funnel. It is one file; thumbnails are in it, each once.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{self, Write};

use matryo::Explain;
use matryo::embed::Image;

use super::pictures::{Picture, Source};

/// What was asked.
pub(crate) enum Question {
    Words(String),
    /// A picture, and what it is called.
    Picture(String, Image),
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(words) => f.write_str(words),
            Self::Picture(name, _) => write!(f, "like the picture {name}"),
        }
    }
}

/// What was found: picture numbers with scores.
pub(crate) struct Answer {
    /// By exact search of so many dimensions; the last has all.
    pub(crate) rows: Vec<(usize, Vec<(usize, f32)>)>,
    /// By the funnel.
    pub(crate) funnel: Vec<(usize, f32)>,
    pub(crate) explain: Explain,
}

impl Answer {
    fn truth(&self) -> &[(usize, f32)] {
        self.rows.last().map_or(&[], |(_, hits)| hits)
    }

    /// How many of some hits are among those of all dimensions.
    fn kept(&self, hits: &[(usize, f32)]) -> usize {
        hits.iter().filter(|(id, _)| self.is_true(*id)).count()
    }

    fn is_true(&self, id: usize) -> bool {
        self.truth().iter().any(|(other, _)| *other == id)
    }
}

pub(crate) struct Page<'a> {
    pictures: &'a [Picture],
    head: String,
    body: String,
    /// Pictures that are shown, whose thumbnails are needed.
    shown: BTreeSet<usize>,
    thumbnails: String,
}

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2330;--soft:#667085;--line:#e3e7ee;--card:#fff;--page:#f6f7f9;--mark:#2563a8;--bar:#c9dcf2}
@media(prefers-color-scheme:dark){:root{--ink:#e8ebf1;--soft:#98a2b3;--line:#323a48;--card:#1d232d;--page:#141920;--mark:#7db4ee;--bar:#2b4a6d}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:28px 24px 60px;background:var(--page);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
h1{font-size:24px;margin:0 0 4px}
header p{margin:4px 0;color:var(--soft);max-width:80ch}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;margin:24px 0;padding:18px 20px}
h2{font-size:19px;margin:0 0 10px;display:flex;gap:12px;align-items:center}
.row{display:grid;grid-template-columns:132px 1fr;border-top:1px solid var(--line);padding:10px 0}
.dims b{display:block;font-size:17px}
.dims span{display:block;color:var(--soft);font-size:12.5px}
.hits{display:grid;grid-template-columns:repeat(auto-fill,minmax(92px,1fr));gap:8px}
figure{margin:0;padding:6px 4px;border-radius:8px;text-align:center;border:2px solid transparent;opacity:.62}
figure.kept{border-color:var(--bar);opacity:1}
figcaption{font-size:12px;line-height:1.25;overflow-wrap:anywhere}
figcaption i{display:block;font-style:normal;color:var(--soft);font-variant-numeric:tabular-nums}
.pic{display:block;width:72px;height:72px;margin:0 auto 4px;background:#fff center/contain no-repeat;border-radius:6px}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;margin-top:6px}
caption{text-align:left;color:var(--soft);padding:6px 0}
th,td{padding:3px 14px 3px 0;text-align:right;font-weight:400}
th{color:var(--soft)}
th:first-child,td:first-child{text-align:left}
.bar{width:220px}.bar span{display:block;height:12px;border-radius:3px;background:var(--mark);min-width:2px}
";

impl<'a> Page<'a> {
    pub(crate) fn new(
        model: impl fmt::Display,
        granularities: &[usize],
        rows: u64,
        pictures: &'a [Picture],
    ) -> Self {
        let model = escape(&model.to_string());
        let sizes: Vec<String> = granularities.iter().map(ToString::to_string).collect();
        let head = format!(
            "<header><h1>Pictures found by words and by pictures</h1>\n\
             <p>{rows} pictures, model {model}. Each row of pictures is the answer of the first \
             {} values of the vectors alone, exactly; what the whole vector finds as well is \
             framed. Below them is the funnel that finds the whole vector's answer while it reads \
             little.</p></header>\n",
            sizes.join(", ")
        );
        let (body, thumbnails) = (String::new(), String::new());
        Self { pictures, head, body, shown: BTreeSet::new(), thumbnails }
    }

    /// The best hits of the whole vector, as a line of text.
    pub(crate) fn in_words(&self, answer: &Answer) -> String {
        let name = |(id, score): &(usize, f32)| format!("{} ({score:.2})", self.pictures[*id].name);
        let best: Vec<String> = answer.truth().iter().take(5).map(name).collect();
        let rows = answer.rows.iter().map(|(dims, hits)| format!("{dims}: {}", answer.kept(hits)));
        let kept: Vec<String> = rows.collect();
        let most = answer.truth().len();
        format!("  {}\n  kept of the best {most} at {}", best.join(", "), kept.join(", "))
    }

    pub(crate) fn add(
        &mut self,
        question: &Question,
        answer: &Answer,
    ) -> Result<(), Box<dyn Error>> {
        self.body.push_str("<section>\n<h2>");
        match question {
            Question::Words(words) => write!(self.body, "&ldquo;{}&rdquo;", escape(words))?,
            Question::Picture(name, image) => {
                let picture = Picture { name: String::new(), source: Source::Drawn(image.clone()) };
                let (kind, bytes) = picture.thumbnail()?;
                let name = escape(name);
                let data = base64(&bytes);
                write!(
                    self.body,
                    "<span class=\"pic\" role=\"img\" aria-label=\"{name}\" style=\"margin:0;\
                     background-image:url(data:{kind};base64,{data})\"></span>like this: {name}"
                )?;
            }
        }
        self.body.push_str("</h2>\n");
        for (dims, hits) in &answer.rows {
            self.row(*dims, hits, answer)?;
        }
        self.funnel(answer)?;
        self.body.push_str("</section>\n");
        Ok(())
    }

    fn row(
        &mut self,
        dims: usize,
        hits: &[(usize, f32)],
        answer: &Answer,
    ) -> Result<(), Box<dyn Error>> {
        writeln!(
            self.body,
            "<div class=\"row\"><div class=\"dims\"><b>{dims} dims</b><span>{} bytes each\
             </span><span>{} of {} kept</span></div><div class=\"hits\">",
            dims * 2,
            answer.kept(hits),
            answer.truth().len()
        )?;
        for (id, score) in hits {
            self.thumbnail(*id)?;
            let name = escape(&self.pictures[*id].name);
            let kept = if answer.is_true(*id) { " class=\"kept\"" } else { "" };
            writeln!(
                self.body,
                "<figure{kept}><span class=\"pic t{id}\" role=\"img\" aria-label=\"{name}\"></span>\
                 <figcaption>{name}<i>{score:.3}</i></figcaption></figure>"
            )?;
        }
        self.body.push_str("</div></div>\n");
        Ok(())
    }

    fn funnel(&mut self, answer: &Answer) -> fmt::Result {
        let found = answer.kept(&answer.funnel);
        write!(
            self.body,
            "<table><caption>The funnel: {found} of {} found, {} bytes read in {} &micro;s\
             </caption>\n<tr><th>stage</th><th>dims</th><th>rows in</th><th>rows out</th>\
             <th>bytes</th><th>&micro;s</th><th></th></tr>\n",
            answer.truth().len(),
            answer.explain.bytes(),
            answer.explain.time().as_micros()
        )?;
        let most = answer.explain.stages.iter().map(|s| s.rows_in).max().unwrap_or(1).max(1);
        for stage in &answer.explain.stages {
            writeln!(
                self.body,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
                 <td class=\"bar\"><span style=\"width:{:.1}%\"></span></td></tr>",
                escape(&stage.name),
                stage.dims,
                stage.rows_in,
                stage.rows_out,
                stage.bytes,
                stage.time.as_micros(),
                stage.rows_in as f64 / most as f64 * 100.0
            )?;
        }
        self.body.push_str("</table>\n");
        Ok(())
    }

    /// Puts a picture's thumbnail into the style sheet, once.
    fn thumbnail(&mut self, id: usize) -> Result<(), Box<dyn Error>> {
        if self.shown.insert(id) {
            let (kind, bytes) = self.pictures[id].thumbnail()?;
            let data = base64(&bytes);
            writeln!(self.thumbnails, ".t{id}{{background-image:url(data:{kind};base64,{data})}}")?;
        }
        Ok(())
    }

    pub(crate) fn html(&self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>matryo: image search</title>\n<style>{STYLE}{}</style></head>\n\
             <body>\n{}{}</body></html>\n",
            self.thumbnails, self.head, self.body
        )
    }
}

/// Text between tags and in quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// RFC 4648, section 4.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[value]) } else { '=' });
        }
    }
    text
}

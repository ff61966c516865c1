//! Markdown -> sections of plain sentences. Code blocks, HTML, images and link
//! targets go; words stay.

/// Text under one heading.
#[derive(Debug, Default)]
pub(super) struct Section {
    /// Empty above the first heading.
    pub(super) heading: String,
    /// Paragraphs, each with its first line's number.
    pub(super) paragraphs: Vec<(usize, String)>,
}

/// Sections that say the same in every project.
const BOILERPLATE: [&str; 9] = [
    "licen",
    "contribut",
    "changelog",
    "copyright",
    "table of contents",
    "code of conduct",
    "acknowledg",
    "sponsor",
    "credits",
];

/// Headings inside documentation of an item that name no subject.
const PLAIN: [&str; 5] = ["example", "examples", "usage", "note", "notes"];

/// Cuts numbered lines of Markdown into sections.
pub(super) fn sections(lines: &[(usize, &str)]) -> Vec<Section> {
    let mut reader = Reader::default();
    for (number, line) in lines {
        reader.line(*number, line);
    }
    reader.end_section(String::new());
    reader.sections
}

#[derive(Default)]
struct Reader {
    sections: Vec<Section>,
    current: Section,
    /// The paragraph at hand.
    paragraph: String,
    begins: usize,
    /// What closes the code block we are in.
    fence: Option<&'static str>,
    in_comment: bool,
    in_list: bool,
    after_blank: bool,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) {
        let text = line.trim();
        if let Some(fence) = ["```", "~~~"].into_iter().find(|f| text.starts_with(f)) {
            match self.fence {
                None => self.fence = Some(fence),
                Some(open) if open == fence => self.fence = None,
                Some(_) => {}
            }
            self.after_blank = false;
            return;
        }
        if self.fence.is_some() || self.comment(text) {
            return;
        }
        let indented = line.starts_with("    ") || line.starts_with('\t');
        let code = indented && (self.after_blank || self.paragraph.is_empty()) && !self.in_list;
        self.after_blank = text.is_empty();
        if text.is_empty() {
            self.end_paragraph();
        } else if let Some(heading) = heading(text) {
            self.end_section(plain(heading));
        } else if underline(text) {
            // The paragraph above was a heading, or this is a rule.
            let heading = std::mem::take(&mut self.paragraph);
            self.end_section(heading.trim().to_owned());
        } else if !code && !is_definition(text) {
            self.sentence(number, text);
        }
    }

    /// Whether the line is in an HTML comment.
    fn comment(&mut self, text: &str) -> bool {
        let was = self.in_comment;
        self.in_comment |= text.starts_with("<!--");
        let is = self.in_comment;
        self.in_comment &= !text.contains("-->");
        was || is
    }

    fn sentence(&mut self, number: usize, text: &str) {
        let item = list_item(text);
        if item.is_some() {
            self.in_list = true;
            self.end_sentence();
        } else if self.paragraph.is_empty() {
            self.in_list = false;
        }
        let text = plain(item.unwrap_or(text).trim_start_matches('>'));
        if text.is_empty() {
            return;
        }
        if self.paragraph.is_empty() {
            self.begins = number;
        } else {
            self.paragraph.push(' ');
        }
        self.paragraph.push_str(&text);
    }

    /// Closes a list entry with a full stop, so that entries do not run together.
    fn end_sentence(&mut self) {
        if self.paragraph.ends_with(|c: char| c.is_alphanumeric() || c == ')') {
            self.paragraph.push('.');
        }
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        if !paragraph.is_empty() {
            self.current.paragraphs.push((self.begins, paragraph));
        }
    }

    fn end_section(&mut self, next: String) {
        self.end_paragraph();
        self.in_list = false;
        let heading = self.current.heading.to_lowercase();
        let boilerplate = BOILERPLATE.iter().any(|b| heading.contains(b));
        let section = std::mem::take(&mut self.current);
        if !boilerplate && !section.paragraphs.is_empty() {
            self.sections.push(section);
        }
        let says_nothing = PLAIN.contains(&next.to_lowercase().trim_end_matches(':'));
        self.current.heading = if says_nothing { String::new() } else { next };
    }
}

fn heading(text: &str) -> Option<&str> {
    let heading = text.trim_start_matches('#');
    let depth = text.len() - heading.len();
    let is = (1..=6).contains(&depth) && heading.starts_with(' ');
    is.then(|| heading.trim_end_matches('#').trim())
}

/// A line of `=` or `-` under a heading.
fn underline(text: &str) -> bool {
    text.len() >= 3 && (text.bytes().all(|b| b == b'=') || text.bytes().all(|b| b == b'-'))
}

/// `[name]: target`, which only links use.
fn is_definition(text: &str) -> bool {
    text.starts_with('[') && text.find("]:").is_some_and(|at| !text[..at].contains("]("))
}

fn list_item(text: &str) -> Option<&str> {
    let marked = ["* ", "- ", "+ "].iter().find_map(|mark| text.strip_prefix(mark));
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let numbered = (1..=3).contains(&digits).then(|| &text[digits..]);
    marked.or_else(|| numbered?.strip_prefix(". "))
}

/// A line without inline markup.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let (text, length) = match c {
            '`' => code_span(rest),
            '!' if rest.starts_with("![") => ("", 1 + link(&rest[1..]).map_or(1, |(_, n)| n)),
            '[' => match link(rest) {
                // A badge is an image inside a link.
                Some((text, length)) if text.starts_with("![") => ("", length),
                Some((text, length)) => {
                    out.push_str(&plain(text));
                    ("", length)
                }
                None => ("", 1),
            },
            '<' => match tag(rest) {
                Some(length) => (" ", length),
                None => ("<", 1),
            },
            '*' | '|' => (" ", 1),
            // Emphasis has a gap on one side, a name has letters on both.
            '_' if gap(out.chars().next_back()) != gap(rest[1..].chars().next()) => ("", 1),
            '\\' => ("", 1),
            '&' if rest.starts_with("&nbsp;") => (" ", 6),
            _ => (&rest[..c.len_utf8()], c.len_utf8()),
        };
        out.push_str(text);
        rest = &rest[length..];
    }
    let is_word = |word: &&str| {
        let rule = word.len() > 2 && word.bytes().all(|b| matches!(b, b'-' | b'=' | b':'));
        !rule && !word.contains("://")
    };
    let words: Vec<&str> = out.split_whitespace().filter(is_word).collect();
    // Where emphasis was removed before a stop, no gap is to stay.
    words.join(" ").replace(" .", ".").replace(" ,", ",")
}

fn gap(c: Option<char>) -> bool {
    c.is_none_or(|c| !c.is_alphanumeric() && c != '_')
}

/// The text of `` `code` `` and the length of it all.
fn code_span(text: &str) -> (&str, usize) {
    let ticks = text.bytes().take_while(|b| *b == b'`').count();
    match text[ticks..].find(&text[..ticks]) {
        Some(length) => (&text[ticks..ticks + length], ticks + length + ticks),
        None => ("", ticks),
    }
}

/// The text of `[text](target)`, `[text][name]` or `[text]`, and the length of it all.
fn link(text: &str) -> Option<(&str, usize)> {
    let end = closing(text, b'[', b']')?;
    let after = &text[end + 1..];
    let target = match after.as_bytes().first() {
        Some(b'(') => closing(after, b'(', b')'),
        Some(b'[') => closing(after, b'[', b']'),
        _ => None,
    };
    Some((&text[1..end], end + 1 + target.map_or(0, |at| at + 1)))
}

/// Where the bracket that opens `text` is closed.
fn closing(text: &str, open: u8, close: u8) -> Option<usize> {
    let mut depth = 0_u32;
    text.bytes().position(|b| {
        if b == open {
            depth += 1;
        } else if b == close {
            depth = depth.saturating_sub(1);
        }
        depth == 0
    })
}

/// The length of an HTML tag or autolink.
fn tag(text: &str) -> Option<usize> {
    let next = text.as_bytes().get(1)?;
    let length = text.find('>')? + 1;
    (next.is_ascii_alphabetic() || *next == b'/').then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_goes_and_words_stay() {
        let cases = [
            ("Maps a [`File`](std::fs::File) into **memory**.", "Maps a File into memory."),
            ("[![badge](https://a)](https://b) text", "text"),
            ("see [the book][book], `Vec<T>` &nbsp;<br/>or https://x.y", "see the book, Vec<T> or"),
            ("| a | b |", "a b"),
            ("_Fast_ snake_case _too, yes_", "Fast snake_case too, yes"),
            ("a < b [x", "a < b x"),
            ("`` a`b `` and `open", "a`b and open"),
        ];
        for (markdown, expected) in cases {
            assert_eq!(plain(markdown), expected);
        }
    }

    #[test]
    fn sections_begin_at_headings_and_leave_code_out() {
        let text = "Intro\nof it.\n\n```rust\n# not a heading\n```\n<!-- hidden\nmore -->\n# One #\n\
            * first\n* second\n\nTwo\n---\nlast\n\n     code\n## License\nMIT\n[a]: https://b\n";
        let lines: Vec<_> = text.lines().enumerate().map(|(at, l)| (at + 1, l)).collect();
        let found: Vec<_> = sections(&lines)
            .into_iter()
            .map(|s| (s.heading, s.paragraphs[0].0, s.paragraphs[0].1.clone()))
            .collect();
        let expected = [("", 1, "Intro of it."), ("One", 10, "first. second"), ("Two", 15, "last")];
        assert_eq!(found, expected.map(|(h, n, t)| (h.to_owned(), n, t.to_owned())));
    }
}

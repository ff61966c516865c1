//! Documentation comments of Rust source, each with the name of its item.
//!
//! This reads lines, not syntax: what rustfmt lays out it understands, the rest
//! it names less well. Comments in macros and strings can be taken for real ones.

/// A documented item.
pub(super) struct Item<'a> {
    /// `Type::method`, `function`, ...; empty for the file itself.
    pub(super) title: String,
    /// Numbered lines of its comment, without the comment signs.
    pub(super) lines: Vec<(usize, &'a str)>,
}

/// All documented items of a source file.
pub(super) fn documented_items(source: &str) -> Vec<Item<'_>> {
    let mut items = Vec::new();
    let mut scopes = Scopes::default();
    let mut inner = Vec::new();
    let mut outer: Vec<(usize, &str)> = Vec::new();
    let mut comments = Comments::default();
    let mut attribute = 0;
    for (at, line) in source.lines().enumerate() {
        match comments.read(line) {
            Line::Outer(text) => outer.push((at + 1, text.strip_prefix(' ').unwrap_or(text))),
            Line::Inner(text) => inner.push((at + 1, text.strip_prefix(' ').unwrap_or(text))),
            Line::Other => {}
            Line::Code(code) => {
                let depth = brackets(code);
                if attribute > 0 || code.starts_with("#[") || code.starts_with("#![") {
                    attribute = (attribute + depth).max(0);
                    continue;
                }
                let indent = line.len() - line.trim_start().len();
                if !outer.is_empty() {
                    let title = scopes.title(indent, name_of(code).unwrap_or_default());
                    items.push(Item { title, lines: std::mem::take(&mut outer) });
                }
                scopes.read(indent, code);
            }
        }
    }
    if !inner.is_empty() {
        items.insert(0, Item { title: String::new(), lines: inner });
    }
    items
}

/// Opening minus closing square brackets.
fn brackets(code: &str) -> i32 {
    code.bytes().map(|b| i32::from(b == b'[') - i32::from(b == b']')).sum()
}

enum Line<'a> {
    /// `///` or inside `/** */`: about the next item.
    Outer(&'a str),
    /// `//!` or inside `/*! */`: about the file.
    Inner(&'a str),
    Code(&'a str),
    /// Blank, or a comment that is no documentation.
    Other,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Block {
    #[default]
    None,
    Outer,
    Inner,
    Plain,
}

/// Tells comments from code, line by line.
#[derive(Default)]
struct Comments {
    block: Block,
}

impl Comments {
    fn read<'a>(&mut self, line: &'a str) -> Line<'a> {
        let code = line.trim();
        if self.block != Block::None {
            return self.inside(code);
        }
        if let Some(text) = code.strip_prefix("//!") {
            return Line::Inner(text);
        }
        if let Some(text) = code.strip_prefix("///").filter(|t| !t.starts_with('/')) {
            return Line::Outer(text);
        }
        if code.is_empty() || code.starts_with("//") {
            return Line::Other;
        }
        let Some(rest) = code.strip_prefix("/*") else { return Line::Code(code) };
        let (block, text) = match rest.as_bytes().first() {
            Some(b'!') => (Block::Inner, &rest[1..]),
            Some(b'*') if !rest.starts_with("**") && !rest.starts_with("*/") => {
                (Block::Outer, &rest[1..])
            }
            _ => (Block::Plain, rest),
        };
        self.block = block;
        self.inside(text)
    }

    fn inside<'a>(&mut self, code: &'a str) -> Line<'a> {
        let block = self.block;
        let text = code.find("*/").map_or(code, |end| {
            self.block = Block::None;
            &code[..end]
        });
        // The usual column of stars is no list.
        let text = text.strip_prefix('*').unwrap_or(text);
        match block {
            Block::Outer => Line::Outer(text),
            Block::Inner => Line::Inner(text),
            Block::None | Block::Plain => Line::Other,
        }
    }
}

/// The types, traits and modules around a line, by indentation.
#[derive(Default)]
struct Scopes {
    open: Vec<(usize, String)>,
}

impl Scopes {
    fn read(&mut self, indent: usize, code: &str) {
        let opens = ["impl", "trait", "struct", "enum", "union", "mod"];
        let closes = code.starts_with('}');
        let scope = keyword(code).filter(|(word, _)| opens.contains(word));
        if closes || scope.is_some() {
            self.open.retain(|(at, _)| *at < indent);
        }
        if let (Some(_), false) = (scope, code.ends_with(';') || code.ends_with('}')) {
            self.open.extend(name_of(code).map(|name| (indent, name)));
        }
    }

    fn title(&self, indent: usize, name: String) -> String {
        let scope = self.open.iter().rfind(|(at, _)| *at < indent);
        match scope {
            Some((_, scope)) if name.is_empty() => scope.clone(),
            Some((_, scope)) => format!("{scope}::{name}"),
            None => name,
        }
    }
}

/// The word that says what a line declares, and what follows it.
fn keyword(code: &str) -> Option<(&str, &str)> {
    let mut rest = code;
    loop {
        if rest.starts_with("pub(") {
            rest = rest.split_once(')')?.1.trim_start();
            continue;
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '!')?;
        let (word, after) = rest.split_at(end);
        let after_word = after.trim_start();
        match word {
            "pub" | "unsafe" | "async" | "default" => rest = after_word,
            "const" if after_word.starts_with("fn ") || after_word.starts_with("unsafe ") => {
                rest = after_word;
            }
            "extern" if after_word.starts_with('"') => {
                rest = after_word[1..].split_once('"')?.1.trim_start();
            }
            _ => return Some((word, after)),
        }
    }
}

/// The name of what a line declares: an item, a variant or a field.
fn name_of(code: &str) -> Option<String> {
    const ITEMS: [&str; 10] = [
        "fn",
        "struct",
        "enum",
        "trait",
        "union",
        "mod",
        "type",
        "const",
        "static",
        "macro_rules!",
    ];
    let Some((word, rest)) = keyword(code) else { return identifier(code) };
    if word == "impl" {
        return implemented(rest);
    }
    if ITEMS.contains(&word) {
        return identifier(rest.trim_start().trim_start_matches("mut "));
    }
    identifier(word).filter(|_| rest.starts_with([':', ',', '(', ' ', '=']))
}

/// The type of an `impl` header without the word `impl`.
fn implemented(header: &str) -> Option<String> {
    let mut depth = 0_i32;
    let end = header.char_indices().find(|(_, c)| {
        depth += i32::from(*c == '<') - i32::from(*c == '>');
        depth == 0 && *c != '>'
    });
    let header = &header[end.map_or(0, |(at, _)| at)..];
    let target = header.split_once(" for ").map_or(header, |(_, target)| target);
    let target = target.trim_start_matches([' ', '&', '*']).trim_start_matches("mut ");
    let path = target.split(['<', ' ', '{']).next()?;
    identifier(path.rsplit("::").next()?)
}

fn identifier(text: &str) -> Option<String> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    let name = &text[..end];
    let starts = name.starts_with(|c: char| c.is_alphabetic() || c == '_');
    (starts && name != "_").then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_joined_with_the_name_of_their_item() {
        let source = "//! About the file.\n\n/// A map.\n#[derive(\n    Debug,\n)]\npub struct Map<K> {\n    \
            /// Number of entries.\n    pub(crate) len: usize,\n}\n\nimpl<K: Ord> Clone for Map<K> {\n    \
            /** Copies\n     * it. */\n    #[inline]\n    pub const unsafe fn copy(&self) {}\n}\n\
            //// no documentation\n/// Free.\npub extern \"C\" fn free() {}\n/// Last\n";
        let items = documented_items(source);
        let titles: Vec<&str> = items.iter().map(|i| i.title.as_str()).collect();
        assert_eq!(titles, ["", "Map", "Map::len", "Map::copy", "free"]);
        assert_eq!(items[1].lines, [(3, "A map.")]);
        let copy: Vec<_> = items[3].lines.iter().map(|(n, l)| (*n, l.trim())).collect();
        assert_eq!(copy, [(13, "Copies"), (14, "it.")]);
    }
}

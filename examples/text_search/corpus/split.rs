//! Sections -> passages.

use super::Passage;
use super::markdown::Section;

/// Words in a passage, at most; a last sentence may add [`TAIL`].
const MOST: usize = 120;

/// Paragraphs are gathered until a passage has this many words.
const ENOUGH: usize = 40;

/// A rest shorter than this goes with the passage before it.
const TAIL: usize = 15;

/// Shorter texts say too little to be found by.
const FEWEST: usize = 5;

/// Adds the passages of an item or a file to `found`.
pub(super) fn passages(title: &str, sections: &[Section], found: &mut Vec<Passage>) {
    for section in sections {
        let title = match (title, section.heading.as_str()) {
            (title, "") => title.to_owned(),
            ("", heading) => heading.to_owned(),
            (title, heading) => format!("{title}: {heading}"),
        };
        let start = found.len();
        for (line, paragraph) in &section.paragraphs {
            for piece in pieces(paragraph) {
                add(*line, &title, piece, start, found);
            }
        }
        drop_short(found, start);
    }
}

/// Joins a piece with the passage before it, or begins another.
fn add(line: usize, title: &str, piece: &str, start: usize, found: &mut Vec<Passage>) {
    let size = words(piece);
    if let Some(last) = found[start..].last_mut() {
        let had = words(&last.text);
        if had < ENOUGH && had + size <= MOST || size < TAIL && had <= MOST {
            last.text.push(' ');
            last.text.push_str(piece);
            return;
        }
    }
    found.push(Passage { line, title: title.to_owned(), text: piece.to_owned() });
}

/// Drops what is too short from `start` on.
fn drop_short(found: &mut Vec<Passage>, start: usize) {
    let kept = found.split_off(start).into_iter().filter(|p| words(&p.text) >= FEWEST);
    found.extend(kept);
}

fn words(text: &str) -> usize {
    text.split_whitespace().count()
}

/// A paragraph in pieces of at most [`MOST`] words, cut after a sentence if there
/// is one to cut after.
fn pieces(paragraph: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = paragraph;
    while words(rest) > MOST {
        let limit = after_words(rest, MOST);
        let sentence = rest[..limit]
            .rmatch_indices(['.', '!', '?', ';'])
            .find(|(at, _)| rest[at + 1..].starts_with(' ') && words(&rest[..*at]) >= ENOUGH);
        let cut = sentence.map_or(limit, |(at, _)| at + 1);
        pieces.push(rest[..cut].trim());
        rest = rest[cut..].trim_start();
    }
    pieces.push(rest);
    pieces
}

/// Where the first `count` words end. The words are separated by single spaces.
fn after_words(text: &str, count: usize) -> usize {
    text.match_indices(' ').nth(count - 1).map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(paragraphs: &[&str]) -> Vec<usize> {
        let paragraphs = paragraphs.iter().enumerate().map(|(n, p)| (n, (*p).to_owned()));
        let section = Section { heading: String::new(), paragraphs: paragraphs.collect() };
        let mut found = Vec::new();
        passages("t", &[section], &mut found);
        found.iter().map(|p| words(&p.text)).collect()
    }

    #[test]
    fn passages_have_some_hundred_words() {
        let sentence = "One two three four five six seven eight nine ten. ";
        let (short, long) = (sentence.trim(), sentence.repeat(30));
        assert_eq!(cut(&[short, short, short]), [30]);
        assert_eq!(cut(&[&long]), [120, 120, 60]);
        assert_eq!(cut(&["too short"]), [0; 0]);
        assert_eq!(cut(&[&"word ".repeat(250)]), [120, 130]);
        assert_eq!(cut(&[&sentence.repeat(11), short]), [120]);
    }
}

//! FORMAT.md says what the code does: offset tables, numbers and the example.
//!
//! `MATRYO_BLESS=1` writes the example anew; the tables are written by hand.

#[path = "support/dump.rs"]
mod dump;
mod support;

use std::path::Path;

use matryo::testing::format::{LAYOUTS, NUMBERS};

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("FORMAT.md")
}

fn text() -> String {
    std::fs::read_to_string(path()).expect("FORMAT.md is there")
}

/// Rows (offset, size, field) of the first table under the heading that names
/// the structure.
fn table(text: &str, name: &str) -> Vec<(usize, usize, String)> {
    let heading = format!("`{name}`");
    let mut lines = text.lines().skip_while(|l| !(l.starts_with('#') && l.contains(&heading)));
    assert!(lines.next().is_some(), "no heading names {heading}");
    let rows = lines
        .take_while(|line| !line.starts_with('#'))
        .skip_while(|line| !line.starts_with("| offset | size | field | meaning |"))
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert!(cells.len() >= 6 && !cells[4].is_empty(), "{name}: a row without meaning: {line}");
        let number = |cell: &str| cell.parse().unwrap_or_else(|_| panic!("{name}: {line}"));
        (number(cells[1]), number(cells[2]), cells[3].trim_matches('`').to_owned())
    };
    rows.filter(|line| !line.contains("--:")).map(row).collect()
}

#[test]
fn offset_tables_are_those_of_the_code() {
    let text = text();
    for (name, len, fields) in LAYOUTS {
        let documented = table(&text, name);
        let fields: Vec<_> = fields.iter().map(|(f, at, n)| (*at, *n, (*f).to_owned())).collect();
        assert_eq!(documented, fields, "{name}");
        let end = documented.iter().fold(0, |end, (at, size, field)| {
            assert_eq!(*at, end, "{name}: gap or overlap before {field}");
            end + size
        });
        assert_eq!(end, *len, "{name}: length");
        assert!(text.contains(&format!("`{name}`, {len} bytes")), "{name}: heading says {len}");
    }
}

/// Numbers are written as `` `NAME` = value `` somewhere in FORMAT.md.
#[test]
fn numbers_are_those_of_the_code() {
    let text = text();
    for (name, value) in NUMBERS {
        let written = format!("`{name}` = {value}");
        let found = text.match_indices(&written).any(|(at, _)| {
            !text[at + written.len()..].starts_with(|next: char| next.is_ascii_digit())
        });
        assert!(found, "FORMAT.md does not say {written}");
        let other = text.matches(&format!("`{name}` = ")).count();
        assert_eq!(other, 1, "{name} is said once");
    }
}

#[test]
fn the_checksum_has_the_test_value() {
    let value = support::crc32(b"123456789");
    assert_eq!(value, 0xcbf4_3926);
    assert!(text().contains(&format!("0x{value:08X}")));
}

#[test]
fn the_example_has_the_bytes_the_code_writes() {
    const BEGIN: &str = "<!-- example: written by tests/format_doc.rs -->\n";
    const END: &str = "\n<!-- end of example -->";
    let text = text();
    let (before, rest) = text.split_once(BEGIN).expect("FORMAT.md has the example");
    let (example, after) = rest.split_once(END).expect("the example ends");
    let collection = dump::example();
    let written = dump::dump(&collection);
    if std::env::var_os("MATRYO_BLESS").is_some() {
        std::fs::write(path(), [before, BEGIN, &written, END, after].concat()).expect("write");
    } else if example != written {
        let differs = example.lines().zip(written.lines()).find(|(a, b)| a != b);
        panic!("the example differs from what is written now, first at {differs:?}");
    }
}

#[test]
fn the_document_keeps_to_ascii_and_its_width() {
    for (n, line) in text().lines().enumerate() {
        assert!(line.is_ascii(), "line {}: {line}", n + 1);
        // A table's row cannot be broken.
        let fits = line.len() <= 120 || line.starts_with('|');
        assert!(fits, "line {} has {} columns", n + 1, line.len());
    }
}

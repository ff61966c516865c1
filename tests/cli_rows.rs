//! `matryo import --payloads`, `export`, `get` and `delete` as a script meets them.
#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::Command;

use matryo::{Collection, FieldKind, IdKind, Schema};
use serde_json::{Value, json};

type Done = Result<(), Box<dyn std::error::Error>>;

/// A folder the program runs in.
struct Place(tempfile::TempDir);

impl Place {
    /// With the vectors `[n, 1]` of five rows in `v.npy`, and payloads in `rows.jsonl`.
    fn new() -> std::io::Result<Self> {
        let place = Self(tempfile::tempdir()?);
        place.vectors("v.npy", 5);
        place.lines(
            "rows.jsonl",
            &[
                json!({"isbn": 30, "year": 1999, "author": {"name": "Ann"}, "tags": ["a", "b"]}),
                json!({"isbn": 10, "year": 2020, "author": {"name": "Ben"}}),
                json!({"isbn": 20, "year": 2021, "tags": []}),
                json!({"isbn": 50, "author": null}),
                json!({"isbn": 40, "year": 2020, "tags": ["b"], "title": "\u{e9}\n\"x\""}),
            ],
        );
        Ok(place)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn vectors(&self, name: &str, rows: u16) {
        let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, 2), }}\n");
        let values = (0..rows).flat_map(|n| [f32::from(n) / 3.0, 1.0]);
        let data: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
        let length = (text.len() as u16).to_le_bytes();
        let bytes = [b"\x93NUMPY\x01\x00", length.as_slice(), text.as_bytes(), &data].concat();
        std::fs::write(self.at(name), bytes).expect("written");
    }

    fn lines(&self, name: &str, lines: &[Value]) {
        let text: Vec<_> = lines.iter().map(ToString::to_string).collect();
        std::fs::write(self.at(name), text.join("\n")).expect("written");
    }

    /// Exit code, stdout, stderr; `'` holds an argument together.
    fn run(&self, args: &str) -> (i32, String, String) {
        let parts = args.split('\'').enumerate().flat_map(|(at, part)| match at % 2 {
            0 => part.split_whitespace().collect::<Vec<_>>(),
            _ => vec![part],
        });
        let mut command = Command::new(Path::new(env!("CARGO_BIN_EXE_matryo")));
        let output = command.args(parts).current_dir(self.0.path()).output();
        let output = output.expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let code = output.status.code().expect("no signal");
        (code, text(output.stdout), text(output.stderr))
    }

    fn succeeds(&self, args: &str) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!((code, err.as_str()), (0, ""), "{args}");
        out
    }

    fn json(&self, args: &str) -> Value {
        serde_json::from_str(&self.succeeds(&format!("{args} --json"))).expect("JSON")
    }

    /// The lines that the program prints.
    fn rows(&self, args: &str) -> Vec<Value> {
        let lines = self.succeeds(args);
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn ids(&self, args: &str) -> Vec<Value> {
        self.rows(args).into_iter().map(|row| row["id"].clone()).collect()
    }

    fn fails(&self, args: &str) -> String {
        let (code, out, err) = self.run(args);
        assert_eq!((code, out.as_str()), (1, ""), "{args}: {err}");
        err
    }
}

const IMPORT: &str = "import c --npy v.npy --payloads rows.jsonl --id-field isbn \
                      --field year:integer --field author.name:keyword --field tags:keyword[]";

#[test]
fn payloads_are_imported_and_asked_for() -> Done {
    let place = Place::new()?;
    assert_eq!(place.json(IMPORT)["rows"], json!(5));
    assert_eq!(place.json("verify c")["damaged"], json!(false));
    let search = "search c --like 30 --exact --payloads --filter 'year >= 2020 and exists tags'";
    let found = place.json(search)["results"][0]["hits"].clone();
    let hits = found.as_array().expect("hits").iter().map(|hit| &hit["payload"]["isbn"]);
    assert_eq!(hits.collect::<Vec<_>>(), [40]);
    let collection = Collection::open(place.at("c"))?;
    let row = collection.get(40)?.expect("the last line");
    assert_eq!(row.vector, [4.0 / 3.0, 1.0]);
    assert_eq!(
        (&row.payload["isbn"], &row.payload["title"]),
        (&json!(40), &json!("\u{e9}\n\"x\""))
    );
    assert_eq!(collection.count(&"year = 2020 AND tags = 'b'".parse()?)?, 1);
    assert_eq!(collection.count(&"EXISTS author.name".parse()?)?, 2);
    drop(collection);
    // More of them, which must fit what is there.
    place.vectors("more.npy", 2);
    place.lines("more.jsonl", &[json!({"isbn": 60, "year": 1}), json!({"isbn": 10, "year": 2})]);
    let append = "import c --append --npy more.npy --payloads more.jsonl";
    let done = place.json(&format!("{append} --id-field isbn --field year:integer"));
    assert_eq!((&done["rows"], &done["rows_in_collection"]), (&json!(2), &json!(6)));
    for (option, says) in [
        ("--id-field isbn --field year:float", "field year: it has year:integer, got year:float"),
        (
            "--id-field isbn --field tags:keyword",
            "field tags: it has tags:keyword[], got tags:keyword",
        ),
        ("--id-field isbn --field month:integer", "it has none of that name, got month:integer"),
        ("--id-field month", "more.jsonl, line 1: expected an id at \"month\""),
    ] {
        let error = place.fails(&format!("{append} {option}"));
        assert!(error.contains(says), "{option}: {error}");
    }
    assert_eq!(place.run(append).0, 2, "ids are needed");
    Ok(())
}

#[test]
fn ids_are_strings_where_payloads_have_strings() -> Done {
    let place = Place::new()?;
    place.vectors("v.npy", 2);
    let lines = [json!({"key": {"name": "pear"}}), json!({"key": {"name": "apple"}, "n": 7})];
    place.lines("rows.jsonl", &lines);
    let import = "import s --npy v.npy --payloads rows.jsonl --id-field key.name";
    place.succeeds(import);
    let collection = Collection::open(place.at("s"))?;
    assert_eq!(collection.schema().ids(), IdKind::Str);
    assert_eq!(collection.get("apple")?.expect("a row").payload["n"], json!(7));
    drop(collection);
    assert_eq!(place.ids("export s"), ["pear", "apple"]);
    assert_eq!(place.ids("get s apple pear"), ["apple", "pear"]);
    // Without a name for them they are numbers, and so they must be all of one kind.
    place.succeeds("import n --npy v.npy --payloads rows.jsonl");
    assert_eq!(place.ids("export n"), [0, 1]);
    place.lines("rows.jsonl", &[json!({"key": "pear"}), json!({"key": 7})]);
    let error = place.fails("import t --npy v.npy --payloads rows.jsonl --id-field key");
    let says =
        "row 1 (rows.jsonl, line 2)\n  caused by: invalid id: this collection has string ids";
    assert!(error.contains(says), "{error}");
    place.lines("rows.jsonl", &[json!({"key": 1}), json!({"key": 7})]);
    let append = "import s --append --npy v.npy --payloads rows.jsonl --id-field key";
    assert!(place.fails(append).contains("ids: it has string, got u64"));
    Ok(())
}

#[test]
fn lines_that_cannot_be_are_named_and_nothing_is_left() -> Done {
    let place = Place::new()?;
    let long = format!("{{\"isbn\": \"{}\"}}", "x".repeat(600));
    let entries = || std::fs::read_dir(place.0.path()).map(Iterator::count);
    place.vectors("v.npy", 3);
    std::fs::write(place.at("rows.jsonl"), "")?;
    let before = entries()?;
    for (text, says) in [
        ("{}\n{}", "rows.jsonl: expected 3 lines, one a vector, got 2"),
        ("{}\n{}\n{}\n\n", "rows.jsonl: expected 3 lines, one a vector, got 4"),
        ("", "rows.jsonl: expected 3 lines, one a vector, got 0"),
        ("{\"isbn\":1}\n\n{}\n", "rows.jsonl, line 2: expected a JSON object, got nothing"),
        ("{\"isbn\":1}\n{\"isbn\": 2,\n{}", "rows.jsonl, line 2, column 11: EOF while parsing"),
        ("{\"isbn\":1}\n[1, 2]\n{}\n", "line 2: expected a JSON object or null, got [1,2]"),
        (
            "{\"isbn\":1}\nnull\n{}\n",
            "line 2: expected an id at \"isbn\", a whole number from 0 or",
        ),
        ("{\"isbn\":1}\n{\"isbn\":-2}\n{}\n", "line 2: expected an id at \"isbn\""),
        ("{\"isbn\":2.5}\n{}\n{}\n", "line 1: expected an id at \"isbn\""),
        (
            "{\"isbn\":1}\n{\"isbn\":2,\"year\":\"x\"}\n{}",
            "line 2)\n  caused by: invalid payload: field year",
        ),
        (&format!("{long}\n{long}\n{long}"), "a string id has 1 to 512 bytes, got 600"),
    ] {
        std::fs::write(place.at("rows.jsonl"), text)?;
        let error = place.fails(
            "import c --npy v.npy --payloads rows.jsonl --id-field isbn --field year:integer",
        );
        assert!(error.contains(says), "{text}: {error}");
        assert_eq!(entries()?, before, "{text} left something");
    }
    assert!(place.fails("import c --npy v.npy --payloads .").contains("got something else"));
    assert!(place.fails("import c --npy v.npy --payloads none").contains("none: cannot open"));
    for args in [
        "import c --npy v.npy --id-field isbn",
        "import c --npy v.npy --payloads rows.jsonl --id-field isbn --ids v.npy",
        "import c --npy v.npy --payloads rows.jsonl --field year",
    ] {
        assert_eq!(place.run(args).0, 2, "{args}");
    }
    // The end of the last line may be missing, and a line may end as on other systems.
    for text in ["null\r\n{\"a\": 1}\r\n{}\r\n", "null\n {\"a\": 1} \n{}"] {
        std::fs::write(place.at("rows.jsonl"), text)?;
        let dir = format!("d{}", text.len());
        place.succeeds(&format!("import {dir} --npy v.npy --payloads rows.jsonl"));
        let payloads: Vec<_> = place
            .rows(&format!("export {dir}"))
            .into_iter()
            .map(|r| r["payload"].clone())
            .collect();
        assert_eq!(payloads, [json!({}), json!({"a": 1}), json!({})]);
    }
    Ok(())
}

#[test]
fn rows_are_printed_as_they_are() -> Done {
    let place = Place::new()?;
    place.succeeds(IMPORT);
    let rows = place.rows("export c");
    let expected = json!({"id": 40, "payload": {"isbn": 40, "tags": ["b"], "title": "\u{e9}\n\"x\"", "year": 2020}});
    assert_eq!((rows.len(), &rows[4]), (5, &expected));
    assert_eq!(place.rows("export c --json"), rows, "lines all the same");
    assert_eq!(place.ids("export c --filter 'year >= 2020'"), [10, 20, 40]);
    assert_eq!(place.ids("export c --filter 'year > 3000'"), [0; 0]);
    assert!(place.fails("export c --filter 'month = 1'").contains("no field \"month\""));
    // Vectors come back to the bit.
    let collection = Collection::open(place.at("c"))?;
    for row in place.rows("export c --vectors") {
        let stored = collection.get(row["id"].as_u64().expect("a number"))?.expect("a row");
        let printed = row["vector"].as_array().expect("a vector").iter();
        let printed: Vec<f32> = printed.map(|v| v.as_f64().expect("a number") as f32).collect();
        assert_eq!(printed, stored.vector);
    }
    drop(collection);
    let got = place.rows("get c 20 30 20 --vectors");
    assert_eq!(got.iter().map(|r| &r["id"]).collect::<Vec<_>>(), [20, 30, 20]);
    assert_eq!(got[1]["vector"], json!([0.0, 1.0]));
    assert!(place.succeeds("get c 10 --vectors").contains("\"vector\":[0.33333334,1.0]}"));
    let (code, out, err) = place.run("get c 7 30 8");
    assert!(code == 1 && out.lines().count() == 1, "{out}");
    assert!(err.contains("no row has the id 7, 8"), "{err}");
    assert!(place.fails("get c seven").contains("u64 ids"));
    assert_eq!(place.run("get c").0, 2);
    Ok(())
}

#[test]
fn rows_are_deleted_by_id_or_by_filter() -> Done {
    let place = Place::new()?;
    place.succeeds(IMPORT);
    let told = |report: &Value| {
        ["rows_deleted", "ids_not_found", "rows_in_collection"].map(|key| report[key].clone())
    };
    assert_eq!(told(&place.json("delete c 30 7 30")), [1, 1, 4]);
    assert_eq!(place.ids("export c"), [10, 20, 50, 40]);
    assert_eq!(told(&place.json("delete c --filter 'year = 2020'")), [2, 0, 2]);
    assert_eq!(place.ids("export c"), [20, 50]);
    assert!(place.fails("delete c --filter 'month = 1'").contains("no field"));
    assert!(place.fails("delete c seven").contains("u64 ids"));
    for args in ["delete c", "delete c 20 --filter 'year = 2021'", "delete c --filter 'year ='"] {
        assert_eq!(place.run(args).0, 2, "{args}");
    }
    assert!(place.fails("delete nothing 1").contains("nothing does not exist"));
    assert_eq!(place.ids("export c"), [20, 50], "nothing of that changed anything");
    // What is in use by a writer is not written to, but read.
    let held = Collection::open(place.at("c"))?;
    assert!(place.fails("delete c 20").contains("is in use"));
    assert_eq!(place.ids("export c"), [20, 50]);
    drop(held);
    // The schema is as it was declared.
    let schema = Schema::builder(2).field("year", FieldKind::Integer);
    let schema = schema.list_field("tags", FieldKind::Keyword);
    let schema = schema.field("author.name", FieldKind::Keyword).build()?;
    assert_eq!(Collection::open_or_create(place.at("c"), schema)?.len(), 2);
    Ok(())
}

//! The program `matryo` as a script meets it: arguments, files, exit codes.
#![cfg(feature = "cli")]

use std::path::Path;
use std::process::Command;

use matryo::{Collection, FieldKind, IdKind, Schema};
use serde_json::{Value, json};

type Done = Result<(), Box<dyn std::error::Error>>;
type Vectors = Vec<Vec<f32>>;

const DIMS: usize = 96;
const ROWS: usize = 3000;
const QUERIES: usize = 20;

/// A folder the program runs in.
struct Place(tempfile::TempDir);

/// What the program said.
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> std::io::Result<Self> {
        tempfile::tempdir().map(Self)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs the program with arguments separated by spaces.
    fn run(&self, args: &str) -> Said {
        let program = Path::new(env!("CARGO_BIN_EXE_matryo"));
        let mut command = Command::new(program);
        let output = command.args(args.split_whitespace()).current_dir(self.path()).output();
        let output = output.expect("the program starts");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let code = output.status.code().expect("no signal");
        Said { code, out: text(output.stdout), err: text(output.stderr) }
    }

    fn succeeds(&self, args: &str) -> String {
        let said = self.run(args);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{args}");
        said.out
    }

    fn json(&self, args: &str) -> Value {
        serde_json::from_str(&self.succeeds(&format!("{args} --json"))).expect("JSON")
    }

    /// What the program says on stderr when it fails as it should.
    fn fails(&self, args: &str) -> String {
        let said = self.run(args);
        assert_eq!((said.code, said.out.as_str()), (1, ""), "{args}: {}", said.err);
        assert!(said.err.starts_with("error: "), "{}", said.err);
        said.err
    }

    fn npy(&self, name: &str, descr: &str, shape: &str, data: &[u8]) {
        let text = format!("{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n");
        self.npy_with(name, &text, data);
    }

    fn npy_with(&self, name: &str, text: &str, data: &[u8]) {
        let length = (text.len() as u16).to_le_bytes();
        let bytes = [b"\x93NUMPY\x01\x00", length.as_slice(), text.as_bytes(), data].concat();
        std::fs::write(self.path().join(name), bytes).expect("written");
    }

    fn floats(&self, name: &str, rows: &[Vec<f32>]) {
        let data: Vec<u8> = rows.iter().flatten().flat_map(|v| v.to_le_bytes()).collect();
        self.npy(name, "'<f4'", &format!("({}, {})", rows.len(), rows[0].len()), &data);
    }

    fn ids(&self, name: &str, ids: &[i64]) {
        let data: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        self.npy(name, "'<i8'", &format!("({},)", ids.len()), &data);
    }

    fn id_rows(&self, name: &str, rows: &[Vec<i64>]) {
        let data: Vec<u8> = rows.iter().flatten().flat_map(|id| id.to_le_bytes()).collect();
        self.npy(name, "'<i8'", &format!("({}, {})", rows.len(), rows[0].len()), &data);
    }

    /// The data of an array that the program wrote.
    fn read<const N: usize, T>(&self, name: &str, shape: &str, read: fn([u8; N]) -> T) -> Vec<T> {
        let bytes = std::fs::read(self.path().join(name)).expect("was written");
        let data = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = String::from_utf8_lossy(&bytes[..data]);
        assert!(header.contains(&format!("'shape': {shape}")) && data % 64 == 0, "{header}");
        bytes[data..].as_chunks::<N>().0.iter().map(|b| read(*b)).collect()
    }

    fn read_ids(&self, name: &str, queries: usize, limit: usize) -> Vec<Vec<i64>> {
        let ids = self.read(name, &format!("({queries}, {limit})"), i64::from_le_bytes);
        ids.chunks(limit).map(<[i64]>::to_vec).collect()
    }

    fn entries(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).expect("is there");
        entries.map(|e| e.expect("entry").file_name().into_string().expect("UTF-8")).collect()
    }
}

/// Deterministic pseudo-random vectors.
fn vectors(rows: usize, seed: u64) -> Vectors {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..rows).map(|_| (0..DIMS).map(|_| next()).collect()).collect()
}

/// Noisy copies of the first rows: they have true neighbours.
fn queries_near(base: &[Vec<f32>]) -> Vectors {
    let noise = vectors(QUERIES, 77);
    let add = |(row, noise): (&Vec<f32>, &Vec<f32>)| {
        row.iter().zip(noise).map(|(a, b)| a + 0.5 * b).collect()
    };
    base.iter().zip(&noise).map(add).collect()
}

fn id_of(row: usize) -> i64 {
    1000 + 7 * row as i64
}

/// The ids and cosines of the ten nearest rows by the first `dims` dimensions.
fn brute_force(base: &[Vec<f32>], query: &[f32], dims: usize) -> Vec<(i64, f64)> {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).take(dims).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
    };
    let cosine = |row: &[f32]| dot(row, query) / (dot(row, row) * dot(query, query)).sqrt();
    let mut all: Vec<_> = base.iter().enumerate().map(|(i, r)| (id_of(i), cosine(r))).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(10);
    all
}

/// A folder with vectors, ids, queries and a collection `c` made of them.
fn imported() -> std::io::Result<(Place, Vectors, Vectors)> {
    let place = Place::new()?;
    let base = vectors(ROWS, 5);
    let queries = queries_near(&base);
    place.floats("base.npy", &base);
    place.floats("q.npy", &queries);
    place.ids("base_ids.npy", &(0..ROWS).map(id_of).collect::<Vec<_>>());
    place.succeeds(
        "import c --npy base.npy --ids base_ids.npy --granularities 32,96 --metric cosine \
         --stored f32",
    );
    Ok((place, base, queries))
}

fn ids_only(hits: &[(i64, f64)]) -> Vec<i64> {
    hits.iter().map(|hit| hit.0).collect()
}

#[test]
fn searches_agree_with_brute_force() -> Done {
    let (place, base, queries) = imported()?;
    let truth: Vec<_> = queries.iter().map(|q| brute_force(&base, q, DIMS)).collect();
    place.succeeds("search c --vectors q.npy --exact --out ids.npy --scores scores.npy");
    let ids = place.read_ids("ids.npy", QUERIES, 10);
    let scores = place.read("scores.npy", "(20, 10)", f32::from_le_bytes);
    for (at, truth) in truth.iter().enumerate() {
        assert_eq!(ids[at], ids_only(truth));
        let scores = &scores[at * 10..][..10];
        assert!(truth.iter().zip(scores).all(|(t, s)| (t.1 - f64::from(*s)).abs() < 1e-5));
    }
    place.succeeds("search c --vectors q.npy --recall 0.99 --out ids.npy");
    let funnel = place.read_ids("ids.npy", QUERIES, 10);
    let found = funnel.iter().zip(&ids).flat_map(|(f, t)| f.iter().filter(|id| t.contains(id)));
    assert!(found.count() >= QUERIES * 9);
    Ok(())
}

#[test]
fn prefixes_are_searched_with_whole_and_with_short_queries() -> Done {
    let (place, base, queries) = imported()?;
    let short: Vec<_> = queries.iter().map(|q| q[..32].to_vec()).collect();
    place.floats("short.npy", &short);
    let truth: Vec<_> = queries.iter().map(|q| ids_only(&brute_force(&base, q, 32))).collect();
    for file in ["q.npy", "short.npy"] {
        place.succeeds(&format!("search c --vectors {file} --exact --dims 32 --out ids.npy"));
        assert_eq!(place.read_ids("ids.npy", QUERIES, 10), truth);
    }
    let error = place.fails("search c --vectors short.npy --exact");
    assert!(error.contains("32 dimensions, expected 96; to search by the first 32"), "{error}");
    let error = place.fails("search c --vectors short.npy --dims 16");
    assert!(error.contains("expected 96 or the 16 of --dims"), "{error}");
    Ok(())
}

#[test]
fn info_bench_and_verify_say_what_is_there() -> Done {
    let (place, base, queries) = imported()?;
    let info = place.json("info c");
    assert_eq!(
        (&info["rows"], &info["dims"], &info["stored"]),
        (&json!(3000), &json!(96), &json!("f32"))
    );
    assert_eq!(info["granularities"], json!([32, 96]));
    assert_eq!(info["stage_codes"][0], json!({"dims": 32, "bits": 8}));
    let disk = info["disk_bytes"].as_f64().expect("a number");
    assert_eq!(info["disk_bytes_per_vector"], json!(disk / 3000.0));
    let regions = info["disk_bytes_by_region"].as_object().expect("an object");
    assert!((regions.values().filter_map(Value::as_f64).sum::<f64>() - disk).abs() < 0.5);
    assert_eq!(info["reserve_bytes"], json!(4 << 20), "room for deletes on a full disk");
    assert!(info["ram_bytes_per_vector"].as_f64().expect("a number") >= 32.0 + 12.0);

    let truth: Vec<_> = queries.iter().map(|q| ids_only(&brute_force(&base, q, DIMS))).collect();
    place.id_rows("gt.npy", &truth);
    let bench = place.json("bench c --vectors q.npy --truth gt.npy --exact --repeat 3");
    assert_eq!((&bench["recall_at_10"], &bench["passes"]), (&json!(1.0), &json!(3)));
    assert_eq!(bench["bytes_read_per_query"], json!(3000.0 * 96.0 * 4.0));
    assert!(bench["queries_per_second"].as_f64() > Some(0.0));
    assert!(bench["p50_us"].as_f64() <= bench["p99_us"].as_f64());
    assert!(bench["noise"]["p50_percent"].is_number());
    let bench = place.json("bench c --vectors q.npy --truth gt.npy --recall 0.99 --repeat 1");
    assert!(bench["recall_at_10"].as_f64() >= Some(0.9), "{bench}");
    assert_eq!(bench["stages"][0]["rows_in"], json!(3000.0));
    assert_eq!(bench["noise"], Value::Null);
    let bench = place.json("bench c --vectors q.npy --truth gt.npy --exact --repeat 0");
    assert_eq!(bench["passes"], json!(1), "the first is timed");
    assert!(place.fails("bench c --vectors q.npy --truth q.npy").contains("expected ids"));
    let error = place.fails("bench c --vectors q.npy --truth gt.npy --limit 11");
    assert!(error.contains("expected [20, 11 or more], a row for each query, got [20, 10]"));

    let verified = place.json("verify c");
    assert_eq!(verified["bytes"], info["disk_bytes"]);
    for command in ["info c", "verify c", "bench c --vectors q.npy --truth gt.npy"] {
        assert!(place.succeeds(command).lines().count() >= 4, "people get a table");
    }
    Ok(())
}

#[test]
fn less_of_a_collection_can_be_opened() -> Done {
    let (place, ..) = imported()?;
    let search = "search c --vectors q.npy --limit 5";
    let wanted = place.json(&format!("{search} --dims 32"))["results"].clone();
    let small = place.json(&format!("{search} --max-dims 32 --ram-budget 0"))["results"].clone();
    assert_eq!(small, wanted);
    let info = place.json("info c --max-dims 32 --ram-budget 1k");
    assert_eq!((&info["max_dims"], &info["ram_budget"]), (&json!(32), &json!(1024)));
    let columns = info["ram_by_column"].as_array().expect("columns");
    assert_eq!(columns[0]["ram_bytes"], json!(0), "no room for 3000 rows");
    assert!(columns[0]["placement"].as_str().is_some_and(|why| why.contains("budget")));
    assert!(columns.iter().any(|c| c["placement"].as_str().is_some_and(|w| w.contains("finer"))));
    assert!(place.succeeds("info c --ram-budget 64M").contains("in RAM"));
    assert!(place.fails("info c --max-dims 97").contains("expected 1 to 96, got 97"));
    assert!(place.fails(&format!("{search} --max-dims 32 --dims 33")).contains("as it was opened"));
    Ok(())
}

#[test]
fn hits_are_printed_and_funnels_explained() -> Done {
    let (place, ..) = imported()?;
    let found = place.json("search c --vectors q.npy --limit 3 --funnel 8:200,16:100 --explain");
    assert_eq!(found["results"].as_array().map(Vec::len), Some(QUERIES));
    assert_eq!(found["results"][4]["hits"][0]["id"], json!(id_of(4)));
    assert_eq!(found["results"][4]["hits"].as_array().map(Vec::len), Some(3));
    let dims: Vec<_> = [0, 1, 2].map(|at| &found["explain"]["stages"][at]["dims"]).into();
    assert_eq!(dims, [8, 16, 96]);
    assert_eq!(found["explain"]["recall"], Value::Null, "none was asked for");
    let found = place.json("search c --vectors q.npy --recall 0.9 --explain");
    assert_eq!(found["explain"]["exact"], json!(true), "a small one of which nothing is known");
    assert_eq!(found["explain"]["recall"], Value::Null);
    place.succeeds("calibrate c");
    let found = place.json("search c --vectors q.npy --recall 0.9 --explain");
    assert_eq!(found["explain"]["recall"]["asked"], json!(0.9));
    assert!(found["explain"]["recall"]["measured"].as_f64() >= Some(0.89), "{found}");
    let text = place.succeeds("search c --vectors q.npy --limit 3 --explain");
    assert!(text.contains("query 19") && text.contains("1007") && text.contains("rows in"));
    let text = place.succeeds("search c --vectors q.npy --out ids.npy --explain");
    assert!(text.contains("rows in"));
    assert!(place.fails("search c --vectors q.npy --funnel 16:100,8:200").contains("funnel"));
    Ok(())
}

#[test]
fn ranges_threads_and_searches_by_row() -> Done {
    let (place, ..) = imported()?;
    let hits = |args: &str| place.json(&format!("search c --exact {args}"))["results"].clone();
    let plain = hits("--vectors q.npy --limit 5 --threads 1");
    assert_eq!(hits("--vectors q.npy --limit 5 --threads 2"), plain);
    let score = plain[4]["hits"][2]["score"].as_f64().expect("a score");
    let near = hits(&format!("--vectors q.npy --limit 5 --within {score}"));
    let expected: Vec<_> = plain[4]["hits"].as_array().expect("hits")[..3].to_vec();
    assert_eq!(near[4]["hits"], json!(expected));
    let like = hits(&format!("--like {} --limit 5", id_of(4)));
    let ids: Vec<_> = like[0]["hits"].as_array().expect("hits").iter().map(|h| &h["id"]).collect();
    assert!(ids.len() == 5 && !ids.contains(&&json!(id_of(4))), "{ids:?}");
    assert!(place.fails("search c --like 3").contains("no row has"));
    assert!(place.fails("search c --like three").contains("u64 ids"));
    place.succeeds("search c --exact --vectors q.npy --limit 10 --out gt.npy");
    let bench = place.json("bench c --vectors q.npy --truth gt.npy --threads 2");
    assert!(bench["batch_queries_per_second"].as_f64() > Some(0.0));
    Ok(())
}

#[test]
fn hits_are_filtered_and_shown_with_their_payloads() -> Done {
    let place = Place::new()?;
    let schema = Schema::builder(2).field("year", FieldKind::Integer).build()?;
    let books = Collection::create(place.path().join("c"), schema)?;
    for (id, year) in [(1, 1999), (2, 2020), (3, 2021)] {
        let vector = [id as f32, 1.0];
        books.upsert(id, &vector, json!({"year": year, "title": format!("book {id}")}))?;
    }
    drop(books);
    place.npy("v.npy", "'<f4'", "(1, 2)", &[1f32, 1.0].map(f32::to_le_bytes).concat());
    let ids = |args: &str| {
        let found = place.json(&format!("search c {args}"))["results"][0]["hits"].clone();
        let hits = found.as_array().expect("hits").clone();
        hits.iter().map(|hit| hit["id"].as_u64().expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(ids("--vectors v.npy"), [1, 2, 3]);
    assert_eq!(ids("--vectors v.npy --filter year>=2020"), [2, 3]);
    assert_eq!(ids("--like 3 --filter year<2020"), [1]);
    place.succeeds("search c --vectors v.npy --filter year>=2020 --limit 3 --out o.npy");
    assert_eq!(place.read_ids("o.npy", 1, 3), [[2, 3, -1]]);
    for query in ["--vectors v.npy", "--like 1"] {
        let args = format!("search c {query} --filter year=2021 --payloads");
        let hit = &place.json(&args)["results"][0]["hits"][0];
        assert_eq!(hit["payload"], json!({"year": 2021, "title": "book 3"}), "{query}");
        let text = place.succeeds(&args);
        assert!(text.contains(r#"3  {"title":"book 3","year":2021}"#), "{text}");
    }
    let plain = place.json("search c --vectors v.npy --limit 1");
    assert_eq!(plain["results"][0]["hits"][0].get("payload"), None);
    let said = place.run("search c --vectors v.npy --filter year>>2020");
    assert!(said.code == 2 && said.err.contains("column"), "{}", said.err);
    assert_eq!(place.run("search c --vectors v.npy --payloads --out o.npy").code, 2);
    assert!(place.fails("search c --vectors v.npy --filter colour=1").contains("colour"));
    Ok(())
}

/// Queries are answered, and printed, 256 at a time, and counted through.
#[test]
fn queries_beyond_the_first_batch_have_their_own_numbers() -> Done {
    let (place, mut base, _) = imported()?;
    base.truncate(300);
    place.floats("many.npy", &base);
    let search = "search c --vectors many.npy --limit 1 --exact";
    let found = place.json(search);
    assert_eq!(found["results"].as_array().map(Vec::len), Some(300));
    for at in [0, 255, 256, 270, 299] {
        assert_eq!(found["results"][at]["hits"][0]["id"], json!(id_of(at)), "query {at}");
    }
    let text = place.succeeds(search);
    let of = text.split("query 270").nth(1).expect("its number");
    let hit = of.lines().nth(2).expect("behind the names of columns");
    assert!(hit.contains(&id_of(270).to_string()), "{hit}");
    base[270][5] = f32::NAN;
    place.floats("many.npy", &base);
    let Said { code, out, err } = place.run(search);
    assert!(code == 1 && out.contains("query 255") && !out.contains("query 256"), "{code}");
    assert!(err.contains("query 270") && err.contains("component 5 is NaN"), "{err}");
    Ok(())
}

#[test]
fn arrays_without_rows_are_no_error() -> Done {
    let (place, ..) = imported()?;
    place.npy("none.npy", "'<f4'", &format!("(0, {DIMS})"), &[]);
    assert_eq!(place.json("search c --vectors none.npy")["results"], json!([]));
    assert_eq!(place.json("import empty --npy none.npy")["rows"], json!(0));
    assert_eq!(place.json("info empty")["rows"], json!(0));
    assert_eq!(place.json("search empty --vectors q.npy")["results"][19]["hits"], json!([]));
    Ok(())
}

#[test]
fn damage_makes_verify_fail_and_names_the_file() -> Done {
    let (place, ..) = imported()?;
    let entries = std::fs::read_dir(place.path().join("c"))?.collect::<Result<Vec<_>, _>>()?;
    let is_segment = |e: &&std::fs::DirEntry| e.file_name().to_string_lossy().starts_with("seg-");
    let segment = entries.iter().find(is_segment).expect("a segment").path();
    let mut bytes = std::fs::read(&segment)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    std::fs::write(&segment, &bytes)?;
    let name = segment.file_name().and_then(|n| n.to_str()).expect("UTF-8");
    let said = place.run("verify c");
    let error = said.err;
    assert_eq!(said.code, 3, "{error}");
    assert!(error.contains(name) && error.contains("is damaged at byte"), "{error}");
    let said = place.run("verify c --json");
    let error: Value = serde_json::from_str(&said.out)?;
    assert_eq!((said.code, &error["damaged"]), (3, &json!(true)));
    assert!(error["damage"]["file"].as_str().is_some_and(|file| file.ends_with(name)), "{error}");
    assert!(error["error"].as_str().is_some_and(|e| e.contains(name)));
    Ok(())
}

#[test]
fn every_number_type_is_imported() -> Done {
    let place = Place::new()?;
    let rows = [[1.0, 0.5], [-2.0, 4.0]];
    let doubles: Vec<u8> = rows.as_flattened().iter().flat_map(|v| f64::to_le_bytes(*v)).collect();
    let halves = [0x3c00u16, 0x3800, 0xc000, 0x4400].map(u16::to_le_bytes).concat();
    place.npy("f2.npy", "'<f2'", "(2, 2)", &halves);
    place.npy("f8.npy", "'<f8'", "(2, 2)", &doubles);
    place.npy("i4.npy", "'<i4'", "(2,)", &[1, 9].map(i32::to_le_bytes).concat());
    place.npy("u4.npy", "'<u4'", "(2,)", &[1, u32::MAX].map(u32::to_le_bytes).concat());
    place.npy("u8.npy", "'<u8'", "(2,)", &[1, u64::MAX].map(u64::to_le_bytes).concat());
    for (vectors, ids, second) in
        [("f2", "i4", 9), ("f8", "u4", u64::from(u32::MAX)), ("f8", "u8", u64::MAX)]
    {
        let name = format!("{vectors}{ids}");
        place.succeeds(&format!("import {name} --npy {vectors}.npy --ids {ids}.npy --metric dot"));
        let collection = Collection::open(place.path().join(&name))?;
        assert_eq!(collection.get(1)?.expect("row").vector, [1.0, 0.5]);
        assert_eq!(collection.get(second)?.expect("row").vector, [-2.0, 4.0]);
    }
    place.succeeds("import plain --npy f2.npy --stored bf16 --metric l2");
    assert_eq!(
        Collection::open(place.path().join("plain"))?.get(1)?.expect("row").vector,
        [-2.0, 4.0]
    );
    Ok(())
}

#[test]
fn hits_that_are_missing_or_too_large_are_told() -> Done {
    let place = Place::new()?;
    place.npy("v.npy", "'<f4'", "(2, 1)", &[1f32, 2.0].map(f32::to_le_bytes).concat());
    place.npy("ids.npy", "'<u8'", "(2,)", &[7, u64::MAX].map(u64::to_le_bytes).concat());
    place.succeeds("import few --npy v.npy --metric dot");
    place.succeeds("search few --vectors v.npy --limit 4 --out out.npy --scores scores.npy");
    assert_eq!(place.read_ids("out.npy", 2, 4), [[1, 0, -1, -1]; 2]);
    let scores = place.read("scores.npy", "(2, 4)", f32::from_le_bytes);
    assert!(scores[..2] == [2.0, 1.0] && scores[2].is_nan() && scores[7].is_nan());
    place.succeeds("import large --npy v.npy --ids ids.npy --metric dot");
    let error = place.fails("search large --vectors v.npy --out large.npy");
    assert!(error.contains("query 0: id 18446744073709551615 does not fit int64"), "{error}");
    assert!(!place.path().join("large.npy").exists(), "no half-written output");
    let found = place.json("search large --vectors v.npy --limit 1");
    assert_eq!(found["results"][1]["hits"], json!([{"id": u64::MAX, "score": 4.0}]));
    Ok(())
}

#[test]
fn string_ids_are_printed_but_not_put_into_arrays() -> Done {
    let place = Place::new()?;
    place.npy("v.npy", "'<f4'", "(1, 2)", &[1f32, 2.0].map(f32::to_le_bytes).concat());
    place.ids("ids.npy", &[1]);
    let schema = Schema::builder(2).ids(IdKind::Str).build()?;
    Collection::create(place.path().join("c"), schema)?.upsert("pear", &[1.0, 2.0], ())?;
    assert!(place.succeeds("search c --vectors v.npy").contains("pear"));
    assert_eq!(place.json("search c --vectors v.npy")["results"][0]["hits"][0]["id"], "pear");
    assert!(place.fails("search c --vectors v.npy --out o.npy").contains("string ids"));
    assert!(place.fails("bench c --vectors v.npy --truth v.npy").contains("string ids"));
    let error = place.fails("import c --append --npy v.npy --ids ids.npy");
    assert!(error.contains("ids: it has string, got u64"), "{error}");
    Ok(())
}

#[test]
fn inputs_that_cannot_be_are_refused_and_nothing_is_left() -> Done {
    let place = Place::new()?;
    let ones = [1f32; 8].map(f32::to_le_bytes).concat();
    let mut nan = ones.clone();
    nan[20..24].copy_from_slice(&f32::NAN.to_le_bytes());
    let fortran = "{'descr': '<f4', 'fortran_order': True, 'shape': (4, 2), }\n";
    place.npy("good.npy", "'<f4'", "(4, 2)", &ones);
    place.npy("nan.npy", "'<f4'", "(4, 2)", &nan);
    place.npy("zero.npy", "'<f4'", "(4, 2)", &[&ones[..24], &[0; 8]].concat());
    place.npy_with("fortran.npy", fortran, &ones);
    place.npy("object.npy", "'|O'", "(4, 2)", &ones);
    place.npy("big.npy", "'>f4'", "(4, 2)", &ones);
    place.npy("fields.npy", "[('a', '<f4'), ('b', '<f4')]", "(4,)", &ones);
    place.npy("short.npy", "'<f4'", "(4, 2)", &ones[..31]);
    place.npy("long.npy", "'<f4'", "(4, 2)", &[&ones[..], &[0]].concat());
    place.npy("int.npy", "'<i8'", "(4, 1)", &ones);
    place.npy("flat.npy", "'<f4'", "(8,)", &ones);
    place.ids("three.npy", &[1, 2, 3]);
    place.ids("negative.npy", &[1, 2, -3, 4]);
    std::fs::write(place.path().join("text.npy"), "hello")?;
    let before = place.entries().len();
    for (arguments, says) in [
        ("nan.npy", "row 2\n  caused by: vector component 1 is NaN"),
        ("zero.npy", "row 3\n  caused by: vector is all zeros"),
        ("fortran.npy", "expected an array in C order, got Fortran order"),
        ("object.npy", "got '|O', Python objects (pickle)"),
        ("big.npy", "got '>f4', big-endian"),
        ("fields.npy", "got a structured dtype"),
        ("short.npy", "is truncated: expected"),
        ("long.npy", "is too long: expected"),
        ("int.npy", "expected vectors as rows"),
        ("flat.npy", "[rows, dimensions], got <f4 of shape [8]"),
        ("text.npy", "expected a .npy file"),
        ("absent.npy", "absent.npy: cannot open\n  caused by: No such file"),
        (".", "got something that is not a file"),
        ("good.npy --ids three.npy", "three.npy: expected 4 ids, one a vector, got 3"),
        ("good.npy --ids negative.npy", "row 2: id -3 is negative"),
        ("good.npy --ids good.npy", "expected ids, int32, int64"),
        ("good.npy --granularities 2,1", "ascending"),
        ("good.npy --granularities 1,2,4", "last granularity"),
    ] {
        let error = place.fails(&format!("import c --npy {arguments}"));
        assert!(error.contains(says), "{arguments}: {error}");
        assert_eq!(place.entries().len(), before, "{arguments} left something");
    }
    let said = place.run("import c --npy nan.npy --json");
    let error: Value = serde_json::from_str(&said.out)?;
    assert_eq!(error["error"], "row 2");
    assert_eq!(error["causes"].as_array().map(Vec::len), Some(1));
    Ok(())
}

#[test]
fn a_collection_in_the_way_is_not_touched() -> Done {
    let (place, ..) = imported()?;
    let error = place.fails("import c --npy base.npy");
    assert!(error.contains("c already exists: add to it with --append"), "{error}");
    std::fs::create_dir(place.path().join("d.partial"))?;
    assert!(place.fails("import d --npy base.npy").contains("d.partial is in the way"));
    std::fs::create_dir(place.path().join("empty"))?;
    assert_eq!(place.json("import empty --npy base.npy")["rows"], json!(3000));
    assert!(place.fails("info d").contains("d does not exist"));
    assert!(place.fails("info d.partial").contains("not a matryo collection"));
    assert_eq!(place.json("info c")["rows"], json!(3000));
    Ok(())
}

#[test]
fn rows_are_added_and_replaced() -> Done {
    let (place, base, _) = imported()?;
    let mut more = vectors(1100, 6);
    more[0].clone_from(&base[9]);
    place.floats("more.npy", &more);
    let ids: Vec<_> = (0..1100).map(|at| id_of(2900 + at)).collect();
    place.ids("more_ids.npy", &ids);
    assert_eq!(place.run("import c --append --npy more.npy").code, 2, "ids are needed");
    let append = "import c --append --npy more.npy --ids more_ids.npy";
    for (option, says) in [
        ("--metric dot", "metric: it has cosine, got dot"),
        ("--stored f16", "stored precision: it has f32, got f16"),
        ("--granularities 16", "granularities: it has [32, 96], got [16, 96]"),
    ] {
        let error = place.fails(&format!("{append} {option}"));
        assert!(error.contains("cannot add to c") && error.contains(says), "{error}");
    }
    let done = place.json(&format!("{append} --metric cosine --granularities 32"));
    assert_eq!((&done["rows"], &done["rows_in_collection"]), (&json!(1100), &json!(4000)));
    let collection = Collection::open(place.path().join("c"))?;
    assert_eq!(collection.get(id_of(2900) as u64)?.expect("row").vector, base[9]);
    drop(collection);

    more[1050][3] = f32::INFINITY;
    place.floats("more.npy", &more);
    let error = place.fails(append);
    assert!(error.contains("nothing was added to c"), "{error}");
    assert!(
        error.contains("caused by: row 1050\n  caused by: vector component 3 is inf"),
        "{error}"
    );
    assert_eq!(place.json("info c")["rows"], json!(4000));
    Ok(())
}

#[test]
fn usage_errors_exit_with_2_and_help_has_examples() -> Done {
    let place = Place::new()?;
    for args in [
        "",
        "frobnicate",
        "info",
        "import c",
        "import c --npy a --stored f8",
        "import c --npy a --metric sine",
        "search c --vectors q --recall 1.5",
        "search c --vectors q --recall 0.9 --exact",
        "search c --vectors q --funnel 8",
        "search c --vectors q --limit 0",
        "search c --vectors q --scores s.npy",
    ] {
        assert_eq!(place.run(args).code, 2, "{args}");
    }
    let said = place.run("search c --vectors q --recall 2 --json");
    let error: Value = serde_json::from_str(&said.out)?;
    assert!(said.code == 2 && error["error"].as_str().is_some_and(|e| e.contains("0 to 1")));
    for command in ["import", "search", "bench", "info", "verify"] {
        let help = place.succeeds(&format!("{command} --help"));
        assert!(help.contains(&format!("Example:\n  matryo {command} ")), "{help}");
    }
    assert_eq!(place.succeeds("--version").trim(), concat!("matryo ", env!("CARGO_PKG_VERSION")));
    Ok(())
}

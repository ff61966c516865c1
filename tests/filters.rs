//! Filters through the public API, against looking at every payload.
//!
//! `SEED=n` replays one case.

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use matryo::testing::Folder;
use matryo::{
    Collection, Error, FieldKind, Filter, Funnel, IdKind, Options, RowId, Schema, Search, Value,
    field, json,
};
use support::{DIMS, Rng, files, folder_of, vector};

type Done = Result<(), Box<dyn std::error::Error>>;

/// Name, kind, whether it is a list.
const FIELDS: [(&str, FieldKind, bool); 10] = [
    ("word", FieldKind::Keyword, false),
    ("n", FieldKind::Integer, false),
    ("deep.x", FieldKind::Float, false),
    ("flag", FieldKind::Bool, false),
    ("at", FieldKind::Timestamp, false),
    ("words", FieldKind::Keyword, true),
    ("deep.ns", FieldKind::Integer, true),
    ("xs", FieldKind::Float, true),
    ("flags", FieldKind::Bool, true),
    ("ats", FieldKind::Timestamp, true),
];

fn schema() -> Schema {
    let add = |b: matryo::SchemaBuilder, (name, kind, list): &(&str, FieldKind, bool)| {
        if *list { b.list_field(*name, *kind) } else { b.field(*name, *kind) }
    };
    let builder = Schema::builder(DIMS).granularities([8, 16]);
    FIELDS.iter().fold(builder, add).build().expect("valid")
}

/// A value of a kind, of few or of many that there are.
fn value(rng: &mut Rng, kind: FieldKind) -> Value {
    let most = [5, 100_000][rng.below(2)];
    let n = rng.below(most);
    match kind {
        FieldKind::Keyword => json!(["", "a", "ab", "b'", "\u{e9}"][n % 5].repeat(n % 7)),
        FieldKind::Integer => json!(n as i64 - 3),
        FieldKind::Float if n.is_multiple_of(3) => json!(n as i64 - 2),
        FieldKind::Float => json!((n as f64 - 2.0) / 4.0),
        FieldKind::Bool => json!(n.is_multiple_of(2)),
        FieldKind::Timestamp if n.is_multiple_of(2) => json!(n as i64 * 86_400_000),
        _ => json!(format!("19{:02}-0{}-01", 70 + n % 30, 1 + n % 9)),
    }
}

fn payload(rng: &mut Rng) -> Value {
    let mut payload = json!({"other": rng.below(10)});
    if rng.below(20) == 0 {
        return json!(null);
    }
    for (name, kind, list) in FIELDS {
        let value = match (rng.below(6), list) {
            (0, _) => continue,
            (1, _) => json!(null),
            (_, false) => value(rng, kind),
            (_, true) => (0..rng.below(4)).map(|_| value(rng, kind)).collect(),
        };
        match name.split_once('.') {
            Some((outer, inner)) => payload[outer][inner] = value,
            None => payload[name] = value,
        }
    }
    payload
}

/// What values order by, of kinds that are not mixed.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
enum Plain {
    Text(String),
    Number(f64),
}

fn plain(kind: FieldKind, value: &Value) -> Plain {
    match value {
        Value::String(text) if kind == FieldKind::Timestamp => {
            let number = |from: usize, to: usize| text[from..to].parse::<i64>().expect("digits");
            let days = |year: i64| (1970..year).map(|y| 365 + i64::from(y % 4 == 0)).sum::<i64>();
            let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30];
            let (year, month) = (number(0, 4), number(5, 7) as usize);
            let leap = i64::from(year % 4 == 0 && month > 2);
            let day = days(year) + lengths[..month - 1].iter().sum::<i64>() + leap;
            Plain::Number((day * 86_400_000) as f64)
        }
        Value::String(text) => Plain::Text(text.clone()),
        Value::Bool(b) => Plain::Number(f64::from(u8::from(*b))),
        number => Plain::Number(number.as_f64().expect("a number")),
    }
}

/// The values of a field in a payload.
fn values(payload: &Value, at: usize) -> Vec<Plain> {
    let (name, kind, _) = FIELDS[at];
    let found = name.split('.').try_fold(payload, |value, key| value.get(key));
    match found {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(all)) => all.iter().map(|value| plain(kind, value)).collect(),
        Some(one) => vec![plain(kind, one)],
    }
}

type Passes = Box<dyn Fn(&RowId, &Value) -> bool>;

/// A condition and what it means.
fn condition(rng: &mut Rng) -> (Filter, Passes) {
    let at = rng.below(FIELDS.len());
    let (name, kind, _) = FIELDS[at];
    let (a, other) = (value(rng, kind), value(rng, kind));
    let (x, y) = (plain(kind, &a), plain(kind, &other));
    let any = move |test: Box<dyn Fn(&Plain) -> bool>| -> Passes {
        Box::new(move |_, payload| values(payload, at).iter().any(&test))
    };
    let it = field(name);
    match rng.below(12) {
        0 => (it.eq(a), any(Box::new(move |v| *v == x))),
        1 => {
            let equal = any(Box::new(move |v| *v == x));
            (it.ne(a), Box::new(move |id, payload| !equal(id, payload)))
        }
        2 => (it.lt(a), any(Box::new(move |v| *v < x))),
        3 => (it.le(a), any(Box::new(move |v| *v <= x))),
        4 => (it.gt(a), any(Box::new(move |v| *v > x))),
        5 => (it.ge(a), any(Box::new(move |v| *v >= x))),
        6 | 7 => (it.between(a, other), any(Box::new(move |v| x <= *v && *v <= y))),
        8 => (it.is_in([a, other]), any(Box::new(move |v| *v == x || *v == y))),
        9 => (it.exists(), any(Box::new(|_| true))),
        10 if kind == FieldKind::Keyword => {
            let prefix: String = a.as_str().expect("text").chars().take(2).collect();
            let begins = prefix.clone();
            let test = move |v: &Plain| matches!(v, Plain::Text(v) if v.starts_with(&begins));
            (it.prefix(prefix), any(Box::new(test)))
        }
        _ => {
            let ids: Vec<u64> = (0..rng.below(30)).map(|_| rng.below(300) as u64).collect();
            let set: Vec<RowId> = ids.iter().map(|id| RowId::U64(*id)).collect();
            (Filter::ids(ids), Box::new(move |id, _| set.contains(id)))
        }
    }
}

fn random_filter(rng: &mut Rng, depth: usize) -> (Filter, Passes) {
    if depth == 0 {
        return condition(rng);
    }
    let (a, in_a) = random_filter(rng, depth - 1);
    match rng.below(4) {
        0 => (a, in_a),
        1 => (a.not(), Box::new(move |id, payload| !in_a(id, payload))),
        both => {
            let (b, in_b) = random_filter(rng, depth - 1);
            match both {
                2 => (a.and(b), Box::new(move |id, p| in_a(id, p) && in_b(id, p))),
                _ => (a.or(b), Box::new(move |id, p| in_a(id, p) || in_b(id, p))),
            }
        }
    }
}

/// Rows in several segments and runs, some of them dead.
fn filled(folder: &Folder, rng: &mut Rng) -> (Collection, BTreeMap<RowId, Value>) {
    let collection = folder.create(schema(), Options::new()).expect("create");
    let mut rows = BTreeMap::new();
    for step in 0..6 {
        let mut batch = collection.batch();
        for _ in 0..[120, 60, 30, 1, 1, 40][step] {
            let (id, payload) = (rng.below(300) as u64, payload(rng));
            batch.upsert(id, &vector(id + 1, DIMS), payload.clone()).expect("upsert");
            rows.insert(RowId::U64(id), payload);
        }
        for _ in 0..10 {
            let id = rng.below(300) as u64;
            batch.delete(id).expect("delete");
            rows.remove(&RowId::U64(id));
        }
        batch.commit().expect("commit");
        if step < 2 {
            collection.flush().expect("flush");
        }
    }
    (collection, rows)
}

fn hits(search: Search) -> Vec<(RowId, f32)> {
    search.run().expect("search").hits.into_iter().map(|hit| (hit.id, hit.score)).collect()
}

/// Asks every kind of search, and compares with all rows and their payloads.
fn check(collection: &Collection, rows: &BTreeMap<RowId, Value>, rng: &mut Rng) {
    for _ in 0..12 {
        let depth = rng.below(4);
        let (filter, passes) = random_filter(rng, depth);
        let parsed: Filter = filter.to_string().parse().expect("what was printed is read");
        assert_eq!(parsed, filter);
        let wanted = |id: &RowId| passes(id, &rows[id]);
        let count = rows.keys().filter(|id| wanted(id)).count();
        let snapshot = collection.snapshot();
        let all = snapshot.iter().collect::<Result<Vec<_>, _>>().expect("rows");
        let expected: Vec<_> = all.into_iter().filter(|row| wanted(&row.id)).collect();
        let listed = snapshot.select(&filter).expect("select").collect::<Result<Vec<_>, _>>();
        assert_eq!(listed.expect("rows"), expected, "{filter}");
        assert_eq!(collection.count(&filter).expect("count"), count as u64, "{filter}");

        let query = vector(rng.next(), DIMS);
        let dims = 1 + rng.below(DIMS);
        let limit = [0, 1, 5, 1000][rng.below(4)];
        let search = || collection.search(&query).dims(dims).limit(1000);
        let mut truth = hits(search().exact());
        assert_eq!(truth.len(), rows.len());
        truth.retain(|hit| wanted(&hit.0));
        let filtered = || search().limit(limit).filter(filter.clone());
        let best = &truth[..limit.min(truth.len())];
        assert_eq!(hits(filtered().exact()), best, "{filter}");
        let funnel = Funnel::stages([(dims, 1000)]);
        let by_hand = hits(filtered().funnel(funnel));
        assert!(by_hand.iter().zip(best).all(|(a, b)| a.1.to_bits() == b.1.to_bits()), "{filter}");
        for found in [by_hand, hits(filtered()), hits(filtered().recall(0.8))] {
            assert_eq!(found.len(), best.len(), "{filter}");
            assert!(found.iter().all(|hit| truth.contains(hit)), "{filter}: a row outside");
        }
        let odd = |id: &RowId| matches!(id, RowId::U64(n) if n % 2 == 1);
        let closure = filtered().filter_fn(move |id, _| odd(id)).exact();
        let odd: Vec<_> = truth.iter().filter(|hit| odd(&hit.0)).take(limit).cloned().collect();
        assert_eq!(hits(closure), odd, "{filter}");
    }
}

fn case(seed: u64) {
    let mut rng = Rng(seed);
    let folder = Folder::default();
    let (collection, rows) = filled(&folder, &mut rng);
    check(&collection, &rows, &mut rng);
    let dead = folder.fork().open(Options::new()).expect("recovered");
    check(&dead, &rows, &mut rng);
    drop(dead);
    collection.flush().expect("flush");
    check(&collection, &rows, &mut rng);
    drop(collection);
    let collection = folder.open(Options::new()).expect("reopen");
    check(&collection, &rows, &mut rng);
    collection.compact().expect("compact");
    check(&collection, &rows, &mut rng);
    collection.verify().expect("verify");
}

#[test]
fn filtered_answers_are_those_of_looking_at_every_row() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        return case(seed);
    }
    for seed in 0..if support::long() { 5000 } else { 60 } {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(seed)));
        assert!(outcome.is_ok(), "replay with SEED={seed}");
    }
}

/// Calibrated, for so few rows would be searched exactly otherwise.
#[test]
fn funnels_keep_their_recall_within_a_filter() -> Done {
    let folder = Folder::default();
    let schema = Schema::builder(64).field("n", FieldKind::Integer).build()?;
    let collection = folder.create(schema, Options::new())?;
    let mut batch = collection.batch();
    for id in 0..4000 {
        batch.upsert(id, &vector(id, 64), json!({"n": id % 1000}))?;
    }
    batch.commit()?;
    collection.flush()?;
    collection.calibrate()?;
    for (below, stages) in [(1000, 3), (500, 3), (5, 2), (0, 2)] {
        let filter = field("n").lt(below);
        let (mut found, mut wanted) = (0, 0);
        for seed in 0..20 {
            let query = vector(90_000 + seed, 64);
            let search = || collection.search(&query).filter(filter.clone());
            let (truth, funnel) = (search().exact().run()?, search().run()?);
            let report = &funnel.explain.stages[0];
            assert_eq!((report.name.as_str(), report.rows_in), ("filter", 4000));
            assert_eq!(report.rows_out, below as u64 * 4, "{}", funnel.explain);
            assert_eq!(funnel.explain.stages.len(), stages, "{}", funnel.explain);
            assert_eq!(funnel.hits.len(), truth.hits.len());
            wanted += truth.hits.len();
            found += truth.hits.iter().filter(|hit| funnel.hits.contains(hit)).count();
        }
        assert!(found * 100 >= wanted * 95, "below {below}: found {found} of {wanted}");
    }
    Ok(())
}

#[test]
fn filters_that_fit_no_field_are_refused() -> Done {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new())?;
    let says = |filter: Filter| {
        let refused = collection.search(&[1.0; DIMS]).filter(filter.clone()).run();
        let refused = refused.expect_err("must be refused");
        assert!(matches!(refused, Error::Invalid { what: "filter", .. }), "{refused:?}");
        assert_eq!(
            collection.count(&filter).expect_err("here too").to_string(),
            refused.to_string()
        );
        refused.to_string()
    };
    let unknown = says(field("wrod").eq("a"));
    assert!(unknown.contains("no field \"wrod\"; this collection declares word (keyword), n (in"));
    for (filter, expected) in [
        (
            field("n").ge("2020"),
            "field n (integer): expected a whole number from -2^63 to 2^63 - 1, got \"2020\"",
        ),
        (field("n").ge(2.5), "got 2.5"),
        (field("n").is_in([1u64, u64::MAX]), "got 18446744073709551615"),
        (field("deep.x").lt("x"), "field deep.x (float): expected a number, got \"x\""),
        (field("deep.x").lt(f64::NAN), "nothing compares with null (as which NaN and infinity"),
        (field("n").eq(json!(null)), "`NOT EXISTS field` those without"),
        (field("at").lt("2024-05-01T12:00:00"), "its zone is missing"),
        (field("flag").eq(1), "field flag (bool): expected true or false, got 1"),
        (field("word").eq(true), "field word (keyword): expected text"),
        (field("words").eq(json!(["a"])), "got [\"a\"]"),
        (field("at").between(0, "soon"), "RFC 3339"),
        (field("n").prefix("1"), "only keywords have prefixes"),
        (Filter::ids(["a"]), "u64 ids, got the string \"a\"; a collection has string ids if"),
    ] {
        let said = says(filter);
        assert!(said.contains(expected), "{said}");
    }
    let plain = Folder::default().create(Schema::builder(2).build()?, Options::new())?;
    let none = plain.count(&field("year").eq(1)).expect_err("no fields").to_string();
    assert!(none.contains("declares none: declare it"), "{none}");
    Ok(())
}

#[test]
fn filters_beyond_the_limits_are_refused_and_huge_lists_are_not() -> Done {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new())?;
    collection.upsert(7, &[1.0; DIMS], json!({"n": 7}))?;
    let wide = (0..1_000_000).map(|n| field("n").eq(n)).reduce(Filter::or).expect("some");
    assert!(collection.count(&wide).expect_err("too wide").to_string().contains("use IN"));
    let deep = (0..1_000_000).fold(field("n").eq(7), |filter, _| filter.not());
    assert!(collection.count(&deep).is_err());
    let deep = (0..65).fold(field("n").eq(7), |f, _| f.and(field("n").ge(0)).not());
    let said = collection.count(&deep).expect_err("too deep").to_string();
    assert!(said.contains("at most 64 levels of nesting, got 131"), "{said}");
    assert_eq!(collection.count(&field("n").is_in(0..1_000_000))?, 1);
    assert_eq!(collection.count(&Filter::ids(0..1_000_000))?, 1);
    assert_eq!(collection.count(&field("n").is_in(Vec::<i64>::new()))?, 0);
    assert_eq!(collection.count(&Filter::ids(Vec::<u64>::new()).not())?, 1);
    Ok(())
}

#[test]
fn values_of_another_kind_are_refused_and_nothing_changes() -> Done {
    let folder = Folder::default();
    let collection = folder.create(schema(), Options::new())?;
    collection.upsert(1, &[1.0; DIMS], json!({"n": 1}))?;
    let refused = collection.upsert(1, &[2.0; DIMS], json!({"n": "two"})).expect_err("refused");
    assert!(
        refused.to_string().contains("field n (integer): expected a whole number"),
        "{refused}"
    );
    assert!(refused.to_string().contains("got \"two\""), "{refused}");
    let mut batch = collection.batch();
    batch.upsert(2, &[1.0; DIMS], json!({"words": ["a", "b"]}))?;
    assert!(batch.upsert(3, &[1.0; DIMS], json!({"words": "a"})).is_err());
    assert_eq!(batch.len(), 1);
    batch.commit()?;
    assert_eq!((collection.len(), collection.count(&field("n").eq(1))?), (2, 1));
    let text = Schema::builder(2).ids(IdKind::Str).field("n", FieldKind::Integer).build()?;
    let collection = Folder::default().create(text, Options::new())?;
    collection.upsert("it's", &[1.0, 0.0], ())?;
    assert_eq!(collection.count(&Filter::parse("IDS('it''s', 'x') AND NOT EXISTS n")?)?, 1);
    Ok(())
}

#[test]
fn damaged_indexes_are_noticed_or_harmless() {
    let folder = Folder::default();
    let mut rng = Rng(4);
    let (collection, _) = filled(&folder, &mut rng);
    collection.compact().expect("compact");
    drop(collection);
    let filters: Vec<Filter> = (0..24).map(|_| random_filter(&mut rng, 1).0).collect();
    let ask = |folder: &Folder| -> Vec<Result<u64, Error>> {
        match folder.open(support::read_only()) {
            Ok(collection) => filters.iter().map(|filter| collection.count(filter)).collect(),
            Err(e) => vec![Err(e)],
        }
    };
    let truth: Vec<u64> = ask(&folder).into_iter().map(|n| n.expect("intact")).collect();
    let good = files(&folder);
    let scratch = folder_of(&good);
    let (name, segment) = good.iter().find(|f| f.0.starts_with("seg-")).expect("a segment");
    // Indexes are the last regions: they lie behind the first half.
    let step = if support::long() { 1 } else { 7 };
    let mut noticed = 0;
    for at in (segment.len() / 2..segment.len()).step_by(step) {
        let mut bad = segment.clone();
        bad[at] ^= 1 << (at % 8);
        scratch.write(name, bad);
        let answers = ask(&scratch);
        noticed += usize::from(answers.iter().any(Result::is_err));
        for (answer, expected) in answers.iter().zip(&truth) {
            match answer {
                Ok(answer) => assert_eq!(answer, expected, "byte {at}"),
                Err(e) => assert!(matches!(e, Error::Corrupt(_)), "byte {at}: {e}"),
            }
        }
    }
    assert!(noticed > 1000 / step, "{noticed} of {}", segment.len() / 2);
}

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::filter::{MAX_FILTER_NODES, field};

fn printed(text: &str) -> String {
    Filter::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string()
}

fn refused(text: &str) -> String {
    Filter::parse(text).expect_err(text).to_string()
}

#[test]
fn not_binds_closer_than_and_and_and_closer_than_or() {
    let (a, b, c) = (field("a").eq(1), field("b").eq(2), field("c").eq(3));
    let parsed = |text| Filter::parse(text).expect(text);
    assert_eq!(parsed("a=1 or b=2 and c=3"), a.clone().or(b.clone().and(c.clone())));
    assert_eq!(parsed("(a=1 or b=2) and c=3"), a.clone().or(b.clone()).and(c.clone()));
    assert_eq!(parsed("not a=1 and b=2"), a.clone().not().and(b.clone()));
    assert_eq!(parsed("not (a=1 and b=2)"), a.clone().and(b.clone()).not());
    assert_eq!(parsed("((a=1)) AND b=2 AND (c=3)"), a.clone().and(b.clone()).and(c.clone()));
    assert_eq!(parsed("a=1 AND (b=2 AND c=3)"), a.and(b).and(c));
}

#[test]
fn every_form_is_read_and_printed() {
    for (text, expected) in [
        ("year>=2020", "year >= 2020"),
        ("is = 1 and is exists", "is = 1 AND EXISTS is"),
        ("a not prefix 'x'", "NOT a PREFIX 'x'"),
        ("a == -1 and b <> 2.5e3", "a = -1 AND b != 2500.0"),
        ("a not in (1,2) or a Not Between 1 and 2", "NOT a IN (1, 2) OR NOT a BETWEEN 1 AND 2"),
        ("lang in ()", "lang IN ()"),
        ("t.x prefix 'it''s'", "t.x PREFIX 'it''s'"),
        ("x exists and exists y and x not exists", "EXISTS x AND EXISTS y AND NOT EXISTS x"),
        ("ids(1, 18446744073709551615)", "IDS(1, 18446744073709551615)"),
        ("IDS('a')", "IDS('a')"),
        ("\"in\" = true AND \"a \"\"b\" = 'c'", "\"in\" = true AND \"a \"\"b\" = 'c'"),
        ("gr\u{f6}\u{df}e = null", "gr\u{f6}\u{df}e = null"),
        ("not not a = 1", "NOT a != 1"),
        ("a = 1 or b = 2 and c = 3", "a = 1 OR (b = 2 AND c = 3)"),
    ] {
        assert_eq!(printed(text), expected);
        assert_eq!(printed(expected), expected);
    }
}

#[test]
fn errors_tell_the_column_what_was_expected_and_what_came() {
    for (text, message) in [
        ("", "column 1: expected the name of a field, got the end"),
        ("year >", "column 7: expected a value: a number, 'text', true or false, got the end"),
        ("year >= )", "column 9: expected a value: a number, 'text', true or false, got `)`"),
        ("year 2020", "column 6: expected a comparison, IN, BETWEEN, PREFIX or EXISTS, got `2020`"),
        ("a = 1 b = 2", "column 7: expected AND, OR or the end, got `b`"),
        ("\u{e9} = 1 AND (b = 2", "column 11: this `(` is not closed"),
        ("a = 1)", "column 6: this `)` closes nothing"),
        ("a = 'x", "column 5: this ' is not closed"),
        ("a = #", "column 5: expected a filter, got '#'"),
        ("a = 1.2.3", "column 5: expected a number, got `1.2.3`"),
        ("a = 2020-01-01", "column 5: expected a number, got `2020-01-01`"),
        ("a in (1 2)", "column 9: expected `,` or `)`, got `2`"),
        ("a in 1", "column 6: expected `(`, got `1`"),
        ("a between 1 or 2", "column 13: expected AND and the upper bound, got `or`"),
        (
            "year is null",
            "column 6: there is no IS: `NOT EXISTS field` finds rows without a value, `EXISTS field` \
             those with one",
        ),
        ("a like 'x%'", "column 3: LIKE is not supported: use PREFIX 'text'"),
        ("a prefix 1", "column 10: expected text between single quotes, got `1`"),
        ("ids(-1)", "column 5: expected an id: a whole number or 'text', got `-1`"),
        ("a = b", "column 5: expected a value: a number, 'text', true or false, got `b`"),
        ("and", "column 1: expected the name of a field, got `and`"),
        ("a not = 1", "column 7: expected IN, BETWEEN, PREFIX or EXISTS, got `=`"),
    ] {
        assert_eq!(refused(text), format!("invalid filter: {message}"), "{text}");
    }
}

#[test]
fn many_filters_are_joined_into_one() {
    let conditions = |n: i32| (0..n).map(|v| field("a").eq(v));
    assert_eq!(Filter::all(conditions(3)).to_string(), "a = 0 AND a = 1 AND a = 2");
    assert_eq!(Filter::any(conditions(3)).to_string(), "a = 0 OR a = 1 OR a = 2");
    assert_eq!(Filter::all(conditions(1)), Filter::any(conditions(1)));
    for (none, text) in [(Filter::any([]), "IDS()"), (Filter::all([]), "NOT IDS()")] {
        assert_eq!((none.to_string().as_str(), printed(text)), (text, text.to_owned()));
    }
    // As long as a filter may be, joined in no more than linear time.
    let most = Filter::any(conditions(MAX_FILTER_NODES as i32 - 1));
    assert!(check_limits(&most).is_ok() && check_limits(&most.or(field("b").exists())).is_err());
}

#[test]
fn clones_share_their_values() {
    let values = |filter: &Filter| match &filter.steps[..] {
        [Step::Field(_, Condition::In(values))] => values.as_ptr().addr(),
        [Step::Ids(ids)] => ids.as_ptr().addr(),
        other => panic!("{other:?}"),
    };
    for filter in [field("a").is_in(0..1000), Filter::ids(0..1000u64)] {
        assert_eq!(values(&filter.clone()), values(&filter));
        assert_eq!(values(&Filter::from(&filter)), values(&filter));
    }
}

#[test]
fn huge_texts_are_read_or_refused_but_end_nothing() {
    for deep in ["(", "not ", "(not "] {
        let refused = refused(&deep.repeat(10_000));
        assert!(refused.contains("nested deeper than 64"), "{refused}");
    }
    assert!(refused(&")".repeat(10_000)).contains("name of a field"));
    let fits = format!("{}a = 1{}", "(".repeat(64), ")".repeat(64));
    assert_eq!(printed(&fits), "a = 1");
    let nested = |n| (0..n).fold("a = 1".to_owned(), |inner, _| format!("b = 2 and not ({inner})"));
    assert!(Filter::parse(&nested(30)).is_ok());
    assert!(refused(&nested(40)).contains("64"));

    let many = |n: usize, join: &str| vec!["a = 1"; n].join(join);
    assert!(Filter::parse(&many(MAX_FILTER_NODES - 1, " or ")).is_ok());
    for join in [" or ", " and "] {
        assert!(refused(&many(1_000_000, join)).contains("use IN"));
    }
    let values: Vec<String> = (0..1_000_000).map(|n| n.to_string()).collect();
    assert!(Filter::parse(&format!("a in ({})", values.join(","))).is_ok());
}

#[test]
fn filters_nested_by_hand_without_end_are_refused_when_used() {
    let mut deep = field("a").eq(1);
    for _ in 0..1_000_000 {
        deep = !deep;
    }
    assert!(check_limits(&deep).is_err());
    let mut deep = field("a").eq(1);
    for n in 0..70 {
        assert_eq!(check_limits(&deep).is_ok(), n < 64, "{n} levels around a condition");
        let other = field("b").eq(2);
        deep = if n % 2 == 0 { deep.and(other) } else { other.or(deep) };
    }
    assert_eq!(deep.clone().to_string().matches('(').count(), 69);
    assert_eq!(deep.clone(), deep);
}

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("JSON has no others", |x| x.is_finite()).prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "[a-c' \u{e9}\"\\\\\n]{0,6}".prop_map(Value::from),
        Just(json!(null)),
    ]
}

fn condition() -> impl Strategy<Value = Filter> {
    let name = prop_oneof!["[a-z_.]{1,4}", "\\PC{0,5}", Just("exists".to_owned())];
    let list = prop::collection::vec(value(), 0..4);
    (name, value(), value(), list, 0..11).prop_map(|(name, a, b, list, kind)| {
        let name = field(name);
        match kind {
            0 => name.eq(a),
            1 => name.ne(a),
            2 => name.lt(a),
            3 => name.le(a),
            4 => name.gt(a),
            5 => name.ge(a),
            6 => name.between(a, b),
            7 => name.is_in(list),
            8 => name.exists(),
            9 => name.prefix(a.to_string()),
            _ => Filter::ids([RowId::U64(7), RowId::from("it's")]),
        }
    })
}

fn filter() -> impl Strategy<Value = Filter> {
    condition().prop_recursive(6, 40, 3, |inner| {
        (inner.clone(), inner, 0..3).prop_map(|(a, b, kind)| match kind {
            0 => a.and(b),
            1 => a.or(b),
            _ => a.not(),
        })
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read_back(filter in filter()) {
        let text = filter.to_string();
        prop_assert_eq!(Filter::parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?, filter);
    }

    #[test]
    fn no_text_panics(text in "[ a-c()'\"=<>!,.0-9\u{e9}-]{0,30}|\\PC{0,30}") {
        let _ = Filter::parse(&text);
    }

    #[test]
    fn no_words_panic(words in prop::collection::vec(0..24usize, 0..20)) {
        let word = |n: usize| WORDS.get(n).or(SYMBOLS.get(n.saturating_sub(12))).unwrap_or(&"a");
        let text: Vec<&str> = words.into_iter().map(|n| *word(n)).collect();
        let _ = Filter::parse(&text.join(" "));
    }
}

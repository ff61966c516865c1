//! The text of a filter: read, printed, read again, and asked.

use std::sync::OnceLock;

use matryo::testing::Folder;
use matryo::{Collection, Error, FieldKind, Filter, Options, Schema, json};

/// Rows of every kind of field, some in a segment and some in RAM.
fn collection() -> &'static Collection {
    static COLLECTION: OnceLock<Collection> = OnceLock::new();
    COLLECTION.get_or_init(|| {
        let schema = Schema::builder(2)
            .list_field("lang", FieldKind::Keyword)
            .field("year", FieldKind::Integer)
            .field("x", FieldKind::Float)
            .field("ok", FieldKind::Bool)
            .field("at", FieldKind::Timestamp);
        let schema = schema.build().expect("valid");
        let db = Folder::default().create(schema, Options::new()).expect("create");
        for n in 0..40u64 {
            let lang = ["en", "de", "e'l"][n as usize % 3];
            let mut payload =
                json!({"lang": [lang, "x"], "year": 2000 + n / 3, "x": n as f64 / 4.0});
            if n % 2 == 0 {
                payload["ok"] = json!(n % 4 == 0);
                payload["at"] = json!(format!("2026-11-{:02}T00:00:00Z", n % 28 + 1));
            }
            db.upsert(n, &[1.0, n as f32], payload).expect("commit");
            if n == 25 {
                db.flush().expect("flush");
            }
        }
        db
    })
}

fn typed(e: &Error) {
    assert!(matches!(e, Error::Invalid { .. }), "{e}");
}

pub(super) fn filter_parse(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let filter: Filter = match text.parse() {
        Ok(filter) => filter,
        Err(e) => return typed(&e),
    };
    let printed = filter.to_string();
    let again: Filter = printed.parse().unwrap_or_else(|e| panic!("{printed}: {e}"));
    assert!(again == filter, "{text:?} is printed {printed:?}");
    let db = collection();
    let count = match db.count(&filter) {
        Ok(count) => count,
        Err(e) => return typed(&e),
    };
    // The negation may be beyond the limits.
    if let Ok(others) = db.count(&filter.clone().not()) {
        assert_eq!(count + others, db.len(), "{printed}");
    }
    let search = db.search(&[1.0, 2.0]).limit(100).filter(filter);
    assert_eq!(search.run().expect("was counted").hits.len() as u64, count, "{printed}");
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    [
        "year >= 2020 and lang in ('en', 'de')",
        "not (x < 2.5e0 or x between -1 and 7) and ok = true",
        "lang prefix 'e''' or lang != \"en\" or exists year",
        "at > '2026-11-03T12:00:00.5+01:00' and at <= 1795000000000",
        "ids(1, 18446744073709551615, 3) or \"lang\" not in ()",
        "((((((((year=2001))))))))",
        "x = null and ok <> false and year not between 1 and 2",
        "x not exists",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

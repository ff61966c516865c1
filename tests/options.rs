//! Options of opening: how many dimensions, how much RAM; and what a collection
//! knows of the model that made its vectors.

mod support;

use matryo::testing::{Folder, merge_all};
use matryo::{
    Bits, Collection, EmbedderId, Error, FieldKind, Filter, Funnel, Info, Metric, Options,
    Placement, RepairOptions, Schema, StageCode, json,
};
use support::{DIMS, read_only, schema, vector};

const ROWS: u64 = 300;

/// Two segments with dead rows, and rows that are in none.
fn make(metric: Metric) -> Folder {
    let folder = Folder::default();
    let stages = [StageCode::new(16, Bits::Eight), StageCode::new(DIMS, Bits::One)];
    let schema = Schema::builder(DIMS).metric(metric).granularities([8, 16]).stages(stages);
    let schema = schema.field("n", FieldKind::Integer).build().expect("valid");
    let db = folder.create(schema, Options::new()).expect("create");
    for (ids, flush) in [(0..200, true), (190..280, true), (275..ROWS, false)] {
        let mut batch = db.batch();
        ids.for_each(|id| {
            batch.upsert(id, &vector(id, DIMS), json!({"n": id % 9})).expect("fits");
        });
        batch.commit().expect("commit");
        if flush {
            db.flush().expect("flush");
        }
    }
    db.delete(5).expect("delete");
    drop(db);
    folder
}

/// Hits of every kind of search over at most `most` dimensions.
fn answers(db: &Collection, most: usize) -> Vec<Vec<(matryo::RowId, u32)>> {
    let mut all = Vec::new();
    for dims in [1, 7, 8, 15, 16, 17, 31, DIMS].into_iter().filter(|dims| *dims <= most) {
        for seed in [900, 901] {
            let query = vector(seed, DIMS);
            let search = || db.search(&query).dims(dims).limit(7);
            let filter = Filter::parse("n IN (2, 3, 5)").expect("a filter");
            for search in [
                search().exact(),
                search().recall(0.8),
                search().funnel(Funnel::stages([(dims.min(9), 40)])),
                search().funnel(Funnel::stages([(dims, 30)])).filter(filter.clone()),
                search().exact().filter(filter),
            ] {
                let hits = search.run().expect("search").hits;
                all.push(hits.into_iter().map(|hit| (hit.id, hit.score.to_bits())).collect());
            }
        }
    }
    all
}

fn placed(info: &Info) -> Vec<(&str, bool, Placement)> {
    let columns = info.columns.iter();
    columns.map(|c| (c.name.as_str(), c.ram_bytes == c.bytes, c.placement)).collect()
}

#[test]
fn answers_are_the_same_with_any_budget_and_it_is_never_exceeded() {
    for metric in Metric::ALL {
        let folder = make(metric);
        let whole = folder.open(read_only()).expect("open");
        let wanted = answers(&whole, DIMS);
        let info = whole.info().expect("info");
        let need: u64 = info.columns.iter().map(|c| c.bytes).sum();
        assert!(info.ram_bytes == need && info.columns.iter().all(|c| c.ram_bytes == c.bytes));
        let mut last = 0;
        for budget in [0, 700, 2000, 4000, need - 1, need] {
            for options in [read_only(), Options::new()] {
                // A writer would go on with the log: it gets a copy.
                let folder = folder.fork();
                let db = folder.open(options.ram_budget(budget)).expect("open");
                let info = db.info().expect("info");
                assert!(info.ram_bytes <= budget, "{} of {budget}", info.ram_bytes);
                assert!(info.ram_bytes >= last, "more is used when there is more");
                last = info.ram_bytes;
                assert_eq!(info.ram_budget, Some(budget));
                assert_eq!(answers(&db, DIMS), wanted, "{metric} with {budget}");
                db.verify().expect("undamaged");
            }
        }
        assert_eq!(last, need);
    }
}

#[test]
fn what_searches_read_first_gets_the_ram() {
    let folder = make(Metric::Cosine);
    let columns = folder.open(read_only()).expect("open").info().expect("info").columns;
    let bytes = |name: &str| columns.iter().find(|c| c.name == name).expect("there").bytes;
    let (long, norms) = (bytes("1 bit x 32"), bytes("norms"));
    let open = |budget| folder.open(read_only().ram_budget(budget)).expect("open");
    let info = open(long + norms).info().expect("info");
    assert_eq!(
        placed(&info),
        [
            ("8 bit x 16", false, Placement::OverBudget),
            ("1 bit x 32", true, Placement::InRam),
            ("norms", true, Placement::InRam)
        ]
    );
}

#[test]
fn the_budget_holds_through_flushes_merges_and_snapshots() {
    let folder = Folder::default();
    let options = Options::new().ram_budget(9000).memtable_bytes(20_000);
    let db = folder.create(schema(), options).expect("create");
    let (mut snapshots, mut most) = (Vec::new(), 0);
    for round in 0..12u64 {
        let mut batch = db.batch();
        (0..60).for_each(|n| {
            batch.upsert(round * 40 + n, &vector(round + n, DIMS), ()).expect("fits");
        });
        batch.commit().expect("commit");
        db.flush().expect("flush");
        if round % 3 == 0 {
            snapshots.push((db.snapshot(), db.len()));
        }
        if round % 4 == 3 {
            db.compact().expect("compact");
        }
        most = most.max(db.info().expect("info").ram_bytes);
    }
    // Less than there is room for: the snapshots' segments count too.
    assert!((1..=9000).contains(&most), "{most} bytes");
    for (snapshot, len) in &snapshots {
        let hits = snapshot.search(&vector(1, DIMS)).limit(10_000).exact().run().expect("search");
        assert_eq!(hits.hits.len() as u64, *len);
    }
    // The room that old segments took is there for others again.
    drop(snapshots);
    let before = db.info().expect("info").ram_bytes;
    db.compact().expect("compact");
    db.upsert(1, &vector(3, DIMS), ()).expect("upsert");
    db.flush().expect("flush");
    let after = db.info().expect("info").ram_bytes;
    assert!(after > 4000 && after <= 9000, "{before}, then {after}");
}

/// What a merge frees is there for what it made, and for a reader that comes to see it.
#[test]
fn a_budget_for_all_codes_is_enough_through_merges() {
    let folder = make(Metric::Cosine);
    let need = |db: &Collection| db.info().expect("info").columns.iter().map(|c| c.bytes).sum();
    let in_ram = |db: &Collection| {
        let columns = db.info().expect("info").columns;
        columns.iter().all(|column| column.placement == Placement::InRam)
    };
    let db = folder.open(Options::new()).expect("open");
    db.flush().expect("flush");
    let budget: u64 = need(&db);
    drop(db);
    for background in [false, true] {
        let folder = folder.fork();
        let options = Options::new().ram_budget(budget);
        let db = folder.open(options.clone()).expect("open");
        let reader = folder.open(options.read_only(true)).expect("open");
        assert!(in_ram(&db) && in_ram(&reader));
        let merged = if background {
            merge_all(&db, &|| ()).expect("merge").segments
        } else {
            db.compact().expect("compact").segments
        };
        assert_eq!(merged, 3);
        assert!(need(&db) <= budget && in_ram(&db), "{:?}", db.info());
        assert!(reader.refresh().expect("refresh") && in_ram(&reader), "{:?}", reader.info());
    }
}

#[test]
fn fewer_dimensions_read_less_and_answer_alike() {
    for metric in Metric::ALL {
        let folder = make(metric);
        let whole = folder.open(read_only()).expect("open");
        for most in [8, 16, 17, DIMS] {
            let db = folder.open(read_only().max_dims(most)).expect("open");
            assert_eq!(answers(&db, most), answers(&whole, most), "{metric} up to {most}");
            assert_eq!(db.max_dims(), most);
            // By default all that it was opened for; a query may be whole or short.
            let query = vector(902, DIMS);
            let hits = |db: &Collection, query: &[f32]| {
                db.search(query).exact().run().expect("search").hits
            };
            let wanted = whole.search(&query).dims(most).exact().run().expect("search").hits;
            assert_eq!(hits(&db, &query), wanted);
            assert_eq!(hits(&db, &query[..most]), wanted);
            assert_eq!(db.snapshot().search(&query).exact().run().expect("search").hits, wanted);
            assert_eq!(db.get(7).expect("get"), whole.get(7).expect("get"), "rows are whole");
            let refused = db.search(&query).dims(most + 1).run();
            assert!(matches!(refused, Err(Error::Invalid { what: "dims", .. })), "{refused:?}");
        }
    }
}

/// What is known of all dimensions outlives a calibration by a handle that has not all of them.
#[test]
fn a_calibration_by_fewer_dimensions_leaves_the_others() {
    let folder = make(Metric::Cosine);
    let db = folder.open(Options::new()).expect("open");
    let mut rows = db.batch();
    for id in 5000..5600 {
        rows.upsert(id, &vector(id, DIMS), ()).expect("a row");
    }
    rows.commit().expect("commit");
    let whole = db.calibrate().expect("calibrate").to_string();
    drop(db);
    let db = folder.open(Options::new().max_dims(16)).expect("open");
    db.calibrate().expect("calibrate");
    drop(db);
    let known = folder.open(read_only()).expect("open").calibration().expect("one").to_string();
    assert_eq!(known.lines().last(), whole.lines().last(), "{known}");
    assert!(whole.contains("1 bit x 32        32"), "{whole}");
}

#[test]
fn finer_codes_and_needless_norms_stay_on_disk() {
    use Placement::{InRam, Unused};
    let info = |metric, most| {
        let db = make(metric).open(read_only().max_dims(most)).expect("open");
        db.info().expect("info")
    };
    let of =
        |metric, most| placed(&info(metric, most)).into_iter().map(|p| p.2).collect::<Vec<_>>();
    assert_eq!(of(Metric::Cosine, 16), [InRam, Unused, Unused]);
    assert_eq!(of(Metric::Dot, 16), [InRam, Unused, InRam]);
    assert_eq!(of(Metric::Cosine, 17), [InRam, InRam, Unused]);
    assert_eq!(of(Metric::Cosine, DIMS), [InRam; 3]);
    let short = info(Metric::Cosine, 16);
    assert_eq!(short.ram_bytes, short.columns[0].bytes);
}

#[test]
fn damage_in_a_mapped_column_is_told_by_the_search_that_reads_it() {
    let good = make(Metric::Dot);
    let open = |folder: &Folder, budget| folder.open(read_only().ram_budget(budget));
    let query = vector(900, DIMS);
    let (mut at_open, mut at_search) = (0, 0);
    let name = good.names().into_iter().find(|name| name.starts_with("seg-")).expect("a segment");
    let bytes = good.read(&name).expect("there");
    for at in (4096..bytes.len()).step_by(97) {
        let folder = good.fork();
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        folder.write(&name, bad);
        let pinned = open(&folder, u64::MAX).err();
        let Ok(mapped) = open(&folder, 0) else { continue };
        let searches = [
            mapped.search(&query).funnel(Funnel::stages([(DIMS, 30)])).run(),
            mapped.search(&query).dims(16).funnel(Funnel::stages([(16, 30)])).run(),
            mapped.search(&query).exact().run(),
        ];
        if pinned.is_some() {
            at_open += 1;
            let told = searches.iter().filter(|s| matches!(s, Err(Error::Corrupt(_)))).count();
            assert!(told > 0, "byte {at}: damage is not told");
            at_search += 1;
        }
    }
    assert!(at_open > 20 && at_search == at_open, "{at_open} {at_search}");
}

#[test]
fn impossible_dimensions_are_refused_and_nothing_is_made() {
    let folder = make(Metric::Cosine);
    for most in [0, DIMS + 1, usize::MAX] {
        for options in [read_only(), Options::new()] {
            let refused = folder.open(options.max_dims(most)).err();
            assert!(
                matches!(refused, Some(Error::Invalid { what: "max_dims", .. })),
                "{refused:?}"
            );
        }
    }
    let empty = Folder::default();
    assert!(empty.create(schema(), Options::new().max_dims(99)).is_err());
    assert!(!empty.names().contains(&"MANIFEST".to_owned()));
    let dir = tempfile::tempdir().expect("temporary folder");
    let path = dir.path().join("new");
    let refused = Collection::create_with(&path, schema(), Options::new().max_dims(99)).err();
    assert!(matches!(refused, Some(Error::Invalid { what: "max_dims", .. })), "{refused:?}");
    assert!(!path.exists(), "the folder was made for it");
}

// What made the vectors.

fn model(prompts: u8) -> EmbedderId {
    EmbedderId::new("mini", [prompts; 32]).part("graph", [1; 32]).part("prompts", [prompts; 32])
}

#[test]
fn the_embedder_is_kept_and_compared() {
    let folder = Folder::default();
    let schema = Schema::builder(DIMS).embedder(model(3)).build().expect("valid");
    let db = folder.create(schema, Options::new()).expect("create");
    db.upsert(1, &vector(1, DIMS), ()).expect("upsert");
    drop(db);
    let db = folder.open(Options::new()).expect("open");
    assert_eq!(db.schema().embedder(), Some(&model(3)));
    db.check_embedder(model(3)).expect("the same");
    match db.check_embedder(model(4)) {
        Err(Error::OtherEmbedder { parts, .. }) => assert_eq!(parts, ["prompts"]),
        other => panic!("{other:?}"),
    }
    // A copy of fewer dimensions has them from the same model, as has a backup.
    let (short, backup) = (tempfile::tempdir().expect("folder"), Folder::default());
    db.copy_to(short.path(), &matryo::CopyOptions::new().dims(8)).expect("copy");
    Collection::open(short.path()).expect("open").check_embedder(model(3)).expect("kept");
    backup.back_up(&db, &|_| true).expect("backup");
    backup.open(read_only()).expect("open").check_embedder(model(3)).expect("kept");
    drop(db);
    folder.drop_tier(&matryo::CopyOptions::new().dims(8), &|_| true).expect("drop-tier");
    folder.open(read_only()).expect("open").check_embedder(model(3)).expect("kept");
    assert!(folder.repair(&RepairOptions::new()).expect("repair").was_intact());
}

#[test]
fn a_collection_that_records_no_embedder_does_not_say_that_it_fits() {
    let folder = make(Metric::Cosine);
    let db = folder.open(read_only()).expect("open");
    assert_eq!(db.schema().embedder(), None);
    let refused = db.check_embedder(model(3)).expect_err("nobody knows").to_string();
    assert!(refused.contains("does not record"), "{refused}");
}

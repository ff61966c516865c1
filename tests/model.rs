//! Random operations against a map in RAM with exact search.
//!
//! `SEED=n` replays one case, `MATRYO_LONG=1` runs many more.

mod support;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use matryo::testing::Folder;
use matryo::testing::encoding::{Bits, StageCode, decode, encode};
use matryo::{
    Collection, Durability, FieldKind, Filter, Funnel, IdKind, Metric, Options, Payload, Precision,
    RowId, Schema, Search, Value, field, json,
};
use support::{Rng, read_only, sized};

/// A row as it should come back.
#[derive(Clone, PartialEq, Debug)]
struct Stored {
    vector: Vec<f32>,
    payload: Value,
}

/// One case: the collection under test and what it should hold.
struct Case {
    rng: Rng,
    schema: Schema,
    options: Options,
    folder: Folder,
    /// None only while it is reopened.
    collection: Option<Collection>,
    rows: BTreeMap<RowId, Stored>,
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len())]
}

fn random_schema(rng: &mut Rng) -> Schema {
    let dims = 1 + rng.below(40);
    let mut schema = Schema::builder(dims)
        .metric(pick(rng, &Metric::ALL))
        .stored(pick(rng, &Precision::ALL))
        .ids(pick(rng, &[IdKind::U64, IdKind::Str]));
    if dims > 3 && rng.below(2) == 0 {
        let stages = [StageCode::new(dims / 2, Bits::Eight), StageCode::new(dims, Bits::One)];
        schema = schema.granularities([dims / 3, dims]).stages(stages);
    }
    // Payloads have it, or not; every other collection declares it.
    if rng.below(2) == 0 {
        schema = schema.field("x", FieldKind::Float);
    }
    schema.build().expect("valid")
}

impl Case {
    fn new(seed: u64) -> Self {
        let mut rng = Rng(seed);
        let schema = random_schema(&mut rng);
        // A small memtable makes commits flush by themselves.
        let options = Options::new()
            .memtable_bytes(pick(&mut rng, &[0, 2000, 20_000, usize::MAX]))
            .durability(pick(&mut rng, &[Durability::Full, Durability::Buffered]));
        let folder = Folder::default();
        let collection = folder.create(schema.clone(), options.clone()).expect("create");
        Self { rng, schema, options, folder, collection: Some(collection), rows: BTreeMap::new() }
    }

    fn db(&self) -> &Collection {
        self.collection.as_ref().expect("open")
    }

    fn id(&mut self) -> RowId {
        let n = self.rng.below(48) as u64;
        match self.schema.ids() {
            IdKind::U64 if n == 0 => RowId::U64(u64::MAX),
            IdKind::U64 => RowId::U64(n * 0x0101_0101),
            IdKind::Str if n == 0 => RowId::from("x".repeat(512)),
            IdKind::Str => RowId::from(format!("{}\u{1f980}{n}", "ab".repeat(n as usize % 5))),
        }
    }

    /// Few different components, so that scores are often equal.
    fn vector(&mut self) -> Vec<f32> {
        let dims = self.schema.dims();
        let coarse = self.rng.below(3) == 0;
        let mut vector = self.rng.vector(dims);
        if coarse {
            for v in &mut vector {
                *v = (*v * 2.0).round();
            }
        }
        vector[self.rng.below(dims)] = 0.5;
        // Searches may look at one dimension only, which cosine needs not to be zero.
        vector[0] = if vector[0] == 0.0 { 1.0 } else { vector[0] };
        vector
    }

    fn payload(&mut self) -> Value {
        match self.rng.below(4) {
            0 => json!(null),
            1 => json!({"text": "p".repeat(self.rng.below(3000))}),
            _ => {
                json!({"n": self.rng.next(), "x": (self.rng.next() as f64) / 3e7, "a": [null, true]})
            }
        }
    }

    fn round(&self, vector: &[f32]) -> Vec<f32> {
        let (mut bytes, mut back) = (Vec::new(), vec![0.0; vector.len()]);
        encode(self.schema.stored(), vector, &mut bytes).expect("in range");
        decode(self.schema.stored(), &bytes, &mut back);
        back
    }

    fn write(&mut self) {
        let mut changes = Vec::new();
        for _ in 0..=self.rng.below(8) {
            let id = self.id();
            let row = match self.rng.below(4) {
                0 => None,
                1 => Some((None, self.payload())),
                _ => Some((Some(self.vector()), self.payload())),
            };
            changes.push((id, row));
        }
        let mut batch = self.collection.as_ref().expect("open").batch();
        for (id, row) in &changes {
            match row {
                Some((Some(vector), payload)) => {
                    batch.upsert(id, vector, payload.clone()).expect("fits")
                }
                Some((None, payload)) => batch.set_payload(id, payload.clone()).expect("fits"),
                None => batch.delete(id).expect("fits"),
            };
        }
        if self.rng.below(10) == 0 {
            drop(batch);
            return;
        }
        let (done, mut deleted, mut missing) = (batch.commit().expect("commit"), 0, 0);
        for (id, row) in changes {
            match row {
                None => deleted += u64::from(self.rows.remove(&id).is_some()),
                Some((Some(vector), payload)) => self.keep(id, &vector, payload),
                Some((None, payload)) => match self.rows.get_mut(&id) {
                    Some(row) if payload.is_null() => row.payload = json!({}),
                    Some(row) => row.payload = payload,
                    None => missing += 1,
                },
            }
        }
        assert_eq!((done.deleted, done.missing), (deleted, missing));
    }

    /// Deletes by a set of ids, some of which are not there.
    fn delete_where(&mut self) {
        let ids: Vec<RowId> = (0..self.rng.below(4)).map(|_| self.id()).collect();
        let there = ids.iter().filter_map(|id| self.rows.remove(id)).count();
        assert_eq!(self.db().delete_where(&Filter::ids(ids)).expect("delete"), there as u64);
    }

    fn keep(&mut self, id: RowId, vector: &[f32], payload: Value) {
        let payload = if payload.is_null() { json!({}) } else { payload };
        let vector = self.round(vector);
        self.rows.insert(id, Stored { vector, payload });
    }

    /// Loads rows in bulk, or nearly; some commits come while it goes on.
    fn load(&mut self) {
        let collection = self.db().clone();
        let mut bulk = collection.bulk().expect("bulk");
        let mut loaded = Vec::new();
        for _ in 0..self.rng.below(30) {
            let (id, vector, payload) = (self.id(), self.vector(), self.payload());
            bulk.upsert(&id, &vector, payload.clone()).expect("fits");
            loaded.push((id, vector, payload));
        }
        if self.rng.below(2) == 0 {
            self.write();
        }
        if self.rng.below(4) > 0 {
            bulk.finish().expect("finish");
            loaded.into_iter().for_each(|(id, vector, payload)| self.keep(id, &vector, payload));
        }
    }

    /// Merges all segments; some commits come while it goes on.
    fn compact(&mut self) {
        let collection = self.db().clone();
        let within = std::cell::RefCell::new(self);
        let merged = collection.compact_with(|_| {
            let mut case = within.borrow_mut();
            if case.rng.below(2) == 0 {
                case.write();
            }
            true
        });
        merged.expect("compact");
    }

    /// Closes it, or lets it die, and opens what is then there.
    fn reopen(&mut self, dies: bool) {
        let left = self.folder.fork();
        drop(self.collection.take());
        if dies {
            self.folder = left;
        }
        if self.rng.below(2) == 0 {
            let before = self.folder.fork();
            self.check_all(&self.folder.open(read_only()).expect("open"));
            assert_eq!(before.names(), self.folder.names(), "reading changes nothing");
        }
        self.collection = Some(self.folder.open(self.options.clone()).expect("reopen"));
    }

    fn check_all(&self, collection: &Collection) {
        assert_eq!(collection.len(), self.rows.len() as u64);
        for (id, stored) in &self.rows {
            let row = collection.get(id).expect("get").unwrap_or_else(|| panic!("{id} is gone"));
            assert_eq!(row.id, *id);
            assert_eq!(
                (row.vector, Value::Object(row.payload)),
                (stored.vector.clone(), stored.payload.clone())
            );
        }
    }

    fn get(&mut self) {
        let id = self.id();
        let row = self.db().get(&id).expect("get");
        let row = row.map(|r| Stored { vector: r.vector, payload: Value::Object(r.payload) });
        assert_eq!(row.as_ref(), self.rows.get(&id), "{id}");
    }

    fn search(&mut self) {
        let query = self.vector();
        let dims = 1 + self.rng.below(self.schema.dims());
        let limit = pick(&mut self.rng, &[0, 1, 3, 10, 1000]);
        let truth = self.truth(&query, dims);
        let search = |db: &Collection| db.search(&query).dims(dims).limit(limit).payloads(true);
        let kind = self.rng.below(4);
        let search = match kind {
            0 => search(self.db()).exact(),
            1 => search(self.db()).recall(1.0),
            2 => search(self.db()).funnel(Funnel::stages([(dims, 1000)])),
            _ => search(self.db()).recall(self.rng.below(1000) as f64 / 1000.0),
        };
        let hits = run(search);
        let best = &truth[..limit.min(truth.len())];
        if kind < 2 {
            assert_eq!(hits, best, "query {query:?}, {dims} dimensions");
        } else {
            assert_eq!(hits.len(), best.len());
            // A funnel whose shortlist holds every row misses none, but of rows
            // that tie it can show others.
            let scores = |hits: &[Hit]| hits.iter().map(|h| h.score).collect::<Vec<_>>();
            assert!(kind == 3 || scores(&hits) == scores(best), "query {query:?}, {dims}");
            assert!(
                hits.windows(2).all(|w| better(&w[0], &w[1]).is_lt()),
                "order, or one row twice"
            );
            assert!(hits.iter().all(|hit| truth.contains(hit)), "rows and scores are true");
        }
    }

    fn count(&mut self) {
        if self.schema.fields().is_empty() {
            return;
        }
        let bound = (self.rng.next() as f64) / 3e7;
        let x = |row: &Stored| row.payload["x"].as_f64();
        let below = self.rows.values().filter(|row| x(row).is_some_and(|x| x < bound)).count();
        let there = self.rows.values().filter(|row| x(row).is_some()).count();
        let count = |filter| self.db().count(&filter).expect("count");
        assert_eq!(count(field("x").lt(bound)), below as u64);
        assert_eq!(count(field("x").ge(bound)), (there - below) as u64);
        let ids: Vec<RowId> = self.rows.keys().take(5).cloned().collect();
        assert_eq!(count(Filter::ids(ids.clone())), ids.len() as u64);
    }

    /// All rows, best first.
    fn truth(&self, query: &[f32], dims: usize) -> Vec<Hit> {
        let hit = |(id, row): (&RowId, &Stored)| Hit {
            id: id.clone(),
            score: score(self.schema.metric(), &query[..dims], &row.vector[..dims]),
            payload: row.payload.as_object().cloned(),
        };
        let mut all: Vec<Hit> = self.rows.iter().map(hit).collect();
        all.sort_by(better);
        all
    }

    fn run(&mut self, operations: usize) {
        for _ in 0..operations {
            match self.rng.below(20) {
                0..7 => self.write(),
                7 => self.db().flush().expect("flush"),
                8 => self.delete_where(),
                9 => self.reopen(false),
                10 => self.reopen(true),
                11 => drop(self.db().verify().expect("verify")),
                12 => self.get(),
                13 => self.count(),
                14 => self.load(),
                15 => self.compact(),
                _ => self.search(),
            }
            assert_eq!(self.db().len(), self.rows.len() as u64);
        }
        self.check_all(self.db());
        self.reopen(false);
        self.check_all(self.db());
    }
}

/// What a hit shows.
#[derive(Debug, PartialEq)]
struct Hit {
    id: RowId,
    score: f32,
    payload: Option<Payload>,
}

fn run(search: Search) -> Vec<Hit> {
    let hits = search.run().expect("search").hits.into_iter();
    hits.map(|hit| Hit { id: hit.id, score: hit.score, payload: hit.payload }).collect()
}

fn better(a: &Hit, b: &Hit) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id))
}

/// The definition of a score (FORMAT.md does not need it, users do): terms in
/// `f64`, term `i` to sum `i % 16`, sums pairwise.
fn score(metric: Metric, query: &[f32], row: &[f32]) -> f32 {
    let sum = |term: &dyn Fn(f64, f64) -> f64| {
        let mut sums = [0f64; 16];
        for (i, (q, x)) in query.iter().zip(row).enumerate() {
            sums[i % 16] += term(f64::from(*q), f64::from(*x));
        }
        for width in [8, 4, 2, 1] {
            (0..width).for_each(|i| sums[i] += sums[i + width]);
        }
        sums[0]
    };
    let dot = sum(&|q, x| q * x);
    let score = match metric {
        Metric::Dot => dot,
        Metric::L2 => -sum(&|q, x| (q - x) * (q - x)),
        _ => {
            let query = query.iter().map(|q| f64::from(*q).powi(2)).sum::<f64>().sqrt();
            // A row's norm is rounded to f32, as it is stored, unless it is tiny.
            let whole = sum(&|_, x| x * x).sqrt();
            let rounded = whole as f32;
            let norm = if rounded.is_normal() { f64::from(rounded) } else { whole };
            if norm == 0.0 { 0.0 } else { dot / (query * norm) }
        }
    };
    score as f32 + 0.0
}

#[test]
fn collections_behave_like_a_map_with_exact_search() {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Case::new(seed).run(100);
        return;
    }
    let cases = sized(2000, 100_000);
    for seed in 0..cases {
        let case = AssertUnwindSafe(|| Case::new(seed).run(100));
        assert!(catch_unwind(case).is_ok(), "replay with SEED={seed}");
    }
}

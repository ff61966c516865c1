//! Calls of the public interface, made of bytes by `arbitrary`, against a map.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Unstructured};
use matryo::testing::Folder;
use matryo::{
    Collection, Durability, Error, FieldKind, Funnel, Options, RowId, Schema, Snapshot, Value,
    field, json,
};

const DIMS: usize = 4;

/// A row is named by few ids, so that they meet; its vector says what it is.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Put {
    id: u8,
    value: i8,
    payload: Option<u8>,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Change {
    Put(Put),
    Delete(u8),
}

#[derive(Debug, Arbitrary)]
enum Call {
    Commit(Vec<Change>),
    Abandon(Vec<Change>),
    /// A batch with a row that must be refused, and leaves the others.
    Refused(Vec<Change>, u8),
    Bulk(Vec<Put>, Vec<Change>, bool),
    Flush,
    Compact(Vec<Change>),
    Close,
    Die,
    Keep,
    BackUp,
    Verify,
    Search {
        query: [i8; DIMS],
        dims: u8,
        limit: u8,
        how: u8,
    },
    Count(u8),
}

type Rows = BTreeMap<u64, ([f32; DIMS], Option<u8>)>;

struct World {
    folder: Folder,
    options: Options,
    db: Option<Collection>,
    rows: Rows,
    kept: Option<(Snapshot, Rows)>,
}

fn id(n: u8) -> u64 {
    u64::from(n % 24)
}

/// Many are equal, so that scores tie; none is zero in its first dimension.
fn vector(value: i8) -> [f32; DIMS] {
    let v = f32::from(value / 4);
    [1.0 + v.abs(), v, -v, 0.5]
}

fn same(row: &matryo::Row, rows: &Rows) -> bool {
    let RowId::U64(id) = row.id else { return false };
    let Some((vector, payload)) = rows.get(&id) else { return false };
    row.vector == vector && row.payload.get("n").and_then(Value::as_u64) == payload.map(u64::from)
}

fn agrees(snapshot: &Snapshot, rows: &Rows) {
    assert_eq!(snapshot.len(), rows.len() as u64);
    let mut seen = 0;
    for row in snapshot {
        assert!(same(&row.expect("undamaged"), rows));
        seen += 1;
    }
    assert_eq!(seen, rows.len());
    for id in 0..24 {
        let found = snapshot.get(id).expect("undamaged");
        assert_eq!(found.is_some(), rows.contains_key(&id));
        assert!(found.is_none_or(|row| same(&row, rows)));
    }
}

impl World {
    fn new(u: &mut Unstructured) -> arbitrary::Result<Self> {
        let schema = Schema::builder(DIMS).granularities([2]).field("n", FieldKind::Integer);
        let schema = schema.build().expect("valid");
        let options = Options::new()
            .memtable_bytes(*u.choose(&[0, 500, 5000, usize::MAX])?)
            .durability(*u.choose(&[Durability::Full, Durability::Buffered])?);
        let folder = Folder::default();
        let db = folder.create(schema, options.clone()).expect("create");
        Ok(Self { folder, options, db: Some(db), rows: Rows::new(), kept: None })
    }

    fn db(&self) -> Collection {
        self.db.clone().expect("open")
    }

    fn keep(&mut self, put: Put) {
        self.rows.insert(id(put.id), (vector(put.value), put.payload));
    }

    /// Fills a batch; commits it unless it is dropped.
    fn batch(&mut self, changes: &[Change], refused: Option<u8>, commit: bool) {
        let db = self.db();
        let mut batch = db.batch();
        for change in changes {
            match change {
                Change::Put(put) => add(&mut batch, *put),
                Change::Delete(n) => drop(batch.delete(id(*n)).expect("fits")),
            }
        }
        if let Some(which) = refused {
            let bad = [[f32::NAN; DIMS], [0.0; DIMS], [f32::INFINITY, 0.0, 0.0, 0.0]];
            let bad = bad[usize::from(which) % bad.len()];
            assert!(matches!(batch.upsert(5, &bad, ()), Err(Error::Vector(_))));
            assert!(batch.upsert("5", &[1.0; DIMS], ()).is_err(), "ids are numbers");
        }
        if !commit {
            return;
        }
        batch.commit().expect("commit");
        for change in changes {
            match *change {
                Change::Put(put) => self.keep(put),
                Change::Delete(n) => drop(self.rows.remove(&id(n))),
            }
        }
    }

    fn bulk(&mut self, puts: &[Put], meanwhile: &[Change], finish: bool) {
        let db = self.db();
        let mut bulk = db.bulk().expect("bulk");
        for put in puts {
            let payload = put.payload.map(|n| json!({"n": n})).unwrap_or_default();
            bulk.upsert(id(put.id), &vector(put.value), payload).expect("fits");
        }
        self.batch(meanwhile, None, true);
        if finish {
            bulk.finish().expect("finish");
            puts.iter().for_each(|put| self.keep(*put));
        }
    }

    fn compact(&mut self, meanwhile: &[Change]) {
        let db = self.db();
        let (mut first, within) = (true, std::cell::RefCell::new(&mut *self));
        let first = std::cell::RefCell::new(&mut first);
        let merged = db.compact_with(|_| {
            if std::mem::replace(&mut **first.borrow_mut(), false) {
                within.borrow_mut().batch(meanwhile, None, true);
            }
            true
        });
        merged.expect("compact");
    }

    fn reopen(&mut self, dies: bool) {
        let left = self.folder.fork();
        self.db = None;
        if dies {
            self.folder = left;
        }
        self.db = Some(self.folder.open(self.options.clone()).expect("reopen"));
    }

    fn search(&self, query: [i8; DIMS], dims: u8, limit: u8, how: u8) {
        let mut query = query.map(f32::from);
        query[0] = query[0].abs() + 1.0;
        let (dims, limit) = (1 + usize::from(dims) % DIMS, usize::from(limit));
        let search = self.db().search(&query).dims(dims).limit(limit);
        let search = match how % 4 {
            0 => search.exact(),
            1 => search.recall(1.0),
            2 => search.funnel(Funnel::stages([(2.min(dims), 1000)])),
            _ => search,
        };
        let hits = search.run().expect("search").hits;
        assert_eq!(hits.len(), limit.min(self.rows.len()));
        let cosine = |row: &[f32; DIMS]| {
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let (q, r) = (&query[..dims], &row[..dims]);
            dot(q, r) / (dot(q, q).sqrt() * dot(r, r).sqrt())
        };
        let mut best: Vec<f32> = self.rows.values().map(|row| cosine(&row.0)).collect();
        best.sort_by(|a, b| b.total_cmp(a));
        for (n, hit) in hits.iter().enumerate() {
            let RowId::U64(id) = hit.id else { panic!("ids are numbers") };
            assert!((hit.score - cosine(&self.rows[&id].0)).abs() < 1e-5, "scores are true");
            assert!(how % 4 == 3 || (hit.score - best[n]).abs() < 1e-5, "the best are found");
        }
        let order = |w: &[matryo::Hit]| (w[1].score, &w[0].id) < (w[0].score, &w[1].id);
        assert!(hits.windows(2).all(order), "best first, ties by id");
    }

    fn run(&mut self, call: &Call) {
        match call {
            Call::Commit(changes) => self.batch(changes, None, true),
            Call::Abandon(changes) => self.batch(changes, None, false),
            Call::Refused(changes, which) => self.batch(changes, Some(*which), true),
            Call::Bulk(puts, meanwhile, finish) => self.bulk(puts, meanwhile, *finish),
            Call::Flush => self.db().flush().expect("flush"),
            Call::Compact(meanwhile) => self.compact(meanwhile),
            Call::Close => self.reopen(false),
            Call::Die => self.reopen(true),
            Call::Keep => self.kept = Some((self.db().snapshot(), self.rows.clone())),
            Call::BackUp => self.back_up(),
            Call::Verify => drop(self.db().verify().expect("undamaged")),
            Call::Search { query, dims, limit, how } => self.search(*query, *dims, *limit, *how),
            Call::Count(n) => {
                let below = |(_, p): &&([f32; DIMS], Option<u8>)| p.is_some_and(|p| p < *n);
                let truth = self.rows.values().filter(below).count() as u64;
                assert_eq!(self.db().count(&field("n").lt(*n)).expect("count"), truth);
            }
        }
    }

    fn back_up(&self) {
        let copy = Folder::default();
        copy.back_up(&self.db(), &|_| true).expect("back up");
        let copy = copy.open(Options::new().read_only(true)).expect("a backup opens");
        agrees(&copy.snapshot(), &self.rows);
    }
}

fn add(batch: &mut matryo::Batch, put: Put) {
    let payload = put.payload.map(|n| json!({"n": n})).unwrap_or_default();
    batch.upsert(id(put.id), &vector(put.value), payload).expect("fits");
}

pub(super) fn api_ops(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(mut world) = World::new(&mut u) else { return };
    let mut calls = 0;
    while !u.is_empty() && calls < 100 {
        let Ok(call) = Call::arbitrary(&mut u) else { break };
        world.run(&call);
        agrees(&world.db().snapshot(), &world.rows);
        calls += 1;
    }
    if let Some((snapshot, rows)) = &world.kept {
        agrees(snapshot, rows);
    }
    world.reopen(false);
    agrees(&world.db().snapshot(), &world.rows);
}

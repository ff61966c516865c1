//! Classification over made-up rows whose classes are known to the first
//! dimensions in part, and to all of them in full.

use matryo::classify::{
    Cascade, ClassMeans, Classifier, Features, Labelled, Level, LinearHeads, Neighbours,
    Prediction, accuracy, agreement, mean_average_precision, votes,
};
use matryo::{Collection, Error, FieldKind, Funnel, Schema, json};

const DIMS: usize = 8;
const PREFIXES: [usize; 3] = [2, 4, 8];

/// Numbers from -1 to 1.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Eight classes: bit 0 is in dimensions 0 and 1, bit 1 in 2 and 3, bit 2 in 4
/// to 7. So two dimensions tell two groups of four, four tell pairs.
fn labelled(rows: usize, seed: u64) -> Labelled {
    let mut noise = Noise(seed);
    let mut labelled = Labelled::new(DIMS);
    for row in 0..rows {
        let class = row % 8;
        let bit = |n: usize| if class >> n & 1 == 1 { 1.0 } else { -1.0 };
        let clean = [bit(0), -bit(0), bit(1), -bit(1), bit(2), -bit(2), bit(2), -bit(2)];
        let vector: Vec<f32> = clean.iter().map(|v| v + 0.4 * noise.next()).collect();
        labelled.push(&vector, &format!("class {class}")).expect("fits");
    }
    labelled
}

fn collection(rows: &Labelled) -> (tempfile::TempDir, Collection) {
    let folder = tempfile::tempdir().expect("a folder");
    let schema = Schema::builder(DIMS).granularities(PREFIXES).field("class", FieldKind::Keyword);
    let schema = schema.build().expect("a schema");
    let collection = Collection::create(folder.path().join("c"), schema).expect("created");
    let mut batch = collection.batch();
    for (id, (vector, label)) in (0u64..).zip(rows.iter()) {
        batch.upsert(id, vector, json!({"class": label})).expect("fits");
    }
    batch.commit().expect("committed");
    (folder, collection)
}

/// Accuracy by 2, 4 and 8 dimensions: a quarter, a half, all.
fn assert_coarse_to_fine(classifier: &(impl Classifier + ?Sized), rows: &Labelled) {
    for (dims, expected) in PREFIXES.iter().zip([0.25, 0.5, 1.0]) {
        let found = accuracy(classifier, rows, *dims).expect("classified");
        assert!((found - expected).abs() < 0.13, "{dims} dimensions: {found}");
    }
}

#[test]
fn every_classifier_finds_what_a_prefix_can_tell() {
    let (train, test) = (labelled(400, 1), labelled(160, 2));
    let (_folder, collection) = collection(&train);
    let neighbours = |k| Neighbours::new(collection.snapshot(), "class", k).expect("made");
    assert_coarse_to_fine(&neighbours(1), &test);
    assert_coarse_to_fine(&neighbours(5).funnel(Funnel::recall(0.99)), &test);
    assert_coarse_to_fine(&ClassMeans::fit(&train).expect("fits"), &test);
    for shared in [false, true] {
        let trainer = LinearHeads::trainer().shared(shared).epochs(30);
        assert_coarse_to_fine(&trainer.fit(&train, &PREFIXES).expect("fits"), &test);
    }
}

#[test]
fn a_collection_gives_its_labels_and_says_how_many_rows_have_none() {
    let (_folder, collection) = collection(&labelled(16, 1));
    collection.upsert(99, &[1.0; DIMS], ()).expect("written");
    let rows = Labelled::of(&collection.snapshot(), "class").expect("read");
    assert_eq!((rows.len(), rows.unlabelled(), rows.classes().len()), (16, 1, 8));
    assert_eq!(rows.iter().next().expect("a row").1, "class 0");
}

/// Two dimensions, rows 0 to 2 labelled in `author.name`, and far more rows nearer to the
/// query that have no label.
fn mostly_unlabelled(declared: Option<FieldKind>) -> (tempfile::TempDir, Collection) {
    let folder = tempfile::tempdir().expect("a folder");
    let schema = Schema::builder(2);
    let schema = match declared {
        Some(kind) => schema.field("author.name", kind),
        None => schema,
    };
    let schema = schema.build().expect("a schema");
    let collection = Collection::create(folder.path().join("c"), schema).expect("created");
    let mut batch = collection.batch();
    for (id, (y, name)) in (0u64..).zip([(0.5, "near"), (0.6, "far"), (0.7, "far")]) {
        batch.upsert(id, &[1.0, y], json!({"author": {"name": name}})).expect("fits");
    }
    for id in 3..500 {
        batch.upsert(id, &[1.0, 0.0], json!({"author": {}})).expect("fits");
    }
    batch.commit().expect("committed");
    (folder, collection)
}

#[test]
fn the_nearest_rows_that_have_a_label_vote() {
    for declared in [None, Some(FieldKind::Keyword)] {
        let (_folder, collection) = mostly_unlabelled(declared);
        for (k, label, confidence) in [(1, "near", 1.0 / 3.0), (3, "far", 2.0 / 3.0)] {
            let neighbours = Neighbours::new(collection.snapshot(), "author.name", k);
            let found = neighbours.expect("made").predict(&[1.0, 0.0], 2).expect("a label");
            assert_eq!(
                (found.label.as_str(), found.confidence),
                (label, confidence),
                "{declared:?}"
            );
        }
    }
}

#[test]
fn labels_are_found_by_the_path_of_their_field() {
    let (_folder, collection) = mostly_unlabelled(Some(FieldKind::Keyword));
    let rows = Labelled::of(&collection.snapshot(), "author.name").expect("read");
    assert_eq!((rows.len(), rows.unlabelled(), rows.classes().len()), (3, 497, 2));
    let map = mean_average_precision(&collection.snapshot(), "author.name", &rows, 2, 1);
    // Each finds itself.
    assert!(map.expect("measured") > 0.99);
}

#[test]
fn the_same_seed_trains_the_same_heads() {
    let rows = labelled(400, 1);
    let train = |seed| LinearHeads::trainer().seed(seed).fit(&rows, &[4]).expect("fits");
    let (vector, _) = rows.iter().next().expect("a row");
    let confidence = |heads: &LinearHeads| heads.predict(vector, 4).expect("ok").confidence;
    assert_eq!(confidence(&train(1)).to_bits(), confidence(&train(1)).to_bits());
    assert_ne!(confidence(&train(1)).to_bits(), confidence(&train(2)).to_bits());
}

#[test]
fn importance_moves_a_shared_head_towards_its_granularity() {
    // The first component alone speaks for "up"; where the second is known, the
    // first is what must be taken off it, and speaks against.
    let mut noise = Noise(3);
    let mut rows = Labelled::new(2);
    for row in 0..600 {
        let (up, label) = if row % 2 == 0 { (1.0, "up") } else { (-1.0, "down") };
        let first = 0.3 * up + noise.next();
        rows.push(&[first, first + 0.3 * up], label).expect("fits");
    }
    let by_one = |importance: [f32; 2]| {
        let trainer = LinearHeads::trainer().shared(true).epochs(40).importance(importance);
        let heads = trainer.fit(&rows, &[1, 2]).expect("fits");
        accuracy(&heads, &rows, 1).expect("ok")
    };
    let (boosted, neglected) = (by_one([10.0, 1.0]), by_one([0.01, 1.0]));
    assert!(boosted > 0.6 && neglected < 0.45, "{boosted} {neglected}");
}

#[test]
fn a_cascade_spends_fewer_dimensions_and_loses_no_more_than_allowed() {
    // Class 0 alone is known by two dimensions; the others need all.
    let mut noise = Noise(5);
    let mut rows = |count: usize| {
        let mut rows = Labelled::new(4);
        for row in 0..count {
            let far = if row % 2 == 0 { 3.0 } else { -3.0 };
            let third = if row % 4 == 1 { 1.0 } else { -1.0 };
            let vector = [far, 1.0, third * f32::from(u8::from(row % 2 == 1)), 0.3];
            let vector = vector.map(|v| v + 0.2 * noise.next());
            rows.push(&vector, ["easy", "left", "easy", "right"][row % 4]).expect("fits");
        }
        rows
    };
    let (train, held_out, test) = (rows(200), rows(200), rows(200));
    let means = ClassMeans::fit(&train).expect("fits");
    let full = accuracy(&means, &test, 4).expect("ok");
    let cascade = Cascade::learn(&means, &held_out, &[2, 4], 0.0).expect("learnt");
    let report = cascade.evaluate(&means, &test).expect("ok");
    assert!(report.accuracy >= full - 0.01, "{report:?}, {full}");
    assert!((2.5..3.5).contains(&report.expected_dims), "half of the rows need two: {report:?}");
    let (first, last) = (report.levels[0], report.levels[1]);
    assert_eq!(first.rows + last.rows, 200);
    let share = (first.correct + last.correct) as f64 / 200.0;
    assert!((share - report.accuracy).abs() < 1e-12);
}

#[test]
fn prefixes_that_disagree_mark_wrong_answers() {
    let (train, test) = (labelled(400, 1), labelled(400, 9));
    let means = ClassMeans::fit(&train).expect("fits");
    let agreement = agreement(&means, &test, &[4, 6]).expect("ok");
    assert!(agreement.unanimous > 0.2 && agreement.unanimous < 0.9, "{agreement:?}");
    let (vector, _) = test.iter().next().expect("a row");
    let votes = votes(&means, vector, &PREFIXES).expect("ok");
    assert_eq!(votes.predictions.len(), 3);
    let agree = votes.predictions.iter().filter(|p| p.1.label == votes.predictions[2].1.label);
    assert!((votes.agreement() - agree.count() as f64 / 3.0).abs() < 1e-12);
}

#[test]
fn mean_average_precision_is_one_where_classes_are_apart() {
    let rows = labelled(80, 1);
    let (_folder, collection) = collection(&rows);
    let of = |dims| {
        let queries = labelled(40, 7);
        mean_average_precision(&collection.snapshot(), "class", &queries, dims, 10).expect("ok")
    };
    assert!(of(8) > 0.99, "{}", of(8));
    assert!((0.1..0.6).contains(&of(2)), "{}", of(2));
}

#[test]
fn exported_heads_classify_by_their_weights() {
    let classes = || vec!["left".to_owned(), "right".to_owned()];
    let (weights, bias) = (vec![-1.0, 0.0, 1.0, 5.0], vec![0.0, 0.0]);
    let shared =
        LinearHeads::shared(classes(), weights.clone(), bias.clone(), Features::Raw).expect("fits");
    assert_eq!(shared.predict(&[-1.0, 1.0], 1).expect("ok").label, "left");
    assert_eq!(shared.predict(&[-1.0, 1.0], 2).expect("ok").label, "right");
    let heads = [(weights, bias.clone()), (vec![1.0, -1.0], bias)];
    let separate = LinearHeads::separate(classes(), heads, Features::Raw).expect("fits");
    assert_eq!(separate.dims(), [1, 2]);
    assert_eq!(separate.predict(&[-1.0, 1.0], 1).expect("ok").label, "right");
}

#[test]
fn wrong_input_is_refused_with_what_was_expected() {
    let rows = labelled(16, 1);
    let (_folder, collection) = collection(&rows);
    let means = ClassMeans::fit(&rows).expect("fits");
    let heads = LinearHeads::trainer().epochs(1).fit(&rows, &[2, 4]).expect("fits");
    let invalid = |error: Option<Error>, expected: &str| {
        let message = error.expect("refused").to_string();
        assert!(message.contains(expected), "{message:?} does not say {expected:?}");
    };
    invalid(means.predict(&[1.0; 8], 9).err(), "expected 1 to 8, got 9");
    invalid(means.predict(&[1.0; 2], 4).err(), "2 dimensions, expected 4");
    invalid(means.predict(&[f32::NAN; 8], 4).err(), "component 0 is NaN");
    invalid(means.predict(&[0.0; 8], 4).err(), "all zeros");
    invalid(heads.predict(&[1.0; 8], 3).err(), "expected one of [2, 4], got 3");
    invalid(ClassMeans::fit(&Labelled::new(3)).err(), "at least one");
    invalid(Labelled::new(3).push(&[1.0], "a").err(), "1 dimensions, expected 3");
    invalid(Neighbours::new(collection.snapshot(), "class", 0).err(), "at least 1");
    let nowhere = Neighbours::new(collection.snapshot(), "colour", 1).expect("made");
    invalid(nowhere.predict(&[1.0; 8], 8).err(), "colour: no row has a text there");
    for wrong in [&[][..], &[0], &[9]] {
        invalid(LinearHeads::trainer().fit(&rows, wrong).err(), "expected some of 1 to 8");
    }
    let unseen = LinearHeads::trainer().epochs(0).fit(&rows, &[4]);
    invalid(unseen.err(), "at least 1 epoch");
    let trainer = LinearHeads::trainer();
    invalid(trainer.clone().importance([1.0]).fit(&rows, &[2, 4]).err(), "expected 2 numbers");
    invalid(trainer.learning_rate(f32::NAN).fit(&rows, &[2]).err(), "learning rate");
    let wrong = LinearHeads::shared(vec!["a".into()], vec![1.0], vec![], Features::Raw);
    invalid(wrong.err(), "expected 1 x dims and 1, got 1 weights and 0 biases");
    invalid(Cascade::learn(&means, &rows, &[2, 4], 2.0).err(), "expected 0 to 1, got 2");
    invalid(Cascade::new([Level { dims: 2, threshold: f32::NAN }]).err(), "thresholds");
    let map = mean_average_precision(&collection.snapshot(), "colour", &rows, 8, 10);
    invalid(map.err(), "no row has the label");
}

/// What was trained can be kept anywhere and made again from what the accessors tell.
#[test]
fn trained_heads_are_made_again_from_their_weights() {
    let (train, test) = (labelled(160, 1), labelled(40, 2));
    for shared in [false, true] {
        let trained = LinearHeads::trainer().shared(shared).fit(&train, &PREFIXES).expect("fits");
        assert_eq!((trained.is_shared(), trained.features()), (shared, Features::Scaled));
        let mut heads: Vec<_> = trained.heads().map(|(w, b)| (w.to_vec(), b.to_vec())).collect();
        let lengths: Vec<_> = heads.iter().map(|(w, b)| (w.len() / 8, b.len())).collect();
        let expected: Vec<_> = trained.dims().into_iter().map(|dims| (dims, 8)).collect();
        assert_eq!(lengths, expected);
        let (classes, features) = (trained.classes().to_vec(), trained.features());
        let again = if shared {
            let (weights, bias) = heads.remove(0);
            LinearHeads::shared(classes, weights, bias, features)
        } else {
            LinearHeads::separate(classes, heads, features)
        };
        let again = again.expect("the same");
        for (vector, _) in test.iter() {
            for dims in PREFIXES {
                let same = trained.predict(vector, dims).expect("classified");
                assert_eq!(again.predict(vector, dims).expect("classified"), same);
            }
        }
    }
}

#[test]
fn classifiers_may_be_chosen_at_run_time() {
    let (train, test) = (labelled(160, 1), labelled(40, 2));
    let linear = LinearHeads::trainer().fit(&train, &PREFIXES).expect("fits");
    let means = ClassMeans::fit(&train).expect("fits");
    let all: [&dyn Classifier; 2] = [&means, &linear];
    for classifier in all {
        assert_coarse_to_fine(classifier, &test);
        let cascade = Cascade::learn(classifier, &test, &PREFIXES, 0.0).expect("learnt");
        cascade.evaluate(classifier, &test).expect("measured");
        let (vector, _) = test.iter().next().expect("rows");
        cascade.predict(classifier, vector).expect("classified");
        votes(classifier, vector, &PREFIXES).expect("asked");
        agreement(classifier, &test, &PREFIXES).expect("measured");
    }
}

/// Whatever finite numbers come: the smallest have no factor in `f32` that makes them 1, and
/// products of the largest do not fit in one.
#[test]
fn vectors_of_any_size_get_a_confidence() {
    let extremes = [[1e-42, 0.0], [-3e38, 3e38], [3e38, 3e38], [0.0, 0.0], [1.0, 1e-42]];
    let mut rows = Labelled::new(2);
    for (vector, label) in extremes.iter().zip(["a", "b"].iter().cycle()) {
        rows.push(vector, label).expect("finite");
    }
    let classes = || vec!["a".to_owned(), "b".to_owned()];
    let (weights, bias) = (vec![3e38, -3e38, 1.0, 3e38], vec![3e38, -1.0]);
    let given = |features| {
        LinearHeads::shared(classes(), weights.clone(), bias.clone(), features).expect("finite")
    };
    let trained = LinearHeads::trainer().fit(&rows, &[1, 2]).expect("trained");
    for heads in [trained, given(Features::Raw), given(Features::Scaled)] {
        for (vector, dims) in extremes.iter().flat_map(|v| [(v, 1), (v, 2)]) {
            let sure = heads.predict(vector, dims).expect("classified").confidence;
            assert!((0.0..=1.0).contains(&sure), "{vector:?} by {dims}: {sure}");
        }
        let cascade = Cascade::learn(&heads, &rows, &[1, 2], 0.0).expect("learnt");
        assert!(!cascade.levels()[0].threshold.is_nan());
    }
    let head = |weight, bias| {
        LinearHeads::shared(classes(), vec![weight, 1.0], vec![bias, 0.0], Features::Raw)
    };
    for (weight, bias) in [(f32::NAN, 0.0), (f32::INFINITY, 0.0), (1.0, f32::NAN)] {
        let refused = head(weight, bias).expect_err("not finite").to_string();
        assert!(refused.contains("finite"), "{refused}");
    }
    let diverged = LinearHeads::trainer().learning_rate(f32::MAX).fit(&rows, &[1, 2]);
    assert!(diverged.expect_err("infinite weights").to_string().contains("learning rate"));
}

/// A classifier of somebody else's may say anything.
#[test]
fn a_cascade_is_not_learnt_from_a_confidence_that_is_none() {
    struct Unsure;
    impl Classifier for Unsure {
        fn predict(&self, _: &[f32], _: usize) -> matryo::Result<Prediction> {
            Ok(Prediction { label: "a".into(), confidence: f32::NAN })
        }
    }
    let refused = Cascade::learn(&Unsure, &labelled(8, 1), &[2, 4], 0.0);
    assert!(refused.expect_err("NaN").to_string().contains("NaN"));
}

//! Which crate does a piece of documentation belong to? Classification at every
//! granularity, and a cascade that looks at as many dimensions as it needs.
//!
//! `cargo run --release --example classify` takes the documentation of the crates
//! this project depends on, keeps the crates with the most passages, and parts
//! their files: three fifths are stored with the crate as label, one fifth sets
//! the thresholds of the cascades, one fifth is asked about. `--model DIR` takes
//! another model than the bundled one.

#[path = "text_search/corpus/mod.rs"]
#[expect(dead_code, reason = "text_search uses the rest")]
mod corpus;
#[path = "support/model.rs"]
mod model;

use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};

use corpus::{Corpus, Passage};
use matryo::classify::{
    Cascade, ClassMeans, Classifier, Labelled, LinearHeads, Neighbours, accuracy, agreement,
    mean_average_precision,
};
use matryo::embed::Embedder;
use matryo::{Collection, FieldKind, Precision, Schema, json};

/// Crates told apart, and passages of each at most.
const CLASSES: usize = 40;
const PASSAGES: usize = 300;

/// What a level of a cascade may cost, as a share of the rows.
const TOLERANCE: f64 = 0.002;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

/// A passage and the crate it is of.
struct Example {
    file: usize,
    label: String,
    passage: Passage,
}

fn main() -> Result<()> {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = model::open(&model_folder(project)?)?;
    let examples = largest_classes(read(project)?);
    eprintln!("embedding {} passages ...", examples.len());
    let folder = tempfile::tempdir()?;
    let collection = create(&folder.path().join("docs.matryo"), &model)?;
    let [mut held_out, mut test] = [0, 1].map(|_| Labelled::new(model.dims()));
    embed(&model, &examples, &collection, &mut held_out, &mut test)?;
    println!(
        "{} crates; {} passages stored, {} set the thresholds, {} are asked about\n",
        collection_classes(&collection)?,
        collection.len(),
        held_out.len(),
        test.len()
    );
    report(&collection, &held_out, &test)
}

fn model_folder(project: &Path) -> Result<PathBuf> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(project.join("models/text/matryo-text-en")),
        ["--model", folder] => Ok(folder.into()),
        _ => Err(format!("expected nothing or --model DIR, got {words:?}").into()),
    }
}

/// All passages, each text once.
fn read(project: &Path) -> Result<Vec<Example>> {
    let mut corpus = Corpus::of_crates(project)?;
    let (mut all, mut seen) = (Vec::new(), std::collections::HashSet::new());
    for (at, file) in corpus.files.iter().enumerate() {
        let Some(text) = file.read(&mut corpus.skipped) else { continue };
        let folder = file.name.split('/').next().unwrap_or_default();
        let label = corpus::name_and_version(folder).0.to_owned();
        for passage in corpus::passages(file, &text) {
            if seen.insert(passage.text.clone()) {
                all.push(Example { file: at, label: label.clone(), passage });
            }
        }
    }
    Ok(all)
}

/// The crates with most passages, and not too many of each.
fn largest_classes(mut examples: Vec<Example>) -> Vec<Example> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    examples.iter().for_each(|e| *counts.entry(e.label.clone()).or_default() += 1);
    let mut order: Vec<_> = counts.iter().map(|(label, n)| (*n, label.clone())).collect();
    order.sort_by(|a, b| b.cmp(a));
    let mut left: HashMap<String, usize> =
        order.into_iter().take(CLASSES).map(|(_, label)| (label, PASSAGES)).collect();
    examples.retain(|e| {
        left.get_mut(&e.label).is_some_and(|left| {
            let some = *left > 0;
            *left -= usize::from(some);
            some
        })
    });
    examples
}

fn create(path: &Path, model: &Embedder) -> Result<Collection> {
    let schema = Schema::builder(model.dims())
        .granularities(model.granularities().iter().copied())
        .stored(Precision::F16)
        .field("crate", FieldKind::Keyword)
        .build()?;
    Ok(Collection::create(path, schema)?)
}

fn collection_classes(collection: &Collection) -> Result<usize> {
    Ok(Labelled::of(&collection.snapshot(), "crate")?.classes().len())
}

/// Parts the examples by their file, so that no passage is asked about whose
/// neighbour in the text is stored.
fn embed(
    model: &Embedder,
    examples: &[Example],
    stored: &Collection,
    held_out: &mut Labelled,
    test: &mut Labelled,
) -> Result<()> {
    for (at, some) in examples.chunks(1000).enumerate() {
        let texts: Vec<String> = some.iter().map(|e| e.passage.to_embed()).collect();
        let mut batch = stored.batch();
        let vectors = model.embed_documents(&texts)?;
        for ((id, vector), example) in (at as u64 * 1000..).zip(vectors).zip(some) {
            // A text without a known word has the zero vector, which has no direction.
            if vector.iter().all(|v| *v == 0.0) {
                continue;
            }
            match example.file % 5 {
                0 => test.push(&vector, &example.label)?,
                1 => held_out.push(&vector, &example.label)?,
                _ => {
                    batch.upsert(id, &vector, json!({"crate": example.label}))?;
                }
            }
        }
        batch.commit()?;
    }
    Ok(stored.flush()?)
}

fn report(collection: &Collection, held_out: &Labelled, test: &Labelled) -> Result<()> {
    let rows = collection.snapshot();
    let train = Labelled::of(&rows, "crate")?;
    let dims = rows.schema().granularities().to_vec();
    let nearest = Neighbours::new(rows.clone(), "crate", 1)?;
    let ten = Neighbours::new(rows.clone(), "crate", 10)?;
    let means = ClassMeans::fit(&train)?;
    eprintln!("training the linear heads ...");
    let heads = LinearHeads::trainer().fit(&train, &dims)?;
    let shared = LinearHeads::trainer().shared(true).fit(&train, &dims)?;
    println!("Accuracy by the first dimensions (mAP@10: of the stored rows as hits)\n");
    println!(
        "| dims | 1-NN | 10-NN | class mean | linear, a head each | linear, shared | mAP@10 |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|");
    for &d in &dims {
        let cells = [
            accuracy(&nearest, test, d)?,
            accuracy(&ten, test, d)?,
            accuracy(&means, test, d)?,
            accuracy(&heads, test, d)?,
            accuracy(&shared, test, d)?,
            mean_average_precision(&rows, "crate", test, d, 10)?,
        ];
        println!("| {d} | {} |", cells.map(|cell| format!("{cell:.3}")).join(" | "));
    }
    println!("\nCascades\n");
    println!("| classifier | accuracy | all dims | expected dims | decided by {dims:?} |");
    println!("|---|---:|---:|---:|---|");
    print_cascade("1-NN", &nearest, &dims, held_out, test)?;
    print_cascade("10-NN", &ten, &dims, held_out, test)?;
    print_cascade("class mean", &means, &dims, held_out, test)?;
    print_cascade("linear, a head each", &heads, &dims, held_out, test)?;
    print_cascade("linear, shared", &shared, &dims, held_out, test)?;
    let found = agreement(&heads, test, &dims)?;
    println!(
        "\nThe heads of all granularities agree on {:.1} % of the passages, and are right about \
         {:.1} % of those;\nwhere they do not, the last is right about {:.1} %.",
        100.0 * found.unanimous,
        100.0 * found.accuracy_unanimous,
        100.0 * found.accuracy_divided
    );
    Ok(())
}

fn print_cascade(
    name: &str,
    classifier: &impl Classifier,
    dims: &[usize],
    held_out: &Labelled,
    test: &Labelled,
) -> Result<()> {
    let cascade = Cascade::learn(classifier, held_out, dims, TOLERANCE)?;
    let report = cascade.evaluate(classifier, test)?;
    let full = accuracy(classifier, test, *dims.last().ok_or("no granularities")?)?;
    let share = |rows: usize| format!("{:.0} %", 100.0 * rows as f64 / test.len() as f64);
    let decided: Vec<_> = report.levels.iter().map(|level| share(level.rows)).collect();
    let (accuracy, expected) = (report.accuracy, report.expected_dims);
    println!("| {name} | {accuracy:.3} | {full:.3} | {expected:.0} | {} |", decided.join(", "));
    Ok(())
}

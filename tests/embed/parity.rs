//! The same vectors as Python, to 1e-5, whatever the batch.

use std::fs;
use std::path::Path;

use matryo::embed::{Embedder, Prompt};
use serde_json::Value;

use crate::support::{Copy, fixtures, json, ready, set_pooling, with_dense};

/// How far a component may be from Python's.
const TOLERANCE: f32 = 1e-5;

fn strings(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

fn vectors(value: &Value) -> Vec<Vec<f32>> {
    let row =
        |v: &Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect();
    value.as_array().unwrap().iter().map(row).collect()
}

fn expected(case: &str) -> (Vec<String>, Vec<Vec<f32>>) {
    let all = json(&fixtures().join("expected.json"));
    (strings(&all["texts"]), vectors(&all["vectors"][case]))
}

#[track_caller]
fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (f, e)) in found.iter().zip(expected).enumerate() {
        assert_eq!(f.len(), e.len(), "{what}: text {at}");
        let worst = f.iter().zip(e).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= TOLERANCE, "{what}: text {at} is off by {worst}");
    }
}

#[test]
fn a_vector_per_text_is_pythons() {
    if !ready() {
        return;
    }
    let (texts, vectors) = expected("static");
    let embedder = Embedder::open(fixtures().join("static")).unwrap();
    assert_eq!((embedder.dims(), embedder.granularities()), (8, &[2, 4, 8][..]));
    assert_close(&embedder.embed_documents(&texts).unwrap(), &vectors, "documents");
    assert_close(&embedder.embed_queries(&texts).unwrap(), &vectors, "queries");
}

#[test]
fn every_pooling_is_pythons() {
    if !ready() {
        return;
    }
    let modes = [
        "mean_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "max_tokens",
        "cls_token",
        "lasttoken",
    ];
    for mode in modes {
        let copy = Copy::of("tokens");
        set_pooling(&copy, mode);
        let (texts, vectors) = expected(mode);
        let embedder = Embedder::open(copy.dir.path()).unwrap();
        assert_close(&embedder.embed_documents(&texts).unwrap(), &vectors, mode);
    }
}

#[test]
fn prompts_are_put_before_the_text() {
    if !ready() {
        return;
    }
    let embedder = Embedder::open(fixtures().join("tokens")).unwrap();
    let (texts, query) = expected("query");
    assert_close(&embedder.embed_queries(&texts).unwrap(), &query, "query");
    assert_close(&[embedder.embed_query(&texts[2]).unwrap()], &query[2..3], "one query");
    let named = embedder.embed_with_prompt(Prompt::Named("query"), &texts).unwrap();
    assert_close(&named, &query, "by name");
    let literal = embedder.embed_with_prompt(Prompt::Literal("query: "), &texts).unwrap();
    assert_close(&literal, &query, "literally");
    let (_, bare) = expected("no_prompt");
    assert_close(&embedder.embed_with_prompt(Prompt::None, &texts).unwrap(), &bare, "none");
    let unknown = embedder.embed_with_prompt(Prompt::Named("summary"), &texts).unwrap_err();
    assert!(unknown.to_string().contains(r#"["passage", "query"]"#), "{unknown}");
}

#[test]
fn a_prompt_can_be_left_out_of_pooling() {
    if !ready() {
        return;
    }
    let copy = Copy::of("tokens");
    copy.write(
        "1_Pooling/config.json",
        r#"{"pooling_mode_mean_tokens": true, "include_prompt": false}"#,
    );
    let (texts, vectors) = expected("prompt_excluded");
    let embedder = Embedder::open(copy.dir.path()).unwrap();
    assert_close(&embedder.embed_documents(&texts).unwrap(), &vectors, "prompt excluded");
}

#[test]
fn a_dense_layer_is_pythons() {
    if !ready() {
        return;
    }
    let (texts, vectors) = expected("dense");
    let embedder = Embedder::open(with_dense().dir.path()).unwrap();
    assert_eq!((embedder.dims(), embedder.granularities()), (3, &[3][..]));
    assert_close(&embedder.embed_documents(&texts).unwrap(), &vectors, "dense");
}

/// The models in the repository, against the vectors their script wrote.
#[test]
fn the_shipped_models_are_pythons() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/text");
    let Ok(references) = fs::read_dir(root.join("reference")) else {
        eprintln!("SKIPPED: there are no reference vectors under models/text");
        return;
    };
    if !ready() {
        return;
    }
    for path in references.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some()) {
        check_reference(&root, &path);
    }
}

/// Cases with the same prompt go in one batch: Python ran each text alone.
fn check_reference(root: &Path, path: &Path) {
    let reference = json(path);
    let model = reference["model"].as_str().unwrap();
    let embedder = Embedder::open(root.join(model)).unwrap();
    let cases = reference["cases"].as_array().unwrap();
    assert!(!cases.is_empty(), "{}", path.display());
    let text = |case: &Value, key: &str| case[key].as_str().unwrap_or_default().to_string();
    let mut prompts: Vec<String> = cases.iter().map(|case| text(case, "prompt")).collect();
    prompts.sort();
    prompts.dedup();
    for prompt in prompts {
        let these = || cases.iter().filter(|case| text(case, "prompt") == prompt);
        let texts: Vec<String> = these().map(|case| text(case, "text")).collect();
        let expected = vectors(&these().map(|case| case["vector"].clone()).collect());
        let found = embedder.embed_with_prompt(Prompt::Literal(&prompt), &texts).unwrap();
        assert_close(&found, &expected, &format!("{model} with {prompt:?}"));
    }
    for case in cases {
        let texts = [text(case, "text")];
        let found = match case["prompt_name"].as_str() {
            Some("query") => embedder.embed_queries(&texts).unwrap(),
            Some("document") => embedder.embed_documents(&texts).unwrap(),
            _ => continue,
        };
        assert_close(&found, &vectors(&Value::from(vec![case["vector"].clone()])), model);
    }
}

#[test]
fn a_batch_does_not_change_its_texts() {
    if !ready() {
        return;
    }
    let (texts, _) = expected("static");
    let many: Vec<&String> = texts.iter().cycle().take(150).collect();
    for name in ["static", "tokens"] {
        let embedder = Embedder::builder(fixtures().join(name)).batch_tokens(64).open().unwrap();
        let one = |t: &&String| embedder.embed_documents(&[t]).unwrap().remove(0);
        let alone: Vec<Vec<f32>> = many.iter().map(one).collect();
        assert_close(&embedder.embed_documents(&many).unwrap(), &alone, name);
    }
}

#[test]
fn graphs_that_look_at_the_whole_batch_get_one_text_at_a_time() {
    if !ready() {
        return;
    }
    let (texts, _) = expected("static");
    for graph in ["dynamic.onnx", "no_mask.onnx"] {
        let embedder = Embedder::open(Copy::graph(graph).dir.path()).unwrap();
        assert!(embedder.describe().one_at_a_time, "{graph}");
        let one = |t: &String| embedder.embed_documents(&[t]).unwrap().remove(0);
        let alone: Vec<Vec<f32>> = texts.iter().map(one).collect();
        assert_close(&embedder.embed_documents(&texts).unwrap(), &alone, graph);
    }
}

/// Decoders exported with and without a cache in one graph, and graphs of one shape.
#[test]
fn graphs_that_ask_for_more_or_for_one_shape_give_the_same() {
    if !ready() {
        return;
    }
    let (texts, vectors) = expected("static");
    let merged = Copy::graph("merged.onnx");
    let mut config = json(&merged.path("config.json"));
    config["num_attention_heads"] = 2.into();
    merged.write("config.json", config.to_string());
    let embedder = Embedder::open(merged.dir.path()).unwrap();
    assert_close(&embedder.embed_documents(&texts).unwrap(), &vectors, "merged");
    let fixed = Copy::graph("fixed.onnx");
    let embedder = Embedder::open(fixed.dir.path()).unwrap();
    assert!(embedder.describe().one_at_a_time);
    assert_close(&embedder.embed_documents(&texts).unwrap(), &vectors, "fixed");
    let longer = Embedder::builder(fixed.dir.path()).max_tokens(13).open().unwrap_err();
    assert!(longer.to_string().contains("max_tokens(12)"), "{longer}");
}

#[test]
fn an_embedder_is_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>(_: &T) {}
    if !ready() {
        return;
    }
    let (texts, vectors) = expected("static");
    let embedder = Embedder::open(fixtures().join("static")).unwrap();
    shared(&embedder);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                assert_close(&embedder.embed_documents(&texts).unwrap(), &vectors, "shared");
            });
        }
    });
    assert!(embedder.embed_documents::<&str>(&[]).unwrap().is_empty());
}

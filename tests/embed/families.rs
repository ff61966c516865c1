//! Models of every family, each as its authors publish it, against Python's vectors.
//!
//! `models/parity/make_families.py` made the directories with random weights and
//! recorded what sentence-transformers computes from them; its docstrings say what
//! each family is. Every text's cosine must be at least 0.99999, whatever batch it
//! is in, and every vector must have Python's length too.

use std::path::PathBuf;

use matryo::embed::{Embedder, EmbedderBuilder, Prompt};
use serde_json::Value;

use crate::support::{Copy, copy_all, json, ready};

const COSINE: f64 = 0.999_99;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families")
}

fn texts() -> Vec<String> {
    let all = json(&root().join("texts.json"));
    all.as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_string()).collect()
}

fn ask(embedder: &Embedder, how: &str, texts: &[String]) -> Vec<Vec<f32>> {
    match how {
        "documents" => embedder.embed_documents(texts),
        "queries" => embedder.embed_queries(texts),
        "none" => embedder.embed_with_prompt(Prompt::None, texts),
        named => {
            let name = named.strip_prefix("named:").unwrap();
            embedder.embed_with_prompt(Prompt::Named(name), texts)
        }
    }
    .unwrap()
}

/// The options of a case, by the names of the builder's methods.
fn options(mut builder: EmbedderBuilder, open: &Value) -> EmbedderBuilder {
    for (key, value) in open.as_object().unwrap() {
        let text = || value.as_str().unwrap();
        builder = match key.as_str() {
            "graph" => builder.graph(text()),
            "output" => builder.output(text()),
            "task" => builder.task(text()),
            "layer_norm" => builder.layer_norm(value.as_bool().unwrap()),
            "dims" => builder.dims(usize::try_from(value.as_u64().unwrap()).unwrap()),
            other => panic!("unknown option {other}"),
        };
    }
    builder
}

#[track_caller]
fn assert_same(found: &[Vec<f32>], expected: &Value, what: &str) {
    let expected = expected.as_array().unwrap();
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let expected: Vec<f64> =
            expected.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(found.len(), expected.len(), "{what}: text {at}");
        let found: Vec<f64> = found.iter().map(|&x| f64::from(x)).collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
        let (length, theirs) = (dot(&found, &found).sqrt(), dot(&expected, &expected).sqrt());
        if theirs < 1e-9 {
            assert!(length < 1e-9, "{what}: text {at} has length {length}, and Python's none");
            continue;
        }
        let cosine = dot(&found, &expected) / (length * theirs);
        assert!(cosine >= COSINE, "{what}: text {at} has cosine {cosine}");
    }
}

/// Runs every case of a family, in large batches and in small ones.
fn family(name: &str) {
    check(name, &Copy::empty(), name);
}

fn check(name: &str, copy: &Copy, expected: &str) {
    if !ready() {
        return;
    }
    copy_all(&root().join(name), copy.dir.path());
    let texts = texts();
    let cases = json(&root().join(expected).join("expected.json"));
    let cases = cases["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for (at, case) in cases.iter().enumerate() {
        for (file, content) in case["files"].as_object().into_iter().flatten() {
            std::fs::create_dir_all(copy.path(file).parent().unwrap()).unwrap();
            copy.write(file, content.to_string());
        }
        let how = case["ask"].as_str().unwrap();
        for tokens in [4096, 80] {
            let builder = Embedder::builder(copy.dir.path()).batch_tokens(tokens);
            let embedder = options(builder, &case["open"]).open().unwrap();
            let what = format!("{name}, case {at} ({how}), batches of {tokens}");
            assert_same(&ask(&embedder, how, &texts), &case["vectors"], &what);
        }
    }
}

/// Opens a family's directory as it is.
fn open(name: &str) -> Embedder {
    Embedder::open(root().join(name)).unwrap()
}

#[test]
fn mxbai_takes_the_first_token_and_leaves_the_length() {
    family("mxbai");
}

#[test]
fn arctic_in_every_pooling_with_and_without_its_prompt() {
    family("arctic");
}

#[test]
fn lower_case_is_put_on_and_the_first_module_has_a_folder() {
    family("lower");
}

#[test]
fn nomic_norms_the_whole_vector_before_it_is_cut() {
    family("nomic");
    if ready() {
        assert_eq!(open("nomic").granularities(), [4, 8, 16]);
    }
}

#[test]
fn a_layer_norm_module_and_truncate_dim() {
    let copy = Copy::empty();
    copy_all(&root().join("nomic"), copy.dir.path());
    std::fs::remove_dir_all(copy.path("1_Pooling")).unwrap();
    check("nomic_norm", &copy, "nomic_norm");
}

#[test]
fn embedding_gemma_with_its_layers_in_the_graph_or_beside_it() {
    family("gemma");
    if ready() {
        assert_eq!(open("gemma").describe().dense_layers, 2);
    }
}

#[test]
fn dense_layers_with_every_activation() {
    let copy = Copy::empty();
    copy_all(&root().join("arctic"), copy.dir.path());
    check("dense", &copy, "dense");
}

#[test]
fn qwen3_takes_the_last_token_pads_left_and_gets_an_empty_cache() {
    family("qwen3");
    if ready() {
        let told = open("qwen3").describe();
        assert!(told.pad_left && !told.one_at_a_time, "{told}");
        assert!(told.inputs.iter().any(|name| name == "past_key_values.1.value"), "{told}");
    }
}

#[test]
fn jina_v5_small_and_nano() {
    family("jina_v5");
    family("jina_v5_nano");
}

#[test]
fn jina_v3_goes_through_the_adapter_of_its_prompt() {
    family("jina_v3");
    if ready() {
        let told = open("jina_v3").describe();
        let (query, document) = (told.query_task.as_deref(), told.document_task.as_deref());
        assert_eq!((query, document), (Some("retrieval.query"), Some("retrieval.passage")));
        let unknown = Embedder::builder(root().join("jina_v3")).task("poetry").open().unwrap_err();
        assert!(unknown.to_string().contains("text-matching"), "{unknown}");
    }
}

#[test]
fn jina_clip_gets_no_pictures_and_masks_for_itself() {
    family("jina_clip");
    if ready() {
        let told = open("jina_clip").describe();
        assert_eq!(told.inputs, ["input_ids", "pixel_values"]);
        assert!(!told.one_at_a_time, "padding is masked by its id: {told}");
    }
}

#[test]
fn static_models_with_and_without_a_graph() {
    family("static");
    if ready() {
        let table = open("static").describe();
        assert!(table.runtime.is_none() && table.inputs.is_empty(), "{table}");
        let builder = Embedder::builder(root().join("static"));
        let graph = builder.graph("model.onnx").open().unwrap().describe();
        assert_eq!(graph.inputs, ["input_ids", "offsets"]);
        assert_ne!(table.fingerprint, graph.fingerprint);
    }
}

/// Unlike a graph's vectors, those of a table have not been through the layers after it.
#[test]
fn a_static_model_goes_through_its_dense_layer() {
    let copy = Copy::empty();
    copy_all(&root().join("static"), copy.dir.path());
    let open = || Embedder::open(copy.dir.path()).unwrap();
    let before = open().embed_query("the river").unwrap();
    copy_all(&root().join("dense/2_Tanh"), &copy.path("2_Dense"));
    let mut modules = json(&copy.path("modules.json"));
    let dense =
        serde_json::json!({"type": "sentence_transformers.models.Dense", "path": "2_Dense"});
    modules.as_array_mut().unwrap().push(dense);
    copy.write("modules.json", modules.to_string());
    assert_eq!(open().describe().dense_layers, 1);
    assert_ne!(open().embed_query("the river").unwrap(), before);
}

#[test]
fn model2vec_shares_and_weights_its_rows() {
    family("model2vec");
}

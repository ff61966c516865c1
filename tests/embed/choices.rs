//! What an embedder tells about itself.

use std::fs;
use std::path::Path;

use matryo::embed::{Embedder, Fingerprint, Pooling, Prompt};
use matryo::{Collection, CopyOptions, EmbedderId, Error, Schema};

use crate::support::{Copy, copy_all, fixtures, json, ready, set_pooling};

#[test]
fn the_description_names_every_choice() {
    if !ready() {
        return;
    }
    let embedder = Embedder::open(fixtures().join("tokens")).unwrap();
    let told = embedder.describe();
    assert_eq!(told.inputs, ["token_type_ids", "input_ids", "attention_mask", "position_ids"]);
    assert_eq!(
        (told.output.as_str(), &told.pooling[..]),
        ("last_hidden_state", &[Pooling::Mean][..])
    );
    assert_eq!((told.max_tokens, told.normalize), (Some(12), true));
    assert_eq!(
        (told.query_prompt.as_str(), told.document_prompt.as_str()),
        ("query: ", "passage: ")
    );
    let library = told.runtime.as_ref().unwrap();
    if library.source == "matryo's cache" {
        assert_eq!(library.version.as_deref(), Some("1.31.1"));
    }
    let text = told.to_string();
    assert!(text.contains(&told.fingerprint) && text.contains("libonnxruntime"), "{text}");
}

/// Of static models, which need no library: the table beside the tokenizer, and in a folder of
/// the first module.
#[test]
fn an_embedder_is_named_after_the_directory_that_was_opened() {
    let families = fixtures().with_file_name("families");
    let name = |dir: &Path| EmbedderId::from(&Embedder::open(dir).unwrap()).name().to_owned();
    assert_eq!(name(&families.join("static")), "static");
    assert_eq!(name(&families.join("static/1_Normalize/..")), "static");
    let copy = Copy::empty();
    let model = copy.path("words");
    copy_all(&families.join("static"), &model);
    let folder = model.join("0_StaticEmbedding");
    fs::create_dir(&folder).unwrap();
    fs::rename(model.join("model.safetensors"), folder.join("model.safetensors")).unwrap();
    fs::rename(model.join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let modules = fs::read_to_string(model.join("modules.json")).unwrap();
    let modules = modules.replacen(r#""path": "","#, r#""path": "0_StaticEmbedding","#, 1);
    fs::write(model.join("modules.json"), modules).unwrap();
    assert_eq!(name(&model), "words");
    if ready() {
        assert_eq!(name(&families.join("lower")), "lower", "its graph is in 0_Transformer/onnx");
        assert_eq!(name(&fixtures().join("static")), "static");
        let of_choice = Embedder::builder(families.join("gemma")).graph("model_whole.onnx").open();
        let of_choice = EmbedderId::from(&of_choice.unwrap());
        assert_eq!(of_choice.name(), "gemma, model_whole.onnx");
    }
}

#[test]
fn the_fingerprint_names_the_part_that_differs() {
    if !ready() {
        return;
    }
    let open = |copy: &Copy| *Embedder::open(copy.dir.path()).unwrap().fingerprint();
    let original = *Embedder::open(fixtures().join("tokens")).unwrap().fingerprint();
    assert_eq!(open(&Copy::of("tokens")), original);
    assert_eq!(original.to_record().parse::<Fingerprint>().unwrap(), original);

    let copy = Copy::of("tokens");
    set_pooling(&copy, "cls_token");
    assert_eq!(original.differing_parts(&open(&copy)), ["modules"]);

    let copy = Copy::of("tokens");
    let config = fs::read_to_string(copy.path("tokenizer_config.json")).unwrap_or("{}".into());
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["truncation_side"] = "left".into();
    copy.write("tokenizer_config.json", config.to_string());
    assert_eq!(original.differing_parts(&open(&copy)), ["modules"]);

    let copy = Copy::of("tokens");
    copy.write("config_sentence_transformers.json", r#"{"prompts": {"query": "q: "}}"#);
    assert_eq!(original.differing_parts(&open(&copy)), ["prompts"]);

    let copy = Copy::of("tokens");
    let mut weights = fs::read(copy.path("onnx/model.onnx_data")).unwrap();
    weights[1] ^= 1;
    copy.write("onnx/model.onnx_data", weights);
    assert_eq!(original.differing_parts(&open(&copy)), ["graph"]);

    let copy = Copy::of("tokens");
    let tokenizer = fs::read_to_string(copy.path("tokenizer.json")).unwrap();
    copy.write("tokenizer.json", tokenizer + "\n");
    assert_eq!(original.differing_parts(&open(&copy)), ["tokenizer"]);
}

/// A collection that was shortened holds what a shortened embedder gives, and only that one's
/// queries fit.
#[test]
fn a_shortened_collection_wants_the_same_model_shortened() {
    if !ready() {
        return;
    }
    let texts = ["a cat sleeps on the roof", "the river runs down to the sea"];
    let (dir, model) = (tempfile::tempdir().unwrap(), fixtures().join("static"));
    let path = |name| dir.path().join(name);
    let whole = Embedder::open(&model).unwrap();
    let short = Embedder::builder(&model).dims(4).open().unwrap();
    assert_eq!(whole.fingerprint(), short.fingerprint());
    let schema = Schema::builder(whole.dims()).embedder(&whole).build().unwrap();
    let collection = Collection::create(path("whole"), schema).unwrap();
    let vector = whole.embed_documents(&texts).unwrap().into_iter().find(|v| v[0] != 0.0);
    collection.upsert(1, &vector.expect("a known word"), ()).unwrap();
    collection.check_embedder(&whole).unwrap();
    let refused = collection.check_embedder(&short).unwrap_err().to_string();
    assert!(refused.contains("the right one") && refused.contains("`.dims(8)`"), "{refused}");
    collection.copy_to(path("copy"), &CopyOptions::new().dims(4)).unwrap();
    drop(collection);
    Collection::drop_tier(path("whole"), 4).unwrap();
    for name in ["copy", "whole"] {
        let collection = Collection::open(path(name)).unwrap();
        collection.check_embedder(&short).unwrap();
        let found = texts.iter().flat_map(|text| {
            let query = short.embed_query(text).unwrap();
            let found = collection.search(&query).limit(1).run();
            found.map(|found| found.hits[0].score)
        });
        assert!(found.fold(0.0, f32::max) > 0.9999, "{name}");
        let refused = collection.check_embedder(&whole).unwrap_err().to_string();
        assert!(refused.contains("keeps the first 4") && refused.contains("`.dims(4)`"));
        let other = Embedder::open(fixtures().join("tokens")).unwrap();
        let refused = collection.check_embedder(&other);
        assert!(matches!(refused, Err(Error::OtherEmbedder { .. })), "{refused:?}");
    }
}

#[test]
fn tokens_are_counted_before_a_text_is_cut() {
    if !ready() {
        return;
    }
    let long = "the river runs down to the sea and ".repeat(9);
    for model in ["tokens", "static", "../families/mxbai", "../families/qwen3"] {
        let dir = fixtures().join(model);
        let embedder = Embedder::open(&dir).unwrap();
        assert_eq!(embedder.max_tokens(), embedder.describe().max_tokens);
        let whole = Embedder::builder(&dir).max_tokens(100_000).open().unwrap();
        let short = Embedder::builder(&dir).max_tokens(24).open().unwrap();
        let [count, uncut] = [&short, &whole].map(|e| e.count_tokens(&long).unwrap());
        assert!(count == uncut && count > 60, "{model}: {count} and {uncut}");
        assert!(short.count_tokens("").unwrap() < 24, "{model}");
        // What is cut off is counted and changes nothing, if so many tokens are taken.
        let vectors = short.embed_documents(&[&*long, &long[..long.len() / 2]]).unwrap();
        assert_eq!(vectors[0], vectors[1], "{model}");
    }
    let embedder = Embedder::open(fixtures().join("static")).unwrap();
    let longer = "x".repeat(matryo::embed::MAX_TEXT_BYTES + 1);
    assert!(embedder.count_tokens(&longer).is_err());
}

/// As sentence-transformers 6.2 cuts them: whatever the other limit is, and only by kind.
#[test]
fn queries_and_documents_are_cut_where_the_model_says() {
    if !ready() {
        return;
    }
    let copy = Copy::of("tokens");
    let limits = r#"{"max_seq_length": 12, "query_length": 6, "document_length": 16}"#;
    copy.write("sentence_bert_config.json", limits);
    copy.write("config_sentence_transformers.json", "{}");
    let embedder = Embedder::open(copy.dir.path()).unwrap();
    let told = embedder.describe();
    assert_eq!((told.max_tokens, told.query_max_tokens), (Some(16), Some(6)));
    assert_eq!((told.other_max_tokens, embedder.max_tokens()), (Some(12), Some(16)));
    assert!(told.to_string().contains("documents 16, queries 6, others 12"), "{told}");
    let text = ["the river runs down to the sea and ".repeat(9)];
    let cut = |n| {
        let embedder = Embedder::builder(copy.dir.path()).max_tokens(n).open().unwrap();
        assert_eq!(embedder.describe().query_max_tokens, Some(n));
        embedder.embed_with_prompt(Prompt::None, &text).unwrap()
    };
    let [short, usual, long] = [6, 12, 16].map(cut);
    assert!(short != usual && usual != long);
    assert_eq!(embedder.embed_queries(&text).unwrap(), short);
    assert_eq!(embedder.embed_with_prompt(Prompt::None, &text).unwrap(), usual);
    assert_eq!(embedder.embed_documents(&text).unwrap(), long);
    let other = *embedder.fingerprint();
    copy.write("sentence_bert_config.json", limits.replace('6', "7"));
    let changed = Embedder::open(copy.dir.path()).unwrap();
    assert_eq!(other.differing_parts(changed.fingerprint()), ["modules"]);
}

/// In Python too: what limits a transformer does not limit a table with its tokenizer.
#[test]
fn a_static_model_has_no_limit_but_its_tokenizers_own() {
    let copy = Copy::empty();
    copy_all(&fixtures().with_file_name("families").join("static"), copy.dir.path());
    copy.write("tokenizer_config.json", r#"{"model_max_length": 8}"#);
    copy.write("config.json", r#"{"max_position_embeddings": 8}"#);
    let open = || Embedder::open(copy.dir.path()).unwrap();
    assert_eq!(open().max_tokens(), None);
    let mut tokenizer = json(&copy.path("tokenizer.json"));
    tokenizer["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
    copy.write("tokenizer.json", tokenizer.to_string());
    assert_eq!(open().max_tokens(), Some(8));
}

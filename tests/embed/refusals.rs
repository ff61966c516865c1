//! Directories, texts and providers that are refused, each with its reason and cure.

use std::fs;

use matryo::Error;
use matryo::embed::{Embedder, Pooling};

use crate::support::{Copy, fixtures, json, ready, with_dense};

/// Opening must fail with `Error::Model` for a path ending in `file`, saying `words`.
#[track_caller]
fn refused(copy: &Copy, file: &str, words: &[&str]) {
    match copy.error() {
        Error::Model { path, why } => {
            assert!(path.ends_with(file), "{} is not {file}: {why}", path.display());
            for word in words {
                assert!(why.contains(word), "{word:?} is not in: {why}");
            }
        }
        other => panic!("expected a model error, got {other:?}"),
    }
}

#[test]
fn a_directory_must_be_one() {
    let missing = Embedder::open("/no/such/model").unwrap_err().to_string();
    assert!(missing.contains("/no/such/model") && missing.contains("exported"), "{missing}");
    let file = Embedder::open(fixtures().join("expected.json")).unwrap_err().to_string();
    assert!(file.contains("is not a directory"), "{file}");
}

#[test]
fn missing_files_are_named_with_their_cure() {
    let copy = Copy::of("static");
    copy.remove("tokenizer.json");
    refused(&copy, "tokenizer.json", &["no such file", "save_pretrained"]);

    let copy = Copy::of("static");
    copy.remove("model.onnx");
    refused(&copy, "", &["no ONNX graph", "export"]);
    copy.write("model_int8.onnx", "");
    refused(&copy, "", &["graph(NAME)", "model_int8.onnx"]);

    let copy = Copy::of("tokens");
    copy.remove("onnx/model.onnx_data");
    refused(&copy, "onnx/model.onnx_data", &["is missing", "weights of model.onnx"]);
}

#[test]
fn short_external_data_is_noticed() {
    let copy = Copy::of("tokens");
    let data = fs::read(copy.path("onnx/model.onnx_data")).unwrap();
    copy.write("onnx/model.onnx_data", &data[..data.len() / 2]);
    refused(&copy, "model.onnx_data", &["cut short"]);
}

#[test]
fn external_data_outside_the_directory_is_refused() {
    for graph in ["escape.onnx", "absolute.onnx", "folder.onnx"] {
        refused(&Copy::graph(graph), "model.onnx", &["only plain file names"]);
    }
}

#[cfg(unix)]
#[test]
fn symbolic_links_are_refused() {
    for name in ["tokenizer.json", "config.json", "onnx/model.onnx", "onnx/model.onnx_data"] {
        let copy = Copy::of("tokens");
        copy.remove(name);
        std::os::unix::fs::symlink(fixtures().join("tokens").join(name), copy.path(name)).unwrap();
        refused(&copy, name, &["symbolic link", "cp -rL"]);
    }
    let copy = Copy::of("tokens");
    fs::remove_dir_all(copy.path("1_Pooling")).unwrap();
    let target = fixtures().join("tokens/1_Pooling");
    std::os::unix::fs::symlink(target, copy.path("1_Pooling")).unwrap();
    refused(&copy, "1_Pooling", &["symbolic link"]);
}

#[test]
fn damaged_files_are_named() {
    for name in ["config.json", "modules.json", "tokenizer.json"] {
        let copy = Copy::of("static");
        copy.write(name, "{ \"half\": ");
        refused(&copy, name, &["again"]);
    }
    let copy = Copy::of("static");
    copy.write("model.onnx", "version https://git-lfs.github.com/spec/v1\noid sha256:00\n");
    refused(&copy, "model.onnx", &["Git LFS pointer"]);
    copy.write("model.onnx", "");
    refused(&copy, "model.onnx", &["no graph"]);
}

#[test]
fn a_cut_graph_is_an_error_at_every_length() {
    if !ready() {
        return;
    }
    let copy = Copy::of("static");
    let whole = fs::read(copy.path("model.onnx")).unwrap();
    for cut in (0..whole.len()).step_by(37) {
        copy.write("model.onnx", &whole[..cut]);
        assert!(matches!(copy.error(), Error::Model { .. }), "cut at {cut}");
    }
}

/// Whatever a byte of it is changed to, a tokenizer file gives vectors or an error.
#[test]
fn a_changed_tokenizer_never_panics() {
    if !ready() {
        return;
    }
    let copy = Copy::of("tokens");
    let whole = fs::read(copy.path("tokenizer.json")).unwrap();
    let mut opened = 0;
    for at in (0..whole.len()).step_by(11) {
        let mut changed = whole.clone();
        changed[at] = if changed[at] == b'9' { b'"' } else { b'9' };
        copy.write("tokenizer.json", changed);
        match Embedder::open(copy.dir.path()) {
            Ok(embedder) => {
                let _ = embedder.embed_documents(&["the river", "", "\u{1f30a} sea 99"]);
                opened += 1;
            }
            Err(e) => assert!(!e.to_string().is_empty()),
        }
    }
    assert!(opened > 0, "the change should often be harmless");
}

#[test]
fn wrong_configurations_are_explained() {
    let cases = [
        ("config.json", r#"{"hidden_size": "eight"}"#, "expected a whole number"),
        ("config.json", r#"{"matryoshka_dims": [2, 0]}"#, "positive numbers"),
        ("config.json", "[]", "must hold a JSON object"),
        ("modules.json", "{}", "must hold a list"),
        ("modules.json", "[]", "begins with neither"),
        (
            "modules.json",
            r#"[{"type": "sentence_transformers.models.Transformer"}]"#,
            "no type and",
        ),
        ("modules.json", r#"[{"type": "custom_st.Encoder", "path": ""}]"#, "custom_st.Encoder"),
        ("modules.json", r#"[{"type": "sentence_transformers.models.LSTM", "path": "0"}]"#, "LSTM"),
        ("config_sentence_transformers.json", r#"{"prompts": {"query": 1}}"#, "not strings"),
        ("config_sentence_transformers.json", r#"{"default_prompt_name": "x"}"#, "default prompt"),
        ("1_Pooling/config.json", r#"{"pooling_mode_deep": true}"#, "unknown pooling mode"),
        ("sentence_bert_config.json", r#"{"max_seq_length": 2}"#, ""),
        ("sentence_bert_config.json", r#"{"max_seq_length": 9, "query_length": 2}"#, ""),
        ("sentence_bert_config.json", r#"{"document_length": "long"}"#, "expected a whole number"),
        (
            "sentence_bert_config.json",
            r#"{"processing_kwargs": {"text": {"padding": 8}}}"#,
            "kwargs",
        ),
        ("sentence_bert_config.json", r#"{"query_expansion": {"length": 32}}"#, "query_expansion"),
        (
            "sentence_bert_config.json",
            r#"{"modality_config": {"text": {}, "message": {"method": "forward"}}}"#,
            "chat template",
        ),
        ("2_Normalize/config.json", r#"{"module_input_name": "token_embeddings"}"#, "input_name"),
    ];
    for (file, content, words) in cases {
        let copy = Copy::of("tokens");
        fs::create_dir_all(copy.path(file).parent().unwrap()).unwrap();
        copy.write(file, content);
        let file = if words.is_empty() { "tokenizer.json" } else { file };
        refused(&copy, file, &[words]);
    }
}

#[test]
fn a_folder_of_a_module_cannot_leave_the_directory() {
    let copy = Copy::of("tokens");
    let chain = r#"[{"type": "sentence_transformers.models.Transformer", "path": ""},
                    {"type": "sentence_transformers.models.Pooling", "path": "../up"}]"#;
    copy.write("modules.json", chain);
    refused(&copy, "", &["leaves the model directory"]);
}

#[test]
fn a_transformer_without_a_limit_is_not_given_one() {
    let copy = Copy::of("tokens");
    copy.remove("sentence_bert_config.json").write("config.json", "{}");
    refused(&copy, "tokenizer.json", &["max_seq_length", "max_tokens(N)"]);
}

#[test]
fn an_output_that_is_no_embedding_is_refused() {
    if !ready() {
        return;
    }
    refused(
        &Copy::graph("logits.onnx"),
        "model.onnx",
        &["no output that is an embedding", "logits"],
    );
    refused(&Copy::graph("label.onnx"), "model.onnx", &["not an embedding", "label"]);
    refused(&Copy::graph("scores.onnx"), "model.onnx", &["3 components", "says 8"]);
    refused(&Copy::graph("mask.onnx"), "model.onnx", &["for one text", "not an embedding"]);
    refused(&Copy::graph("nan.onnx"), "model.onnx", &["not a number"]);
    refused(
        &Copy::graph("past_keys.onnx"),
        "model.onnx",
        &["past_key_values.0.key", "[texts, heads"],
    );
    let merged = Copy::graph("merged.onnx");
    refused(&merged, "model.onnx", &["past_key_values.0.key", "head_dim"]);
    let dense = with_dense();
    let mut config = json(&dense.path("3_Dense/config.json"));
    config["module_output_name"] = "token_embeddings".into();
    dense.write("3_Dense/config.json", config.to_string());
    refused(&dense, "3_Dense/config.json", &["module_output_name", "sentence_embedding"]);
    let dense = with_dense();
    dense.write("3_Dense/model.safetensors", [0; 20]);
    refused(&dense, "model.safetensors", &["safetensors"]);
}

#[test]
fn token_vectors_need_a_pooling_from_somewhere() {
    if !ready() {
        return;
    }
    let copy = Copy::of("tokens");
    copy.remove("modules.json");
    refused(&copy, "", &["no modules.json", "pooling(...)"]);
    let told = Embedder::builder(copy.dir.path()).pooling(Pooling::Cls).open().unwrap().describe();
    assert_eq!((told.pooling, told.normalize), (vec![Pooling::Cls], false));
    let overruled =
        Embedder::builder(fixtures().join("tokens")).pooling(Pooling::Cls).open().unwrap_err();
    assert!(overruled.to_string().contains("says mean"), "{overruled}");
}

#[test]
fn outputs_and_graphs_can_be_chosen() {
    if !ready() {
        return;
    }
    let tokens = fixtures().join("tokens");
    let pooler = Embedder::builder(&tokens).output("pooler_output").open().unwrap();
    assert!(pooler.describe().pooling.is_empty());
    let wrong = Embedder::builder(&tokens).output("sentence").open().unwrap_err().to_string();
    assert!(wrong.contains("pooler_output") && wrong.contains("last_hidden_state"), "{wrong}");
    let copy = Copy::of("static");
    fs::copy(copy.path("model.onnx"), copy.path("other.onnx")).unwrap();
    assert!(Embedder::builder(copy.dir.path()).graph("other.onnx").open().is_ok());
    let wrong = Embedder::builder(copy.dir.path()).graph("no.onnx").open().unwrap_err().to_string();
    assert!(wrong.contains("model.onnx, other.onnx"), "{wrong}");
}

#[test]
fn a_text_over_the_limit_is_refused_and_names_itself() {
    if !ready() {
        return;
    }
    let embedder = Embedder::open(fixtures().join("static")).unwrap();
    let long = "a ".repeat(matryo::embed::MAX_TEXT_BYTES / 2);
    assert!(embedder.embed_query(&long).is_ok());
    let longer = long + "a";
    let refused = embedder.embed_documents(&["short", &longer]).unwrap_err().to_string();
    assert!(refused.contains("text 1 has 1048577 bytes"), "{refused}");
}

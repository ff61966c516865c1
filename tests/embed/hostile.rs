//! Model directories made to do harm: none reads outside itself, allocates what it
//! does not have, hangs or ends the process. Each is an error, or harmless.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use matryo::Error;
use matryo::embed::Embedder;
use serde_json::{Value, json};

use crate::support::{Copy, copy_all, fixtures, json as read_json, ready};

/// A copy of the static family, which has a table, a tokenizer and a graph.
fn table() -> Copy {
    let copy = Copy::empty();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/families/static");
    copy_all(&root, copy.dir.path());
    copy
}

#[track_caller]
fn refused(copy: &Copy, words: &str) {
    match copy.error() {
        Error::Model { path, why } => {
            assert!(path.starts_with(copy.dir.path()), "{}", path.display());
            assert!(why.contains(words), "{words:?} is not in: {why}");
        }
        other => panic!("expected a model error, got {other:?}"),
    }
}

/// A file of `size` bytes that takes no room.
fn sparse(copy: &Copy, name: &str, size: u64) {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true);
    options.open(copy.path(name)).unwrap().set_len(size).unwrap();
}

#[test]
fn no_module_folder_leaves_the_directory() {
    for folder in ["..", "../static", "/etc", "a/../../b", "./.."] {
        let copy = table();
        let chain =
            json!([{"type": "sentence_transformers.models.StaticEmbedding", "path": folder}]);
        copy.write("modules.json", chain.to_string());
        refused(&copy, "leaves the model directory");
    }
}

#[test]
fn no_folder_on_the_way_is_a_link() {
    let outside = table();
    let copy = table();
    fs::remove_dir_all(copy.path("onnx")).unwrap();
    symlink(outside.path("onnx"), copy.path("onnx")).unwrap();
    let asked = Embedder::builder(copy.dir.path()).graph("model.onnx").open().unwrap_err();
    assert!(asked.to_string().contains("symbolic link"), "{asked}");
    copy.remove("model.safetensors");
    symlink(outside.path("model.safetensors"), copy.path("model.safetensors")).unwrap();
    refused(&copy, "symbolic link");
}

#[test]
fn no_graph_that_is_asked_for_leaves_the_directory() {
    let copy = table();
    for name in ["../model.onnx", "/etc/hostname", "onnx/../../x.onnx"] {
        let asked = Embedder::builder(copy.dir.path()).graph(name).open().unwrap_err();
        assert!(asked.to_string().contains("leaves the model directory"), "{asked}");
    }
}

/// The files have up to 8 TiB: reading one, or making room for it, would not end well.
#[test]
fn sizes_are_compared_before_anything_is_read() {
    for (name, size) in [
        ("tokenizer.json", (64 << 20) + 1),
        ("modules.json", 1 << 40),
        ("config.json", 1 << 40),
        ("config_sentence_transformers.json", 1 << 40),
        ("model.safetensors", 1 << 43),
    ] {
        let copy = table();
        sparse(&copy, name, size);
        refused(&copy, &format!("has {size} bytes, more than the"));
    }
    let copy = table();
    copy.remove("model.safetensors");
    sparse(&copy, "onnx/model.onnx", 1 << 43);
    refused(&copy, "bytes, more than the");
}

#[test]
fn a_tokenizer_of_just_the_allowed_size_is_read() {
    let copy = table();
    let mut tokenizer = fs::read(copy.path("tokenizer.json")).unwrap();
    tokenizer.resize(64 << 20, b' ');
    copy.write("tokenizer.json", tokenizer);
    assert!(Embedder::open(copy.dir.path()).is_ok());
}

#[test]
fn what_is_no_file_is_not_waited_for() {
    for name in ["tokenizer.json", "model.safetensors", "modules.json"] {
        let copy = table();
        copy.remove(name);
        let made = std::process::Command::new("mkfifo").arg(copy.path(name)).status().unwrap();
        assert!(made.success());
        refused(&copy, "is not a regular file");
        copy.remove(name);
        fs::create_dir(copy.path(name)).unwrap();
        refused(&copy, "is not a regular file");
    }
}

#[test]
fn a_table_is_believed_only_as_far_as_its_file_reaches() {
    let whole = fs::read(table().path("model.safetensors")).unwrap();
    let header =
        |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &[0; 64]].concat();
    let entry = |shape: &str, range: &str| {
        header(&format!(
            r#"{{"embedding.weight":{{"dtype":"F32","shape":{shape},"data_offsets":{range}}}}}"#
        ))
    };
    let cases = [
        (u64::MAX.to_le_bytes().to_vec(), "not a safetensors file"),
        ((1_u64 << 40).to_le_bytes().to_vec(), "not a safetensors file"),
        (whole[..whole.len() / 2].to_vec(), "does not fit the file"),
        (header("{}"), "holds no embeddings"),
        (entry("[4611686018427387904,4]", "[0,64]"), "does not fit the file"),
        (entry("[4,4]", "[0,18446744073709551615]"), "does not fit the file"),
        (entry("[4,4]", "[64,0]"), "does not fit the file"),
        (entry("[16]", "[0,64]"), "expected 2 dimensions"),
        (entry("[0,4]", "[0,0]"), "empty table"),
        (entry("[16,0]", "[0,0]"), "empty table"),
    ];
    for (bytes, words) in cases {
        let copy = table();
        copy.write("model.safetensors", bytes);
        refused(&copy, words);
    }
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let copy = table();
    copy.write("model.safetensors", header(&deep));
    refused(&copy, "not a safetensors file");
    copy.write("modules.json", deep);
    refused(&copy, "is not valid JSON");
}

#[test]
fn a_token_beyond_the_table_is_an_error() {
    let copy = table();
    let text = r#"{"embedding.weight":{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}}"#;
    let file = [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &[0; 64]].concat();
    copy.write("model.safetensors", file);
    let embedder = Embedder::open(copy.dir.path()).unwrap();
    let error = embedder.embed_documents(&["the river"]).unwrap_err().to_string();
    assert!(error.contains("vectors for 4 tokens"), "{error}");
}

/// Models of a tokenizer that have made the library panic, or might.
fn odd_models() -> Vec<(&'static str, Value)> {
    let unigram = |unk: Value, vocab: Value| json!({"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": true});
    vec![
        (
            "model",
            json!({"type": "WordPiece", "unk_token": "missing", "vocab": {},
                         "continuing_subword_prefix": "##", "max_input_chars_per_word": 100}),
        ),
        ("model", unigram(json!(99), json!([["a", -1.0]]))),
        ("model", unigram(json!(0), json!([]))),
        ("model", unigram(Value::Null, json!([["a", 1e300], ["", 0.0]]))),
        ("model", json!({"type": "BPE", "vocab": {"a": 0}, "merges": [["x", "y"]]})),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 4_294_967_295_u32}, "merges": [],
                         "byte_fallback": true, "unk_token": "<unk>"}),
        ),
    ]
}

/// Steps around the model that have made the library panic, or might.
fn odd_steps() -> Vec<(&'static str, Value)> {
    let added = |content: &str, id: u64| {
        json!([{"id": id, "content": content, "single_word": false, "lstrip": true,
                "rstrip": true, "normalized": true, "special": true}])
    };
    let template = |token: &str, ids: Value| {
        json!({"type": "TemplateProcessing", "pair": [],
               "single": [{"SpecialToken": {"id": token, "type_id": 0}}],
               "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": ids, "tokens": ["[CLS]"]}}})
    };
    let split = |pattern: &str| {
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
               "invert": false})
    };
    vec![
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"})),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})),
        ("normalizer", json!({"type": "Replace", "pattern": {"Regex": "(a*)*$"}, "content": "a"})),
        ("normalizer", json!({"type": "Replace", "pattern": {"String": ""}, "content": "aa"})),
        ("pre_tokenizer", split("(")),
        ("pre_tokenizer", split("(x+x+)+y")),
        ("pre_tokenizer", split("")),
        (
            "pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "", "prepend_scheme": "always"}),
        ),
        ("pre_tokenizer", json!({"type": "FixedLength", "length": 0})),
        ("post_processor", template("[MISSING]", json!([2]))),
        ("post_processor", template("[CLS]", json!([4_294_967_295_u32, 1]))),
        (
            "truncation",
            json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst",
                              "stride": 5}),
        ),
        (
            "truncation",
            json!({"direction": "Right", "max_length": 0, "strategy": "OnlySecond",
                              "stride": 0}),
        ),
        (
            "padding",
            json!({"strategy": {"Fixed": u64::MAX}, "direction": "Left", "pad_id": 1,
                           "pad_to_multiple_of": 0, "pad_type_id": 0, "pad_token": "x"}),
        ),
        ("added_tokens", added("", 0)),
        ("added_tokens", added("river", 4_294_967_295)),
    ]
}

/// Whatever the library does with an odd tokenizer, its panics included, comes back
/// as vectors or as an error.
#[test]
fn an_odd_tokenizer_is_an_error_or_harmless() {
    let texts = ["the river runs", "", "\u{1f30a}\u{301}\u{0}", &"x".repeat(20_000)];
    let (mut opened, mut errors) = (0, 0);
    for with_special in [false, true] {
        for (part, value) in odd_models().into_iter().chain(odd_steps()) {
            let copy = if with_special { Copy::of("tokens") } else { table() };
            if with_special && !ready() {
                return;
            }
            let mut tokenizer = read_json(&copy.path("tokenizer.json"));
            tokenizer[part] = value;
            copy.write("tokenizer.json", tokenizer.to_string());
            match Embedder::open(copy.dir.path()).and_then(|e| e.embed_documents(&texts)) {
                Ok(vectors) => {
                    assert_eq!(vectors.len(), texts.len());
                    opened += 1;
                }
                Err(e) => {
                    assert!(!e.to_string().is_empty());
                    errors += 1;
                }
            }
        }
    }
    assert!(opened > 5 && errors > 5, "{opened} opened, {errors} errors");
}

#[test]
fn external_weights_are_files_beside_the_graph() {
    let data = "onnx/model.onnx_data";
    let copy = Copy::of("tokens");
    copy.remove(data);
    symlink(fixtures().join("tokens").join(data), copy.path(data)).unwrap();
    refused(&copy, "symbolic link");
    copy.remove(data);
    fs::create_dir(copy.path(data)).unwrap();
    refused(&copy, "not a regular file");
    fs::remove_dir(copy.path(data)).unwrap();
    copy.write(data, "short");
    refused(&copy, "cut short");
}

/// A larger file is left for ONNX Runtime to open, but only after its size was
/// compared with what the graph reads, and its bytes hashed.
#[test]
fn a_graph_that_reads_beyond_any_file_is_refused() {
    let copy = Copy::of("tokens");
    let graph = fs::read(copy.path("onnx/model.onnx")).unwrap();
    let at = graph.windows(6).position(|w| w == b"offset").unwrap();
    let digits = graph[at..].windows(1).position(|w| w[0].is_ascii_digit()).unwrap() + at;
    let mut changed = graph.clone();
    changed[digits] = b'x';
    copy.write("onnx/model.onnx", changed);
    refused(&copy, "not a number");
}

//! The embedder against Python's vectors, and against directories that are wrong.
//!
//! Reference vectors: `models/parity/make_fixtures.py` wrote those of the fixtures,
//! `models/text/reference.py` those of the models under `models/text`. Where ONNX
//! Runtime is missing and may not be fetched, the tests say so and pass.

#![cfg(feature = "embed")]

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use matryo::Error;
use matryo::embed::{Embedder, Fingerprint, Pooling, Prompt, Provider, runtime};
use serde_json::Value;
use tempfile::TempDir;

/// How far a component may be from Python's.
const TOLERANCE: f32 = 1e-5;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models")
}

/// Whether ONNX Runtime is here; fetches it once if that is allowed.
fn ready() -> bool {
    static READY: OnceLock<bool> = OnceLock::new();
    *READY.get_or_init(|| match runtime::locate_or_install() {
        Ok(_) => true,
        Err(e) if env::var_os("MATRYO_OFFLINE").is_some() => {
            eprintln!("SKIPPED, the embedder is not tested: {e}");
            false
        }
        Err(e) => panic!("{e}"),
    })
}

/// A copy of a fixture that a test may change.
struct Copy {
    dir: TempDir,
}

impl Copy {
    fn of(name: &str) -> Self {
        let copy = Self { dir: tempfile::tempdir().unwrap() };
        copy_all(&fixtures().join(name), copy.dir.path());
        copy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    fn remove(&self, name: &str) -> &Self {
        fs::remove_file(self.path(name)).unwrap();
        self
    }

    /// Puts one of the odd graphs in place of the good one.
    fn graph(name: &str) -> Self {
        let copy = Self::of("static");
        fs::copy(fixtures().join("graphs").join(name), copy.path("model.onnx")).unwrap();
        copy
    }

    fn error(&self) -> Error {
        Embedder::open(self.dir.path()).unwrap_err()
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

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

fn set_pooling(copy: &Copy, mode: &str) {
    let config = format!(r#"{{"pooling_mode_{mode}": true, "pooling_mode_other": false}}"#);
    copy.write("1_Pooling/config.json", config);
}

// --- the same vectors as Python ---

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

/// `tokens` with a dense layer between pooling and unit length.
fn with_dense() -> Copy {
    let copy = Copy::of("tokens");
    copy_all(&fixtures().join("dense"), &copy.path("3_Dense"));
    let mut chain = json(&copy.path("modules.json"));
    let dense =
        serde_json::json!({"type": "sentence_transformers.models.Dense", "path": "3_Dense"});
    chain.as_array_mut().unwrap().insert(2, dense);
    copy.write("modules.json", chain.to_string());
    copy
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

fn check_reference(root: &Path, path: &Path) {
    let reference = json(path);
    let model = reference["model"].as_str().unwrap();
    let embedder = Embedder::open(root.join(model)).unwrap();
    let texts = strings(&reference["texts"]);
    let what = format!("{model} in {}", path.display());
    let documents = embedder.embed_documents(&texts).unwrap();
    assert_close(&documents, &vectors(&reference["documents"]), &what);
    let queries = embedder.embed_queries(&texts).unwrap();
    assert_close(&queries, &vectors(&reference["queries"]), &what);
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

// --- what an embedder tells about itself ---

#[test]
fn the_description_names_every_choice() {
    if !ready() {
        return;
    }
    let embedder = Embedder::open(fixtures().join("tokens")).unwrap();
    let told = embedder.describe();
    assert_eq!(told.inputs, ["token_type_ids", "input_ids", "attention_mask", "position_ids"]);
    assert_eq!((told.output.as_str(), told.pooling), ("last_hidden_state", Some(Pooling::Mean)));
    assert_eq!((told.max_tokens, told.normalize), (Some(12), true));
    assert_eq!(
        (told.query_prompt.as_str(), told.document_prompt.as_str()),
        ("query: ", "passage: ")
    );
    let text = told.to_string();
    assert!(text.contains(&told.fingerprint) && text.contains("libonnxruntime"), "{text}");
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

// --- directories that are wrong ---

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
        (
            "modules.json",
            r#"[{"type": "custom_st.Transformer", "path": ""}]"#,
            "custom_st.Transformer",
        ),
        ("modules.json", r#"[{"type": "sentence_transformers.models.LSTM", "path": "0"}]"#, "LSTM"),
        ("config_sentence_transformers.json", r#"{"prompts": {"query": 1}}"#, "not strings"),
        ("config_sentence_transformers.json", r#"{"default_prompt_name": "x"}"#, "default prompt"),
        ("1_Pooling/config.json", r#"{"pooling_mode_max_tokens": false}"#, "exactly one"),
        ("1_Pooling/config.json", r#"{"pooling_mode_deep": true}"#, "unknown pooling mode"),
        ("sentence_bert_config.json", r#"{"max_seq_length": 2}"#, ""),
    ];
    for (file, content, words) in cases {
        let copy = Copy::of("tokens");
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
    refused(&Copy::graph("past_keys.onnx"), "model.onnx", &["past_key_values.0.key", "export"]);
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
    assert_eq!((told.pooling, told.normalize), (Some(Pooling::Cls), false));
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
    assert_eq!(pooler.describe().pooling, None);
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

#[test]
fn cuda_is_never_quietly_replaced() {
    if !ready() {
        return;
    }
    // Loads the library first, so that the error comes from asking it.
    Embedder::open(fixtures().join("static")).unwrap();
    let asked = Embedder::builder(fixtures().join("static")).provider(Provider::Cuda { device: 0 });
    match asked.open() {
        Ok(embedder) => assert_eq!(embedder.describe().provider, Provider::Cuda { device: 0 }),
        Err(Error::Runtime { why, cure }) => {
            assert!(why.contains("CUDA device 0 was asked for"), "{why}");
            assert!(cure.contains("Provider::Cpu"), "{cure}");
        }
        Err(other) => panic!("{other:?}"),
    }
}

// --- finding the library: one per process, so each case is a process ---

/// Runs one of the `child_*` tests below in a process of its own.
fn child(name: &str, set: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]);
    for variable in ["ORT_DYLIB_PATH", "MATRYO_OFFLINE", "MATRYO_PYTHON", "XDG_CACHE_HOME"] {
        command.env_remove(variable);
    }
    command.env("LD_LIBRARY_PATH", "").envs(set.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
#[ignore = "run by the tests below"]
fn child_open() {
    match Embedder::open(fixtures().join("static")) {
        Ok(embedder) => println!("opened\n{}", embedder.describe()),
        Err(e) => println!("refused: {e}"),
    }
}

#[test]
#[ignore = "run by the tests below"]
fn child_install() {
    match runtime::install() {
        Ok(path) => println!("installed: {}", path.display()),
        Err(e) => println!("refused: {e}"),
    }
}

#[test]
fn an_ordered_library_that_is_missing_or_wrong_is_an_error() {
    let text = said(&child("child_open", &[("ORT_DYLIB_PATH", "/no/such/lib.so")]));
    assert!(text.contains("ORT_DYLIB_PATH says /no/such/lib.so"), "{text}");
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("libonnxruntime.so");
    fs::write(&fake, "not a library").unwrap();
    let text = said(&child("child_open", &[("ORT_DYLIB_PATH", fake.to_str().unwrap())]));
    assert!(text.contains("cannot load") && text.contains("set ORT_DYLIB_PATH"), "{text}");
}

#[test]
fn no_library_anywhere_says_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let cache = empty.path().to_str().unwrap();
    let none = "/no/such/python";
    let text = said(&child("child_open", &[("XDG_CACHE_HOME", cache), ("MATRYO_PYTHON", none)]));
    if text.contains("opened") {
        return; // The system has one of its own.
    }
    for words in ["runtime::install()", "pip install onnxruntime==", "ORT_DYLIB_PATH"] {
        assert!(text.contains(words), "{words:?} is not in: {text}");
    }
    let text = said(&child("child_install", &[("XDG_CACHE_HOME", cache), ("MATRYO_PYTHON", none)]));
    assert!(text.contains("cannot be run") && text.contains("set MATRYO_PYTHON"), "{text}");
    let text = said(&child("child_install", &[("XDG_CACHE_HOME", cache), ("MATRYO_OFFLINE", "1")]));
    assert!(text.contains("MATRYO_OFFLINE is set") && text.contains("by hand"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_python_without_pip_is_named_with_the_cure() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python");
    fs::write(&python, "#!/bin/sh\necho 'python: No module named pip' >&2\nexit 1\n").unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let cache = dir.path().to_str().unwrap();
    let python = python.to_str().unwrap();
    let text =
        said(&child("child_install", &[("XDG_CACHE_HOME", cache), ("MATRYO_PYTHON", python)]));
    assert!(text.contains("install pip") && text.contains("ensurepip"), "{text}");
}

#[test]
#[ignore = "fetches 24 MB with pip"]
fn two_processes_fetch_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().to_str().unwrap();
    let fetch = || said(&child("child_install", &[("XDG_CACHE_HOME", cache)]));
    let both = std::thread::scope(|scope| {
        let tasks = [scope.spawn(fetch), scope.spawn(fetch)];
        tasks.map(|t| t.join().unwrap())
    });
    assert!(both.iter().all(|text| text.contains("installed: ")), "{both:?}");
    let fetched = both.iter().filter(|text| text.contains("fetching ONNX Runtime")).count();
    assert_eq!(fetched, 1, "{both:?}");
    let opened = said(&child("child_open", &[("XDG_CACHE_HOME", cache)]));
    assert!(opened.contains("matryo's cache"), "{opened}");
}

"""The small models that `tests/embed.rs` opens, and the vectors Python gets from them.

Usage: pip install onnx onnxruntime tokenizers numpy, then run this file anywhere. It rewrites tests/fixtures/models:

  static/         one vector per text from the graph, no special tokens
  tokens/         one vector per token, weights in an external file, special tokens, prompts, pooling module
  graphs/*.onnx   graphs that tests put in place of a good one
  expected.json   texts, and the vectors of Python's onnxruntime with the pooling done in numpy

The weights are random: the vectors mean nothing, they only have to be the same.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "models"
WIDTH, MAX_TOKENS = 8, 12
RNG = np.random.default_rng(7)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
WORDS = ["the", "river", "runs", "down", "to", "sea", "a", "vector", "has", "parts", "query", "passage", ":", ".", "?"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *LETTERS, *("##" + x for x in LETTERS), *(w for w in WORDS if len(w) > 1)]
VOCAB += [":", ".", "?"]

TEXTS = [
    "",
    " ",
    "the river runs down to the sea",
    "A vector has parts.",
    "river",
    "the river runs down to the sea and then some more words follow that nobody will ever read here",
    "caf\u00e9 na\u00efve",
    "\U0001f30a\U0001f9ed river \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u0627\u0644\u0646\u0647\u0631 \u05d4\u05e0\u05d4\u05e8",
    "\u6cb3\u6d41 sea",
    "tab\tand\nnewline\u0000zero",
    "river " * 3000,
]


def tokenizer_json(special: bool) -> dict:
    """A BERT-like WordPiece tokenizer, written out rather than trained."""
    added = [
        {"id": at, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for at, token in enumerate(VOCAB[:4])
    ]
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                           "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}},
    }
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template if special else None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 32, "vocab": {token: at for at, token in enumerate(VOCAB)}},
    }


def node(op: str, inputs: list[str], outputs: list[str], **attributes) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def info(name: str, kind: int, shape: list) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def integers(name: str, kind: int = TensorProto.INT64) -> onnx.ValueInfoProto:
    return info(name, kind, ["batch", "tokens"])


def model(nodes: list, inputs: list, outputs: list, stored: list) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "fixture", inputs, outputs, initializer=stored)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made.producer_name = "matryo fixtures"
    return made


def table(rows: int = len(VOCAB)) -> np.ndarray:
    return RNG.normal(0.0, 1.0, (rows, WIDTH)).astype(np.float32)


AXES = [numpy_helper.from_array(np.array([1], np.int64), "axis_1"),
        numpy_helper.from_array(np.array([2], np.int64), "axis_2"),
        numpy_helper.from_array(np.array(1.0, np.float32), "one")]


def masked_mean() -> list:
    """Nodes from `rows` [batch, tokens, width] to `mean` [batch, width]."""
    return [
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "axis_2"], ["column"]),
        node("Mul", ["rows", "column"], ["real"]),
        node("ReduceSum", ["real", "axis_1"], ["sum"], keepdims=0),
        node("ReduceSum", ["mask", "axis_1"], ["count"], keepdims=1),
        node("Max", ["count", "one"], ["divisor"]),
        node("Div", ["sum", "divisor"], ["mean"]),
    ]


def static_model(output: str = "sentence_embedding", kind: int = TensorProto.FLOAT, last=(),
                 rows: np.ndarray | None = None) -> onnx.ModelProto:
    """Mean of a table's rows; `last` nodes turn `mean` into the output."""
    stored = [numpy_helper.from_array(table() if rows is None else rows, "table"), *AXES]
    nodes = [node("Gather", ["table", "input_ids"], ["rows"]), *masked_mean()]
    nodes += last or [node("Identity", ["mean"], [output])]
    inputs = [integers("input_ids"), integers("attention_mask")]
    return model(nodes, inputs, [info(output, kind, ["batch", WIDTH])], stored)


def tokens_model() -> onnx.ModelProto:
    """A vector per token that depends on its position and type, like a transformer's, and one that pools badly."""
    stored = [numpy_helper.from_array(table(), "table"), numpy_helper.from_array(table(64), "positions"),
              numpy_helper.from_array(table(2), "types"), *AXES]
    nodes = [
        node("Gather", ["table", "input_ids"], ["words"]),
        node("Gather", ["positions", "position_ids"], ["places"]),
        node("Gather", ["types", "token_type_ids"], ["kinds"]),
        node("Add", ["words", "places"], ["placed"]),
        node("Add", ["placed", "kinds"], ["rows"]),
        *masked_mean(),
        node("Tanh", ["rows"], ["last_hidden_state"]),
        node("Tanh", ["mean"], ["pooler_output"]),
    ]
    inputs = [integers("token_type_ids"), integers("input_ids"), integers("attention_mask"),
              integers("position_ids", TensorProto.INT32)]
    outputs = [info("pooler_output", TensorProto.FLOAT, ["batch", WIDTH]),
               info("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", WIDTH])]
    return model(nodes, inputs, outputs, stored)


def dynamic_model() -> onnx.ModelProto:
    """Quantises activations with a scale taken from the whole batch."""
    last = [
        node("DynamicQuantizeLinear", ["mean"], ["q", "scale", "zero"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["sentence_embedding"]),
    ]
    return static_model(last=last)


def merged_decoder(rows: np.ndarray) -> onnx.ModelProto:
    """The static model, asking for a cache in half precision whose shape is open, and a switch that says there is
    one; both would show in the output."""
    last = [node("Cast", ["past_key_values.0.key"], ["past"], to=TensorProto.FLOAT),
            node("ReduceSum", ["past"], ["earlier"], keepdims=0),
            node("Cast", ["use_cache_branch"], ["cached"], to=TensorProto.FLOAT),
            node("Add", ["mean", "earlier"], ["moved"]), node("Add", ["moved", "cached"], ["sentence_embedding"])]
    made = static_model(last=last, rows=rows)
    made.graph.input.append(info("past_key_values.0.key", TensorProto.FLOAT16, ["batch", "heads", "past", "size"]))
    made.graph.input.append(info("use_cache_branch", TensorProto.BOOL, [1]))
    return made


def fixed_shape(rows: np.ndarray) -> onnx.ModelProto:
    """The static model for one text of 12 tokens at a time, as exported for small devices."""
    made = static_model(rows=rows)
    for put in made.graph.input:
        for size, axis in zip((1, MAX_TOKENS), put.type.tensor_type.shape.dim):
            axis.dim_value = size
    made.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    return made


def odd_graphs(folder: Path, rows: np.ndarray) -> None:
    """Graphs that are not embedders, or name files they must not."""
    folder.mkdir(parents=True)
    labels = [node("ArgMax", ["mean"], ["label"], axis=1, keepdims=1)]
    integer = static_model("label", TensorProto.INT64, labels)
    integer.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    scores = static_model("scores", last=[node("Slice", ["mean", "zero", "three", "axis_1"], ["scores"])])
    scores.graph.initializer.extend([numpy_helper.from_array(np.array([n], np.int64), name)
                                     for n, name in [(0, "zero"), (3, "three")]])
    scores.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    mask = static_model("sentence_embedding", last=[node("Identity", ["mask"], ["sentence_embedding"])])
    mask.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "tokens"
    nothing = static_model(last=[node("Sub", ["mean", "mean"], ["zero"]),
                                 node("Div", ["zero", "zero"], ["sentence_embedding"])])
    caches = static_model()
    caches.graph.input.append(info("past_key_values.0.key", TensorProto.FLOAT, ["batch", 1]))
    graphs = {"logits": static_model("logits"), "label": integer, "scores": scores, "mask": mask, "nan": nothing,
              "past_keys": caches, "dynamic": dynamic_model(), "no_mask": no_mask(),
              "merged": merged_decoder(rows), "fixed": fixed_shape(rows)}
    for name, graph in graphs.items():
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())
    for name, location in [("escape", "../expected.json"), ("absolute", "/etc/hostname"), ("folder", "data/weights")]:
        graph = static_model()
        send_outside(graph.graph.initializer[0], location)
        (folder / f"{name}.onnx").write_bytes(graph.SerializeToString())


def no_mask() -> onnx.ModelProto:
    """Takes token ids only, so that padding would count."""
    stored = [numpy_helper.from_array(table(), "table"), *AXES[:1]]
    nodes = [node("Gather", ["table", "input_ids"], ["rows"]),
             node("ReduceMean", ["rows"], ["sentence_embedding"], axes=[1], keepdims=0)]
    output = info("sentence_embedding", TensorProto.FLOAT, ["batch", WIDTH])
    return model(nodes, [integers("input_ids")], [output], stored)


def send_outside(tensor: onnx.TensorProto, location: str) -> None:
    """Make a stored tensor refer to a file, without writing one."""
    onnx.external_data_helper.set_external_data(tensor, location, offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="ascii")


def module(index: int, path: str, kind: str) -> dict:
    return {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}


def write_static(folder: Path, rows: np.ndarray) -> None:
    write_json(folder / "tokenizer.json", tokenizer_json(special=False))
    write_json(folder / "modules.json", [module(0, "", "StaticEmbedding"), module(1, "1_Normalize", "Normalize")])
    config = {"hidden_size": WIDTH, "max_tokens": MAX_TOKENS, "matryoshka_dims": [2, 4, WIDTH], "pad_token_id": 0}
    write_json(folder / "config.json", config)
    (folder / "model.onnx").write_bytes(static_model(rows=rows).SerializeToString())


def write_tokens(folder: Path) -> None:
    write_json(folder / "tokenizer.json", tokenizer_json(special=True))
    chain = [module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling"), module(2, "2_Normalize", "Normalize")]
    write_json(folder / "modules.json", chain)
    pooling = {"word_embedding_dimension": WIDTH, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    write_json(folder / "config.json", {"hidden_size": WIDTH, "max_position_embeddings": 64})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": MAX_TOKENS, "do_lower_case": False})
    prompts = {"query": "query: ", "passage": "passage: "}
    write_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    (folder / "onnx").mkdir()
    graph = str(folder / "onnx" / "model.onnx")
    onnx.save_model(tokens_model(), graph, save_as_external_data=True, location="model.onnx_data", size_threshold=64)


def write_dense(folder: Path) -> np.ndarray:
    """A Dense module's folder: 3 outputs, Tanh, a bias; safetensors written by hand."""
    weight, bias = RNG.normal(0, 1, (3, WIDTH)).astype("<f4"), RNG.normal(0, 1, 3).astype("<f4")
    cut = weight.nbytes
    header = {"linear.weight": {"dtype": "F32", "shape": [3, WIDTH], "data_offsets": [0, cut]},
              "linear.bias": {"dtype": "F32", "shape": [3], "data_offsets": [cut, cut + bias.nbytes]}}
    head = json.dumps(header).encode()
    write_json(folder / "config.json", {"in_features": WIDTH, "out_features": 3, "bias": True,
                                        "activation_function": "torch.nn.modules.activation.Tanh"})
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + weight.tobytes() + bias.tobytes())
    return np.concatenate([weight, bias[:, None]], axis=1)


def run(folder: Path, graph: str, output: str, texts: list[str], special: bool):
    """Output and mask for each text, one at a time and unpadded (a text without tokens is one masked pad)."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    session = onnxruntime.InferenceSession(str(folder / graph))
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=special).ids
        mask = [1] * len(ids) or [0]
        ids = ids or [0]
        feed = {"input_ids": [ids], "attention_mask": [mask], "token_type_ids": [[0] * len(ids)],
                "position_ids": [list(range(len(ids)))]}
        kinds = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
        feed = {i.name: np.array(feed[i.name], kinds[i.type]) for i in session.get_inputs()}
        yield session.run([output], feed)[0][0], np.array(mask, bool)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


POOLINGS = {
    "mean_tokens": lambda rows: rows.mean(axis=0),
    "mean_sqrt_len_tokens": lambda rows: rows.sum(axis=0) / np.sqrt(len(rows)),
    "weightedmean_tokens": lambda rows: np.average(rows, axis=0, weights=np.arange(1, len(rows) + 1)),
    "max_tokens": lambda rows: rows.max(axis=0),
    "cls_token": lambda rows: rows[0],
    "lasttoken": lambda rows: rows[-1],
}


def expected(dense: np.ndarray) -> dict:
    """All reference vectors, by the name of the case in tests/embed.rs."""
    vectors = {"static": [unit(v) for v, _ in run(ROOT / "static", "model.onnx", "sentence_embedding", TEXTS, False)]}

    def hidden(prompt: str):
        texts = [prompt + text for text in TEXTS]
        return list(run(ROOT / "tokens", "onnx/model.onnx", "last_hidden_state", texts, True))

    documents = hidden("passage: ")
    for name, pool in POOLINGS.items():
        vectors[name] = [unit(pool(rows[mask])) for rows, mask in documents]
    vectors["query"] = [unit(rows[mask].mean(axis=0)) for rows, mask in hidden("query: ")]
    vectors["no_prompt"] = [unit(rows[mask].mean(axis=0)) for rows, mask in hidden("")]
    # [CLS] passage : -- three tokens come before the text.
    vectors["prompt_excluded"] = [unit(rows[3:].mean(axis=0)) for rows, _ in documents]
    means = [rows[mask].mean(axis=0) for rows, mask in documents]
    vectors["dense"] = [unit(np.tanh(dense[:, :-1] @ mean + dense[:, -1])) for mean in means]
    rounded = {name: [[float(np.float32(x)) for x in row] for row in rows] for name, rows in vectors.items()}
    return {"texts": TEXTS, "vectors": rounded}


def main() -> None:
    shutil.rmtree(ROOT, ignore_errors=True)
    rows = table()
    write_static(ROOT / "static", rows)
    write_tokens(ROOT / "tokens")
    odd_graphs(ROOT / "graphs", rows)
    dense = write_dense(ROOT / "dense")
    ROOT.joinpath("expected.json").write_text(json.dumps(expected(dense)) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()

"""int8 tables, the ONNX graphs, and the files around them in the sentence-transformers layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model
from tokenizers import Tokenizer

OPSET, IR_VERSION = 17, 8
"""Old enough for every ONNX Runtime in use; the graphs need nothing newer."""


def quantise(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 rows and one float32 scale per row: row = int8 row * scale."""
    scales = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12) / 127.0
    values = np.clip(np.rint(table / scales), -127, 127).astype(np.int8)
    return values, scales.astype(np.float32)


def dequantise(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The float32 table that the graph computes with."""
    return values.astype(np.float32) * scales


def constants(values: np.ndarray, scales: np.ndarray) -> list:
    """Tensors that both graphs store."""
    return [
        numpy_helper.from_array(values, "table"),
        numpy_helper.from_array(scales[:, 0], "scales"),
        numpy_helper.from_array(np.array([1], np.int64), "axis_1"),
        numpy_helper.from_array(np.array(1.0, np.float32), "one"),
        numpy_helper.from_array(np.array(1e-12, np.float32), "tiny"),
    ]


def sentence_nodes() -> list:
    """From token ids to one unit vector per text.

    The row scale and the mask are one weight per token, so the weighted sum is a single matrix product. The maxima
    keep a text without tokens at the zero vector, where a division by zero would give NaN.
    """
    node = helper.make_node
    return [
        node("Gather", ["table", "input_ids"], ["rows_int8"], axis=0),
        node("Cast", ["rows_int8"], ["rows"], to=TensorProto.FLOAT),
        node("Gather", ["scales", "input_ids"], ["row_scales"], axis=0),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Mul", ["row_scales", "mask"], ["weights"]),
        node("Unsqueeze", ["weights", "axis_1"], ["weights_row"]),
        node("MatMul", ["weights_row", "rows"], ["sum_row"]),
        node("Squeeze", ["sum_row", "axis_1"], ["sum"]),
        node("ReduceSum", ["mask", "axis_1"], ["count"], keepdims=1),
        node("Max", ["count", "one"], ["divisor"]),
        node("Div", ["sum", "divisor"], ["mean"]),
        node("ReduceL2", ["mean"], ["length"], axes=[1], keepdims=1),
        node("Max", ["length", "tiny"], ["safe_length"]),
        node("Div", ["mean", "safe_length"], ["sentence_embedding"]),
    ]


def token_nodes() -> list:
    """From token ids to one vector per token; pooling and normalising are left to the caller."""
    node = helper.make_node
    return [
        node("Gather", ["table", "input_ids"], ["rows_int8"], axis=0),
        node("Cast", ["rows_int8"], ["rows"], to=TensorProto.FLOAT),
        node("Gather", ["scales", "input_ids"], ["row_scales"], axis=0),
        # The mask is an input because exported transformers have it; here it silences the padding.
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Mul", ["row_scales", "mask"], ["weights"]),
        node("Unsqueeze", ["weights", "axis_2"], ["weights_column"]),
        node("Mul", ["rows", "weights_column"], ["last_hidden_state"]),
    ]


def save_graph(values: np.ndarray, scales: np.ndarray, path: Path, per_token: bool = False) -> None:
    """Write ``model.onnx``: one unit vector per text, or with ``per_token`` one vector per token."""
    shape = ["batch", "tokens"]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in ("input_ids", "attention_mask")
    ]
    width = values.shape[1]
    stored = constants(values, scales)
    if per_token:
        nodes = token_nodes()
        stored = stored[:2] + [numpy_helper.from_array(np.array([2], np.int64), "axis_2")]
        output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*shape, width])
    else:
        nodes = sentence_nodes()
        output = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", width])
    graph = helper.make_graph(nodes, "matryo-text", inputs, [output], initializer=stored)
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, producer_name="matryo", opset_imports=opsets, ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(model, str(path))


def write_json(path: Path, content: object) -> None:
    """Indented JSON, ASCII, with a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")


def module(index: int, path: str, kind: str) -> dict:
    """One entry of ``modules.json``."""
    return {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """``tokenizer.json`` without truncation or padding: max_seq_length below decides the cut."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    folder.mkdir(parents=True, exist_ok=True)
    # Compact JSON: the vocabulary is most of it and nobody reads it line by line.
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")


def export_static(
    folder: Path, tokenizer: Tokenizer, table: np.ndarray, dims: Sequence[int], max_tokens: int
) -> None:
    """The shipped model: static token table, mean and normalisation inside the graph."""
    values, scales = quantise(table)
    save_graph(values, scales, folder / "onnx" / "model.onnx")
    write_tokenizer(folder, tokenizer)
    write_json(folder / "modules.json", [module(0, "", "StaticEmbedding"), module(1, "1_Normalize", "Normalize")])
    write_json(folder / "1_Normalize" / "config.json", {})
    config = model_config(table, dims, max_tokens, "static-embedding")
    config |= {"pooling": "mean", "normalized": True, "add_special_tokens": False, "license": "Apache-2.0"}
    write_json(folder / "config.json", config)
    write_sentence_configs(folder, {"query": "", "document": ""}, None, max_tokens)


def export_pooling(folder: Path, tokenizer: Tokenizer, table: np.ndarray, max_tokens: int) -> None:
    """The test model: token vectors from the graph, then a pooling and a normalising module."""
    values, scales = quantise(table)
    save_graph(values, scales, folder / "onnx" / "model.onnx", per_token=True)
    write_tokenizer(folder, tokenizer)
    chain = [module(0, "", "Transformer"), module(1, "1_Pooling", "Pooling"), module(2, "2_Normalize", "Normalize")]
    write_json(folder / "modules.json", chain)
    width = table.shape[1]
    modes = ["cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    pooling |= {f"pooling_mode_{mode}": False for mode in modes}
    write_json(folder / "1_Pooling" / "config.json", pooling | {"include_prompt": True})
    write_json(folder / "2_Normalize" / "config.json", {})
    config = model_config(table, [8, 16, width], max_tokens, "matryo-test")
    write_json(folder / "config.json", config | {"add_special_tokens": True})
    write_sentence_configs(folder, {"query": "query: ", "document": "passage: "}, "document", max_tokens)


def model_config(table: np.ndarray, dims: Sequence[int], max_tokens: int, kind: str) -> dict:
    """The facts that both exports put into ``config.json``."""
    return {
        "model_type": kind,
        "hidden_size": table.shape[1],
        "vocab_size": table.shape[0],
        "pad_token_id": 0,
        "max_position_embeddings": max_tokens,
        "max_tokens": max_tokens,
        "matryoshka_dims": list(dims),
    }


def write_sentence_configs(folder: Path, prompts: dict, default: str | None, max_tokens: int) -> None:
    """Prompts and the cut in tokens, where sentence-transformers keeps them."""
    content = {"prompts": prompts, "default_prompt_name": default, "similarity_fn_name": "cosine"}
    write_json(folder / "config_sentence_transformers.json", content | {"truncate_dim": None})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": max_tokens, "do_lower_case": False})

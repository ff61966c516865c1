"""Static models: a table without a graph, a graph that takes flat ids and offsets, and model2vec's shared rows."""

from __future__ import annotations

import json

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

import make_families as families
from texts import wordpiece


def bag(weights: np.ndarray) -> onnx.ModelProto:
    """The mean of table rows from `input_ids` [tokens] and `offsets` [texts], like torch's EmbeddingBag."""
    constants = {"table": weights, "zero": np.array(0, np.int64), "one": np.array(1, np.int64),
                 "least": np.array(1, np.float32), "rows": np.array([0], np.int64), "columns": np.array([1], np.int64)}
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "input_ids"], ["vectors"]),
        node("Shape", ["input_ids"], ["length"]),
        node("Squeeze", ["length", "rows"], ["count"]),
        node("Range", ["zero", "count", "one"], ["places"]),
        node("Unsqueeze", ["places", "rows"], ["place"]),
        node("Slice", ["offsets", "columns", "big", "rows"], ["later"]),
        node("Concat", ["later", "length"], ["ends"], axis=0),
        node("Unsqueeze", ["offsets", "columns"], ["start"]),
        node("Unsqueeze", ["ends", "columns"], ["end"]),
        node("GreaterOrEqual", ["place", "start"], ["after"]),
        node("Less", ["place", "end"], ["before"]),
        node("And", ["after", "before"], ["inside"]),
        node("Cast", ["inside"], ["mask"], to=TensorProto.FLOAT),
        node("MatMul", ["mask", "vectors"], ["sum"]),
        node("ReduceSum", ["mask", "columns"], ["tokens"], keepdims=1),
        node("Max", ["tokens", "least"], ["divisor"]),
        node("Div", ["sum", "divisor"], ["embeddings"]),
    ]
    constants["big"] = np.array([2**62], np.int64)
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, [size])
              for name, size in (("input_ids", "tokens"), ("offsets", "texts"))]
    output = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["texts", weights.shape[1]])
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bag", inputs, [output], initializer=stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def table() -> None:
    """static-retrieval-mrl: a table, with and without Normalize's folder, and the same as a graph. By `st`."""
    torch.manual_seed(12)
    model = SentenceTransformer(modules=[StaticEmbedding(wordpiece(), embedding_dim=families.WIDTH), Normalize()])
    folder = families.save("static", model)
    made = families.st(model, "documents", "queries")
    weights = model[0].embedding.weight.detach().numpy()
    (folder / "onnx").mkdir()
    onnx.save(bag(weights), folder / "onnx/model.onnx")
    families.cases(folder, made + [made[0] | {"open": {"graph": "model.onnx"}}])


def shared() -> None:
    """A model2vec file under StaticEmbedding: rows shared by a mapping, a weight for each token. By `st`."""
    torch.manual_seed(13)
    tokenizer = wordpiece()
    count = tokenizer.get_vocab_size()
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=families.WIDTH), Normalize()])
    folder = families.save("model2vec", model)
    [found] = folder.rglob("model.safetensors")
    assert "embedding.weight" in load_file(found)
    rng = np.random.default_rng(13)
    save_file({"embeddings": rng.normal(size=(40, families.WIDTH)).astype(np.float16),
               "mapping": rng.integers(0, 40, count), "weights": rng.uniform(0.1, 2.0, count)}, found)
    chain = [{"idx": n, "name": str(n), "path": path, "type": families.OLD + kind}
             for n, (kind, path) in enumerate([("StaticEmbedding", "."), ("Normalize", "1_Normalize")])]
    (folder / "modules.json").write_text(json.dumps(chain))
    families.cases(folder, families.st(SentenceTransformer(str(folder)), "documents"))

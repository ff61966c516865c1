"""The trained towers as a directory in the layout of exported CLIP models.

    onnx/text_model.onnx      input_ids, attention_mask -> text_embeds
    onnx/vision_model.onnx    pixel_values -> image_embeds
    tokenizer.json, preprocessor_config.json, config.json

The graphs are written out operator by operator (opset 17) rather than traced: batch normalisation is folded into the
convolutions, weights are stored in half precision and widened by a Cast that ONNX Runtime folds when it loads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from torch import nn

from batches import MAX_TOKENS, SIDE
from towers import Layer, Residual, TextTower, VisionTower

OPSET, IR_VERSION = 17, 8


class Graph:
    """Nodes and initialisers under construction; methods return the name of their result."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def weight(self, value: torch.Tensor) -> str:
        """Stored in half precision."""
        name = f"weight_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(value.detach().cpu().numpy().astype(np.float16), name))
        return self.op("Cast", name, to=TensorProto.FLOAT)

    def numbers(self, *values: int) -> str:
        name = f"numbers_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def scalar(self, value: float) -> str:
        name = f"scalar_{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(np.array(value, np.float32), name))
        return name

    def linear(self, x: str, layer: nn.Linear) -> str:
        return self.op("Add", self.op("MatMul", x, self.weight(layer.weight.T)), self.weight(layer.bias))

    def norm(self, x: str, layer: nn.LayerNorm) -> str:
        weights = self.weight(layer.weight), self.weight(layer.bias)
        return self.op("LayerNormalization", x, *weights, axis=-1, epsilon=layer.eps)

    def unit(self, x: str, output: str) -> None:
        """Unit length, as the graph's output."""
        self.nodes.append(helper.make_node("LpNormalization", [x], [output], axis=-1, p=2))

    def save(self, path: Path, inputs: list, outputs: list) -> None:
        graph = helper.make_graph(self.nodes, path.stem, inputs, outputs, initializer=self.stored)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, producer_name="matryo", opset_imports=opsets, ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save_model(model, str(path))


def convolution(graph: Graph, x: str, layers: nn.Sequential) -> str:
    """A convolution with its batch normalisation folded in, and ReLU if there is one."""
    conv, norm = layers[0], layers[1]
    gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight, bias = conv.weight * gain[:, None, None, None], norm.bias - norm.running_mean * gain
    pad = conv.padding[0]
    x = graph.op("Conv", x, graph.weight(weight), graph.weight(bias), strides=list(conv.stride), pads=[pad] * 4)
    return graph.op("Relu", x) if len(layers) > 2 else x


def export_vision(tower: VisionTower, path: Path, dims: int) -> None:
    """``vision_model.onnx``."""
    graph, x = Graph(), "pixel_values"
    for part in tower.body:
        if isinstance(part, Residual):
            inner = convolution(graph, convolution(graph, x, part.first), part.second)
            x = graph.op("Relu", graph.op("Add", x, inner))
        else:
            x = convolution(graph, x, part)
    x = graph.linear(graph.op("Flatten", x), tower.head[-1])
    graph.unit(x, "image_embeds")
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["images", 3, SIDE, SIDE])
    vectors = helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, ["images", dims])
    graph.save(path, [pixels], [vectors])


def attention(graph: Graph, x: str, layer: Layer, hidden: str) -> str:
    """Multi-head attention; ``hidden`` [texts, 1, 1, tokens] is added to the scores."""
    width = layer.out.in_features
    size = width // layer.heads
    split = graph.op("Reshape", graph.linear(x, layer.qkv), graph.numbers(0, 0, 3, layer.heads, size))
    moved = graph.op("Transpose", split, perm=[2, 0, 3, 1, 4])
    q, k, v = (graph.op("Gather", moved, graph.numbers(i), axis=0) for i in range(3))
    q, k, v = (graph.op("Squeeze", part, graph.numbers(0)) for part in (q, k, v))
    scores = graph.op("MatMul", q, graph.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = graph.op("Add", graph.op("Mul", scores, graph.scalar(size**-0.5)), hidden)
    mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)
    mixed = graph.op("Reshape", graph.op("Transpose", mixed, perm=[0, 2, 1, 3]), graph.numbers(0, 0, width))
    return graph.linear(mixed, layer.out)


def gelu(graph: Graph, x: str) -> str:
    """x (1 + erf(x / sqrt 2)) / 2."""
    erf = graph.op("Erf", graph.op("Div", x, graph.scalar(2**0.5)))
    return graph.op("Mul", graph.op("Mul", x, graph.scalar(0.5)), graph.op("Add", erf, graph.scalar(1.0)))


def export_text(tower: TextTower, path: Path, dims: int) -> None:
    """``text_model.onnx``."""
    graph = Graph()
    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = graph.op("Mul", graph.op("Sub", graph.scalar(1.0), mask), graph.scalar(-1e4))
    hidden = graph.op("Unsqueeze", hidden, graph.numbers(1, 2))
    length = graph.op("Gather", graph.op("Shape", "input_ids"), graph.numbers(1), axis=0)
    places = graph.op("Slice", graph.weight(tower.places.weight), graph.numbers(0), length, graph.numbers(0))
    x = graph.op("Add", graph.op("Gather", graph.weight(tower.tokens.weight), "input_ids"), places)
    for layer in tower.layers:
        x = graph.op("Add", x, attention(graph, graph.norm(x, layer.norm_1), layer, hidden))
        inner = gelu(graph, graph.linear(graph.norm(x, layer.norm_2), layer.up))
        x = graph.op("Add", x, graph.linear(inner, layer.down))
    column = graph.op("Unsqueeze", mask, graph.numbers(2))
    total = graph.op("ReduceSum", graph.op("Mul", graph.norm(x, tower.norm), column), graph.numbers(1), keepdims=0)
    count = graph.op("Max", graph.op("ReduceSum", mask, graph.numbers(1), keepdims=1), graph.scalar(1.0))
    graph.unit(graph.linear(graph.op("Div", total, count), tower.head), "text_embeds")
    whole = [helper.make_tensor_value_info(n, TensorProto.INT64, ["texts", "tokens"]) for n in ("input_ids", "attention_mask")]
    graph.save(path, whole, [helper.make_tensor_value_info("text_embeds", TensorProto.FLOAT, ["texts", dims])])


def write_json(path: Path, content: object) -> None:
    """Indented JSON, ASCII, with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")


def export(folder: Path, towers: nn.Module, tokenizer: Tokenizer, dims: Sequence[int]) -> None:
    """The whole directory."""
    export_vision(towers.vision, folder / "onnx" / "vision_model.onnx", dims[-1])
    export_text(towers.text, folder / "onnx" / "text_model.onnx", dims[-1])
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    write_json(folder / "preprocessor_config.json", {
        "image_processor_type": "SiglipImageProcessor", "do_convert_rgb": True, "do_resize": True,
        "size": {"height": SIDE, "width": SIDE}, "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    })
    write_json(folder / "config.json", {
        "model_type": "matryo-image-text", "projection_dim": dims[-1], "matryoshka_dims": list(dims),
        "vocab_size": tokenizer.get_vocab_size(), "max_position_embeddings": MAX_TOKENS, "pad_token_id": 0,
        "license": "Apache-2.0",
    })

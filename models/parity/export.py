"""From torch modules to ONNX graphs with the inputs and outputs that published models have."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch
from transformers.cache_utils import DynamicCache

TOKENS = {0: "batch", 1: "tokens"}


def write(module, arguments: tuple, path: Path, inputs: list, outputs: list, axes: dict, external: bool = False) -> None:
    """Export `module`; with `external`, weights go to a file beside the graph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, arguments, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes,
                          opset_version=18, dynamo=False)
    graph = onnx.load(path)
    onnx.checker.check_model(graph)
    if external:
        onnx.save_model(graph, path, save_as_external_data=True, location=path.name + "_data", size_threshold=64)


def example(vocabulary: int, texts: int = 2, tokens: int = 7):
    """Ids and a right-padded mask to trace with."""
    ids = torch.randint(5, vocabulary, (texts, tokens))
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    return ids, mask


class Encoder(torch.nn.Module):
    """Ids and mask in, a vector per token out; types too for BERT."""

    def __init__(self, model, types: bool = False, **extra):
        super().__init__()
        self.model, self.types, self.extra = model, types, extra

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        more = {"token_type_ids": token_type_ids} if self.types else {}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **more, **self.extra).last_hidden_state


def encoder(model, path: Path, types: bool = False, external: bool = False, **extra) -> None:
    ids, mask = example(model.config.vocab_size)
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * types
    arguments = (ids, mask) + (torch.zeros_like(ids),) * types
    axes = {name: TOKENS for name in [*names, "last_hidden_state"]}
    write(Encoder(model, types, **extra), arguments, path, names, ["last_hidden_state"], axes, external)


class BothWays(torch.nn.Module):
    """Gemma 3 with attention both ways, its masks made here: torch cannot trace the way its own code makes them."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, input_ids, attention_mask, **_):
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        near = (places[:, None] - places[None, :]).abs() < self.config.sliding_window
        real = attention_mask[:, None, None, :].bool()
        least = torch.finfo(torch.float32).min
        masks = {"full_attention": real & torch.ones_like(near), "sliding_attention": real & near}
        masks = {kind: torch.where(mask, 0.0, least) for kind, mask in masks.items()}
        return self.model(input_ids=input_ids, attention_mask=masks, use_cache=False)


class Whole(torch.nn.Module):
    """The transformer and every module after it: token vectors and the finished vector."""

    def __init__(self, model, after):
        super().__init__()
        self.model, self.after = model, torch.nn.ModuleList(after)

    def forward(self, input_ids, attention_mask):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        features = {"token_embeddings": hidden, "attention_mask": attention_mask}
        for module in self.after:
            features = module(features)
        return hidden, features["sentence_embedding"]


def whole(model, after, path: Path) -> None:
    names, outputs = ["input_ids", "attention_mask"], ["last_hidden_state", "sentence_embedding"]
    axes = {name: TOKENS for name in [*names, outputs[0]]} | {outputs[1]: {0: "batch"}}
    write(Whole(model, after), example(model.config.vocab_size), path, names, outputs, axes)


class Decoder(torch.nn.Module):
    """A decoder as exported for generating text: takes and gives keys and values."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, *past):
        cache = DynamicCache(ddp_cache_data=list(zip(past[::2], past[1::2])))
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
                         past_key_values=cache, use_cache=True)
        present = [kept for layer in out.past_key_values.layers for kept in (layer.keys, layer.values)]
        return out.last_hidden_state, *present


def decoder(model, path: Path) -> None:
    config = model.config
    texts, tokens, earlier = 2, 5, 3
    ids, _ = example(config.vocab_size, texts, tokens)
    mask = torch.ones(texts, earlier + tokens, dtype=torch.int64)
    positions = torch.arange(earlier, earlier + tokens).repeat(texts, 1)
    shape = (texts, config.num_key_value_heads, earlier, config.head_dim)
    past = [torch.randn(shape) for _ in range(2 * config.num_hidden_layers)]
    parts = [(layer, part) for layer in range(config.num_hidden_layers) for part in ("key", "value")]
    names = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{n}.{p}" for n, p in parts)]
    outputs = ["last_hidden_state", *(f"present.{n}.{p}" for n, p in parts)]
    axes = {name: TOKENS for name in ("input_ids", "position_ids", "last_hidden_state")}
    axes["attention_mask"] = {0: "batch", 1: "all_tokens"}
    axes |= {name: {0: "batch", 2: "past_tokens"} for name in names[3:]}
    axes |= {name: {0: "batch", 2: "all_tokens"} for name in outputs[1:]}
    write(Decoder(model), (ids, mask, positions, *past), path, names, outputs, axes)

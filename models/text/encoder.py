"""A text to its vector with Python and ONNX Runtime, from an exported directory alone.

The steps, for a directory of either kind (this is the reference for every other implementation):

1. Prompt: the chosen entry of ``prompts`` in ``config_sentence_transformers.json`` is put before the text, nothing
   between them. Without a choice it is the entry named by ``default_prompt_name``, and none where that is null.
2. Tokens: ``tokenizer.json``; its post-processor adds special tokens unless ``config.json`` says
   ``"add_special_tokens": false``.
3. Cut: at most ``max_seq_length`` tokens (``sentence_bert_config.json``), the special tokens counted among them: the
   text loses its last tokens, never the special ones. (The tokenizers library's own truncation, on the right.)
4. Padding: on the right with id ``pad_token_id`` and mask 0 up to the longest text of the batch, and to at least one
   token, so that a text without tokens is one padding token. Padding never changes a vector beyond rounding.
5. Graph: ``onnx/model.onnx`` with ``input_ids`` and ``attention_mask``, int64 [batch, tokens].
   - ``sentence_embedding`` [batch, width] is the final vector: pooling and normalising have happened.
   - ``last_hidden_state`` [batch, tokens, width] is followed by the modules of ``modules.json``: mean pooling is the
     sum of the vectors whose mask is 1 divided by their number (at least 1), prompt and special tokens included;
     Normalize divides by the Euclidean length (at least 1e-12).
6. A text without a single token has the zero vector.
7. A prefix is the first d values; divide by its own length before comparing, it is shorter than 1.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Encoder:
    """An exported directory, opened."""

    def __init__(self, folder: Path, threads: int = 2) -> None:
        self.prompts: dict[str, str] = read_json(folder / "config_sentence_transformers.json")["prompts"]
        self.default: str | None = read_json(folder / "config_sentence_transformers.json")["default_prompt_name"]
        config = read_json(folder / "config.json")
        self.special = config["add_special_tokens"]
        self.pad = config["pad_token_id"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(read_json(folder / "sentence_bert_config.json")["max_seq_length"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(threads, os.cpu_count() or 1)
        path = str(folder / "onnx" / "model.onnx")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.output = self.session.get_outputs()[0].name

    def prompt(self, name: str | None) -> str:
        """The prompt for a name, or the default one (step 1)."""
        chosen = name if name is not None else self.default
        return "" if chosen is None else self.prompts[chosen]

    def inputs(self, texts: list[str], prompt: str | None = None) -> dict[str, np.ndarray]:
        """Padded token ids and their mask (steps 1 to 4)."""
        prefix = self.prompt(prompt)
        encodings = self.tokenizer.encode_batch([prefix + t for t in texts], add_special_tokens=self.special)
        width = max(1, *(len(e.ids) for e in encodings)) if encodings else 1
        ids = np.full((len(texts), width), self.pad, np.int64)
        mask = np.zeros((len(texts), width), np.int64)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        return {"input_ids": ids, "attention_mask": mask}

    def encode(self, texts: list[str], prompt: str | None = None, batch: int = 64) -> np.ndarray:
        """Vectors of texts (all steps), float32 [texts, width]."""
        # Texts of like length share a batch: less padding. The order is restored at the end.
        order = np.argsort([len(text) for text in texts], kind="stable")
        parts = [self.run([texts[i] for i in order[at : at + batch]], prompt) for at in range(0, len(texts), batch)]
        vectors = np.concatenate(parts)
        result = np.empty_like(vectors)
        result[order] = vectors
        return result

    def run(self, texts: list[str], prompt: str | None) -> np.ndarray:
        """One batch through the graph and the modules behind it (step 5)."""
        inputs = self.inputs(texts, prompt)
        output = self.session.run([self.output], inputs)[0]
        if self.output == "sentence_embedding":
            return output
        mask = inputs["attention_mask"][:, :, None].astype(np.float32)
        mean = (output * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1.0)
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12)


def read_json(path: Path) -> dict:
    """One JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))

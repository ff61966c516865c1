"""The Python sides of benches/embed, which starts this: bench_peer.py MODEL TEXTS.json THREADS

Writes the number of tokens, then answers each line `SIDE [FILE]` on standard input with `done` when all texts have been
embedded once: `ort` is the usual way with onnxruntime (sorted by length, batches of 32, padded, mean in numpy), `fill`
the same with batches of as many padded tokens as matryo's, `st` sentence-transformers on torch with its own sorting and
batches of 32. `image` embeds the pictures: the model's image processor, onnxruntime in batches of 8, the first token.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoImageProcessor

BATCH, FILL, IMAGES = 32, 1024, 8


def main(model: str, texts: str, threads: int) -> None:
    texts = json.load(open(texts))
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    start = lambda path: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])  # noqa: E731
    session, eye = start(f"{model}/onnx/model.onnx"), start(f"{model}/image/model.onnx")
    torch.set_num_threads(threads)
    whole = SentenceTransformer(model, device="cpu")
    processor = AutoImageProcessor.from_pretrained(f"{model}/image")
    pictures = sorted(Path(model, "image", "pictures").iterdir())

    def pooled(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = session.run(["last_hidden_state"], feed)[0]
        weight = mask[:, :, None].astype(np.float32)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def ort() -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        found = [None] * len(texts)
        for first in range(0, len(order), BATCH):
            part = order[first:first + BATCH]
            encoded = tokenizer.encode_batch([texts[at] for at in part])
            vectors = pooled(np.array([e.ids for e in encoded]), np.array([e.attention_mask for e in encoded]))
            for at, vector in zip(part, vectors):
                found[at] = vector
        return np.array(found, np.float32)

    def fill() -> np.ndarray:
        tokenizer.no_padding()
        rows = [np.array(e.ids) for e in tokenizer.encode_batch(texts)]
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))
        batches = [[]]
        for at in sorted(range(len(rows)), key=lambda at: len(rows[at])):
            if batches[-1] and (len(batches[-1]) + 1) * len(rows[at]) > FILL:
                batches.append([])
            batches[-1].append(at)
        found = [None] * len(rows)
        for part in batches:
            ids, mask = np.zeros((2, len(part), max(len(rows[at]) for at in part)), np.int64)
            for row, at in enumerate(part):
                ids[row, : len(rows[at])], mask[row, : len(rows[at])] = rows[at], 1
            for at, vector in zip(part, pooled(ids, mask)):
                found[at] = vector
        return np.array(found, np.float32)

    def st() -> np.ndarray:
        return whole.encode(texts, batch_size=BATCH, show_progress_bar=False)

    def image() -> np.ndarray:
        found = []
        for first in range(0, len(pictures), IMAGES):
            opened = [Image.open(path).convert("RGB") for path in pictures[first:first + IMAGES]]
            pixels = processor(opened, return_tensors="np")["pixel_values"]
            found.append(eye.run(["last_hidden_state"], {"pixel_values": pixels})[0][:, 0])
        return np.concatenate(found)

    print(sum(sum(e.attention_mask) for e in tokenizer.encode_batch(texts)), flush=True)
    for line in sys.stdin:
        side, _, path = line.strip().partition(" ")
        vectors = {"ort": ort, "fill": fill, "st": st, "image": image}[side]()
        if path:
            vectors.astype("<f4").tofile(path)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""The Python sides of benches/embed, which starts this: bench_peer.py MODEL TEXTS.json THREADS

Writes the number of tokens, then answers each line `SIDE [FILE]` on standard input with `done` when all texts have been
embedded once: `ort` is the usual way with onnxruntime (sorted by length, batches of 32, padded, mean in numpy), `st` is
sentence-transformers on torch with its own sorting and batches of 32.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import onnxruntime
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

BATCH = 32


def main(model: str, texts: str, threads: int) -> None:
    texts = json.load(open(texts))
    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(f"{model}/onnx/model.onnx", options, providers=["CPUExecutionProvider"])
    torch.set_num_threads(threads)
    whole = SentenceTransformer(model, device="cpu")

    def ort() -> np.ndarray:
        order = sorted(range(len(texts)), key=lambda at: -len(texts[at]))
        found = [None] * len(texts)
        for start in range(0, len(order), BATCH):
            part = order[start:start + BATCH]
            encoded = tokenizer.encode_batch([texts[at] for at in part])
            ids = np.array([e.ids for e in encoded], np.int64)
            mask = np.array([e.attention_mask for e in encoded], np.int64)
            feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
            hidden = session.run(["last_hidden_state"], feed)[0]
            weight = mask[:, :, None].astype(np.float32)
            mean = (hidden * weight).sum(1) / weight.sum(1)
            mean /= np.linalg.norm(mean, axis=1, keepdims=True)
            for at, vector in zip(part, mean):
                found[at] = vector
        return np.array(found, np.float32)

    def st() -> np.ndarray:
        return whole.encode(texts, batch_size=BATCH, show_progress_bar=False)

    print(sum(sum(e.attention_mask) for e in tokenizer.encode_batch(texts)), flush=True)
    for line in sys.stdin:
        side, _, path = line.strip().partition(" ")
        vectors = {"ort": ort, "st": st}[side]()
        if path:
            vectors.astype("<f4").tofile(path)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""The exported directory in Python: pictures and texts to vectors, step by step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from tokenizers import Tokenizer


class Encoder:
    """Both towers, run by ONNX Runtime."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        load = lambda name: onnxruntime.InferenceSession(str(folder / "onnx" / name), options)  # noqa: E731
        self.vision, self.text = load("vision_model.onnx"), load("text_model.onnx")
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.config = json.loads((folder / "preprocessor_config.json").read_text())
        self.max_tokens = json.loads((folder / "config.json").read_text())["max_position_embeddings"]

    def pixel_values(self, image: Image.Image) -> np.ndarray:
        """As ``preprocessor_config.json`` says: [3, height, width]."""
        size = self.config["size"]
        image = image.convert("RGB").resize((size["width"], size["height"]), self.config["resample"])
        values = np.asarray(image, np.float32) * self.config["rescale_factor"]
        values = (values - self.config["image_mean"]) / self.config["image_std"]
        return values.transpose(2, 0, 1).astype(np.float32)

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors, [images, dims]."""
        batches = [images[at : at + 64] for at in range(0, len(images), 64)]
        run = lambda batch: self.vision.run(["image_embeds"], {"pixel_values": np.stack([self.pixel_values(i) for i in batch])})[0]  # noqa: E731
        return np.concatenate([run(batch) for batch in batches])

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, [texts, dims]."""
        found = []
        for at in range(0, len(texts), 256):
            ids = [e.ids[: self.max_tokens] for e in self.tokenizer.encode_batch(list(texts[at : at + 256]))]
            width = max(1, max(map(len, ids)))
            table, mask = np.zeros((len(ids), width), np.int64), np.zeros((len(ids), width), np.int64)
            for row, each in enumerate(ids):
                table[row, : len(each)], mask[row, : len(each)] = each, 1
            found.append(self.text.run(["text_embeds"], {"input_ids": table, "attention_mask": mask})[0])
        return np.concatenate(found)

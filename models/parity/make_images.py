"""Tiny image models in the layouts people publish, and what Python makes of some pictures with them.

    pip install -r models/parity/requirements.txt
    python models/parity/make_images.py

rewrites tests/fixtures/images: pictures/, hostile/, one directory per model, and in each the processor's output for every
picture (pixels.f16, [pictures, 3, height, width]) and the vectors (expected.json). Weights are random: the vectors
mean nothing, they only have to be the same.
"""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image, ImageOps
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

ROOT = Path(__file__).resolve().parents[2] / "tests" / "fixtures" / "images"
RNG = np.random.default_rng(11)
EDGE = 32
WORDS = "a an the red green blue apple cat dog two three circles left of square picture".split()
TEXTS = ["a red apple", "cat", "two circles left of the square", "dog " * 30, "", "zebra"]


def scene(width: int, height: int) -> Image.Image:
    """Smooth colours, edges and noise: a wrong filter, crop or rounding shows."""
    y, x = np.mgrid[0:height, 0:width]
    base = np.stack([x * 255 / width, y * 255 / height, 128 + 100 * np.sin(x / 5) * np.cos(y / 7)], -1)
    base[height // 4 : height // 2, width // 3 : width // 2] = (250, 20, 20)
    base[(x - width * 0.7) ** 2 + (y - height * 0.6) ** 2 < (min(width, height) / 5) ** 2] = (20, 30, 240)
    return Image.fromarray(np.clip(base + RNG.normal(0, 8, base.shape), 0, 255).astype(np.uint8))


def write_pictures(folder: Path) -> list[str]:
    """One picture of each kind a user has."""
    folder.mkdir(parents=True)
    wide, tall = scene(97, 61), scene(45, 80)
    wide.save(folder / "wide.png")
    tall.save(folder / "tall.jpg", quality=90, subsampling=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide.save(folder / "turned.jpg", quality=90, subsampling=0, exif=exif)
    exif[0x0112] = 5
    tall.save(folder / "mirrored.webp", lossless=True, exif=exif)
    faded = tall.convert("RGBA")
    faded.putalpha(Image.fromarray(np.linspace(0, 255, 80 * 45).reshape(80, 45).astype(np.uint8)))
    faded.save(folder / "alpha.png")
    wide.convert("L").save(folder / "grey.png")
    wide.quantize(32).save(folder / "palette.png")
    wide.quantize(64).save(folder / "still.gif")
    tall.convert("CMYK").save(folder / "cmyk.jpg", quality=90)
    scene(300, 40).save(folder / "strip.webp", lossless=True)
    tall.resize((9, 16)).save(folder / "small.png")
    tall.save(folder / "really-a-png.jpg", format="PNG")
    # As cameras write them: colours at half the resolution.
    scene(320, 240).save(folder / "photo.jpg", quality=85, subsampling="4:2:0")
    return sorted(p.name for p in folder.iterdir())


def write_hostile(folder: Path) -> None:
    """Files that are unusual rather than wrong; the tests make the wrong ones from these."""
    folder.mkdir(parents=True)
    first, second = Image.new("RGB", (20, 10), (200, 30, 30)), Image.new("RGB", (20, 10), (30, 30, 200))
    first.save(folder / "animated.gif", save_all=True, append_images=[second], duration=50)
    first.save(folder / "animated.webp", save_all=True, append_images=[second], duration=50, lossless=True)
    Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)).save(folder / "sixteen.png")
    Image.new("RGB", (1, 1), (10, 20, 30)).save(folder / "one.png")
    scene(40, 30).save(folder / "progressive.jpg", progressive=True)


def read(path: Path) -> Image.Image:
    """As transformers reads a picture."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(path.read_bytes()))).convert("RGB")


def word_tokenizer(eos: int, start: bool, special: list[str]) -> Tokenizer:
    """Whole words; ``special`` are the first ids."""
    vocab = {word: at for at, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=special[0]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    end = special[eos]
    tokens = [(special[1], 1), (end, eos)] if start else [(end, eos)]
    single = f"{special[1]} $A {end}" if start else f"$A {end}"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer, limit: int, pad: str) -> None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"model_max_length": limit, "pad_token": pad, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def encode(tokenizer: Tokenizer, limit: int, pad: int, fixed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of TEXTS, cut and padded."""
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding(pad_id=pad, length=limit if fixed else None)
    encodings = tokenizer.encode_batch(TEXTS)
    tokenizer.no_truncation(), tokenizer.no_padding()
    return torch.tensor([e.ids for e in encodings]), torch.tensor([e.attention_mask for e in encodings])


class Pick(torch.nn.Module):
    """Gives some outputs of a model, by name, for export."""

    def __init__(self, run, names: list[str], module: torch.nn.Module) -> None:
        super().__init__()
        self.run, self.names, self.module = run, names, module

    def forward(self, *inputs):
        found = self.run(self.module, *inputs)
        return tuple(found[name] for name in self.names)


def export(path: Path, module, run, inputs: dict, names: list[str], axes: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picked = Pick(run, names, module).eval()
    torch.onnx.export(picked, tuple(inputs.values()), str(path), input_names=list(inputs), output_names=names,
                      dynamic_axes=axes, opset_version=17, dynamo=False)


def vision_axes(names: list[str]) -> dict:
    return {"pixel_values": {0: "images"}} | {name: {0: "images"} for name in names}


def finish(folder: Path, processor, config, vectors, pictures: list[str], **more) -> None:
    """Processor, configuration, the processor's output and the vectors."""
    processor.save_pretrained(folder)
    config.save_pretrained(folder)
    images = [read(ROOT / "pictures" / name) for name in pictures]
    pixels = torch.cat([processor(image, return_tensors="pt")["pixel_values"] for image in images])
    (folder / "pixels.f16").write_bytes(pixels.numpy().astype("<f2").tobytes())
    with torch.no_grad():
        rows = vectors(pixels).flatten(1).tolist()
    expected = {"pictures": pictures, "shape": list(pixels.shape), "std": list(processor.image_std), "images": rows, **more}
    rounded = json.loads(json.dumps(expected), parse_float=lambda x: round(float(x), 6))
    (folder / "expected.json").write_text(json.dumps(rounded) + "\n")
    print(folder.name, tuple(pixels.shape), len(rows[0]))


def fresh(name: str) -> Path:
    torch.manual_seed(5)
    folder = ROOT / name
    folder.mkdir(parents=True)
    return folder


SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**SMALL, "image_size": EDGE, "patch_size": 8}


def make_clip(pictures: list[str]) -> None:
    """Two graphs in one directory, and one graph with both towers in another."""
    special = ["<unk>", "<|startoftext|>", "<|endoftext|>"]
    text = {**SMALL, "vocab_size": len(special) + len(WORDS), "max_position_embeddings": 12, "bos_token_id": 1,
            "eos_token_id": 2, "pad_token_id": 2}
    folder, joint = fresh("clip"), fresh("clip_joint")
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
    config._attn_implementation = "eager"
    model = transformers.CLIPModel(config).eval()
    # With eos_token_id 2, CLIP's old default, the vector is taken at the largest id.
    tokenizer = word_tokenizer(2, True, special)
    ids, mask = encode(tokenizer, 12, 2, False)
    pixels = torch.randn(2, 3, EDGE, EDGE)
    texts = lambda m, i, a: {"text_embeds": m.text_projection(m.text_model(input_ids=i, attention_mask=a).pooler_output)}  # noqa: E731
    images = lambda m, p: {"image_embeds": m.visual_projection(m.vision_model(pixel_values=p).pooler_output)}  # noqa: E731
    token_axes = {n: {0: "texts", 1: "tokens"} for n in ("input_ids", "attention_mask")}
    export(folder / "onnx" / "text_model.onnx", model, texts, {"input_ids": ids[:2], "attention_mask": mask[:2]},
           ["text_embeds"], {**token_axes, "text_embeds": {0: "texts"}})
    export(folder / "onnx" / "vision_model.onnx", model, images, {"pixel_values": pixels}, ["image_embeds"],
           vision_axes(["image_embeds"]))
    both = lambda m, i, p, a: m(input_ids=i, pixel_values=p, attention_mask=a)  # noqa: E731
    names = ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    axes = {**token_axes, **vision_axes(["image_embeds"]), "text_embeds": {0: "texts"},
            "logits_per_image": {0: "images", 1: "texts"}, "logits_per_text": {0: "texts", 1: "images"}}
    export(joint / "onnx" / "model.onnx", model, both,
           {"input_ids": ids[:3], "pixel_values": pixels, "attention_mask": mask[:3]}, names, axes)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": EDGE}, crop_size={"height": EDGE, "width": EDGE})
    with torch.no_grad():
        text_vectors = texts(model, ids, mask)["text_embeds"].tolist()
    for each in (folder, joint):
        save_tokenizer(each, tokenizer, 12, "<|endoftext|>")
        finish(each, processor, config, lambda p: images(model, p)["image_embeds"], pictures, texts=TEXTS, text_vectors=text_vectors)


def make_siglip(pictures: list[str]) -> None:
    """No mask: every text is padded to the limit, and the pooled outputs are the vectors."""
    special = ["<unk>", "</s>"]
    text = {**SMALL, "vocab_size": len(special) + len(WORDS), "max_position_embeddings": 10, "pad_token_id": 1,
            "bos_token_id": 0, "eos_token_id": 1, "projection_size": 16}
    folder = fresh("siglip")
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    config._attn_implementation = "eager"
    model = transformers.SiglipModel(config).eval()
    tokenizer = word_tokenizer(1, False, special)
    ids, _ = encode(tokenizer, 10, 1, True)
    texts = lambda m, i: m.text_model(input_ids=i)  # noqa: E731
    images = lambda m, p: m.vision_model(pixel_values=p)  # noqa: E731
    names = ["last_hidden_state", "pooler_output"]
    export(folder / "onnx" / "text_model.onnx", model, texts, {"input_ids": ids[:2]}, names,
           {n: {0: "texts"} for n in ("input_ids", *names)} | {"input_ids": {0: "texts", 1: "tokens"}})
    export(folder / "onnx" / "vision_model.onnx", model, images, {"pixel_values": torch.randn(2, 3, EDGE, EDGE)},
           names, vision_axes(names))
    save_tokenizer(folder, tokenizer, 10, "</s>")
    processor = transformers.SiglipImageProcessor(size={"height": EDGE, "width": EDGE})
    with torch.no_grad():
        text_vectors = texts(model, ids).pooler_output.tolist()
    finish(folder, processor, config, lambda p: images(model, p).pooler_output, pictures, texts=TEXTS, text_vectors=text_vectors)


def make_single(name: str, model, processor, names: list[str], vectors, pictures: list[str]) -> None:
    """A model of images alone: one graph at the root of the directory."""
    folder = fresh(name)
    model = model.eval()
    run = lambda m, p: m(pixel_values=p)  # noqa: E731
    export(folder / "model.onnx", model, run, {"pixel_values": torch.randn(2, 3, EDGE, EDGE)}, names, vision_axes(names))
    finish(folder, processor, model.config, lambda p: vectors(model(pixel_values=p)), pictures)


def main() -> None:
    shutil.rmtree(ROOT, ignore_errors=True)
    pictures = write_pictures(ROOT / "pictures")
    write_hostile(ROOT / "hostile")
    make_clip(pictures)
    make_siglip(pictures)
    t = transformers
    vit = t.ViTModel(t.ViTConfig(**VISION, attn_implementation="eager"), add_pooling_layer=True)
    make_single("vit", vit, t.ViTImageProcessor(size={"height": EDGE, "width": EDGE}),
                ["last_hidden_state", "pooler_output"], lambda o: o.last_hidden_state[:, 0], pictures)
    convnext = t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2, patch_size=4))
    make_single("convnext", convnext, t.ConvNextImageProcessor(size={"shortest_edge": EDGE}, crop_pct=0.8, resample=3),
                ["last_hidden_state", "pooler_output"], lambda o: o.pooler_output, pictures)
    resnet = t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    make_single("resnet", resnet, t.ConvNextImageProcessor(size={"shortest_edge": EDGE}, crop_pct=0.875, resample=2),
                ["last_hidden_state", "pooler_output"], lambda o: o.pooler_output, pictures)


if __name__ == "__main__":
    main()

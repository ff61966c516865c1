"""Models of 6 layers x 384 with random weights, for benches/embed. Usage: bench_model.py DIR

DIR is a BERT-like text model, DIR/image a ViT of 224 x 224 pixels, and DIR/image/pictures has JPEG files of 640 x 480
for it, as a camera's smallest are. The tokenizer is that of models/text/matryo-text-en (20 000 pieces), with [CLS] and [SEP] put in place of two of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import transformers as tf
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, processors

import export
import make_families as families
import make_images as images

PICTURES = 48
OWN = Path(__file__).resolve().parents[1] / "text" / "matryo-text-en" / "tokenizer.json"


def vision(folder: Path) -> None:
    """The image model and its pictures."""
    config = tf.ViTConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=6, intermediate_size=1536,
                          attn_implementation="eager")
    model = tf.ViTModel(config, add_pooling_layer=False).eval()
    names = ["last_hidden_state"]
    images.export(folder / "model.onnx", model, lambda m, p: m(pixel_values=p),
                  {"pixel_values": torch.randn(2, 3, 224, 224)}, names, images.vision_axes(names))
    config.save_pretrained(folder)
    tf.ViTImageProcessor().save_pretrained(folder)
    (folder / "pictures").mkdir(exist_ok=True)
    for at in range(PICTURES):
        images.scene(640, 480).save(folder / "pictures" / f"{at:02}.jpg", quality=90)


def main(folder: Path) -> None:
    torch.manual_seed(0)
    made = Tokenizer.from_file(str(OWN))
    made.add_special_tokens(["[CLS]", "[SEP]"])
    ids = [(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
                                                        special_tokens=ids)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    config = tf.BertConfig(vocab_size=made.get_vocab_size(), hidden_size=384, num_hidden_layers=6,
                           num_attention_heads=12, intermediate_size=1536, attn_implementation="eager")
    first = families.transformer(tf.BertModel(config, add_pooling_layer=False), families.fast(made, 256, **names))
    model = SentenceTransformer(modules=[first, Pooling(384, "mean"), Normalize()])
    model.save(str(folder), create_model_card=False)
    export.encoder(first.auto_model, folder / "onnx/model.onnx", types=True)
    vision(folder / "image")
    print(json.dumps({"parameters": sum(p.numel() for p in first.auto_model.parameters())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

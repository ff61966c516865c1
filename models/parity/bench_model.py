"""A BERT-like model of 6 layers x 384 with random weights, for benches/embed. Usage: bench_model.py DIR

The tokenizer is that of models/text/matryo-text-en (20 000 pieces), with [CLS] and [SEP] put in place of two of them.
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

OWN = Path(__file__).resolve().parents[1] / "text" / "matryo-text-en" / "tokenizer.json"


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
    print(json.dumps({"parameters": sum(p.numel() for p in first.auto_model.parameters())}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

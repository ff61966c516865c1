"""A tiny second model for tests: token vectors, mean pooling, normalising, special tokens and prompts.

Its vectors mean nothing (the table is random). It exists so that another implementation's module chain can be
compared with ``encoder.py`` step by step.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, processors, trainers

from export import export_pooling
from wordpiece import PAD, UNK, new_tokenizer

VOCAB, WIDTH, MAX_TOKENS = 500, 32, 32


def tiny_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A small vocabulary, with [CLS] and [SEP] around every text."""
    tokenizer = new_tokenizer()
    special = [PAD, UNK, "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB, limit_alphabet=60, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def export_tiny(folder: Path, texts: Iterable[str], seed: int = 1) -> None:
    """Write the directory."""
    tokenizer = tiny_tokenizer(texts)
    shape = (tokenizer.get_vocab_size(), WIDTH)
    table = np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)
    export_pooling(folder, tokenizer, table, MAX_TOKENS)

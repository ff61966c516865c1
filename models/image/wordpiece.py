"""The tokenizer: WordPiece over the words of the training captions."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import phrases
import scenes
from emoji import Concept

ENDINGS = ("s", "es", "ed", "ing", "er", "y", "ly", "less", "ful", "man", "ball")
"""Kept as pieces, so that an unknown form of a known word keeps the word."""


def training_texts(concepts: Sequence[Concept], seed: int) -> list[str]:
    """Names, keywords that are not held out, templates and sample captions of scenes."""
    rng = random.Random(seed)
    texts = [text.format("thing") for text in phrases.TEMPLATES]
    for concept in concepts:
        texts += [concept.name] * 3 + sorted(w for w in concept.words if not phrases.is_held_out(concept, w))
    texts += [scenes.caption(scenes.draw_scene(rng), rng)[0] for _ in range(3000)]
    return texts + list(phrases.NAMED) * 20


def train(texts: Sequence[str], vocab: int) -> Tokenizer:
    """Lower-cased WordPiece of the most frequent words and of all letters; id 0 pads, id 1 is the unknown piece.

    The vocabulary is counted here: the trainer of ``tokenizers`` breaks ties by chance, and gives other ids each time.
    """
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["[PAD]", "[UNK]", *letters, *("##" + x for x in (*letters, *ENDINGS))]
    counts = Counter(word for text in texts for word in text.lower().split())
    words = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if len(word) > 1]
    # Some endings are letters, and some words are too.
    pieces = list(dict.fromkeys([*pieces, *words]))[:vocab]
    tokenizer = Tokenizer(models.WordPiece({p: at for at, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer

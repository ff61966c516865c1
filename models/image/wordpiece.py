"""The tokenizer: WordPiece over the words of the training captions."""

from __future__ import annotations

import random
from collections.abc import Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

import phrases
import scenes
from emoji import Concept


def training_texts(concepts: Sequence[Concept], seed: int) -> list[str]:
    """Names, keywords that are not held out, templates and sample captions of scenes."""
    rng = random.Random(seed)
    texts = [text.format("thing") for text in phrases.TEMPLATES]
    for concept in concepts:
        texts += [concept.name] * 3 + sorted(w for w in concept.words if not phrases.is_held_out(concept, w))
    texts += [scenes.caption(scenes.draw_scene(rng), rng)[0] for _ in range(3000)]
    # Sorted words: the trainer's result must not depend on the order of a set.
    return texts + list(phrases.NAMED) * 20


def train(texts: Sequence[str], vocab: int) -> Tokenizer:
    """Lower-cased WordPiece without special tokens in the text; id 0 pads, id 1 is the unknown piece."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=vocab, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer

"""Training batches: drawings and scenes with captions, made in a second process while the first one trains."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.utils.data import IterableDataset

import phrases
import scenes
from emoji import TRAIN_SETS, Concept

SIDE = scenes.SIZE
MAX_TOKENS = 24


@dataclass
class Drawing:
    """One drawing of the training sets."""

    label: int
    """Index of its concept."""
    pixels: np.ndarray
    colour: str | None
    facts: frozenset[str]


def training_drawings(concepts: Sequence[Concept]) -> list[list[Drawing]]:
    """The drawings of each concept that has any outside the test set."""
    found = []
    for label, concept in enumerate(concepts):
        mine = []
        for source in TRAIN_SETS:
            if source in concept.drawings:
                pixels = concept.drawings[source]
                colour = phrases.main_colour(pixels)
                mine.append(Drawing(label, pixels, colour, phrases.facts(concept, colour)))
        if mine:
            found.append(mine)
    return found


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Padded ids and mask, int64 [texts, longest]."""
    ids = [encoding.ids[:MAX_TOKENS] for encoding in tokenizer.encode_batch(list(texts))]
    width = max(1, max(map(len, ids)))
    table, mask = torch.zeros(len(ids), width, dtype=torch.int64), torch.zeros(len(ids), width, dtype=torch.int64)
    for row, each in enumerate(ids):
        table[row, : len(each)] = torch.tensor(each, dtype=torch.int64)
        mask[row, : len(each)] = 1
    return table, mask


def background(rng: random.Random) -> tuple[int, int, int]:
    """White most often; black, since processors that drop transparency leave it; any colour now and then."""
    draw = rng.random()
    if draw < 0.5:
        return (255, 255, 255)
    if draw < 0.7:
        return (0, 0, 0)
    return (rng.randrange(256), rng.randrange(256), rng.randrange(256))


def augment(pixels: np.ndarray, rng: random.Random) -> np.ndarray:
    """A drawing moved, scaled and turned a little on some background, [SIDE, SIDE, 3]."""
    source = Image.fromarray(pixels)
    zoom = rng.uniform(0.9, 1.5) * pixels.shape[0] / SIDE
    angle = rng.uniform(-0.2, 0.2)
    centre = pixels.shape[0] / 2
    dx, dy = rng.uniform(-5, 5), rng.uniform(-5, 5)
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    half = SIDE / 2
    affine = (cos, -sin, centre + dx - half * (cos - sin), sin, cos, centre + dy - half * (sin + cos))
    moved = source.transform((SIDE, SIDE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (SIDE, SIDE), background(rng))
    canvas.paste(moved, (0, 0), moved)
    jittered = np.asarray(canvas, dtype=np.float32) * rng.uniform(0.88, 1.1) + rng.uniform(-12, 12)
    return np.clip(jittered, 0, 255).astype(np.uint8)


class Pictures:
    """Gives scenes the drawings of their things: a random training set's, or one set's."""

    def __init__(self, concepts: Sequence[Concept], sets: Sequence[str], rng: random.Random) -> None:
        by_name = {concept.name: concept for concept in concepts}
        self.rng = rng
        self.choices = {}
        for kind, name in scenes.THINGS.items():
            drawings = by_name[name].drawings
            self.choices[kind] = [drawings[s] for s in sets if s in drawings]

    def __call__(self, kind: str) -> np.ndarray:
        return self.rng.choice(self.choices[kind])


class Batches(IterableDataset):
    """Endless batches: pixels uint8 [n, 64, 64, 3], ids, mask, fits [n, n], labels [n] (-1 for scenes).

    A batch depends on ``seed`` and its number only, so that training can go on from any ``first``.
    """

    def __init__(
        self, concepts: Sequence[Concept], tokenizer_json: str, emoji: int, scene: int, seed: int, first: int = 0
    ) -> None:
        self.concepts, self.tokenizer_json, self.emoji, self.scene = concepts, tokenizer_json, emoji, scene
        self.seed, self.first = seed, first

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        rng = random.Random()
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        drawings = training_drawings(self.concepts)
        pictures = Pictures(self.concepts, TRAIN_SETS, rng)
        for number in itertools.count(self.first):
            rng.seed(f"{self.seed}/{number}")
            pixels, texts, claims, facts, labels = [], [], [], [], []
            for choices in rng.sample(drawings, self.emoji):
                drawing = rng.choice(choices)
                text, claim = phrases.caption(self.concepts[drawing.label], drawing.colour, rng)
                pixels.append(augment(drawing.pixels, rng))
                texts.append(text), claims.append(claim), facts.append(drawing.facts), labels.append(drawing.label)
            for _ in range(self.scene):
                scene = scenes.draw_scene(rng)
                text, claim = scenes.caption(scene, rng)
                pixels.append(scenes.paint(scene, rng, pictures))
                texts.append(text), claims.append(claim), facts.append(scene.facts()), labels.append(-1)
            fits = torch.tensor([[claim <= fact for fact in facts] for claim in claims])
            yield torch.from_numpy(np.stack(pixels)), *encode(tokenizer, texts), fits, torch.tensor(labels)

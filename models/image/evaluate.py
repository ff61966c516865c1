"""Held-out measures at every prefix length.

Pictures: the drawings of ``emoji.TEST_SET``, none of which was trained on. Scenes: freshly drawn, things in the test
set's drawings, and in half of them a pair of colour and shape that training never drew.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

import phrases
import scenes
from batches import Pictures, training_drawings
from emoji import TEST_SET, Concept
from encoder import Encoder

SCENES = 1000


@dataclass
class Task:
    """Queries and candidates, with which candidates are right for which query."""

    name: str
    queries: np.ndarray
    candidates: np.ndarray
    right: np.ndarray
    """bool [queries, candidates]"""


@dataclass
class Measure:
    """Of one task at one prefix length."""

    hit_1: float
    """Share of the queries whose best candidate is right."""
    hit_10: float
    """Share with a right one among the ten best."""
    map_10: float
    """Mean average precision at 10, as Kusupati et al. 2022 define it: over min(10, right ones)."""


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def measure(task: Task, dim: int) -> Measure:
    """Exact search by cosine of the first ``dim`` values."""
    hits = []
    queries, candidates = unit(task.queries[:, :dim]), unit(task.candidates[:, :dim])
    for at in range(0, len(queries), 512):
        order = np.argsort(-(queries[at : at + 512] @ candidates.T), axis=1, kind="stable")[:, :10]
        hits.append(np.take_along_axis(task.right[at : at + 512], order, axis=1))
    found = np.concatenate(hits)
    precision = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    possible = np.minimum(task.right.sum(axis=1), 10)
    average = (precision * found).sum(axis=1) / np.maximum(possible, 1)
    return Measure(float(found[:, 0].mean()), float(found.any(axis=1).mean()), float(average.mean()))


def on_white(pixels: np.ndarray) -> Image.Image:
    """A drawing on a white page."""
    drawing = Image.fromarray(pixels)
    page = Image.new("RGB", drawing.size, (255, 255, 255))
    page.paste(drawing, (0, 0), drawing)
    return page


def scene_task(encoder: Encoder, concepts: Sequence[Concept], held_out: bool, seed: int) -> Task:
    """Captions to scenes; every scene of which a caption is true counts as right."""
    rng = random.Random(seed)
    pictures = Pictures(concepts, (TEST_SET,), random.Random(seed))
    made = [scenes.draw_scene(rng, held_out=held_out) for _ in range(SCENES)]
    said = [scenes.caption(scene, rng) for scene in made]
    images = [Image.fromarray(scenes.paint(scene, rng, pictures)) for scene in made]
    facts = [scene.facts() for scene in made]
    right = np.array([[claim <= fact for fact in facts] for _, claim in said])
    name = "scenes, pairs never drawn" if held_out else "scenes"
    return Task(name, encoder.texts([text for text, _ in said]), encoder.images(images), right)


def tasks(encoder: Encoder, concepts: Sequence[Concept]) -> tuple[list[Task], dict[str, np.ndarray]]:
    """All retrieval tasks, and the vectors for classification."""
    trained = [c for c in concepts if TEST_SET in c.drawings and len(c.drawings) > 1]
    pictures = encoder.images([on_white(c.drawings[TEST_SET]) for c in trained])
    names = encoder.texts([c.name for c in trained])
    same = np.eye(len(trained), dtype=bool)
    held = sorted({w for c in trained for w in c.words if phrases.is_held_out(c, w)})
    # Only what no other emoji was trained to answer to in exactly these words.
    pairs = [[w in c.words and phrases.is_held_out(c, w) for c in trained] for w in held]
    all_tasks = [
        Task("name to picture", names, pictures, same),
        Task("picture to name", pictures, names, same),
        Task("keyword to picture, pairs never trained", encoder.texts(held), pictures, np.array(pairs)),
        scene_task(encoder, concepts, False, 5),
        scene_task(encoder, concepts, True, 6),
    ]
    labels = {c.code: i for i, c in enumerate(trained)}
    drawings = [d for group in training_drawings(concepts) for d in group if concepts[d.label].code in labels]
    classes = {
        "train": encoder.images([on_white(d.pixels) for d in drawings]),
        "train_labels": np.array([labels[concepts[d.label].code] for d in drawings]),
        "test": pictures,
        "test_labels": np.arange(len(trained)),
    }
    return all_tasks, classes


def nearest_neighbour(data: dict[str, np.ndarray], dim: int) -> tuple[float, float]:
    """1-NN accuracy and mAP@10: a test drawing finds training drawings of its emoji."""
    right = data["test_labels"][:, None] == data["train_labels"][None]
    found = measure(Task("", data["test"], data["train"], right), dim)
    return found.hit_1, found.map_10


def linear_head(data: dict[str, np.ndarray], dim: int) -> float:
    """Accuracy of a ridge regression onto the emoji, fitted on training drawings."""
    with_bias = lambda x: np.concatenate([unit(x[:, :dim]), np.ones((len(x), 1))], axis=1)  # noqa: E731
    x, y = with_bias(data["train"]), np.eye(len(data["test"]))[data["train_labels"]]
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
    return float((np.argmax(with_bias(data["test"]) @ weights, axis=1) == data["test_labels"]).mean())

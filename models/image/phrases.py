"""What is said about an emoji: its name, its keywords, its colour; and which words are held out."""

from __future__ import annotations

import random
import zlib

import numpy as np

from emoji import Concept

TEMPLATES = ("{}", "{}", "{}", "a {}", "the {}", "a picture of a {}", "an icon of {}", "{} emoji", "a drawing of a {}", "one {}")

NAMED = {
    "red": (205, 40, 45), "orange": (245, 140, 35), "yellow": (250, 205, 70), "green": (80, 155, 70),
    "blue": (60, 130, 210), "purple": (150, 90, 190), "pink": (240, 130, 170), "brown": (140, 90, 60),
    "black": (40, 40, 45), "grey": (140, 145, 150), "white": (235, 238, 240),
}


def is_held_out(concept: Concept, word: str) -> bool:
    """A sixth of the (emoji, keyword) pairs never occur in training; words of the name always do."""
    if word in concept.name.split() or word == concept.name:
        return False
    return zlib.crc32(f"{concept.code}/{word}".encode()) % 6 == 0


def main_colour(pixels: np.ndarray) -> str | None:
    """The named colour of most of a drawing, if one has more than 45 % of it."""
    seen = pixels[1::3, 1::3].reshape(-1, 4)
    seen = seen[seen[:, 3] > 128][:, :3].astype(np.float32)
    if len(seen) == 0:
        return None
    names = list(NAMED)
    table = np.array([NAMED[name] for name in names], np.float32)
    nearest = ((seen[:, None] - table[None]) ** 2).sum(-1).argmin(1)
    shares = np.bincount(nearest, minlength=len(names)) / len(seen)
    return names[int(shares.argmax())] if shares.max() > 0.45 else None


def facts(concept: Concept, colour: str | None) -> frozenset[str]:
    """Everything captions can claim of a drawing of this emoji."""
    found = {f"name:{concept.name}"} | {f"word:{w}" for w in concept.words}
    return frozenset(found | {f"colour:{colour}"}) if colour else frozenset(found)


def caption(concept: Concept, colour: str | None, rng: random.Random) -> tuple[str, frozenset[str]]:
    """A phrase and the facts it claims."""
    draw = rng.random()
    known = sorted(w for w in concept.words if not is_held_out(concept, w))
    if draw < 0.5 or not known:
        return rng.choice(TEMPLATES).format(concept.name), frozenset({f"name:{concept.name}"})
    if draw < 0.88 or colour is None:
        chosen = rng.sample(known, min(len(known), rng.choice((1, 1, 2, 2, 3))))
        return " ".join(chosen), frozenset(f"word:{w}" for w in chosen)
    word = rng.choice(known)
    return f"{colour} {word}", frozenset({f"word:{word}", f"colour:{colour}"})

"""Rendered scenes: one or two groups of coloured shapes or emoji, with everything that is true of them.

A scene is a set of *facts*; a caption is a text with the facts it claims. A caption fits a scene when all its claims
are facts of it. Training masks other pictures that fit a caption by accident, and the evaluation counts every fitting
picture as right.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIZE = 64
SUPER = 2
"""Drawn this many times larger, then shrunk: smooth edges."""

COLOURS = {
    "red": (214, 40, 40), "orange": (245, 145, 30), "yellow": (250, 215, 50), "green": (50, 160, 70),
    "blue": (40, 95, 215), "purple": (140, 60, 175), "pink": (245, 130, 180), "brown": (130, 82, 45),
    "black": (25, 25, 28), "grey": (140, 140, 145),
}
SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
NUMBERS = {1: ("a", "one"), 2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
RELATIONS = {
    "left": ("left of", "to the left of"), "right": ("right of", "to the right of"),
    "above": ("above", "over"), "below": ("below", "under"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

THINGS = {
    "red apple": "red apple", "banana": "banana", "dog": "dog face", "cat": "cat face", "car": "automobile",
    "house": "house", "tree": "deciduous tree", "sun": "sun", "moon": "crescent moon", "flower": "tulip",
    "pizza": "pizza", "fish": "tropical fish", "bird": "bird", "bus": "bus", "airplane": "airplane",
    "football": "soccer ball", "gift": "wrapped gift", "key": "key", "hat": "top hat", "balloon": "balloon",
    "mushroom": "mushroom", "pear": "pear", "frog": "frog", "snowman": "snowman", "guitar": "guitar",
    "bicycle": "bicycle", "book": "closed book", "clock": "alarm clock", "rocket": "rocket", "butterfly": "butterfly",
}
"""What scenes call an emoji -> its name."""


PLURALS = {"cross": "crosses", "bus": "buses", "fish": "fish", "butterfly": "butterflies"}


def is_held_out(colour: str, shape: str) -> bool:
    """Ten of the eighty pairs of colour and shape are never drawn while training."""
    return (3 * list(COLOURS).index(colour) + SHAPES.index(shape)) % 8 == 5


@dataclass(frozen=True)
class Group:
    """Some equal objects: coloured shapes, or emoji (no colour)."""

    count: int
    colour: str | None
    kind: str

    def noun(self, rng: random.Random, with_colour: bool = True) -> str:
        kind = self.kind if self.count == 1 else PLURALS.get(self.kind, self.kind + "s")
        words = f"{self.colour} {kind}" if self.colour and with_colour else kind
        number = rng.choice(NUMBERS[self.count])
        return f"an {words}" if number == "a" and words[0] in "aeiou" else f"{number} {words}"

    def facts(self) -> set[str]:
        one = {self.kind, f"{self.count} {self.kind}"}
        if self.colour:
            one |= {self.colour, f"{self.colour} {self.kind}", f"{self.count} {self.colour} {self.kind}"}
        return one


@dataclass(frozen=True)
class Scene:
    """One group, or two with the relation of the first to the second."""

    groups: tuple[Group, ...]
    relation: str | None

    def facts(self) -> frozenset[str]:
        """Everything captions can claim."""
        found = set().union(*(group.facts() for group in self.groups)) | {"scene"}
        if self.relation:
            a, b = self.groups
            for x in (f"{a.kind}", f"{a.colour} {a.kind}"):
                for y in (f"{b.kind}", f"{b.colour} {b.kind}"):
                    found |= {f"{x} {self.relation} {y}", f"{y} {OPPOSITE[self.relation]} {x}"}
        return frozenset(found)


def draw_group(rng: random.Random, held_out: bool | None, things: bool) -> Group:
    count = rng.choices((1, 2, 3, 4), (5, 3, 2, 1))[0]
    if things and held_out is None and rng.random() < 0.45:
        return Group(count, None, rng.choice(list(THINGS)))
    while True:
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        if is_held_out(colour, shape) == bool(held_out):
            return Group(count, colour, shape)


def draw_scene(rng: random.Random, held_out: bool = False, things: bool = True) -> Scene:
    """A random scene; ``held_out`` ones have a first group of a pair that training never draws."""
    first = draw_group(rng, True if held_out else None, things)
    if rng.random() < 0.4:
        return Scene((first,), None)
    second = draw_group(rng, None, things)
    while second.kind == first.kind:
        second = draw_group(rng, None, things)
    return Scene((first, second), rng.choice(list(RELATIONS)))


def caption(scene: Scene, rng: random.Random) -> tuple[str, frozenset[str]]:
    """A true sentence about a scene and the facts it claims."""
    groups = list(scene.groups)
    if scene.relation and rng.random() < 0.75:
        relation = scene.relation
        if rng.random() < 0.5:
            groups, relation = groups[::-1], OPPOSITE[relation]
        a, b = groups
        text = f"{a.noun(rng)} {rng.choice(RELATIONS[relation])} {b.noun(rng)}"
        claims = {f"{g.count} {g.colour} {g.kind}" if g.colour else f"{g.count} {g.kind}" for g in groups}
        return text, frozenset(claims | {f"{a.colour} {a.kind} {relation} {b.colour} {b.kind}", "scene"})
    said, claims = [], set()
    for group in groups if rng.random() < 0.6 else groups[:1]:
        with_colour = group.colour is not None and rng.random() < 0.85
        said.append(group.noun(rng, with_colour))
        claims.add(f"{group.count} {group.colour} {group.kind}" if with_colour else f"{group.count} {group.kind}")
    rng.shuffle(said)
    return " and ".join(said), frozenset(claims | {"scene"})


def polygon(kind: str, x: float, y: float, r: float) -> list[tuple[float, float]]:
    if kind == "square":
        return [(x - r * 0.85, y - r * 0.85), (x + r * 0.85, y - r * 0.85), (x + r * 0.85, y + r * 0.85), (x - r * 0.85, y + r * 0.85)]
    if kind == "diamond":
        return [(x, y - r), (x + r * 0.75, y), (x, y + r), (x - r * 0.75, y)]
    if kind == "triangle":
        return [(x, y - r), (x + r * 0.95, y + r * 0.8), (x - r * 0.95, y + r * 0.8)]
    if kind == "cross":
        w = r * 0.33
        return [(x - w, y - r), (x + w, y - r), (x + w, y - w), (x + r, y - w), (x + r, y + w), (x + w, y + w),
                (x + w, y + r), (x - w, y + r), (x - w, y + w), (x - r, y + w), (x - r, y - w), (x - w, y - w)]
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2 == 0, r, r * 0.42)
    return list(zip(x + np.cos(angles) * radii, y + np.sin(angles) * radii))


def heart(x: float, y: float, r: float) -> list[tuple[float, float]]:
    t = np.linspace(0, 2 * np.pi, 24)
    across = 16 * np.sin(t) ** 3 / 17
    down = (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 17
    return list(zip(x + across * r, y - down * r))


def paint_object(canvas: Image.Image, group: Group, x: float, y: float, r: float, rng: random.Random, picture) -> None:
    """One object with centre (x, y) and radius r, in canvas pixels."""
    if group.colour is None:
        side = max(4, int(2 * r))
        image = Image.fromarray(picture(group.kind)).resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(image, (int(x - r), int(y - r)), image)
        return
    brush = ImageDraw.Draw(canvas)
    colour = tuple(max(0, min(255, c + rng.randint(-18, 18))) for c in COLOURS[group.colour])
    box = (x - r, y - r, x + r, y + r)
    if group.kind == "circle":
        brush.ellipse(box, fill=colour)
    elif group.kind == "ring":
        brush.ellipse(box, outline=colour, width=max(2, int(r * 0.38)))
    elif group.kind == "heart":
        brush.polygon(heart(x, y, r), fill=colour)
    else:
        brush.polygon(polygon(group.kind, x, y, r), fill=colour)


def areas(relation: str | None) -> list[tuple[float, float, float, float]]:
    """Where the groups go: (x0, y0, x1, y1) of a unit square."""
    if relation is None:
        return [(0, 0, 1, 1)]
    halves = {"left": [(0, 0, 0.5, 1), (0.5, 0, 1, 1)], "above": [(0, 0, 1, 0.5), (0, 0.5, 1, 1)]}
    return halves.get(relation) or halves[OPPOSITE[relation]][::-1]


def places(count: int, area: tuple[float, float, float, float], rng: random.Random) -> list[tuple[float, float, float]]:
    """Centres and radius of ``count`` objects that do not touch, within an area."""
    x0, y0, x1, y1 = area
    wide = x1 - x0 >= y1 - y0
    if count == 1:
        grid = [(0.5, 0.5)]
    elif x1 - x0 != y1 - y0 and count < 4:
        grid = [((i + 0.5) / count, 0.5) if wide else (0.5, (i + 0.5) / count) for i in range(count)]
    else:
        grid = [(0.25 + 0.5 * (i % 2), 0.25 + 0.5 * (i // 2)) for i in rng.sample(range(4), count)]
    cell = min((x1 - x0), (y1 - y0)) / (1 if count == 1 else 2)
    if count in (2, 3) and x1 - x0 != y1 - y0:
        cell = max(x1 - x0, y1 - y0) / count
        cell = min(cell, min(x1 - x0, y1 - y0))
    r = cell * rng.uniform(0.3, 0.46)
    slack = max(0.0, cell / 2 - r)
    jitter = lambda: rng.uniform(-slack, slack)  # noqa: E731
    return [(x0 + gx * (x1 - x0) + jitter(), y0 + gy * (y1 - y0) + jitter(), r) for gx, gy in grid]


def paint(scene: Scene, rng: random.Random, picture, size: int = SIZE) -> np.ndarray:
    """A scene as [size, size, 3] RGB; ``picture(kind)`` gives an emoji's RGBA drawing."""
    side = size * SUPER
    light = rng.choice(((255, 255, 255), (255, 255, 255), (238, 238, 232), (222, 233, 244), (245, 232, 215)))
    canvas = Image.new("RGB", (side, side), light)
    for group, area in zip(scene.groups, areas(scene.relation)):
        for x, y, r in places(group.count, area, rng):
            paint_object(canvas, group, x * side, y * side, r * side, rng, picture)
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX))

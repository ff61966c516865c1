"""Emoji as (name, words, drawings): what the packages of ``package.json`` hold, read and rendered once.

Each drawing set draws the same concepts in its own way, so a set that is left out of training is a fair test: the
concepts are known, the pictures are not. ``TEST_SET`` is that set.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

TRAIN_SETS = ("noto", "noto-v1", "fluent-emoji-flat", "fluent-emoji", "fxemoji", "emojione")
TEST_SET = "twemoji"
DRAWN = 72
"""Pixels per side of a rendered drawing: what the Twemoji project publishes."""

FLAGS = 9
"""Group number of flags in emojibase."""


@dataclass
class Concept:
    """One emoji, whoever draws it."""

    code: str
    """Unicode code points in hex, joined by ``-``, without variation selectors."""
    emoji: str
    name: str
    words: set[str]
    """Keywords, lower case, the name's own words among them."""
    group: int
    subgroup: int
    drawings: dict[str, np.ndarray] = field(default_factory=dict)
    """Set name -> [DRAWN, DRAWN, 4] RGBA."""


def plain_code(code: str) -> str:
    """Lower case, without the variation selector that only says "as a picture"."""
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def clean(text: str) -> str:
    """Lower case, words separated by single spaces, no accents, no punctuation."""
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode().replace("'", "")
    return " ".join(re.findall(r"[a-z0-9]+", plain))


def read_concepts(packages: Path) -> list[Concept]:
    """Every emoji with a name, without skin tones: they are drawn alike."""
    base = json.loads((packages / "emojibase-data/en/data.json").read_text(encoding="utf-8"))
    extra = json.loads((packages / "emojilib/dist/emoji-en-US.json").read_text(encoding="utf-8"))
    concepts = []
    for entry in base:
        if entry.get("group") is None:
            continue
        name = clean(entry["label"])
        keywords = [*entry.get("tags", []), *extra.get(entry["emoji"], [])]
        words = {clean(word.replace("_", " ")) for word in keywords} | set(name.split())
        words = {word for word in words if 2 <= len(word) <= 24 and word.count(" ") <= 2}
        code = plain_code(entry["hexcode"])
        concepts.append(Concept(code, entry["emoji"], name, words, entry["group"], entry["subgroup"]))
    return concepts


def icon_codes(packages: Path) -> dict[str, str]:
    """Icon name -> code, from the sets that publish the mapping; the sets share their icon names."""
    names: dict[str, str] = {}
    for source in ("twemoji", "noto", "fluent-emoji-flat"):
        chars = json.loads((packages / f"@iconify-json/{source}/chars.json").read_text(encoding="utf-8"))
        for code, name in chars.items():
            names.setdefault(name, plain_code(code))
    return names


def svg_documents(packages: Path, source: str, names: dict[str, str]) -> dict[str, str]:
    """Code -> SVG text of one set."""
    icons = json.loads((packages / f"@iconify-json/{source}/icons.json").read_text(encoding="utf-8"))
    wide, high = icons.get("width", 16), icons.get("height", 16)
    found: dict[str, str] = {}
    entries = {**icons["icons"], **{a: icons["icons"].get(v["parent"], {}) for a, v in icons.get("aliases", {}).items()}}
    for name, icon in entries.items():
        if name in names and "body" in icon:
            w, h = icon.get("width", wide), icon.get("height", high)
            head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {w} {h}"'
            found[names[name]] = f'{head} width="{w}" height="{h}">{icon["body"]}</svg>'
    return found


def render(document: str) -> np.ndarray | None:
    """An SVG as RGBA, centred in a square; ``None`` where it cannot be rendered or is empty."""
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=document, width=DRAWN, skip_system_fonts=True))
    except ValueError:
        return None
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    image.thumbnail((DRAWN, DRAWN), Image.Resampling.BICUBIC)
    square = Image.new("RGBA", (DRAWN, DRAWN))
    square.paste(image, ((DRAWN - image.width) // 2, (DRAWN - image.height) // 2))
    pixels = np.asarray(square)
    return pixels if pixels[..., 3].mean() > 4 else None


def load(packages: Path, cache: Path) -> list[Concept]:
    """Concepts with their drawings; rendering takes some minutes and is kept in ``cache``."""
    concepts = read_concepts(packages)
    by_code = {concept.code: concept for concept in concepts}
    names = icon_codes(packages)
    cache.mkdir(parents=True, exist_ok=True)
    for source in (*TRAIN_SETS, TEST_SET):
        file = cache / f"{source}-{DRAWN}.npz"
        if not file.exists():
            documents = svg_documents(packages, source, names)
            codes = [code for code in documents if code in by_code]
            with ProcessPoolExecutor(max_workers=2) as pool:
                pixels = list(pool.map(render, [documents[code] for code in codes], chunksize=32))
            kept = [(code, p) for code, p in zip(codes, pixels) if p is not None]
            np.savez(file, codes=np.array([c for c, _ in kept]), pixels=np.stack([p for _, p in kept]))
        stored = np.load(file)
        for code, pixels in zip(stored["codes"], stored["pixels"]):
            by_code[str(code)].drawings[source] = pixels
        print(f"{source}: {len(stored['codes'])} drawings", flush=True)
    return [concept for concept in concepts if concept.drawings]

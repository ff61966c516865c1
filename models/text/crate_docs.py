"""Pairs from documentation that a Rust developer already has: the crates in the local cargo registry.

Used when no data folder is given. Item name -> documentation comment, Markdown heading -> paragraph, first paragraph
-> second paragraph. Held-out documents are whole crates.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import Corpus, stable_hash

ITEM = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:unsafe\s+|async\s+|const\s+|extern\s+\"C\"\s+)*"
                  r"(fn|struct|enum|trait|union|type|const|static|mod|macro_rules!)\s+(\w+)")
DOC = re.compile(r"^\s*//[/!] ?(.*)$")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$")
KIND = {"fn": "function", "mod": "module", "macro_rules!": "macro", "type": "type alias"}
MAX_FILE_BYTES = 400_000
"""Larger files are generated bindings for the most part."""


def registry_folders() -> list[Path]:
    """The unpacked sources of every crate that cargo has fetched."""
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    return sorted(path for path in home.glob("registry/src/*/*") if path.is_dir())


def clean(text: str) -> str:
    """Markdown to plain words: links keep their label, code marks and HTML tags go."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", " ", text)
    text = re.sub(r"\[([^\]]+)\](?:\([^)]*\)|\[[^\]]*\])?", r"\1", text)
    text = re.sub(r"<[^>]{1,80}>|[`*]", " ", text)
    return " ".join(text.split())


def sections(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(heading, paragraphs) of Markdown text, code blocks and tables left out."""
    heading, paragraphs, current, in_code = "", [], [], False
    for line in [*lines, ""]:
        fence = line.lstrip().startswith(("```", "~~~"))
        in_code ^= fence
        if fence or in_code or line.lstrip().startswith(("|", "[")):
            continue
        found = HEADING.match(line)
        if (found or not line.strip()) and current:
            paragraphs.append(clean(" ".join(current))[:600])
            current = []
        if found:
            yield heading, paragraphs
            heading, paragraphs = clean(found.group(1)), []
        elif line.strip():
            current.append(line.strip())
    yield heading, paragraphs


def commented_items(source: str) -> Iterator[tuple[str, list[str]]]:
    """(name and kind, documentation lines) of the documented items of one Rust file."""
    comment: list[str] = []
    for line in source.splitlines():
        doc = DOC.match(line)
        if doc:
            comment.append(doc.group(1))
            continue
        item = ITEM.match(line)
        if item and comment:
            kind = KIND.get(item.group(1), item.group(1))
            yield f"{item.group(2)} {kind}", comment
        if not line.lstrip().startswith("#["):
            comment = []


def file_sections(path: Path) -> Iterator[tuple[str, list[str]]]:
    """(query, paragraphs) of one file; unreadable and oversized files have none."""
    if path.stat().st_size > MAX_FILE_BYTES:
        return
    source = path.read_text(encoding="utf-8", errors="ignore")
    if path.suffix == ".md":
        yield from sections(source.splitlines())
        return
    for name, lines in commented_items(source):
        for heading, paragraphs in sections(lines):
            yield (f"{name} {heading}".strip(), paragraphs)


def load_registry() -> Corpus:
    """Passages and pairs of every crate found, one version of each crate."""
    newest = {re.sub(r"-\d[^/]*$", "", folder.name): folder for folder in registry_folders()}
    texts, docs, queries, answers = [], [], [], []
    seen: set[str] = set()
    for crate, folder in newest.items():
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".rs", ".md") and p.is_file()):
            for name, paragraphs in file_sections(path):
                fresh = [p for p in paragraphs if len(p) >= 40 and p not in seen]
                seen.update(fresh)
                first = len(texts)
                texts += fresh
                docs += [stable_hash(crate)] * len(fresh)
                asked = ([name] if name else []) + ([fresh[0]] if len(fresh) > 1 else [])
                queries += asked[: len(fresh)]
                answers += list(range(first, first + len(asked[: len(fresh)])))
    if not queries:
        raise SystemExit("no crates found below CARGO_HOME: run `cargo fetch` first, or give --data")
    return Corpus(texts, np.array(docs, np.int64), queries, np.array(answers, np.int64))

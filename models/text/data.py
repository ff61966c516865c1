"""Passages and (query, passage) pairs, and their split into training and held-out documents.

Expected files in the data folder:

* ``passages.jsonl.gz``: one JSON object per line with ``doc`` (number or string naming the document the passage was
  cut from) and ``text``. Other fields are ignored. The line number is the passage's row.
* ``pairs_train.jsonl.gz``: one JSON object per line with ``query`` (text) and ``passage`` (row of the passage that
  answers it).
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Corpus:
    """All passages, the document each one comes from, and the pairs."""

    texts: list[str]
    docs: np.ndarray
    """int64 hash of the document of each passage."""
    queries: list[str]
    answers: np.ndarray
    """int64 row of the passage that answers each query."""


@dataclass
class Split:
    """Numbers of the training pairs, and the held-out retrieval task."""

    train_pairs: np.ndarray
    eval_passages: np.ndarray
    eval_pairs: np.ndarray
    eval_targets: np.ndarray
    """For each held-out pair, the position of its passage in ``eval_passages``."""


def stable_hash(text: str) -> int:
    """A hash that is the same in every run (Python's own is salted)."""
    return zlib.crc32(text.encode("utf-8"))


def read_jsonl(path: Path) -> list[dict]:
    """Read one gzip-compressed JSON-lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def load_corpus(folder: Path) -> Corpus:
    """Read the two files named in the module's docstring."""
    rows = read_jsonl(folder / "passages.jsonl.gz")
    pairs = read_jsonl(folder / "pairs_train.jsonl.gz")
    return Corpus(
        texts=[row["text"] for row in rows],
        docs=np.array([stable_hash(str(row["doc"])) for row in rows], dtype=np.int64),
        queries=[pair["query"] for pair in pairs],
        answers=np.array([pair["passage"] for pair in pairs], dtype=np.int64),
    )


def split_corpus(corpus: Corpus, share: float, max_queries: int, seed: int) -> Split:
    """Hold out whole documents: no passage of a held-out document is seen in training.

    Boilerplate is repeated between documents, so training passages whose text also occurs in a held-out document,
    and training queries that are also held-out queries, are dropped as well: the held-out set is new text throughout.
    """
    held_doc = (corpus.docs * 2654435761 + seed) % 1_000_003 < share * 1_000_003
    held_rows = np.flatnonzero(held_doc)
    eval_rows, position = unique_texts(corpus.texts, held_rows)
    held_texts = {corpus.texts[row] for row in eval_rows}
    usable = ~held_doc & np.array([text not in held_texts for text in corpus.texts])
    pair_held = held_doc[corpus.answers]
    held_queries = {corpus.queries[i] for i in np.flatnonzero(pair_held)}
    fresh = np.array([query not in held_queries for query in corpus.queries])
    candidates = np.flatnonzero(pair_held)
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(candidates)[:max_queries])
    return Split(
        train_pairs=np.flatnonzero(usable[corpus.answers] & fresh),
        eval_passages=eval_rows,
        eval_pairs=chosen,
        eval_targets=np.array([position[corpus.texts[corpus.answers[i]]] for i in chosen], dtype=np.int64),
    )


def unique_texts(texts: list[str], rows: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """Keep the first of equal passages, so that a query never has two identical right answers."""
    position: dict[str, int] = {}
    kept: list[int] = []
    for row in rows:
        if texts[row] not in position:
            position[texts[row]] = len(kept)
            kept.append(int(row))
    return np.array(kept, dtype=np.int64), position

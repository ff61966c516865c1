"""Held-out retrieval at every granularity, and how far a prefix keeps the neighbours of the whole vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrl import normalise


@dataclass
class Row:
    """The measures of one prefix length."""

    dim: int
    recall_1: float
    recall_10: float
    mrr_10: float
    ndcg_10: float
    kept_10: float
    """Share of the full vector's ten nearest passages among the prefix's ten nearest."""
    kept_100: float
    """The same among the prefix's hundred nearest."""


def top_rows(scores: np.ndarray, count: int) -> np.ndarray:
    """Columns of the ``count`` largest scores of each row, best first."""
    part = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)


def nearest(queries: np.ndarray, passages: np.ndarray, dim: int, count: int) -> np.ndarray:
    """Nearest passages by cosine of the first ``dim`` values; exact, in blocks to bound memory."""
    cut_q, _ = normalise(np.ascontiguousarray(queries[:, :dim]))
    cut_p, _ = normalise(np.ascontiguousarray(passages[:, :dim]))
    found = [top_rows(cut_q[at : at + 256] @ cut_p.T, count) for at in range(0, len(cut_q), 256)]
    return np.concatenate(found)


def measure(found: np.ndarray, full: np.ndarray, targets: np.ndarray, dim: int) -> Row:
    """Measures from the 100 nearest of a prefix, the 10 nearest of the full vector and the right answers."""
    hits = found[:, :10] == targets[:, None]
    hit = hits.any(axis=1)
    rank = hits.argmax(axis=1) + 1.0
    kept_10 = np.mean([np.isin(a, b).mean() for a, b in zip(full, found[:, :10])])
    kept_100 = np.mean([np.isin(a, b).mean() for a, b in zip(full, found)])
    return Row(
        dim=dim,
        recall_1=float(np.mean(hits[:, 0])),
        recall_10=float(np.mean(hit)),
        mrr_10=float(np.mean(hit / rank)),
        ndcg_10=float(np.mean(hit / np.log2(rank + 1))),
        kept_10=float(kept_10),
        kept_100=float(kept_100),
    )


def evaluate(queries: np.ndarray, passages: np.ndarray, targets: np.ndarray, dims: Sequence[int]) -> list[Row]:
    """Measure every prefix length in ``dims`` (the last one must be the full length)."""
    full = nearest(queries, passages, dims[-1], 10)
    return [measure(nearest(queries, passages, dim, min(100, len(passages))), full, targets, dim) for dim in dims]


def table_markdown(mrl: list[Row], control: list[Row], trained_dims: Sequence[int]) -> str:
    """Both models side by side, one line per prefix length."""
    names = ["recall@1", "recall@10", "MRR@10", "nDCG@10", "top 10 kept in 10", "top 10 kept in 100"]
    fields = ["recall_1", "recall_10", "mrr_10", "ndcg_10", "kept_10", "kept_100"]
    lines = ["| dims | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for ours, theirs in zip(mrl, control):
        mark = "" if ours.dim in trained_dims else " (between)"
        cells = [f"{getattr(ours, f):.3f} / {getattr(theirs, f):.3f}" for f in fields]
        lines.append(f"| {ours.dim}{mark} | " + " | ".join(cells) + " |")
    return "\n".join(lines)

"""What each granularity is worth beside retrieval: classification, as a table, and everything as a plot.

    python models/text/classes.py --data DATA --model models/text/matryo-text-en

measures an exported model on the documents that training held out (``train.py`` does so at its end). The classes are
documents: every second passage of a document is stored, the others are asked which document they are of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

import plot  # noqa: E402
from data import Corpus, Split, load_corpus, split_corpus  # noqa: E402
from encoder import Encoder  # noqa: E402
from evaluate import Row, evaluate, nearest  # noqa: E402
from mrl import normalise  # noqa: E402

DIMS = (32, 48, 64, 96, 128, 192, 256, 384, 512)
"""The trained prefixes and lengths between them."""
DOCUMENTS, FEWEST, MOST = 300, 10, 40
"""Classes, and the passages that one of them has."""


@dataclass
class Classes:
    """Passages with the number of their document."""

    stored: np.ndarray
    stored_labels: np.ndarray
    asked: np.ndarray
    asked_labels: np.ndarray


@dataclass
class Score:
    """At one prefix length."""

    nearest: float
    map_10: float
    linear: float


def choose(docs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places in ``docs`` of the passages that are used, and the class of each."""
    places, labels = [], []
    for doc in np.unique(docs):
        mine = np.flatnonzero(docs == doc)[:MOST]
        if len(mine) >= FEWEST and len(places) < DOCUMENTS:
            places.append(mine)
            labels.append(np.full(len(mine), len(labels)))
    # Of no document, if none is long enough.
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *places]), np.concatenate([none, *labels])


def classes(encoder: Encoder, texts: Sequence[str], labels: np.ndarray) -> Classes:
    """Every second passage is stored."""
    vectors, even = encoder.encode(list(texts)), np.arange(len(texts)) % 2 == 0
    return Classes(vectors[even], labels[even], vectors[~even], labels[~even])


def average_precision(found: np.ndarray, possible: np.ndarray) -> float:
    """mAP over the columns of ``found``, as Kusupati et al. 2022 define it: over min(10, right ones)."""
    precision = np.cumsum(found, axis=1) / np.arange(1, found.shape[1] + 1)
    right = np.minimum(possible, found.shape[1])
    return float(((precision * found).sum(axis=1) / np.maximum(right, 1)).mean())


def linear_head(data: Classes, dim: int) -> float:
    """Accuracy of a ridge regression onto the classes, fitted on the stored passages."""
    def with_bias(vectors: np.ndarray) -> np.ndarray:
        cut, _ = normalise(np.ascontiguousarray(vectors[:, :dim]))
        return np.concatenate([cut, np.ones((len(cut), 1))], axis=1)

    x, y = with_bias(data.stored), np.eye(data.stored_labels.max() + 1)[data.stored_labels]
    weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y)
    return float((np.argmax(with_bias(data.asked) @ weights, axis=1) == data.asked_labels).mean())


def score(data: Classes, dim: int) -> Score:
    """1-NN accuracy, mAP@10 and the linear head."""
    found = nearest(data.asked, data.stored, dim, 10)
    right = data.stored_labels[found] == data.asked_labels[:, None]
    counts = np.bincount(data.stored_labels)[data.asked_labels]
    return Score(float(right[:, 0].mean()), average_precision(right, counts), linear_head(data, dim))


def table(scores: Sequence[Score], trained: Sequence[int]) -> str:
    """Markdown."""
    lines = ["| dims | 1-NN | mAP@10 | linear head |", "|---|---|---|---|"]
    for dim, s in zip(DIMS, scores):
        mark = "" if dim in trained else " (between)"
        lines.append(f"| {dim}{mark} | {s.nearest:.3f} | {s.map_10:.3f} | {s.linear:.3f} |")
    return "\n".join(lines)


def write(folder: Path, rows: Sequence[Row], data: Classes, trained: Sequence[int]) -> str:
    """``CLASSES.md`` and the plot of ``rows`` (retrieval) and classification."""
    scores = [score(data, dim) for dim in DIMS]
    lines = {
        "retrieval, recall@10": [row.recall_10 for row in rows],
        "retrieval, mAP@10": [row.mrr_10 for row in rows],
        "document of a passage, 1-NN": [s.nearest for s in scores],
        "document of a passage, mAP@10": [s.map_10 for s in scores],
        "document of a passage, linear head": [s.linear for s in scores],
    }
    plot.write(folder / "evaluation.svg", "Held-out text by prefix length", DIMS, lines)
    text = "\n".join([
        "# Classification by prefix length", "",
        "Written by `models/text/classes.py`. Which held-out document is a passage of? "
        f"{data.stored_labels.max() + 1} documents with {FEWEST} to {MOST} passages; {len(data.stored)} passages are "
        f"stored, the {len(data.asked)} others are asked about: 1-NN accuracy, mAP@10, and accuracy of a linear head (ridge "
        "regression) fitted on the stored ones. The exported int8 files, run by ONNX Runtime. In the plot the mAP@10 of "
        "retrieval is MRR@10, for there a query has one right answer.", "",
        table(scores, trained), "", "![plot](evaluation.svg)", "",
    ])
    (folder / "CLASSES.md").write_text(text, encoding="ascii")
    return text


def measure(folder: Path, corpus: Corpus, split: Split, rows: Sequence[Row], trained: Sequence[int]) -> str:
    """Classification by the held-out documents, beside the retrieval that was measured.

    Of small sets of documents there may be none; then no files are written.
    """
    places, labels = choose(corpus.docs[split.eval_passages])
    if len(places) == 0:
        return f"no CLASSES.md: no held-out document has {FEWEST} passages"
    texts = [corpus.texts[split.eval_passages[place]] for place in places]
    return write(folder, rows, classes(Encoder(folder), texts, labels), trained)


def main() -> None:
    """Measure a directory that was exported before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--held-out", type=float, default=0.04)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    corpus = load_corpus(args.data)
    split = split_corpus(corpus, args.held_out, args.queries, args.seed)
    encoder = Encoder(args.model)
    queries = encoder.encode([corpus.queries[i] for i in split.eval_pairs])
    passages = encoder.encode([corpus.texts[row] for row in split.eval_passages])
    rows = evaluate(queries, passages, split.eval_targets, DIMS)
    print(measure(args.model, corpus, split, rows, (32, 64, 128, 256, 512)))
    print([f"{row.dim}: {row.recall_10:.3f}" for row in rows])


if __name__ == "__main__":
    main()

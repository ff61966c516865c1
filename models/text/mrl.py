"""The model (a table of token vectors, averaged) and its Matryoshka loss, with gradients written out.

Matryoshka Representation Learning: Kusupati et al. 2022, "Matryoshka Representation Learning", section 3: one loss
per nested prefix of the same vector, summed with equal weights. The loss of one prefix is InfoNCE (van den Oord et
al. 2018, "Representation Learning with Contrastive Predictive Coding", section 2.3) with the other passages of the
batch as wrong answers, on L2-normalised prefixes, in both directions (query to passage and passage to query).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse

from wordpiece import TokenBags

TINY = 1e-12


def averaging_matrix(bags: TokenBags, rows: np.ndarray, vocab_size: int) -> sparse.csr_matrix:
    """The sparse matrix M with M @ table = mean token vector of each chosen text."""
    lengths = (bags.starts[rows + 1] - bags.starts[rows]).astype(np.int64)
    ends = np.concatenate([[0], np.cumsum(lengths)])
    # Position of every token of the chosen texts in the flat array, without a Python loop.
    flat = np.repeat(bags.starts[rows] - ends[:-1], lengths) + np.arange(ends[-1])
    weights = np.repeat(1.0 / np.maximum(lengths, 1), lengths).astype(np.float32)
    return sparse.csr_matrix((weights, bags.ids[flat], ends), shape=(len(rows), vocab_size))


def normalise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors and the lengths they had."""
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None] + TINY
    return vectors / lengths, lengths


def normalise_backward(unit: np.ndarray, lengths: np.ndarray, grad: np.ndarray) -> np.ndarray:
    """Gradient through ``normalise``: the part of the gradient along the vector changes nothing."""
    along = np.einsum("ij,ij->i", unit, grad)[:, None]
    return (grad - unit * along) / lengths


def masked_softmax(logits: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean cross-entropy of the diagonal and its gradient with respect to the logits of each row."""
    logits = logits - logits.max(axis=1, keepdims=True)
    diagonal = np.diagonal(logits).copy()
    shares = np.exp(logits)
    sums = shares.sum(axis=1, keepdims=True)
    loss = float(np.mean(np.log(sums[:, 0]) - diagonal))
    shares /= sums
    shares[np.diag_indices_from(shares)] -= 1.0
    return loss, shares / len(shares)


def info_nce(
    queries: np.ndarray, passages: np.ndarray, same: np.ndarray, scale: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """InfoNCE in both directions for one prefix: the loss and its gradients for queries and passages.

    ``same[i, j]`` marks passages that are also right for query i (the same text twice in a batch): they are no
    wrong answers, so they leave the sum. The diagonal of ``same`` must be False.
    """
    unit_q, len_q = normalise(queries)
    unit_p, len_p = normalise(passages)
    logits = (unit_q @ unit_p.T) * scale
    logits[same] = -1e9
    loss_q, grad_q = masked_softmax(logits)
    loss_p, grad_p = masked_softmax(logits.T)
    grad_logits = (grad_q + grad_p.T) * (0.5 * scale)
    grad_queries = normalise_backward(unit_q, len_q, grad_logits @ unit_p)
    grad_passages = normalise_backward(unit_p, len_p, grad_logits.T @ unit_q)
    return 0.5 * (loss_q + loss_p), grad_queries, grad_passages


def matryoshka_loss(
    queries: np.ndarray, passages: np.ndarray, same: np.ndarray, dims: Sequence[int], scale: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Sum of the losses of the nested prefixes, equal weights (Kusupati et al. 2022, equation 1)."""
    total, grad_q, grad_p = 0.0, np.zeros_like(queries), np.zeros_like(passages)
    for dim in dims:
        loss, part_q, part_p = info_nce(queries[:, :dim], passages[:, :dim], same, scale)
        total += loss
        grad_q[:, :dim] += part_q
        grad_p[:, :dim] += part_p
    return total / len(dims), grad_q / len(dims), grad_p / len(dims)

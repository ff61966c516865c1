"""The Matryoshka losses.

Kusupati et al. 2022, "Matryoshka Representation Learning", section 3: one loss per nested prefix of the same vector,
summed with relative weights c_m. Two kinds of loss are used here, as in the paper:

* contrastive (its ALIGN experiments): InfoNCE between pictures and captions on L2-normalised prefixes. It has no
  parameters of its own, so every prefix shares everything;
* classification (its ImageNet experiments): a linear head per prefix. MRL gives each prefix a head of its own; MRL-E
  ("efficient", weight tying) uses the first m columns of one head for prefix m.

The ablation of the weights (its "MRL-8boost" and "MRL-8+16boost") raises the weight of the lowest prefixes: twice
for the lowest, then one and a half for the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = {"equal": (), "boost-first": (2.0,), "boost-two": (2.0, 1.5)}
"""Name -> weights of the first prefixes; the rest have 1."""


def relative_weights(choice: str, count: int) -> list[float]:
    """The weights c_m by name (``WEIGHTS``) or as ``count`` numbers with commas between."""
    if choice in WEIGHTS:
        first = WEIGHTS[choice][:count]
        return [*first, *([1.0] * (count - len(first)))]
    weights = [float(part) for part in choice.split(",")]
    if len(weights) != count or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"expected {count} weights >= 0, or one of {', '.join(WEIGHTS)}; got {choice!r}")
    return weights


def info_nce(pictures: Tensor, captions: Tensor, fits: Tensor, scale: Tensor) -> Tensor:
    """Both directions. ``fits[i, j]``: caption i is true of picture j, so j is no wrong answer for i."""
    logits = functional.normalize(captions, dim=1) @ functional.normalize(pictures, dim=1).T * scale
    others = fits & ~torch.eye(len(fits), dtype=torch.bool)
    logits = logits.masked_fill(others, -1e4)
    right = torch.arange(len(fits))
    return (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2


def matryoshka(
    pictures: Tensor, captions: Tensor, fits: Tensor, scales: Tensor, dims: Sequence[int], weights: Sequence[float]
) -> Tensor:
    """Weighted mean of InfoNCE over the prefixes; a temperature per prefix."""
    parts = [
        weight * info_nce(pictures[:, :dim], captions[:, :dim], fits, scale)
        for dim, weight, scale in zip(dims, weights, scales)
    ]
    return torch.stack(parts).sum() / sum(weights)


class Heads(nn.Module):
    """Linear classifiers on the prefixes: separate ones (MRL) or slices of one (MRL-E)."""

    def __init__(self, dims: Sequence[int], classes: int, tied: bool) -> None:
        super().__init__()
        self.dims = list(dims)
        self.tied = tied
        widths = [self.dims[-1]] if tied else self.dims
        self.layers = nn.ModuleList(nn.Linear(width, classes) for width in widths)

    def logits(self, vectors: Tensor) -> list[Tensor]:
        """One [batch, classes] tensor per prefix."""
        if not self.tied:
            return [layer(vectors[:, :dim]) for dim, layer in zip(self.dims, self.layers)]
        layer = self.layers[0]
        return [functional.linear(vectors[:, :dim], layer.weight[:, :dim], layer.bias) for dim in self.dims]

    def loss(self, vectors: Tensor, labels: Tensor, weights: Sequence[float]) -> Tensor:
        """Weighted mean of the cross-entropies; rows with label -1 have no class."""
        parts = [
            weight * functional.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=0.1)
            for logits, weight in zip(self.logits(vectors), weights)
        ]
        return torch.stack(parts).sum() / sum(weights)

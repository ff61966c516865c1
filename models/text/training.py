"""The training loop: Adam on one table of token vectors."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mrl import averaging_matrix, matryoshka_loss
from wordpiece import TokenBags


@dataclass
class Settings:
    """What decides the model; the control run differs in ``loss_dims`` alone."""

    width: int = 512
    loss_dims: Sequence[int] = (32, 64, 128, 256, 512)
    steps: int = 600
    batch: int = 1024
    learning_rate: float = 0.02
    scale: float = 12.0
    warm_up: float = 0.1
    seed: int = 1
    name: str = "training"
    """Printed before each line of progress."""
    neighbours: int = 4
    """Pairs drawn side by side (1 = none): neighbours in the file are hard wrong answers for each other."""


class Adam:
    """Adam (Kingma and Ba 2015, "Adam: A Method for Stochastic Optimization", algorithm 1), in place."""

    def __init__(self, shape: tuple[int, int], beta1: float = 0.9, beta2: float = 0.999) -> None:
        self.mean = np.zeros(shape, np.float32)
        self.square = np.zeros(shape, np.float32)
        self.scratch = np.empty(shape, np.float32)
        self.beta1, self.beta2, self.step = beta1, beta2, 0

    def update(self, table: np.ndarray, grad: np.ndarray, rate: float) -> None:
        """One step; ``grad`` is used up."""
        self.step += 1
        self.square *= self.beta2
        np.multiply(grad, grad, out=self.scratch)
        self.scratch *= 1 - self.beta2
        self.square += self.scratch
        self.mean *= self.beta1
        grad *= 1 - self.beta1
        self.mean += grad
        np.sqrt(self.square, out=self.scratch)
        correction = np.sqrt(1 - self.beta2**self.step)
        self.scratch += 1e-8 * correction
        np.divide(self.mean, self.scratch, out=self.scratch)
        self.scratch *= rate * correction / (1 - self.beta1**self.step)
        table -= self.scratch


def rate_at(step: int, settings: Settings) -> float:
    """Linear warm-up, then linear decay to zero."""
    warm = max(1, int(settings.warm_up * settings.steps))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    return settings.learning_rate * (settings.steps - step) / max(1, settings.steps - warm)


def batches(count: int, settings: Settings) -> Iterator[np.ndarray]:
    """Endless batches of pair numbers: every epoch shuffles runs of ``neighbours`` pairs anew."""
    rng = np.random.default_rng(settings.seed)
    size = min(settings.batch, count)
    while True:
        run = settings.neighbours
        shift = int(rng.integers(run))
        starts = rng.permutation(max(1, (count - shift) // run))
        order = (starts[:, None] * run + np.arange(run) + shift).ravel() % count
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]


def train_table(
    queries: TokenBags, passages: TokenBags, groups: np.ndarray, vocab_size: int, settings: Settings
) -> np.ndarray:
    """Train on pairs (query i, passage i); ``groups[i]`` is equal for pairs with the same passage text."""
    rng = np.random.default_rng(settings.seed)
    table = rng.normal(0.0, 0.02, (vocab_size, settings.width)).astype(np.float32)
    adam = Adam(table.shape)
    began = time.time()
    stream = batches(len(queries), settings)
    for step in range(settings.steps):
        loss, grad = loss_and_gradient(table, queries, passages, groups, next(stream), settings)
        adam.update(table, grad, rate_at(step, settings))
        if step % 100 == 0 or step + 1 == settings.steps:
            print(f"{settings.name:>10}  step {step + 1:5d}  loss {loss:.4f}  {time.time() - began:6.1f} s", flush=True)
    return table


def loss_and_gradient(
    table: np.ndarray,
    queries: TokenBags,
    passages: TokenBags,
    groups: np.ndarray,
    rows: np.ndarray,
    settings: Settings,
) -> tuple[float, np.ndarray]:
    """Loss of one batch of pairs and its gradient for the whole table."""
    mean_q = averaging_matrix(queries, rows, len(table))
    mean_p = averaging_matrix(passages, rows, len(table))
    same = groups[rows][:, None] == groups[rows][None, :]
    np.fill_diagonal(same, False)
    loss, grad_q, grad_p = matryoshka_loss(
        mean_q @ table, mean_p @ table, same, settings.loss_dims, settings.scale
    )
    return loss, mean_q.T @ grad_q + mean_p.T @ grad_p

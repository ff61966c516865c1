"""One command: render, train, evaluate, export.

    npm install --prefix PACKAGES ...            (README.md; the drawings)
    python models/image/train.py --packages PACKAGES/node_modules --out models/image/matryo-image-en

Training keeps its state in ``WORK/NAME.state.pt`` every 250 steps, and ``--resume`` goes on from there, with the same
result as without a break. The rate stays the same for the first three quarters of ``--steps``, so a run that was
stopped there can also be resumed with fewer or more steps.

``--heads``, ``--weights`` and ``--loss-dims`` choose the variant of the Matryoshka loss; ``--name`` other than
``model`` trains a variant for the comparison in the model card without exporting it.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

import emoji
import wordpiece
from batches import MAX_TOKENS, Batches
from losses import Heads, matryoshka, relative_weights
from towers import TextTower, VisionTower

DIMS = (16, 32, 64, 128, 256)
WIDTH = 128
VOCAB = 6000
EMOJI_PER_BATCH, SCENES_PER_BATCH = 96, 56
WARM_UP = 60
STEADY = 0.75
"""Share of the steps before the rate begins to fall."""
KEEP_EVERY = 250


class TwoTowers(nn.Module):
    """Both towers and a temperature per prefix (as in CLIP, but learned for each granularity)."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vision, self.text = VisionTower(DIMS[-1]), TextTower(vocab, WIDTH, 2, MAX_TOKENS, DIMS[-1])
        self.log_scales = nn.Parameter(torch.full((len(DIMS),), math.log(12.0)))


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="node_modules with the packages of package.json")
    parser.add_argument("--work", type=Path, default=Path("target/image-recipe"), help="rendered drawings, checkpoints")
    parser.add_argument("--out", type=Path, help="directory to export the model to")
    parser.add_argument("--name", default="model", help="name of the checkpoint")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--heads", choices=("separate", "tied", "none"), default="separate", help="MRL, MRL-E, no heads")
    parser.add_argument("--weights", default="equal", help="equal, boost-first, boost-two, or numbers: 2,1,1,1,1")
    parser.add_argument("--loss-dims", default=",".join(map(str, DIMS)), help="prefixes in the loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from the state that an earlier run kept")
    parser.add_argument("--evaluate-only", action="store_true", help="use the checkpoint that is there")
    return parser.parse_args()


def schedule(step: int, steps: int) -> float:
    """Warm-up, a steady rate, then a straight line to zero (Zhai et al. 2022, "Scaling Vision Transformers", 3.5)."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (steps * (1 - STEADY)))


def pixel_values(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [n, h, w, 3] -> float [n, 3, h, w] in -1..1, as ``preprocessor_config.json`` says."""
    return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


class State:
    """What training needs to go on as if it had never stopped."""

    def __init__(self, path: Path, **parts: nn.Module | torch.optim.Optimizer) -> None:
        self.path, self.parts = path, parts

    def keep(self, step: int) -> None:
        """Write it, in one step: a run may be killed at any time."""
        states = {name: part.state_dict() for name, part in self.parts.items()}
        new = self.path.with_suffix(".new")
        torch.save({"step": step, "random": torch.get_rng_state(), **states}, new)
        new.replace(self.path)

    def load(self, steps: int) -> int:
        """The step to go on with in a run of ``steps``."""
        state = torch.load(self.path)
        if state["step"] > steps * STEADY:
            raise SystemExit(f"{self.path} is of step {state['step']}: a run of {steps} steps has begun to end there")
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        return state["step"]


def train(args: argparse.Namespace, concepts: list[emoji.Concept], tokenizer) -> TwoTowers:
    """Train both towers together."""
    torch.manual_seed(args.seed)
    dims = [int(part) for part in args.loss_dims.split(",")]
    weights = relative_weights(args.weights, len(dims))
    towers = TwoTowers(tokenizer.get_vocab_size())
    heads = Heads(dims, len(concepts), args.heads == "tied") if args.heads != "none" else None
    parameters = [*towers.parameters(), *(heads.parameters() if heads else [])]
    optimizer = torch.optim.AdamW(parameters, lr=args.rate, weight_decay=0.05)
    towers.vision.to(memory_format=torch.channels_last)
    parts = {"towers": towers, "optimizer": optimizer, **({"heads": heads} if heads else {})}
    state = State(args.work / f"{args.name}.state.pt", **parts)
    first = state.load(args.steps) if args.resume else 0
    data = Batches(concepts, tokenizer.to_str(), EMOJI_PER_BATCH, SCENES_PER_BATCH, args.seed, first)
    began = time.time()
    # With a generator of its own the loader leaves the state of random numbers alone.
    loader = DataLoader(data, batch_size=None, num_workers=1, generator=torch.Generator())
    for step, (pixels, ids, mask, fits, labels) in enumerate(loader, first):
        if step == args.steps:
            break
        if step % KEEP_EVERY == 0 and step > first and step <= args.steps * STEADY:
            state.keep(step)
        for group in optimizer.param_groups:
            group["lr"] = args.rate * schedule(step, args.steps)
        with torch.autocast("cpu", torch.bfloat16):
            pictures = towers.vision(pixel_values(pixels).to(memory_format=torch.channels_last)).float()
            captions = towers.text(ids, mask).float()
        scales = towers.log_scales.exp().clamp(max=60.0)[[DIMS.index(dim) for dim in dims]]
        loss = matryoshka(pictures, captions, fits, scales, dims, weights)
        total = loss if heads is None else loss + 0.3 * heads.loss(pictures, labels, weights)
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"{args.name}: step {step}, contrastive {loss.item():.3f}, all {total.item():.3f}, "
                  f"{time.time() - began:.0f} s", flush=True)
    return towers


def main() -> None:
    """Train or load, then measure and export."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    began = time.time()
    concepts = emoji.load(args.packages, args.work)
    tokenizer = wordpiece.train(wordpiece.training_texts(concepts, args.seed), VOCAB)
    checkpoint = args.work / f"{args.name}.pt"
    if args.evaluate_only:
        towers = TwoTowers(tokenizer.get_vocab_size())
        towers.load_state_dict(torch.load(checkpoint))
    else:
        towers = train(args, concepts, tokenizer)
        torch.save(towers.state_dict(), checkpoint)
    towers.eval()
    print(f"trained, {time.time() - began:.0f} s after the start", flush=True)
    import report  # Needs what was trained; its own imports are slow.

    report.write(args, towers, concepts, tokenizer)


if __name__ == "__main__":
    main()

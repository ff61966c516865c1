"""The ablation: what variants of the loss are worth at every prefix length.

    python models/image/train.py --packages PACKAGES/node_modules --work WORK --steps 250 --name mrl
    python models/image/train.py --packages PACKAGES/node_modules --work WORK --steps 250 --name control --loss-dims 256
    python models/image/compare.py --work WORK --steps 250 mrl control

reads what ``train.py --name`` measured and writes ``ABLATION.md`` beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

DIMS = (8, 16, 32, 64, 128, 256)
VARIANTS = {
    "mrl": ("MRL: separate heads, equal weights", ""),
    "control": ("no Matryoshka loss: the whole vector alone", "--loss-dims 256"),
    "tied": ("MRL-E: one head, sliced", "--heads tied"),
    "boost-first": ("boosted: weights 2, 1, 1, 1, 1", "--weights boost-first"),
    "boost-two": ("boosted: weights 2, 1.5, 1, 1, 1", "--weights boost-two"),
}
"""Name -> what it is, and the options that make it."""
TASKS = ("name to picture, hit@10", "scenes, hit@10", "scenes, pairs never drawn, hit@10", "picture to picture, 1-NN")


def table(task: str, measured: dict[str, dict[str, list[float]]]) -> str:
    """A task in Markdown: a line for each variant, the best of a column in bold."""
    best = [max(lines[task][at] for lines in measured.values()) for at in range(len(DIMS))]
    rows = ["| loss | " + " | ".join(map(str, DIMS)) + " |", "|---" * (len(DIMS) + 1) + "|"]
    for name, lines in measured.items():
        cells = [f"**{value:.3f}**" if value == top else f"{value:.3f}" for value, top in zip(lines[task], best)]
        rows.append(f"| {VARIANTS[name][0]} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("names", nargs="+", choices=list(VARIANTS))
    args = parser.parse_args()
    measured = {name: json.loads((args.work / f"{name}.json").read_text()) for name in args.names}
    text = [
        "# The loss, by prefix length", "",
        f"{args.steps} steps each, a sixteenth of what the shipped model had, with the same data, order and start; one seed. "
        "So short a training tells large differences only; those of a hundredth or two may be chance. Measured as in "
        "`matryo-image-en/EVALUATION.md`; 8 dimensions were trained for by none.", "",
        *(f"* {VARIANTS[name][0]}: `{' '.join(['train.py --steps', str(args.steps), '--name', name, *VARIANTS[name][1:]]).strip()}`"
          for name in args.names), "",
    ]
    for task in TASKS:
        text += [f"## {task[0].upper()}{task[1:]}", "", table(task, measured), ""]
    target = Path(__file__).resolve().parent / "ABLATION.md"
    target.write_text("\n".join(text), encoding="ascii")
    print("\n".join(text))


if __name__ == "__main__":
    main()

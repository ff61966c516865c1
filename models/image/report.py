"""Export, measure the exported files, write the tables, the plot and the model card."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

sys.path.append(str(Path(__file__).resolve().parent.parent))

import evaluate  # noqa: E402
import plot  # noqa: E402
from emoji import TEST_SET, Concept  # noqa: E402
from encoder import Encoder  # noqa: E402
from export import export  # noqa: E402

CARD = Path(__file__).resolve().parent / "card_template.md"
EVAL_DIMS = (8, 16, 32, 64, 128, 256)


def command_line(args: argparse.Namespace) -> str:
    """The command that ran, with the places left out: they differ on every machine."""
    words = list(sys.argv[1:])
    for option, name in {"--packages": "PACKAGES/node_modules", "--work": "WORK", "--out": "models/image/matryo-image-en"}.items():
        if option in words:
            words[words.index(option) + 1] = name
    return "python models/image/train.py " + " ".join(shlex.quote(w) for w in words if w != "--evaluate-only")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    cell = lambda c: f"{c:.3f}" if isinstance(c, float) else str(c)  # noqa: E731
    return "\n".join(lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows])


def sizes(folder: Path) -> str:
    """Sizes of the files of a model directory."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".md", ".svg"))
    rows = [(f"`{p.relative_to(folder).as_posix()}`", f"{p.stat().st_size:,}") for p in files]
    return table(["file", "bytes"], [*rows, ("all", f"{sum(p.stat().st_size for p in files):,}")])


def measure(folder: Path, concepts: Sequence[Concept]) -> tuple[str, dict[str, list[float]]]:
    """The tables, and the lines of the plot."""
    tasks, classes = evaluate.tasks(Encoder(folder), concepts)
    parts, lines = [], {}
    for task in tasks:
        rows = [(dim, evaluate.measure(task, dim)) for dim in EVAL_DIMS]
        parts += [
            f"## {task.name[0].upper()}{task.name[1:]}", "",
            f"{len(task.queries)} queries, {len(task.candidates)} candidates, "
            f"{task.right.sum() / len(task.right):.1f} right ones per query on average.", "",
            table(["dims", "hit@1", "hit@10", "mAP@10"], [(d, m.hit_1, m.hit_10, m.map_10) for d, m in rows]), "",
        ]
        lines[f"{task.name}, hit@10"] = [m.hit_10 for _, m in rows]
    rows = [(d, *evaluate.nearest_neighbour(classes, d), evaluate.linear_head(classes, d)) for d in EVAL_DIMS]
    parts += [
        "## Picture to picture", "",
        f"Each of {len(classes['test'])} held-out drawings among {len(classes['train'])} training drawings of the same "
        "emoji by other hands: 1-NN accuracy, mAP@10, and accuracy of a linear head (ridge regression) fitted on the "
        "training drawings.", "",
        table(["dims", "1-NN", "mAP@10", "linear head"], rows), "",
    ]
    lines["picture to picture, 1-NN"] = [row[1] for row in rows]
    return "\n".join(parts), lines


def write(args: argparse.Namespace, towers, concepts: Sequence[Concept], tokenizer: Tokenizer) -> None:
    """Everything after training."""
    folder = args.out or args.work / args.name
    loss_dims = [int(part) for part in args.loss_dims.split(",")]
    export(folder, towers, tokenizer, loss_dims)
    report, lines = measure(folder, concepts)
    intro = [
        "# Held-out evaluation", "", f"Command: `{command_line(args)}`", "",
        f"The exported files, run by ONNX Runtime. Pictures are the drawings of `{TEST_SET}`, of which none was trained "
        "on; their emoji were, as other sets draw them. Hit@k: the share of queries with a right answer among the first "
        "k. 8 dimensions were not trained for.", "", "![plot](evaluation.svg)", "",
    ]
    (folder / "EVALUATION.md").write_text("\n".join(intro) + report, encoding="ascii")
    plot.write(folder / "evaluation.svg", "Held-out retrieval by prefix length", EVAL_DIMS, lines)
    (args.work / f"{args.name}.json").write_text(json.dumps(lines))
    facts = {
        "SIZES": sizes(folder), "COMMAND": command_line(args), "STEPS": str(args.steps),
        "DIMS": ", ".join(map(str, loss_dims)), "VOCAB": str(tokenizer.get_vocab_size()),
        "SUMMARY": table(["task", *map(str, EVAL_DIMS)], [(name, *shares) for name, shares in lines.items()]),
    }
    text = CARD.read_text(encoding="ascii")
    for name, value in facts.items():
        text = text.replace("{{" + name + "}}", value)
    (folder / "README.md").write_text(text, encoding="ascii")
    print(report, flush=True)

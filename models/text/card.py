"""The held-out tables and the model card, written by the recipe so that they show what was measured."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from data import Split
from evaluate import Row, table_markdown
from training import Settings

TEMPLATE = Path(__file__).resolve().parent / "card_template.md"


def command_line() -> str:
    """The command that ran, with the places of data and output left out: they differ on every machine."""
    words = list(sys.argv[1:])
    places = {"--data": "DATA", "--evaluate-on": "OTHER_DATA", "--out": "models/text/matryo-text-en"}
    for option, name in places.items():
        if option in words:
            words[words.index(option) + 1] = name
    return "python models/text/train.py " + " ".join(shlex.quote(word) for word in words)


def evaluation(rows: list[Row], control: list[Row], settings: Settings, split: Split, pairs: int) -> str:
    """The tables with what they were measured on, as Markdown."""
    first = rows[0]
    return "\n".join([
        f"Command: `{command_line()}`",
        "",
        f"{len(split.eval_pairs)} held-out queries; each has one right answer among {len(split.eval_passages)} "
        f"passages of held-out documents. {pairs} training pairs, {settings.steps} steps of {settings.batch}.",
        "Left of each slash: this model, the exported int8 files run by ONNX Runtime. Right: the control, trained "
        "the same way without the Matryoshka loss (full length only), rounded to int8 too, then cut.",
        "",
        table_markdown(rows, control, settings.loss_dims),
        "",
        f"At {first.dim} dimensions, recall@10: {first.recall_10:.3f} with the Matryoshka loss, "
        f"{control[0].recall_10:.3f} without.",
    ])


def sizes(folder: Path) -> str:
    """Sizes of the files of a model directory, as Markdown."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix not in (".md", ".svg"))
    lines = [f"| `{p.relative_to(folder).as_posix()}` | {p.stat().st_size:,} |" for p in files]
    total = sum(p.stat().st_size for p in files)
    return "\n".join(["| file | bytes |", "|---|---|", *lines, f"| all | {total:,} |"])


def write(folder: Path, report: str, settings: Settings, vocab: int, max_tokens: int) -> None:
    """``EVALUATION.md`` and the model card ``README.md``."""
    (folder / "EVALUATION.md").write_text("# Held-out evaluation\n\n" + report + "\n", encoding="ascii")
    text = TEMPLATE.read_text(encoding="ascii")
    facts = {
        "EVALUATION": report, "SIZES": sizes(folder), "VOCAB": f"{vocab:,}", "WIDTH": str(settings.width),
        "DIMS": ", ".join(map(str, settings.loss_dims)), "MAX_TOKENS": str(max_tokens), "STEPS": str(settings.steps),
        "BATCH": str(settings.batch), "RATE": str(settings.learning_rate), "SCALE": f"{settings.scale:g}",
        "NEIGHBOURS": str(settings.neighbours), "COMMAND": command_line(),
    }
    for name, value in facts.items():
        text = text.replace("{{" + name + "}}", value)
    (folder / "README.md").write_text(text, encoding="ascii")

"""Reference vectors of both exported directories, made by Python and ONNX Runtime (``encoder.py`` has the steps).

    python models/text/reference.py

Every text is run alone (batch of one), so no padding takes part. ``prompt_name`` null means: none chosen, take the
default of the directory. ``prompt`` is the string that was put before the text, ``token_ids`` are the ids that went
into the graph with mask 1. Numbers have 8 significant digits: compare with a tolerance of about 1e-6.
"""

from __future__ import annotations

import json
from pathlib import Path

from encoder import Encoder

TEXTS: list[tuple[str | None, str]] = [
    (None, ""),
    (None, " \t\n"),
    (None, "vector"),
    ("query", "how do I open a file for reading?"),
    ("document", "Opens a file. If the file does not exist, the function fails with ERROR_FILE_NOT_FOUND (2)."),
    (None, "std::vec::Vec<T>::with_capacity(n) allocates once; getHTTPResponseCode2 does not."),
    (None, "UPPER lower MiXeD 0123456789 3.14 1e-9 -- __init__"),
    (None, "na\u00efve caf\u00e9 \u00dcber stra\u00dfe \u0130stanbul"),
    (None, "rocket \U0001f680 family \U0001f468\u200d\U0001f469\u200d\U0001f467 flag \U0001f1eb\U0001f1f7"),
    (None, "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 mixed with English"),
    (None, "\u5411\u91cf\u6570\u636e\u5e93 database"),
    (None, "a" * 300),
    (None, "zero\u200bwidth\u00a0and\u0000control"),
    ("query", "The quick service restarts the driver and writes the event log. " * 60),
    ("document", "word " * 1000),
    (None, "Read the next item from the queue, wait at most one second, and report a time-out as an error."),
]


def case(encoder: Encoder, name: str | None, text: str) -> dict:
    """One text with everything that led to its vector."""
    inputs = encoder.inputs([text], name)
    ids = [int(i) for i, m in zip(inputs["input_ids"][0], inputs["attention_mask"][0]) if m]
    vector = [float(f"{value:.8g}") for value in encoder.encode([text], name)[0]]
    return {"text": text, "prompt_name": name, "prompt": encoder.prompt(name), "token_ids": ids, "vector": vector}


def write_reference(folder: Path, name: str, target: Path) -> None:
    """All texts of one directory."""
    encoder = Encoder(folder, threads=1)
    cases = [case(encoder, prompt, text) for prompt, text in TEXTS]
    head = json.dumps({"model": name, "output": encoder.output})[:-1]
    body = ",\n".join(json.dumps(entry) for entry in cases)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(f'{head}, "cases": [\n{body}\n]}}\n', encoding="ascii")


def write_all(folders: dict[str, Path], target: Path) -> None:
    """Reference files of several directories."""
    for name, folder in folders.items():
        write_reference(folder, name, target / f"{name}.json")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    write_all({name: here / name for name in ("matryo-text-en", "test-pooling")}, here / "reference")

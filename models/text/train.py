"""One command: train, evaluate, export.

    python models/text/train.py --data FOLDER --out models/text/matryo-text-en

FOLDER holds the two files described in ``data.py``. Without --data the pairs come from the crates in the local cargo
registry (``crate_docs.py``), which gives a weaker model.
"""

from __future__ import annotations

import argparse
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

# Before numpy loads: the model and its control train side by side, one thread each.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "2")

import numpy as np  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

import card  # noqa: E402
import classes  # noqa: E402
import reference  # noqa: E402
from crate_docs import load_registry  # noqa: E402
from data import Corpus, Split, load_corpus, split_corpus  # noqa: E402
from encoder import Encoder  # noqa: E402
from evaluate import Row, evaluate  # noqa: E402
from export import dequantise, export_static, quantise  # noqa: E402
from mrl import averaging_matrix  # noqa: E402
from tiny import export_tiny  # noqa: E402
from training import Settings, train_table  # noqa: E402
from wordpiece import TokenBags, tokenize, train_tokenizer  # noqa: E402

BUNDLED = Path(__file__).resolve().parent / "matryo-text-en"
MAX_TOKENS = 256
EVAL_DIMS = classes.DIMS


@dataclass
class Tokens:
    """Token bags of the training pairs, and a number per distinct passage text."""

    queries: TokenBags
    passages: TokenBags
    groups: np.ndarray


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with passages.jsonl.gz and pairs_train.jsonl.gz")
    parser.add_argument("--evaluate-on", type=Path, help="hold out from this folder instead of from --data")
    parser.add_argument("--out", type=Path, required=True, help="directory to write the model to")
    parser.add_argument("--vocab", type=int, default=20_000)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--held-out", type=float, default=0.04, help="share of the documents held out")
    parser.add_argument("--queries", type=int, default=2_000, help="held-out queries to measure with")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def training_texts(corpus: Corpus, split: Split) -> list[str]:
    """Queries and passages of the training pairs: all the text that shapes the model."""
    passages = [corpus.texts[row] for row in np.unique(corpus.answers[split.train_pairs])]
    return [corpus.queries[i] for i in split.train_pairs] + passages


def tokenize_pairs(tokenizer: Tokenizer, corpus: Corpus, split: Split) -> Tokens:
    """Tokens of the training pairs, in the order of the file (neighbours stay neighbours)."""
    passages = [corpus.texts[row] for row in corpus.answers[split.train_pairs]]
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(text, len(numbers)) for text in passages], dtype=np.int64)
    queries = [corpus.queries[i] for i in split.train_pairs]
    return Tokens(tokenize(tokenizer, queries, MAX_TOKENS), tokenize(tokenizer, passages, MAX_TOKENS), groups)


def held_out(corpus: Corpus, split: Split) -> tuple[list[str], list[str]]:
    """Queries and passages of the held-out task."""
    return [corpus.queries[i] for i in split.eval_pairs], [corpus.texts[row] for row in split.eval_passages]


def evaluate_shipped(folder: Path, corpus: Corpus, split: Split) -> list[Row]:
    """Measure the exported files themselves, through ONNX Runtime."""
    queries, passages = held_out(corpus, split)
    encoder = Encoder(folder)
    return evaluate(encoder.encode(queries), encoder.encode(passages), split.eval_targets, EVAL_DIMS)


def evaluate_control(tokenizer: Tokenizer, table: np.ndarray, corpus: Corpus, split: Split) -> list[Row]:
    """Measure a table that is not exported, after the same rounding to int8."""
    table = dequantise(*quantise(table))
    bags = [tokenize(tokenizer, texts, MAX_TOKENS) for texts in held_out(corpus, split)]
    vectors = [averaging_matrix(b, np.arange(len(b)), len(table)) @ table for b in bags]
    return evaluate(vectors[0], vectors[1], split.eval_targets, EVAL_DIMS)


def train_both(tokens: Tokens, vocab_size: int, settings: Settings) -> list[np.ndarray]:
    """The Matryoshka table, and its control: same data, order, steps and start, loss on the full length alone."""
    runs = [replace(settings, name="Matryoshka"), replace(settings, name="control", loss_dims=(settings.width,))]
    with ProcessPoolExecutor(max_workers=2) as pool:
        waiting = [
            pool.submit(train_table, tokens.queries, tokens.passages, tokens.groups, vocab_size, run) for run in runs
        ]
        return [result.result() for result in waiting]


def is_bundled(out: Path) -> bool:
    """Whether the model replaces the bundled one, whose tests then want other files too."""
    return out.resolve() == BUNDLED


def write_tests(texts: list[str]) -> None:
    """The test model, and the reference vectors of both, beside the bundled model."""
    tiny = BUNDLED.parent / "test-pooling"
    export_tiny(tiny, texts[:50_000])
    reference.write_all({BUNDLED.name: BUNDLED, tiny.name: tiny}, BUNDLED.parent / "reference")


def main() -> None:
    """Train, export and evaluate the model and its control, and write the model card."""
    args = parse_arguments()
    began = time.time()
    corpus = load_corpus(args.data) if args.data else load_registry()
    split = split_corpus(corpus, args.held_out, args.queries, args.seed)
    eval_corpus, eval_split = corpus, split
    if args.evaluate_on:
        eval_corpus = load_corpus(args.evaluate_on)
        eval_split = split_corpus(eval_corpus, args.held_out, args.queries, args.seed)
    print(f"{len(split.train_pairs)} training pairs; {len(eval_split.eval_pairs)} held-out queries "
          f"among {len(eval_split.eval_passages)} held-out passages", flush=True)
    tokenizer = train_tokenizer(training_texts(corpus, split), args.vocab)
    tokens = tokenize_pairs(tokenizer, corpus, split)
    settings = Settings(steps=args.steps, seed=args.seed)
    tables = train_both(tokens, tokenizer.get_vocab_size(), settings)
    export_static(args.out, tokenizer, tables[0], settings.loss_dims, MAX_TOKENS)
    if is_bundled(args.out):
        write_tests(training_texts(corpus, split))
    print(f"trained and exported, {time.time() - began:.0f} s after the start", flush=True)
    rows = evaluate_shipped(args.out, eval_corpus, eval_split)
    control = evaluate_control(tokenizer, tables[1], eval_corpus, eval_split)
    report = card.evaluation(rows, control, settings, eval_split, len(split.train_pairs))
    print(report)
    card.write(args.out, report, settings, tokenizer.get_vocab_size(), MAX_TOKENS)
    print(classes.measure(args.out, eval_corpus, eval_split, rows, settings.loss_dims))
    print(f"done in {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()

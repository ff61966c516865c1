"""Fast checks on synthetic data: ``python -m unittest discover -s models/text -p 'test_*.py'``."""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np  # noqa: E402

import classes  # noqa: E402
import train  # noqa: E402
from crate_docs import commented_items, sections  # noqa: E402
from data import Corpus, Split, split_corpus, stable_hash  # noqa: E402
from encoder import Encoder  # noqa: E402
from evaluate import evaluate  # noqa: E402
from export import dequantise, export_static, quantise  # noqa: E402
from mrl import averaging_matrix, matryoshka_loss, normalise  # noqa: E402
from tiny import export_tiny  # noqa: E402
from training import Settings, train_table  # noqa: E402
from wordpiece import TokenBags, tokenize, train_tokenizer  # noqa: E402

WORDS = [a + b for a in ("read", "write", "open", "close", "seek") for b in ("file", "pipe", "socket", "page")]


def synthetic_texts(count: int, seed: int = 0) -> list[str]:
    """Sentences of random words."""
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, size=rng.integers(2, 30))) for _ in range(count)]


def synthetic_bags(count: int, vocab: int, seed: int = 0) -> tuple[TokenBags, TokenBags]:
    """Pairs that share a topic token, with noise tokens around it."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, vocab // 2, count)
    noise = rng.integers(vocab // 2, vocab, (2, count, 3))
    starts = np.arange(count + 1, dtype=np.int64) * 4
    return tuple(TokenBags(np.column_stack([topics, n]).astype(np.int32).ravel(), starts) for n in noise)


class LossTest(unittest.TestCase):
    """The loss and its gradient."""

    def test_gradient_equals_finite_differences(self) -> None:
        rng = np.random.default_rng(1)
        queries, passages = rng.normal(size=(2, 5, 8))
        same = np.zeros((5, 5), bool)
        same[1, 3] = same[3, 1] = True
        _, grad_q, grad_p = matryoshka_loss(queries, passages, same, (2, 4, 8), 5.0)
        for values, grad in ((queries, grad_q), (passages, grad_p)):
            for at in [(0, 0), (1, 1), (3, 5), (4, 7)]:
                kept, step = values[at], 1e-5
                values[at] = kept + step
                above = matryoshka_loss(queries, passages, same, (2, 4, 8), 5.0)[0]
                values[at] = kept - step
                below = matryoshka_loss(queries, passages, same, (2, 4, 8), 5.0)[0]
                values[at] = kept
                self.assertAlmostEqual((above - below) / (2 * step), grad[at], places=6)

    def test_training_lowers_the_loss_of_every_prefix(self) -> None:
        queries, passages = synthetic_bags(600, 100)
        settings = Settings(width=16, loss_dims=(4, 8, 16), steps=60, batch=64, neighbours=1)
        table = train_table(queries, passages, np.arange(600), 100, settings)
        start = np.random.default_rng(1).normal(size=table.shape).astype(np.float32)
        rows, same = np.arange(64), np.zeros((64, 64), bool)
        mean_q, mean_p = (averaging_matrix(bags, rows, 100) for bags in (queries, passages))
        for dim in settings.loss_dims:
            after = matryoshka_loss(mean_q @ table, mean_p @ table, same, (dim,), 12.0)[0]
            before = matryoshka_loss(mean_q @ start, mean_p @ start, same, (dim,), 12.0)[0]
            self.assertLess(after, 0.7 * before)


class ExportTest(unittest.TestCase):
    """The exported files against the same arithmetic in numpy."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.folder = tempfile.TemporaryDirectory()
        cls.path = Path(cls.folder.name)
        cls.tokenizer = train_tokenizer(synthetic_texts(300), 200)
        cls.vocab = cls.tokenizer.get_vocab_size()
        rng = np.random.default_rng(2)
        # Rows of very different lengths, as training makes them.
        cls.table = (rng.normal(size=(cls.vocab, 64)) * rng.uniform(0.01, 3, (cls.vocab, 1))).astype(np.float32)
        export_static(cls.path / "static", cls.tokenizer, cls.table, (16, 64), 12)
        export_tiny(cls.path / "tiny", synthetic_texts(300))
        cls.texts = ["", "readfile", *synthetic_texts(20, seed=3)]

    @classmethod
    def tearDownClass(cls) -> None:
        cls.folder.cleanup()

    def forward(self, table: np.ndarray) -> np.ndarray:
        bags = tokenize(self.tokenizer, self.texts, 12)
        return normalise(averaging_matrix(bags, np.arange(len(bags)), self.vocab) @ table)[0]

    def test_graph_equals_numpy(self) -> None:
        vectors = Encoder(self.path / "static").encode(self.texts)
        expected = self.forward(dequantise(*quantise(self.table)))
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        np.testing.assert_array_equal(vectors[0], 0.0)
        np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1.0, atol=1e-5)

    def test_int8_stays_close_to_float(self) -> None:
        vectors = Encoder(self.path / "static").encode(self.texts)[1:]
        self.assertGreater(np.sum(vectors * self.forward(self.table)[1:], axis=1).min(), 0.999)

    def test_padding_does_not_matter(self) -> None:
        for name in ("static", "tiny"):
            encoder = Encoder(self.path / name)
            alone = np.concatenate([encoder.encode([text]) for text in self.texts])
            np.testing.assert_allclose(encoder.encode(self.texts), alone, atol=1e-6)

    def test_prompts_and_special_tokens(self) -> None:
        encoder = Encoder(self.path / "tiny")
        self.assertEqual(encoder.prompt(None), "passage: ")
        ids = encoder.inputs(["readfile " * 100], "query")["input_ids"][0]
        self.assertEqual((len(ids), ids[0], ids[-1]), (32, 2, 3))
        self.assertFalse(np.allclose(encoder.encode(["readfile"], "query"), encoder.encode(["readfile"])))


class DataTest(unittest.TestCase):
    """The split and the measures."""

    def test_no_held_out_text_is_trained_on(self) -> None:
        texts = [f"passage {i // 2}" for i in range(400)]
        docs = np.array([stable_hash(str(i // 5)) for i in range(400)], dtype=np.int64)
        corpus = Corpus(texts, docs, [f"question {i // 3}" for i in range(400)], np.arange(400))
        split = split_corpus(corpus, 0.2, 1000, 1)
        trained = {texts[row] for row in corpus.answers[split.train_pairs]}
        self.assertFalse(trained & {texts[row] for row in split.eval_passages})
        self.assertFalse({corpus.queries[i] for i in split.train_pairs} & {corpus.queries[i] for i in split.eval_pairs})
        for pair, target in zip(split.eval_pairs, split.eval_targets):
            self.assertEqual(texts[split.eval_passages[target]], texts[corpus.answers[pair]])

    def test_measures_of_a_perfect_model(self) -> None:
        vectors = np.random.default_rng(0).normal(size=(200, 32)).astype(np.float32)
        rows = evaluate(vectors[:50], vectors, np.arange(50), (16, 32))
        self.assertEqual((rows[1].recall_1, rows[1].mrr_10, rows[1].kept_10), (1.0, 1.0, 1.0))

    def test_rust_comments_and_markdown(self) -> None:
        source = "/// Reads all bytes.\n///\n/// ```\n/// code();\n/// ```\n#[inline]\npub async fn read_all() {}\n"
        items = list(commented_items(source))
        self.assertEqual(items[0][0], "read_all function")
        self.assertEqual(list(sections(items[0][1])), [("", ["Reads all bytes."])])
        self.assertEqual(list(sections(["# A `b`", "see [c](d)"]))[1], ("A b", ["see c"]))


class Outputs(unittest.TestCase):
    def test_only_the_bundled_model_replaces_what_tests_read(self) -> None:
        here = Path(__file__).resolve().parent
        self.assertTrue(train.is_bundled(here / "../text/matryo-text-en"))
        self.assertFalse(train.is_bundled(here / "another"))
        self.assertFalse(train.is_bundled(Path("/tmp/matryo-text-en")))


class Classification(unittest.TestCase):
    def test_documents_that_are_small_are_left_out_and_large_ones_cut(self) -> None:
        docs = np.repeat([5, 6, 7], [classes.FEWEST - 1, classes.FEWEST, classes.MOST + 3])
        places, labels = classes.choose(docs)
        self.assertEqual(np.bincount(labels).tolist(), [classes.FEWEST, classes.MOST])
        self.assertTrue((docs[places] == np.array([6, 7])[labels]).all())

    def test_small_documents_alone_are_told_and_not_measured(self) -> None:
        docs = np.repeat([5, 6], classes.FEWEST - 1)
        corpus = Corpus(["text"] * len(docs), docs, [], np.zeros(0, dtype=np.int64))
        split = Split(*[np.arange(n) for n in (0, len(docs), 0, 0)])
        with tempfile.TemporaryDirectory() as folder:
            said = classes.measure(Path(folder), corpus, split, [], ())
            self.assertEqual(list(Path(folder).iterdir()), [])
        self.assertIn("no CLASSES.md", said)

    def test_average_precision_is_over_what_can_be_found(self) -> None:
        found = np.array([[True, False, True, False], [False, False, False, False]])
        self.assertAlmostEqual(classes.average_precision(found, np.array([2, 3])), (1 + 2 / 3) / 2 / 2)
        self.assertAlmostEqual(classes.average_precision(found[:1], np.array([9])), (1 + 2 / 3) / 4)

    def test_classes_are_told_apart_where_the_prefix_does(self) -> None:
        rng = np.random.default_rng(3)
        labels = np.arange(400) % 4
        vectors = rng.normal(0, 0.05, (400, 64)).astype(np.float32)
        # Two of the classes differ behind the first 32 dimensions alone.
        vectors[np.arange(400), labels // 2] += 1
        vectors[np.arange(400), 40 + labels % 2] += 1
        half = np.arange(400) < 200
        data = classes.Classes(vectors[half], labels[half], vectors[~half], labels[~half])
        low, high = classes.score(data, 32), classes.score(data, 64)
        for field in ("nearest", "linear"):
            self.assertLess(abs(getattr(low, field) - 0.5), 0.15)
            self.assertGreater(getattr(high, field), 0.95)
        self.assertGreater(high.map_10, low.map_10 + 0.3)


if __name__ == "__main__":
    unittest.main()

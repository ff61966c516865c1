"""The parts of the recipe that can be checked without data: losses, captions, export, measures."""

from __future__ import annotations

import random
import tempfile
import unittest
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch.nn import functional

import evaluate
import export
import losses
import scenes
import train
import wordpiece
from towers import TextTower, VisionTower


class Losses(unittest.TestCase):
    def test_weights_by_name_and_by_number(self) -> None:
        self.assertEqual(losses.relative_weights("equal", 3), [1.0, 1.0, 1.0])
        self.assertEqual(losses.relative_weights("boost-two", 4), [2.0, 1.5, 1.0, 1.0])
        self.assertEqual(losses.relative_weights("3,0", 2), [3.0, 0.0])
        for wrong in ("1,2", "1,-1,1", "0,0,0"):
            with self.assertRaises(ValueError):
                losses.relative_weights(wrong, 3)

    def test_a_fitting_picture_is_no_wrong_answer(self) -> None:
        torch.manual_seed(1)
        pictures, captions = torch.randn(3, 4), torch.randn(3, 4)
        fits = torch.eye(3, dtype=torch.bool)
        fits[0, 1] = True
        found = losses.info_nce(pictures, captions, fits, torch.tensor(5.0))
        p, c = functional.normalize(pictures), functional.normalize(captions)
        logits = 5 * c @ p.T
        logits[0, 1] = -torch.inf
        right = torch.arange(3)
        want = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
        self.assertAlmostEqual(found.item(), want.item(), places=5)

    def test_matryoshka_is_the_weighted_mean_over_prefixes(self) -> None:
        torch.manual_seed(2)
        pictures, captions, fits = torch.randn(4, 8), torch.randn(4, 8), torch.eye(4, dtype=torch.bool)
        scales = torch.tensor([3.0, 7.0])
        parts = [losses.info_nce(pictures[:, :d], captions[:, :d], fits, s) for d, s in zip((2, 8), scales)]
        found = losses.matryoshka(pictures, captions, fits, scales, (2, 8), (2.0, 1.0))
        self.assertAlmostEqual(found.item(), (2 * parts[0] + parts[1]).item() / 3, places=5)

    def test_tied_heads_are_slices_of_one(self) -> None:
        torch.manual_seed(3)
        heads, x = losses.Heads((2, 6), 5, tied=True), torch.randn(4, 6)
        self.assertEqual(len(heads.layers), 1)
        small, whole = heads.logits(x)
        self.assertTrue(torch.allclose(whole, heads.layers[0](x)))
        cut = torch.cat([x[:, :2], torch.zeros(4, 4)], dim=1)
        self.assertTrue(torch.allclose(small, heads.layers[0](cut), atol=1e-6))
        self.assertEqual(len(losses.Heads((2, 6), 5, tied=False).layers), 2)


class Training(unittest.TestCase):
    def test_the_rate_is_steady_and_then_falls_to_nothing(self) -> None:
        rates = [train.schedule(step, 1000) for step in range(1000)]
        self.assertAlmostEqual(rates[0], 1 / train.WARM_UP)
        self.assertEqual(set(rates[train.WARM_UP : 750]), {1.0})
        self.assertAlmostEqual(rates[875], 0.5)
        self.assertLess(rates[999], 0.005)
        # Until it falls, the length of the run does not matter: any can be resumed as another.
        self.assertEqual(rates[:750], [train.schedule(step, 4000) for step in range(750)])

    def test_a_resumed_run_is_the_same(self) -> None:
        def made():
            torch.manual_seed(8)
            layer = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
            return layer, torch.optim.AdamW(layer.parameters(), lr=0.1)

        def steps(layer, optimizer, count: int) -> torch.Tensor:
            for _ in range(count):
                optimizer.zero_grad()
                layer(torch.ones(2, 4)).square().sum().backward()
                optimizer.step()
            return layer[0].weight.detach().clone()

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "name.state.pt"
            layer, optimizer = made()
            steps(layer, optimizer, 3)
            train.State(path, layer=layer, optimizer=optimizer).keep(3)
            through = steps(layer, optimizer, 3)
            layer, optimizer = made()
            state = train.State(path, layer=layer, optimizer=optimizer)
            self.assertEqual(state.load(4), 3)
            self.assertTrue(torch.equal(steps(layer, optimizer, 3), through))
            with self.assertRaises(SystemExit):
                state.load(3)  # Such a run would have slowed down by step 3.


class Tokens(unittest.TestCase):
    def test_ids_have_no_gaps_and_are_the_same_each_time(self) -> None:
        texts = ["a red apple", "red cars", "x " * 9]
        first, second = wordpiece.train(texts, 200), wordpiece.train(texts, 200)
        self.assertEqual(first.to_str(), second.to_str())
        self.assertEqual(sorted(first.get_vocab().values()), list(range(first.get_vocab_size())))
        self.assertEqual(first.encode("apples").tokens, ["apple", "##s"])


class Scenes(unittest.TestCase):
    def test_every_caption_is_true_of_its_scene(self) -> None:
        rng = random.Random(4)
        for _ in range(2000):
            scene = scenes.draw_scene(rng)
            text, claims = scenes.caption(scene, rng)
            self.assertLessEqual(claims, scene.facts(), text)

    def test_held_out_pairs_are_drawn_only_when_asked(self) -> None:
        rng = random.Random(5)
        for held_out in (False, True):
            for _ in range(500):
                scene = scenes.draw_scene(rng, held_out=held_out)
                groups = [g for g in scene.groups if g.colour]
                found = [scenes.is_held_out(g.colour, g.kind) for g in groups]
                self.assertEqual(any(found), held_out)
        pairs = [scenes.is_held_out(c, s) for c in scenes.COLOURS for s in scenes.SHAPES]
        self.assertEqual(sum(pairs), 10)

    def test_the_first_group_is_where_the_caption_says(self) -> None:
        red, blue = scenes.Group(1, "red", "square"), scenes.Group(1, "blue", "circle")
        for relation, axis, first in (("left", 1, True), ("right", 1, False), ("above", 0, True), ("below", 0, False)):
            pixels = scenes.paint(scenes.Scene((red, blue), relation), random.Random(6), None).astype(int)
            at = np.argwhere(pixels[..., 0] - pixels[..., 2] > 90)[:, axis].mean()
            other = np.argwhere(pixels[..., 2] - pixels[..., 0] > 90)[:, axis].mean()
            self.assertEqual(at < other, first, relation)


class Export(unittest.TestCase):
    def test_the_graphs_compute_what_the_towers_do(self) -> None:
        torch.manual_seed(7)
        vision, text = VisionTower(16), TextTower(50, 32, 2, 24, 16)
        vision(torch.randn(8, 3, 64, 64))  # Moves the statistics of the normalisation.
        vision.eval(), text.eval()
        pixels, ids = torch.randn(3, 3, 64, 64), torch.randint(2, 50, (3, 7))
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [0] * 7])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            export.export_vision(vision, path / "v.onnx", 16)
            export.export_text(text, path / "t.onnx", 16)
            run = lambda name, feed: onnxruntime.InferenceSession(str(path / name)).run(None, feed)[0]  # noqa: E731
            found = run("v.onnx", {"pixel_values": pixels.numpy()}), run("t.onnx", {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            wanted = functional.normalize(vision(pixels)), functional.normalize(text(ids, mask))
        for a, b in zip(found, wanted):
            self.assertLess(np.abs(a - b.numpy()).max(), 5e-3)  # Half-precision weights.


class Measures(unittest.TestCase):
    def test_mean_average_precision(self) -> None:
        # Right ones at ranks 1 and 3 of two: (1 + 2/3) / 2.
        queries = np.array([[1.0, 0.0]])
        candidates = np.array([[1.0, 0.0], [1.0, 0.2], [1.0, 0.4], [0.0, 1.0]])
        task = evaluate.Task("", queries, candidates, np.array([[True, False, True, False]]))
        found = evaluate.measure(task, 2)
        self.assertAlmostEqual(found.map_10, (1 + 2 / 3) / 2)
        self.assertEqual((found.hit_1, found.hit_10), (1.0, 1.0))


if __name__ == "__main__":
    unittest.main()

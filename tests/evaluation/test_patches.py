"""Patch labels, their texts and their coherence against loops by hand, with a tiny CLIP."""

import itertools
import json

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from helpers.colour_world import METHODS, image_set, squares
from PIL import Image
from sklearn.metrics import auc
from torch.nn import functional as F

from pacl.clip.texts import ClassTexts
from pacl.data.benchmark import IGNORE, Benchmark
from pacl.data.images import Images
from pacl.evaluation.patches import (
    accuracy_by_class,
    accuracy_interval,
    coherence,
    coherence_by_block,
    patch_colours,
    patch_map,
    patch_predictions,
    scene_patches,
    view_of,
    write_patch_alignment,
)
from pacl.metrics import coherence_interval, coherence_roc


def majority(block):
    values, counts = np.unique(block, return_counts=True)  # 255 comes last: of equal counts the first is taken
    return values[counts.argmax()]


def test_scene_patches_are_clips_tokens_and_majority_labels(tiny_clip):
    """Images of 64 x 64 pixels, seen at 32 x 32: the nearest pixel of each 2 x 2 block is its last."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    masks = np.kron(rng.choice(np.array([0, 1, 2, 3, 255]), (3, 8, 8)), np.ones((8, 8))).astype(np.uint8)
    masks[0, :24, :40] = 255
    masks[1, ::2] = 3  # these rows aren't seen
    benchmark = Benchmark("", ("",) * 8, (2, 0, 1, 7, *[-1] * 251, IGNORE))
    blocks = ["clip", "maskclip"]
    found, labels = scene_patches(tiny_clip, image_set(images, masks), benchmark, last_blocks=blocks, batch_size=2)
    tokens = found["clip"]
    assert found["maskclip"].shape == tokens.shape and not torch.allclose(found["maskclip"], tokens)
    assert tokens.shape == (3, 16, 32) and labels.shape == (3, 16)
    for i in range(3):
        alone = tiny_clip.patch_features(tiny_clip.preprocess(Image.fromarray(images[i]))[None])[0]
        torch.testing.assert_close(tokens[i], alone, atol=1e-5, rtol=1e-5)
        target = np.array(benchmark.table)[masks[i]][1::2, 1::2]
        expected = [majority(target[8 * row : 8 * row + 8, 8 * c : 8 * c + 8]) for row in range(4) for c in range(4)]
        assert labels[i].tolist() == expected
    assert labels[0, 0] == 255


def test_masks_are_cropped_as_the_images_are(tiny_clip):
    """A grey ramp is mask and picture at once: what the crop shows is what the crop is labelled with."""
    for size in ((32, 80), (50, 32)):
        ramp = np.broadcast_to(np.add.outer(2 * np.arange(size[0]), 2 * np.arange(size[1])), size).astype(np.uint8)
        seen = tiny_clip.preprocess(Image.fromarray(np.repeat(ramp[..., None], 3, 2)))
        shown = (seen * torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None])[0] + open_clip.OPENAI_DATASET_MEAN[0]
        assert np.abs(view_of(ramp, 32) - 255 * shown.numpy()).max() < 1.5
    labels = view_of(np.kron([[0, 200], [100, 0]], np.ones((50, 50))).astype(np.uint8), 32)
    assert labels.shape == (32, 32) and set(np.unique(labels)) == {0, 100, 200}  # no label between two


def test_patches_are_classed_by_their_highest_cosine():
    generator = torch.Generator().manual_seed(0)
    patches, text = torch.randn(5, 6, 3, generator=generator), torch.randn(4, 6, generator=generator)
    index = torch.tensor([0, 1, 1, 2])
    found = patch_predictions(METHODS["clip"], patches, ClassTexts(text, index), batch_size=2)
    assert found.shape == (5, 6)
    for i, n in itertools.product(range(5), range(6)):
        cosines = F.cosine_similarity(squares(patches[i : i + 1])[0, n][None], text)
        assert found[i, n] == index[cosines.argmax()]


def test_patch_accuracy_by_class_by_hand():
    labels = torch.tensor([[0, 1, 255, 1], [0, 0, 255, 3]])
    preds = torch.tensor([[0, 1, 0, 0], [0, 1, 3, 3]])
    table = accuracy_by_class(preds, labels, ["cat", "dog", "duck", "sea"])
    assert table.columns.tolist() == ["class", "accuracy", "patches"]
    assert table["class"].tolist() == ["cat", "dog", "sea"] and table["patches"].tolist() == [3, 2, 1]
    assert table["accuracy"].tolist() == pytest.approx([2 / 3, 1 / 2, 1.0])


@pytest.mark.parametrize("pairs, seed", [(20_000, 0), (500, 1)])
def test_coherence_is_the_metrics_with_its_curve_of_at_most_400_points(pairs, seed):
    generator = torch.Generator().manual_seed(0)
    labels, noise = torch.randint(0, 3, (20, 9), generator=generator), torch.randn(20, 9, 3, generator=generator)
    labels[0, :4] = 255
    features = F.one_hot(labels.clamp(max=2), 3) + noise
    found = coherence(features, labels, pairs=pairs, seed=seed)
    images = torch.arange(20).repeat_interleave(9)
    *drawn, area = coherence_roc(features.flatten(0, 1), labels.flatten(), images, pairs=pairs, seed=seed)
    assert (found["auc"], found["interval"]) == (area, coherence_interval(*drawn, seed))
    assert found["interval"][0] <= area <= found["interval"][1]
    points = np.stack([found["false_positives"], found["true_positives"]])
    assert auc(*points) == pytest.approx(area, abs=0.005)  # thinned, still the curve
    assert points[:, 0].tolist() == [0, 0] and points[:, -1].tolist() == [1, 1] and (np.diff(points) >= 0).all()
    assert len(np.unique(points, axis=1).T) == len(points.T)  # so few are neither thinned nor repeated
    assert len(points.T) == 400 if pairs == 20_000 else len(points.T) < 400


def test_coherence_of_each_block_is_that_of_its_own_tokens(tiny_clip, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    labels = torch.randint(0, 2, (5, 16), generator=torch.Generator().manual_seed(0))
    labels[1, :9] = IGNORE
    x = torch.stack([tiny_clip.preprocess(Image.fromarray(one)) for one in images])
    tokens = [block.flatten(0, 1) for block in tiny_clip.block_features(x)]
    ids = torch.arange(5).repeat_interleave(16)
    expected = [coherence_roc(block, labels.flatten(), ids, pairs=3000, seed=0)[-1] for block in tokens]
    found = coherence_by_block(tiny_clip, Images(images), labels, pairs=3000, seed=0, batch_size=2)
    assert found == pytest.approx(expected) and len(found) == tiny_clip.model.visual.transformer.layers
    monkeypatch.setattr("pacl.evaluation.patches.MOST_PATCHES", 30)
    fewer = coherence_by_block(tiny_clip, Images(images), labels, pairs=3000, seed=0, batch_size=2)
    assert fewer != found and all(0 <= area <= 1 for area in fewer)


def test_interval_of_the_patch_accuracy_resamples_images():
    labels = torch.zeros(400, 4, dtype=torch.long)
    labels[:, 3] = 255
    preds = torch.ones(400, 4, dtype=torch.long)
    preds[:200, :3] = 0  # half of the images wholly right
    low, high = accuracy_interval(preds, labels, seed=0)  # of 400 images, not 1,200 patches
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.01)
    assert accuracy_interval(labels, labels, seed=0) == (1.0, 1.0)
    labels[200:, 1:] = 255  # each patch counts alike: 600 right ones and 200 wrong
    low, high = accuracy_interval(preds, labels, seed=0)
    assert 0.7 < low < 0.75 < high < 0.8


def test_the_map_puts_patches_of_a_class_next_to_its_text():
    generator = torch.Generator().manual_seed(0)
    text = F.normalize(torch.randn(5, 16, generator=generator), dim=-1)
    labels = torch.randint(0, 4, (30, 9), generator=generator)  # class 4 has no patch
    labels[:8] = 255  # more patches than of any class
    embeddings = text[labels.clamp(max=4)] + 0.05 * torch.randn(30, 9, 16, generator=generator)
    embeddings *= 1 + 9 * torch.rand(30, 9, 1, generator=generator)  # lengths don't count
    table = patch_map(embeddings, labels, text, classes=4, patches=120, seed=0)
    assert table[~table.is_text].groupby("label").size().tolist() == [30] * 4
    centres = table[table.is_text].set_index("label")[["x", "y"]]
    assert sorted(centres.index) == [0, 1, 2, 3]
    for row in table[~table.is_text].itertuples():
        assert ((centres - [row.x, row.y]) ** 2).sum(axis=1).idxmin() == row.label


def test_each_class_has_its_first_phrase_on_the_map():
    texts = ClassTexts(torch.eye(5), torch.tensor([0, 0, 1, 2, 2]))  # two phrases, one, two
    assert texts.first_phrases() == [0, 2, 3]


def test_patch_colours_are_each_patchs_own_mean_and_deviation(tiny_clip):
    """Against a loop over patches in double precision; images of the size that CLIP takes, so nothing is resized."""
    size, P = tiny_clip.image_size, tiny_clip.patch_size
    pictures = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    found = patch_colours(tiny_clip, Images(pictures), batch_size=2)
    assert found.shape == (3, (size // P) ** 2, 6)
    for picture, rows in zip(pictures, found, strict=True):
        pixels = tiny_clip.preprocess(Image.fromarray(picture)).double().numpy()  # [3, H, W]
        corners = itertools.product(range(0, size, P), repeat=2)
        for (top, left), row in zip(corners, rows, strict=True):
            patch = pixels[:, top : top + P, left : left + P].reshape(3, -1)
            np.testing.assert_allclose(row, [*patch.mean(1), *patch.std(1, ddof=1)], atol=1e-5)


def test_files_hold_accuracies_curves_and_the_plane(tmp_path):
    labels, right = torch.tensor([[0, 1], [1, 255]]), torch.tensor([[0, 1], [1, 0]])
    preds = {"clip": torch.zeros_like(labels), "pacl": right}
    curve = {"false_positives": [0.0, 1.0], "true_positives": [0.0, 1.0], "auc": 0.75, "interval": (0.5, 1.0)}
    plane = pd.DataFrame({"x": [0.12345, 1.0], "y": 2.0, "label": [1, 0], "is_text": [False, True]})
    benchmark = Benchmark("two", ("cat, kitten", "dog"), (0, 1))
    curves, maps = {"pacl": curve, "colours": curve}, {"clip": plane, "pacl": plane}
    result = write_patch_alignment(tmp_path, benchmark, preds, labels, curves, [0.5, 0.6], maps, seed=0)
    assert list(result) == ["clip", "pacl", "colours"]
    assert result["colours"] == {"auc": 0.75, "auc_interval": (0.5, 1.0)}
    assert result["clip"]["accuracy"] == pytest.approx(1 / 3) and result["pacl"]["accuracy_interval"] == (1, 1)
    written = json.loads((tmp_path / "patch_alignment.json").read_text())
    assert written["pacl"] == {"accuracy": 1, "accuracy_interval": [1, 1], "auc": 0.75, "auc_interval": [0.5, 1.0]}
    assert json.loads((tmp_path / "patch_roc.json").read_text())["colours"] == curve | {"interval": [0.5, 1.0]}
    assert json.loads((tmp_path / "blocks.json").read_text()) == {"auc": [0.5, 0.6]}
    by_class, plane = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("patch_accuracy", "patch_map"))
    assert by_class.values.tolist()[1:3] == [["dog", 0.0, 2, "clip"], ["cat", 1.0, 1, "pacl"]]
    assert plane.columns.tolist() == ["method", "x", "y", "label", "is_text"]
    assert plane.values.tolist()[:2] == [["clip", 0.1234, 2.0, "dog", False], ["clip", 1.0, 2.0, "cat", True]]

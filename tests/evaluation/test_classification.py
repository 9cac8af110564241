"""Scores of whole images against single ones, with a tiny CLIP; accuracies and intervals by hand."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pacl.clip.texts import class_texts
from pacl.data.images import Images
from pacl.data.prepared import write_labelled
from pacl.data.prompts import templates
from pacl.evaluation.classification import (
    accuracies,
    accuracy,
    accuracy_table,
    choose_weight,
    class_scores,
    ensemble_logits,
    scores_of_sets,
    write_classification,
    zero_shot_accuracy,
)
from pacl.model import compatibility
from pacl.runtime.params import Classification
from pacl.segment import Method

COSINE = {"scoring": "cosine", "scale": 10.0}
CLASSES = ["cat, kitten", "dog", "sea, lake, pond", "snow"]


def random_images(count, *size):
    return np.random.default_rng(0).integers(0, 256, (count, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("attention", [COSINE, {"scoring": "dot", "scale": 0.5}])
def test_class_scores_are_clips_cosine_and_pacls_phi(tiny_clip, attention):
    images, texts = random_images(5, 40, 36), class_texts(tiny_clip, CLASSES, templates("one"))
    method = Method(tiny_clip.project, "clip")
    clip_scores, pacl_scores = class_scores(tiny_clip, method, Images(images), texts, attention, batch_size=2)
    assert clip_scores.shape == pacl_scores.shape == (5, 4)
    for i, k in itertools.product(range(5), range(4)):
        text = tiny_clip.text_features([f"a photo of a {phrase}." for phrase in CLASSES[k].split(", ")])
        image = tiny_clip.preprocess(Image.fromarray(images[i]))[None]
        cosines = tiny_clip.image_features(image) @ text.T
        phi = compatibility(tiny_clip.project(tiny_clip.patch_features(image)), text, **attention)
        torch.testing.assert_close(clip_scores[i, k], cosines.max(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(pacl_scores[i, k], phi.max(), atol=1e-5, rtol=1e-4)


def test_phi_is_of_texts_as_the_methods_text_map_leaves_them(tiny_clip):
    """A map that hands each class the next one's text moves phi's columns by one, and leaves CLIP's."""
    images, texts = Images(random_images(4, 32, 32)), class_texts(tiny_clip, ["cat", "dog", "sea"], ["{}"])
    plain, moved = (
        class_scores(tiny_clip, Method(tiny_clip.project, "clip", *text_map), images, texts, COSINE)
        for text_map in ((), (lambda text: text.roll(-1, 0),))
    )
    torch.testing.assert_close(moved[0], plain[0])
    torch.testing.assert_close(moved[1], plain[1][:, [1, 2, 0]])
    assert not torch.allclose(moved[1], plain[1], atol=1e-3)


def test_zero_shot_accuracy_is_that_of_clips_scores(tiny_clip):
    images = random_images(6, 32, 32)
    images[::2] //= 3  # of different looks, so that not all get one class
    texts, method = class_texts(tiny_clip, CLASSES, templates("one")), Method(tiny_clip.project, "clip")
    preds = class_scores(tiny_clip, method, Images(images), texts, COSINE)[0].argmax(1).tolist()
    labels = [*preds[:4], *((k + 1) % 4 for k in preds[4:])]
    assert zero_shot_accuracy(tiny_clip, images, labels, CLASSES, templates("one")) == pytest.approx(4 / 6)


def test_sets_are_scored_with_their_own_templates_or_those_of_the_settings(tiny_clip, tmp_path):
    """One of two sets has validation images."""
    images, method, forms = random_images(2, 32, 32), Method(tiny_clip.project, "clip"), ["an odd {}"]
    for split, name in (("test", "clean"), ("test", "noisy"), ("validation", "noisy")):
        write_labelled(tmp_path, split, name, images, [2, 0], CLASSES, forms)
    expected = {}
    for kind, own in (("own", forms), ("one", templates("one"))):
        texts = class_texts(tiny_clip, CLASSES, own)
        expected[kind] = class_scores(tiny_clip, method, Images(images), texts, COSINE, batch_size=2)
    for kind, split, sets in (("own", "test", ["clean", "noisy"]), ("one", "validation", ["noisy"])):
        settings = Classification(sets=["clean", "noisy"], templates=kind, batch_size=2, weights=[0.0])
        found = scores_of_sets(tiny_clip, method, tmp_path, split, settings, COSINE)
        assert list(found) == sets and found["noisy"][2].tolist() == [2, 0]
        assert all(map(torch.equal, found["noisy"][:2], expected[kind]))


CLIP_SCORES = torch.tensor([[0.2, 0.1], [0.1, 0.3], [0.1, 0.2]])
PACL_SCORES = torch.tensor([[0.5, 0.0], [0.9, 0.1], [0.0, 0.7]])


def test_the_ensemble_by_hand():
    found = ensemble_logits(CLIP_SCORES[1:2], PACL_SCORES[1:2], 0.25, 10.0, 5.0)[0]
    clip_share, pacl_share = np.exp([1.0, 3.0]), np.exp([4.5, 0.5])
    expected = 0.75 * np.log(clip_share / clip_share.sum()) + 0.25 * np.log(pacl_share / pacl_share.sum())
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_accuracies_by_hand_are_written(tmp_path):
    labels = np.array([0, 1, 0])
    assert [accuracy(scores, labels) for scores in (CLIP_SCORES, PACL_SCORES)] == pytest.approx([2 / 3, 1 / 3])
    one = CLIP_SCORES, PACL_SCORES, labels
    for weight, ensemble in ((0.0, 2 / 3), (1.0, 1 / 3)):
        found = accuracies(one, weight, (100.0, 20.0))
        assert found == pytest.approx({"clip": 2 / 3, "pacl": 1 / 3, "ensemble": ensemble})
    result, gains = write_classification(tmp_path, {"a": one}, 1.0, (100.0, 20.0))
    assert result == {"a": found}
    written = json.loads((tmp_path / "classification.json").read_text())
    assert written == {"a": {"clip": 0.666667, "pacl": 0.333333, "ensemble": 0.333333}}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "classification.csv"), gains.round(6))


def test_the_weight_with_the_best_mean_accuracy_is_chosen():
    """Image 0 is right with any weight, 1 only with little of PACL, 2 only with much of it."""
    clip_scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    pacl_scores = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    weights, scales = [1.0, 0.7, 0.3, 0.0], (1.0, 1.0)
    one = {"a": (clip_scores[:2], pacl_scores[:2], np.array([0, 0]))}
    assert choose_weight(one, weights, scales) == 0.0  # 0 and 0.3 are equally good
    two = {"b": (clip_scores[1:], pacl_scores[1:], np.array([1, 0]))}
    assert choose_weight(two, weights, scales) == 0.7  # 0.7 and 1 are
    assert choose_weight(one | {"c": one["a"]} | two, weights, scales) == 0.0  # the mean over sets
    assert choose_weight(one | {"d": two["b"]} | two, weights, scales) == 0.7


def test_differences_to_clip_by_hand():
    sets = {
        "a": (CLIP_SCORES, PACL_SCORES, np.array([0, 1, 0])),  # CLIP is right on the first two, PACL on the first
        "b": (CLIP_SCORES[:1], PACL_SCORES[:1], np.array([0])),
    }
    table = accuracy_table(sets, 0.0, (100.0, 20.0)).set_index(["method", "set"])
    assert table.loc[("pacl", "a"), ["accuracy", "difference"]].tolist() == pytest.approx([1 / 3, -1 / 3])
    assert table.loc[("pacl", "b")].tolist() == [1, 0, 0, 0]
    assert table.loc[("pacl", "mean"), ["accuracy", "difference"]].tolist() == pytest.approx([2 / 3, -1 / 6])
    assert table.loc["ensemble"].difference.tolist() == [0, 0, 0]  # at weight 0 both are CLIP


def test_intervals_of_differences_are_those_of_paired_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 2000)
    right = np.eye(2, dtype=np.float32)[labels]
    worse = np.where(rng.random((2000, 1)) < 0.1, 1 - right, right)  # wrong on a tenth
    one = (torch.tensor(right), torch.tensor(worse), labels)
    tables = [accuracy_table({"a": one, "b": one}, 0.0, (1.0, 1.0), **seed) for seed in ({}, {"seed": 0}, {"seed": 1})]
    for row, images in ((tables[0].loc[0], 2000), (tables[0].loc[2], 4000)):  # a's, and the mean's over two sets
        error = 1.96 * np.sqrt(0.1 * 0.9 / images)
        assert (row.low, row.high) == pytest.approx((row.difference - error, row.difference + error), abs=0.0015)
    assert tables[0].equals(tables[1]) and not tables[0].equals(tables[2])
    assert tables[0].difference.equals(tables[2].difference)  # another seed moves intervals alone


def test_without_sets_the_table_has_no_rows_and_pacl_no_weight():
    assert accuracy_table({}, 0.5, (1.0, 1.0)).shape == (0, 6)
    assert choose_weight({}, [0.5, 1.0], (1.0, 1.0)) == 0.0


def test_the_interval_of_the_mean_over_sets_is_one_of_its_own():
    """One set gains on every image, the other on none, however they are drawn: the mean gain is always a half."""
    right, wrong = torch.tensor([[1.0, 0.0]] * 5), torch.tensor([[0.0, 1.0]] * 5)
    labels = np.zeros(5, int)
    sets = {"gains": (wrong, right, labels), "stays": (right, right, labels)}
    table = accuracy_table(sets, 1.0, (1.0, 1.0)).set_index(["method", "set"])[["difference", "low", "high"]]
    for method in ("pacl", "ensemble"):
        assert table.loc[method].values.tolist() == [[1, 1, 1], [0, 0, 0], [0.5, 0.5, 0.5]]

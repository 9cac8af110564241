"""The quick measurements of ablations against label maps that are known by construction."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers.colour_world import image_set, table_of
from torch.nn import functional as F

from pacl.data.benchmark import IGNORE, Benchmark
from pacl.data.images import Masks
from pacl.data.prompts import templates
from pacl.evaluation.ablations.quick import measure, scenes_by_benchmark, scenes_of
from pacl.runtime.params import Protocol

BENCHMARKS = {
    "voc20": Benchmark("voc20", ("cat", "dog"), table_of(0, 1, IGNORE)),
    "context59": Benchmark("context59", ("cat", "dog", "sea, lake"), table_of(0, 1, 2)),
}
PER_SCENE = {"tokens": 2, "targets": 2, "patch_targets": 1}  # fields with a row a scene: the dimensions of a row


class WordCLIP:
    """A stand-in for FrozenCLIP of 16 pixels, patches of 8: a text's embedding says which word is in it."""

    patch_size, image_size, dim, device = 8, 16, 4, torch.device("cpu")

    def grid(self, H, W, stride=None):
        return H // 8, W // 8

    def text_features(self, prompts):
        words = ("cat", "dog", "sea", "lake")
        return torch.tensor([[float(word in prompt) for word in words] for prompt in prompts])


@pytest.fixture
def scenes():
    """Two scenes whose patches show cat, dog / sea, lake; and dog everywhere, but one unlabelled patch."""
    labels = np.array([[[0, 1], [2, 2]], [[1, 1], [1, 255]]])
    masks = Masks(np.kron(labels, np.ones((8, 8))).astype(np.uint8))
    tokens = F.one_hot(torch.tensor([[0, 1, 2, 3], [1, 1, 1, 1]]), 4).half()  # [M, N, D_v]
    return {name: scenes_of(WordCLIP(), tokens, masks, one, Protocol()) for name, one in BENCHMARKS.items()}


def test_scenes_are_labelled_as_clip_crops_them_by_each_of_the_protocols_templates():
    """Of a mask of 32 x 16 pixels CLIP sees the middle, of which the upper half shows a cat, the lower one a dog."""
    asked, clip = set(), WordCLIP()
    clip.text_features = lambda prompts: asked.update(prompts) or WordCLIP().text_features(prompts)
    mask = np.repeat(np.array([2, 0, 1, 2], np.uint8), 8)[None, :, None].repeat(16, axis=2)
    found = scenes_of(clip, torch.zeros(1, 4, 4), Masks(mask), BENCHMARKS["context59"], Protocol(templates="seven"))
    assert found.targets[0].unique(dim=1).flatten().tolist() == [0] * 8 + [1] * 8
    assert found.patch_targets.tolist() == [[0, 0, 1, 1]] and found.classes == 3
    assert asked == {form.format(word) for form in templates("seven") for word in ("cat", "dog", "sea", "lake")}


def test_benchmarks_of_several_image_sets_are_gathered_in_one_order(monkeypatch):
    """Images of which no benchmark is measured are not encoded."""
    encoded = []
    monkeypatch.setattr(
        "pacl.evaluation.ablations.quick.tokens_of",
        lambda clip, images, size: encoded.append(images.source) or np.zeros((1, 4, 4)),
    )
    masks = np.zeros((1, 16, 16), np.uint8)
    sets = {
        "plain": image_set(["plain"], masks, {"context59": BENCHMARKS["context59"], "ade20k": None}),
        "voc": image_set(["voc"], masks, {"voc20": BENCHMARKS["voc20"]}),
        "ade": image_set(["ade"], masks, {"ade20k": None}),
    }
    found = scenes_by_benchmark(WordCLIP(), sets, Protocol(), batch_size=1)
    assert {name: scenes.classes for name, scenes in found.items()} == {"voc20": 2, "context59": 3}
    assert list(found) == ["voc20", "context59"] and encoded == [["plain"], ["voc"]]


def test_the_right_tokens_are_measured_as_right(scenes):
    """Patch labels are exact; of upscaled logits, the pixels between two classes go to the nearer patch."""
    result = measure(scenes, lambda tokens: tokens)
    assert list(result) == ["patch_accuracy", "voc20", "context59"]
    assert result["patch_accuracy"] == 1.0
    assert 0.8 < result["context59"] <= 1 and 0.8 < result["voc20"] <= 1


def test_wrong_tokens_cost_what_they_cover(scenes):
    """Of voc20's 5 labelled patches, one shows a cat and four a dog."""
    swapped = measure(scenes, lambda tokens: tokens[..., [1, 0, 2, 3]])
    assert swapped["patch_accuracy"] == 0.0
    assert measure(scenes, lambda tokens: tokens, lambda text: text[:, [1, 0, 2, 3]])["patch_accuracy"] == 0.0
    only_cat = measure(scenes, lambda tokens: torch.ones_like(tokens) * torch.tensor([1.0, 0, 0, 0]))
    assert only_cat["patch_accuracy"] == pytest.approx(1 / 5)
    assert only_cat["voc20"] == pytest.approx(64 / 320 / 2)  # a cat's IoU is 64 of 320 pixels, a dog's 0


def test_patches_of_a_class_of_two_phrases_are_right_for_either(scenes):
    """The second benchmark's scenes in the first one's place: a lake's patch is labelled "sea, lake" too."""
    assert measure({"voc20": scenes["context59"]}, lambda tokens: tokens)["patch_accuracy"] == 1.0


def test_scenes_of_several_parts_stay_in_their_order(scenes):
    """101 scenes, the two in turn, of which a hundred are labelled at a time."""
    two = scenes["voc20"]
    repeated = {name: getattr(two, name).repeat(51, *[1] * n)[:101] for name, n in PER_SCENE.items()}
    many = dataclasses.replace(two, **repeated)
    found, alone = (measure({"voc20": some}, lambda tokens: tokens) for some in (many, two))
    assert found["patch_accuracy"] == 1.0
    assert found["voc20"] == pytest.approx(alone["voc20"], abs=0.01)

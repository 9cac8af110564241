"""The quick measurements of ablations against label maps that are known by construction."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pacl.data.benchmark import IGNORE
from pacl.data.images import Masks
from pacl.data.prompts import templates
from pacl.evaluation.ablations.quick import load_scenes, measure, save_scenes
from pacl.evaluation.ablations.targets import scenes_by_benchmark, scenes_of
from pacl.runtime.params import Protocol

CLASSES = {"voc20": ["cat", "dog"], "context59": ["cat", "dog", "sea, lake"]}
PER_SCENE = {"tokens": 2, "targets": 2, "patch_targets": 1}  # fields with a row a scene: the dimensions of a row
TABLES = {"voc20": [0, 1, IGNORE], "context59": [0, 1, 2]}


class WordCLIP:
    """A stand-in for FrozenCLIP of 16 pixels, patches of 8: a text's embedding says which word is in it."""

    patch_size, image_size, dim, device = 8, 16, 4, torch.device("cpu")

    def grid(self, H, W, stride=None):
        return H // 8, W // 8

    def text_features(self, prompts):
        words = ("cat", "dog", "sea", "lake")
        return torch.tensor([[float(word in prompt) for word in words] for prompt in prompts])


def benchmark_of(name):
    return {"classes": CLASSES[name], "table": TABLES[name] + [-1] * 252 + [IGNORE]}


@pytest.fixture
def scenes():
    """Two scenes whose patches show cat, dog / sea, lake; and dog everywhere, but one unlabelled patch."""
    labels = np.array([[[0, 1], [2, 2]], [[1, 1], [1, 255]]])
    masks = np.kron(labels, np.ones((8, 8))).astype(np.uint8)
    tokens = F.one_hot(torch.tensor([[0, 1, 2, 3], [1, 1, 1, 1]]), 4).half().numpy()  # [M, N, D_v]
    tokens = torch.from_numpy(tokens)
    return {name: scenes_of(WordCLIP(), tokens, Masks(masks), benchmark_of(name), Protocol()) for name in TABLES}


def test_scenes_are_labelled_as_clip_crops_them_by_each_of_the_protocols_templates():
    """Of a mask of 32 x 16 pixels CLIP sees the middle, of which the upper half shows a cat, the lower one a dog."""
    asked = []

    class Listening(WordCLIP):
        def text_features(self, prompts):
            asked.extend(prompts)
            return super().text_features(prompts)

    mask = np.repeat(np.array([2, 0, 1, 2], np.uint8), 8)[None, :, None].repeat(16, axis=2)
    tokens = torch.zeros(1, 4, 4)
    found = scenes_of(Listening(), tokens, Masks(mask), benchmark_of("context59"), Protocol(templates="seven"))
    assert found.targets[0].unique(dim=1).flatten().tolist() == [0] * 8 + [1] * 8
    assert found.patch_targets.tolist() == [[0, 0, 1, 1]] and found.classes == 3
    phrases = ("cat", "dog", "sea", "lake")
    assert set(asked) == {form.format(phrase) for form in templates("seven") for phrase in phrases}


def test_benchmarks_of_several_image_sets_are_gathered_in_one_order(monkeypatch):
    """Images of which no benchmark is measured are not encoded."""
    encoded = []
    monkeypatch.setattr(
        "pacl.evaluation.ablations.targets.tokens_of",
        lambda clip, images, size: encoded.append(images) or np.zeros((1, 4, 4)),
    )
    masks = Masks(np.zeros((1, 16, 16), np.uint8))
    sets = {
        "plain": ("plain images", masks, {"context59": benchmark_of("context59"), "ade20k": {}}),
        "voc": ("voc images", masks, {"voc20": benchmark_of("voc20")}),
        "ade": ("ade images", masks, {"ade20k": {}}),
    }
    found = scenes_by_benchmark(WordCLIP(), sets, Protocol(), batch_size=1)
    assert {name: scenes.classes for name, scenes in found.items()} == {"voc20": 2, "context59": 3}
    assert list(found) == ["voc20", "context59"] and encoded == ["plain images", "voc images"]


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


def test_texts_pass_the_text_embedder(scenes):
    swapped = measure(scenes, lambda tokens: tokens, lambda text: text[:, [1, 0, 2, 3]])
    assert swapped["patch_accuracy"] == 0.0


def test_what_is_kept_is_read_back(scenes, tmp_path):
    for name, kept in scenes.items():
        kept = dataclasses.replace(kept, text=kept.text.T.contiguous().T)  # as a view is laid out
        save_scenes(kept, tmp_path / name)
        back = load_scenes(tmp_path / name)
        assert back.classes == kept.classes
        assert all(torch.equal(getattr(back, part), value) for part, value in vars(kept).items() if part != "classes")

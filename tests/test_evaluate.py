"""Whole splits against loops over single images, with a stand-in CLIP whose tokens are colours and a tiny real one."""

import itertools
import zlib

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import auc
from torch.nn import functional as F

from pacl.clip import class_text_features, load_clip
from pacl.data import IGNORE, Images, Masks
from pacl.evaluate import (
    accuracy,
    both,
    choose_weight,
    class_scores,
    coherence,
    equal_sizes,
    examples,
    label_examples,
    patch_accuracy,
    patch_accuracy_by_class,
    patch_predictions,
    prompt_maps,
    scene_patches,
    score_accuracies,
    scores_by_class,
    segmentation,
    view_of,
    zero_shot_accuracy,
)
from pacl.model import compatibility
from pacl.params import Protocol
from pacl.pretrain import save_clip
from pacl.prompts import templates
from pacl.segment import segment

P = 4


class ColourCLIP:
    """A stand-in for FrozenCLIP: a patch token is the patch's mean colour, a text's embedding a hash of its words."""

    patch_size, dim, device = P, 6, torch.device("cpu")

    def normalize(self, images):
        return images - 0.5

    def grid(self, H, W, stride=None):
        return (H - P) // (stride or P) + 1, (W - P) // (stride or P) + 1

    def patch_features(self, images, stride=None):
        return F.avg_pool2d(images, P, stride or P).flatten(2).transpose(1, 2)

    def text_features(self, prompts):
        seeds = [zlib.crc32(prompt.encode()) for prompt in prompts]
        texts = torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        return F.normalize(texts, dim=-1)


def squares(tokens):
    return torch.cat([tokens, tokens.square() - 0.1], dim=-1)  # [B, N, 6]


def cubes(tokens):
    return torch.cat([tokens.pow(3), tokens.flip(-1)], dim=-1)


METHODS = {"clip": squares, "pacl": cubes}
TABLE = [0, 1, 2, 3] + [-1] * 251 + [IGNORE]
BENCHMARKS = {
    "plain": {"classes": ["cat, kitten", "dog", "duck", "sea, lake"], "table": TABLE},
    "with_background": {
        "classes": ["background", "cow", "green hill, hill"],
        "table": [0, 0, 1, 2] + [-1] * 251 + [IGNORE],
    },
}
PROTOCOLS = {
    "whole": Protocol(token_stride=2, background_rule="entropy", background_threshold=0.55, logit_scale=3.0),
    "windows": Protocol(
        short_side=16, window=12, window_stride=6, background_rule="probability", background_threshold=0.5,
        logit_scale=3.0,
    ),
    "listed": Protocol(templates="one", logit_scale=3.0),
}  # fmt: skip


def pictures(sizes):
    """Random images of large blocks of colour with masks [H, W] of values 0 to 3 and 255."""
    rng = np.random.default_rng(0)
    images, masks = [], []
    for H, W in sizes:
        blocks = rng.integers(0, 256, (-(-H // 6), -(-W // 6), 3), dtype=np.uint8)
        images.append(np.kron(blocks, np.ones((6, 6, 1), np.uint8))[:H, :W])
        masks.append(rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (H, W)))
    return images, masks


@pytest.fixture
def split(tmp_path):
    """Seven images of two sizes, one after the other, as files."""
    images, masks = pictures([(14, 20)] * 3 + [(20, 14)] + [(14, 20)] + [(14, 20)] + [(20, 14)])
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
    paths = [[str(tmp_path / f"{i}{end}.png") for i in range(7)] for end in ("", "_mask")]
    return Images(paths[0]), Masks(paths[1]), images, masks


def image_by_image(embed, images, masks, benchmark, protocol):
    """One benchmark by itself, pixel by pixel."""
    classes = benchmark["classes"]
    ruled = classes[0] == "background" and protocol.background_rule != "none"
    if not ruled:
        protocol = protocol.model_copy(update={"background_rule": "none"})
    names = classes[1:] if ruled else classes
    text, index = class_text_features(ColourCLIP(), names, templates(protocol.templates))
    confmat = np.zeros((len(classes), len(classes)), int)
    for image, mask in zip(images, masks, strict=True):
        labels = segment(ColourCLIP(), embed, Image.fromarray(image), text, protocol, phrase_index=index).numpy()
        for value, label in zip(mask.ravel().tolist(), labels.ravel().tolist(), strict=True):
            if value != 255:
                confmat[benchmark["table"][value], label] += 1
    return confmat


# --- segmentation ---


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_confusion_matrices_are_those_of_single_images(name, batch_size, split):
    images, masks, pictures, labels = split
    found = segmentation(ColourCLIP(), METHODS, images, masks, BENCHMARKS, PROTOCOLS[name], batch_size=batch_size)
    for (benchmark, described), (method, embed) in itertools.product(BENCHMARKS.items(), METHODS.items()):
        expected = image_by_image(embed, pictures, labels, described, PROTOCOLS[name])
        assert found[benchmark][method].dtype == torch.int64
        assert np.array_equal(found[benchmark][method], expected), (benchmark, method)
        assert expected.sum() == sum((mask != 255).sum() for mask in labels)
        assert (expected.sum(0) > 0).sum() > 1  # not all of one class
    if name != "listed":
        columns = found["with_background"]["clip"].sum(0)
        assert columns[0] > 0 and columns[1:].sum() > 0  # the rule makes some background, not all of it
    assert not torch.equal(found["plain"]["clip"], found["plain"]["pacl"])


def test_a_benchmark_has_the_same_numbers_alone_and_beside_others(split):
    images, masks = split[:2]
    together = segmentation(ColourCLIP(), METHODS, images, masks, BENCHMARKS, PROTOCOLS["whole"])
    for name in BENCHMARKS:
        one = segmentation(ColourCLIP(), {"pacl": cubes}, images, masks, {name: BENCHMARKS[name]}, PROTOCOLS["whole"])
        assert torch.equal(one[name]["pacl"], together[name]["pacl"])


def test_arrays_are_measured_as_files_are():
    pictures_, labels = pictures([(14, 20)] * 3)
    images, masks = Images(np.stack(pictures_)), Masks(np.stack(labels))
    found = segmentation(ColourCLIP(), METHODS, images, masks, BENCHMARKS, PROTOCOLS["whole"], batch_size=2)
    expected = image_by_image(cubes, pictures_, labels, BENCHMARKS["plain"], PROTOCOLS["whole"])
    assert np.array_equal(found["plain"]["pacl"], expected)


def test_batches_hold_images_of_one_size_in_order(split):
    images, masks, pictures, labels = split
    batches = list(equal_sizes(images, masks, 2))
    assert [tuple(batch.shape) for batch, _ in batches] == (
        [(2, 3, 14, 20), (1, 3, 14, 20), (1, 3, 20, 14), (2, 3, 14, 20), (1, 3, 20, 14)]
    )
    flat = [(image, mask) for batch, masks_ in batches for image, mask in zip(batch, masks_, strict=True)]
    for (image, mask), picture, label in zip(flat, pictures, labels, strict=True):
        assert np.array_equal(image.permute(1, 2, 0), picture) and np.array_equal(mask, label)


def test_a_mask_of_another_size_is_an_error():
    images, masks = Images(np.zeros((1, 8, 10, 3), np.uint8)), Masks(np.zeros((1, 8, 9), np.uint8))
    with pytest.raises(ValueError, match="a mask is 9 x 8 pixels, its image 10 x 8"):
        segmentation(ColourCLIP(), METHODS, images, masks, BENCHMARKS, PROTOCOLS["whole"])


def test_a_mask_value_outside_the_classes_is_an_error():
    images, masks = Images(np.zeros((1, 8, 8, 3), np.uint8)), Masks(np.full((1, 8, 8), 9, np.uint8))
    with pytest.raises(ValueError, match="holds the value 9"):
        segmentation(ColourCLIP(), METHODS, images, masks, BENCHMARKS, PROTOCOLS["whole"])


def test_label_maps_for_figures_are_those_that_are_measured(split):
    images, masks, pictures, labels = split
    for name, benchmark in BENCHMARKS.items():
        maps = label_examples(ColourCLIP(), METHODS, images, benchmark, [4, 1], PROTOCOLS["whole"])
        for method, embed in METHODS.items():
            confmat = np.zeros([len(benchmark["classes"])] * 2, int)
            for i, found in zip((4, 1), maps[method], strict=True):
                assert found.shape == labels[i].shape
                target = np.array(benchmark["table"])[labels[i]]
                np.add.at(confmat, (target[target != 255], found.numpy()[target != 255]), 1)
            chosen = [pictures[4], pictures[1]], [labels[4], labels[1]]
            expected = image_by_image(embed, *chosen, benchmark, PROTOCOLS["whole"])
            assert np.array_equal(confmat, expected), (name, method)


def test_examples_are_the_first_with_enough_labels():
    masks = Masks(np.array([[[0, 0], [0, 1]], [[0, 1], [2, 2]], [[1, 2], [3, 4]], [[5, 6], [7, 7]]], np.uint8))
    assert examples(masks, 2) == [1, 2] and examples(masks, 9) == [1, 2, 3] and examples(masks, 9, labels=4) == [2]


def test_prompt_maps_are_cosines_with_the_largest_classs_name(split):
    images = split[0]
    masks = [np.full((14, 20), 3, np.uint8), np.full((14, 20), 255, np.uint8)]
    masks[0][:6] = 0
    masks[1][:2], masks[1][2:3] = 1, 2  # most of it is ignored
    protocol = Protocol()
    names, maps = prompt_maps(
        ColourCLIP(), METHODS, images, Masks(np.stack(masks)), BENCHMARKS["plain"], [0, 1], protocol
    )
    assert names == ["sea", "dog"]
    prompts = [form.format("dog") for form in templates("seven")]
    text = ColourCLIP().text_features(prompts).mean(0)
    tokens = cubes(ColourCLIP().patch_features(torch.from_numpy(split[2][1].copy()).permute(2, 0, 1)[None] / 255 - 0.5))
    cosines = F.cosine_similarity(tokens[0], text[None], dim=-1).reshape(3, 5)
    found = maps["pacl"][1]
    assert found.shape == (14, 20)
    torch.testing.assert_close(found[0, 0], cosines[0, 0])
    torch.testing.assert_close(found[13, 19], cosines[2, 4])


def test_iou_by_class_by_hand():
    confmats = {"native": {"plain": {"pacl": torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])}}}
    table = scores_by_class(confmats, {"plain": ["cat, kitten", "dog", "duck"]})
    assert table.columns.tolist() == ["benchmark", "protocol", "method", "class", "iou"]
    assert table.drop(columns="iou").values.tolist() == (
        [["plain", "native", "pacl", name] for name in ("cat", "dog", "duck")]
    )
    assert table["iou"].tolist()[:2] == pytest.approx([3 / 6, 4 / 7]) and pd.isna(table["iou"][2])


# --- patches ---


CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    save_clip(folder, open_clip.CLIP(**CONFIG), CONFIG)
    return load_clip("tiny", folder, device="cpu")


def majority(block):
    values, counts = np.unique(block[block != 255], return_counts=True)
    return values[counts.argmax()] if len(values) else 255


def test_scene_patches_are_clips_tokens_and_majority_labels(clip):
    """Images of 64 x 64 pixels, seen at 32 x 32: the nearest pixel of each 2 x 2 block is its last."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    masks = np.kron(rng.choice(np.array([0, 1, 2, 3, 255]), (3, 8, 8)), np.ones((8, 8))).astype(np.uint8)
    masks[0, :24, :40] = 255
    masks[1, ::2] = 3  # these rows aren't seen
    table = [2, 0, 1, 7] + [-1] * 251 + [IGNORE]
    tokens, labels = scene_patches(clip, Images(images), Masks(masks), table, batch_size=2)
    assert tokens.shape == (3, 16, 32) and labels.shape == (3, 16)
    for i in range(3):
        alone = clip.patch_features(clip.preprocess(Image.fromarray(images[i]))[None])[0]
        torch.testing.assert_close(tokens[i], alone, atol=1e-5, rtol=1e-5)
        target = np.array(table)[masks[i]][1::2, 1::2]
        expected = [majority(target[8 * row : 8 * row + 8, 8 * c : 8 * c + 8]) for row in range(4) for c in range(4)]
        assert labels[i].tolist() == expected
    assert labels[0, 0] == 255


def test_masks_are_cropped_as_the_images_are(clip):
    """A grey ramp is mask and picture at once: what the crop shows is what the crop is labelled with."""
    for size in ((32, 80), (50, 32)):
        ramp = np.broadcast_to(np.add.outer(2 * np.arange(size[0]), 2 * np.arange(size[1])), size).astype(np.uint8)
        seen = clip.preprocess(Image.fromarray(np.repeat(ramp[..., None], 3, 2)))
        shown = (seen * torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None])[0] + open_clip.OPENAI_DATASET_MEAN[0]
        assert np.abs(view_of(ramp, 32) - 255 * shown.numpy()).max() < 1.5
    labels = view_of(np.kron([[0, 200], [100, 0]], np.ones((50, 50))).astype(np.uint8), 32)
    assert labels.shape == (32, 32) and set(np.unique(labels)) == {0, 100, 200}  # no label between two


def test_patches_are_classed_by_their_highest_cosine():
    generator = torch.Generator().manual_seed(0)
    patches, text = torch.randn(5, 6, 3, generator=generator), torch.randn(4, 6, generator=generator)
    index = torch.tensor([0, 1, 1, 2])
    found = patch_predictions(squares, patches, text, index, batch_size=2)
    assert found.shape == (5, 6)
    for i, n in itertools.product(range(5), range(6)):
        cosines = F.cosine_similarity(squares(patches[i : i + 1])[0, n][None], text)
        assert found[i, n] == index[cosines.argmax()]


def test_patch_accuracy_by_hand():
    labels = torch.tensor([[0, 1, 255, 1], [0, 0, 255, 3]])
    preds = torch.tensor([[0, 1, 0, 0], [0, 1, 3, 3]])
    assert patch_accuracy(preds, labels) == pytest.approx(4 / 6)
    table = patch_accuracy_by_class(preds, labels, ["cat, kitten", "dog", "duck", "sea"])
    assert table.columns.tolist() == ["class", "accuracy", "patches"]
    assert table["class"].tolist() == ["cat", "dog", "sea"] and table["patches"].tolist() == [3, 2, 1]
    assert table["accuracy"].tolist() == pytest.approx([2 / 3, 1 / 2, 1.0])


def test_coherence_is_1_for_tokens_of_one_direction_a_class_and_a_half_for_noise():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (20, 9), generator=generator)
    labels[0, :4] = 255
    for features, area in ((F.one_hot(labels.clamp(max=2), 3).float(), 1.0), (torch.randn(20, 9, 16), 0.5)):
        false_positives, true_positives, found = coherence(features, labels, pairs=20_000, seed=0)
        assert found == pytest.approx(area, abs=0.03)
        assert auc(false_positives, true_positives) == pytest.approx(found, abs=0.005)  # thinned, still the curve
        assert len(false_positives) <= 400 and (np.diff(false_positives) >= 0).all()
        assert (false_positives[0], true_positives[0], false_positives[-1], true_positives[-1]) == (0, 0, 1, 1)


# --- classification ---


@pytest.mark.parametrize("attention", [{"scoring": "cosine", "scale": 10.0}, {"scoring": "dot", "scale": 0.5}])
def test_class_scores_are_clips_cosine_and_pacls_phi(clip, attention):
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 36, 3), dtype=np.uint8)
    classes = ["cat, kitten", "dog", "sea, lake, pond"]
    clip_scores, pacl_scores = class_scores(
        clip, clip.project, Images(images), classes, templates("one"), attention, batch_size=2
    )
    assert clip_scores.shape == pacl_scores.shape == (5, 3)
    phrases = [["cat", "kitten"], ["dog"], ["sea", "lake", "pond"]]
    for i, k in itertools.product(range(5), range(3)):
        text = clip.text_features([f"a photo of a {phrase}." for phrase in phrases[k]])
        image = clip.preprocess(Image.fromarray(images[i]))[None]
        cosines = clip.image_features(image) @ text.T
        phi = compatibility(clip.project(clip.patch_features(image)), text, **attention)
        torch.testing.assert_close(clip_scores[i, k], cosines.max(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(pacl_scores[i, k], phi.max(), atol=1e-5, rtol=1e-4)


def test_zero_shot_accuracy_is_that_of_clips_scores(clip):
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    images[::2] //= 3  # of different looks, so that not all get one class
    classes = ["cat, kitten", "dog", "sea, lake, pond", "snow"]
    attention = {"scoring": "cosine", "scale": 10.0}
    preds = class_scores(clip, clip.project, Images(images), classes, templates("one"), attention)[0].argmax(1).tolist()
    labels = [*preds[:4], *((k + 1) % 4 for k in preds[4:])]
    assert zero_shot_accuracy(clip, images, labels, classes, templates("one")) == pytest.approx(4 / 6)


CLIP_SCORES = torch.tensor([[0.2, 0.1], [0.1, 0.3], [0.1, 0.2]])
PACL_SCORES = torch.tensor([[0.5, 0.0], [0.9, 0.1], [0.0, 0.7]])


def test_both_at_weight_0_is_clip_and_at_weight_1_is_pacl():
    zero, one = (both(CLIP_SCORES, PACL_SCORES, weight, 100.0, 20.0) for weight in (0.0, 1.0))
    torch.testing.assert_close(zero, F.log_softmax(100 * CLIP_SCORES, -1))
    torch.testing.assert_close(one, F.log_softmax(20 * PACL_SCORES, -1))
    assert zero.argmax(-1).tolist() == [0, 1, 1] and one.argmax(-1).tolist() == [0, 0, 1]


def test_both_by_hand():
    found = both(CLIP_SCORES[1:2], PACL_SCORES[1:2], 0.25, 10.0, 5.0)[0]
    clip_share, pacl_share = np.exp([1.0, 3.0]), np.exp([4.5, 0.5])
    expected = 0.75 * np.log(clip_share / clip_share.sum()) + 0.25 * np.log(pacl_share / pacl_share.sum())
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_accuracies_by_hand():
    labels = np.array([0, 1, 0])
    assert accuracy(CLIP_SCORES, labels) == pytest.approx(2 / 3) and accuracy(PACL_SCORES, labels) == pytest.approx(
        1 / 3
    )
    found = score_accuracies(CLIP_SCORES, PACL_SCORES, labels, 0.0, (100.0, 20.0))
    assert found == {
        "clip": accuracy(CLIP_SCORES, labels),
        "pacl": accuracy(PACL_SCORES, labels),
        "ensemble": found["clip"],
    }
    assert score_accuracies(CLIP_SCORES, PACL_SCORES, labels, 1.0, (100.0, 20.0))["ensemble"] == found["pacl"]


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

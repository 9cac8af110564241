"""Whole splits against loops over single images, with a stand-in CLIP whose tokens are colours."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.colour_world import BENCHMARKS, METHODS, PACL, PROTOCOLS, TABLE, ColourCLIP, cubes, pictures
from PIL import Image
from torch.nn import functional as F

from pacl.clip.frozen import class_text_features
from pacl.data.benchmark import foreground, on_benchmark, without_background
from pacl.data.images import Images, Masks
from pacl.data.prompts import templates
from pacl.evaluation.segmentation import (
    equal_sizes,
    examples,
    label_examples,
    prompt_maps,
    scores,
    scores_by_class,
    segmentation,
    segmentation_of_sets,
    texts_of,
    with_images,
)
from pacl.model import VisionEmbedder
from pacl.runtime.params import Protocol
from pacl.segment import Method, dense_logits, methods_of, segment


@pytest.fixture
def split(tmp_path):
    """Seven images of two sizes, one after the other, as files."""
    images, masks = pictures([(14, 20)] * 3 + [(20, 14)] + [(14, 20)] + [(14, 20)] + [(20, 14)])
    for i, (image, mask) in enumerate(zip(images, masks, strict=True)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        Image.fromarray(mask).save(tmp_path / f"{i}_mask.png")
    paths = [[str(tmp_path / f"{i}{end}.png") for i in range(7)] for end in ("", "_mask")]
    return Images(paths[0]), Masks(paths[1]), images, masks


def image_by_image(method, images, masks, benchmark, protocol):
    """One benchmark by itself, pixel by pixel."""
    classes = benchmark["classes"]
    ruled = classes[0] == "background" and protocol.background_rule != "none"
    if not ruled:
        protocol = protocol.model_copy(update={"background_rule": "none"})
    names = classes[1:] if ruled else classes
    text, index = class_text_features(ColourCLIP(), names, templates(protocol.templates))
    confmat = np.zeros((len(classes), len(classes)), int)
    for image, mask in zip(images, masks, strict=True):
        labels = segment(ColourCLIP(), method, Image.fromarray(image), text, protocol, phrase_index=index).numpy()
        for value, label in zip(mask.ravel().tolist(), labels.ravel().tolist(), strict=True):
            if value != 255:
                confmat[benchmark["table"][value], label] += 1
    return confmat


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("batch_size", [2, 32])
def test_confusion_matrices_are_those_of_single_images(name, batch_size, split):
    images, masks, pictures, labels = split
    found = segmentation(ColourCLIP(), METHODS, images, masks, BENCHMARKS, PROTOCOLS[name], batch_size=batch_size)
    for (benchmark, described), method in itertools.product(BENCHMARKS.items(), METHODS):
        expected = image_by_image(METHODS[method], pictures, labels, described, PROTOCOLS[name])
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
        one = segmentation(ColourCLIP(), PACL, images, masks, {name: BENCHMARKS[name]}, PROTOCOLS["whole"])
        assert torch.equal(one[name]["pacl"], together[name]["pacl"])


def test_arrays_are_measured_as_files_are():
    pictures_, labels = pictures([(14, 20)] * 3)
    images, masks = Images(np.stack(pictures_)), Masks(np.stack(labels))
    found = segmentation(ColourCLIP(), METHODS, images, masks, BENCHMARKS, PROTOCOLS["whole"], batch_size=2)
    expected = image_by_image(METHODS["pacl"], pictures_, labels, BENCHMARKS["plain"], PROTOCOLS["whole"])
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


@pytest.mark.parametrize("sizes", [[(14, 20), (18, 20)], [(14, 20), (14, 24)]])
def test_images_alike_on_one_side_only_are_no_batch(sizes):
    batches = equal_sizes(*(kind(arrays) for kind, arrays in zip((Images, Masks), pictures(sizes), strict=True)), 2)
    assert [tuple(batch.shape) for batch, _ in batches] == [(1, 3, *size) for size in sizes]


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
        for method in METHODS:
            confmat = np.zeros([len(benchmark["classes"])] * 2, int)
            for i, found in zip((4, 1), maps[method], strict=True):
                assert found.shape == labels[i].shape
                target = np.array(benchmark["table"])[labels[i]]
                np.add.at(confmat, (target[target != 255], found.numpy()[target != 255]), 1)
            chosen = [pictures[4], pictures[1]], [labels[4], labels[1]]
            expected = image_by_image(METHODS[method], *chosen, benchmark, PROTOCOLS["whole"])
            assert np.array_equal(confmat, expected), (name, method)


def test_examples_are_the_first_with_enough_labels():
    masks = Masks(np.array([[[0, 0], [0, 1]], [[0, 1], [2, 2]], [[1, 2], [3, 4]], [[5, 6], [7, 7]]], np.uint8))
    assert examples(masks, 2) == [1, 2] and examples(masks, 9) == [1, 2, 3] and examples(masks, 9, labels=4) == [2]


def test_prompt_maps_are_cosines_with_the_largest_classs_name(split):
    images = split[0]
    masks = [np.full((14, 20), 3, np.uint8), np.full((14, 20), 255, np.uint8)]
    masks[0][:6] = 0
    masks[1][:2], masks[1][2:3] = 2, 1  # most of it is ignored
    protocol, benchmark = Protocol(), BENCHMARKS["plain"] | {"table": [0, 2, 1, *TABLE[3:]]}
    names, maps = prompt_maps(ColourCLIP(), METHODS, images, Masks(np.stack(masks)), benchmark, [0, 1], protocol)
    assert names == ["sea", "dog"]
    prompts = [form.format("dog") for form in templates("seven")]
    text = ColourCLIP().text_features(prompts).mean(0)
    tokens = cubes(ColourCLIP().patch_features(torch.from_numpy(split[2][1].copy()).permute(2, 0, 1)[None] / 255 - 0.5))
    cosines = F.cosine_similarity(tokens[0], text[None], dim=-1).reshape(3, 5)
    found = maps["pacl"][1]
    assert found.shape == (14, 20)
    torch.testing.assert_close(found[0, 0], cosines[0, 0])
    torch.testing.assert_close(found[13, 19], cosines[2, 4])


def test_scores_by_hand():
    """A class without a pixel in truth or prediction counts nowhere."""
    half, whole = torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]]), torch.tensor([[5, 0, 0], [0, 5, 0], [0, 0, 0]])
    native, tcl = {"clip": half, "pacl": whole}, {"clip": whole, "pacl": half}
    found = scores({"native": {"plain": native}, "tcl": {"plain": tcl}})
    of_half = {"miou": pytest.approx((3 / 6 + 4 / 7) / 2), "pixel_accuracy": pytest.approx(7 / 10)}
    of_whole = {"miou": 1.0, "pixel_accuracy": 1.0}
    assert found == {
        "plain": {"native": {"clip": of_half, "pacl": of_whole}, "tcl": {"clip": of_whole, "pacl": of_half}}
    }


def test_iou_by_class_by_hand():
    confmats = {"native": {"plain": {"pacl": torch.tensor([[3, 1, 0], [2, 4, 0], [0, 0, 0]])}}}
    table = scores_by_class(confmats, {"plain": ["cat, kitten", "dog", "duck"]})
    assert table.columns.tolist() == ["benchmark", "protocol", "method", "class", "iou"]
    assert table.drop(columns="iou").values.tolist() == (
        [["plain", "native", "pacl", name] for name in ("cat", "dog", "duck")]
    )
    assert table["iou"].tolist()[:2] == pytest.approx([3 / 6, 4 / 7]) and pd.isna(table["iou"][2])


def test_pacl_reads_its_own_tokens_and_others_project_a_last_block():
    class Clip:
        project, last_block, device = "projection", "maskclip", torch.device("cpu")

    embedder = VisionEmbedder(3, 4, text_embedder="linear")
    assert methods_of(Clip(), embedder, ["clip", "pacl", "naclip"]) == {
        "clip": Method("projection", "clip"),
        "pacl": Method(embedder, "maskclip", embedder.text_embedder),
        "naclip": Method("projection", "naclip"),
    }


def test_a_protocol_changes_only_what_it_says_on_one_benchmark(monkeypatch):
    benchmark = BENCHMARKS["with_background"]
    images, masks = pictures([(14, 20)] * 2)
    scenes = Images(np.stack(images)), Masks(np.stack(masks))
    plain = {"logit_scale": 40.0, "background_rule": "probability", "background_threshold": 0.4}
    own = {"small": {"short_side": 28, "logit_scale": 2.0}, "other": {"background_threshold": 0.9}}
    protocol = Protocol(**plain, per_benchmark=own)
    for name, changes in (*own.items(), ("third", {})):
        found = segmentation(ColourCLIP(), PACL, *scenes, {name: benchmark}, protocol)[name]["pacl"]
        expected = segmentation(ColourCLIP(), PACL, *scenes, {name: benchmark}, Protocol(**(plain | changes)))
        assert torch.equal(found, expected[name]["pacl"]), name
    with pytest.raises(ValueError, match="small, third have a short_side each"):
        segmentation(ColourCLIP(), PACL, *scenes, {"small": benchmark, "third": benchmark}, protocol)
    names = ["small", "other", "third"]
    together = segmentation_of_sets(
        ColourCLIP(), PACL, {"": (*scenes, dict.fromkeys(names, benchmark))}, names, protocol, batch_size=1
    )
    for name in names:
        alone = segmentation(ColourCLIP(), PACL, *scenes, {name: benchmark}, protocol)[name]
        assert torch.equal(together[name]["pacl"], alone["pacl"]), name


def test_without_background_the_other_classes_move_up_and_it_is_ignored():
    benchmark = {"classes": ["background", "cat", "dog"], "table": [0, 1, 2, -1, 255]}
    assert without_background(benchmark) == (["cat", "dog"], [255, 0, 1, -1, 255])
    plain = {"classes": ["cat", "dog"], "table": [255, 0, 1]}
    assert without_background(plain) == (plain["classes"], plain["table"])


def test_a_background_that_is_not_the_first_class_is_a_class_as_others_are():
    benchmark = {"classes": ["cat", "background", "dog"], "table": [0, 1, 2]}
    protocol = Protocol(background_rule="probability", background_threshold=0.5)
    assert foreground(benchmark, protocol) == benchmark["classes"]
    assert without_background(benchmark) == (benchmark["classes"], benchmark["table"])
    assert on_benchmark(protocol, benchmark).background_rule == "none"


def test_of_several_image_sets_only_the_named_benchmarks_are_measured_in_their_order():
    images, masks = pictures([(14, 20)] * 2)
    scenes = Images(np.stack(images)), Masks(np.stack(masks))
    sets = {
        "one": (*scenes, BENCHMARKS | {"small": BENCHMARKS["plain"]}),
        "two": (*scenes, {"own": BENCHMARKS["plain"]}),
    }
    protocol = Protocol(per_benchmark={"small": {"short_side": 8}})
    names = ["own", "small", "with_background", "plain"]
    together = [list(wanted) for _, _, wanted in with_images(sets, names, protocol)]
    assert sorted(together) == [["own"], ["plain", "with_background"], ["small"]]
    assert list(segmentation_of_sets(ColourCLIP(), PACL, sets, names, protocol)) == names


def test_a_class_of_several_benchmarks_is_embedded_once_and_everywhere_the_same():
    clip, asked = ColourCLIP(), {"one": ["cat, kitten", "dog"], "two": ["sea", "dog", "cat, kitten"]}
    seen = []
    embed = clip.text_features
    clip.text_features = lambda prompts: seen.extend(prompts) or embed(prompts)
    found = texts_of(clip, asked, "one")
    assert sorted(seen) == sorted(f"a photo of a {name}." for name in ("cat", "kitten", "dog", "sea"))
    for name, classes in asked.items():
        features, index = class_text_features(clip, classes, templates("one"))
        assert torch.equal(found[name][0], features) and torch.equal(found[name][1], index)


def test_a_protocols_own_phrases_name_the_background_too():
    """SCLIP's evaluation: stuff words for the background, another logit scale there, and the rule beside them."""
    benchmark = BENCHMARKS["with_background"] | {"phrases": {"sclip": ["sky, wall, sea", "cow", "green hill, hill"]}}
    protocol = Protocol(
        phrases="sclip",
        logit_scale=40.0,
        per_benchmark={"one": {"logit_scale": 2.0}},
        background_rule="probability",
        background_threshold=0.4,
    )
    images, masks = pictures([(14, 20)] * 2)
    scenes = Images(np.stack(images)), Masks(np.stack(masks))
    found = segmentation(ColourCLIP(), PACL, *scenes, {"one": benchmark}, protocol)["one"]["pacl"]
    text, index = class_text_features(ColourCLIP(), benchmark["phrases"]["sclip"], templates("seven"))
    expected, maps = np.zeros((3, 3), int), []
    for image, mask in zip(images, masks, strict=True):
        cosines = dense_logits(ColourCLIP(), METHODS["pacl"], Image.fromarray(image), text, protocol)
        shares = (2.0 * cosines).softmax(0)
        best, phrase = shares.max(0)
        labels = index[phrase].masked_fill(best < 0.4, 0).numpy()
        maps.append(labels)
        target = np.array(benchmark["table"])[mask]
        np.add.at(expected, (target[target != 255], labels[target != 255]), 1)
    assert np.array_equal(found, expected) and (expected.sum(0) > 0).sum() > 1
    shown = label_examples(ColourCLIP(), PACL, scenes[0], benchmark, [1, 0], protocol.on("one"))["pacl"]
    assert all(map(np.array_equal, shown, reversed(maps)))
    plain = segmentation(ColourCLIP(), PACL, *scenes, {"one": BENCHMARKS["with_background"]}, protocol)["one"]["pacl"]
    assert not torch.equal(plain, found)  # without such a list the classes' names are used
    assert foreground(benchmark, Protocol()) == benchmark["classes"]  # and by a protocol that asks for none

"""Shown scenes of a stand-in CLIP whose tokens are colours: what it must find is known."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from helpers import colour_world, stand_in
from helpers.colour_world import BENCHMARKS, METHODS, PROTOCOLS, image_set, pictures
from PIL import Image
from torch.nn import functional as F

from pacl.data.benchmark import IGNORE, Benchmark
from pacl.data.images import Masks
from pacl.data.prompts import templates
from pacl.evaluation.dense import Passes, Reading
from pacl.evaluation.segmentation import confusion_matrices
from pacl.evaluation.viewer import (
    LEVELS,
    examples,
    heat_png,
    jpeg,
    label_examples,
    mask_png,
    overlap,
    prompt_maps,
    prompts_of,
    shrunk,
    write_shown,
    write_viewer,
)
from pacl.metrics import confusion_matrix
from pacl.runtime.params import Protocol
from pacl.segment import Method

SIDE = 32
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
PROTOCOL = Protocol(templates="seven", logit_scale=40.0)


class ColourCLIP(stand_in.ColourCLIP):
    """A prompt with a colour's name in it has that colour as embedding."""

    dim = 3

    def text_features(self, prompts):
        return torch.tensor([[float(name in prompt) for name in COLOURS] for prompt in prompts])


def scene(*bands):
    """Bands of colours from the left, as an image and its mask; a mask's value is the colour's place."""
    names = np.repeat(bands, SIDE // len(bands))
    image = np.array([COLOURS[name] for name in names], np.uint8)
    mask = np.array([list(COLOURS).index(name) for name in names], np.uint8)
    return np.tile(image, (SIDE, 1, 1)), np.tile(mask, (SIDE, 1))


def benchmark_of(classes, labels, **phrases):
    """The mask values 0, 1, ... stand for these classes, others for none."""
    return Benchmark("", tuple(classes), (*labels, *[IGNORE] * (256 - len(labels))), phrases)


SEES_ALL = {"all": Method(lambda x: x, "clip")}


def written(folder, scenes, benchmark, protocol=PROTOCOL, methods=SEES_ALL, clip=None, **options):
    """The scenes of viewer.json."""
    images, masks = zip(*scenes, strict=True)
    passes = Passes(clip or ColourCLIP(), methods, image_set(images, masks), 1)
    write_viewer(folder / "viewer.json", passes, Reading(benchmark, protocol), **options)
    assert [path.name for path in folder.iterdir()] == ["viewer.json"]
    return json.loads((folder / "viewer.json").read_text())["scenes"]


@pytest.fixture
def shown(tmp_path):
    """Prompts of one scene, red, green, then red, with methods that see all, red only, and all paler."""
    image, mask = scene("red", "green", "green", "red", "red", "red", "red", "red")
    mask[:2, :2] = IGNORE
    mask[2:4, :2] = 3  # a third label, which the benchmark has no class for
    only_red = torch.tensor([1.0, 0.1, 0.1]), torch.tensor([0.5, 0, 0])
    methods = SEES_ALL | {
        "red": Method(lambda x: x * only_red[0] + only_red[1], "clip"),
        "pale": Method(lambda x: x + 1, "clip"),
    }
    (found,) = written(tmp_path, [(image, mask)], benchmark_of(COLOURS, [0, 1, 2]), methods=methods)
    assert pixels(found["image"]).shape == (SIDE, SIDE, 3)
    return found["prompts"]


def pixels(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_prompts_are_the_classes_there_and_one_that_is_not(shown):
    assert [(one["name"], one["present"]) for one in shown] == [("green", True), ("red", True), ("blue", False)]


def test_masks_and_their_overlap_are_what_each_method_sees(shown):
    green, red, blue = shown
    assert np.array_equal(pixels(green["truth"])[10], [0] * 4 + [1] * 8 + [0] * 20)
    assert green["methods"]["all"]["iou"] == pytest.approx(1.0)
    assert np.array_equal(pixels(green["methods"]["all"]["mask"]), pixels(green["truth"]))
    assert green["methods"]["red"]["iou"] == green["methods"]["red"]["share"] == 0
    assert red["methods"]["red"]["share"] == 1 and red["methods"]["red"]["iou"] == pytest.approx(0.75, abs=0.01)
    assert not pixels(blue["truth"]).any() and blue["methods"]["all"]["share"] == 0
    assert (green["methods"]["all"]["share"], red["methods"]["all"]["share"]) == (0.25, 0.75)


def test_heat_runs_from_the_lowest_to_the_highest_cosine_of_the_scene(shown):
    green, _, blue = (prompt["methods"]["all"] for prompt in shown)
    assert (green["low"], green["high"], blue["high"]) == (0.0, 1.0, 0.0)
    heat = pixels(green["heat"])
    assert heat.shape == (32, 32) and (heat[:, 6:10] == LEVELS - 1).all() and not heat[:, 20:].any()
    assert not pixels(blue["heat"]).any(), "what isn't there stays dark"
    pale, _, other = (prompt["methods"]["pale"] for prompt in shown)
    assert (pale["high"], other["low"]) == pytest.approx((2 / 6**0.5, 1 / 6**0.5), abs=1e-5)
    assert (pixels(pale["heat"])[:, 6:10] == LEVELS - 1).all() and not pixels(other["heat"]).any()


RULE = {"templates": "seven", "logit_scale": 40.0, "background_rule": "probability", "background_threshold": 0.6}


def test_a_background_class_is_no_prompt_and_its_rule_makes_masks(tmp_path):
    benchmark = benchmark_of(["background", "red", "green"], [1, 2, 0])
    (found,) = written(tmp_path, [scene("red", "blue", "green", "green")], benchmark, Protocol(**RULE))
    assert [prompt["name"] for prompt in found["prompts"]] == ["red", "green"]
    row = pixels(found["prompts"][0]["methods"]["all"]["mask"])[16]
    assert row[:6].all() and not row[10:].any(), "blue is like neither: background"


def test_a_background_with_a_text_of_its_own_is_a_prompt_whose_mask_has_what_the_rule_finds_too(tmp_path):
    image, mask = scene("blue", "red", "green", "green")
    image[:, 20:] = 255  # as like to each: no class is probable
    benchmark = benchmark_of(["background", "red", "green"], [1, 2, 0], own=("blue", "red", "green"))
    (found,) = written(tmp_path, [(image, mask)], benchmark, Protocol(**RULE, phrases="own"))
    assert [prompt["name"] for prompt in found["prompts"]] == ["red", "blue", "green"]
    rows = [pixels(prompt["methods"]["all"]["mask"])[16] for prompt in found["prompts"]]
    assert all(row[2 + 8 * k : 6 + 8 * k].all() for k, row in zip((1, 0), rows, strict=False))
    assert rows[1][24:].all() and not rows[2][24:].any() and rows[2][17:19].all()


def test_a_class_of_two_phrases_is_shown_by_its_first_and_labelled_by_both(tmp_path):
    """Without a background class the protocol's rule counts for nothing, and a scene of two labels comes last."""
    image, mask = scene("red", "green", "blue", "blue")
    image[:4, :4] = (255, 255, 0)  # like "red and green", a phrase of the first class
    benchmark = benchmark_of(["red,red and green", "green", "blue"], [0, 1, 2])
    protocol = Protocol(**RULE | {"logit_scale": 1.0, "background_threshold": 1.0})
    found, _ = written(tmp_path, [scene("red", "blue"), (image, mask)], benchmark, protocol, present=2)
    assert [prompt["name"] for prompt in found["prompts"]] == ["red", "blue"], "no more than two, and none is absent"
    red, blue = (prompt["methods"]["all"] for prompt in found["prompts"])
    assert min(red["iou"], blue["iou"]) > 0.8 and blue["high"] == pytest.approx(1.0)
    assert pixels(red["heat"])[:2, :2].max() < LEVELS - 1, "yellow is less like red than red is"


def test_as_many_scenes_as_asked_for_each_lack_another_class_and_texts_are_the_protocols(tmp_path):
    """The first scene has two labels only and isn't shown; of the next three, two are."""
    clip, seen = ColourCLIP(), set()
    embed = clip.text_features
    clip.text_features = lambda prompts: seen.update(prompts) or embed(prompts)
    names = ["red ship", "blue ship", "red", "green", "blue", "green ship"]
    scenes = [scene("red", "blue"), *[scene("red", "green", "blue", "blue")] * 3]
    found = written(tmp_path, scenes, benchmark_of(names, [2, 3, 4]), methods={}, clip=clip, count=2)
    assert [[one["name"] for one in shown["prompts"]] for shown in found] == [
        ["green", "red", "blue", "red ship"],
        ["green", "red", "blue", "blue ship"],
    ]
    assert seen == {form.format(name) for form in templates("seven") for name in names}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_label_maps_for_figures_are_those_that_are_measured(name):
    benchmark, scenes = BENCHMARKS[name], image_set(*pictures([(14, 20)] * 2))
    clip, protocol = colour_world.ColourCLIP(), PROTOCOLS["whole"]
    about, maps = label_examples(Passes(clip, METHODS, scenes, 1), Reading(benchmark, protocol), 2)
    assert about == {"benchmark": name, "scenes": [0, 1], "classes": benchmark.names}
    expected = confusion_matrices(clip, METHODS, {"": scenes}, [name], {"": protocol})[""][name]
    for method in METHODS:
        pairs = ((torch.from_numpy(maps[f"{key}/{i}"]) for key in (method, "truth")) for i in (0, 1))
        assert torch.equal(sum(confusion_matrix(*pair, len(benchmark.classes)) for pair in pairs), expected[method])


def test_examples_are_the_first_with_enough_labels():
    masks = Masks(np.array([[[0, 0], [0, 1]], [[0, 1], [2, 2]], [[1, 2], [3, 4]], [[5, 6], [7, 7]]], np.uint8))
    assert examples(masks, 2) == [1, 2] and examples(masks, 9) == [1, 2, 3, 0]
    assert examples(Masks(np.zeros((2, 4, 4), np.uint8)), 2) == [0, 1], "scenes of one thing, where there are no others"


def test_prompt_maps_are_cosines_with_the_largest_classs_name_and_are_written_with_label_maps(tmp_path):
    images, masks = pictures([(14, 20)] * 3)
    masks[0][:], masks[1][:] = 0, 255  # the first has one label, most of the second is ignored
    masks[1][:2], masks[1][2:3] = 2, 1
    masks[2][:8] = 3
    scenes, clip, benchmark = image_set(images, masks), colour_world.ColourCLIP(), BENCHMARKS["plain"]
    passes, reading = Passes(clip, METHODS, scenes, 1), Reading(benchmark, Protocol())
    about, maps = prompt_maps(passes, reading, 2)
    assert about == {"benchmark": "plain", "scenes": [1, 2], "prompts": ["duck", "sea"]}
    text = clip.text_features([form.format("duck") for form in templates("seven")]).mean(0)
    picture = torch.from_numpy(images[1].copy()).permute(2, 0, 1)[None] / 255 - 0.5
    cosines = F.cosine_similarity(colour_world.cubes(clip.patch_features(picture))[0], text[None], dim=-1)
    found = maps["heat/pacl/0"]
    assert found.dtype == np.float16 and found.shape == (14, 20)
    assert (found[0, 0], found[13, 19]) == pytest.approx((cosines[0].item(), cosines[14].item()), abs=1e-3)
    labels = label_examples(passes, reading, 1)
    write_shown(tmp_path, (about, maps), labels)
    assert json.loads((tmp_path / "shown.json").read_text()) == {"heat": about, "labels": labels[0]}
    first = (tmp_path / "shown.npz").read_bytes()
    write_shown(tmp_path, (about, maps), labels)
    assert (tmp_path / "shown.npz").read_bytes() == first
    with np.load(tmp_path / "shown.npz") as stored:
        heat = [f"heat/{method}/{i}" for method in ("clip", "pacl") for i in (0, 1)]
        assert list(stored) == [*heat, "truth/0", "clip/0", "pacl/0"]
        assert np.array_equal(stored["heat/pacl/0"], found) and stored["pacl/0"].dtype == np.uint8
        assert np.array_equal(stored["truth/0"], masks[1])


def test_pictures_and_masks_are_made_smaller_and_small_heat_maps_are_left():
    assert pixels(jpeg(Image.new("RGB", (800, 400)))).shape == (160, 320, 3)
    assert pixels(mask_png(np.ones((400, 800), bool))).shape == (160, 320)
    assert pixels(heat_png(torch.rand(4, 6), 0.0, 1.0)).shape == (4, 6)
    assert pixels(heat_png(torch.rand(375, 500), 0.0, 1.0)).shape == (24, 32)
    stripes = torch.tensor([[0.0, 1.0, 5.0, 7.0]] * 2)
    assert shrunk(stripes, 2).tolist() == [[0.5, 6.0]] and torch.equal(shrunk(stripes, 4), stripes)


def test_masks_let_the_scene_through():
    mask = np.eye(6, dtype=bool)
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(mask_png(mask)))).convert("RGBA"))[..., 3]
    assert (alpha[mask] == 0).all() and (alpha[~mask] > 200).all()


def test_an_overlap_is_a_share_of_both_masks_together():
    assert overlap(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool)) == 0.25
    assert overlap(np.zeros(3, bool), np.zeros(3, bool)) == 0


@pytest.mark.parametrize("pixels, arguments, expected", [
    (1, (9, 4, 0), [0, 2]), (1, (9, 4, 1), [0, 7]), (1, (9, 4, 2), [0, 5]),  # the absent one moves on with the scenes
    (5, (3, 4, 0), [1, 0, 2]),
])  # fmt: skip
def test_one_pixel_of_a_hundred_is_too_few_for_a_prompt_and_yet_not_absent(pixels, arguments, expected):
    target = np.zeros((10, 10), int)
    target[0, :pixels] = 1
    assert prompts_of(target, *arguments) == expected

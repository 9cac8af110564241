"""The viewer's data, of a stand-in CLIP whose tokens are colours: what it must find is known."""

import base64
import io
import json

import numpy as np
import pytest
import stand_in
import torch
from PIL import Image

from pacl.data import IGNORE, Images, Masks
from pacl.params import Protocol
from pacl.segment import Method
from pacl.viewer import LEVELS, heat_png, mask_png, overlap, prompts_of, write_viewer

P, SIDE = 4, 32
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


@pytest.fixture
def data(tmp_path):
    """viewer.json of one scene, red, green, then red, with one method that sees all and one that sees red only."""
    image, mask = scene("red", "green", "green", "red", "red", "red", "red", "red")
    mask[:2, :2] = IGNORE
    mask[2:4, :2] = 3  # a third label, which the benchmark has no class for
    only_red = torch.tensor([1.0, 0.1, 0.1]), torch.tensor([0.5, 0, 0])
    methods = {
        "all": Method(lambda x: x, "clip"),
        "red": Method(lambda x: x * only_red[0] + only_red[1], "clip"),
    }
    benchmark = {"classes": list(COLOURS), "table": [0, 1, 2] + [IGNORE] * 253}
    write_viewer(
        tmp_path / "viewer.json",
        ColourCLIP(),
        methods,
        Images([*image[None]]),
        Masks([*mask[None]]),
        benchmark,
        PROTOCOL,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["viewer.json"]
    return json.loads((tmp_path / "viewer.json").read_text())


def pixels(text):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_prompts_are_the_classes_there_and_one_that_is_not(data):
    (shown,) = data["scenes"]
    assert [(prompt["name"], prompt["present"]) for prompt in shown["prompts"]] == [
        ("green", True),
        ("red", True),
        ("blue", False),
    ]
    assert pixels(shown["image"]).shape == (SIDE, SIDE, 3)


def test_masks_and_their_overlap_are_what_each_method_sees(data):
    green, red, blue = data["scenes"][0]["prompts"]
    assert np.array_equal(pixels(green["truth"])[10], [0] * 4 + [1] * 8 + [0] * 20)
    assert green["methods"]["all"]["iou"] == pytest.approx(1.0)
    assert np.array_equal(pixels(green["methods"]["all"]["mask"]), pixels(green["truth"]))
    assert green["methods"]["red"]["iou"] == green["methods"]["red"]["share"] == 0
    assert red["methods"]["red"]["share"] == 1 and red["methods"]["red"]["iou"] == pytest.approx(0.75, abs=0.01)
    assert not pixels(blue["truth"]).any() and blue["methods"]["all"]["share"] == 0


def test_heat_runs_from_the_lowest_to_the_highest_cosine_of_the_scene(data):
    green, _, blue = (prompt["methods"]["all"] for prompt in data["scenes"][0]["prompts"])
    assert (green["low"], green["high"], blue["high"]) == (0.0, 1.0, 0.0)
    heat = pixels(green["heat"])
    assert heat.shape == (32, 32) and (heat[:, 6:10] == LEVELS - 1).all() and not heat[:, 20:].any()
    assert not pixels(blue["heat"]).any(), "what isn't there stays dark"


def test_a_background_class_is_no_prompt_and_its_rule_makes_masks(tmp_path):
    image, mask = scene("red", "blue", "green", "green")
    benchmark = {"classes": ["background", "red", "green"], "table": [1, 2, 0] + [IGNORE] * 253}
    rule = {"background_rule": "probability", "background_threshold": 0.6}
    protocol = Protocol(templates="seven", logit_scale=40.0, **rule)
    write_viewer(
        tmp_path / "viewer.json",
        ColourCLIP(),
        {"all": Method(lambda x: x, "clip")},
        Images([*image[None]]),
        Masks([*mask[None]]),
        benchmark,
        protocol,
    )
    prompts = json.loads((tmp_path / "viewer.json").read_text())["scenes"][0]["prompts"]
    assert [prompt["name"] for prompt in prompts] == ["red", "green"]
    row = pixels(prompts[0]["methods"]["all"]["mask"])[16]
    assert row[:6].all() and not row[10:].any(), "blue is like neither: background"


def test_the_absent_prompt_moves_on_from_scene_to_scene():
    target = np.zeros((10, 10), int)
    target[0, 0] = 1  # one pixel is too few for a prompt, and yet not absent
    assert [prompts_of(target, 9, 4, turn) for turn in range(3)] == [[0, 2], [0, 7], [0, 5]]


def test_a_class_of_a_twentieth_of_the_pixels_is_a_prompt():
    target = np.zeros((10, 10), int)
    target[0, :5] = 1
    assert prompts_of(target, 3, 4, 0) == [1, 0, 2]


def test_masks_let_the_scene_through_and_heat_maps_are_small():
    image = Image.open(io.BytesIO(base64.b64decode(mask_png(np.eye(6, dtype=bool)))))
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert (alpha[np.eye(6, dtype=bool)] == 0).all() and (alpha[~np.eye(6, dtype=bool)] > 200).all()
    assert pixels(heat_png(torch.rand(375, 500), 0.0, 1.0)).shape == (24, 32)
    assert overlap(np.zeros(3, bool), np.zeros(3, bool)) == 0

"""The viewer's data, of a stand-in CLIP whose tokens are colours: what it must find is known."""

import base64
import io
import json

import numpy as np
import pytest
import torch
from helpers import stand_in
from PIL import Image

from pacl.data.benchmark import IGNORE
from pacl.data.images import Images, Masks
from pacl.data.prompts import templates
from pacl.evaluation.viewer import LEVELS, heat_png, jpeg, mask_png, overlap, prompts_of, write_viewer
from pacl.report.teaser import teaser, write_teaser
from pacl.runtime.params import Protocol
from pacl.segment import Method

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
    """viewer.json of one scene, red, green, then red, with methods that see all, red only, and all paler."""
    image, mask = scene("red", "green", "green", "red", "red", "red", "red", "red")
    mask[:2, :2] = IGNORE
    mask[2:4, :2] = 3  # a third label, which the benchmark has no class for
    only_red = torch.tensor([1.0, 0.1, 0.1]), torch.tensor([0.5, 0, 0])
    methods = {
        "all": Method(lambda x: x, "clip"),
        "red": Method(lambda x: x * only_red[0] + only_red[1], "clip"),
        "pale": Method(lambda x: x + 1, "clip"),
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
    assert (green["methods"]["all"]["share"], red["methods"]["all"]["share"]) == (0.25, 0.75)


def test_heat_runs_from_the_lowest_to_the_highest_cosine_of_the_scene(data):
    green, _, blue = (prompt["methods"]["all"] for prompt in data["scenes"][0]["prompts"])
    assert (green["low"], green["high"], blue["high"]) == (0.0, 1.0, 0.0)
    heat = pixels(green["heat"])
    assert heat.shape == (32, 32) and (heat[:, 6:10] == LEVELS - 1).all() and not heat[:, 20:].any()
    assert not pixels(blue["heat"]).any(), "what isn't there stays dark"
    pale, _, other = (prompt["methods"]["pale"] for prompt in data["scenes"][0]["prompts"])
    assert (pale["high"], other["low"]) == pytest.approx((2 / 6**0.5, 1 / 6**0.5), abs=1e-5)
    assert (pixels(pale["heat"])[:, 6:10] == LEVELS - 1).all() and not pixels(other["heat"]).any()


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


def test_a_background_with_a_text_of_its_own_is_a_prompt_whose_mask_has_what_the_rule_finds_too(tmp_path):
    image, mask = scene("blue", "red", "green", "green")
    image[:, 20:] = 255  # as like to each: no class is probable
    benchmark = {
        "classes": ["background", "red", "green"],
        "table": [1, 2, 0] + [IGNORE] * 253,
        "phrases": {"own": ["blue", "red", "green"]},
    }
    rule = {"background_rule": "probability", "background_threshold": 0.6, "phrases": "own"}
    protocol = Protocol(templates="seven", logit_scale=40.0, **rule)
    methods, path = {"all": Method(lambda x: x, "clip")}, tmp_path / "viewer.json"
    write_viewer(path, ColourCLIP(), methods, Images([*image[None]]), Masks([*mask[None]]), benchmark, protocol)
    prompts = json.loads(path.read_text())["scenes"][0]["prompts"]
    assert [prompt["name"] for prompt in prompts] == ["red", "blue", "green"]
    rows = [pixels(prompt["methods"]["all"]["mask"])[16] for prompt in prompts]
    assert all(row[2 + 8 * k : 6 + 8 * k].all() for k, row in zip((1, 0), rows, strict=False))
    assert rows[1][24:].all() and not rows[2][24:].any() and rows[2][17:19].all()


def test_a_class_of_two_phrases_is_shown_by_its_first_and_labelled_by_both(tmp_path):
    """Without a background class the protocol's rule counts for nothing, and a scene of two labels isn't shown."""
    plain, two = scene("red", "blue")
    image, mask = scene("red", "green", "blue", "blue")
    image[:4, :4] = (255, 255, 0)  # like "red and green", a phrase of the first class
    benchmark = {"classes": ["red,red and green", "green", "blue"], "table": [0, 1, 2] + [IGNORE] * 253}
    rule = {"background_rule": "probability", "background_threshold": 1.0}
    write_viewer(
        tmp_path / "viewer.json",
        ColourCLIP(),
        {"all": Method(lambda x: x, "clip")},
        Images([plain, image]),
        Masks([two, mask]),
        benchmark,
        Protocol(templates="seven", logit_scale=1.0, **rule),
        present=2,
    )
    (shown,) = json.loads((tmp_path / "viewer.json").read_text())["scenes"]
    assert [prompt["name"] for prompt in shown["prompts"]] == ["red", "blue"], "no more than two, and none is absent"
    red, blue = (prompt["methods"]["all"] for prompt in shown["prompts"])
    assert min(red["iou"], blue["iou"]) > 0.8 and blue["high"] == pytest.approx(1.0)
    assert pixels(red["heat"])[:2, :2].max() < LEVELS - 1, "yellow is less like red than red is"


def test_as_many_scenes_as_asked_for_each_lack_another_class_and_texts_are_the_protocols(tmp_path):
    """The first scene has two labels only and isn't shown; of the next three, two are."""

    class Asked(ColourCLIP):
        prompts = ()

        def text_features(self, prompts):
            self.prompts = (*self.prompts, *prompts)
            return super().text_features(prompts)

    scenes = [scene("red", "blue"), *[scene("red", "green", "blue", "blue")] * 3]
    names = ["red ship", "blue ship", "red", "green", "blue", "green ship"]
    benchmark = {"classes": names, "table": [2, 3, 4] + [IGNORE] * 253}
    images, masks = zip(*scenes, strict=True)
    path, clip = tmp_path / "viewer.json", Asked()
    write_viewer(path, clip, {}, Images(images), Masks(masks), benchmark, PROTOCOL, count=2)
    shown = [one["prompts"] for one in json.loads(path.read_text())["scenes"]]
    assert [[one["name"] for one in prompts] for prompts in shown] == [
        ["green", "red", "blue", "red ship"],
        ["green", "red", "blue", "blue ship"],
    ]
    assert set(clip.prompts) == {form.format(name) for form in templates("seven") for name in names}


def test_pictures_and_masks_are_made_smaller_and_small_heat_maps_are_left():
    assert pixels(jpeg(Image.new("RGB", (800, 400)))).shape == (160, 320, 3)
    assert pixels(mask_png(np.ones((400, 800), bool))).shape == (160, 320)
    assert pixels(heat_png(torch.rand(4, 6), 0.0, 1.0)).shape == (4, 6)


def test_an_overlap_is_a_share_of_both_masks_together():
    assert overlap(np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 1], bool)) == 0.25


def teaser_scene(name):
    """White, with a prompt that CLIP sees nowhere and PACL in the upper half, and one that both see the other way."""
    dark, bright = (heat_png(torch.full((4, 4), level), 0.0, 1.0) for level in (0.0, 1.0))
    upper, lower = np.zeros((2, 8, 8), bool)
    upper[:4], lower[4:] = True, True
    first = {"clip": {"heat": dark, "mask": mask_png(lower)}, "pacl": {"heat": bright, "mask": mask_png(upper)}}
    second = {"clip": first["pacl"], "pacl": first["clip"]}
    prompts = [{"name": name, "methods": first}, {"name": "other", "methods": second}]
    return {"image": jpeg(Image.new("RGB", (8, 8), "white")), "prompts": prompts}


def test_the_teaser_shows_each_scenes_first_prompt_as_clip_and_pacl_see_it():
    rows = np.reshape(teaser([teaser_scene("cat"), teaser_scene("dog")]).axes, (2, 4))
    assert [row[0].get_xlabel() for row in rows] == ["“cat”", "“dog”"]
    assert [axis.get_title() for axis in rows[0]] == [
        "image and prompt",
        "CLIP: heat map",
        "PACL: heat map",
        "PACL: mask",
    ]
    image, clip, pacl, inside = (np.asarray(axis.images[0].get_array()).mean(-1) for axis in rows[0])
    assert (image == 255).all() and clip.max() < 100 < 200 < pacl.min()
    assert (inside[:4] == 255).all() and (inside[4:] == 38).all()


def test_the_teaser_is_of_the_first_scenes(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("pacl.report.teaser.teaser", lambda scenes: shown.extend(scenes))
    monkeypatch.setattr("pacl.report.teaser.save", lambda figure, path, dpi: path.touch())
    (tmp_path / "viewer.json").write_text(json.dumps({"scenes": ["a", "b", "c"]}))
    assert write_teaser(tmp_path).is_file() and shown == ["a", "b"]


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

"""What a reader plays with: maps and masks that follow the photo, the prompts and the sliders; in a real JupyterLab in
tests/project/test_browser.py.
"""

import io
from datetime import datetime

import numpy as np
import pytest
from helpers.colour_photos import ColourCLIP, two_colours
from matplotlib.figure import Figure
from PIL import Image

from pacl.segment import Method
from pacl.tools import play as play_module
from pacl.tools.play import SHOWN_SIDE, Panel, Player, example, is_live, play

HOW = {"templates": ["a {}"], "short_side": 32}


@pytest.fixture
def player():
    """Has looked at a photo that is red on the left and blue on the right."""
    player = Player(ColourCLIP(), Method(lambda x: x, "clip"), **HOW)
    player.look(two_colours(), ["red", "green", "blue"])
    return player


@pytest.fixture
def photos(tmp_path):
    two_colours().save(tmp_path / "a.png")
    two_colours("green", "red").save(tmp_path / "b.png")
    return [tmp_path / "a.png", tmp_path / "b.png"]


def seen(box) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(box.children[1].value)))


def test_each_prompt_has_a_map_and_each_pixel_its_best_prompt(player):
    red, green, blue = player.maps()
    assert red.shape == (32, 64) and red[:, :24].min() > 0.99 and abs(red[:, 40:]).max() < 0.01
    assert abs(green).max() < 0.01 and np.allclose(blue, red[:, ::-1], atol=1e-3)
    mask = player.mask(0.0)
    assert (mask[:, :32] == 1).all() and (mask[:, 32:] == 3).all()


def test_a_slider_makes_undecided_pixels_background_and_asks_clip_nothing(player):
    seen_before = player.clip.seen
    player.clip.logit_scale = 3.0  # soft: e^3 / (e^3 + 2) = 0.909 in the middle of a colour, less at the border
    assert (player.mask(0.85) == 0).mean() == pytest.approx((player.mask(0.85)[0] == 0).mean())
    shares = [(player.mask(background) == 0).mean() for background in (0.0, 0.6, 0.85, 0.92)]
    assert shares[0] == 0.0 < shares[1] < shares[2] < shares[3] == 1.0
    assert player.clip.seen == seen_before


def test_pictures_have_one_scale_their_titles_say_the_share_and_the_blend_is_of_colours(player):
    (_, photo), (_, masked), *heats = player.pictures(0.0, 1.0)
    assert [title.rpartition("</b> ")[2] for title, _ in heats] == [
        "red: 50%, cosine up to 1.00",
        "green: 0%, cosine up to 0.00",
        "blue: 50%, cosine up to 1.00",
    ]
    assert np.array_equal(np.asarray(photo), np.asarray(two_colours()))
    red, green, _ = (np.asarray(picture) for _, picture in heats)
    assert red[16, 4].sum() > 500 and red[16, -4].sum() < 60 and green.max() < 60  # inferno: light above, black below
    plain = [np.asarray(picture) for _, picture in player.pictures(0.0, 0.0)]
    assert np.array_equal(plain[1], np.asarray(photo)) and np.array_equal(plain[2], plain[3])  # no colour at all
    assert not np.array_equal(np.asarray(masked), np.asarray(photo))


def test_large_photos_are_made_small(player):
    player.look(Image.new("RGB", (3000, 1000)), ["red", "green"])
    assert player.mask(0).shape == (320, 960)
    assert all(max(picture.size) == SHOWN_SIDE for _, picture in player.pictures(0, 0.5))


def test_the_panel_follows_the_photo_the_prompts_and_an_upload(photos):
    clip = ColourCLIP()
    panel = Panel(Player(clip, Method(lambda x: x, "clip"), **HOW), photos, ["red", "blue"], None)
    first = seen(panel.shown.children[1])
    assert len(panel.shown.children) == 2 + 2
    panel.photo.value = photos[1]
    assert not np.array_equal(seen(panel.shown.children[1]), first)
    panel.prompts.value = "red; <b>green</b>; blue"
    assert len(panel.shown.children) == 2 + 3 and "&lt;b&gt;green" in panel.shown.children[3].children[0].value
    asked = len(clip.seen)
    panel.blend.value, panel.background.value = 0.1, 0.3
    assert len(clip.seen) == asked
    content = io.BytesIO()
    two_colours("blue", "green", (48, 48)).save(content, "PNG")
    file = {"name": "../mine.png", "type": "image/png", "size": 1, "content": memoryview(content.getvalue())}
    panel.upload.value = [file | {"last_modified": datetime.now()}]
    assert panel.photo.label == "mine.png" and seen(panel.shown.children[0]).shape[:2] == (48, 48)
    assert len(panel.photo.options) == 3


@pytest.mark.parametrize(
    "words, told", [("", "There is no prompt"), ("Red; red", "CLIP reads the same in the prompts")]
)
def test_a_mistake_is_a_sentence_and_the_last_pictures_stay(photos, words, told):
    panel = Panel(Player(ColourCLIP(), Method(lambda x: x, "clip"), **HOW), photos, ["red", "blue"], None)
    before = seen(panel.shown.children[2])
    panel.prompts.value = words
    assert panel.said.value.startswith(f"<b>{told}") and np.array_equal(seen(panel.shown.children[2]), before)
    panel.prompts.value = "blue; red"
    assert panel.said.value == "" and not np.array_equal(seen(panel.shown.children[2]), before)


def test_a_batch_gets_a_figure_of_the_first_photo_that_can_be_read(photos, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    photos[0].write_bytes(b"no photo")
    figure = play(ColourCLIP(), Method(lambda x: x, "clip"), photos, ["red", "green"], background=0.5, **HOW)
    assert isinstance(figure, Figure) and [axis.get_title() for axis in figure.axes[:3]] == ["", "red", "green"]
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    assert is_live()
    panel = play(ColourCLIP(), Method(lambda x: x, "clip"), photos[1:], ["red", "green"], background=0.5, **HOW)
    assert isinstance(panel, Panel) and panel.background.value == 0.5


def test_without_photos_there_is_a_scene_and_a_model_that_is_there(tiny_folder, monkeypatch):
    path, prompts, *model = example("tiny", str(tiny_folder), None, 448, None)
    assert prompts == "apple; tree; boat; pond" and model == ["tiny", str(tiny_folder), None, 448, None]
    assert Image.open(path).size == (128, 128)
    monkeypatch.setattr(play_module, "has_weights", lambda name, pretrained: False)
    model = example("ViT-B-16", "openai", None, 448, None)[2:]
    assert model[:2] == ("miniclip", "data/miniclip") and model[3:] == (64, 4)

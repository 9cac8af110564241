"""The README's picture shows the first scenes with their heat maps and mask."""

import base64
import io

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from PIL import Image

from pacl.report.teaser import teaser, write_teaser
from pacl.runtime.files import write_json


def encoded(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def scene(value: int, name: str) -> dict:
    image = np.full((8, 8, 3), value, np.uint8)
    mask = np.repeat(np.uint8([[0, 1]]), 4, axis=1).repeat(8, axis=0)  # the right half
    ways = {
        m: {"heat": encoded(np.full((4, 4, 3), 80 * i + 40, np.uint8)), "mask": encoded(mask)}
        for i, m in enumerate(("clip", "pacl"))
    }
    return {"image": encoded(image), "prompts": [{"name": name, "methods": ways}, {"name": "not shown", "methods": {}}]}


def test_the_teaser_shows_image_heat_maps_and_mask_of_the_first_prompt():
    axes = np.reshape(teaser([scene(100, "cat"), scene(200, "sea")]).axes, (2, 4))
    titles = ["image and prompt", "CLIP: heat map", "PACL: heat map", "PACL: mask"]
    assert [axis.get_title() for axis in axes[0]] == titles
    assert [axis.get_xlabel() for axis in axes[:, 0]] == ["“cat”", "“sea”"]
    for row, value in zip(axes, (100, 200), strict=True):
        image, clip, pacl, mask = (np.asarray(axis.images[0].get_array())[..., 0] for axis in row)
        assert (image == value).all()
        assert clip == pytest.approx(0.25 * value + 0.75 * 40, abs=1)
        assert pacl == pytest.approx(0.25 * value + 0.75 * 120, abs=1)
        assert (mask[:, 4:] == value).all() and (mask[:, :4] == round(0.15 * value)).all()


def test_the_teaser_is_made_of_the_first_two_scenes_of_the_viewer(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("pacl.report.teaser.teaser", shown.extend)
    monkeypatch.setattr("pacl.report.teaser.save", lambda figure, path, dpi: path.touch())
    write_json(tmp_path / "scenes/viewer.json", {"scenes": [1, 2, 3]})
    assert write_teaser(tmp_path) == tmp_path / "teaser.png" and shown == [1, 2]
    with pytest.raises(FileNotFoundError, match="viewer.json"):
        write_teaser(tmp_path / "nowhere")

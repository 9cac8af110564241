"""White bars around photos are noticed."""

import numpy as np
import pytest
from PIL import Image

from pacl.sources.borders import has_bars, note

GREY = np.full((60, 60), 90, np.uint8)


def with_white(*parts):
    image = GREY.copy()
    for part in parts:
        image[part] = 255
    return image


@pytest.mark.parametrize(
    "image, expected",
    [
        (with_white(np.s_[:10], np.s_[-10:]), True),
        (with_white(np.s_[:, :2], np.s_[:, -2:]), True),
        (with_white(np.s_[:10]), False),  # a sky
        (with_white(np.s_[:10], np.s_[-10:], np.s_[:, :10], np.s_[:, -10:]), False),  # a thing on white paper
        (with_white(np.s_[:10], np.s_[-10:])[:, :50], False),
        (GREY, False),
    ],
)
def test_bars_are_on_two_opposite_sides_of_a_square(image, expected):
    assert has_bars(image) == expected


def test_bars_are_told_from_a_tenth_on_and_survive_jpeg(tmp_path):
    """Of the first hundred images only."""
    for number in range(120):
        white = [np.s_[:10], np.s_[-10:]] if number < 9 or number >= 100 else []
        noise = np.random.default_rng(number).integers(0, 40, GREY.shape, dtype=np.uint8)
        picture = np.minimum(with_white(*white).astype(int) + noise * (with_white(*white) < 255), 255).astype(np.uint8)
        Image.fromarray(picture).convert("RGB").save(tmp_path / f"{number:03d}.jpg", quality=95)
    images = sorted(tmp_path.iterdir())
    assert note(images) == "" and note([]) == ""
    assert note(images[:90]).startswith("9 of the first 90 images of the shards have white bars, as img2dataset")

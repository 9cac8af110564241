"""The things' drawings against their numbers and against Pillow's filters."""

import re

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from pacl.sources.miniworld import textures
from pacl.sources.miniworld.captions import PLURALS
from pacl.sources.miniworld.things import (
    ODD,
    ODD_COLOURS,
    SHEET,
    line_drawing,
    odd_colouring,
    part_mask,
    part_masks,
    patterned,
    sprite,
    things,
)

UNIT = 0.92 * SHEET / 100  # pixels of a drawing's unit; it has a margin of 4 hundredths
PATTERNS = ("plain", "stripes", "dots", "checks")


def test_names_of_things_kinds_and_textures_are_distinct():
    kinds = [kind for drawing in things().values() for kind in drawing["kinds"]]
    names = [*things(), *kinds, *textures.NAMES]
    assert len(names) == len(set(names)) == 20 + 40 + 24
    thing_words = set(things()) | set(PLURALS.values()) | {name + "s" for name in things()}
    assert not thing_words & {word for name in (*textures.NAMES, *textures.GROUPS) for word in name.split()}
    assert all(
        re.fullmatch(rf"[a-z]+ {thing}", kind) for thing, drawing in things().items() for kind in drawing["kinds"]
    )


def test_sprites_of_a_thing_share_a_shape_and_differ_in_colour():
    for thing, drawing in [*things().items()][::5]:
        sheets = [sprite(thing, kind) for kind in drawing["kinds"]]
        sheets += [sprite(thing, ODD, variant) for variant in range(ODD_COLOURS)]
        assert len({sheet.getchannel("A").tobytes() for sheet in sheets}) == 1
        assert len({sheet.tobytes() for sheet in sheets}) == 2 + ODD_COLOURS
        assert 0.1 < (np.asarray(sheets[0].getchannel("A")) > 127).mean() < 0.8
    made = [odd_colouring(name, variant) for name in things() for variant in range(ODD_COLOURS)]
    assert len({tuple(one[:2]) for one in made}) == len(made) and {one[2] for one in made} == set(PATTERNS)


def test_a_sprite_covers_its_parts_and_a_rim():
    for name in ("apple", "whale"):
        parts = np.max([np.asarray(mask) for mask in part_masks(name)], axis=0)
        covered = np.asarray(sprite(name, list(things()[name]["kinds"])[0]).getchannel("A"))
        assert np.array_equal(covered, np.asarray(Image.fromarray(parts).filter(ImageFilter.MaxFilter(9))))


def test_a_line_drawing_is_ink_on_white_inside_its_sprite():
    sheet, drawing = sprite("apple", "red apple"), line_drawing("apple", "red apple").convert("RGBA")
    alpha, grey = np.asarray(sheet)[..., 3], np.asarray(drawing)[..., 0]
    assert np.array_equal(np.asarray(drawing)[..., 3], alpha)
    deep = ndimage.binary_erosion(alpha == 255, iterations=6)
    assert np.median(grey[deep]) > 200 and (grey[deep] < 100).mean() > 0.005
    assert np.median(grey[(alpha == 255) & ~deep]) == 0, "the outline"


@pytest.mark.parametrize(
    "shape, numbers, area, centre",
    [
        ("ellipse", [40, 60, 20, 10], np.pi * 20 * 10, (40, 60)),
        ("polygon", [10, 20, 50, 20, 50, 80, 10, 80], 40 * 60, (30, 50)),
        ("polygon", [10, 10, 70, 10, 10, 70], 60 * 60 / 2, (30, 30)),
        ("line", [6, 20, 50, 80, 50], 60 * 6 + np.pi * 3**2, (50, 50)),
    ],
)
def test_parts_have_the_area_and_place_of_their_numbers(shape, numbers, area, centre):
    share = np.asarray(part_mask(shape, numbers)) / 255
    y, x = ndimage.center_of_mass(share)
    assert share.sum() / UNIT**2 == pytest.approx(area, rel=0.03)
    assert ((x + 0.5 - 0.04 * SHEET) / UNIT, (y + 0.5 - 0.04 * SHEET) / UNIT) == pytest.approx(centre, abs=0.4)


def test_the_share_of_a_patterns_second_colour():
    share = {p: (np.asarray(patterned("#000000", "#ffffff", p)) == 255).mean() for p in PATTERNS}
    expected = {"plain": 0, "checks": 0.5, "stripes": 0.5, "dots": np.pi * 0.42**2 / 1.5**2}
    assert share == pytest.approx(expected, abs=0.06)

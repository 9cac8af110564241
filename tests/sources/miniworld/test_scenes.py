"""The mini world's scenes: pixels as ever, masks against drawings made another way, tables by hand."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pacl.data.benchmark import IGNORE
from pacl.runtime.files import checksum
from pacl.sources.miniworld import scenes as miniworld
from pacl.sources.miniworld import textures
from pacl.sources.miniworld.scenes import (
    SETS,
    SIDE,
    SPLITS,
    VIEW,
    backdrop,
    benchmark,
    classification_image,
    fine_labels,
    label_of,
    labelled_scene,
    pair,
    paste,
    render,
    scene,
    set_classes,
    small_view,
)
from pacl.sources.miniworld.things import SHEET


def test_scenes_captions_and_sets_are_the_same_as_ever():
    """The pixels of 24 scenes and their captions, and of two images of each set."""
    parts = []
    for index in range(24):
        image, caption = pair(index, seed=0, split="train")
        parts += [*labelled_scene(index, seed=0, split="test"), image, caption.encode()]
    for name in SETS:
        for index in range(2):
            image, label = classification_image(index, seed=0, split="test", set_name=name)
            parts += [image, bytes([label])]
    assert checksum(*parts) == "b84ec69c6956074abe97ef083037422f4f6b15f49ad4f5cc3a029a56512a3058"


def recorded(monkeypatch, name):
    """The arguments of each call of a function of pacl.sources.miniworld.scenes, which still runs."""
    calls, function = [], getattr(miniworld, name)
    monkeypatch.setattr(miniworld, name, lambda *arguments: calls.append(arguments) or function(*arguments))
    return calls


@pytest.mark.parametrize(
    "name, count, by_hand",
    [  # fine labels: 0-2 apples, 3-5 balloons, 57-59 whales, 60 blue sky, 61 night sky, 63 brick wall, 83 lava
        ("voc20", 20, {0: 0, 1: 0, 2: 0, 3: 1, 5: 1, 57: 19, 59: 19, 60: 255, 83: 255}),
        ("voc21", 21, {0: 1, 1: 1, 2: 1, 3: 2, 5: 2, 57: 20, 59: 20, 60: 0, 83: 0}),
        ("context59", 28, {0: 0, 2: 0, 4: 1, 58: 19, 60: 20, 61: 20, 63: 21, 66: 21, 83: 27}),
        ("coco_stuff", 44, {0: 0, 2: 0, 4: 1, 58: 19, 60: 20, 61: 21, 63: 23, 66: 26, 83: 43}),
        ("ade20k", 64, {0: 0, 1: 1, 2: 255, 3: 2, 4: 3, 5: 255, 57: 38, 58: 39, 59: 255, 60: 40, 61: 41, 83: 63}),
    ],
)
def test_benchmark_tables_by_hand(name, count, by_hand):
    one = benchmark(name)
    assert len(one.classes) == len(set(one.classes)) == count
    assert {label: one.table[label] for label in by_hand} == by_hand
    assert one.table[len(fine_labels()) :] == (IGNORE,) * (256 - len(fine_labels()))
    assert set(one.table) - {IGNORE} == set(range(count)), "every class has a label"


def test_mask_is_where_the_sheet_shows():
    """A red disc on black: the red of a pixel is the disc's share of it, the shadow adds at most 8."""
    y, x = np.mgrid[:SHEET, :SHEET]
    sheet = Image.new("RGB", (SHEET, SHEET), "red")
    sheet.putalpha(Image.fromarray((np.hypot(x - 100, y - 140) < 90).astype(np.uint8) * 255))
    image, mask = Image.new("RGB", (SIDE, SIDE)), np.full((SIDE, SIDE), 70, np.uint8)
    paste(image, mask, sheet, [50.0, 77.0, 61.0], 20.0, 7)
    red = np.asarray(image)[..., 0]
    assert set(np.unique(mask)) == {7, 70}
    assert (mask[red > 136] == 7).all() and (mask[red <= 120] == 70).all()
    assert (mask == 7).sum() == pytest.approx(np.pi * (90 * 61 / SHEET) ** 2, rel=0.01)
    # the disc's centre is at (-28, +12) of the sheet's, which PIL turns anticlockwise
    angle, scale = np.deg2rad(20), 61 / SHEET
    dx, dy = -28 * scale, 12 * scale
    expected = (
        77 + -dx * np.sin(angle) + dy * np.cos(angle),
        50 + dx * np.cos(angle) + dy * np.sin(angle),
    )
    assert np.abs(np.array(ndimage.center_of_mass(mask == 7)) - expected).max() < 1


def test_what_is_pasted_later_covers_what_was_there_and_edges_cut_it_off():
    image, mask = Image.new("RGB", (SIDE, SIDE)), np.zeros((SIDE, SIDE), np.uint8)
    paste(image, mask, Image.new("RGBA", (SHEET, SHEET), "red"), [40.0, 40.0, 40.0], 0.0, 1)
    paste(image, mask, Image.new("RGBA", (SHEET, SHEET), "lime"), [60.0, 60.0, 40.0], 0.0, 2)
    paste(image, mask, Image.new("RGBA", (SHEET, SHEET), "blue"), [128.0, 0.0, 20.0], 0.0, 3)
    assert (mask == 1).sum() == 40 * 40 - 20 * 20 and (mask == 2).sum() == 40 * 40
    assert (np.asarray(image)[mask == 2] == (0, 255, 0)).all()
    assert (mask == 3).sum() == 10 * 10 and (mask[:10, 118:] == 3).all()


def drawn_another_way(sheet, box, degrees):
    """A sheet's colours [SIDE, SIDE, 3] and alpha [SIDE, SIDE] in the scene, by looking up each pixel in the sheet."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    angle, dx, dy = np.deg2rad(degrees), x - box[0], y - box[1]
    across = (dx * np.cos(angle) - dy * np.sin(angle)) * SHEET / box[2] + SHEET / 2 - 0.5
    down = (dx * np.sin(angle) + dy * np.cos(angle)) * SHEET / box[2] + SHEET / 2 - 0.5
    smoothed = ndimage.uniform_filter(np.asarray(sheet, float), (int(SHEET / box[2]), int(SHEET / box[2]), 0))
    found = np.stack([ndimage.map_coordinates(smoothed[..., c], [down, across], order=1) for c in range(4)], -1)
    return found[..., :3], found[..., 3] / 255


@pytest.mark.parametrize("seed", range(6))
def test_a_scene_of_one_thing_is_labelled_where_its_sprite_is(seed, monkeypatch):
    before, stuff_mask, _ = backdrop(np.random.default_rng(seed))  # the first thing a scene draws
    calls = recorded(monkeypatch, "paste")
    made = scene(np.random.default_rng(seed), count=1)
    (_, _, sheet, box, degrees, label) = calls[0]
    assert [(name, kind) for name, kind, _ in made["things"]] == [fine_labels()[label]] and len(calls) == 1
    colours, alpha = drawn_another_way(sheet, box, degrees)
    mask, inside = made["mask"], alpha > 0.5
    near = ndimage.binary_dilation(inside, iterations=2)  # positions are rounded to whole pixels
    core = ndimage.binary_erosion(inside, iterations=2)
    assert core.sum() > 50 and (mask[core] == label).all()
    assert np.array_equal(mask[~near], stuff_mask[~near]) and set(mask[near]) <= {label, *stuff_mask.flat}
    smooth_image = ndimage.uniform_filter(made["image"].astype(float), (3, 3, 0))
    smooth_sprite = ndimage.uniform_filter(colours, (3, 3, 0))
    assert np.abs(smooth_image - smooth_sprite)[core].mean() < 12
    reached = ndimage.binary_dilation(near, np.ones((3, 3)), iterations=8)  # by the shadow
    assert np.array_equal(made["image"][~reached], np.asarray(before)[~reached])


def test_backdrops_have_the_label_of_the_texture_in_every_pixel(monkeypatch):
    flat = {name: 3 * i for i, name in enumerate(textures.NAMES)}
    monkeypatch.setattr(textures, "texture", lambda name, rng, size: np.full((size, size, 3), flat[name], np.uint8))
    for seed in range(40):
        image, mask, stuff = backdrop(np.random.default_rng(seed))
        assert np.array_equal(np.asarray(image)[..., 0], 3 * (mask.astype(int) - label_of(textures.NAMES[0], None)))
        assert {label_of(name, None) for name in stuff} == set(np.unique(mask).tolist())
        sides = {textures.SIDE[name] for name in stuff}
        assert len(stuff) == 1 or sides <= {"top", "any"} or textures.SIDE[stuff[0]] != "bottom"
        assert len(stuff) == 1 or mask[0, 0] == label_of(stuff[0], None), "the first is above"


def test_workers_change_nothing():
    with ProcessPoolExecutor(2) as two, ThreadPoolExecutor(1) as one:
        images, captions = render(two, pair, 60, seed=1, split="validation")  # more than one chunk of 50
        alone = render(one, pair, 60, seed=1, split="validation")
    assert images.shape == (60, VIEW, VIEW, 3) and len(captions) == 60
    assert captions == alone[1] and np.array_equal(images, alone[0])
    image, text = pair(50, seed=1, split="validation")
    assert np.array_equal(images[50], image) and captions[50] == text
    others = [pair(50, seed=1, split=split)[0] for split in SPLITS if split != "validation"]
    others += [pair(51, seed=1, split="validation")[0], pair(50, seed=2, split="validation")[0], image]
    assert len({other.tobytes() for other in others}) == len(others), "seed, split and index decide"


def test_the_sets_images_are_not_the_scenes_over_again():
    """NumPy pads seeds with zeros, [7, 2, 1] and [7, 2, 1, 0] are one: no set may draw from a scene's generator."""
    scenes = [small_view(np.asarray(backdrop(miniworld.rng_of(7, "test", index))[0])) for index in range(1 + len(SETS))]
    for set_name in ("clean", "small", "large"):
        image, _ = classification_image(0, seed=7, split="test", set_name=set_name)
        assert all((image == other).mean() < 0.2 for other in scenes), set_name


def test_small_view_is_the_mean_of_four_pixels():
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    means = image.astype(float).reshape(VIEW, 2, VIEW, 2, 3).mean((1, 3))
    assert np.array_equal(small_view(image), np.floor(means + 0.5).astype(np.uint8))
    assert (small_view(np.full((SIDE, SIDE, 3), 255, np.uint8)) == 255).all()


@pytest.mark.parametrize("set_name", [name for name in SETS if name != "textures"])
def test_sets_show_the_thing_they_name(set_name, monkeypatch):
    calls = recorded(monkeypatch, "paste")
    sizes, turns, classes, main = [], [], [], []
    for index in range(10):
        calls.clear()
        image, label = classification_image(index, seed=3, split="test", set_name=set_name)
        assert image.shape == (VIEW, VIEW, 3) and image.dtype == np.uint8
        assert len(calls) == (4 if set_name == "cluttered" else 1)
        _, mask, sheet, box, degrees, pasted = calls[-1]  # last, so nothing is over it
        assert (mask == pasted).any()
        sizes, turns, classes = [*sizes, box[2] / SIDE], [*turns, degrees], [*classes, label]
        main.append(set_classes(set_name)[label] == fine_labels()[pasted][0])
        assert (np.ptp(np.asarray(sheet)[..., :3], axis=-1).max() == 0) == (set_name == "outline")
    assert all(main) and len(set(classes)) > 4
    low, high = {"small": (0.2, 0.3), "large": (0.9, 1.25), "cluttered": (0.42, 0.52)}.get(set_name, (0.45, 0.75))
    assert low <= min(sizes) and max(sizes) <= high
    assert all(60 <= turn <= 300 if set_name == "rotated" else abs(turn) <= 15 for turn in turns)
    assert set_name != "rotated" or min(turns) < 180 < max(turns)
    assert all(0.2 <= call[3][2] / SIDE <= 0.3 for call in calls[:-1]), "other things are small"

"""Photos that a report may show, of hand-made COCO annotations and of real ones."""

import json

import numpy as np
import pytest
from helpers.folders import box, thing, write_instances

from pacl.data.benchmark import IGNORE
from pacl.data.images import open_labels
from pacl.data.prepared import read_scenes
from pacl.sources.layouts import class_list
from pacl.sources.shown_photos import MOST, licensed, write_shown

BY, NC = 4, 2
SIZE = (20, 10)
CROWD = {"counts": [0, 200], "size": [10, 20]}


THINGS = [
    thing(1, 51, [box(5, 3, 9, 6)], 20),  # a bowl in front of somebody
    thing(1, 1, [box(0, 0, 9, 9), box(15, 0, 19, 4)], 125),  # who has two parts
    thing(1, 18, CROWD, 200, crowd=1),
    thing(2, 1, [box(0, 0, 9, 9)], 100),
    thing(3, 51, [box(0, 0, 9, 9)], 100),
    thing(4, 18, CROWD, 200, crowd=1),
    thing(5, 18, [box(0, 0, 9, 9)], 100),
    thing(6, 18, [box(2, 2, 3, 3)], 4),
]
LICENCES = {1: BY, 2: NC, 3: BY, 4: BY, 5: BY, 6: BY}
ABSENT = 5  # the photo that isn't there


@pytest.fixture
def shown(tmp_path):
    write_instances(tmp_path / "raw", THINGS, LICENCES, [ABSENT])
    (tmp_path / "prepared").mkdir()
    write_shown(tmp_path / "prepared", tmp_path / "prepared", tmp_path / "raw", "coco_seen")
    return read_scenes(tmp_path / "prepared", "shown")


def test_only_photos_under_the_licence_with_a_seen_class_that_is_no_crowd_are_taken_and_credited(shown):
    assert [image.rpartition("/")[2] for image in shown.images.source] == ["000000000001.jpg", "000000000006.jpg"]
    assert shown.credits == tuple(f"COCO val2017 {i}, CC BY 2.0, http://farm1.staticflickr.com/{i}.jpg" for i in (1, 6))
    assert shown.take(range(1, 2)).credits == shown.credits[1:]


def test_masks_have_the_polygons_with_small_things_in_front_and_nothing_else(shown):
    seen = class_list("voc_seen")
    person, dog = seen.index("person"), seen.index("dog")
    expected = np.full(SIZE[::-1], IGNORE)
    expected[:10, :10] = expected[:5, 15:] = person
    expected[3:7, 5:10] = IGNORE  # the bowl, which no class names
    assert np.array_equal(shown.masks[0], expected) and (expected == person).sum() == 100 + 25 - 20
    assert (shown.masks[1] == dog).sum() == 4 == shown.pixels[dog]
    benchmark = shown.benchmarks["coco_seen"]
    assert list(benchmark.classes) == seen and np.array_equal(benchmark.target(shown.masks[0]), expected)


def test_at_most_a_dozen_are_taken_the_first_by_their_numbers(tmp_path):
    numbers = range(30, 10, -1)
    raw = write_instances(tmp_path, [thing(i, 1, [box(0, 0, 9, 9)], 100) for i in numbers], dict.fromkeys(numbers, BY))
    found = licensed(raw / "coco/val2017", raw / "coco/annotations/instances_val2017.json", ["person"])
    assert [photo["id"] for photo, _ in found] == list(range(11, 11 + MOST)) and MOST == 12


def test_voc_spells_some_classes_otherwise(tmp_path):
    raw = write_instances(tmp_path, [thing(1, 5, [box(0, 0, 9, 9)], 100)], {1: BY})
    (one,) = licensed(raw / "coco/val2017", raw / "coco/annotations/instances_val2017.json", ["dog", "aeroplane"])
    assert one[1][0][0] == 1


def test_what_is_wrong_with_the_files_is_said(tmp_path):
    write_instances(tmp_path, THINGS[2:5], LICENCES)
    with pytest.raises(ValueError, match="val2017 has no photo under CC BY 2.0 with a class of voc_seen"):
        write_shown(tmp_path, tmp_path, tmp_path, "coco_seen")
    path = tmp_path / "coco/annotations/instances_val2017.json"
    for content in (path.read_text()[:-9], "[]", '{"images": [{}]}'):
        path.write_text(content)
        with pytest.raises(ValueError, match="instances_val2017.json is not a complete JSON file of COCO instances"):
            write_shown(tmp_path, tmp_path, tmp_path, "coco_seen")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"COCO val2017 with instances\n.*annotations/instances_val2017.json"):
        write_shown(tmp_path, tmp_path, tmp_path, "coco_seen")
    assert not (tmp_path / "shown_masks").exists()


def test_real_instances(real_data, tmp_path):
    """Polygons that COCO counted the area of: its number is met within a twentieth, for every object drawn alone."""
    folder = real_data / "coco"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    write_shown(tmp_path, tmp_path, real_data, "coco_seen")
    shown = read_scenes(tmp_path, "shown")
    assert len(shown) == MOST and "COCO val2017 397133, CC BY 2.0" in " ".join(shown.credits)
    content = json.loads((folder / "annotations/instances_val2017.json").read_text())
    dogs = [one for one in content["annotations"] if one["image_id"] == 377575 and one["category_id"] == 18]
    mask = open_labels(tmp_path / "shown_masks/000000377575.png")
    assert (mask == class_list("voc_seen").index("dog")).sum() == pytest.approx(sum(d["area"] for d in dogs), rel=0.05)

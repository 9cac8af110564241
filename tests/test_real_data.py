"""Real subsets in official layouts, read by this project and, independently, by the plainest code there is."""

import csv
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pacl import sources
from pacl.data import Images, Masks, target_of


@pytest.fixture(scope="module")
def voc(real_data):
    return real_data / "VOCdevkit/VOC2012"


def histogram(labels):
    counts = np.bincount(labels.ravel())
    return {int(value): int(counts[value]) for value in counts.nonzero()[0]}


def test_each_mask_holds_what_pillow_and_numpy_count(voc):
    images, masks, _ = sources.voc(voc)
    assert len(images) == len(masks) > 0
    voc20, voc21 = sources.voc20(), sources.voc21()
    for mask, path in zip(Masks(masks), sorted((voc / "SegmentationClass").iterdir()), strict=True):
        with Image.open(path) as image:
            counted = dict(zip(*(v.tolist() for v in np.unique(np.array(image), return_counts=True)), strict=True))
        assert histogram(mask) == counted, path
        assert counted.keys() <= {*range(21), 255}, path
        assert histogram(target_of(mask, voc21["table"])) == counted
        expected = Counter()
        for value, pixels in counted.items():
            expected[255 if value in (0, 255) else value - 1] += pixels
        assert histogram(target_of(mask, voc20["table"])) == expected


def test_each_mask_has_its_images_name_and_size(voc):
    images, masks, note = sources.voc(voc)
    listed = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
    assert [path.stem for path in images] == [path.stem for path in masks] == listed
    assert len(images) == 1449 or f"{len(images)} of 1,449" in note
    for image, mask in zip(Images(images), Masks(masks), strict=True):
        assert image.size == mask.shape[::-1] and image.mode == "RGB"


def test_captions_are_those_of_the_file(real_data):
    images, captions = sources.flickr8k(real_data / "flickr8k")
    with (real_data / "flickr8k/captions.txt").open(encoding="utf-8", newline="") as file:
        rows = [(row["image"], row["caption"].strip()) for row in csv.DictReader(file)]
    assert [(path.name, text) for path, texts in zip(images, captions, strict=True) for text in texts] == rows
    assert {len(texts) for texts in captions} == {5}
    assert any("," in text for texts in captions for text in texts)
    assert {path.name for path in images} == {path.name for path in (real_data / "flickr8k/Images").iterdir()}
    assert all(image.mode == "RGB" for image in (Images(images)[i] for i in range(0, len(images), 50)))


def test_the_classes_are_those_of_the_field(real_data):
    """mmsegmentation's names, in its order; a class's synonyms may follow."""
    for name in ("voc20", "voc21"):
        published = real_data / f"class_names/{name}.txt"
        if not published.is_file():
            pytest.skip(f"{published} is missing")
        assert [line.split(",")[0] for line in sources.class_list(name)] == published.read_text().split()

"""Real subsets in official layouts, read by this project and, independently, by the plainest code there is."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
from helpers.folders import write_image
from PIL import Image

from pacl.data.images import Images, Masks
from pacl.data.prepared import read_labelled
from pacl.runtime.config import load_params, project_root
from pacl.sources.caption_sets import COCO, FLICKR8K, captioned
from pacl.sources.classification_sets import write_set
from pacl.sources.layouts import class_list, lines_of
from pacl.sources.segmentation_sets import ADE20K, COCO_STUFF, CONTEXT, VOC, benchmark, check_sizes, scenes

MOST = 40  # scenes of a benchmark


@pytest.fixture(scope="module")
def real(real_data):
    """The path of a part of the real data; without it the test is skipped."""

    def path(name):
        if not (real_data / name).exists():
            pytest.skip(f"{real_data / name} is not there")
        return real_data / name

    return path


@pytest.fixture(scope="module", params=[VOC, COCO_STUFF, ADE20K], ids=lambda dataset: dataset["key"])
def some_scenes(request, real):
    """(folder, data set, images, masks) of one of the benchmarks' subsets."""
    dataset = request.param
    images, masks, note = scenes(real(dataset["folder"]), dataset, dataset["test"])
    assert len(images) == len(masks) > 0 and f" {len(images):,} of " in note
    return real(dataset["folder"]), dataset, images[:MOST], masks[:MOST]


@pytest.fixture(scope="module")
def published(real):
    """Published class lists and the map from COCO-Stuff's values to train ids."""
    return json.loads(real("class_names/classes.json").read_text())


def histogram(labels):
    counts = np.bincount(np.asarray(labels).ravel())
    return {int(value): int(counts[value]) for value in counts.nonzero()[0]}


def raw_histogram(path):
    with Image.open(path) as image:
        return dict(zip(*(v.tolist() for v in np.unique(np.array(image), return_counts=True)), strict=True))


def expected_label(name, value, published):
    """A mask's value as a benchmark's class, by the benchmarks' own definitions; 255 is ignored, but for COCO-Object,
    whose unlabelled pixels are background.
    """
    if value == 255 and name == "coco_object":
        return 0
    if value == 255 or (value == 0 and name in ("voc20", "ade20k")):
        return 255
    if name in ("voc20", "ade20k"):
        return value - 1
    if name == "voc21":
        return value
    if name == "voc_seen":
        seen = [word.replace(" ", "") for word in class_list(name)]
        word = ["background", *class_list("voc20")][value].replace(" ", "")
        return seen.index(word) if word in seen else 255
    train_id = published["cocostuff_png_value_to_trainid"][str(value)]
    return train_id if name == "coco_stuff" else (train_id + 1 if value < 91 else 0)


def test_each_masks_labels_are_those_that_pillow_and_numpy_count(some_scenes, published):
    folder, dataset, _, masks = some_scenes
    for name in dataset["benchmarks"]:
        described = benchmark(name, folder, masks)
        for mask, path in zip(Masks(masks), masks, strict=True):
            counted, expected = raw_histogram(path), Counter()
            assert histogram(mask) == counted, path
            for value, pixels in counted.items():
                expected[expected_label(name, value, published)] += pixels
            assert histogram(described.target(mask)) == expected, (name, path)


def test_each_mask_has_its_images_name_and_size(some_scenes):
    _, _, images, masks = some_scenes
    assert [path.stem for path in images] == [path.stem for path in masks]
    check_sizes(images, masks)
    for image, mask in zip(Images(images), Masks(masks), strict=True):
        assert image.size == mask.shape[::-1] and image.mode == "RGB"


def test_a_mask_in_grey_has_the_labels_of_the_one_with_a_palette(real):
    """VOC's masks as published and as evaluators often have them."""
    greys = sorted(real("voc2012_val_masks").iterdir())[:MOST]
    palettes = [real("VOCdevkit/VOC2012/SegmentationClass") / path.name for path in greys]
    pairs = [pair for pair in zip(greys, palettes, strict=True) if pair[1].exists()]
    assert pairs and all(np.array_equal(*Masks(pair)) for pair in pairs)


def test_train_ids_of_coco_give_the_labels_of_the_raw_values(real):
    """Files of train ids lie next to the raw ones; both must lead to the same classes."""
    folder = real(COCO_STUFF["folder"])
    raw = [path for split in COCO_STUFF["sizes"] for path in scenes(folder, COCO_STUFF, split)[1]]
    ids = [path.with_name(f"{path.stem}_labelTrainIds.png") for path in raw]
    for name in COCO_STUFF["benchmarks"]:
        of_raw, of_ids = (benchmark(name, folder, paths) for paths in (raw, ids))
        for one, other in zip(Masks(raw), Masks(ids), strict=True):
            assert np.array_equal(of_raw.target(one), of_ids.target(other))


def test_the_two_orders_of_context_are_told_apart_on_real_scenes(real, tmp_path):
    """No Pascal Context is at hand: COCO-Stuff's masks, written with Context's classes in each of its two orders."""
    same = {"tv": "tvmonitor", "couch": "sofa", "dining table": "table", "airplane": "aeroplane", "dirt": "ground"}
    coarse = {name: name for name in ("wall", "floor", "sky", "building", "water")}
    folder = real(COCO_STUFF["folder"])
    masks = [path for split in COCO_STUFF["sizes"] for path in scenes(folder, COCO_STUFF, split)[1]]
    stuff = benchmark("coco_stuff", folder, masks)
    named = [same.get(c, coarse.get(c.split("-")[0], c)) for c in stuff.classes]
    written = {}
    for name in ("context59", "context59_voc_first"):
        order, place = class_list(name), tmp_path / name
        values = np.array([1 + order.index(c) if c in order else 0 for c in named] + [0] * 85, np.uint8)
        for part in ("ImageSets/Main", "SegmentationClassContext"):
            (place / part).mkdir(parents=True)
        (place / "ImageSets/Main/val.txt").write_text("\n".join(path.stem for path in masks))
        for path, mask in zip(masks, Masks(masks), strict=True):
            write_image(place / f"JPEGImages/{path.stem}.jpg", size=mask.shape[::-1])
            Image.fromarray(values[stuff.target(mask)]).save(place / f"SegmentationClassContext/{path.name}")
        written[name] = place, scenes(place, CONTEXT, "val")[1]
    place, voc_first = written["context59_voc_first"]
    with pytest.raises(ValueError, match="59_labels.txt"):
        benchmark("context59", place, voc_first)
    official = real("class_names/pascal_context_classes-59_fcn_order.txt").read_text()
    (place / "59_labels.txt").write_text(official)
    alphabetical, listed = (benchmark("context59", *one) for one in written.values())
    for one, other in zip(*(Masks(paths) for _, paths in written.values()), strict=True):
        assert np.array_equal(alphabetical.target(one), listed.target(other))


def test_the_classes_are_the_published_ones_in_their_order(real, published):
    files = {"coco_stuff": "cocostuff171", "ade20k": "ade150"}
    for name in ("voc20", "voc21", "context59", "context60", "coco_stuff", "ade20k"):
        assert [line.split(",")[0] for line in class_list(name)] == [
            label.strip() for label in published["classes"][files.get(name, name)]
        ], name
    assert class_list("coco_object")[1:] == published["classes"]["cocostuff171"][:80]
    official = lines_of(real("class_names/cocostuff_labels_182_official.txt"))
    official = [line.partition(": ")[2] for line in official][1:]
    train_id = published["cocostuff_png_value_to_trainid"]
    for value, name in enumerate(official):
        if str(value) in train_id:
            assert class_list("coco_stuff")[train_id[str(value)]] == name


def test_the_evaluators_phrases_are_naclips(real):
    for name in ("voc20", "voc21", "context60", "coco_object", "coco_stuff", "ade20k"):
        published = lines_of(real(f"class_names/naclip_prompts/cls_{name}.txt"))
        assert lines_of(project_root() / f"data/classes/sclip/{name}.txt") == published


def test_captions_are_those_of_the_file(real):
    images, captions, _ = captioned(real("flickr8k"), FLICKR8K)
    with real("flickr8k/captions.txt").open(encoding="utf-8", newline="") as file:
        rows = [(row["image"], row["caption"].strip()) for row in csv.DictReader(file)]
    assert [(path.name, text) for path, texts in zip(images, captions, strict=True) for text in texts] == rows
    assert {len(texts) for texts in captions} == {5}
    assert any("," in text for texts in captions for text in texts)
    assert {path.name for path in images} == {path.name for path in real("flickr8k/Images").iterdir()}
    assert all(image.mode == "RGB" for image in (Images(images)[i] for i in range(0, len(images), 100)))


def test_coco_captions_are_those_of_the_file(real):
    images, captions, _ = captioned(real("coco"), COCO)
    content = json.loads(real("coco/annotations/captions_train2017.json").read_text())
    expected = Counter((row["image_id"], " ".join(row["caption"].split())) for row in content["annotations"])
    assert Counter((int(p.stem), text) for p, texts in zip(images, captions, strict=True) for text in texts) == expected
    assert {path.name for path in images} == {path.name for path in real("coco/train2017").iterdir()}


def test_imagenets_folders_get_their_names(real, tmp_path):
    (tmp_path / "imagenet").symlink_to(real("imagenet_1perclass"))
    settings = load_params("flickr8k", "prepare").prepare.model_copy(update={"validation_scenes": 9})
    note = write_set(tmp_path / "out", tmp_path, "imagenet", settings)
    found = read_labelled(tmp_path / "out", "test", "imagenet")
    assert found.labels.tolist() == list(range(1000)) and "1,000 of 50,000" in note
    for i in range(0, 1000, 111):  # the files are called after their class
        words = found.images.source[i].rsplit("/", 1)[1].lower().replace("_", " ")
        assert found.images[i].mode == "RGB" and any(word in words for word in found.classes[i].lower().split()), words

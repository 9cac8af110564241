"""Real subsets in official layouts, read by this project and, independently, by the plainest code there is."""

import csv
import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.folders import write_image
from PIL import Image

from pacl.data.benchmark import target_of
from pacl.data.images import Images, Masks
from pacl.data.prepared import read_labelled
from pacl.runtime.config import project_root
from pacl.sources.caption_sets import COCO, FLICKR8K, captioned
from pacl.sources.classification_sets import write_set
from pacl.sources.layouts import class_list, lines_of
from pacl.sources.segmentation_sets import ADE20K, COCO_STUFF, CONTEXT, VOC, benchmark, check_sizes, scenes

SETS = {"voc": VOC, "coco_stuff": COCO_STUFF, "ade20k": ADE20K}


@pytest.fixture(scope="module", params=list(SETS))
def image_set(request, real_data):
    """(folder, data set) of one of the benchmarks' subsets."""
    return real_data / SETS[request.param]["folder"], SETS[request.param]


@pytest.fixture(scope="module")
def published(real_data):
    """Published class lists and the map from COCO-Stuff's values to train ids."""
    return json.loads((real_data / "class_names/classes.json").read_text())


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
    train_id = published["cocostuff_png_value_to_trainid"][str(value)]
    return train_id if name == "coco_stuff" else (train_id + 1 if value < 91 else 0)


def test_each_masks_labels_are_those_that_pillow_and_numpy_count(image_set, published):
    folder, dataset = image_set
    images, masks, note = scenes(folder, dataset, dataset["test"])
    assert len(images) == len(masks) > 0 and f" {len(images):,} of " in note
    for name in dataset["benchmarks"]:
        table = benchmark(name, folder, masks)["table"]
        for mask, path in zip(Masks(masks), masks, strict=True):
            counted, expected = raw_histogram(path), Counter()
            assert histogram(mask) == counted, path
            for value, pixels in counted.items():
                expected[expected_label(name, value, published)] += pixels
            assert histogram(target_of(mask, table)) == expected, (name, path)


def test_each_mask_has_its_images_name_and_size(image_set):
    folder, dataset = image_set
    images, masks, _ = scenes(folder, dataset, dataset["test"])
    assert [path.stem for path in images] == [path.stem for path in masks]
    check_sizes(images, masks)
    for image, mask in zip(Images(images), Masks(masks), strict=True):
        assert image.size == mask.shape[::-1] and image.mode == "RGB"


def test_train_ids_of_coco_give_the_labels_of_the_raw_values(real_data):
    """Files of train ids lie beside the raw ones; both must lead to the same classes."""
    folder = real_data / COCO_STUFF["folder"]
    for split in COCO_STUFF["sizes"]:
        raw = scenes(folder, COCO_STUFF, split)[1]
        ids = [path.with_name(f"{path.stem}_labelTrainIds.png") for path in raw]
        for name in COCO_STUFF["benchmarks"]:
            of_raw, of_ids = (benchmark(name, folder, paths)["table"] for paths in (raw, ids))
            for one, other in zip(Masks(raw), Masks(ids), strict=True):
                assert np.array_equal(target_of(one, of_raw), target_of(other, of_ids))


def test_the_two_orders_of_context_are_told_apart_on_real_scenes(real_data, tmp_path):
    """No Pascal Context is at hand: COCO-Stuff's masks, written with Context's classes in each of its two orders."""
    same = {"tv": "tvmonitor", "couch": "sofa", "dining table": "table", "airplane": "aeroplane", "dirt": "ground"}
    coarse = {"wall": "wall", "floor": "floor", "sky": "sky", "building": "building", "water": "water"}
    folder = real_data / COCO_STUFF["folder"]
    masks = [path for split in COCO_STUFF["sizes"] for path in scenes(folder, COCO_STUFF, split)[1]]
    one = benchmark("coco_stuff", folder, masks)
    orders = {name: class_list(name) for name in ("context59", "context59_voc_first")}
    named = [same.get(c, coarse.get(c.split("-")[0], c)) for c in one["classes"]]
    read = {}
    for name, order in orders.items():
        values = np.array([1 + order.index(c) if c in order else 0 for c in named] + [0] * 85, np.uint8)
        place = tmp_path / name
        (place / "ImageSets/Main").mkdir(parents=True)
        (place / "ImageSets/Main/val.txt").write_text("\n".join(path.stem for path in masks))
        for path, mask in zip(masks, Masks(masks), strict=True):
            write_image(place / f"JPEGImages/{path.stem}.jpg", size=mask.shape[::-1])
            (place / "SegmentationClassContext").mkdir(exist_ok=True)
            Image.fromarray(values[target_of(mask, one["table"])]).save(place / f"SegmentationClassContext/{path.name}")
        read[name] = scenes(place, CONTEXT, "val")[1]
    alphabetical = benchmark("context59", tmp_path / "context59", read["context59"])["table"]
    with pytest.raises(ValueError, match="need 59_labels.txt beside them"):
        benchmark("context59", tmp_path / "context59_voc_first", read["context59_voc_first"])
    official = real_data / "class_names/pascal_context_classes-59_fcn_order.txt"
    (tmp_path / "context59_voc_first/59_labels.txt").write_text(official.read_text())
    listed = benchmark("context59", tmp_path / "context59_voc_first", read["context59_voc_first"])["table"]
    for one, other in zip(Masks(read["context59"]), Masks(read["context59_voc_first"]), strict=True):
        assert np.array_equal(target_of(one, alphabetical), target_of(other, listed))


def test_the_classes_are_the_published_ones_in_their_order(real_data, published):
    files = {"coco_stuff": "cocostuff171", "ade20k": "ade150"}
    for name in ("voc20", "voc21", "context59", "context60", "coco_stuff", "ade20k"):
        assert [line.split(",")[0] for line in class_list(name)] == [
            label.strip() for label in published["classes"][files.get(name, name)]
        ], name
    assert class_list("coco_object")[1:] == published["classes"]["cocostuff171"][:80]
    official = lines_of(real_data / "class_names/cocostuff_labels_182_official.txt")
    official = [line.partition(": ")[2] for line in official][1:]
    train_id = published["cocostuff_png_value_to_trainid"]
    for value, name in enumerate(official):
        if str(value) in train_id:
            assert class_list("coco_stuff")[train_id[str(value)]] == name


def test_the_evaluators_phrases_are_naclips(real_data):
    for name in ("voc20", "voc21", "context60", "coco_object", "coco_stuff", "ade20k"):
        published = lines_of(real_data / f"class_names/naclip_prompts/cls_{name}.txt")
        assert lines_of(project_root() / f"data/classes/sclip/{name}.txt") == published


def test_captions_are_those_of_the_file(real_data):
    images, captions = captioned(real_data / "flickr8k", FLICKR8K)
    with (real_data / "flickr8k/captions.txt").open(encoding="utf-8", newline="") as file:
        rows = [(row["image"], row["caption"].strip()) for row in csv.DictReader(file)]
    assert [(path.name, text) for path, texts in zip(images, captions, strict=True) for text in texts] == rows
    assert {len(texts) for texts in captions} == {5}
    assert any("," in text for texts in captions for text in texts)
    assert {path.name for path in images} == {path.name for path in (real_data / "flickr8k/Images").iterdir()}
    assert all(image.mode == "RGB" for image in (Images(images)[i] for i in range(0, len(images), 50)))


def test_coco_captions_are_those_of_the_file(real_data):
    images, captions = captioned(real_data / "coco", COCO)
    content = json.loads((real_data / "coco/annotations/captions_train2017.json").read_text())
    expected = Counter((row["image_id"], " ".join(row["caption"].split())) for row in content["annotations"])
    assert Counter((int(p.stem), text) for p, texts in zip(images, captions, strict=True) for text in texts) == expected
    assert {path.name for path in images} == {path.name for path in (real_data / "coco/train2017").iterdir()}


def test_imagenets_folders_get_their_names(real_data, tmp_path):
    (tmp_path / "imagenet").symlink_to(real_data / "imagenet_1perclass")
    note = write_set(
        tmp_path / "out", tmp_path, "imagenet", SimpleNamespace(seed=0, classification_images=None, validation_scenes=9)
    )
    images, labels, classes = read_labelled(tmp_path / "out", "test", "imagenet")
    assert labels.tolist() == list(range(1000)) and "1,000 of 50,000" in note
    for i in range(0, 1000, 111):  # the files are called after their class
        words = images.source[i].rsplit("/", 1)[1].lower().replace("_", " ")
        assert images[i].mode == "RGB" and any(word in words for word in classes[i].lower().split()), (
            words,
            classes[i],
        )

"""Classification sets: torchvision's, folders of images for each class, class names and templates."""

import re
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.folders import write_image, write_tiny_imagenet
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
from torchvision import datasets

from pacl.data.prepared import read_labelled
from pacl.data.prompts import templates
from pacl.sources.classification_sets import (
    all_sets,
    check_sets,
    class_file,
    class_names,
    described,
    labels_of,
    open_torchvision,
    set_templates,
    words,
    write_set,
)
from pacl.sources.layouts import check_present, lines_of

PARAMS = SimpleNamespace(seed=0, classification_images=None, validation_scenes=1000)
TWELVE = ["imagenet", "imagenet_v2", "imagenet_a", "imagenet_r", "imagenet_sketch", "cifar10"]
TWELVE += ["cifar100", "food101", "pets", "flowers102", "dtd", "eurosat"]
IMAGENET = dict(line.split(": ", 1) for line in lines_of(class_file("imagenet")))


def test_there_are_twelve_sets_and_tiny_imagenet_and_each_has_templates_with_one_place():
    assert list(all_sets()) == [*TWELVE, "tiny_imagenet"]
    for name in all_sets():
        assert all(template.count("{}") == 1 for template in set_templates(name)), name
        assert {"name", "images", "get", "terms"} <= all_sets()[name].keys()
    assert len(set_templates("imagenet")) == 80 and set_templates("pets") == ["a photo of a {}, a type of pet."]


def synsets(name):
    """WordNet ids of a variant of ImageNet, as timm lists them."""
    return (files("timm.data") / f"_info/{name}_synsets.txt").read_text().split()


def test_the_classes_of_imagenets_variants_are_timms():
    assert synsets("imagenet") == list(IMAGENET)
    for name in ("imagenet_a", "imagenet_r"):
        assert len(set(synsets(name))) == 200 and set(synsets(name)) <= set(IMAGENET), name


def test_sizes_of_the_test_splits_are_the_published_ones():
    """From how each set was made: images per class, or all but the published training and validation images."""
    food = re.search(r"(\d+) manually reviewed test images", datasets.Food101.__doc__)
    assert [entry["images"] for entry in all_sets().values()] == [
        *(1000 * 50, 1000 * 10, 7500, 30000, 50889),  # ImageNet and its variants
        *(10 * 1000, 100 * 100),  # CIFAR
        *(101 * int(food[1]), 7349 - 3680, 8189 - 102 * 10 - 102 * 10, 47 * 120 // 3),  # food, pets, flowers, textures
        *(27000 - all_sets()["eurosat"]["held_out"], 200 * 50),  # EuroSAT, Tiny-ImageNet
    ]


def test_tiny_imagenet_is_measured_on_its_validation_photos_only(tmp_path):
    folder = write_tiny_imagenet(tmp_path / "raw/tiny-imagenet-200")
    assert "2 of 10,000" in write_set(tmp_path, tmp_path / "raw", "tiny_imagenet", PARAMS)
    found = read_labelled(tmp_path, "test", "tiny_imagenet")
    assert found.classes == ["Chihuahua", "Egyptian cat", "rugby ball"] and list(found.labels) == [2, 1]
    assert found.templates == templates("seven") and not (tmp_path / "validation_tiny_imagenet.json").exists()
    (folder / "val/images").rename(folder / "val/elsewhere")
    with pytest.raises(FileNotFoundError, match="Tiny-ImageNet"):
        check_present(check_sets(tmp_path / "raw", ["tiny_imagenet"]))


def test_templates_are_those_that_clip_was_evaluated_with():
    """data/prompts.md of openai/CLIP: how many each set has, and the sentences they are made of."""
    kinds = ["", "blurry ", "black and white ", "low contrast ", "high contrast ", "bad ", "good "]
    small = [f"a {kind}photo of {article} {{}}." for article in ("a", "the") for kind in kinds]
    small += [f"a photo of {article} {size} {{}}." for article in ("a", "the") for size in ("small", "big")]
    for name in ("cifar10", "cifar100"):
        assert sorted(set_templates(name)) == sorted(small) and len(small) == 18
    things = ("texture", "pattern", "thing", "object")
    assert set_templates("dtd") == [f"a photo of {a} {{}} {thing}." for a in ("a", "the") for thing in things]
    assert set_templates("eurosat") == [f"a centered satellite photo of {a}{{}}." for a in ("", "a ", "the ")]
    assert set_templates("food101") == ["a photo of {}, a type of food."]
    assert set_templates("flowers102") == ["a photo of a {}, a type of flower."]


def test_imagenets_names_are_open_clips_in_the_order_of_the_wordnet_ids():
    assert list(IMAGENET.values()) == list(IMAGENET_CLASSNAMES)
    assert list(IMAGENET) == sorted(IMAGENET) and len(IMAGENET) == 1000
    known = {"n01440764": "tench", "n02123045": "tabby cat", "n02085620": "Chihuahua", "n15075141": "toilet paper"}
    assert {key: IMAGENET[key] for key in known} == known


def test_every_torchvision_class_is_there_and_takes_its_options():
    for entry in all_sets().values():
        if "torchvision" in entry:
            with pytest.raises(RuntimeError, match="not found"):  # it gets as far as looking for the files
                getattr(datasets, entry["torchvision"]["class"])("/nowhere", **entry["torchvision"]["test"])


def test_folders_of_imagenet_by_wordnet_id_or_by_number(tmp_path):
    tench, goldfish = list(IMAGENET)[:2]
    for place in (f"val/{goldfish}/a", f"val/{tench}/b", f"train/{tench}/d"):
        write_image(tmp_path / f"imagenet/{place}.JPEG")
    write_image(tmp_path / "imagenetv2-matched-frequency-format-val/1/c.jpeg")
    write_image(tmp_path / "imagenetv2-matched-frequency-format-val/999/d.jpeg")
    write_image(tmp_path / f"imagenet-a/{goldfish}/e.jpg")
    notes = [write_set(tmp_path / "out", tmp_path, name, PARAMS) for name in ("imagenet", "imagenet_v2", "imagenet_a")]
    one = read_labelled(tmp_path / "out", "test", "imagenet")
    assert one.labels.tolist() == [0, 1] and [path[-6:] for path in one.images.source] == ["b.JPEG", "a.JPEG"]
    assert one.classes == list(IMAGENET_CLASSNAMES), "also those without an image"
    assert one.templates == set_templates("imagenet")
    assert len(read_labelled(tmp_path / "out", "validation", "imagenet").labels) == 1
    assert read_labelled(tmp_path / "out", "test", "imagenet_v2").labels.tolist() == [1, 999]
    one = read_labelled(tmp_path / "out", "test", "imagenet_a")
    assert one.labels.tolist() == [0] and one.classes == ["goldfish"], "only those that have a folder"
    assert notes[0].startswith("ImageNet-1k test: 2 of 50,000 images,")
    (tmp_path / "imagenet/val/n99").mkdir()
    with pytest.raises(ValueError, match="has a folder n99, which is not a class of ImageNet-1k"):
        write_set(tmp_path / "out", tmp_path, "imagenet", PARAMS)


def test_ones_own_images_are_in_the_first_of_their_folders(tmp_path):
    for split, later in (("test", ("images", "val", "test")), ("validation", ("train", "validation"))):
        for place in later:  # each goes before those that are there
            write_image(tmp_path / f"zoo/{place}/gull/{place}.jpg")
            write_set(tmp_path / "out", tmp_path, "zoo", PARAMS)
            one = read_labelled(tmp_path / "out", split, "zoo")
            assert [Path(path).stem for path in one.images.source] == [place] and one.templates == templates("one")


def test_so_many_images_are_drawn_by_the_seed_and_stay_in_their_order(tmp_path):
    for place, count in (("dtd/images", 9), ("dtd/train", 8)):
        for name in ("banded", "zigzagged"):
            for i in range(count):
                write_image(tmp_path / f"{place}/{name}/{i}.jpg")
        (tmp_path / place / "README.txt").write_text("no class")
    drawn = {}
    for seed in (0, 0, 1):
        params = SimpleNamespace(seed=seed, classification_images=7, validation_scenes=5)
        note = write_set(tmp_path / "out", tmp_path, "dtd", params)
        for split, count in (("test", 7), ("validation", 5)):
            one = read_labelled(tmp_path / "out", split, "dtd")
            paths = one.images.source
            assert len(one.labels) == count and paths == sorted(paths)
            assert [one.classes[k] for k in one.labels] == [Path(path).parent.name for path in paths]
            assert drawn.setdefault((split, seed), paths) == paths
    assert note.startswith("Describable Textures test: 7 of 1,880 images,")
    assert all(drawn[split, 0] != drawn[split, 1] for split in ("test", "validation"))


def test_a_set_of_torchvision_is_read_in_place(tmp_path, monkeypatch):
    """EuroSAT has no splits: a fixed part is held out, the rest is the test."""
    for name in ("AnnualCrop", "SeaLake"):
        for i in range(4):
            write_image(tmp_path / f"eurosat/2750/{name}/{name}_{i}.jpg", value=10 * i)
    monkeypatch.setitem(all_sets()["eurosat"], "held_out", 3)
    write_set(tmp_path / "out", tmp_path, "eurosat", PARAMS)
    test, held_out = (read_labelled(tmp_path / "out", split, "eurosat") for split in ("test", "validation"))
    assert test.classes == ["annual crop land", "lake or sea"] and len(test.images) == len(test.labels) == 5
    rows = test.images.source.rows
    assert sorted([*held_out.images.source.rows, *rows]) == list(range(8))
    assert set(held_out.labels) == {0, 1}, "not the first rows, which are of one class"
    reference = datasets.EuroSAT(tmp_path)
    for image, label, row in zip(test.images, test.labels, rows, strict=True):
        assert np.array_equal(image, reference[row][0]) and label == reference[row][1] and image.mode == "RGB"
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["test_eurosat.json", "validation_eurosat.json"]  # no photo was copied


def test_any_other_set_of_torchvision_by_its_name(tmp_path):
    assert described("FGVCAircraft")["torchvision"]["test"] == {"split": "test"}
    mnist = described("MNIST")["torchvision"]
    assert (mnist["test"], mnist["validation"]) == ({"train": False}, {"train": True})
    assert "torchvision" not in described("my_birds")
    folder = tmp_path / "rendered-sst2"
    for split, value in (("test", 10), ("train", 200)):
        for name in ("negative", "positive"):
            write_image(folder / split / name / "1.png", value)
    write_image(folder / "train/negative/2.png", 200)
    write_set(tmp_path / "out", tmp_path, "RenderedSST2", PARAMS)
    for split, value, expected in (("test", 10, [0, 1]), ("validation", 200, [0, 0, 1])):
        one = read_labelled(tmp_path / "out", split, "RenderedSST2")
        assert one.classes == ["negative", "positive"] and one.labels.tolist() == expected
        assert one.images[1].getpixel((0, 0)) == (value,) * 3
    assert check_sets(tmp_path, ["RenderedSST2"]) == []  # torchvision's own folder is enough


def test_torchvision_lacks_a_set_an_empty_folder_a_split_and_class_names(tmp_path):
    assert open_torchvision(tmp_path, described("eurosat"), "test") is None
    (tmp_path / "eurosat/2750").mkdir(parents=True)
    assert open_torchvision(tmp_path, described("eurosat"), "test") is None
    with pytest.raises(ValueError, match="torchvision's Imagenette has no test split .*: put its images into"):
        write_set(tmp_path / "out", tmp_path, "Imagenette", PARAMS)
    with pytest.raises(ValueError, match="no class names for SVHN: add an entry with `classes` to data/classificat"):
        class_names(SimpleNamespace(), described("SVHN"))


def test_missing_sets_say_what_is_expected_and_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        check_present(check_sets(tmp_path, ["food101", "imagenet", "my_birds"]))
    food, imagenet, birds = (lines[1:] for lines in np.reshape(str(error.value).splitlines()[1:], (3, 4)))
    assert food[0].endswith(f"{tmp_path}: food-101/images") and f"Food101('{tmp_path}', download=True)" in food[1]
    assert imagenet[0].endswith(f"{tmp_path}: imagenet/val") and "image-net.org" in imagenet[1]
    assert birds[0].endswith(f"{tmp_path}: my_birds/test")
    assert f"put images into {tmp_path}/my_birds/test/CLASS" in birds[1]


def test_photos_at_any_depth_count_and_what_is_left_out_is_told(tmp_path):
    for name in ("gull/a.jpg", "gull/2024/may/b.bmp", "lion/c.GIF", ".ipynb_checkpoints/d.png", "f.png"):
        write_image(tmp_path / "zoo/test" / name)
    (tmp_path / "zoo/test/lion/e.heic").touch()
    note = write_set(tmp_path / "out", tmp_path, "zoo", PARAMS)
    test = tmp_path / "zoo/test"
    assert note == f"Left out of {test}: 1 x .heic. 1 pictures in {test} are in no class's folder."
    found = read_labelled(tmp_path / "out", "test", "zoo")
    assert found.classes == ["gull", "lion"] and found.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "folders, message",
    [
        (["sea_lion", "Sea lion"], "2 folders for the class sea lion, which CLIP can't tell apart: join them"),
        ([], "zoo/test has no folder with images of a class of zoo: remove it"),
    ],
)
def test_folders_that_are_no_classes_are_refused(tmp_path, folders, message):
    (tmp_path / "zoo/test").mkdir(parents=True)
    for name in folders:
        write_image(tmp_path / f"zoo/test/{name}/a.jpg")
    with pytest.raises(ValueError, match=message):
        write_set(tmp_path / "out", tmp_path, "zoo", PARAMS)


def test_labels_are_read_from_a_list_or_else_from_the_items():
    for pictures in (SimpleNamespace(_labels=np.array([0, 1, 0])), [(None, np.int64(k)) for k in (0, 1, 0)]):
        labels = labels_of(pictures)
        assert labels == [0, 1, 0] and {type(label) for label in labels} == {int}


def test_words_of_classes():
    assert words("apple_pie", {}) == "apple pie"
    assert words("Moon", all_sets()["eurosat"]) == "Moon"  # one that the list lacks

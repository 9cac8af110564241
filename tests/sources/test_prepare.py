"""Every source in one form: splits, several benchmarks, what is missing, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from helpers.folders import write_coco, write_flickr8k, write_image, write_own, write_tiny_imagenet, write_voc
from PIL import Image

from pacl.data.prepared import all_scenes, read_labelled, read_pairs, read_scenes
from pacl.runtime.params import Prepare
from pacl.sources.miniworld import scenes as miniworld
from pacl.sources.prepare import prepare, summary
from pacl.sources.segmentation_sets import benchmark


@pytest.fixture
def raw(tmp_path):
    write_flickr8k(tmp_path / "raw/flickr8k", "abcdefgh")
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["v1", "v2", "v3"])
    return tmp_path / "raw"


def settings(raw, **changes):
    values = {"source": "flickr8k", "seed": 3, "train_pairs": 100, "validation_scenes": 2, "test_scenes": 2}
    measured = {"benchmarks": ["voc20", "voc21"], "classification_sets": [], "classification_images": None}
    return Prepare.model_validate({"raw": str(raw), "max_bad_share": 0.1, **values, **measured, **changes})


def stems(images):
    return [Path(path).stem for path in images.source]


def test_pairs_are_split_by_the_seed_alone(raw, tmp_path):
    names = {}
    for seed in (3, 3, 4):
        note = prepare(tmp_path / "out", settings(raw, seed=seed))
        (train, captions), (validation, _) = (read_pairs(tmp_path / "out", split) for split in ("train", "validation"))
        assert names.setdefault(seed, stems(train)) == stems(train) and len(train) == 6
        assert sorted(stems(train) + stems(validation)) == list("abcdefgh")
        assert all(f"caption 3 of {name} ." in texts for name, texts in zip(stems(train), captions, strict=True))
    assert names[3] != names[4]
    assert "Flickr8k: 8 of 8,091" in note and "val: 2 of 1,449" in note  # test_scenes
    prepare(tmp_path / "few", settings(raw, seed=4, train_pairs=3))
    assert stems(read_pairs(tmp_path / "few", "train")[0]) == stems(train)[:3]
    assert stems(read_pairs(tmp_path / "few", "validation")[0]) == stems(validation)


def test_tiny_imagenets_photos_and_captioned_ones_are_pairs_together(raw, tmp_path):
    write_tiny_imagenet(raw / "tiny-imagenet-200")
    write_coco(raw / "coco", {"coco.jpg": ["one", "two", "three", "four", "five"]})
    write_voc(raw / "VOCdevkit/VOC2012", val=["v1", "v2", "v3", "v4"])  # the last is a bird, which the photos show
    measured = {"benchmarks": ["voc20", "voc_seen"], "test_scenes": 4}
    note = prepare(tmp_path / "out", settings(raw, source="tiny_imagenet", **measured))
    images, captions = read_pairs(tmp_path / "out", "train")
    held_out, _ = read_pairs(tmp_path / "out", "validation")
    assert len(images) == 6 + 8 + 1 - 2 and len({*stems(images), *stems(held_out)}) == 15
    said = {stem[:9]: texts for stem, texts in zip(stems(images), captions, strict=True)}
    chihuahua = ["a photo of a Chihuahua.", "a photo of a dog.", "a photo of a pet.", "a photo of a animal."]
    assert said["n02085620"] == chihuahua and all(len(texts) == 5 for stem, texts in said.items() if len(stem) == 1)
    assert "Tiny-ImageNet: 6 of 100,000" in note and "Flickr8k: 8 of 8,091" in note
    label = summary(tmp_path / "out", settings(raw, source="tiny_imagenet"), None)["label"]
    assert label == "photographs, small CLIP", "as the claims' column says"


def test_test_and_validation_scenes_share_no_image(raw, tmp_path):
    prepare(tmp_path / "out", settings(raw))
    test = read_scenes(tmp_path / "out", "test")
    assert stems(test.images) == stems(test.masks) == ["v1", "v2"]
    assert test.images[1].size == (6, 4) and (test.masks[1] == 1).all()
    assert test.benchmarks == {name: benchmark(name, "", []) for name in ("voc20", "voc21")}
    assert stems(read_scenes(tmp_path / "out", "validation").images) == ["v3"]
    write_voc(raw / "VOCdevkit/VOC2012", train=["t1", "t2", "t3"])
    prepare(tmp_path / "out", settings(raw, test_scenes=3))
    assert stems(read_scenes(tmp_path / "out", "validation").images) == ["t1", "t2"]


def test_all_that_is_missing_is_listed_at_once(tmp_path):
    (tmp_path / "flickr8k/Images").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        prepare(tmp_path / "out", settings(tmp_path, classification_sets=["my_birds"]))
    titles = ["where it is expected", "how to get it", "terms"]
    _, *lines = str(error.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == (
        ["Flickr8k", *titles, "PASCAL VOC 2012", *titles, "my_birds", *titles]
    )
    assert lines[1].endswith(f": {tmp_path}/flickr8k: captions.txt") and "non-commercial" in lines[3]
    expected = "ImageSets/Segmentation/val.txt, JPEGImages, SegmentationClass"
    assert lines[5].endswith(f": {tmp_path}/VOCdevkit/VOC2012: {expected}") and "VOCtrainval" in lines[6]
    assert [path.name for path in tmp_path.iterdir()] == ["flickr8k"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_scenes": 8}, "none is left to train on: lower prepare.validation_scenes"),
        ({"benchmarks": ["odd"]}, "own.png has 6 x 4 pixels, its image .*own.jpg 4 x 6"),
    ],
)
def test_a_failed_preparation_leaves_the_old_one_and_nothing_else(raw, tmp_path, changes, message):
    prepare(tmp_path / "out", settings(raw))
    write_own(raw / "odd", ["own"])
    write_image(raw / "odd/images/own.jpg", size=(4, 6))
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "out", settings(raw, **changes))
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "out"}


def test_image_sets_are_separate_and_the_report_counts_them(raw, tmp_path):
    write_own(raw / "beach")
    chosen = settings(raw, test_scenes=None, benchmarks=["beach", "voc21"])
    note = prepare(tmp_path / "out", chosen)
    sets = {name: (len(one), list(one.benchmarks)) for name, one in all_scenes(tmp_path / "out", "test").items()}
    assert sets == {"beach": (2, ["beach"]), "voc": (3, ["voc21"])}
    assert "PASCAL VOC 2012 has no scenes for validation: its training split is missing." in note
    assert "beach has no scenes for validation: let prepare.test_scenes leave some." in note
    expected = {"label": "trained on Flickr8k", "source": "flickr8k", "training pairs": 6, "captions": 30}
    expected |= {"test scenes": 5, "whole benchmarks": [], "benchmarks": {"beach": 3, "voc21": 21}, "note": note}
    assert summary(tmp_path / "out", chosen, note) == expected
    assert "beach has" not in prepare(tmp_path / "out", settings(raw, test_scenes=1, benchmarks=["beach"]))
    assert len(read_scenes(tmp_path / "out", "validation")) == 1


def test_a_profile_that_only_measures_needs_no_captions(raw, tmp_path):
    chosen = settings(raw, source="none", test_scenes=None)
    note = prepare(tmp_path / "out", chosen)
    about = summary(tmp_path / "out", chosen, note)
    assert (about["label"], about["training pairs"]) == ("measured only, not trained here", 0)
    assert len(read_scenes(tmp_path / "out", "test", "voc20")) == 3
    for split in ("train", "validation"):
        with pytest.raises(ValueError, match="has no captions, because prepare.source is none and the profile only"):
            read_pairs(tmp_path / "out", split)
        assert read_pairs(tmp_path / "out", split, needed=False)[1] == []


def test_ones_own_captions_are_trained_on(raw, tmp_path):
    (raw / "captions").mkdir()
    (raw / "captions/images").symlink_to(raw / "flickr8k/Images")
    (raw / "captions/captions.csv").write_text("image,caption\n" + "".join(f"{n}.jpg,a {n}\n" for n in "abcde"))
    chosen = settings(raw, source="own")
    note = prepare(tmp_path / "out", chosen)
    images, captions = read_pairs(tmp_path / "out", "train")
    assert len(images) == 3 and captions == [[f"a {name}"] for name in stems(images)]
    assert "own captions" in summary(tmp_path / "out", chosen, note)["label"]


def test_a_benchmark_made_from_scratch_of_odd_photos(raw, tmp_path):
    """Photos of 40 x 24 pixels, grey, CMYK, and stored lying on its side, in a folder in a folder."""
    folder, exif = raw / "my/walls", Image.Exif()
    (folder / "images").mkdir(parents=True)
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8))
    picture.convert("L").save(folder / "images/grey.jpg")
    picture.convert("CMYK").save(folder / "images/print.jpg")
    picture.rotate(90, expand=True).save(folder / "images/phone.jpg", exif=exif)
    (folder / "images/notes.txt").write_text("taken in May")
    (folder / "classes.txt").write_text("background\nred, scarlet\nblue\nnever seen\n")
    (folder / "masks").mkdir()
    for k, name in enumerate(("grey", "phone", "print")):
        mask = np.full((24, 40), k, np.uint8)
        mask[:, 30:], mask[20:] = 2, 255
        Image.fromarray(mask).save(folder / f"masks/{name}.png")
    chosen = settings(raw, test_scenes=None, benchmarks=["my/walls"])
    assert "my/walls: 1 of 4 classes never occur (never seen); " in prepare(tmp_path / "out", chosen)
    ((name, one),) = all_scenes(tmp_path / "out", "test").items()
    assert name == "my_walls" and [image.size for image in one.images] == [(40, 24)] * 3
    targets = [one.benchmarks["my/walls"].target(mask) for mask in one.masks]
    assert np.bincount(np.ravel(targets), minlength=256).nonzero()[0].tolist() == [0, 1, 2, 255]
    counted = np.bincount(np.ravel(targets), minlength=256)
    assert one.pixels == tuple(counted) and one.first(1).pixels == one.pixels  # the whole set's
    assert all(np.array_equal(target, mask) for target, mask in zip(targets, one.masks, strict=True))
    Image.fromarray(np.full((24, 40), 77, np.uint8)).save(one.masks.source[1])
    with pytest.raises(ValueError, match="phone.png, for my/walls: a mask holds the value 77, which is not a class"):
        prepare(tmp_path / "new", chosen)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("key", "name", "known"), [("benchmarks", "voc", "voc20, voc21"), ("classification_sets", "clear", "clean, small")]
)
def test_the_mini_world_says_what_it_has(tmp_path, key, name, known):
    counts = {"source": "miniworld", "classification_images": 2}
    with pytest.raises(ValueError, match=f"prepare.{key}: the mini world has no {name}; it has {known}"):
        prepare(tmp_path / "out", settings(tmp_path, **counts | {key: [name]}))
    assert not list(tmp_path.iterdir())


def test_the_mini_world_is_prepared(tmp_path):
    counts = {"train_pairs": 4, "validation_scenes": 3, "test_scenes": 2, "classification_images": 2}
    chosen = {"benchmarks": list(miniworld.BENCHMARKS), "classification_sets": ["clean", "textures"]}
    folder = tmp_path / "out"
    assert prepare(folder, settings(tmp_path, source="miniworld", seed=5, **counts, **chosen)) is None
    assert list(tmp_path.iterdir()) == [folder]
    for split, count in (("train", 4), ("validation", 3)):
        images, captions = read_pairs(folder, split)
        assert len(images) == len(captions) == count
        image, caption = miniworld.pair(2, seed=5, split=split)
        assert np.array_equal(images[2], image) and captions[2] == [caption]
    for split, count in (("validation", 3), ("test", 2)):
        scenes = read_scenes(folder, split)
        image, mask = miniworld.labelled_scene(1, seed=5, split=split)
        assert (
            len(scenes) == count and np.array_equal(scenes.images[1], image) and np.array_equal(scenes.masks[1], mask)
        )
        assert scenes.benchmarks == {name: miniworld.benchmark(name) for name in miniworld.BENCHMARKS}
        for name in chosen["classification_sets"]:
            one = read_labelled(folder, split, name)
            image, label = miniworld.classification_image(1, seed=5, split=split, set_name=name)
            assert np.array_equal(one.images[1], image) and one.labels[1] == label and len(one.labels) == 2
            assert one.classes == miniworld.set_classes(name) and one.templates == []

"""Every source in one form: splits, several benchmarks, what is missing, what is refused."""

from pathlib import Path

import numpy as np
import pytest
from helpers.folders import write_flickr8k, write_image, write_own, write_voc
from PIL import Image

from pacl.data.prepared import all_scenes, read_labelled, read_pairs, read_scenes
from pacl.runtime.params import Prepare
from pacl.sources.miniworld import scenes as miniworld
from pacl.sources.prepare import prepare, prepare_miniworld
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


def test_prepared_pairs_are_split_by_the_seed_alone(raw, tmp_path):
    names = {}
    for seed in (3, 3, 4):
        note = prepare(tmp_path / "out", settings(raw, seed=seed))
        parts = {split: read_pairs(tmp_path / "out", split) for split in ("train", "validation")}
        found = {split: [Path(path).stem for path in images.source] for split, (images, _) in parts.items()}
        assert names.setdefault(seed, found) == found
        assert (len(found["train"]), len(found["validation"])) == (6, 2)
        assert sorted(found["train"] + found["validation"]) == list("abcdefgh")
        assert all(
            f"caption 3 of {name} ." in texts for name, texts in zip(found["train"], parts["train"][1], strict=True)
        )
    assert names[3] != names[4]
    assert "Flickr8k: 8 of 8,091" in note and "val: 2 of 1,449" in note  # test_scenes


def test_fewer_training_pairs_keep_the_same_validation(raw, tmp_path):
    prepare(tmp_path / "all", settings(raw))
    prepare(tmp_path / "few", settings(raw, train_pairs=3))
    (every, _), (few, _) = (read_pairs(tmp_path / name, "train") for name in ("all", "few"))
    assert few.source == every.source[:3]
    held_out = [read_pairs(tmp_path / name, "validation")[0].source for name in ("all", "few")]
    assert held_out[0] == held_out[1]


def test_prepared_scenes_never_share_an_image(raw, tmp_path):
    prepare(tmp_path / "out", settings(raw))
    images, masks, benchmarks = read_scenes(tmp_path / "out", "test")
    assert [Path(path).stem for path in images.source] == [Path(path).stem for path in masks.source] == ["v1", "v2"]
    assert images[1].size == (6, 4) and (masks[1] == 1).all()
    assert benchmarks == {name: benchmark(name, "", []) for name in ("voc20", "voc21")}
    assert [Path(path).stem for path in read_scenes(tmp_path / "out", "validation")[0].source] == ["v3"]
    write_voc(raw / "VOCdevkit/VOC2012", train=["t1", "t2", "t3"])
    prepare(tmp_path / "out", settings(raw, test_scenes=3))
    assert [Path(path).stem for path in read_scenes(tmp_path / "out", "validation")[0].source] == ["t1", "t2"]


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
        ({"benchmarks": ["odd"]}, "own.png is 6 x 4 pixels, its image .*own.jpg 4 x 6"),
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


def test_a_torn_photo_or_mask_is_named_when_it_is_read(raw, tmp_path):
    prepare(tmp_path / "out", settings(raw))
    images, masks, _ = read_scenes(tmp_path / "out", "test")
    for path in (images.source[0], masks.source[0]):
        Path(path).write_bytes(Path(path).read_bytes()[:60])
    with pytest.raises(ValueError, match="v1.jpg can't be read"):
        images[0]
    with pytest.raises(ValueError, match="v1.png can't be read"):
        masks[0]


def test_scenes_of_several_image_sets_lie_beside_each_other(raw, tmp_path):
    write_own(raw / "beach")
    note = prepare(tmp_path / "out", settings(raw, test_scenes=None, benchmarks=["beach", "voc21"]))
    sets = all_scenes(tmp_path / "out", "test")
    assert {name: (len(images), list(b)) for name, (images, _, b) in sets.items()} == {
        "beach": (2, ["beach"]),
        "voc": (3, ["voc21"]),
    }
    assert "PASCAL VOC 2012 has no scenes for validation" in note and "beach has no scenes for validation" in note


def test_a_folder_in_a_folder_is_a_benchmark_and_a_foreign_value_in_it_is_named_with_its_file(raw, tmp_path):
    write_own(raw / "my/beach")
    prepare(tmp_path / "out", settings(raw, test_scenes=None, benchmarks=["my/beach"]))
    ((name, (images, masks, described)),) = all_scenes(tmp_path / "out", "test").items()
    assert name == "my_beach" and list(described) == ["my/beach"] and len(images) == 2
    Image.fromarray(np.full(masks[1].shape, 77, np.uint8)).save(masks.source[1])
    with pytest.raises(ValueError, match="y.png, for my/beach: a mask holds the value 77, which is no class"):
        prepare(tmp_path / "new", settings(raw, test_scenes=None, benchmarks=["my/beach"]))
    assert not (tmp_path / "new").exists()


def test_a_classification_set_of_ones_own_is_a_folder_of_images_a_class(raw, tmp_path):
    for split, count in (("test", 3), ("validation", 1)):
        for i in range(count):
            for name in ("sea_lion", "gull"):
                write_image(raw / f"zoo/{split}/{name}/{i}.jpg", value=i)
    prepare(tmp_path / "out", settings(raw, classification_sets=["zoo"]))
    images, labels, classes = read_labelled(tmp_path / "out", "test", "zoo")
    assert classes == ["gull", "sea lion"] and labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [Path(path).parent.name for path in images.source] == ["gull"] * 3 + ["sea_lion"] * 3
    assert len(read_labelled(tmp_path / "out", "validation", "zoo")[1]) == 2
    prepare(tmp_path / "out", settings(raw, classification_sets=["zoo"], classification_images=4))
    assert len(read_labelled(tmp_path / "out", "test", "zoo")[1]) == 4


@pytest.mark.parametrize(
    ("key", "name", "known"), [("benchmarks", "voc", "voc20, voc21"), ("classification_sets", "clear", "clean, small")]
)
def test_the_mini_world_says_what_it_has(tmp_path, key, name, known):
    counts = {"source": "miniworld", "classification_images": 2}
    with pytest.raises(ValueError, match=f"prepare.{key}: the mini world has no {name}; it has {known}"):
        prepare(tmp_path / "out", settings(tmp_path, **counts | {key: [name]}))
    assert not list(tmp_path.iterdir())


def test_data_that_lack_nothing_have_no_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("pacl.sources.prepare.prepare_miniworld", lambda folder, params: folder.mkdir() or ["", ""])
    assert prepare(tmp_path / "out", settings(tmp_path, source="miniworld", classification_images=1)) is None
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_mini_world_is_prepared(tmp_path):
    counts = {"train_pairs": 4, "validation_scenes": 3, "test_scenes": 2, "classification_images": 2}
    chosen = {"benchmarks": list(miniworld.BENCHMARKS), "classification_sets": ["clean", "textures"]}
    params = settings(tmp_path, source="miniworld", seed=5, **counts, **chosen)
    assert prepare_miniworld(tmp_path, params) == []
    for split, count in (("train", 4), ("validation", 3)):
        images, captions = read_pairs(tmp_path, split)
        assert len(images) == len(captions) == count
        image, caption = miniworld.pair(2, seed=5, split=split)
        assert np.array_equal(images[2], image) and captions[2] == [caption]
    for split, count in (("validation", 3), ("test", 2)):
        images, masks, benchmarks = read_scenes(tmp_path, split)
        image, mask = miniworld.labelled_scene(1, seed=5, split=split)
        assert len(images) == count and np.array_equal(images[1], image) and np.array_equal(masks[1], mask)
        for name in miniworld.BENCHMARKS:
            assert benchmarks[name]["classes"] == miniworld.benchmark_classes(name)
            assert benchmarks[name]["table"] == miniworld.benchmark_map(name).tolist()
        for name in chosen["classification_sets"]:
            images, labels, classes = read_labelled(tmp_path, split, name)
            image, label = miniworld.classification_image(1, seed=5, split=split, set_name=name)
            assert np.array_equal(images[1], image) and labels[1] == label and len(labels) == 2
            assert classes == miniworld.set_classes(name)

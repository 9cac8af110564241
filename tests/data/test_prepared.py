"""Prepared data comes back as it was written, from arrays and from files; damage is named."""

import numpy as np
import pytest
from PIL import Image

from pacl.data.benchmark import Benchmark
from pacl.data.prepared import (
    all_scenes,
    read_labelled,
    read_pairs,
    read_scenes,
    write_labelled,
    write_pairs,
    write_scenes,
)

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, (3, 5, 7), dtype=np.uint8)
CAPTIONS = [["a cat", "one cat"], ["ein Hund, größer"], ["犬"]]


@pytest.fixture(params=["arrays", "files"])
def sources(request, tmp_path):
    """(pictures, label maps), the arrays or PNG files of them."""
    if request.param == "arrays":
        return PICTURES, LABELS
    folder = tmp_path / "raw files"
    folder.mkdir()
    for i, (picture, labels) in enumerate(zip(PICTURES, LABELS, strict=True)):
        Image.fromarray(picture).save(folder / f"{i} é.png")
        Image.fromarray(labels).save(folder / f"{i}_mask.png")
    return [folder / f"{i} é.png" for i in range(3)], [folder / f"{i}_mask.png" for i in range(3)]


def benchmarks(*names):
    return {name: Benchmark(name, ("cat, kitten", "dog"), (0, 1, 255, 255, *[-1] * 252)) for name in names}


def test_all_kinds_come_back_next_to_each_other(sources, tmp_path):
    folder, described = tmp_path / "prepared", benchmarks("voc20")
    write_pairs(folder, "train", sources[0], CAPTIONS)
    write_scenes(folder, "train", *sources, described)
    write_labelled(folder, "train", "clean", sources[0], [2, 0, 1], ["a", "b", "c"])
    write_labelled(folder, "test", "clean", sources[0][:1], [0], ["a"], ["a photo of a {}."])
    images, captions = read_pairs(folder, "train")
    scenes, labelled = read_scenes(folder, "train"), read_labelled(folder, "train", "clean")
    assert captions == CAPTIONS and scenes.benchmarks == described
    assert len(images) == len(scenes) == len(scenes.masks) == len(labelled.images) == 3
    for i in range(3):
        for image in (images[i], scenes.images[i], labelled.images[i]):
            assert image.mode == "RGB" and np.array_equal(image, PICTURES[i])
        assert scenes.masks[i].dtype == np.uint8 and np.array_equal(scenes.masks[i], LABELS[i])
    assert (labelled.labels.tolist(), labelled.classes, labelled.templates) == ([2, 0, 1], ["a", "b", "c"], [])
    assert read_labelled(folder, "test", "clean").templates == ["a photo of a {}."]
    part = scenes.take(range(1, 9))
    assert len(part) == 2 and len(scenes.first(1)) == 1 and part.benchmarks == described
    assert np.array_equal(part.images[1], PICTURES[2]) and np.array_equal(part.masks[1], LABELS[2])


def test_arrays_are_read_from_disk_only_where_they_are_used(tmp_path):
    write_pairs(tmp_path, "train", PICTURES, CAPTIONS)
    assert isinstance(read_pairs(tmp_path, "train")[0].source, np.memmap)


@pytest.mark.parametrize("array", [PICTURES.astype(np.float32), PICTURES[0, 0], PICTURES[..., :2], PICTURES[None]])
def test_an_array_that_holds_no_pictures_is_named(array, tmp_path):
    write_pairs(tmp_path, "train", array, CAPTIONS)
    with pytest.raises(ValueError, match=r"train_images.npy holds .*, not pictures: remove it and run .*again.$"):
        read_pairs(tmp_path, "train")
    (tmp_path / "train_images.npy").unlink()
    with pytest.raises(FileNotFoundError, match="train_images.npy is missing: .*run the stage that writes it.$"):
        read_pairs(tmp_path, "train")


def test_benchmarks_of_different_images_are_separate_sets(tmp_path):
    write_scenes(tmp_path, "test", PICTURES, LABELS, benchmarks("voc20"), "voc")
    write_scenes(tmp_path, "test", PICTURES[:2], LABELS[:2], benchmarks("ade20k"), "ade20k")
    write_scenes(tmp_path, "validation", PICTURES[:1], LABELS[:1], benchmarks("voc20"), "voc")
    found = {name: (len(one), list(one.benchmarks)) for name, one in all_scenes(tmp_path, "test").items()}
    assert found == {"ade20k": (2, ["ade20k"]), "voc": (3, ["voc20"])}
    assert len(read_scenes(tmp_path, "test", "voc20")) == 3 and len(read_scenes(tmp_path, "validation")) == 1
    with pytest.raises(ValueError, match="one set of test scenes for all benchmarks, but it has ade20k, voc20"):
        read_scenes(tmp_path, "test")
    with pytest.raises(ValueError, match="one set of test scenes for context59"):
        read_scenes(tmp_path, "test", "context59")
    with pytest.raises(FileNotFoundError, match="has no other scenes: run `dvc repro`"):
        read_scenes(tmp_path, "other")
    assert all_scenes(tmp_path, "other", needed=False) == {}


def test_the_only_image_set_needs_no_name(tmp_path):
    write_scenes(tmp_path, "test", PICTURES, LABELS, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_masks.npy", "test_scenes.json", "test_scenes.npy"]
    write_scenes(tmp_path, "tests", PICTURES[:1], LABELS[:1], {})  # a split whose name begins alike
    assert {name: len(one) for name, one in all_scenes(tmp_path, "test").items()} == {"": 3}

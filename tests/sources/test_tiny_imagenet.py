"""Tiny-ImageNet's official layout, hand-made: photos, names, and what is true of them."""

import tarfile

import numpy as np
import pytest
from helpers.folders import write_coco, write_tiny_imagenet

from pacl.sources.tiny_imagenet import (
    broader_words,
    class_names,
    classes_of,
    make_subjects,
    pretraining_pairs,
    spoken_forms,
    training_photos,
    validation_photos,
    validation_set,
    words_said,
)

TABLE = {
    "kinds": {"dog": ["dog", "animal"], "ball": [], "gown": []},
    "people": {"words": ["person"], "called": ["man", "women"], "nearly_all": ["gown"], "many": ["ball"]},
}


@pytest.fixture
def folder(tmp_path):
    return write_tiny_imagenet(tmp_path / "tiny-imagenet-200")


def test_photos_labels_and_names(folder):
    assert classes_of(folder) == ["n02085620", "n02124075", "n04118538"]
    assert class_names(folder) == [("Chihuahua",), ("Egyptian cat",), ("rugby ball", "oval ball")]
    paths, labels = training_photos(folder)
    assert labels == [0, 0, 1, 1, 2, 2] and [path.parts[-3] for path in paths[::2]] == classes_of(folder)
    paths, labels = validation_photos(folder)
    assert [path.name for path in paths] == ["val_0.JPEG", "val_1.JPEG"] and labels == [2, 1], "only what is there"
    images, labels, names = validation_set(folder.parent, 32)
    assert images.shape == (2, 32, 32, 3) and names == ["Chihuahua", "Egyptian cat", "rugby ball"]


def test_damaged_folders_are_refused(folder):
    (folder / "val/val_annotations.txt").write_text("val_0.JPEG n02085620\n")
    with pytest.raises(ValueError, match="val_annotations.txt is corrupt"):
        validation_photos(folder)
    (folder / "words.txt").write_text("n02085620\tChihuahua\n")
    with pytest.raises(ValueError, match="words.txt has no name of n02124075"):
        class_names(folder)
    for path in (folder / "train/n02124075/images").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="n02124075/images has no photos"):
        training_photos(folder)


def test_all_that_is_missing_is_listed(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        pretraining_pairs(tmp_path, ["flickr8k"], 64)
    assert all(word in str(error.value) for word in ("Tiny-ImageNet", "Flickr8k", "non-commercial"))


def test_pairs_of_classes_and_captions(folder):
    captions = {"a.jpg": ["A cat sits.", "Two chihuahuas.", "x", "y", "z"], "b.jpg": ["A man.", "v", "w", "x", "y"]}
    write_coco(folder.parent / "coco", captions)
    pairs = pretraining_pairs(folder.parent, ["coco"], 16)
    assert pairs.images.shape == (8, 16, 16, 3) and pairs.images.dtype == np.uint8
    assert pairs.kinds.tolist() == [0, 0, 1, 1, 2, 2, 3, 4]
    assert [int(image.mean()) for image in pairs.images[:6:2]] == [0, 80, 160]
    chihuahua, cat, ball, photo, man = pairs.subjects
    assert chihuahua.broader == ("dog", "pet", "animal") and cat.broader[0] == "cat" and "ball" in ball.broader
    assert {"person", "people"} <= set(ball.broader), "nearly all of its photos show players"
    assert photo.captions == tuple(captions["a.jpg"]) and photo.broader == ("cat",)
    assert photo.true == {*captions["a.jpg"], "cat", "Chihuahua"}
    assert "A cat sits." in cat.true & chihuahua.true and "A man." in ball.true - cat.true
    assert man.broader == ("people", "person")


def test_words_that_may_hold_are_no_texts_but_true():
    dog, ball, gown = make_subjects(["dog", "ball", "gown"], [("Fido",), ("ball",), ("gown",)], [], TABLE)
    assert (dog.broader, ball.broader, gown.broader) == (("dog", "animal"), (), ("person",))
    assert (dog.true, ball.true, gown.true) == ({"Fido", "dog", "animal"}, {"ball", "person"}, {"gown", "person"})


def test_captions_say_whole_words_their_plurals_and_people():
    forms = spoken_forms({"dog", "person", "German shepherd", "bus"}, TABLE)
    assert words_said("Two DOGS, and women on buses.", forms) == {"dog", "person", "bus"}
    assert words_said("a hotdog; a doghouse", forms) == set()
    assert words_said("the german shepherd's bone, german shepherds", forms) == {"German shepherd"}


def test_every_class_has_a_row_in_the_table_of_broader_words():
    table = broader_words()
    assert len(table["kinds"]) == 200 and all(isinstance(words, list) for words in table["kinds"].values())
    assert {*table["people"]["nearly_all"], *table["people"]["many"]} <= table["kinds"].keys()
    assert all(word == word.lower() for words in table["kinds"].values() for word in words)


def test_real_photos(real_data, tmp_path):
    """The first photo of each class and all validation photos, out of a tar of the official layout."""
    archives = sorted(real_data.glob("tiny-imagenet/*.tar"))
    if not archives:
        pytest.skip("the real data has no tiny-imagenet/*.tar")
    with tarfile.open(archives[0]) as tar:
        wanted = [m for m in tar if "/train/" not in m.name or m.name.endswith("_0.JPEG")]
        tar.extractall(tmp_path, wanted, filter="data")
    folder = tmp_path / "tiny-imagenet-200"
    assert len(classes_of(folder)) == 200 and set(classes_of(folder)) == broader_words()["kinds"].keys()
    assert len(training_photos(folder)[0]) == 200 and len(validation_photos(folder)[0]) == 2000
    assert class_names(folder)[0] == ("Egyptian cat",)

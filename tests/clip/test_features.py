"""Cached features against CLIP's own, the table of texts by hand, and what is drawn from it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from pacl.clip import load_clip
from pacl.clip.features import Texts, batches, draw_text, patch_tokens, read_features, text_features, text_table
from pacl.data.images import Images
from pacl.data.prompts import templates
from pacl.runtime.files import read_json

CAPTIONS = {
    "train": [["a dog and a cat", "one dog"], ["untitled"], ["a brick wall", "a dog and a cat"], ["a dog"]],
    "validation": [["one dog"], ["a duck on a brick wall"]],
}


@pytest.fixture(scope="module")
def clip(tiny_folder):
    return load_clip("tiny", tiny_folder, device="cpu")


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    path = tmp_path_factory.mktemp("features")
    text_features(clip, text_table(CAPTIONS), path, "seven")
    return path


def test_the_file_holds_clips_patch_features_in_order(clip, tmp_path):
    rng = np.random.default_rng(0)
    for i, size in enumerate([(32, 32), (50, 40), (33, 64), (32, 32), (90, 30)]):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    images = Images([str(tmp_path / f"{i}.png") for i in range(5)])
    patch_tokens(clip, images, tmp_path / "new/train.npy", batch_size=2)
    tokens = np.load(tmp_path / "new/train.npy")
    assert tokens.shape == (5, 16, 32) and tokens.dtype == np.float16
    for i in range(5):
        alone = clip.patch_features(clip.preprocess(images[i])[None])[0].numpy()
        np.testing.assert_allclose(tokens[i], alone, atol=2e-3, rtol=2e-3)
        assert np.abs(tokens[i] - tokens[(i + 1) % 5]).max() > 0.1


def test_images_decoded_by_all_cores_for_a_gpu_come_in_the_same_batches(clip, monkeypatch):
    """On a CPU, the processes are those that compute (pacl.runtime.processes)."""
    monkeypatch.setattr("pacl.clip.features.processes", lambda: 2)
    monkeypatch.setattr("pacl.clip.features.progress_bar", lambda loader, desc: loader)
    images = Images(np.random.default_rng(0).integers(0, 256, (7, 40, 32, 3), dtype=np.uint8))
    gpus = SimpleNamespace(device=torch.device("cuda"), preprocess=clip.preprocess)  # never asked to compute
    alone, shared = batches(clip, images, 3, ""), batches(gpus, images, 3, "")
    assert (alone.num_workers, shared.num_workers) == (0, 2)
    pairs = list(zip(alone, shared, strict=True))
    assert [len(batch) for batch, _ in pairs] == [3, 3, 1] and all(torch.equal(*pair) for pair in pairs)


def test_the_text_table_by_hand():
    table = text_table(CAPTIONS)
    assert table["captions"] == (
        ["a dog and a cat", "one dog", "untitled", "a brick wall", "a dog", "a duck on a brick wall"]
    )
    assert table["nouns"] == ["dog", "cat", "brick wall", "duck"]
    assert table["train"] == {"captions": [[0, 1], [2], [3, 0], [4]], "nouns": [[0, 1], [], [2, 0, 1], [0]]}
    assert table["validation"] == {"captions": [[1], [5]], "nouns": [[0], [3, 2]]}


def test_text_files_hold_clips_text_features(clip, folder):
    table = read_json(folder / "texts.json")
    assert table.pop("clip") == clip.identity
    assert table == text_table(CAPTIONS)
    captions, nouns = (np.load(folder / f"{kind}_features.npy") for kind in ("caption", "noun"))
    assert captions.shape == (6, 16) and nouns.shape == (4, 7, 16) and captions.dtype == nouns.dtype == np.float16
    for number, caption in enumerate(table["captions"]):
        np.testing.assert_allclose(captions[number], clip.text_features([caption])[0].numpy(), atol=1e-3)
    for number, noun in enumerate(table["nouns"]):
        for form, template in enumerate(templates("seven")):
            alone = clip.text_features([template.replace("{}", noun)])[0].numpy()
            np.testing.assert_allclose(nouns[number, form], alone, atol=1e-3)


def drawn(folder, images, noun_share):
    features, keys = Texts(folder, "train").draw(np.random.default_rng(0), np.array(images), noun_share)
    assert features.shape == (len(images), 16) and features.dtype == torch.float32
    return features.numpy(), keys.tolist()


def test_only_captions_are_drawn_where_the_share_of_nouns_is_0(folder):
    features, keys = drawn(folder, [0, 1, 2, 3] * 50, 0.0)
    assert [set(keys[image::4]) for image in range(4)] == [{0, 1}, {2}, {3, 0}, {4}]
    assert np.array_equal(features, np.load(folder / "caption_features.npy")[keys].astype(np.float32))
    assert keys[::4].count(0) == pytest.approx(25, abs=12)  # its captions are equally likely


def test_a_caption_or_a_noun_prompt_is_drawn_by_three_numbers():
    def draw(numbers, nouns):
        rng = SimpleNamespace(random=lambda count: numbers)
        return draw_text(rng, 0.5, ["one", "two"], nouns, ["a {}", "the {}"])

    assert draw((0.5, 0.6, 0.9), ["cat"]) == ("two", None)
    assert draw((0.49, 0.4, 0.9), ["cat", "dog", "owl"]) == ("dog", "the {}")
    assert draw((0.0, 0.4, 0.9), []) == ("one", None)


def test_nouns_are_drawn_where_there_are_some_and_the_share_is_1(folder):
    features, keys = drawn(folder, [0, 1, 2, 3] * 100, 1.0)
    assert set(keys[1::4]) == {2}  # "untitled" has no noun
    noun_features = np.load(folder / "noun_features.npy").astype(np.float32)
    for image, found in ((0, {0, 1}), (2, {0, 1, 2}), (3, {0})):
        assert {-1 - key for key in keys[image::4]} == found
    used = set()
    for feature, key in zip(features, keys, strict=True):
        if key < 0:
            used.add(int(np.flatnonzero((noun_features[-1 - key] == feature).all(1))[0]))
    assert used == set(range(7))  # every template


def test_the_share_of_nouns_is_the_one_asked_for(folder):
    keys = np.array(drawn(folder, [0] * 2000, 0.3)[1])
    assert (keys < 0).mean() == pytest.approx(0.3, abs=0.04) and {-1, -2, 0, 1} == set(keys.tolist())


def test_features_are_mapped_and_never_written_to(folder):
    array = read_features(folder / "caption_features.npy", 2)
    assert isinstance(array, np.memmap) and not array.flags.writeable


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3), np.float32), np.zeros((2, 3, 4), np.float16)], ids=["type", "shape"]
)
def test_an_array_of_another_kind_is_named(array, tmp_path):
    np.save(tmp_path / "tokens.npy", array)
    with pytest.raises(ValueError, match=r"tokens.npy is not an array of features .*: remove it and run `dvc repro"):
        read_features(tmp_path / "tokens.npy", 2)


def test_captions_without_any_noun_still_make_a_table(clip, tmp_path):
    text_features(clip, text_table({"train": [["untitled"], ["1 2 3"]]}), tmp_path, "one")
    assert np.load(tmp_path / "noun_features.npy").shape == (0, 1, 16)
    assert Texts(tmp_path, "train").draw(np.random.default_rng(0), np.array([1, 0]), 1.0)[1].tolist() == [1, 0]
    assert len(Texts(tmp_path, "train")) == 2

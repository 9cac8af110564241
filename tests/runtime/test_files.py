"""Files and folders are written atomically; JSON is rounded, and damage to it is named."""

import hashlib
import os

import numpy as np
import pytest

from pacl.runtime.files import checksum, new_folder, read_json, rounded, write_atomically, write_json


def test_numbers_are_rounded_and_equal_contents_are_equal_bytes(tmp_path):
    content = {"a": [0.1 + 0.2, 1 / 3, (2.00000049,)], "b": {"c": np.float64(1e-9), "d": True, "e": 7}, "é": None}
    assert rounded(content) == {"a": [0.3, 0.333333, [2.0]], "b": {"c": 0.0, "d": True, "e": 7}, "é": None}
    assert rounded([float("nan"), {"most": float("-inf")}]) == [None, {"most": None}], "JSON has no such numbers"
    write_json(tmp_path / "new/one.json", content)
    write_json(tmp_path / "two.json", {"a": [0.3, 1 / 3 + 1e-9, [2.0]], **{k: content[k] for k in ("b", "é")}})
    assert (tmp_path / "new/one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert read_json(tmp_path / "two.json") == rounded(content)
    assert "é" in (tmp_path / "two.json").read_text(encoding="utf-8")
    assert checksum(b"a", b"bc") == checksum(b"abc") == hashlib.sha256(b"abc").hexdigest()


@pytest.mark.parametrize("content", ['{"images": []}', '{"captions": []}', "[]", "7", '["images", "captions"]', "{"])
def test_a_file_of_other_contents_is_named(content, tmp_path):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ValueError, match="train.json is corrupt: remove it and run the stage that writes it again.$"):
        read_json(tmp_path / "train.json", "images", "captions")
    with pytest.raises(FileNotFoundError, match="test.json is missing: run `dvc repro`, or the notebook before this"):
        read_json(tmp_path / "test.json")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    path = tmp_path / "one.json"
    write_atomically(path, "old")
    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left .*one.json was not written; ma"):
        patched.setattr(os, failing, full)
        write_atomically(path, "new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_at_the_end_of_the_block_or_not_at_all(tmp_path):
    folder = tmp_path / "data/prepared"
    for content in ("one", "two"):
        with new_folder(folder) as unfinished:
            assert list(unfinished.iterdir()) == []
            (unfinished / content).write_text(content)
    with pytest.raises(KeyError), new_folder(folder) as unfinished:
        (unfinished / "three").write_text("three")
        raise KeyError
    assert [path.name for path in folder.iterdir()] == ["two"] and list(folder.parent.iterdir()) == [folder]
    unfinished.mkdir()  # what a killed run leaves
    (unfinished / "four").write_text("four")
    with new_folder(folder) as again:
        assert list(again.iterdir()) == []
    assert list(folder.parent.iterdir()) == [folder] and list(folder.iterdir()) == []

"""Prepared data: what is written is read back, files from cameras and strangers, masks, the mini world."""

import zlib

import numpy as np
import pytest
from PIL import Image

from pacl.data.benchmark import IGNORE, target_of
from pacl.data.images import Images, Masks, as_rgb, open_image
from pacl.data.prepared import (
    all_scenes,
    read_labelled,
    read_pairs,
    read_scenes,
    write_labelled,
    write_pairs,
    write_scenes,
)
from pacl.runtime.files import read_json, rounded, write_json

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
LABELS = RNG.integers(0, 4, (3, 5, 7), dtype=np.uint8)
CAPTIONS = [["a cat", "one cat"], ["ein Hund, größer"], ["犬"]]


@pytest.fixture
def files(tmp_path):
    """The same pictures and label maps as files, PNG loses nothing: (image paths, mask paths)."""
    folder = tmp_path / "raw files"
    folder.mkdir()
    for i, (picture, labels) in enumerate(zip(PICTURES, LABELS, strict=True)):
        Image.fromarray(picture).save(folder / f"{i} é.png")
        Image.fromarray(labels).save(folder / f"{i}_mask.png")
    return [folder / f"{i} é.png" for i in range(3)], [folder / f"{i}_mask.png" for i in range(3)]


# --- round trips ---


@pytest.mark.parametrize("as_files", [False, True])
def test_pairs_come_back(as_files, files, tmp_path):
    write_pairs(tmp_path / "prepared", "train", files[0] if as_files else PICTURES, CAPTIONS)
    images, captions = read_pairs(tmp_path / "prepared", "train")
    assert captions == CAPTIONS and len(images) == 3
    assert all(np.array_equal(images[i], PICTURES[i]) and images[i].mode == "RGB" for i in range(3))


@pytest.mark.parametrize("as_files", [False, True])
def test_scenes_come_back(as_files, files, tmp_path):
    benchmarks = {"voc20": {"classes": ["cat, kitten", "dog"], "table": [0, 1, 255, 255] + [-1] * 252}}
    sources = files if as_files else (PICTURES, LABELS)
    write_scenes(tmp_path / "prepared", "test", *sources, benchmarks)
    images, masks, described = read_scenes(tmp_path / "prepared", "test")
    assert described == benchmarks and len(images) == len(masks) == 3
    for i in range(3):
        assert np.array_equal(images[i], PICTURES[i]) and np.array_equal(masks[i], LABELS[i])
        assert isinstance(masks[i], np.ndarray) and masks[i].dtype == np.uint8


def test_labelled_images_come_back(tmp_path):
    write_labelled(tmp_path / "new", "test", "clean", PICTURES, [2, 0, 1], ["a", "b", "c"])
    images, labels, classes = read_labelled(tmp_path / "new", "test", "clean")
    assert labels.tolist() == [2, 0, 1] and classes == ["a", "b", "c"]
    assert np.array_equal(np.stack([np.asarray(images[i]) for i in range(3)]), PICTURES)


def test_splits_and_sets_lie_beside_each_other(tmp_path):
    write_pairs(tmp_path, "train", PICTURES[:1], CAPTIONS[:1])
    write_pairs(tmp_path, "test", PICTURES[1:], CAPTIONS[1:])
    write_scenes(tmp_path, "test", PICTURES[::-1], LABELS, {})
    write_labelled(tmp_path, "test", "clean", PICTURES[2:], [0], ["a"])
    assert [len(read_pairs(tmp_path, split)[0]) for split in ("train", "test")] == [1, 2]
    assert np.array_equal(read_scenes(tmp_path, "test")[0][0], PICTURES[2])
    assert np.array_equal(read_labelled(tmp_path, "test", "clean")[0][0], PICTURES[2])


def test_arrays_are_read_from_disk_only_where_they_are_used(tmp_path):
    write_pairs(tmp_path, "train", PICTURES, CAPTIONS)
    assert isinstance(read_pairs(tmp_path, "train")[0].source, np.memmap)


# --- image files ---


def test_a_part_of_the_images_is_counted_from_its_own_start():
    rows = np.arange(10, dtype=np.uint8).reshape(10, 1, 1).repeat(3, axis=2)
    last = Masks(rows).some(range(4, 99))
    assert [mask[0, 0] for mask in (last[0], last[5])] == [4, 9] and len(last) == 6
    assert [last.some(range(2, 4))[i][0, 0] for i in range(2)] == [6, 7]
    pictures = Images(rows.reshape(10, 1, 1, 3)).some(range(4, 99))
    assert [pictures[i].getpixel((0, 0))[0] for i in (0, 5)] == [4, 9] and len(pictures) == 6


def test_photos_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "the camera was turned: rotate 90 degrees clockwise to view"
    Image.fromarray(PICTURES[0]).save(tmp_path / "turned.png", exif=exif)
    image = open_image(tmp_path / "turned.png")
    assert image.size == (5, 7) and np.array_equal(image, np.rot90(PICTURES[0], -1))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA", "1"])
def test_images_of_any_mode_are_rgb(mode, tmp_path):
    half = np.zeros((8, 8, 3), np.uint8)
    half[:, 4:] = 255
    path = tmp_path / f"image.{'jpg' if mode in ('L', 'CMYK') else 'png'}"
    Image.fromarray(half).convert(mode).save(path)
    with Image.open(path) as stored:
        assert stored.mode == mode
    image = open_image(path)
    assert image.mode == "RGB" and np.abs(np.asarray(image, int) - half).max() <= 3


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_grey_of_16_bits_keeps_its_shades(ending, tmp_path):
    grey = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / f"deep.{ending}")
    image = open_image(tmp_path / f"deep.{ending}")
    expected = np.rint(grey / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert image.mode == "RGB" and np.array_equal(image, expected)
    assert np.array_equal(Images([Image.fromarray(grey)])[0], expected)
    assert np.array_equal(as_rgb(Image.frombytes("I;16B", (8, 8), grey.astype(">u2").tobytes())), expected)


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pictures_in_numbers_without_a_range_are_named(kind, tmp_path):
    image = Image.fromarray(np.full((8, 8), 300, kind))
    image.save(tmp_path / "depth.tiff")
    sentence = rf"holds numbers of no known range \(mode {image.mode}\): save it as grey of 8 or 16 bits or as RGB.$"
    with pytest.raises(ValueError, match="depth.tiff " + sentence):
        open_image(tmp_path / "depth.tiff")
    with pytest.raises(ValueError, match="^Picture 0 " + sentence):
        Images([image])[0]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_in_colours_is_named(mode, tmp_path):
    Image.fromarray(PICTURES[0]).convert(mode).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=rf"mask.png holds colours \({mode}\), not one label a pixel: save") as error:
        Masks([tmp_path / "mask.png"])[0]
    one_sentence(error)


def test_a_palette_mask_gives_its_indices(tmp_path):
    image = Image.fromarray(LABELS[0]).convert("P")
    image.putdata(LABELS[0].ravel().tolist())
    image.putpalette([200, 10, 10, 0, 0, 0, 10, 200, 10, 7, 7, 7])
    image.save(tmp_path / "mask.png")
    assert np.array_equal(Masks([tmp_path / "mask.png"])[0], LABELS[0])
    assert np.asarray(open_image(tmp_path / "mask.png")).max() == 200  # as a picture it has the palette's colours


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_grey_mask_of_few_bits_gives_its_values_and_not_shades(tmp_path, bits):
    """PNG's own bytes, since Pillow writes no grey of two or four bits."""
    top = 2**bits - 1
    row = [0, 1, top, 0, top, 1, 1, top]
    packed = int("".join(f"{value:0{bits}b}" for value in row), 2).to_bytes(bits, "big")

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    header = (8).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes([bits, 0, 0, 0, 0])
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" + packed)), chunk(b"IEND", b""))
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert Masks([tmp_path / "mask.png"])[0].tolist() == [row]
    assert np.asarray(open_image(tmp_path / "mask.png")).max() == 255  # as a picture it has shades


def one_sentence(error):
    text = str(error.value)
    return text.endswith(".") and "\n" not in text


def test_missing_torn_and_foreign_files_are_named(files, tmp_path):
    data = files[0][0].read_bytes()
    (tmp_path / "torn.png").write_bytes(data[: len(data) // 2])
    Image.fromarray(PICTURES[0]).resize((200, 200)).save(tmp_path / "whole.jpg")
    (tmp_path / "torn.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-300])
    (tmp_path / "text.png").write_text("this is no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("torn.png", "torn.jpg", "text.png", "empty.png"):
        for read in (Images([str(tmp_path / name)]).__getitem__, Masks([str(tmp_path / name)]).__getitem__):
            with pytest.raises(ValueError, match=f"{name} can't be read as an image.*replace or remove it") as error:
                read(0)
            assert one_sentence(error)
    with pytest.raises(FileNotFoundError, match="gone.png is missing: check the path") as error:
        Images([tmp_path / "gone.png"])[0]
    assert one_sentence(error)
    with pytest.raises(FileNotFoundError, match="train.json is missing: run `dvc repro`") as error:
        read_pairs(tmp_path, "train")
    assert one_sentence(error)


# --- masks ---


def test_targets_by_hand():
    table = [3, IGNORE, 0] + [-1] * 252 + [IGNORE]
    target = target_of(np.array([[0, 1], [2, 255]], np.uint8), table)
    assert target.tolist() == [[3, 255], [0, 255]] and target.dtype == np.uint8


@pytest.mark.parametrize(
    "value, kind", [(3, np.uint8), (254, np.uint8), (256, np.int32), (4000, np.uint16), (-1, np.int32)]
)
def test_a_value_that_is_no_label_is_named(value, kind):
    table = [0, 1, 2] + [-1] * 252 + [IGNORE]
    mask = np.zeros((4, 4), kind)
    mask[2, 1] = value
    with pytest.raises(ValueError, match=f"holds the value {value}, which is no class") as error:
        target_of(mask, table)
    assert one_sentence(error)


# --- JSON ---


def test_numbers_are_rounded_and_equal_contents_are_equal_bytes(tmp_path):
    content = {"a": [0.1 + 0.2, 1 / 3, (2.00000049,)], "b": {"c": np.float64(1e-9), "d": True, "e": 7}, "é": None}
    assert rounded(content) == {"a": [0.3, 0.333333, [2.0]], "b": {"c": 0.0, "d": True, "e": 7}, "é": None}
    write_json(tmp_path / "new/one.json", content)
    write_json(tmp_path / "two.json", {"a": [0.3, 1 / 3 + 1e-9, [2.0]], **{k: content[k] for k in ("b", "é")}})
    assert (tmp_path / "new/one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert read_json(tmp_path / "two.json") == rounded(content)
    assert "é" in (tmp_path / "two.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", ['{"images": []}', '{"captions": []}', "[]", "7", '["images", "captions"]', "{"])
def test_a_file_of_other_contents_is_named(content, tmp_path):
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ValueError, match="train.json is no whole JSON file: remove it and run the stage") as error:
        read_pairs(tmp_path, "train")
    assert one_sentence(error)


@pytest.mark.parametrize("array", [PICTURES.astype(np.float32), PICTURES[0, 0], PICTURES[..., :2], PICTURES[None]])
def test_an_array_that_holds_no_pictures_is_named(array, tmp_path):
    write_pairs(tmp_path, "train", array, CAPTIONS)
    with pytest.raises(ValueError, match="train_images.npy is no whole array of pictures .*: remove it") as error:
        read_pairs(tmp_path, "train")
    assert one_sentence(error)


# --- several image sets ---


def test_benchmarks_of_different_images_lie_beside_each_other(tmp_path):
    write_scenes(tmp_path, "test", PICTURES, LABELS, {"voc20": {"classes": ["a"], "table": []}}, "voc")
    write_scenes(tmp_path, "test", PICTURES[:2], LABELS[:2], {"ade20k": {"classes": ["b"], "table": []}}, "ade20k")
    write_scenes(tmp_path, "validation", PICTURES[:1], LABELS[:1], {"voc20": {"classes": ["a"], "table": []}}, "voc")
    assert {name: (len(images), list(b)) for name, (images, _, b) in all_scenes(tmp_path, "test").items()} == {
        "ade20k": (2, ["ade20k"]),
        "voc": (3, ["voc20"]),
    }
    assert len(read_scenes(tmp_path, "test", "voc20")[0]) == 3
    assert len(read_scenes(tmp_path, "validation")[0]) == 1
    with pytest.raises(ValueError, match="no one set of test scenes for all of: it has ade20k, voc20"):
        read_scenes(tmp_path, "test")
    with pytest.raises(ValueError, match="no one set of test scenes for context59"):
        read_scenes(tmp_path, "test", "context59")
    with pytest.raises(FileNotFoundError, match="has no other scenes: run `dvc repro`"):
        read_scenes(tmp_path, "other")


def test_the_only_image_set_needs_no_name(tmp_path):
    write_scenes(tmp_path, "test", PICTURES, LABELS, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test_masks.npy", "test_scenes.json", "test_scenes.npy"]
    write_scenes(tmp_path, "tests", PICTURES[:1], LABELS[:1], {})  # a split whose name begins alike
    assert list(all_scenes(tmp_path, "test")) == [""] and len(all_scenes(tmp_path, "test")[""][0]) == 3
    assert all_scenes(tmp_path, "other", needed=False) == {}

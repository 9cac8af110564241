"""Readers of official layouts on hand-made folders: what they find, what they refuse, how they name what is missing."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pacl import sources
from pacl.data import IGNORE, read_pairs, read_scenes, target_of
from pacl.prepare import prepare

VOC_NAMES = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
]


def write_image(path: Path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (value, value, value)).save(path)


def write_flickr8k(folder: Path, names=("a", "b", "c", "d")):
    """Kaggle's layout; the first caption of each has commas, the second quotes."""
    lines = ["image,caption"]
    for name in names:
        write_image(folder / "Images" / f"{name}.jpg")
        lines += [f'{name}.jpg,"One {name} , two , three ."', f'{name}.jpg,"A sign says ""{name}"" ."']
        lines += [f"{name}.jpg,caption {i} of {name} ." for i in (3, 4, 5)]
    (folder / "captions.txt").write_text("\n".join(lines) + "\n")
    return folder


def write_voc(folder: Path, **splits):
    for split, names in splits.items():
        (folder / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for i, name in enumerate(names):
            write_image(folder / "JPEGImages" / f"{name}.jpg")
            mask = Image.fromarray(np.full((4, 6), i % 21, np.uint8))
            mask.putpalette([7 * k % 256 for k in range(768)])
            (folder / "SegmentationClass").mkdir(exist_ok=True)
            mask.save(folder / "SegmentationClass" / f"{name}.png")
    return folder


def test_kaggles_captions_keep_commas_and_quotes(tmp_path):
    images, captions = sources.flickr8k(write_flickr8k(tmp_path))
    assert images == [tmp_path / "Images" / f"{name}.jpg" for name in "abcd"]
    expected = ["One b , two , three .", 'A sign says "b" .', *(f"caption {i} of b ." for i in (3, 4, 5))]
    assert captions[1] == expected


def test_a_caption_that_should_have_been_quoted_keeps_its_commas(tmp_path):
    file = write_flickr8k(tmp_path, "a") / "captions.txt"
    file.write_text(file.read_text().replace("caption 3 of a .", "three , unquoted , all the same ."))
    assert sources.flickr8k(tmp_path)[1][0][2] == "three , unquoted , all the same ."


def test_the_original_token_file(tmp_path):
    """In the folders of the original archives, one misspelt, with the captions of the image they don't hold."""
    for name in ("b.jpg", "a.jpg"):
        write_image(tmp_path / "Flicker8k_Dataset" / name)
    names = ("b.jpg", "a.jpg", "2258277193_586949ec62.jpg.1")
    lines = [f"{name}#{i}\tcaption {i} , of {name}" for name in names for i in range(5)]
    (tmp_path / "Flickr8k_text").mkdir()
    (tmp_path / "Flickr8k_text/Flickr8k.token.txt").write_text("\n".join(lines))
    images, captions = sources.flickr8k(tmp_path)
    assert [path.name for path in images] == ["b.jpg", "a.jpg"]
    assert captions[0] == [f"caption {i} , of b.jpg" for i in range(5)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("image,caption\n", "", "must begin with the line image,caption"),
        ("d.jpg,caption 5 of d .\n", "", "hasn't five captions of d.jpg"),
        ("caption 5 of d .\n", " \n", "hasn't five captions of d.jpg"),
    ],
)
def test_a_torn_caption_file(tmp_path, old, new, message):
    file = write_flickr8k(tmp_path) / "captions.txt"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        sources.flickr8k(tmp_path)


def test_captions_of_other_images(tmp_path):
    file = write_flickr8k(tmp_path) / "captions.txt"
    file.write_text(file.read_text().replace(".jpg,", ".png,"))
    with pytest.raises(FileNotFoundError, match="has no image that"):
        sources.flickr8k(tmp_path)


def test_voc_in_the_lists_order_and_how_much_of_it_there_is(tmp_path):
    names = ["2007_000033", "2011_000003", "2008_000007"]
    write_voc(tmp_path, val=names)
    images, masks, note = sources.voc(tmp_path)
    assert [path.stem for path in images] == [path.stem for path in masks] == names
    assert {path.parent.name for path in images} == {"JPEGImages"}
    assert note.startswith("PASCAL VOC 2012 val: 3 of 1,449 images found")
    (tmp_path / "SegmentationClass/2011_000003.png").unlink()
    images, masks, note = sources.voc(tmp_path)
    assert [path.stem for path in images] == [path.stem for path in masks] == [names[0], names[2]]
    assert " 2 of 1,449 " in note


def test_a_whole_split_needs_no_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sources.VOC, "sizes", {"train": 2})
    assert sources.voc(write_voc(tmp_path, train=["x", "y"]), "train")[2] == ""


def test_voc_without_files_and_without_such_a_split(tmp_path):
    write_voc(tmp_path, val=["x"])
    (tmp_path / "JPEGImages/x.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="neither photo nor mask"):
        sources.voc(tmp_path)
    with pytest.raises(ValueError, match="'test' is no split of PASCAL VOC 2012 that has masks"):
        sources.voc(tmp_path, "test")
    with pytest.raises(FileNotFoundError, match="ImageSets/Segmentation/train.txt"):
        sources.voc(tmp_path, "train")


def test_voc_classes_and_tables():
    voc20, voc21 = sources.voc20(), sources.voc21()
    assert [line.split(",")[0] for line in voc20["classes"]] == VOC_NAMES
    assert voc21["classes"] == ["background", *voc20["classes"]]
    mask = np.array([[0, 1, 15, 20, 255]], np.uint8)  # background, aeroplane, person, tvmonitor, void
    assert target_of(mask, voc20["table"]).tolist() == [[IGNORE, 0, 14, 19, IGNORE]]
    assert target_of(mask, voc21["table"]).tolist() == [[0, 1, 15, 20, IGNORE]]
    for benchmark in (voc20, voc21):
        assert len(benchmark["table"]) == 256
        assert [value for value, label in enumerate(benchmark["table"]) if label < 0] == list(range(21, 255))


def test_a_mask_value_outside_the_classes_is_named():
    with pytest.raises(ValueError, match="value 21,"):
        target_of(np.array([[0, 21]], np.uint8), sources.voc20()["table"])


@pytest.fixture
def raw(tmp_path):
    write_flickr8k(tmp_path / "raw/flickr8k", "abcdefgh")
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["v1", "v2", "v3"])
    return tmp_path / "raw"


def settings(raw, **changes):
    values = {"source": "flickr8k", "seed": 3, "train_pairs": 100, "validation_scenes": 2, "test_scenes": 2}
    return SimpleNamespace(raw=str(raw), **values | changes)


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
    assert "Flickr8k: 8 of 8,091" in note and "val: 3 of 1,449" in note


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
    assert benchmarks == {"voc20": sources.voc20(), "voc21": sources.voc21()}
    assert [Path(path).stem for path in read_scenes(tmp_path / "out", "validation")[0].source] == ["v3"]
    write_voc(raw / "VOCdevkit/VOC2012", train=["t1"])
    prepare(tmp_path / "out", settings(raw, test_scenes=3))
    assert [Path(path).stem for path in read_scenes(tmp_path / "out", "validation")[0].source] == ["t1"]


def test_all_that_is_missing_is_listed_at_once(tmp_path):
    (tmp_path / "flickr8k/Images").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as error:
        prepare(tmp_path / "out", settings(tmp_path))
    _, header, flickr, voc = str(error.value).splitlines()
    assert header.split("  ")[0] == "what" and "how to get it" in header and "terms" in header
    place = header.index("where")
    assert flickr[place:].startswith(f"{tmp_path}/flickr8k: captions.txt  ") and "non-commercial" in flickr
    expected = "ImageSets/Segmentation/val.txt, JPEGImages, SegmentationClass"
    assert voc[place:].startswith(f"{tmp_path}/VOCdevkit/VOC2012: {expected}  ") and "VOCtrainval" in voc
    assert [path.name for path in tmp_path.iterdir()] == ["flickr8k"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"validation_scenes": 8}, "none is left to train on: lower prepare.validation_scenes"),
        ({"test_scenes": 3}, "no scenes left for validation: lower prepare.test_scenes"),
        ({"source": "webdataset"}, "no preparation of webdataset yet"),
    ],
)
def test_a_failed_preparation_leaves_the_old_one_and_nothing_else(raw, tmp_path, changes, message):
    prepare(tmp_path / "out", settings(raw))
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

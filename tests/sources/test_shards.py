"""WebDataset shards: what is good, what is skipped and counted, when it is too much."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import pytest
from helpers.folders import write_voc
from helpers.small_shards import jpeg, write_shard

from pacl.data.prepared import read_pairs
from pacl.runtime.files import read_json
from pacl.runtime.params import Prepare
from pacl.sources.prepare import prepare
from pacl.sources.shards import caption_of, find_shards, samples, survey


def test_all_samples_in_the_order_of_the_shards(tmp_path):
    for number in range(2):
        write_shard(tmp_path / f"cc3m/{number:05d}.tar", 10 * number, 3)
    shards = find_shards(tmp_path)
    assert [path.name for path in shards] == ["00000.tar", "00001.tar"]
    assert survey(shards, 0.0) == ([3, 3], "")
    found = list(samples(shards))
    assert [caption for _, _, caption in found] == [f"caption {i}" for i in (0, 1, 2, 10, 11, 12)]
    assert all(image == jpeg(int(key)) for key, image, _ in found)


def test_suffixes_in_capitals_are_read_and_a_member_without_a_suffix_belongs_to_no_sample(tmp_path):
    names = {f"000000000.{suffix}": None for suffix in ("jpg", "txt", "json")}
    shard = write_shard(tmp_path / "0.tar", 0, 1, **names, **{"a.JPG": jpeg(), "a.TXT": b"a caption"})
    assert survey([shard], 0.0) == ([1], "") and list(samples([shard])) == [("a", jpeg(), "a caption")]

    shard = write_shard(tmp_path / "0.tar", 0, 2, README=b"two photos")
    assert survey([shard], 0.0) == ([2], "")
    bad = Counter()
    assert len(list(samples([shard], bad=bad))) == 2 and not bad


def test_a_seed_shuffles_and_repeats(tmp_path):
    shards = [write_shard(tmp_path / f"{number}.tar", 10 * number, 10) for number in range(3)]
    orders = [[key for key, *_ in samples(shards, seed=seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == [f"{i:09d}" for i in range(30)]


def test_shards_are_shuffled_as_wholes_too(tmp_path, monkeypatch):
    """Far more pairs than are mixed at a time must not come in the order of their shards."""
    monkeypatch.setattr("pacl.sources.shards.BUFFER", 1)
    shards = [write_shard(tmp_path / f"{number}.tar", 10 * number, 2) for number in range(4)]
    orders = {tuple(int(key) for key, *_ in samples(shards, seed=seed)) for seed in range(4)}
    assert len(orders) > 1 and {tuple(sorted(order)) for order in orders} == {(0, 1, 10, 11, 20, 21, 30, 31)}


def test_a_photo_that_occurs_twice_in_a_shard_makes_it_corrupt(tmp_path):
    shard = write_shard(tmp_path / "0.tar", 0, 3)
    with tarfile.open(shard, "a") as tar:
        for name in ("000000003.jpg", "000000003.jpg", "000000003.txt"):
            member = tarfile.TarInfo(name)
            member.size = len(jpeg())
            tar.addfile(member, io.BytesIO(jpeg()))
    bad = Counter()
    found = [key for key, *_ in samples([shard], bad=bad)]
    assert found[:2] == ["000000000", "000000001"] and bad["corrupt shard"] == 1


def test_incomplete_samples_are_skipped_and_counted(tmp_path):
    """The caption may be in the JSON file only; one of spaces is none."""
    changes = dict.fromkeys(("000000000.txt", "000000001.jpg", "000000003.txt", "000000003.json"))
    changes["000000002.txt"] = b" \n"
    shard = write_shard(tmp_path / "0.tar", 0, 5, **changes)
    bad = Counter()
    assert [caption for *_, caption in samples([shard], bad=bad)] == ["caption 0", "caption 4"]
    assert bad == {"no image": 1, "no caption": 2}
    counts, note = survey([shard], 0.5)
    assert counts == [3]  # names only: a caption of spaces is seen when it is read
    assert note == f"2 of 5 samples in the shards are corrupt or incomplete, the first in {shard}; they are skipped."
    assert survey([shard], 0.4) == (counts, note)  # as many as are allowed
    with pytest.raises(ValueError, match=r"2 of 5 samples .* or raise prepare.max_bad_share \(0.3\)"):
        survey([shard], 0.3)


def test_half_a_surrogate_pair_makes_no_caption():
    assert caption_of({"json": b'{"caption": "a \\ud83d dog"}'}) == ""
    assert caption_of({"json": b'{"caption": " a  dog"}'}) == "a dog"
    assert caption_of({"json": 100_000 * b"["}) == ""


@pytest.mark.parametrize("left", [0.4, 0.75])
def test_a_truncated_shard_gives_its_good_samples(tmp_path, left):
    whole, cut = (write_shard(tmp_path / f"{number}.tar", 10 * number, 10) for number in range(2))
    cut.write_bytes(cut.read_bytes()[: int(left * cut.stat().st_size)])
    counts, note = survey([cut, whole], 0.5)
    assert 0 < counts[0] < 10 and counts[1] == 10
    assert note.startswith(f"1 of {sum(counts) + 1} samples") and f"the first in {cut}" in note
    bad = Counter()
    captions = [caption for *_, caption in samples([cut, whole], bad=bad)]
    assert captions == [f"caption {i}" for i in (*range(10, 10 + counts[0]), *range(10))]
    assert bad["corrupt shard"] >= 1


def test_a_truncated_photo_costs_no_other_sample(tmp_path):
    shard = write_shard(tmp_path / "0.tar", 0, 5)
    with tarfile.open(shard) as tar:
        end = tar.getmember("000000004.jpg").offset_data + 10
    shard.write_bytes(shard.read_bytes()[:end])
    assert survey([shard], 0.5)[0] == [4] == [len(list(samples([shard])))]


def test_empty_and_foreign_shards_are_named(tmp_path):
    with pytest.raises(ValueError, match="^0 of 0 samples .* the first in .*/0.tar: download them again"):
        survey([write_shard(tmp_path / "0.tar", 0, 0)], 1.0)
    (tmp_path / "0.tar").write_text("not an archive")
    with pytest.raises(ValueError, match="0.tar: download them again, or raise prepare.max_bad_share"):
        survey([tmp_path / "0.tar"], 1.0)


def settings(raw, **changes):
    values = {"source": "webdataset", "raw": str(raw), "seed": 0, "train_pairs": 10, "validation_scenes": 6}
    values |= {"test_scenes": None, "benchmarks": ["voc20"], "classification_sets": [], "classification_images": None}
    return Prepare.model_validate(values | {"max_bad_share": 0.1} | changes)


@pytest.fixture
def raw(tmp_path):
    write_voc(tmp_path / "raw/VOCdevkit/VOC2012", val=["a", "b"])
    return tmp_path / "raw"


def test_whole_shards_are_held_out_and_their_first_pairs_unpacked(raw, tmp_path):
    for number in range(5):
        write_shard(raw / f"shards/cc12m/{number:05d}.tar", 10 * number, 4)
    note = prepare(tmp_path / "out", settings(raw))
    written = read_json(tmp_path / "out/train_shards.json")
    assert written["pairs"] == [4, 4, 4] and "PASCAL VOC" in note and "skipped" not in note
    images, captions = read_pairs(tmp_path / "out", "validation")
    assert len(images) == len(captions) == 6
    held_out = {f"{int(text.split()[1]) // 10:05d}.tar" for (text,) in captions}
    assert len(held_out) == 2 and not held_out & {path.rsplit("/", 1)[1] for path in written["shards"]}
    for i, (text,) in enumerate(captions):  # the number is the picture's grey
        assert abs(images[i].getpixel((0, 0))[0] - int(text.split()[1])) <= 1
    images, captions = read_pairs(tmp_path / "out", "train")  # for the ablations
    assert len(images) == 10 and images[9].size == (40, 32)
    trained_on = {int(path.rsplit("/", 1)[1][:5]) for path in written["shards"]}
    assert {int(text.split()[1]) // 10 for (text,) in captions} == trained_on


@pytest.mark.parametrize("seed", range(4))
def test_no_more_shards_are_held_out_than_hold_the_validation_pairs(seed, raw, tmp_path):
    sizes = {f"{number}.tar": number for number in range(1, 8)}
    for name, size in sizes.items():
        write_shard(raw / "shards" / name, 10 * size, size)
    prepare(tmp_path / "out", settings(raw, seed=seed))
    written = read_json(tmp_path / "out/train_shards.json")
    names = [path.rsplit("/", 1)[1] for path in written["shards"]]
    assert names == sorted(names) and written["pairs"] == [sizes[name] for name in names]
    held_out = [size for name, size in sizes.items() if name not in names]
    assert len(read_pairs(tmp_path / "out", "validation")[0]) == 6 <= sum(held_out)
    assert sum(held_out) - max(held_out) < 6


def test_corrupt_photos_are_not_unpacked(raw, tmp_path):
    for number in range(2):
        write_shard(raw / f"shards/{number}.tar", 10 * number, 3, **{f"{10 * number:09d}.jpg": b"not an image"})
    prepare(tmp_path / "out", settings(raw, validation_scenes=3))
    for split in ("train", "validation"):
        images = read_pairs(tmp_path / "out", split)[0].source
        assert len(images) == 2 and sorted((tmp_path / f"out/{split}_images").iterdir()) == list(map(Path, images))


def test_too_few_and_too_bad_shards_are_refused(raw, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"shards: \*\.tar\n.*img2dataset"):
        prepare(tmp_path / "out", settings(raw))
    write_shard(raw / "shards/0.tar", 0, 4)
    with pytest.raises(ValueError, match="has 1 shards, and none is left .* lower prepare.validation_scenes"):
        prepare(tmp_path / "out", settings(raw, validation_scenes=1))
    write_shard(raw / "shards/1.tar", 10, 4, **{"000000010.txt": None, "000000010.json": None})
    with pytest.raises(ValueError, match=r"1 of 8 samples .* or raise prepare.max_bad_share \(0.1\)"):
        prepare(tmp_path / "out", settings(raw, validation_scenes=1))


def test_real_shards_hold_what_plain_tarfile_reads(real_data):
    shards = find_shards(real_data / "webdataset")
    assert survey(shards, 0.0) == ([60, 60], "")
    found = {key: (image, caption) for key, image, caption in samples(shards)}
    for shard in shards:
        with tarfile.open(shard) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}
        for name in (name for name in files if name.endswith(".json")):
            key = name.removesuffix(".json")
            assert found.pop(key) == (files[f"{key}.jpg"], json.loads(files[name])["caption"])
    assert not found
